"""A sky that is integrated out, against dense normal distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from scorepriors import InputError
from scorepriors.models import Diagonal, Sky, SpectrumPrior, spectrum_posterior
from scorepriors.models.noise._sky import sky_templates

BANDS, SHAPE = 2, (9, 7)
WIDTH = np.array([0.7, 5.0])


def weights(seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = rng.uniform(0.5, 2, (BANDS, *SHAPE))
    out[:, 3, :4] = 0
    out[1, :, 6] = 0
    return out


def dense(weight, width, kind) -> np.ndarray:
    """Covariance of the unmasked pixels of one band."""
    seen = weight > 0
    templates = np.asarray(sky_templates(SHAPE, kind), float)[:, seen]
    return np.diag(1 / weight[seen]) + width**2 * templates.T @ templates


@pytest.fixture(params=["constant", "plane"])
def kind(request):
    return request.param


def noise_of(kind, width=WIDTH, dtype=float) -> Sky:
    return Sky.about(Diagonal(jnp.asarray(weights(), dtype)), jnp.asarray(width, dtype), kind)


@pytest.fixture
def double_precision():
    with jax.enable_x64(True):
        yield


def test_density_is_that_of_a_dense_normal(kind, double_precision):
    rng = np.random.default_rng(1)
    noise, residual = noise_of(kind), 3 * rng.normal(size=(BANDS, *SHAPE))
    model = rng.normal(size=residual.shape)
    found = noise.distribution(jnp.asarray(model)).log_prob(jnp.asarray(residual))
    assert noise.distribution(jnp.asarray(model)).event_shape == SHAPE
    for band, weight in enumerate(weights()):
        seen = weight > 0
        true = multivariate_normal(model[band][seen], dense(weight, WIDTH[band], kind))
        np.testing.assert_allclose(found[band], true.logpdf(residual[band][seen]), rtol=1e-10)


def test_products_with_the_precision(kind, double_precision):
    rng = np.random.default_rng(2)
    noise, images = noise_of(kind), rng.normal(size=(3, BANDS, *SHAPE))
    found = np.asarray(noise.precision(jnp.asarray(images)))
    inner = np.asarray(noise.inner(jnp.asarray(images), jnp.asarray(images[::-1])))
    diagonal = np.asarray(noise.diagonal())
    for band, weight in enumerate(weights()):
        seen = weight > 0
        true = np.linalg.inv(dense(weight, WIDTH[band], kind))
        pixels = images[:, band][:, seen]
        np.testing.assert_allclose(found[:, band][:, seen], pixels @ true, atol=1e-10)
        np.testing.assert_allclose(
            inner[:, band], ((pixels @ true) * pixels[::-1]).sum(1), atol=1e-9
        )
        np.testing.assert_allclose(diagonal[band][seen], np.diag(true), rtol=1e-9)
        assert (found[:, band][:, ~seen] == 0).all()
        assert (diagonal[band][~seen] == 0).all()


def test_draws_scatter_as_they_should(kind):
    noise = noise_of(kind, dtype=jnp.float32)
    draws = np.asarray(jax.vmap(noise.sample)(jax.random.split(jax.random.key(0), 20_000)))
    for band, weight in enumerate(weights()):
        seen = weight > 0
        true = dense(weight, WIDTH[band], kind)
        found = np.cov(draws[:, band][:, seen].T)
        np.testing.assert_allclose(found, true, atol=0.05 * true.max())
        assert (draws[:, band][:, ~seen] == 0).all()
    model = jnp.ones((BANDS, *SHAPE))
    drawn = noise.distribution(model).sample(jax.random.key(1), (4000,))
    np.testing.assert_allclose(drawn.mean(0), 1.0, atol=5 * WIDTH.max() * 2 / 4000**0.5)


def test_level_is_the_posterior_of_the_coefficients(kind, double_precision):
    rng = np.random.default_rng(3)
    residual = 0.4 + rng.normal(size=(BANDS, *SHAPE))
    noise = noise_of(kind)
    level, error = noise.level(jnp.asarray(residual))
    for band, weight in enumerate(weights()):
        seen = weight > 0
        design = np.asarray(sky_templates(SHAPE, kind), float)[:, seen].T
        precision = design.T @ (weight[seen][:, None] * design)
        covariance = np.linalg.inv(precision + np.eye(design.shape[1]) / WIDTH[band] ** 2)
        mean = covariance @ design.T @ (weight[seen] * residual[band][seen])
        np.testing.assert_allclose(level[band], mean, atol=1e-10)
        np.testing.assert_allclose(error[band], np.sqrt(np.diag(covariance)), rtol=1e-9)
    image = noise.image(level)
    np.testing.assert_allclose(image[0, 0, 0], level[0, 0] - level[0, 1:].sum(), atol=1e-12)


@pytest.mark.parametrize("sky", [0.0, 1000.0])
def test_wide_prior_in_single_precision(kind, sky):
    """A thousand times the noise, over as many pixels as a scene has."""
    shape, rng = (64, 60), np.random.default_rng(4)
    residual = sky + rng.normal(size=(1, *shape))
    width = np.array([1e3])
    found = Sky.about(Diagonal(jnp.ones((1, *shape), jnp.float32)), jnp.float32(width), kind)
    with jax.enable_x64(True):
        true = Sky.about(Diagonal(jnp.ones((1, *shape))), jnp.asarray(width), kind)
        exact = float(true.log_likelihood(jnp.asarray(residual)))
        inner = float(true.inner(jnp.asarray(residual), jnp.asarray(residual))[0])
        level = np.asarray(true.level(jnp.asarray(residual))[0])
    single = jnp.asarray(residual, jnp.float32)
    # Float32 holds pixels of 1000 to 6e-5.
    assert abs(float(found.log_likelihood(single)) - exact) < (0.05 if sky else 0.01)
    assert abs(float(found.inner(single, single)[0]) - inner) < (0.1 if sky else 0.02)
    np.testing.assert_allclose(found.level(single)[0], level, atol=1e-3)
    assert (np.asarray(found.diagonal()) > 0.99).all()


def test_a_sky_takes_no_flux(kind):
    """Spectra with a sky integrated out are those of least squares with free coefficients."""
    rng = np.random.default_rng(5)
    shape = (20, 20)
    rows, columns = np.indices(shape)
    source = np.exp(-((rows - 9) ** 2 + (columns - 12) ** 2) / 18)
    templates = np.asarray(sky_templates(shape, kind), float)
    sky = np.tensordot(rng.uniform(0.3, 0.6, len(templates)), templates, 1)
    image = 5 * source + sky + rng.normal(size=shape)
    white = Diagonal(jnp.ones((1, *shape), jnp.float32))
    noise = Sky.about(white, jnp.array([100.0]), kind)
    prior = SpectrumPrior(jnp.zeros((1, 1)), jnp.full((1, 1, 1), 1e6))
    pixels = [jnp.asarray(image, jnp.float32)[None]]
    drawn = [jnp.asarray(source, jnp.float32)[None, None]]
    found = spectrum_posterior(drawn, pixels, [noise], prior)
    design = np.stack([source, *templates]).reshape(1 + len(templates), -1).T
    covariance = np.linalg.inv(design.T @ design)
    true = covariance @ design.T @ image.ravel()
    error = np.sqrt(covariance[0, 0])
    assert abs(float(found.mean[0, 0]) - true[0]) < 0.01 * error
    np.testing.assert_allclose(found.covariance().squeeze() ** 0.5, error, rtol=1e-3)
    # Left out, it is a bias of several errors.
    left_out = spectrum_posterior(drawn, pixels, [white], prior)
    assert abs(float(left_out.mean[0, 0]) - true[0]) > 3 * error


def test_skies_stack_as_arrays(kind):
    noises = [noise_of(kind, width, jnp.float32) for width in (WIDTH, 2 * WIDTH)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *noises)
    images = jnp.ones((2, BANDS, *SHAPE))
    both = jax.vmap(lambda noise, image: noise.precision(image))(stacked, images)
    for one, noise in zip(both, noises, strict=True):
        np.testing.assert_allclose(one, noise.precision(images[0]), rtol=1e-5, atol=1e-5)
    of_widths = jax.vmap(lambda w: Sky.about(Diagonal(jnp.ones((1, *SHAPE))), w, kind).inverse)(
        jnp.array([[1.0], [2.0]])
    )
    assert of_widths.shape[:2] == (2, 1)


def test_unknown_kind():
    with pytest.raises(InputError, match="unknown sky 'cubic'; there are constant, plane"):
        noise_of("cubic")
