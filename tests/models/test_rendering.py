"""Rendering against direct sums and against GalSim; spectra against dense algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_observation
from jax.test_util import check_grads
from scipy.signal import convolve2d

from scorepriors import InputError
from scorepriors.models.noise._diagonal import Diagonal
from scorepriors.models.rendering._placing import place
from scorepriors.models.rendering._psf import difference_kernels, gaussian_psf
from scorepriors.models.scene._exposures import exposures
from scorepriors.models.spectra._spectra import SpectrumPrior, spectrum_posterior

CORNERS = np.array([[3, 5], [-4, 2], [18, 20], [8, -6], [40, 3]])


def test_against_the_direct_sum_also_over_the_edge():
    obs = small_observation([(12, 12)])
    (data,) = exposures(obs, boxes=(8,))
    morphology = np.random.default_rng(0).uniform(size=(5, 8, 8))
    rendered = np.asarray(data.render(jnp.asarray(morphology, jnp.float32), jnp.asarray(CORNERS)))
    kernels = difference_kernels(obs.psfs, 0.7).kernels
    margin = 64
    for k, (row, column) in enumerate(CORNERS):
        canvas = np.zeros((24 + 2 * margin,) * 2)
        at = (slice(margin + row, margin + row + 8), slice(margin + column, margin + column + 8))
        canvas[at] = morphology[k]
        for b, kernel in enumerate(kernels):
            direct = convolve2d(canvas, kernel, mode="same")[margin:-margin, margin:-margin]
            scale = np.linalg.norm(convolve2d(morphology[k], kernel))
            assert np.linalg.norm(rendered[k, b] - direct) < 1e-5 * scale


def test_gradient_of_the_rendering():
    obs = small_observation([(12, 12)])
    (data,) = exposures(obs, boxes=(8,))
    corner = jnp.asarray(CORNERS[:3])
    s, v = jax.random.normal(jax.random.key(0), (2, 3, 8, 8))
    weight = jax.random.normal(jax.random.key(1), (3, 3, 24, 24))
    # The rendering is linear: its adjoint is all there is to check.
    product = jax.jit(lambda s: jnp.vdot(weight, data.render(s, corner)))
    forward = product(v)
    backward = jnp.vdot(jax.jit(jax.grad(product))(s), v)
    np.testing.assert_allclose(forward, backward, rtol=1e-4)


def test_placing_far_off_the_canvas_and_its_derivatives():
    image = jax.random.normal(jax.random.key(0), (5, 9, 7))
    corners = np.array([[0, 0], [-4, 2], [18, 20], [-60, -6], [40, 90]])
    margin = 100
    for corner, one, placed in zip(
        corners, image, place(image, jnp.asarray(corners), (16, 17)), strict=True
    ):
        canvas = np.zeros((16 + 2 * margin, 17 + 2 * margin))
        row, column = corner + margin
        canvas[row : row + 9, column : column + 7] = one
        np.testing.assert_array_equal(placed, canvas[margin:-margin, margin:-margin])
    # First and second derivatives, mapped over a batch of corners that share the images.
    many = jnp.asarray(np.stack([corners[:3], corners[:3] + 1]))

    @jax.jit
    def cubed(image):
        return (jax.vmap(lambda c: place(image, c, (16, 17)))(many) ** 3).sum()

    check_grads(cubed, (image[:3],), order=2, modes=("fwd", "rev"), rtol=0.02)


def test_boxes_must_fit_the_grid():
    (data,) = exposures(small_observation([(12, 12)]), boxes=(8,))
    with pytest.raises(InputError, match="do not fit"):
        data.render(jnp.ones((1, 20, 20)), jnp.zeros((1, 2), int))


def test_against_galsim():
    galsim = pytest.importorskip("galsim")
    scale = 0.2
    profile = galsim.Exponential(half_light_radius=0.4).shear(g1=0.2, g2=0.1).shift(0.05, -0.03)
    model = galsim.Convolve(profile, galsim.Gaussian(sigma=0.7 * scale))
    morphology = model.drawImage(nx=32, ny=32, scale=scale).array
    psfs, wanted = [], []
    for fwhm in (0.7, 0.9):
        atmosphere = galsim.Kolmogorov(fwhm=fwhm)
        psfs.append(atmosphere.drawImage(nx=41, ny=41, scale=scale).array)
        wanted.append(
            galsim.Convolve(profile, atmosphere).drawImage(nx=48, ny=48, scale=scale).array
        )
    from scorepriors.models.data._observation import Observation

    obs = Observation.from_arrays(
        np.ones((2, 48, 48)),
        variance=np.ones((2, 48, 48)),
        psfs=np.stack([p / p.sum() for p in psfs]),
    )
    (data,) = exposures(obs, boxes=(32,))
    assert float(data.kernels.error.max()) < 1e-3
    got = data.render(jnp.asarray(morphology)[None], jnp.asarray([[8, 8]]))[0]
    for image, truth in zip(got, wanted, strict=True):
        assert np.linalg.norm(image - truth) < 1e-2 * np.linalg.norm(truth)


def test_difference_kernel_takes_one_psf_to_the_other():
    kernels, error = difference_kernels(gaussian_psf(1.5, 31)[None], 0.7)
    again = convolve2d(kernels[0], gaussian_psf(0.7, 31), mode="same")
    assert np.abs(again - gaussian_psf(1.5, 31)).max() < 1e-4 * again.max()
    assert error.max() < 1e-4


@pytest.fixture
def linear_problem():
    rng = np.random.default_rng(2)
    renderings = rng.normal(size=(2, 3, 6, 6))
    images, weights = rng.normal(size=(3, 6, 6)), rng.uniform(0.5, 2, (3, 6, 6))
    mean = rng.normal(size=(2, 3))
    root = rng.normal(size=(2, 3, 3))
    covariance = root @ root.transpose(0, 2, 1) + np.eye(3)
    return renderings, images, weights, mean, covariance


def test_exact_spectra_against_dense_algebra(linear_problem):
    renderings, images, weights, mean, covariance = linear_problem
    f32 = [jnp.asarray(a, jnp.float32) for a in linear_problem]
    drawn, pixels, noise = ([a] for a in (*f32[:2], Diagonal(f32[2])))
    solved = spectrum_posterior(drawn, pixels, noise, SpectrumPrior(*f32[3:]))
    # Everything as one dense Gaussian: pixels = design @ spectra + noise.
    design = np.zeros((3, 36, 2, 3))
    for k in range(2):
        for b in range(3):
            design[b, :, k, b] = renderings[k, b].ravel()
    design = design.reshape(108, 6)
    noise = np.diag(1 / weights.reshape(108))
    prior = np.zeros((6, 6))
    prior[:3, :3], prior[3:, 3:] = covariance
    total = design @ prior @ design.T + noise
    residual = images.reshape(108) - design @ mean.reshape(6)
    exact = -0.5 * residual @ np.linalg.solve(total, residual) - 0.5 * np.linalg.slogdet(total)[1]
    offset = 0.5 * np.log(weights).sum()  # the data's own constant, left out of the result
    np.testing.assert_allclose(solved.log_marginal, exact - offset, rtol=1e-5)
    precision = design.T @ np.linalg.solve(noise, design) + np.linalg.inv(prior)
    dense = np.linalg.inv(precision)
    center = mean.reshape(6) + dense @ design.T @ np.linalg.solve(noise, residual)
    np.testing.assert_allclose(solved.mean.reshape(6), center, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(solved.covariance().reshape(6, 6), dense, rtol=2e-3, atol=1e-5)
    draws = jax.vmap(solved.sample)(jax.random.split(jax.random.key(0), 4000)).reshape(-1, 6)
    # Five standard errors of a covariance from 4,000 draws.
    bound = 5 * np.sqrt(np.outer(dense.diagonal(), dense.diagonal()) * 2 / 4000).max()
    assert np.abs(np.cov(draws.T) - dense).max() < bound
