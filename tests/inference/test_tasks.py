"""Tasks beside deblending, each in small; `benchmarks/tasks.py` does them on many galaxies."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest

from scorepriors import load_prior
from scorepriors.inference import SamplingWarning, deblend, laplace_deblended
from scorepriors.inference.deblending._draws import source_draws
from scorepriors.models import read_positions, simulate_blend, simulate_joint
from scorepriors.models.rendering._psf import difference_kernels

SHAPE = (48, 48)


@pytest.fixture(scope="module")
def galaxy():
    return simulate_blend(1, seed=1, magnitudes=(21.5, 24.0), shape=SHAPE)


def fit(obs):
    return deblend(obs, read_positions(obs.catalog, obs), prior=load_prior("lsst-32"), padding=1)


def test_a_hole_is_filled(galaxy):
    obs, truth = galaxy
    rows, columns = np.indices(SHAPE)
    row, column = truth.center[0]
    hole = (rows - row - 1) ** 2 + (columns - column - 3) ** 2 < 3.5**2
    # What stands in masked pixels must not matter.
    images = np.where(hole, 1e4, obs.images)
    result = fit(dataclasses.replace(obs, images=images, weights=np.where(hole, 0, obs.weights)))
    true = truth.convolved[0].sum(0)[hole]
    mode = result.free_form.convolved[0][0].sum(0)[hole]
    assert np.linalg.norm(mode - true) < 0.05 * np.linalg.norm(true)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        tree = laplace_deblended(result, key=jax.random.key(0), num_samples=200)
    (drawn,) = source_draws(tree)
    (exposure,) = result.scene.exposures
    corner = np.repeat(drawn.corner[None], len(drawn.image), axis=0)
    seen = exposure.render_on_host(drawn.image, corner)
    light = np.einsum("nb,nbyx->nyx", drawn.spectrum, seen)[:, hole].sum(1)
    assert abs(light.mean() - true.sum()) < 3 * light.std()
    # The hole is a sixth of the light; a width of a tenth of it would be no knowledge.
    assert light.std() < 0.1 * true.sum()


def test_deconvolution_beats_the_best_of_wiener(galaxy):
    obs, truth = galaxy
    true = truth.morphology[0]

    def error(image):
        return np.linalg.norm(image - true) / np.linalg.norm(true)

    kernels, _ = difference_kernels(obs.psfs, 0.7)
    size, shift = SHAPE[0], kernels.shape[-1] // 2
    padded = np.pad(kernels, [(0, 0), *[(0, size - kernels.shape[-1])] * 2])
    transfer = np.fft.fft2(np.roll(padded, (-shift, -shift), (1, 2)))
    # The filter is told the truth's own power and fluxes, and the best strength.
    power = abs(np.fft.fft2(true)) ** 2
    flux, weight = truth.flux[0], np.median(obs.weights, axis=(1, 2))
    above = np.einsum("b,byx->yx", flux * weight, transfer.conj() * np.fft.fft2(obs.images))
    below = np.einsum("b,byx->yx", flux**2 * weight, abs(transfer) ** 2)
    filtered = [
        error(np.fft.ifft2(above / (below + 1 / (s * power))).real)
        for s in np.geomspace(1e-4, 1e4, 17)
    ]
    assert error(fit(obs).free_form.morphology[0]) < min(filtered) / 3


def test_two_views_of_one_scene():
    ground, space, truth, second = simulate_joint(2, seed=0, shape=(32, 32), spread=3.0)
    assert ground.shape == (32, 32)
    assert space.shape == (64, 64)
    sky = [
        o.wcs.pixel_to_world(*t.center[:, ::-1].T) for o, t in ((ground, truth), (space, second))
    ]
    assert sky[0].separation(sky[1]).arcsec.max() < 1e-6
    assert truth.flux.shape == second.flux.shape == (2, 3)
    # One year of ten has a third of the depth in noise.
    shallow, *_ = simulate_joint(2, seed=0, shape=(32, 32), spread=3.0, years=1.0)
    ratio = np.median(ground.weights) / np.median(shallow.weights)
    assert ratio == pytest.approx(10, rel=0.05)
