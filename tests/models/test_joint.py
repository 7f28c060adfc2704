"""Observations of one sky on different pixels, joined."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.wcs import WCS
from jax.test_util import check_grads
from scipy.stats import norm

from scorepriors._errors import InputError
from scorepriors.inference import posterior
from scorepriors.models import (
    PointSource,
    Scene,
    blend,
    detect,
    exposures,
    join_observations,
    place_sources,
)
from scorepriors.models.data._observation import Observation
from scorepriors.models.data.psfs._checks import PSFWarning
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.rendering._grids import regrid
from scorepriors.models.rendering._information import likelihood_diagonal_on_host
from scorepriors.models.rendering._psf import gaussian_psf

#: Pixel, 1/12 of its square, beside the variance of a PSF.
PIXEL = 1 / 12


def sky(scale, shape, *, turn=0.0, flip=False, east=0.0):
    """A WCS of pixels of `scale` arcsec about one point of the sky."""
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [(scale if flip else -scale) / 3600, scale / 3600]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.pc = [[c, -s], [s, c]]
    wcs.wcs.crval = [10.0 + east, 2.0]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    return wcs


def observation(scale, shape, sigma, bands, *, images=None, **options):
    """Noise of one, with Gaussian PSFs of `sigma` pixels."""
    wcs = options.pop("wcs", sky(scale, shape))
    if images is None:
        images = np.random.default_rng(0).normal(size=(len(bands), *shape))
    psfs = np.repeat(gaussian_psf(sigma, 21)[None], len(bands), axis=0)
    options = {"zero_point": 31.4, "name": f"{scale} arcsec", **options}
    return Observation.from_arrays(
        images, variance=np.ones_like(images), psfs=psfs, bands=bands, wcs=wcs, **options
    )


@pytest.fixture(scope="module")
def joined():
    ground = observation(0.2, (30, 34), 1.6, ("r", "i"))
    space = observation(0.15, (44, 40), 1.8, ("i", "J", "H"), zero_point=30.0)
    return join_observations(ground, space)


def test_what_is_joined(joined):
    assert joined.bands == ("r", "i", "i_2", "J", "H")
    assert joined.shape == (30, 34)
    first, second = joined.views
    # No canvas: every observation keeps its own pixels.
    assert [view.observation.images.shape for view in joined.views] == [(2, 30, 34), (3, 44, 40)]
    # Both images are about one point: the middle of either.
    shape = np.array(second.observation.shape)
    middle = np.array(second.origin) + second.scale * (shape - 1) / 2
    np.testing.assert_allclose(middle, (np.array(first.observation.shape) - 1) / 2, atol=1e-6)
    assert second.scale == pytest.approx(0.75, abs=1e-6)
    assert (first.which, second.which) == (slice(0, 2), slice(2, 5))
    assert second.bands == ("i_2", "J", "H")
    assert joined.num_pixels == 2 * 30 * 34 + 3 * 44 * 40
    np.testing.assert_allclose(joined.zero_point, [31.4, 31.4, 30, 30, 30])


def test_psfs_are_taken_to_the_pixels_of_the_model(joined):
    # 1.8 px of 0.15 arcsec, and its pixel, are Gaussian enough to be known in any pixels.
    sigma = 0.75 * np.sqrt(1.8**2 + PIXEL)
    psfs = joined.views[1].psfs
    distance = np.arange(psfs.shape[-1]) - psfs.shape[-1] // 2
    expected = np.exp(-(distance[:, None] ** 2 + distance**2) / (2 * sigma**2))
    np.testing.assert_allclose(psfs[1], expected / expected.sum(), atol=1e-4)


render = eqx.filter_jit(lambda exposure, boxes, corner: exposure.render(boxes, corner))


def test_boxes_of_two_sizes_are_each_seen_as_by_themselves(joined):
    both = exposures(joined, boxes=(8, 12))
    sources = np.array([[13, 17], [27, 2]])
    for one in both:
        small, large = one.kernels.of_box(8), one.kernels.of_box(12)
        assert one.kernels.box >= 12 > small.shape[-2] - one.kernels.size + 1
        assert large.shape[-2] > small.shape[-2]
    for box in (8, 12):
        alone = exposures(joined, boxes=(box,))
        boxes = np.random.default_rng(0).uniform(size=(2, box, box)).astype(np.float32)
        for one, other in zip(both, alone, strict=True):
            expected = other.render_on_host(boxes, sources)
            tolerance = 1e-5 * np.abs(expected).max()
            seen = one.render_on_host(boxes, sources)
            np.testing.assert_allclose(seen, expected, atol=tolerance)
            seen = render(one, jnp.asarray(boxes), jnp.asarray(sources))
            np.testing.assert_allclose(seen, expected, atol=tolerance)
        diagonal = likelihood_diagonal_on_host(both, np.ones((2, 5)), sources, box)
        np.testing.assert_allclose(
            diagonal,
            likelihood_diagonal_on_host(alone, np.ones((2, 5)), sources, box),
            rtol=1e-4,
            atol=1e-4 * diagonal.max(),
        )
    with pytest.raises(InputError, match="boxes of 60 pixels do not fit the prepared grid"):
        both[0].kernels.of_box(60)


@pytest.mark.parametrize("on_host", [False, True])
def test_rendering_on_other_pixels(joined, on_host):
    data = exposures(joined, boxes=(16,))[1]
    center = np.array([[13.4, 17.2], [28.0, 3.0]])
    sources = place_sources(center, box=16)
    width = 1.7  # at the model's resolution
    rows, columns = np.indices((16, 16))
    place = center - np.asarray(sources.corner)
    squared = [(rows - r) ** 2 + (columns - c) ** 2 for r, c in place]
    boxes = np.exp(-np.array(squared) / (2 * width**2)) / (2 * np.pi * width**2)
    corner = np.asarray(sources.corner)
    if on_host:
        seen = data.render_on_host(boxes, corner)
    else:
        seen = np.asarray(render(data, jnp.asarray(boxes, jnp.float32), corner))
    part = joined.views[1]
    # A Gaussian through a Gaussian, less what the box's own PSF held already.
    variance = width**2 - 0.7**2 - PIXEL + part.scale**2 * (1.8**2 + PIXEL)
    for k, (row, column) in enumerate(center):
        y = part.origin[0] + part.scale * np.arange(44) - row
        x = part.origin[1] + part.scale * np.arange(40) - column
        expected = np.exp(-(y[:, None] ** 2 + x**2) / (2 * variance))
        expected *= part.scale**2 / (2 * np.pi * variance)
        error = np.linalg.norm(seen[k, 1] - expected) / np.linalg.norm(expected)
        assert error < 5e-3, k


def test_the_same_pixels_are_the_same_rendering(joined):
    data = exposures(joined, boxes=(16,))[0]
    boxes = jax.random.uniform(jax.random.key(0), (2, 16, 16))
    corner = jnp.array([[-5, 9], [20, 25]])
    plain = render(data, boxes, corner)
    same = Exposure(data.images, data.noise, data.kernels, jnp.array([0.0, 0.0, 1.0]))
    through_waves = render(same, boxes, corner)
    np.testing.assert_allclose(through_waves, plain, atol=2e-6)


def log_density_by_hand(joined, scene, values):
    """All pixels as one Gaussian per band, exposure after exposure, in NumPy."""
    group, spectra = scene["stars"], scene.spectra
    image = group.image({"offset": values["stars/offset"]}, np)
    flux = np.exp(values["brightness"])[:, None] * np.asarray(spectra.mean, float)
    relative = np.asarray(spectra.covariance, float) * float(spectra.color_width) ** 2
    total = norm.logpdf(values["stars/offset"], 0, 0.3).sum()
    floor = np.log(spectra.noise_flux) + spectra.brightness
    total += norm.logpdf(values["brightness"], floor, spectra.brightness_width).sum()
    pixels, designs, variances = [], [], []
    for view, one in zip(joined.views, scene.exposures, strict=True):
        # Nothing but the pixels of this observation.
        assert one.images.shape == view.observation.images.shape
        drawn = one.render_on_host(image, np.asarray(group.at.corner)).astype(float)
        for band in range(one.num_bands):
            weights = np.asarray(view.observation.weights)[band].ravel()
            design = np.zeros((weights.size, 2, 5))
            design[:, :, view.first + band] = drawn[:, band].reshape(2, -1).T
            pixels.append(np.asarray(view.observation.images)[band].ravel())
            designs.append(design.reshape(-1, 10))
            variances.append(1 / weights)
    pixels, design = np.concatenate(pixels).astype(float), np.concatenate(designs)
    variance = np.concatenate(variances).astype(float)
    area = image.sum((1, 2)).astype(float)[:, None]
    prior = np.zeros((10, 10))
    for k in range(2):
        own = slice(5 * k, 5 * k + 5)
        prior[own, own] = np.outer(flux[k], flux[k]) * relative / area[k] ** 2
    residual = pixels - design @ np.ravel(flux / area)
    # Woodbury: 6,000 pixels, ten amplitudes.
    weighed = design / variance[:, None]
    precision = np.linalg.inv(prior) + design.T @ weighed
    chi2 = residual**2 @ (1 / variance)
    chi2 -= weighed.T @ residual @ np.linalg.solve(precision, weighed.T @ residual)
    log_det = np.linalg.slogdet(precision)[1] + np.linalg.slogdet(prior)[1]
    return total - 0.5 * (chi2 + log_det)


def test_the_density_is_that_of_the_exposures_together(joined):
    center = np.array([[13.4, 17.2], [16.0, 15.0]])
    scene = Scene.build(joined, stars=PointSource(place_sources(center, box=15)))
    assert [one.images.shape for one in scene.exposures] == [(2, 30, 34), (3, 44, 40)]
    bound = posterior(blend, scene)
    evaluate = jax.jit(lambda bound, u: bound.log_density(u))
    rng = np.random.default_rng(5)
    found, expected = [], []
    for _ in range(3):
        values = {"stars/offset": 0.3 * rng.normal(size=(2, 2)), "brightness": rng.uniform(1, 5, 2)}
        found.append(evaluate(bound, {n: jnp.asarray(v, jnp.float32) for n, v in values.items()}))
        expected.append(log_density_by_hand(joined, scene, values))
    # Single precision of a few thousand.
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert np.ptp(expected) > 1


def test_derivatives_and_batches_on_other_pixels():
    rng = np.random.default_rng(1)
    grid = jnp.array([0.3, -0.4, 1.3])
    first = jnp.array([[1, 2], [-3, 4]])

    @jax.jit
    def total(boxes, first):
        return regrid(jnp.fft.rfft2(boxes, (12, 12))[None], grid, first, 12, (9, 8))

    boxes = jnp.asarray(rng.normal(size=(2, 6, 6)), jnp.float32)
    check_grads(lambda b: total(b, first), (boxes,), 1, modes=("fwd", "rev"), rtol=1e-2)
    several = jnp.stack([boxes, 2 * boxes])
    at = jnp.stack([first, first + 1])
    batched = jax.vmap(total)(several, at)
    np.testing.assert_allclose(batched[1], total(2 * boxes, first + 1), atol=1e-5)


def test_detection_looks_at_the_first_observation():
    images = np.random.default_rng(0).normal(size=(1, 40, 40))
    rows, columns = np.indices((40, 40))
    images[0] += 40 * np.exp(-((rows - 12) ** 2 + (columns - 25) ** 2) / 8)
    first = observation(0.2, (40, 40), 1.6, ("r",), images=images)
    second = observation(0.15, (50, 50), 1.8, ("J",))
    found = detect(join_observations(first, second))
    np.testing.assert_allclose(found.row_column, [[12, 25]], atol=0.5)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"wcs": None}, "has no WCS"),
        ({"wcs": sky(0.15, (40, 40), east=0.01)}, "does not overlap"),
        ({"wcs": sky(0.15, (40, 40), east=180.0)}, "another side of the sky|does not overlap"),
        ({"zero_point": None, "unit": "electron"}, "cannot be compared"),
    ],
)
def test_what_cannot_be_joined(second, message):
    first = observation(0.2, (30, 30), 1.6, ("r",))
    other = observation(0.15, (40, 40), 1.8, ("J",), **second)
    with pytest.raises(InputError, match=message):
        join_observations(first, other)


def test_joined_observations_are_not_joined_or_written_again(joined, tmp_path):
    with pytest.raises(InputError, match="joined already"):
        join_observations(joined, joined)
    with pytest.raises(InputError, match="no file format"):
        joined.to_fits(tmp_path / "joined.fits")
    alone = observation(0.2, (30, 30), 1.6, ("r",))
    assert join_observations(alone) is alone


def test_a_psf_too_sharp_is_said_to_be():
    first = observation(0.2, (30, 30), 1.6, ("r",))
    with pytest.warns(PSFWarning, match="sharper than pixels of the first"):
        join_observations(first, observation(0.05, (120, 120), 0.8, ("V",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        join_observations(first, observation(0.1, (60, 60), 2.2, ("J",)))
