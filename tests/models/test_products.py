"""The likelihood from inner products is that of the pixels, for any choice of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors.models.noise._diagonal import Diagonal
from scorepriors.models.spectra._products import chosen, inner_products, log_marginal
from scorepriors.models.spectra._spectra import SpectrumPrior, spectrum_posterior

SOURCES, BANDS, SIDE = 3, 4, 24


def scene(brightest, dtype):
    """Two shapes for each of three overlapping galaxies, and what one of them looks like."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((SIDE, SIDE))
    center = np.array([(10, 9), (13, 12), (9, 14)])
    width = np.array([2.0, 3.0, 1.5])
    shapes = [
        np.exp(-((rows - r) ** 2 + (columns - c) ** 2)[None] / 2 / (w * g) ** 2)
        * np.linspace(0.8, 1, BANDS)[:, None, None]
        for g in (1.0, 1.02)
        for (r, c), w in zip(center, width)
    ]
    drawn = np.stack(shapes)
    flux = np.array([brightest, 30.0, 4.0])[:, None] * rng.uniform(0.8, 1.2, (SOURCES, BANDS))
    images = np.einsum("kb,kbyx->byx", flux, drawn[:SOURCES])
    images += rng.normal(size=images.shape)
    weights = np.where(rng.uniform(size=images.shape) < 0.1, 0.0, 1.0)
    mean = np.repeat(flux.mean(1)[:, None], BANDS, 1)
    covariance = mean[:, :, None] * mean[:, None] * (0.3 + 0.2 * np.eye(BANDS))
    cast = lambda *arrays: [jnp.asarray(a, dtype) for a in arrays]  # noqa: E731
    drawn, images, weights, mean, covariance = cast(drawn, images, weights, mean, covariance)
    return drawn, images, Diagonal(weights), SpectrumPrior(mean, covariance)


def solve(drawn, images, noise, prior):
    return spectrum_posterior([drawn], [images], [noise], prior)


def by_products(drawn, images, noise, prior):
    """Log-densities of all eight choices."""
    here = solve(drawn[:SOURCES], images, noise, prior).mean
    left = images - jnp.einsum("kb,kbyx->byx", here, drawn[:SOURCES])
    old, new = drawn[:SOURCES], drawn[SOURCES:]
    products = inner_products([jnp.concatenate([old, new - old])], [left], [noise])
    return [log_marginal(chosen(products, here, taken), prior, here) for taken in choices()]


def choices():
    """Which sources have their other shape."""
    return [number >> np.arange(SOURCES) & 1 == 1 for number in range(8)]


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e3])
def test_a_prior_far_from_the_data_is_never_likely(factor):
    drawn, images, noise, prior = scene(100.0, jnp.float32)
    here = solve(drawn[:SOURCES], images, noise, prior).mean
    left = images - jnp.einsum("kb,kbyx->byx", here, drawn[:SOURCES])
    products = inner_products([drawn[:SOURCES]], [left], [noise])
    far = SpectrumPrior(factor * prior.mean, factor**2 * prior.covariance)
    exact = solve(drawn[:SOURCES], images, noise, far).log_marginal
    np.testing.assert_allclose(log_marginal(products, far, here), exact, rtol=1e-3)


@pytest.mark.parametrize("brightest", [100.0, 1e4])
def test_every_choice_of_images(brightest):
    with jax.enable_x64(True):
        double = scene(brightest, float)
        drawn, images, noise, prior = double
        exact = np.array(
            [
                solve(
                    drawn[np.arange(SOURCES) + SOURCES * taken], images, noise, prior
                ).log_marginal
                for taken in choices()
            ]
        )
        # The ridge is a part in 10^14 here.
        np.testing.assert_allclose(by_products(*double), exact, rtol=1e-9)
    single = np.array(by_products(*scene(brightest, jnp.float32)), float)
    # What decides a move is a difference; those of thousands of nats need no digits.
    change, expected = single - single[0], exact - exact[0]
    np.testing.assert_allclose(change, expected, atol=0.02, rtol=1e-3)
