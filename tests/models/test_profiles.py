"""Sersic mixtures against their definition and against GalSim."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammainc, gammaincinv

from scorepriors import InputError
from scorepriors.models.sources._profiles import ellipse, gaussian_mixture_image, sersic_mixture


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
