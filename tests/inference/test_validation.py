"""Validation of priors with closed forms."""

import json
from functools import partial

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from click.testing import CliRunner
from jax.tree_util import Partial

from scorepriors import InputError, LogStretch, ScorePrior
from scorepriors.energies._gaussian import GaussianEnergy
from scorepriors.energies._wiener import ModeNetwork, WienerEnergy, principal_modes
from scorepriors.inference.cli import main
from scorepriors.inference.cli._common import BAD_INPUT, NOT_TRUSTED
from scorepriors.inference.validation import _cards as cards
from scorepriors.inference.validation import _chains as chains
from scorepriors.inference.validation import _comparison as comparison
from scorepriors.inference.validation import _density as density
from scorepriors.inference.validation import criteria, passed, validate_prior
from scorepriors.inference.validation._report import (
    add_noise,
    denoise_images,
    noise_and_denoise,
    oriented_subset,
)
from scorepriors.inference.validation._share import share_prior

N = 16
STRETCH = LogStretch()


def galaxies(num, seed, *, width=2.0):
    """Round Gaussians of scattered sizes, peak one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:N, :N] - (N - 1) / 2
    sizes = width * np.exp(0.2 * rng.normal(size=num))
    images = np.exp(-0.5 * (x**2 + y**2) / sizes[:, None, None] ** 2)
    return (images / images.max((1, 2), keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def wiener():
    """An untrained energy: exactly the Gaussian of the training images."""
    z = np.asarray(STRETCH.inv(galaxies(500, 0)))
    arrays = (jnp.asarray(a, jnp.float32) for a in principal_modes(z, 24))
    return WienerEnergy(*arrays, ModeNetwork(24, 8, 8, 1, key=jr.key(0)))


@pytest.fixture(scope="module")
def random_network(wiener):
    """The same with a network that says something, untrained."""
    weight = 0.05 * jr.normal(jr.key(1), wiener.network.leave.weight.shape, jnp.float32)
    return eqx.tree_at(lambda e: e.network.leave.weight, wiener, weight)


@pytest.fixture(scope="module")
def gaussian_energy():
    return GaussianEnergy(jnp.full((N, N), 2.0), jnp.asarray(0.5))


@pytest.fixture(scope="module")
def gaussian(gaussian_energy):
    return ScorePrior(gaussian_energy, STRETCH)


def test_halves_of_one_set_are_alike():
    images = galaxies(600, 1)
    noisy = add_noise(images, STRETCH, 0.05, key=jr.key(0))
    found = comparison.compare_sets(noisy[:300], noisy[300:], STRETCH, key=jr.key(1))
    # The AUC of chance has a standard deviation of sqrt((n + m + 1) / (12 n m)), .024.
    assert abs(found["trees_auc"] - 0.5) < 0.1
    assert abs(found["pixel_auc"] - 0.5) < 0.1
    assert max(found["ks"].values()) < 2.0 * (2 / 300) ** 0.5
    assert found["one_maximum"] == found["one_maximum_reference"] == 1.0


def test_denoised_images_are_the_means_of_a_gaussian(gaussian_energy):
    """Of a Gaussian with a variance of 1/2: the mean given one noisy draw is known."""
    sigma = 0.3
    z = gaussian_energy.mean + jr.normal(jr.key(0), (5, N, N))
    prior = ScorePrior(gaussian_energy, STRETCH)
    found = STRETCH.inv(denoise_images(prior, STRETCH(z), sigma))
    mean = (0.5 * z + sigma**2 * gaussian_energy.mean) / (0.5 + sigma**2)
    np.testing.assert_allclose(found, mean, atol=1e-4)
    # The same with the noise added: it moves images, and most of it is gone afterwards.
    images = np.asarray(STRETCH(z))
    twice = [noise_and_denoise(prior, images, sigma, key=jr.key(i)) for i in (1, 2)]
    for found in twice:
        noisy = np.asarray(STRETCH.inv(found)) * (0.5 + sigma**2) / 0.5
        left = noisy - sigma**2 * np.asarray(gaussian_energy.mean) / 0.5 - np.asarray(z)
        assert np.std(left) == pytest.approx(sigma, rel=0.1)
    assert abs(twice[0] - twice[1]).max() > 0


def test_other_set_is_told_apart():
    a, b = (
        add_noise(galaxies(300, 1, width=width), STRETCH, 0.05, key=jr.key(2))
        for width in (2.0, 3.5)
    )
    found = comparison.compare_sets(a, b, STRETCH, key=jr.key(3))
    assert found["trees_auc"] > 0.9
    assert found["pixel_auc"] > 0.9
    assert found["ks"]["size"] > 0.8


def test_shifted_features_are_told_apart():
    features = np.random.default_rng(0).normal(size=(600, 3))
    assert abs(comparison.trees_auc(features[:300], features[300:], key=jr.key(0)) - 0.5) < 0.1
    assert comparison.trees_auc(features[:300] + 2, features[300:], key=jr.key(0)) > 0.9


def test_ks_distance():
    a = np.arange(10.0)
    assert comparison.ks_distance(a, a) == 0
    assert comparison.ks_distance(a, a + 100) == 1
    assert comparison.ks_distance(a, a + 5) == pytest.approx(0.5)


def test_oriented_subset():
    images = np.arange(5 * 9, dtype=np.float32).reshape(5, 3, 3)
    chosen = oriented_subset(images, 5, key=jr.key(0))
    assert sorted(chosen.sum((1, 2))) == sorted(images.sum((1, 2)))
    rng = np.random.default_rng(0)
    many = np.repeat(rng.normal(size=(1, 3, 3)), 200, axis=0)
    turned = oriented_subset(many, 200, key=jr.key(1))
    assert len(np.unique(turned.reshape(200, -1), axis=0)) == 8


def test_denoising_of_a_gaussian(gaussian, gaussian_energy):
    """The error of the Wiener filter in white noise is known: sqrt(v / (v + sigma^2))."""
    noise = jr.normal(jr.key(0), (100, N, N))
    z = gaussian_energy.mean + jnp.sqrt(gaussian_energy.variance) * noise
    table = density.denoising_table(gaussian, gaussian, z, key=jr.key(1), sigmas=(0.1, 1.0))
    expected = [(0.5 / (0.5 + sigma**2)) ** 0.5 for sigma in (0.1, 1.0)]
    np.testing.assert_allclose(table["energy"], expected, rtol=0.02)
    np.testing.assert_allclose(table["ratio"], 1.0, rtol=1e-6)


def test_gaussian_part(wiener, random_network, gaussian):
    images = galaxies(500, 0)
    z = STRETCH.inv(images[:2]) + 0.1
    expected = [float(wiener(one, jnp.float32(0.1))) for one in z]
    own = ScorePrior(random_network, STRETCH).gaussian(images).energy
    np.testing.assert_allclose([float(own(one, jnp.float32(0.1))) for one in z], expected)
    made = gaussian.gaussian(images).energy
    assert made.eigenvalues.shape == (192,)
    np.testing.assert_allclose(made.eigenvalues[:5], wiener.eigenvalues[:5], rtol=1e-3)


def test_energy_has_a_symmetric_jacobian(random_network):
    z = STRETCH.inv(galaxies(2, 3))
    kappa = density.jacobian_asymmetry(
        Partial(density.stretched_score, ScorePrior(random_network, STRETCH)), z, 0.1, key=jr.key(0)
    )
    assert kappa < 1e-12


def test_curl_is_seen():
    turn = jr.normal(jr.key(0), (N * N, N * N)) / N

    def swirl(strength, z, sigma):
        curl = ((turn - turn.T) @ z.ravel()).reshape(z.shape)
        return -z / sigma**2 + strength * curl.astype(z.dtype)

    z = jnp.ones((2, N, N))
    kappa = partial(density.jacobian_asymmetry, z=z, sigma=1.0, key=jr.key(1), num_probes=16)
    # J - J^T = 2 (A - A^T) against J + J^T = -2 I, with |A - A^T|_F^2 = 2 n^2 exactly about.
    expected = float(jnp.linalg.norm(turn - turn.T)) / N
    assert kappa(Partial(swirl, 1.0)) == pytest.approx(expected, rel=0.05)
    assert kappa(Partial(swirl, 0.0)) == 0.0


def test_ring_of_a_gaussian(gaussian, gaussian_energy):
    z = jnp.broadcast_to(gaussian_energy.mean, (3, N, N))
    found = density.ring_test(gaussian, z, sigma=0.1)
    precision = 1 / (0.5 + 0.1**2)
    assert found["on_ring"] == pytest.approx(-precision, rel=1e-5)
    assert found["abs_elsewhere"] == pytest.approx(0, abs=1e-6)
    y, x = np.mgrid[:N, :N] - (N - 1) / 2
    pixels = int((np.abs(np.hypot(y, x) - 4.5) <= 0.5).sum())
    assert found["drop"] == pytest.approx(precision * pixels / 2, rel=1e-5)


def test_shift_costs_more_with_distance(wiener):
    z = STRETCH.inv(galaxies(20, 4))
    drops = density.shift_cost(ScorePrior(wiener, STRETCH), z, 0.1)["drop"]
    assert 0 < drops[0] < drops[1] < drops[2]


def test_stein_identity_of_a_gaussian(gaussian, gaussian_energy):
    noise = jr.normal(jr.key(0), (32, N, N))
    sigma = 0.5
    start = gaussian_energy.mean + (0.5 + sigma**2) ** 0.5 * noise
    found = chains.stein_identity(
        gaussian, start, sigma, key=jr.key(1), num_draws=200, num_warmup=60
    )
    assert found["expected"] == -(N**2)
    # Six in a million by chance, with a fixed key.
    assert found["deviation"] < 4.5
    assert found["standard_error"] < 2.0
    low, high = chains.ACCEPTANCE
    assert low < found["acceptance"] < high


def test_stein_sees_chains_out_of_equilibrium(gaussian, gaussian_energy):
    """Started too narrow and kept from mixing: the identity must fail."""
    start = gaussian_energy.mean + 0.1 * jr.normal(jr.key(0), (32, N, N))
    found = chains.stein_identity(gaussian, start, 0.05, key=jr.key(1), num_draws=20, num_warmup=0)
    assert found["deviation"] > 4.5
    assert found["squares_end"] > found["squares_start"]


def test_stein_needs_chains(gaussian):
    with pytest.raises(InputError, match="at least 2 chains"):
        chains.stein_identity(gaussian, jnp.zeros((1, N, N)), 0.1, key=jr.key(0))


def test_long_chains_stay_where_the_density_is(gaussian, gaussian_energy):
    """Of a Gaussian whose spread is known, from its own draws; and from a wrong start."""
    stretch, sigma = LogStretch(), 0.3

    def draws(seed, num):
        noise = jr.normal(jr.key(seed), (num, N, N))
        return gaussian_energy.mean + (0.5 + sigma**2) ** 0.5 * noise

    reference = np.asarray(stretch(draws(0, 300)))
    settings = {"key": jr.key(1), "num_draws": 120, "num_leapfrog": 5}
    found = chains.long_chains(gaussian, draws(2, 64), reference, sigma, **settings)
    assert abs(found["drift"]) < 0.5
    assert found["strayed"] == 0.0
    assert (found["chains"], found["draws"]) == (64, 120)
    # Chance has a standard deviation of .04.
    assert abs(found["trees_auc"] - 0.5) < 0.2

    # The energy's minimum is elsewhere than the images': chains leave for it.
    elsewhere = ScorePrior(GaussianEnergy(gaussian_energy.mean + 4.0, gaussian_energy.variance))
    found = chains.long_chains(elsewhere, draws(2, 64), reference, sigma, **settings)
    assert found["drift"] < -10
    assert found["strayed"] == 1.0


@pytest.fixture(scope="module")
def report(wiener):
    prior = ScorePrior(wiener, STRETCH, 0.15, name="tiny")
    seen = []
    found = validate_prior(
        prior,
        galaxies(500, 0),
        galaxies(200, 5),
        key=jr.key(0),
        num=150,
        progress=lambda *said: seen.append(said),
    )
    parts = list(found["seconds"])
    assert seen == [(i, len(parts), name) for i, name in enumerate(parts)]
    return found


def test_report_is_plain(report):
    assert json.loads(json.dumps(report)) == report
    assert set(report["samples"]) == set(report["control"]) == {"noisy", "denoised", "clean"}
    # Of the same samples, against other images: those that went through noise and a step.
    denoised, clean = (report["samples"][level]["ks"] for level in ("denoised", "clean"))
    assert denoised != clean
    assert report["control"]["denoised"]["ks"] != report["control"]["clean"]["ks"]
    np.testing.assert_allclose(report["denoising"]["ratio"], 1.0)


def test_criteria(report):
    verdict = passed(report)
    assert set(verdict) == set(criteria(report))
    assert all(type(value) is bool for value in verdict.values())
    assert verdict["kappa"]
    assert verdict["stein"]
    assert not verdict["denoising"]  # a Wiener filter is no better than itself


def test_inputs_are_checked(wiener, unchecked):
    prior = ScorePrior(wiener, STRETCH)
    images = galaxies(50, 0)
    with pytest.raises(InputError, match="`held_out` holds 50 images, fewer than num = 60"):
        validate_prior(prior, galaxies(60, 1), images, key=jr.key(0), num=60)
    with pytest.raises(InputError, match="`num` must be at least 20"):
        validate_prior(prior, images, images, key=jr.key(0), num=5)
    with pytest.raises(InputError, match=r"`train_images` must be \[N, 16, 16\]"):
        validate_prior(prior, images[:, 1:], images, key=jr.key(0), num=20)


def test_card(report, wiener, tmp_path):
    from scorepriors import save_prior
    from scorepriors.training._recipe import DataRecipe, NetworkRecipe, Recipe

    recipe = Recipe("tiny", data=DataRecipe(set="lsst", box=N), network=NetworkRecipe(24, 8, 8, 1))
    facts = {"seconds": 90.0, "steps": 10, "versions": {"jax": "0"}}
    weights = save_prior(tmp_path / "tiny.safetensors", wiener, recipe, training=facts)
    path = cards.write_card(tmp_path / "tiny.md", weights, report, figures={"Samples": "tiny.png"})
    text = path.read_text()
    assert text.startswith("# tiny\n")
    assert str(tmp_path) not in text
    for expected in ('load_prior("tiny.safetensors")', "1.5 minutes", "**fail**", "![Samples]"):
        assert expected in text
    other = {**report, "prior": {**report["prior"], "name": "other"}}
    with pytest.raises(InputError, match="the report is of the prior 'other'"):
        cards.write_card(tmp_path / "no.md", weights, other)
    (tmp_path / "tiny.json").write_text(json.dumps(report))
    _, card, *_ = share_prior(tmp_path / "shared", weights, report=tmp_path / "tiny.json")
    assert card.read_text() == text.replace("## Figures\n\n![Samples](tiny.png)\n\n", "")


def meeting(report):
    """The report with values that meet every criterion."""
    found = json.loads(json.dumps(report))
    for level in ("noisy", "denoised"):
        part = found["samples"][level]
        part |= {"trees_auc": 0.5, "one_maximum": 1.0, "ks": dict.fromkeys(part["ks"], 0.01)}
    found["denoising"]["ratio"] = [0.3] * len(found["denoising"]["ratio"])
    found["jacobian"]["kappa"] = 1e-7
    found["ring"] |= {"on_ring": -1.0, "ratio": 20.0}
    found["stein"]["deviation"] = 1.0
    found["long_chains"] |= {"trees_auc": 0.5, "drift": -0.1}
    return found


def test_the_command_ends_with_a_verdict(report, wiener, tmp_path, monkeypatch):
    from scorepriors import save_prior
    from scorepriors.training._recipe import DataRecipe, NetworkRecipe, Recipe

    recipe = Recipe("tiny", data=DataRecipe(set="lsst", box=N), network=NetworkRecipe(24, 8, 8, 1))
    facts = {"seconds": 90.0, "steps": 10, "versions": {"jax": "0"}}
    weights = save_prior(tmp_path / "tiny.safetensors", wiener, recipe, training=facts)
    np.savez(tmp_path / "images.npz", train=galaxies(80, 0), held_out=galaxies(60, 5))

    def run(found, *more):
        monkeypatch.setattr(
            "scorepriors.inference.validation.validate_prior", lambda *_, **__: found
        )
        options = "--images", tmp_path / "images.npz", "--output", tmp_path / "out", *more
        return CliRunner().invoke(main, ["validate-prior", *map(str, (weights, *options))])

    bad = {**meeting(report), "ring": {**report["ring"], "on_ring": -1.0, "ratio": 2.0}}
    outcome = run(bad)
    assert outcome.exit_code == NOT_TRUSTED, outcome.output
    said = [line for line in outcome.stderr.splitlines() if "should be" in line]
    assert said == [
        "scorepriors: score on the ring over the mean absolute one elsewhere is 2, and should be "
        ">= 10."
    ]
    verdict, card = outcome.stdout.splitlines()
    assert verdict.startswith(f"tiny fails 1 of {len(criteria(report))} criteria")
    assert card == str(tmp_path / "out" / "tiny.md")
    # Nothing is replaced unasked, and what is there stays as it is.
    before = (tmp_path / "out" / "tiny.json").read_bytes()
    again = run(meeting(report))
    assert (again.exit_code, again.stdout) == (BAD_INPUT, "")
    assert "tiny.json exists; use --force to replace it" in again.stderr
    assert (tmp_path / "out" / "tiny.json").read_bytes() == before
    good = run(meeting(report), "--force")
    assert good.exit_code == 0, good.output
    assert "should be" not in good.stderr
    assert good.stdout.startswith(f"tiny meets all {len(criteria(report))} criteria.\n")
    # What can't be computed is not met, and is no number in JSON.
    bad["stein"] = {**bad["stein"], "deviation": float("nan")}
    found = json.loads(run(bad, "--json", "--force").stdout)
    assert (found["prior"], found["passed"]) == ("tiny", False)
    assert found["criteria"].keys() == criteria(report).keys()
    assert [name for name, one in found["criteria"].items() if not one["passed"]] == [
        "ring_contrast",
        "stein",
    ]
    assert found["criteria"]["ring_contrast"]["limit"] == 10.0
    assert found["criteria"]["stein"]["value"] is None


def test_figures(report, tmp_path):
    images = galaxies(64, 0)
    cards.sample_grid_figure(images, images, tmp_path / "grid.png")
    cards.loss_curve_figure(np.exp(-np.ones((20, 5))), 100, tmp_path / "loss.png")
    cards.denoising_figure(report, tmp_path / "denoising.svg")
    assert {f.name for f in tmp_path.iterdir()} == {"grid.png", "loss.png", "denoising.svg"}
    cards.sample_grid_figure(images[:9], images, tmp_path / "few.png")  # three by three
    with pytest.raises(InputError, match=r"needs images \[N, n, n\], got \(0, "):
        cards.sample_grid_figure(images[:0], images, tmp_path / "grid.png")
    with pytest.raises(InputError, match="loss history"):
        cards.loss_curve_figure(np.ones((4, 3)), 100, tmp_path / "loss.png")
