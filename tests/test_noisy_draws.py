"""Draws of galaxies from noisy stamps, against posteriors that are computed otherwise."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.signal import fftconvolve
from scipy.special import logsumexp

from scorepriors import LogStretch, WienerEnergy
from scorepriors._psfs import difference_kernels, gaussian_psf
from scorepriors.energies._wiener import ModeNetwork
from scorepriors.training._draws import draw_galaxies, linear_modes, make_target
from scorepriors.training._likelihood import Stamp, blurred, misfit, tangents
from scorepriors.training._stamps import make_stamps

BOX, MODEL_SIGMA = 12, 0.7
STRETCH = LogStretch(0.05, 0.44)
ROWS, COLUMNS = np.indices((BOX, BOX)) - (BOX - 1) / 2


def galaxies(widths, ratios=1.0):
    """Round or flattened galaxies with peaks of one."""
    widths, ratios = (np.broadcast_to(a, np.shape(widths))[:, None, None] for a in (widths, ratios))
    images = np.exp(-np.hypot(ROWS / ratios, COLUMNS) / widths)
    return images / images.max((1, 2), keepdims=True)


def gaussian_energy(mean, basis, eigenvalues, tail):
    network = ModeNetwork(basis.shape[1], 1, 1, 0, key=jr.key(0))
    arrays = (jnp.asarray(a, jnp.float32) for a in (mean, basis, eigenvalues, tail))
    return WienerEnergy(*arrays, network)


@pytest.fixture(scope="module")
def two_modes():
    """A Gaussian of two directions: sizes, and a gradient from one side to the other."""
    small, middle, large = np.asarray(STRETCH.inv(galaxies([0.8, 1.2, 1.8]))).reshape(3, -1)
    directions = np.stack([large - small, (COLUMNS * np.exp(-(ROWS**2) / 8)).ravel()], 1)
    basis, _ = np.linalg.qr(directions)
    return gaussian_energy(middle, basis, [16.0, 1.0], 1e-7)


def stamps_of(x, sigma, mask=None):
    """Blurred stamps with noise."""
    rng = np.random.default_rng(0)
    psf = gaussian_psf(1.5, 15)
    kernel = difference_kernels(psf[None], MODEL_SIGMA).kernels[0]
    seen = np.stack([fftconvolve(one, kernel, "same") for one in x])
    noise = sigma * rng.standard_normal(seen.shape)
    return make_stamps(
        "test", BOX, MODEL_SIGMA, images=seen + noise, variance=None, sigma=sigma, psf=psf, mask=mask
    )  # fmt: skip


def exact_moments(energy, stamp, kernel, grid=101):
    """Mean and covariance of two coordinates, on a grid, with the flux integrated on another."""
    width = 4.5 * np.sqrt(np.asarray(energy.eigenvalues))
    axes = [np.linspace(-w, w, grid) for w in width]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    z = np.asarray(energy.mean) + places @ np.asarray(energy.basis).T
    x = 0.05 * np.expm1(0.44 * z.reshape(-1, BOX, BOX))
    seen = fftconvolve(x, kernel[None], "same", axes=(1, 2))
    image, weights = (np.asarray(a, float) for a in (stamp.image, stamp.weights))
    fluxes = np.exp(np.linspace(np.log(0.2), np.log(5), 801)) * np.sqrt(
        (image**2 * weights).sum() / (seen**2 * weights).sum((1, 2))[:, None]
    )
    product = (image * seen * weights).sum((1, 2))[:, None]
    norm = (seen**2 * weights).sum((1, 2))[:, None]
    log_density = logsumexp(fluxes * product - fluxes**2 * norm / 2, axis=1)
    log_density -= 0.5 * (places**2 / np.asarray(energy.eigenvalues)).sum(1)
    density = np.exp(log_density - logsumexp(log_density))
    mean = density @ places
    return mean, (density[:, None] * (places - mean)).T @ (places - mean)


@pytest.mark.parametrize("snr", [12, 60])
def test_draws_are_those_of_the_posterior(two_modes, snr):
    truth = galaxies([1.4])
    kernel = difference_kernels(gaussian_psf(1.5, 15)[None], MODEL_SIGMA).kernels[0]
    seen = fftconvolve(truth[0], kernel, "same")
    mask = np.zeros((1, BOX, BOX), bool)
    mask[0, 5:8, 6:9] = True  # a hole near the middle: the density is wide and bent
    sigma = np.sqrt((seen**2).sum()) / snr
    stamps = stamps_of(truth, sigma, mask=mask)
    image, weights, kernels = stamps.part(np.array([0]))
    mean, covariance = exact_moments(two_modes, Stamp(image[0], weights[0], None), kernel)
    num = 1500
    every = Stamp(*(jnp.repeat(jnp.asarray(a), num, 0) for a in (image, weights, kernels)))
    prior = np.asarray(two_modes.mean).reshape(1, BOX, BOX) + np.zeros((600, 1, 1))
    prior = prior + np.einsum(
        "pm,sm->sp", two_modes.basis, np.random.default_rng(1).normal(size=(600, 2)) * [4, 1]
    ).reshape(600, BOX, BOX)
    target = make_target(two_modes, STRETCH, prior, 0.01, 14, key=jr.key(1))
    begin = linear_modes(target, every, half=stamps.half)
    options = {"half": stamps.half, "num_transitions": 3}
    found = draw_galaxies(target, every, begin, jr.split(jr.key(2), num), **options)
    a = (np.asarray(found.z).reshape(num, -1) - np.asarray(two_modes.mean)) @ two_modes.basis
    a = np.asarray(a)
    error = np.sqrt(np.diag(covariance) / num)
    np.testing.assert_array_less(np.abs(a.mean(0) - mean), 4.5 * error)
    np.testing.assert_allclose(np.var(a, 0), np.diag(covariance), rtol=0.2)


def one_stamp(z, snr=30.0):
    """A stamp of a stretched galaxy, in arrays of JAX, and the offset of its kernel."""
    x = np.asarray(STRETCH(z))
    stamps = stamps_of(x[None], np.sqrt((x**2).sum()) / snr)
    return Stamp(*(jnp.asarray(a[0]) for a in stamps.part(np.array([0])))), stamps.half


def test_blur_is_the_convolution_with_the_difference_kernel():
    x = galaxies([1.4])[0]
    psf = gaussian_psf(1.5, 15)
    for size in (9, 15):  # a kernel narrower than the box, and one that is wider
        cut = slice((15 - size) // 2, (15 + size) // 2)
        one = psf[cut, cut] / psf[cut, cut].sum()
        shape = (1, BOX, BOX)
        stamps = make_stamps(
            "test", BOX, MODEL_SIGMA, images=np.ones(shape), variance=None, sigma=1.0, psf=one, mask=None
        )  # fmt: skip
        kernel = difference_kernels(one[None], MODEL_SIGMA).kernels[0]
        found = blurred(jnp.asarray(x, jnp.float32), jnp.asarray(stamps.kernels[0]), stamps.half)
        np.testing.assert_allclose(found, fftconvolve(x, kernel, "same"), atol=2e-6)


def test_kernels_of_any_size_do_not_wrap_around():
    rng = np.random.default_rng(3)
    x, psf = rng.normal(size=(BOX, BOX)), rng.uniform(size=(31, 31))
    shape = (1, BOX, BOX)
    stamps = make_stamps(
        "test", BOX, None, images=np.ones(shape), variance=np.ones(shape), sigma=None, psf=psf, mask=None
    )  # fmt: skip
    found = blurred(jnp.asarray(x, jnp.float32), jnp.asarray(stamps.kernels[0]), stamps.half)
    wanted = fftconvolve(np.pad(x, 31), psf / psf.sum(), "same")[31:-31, 31:-31]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_misfit_is_that_of_any_flux_and_unit():
    z = jnp.asarray(STRETCH.inv(galaxies([1.2])[0]), jnp.float32)
    other = jnp.asarray(STRETCH.inv(galaxies([1.7])[0]), jnp.float32)
    stamp, half = one_stamp(z)
    change = misfit(stamp, other, STRETCH, half) - misfit(stamp, z, STRETCH, half)
    assert change > 3
    # A galaxy of twice the light with half the flux is the same.
    doubled = STRETCH.inv(2 * STRETCH(other))
    np.testing.assert_allclose(
        misfit(stamp, doubled, STRETCH, half), misfit(stamp, other, STRETCH, half), rtol=1e-5
    )


def test_tangents_are_the_curvature_where_the_fit_is_perfect():
    z = jnp.asarray(STRETCH.inv(galaxies([1.2])[0]), jnp.float32)
    stamp, half = one_stamp(z)
    seen = blurred(STRETCH(z), stamp.kernel, half)
    stamp = stamp._replace(image=3 * seen)
    direction = jnp.asarray(np.exp(-(ROWS**2) / 9), jnp.float32)
    moved = tangents(stamp, z, STRETCH, half)(direction)

    def along(t):
        # Without the logarithm of the signal to noise, which has a curvature of its own.
        seen = blurred(STRETCH(z + t * direction), stamp.kernel, half)
        flux = jnp.sum(stamp.image * seen * stamp.weights) / jnp.sum(seen**2 * stamp.weights)
        return 0.5 * jnp.sum((stamp.image - flux * seen) ** 2 * stamp.weights)

    wanted = jax.grad(jax.grad(along))(0.0)
    np.testing.assert_allclose(jnp.sum(moved**2), wanted, rtol=1e-3)


def test_a_draw_depends_on_its_key_and_stamp_alone(two_modes):
    x = galaxies([0.9, 1.4, 1.9, 1.2])
    stamps = stamps_of(x, 0.05)
    prior = np.asarray(two_modes.mean).reshape(1, BOX, BOX) * np.ones((8, 1, 1))
    target = make_target(two_modes, STRETCH, prior, 0.05, 4, key=jr.key(1))
    keys = jr.split(jr.key(2), 4)

    def drawn(index):
        parts = Stamp(*map(jnp.asarray, stamps.part(index)))
        start = linear_modes(target, parts, half=stamps.half)
        options = {"half": stamps.half, "num_transitions": 1}
        return np.asarray(draw_galaxies(target, parts, start, keys[index], **options).z)

    one, other = drawn(np.array([0, 1])), drawn(np.array([2, 1]))
    np.testing.assert_array_equal(one[1], other[1])
    assert np.abs(one[0] - other[0]).max() > 0.1


def test_draws_where_jax_computes_with_64_bits(two_modes):
    stamps = stamps_of(galaxies([1.4]), 0.05)
    prior = np.asarray(two_modes.mean).reshape(1, BOX, BOX) * np.ones((8, 1, 1))
    options = {"half": stamps.half, "num_transitions": 1}
    with jax.enable_x64(True):
        target = make_target(two_modes, STRETCH, prior, 0.05, 4, key=jr.key(1))
        parts = Stamp(*map(jnp.asarray, stamps.part(np.array([0]))))
        start = linear_modes(target, parts, half=stamps.half)
        found = draw_galaxies(target, parts, start, jr.split(jr.key(2), 1), **options)
    assert found.z.dtype == jnp.float32
    assert np.isfinite(found.z).all()
