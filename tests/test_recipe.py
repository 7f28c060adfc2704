"""Recipes: the shipped ones are read, and every mistake is named."""

import dataclasses
from pathlib import Path

import pytest

from scorepriors import InputError
from scorepriors._zoo import _read_header, list_priors, prior_path
from scorepriors.training._recipe import (
    DataRecipe,
    Recipe,
    RoundsRecipe,
    read_recipe,
    recipe_from_dict,
    recipe_text,
    without_folders,
)

SHIPPED = sorted((Path(__file__).parents[1] / "docs" / "recipes").glob("*.toml"))

GOOD = "name = 'a'\n[data]\nset = 'lsst'\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert f"-{recipe.data.box}" in recipe.name
    assert recipe_from_dict(recipe.as_dict()) == recipe
    # The weights that are shipped are those that it makes.
    header = _read_header(prior_path(recipe.name))
    assert recipe_from_dict(header["recipe"]) == recipe


def test_there_are_shipped_recipes():
    assert {path.stem for path in SHIPPED} == {info.name for info in list_priors()}


def test_what_is_not_said_has_its_default(write):
    recipe = read_recipe(write(GOOD))
    assert recipe == Recipe("a", data=dataclasses.replace(Recipe("a").data, set="lsst"))


def test_a_whole_number_is_a_float_where_one_is_wanted(write):
    recipe = read_recipe(write("sigma0 = 1\n" + GOOD))
    assert (type(recipe.sigma0), recipe.sigma0) == (float, 1.0)


def test_path_is_relative_to_the_recipe(write, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    recipe = read_recipe(write("name = 'a'\n[data]\npath = 'images'"))
    assert Path(recipe.data.path) == tmp_path / "images"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1\n[data]\nset = 'lsst'", "`name` in the recipe must be str, got 1"),
        (GOOD + "box = 32.0", "`data.box` in the recipe must be int, got 32.0"),
        (GOOD + "box = true", "`data.box` in the recipe must be int, got True"),
        (GOOD + "[training]\nsteps = 'many'", "`training.steps` in the recipe must be int"),
        (GOOD + "[training]\nema = '0.9'", "`training.ema` in the recipe must be float"),
        ("name = 'a'\ndata = 'lsst'", r"`data` in the recipe must be a table, \[data\]"),
        (GOOD + "path = 'b'", "one of `set` .*, `path` and `noisy`, and no two"),
        ("name = 'a'", "one of `set` .*, `path` and `noisy`, and no two"),
        ("[data]\nset = 'lsst'", "needs a `name`"),
        ("name = ''\n[data]\nset = 'lsst'", "needs a `name`"),
        ("color = 1\n" + GOOD, "unknown key `color`.*known are name"),
        (GOOD + "color = 1", "unknown key `data.color`.*known are set, path"),
        (GOOD + "[training]\ndata = 1", "unknown key `training.data`"),
        (GOOD + "[training]\nsteps = 0", "`training.steps` in the recipe must be positive, got 0"),
        (GOOD + "[training]\nsigma_max = 0.01", "`training.sigma_max` must exceed"),
        (GOOD + "[training]\nema = 1.0", r"`training.ema` must lie in \[0, 1\), got 1.0"),
        (GOOD + "[training]\ndevices = 3", "must be a multiple of `training.devices`"),
        (GOOD + "[stretch]\nscale = -0.1", "`stretch.scale` in the recipe must be positive"),
        (GOOD + "[stretch]\nscale = nan", "`stretch.scale` in the recipe must be positive"),
        (GOOD + "box = 8\n[network]\nmodes = 65", "`network.modes` = 65 exceeds the 64 pixels"),
        (GOOD + "[confinement]\nsteps = -1", "`confinement.steps` .* must not be negative, got -1"),
        (GOOD + "seed = -1", "`data.seed` in the recipe must not be negative, got -1"),
        (GOOD + "[training]\nwarmup = -2", "`training.warmup` .* must not be negative, got -2"),
        (GOOD + "[training]\nlearning_rate = inf", "`training.learning_rate` .* positive, got inf"),
        (GOOD + "[training]\nsigma_max = inf", "`training.sigma_max` .* be finite, got inf"),
        ("name = 'a/b'\n[data]\nset = 'lsst'", "leave slashes, .* out of 'a/b'"),
        (GOOD + "[confinement]\nreach = 0", "`confinement.reach` in the recipe must be positive"),
        (
            GOOD + "[confinement]\ninside = 1.1",
            r"`confinement.inside` must lie in \[0.5, 1\], got 1.1",
        ),
        (GOOD + "[confinement]\nwide_factor = 0.5", "`confinement.wide_factor` must be at least 1"),
        ("name = ", "recipe.toml is not valid TOML"),
    ],
)
def test_mistakes_are_named(write, text, message):
    with pytest.raises(InputError, match=message):
        read_recipe(write(text))


@pytest.mark.parametrize("name", ["../a", "/a", "a\\b", "..", ".a", "a\nb", "C:\\a"])
def test_names_from_files_of_others_stay_in_the_folder(name):
    with pytest.raises(InputError, match="`name` in the recipe names files; leave slashes"):
        recipe_from_dict(Recipe(name).as_dict())
    assert recipe_from_dict(Recipe("a.b-32 é").as_dict()).name == "a.b-32 é"  # control


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="is a folder; give the recipe's TOML file"):
        read_recipe(tmp_path)
    with pytest.raises(InputError, match=r"cannot read the recipe .*No such file"):
        read_recipe(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid TOML"):
        read_recipe(tmp_path / "binary.toml")


def test_images_of_users_are_described(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("name = 'a'\n[data]\npath = 'b'\npixel_scale = 1\nmodel_psf_sigma = 0.9\n")
    data = read_recipe(path).data
    assert (data.pixel_scale, data.model_psf_sigma) == (1.0, 0.9)
    path.write_text("name = 'a'\n[data]\nset = 'lsst'\npixel_scale = 0.3\n")
    with pytest.raises(InputError, match="leave them out"):
        read_recipe(path)
    path.write_text("name = 'a'\n[data]\npath = 'b'\npixel_scale = -1.0\n")
    with pytest.raises(InputError, match="pixel_scale"):
        read_recipe(path)


def test_only_recipes_of_noisy_stamps_speak_of_them():
    # Older versions refuse keys that they do not know.
    clean = Recipe("a", data=DataRecipe(set="lsst"))
    assert not {"noisy", "start", "rounds"} & {*clean.as_dict(), *clean.as_dict()["data"]}
    assert "rounds" not in recipe_text(clean)
    noisy = Recipe("a", data=DataRecipe(noisy="b.npz", start="lsst"), rounds=RoundsRecipe(number=4))
    assert recipe_from_dict(noisy.as_dict()) == noisy
    assert "number = 4" in recipe_text(noisy)


@pytest.mark.parametrize(
    ("start", "read", "told"),
    [
        ("lsst-32", "lsst-32", "lsst-32"),
        ("c.safetensors", "/HERE/c.safetensors", "c.safetensors"),
        ("sub/c.eqx", "/HERE/sub/c.eqx", "c.eqx"),
        ("./lsst-32", "/HERE/lsst-32", "./lsst-32"),
        ("https://a.b/c.safetensors", "https://a.b/c.safetensors", "https://a.b/c.safetensors"),
        ("hf://a/b/c.safetensors@d", "hf://a/b/c.safetensors@d", "hf://a/b/c.safetensors@d"),
    ],
)
def test_starts_lie_beside_the_recipe_and_are_told_without_folders(
    write, tmp_path, monkeypatch, start, read, told
):
    path = write(f"name = 'a'\n[data]\nnoisy = 'b.npz'\nstart = '{start}'")
    monkeypatch.chdir(tmp_path)
    for one in (path, path.name):
        recipe = read_recipe(one)
        assert recipe.data.start == read.replace("/HERE", str(tmp_path))
        assert (found := without_folders(recipe).data).start == told
        assert found.noisy == "b.npz"
        assert str(tmp_path) not in recipe_text(recipe)
