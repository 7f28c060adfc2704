"""PSFs on pixels: known profiles, sampled more finely, off the center, or on other pixels."""

import galsim
import numpy as np
import pytest

from scorepriors._errors import InputError
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.data.psfs._checks import PSFWarning, check_psfs
from scorepriors.models.data.psfs._read import read_psf
from scorepriors.models.data.psfs._resampling import center_of, centered, on_pixels
from scorepriors.models.data.psfs._sampling import error_between_pixels, fwhm
from scorepriors.models.rendering._psf import gaussian_psf

PROFILES = {
    "gaussian": galsim.Gaussian(fwhm=3.0),
    "moffat": galsim.Moffat(beta=3.5, fwhm=3.5),
    "elliptical": galsim.Moffat(beta=3.5, fwhm=4.0).shear(g1=0.1, g2=-0.05),
    "airy": galsim.Airy(lam_over_diam=2.5, obscuration=0.2),
}


def drawn(profile, size, scale=1.0, shift=(0.0, 0.0), effective=False):
    """The light on square pixels; `effective`: samples of the profile with a pixel of 1."""
    moved = profile.shift(shift[1], shift[0])
    if effective:
        moved = galsim.Convolve(moved, galsim.Pixel(1.0))
        image = moved.drawImage(nx=size, ny=size, scale=scale, method="no_pixel", dtype=float)
        return image.array
    return moved.drawImage(nx=size, ny=size, scale=scale, dtype=float).array


def close_to(found, profile, tolerance=0.01):
    """Compare with the profile drawn on pixels: everywhere within a share of the peak."""
    truth = drawn(profile, found.shape[-1])
    truth = truth / truth.sum()
    assert np.abs(found - truth).max() < tolerance * truth.max()
    assert abs(np.abs(found - truth).sum()) < 2 * tolerance
    middle = found.shape[-1] // 2
    np.testing.assert_allclose(center_of(found), [middle, middle], atol=0.01)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("oversampling", [2, 3, 4, 5, 2.5])
@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("effective", [False, True])
def test_finer_samples_come_to_pixels(name, oversampling, parity, effective):
    profile = PROFILES[name]
    size = int(25 * oversampling) // 2 * 2 + parity
    samples = drawn(profile, size, 1 / oversampling, effective=effective)
    found = on_pixels(samples, 1 / oversampling, effective)
    assert found.shape[0] == found.shape[1]
    assert found.shape[0] % 2 == 1
    if not effective:
        assert found.sum() == pytest.approx(samples.sum(), rel=1e-4)
    close_to(found / found.sum(), profile)


@pytest.mark.parametrize("shift", [(0.3, -0.45), (1.2, 0.0), (-0.125, 0.125)])
def test_finer_samples_are_centered(shift):
    profile = PROFILES["moffat"]
    samples = drawn(profile, 101, 0.25, shift)
    close_to(on_pixels(samples, 0.25, effective=False) / samples.sum(), profile)


def test_whole_samples_are_summed_exactly():
    profile = PROFILES["airy"]
    found = on_pixels(drawn(profile, 75, 1 / 3), 1 / 3, effective=False)
    np.testing.assert_allclose(found, drawn(profile, 25), atol=2e-5 * found.max())


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(
    ("size", "shift"),
    [(24, (0, 0)), (25, (0.5, 0.5)), (25, (0.3, -0.2)), (24, (0.2, 0.1)), (25, (1.7, -1.0))],
)
def test_images_off_the_center_are_moved(name, size, shift):
    profile = PROFILES[name]
    image = drawn(profile, size, shift=shift)
    moved, offset = centered(image / image.sum())
    assert moved.shape == (25, 25)
    close_to(moved / moved.sum(), profile)
    if size == 25:
        np.testing.assert_allclose(offset, shift, atol=0.02)


def test_centered_images_are_left_as_they_are():
    image = gaussian_psf(1.5, 15, (0.003, 0.0))
    moved, offset = centered(image)
    np.testing.assert_array_equal(moved, image)
    assert np.abs(offset).max() < 0.01
    airy = drawn(PROFILES["airy"], 31, shift=(0.06, -0.04))
    once = check_psfs(airy / airy.sum(), ("r",))
    assert np.abs(center_of(once[0]) - 15).max() < 0.01
    np.testing.assert_allclose(check_psfs(once, ("r",)), once, atol=1e-8)


@pytest.mark.parametrize("corner", [(0, 0), (1, 1), (0, 1)])
def test_even_images_around_a_pixel_are_not_interpolated(corner):
    whole = gaussian_psf(1.5, 13)
    row, column = corner
    moved, offset = centered(whole[row : row + 12, column : column + 12])
    np.testing.assert_array_equal(moved[1:-1, 1:-1], whole[1:-1, 1:-1])
    assert np.abs(offset).max() < 0.01


def test_moves_are_said_with_their_size():
    psfs = [
        gaussian_psf(1.5, 15),
        gaussian_psf(1.5, 15, (0.3, 0.0)),
        gaussian_psf(1.5, 14, (-0.5, -0.5)),
    ]
    with pytest.warns(
        PSFWarning, match=r"moved there .*: r \(\+0\.30, \+0\.00\), i \(-0\.50, -0\.50\)"
    ):
        found = check_psfs(psfs, ("g", "r", "i"))
    for image in found:
        np.testing.assert_allclose(image, found[0], atol=0.01 * found[0].max())


def observe(psfs, **options):
    return Observation.from_arrays(
        np.ones((len(options["bands"]), 9, 9)),
        weights=np.ones((len(options["bands"]), 9, 9)),
        psfs=psfs,
        **options,
    )


def test_lists_of_different_sizes():
    sizes = (15, 21, 18)
    images = [gaussian_psf(1.5, size, (0, 0) if size % 2 else (-0.5, -0.5)) for size in sizes]
    with pytest.warns(PSFWarning, match="were not centered"):
        obs = observe(images, bands=("g", "r", "i"))
    assert obs.psfs.shape == (3, 21, 21)
    np.testing.assert_allclose(obs.psfs[2], obs.psfs[1], atol=0.002)
    nested = observe([image.tolist() for image in images[:2]], bands=("g", "r"))
    np.testing.assert_allclose(nested.psfs[0], nested.psfs[1], atol=1e-5)


def test_a_dictionary_by_band():
    images = {"r": gaussian_psf(2.0, 15), "g": gaussian_psf(1.5, 13), "z": np.ones((3, 3))}
    obs = observe(images, bands=("g", "r"))
    np.testing.assert_allclose(obs.psfs[1], images["r"] / images["r"].sum(), atol=1e-6)
    with pytest.raises(InputError, match=r"no PSF for the band\(s\) i; the dictionary has r, g, z"):
        observe(images, bands=("g", "i"))


def test_oversampling_is_taken_from_the_user():
    samples = drawn(PROFILES["moffat"], 101, 0.25)
    obs = observe(samples, bands=("r",), psf_oversampling=4)
    close_to(obs.psfs[0], PROFILES["moffat"])
    close_to(read_psf(samples, bands=("r",), oversampling=4)[0], PROFILES["moffat"])
    for bad in (0, -1, np.nan, "many"):
        with pytest.raises(InputError, match=r"psf_oversampling is .* give the samples per pixel"):
            observe(samples, bands=("r",), psf_oversampling=bad)
    with pytest.raises(InputError, match=r"one sample in 10 pixels of the image, which is no PSF"):
        observe(samples, bands=("r",), psf_oversampling=0.1)
    with pytest.raises(InputError, match=r"covers 2.5 pixels of the image, with 40 samples per"):
        observe(samples, bands=("r",), psf_oversampling=40)


def test_effective_psfs_are_known_by_their_sum():
    samples = drawn(PROFILES["moffat"], 101, 0.25, effective=True)
    with pytest.warns(FileWarning, match=r"psfs sums to 16, as an effective PSF of 4 samples per"):
        obs = observe(samples / samples.sum() * 16, bands=("r",), psf_oversampling=4)
    close_to(obs.psfs[0], PROFILES["moffat"])


def test_a_psf_too_wide_for_its_pixels_is_said_to_be():
    samples = drawn(PROFILES["moffat"], 101, 0.25)
    with pytest.warns(
        PSFWarning,
        match=r"band 'r' \(14 pixels, 2.8 arcsec\) is unusually wide.*psf_oversampling=N",
    ):
        observe(samples, bands=("r",), scale=0.2)


@pytest.mark.parametrize("width", [1.6, 2.5, 4.0, 10.0, 25.0])
def test_widths_are_those_of_the_profile(width):
    profile = galsim.Convolve(galsim.Gaussian(fwhm=width), galsim.Pixel(1.0))
    assert fwhm(drawn(galsim.Gaussian(fwhm=width), 91)) == pytest.approx(
        profile.calculateFWHM(), rel=0.05
    )


def test_undersampling_is_said_with_its_effect():
    flux, misfit = error_between_pixels(1.4)
    assert flux == pytest.approx(-0.053, abs=0.005)
    assert misfit == pytest.approx(0.096, abs=0.01)
    assert max(np.abs(error_between_pixels(3.0))) < 0.005
    with pytest.warns(
        PSFWarning, match=r"FWHM of less than two pixels.* misplaced, .* flux by -\d"
    ):
        observe(gaussian_psf(0.45, 15), bands=("r",))


@pytest.mark.parametrize("scale", [0.1, 0.3])
def test_scales_in_cards_are_compared(tmp_path, scale):
    from astropy.io import fits

    profile = galsim.Moffat(beta=3.5, fwhm=0.8)
    size = int(8 / scale) | 1
    header = fits.Header({"PIXSCALE": scale})
    fits.PrimaryHDU(drawn(profile, size, scale), header).writeto(tmp_path / "p.fits")
    how = "summed over" if scale < 0.2 else "interpolated to"
    with pytest.warns(
        FileWarning,
        match=rf"samples of {scale} arcsec and the image pixels of 0.2: they were {how}",
    ):
        found = read_psf(tmp_path / "p.fits", bands=("r",), pixel_scale=0.2)[0]
    if scale < 0.2:
        close_to(found, profile.dilate(5))
    same = read_psf(tmp_path / "p.fits", bands=("r",), pixel_scale=scale * 1.003)[0]
    assert same.shape == (size, size)
    with pytest.warns(FileWarning, match="no pixel scale to compare with"):
        read_psf(tmp_path / "p.fits", bands=("r",))
