"""Second derivatives of the likelihood in closed form, against automatic differentiation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import DenseNoise

from scorepriors.models import Correlated, Diagonal, Sky, drizzle_correlation, exposures
from scorepriors.models.data._observation import Observation
from scorepriors.models.rendering._information import (
    by_exposure,
    gather,
    likelihood_block,
    likelihood_diagonal,
    likelihood_diagonal_on_host,
)
from scorepriors.models.rendering._psf import difference_kernels, gaussian_psf
from scorepriors.models.scene._curvature import scene_curvature, scene_diagonal
from scorepriors.models.spectra._spectra import SpectrumPrior, spectrum_posterior

BANDS, SHAPE, BOX = 2, (18, 16), 5
# The second box reaches over the edge; both overlap.
CORNER = np.array([[4, 8], [6, 12]])


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(
    scope="module",
    params=[
        "one grid",
        "two grids",
        "dense noise",
        "correlated noise",
        "sky",
        "sky and correlated",
    ],
)
def data(request):
    """Exposures of both bands, in double precision."""
    rng = np.random.default_rng(0)
    psfs = np.stack([gaussian_psf(1.2 + 0.2 * b, 13) for b in range(BANDS)])
    variance = rng.uniform(0.5, 2, (BANDS, *SHAPE))
    variance[:, 9, :4] = np.inf
    obs = Observation.from_arrays(
        3 * rng.normal(size=(BANDS, *SHAPE)), variance=variance, psfs=psfs
    )
    (single,) = exposures(obs, boxes=(BOX,))
    kernels, _ = difference_kernels(obs.psfs, 0.7)
    grid = single.kernels.of_box(BOX).shape[-2]
    transforms = jnp.fft.rfft2(jnp.asarray(kernels, float), (grid, grid))
    double = jax.tree.map(lambda a: a.astype(complex if jnp.iscomplexobj(a) else float), single)
    double = eqx.tree_at(lambda d: d.kernels.transforms, double, (transforms,))
    if request.param == "one grid":
        return (double,)
    if request.param == "dense noise":
        noise = DenseNoise.correlated(single.noise.weights)
        return (eqx.tree_at(lambda d: d.noise, double, noise),)
    if request.param in ("correlated noise", "sky", "sky and correlated"):
        noise = double.noise
        if "correlated" in request.param:
            noise = Correlated(np.asarray(single.noise.weights, float), drizzle_correlation(1.2))
            noise = jax.tree.map(jnp.asarray, noise)
        if "sky" in request.param:
            noise = Sky.about(noise, np.array([3.0, 0.3]), "plane")
        return (eqx.tree_at(lambda d: d.noise, double, noise),)
    # The second band has larger pixels that begin elsewhere.
    first, second = (jax.tree.map(lambda a, b=b: a[b : b + 1], double) for b in range(BANDS))
    grid = jnp.asarray([-1.3, 2.4, 1.25])
    return first, eqx.tree_at(lambda d: d.grid, second, grid, is_leaf=lambda x: x is None)


def scene():
    rng = np.random.default_rng(1)
    morphology = jnp.asarray(rng.uniform(0.05, 1, (2, BOX, BOX)))
    return morphology, jnp.asarray(rng.uniform(1, 5, (2, BANDS))), jnp.asarray(CORNER)


# One program each instead of one per operation.
diagonal_in_closed_form = eqx.filter_jit(likelihood_diagonal)
block_in_closed_form = eqx.filter_jit(likelihood_block)


def residuals(data, spectrum, corner, x):
    """Data minus model, exposure by exposure."""
    return [
        one.images - jnp.einsum("kb,kbyx->byx", own, one.render(x, corner))
        for one, own in zip(data, by_exposure(spectrum, data), strict=True)
    ]


def given(data, spectrum, corner, x):
    left = residuals(data, spectrum, corner, x)
    return 0.5 * sum(one.noise.inner(r, r).sum() for one, r in zip(data, left, strict=True))


def test_given_spectra(data):
    morphology, spectrum, corner = scene()
    hessian = jax.jit(jax.hessian(lambda x: given(data, spectrum, corner, x)))(morphology)
    hessian = hessian.reshape(2, BOX**2, 2, BOX**2)
    found = diagonal_in_closed_form(data, spectrum, corner, BOX).reshape(2, -1)
    true = np.einsum("kiki->ki", hessian)
    np.testing.assert_allclose(found, true, atol=1e-10 * true.max())
    beyond = diagonal_in_closed_form(data, spectrum, corner + 40, BOX)
    np.testing.assert_allclose(beyond, 0, atol=1e-12 * true.max())
    if isinstance(data[0].noise, Diagonal):
        on_host = likelihood_diagonal_on_host(data, np.asarray(spectrum), CORNER, BOX)
        np.testing.assert_allclose(on_host.reshape(2, -1), found, atol=1e-6 * true.max())
    for k, m in ((0, 0), (0, 1), (1, 0)):
        products = spectrum[k] * spectrum[m]
        block = block_in_closed_form(data, products, corner[k], corner[m], BOX)
        np.testing.assert_allclose(block, hessian[k, :, m], atol=1e-10 * true.max())


def test_gather_is_the_transpose_of_rendering(data):
    morphology, _, corner = scene()
    for one in data:
        images = np.random.default_rng(2).normal(size=(2, one.num_bands, *SHAPE))
        found = eqx.filter_jit(gather)(one, jnp.asarray(images), corner, BOX)
        drawn = eqx.filter_jit(lambda one, x: one.render(x, corner))(one, morphology)
        inner = jnp.vdot(drawn, images)
        np.testing.assert_allclose(jnp.einsum("kbyx,kyx->", found, morphology), inner, rtol=1e-12)


def test_spectra_integrated_out_or_maximized(data):
    morphology, _, corner = scene()
    rng = np.random.default_rng(3)
    mean = jnp.asarray(rng.uniform(20, 60, (2, BANDS)))
    half = rng.normal(size=(2, BANDS, BANDS))
    covariance = jnp.asarray(30 * half @ half.swapaxes(1, 2) + 50 * np.eye(BANDS))

    def solve(data, x):
        area = x.sum((-2, -1))
        prior = SpectrumPrior(mean / area[:, None], covariance / area[:, None, None] ** 2)
        return spectrum_posterior(
            tuple(one.render(x, corner) for one in data),
            tuple(one.images for one in data),
            tuple(one.noise for one in data),
            prior,
        )

    # Both in one program: compiling it is what takes time.
    @eqx.filter_jit
    def differentiated(data, x):
        def minus(x):
            solved = solve(data, x)
            return -jnp.stack([solved.log_marginal, solved.log_profiled])

        return jax.hessian(minus)(x).reshape(2, 2 * BOX**2, 2 * BOX**2)

    @eqx.filter_jit
    def in_closed_form(data, x):
        solved, prior = solve(data, x), SpectrumPrior(mean, covariance)
        diagonals = [
            scene_diagonal(
                data, scene_curvature(data, x, corner, prior, solved, marginal=marginal), corner
            ).ravel()
            for marginal in (True, False)
        ]
        return diagonals, solved.mean

    diagonals, spectrum = in_closed_form(data, morphology)
    known = diagonal_in_closed_form(data, spectrum, corner, BOX).ravel()
    for found, hessian in zip(diagonals, differentiated(data, morphology), strict=True):
        true = np.diagonal(hessian)
        np.testing.assert_allclose(found, true, atol=1e-10 * np.abs(true).max())
        # The spectra take information away; what is left is not that of given spectra.
        assert np.abs(known - true).max() > 1e-3 * true.max()
