"""Hallucination maps against dense linear algebra, and for more or fewer data."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from conftest import DenseNoise, gaussian_prior, small_observation
from scipy.stats import spearmanr

from scorepriors import InputError, ScorePrior
from scorepriors._stretch import LogStretch
from scorepriors.energies._gaussian import GaussianEnergy
from scorepriors.inference import SamplingWarning
from scorepriors.inference.deblending._deblend import deblend
from scorepriors.inference.deblending._sampling import laplace_deblended
from scorepriors.inference.diagnosis._diagnose import SceneDiagnosis, in_words, source_flags
from scorepriors.inference.diagnosis._galaxies import Galaxies
from scorepriors.inference.diagnosis._hallucination import hallucination_map
from scorepriors.inference.diagnosis._information import positive_part, source_information
from scorepriors.inference.diagnosis._pairs import Pairs, source_blocks
from scorepriors.inference.sampling._tree import group
from scorepriors.models import exposures, galaxy_spectra
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.data.positions._reading import read_positions
from scorepriors.models.rendering._information import by_exposure
from scorepriors.models.rendering._psf import difference_kernels
from scorepriors.models.simulation._simulation import simulate_blend

BOX = 8
CENTERS = np.array([[11.0, 9.0], [12.0, 15.0]])


def positions(centers, stars=()):
    ids = tuple("abcdef"[: len(centers)])
    return Positions(ids, np.asarray(centers), np.array([i in stars for i in ids]))


def deblended(obs, centers=CENTERS, stars=()):
    return deblend(obs, positions(centers, stars), prior=gaussian_prior(BOX), padding=1)


@pytest.fixture(scope="module")
def scene():
    return deblended(small_observation(CENTERS))


@pytest.fixture(scope="module")
def maps(scene):
    return hallucination_map(scene)


def doubled(one, psfs):
    """An exposure in double precision."""
    kernels, _ = difference_kernels(psfs, 0.7)
    grid = one.kernels.of_box(BOX).shape[-2]
    transforms = jnp.fft.rfft2(jnp.asarray(kernels, float), (grid, grid))
    double = jax.tree.map(lambda a: a.astype(complex if jnp.iscomplexobj(a) else float), one)
    return eqx.tree_at(lambda d: d.kernels.transforms, double, (transforms,))


@pytest.mark.parametrize("kind", ["one exposure", "two exposures", "correlated noise"])
def test_information_of_a_joint_gaussian(kind):
    """Everything against the inverse of one dense matrix built by automatic differentiation."""
    with jax.enable_x64(True):
        obs = small_observation(CENTERS)
        found = exposures(obs, boxes=(BOX,))
        spectra = galaxy_spectra(obs, found)
        data = (doubled(found[0], obs.psfs),)
        if kind == "two exposures":
            first, second = (
                jax.tree.map(lambda a, s=s: a[s], data[0]) for s in (slice(2), slice(2, 3))
            )
            grid = jnp.asarray([0.4, -1.3, 0.8])
            is_leaf = lambda x: x is None  # noqa: E731
            data = (first, eqx.tree_at(lambda d: d.grid, second, grid, is_leaf=is_leaf))
        if kind == "correlated noise":
            noise = DenseNoise.correlated(obs.weights)
            data = (eqx.tree_at(lambda d: d.noise, data[0], noise),)
        rng = np.random.default_rng(0)
        stretch, bands, pixels = LogStretch(), obs.num_bands, BOX**2
        z = jnp.asarray(rng.uniform(0.5, 5, (2, BOX, BOX)))
        corner = jnp.asarray(np.round(CENTERS - 3.5).astype(int))
        spectrum = jnp.asarray(rng.uniform(1, 5, (2, bands)))
        bright = jnp.log(jnp.asarray([50.0, 80.0]))
        x = stretch(z)
        here = Galaxies(data, spectra, corner, x, spectrum, bright)
        slope = np.asarray(jnp.exp(stretch.log_abs_det_jacobian(z, x)))
        priors = np.stack([4 * np.eye(pixels), 9 * np.eye(pixels)])
        blocks = source_blocks(here, [0, 1], slope, priors, Pairs(here, slope))
        if kind == "correlated noise":
            half = jnp.swapaxes(jnp.linalg.cholesky(data[0].noise.matrix), 1, 2)

        def apart(v):
            v = v.reshape(2, pixels + bands + 1)
            return v[:, :pixels].reshape(2, BOX, BOX), v[:, pixels:-1], v[:, -1]

        def pulls(v):
            z, spectrum, _ = apart(v)
            parts = []
            for one, own in zip(data, by_exposure(spectrum, data), strict=True):
                model = jnp.einsum("kb,kbyx->byx", own, one.render(stretch(z), corner))
                if kind == "correlated noise":
                    parts.append(jnp.einsum("bpq,bq->bp", half, model.reshape(bands, -1)))
                else:
                    parts.append(jnp.sqrt(one.noise.weights) * model)
            return jnp.concatenate([part.ravel() for part in parts])

        given = spectra.given(bright)
        whiten = jnp.linalg.inv(jnp.linalg.cholesky(given.covariance))

        def prior_pulls(v):
            z, spectrum, log_flux = apart(v)
            flux = spectrum * stretch(z).sum((1, 2))[:, None]
            away = flux - jnp.exp(log_flux)[:, None] * spectra.mean
            return jnp.concatenate(
                [
                    jnp.einsum("kbc,kc->kb", whiten, away).ravel(),
                    log_flux / spectra.brightness_width,
                ]
            )

        def total_flux(v):
            z, spectrum, _ = apart(v)
            return spectrum[0].sum() * stretch(z)[0].sum()

        point = jnp.concatenate(
            [jnp.concatenate([z[k].ravel(), spectrum[k], bright[k : k + 1]]) for k in range(2)]
        )
        known, prior = (
            np.asarray(j.T @ j) for j in (jax.jacobian(f)(point) for f in (pulls, prior_pulls))
        )
        gradient = np.asarray(jax.grad(total_flux)(point))
    np.testing.assert_allclose(blocks.data, known, atol=1e-10 * known.max())
    np.testing.assert_allclose(blocks.flux_prior, prior, atol=1e-10 * prior.max())
    covariance = np.linalg.inv(known + prior + blocks.image_prior)
    found = source_information(blocks)
    np.testing.assert_allclose(found.flux_sd, np.sqrt(gradient @ covariance @ gradient), rtol=1e-6)
    # What is not the noise of the data, propagated through the fit, is the priors' width.
    noise = gradient @ covariance @ known @ covariance @ gradient
    filled = np.sqrt(found.flux_sd**2 - noise)
    assert 0.01 * found.flux_sd < filled < 0.999 * found.flux_sd
    np.testing.assert_allclose(found.flux_from_prior, filled, rtol=1e-5)
    own = covariance[:pixels, :pixels]
    np.testing.assert_allclose(found.pixel_sd, np.sqrt(np.diagonal(own)), rtol=1e-6)
    image = np.linalg.inv(own) - priors[0]
    np.testing.assert_allclose(found.data_curvature, np.diagonal(image), atol=1e-6 * image.max())
    np.testing.assert_allclose(found.degrees_of_freedom, np.trace(own @ image), rtol=1e-6)


def test_a_gaussian_prior_has_its_known_curvature(scene, maps):
    prior = scene.priors()["galaxies"]
    # The variance of the energy's Gaussian and that of sigma0.
    known = 1 / (0.2 + float(prior.sigma) ** 2)
    np.testing.assert_allclose(maps["prior_curvature"], known, rtol=1e-4)
    assert list(maps["source"].values) == ["a", "b"]
    assert not maps["negative_curvatures"].any()
    np.testing.assert_allclose(
        maps["delta_f"], maps["prior_curvature"] - maps["data_curvature"], atol=1e-4
    )
    gamma = -(maps["delta_f"] * maps["morphology"]).sum(("box_y", "box_x"))
    np.testing.assert_allclose(maps["gamma"], gamma, rtol=1e-4)


def test_shares_are_shares(maps):
    for name in ("data_share", "flux_share"):
        values = maps[name].values
        assert (values >= 0).all()
        assert (values <= 1).all()
    assert (maps["degrees_of_freedom"] > 1).all()
    assert (maps["degrees_of_freedom"] < BOX**2).all()


def test_more_exposure_more_data(scene, maps):
    obs = scene.observation
    longer = dataclasses.replace(obs, weights=2 * obs.weights)
    twice = hallucination_map(refit(scene, longer))
    for name in ("flux_share", "degrees_of_freedom"):
        assert (twice[name] > maps[name]).all()
    assert (twice["flux_from_prior"] < maps["flux_from_prior"]).all()
    # Noise of the spectra aside every pixel gains, where there is light to see.
    lit = maps["data_share"].values > 0.02
    assert (twice["data_share"].values > maps["data_share"].values)[lit].all()


def refit(result, obs):
    """The same scene at the same point, with other data."""
    scene = eqx.tree_at(lambda s: s.exposures[0].noise.weights, result.scene, obs.weights)
    return dataclasses.replace(result, free_form=dataclasses.replace(result.free_form, scene=scene))


def test_a_neighbor_costs_information_where_they_overlap(scene, maps):
    alone = hallucination_map(scene, neighbors=0)
    lost = (alone["data_share"] - maps["data_share"]).values
    assert (lost > -1e-6).all()
    # The second source lies to the right of the first: the first loses there.
    near, far = lost[0][:, 6:].sum(), lost[0][:, :2].sum()
    assert near > 0.02
    assert near > 20 * far
    assert (alone["flux_share"] > maps["flux_share"]).all()


def test_nothing_is_known_under_a_mask(scene):
    obs = scene.observation
    weights = obs.weights.copy()
    weights[:, :, 8:] = 0  # half of the first source, and far beyond the kernel the second
    weights[:, :8] = weights[:, 16:] = 0
    masked = hallucination_map(refit(scene, dataclasses.replace(obs, weights=weights)))
    whole = masked["data_share"].values
    assert whole[0][:, :2].max() > 0.05
    assert whole[1].max() < 1e-3
    assert masked["flux_share"].values[1] < masked["flux_share"].values[0]
    assert (masked["delta_f_aware"].values[1] > 0).all()


def approximated(result, number):
    with warnings.catch_warnings():
        # The posterior of a scene is not Gaussian: its draws are only averaged over here.
        warnings.simplefilter("ignore", SamplingWarning)
        return laplace_deblended(result, key=jax.random.key(0), num_samples=number)


def test_averages_over_draws_have_errors(scene):
    tree = approximated(scene, 64)
    found = hallucination_map(scene, tree, key=jax.random.key(1), num_draws=16, num_probes=4)
    assert (found["mean_delta_f_error"] > 0).all()
    # Of a Gaussian prior the curvature is the same everywhere: what scatters is the data's.
    again = hallucination_map(scene, tree, key=jax.random.key(2), num_draws=16, num_probes=4)
    error = np.hypot(found["mean_delta_f_error"], again["mean_delta_f_error"])
    pull = ((found["mean_delta_f"] - again["mean_delta_f"]) / error).values
    assert (pull**2).mean() < 2
    with pytest.raises(InputError, match="give a `key`"):
        hallucination_map(scene, tree)
    other = deblended(small_observation(CENTERS[:1]), CENTERS[:1])
    with pytest.raises(InputError, match="not of this scene"):
        hallucination_map(other, tree, key=jax.random.key(1))


def test_stars_are_left_out():
    mixed = deblended(small_observation(CENTERS), stars="a")
    found = hallucination_map(mixed)
    assert list(found["source"].values) == ["b"]
    stars = deblended(small_observation(CENTERS), stars="ab")
    with pytest.raises(InputError, match="no source is a free form"):
        hallucination_map(stars)


@pytest.mark.parametrize(
    ("share", "leans", "words"),
    [(0.05, 0.02, []), (0.05, 0.2, ["made_up"]), (0.3, 0.2, []), (0.3, 0.02, [])],
)
def test_a_flux_that_the_data_know_is_not_made_up(scene, maps, share, leans, words):
    """Every pixel may be the prior's, and their sum the data's."""
    found = maps.copy()
    found["flux_share"], found["flux_from_prior"] = (
        xarray.full_like(maps["flux_share"], value) for value in (share, leans)
    )
    found.attrs["negative_curvatures"] = 0
    usual = dict.fromkeys(scene.positions.ids, 0.5)
    flags = source_flags(SceneDiagnosis(scene, None, found, usual, None))
    assert flags == {"a": words, "b": words}
    assert (
        f"leans on the prior by {100 * leans:.2g} %"
        in in_words(SceneDiagnosis(scene, None, found, usual, None))["a"]
    )


def test_negative_curvature_is_counted_not_hidden():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    true = np.array([-0.5, 0.001, 1.0, 2.0, 3.0, 4.0])
    raised, values = positive_part((basis * true) @ basis.T)
    np.testing.assert_allclose(values, true, atol=1e-12)
    np.testing.assert_allclose(np.linalg.eigvalsh(raised), [0.015, 0.015, 1, 2, 3, 4], rtol=1e-9)


def test_a_fit_that_ended_nowhere_is_named(scene, monkeypatch):
    def information(blocks):
        raise np.linalg.LinAlgError("7-th leading minor of the array is not positive definite")

    monkeypatch.setattr(
        "scorepriors.inference.diagnosis._hallucination.source_information", information
    )
    with pytest.raises(InputError, match=r"galaxy 1 of 2 curves the wrong way .*; deblend again"):
        hallucination_map(scene)


def test_bad_numbers(scene):
    with pytest.raises(InputError, match="at least 2"):
        hallucination_map(scene, num_probes=1)
    with pytest.raises(InputError, match="must not be negative"):
        hallucination_map(scene, neighbors=-1)


def test_box_beyond_the_image():
    """Pixels that lie off the image are the prior's alone."""
    centers = np.array([[12.0, 1.0]])
    found = hallucination_map(deblended(small_observation(centers), centers))
    corner = int(found["corner"].values[0, 1])
    assert corner < -2
    assert (found["data_share"].values[0][:, : -corner - 2] < 0.2).all()
    assert found["data_share"].values.max() > 0.2


@pytest.fixture(scope="module")
def half_a_galaxy():
    """An isolated galaxy with one half masked, and which pixels of its box that hides."""
    pytest.importorskip("galsim")
    # In the shape of `test_tasks`, whose programs these are.
    obs, truth = simulate_blend(1, seed=3, magnitudes=(22.0, 22.01), shape=(48, 48))
    edge = round(float(truth.center[0, 1])) + 1
    weights = obs.weights.copy()
    weights[:, :, edge:] = 0
    half = dataclasses.replace(obs, weights=weights)
    return half, read_positions(obs.catalog, obs), edge


def hidden_pixels(maps, edge):
    columns = maps["corner"].values[0, 1] + np.arange(maps.sizes["box_x"])
    return np.broadcast_to(columns >= edge, (maps.sizes["box_y"], len(columns)))


def test_half_a_galaxy_is_known_to_be_made_up(half_a_galaxy):
    """The test of Sampson et al. (2024), figure 12."""
    half, where, edge = half_a_galaxy
    result = deblend(half, where, padding=1)
    tree = approximated(result, 256)
    maps = hallucination_map(result, tree, key=jax.random.key(1), num_probes=8)
    hidden = hidden_pixels(maps, edge)
    light = np.maximum(maps["morphology"].values[0], 0)
    delta, error = maps["mean_delta_f"].values[0], maps["mean_delta_f_error"].values[0]
    assert light[hidden].sum() > 0.2 * light.sum()  # it was completed
    assert light[hidden & (delta > 3 * error)].sum() > 0.95 * light[hidden].sum()
    assert (delta[~hidden & (light > 0.3)] < 0).all()
    # What the prior holds is what scatters in the draws, where there is light.
    drawn = np.asarray(group(tree, "posterior")["galaxies_morphology"])[0, :, 0]
    prior = result.priors()["galaxies"]
    width = np.asarray(prior.stretch.inv(jnp.asarray(drawn))).std(0)
    lit = light > 0.02
    share = maps["data_share"].values[0]
    found = spearmanr(1 - share[lit], width[lit])
    assert found.statistic > 0.2
    assert found.pvalue < 0.01


def test_a_prior_without_structure_says_otherwise(half_a_galaxy):
    half, where, edge = half_a_galaxy
    dark = GaussianEnergy(jnp.zeros((32, 32)), jnp.asarray(1e-4))
    prior = ScorePrior(dark, LogStretch(), 0.15, sigma_max=5.0)
    maps = hallucination_map(deblend(half, where, prior=prior, padding=1))
    hidden = hidden_pixels(maps, edge)
    light = np.maximum(maps["morphology"].values[0], 0)
    # Nothing is painted beyond the reach of the PSF, and the data hold nearly all light.
    beyond = hidden & np.roll(hidden, 3, axis=1)
    assert light[beyond].sum() < 0.1 * light.sum()
    assert float(maps["flux_share"][0]) > 0.8
