"""Posteriors of blends: closed forms, exact spectra, and calibration in a reduced form."""

import json
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from conftest import gaussian_prior, small_observation
from numpyro import handlers

from scorepriors.inference import posterior
from scorepriors.inference.calibration import coverage, ranks, thin, uniformity
from scorepriors.inference.posterior import without_data
from scorepriors.inference.sampling import SamplingWarning, sample
from scorepriors.inference.sampling.tree import group
from scorepriors.models import blend, image_data, place_sources

CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])


@pytest.fixture(scope="module")
def scene():
    obs = small_observation(CENTERS, shape=(20, 20))
    return image_data(obs, box=8), gaussian_prior(), place_sources(CENTERS, box=8)


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
    data, _, sources = scene
    spectrum = jnp.asarray([3.0, 2.0, 1.0])

    def draw(x):
        image = data.render(x[None], sources.corner[:1])[0]
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
    assert abs(flat.sum(1).mean() - mean.sum()) < 4 * error(x.sum((-2, -1)))


def test_exact_spectra_equal_sampled_ones(scene):
    data, prior, _ = scene
    sources = place_sources(CENTERS[:1], box=8)
    options = {"num_samples": 600, "num_warmup": 300}
    exact = run(blend, data, prior, sources, **options)
    sampled = run(
        blend, data, prior, sources, model_kwargs={"spectra": "sampled"}, init="map", **options
    )
    for name in ("flux", "brightness"):
        ours, theirs = (np.asarray(group(t, "posterior")[name]) for t in (exact, sampled))
        for index in np.ndindex(ours.shape[2:]):
            a, b = ours[(..., *index)], theirs[(..., *index)]
            assert abs(a.mean() - b.mean()) < 4 * np.hypot(error(a), error(b))
            assert abs(a.std() / b.std() - 1) < 0.15
    posterior_group = group(exact, "posterior")
    assert posterior_group["flux"].dims == ("chain", "draw", "source", "band")
    assert posterior_group["morphology"].dims[2:] == ("source", "box_y", "box_x")
    assert json.loads(exact.attrs["sigma0"]) == pytest.approx([0.3])


def test_pixel_likelihood_and_predictions(scene):
    data, prior, sources = scene
    tree = run(
        blend, data, prior, sources, num_samples=50, num_warmup=60, log_likelihood=True,
        posterior_predictive=True,
    )  # fmt: skip
    likelihood = group(tree, "log_likelihood")["pixels"]
    assert likelihood.dims == ("chain", "draw", "band", "y", "x")
    assert likelihood.shape[2:] == (3, 20, 20)
    # Noise of one, so about -1/2 log 2 pi - 1/2 per pixel.
    assert abs(float(likelihood.mean()) + 0.5 * np.log(2 * np.pi) + 0.5) < 0.1
    residual = np.asarray(group(tree, "posterior_predictive")["pixels"]) - np.asarray(data.images)
    assert abs(residual.var() - 2) < 0.3
    np.testing.assert_allclose(group(tree, "observed_data")["pixels"], data.images)


def test_same_as_numpyro_nuts_on_a_blend(scene):
    from numpyro.infer import MCMC, NUTS

    data, prior, sources = scene
    bound = posterior(blend, data, prior, sources)
    chain = MCMC(NUTS(blend), num_warmup=300, num_samples=600, progress_bar=False)
    chain.run(jax.random.key(5), data, prior, sources)
    theirs = np.asarray(chain.get_samples()["morphology"]).sum((-2, -1))
    tree = run(bound, num_samples=600, num_warmup=300)
    ours = np.asarray(group(tree, "posterior")["morphology"]).sum((-2, -1))
    for k in range(2):
        allowed = 4 * np.hypot(error(theirs[None, :, k]), error(ours[..., k]))
        assert abs(theirs[:, k].mean() - ours[..., k].mean()) < allowed


def simulated(data, prior, sources, key):
    """A blend from the model's own prior, and its truth."""
    first, second = jax.random.split(key)
    energy = prior.energy
    width = jnp.sqrt(energy.variance + prior.sigma**2)
    noise = jax.random.normal(first, (2, 8, 8))
    z = energy.mean.reshape(8, 8) + width * noise
    morphology = prior.stretch(z)
    model = without_data(partial(blend, spectra="sampled"), ("pixels",))
    known = handlers.substitute(model, data={"morphology": morphology})
    trace = handlers.trace(handlers.seed(known, second)).get_trace(data, prior, sources)
    truth = {"morphology": morphology, "flux": trace["flux"]["value"]}
    return trace["pixels"]["value"], truth


def calibrated(scene, number, **options):
    """Ranks of fluxes, centroid and projections over `number` simulated blends."""
    data, prior, sources = scene
    directions = np.random.default_rng(0).normal(size=(3, 8, 8))
    found = []
    for i in range(number):
        images, truth = jax.jit(simulated)(data, prior, sources, jax.random.key(100 + i))
        mine = type(data)(**{**vars(data), "images": images})
        tree = run(
            blend, mine, prior, sources, num_warmup=100, num_samples=100, num_chains=2,
            key=jax.random.key(i), **options,
        )  # fmt: skip
        held = group(tree, "posterior")
        row = []
        for source in range(2):
            flux = np.asarray(held["flux"])[:, :, source].sum(-1)
            row.append((flux, np.asarray(truth["flux"])[source].sum()))
            image = np.asarray(held["morphology"])[:, :, source]
            true = np.asarray(truth["morphology"])[source]
            for direction in (np.indices((8, 8))[0], *directions):
                project = lambda x, d=direction: (x * d).sum((-2, -1))  # noqa: E731
                scale = (lambda x: x.sum((-2, -1))) if direction is not None else None
                row.append((project(image) / scale(image), project(true) / scale(true)))
        found.append([ranks(thin(draws, 39), true) for draws, true in row])
    return np.array(found)


def test_calibration_in_reduced_form(scene):
    found = calibrated(scene, 20)
    values = [uniformity(column, 39, bins=4) for column in found.T]
    assert min(values) > 0.01 / len(values)
    for level in (0.5, 0.9):
        share, low, high = coverage(found.ravel(), 39, level)
        assert low - 0.05 < share < high + 0.05


def test_uniformity_sees_what_is_not_uniform():
    rng = np.random.default_rng(0)
    assert uniformity(rng.integers(0, 40, 400), 39) > 1e-3
    assert uniformity(rng.binomial(39, 0.5, 400), 39) < 1e-6
    share, low, high = coverage(rng.integers(0, 40, 2000), 39, 0.68)
    assert low <= share <= high
