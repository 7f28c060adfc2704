"""Sersic mixtures against their definition and against GalSim."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.special import gammainc, gammaincinv

from scorepriors import InputError
from scorepriors.models.sources._profiles import (
    ellipse,
    gaussian_mixture_image,
    sersic_mixture,
    sersic_mixture_of,
)

#: Fixed indices from just above the Gaussian to the steepest.
INDICES = [0.5, 0.55, 0.6, 0.7, 0.85, 1.0, 1.3, 1.7, 2.5, 3.3, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("index", [1.0, 2.0, 4.0])
def test_growth_curve(index):
    weights, sigmas = sersic_mixture(index)
    np.testing.assert_allclose(weights.sum(), 1)
    radii = np.array([0.5, 1.0, 2.0, 4.0])
    mixture = (weights * (1 - np.exp(-(radii[:, None] ** 2) / 2 / sigmas**2))).sum(1)
    exact = gammainc(2 * index, gammaincinv(2 * index, 0.5) * radii ** (1 / index))
    np.testing.assert_allclose(mixture, exact, atol=0.005)


def test_index_out_of_range():
    with pytest.raises(InputError, match="Sersic index"):
        sersic_mixture(9.0)


def test_shear_keeps_the_area_and_its_axis_ratio():
    for ellipticity in ([0.0, 0.0], [0.3, 0.2], [2.0, -1.0]):
        yy, xy, xx = (float(m) for m in ellipse(jnp.asarray(ellipticity)))
        np.testing.assert_allclose(yy * xx - xy**2, 1, rtol=1e-3)
        g = np.tanh(np.hypot(*ellipticity))
        values = np.linalg.eigvalsh([[yy, xy], [xy, xx]])
        np.testing.assert_allclose(np.sqrt(values[0] / values[1]), (1 - g) / (1 + g), rtol=2e-3)


@pytest.mark.parametrize("index", [1.0, 4.0])
@pytest.mark.parametrize("radius", [1.0, 3.0])
def test_image_against_galsim(index, radius):
    galsim = pytest.importorskip("galsim")
    weights, sigmas = (jnp.asarray(a, jnp.float32) for a in sersic_mixture(index))
    image = gaussian_mixture_image(
        weights,
        sigmas * radius,
        ellipse(jnp.asarray([0.3, 0.2])),
        jnp.asarray([15.7, 15.2]),
        box=32,
        psf_sigma=0.7,
    )
    on_host = gaussian_mixture_image(
        np.asarray(weights),
        np.asarray(sigmas) * radius,
        ellipse(np.array([0.3, 0.2]), np),
        np.array([15.7, 15.2]),
        box=32,
        psf_sigma=0.7,
        xp=np,
    )
    np.testing.assert_allclose(image, on_host, atol=1e-6)
    size = np.hypot(0.3, 0.2)
    g1, g2 = np.tanh(size) / size * np.array([0.3, 0.2])
    profile = galsim.Sersic(n=index, half_light_radius=radius).shear(g1=g1, g2=g2)
    profile = galsim.Convolve(profile.shift(-0.3, 0.2), galsim.Gaussian(sigma=0.7))
    truth = profile.drawImage(nx=32, ny=32, scale=1).array
    assert np.linalg.norm(image - truth) < 1e-2 * np.linalg.norm(truth)


def image_of(weights, sigmas, radius, *, shear=(0.2, 0.1), box=96):
    return gaussian_mixture_image(
        weights,
        sigmas * radius,
        ellipse(np.array(shear), np),
        np.array([box / 2 - 0.3, box / 2 + 0.2]),
        box=box,
        psf_sigma=0.7,
        xp=np,
    )


@pytest.mark.parametrize("index", [1.0, 1.3, 2.0, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("radius", [1.0, 3.0, 6.0])
def test_free_index_agrees_with_the_fixed_one(index, radius):
    fixed = image_of(*sersic_mixture(index), radius)
    free = image_of(*sersic_mixture_of(index, np), radius)
    assert np.linalg.norm(free - fixed) < 5e-3 * np.linalg.norm(fixed)


@pytest.mark.parametrize("index", INDICES)
def test_free_index_against_the_profile(index):
    weights, sigmas = sersic_mixture_of(index, np)
    radii = np.array([0.5, 1.0, 2.0, 4.0])
    mixture = (weights * (1 - np.exp(-(radii[:, None] ** 2) / 2 / sigmas**2))).sum(1)
    exact = gammainc(2 * index, gammaincinv(2 * index, 0.5) * radii ** (1 / index))
    np.testing.assert_allclose(mixture, exact, atol=0.005)


@pytest.mark.parametrize("index", [0.5, 0.6, 0.7, 1.0, 2.5, 4.0, 6.0])
@pytest.mark.parametrize("radius", [1.0, 6.0])
def test_free_index_against_galsim(index, radius):
    galsim = pytest.importorskip("galsim")
    image = image_of(*sersic_mixture_of(index, np), radius, shear=(0.0, 0.0))
    profile = galsim.Sersic(n=index, half_light_radius=radius).shift(0.2 + 0.5, -0.3 + 0.5)
    truth = galsim.Convolve(profile, galsim.Gaussian(sigma=0.7)).drawImage(nx=96, ny=96, scale=1)
    # GalSim's own error for its steepest profiles, and the pixel as a Gaussian, are in it.
    assert np.linalg.norm(image - truth.array) < 1e-2 * np.linalg.norm(truth.array)


def test_free_index_takes_arrays_traced_and_not():
    index = np.asarray([INDICES, INDICES[::-1]], np.float32)
    weights, sigmas = jax.jit(sersic_mixture_of)(index)
    assert weights.shape == (2, len(INDICES), len(sigmas))
    assert weights.dtype == sigmas.dtype == jnp.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    on_host, same = sersic_mixture_of(index.astype(float), np)
    assert on_host.dtype == np.float64
    np.testing.assert_allclose(weights, on_host, atol=1e-5)
    np.testing.assert_allclose(sigmas, same, rtol=1e-6)
    # Beyond the ends, what is at the ends.
    beyond = sersic_mixture_of(np.array([0.1, 9.0]), np)[0]
    np.testing.assert_array_equal(beyond, sersic_mixture_of(np.array([0.5, 6.0]), np)[0])


def test_free_index_has_smooth_derivatives():
    n = np.geomspace(0.502, 5.98, 400)
    slope, bend = (
        np.asarray(jax.vmap(f)(jnp.asarray(n, jnp.float32)))
        for f in (
            jax.jacfwd(lambda n: sersic_mixture_of(n)[0]),
            jax.jacfwd(jax.jacfwd(lambda n: sersic_mixture_of(n)[0])),
        )
    )
    assert np.isfinite(slope).all()
    assert np.isfinite(bend).all()
    step = 1e-5
    up, down = (sersic_mixture_of(n + s, np)[0] for s in (step, -step))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), atol=2e-3 * np.abs(slope).max())
    middle = sersic_mixture_of(n, np)[0]
    second = sersic_mixture_of(n + 1e-3, np)[0] + sersic_mixture_of(n - 1e-3, np)[0] - 2 * middle
    np.testing.assert_allclose(bend, second / 1e-6, atol=1e-2 * np.abs(bend).max())
    # Reverse mode, and at the ends themselves.
    for end in (0.5, 6.0):
        gradient = jax.grad(lambda n: sersic_mixture_of(n)[0][7])(jnp.float32(end))
        assert np.isfinite(gradient)


@pytest.mark.parametrize("index", [0.7, 1.0, 2.5, 4.0])
def test_a_fit_recovers_the_index(index):
    truth = image_of(*sersic_mixture(index), 4.0)

    def residual(p):
        flux, radius, n = np.exp(p)
        return (flux * image_of(*sersic_mixture_of(n, np), radius) - truth).ravel()

    fit = least_squares(residual, np.log([0.8, 3.0, 1.6]), x_scale=0.1, xtol=1e-10, ftol=1e-12)
    flux, radius, n = np.exp(fit.x)
    np.testing.assert_allclose([flux, radius, n], [1, 4, index], rtol=0.03)
