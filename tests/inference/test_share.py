"""Folders that share a prior: written, read back, and refused where something is not as it was."""

import hashlib
import json
import shutil
import subprocess
import tomllib
from dataclasses import replace

import jax
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import small_energy
from mixer_files import made_network, write_network
from test_zoo import RECIPE

from scorepriors import InputError, load_prior, prior_info, prior_recipe, save_prior
from scorepriors._zoo import lasting_name, prior_path, training_facts
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._priors import PriorWarning, load_priors
from scorepriors.inference.reports._outputs import write_whole
from scorepriors.inference.validation._share import share_prior
from scorepriors.training._recipe import read_recipe, recipe_from_dict, recipe_text

SECRET = "private"


@pytest.fixture
def weights(tmp_path):
    images = replace(RECIPE.data, path=f"/home/{SECRET}/stamps", pixel_scale=0.3)
    recipe = replace(RECIPE, data=images, description='Galaxies "of mine", 0.3\\ arcsec')
    return save_prior(
        tmp_path / "small.safetensors", small_energy(), recipe, training={"steps": 10}
    )


@pytest.fixture
def folder(weights, tmp_path):
    share_prior(tmp_path / "shared", weights)
    return tmp_path / "shared"


def command(*words):
    return CliRunner().invoke(main, ["card", *map(str, words)])


def test_the_folder_is_a_prior(weights, folder):
    assert {path.name for path in folder.iterdir()} == {
        "small.safetensors", "README.md", "small.toml", "SHA256SUMS",
    }  # fmt: skip
    shared, own = load_prior(folder), load_prior(weights)
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(own), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (shared.name, shared.pixel_scale) == ("small", 0.3)
    assert prior_info(folder).path == folder / "small.safetensors"
    assert training_facts(folder) == {"steps": 10}
    assert lasting_name(folder) == str(folder.absolute())


def test_the_recipe_trains_it_again(weights, folder):
    recipe = read_recipe(folder / "small.toml")
    mine = prior_recipe(weights)
    assert recipe == replace(mine, data=replace(mine.data, path=str(folder / "stamps")))


@pytest.mark.parametrize("name", ["lsst-32", "ztf-32"])
def test_recipes_of_shipped_priors_come_back(name):
    recipe = prior_recipe(name)
    assert recipe_from_dict(tomllib.loads(recipe_text(recipe))) == recipe


def test_nothing_says_where_the_images_were(folder):
    for path in folder.iterdir():
        assert SECRET.encode() not in path.read_bytes()
    assert b"stamps" in (folder / "small.safetensors").read_bytes()  # control: the name is there


def test_nothing_says_where_noisy_stamps_and_their_start_were(tmp_path):
    data = replace(
        RECIPE.data,
        path=None,
        set=None,
        noisy=f"/home/{SECRET}/stamps.npz",
        start=f"/home/{SECRET}/start.safetensors",
    )
    file = save_prior(
        tmp_path / "small.safetensors", small_energy(), replace(RECIPE, data=data), training={}
    )
    share_prior(tmp_path / "shared", file)
    assert SECRET.encode() in file.read_bytes()  # control
    for path in (tmp_path / "shared").iterdir():
        assert SECRET.encode() not in path.read_bytes()
    assert prior_recipe(tmp_path / "shared").data.start == "start.safetensors"


def test_checksums_are_those_of_sha256sum(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == 3
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_a_card_without_figures_says_so(folder):
    text = (folder / "README.md").read_text()
    assert text.startswith('# small\n\nGalaxies "of mine"')
    assert 'load_prior("small.safetensors")' in text
    assert "Not measured yet. `scorepriors validate-prior small.safetensors`" in text
    for word in ("AUC", "nats for", "tables above", "Stein"):
        assert word not in text
    assert "Pixel scale: 0.3 arcsec" in text


def test_a_shipped_prior_has_its_own_card(tmp_path):
    share_prior(tmp_path / "shared", "lsst-32")
    text = (tmp_path / "shared" / "README.md").read_text()
    shipped = prior_path("lsst-32").with_suffix(".md").read_text()
    assert text.replace("lsst-32.safetensors", "lsst-32") == shipped
    assert 'load_prior("lsst-32.safetensors")' in text
    path = tmp_path / "shared" / "lsst-32.safetensors"
    assert path.read_bytes() == prior_path("lsst-32").read_bytes()


def changed_weights(folder):
    path = folder / "small.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def changed_card(folder):
    with (folder / "README.md").open("a") as handle:
        handle.write("and much better\n")


def no_recipe(folder):
    (folder / "small.toml").unlink()


def no_sums(folder):
    (folder / "SHA256SUMS").unlink()


def other_sums(folder):
    (folder / "SHA256SUMS").write_text("abc small.safetensors\n")


def sums_of_nothing(folder):
    (folder / "SHA256SUMS").write_text("")


def sums_of_others(folder):
    (folder / "SHA256SUMS").write_text("0" * 64 + "  ../small.safetensors\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed_weights, r"small\.safetensors has SHA-256 .* damaged, or another file"),
        (changed_card, r"README\.md has SHA-256"),
        (no_recipe, r"lacks small\.toml, which its SHA256SUMS lists"),
        (no_sums, "has no SHA256SUMS, as `scorepriors card` writes it"),
        (other_sums, "is no list of checksums"),
        (sums_of_nothing, "lists 0 weights files, where one belongs"),
        (sums_of_others, "lists files of other folders"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_folders_that_are_not_as_they_were(change, words, folder):
    assert load_prior(folder).name == "small"  # control, and it is kept
    change(folder)
    with pytest.raises(InputError, match=words):
        load_prior(folder)


def test_the_command(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = command(weights, "--json")
    assert found.exit_code == 0, found.output
    facts = json.loads(found.stdout)
    assert facts["weights"] == "small/small.safetensors"
    assert load_prior(facts["weights"], sha256=facts["sha256"]).name == "small"
    again = command(weights)
    assert again.exit_code == 2
    assert "exists; use --force" in again.output
    loud, quiet = (command(weights, "--force", *more) for more in ((), ("--quiet",)))
    assert (loud.exit_code, quiet.exit_code) == (0, 0)
    assert quiet.output == loud.output
    assert command(weights, "--output", "other").output.split() == [
        f"other/{name}" for name in ("small.safetensors", "README.md", "small.toml", "SHA256SUMS")
    ]


@pytest.mark.parametrize("place", ["..", "inside", "absolute"])
def test_names_in_files_of_others_lead_nowhere_else(place, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "pyproject.toml").write_text("mine")
    name = {"..": "../../pyproject", "inside": "deep/pyproject", "absolute": f"{home}/pyproject"}
    file = save_prior(
        tmp_path / "hostile.safetensors", small_energy(), replace(RECIPE, name=name[place])
    )
    monkeypatch.chdir(home / "deep")
    for words in ((), ("--output", "shared", "--force")):
        found = command(file, *words)
        assert found.exit_code == 2
        assert "`name` in the recipe names files; leave slashes" in found.output
        assert len(found.output.strip().splitlines()) == 1
    with pytest.raises(InputError, match="`name` in the recipe"):
        load_prior(file)
    assert sorted(path.name for path in home.rglob("*")) == ["deep", "pyproject.toml"]
    assert (home / "pyproject.toml").read_text() == "mine"


@pytest.mark.parametrize("name", ["../a", "a/b", "/nowhere/a", "..", "."])
def test_files_are_written_into_the_folder_alone(name, tmp_path):
    with pytest.raises(InputError, match="is no name of a file in"):
        write_whole(tmp_path / "out", {name: lambda path: path.write_text("")}, force=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("images", [{"path": "stamps"}, {"path": None, "set": "lsst"}])
def test_damaged_weights_are_not_shared(images, tmp_path):
    recipe = replace(RECIPE, data=replace(RECIPE.data, **images))
    file = save_prior(tmp_path / "small.safetensors", small_energy(), recipe)
    assert command(file, "--output", tmp_path / "whole").exit_code == 0  # control
    whole = file.read_bytes()
    file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]]))
    found = command(file, "--output", tmp_path / "shared")
    assert found.exit_code == 2
    assert "damaged: its checksum does not match" in found.output
    assert not (tmp_path / "shared").exists()


def test_names_of_shipped_priors_are_theirs(tmp_path, monkeypatch):
    """A folder ./lsst-32 would never be loaded by its bare name."""
    file = save_prior(tmp_path / "a.safetensors", small_energy(), replace(RECIPE, name="lsst-32"))
    monkeypatch.chdir(tmp_path)
    for words in ((), ("--output", "lsst-32")):
        found = command(file, *words)
        assert found.exit_code == 2
        assert "'lsst-32' is the name of a shipped prior, which --prior" in found.output
    assert not (tmp_path / "lsst-32").exists()
    # That one itself may have the folder, and nothing is said then.
    assert command("lsst-32").exit_code == 0
    assert load_priors("lsst-32")[0].event_shape == (32, 32)
    assert command(file, "--output", "./lsst-32", "--force").exit_code == 0
    with pytest.warns(PriorWarning, match=r"is the shipped prior, not .* write '\./lsst-32'"):
        (prior,) = load_priors("lsst-32")
    assert prior.event_shape == (32, 32)
    assert load_priors("./lsst-32")[0].event_shape == (8, 8)
    assert load_priors(None, pixel_scale=0.2)[0].event_shape == (32, 32)  # nobody named it


def test_reports(weights, tmp_path):
    for content, words in (
        ("{", "is no report: it is not JSON"),
        ("[]", "is no report of a prior; `scorepriors validate-prior` writes NAME.json"),
    ):
        (tmp_path / "report.json").write_text(content)
        found = command(
            weights, "--report", tmp_path / "report.json", "--output", tmp_path / "none"
        )
        assert found.exit_code == 2
        assert words in found.output
    found = command(weights, "--report", tmp_path / "nowhere.json", "--output", tmp_path / "none")
    assert "cannot read the report" in found.output
    assert not (tmp_path / "none").exists()


def test_networks_of_galaxygrad_have_no_recipe_to_share(tmp_path):
    path = write_network(tmp_path / "a.eqx", made_network())
    found = command(path, "--output", tmp_path / "shared")
    assert found.exit_code == 2
    assert "comes without a recipe" in found.output
    assert not (tmp_path / "shared").exists()
