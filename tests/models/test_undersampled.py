"""Second observations whose pixels undersample their PSF, or oversample it, against GalSim; and TPV."""

import dataclasses
import warnings

import galsim
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from turned_sky import north_east, sky, slope_of

from scorepriors import InputError
from scorepriors.models import Observation, exposures, join_observations, place_sources
from scorepriors.models.data.psfs._checks import PSFWarning
from scorepriors.models.rendering._psf import gaussian_psf

#: Side of the model's pixels, arcsec, and the shape of the first observation.
SIDE, SHAPE = 0.2, (44, 44)

PLACES = np.array([[21.4, 23.2], [14.7, 30.1], [25.9, 17.6]])
ACCURATE = galsim.GSParams(folding_threshold=1e-4, kvalue_accuracy=1e-6, maxk_threshold=1e-5)
GALAXY = galsim.Exponential(half_light_radius=0.35, gsparams=ACCURATE).shear(g1=0.2, g2=-0.1)
#: Full width at half maximum of the second PSF, arcseconds; of pixels between .1 and .6 arcseconds.
PSF = galsim.Gaussian(fwhm=0.5, gsparams=ACCURATE)


def observation(wcs, shape, bands):
    """Noise of one, with a Gaussian PSF."""
    images = np.random.default_rng(3).normal(size=(len(bands), *shape))
    options = {"variance": np.ones_like(images), "psfs": gaussian_psf(2.0, 25), "bands": bands}
    return Observation.from_arrays(images, wcs=wcs, zero_point=31.4, name="other", **options)


def drawn(light, wcs, shape, pixel):
    """Light about a pixel (row, column) under the local linear map of a WCS, by GalSim."""
    down, right = slope_of(wcs, pixel).T
    # GalSim's u is west to keep the parity of an image with north up; here it is east.
    local = galsim.AffineTransform(right[1], down[1], right[0], down[0])
    image = galsim.ImageD(shape[1], shape[0])
    image.wcs = local
    center = galsim.PositionD(pixel[1] + 1, pixel[0] + 1)
    return light.drawImage(image=image, center=center).array


def second(scale, turn, shape, *, oversampling):
    """A second observation with samples of its PSF, so many per pixel."""
    wcs = sky(SIDE * scale, shape, turn)
    step = SIDE * scale / oversampling
    # Samples are the light on squares of their own; the PSF is round, in the frame of any pixels.
    side = 2 * int(1.6 / step) + 1
    samples = PSF.drawImage(nx=side, ny=side, scale=step)
    options = {"psf_oversampling": oversampling} if oversampling > 1 else {}
    images = np.random.default_rng(0).normal(size=(1, *shape))
    return Observation.from_arrays(
        images,
        variance=np.ones_like(images),
        psfs=samples.array,
        bands=("J",),
        wcs=wcs,
        zero_point=31.4,
        **options,
    )


def boxes(light, at, box=41):
    """Images at the model's resolution, in boxes of the first observation."""
    model = galsim.Convolve(light, galsim.Gaussian(sigma=0.7 * SIDE), gsparams=ACCURATE)
    corner = np.asarray(at.corner)
    wcs = sky(SIDE, SHAPE)
    return np.stack(
        [drawn_in_box(model, wcs, place, c, box) for place, c in zip(PLACES, corner, strict=True)]
    )


def drawn_in_box(light, wcs, place, corner, box):
    steps = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    ends = north_east(wcs, np.asarray(place) + steps)
    down, right = ends[0] - ends[1], ends[2] - ends[3]
    image = galsim.ImageD(box, box)
    image.wcs = galsim.AffineTransform(right[1], down[1], right[0], down[0])
    row, column = place - corner
    return light.drawImage(image=image, center=galsim.PositionD(column + 1, row + 1)).array


def errors(other, light):
    """Return errors of fluxes by matched filters, and of images, against GalSim's own."""
    first = observation(sky(SIDE, SHAPE), SHAPE, ("r",))
    joined = join_observations(first, other)
    view, data = joined.views[1], exposures(joined, boxes=(41,))[1]
    at = place_sources(PLACES, box=41)
    seen = data.render_on_host(boxes(light, at), np.asarray(at.corner))[:, 0]
    found = []
    for image, place in zip(seen, PLACES, strict=True):
        wcs = view.observation.wcs
        column, row = wcs.world_to_pixel(joined.wcs.pixel_to_world(place[1], place[0]))
        true = drawn(
            galsim.Convolve(light, PSF, gsparams=ACCURATE),
            wcs,
            view.observation.shape,
            (row, column),
        )
        found.append((image * true).sum() / (image**2).sum() - 1)
    return np.abs(found)


@pytest.mark.filterwarnings("ignore::scorepriors.models.PSFWarning")
@pytest.mark.parametrize("turn", [0.0, 33.0])
@pytest.mark.parametrize("scale", [0.5, 1.5, 3.0])
def test_fine_samples_make_joint_fits_exact_for_pixels_of_any_side(scale, turn):
    shape = (round(44 / scale),) * 2
    other = second(scale, turn, shape, oversampling=5)
    assert other.fine_psfs is not None
    assert errors(other, GALAXY).max() < 1e-3


@pytest.mark.filterwarnings("ignore::scorepriors.models.PSFWarning")
def test_without_them_large_pixels_are_wrong_and_a_warning_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("error", PSFWarning)
        with pytest.raises(PSFWarning, match="does not determine it between pixels"):
            second(3.0, 0.0, (15, 15), oversampling=1)
    other = second(3.0, 0.0, (15, 15), oversampling=1)
    assert other.fine_psfs is None
    assert errors(other, GALAXY).max() > 3e-3


def test_other_psfs_do_not_keep_the_fine_ones():
    other = second(1.0, 0.0, (21, 21), oversampling=4)
    sharp = np.zeros((1, 5, 5))
    sharp[0, 2, 2] = 1
    with pytest.raises(InputError, match="give fine_psfs=None with other PSFs"):
        dataclasses.replace(other, psfs=sharp)
    assert dataclasses.replace(other, psfs=sharp, fine_psfs=None).fine_psfs is None


def test_tpv():
    """The distortion of TPV is that of the same SIP polynomial."""
    sip = sky(SIDE, (40, 40), 20.0, bend=2e-5)
    header = fits.Header()
    cd = sip.wcs.cd
    header["CTYPE1"], header["CTYPE2"] = "RA---TPV", "DEC--TPV"
    for axis in (1, 2):
        header[f"CRPIX{axis}"], header[f"CRVAL{axis}"] = (
            sip.wcs.crpix[axis - 1],
            sip.wcs.crval[axis - 1],
        )
        for other in (1, 2):
            header[f"CD{axis}_{other}"] = cd[axis - 1, other - 1]
    # SIP bends pixels u, v before the matrix; TPV bends what comes out of it, in degrees.
    back = np.linalg.inv(cd)
    quadratic = [
        np.array([[c[2, 0], c[1, 1] / 2], [c[1, 1] / 2, c[0, 2]]]) for c in (sip.sip.a, sip.sip.b)
    ]
    for axis in (0, 1):
        form = sum(cd[axis, k] * back.T @ quadratic[k] @ back for k in (0, 1))
        # Of the second axis x and y are exchanged.
        one, two = (0, 1) if axis == 0 else (1, 0)
        values = {1: 1.0, 4: form[one, one], 5: form[0, 1] + form[1, 0], 6: form[two, two]}
        for number, value in values.items():
            header[f"PV{axis + 1}_{number}"] = float(value)
    tpv = WCS(header)
    pixels = np.random.default_rng(0).uniform(0, 40, (20, 2))
    np.testing.assert_allclose(
        north_east(tpv, pixels), north_east(sip, pixels), atol=2e-5, rtol=1e-5
    )
    first = observation(sky(SIDE, SHAPE), SHAPE, ("r",))
    found = [
        exposures(join_observations(first, observation(w, (40, 40), ("J",))), boxes=(35,))[1]
        for w in (sip, tpv)
    ]
    at = place_sources(PLACES, box=35)
    image = np.random.default_rng(1).uniform(size=(3, 35, 35))
    one, two = (e.render_on_host(image, np.asarray(at.corner)) for e in found)
    np.testing.assert_allclose(two, one, atol=2e-3 * one.max())
