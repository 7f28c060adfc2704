"""Posteriors of blends: closed forms, exact spectra, and calibration in a reduced form."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from conftest import gaussian_prior, small_observation

from scorepriors.inference import Keep, SamplingWarning, sample
from scorepriors.inference.sampling._calibration import coverage, uniformity
from scorepriors.inference.sampling._tree import group
from scorepriors.models import FreeForm, Scene, blend, place_sources

CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])


@pytest.fixture(scope="module")
def scene():
    return scene_of(CENTERS)


def scene_of(places, treatment="marginal"):
    """Galaxies at some of the places of the image's two."""
    obs = small_observation(CENTERS, shape=(20, 20))
    galaxies = FreeForm(gaussian_prior(), place_sources(places, box=8))
    return Scene.build(obs, galaxies=galaxies, treatment=treatment)


def run(model, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return sample(model, *args, **{"key": jax.random.key(0), "algorithm": "hmc", **options})


def error(values):
    """Monte Carlo standard error of the mean over (chain, draw)."""
    import arviz as az

    return np.asarray(az.mcse(np.asarray(values, float)))


def test_image_prior_with_psf_in_closed_form(scene):
    """Gaussian pixels behind a PSF: mean and covariance of the image are known exactly."""
    (data,), at = scene.exposures, scene["galaxies"].at
    spectrum = jnp.asarray([3.0, 2.0, 1.0])

    def draw(x):
        image = data.render(x[None], at.corner[:1])[0]
        return spectrum[:, None, None] * image

    def model(images):
        x = numpyro.sample("x", dist.Normal(0.5, 1.0).expand([8, 8]).to_event(2))
        numpyro.sample("pixels", dist.Normal(draw(x), 1.0), obs=images)

    tree = run(model, data.images, num_samples=1500, num_warmup=300)
    design = np.asarray(jax.jacfwd(lambda v: draw(v.reshape(8, 8)).ravel())(jnp.zeros(64)), float)
    covariance = np.linalg.inv(design.T @ design + np.eye(64))
    mean = covariance @ (design.T @ np.asarray(data.images, float).ravel() + 0.5)
    x = np.asarray(group(tree, "posterior")["x"], float)
    flat = x.reshape(-1, 64)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), (flat - mean).T)
    assert abs((whitened**2).mean() - 1) < 0.02
    assert np.abs(whitened.mean(1)).max() < 0.1
    assert np.abs(np.cov(whitened) - np.eye(64)).max() < 0.15
    assert abs(flat.sum(1).mean() - mean.sum()) < 3 * error(x.sum((-2, -1)))


@pytest.fixture(scope="module")
def one_galaxy():
    """Runs on one source with each treatment of its spectrum."""
    return {
        treatment: run(blend, scene_of(CENTERS[:1], treatment), num_samples=2400, num_warmup=300)
        for treatment in ("marginal", "sampled", "profiled")
    }


def test_exact_spectra_equal_sampled_ones(one_galaxy):
    exact, sampled = one_galaxy["marginal"], one_galaxy["sampled"]
    for name in ("flux", "brightness"):
        ours, theirs = (np.asarray(group(t, "posterior")[name]) for t in (exact, sampled))
        for index in np.ndindex(ours.shape[2:]):
            a, b = ours[(..., *index)], theirs[(..., *index)]
            assert abs(a.mean() - b.mean()) < 3 * np.hypot(error(a), error(b))
            assert abs(a.std() / b.std() - 1) < 0.15
    posterior_group = group(exact, "posterior")
    assert posterior_group["flux"].dims == ("chain", "draw", "source", "band")
    assert posterior_group["galaxies_morphology"].dims[2:] == ("galaxies_source", "box_y", "box_x")
    assert json.loads(exact.attrs["sigma0"]) == pytest.approx([0.3])


def test_forgotten_normalizer_of_marginalized_spectra_is_seen(one_galaxy):
    """Spectra at their best value leave out the volume that they could take."""

    def off(spectra):
        a, b = (
            np.log(
                np.asarray(group(one_galaxy[s], "posterior")["galaxies_morphology"]).sum(
                    (-3, -2, -1)
                )
            )
            for s in (spectra, "sampled")
        )
        return abs(a.mean() - b.mean()) / np.hypot(error(a), error(b))

    assert off("marginal") < 3
    assert off("profiled") > 6


@pytest.fixture(scope="module")
def drawn(scene):
    return run(
        blend,
        scene,
        num_samples=600,
        num_warmup=300,
        keep=Keep(log_likelihood=True, posterior_predictive=True),
    )


def test_pixel_likelihood_and_predictions(scene, drawn):
    (data,), tree = scene.exposures, drawn
    likelihood = group(tree, "log_likelihood")["pixels"]
    assert likelihood.dims == ("chain", "draw", "band", "y", "x")
    assert likelihood.shape[2:] == (3, 20, 20)
    # Noise of one, so about -1/2 log 2 pi - 1/2 per pixel.
    assert abs(float(likelihood.mean()) + 0.5 * np.log(2 * np.pi) + 0.5) < 0.1
    residual = np.asarray(group(tree, "posterior_predictive")["pixels"]) - np.asarray(data.images)
    assert abs(residual.var() - 2) < 0.3
    np.testing.assert_allclose(group(tree, "observed_data")["pixels"], data.images)


def test_same_as_numpyro_nuts_on_a_blend(scene, drawn):
    from numpyro.infer import MCMC, NUTS

    chain = MCMC(NUTS(blend), num_warmup=300, num_samples=600, progress_bar=False)
    chain.run(jax.random.key(5), scene)
    theirs = np.asarray(chain.get_samples()["galaxies/morphology"]).sum((-2, -1))
    ours = np.asarray(group(drawn, "posterior")["galaxies_morphology"]).sum((-2, -1))
    for k in range(2):
        allowed = 3 * np.hypot(error(theirs[None, :, k]), error(ours[..., k]))
        assert abs(theirs[:, k].mean() - ours[..., k].mean()) < allowed


#: Chains of the reduced form.
FEW = {"num_warmup": 200, "num_samples": 200, "num_chains": 2}


def test_calibration_in_reduced_form(calibrate):
    empty = calibrate.scene()
    found = np.array([calibrate.rank_one(i, empty, **FEW) for i in range(12)])
    report = calibrate.summary(found)
    assert report["smallest_p"] > report["smallest_p_allowed"]
    for level in (0.5, 0.68, 0.9):
        share, low, high = coverage(found.ravel(), calibrate.DRAWS, level)
        assert low < share < high


def test_forgotten_jacobian_of_the_stretch_fails_calibration(calibrate):
    """Calibration is a test that can fail."""
    empty = calibrate.scene()
    wrong = calibrate.without_jacobian(empty["galaxies"].prior)
    found = [calibrate.rank_one(i, empty, fitted=wrong, **FEW) for i in range(8)]
    report = calibrate.summary(np.array(found))
    assert report["smallest_p"] < report["smallest_p_allowed"]


def test_uniformity_sees_what_is_not_uniform():
    rng = np.random.default_rng(0)
    assert uniformity(rng.integers(0, 40, 400), 39) > 1e-3
    assert uniformity(rng.binomial(39, 0.5, 400), 39) < 1e-6
    share, low, high = coverage(rng.integers(0, 40, 2000), 39, 0.68)
    assert low <= share <= high
