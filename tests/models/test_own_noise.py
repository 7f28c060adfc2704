"""A user-defined model of the noise, against dense algebra in double precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import small_observation
from numpyro.distributions import constraints
from own_source import GaussianGalaxies
from scipy.stats import multivariate_normal

from scorepriors.inference import fit_map, posterior
from scorepriors.inference.deblending._result import collect_scene
from scorepriors.inference.sampling._labels import site_dims
from scorepriors.models import (
    AbstractNoise,
    Observation,
    Scene,
    SpectrumPrior,
    blend,
    exposures,
    place_sources,
    spectrum_posterior,
    start_values,
)
from scorepriors.models.rendering._information import likelihood_block, likelihood_diagonal


class SkyNoise(AbstractNoise):
    """Independent pixels on a sky whose level is unknown in every band.

    Attributes
    ----------
    weights
        ``[B, H, W]``, inverse variances; 0 where masked.
    level
        ``[B]``, standard deviation of the level.
    """

    weights: jax.Array
    level: jax.Array

    def precision(self, images):
        weighed = self.weights * images
        return weighed - self._share() * self.weights * weighed.sum((-2, -1), keepdims=True)

    def diagonal(self):
        return self.weights - self._share() * self.weights**2

    def sample(self, key):
        key_pixels, key_level = jax.random.split(key)
        seen = self.weights > 0
        white = jax.random.normal(key_pixels, seen.shape) / jnp.sqrt(
            jnp.where(seen, self.weights, 1)
        )
        level = self.level * jax.random.normal(key_level, self.level.shape)
        return jnp.where(seen, white + level[:, None, None], 0.0)

    def distribution(self, model):
        return SkyNormal(model, self)

    def _share(self):
        """Woodbury: N^-1 = W - W 1 share 1^T W."""
        total = self.weights.sum((-2, -1), keepdims=True)
        square = self.level[:, None, None] ** 2
        return square / (1 + square * total)


class SkyNormal(dist.Distribution):
    """Images about a model, one event per band."""

    support = constraints.independent(constraints.real, 2)

    def __init__(self, model, noise):
        self.model, self.noise = model, noise
        super().__init__(model.shape[:1], model.shape[1:])

    def sample(self, key, sample_shape=()):
        draws = jax.vmap(self.noise.sample)(jax.random.split(key, int(np.prod(sample_shape))))
        return self.model + draws.reshape(*sample_shape, *self.model.shape)

    def log_prob(self, value):
        weights, residual = self.noise.weights, value - self.model
        log_det = jnp.log(jnp.where(weights > 0, weights, 1.0)).sum((-2, -1))
        log_det -= jnp.log1p(self.noise.level**2 * weights.sum((-2, -1)))
        constant = (weights > 0).sum((-2, -1)) * jnp.log(2 * jnp.pi)
        return 0.5 * (log_det - constant - self.noise.inner(residual, residual))


BANDS, SHAPE, BOX = 2, (10, 9), 5
#: The second box reaches over the edge; both overlap.
CORNER = np.array([[2, 1], [4, 5]])
LEVEL = np.array([0.7, 1.5])


@pytest.fixture(scope="module")
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def one(double):
    """An exposure in double precision."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 2, (BANDS, *SHAPE))
    weights[0, 2:4, :3] = 0
    obs = small_observation([(4, 3), (6, 5)], shape=SHAPE, bands=BANDS, flux=100.0)
    (single,) = exposures(obs, boxes=(BOX,), noise=(SkyNoise(weights, LEVEL),))
    return jax.tree.map(lambda a: jnp.asarray(a, complex if np.iscomplexobj(a) else float), single)


@pytest.fixture(scope="module")
def shapes(double):
    return jnp.asarray(np.random.default_rng(1).uniform(0.05, 1, (2, BOX, BOX)))


@pytest.fixture(scope="module")
def prior(double):
    rng = np.random.default_rng(2)
    half = rng.normal(size=(2, BANDS, BANDS))
    covariance = 30 * half @ half.swapaxes(1, 2) + 20 * np.eye(BANDS)
    return SpectrumPrior(jnp.asarray(rng.uniform(5, 20, (2, BANDS))), jnp.asarray(covariance))


def covariance_of(noise, band):
    """Covariance of the unmasked pixels of a band, and which these are."""
    weights, level = np.asarray(noise.weights)[band].ravel(), float(noise.level[band])
    seen = weights > 0
    return np.diag(1 / weights[seen]) + level**2, seen


def dense(one, noise, drawn, prior):
    """Pixels as one Gaussian: design, covariance of noise and spectra, pixels."""
    blocks, pixels, rows = [], [], []
    for band in range(BANDS):
        covariance, seen = covariance_of(noise, band)
        blocks.append(covariance)
        pixels.append(np.asarray(one.images)[band].ravel()[seen])
        design = np.zeros((seen.sum(), 2, BANDS))
        design[:, :, band] = np.asarray(drawn)[:, band].reshape(2, -1).T[seen]
        rows.append(design.reshape(len(design), -1))
    size = [len(block) for block in blocks]
    total = np.zeros((sum(size), sum(size)))
    total[: size[0], : size[0]], total[size[0] :, size[0] :] = blocks
    spectra = np.zeros((2 * BANDS, 2 * BANDS))
    for k in range(2):
        own = slice(k * BANDS, (k + 1) * BANDS)
        spectra[own, own] = prior.covariance[k]
    return np.concatenate(rows), total, spectra, np.concatenate(pixels)


def log_evidence(one, noise, drawn, prior):
    design, total, spectra, pixels = dense(one, noise, drawn, prior)
    mean = design @ np.ravel(prior.mean)
    return multivariate_normal.logpdf(pixels, mean, total + design @ spectra @ design.T)


@eqx.filter_jit
def solve(one, noise, shapes, prior):
    drawn = one.render(shapes, jnp.asarray(CORNER))
    solved = spectrum_posterior([drawn], [one.images], [noise], prior)
    return solved, noise.log_likelihood(jnp.zeros_like(one.images)), drawn


def test_products_with_the_precision(one):
    noise, images = one.noise, np.asarray(one.images)
    weighed, diagonal = np.asarray(noise.precision(images)), np.asarray(noise.diagonal())
    value = 0.0
    for band in range(BANDS):
        covariance, seen = covariance_of(noise, band)
        inverse, pixels = np.linalg.inv(covariance), images[band].ravel()[seen]
        np.testing.assert_allclose(weighed[band].ravel()[seen], inverse @ pixels, rtol=1e-9)
        np.testing.assert_allclose(diagonal[band].ravel()[seen], np.diag(inverse), rtol=1e-9)
        assert (weighed[band].ravel()[~seen] == 0).all()
        value += multivariate_normal.logpdf(pixels, np.zeros(len(pixels)), covariance)
    np.testing.assert_allclose(noise.log_likelihood(images), value, rtol=1e-10)


def test_spectra_in_closed_form(one, shapes, prior):
    solved, constant, drawn = solve(one, one.noise, shapes, prior)
    design, total, spectra, pixels = dense(one, one.noise, drawn, prior)
    inverse = np.linalg.inv(spectra)
    covariance = np.linalg.inv(design.T @ np.linalg.solve(total, design) + inverse)
    mean = np.ravel(prior.mean)
    mean = mean + covariance @ design.T @ np.linalg.solve(total, pixels - design @ mean)
    size = len(mean)
    np.testing.assert_allclose(np.ravel(solved.mean), mean, rtol=1e-9)
    np.testing.assert_allclose(solved.covariance().reshape(size, size), covariance, rtol=1e-8)
    evidence = log_evidence(one, one.noise, drawn, prior)
    np.testing.assert_allclose(solved.log_marginal + constant, evidence, rtol=1e-10)
    profiled = multivariate_normal.logpdf(pixels, design @ mean, total)
    profiled += multivariate_normal.logpdf(mean, np.ravel(prior.mean), spectra)
    np.testing.assert_allclose(solved.log_profiled + constant, profiled, rtol=1e-10)


def difference(function, at, along, step=1e-4):
    return (function(at + step * along) - function(at - step * along)) / (2 * step)


@pytest.mark.parametrize("density", ["log_marginal", "log_profiled"])
def test_gradients_by_shapes(one, shapes, prior, density):
    value = lambda x: getattr(solve(one, one.noise, x, prior)[0], density)  # noqa: E731
    along = jnp.asarray(np.random.default_rng(3).normal(size=shapes.shape))
    expected = difference(value, shapes, along)
    np.testing.assert_allclose(jnp.vdot(jax.grad(value)(shapes), along), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(value, (shapes,), (along,))[1], expected, rtol=1e-6)
    if density == "log_marginal":
        by_algebra = difference(
            lambda x: log_evidence(one, one.noise, one.render(x, jnp.asarray(CORNER)), prior),
            shapes,
            along,
        )
        np.testing.assert_allclose(expected, by_algebra, rtol=1e-6)


@pytest.mark.parametrize("density", ["log_marginal", "log_profiled"])
def test_gradients_by_parameters_of_the_noise(one, shapes, prior, density):
    along = jnp.asarray([0.6, -0.8])
    level = one.noise.level

    def normalized(level, weights=one.noise.weights):
        solved, constant, _ = solve(one, SkyNoise(weights, level), shapes, prior)
        return getattr(solved, density) + constant

    expected = difference(normalized, level, along)
    np.testing.assert_allclose(jnp.vdot(jax.grad(normalized)(level), along), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(normalized, (level,), (along,))[1], expected, rtol=1e-6)
    # By another parameter, with the first held fixed.
    noisier = lambda factor: normalized(level, factor * one.noise.weights)  # noqa: E731
    slope = difference(noisier, jnp.asarray(1.0), 1.0)
    np.testing.assert_allclose(jax.grad(noisier)(jnp.asarray(1.0)), slope, rtol=1e-6)
    if density == "log_marginal":
        drawn = one.render(shapes, jnp.asarray(CORNER))
        by_algebra = difference(
            lambda level: log_evidence(one, SkyNoise(one.noise.weights, level), drawn, prior),
            level,
            along,
        )
        np.testing.assert_allclose(expected, by_algebra, rtol=1e-6)
        # Without the normalization of the noise it would be another number.
        bare = lambda v: solve(one, SkyNoise(one.noise.weights, v), shapes, prior)[0]  # noqa: E731
        bare = jax.grad(lambda level: bare(level).log_marginal)(level)
        assert abs(jnp.vdot(bare, along) - expected) > 0.01 * abs(expected)


@pytest.mark.parametrize("other_pixels", [False, True])
def test_second_derivatives_of_given_spectra(one, shapes, other_pixels):
    if other_pixels:
        grid = jnp.asarray([-0.3, 0.4, 1.1])
        one = eqx.tree_at(lambda e: e.grid, one, grid, is_leaf=lambda x: x is None)
    spectrum = jnp.asarray(np.random.default_rng(4).uniform(1, 5, (2, BANDS)))
    corner = jnp.asarray(CORNER)

    def minus(x):
        model = jnp.einsum("kb,kbyx->byx", spectrum, one.render(x, corner))
        return -one.noise.log_likelihood(one.images - model)

    hessian = jax.jit(jax.hessian(minus))(shapes).reshape(2, BOX**2, 2, BOX**2)
    found = eqx.filter_jit(likelihood_diagonal)([one], spectrum, corner, BOX).reshape(2, -1)
    true = np.einsum("kiki->ki", hessian)
    np.testing.assert_allclose(found, true, atol=1e-6 * true.max())
    # What ignores that pixels are correlated is something else.
    naive = one.noise.diagonal()
    assert np.abs(np.asarray(naive) - np.asarray(one.noise.weights)).max() > 1e-3
    for k, m in ((0, 0), (0, 1), (1, 0)):
        products = spectrum[k] * spectrum[m]
        block = eqx.filter_jit(likelihood_block)([one], products, corner[k], corner[m], BOX)
        np.testing.assert_allclose(block, hessian[k, :, m], atol=1e-6 * true.max())


@pytest.fixture(scope="module")
def bright():
    """Two galaxies on a sky that was not taken off."""
    centers = np.array([(8.0, 8.0), (15.0, 14.0)])
    obs = small_observation(centers, flux=2000.0)
    images = obs.images + np.array([1.5, -1.0, 2.0])[:, None, None]
    obs = Observation.from_arrays(images, weights=obs.weights, psfs=obs.psfs)
    with jax.enable_x64(False):
        yield obs, GaussianGalaxies(place_sources(centers, box=16))


def fitted(scene):
    init, scale = start_values(scene)
    fit = fit_map(blend, scene, key=jax.random.key(0), init=init, scale=scale, tolerance=0.1)
    assert fit.converged
    away = (np.asarray(fit.values["flux"]) - 2000) / np.asarray(fit.values["flux_error"])
    return fit, np.abs(away).max()


def test_a_scene_is_fitted_under_it(bright):
    obs, galaxies = bright
    noise = SkyNoise(obs.weights, np.full(3, 5.0, np.float32))
    scene = Scene.build(obs, noise=(noise,), galaxies=galaxies)
    fit, away = fitted(scene)
    assert away < 5
    result = collect_scene(scene, fit)
    assert 0.9 < result.chi2 < 1.1
    # White noise has nothing but the galaxies to explain the sky with.
    assert fitted(Scene.build(obs, galaxies=galaxies))[1] > 10


def test_its_pixels_are_a_site_with_named_axes(bright):
    obs, galaxies = bright
    noise = SkyNoise(jnp.asarray(obs.weights), jnp.full(3, 5.0))
    scene = Scene.build(obs, noise=(noise,), treatment="sampled", galaxies=galaxies)
    bound = posterior(blend, scene)
    u = bound.start({}, key=jax.random.key(0))
    trace = bound.trace(u)
    assert site_dims(trace)["pixels"] == ["band", "y", "x"]
    values, likelihoods, predictions = jax.jit(
        lambda bound, u: bound.recover(jax.random.key(1), u, log_likelihood=True, predictive=True)
    )(bound, u)
    assert likelihoods["pixels"].shape == (3,)
    assert predictions["pixels"].shape == (3, 24, 24)
    group = scene["galaxies"]
    (one,) = scene.exposures
    drawn = one.render(group.image(scene.values_of("galaxies", values)), group.at.corner)
    residual = one.images - jnp.einsum("kb,kbyx->byx", values["spectrum"], drawn)
    np.testing.assert_allclose(
        likelihoods["pixels"].sum(), noise.log_likelihood(residual), rtol=1e-5
    )
