"""Learning from noisy stamps: recovery of a population, resumption, files and their mistakes."""

import dataclasses
import os
import signal

import equinox as eqx
import jax
import numpy as np
import pytest
from astropy.io import fits
from test_noisy_draws import BOX, STRETCH, galaxies

import scorepriors
from scorepriors import InputError, ScorePrior, load_prior, save_prior
from scorepriors._psfs import difference_kernels, gaussian_psf
from scorepriors.energies._wiener import principal_modes
from scorepriors.training._loop import _identity, initial_energy, training_images
from scorepriors.training._recipe import (
    DataRecipe,
    NetworkRecipe,
    Recipe,
    RoundsRecipe,
    TrainingRecipe,
    read_recipe,
)
from scorepriors.training._rounds import held_and_learned, magnified, origin_of, read_recipe_stamps
from scorepriors.training._stamps import read_stamps


def train(recipe, folder, **options):
    """Train from the prior that the recipe names."""
    return scorepriors.train(recipe, folder, start=load_prior(recipe.data.start), **options)


def population(num, rng):
    """Galaxies of many widths and axis ratios, in all eight orientations."""
    images = galaxies(rng.uniform(0.9, 2.2, num), rng.uniform(0.5, 1.0, num))
    turned = rng.random(num) < 0.5
    images[turned] = np.swapaxes(images[turned], 1, 2)
    return images


def observed(images, rng, *, snr=(20, 80)):
    """Arrays of a file of stamps: each with its flux, its PSF, its noise and its hole."""
    num = len(images)
    psfs = np.stack([gaussian_psf(s, 13) for s in rng.uniform(1.2, 1.7, num)])
    kernels = difference_kernels(psfs, 0.7).kernels
    grid = BOX + 12
    transforms = np.fft.rfft2(kernels, (grid, grid)) * np.fft.rfft2(images, (grid, grid))
    seen = np.fft.irfft2(transforms, (grid, grid))[:, 6 : 6 + BOX, 6 : 6 + BOX]
    seen *= rng.lognormal(0, 1, (num, 1, 1))
    sigma = np.sqrt((seen**2).sum((1, 2))) / np.exp(rng.uniform(*np.log(snr), num))
    noisy = seen + sigma[:, None, None] * rng.standard_normal(seen.shape)
    mask = rng.random(seen.shape) < 0.03
    noisy[mask] = np.nan
    return {"images": noisy, "sigma": sigma, "psf": psfs, "mask": mask}


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A file of stamps and the galaxies in them, and a prior of other galaxies to begin with."""
    rng = np.random.default_rng(0)
    images = population(256, rng)
    folder = tmp_path_factory.mktemp("survey")
    np.savez(folder / "stamps.npz", **observed(images, rng))
    wide = galaxies(np.exp(rng.uniform(*np.log([0.4, 4.0]), 600)), rng.uniform(0.3, 1.0, 600))
    start = recipe_of(folder / "stamps.npz", folder / "start.safetensors")
    z = np.asarray(STRETCH.inv(wide.astype(np.float32)))
    save_prior(folder / "start.safetensors", gaussian_start(start, z), start)
    return folder, images


def gaussian_start(recipe, z):
    """An energy whose network has the recipe's size, and is not trained."""
    names = ("mean", "basis", "eigenvalues", "tail")
    modes = dict(zip(names, principal_modes(z, recipe.network.modes), strict=True))
    return initial_energy(recipe, modes)


def recipe_of(path, start, **rounds):
    rounds = {
        "number": 3,
        "gaussian": 1,
        "widen": 1.2,
        "steps": 40,
        "batch": 48,
        "levels": 8,
    } | rounds
    return Recipe(
        name="noisy",
        data=DataRecipe(noisy=str(path), start=str(start), box=BOX),
        network=NetworkRecipe(modes=24, width=16, inner=16, depth=1),
        training=TrainingRecipe(
            steps=40, batch=32, block=20, warmup=10, ema=0.9, learning_rate=3e-3
        ),
        rounds=RoundsRecipe(**rounds),
    )


@pytest.fixture
def recipe(survey):
    folder, _ = survey
    return recipe_of(folder / "stamps.npz", folder / "start.safetensors")


def spread(images):
    """Mean of stretched galaxies, and the root of their variance in all directions."""
    z = np.asarray(STRETCH.inv(images)).reshape(len(images), -1)
    return z.mean(0), np.sqrt(z.var(0).sum())


def test_mean_and_covariance_of_a_population_are_recovered(survey, tmp_path):
    folder, images = survey
    # Nothing but a Gaussian: what is learned are mean and covariance.
    paths = folder / "stamps.npz", folder / "start.safetensors"
    recipe = recipe_of(*paths, number=5, gaussian=5, levels=10, widen=1.0)
    result = train(recipe, tmp_path)
    assert result.finished
    assert result.rounds == (5, 5)
    learned, held_out = training_images(recipe, tmp_path)
    assert len(held_out) == 11  # 2,000 of 46,000
    drawn = np.concatenate([learned, held_out])
    np.testing.assert_allclose(drawn.max((1, 2)), 1, rtol=1e-5)
    mean, width = spread(images)
    start_mean, start_width = spread(
        np.asarray(load_prior(recipe.data.start).sample(jax.random.key(0), (500,)))
    )
    found_mean, found_width = spread(drawn)
    off, off_before = (np.sqrt(np.mean((m - mean) ** 2)) for m in (found_mean, start_mean))
    # The mean of 256 galaxies has an error of 0.05 itself.
    assert off < 0.1 < 0.2 < off_before
    assert abs(found_width / width - 1) < 0.15 < 0.2 < abs(start_width / width - 1)


def test_a_run_that_was_interrupted_anywhere_gives_the_same(recipe, tmp_path):
    whole = train(recipe, tmp_path / "whole")
    assert whole.finished
    assert whole.history.shape[0] == 2

    def at(word, when):
        seen = []

        def stop(done, total, text):
            seen.append(word in text)
            if sum(seen) == when and seen[-1]:
                os.kill(os.getpid(), signal.SIGINT)

        return stop

    # In the middle of draws, in the training between rounds, and in the last draws.
    for word, when, finished in (("round 1", 2, 0), ("loss", 1, 1), ("round 3", 3, 2)):
        part = train(recipe, tmp_path / "part", progress=at(word, when))
        assert not part.finished
        assert part.rounds == (finished, 3)
        with pytest.raises(InputError, match="holds no galaxies of the noisy stamps yet; train"):
            training_images(recipe, tmp_path / "part")
    rest = train(recipe, tmp_path / "part")
    assert rest.finished
    for one, other in zip(jax.tree.leaves(whole.prior), jax.tree.leaves(rest.prior), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(whole.history, rest.history)
    # A finished run is not drawn again; another recipe has another folder.
    again = train(recipe, tmp_path / "part", progress=lambda *_: pytest.fail("nothing to do"))
    assert again.rounds == (3, 3)
    other = dataclasses.replace(recipe.rounds, transitions=1)
    with pytest.raises(InputError, match="another recipe or other stamps; train in a new dir"):
        train(dataclasses.replace(recipe, rounds=other), tmp_path / "part")
    # So has another start of the same name, before and after the last draws.
    start = load_prior(recipe.data.start)
    energy = eqx.tree_at(lambda e: e.mean, start.energy, start.energy.mean + 0.01)
    moved = ScorePrior(energy, start.stretch, 0.1, model_psf_sigma=0.7)
    with pytest.raises(InputError, match="drawn from another start than"):
        scorepriors.train(recipe, tmp_path / "part", start=moved)
    (tmp_path / "part" / "images.npz").unlink()
    with pytest.raises(InputError, match="other stamps or another start; train in a new dir"):
        scorepriors.train(recipe, tmp_path / "part", start=moved)
    # The prior is that of galaxies as a model has them.
    path = save_prior(tmp_path / "noisy.safetensors", rest.prior, recipe)
    assert load_prior(path).model_psf_sigma == 0.7


def test_a_network_goes_on_learning_in_the_modes_of_its_first_round(recipe, tmp_path):
    train(
        dataclasses.replace(recipe, rounds=dataclasses.replace(recipe.rounds, number=4)), tmp_path
    )
    rounds = tmp_path / "rounds"
    # A Gaussian after the first round, networks after two, the last draws for the prior itself.
    found = sorted(str(p.relative_to(rounds)) for p in rounds.rglob("*.npz"))
    assert found == [
        "01/draws.npz", "02/checkpoint.npz", "02/draws.npz", "03/checkpoint.npz", "03/draws.npz",
        "04/draws.npz", "modes.npz",
    ]  # fmt: skip
    with np.load(rounds / "02/checkpoint.npz") as one, np.load(rounds / "03/checkpoint.npz") as two:
        assert any(np.any(one[n] != two[n]) for n in one.files if n.startswith("leaf"))


def test_a_prior_may_be_taken_as_it_is(recipe, tmp_path):
    rounds = dataclasses.replace(recipe.rounds, widen=1.0, number=1)
    train(dataclasses.replace(recipe, rounds=rounds), tmp_path)
    assert [p.name for p in (tmp_path / "rounds" / "01").iterdir()] == ["draws.npz"]


def test_magnified_galaxies_are_larger():
    images = galaxies([1.0, 1.0, 1.0])
    moved = magnified(images, np.array([0.5, 1.0, 2.0]))
    np.testing.assert_allclose(moved[1], images[1], atol=1e-6)
    assert moved[0].sum() < 0.5 * moved[1].sum() < 0.25 * moved[2].sum()


@pytest.mark.parametrize("kind", ["npz", "fits"])
def test_files_of_stamps(tmp_path, kind):
    rng = np.random.default_rng(1)
    arrays = observed(population(5, rng), rng)
    wide = {
        n: np.pad(a, [(0, 0), (1, 1), (1, 1)]) for n, a in arrays.items() if n in ("images", "mask")
    }
    arrays |= wide
    path = tmp_path / f"stamps.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        hdus = [fits.ImageHDU(np.asarray(a, np.float32), name=n) for n, a in arrays.items()]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    stamps = read_stamps(path, BOX, 0.7)
    inner = slice(1, -1)
    mask = arrays["mask"][:, inner, inner] != 0
    np.testing.assert_array_equal(stamps.weights == 0, mask)
    wanted = arrays["images"][:, inner, inner] / arrays["sigma"][:, None, None]
    np.testing.assert_allclose(stamps.images[~mask], wanted[~mask], rtol=1e-5)
    # In any unit.
    arrays = arrays | {"images": 1e-30 * arrays["images"], "sigma": 1e-30 * arrays["sigma"]}
    np.savez(tmp_path / "small.npz", **arrays)
    small = read_stamps(tmp_path / "small.npz", BOX, 0.7)
    np.testing.assert_allclose(small.images, stamps.images, rtol=1e-5)


ONE = {"images": np.ones((3, 12, 12)), "sigma": np.ones(3), "psf": gaussian_psf(1.5, 9)}
HOLE = np.ones((3, 12, 12))
HOLE[1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "stamps.npz has no array `images`, only psf, sigma; add it"),
        ({"psf": None}, "stamps.npz has no array `psf`, only images, sigma; add it"),
        ({"images": np.ones((12, 12))}, r"`images` must be \[N, n, n\], got \(12, 12\)"),
        ({"images": np.ones((3, 8, 8))}, "stamps of 8 pixels are smaller than `data.box` = 12"),
        ({"sigma": None}, "give `variance` or `sigma`.*got neither"),
        ({"variance": np.ones((3, 12, 12))}, "give `variance` or `sigma`.*got both"),
        ({"sigma": np.ones(2)}, r"`sigma` must be one number or \[3\], got \(2,\)"),
        ({"sigma": np.zeros(3)}, "stamp 0 has a variance of zero or less; remove the 3 such"),
        ({"sigma": None, "variance": np.ones((3, 1, 1))}, "`variance` must be .* as `images`"),
        ({"mask": np.ones((3, 12))}, "`mask` must be .* as `images`"),
        (
            {"images": HOLE},
            r"stamp 1 has no pixel that is not masked; remove the 1 such stamp\(s\)",
        ),
        ({"psf": np.ones((8, 8))}, r"`psf` must be .* with P odd, got \(1, 8, 8\)"),
        ({"psf": np.ones((2, 9, 9))}, "2 PSFs for 3 stamps; give one for each, or one"),
        (
            {"psf": np.zeros((3, 9, 9))},
            r"PSF 0 is not finite or has no light; remove the 3 such PSF",
        ),
        (
            {"psf": np.stack([gaussian_psf(s, 9) for s in (1.5, 0.6, 1.5)])},
            r"PSF 1 is narrower than the model's, a Gaussian of 0.7 pixels; remove the 1 such",
        ),
        (
            {"psf": gaussian_psf(3.0, 9)},
            r"PSF 0 differs by more than 5% from what its kernel .* more of their wings",
        ),
    ],
)
def test_faults_of_stamps_are_named(tmp_path, changes, message):
    arrays = {n: a for n, a in (ONE | changes).items() if a is not None}
    np.savez(tmp_path / "stamps.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_stamps(tmp_path / "stamps.npz", BOX, 0.7)


def test_a_psf_as_wide_as_the_models_is_wide_enough(tmp_path):
    np.savez(tmp_path / "stamps.npz", **ONE | {"psf": gaussian_psf(0.7, 9)})
    stamps = read_stamps(tmp_path / "stamps.npz", BOX, 0.7)
    delta = np.fft.irfft2(stamps.kernels[0])
    assert delta.max() == pytest.approx(1, abs=1e-3)


def test_stamps_beyond_those_of_the_recipe_are_not_drawn(tmp_path):
    rng = np.random.default_rng(2)
    arrays = observed(population(20, rng), rng)
    np.savez(tmp_path / "stamps.npz", **arrays)
    recipe = recipe_of(tmp_path / "stamps.npz", "lsst")
    whole = read_recipe_stamps(recipe)
    assert (len(whole.images), whole.left_out) == (20, 0)
    few = dataclasses.replace(recipe.data, num_images=9, num_held_out=3)
    some = read_recipe_stamps(dataclasses.replace(recipe, data=few))
    assert (len(some.images), some.left_out, some.digest) == (12, 8, whole.digest)
    np.testing.assert_array_equal(some.images, whole.images[some.numbers])
    np.testing.assert_array_equal(some.kernels, whole.kernels[some.numbers])
    held, learned = held_and_learned(dataclasses.replace(recipe, data=few), 12)
    assert sorted([*held, *learned]) == list(range(12))
    assert len(held) == 3


def test_a_run_is_told_apart_by_its_start_and_stamps(recipe):
    assert origin_of(recipe_of("a", "lsst"), None) == "lsst"
    start = load_prior(recipe.data.start)
    moved = ScorePrior(
        eqx.tree_at(lambda e: e.mean, start.energy, start.energy.mean + 1), start.stretch, 0.1
    )
    assert origin_of(recipe, start) == origin_of(recipe, start.at(0.3)) != origin_of(recipe, moved)
    one, other = (_identity(recipe, "data", noisy=name) for name in ("a", "b"))
    assert one != other
    elsewhere = dataclasses.replace(recipe.data, noisy="x", start="y.safetensors")
    assert _identity(dataclasses.replace(recipe, data=elsewhere), "data", noisy="a") == one


def test_paths_that_hold_no_stamps(tmp_path):
    with pytest.raises(InputError, match=r"the path does not exist"):
        read_stamps(tmp_path / "none.npz", BOX, 0.7)
    with pytest.raises(InputError, match=r"is a folder; `data.noisy` is one npz or FITS file"):
        read_stamps(tmp_path, BOX, 0.7)
    (tmp_path / "bad.fits").write_text("no FITS")
    with pytest.raises(InputError, match=r"bad.fits is not a readable FITS file"):
        read_stamps(tmp_path / "bad.fits", BOX, 0.7)


def test_starts_that_do_not_fit(recipe, tmp_path):
    def starting(**changes):
        return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **changes))

    with pytest.raises(InputError, match=r"'lsst-32' has 32 x 32 pixels, and `data.box` is 12"):
        train(starting(start="lsst-32"), tmp_path / "box")
    with pytest.raises(InputError, match="unknown prior 'lsst-33'"):
        train(starting(start="lsst-33"), tmp_path / "name")
    with pytest.raises(
        InputError, match=r"no built-in set; load that prior for `train`, with start="
    ):
        scorepriors.train(recipe, tmp_path / "none")
    score = ScorePrior.from_score(lambda z, sigma: -z, np.zeros((BOX, BOX)))
    with pytest.raises(InputError, match="an energy of kind LineEnergy; galaxies are drawn under"):
        scorepriors.train(recipe, tmp_path / "line", start=score)
    with pytest.raises(InputError, match=r"a PSF of 0.7 pixels, and the recipe wants 0.8"):
        train(starting(model_psf_sigma=0.8), tmp_path / "psf")
    stretch = dataclasses.replace(recipe.stretch, scale=0.5)
    with pytest.raises(InputError, match=r"has the stretch LogStretch.*write that of the start"):
        train(dataclasses.replace(recipe, stretch=stretch), tmp_path / "stretch")


def test_recipes_of_noisy_stamps(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        "name = 'a'\n[data]\nnoisy = 'b.npz'\nstart = 'c.safetensors'\n[rounds]\nnumber = 4\n"
    )
    recipe = read_recipe(path)
    assert (recipe.data.noisy, recipe.data.start) == (
        str(tmp_path / "b.npz"),
        str(tmp_path / "c.safetensors"),
    )
    assert recipe.rounds == RoundsRecipe(number=4)
    for text, message in (
        ("noisy = 'b.npz'", "give both or neither"),
        ("set = 'lsst'\nstart = 'lsst-32'", "give both or neither"),
        ("set = 'lsst'\nnoisy = 'b'\nstart = 'lsst'", "and `noisy`, and no two"),
        ("set = 'lsst'\n[rounds]\nwiden = 0.5", "`rounds.widen` must be at least 1"),
        ("set = 'lsst'\n[rounds]\nlevels = 1", "`rounds.levels` must be at least 2"),
        ("set = 'lsst'\n[rounds]\nnumber = 0", "`rounds.number` in the recipe must be positive"),
    ):
        path.write_text(f"name = 'a'\n[data]\n{text}\n")
        with pytest.raises(InputError, match=message):
            read_recipe(path)
