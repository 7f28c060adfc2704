"""Shapes of real galaxies: kept as they are, but for turns, mirrors, centres and sizes."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from scorepriors import InputError
from scorepriors.models.blend_sets import SIZE_SLOPE, BlendSet, simulate_set, write_set
from scorepriors.models.real_galaxies import RealGalaxies
from scorepriors.models.simulation import draw, image_middle, model_psf

#: Arcseconds per pixel of the telescope in space, and the width of its PSF.
SPACE, SEEING = 0.03, 0.1


@pytest.fixture(scope="module")
def galsim():
    return pytest.importorskip("galsim")


def profile(galsim):
    """A disk whose image is not in the middle of its cutout."""
    return galsim.Exponential(half_light_radius=0.5).shear(e1=0.4).shift(0.09, -0.06)


def write_catalogue(galsim, folder, magnitudes):
    """Files as GalSim wants them: the same disk for each magnitude."""
    seen = galsim.Convolve(profile(galsim), galsim.Gaussian(fwhm=SEEING))
    galaxy = seen.drawImage(nx=150, ny=150, scale=SPACE).array
    psf = galsim.Gaussian(fwhm=SEEING).drawImage(nx=41, ny=41, scale=SPACE).array
    count = len(magnitudes)
    for name, image in (("galaxies.fits", galaxy), ("psfs.fits", psf)):
        units = [fits.PrimaryHDU(image), *(fits.ImageHDU(image) for _ in range(count - 1))]
        fits.HDUList(units).writeto(folder / name)
    white = np.zeros((21, 21))
    white[10, 10] = 1
    fits.writeto(folder / "noise.fits", white)
    Table(
        {
            "IDENT": np.arange(count), "MAG": np.asarray(magnitudes, float),
            "BAND": ["F814W"] * count, "WEIGHT": np.ones(count),
            "GAL_FILENAME": ["galaxies.fits"] * count, "PSF_FILENAME": ["psfs.fits"] * count,
            "GAL_HDU": np.arange(count), "PSF_HDU": np.arange(count),
            "PIXEL_SCALE": np.full(count, SPACE), "NOISE_MEAN": np.zeros(count),
            "NOISE_VARIANCE": np.full(count, 1e-12), "NOISE_FILENAME": ["noise.fits"] * count,
            "stamp_flux": np.full(count, galaxy.sum()),
        }
    ).write(folder / "catalogue.fits")  # fmt: skip
    return folder / "catalogue.fits"


@pytest.fixture(scope="module")
def catalogue(galsim, tmp_path_factory):
    return write_catalogue(galsim, tmp_path_factory.mktemp("real"), [22.0, 23.0, 25.0])


def moments(galsim, shape):
    image = galsim.Convolve(shape, model_psf(galsim, 0.2)).drawImage(nx=64, ny=64, scale=0.1)
    found = image.FindAdaptiveMom()
    offset = found.moments_centroid - image.true_center
    ellipticity = np.hypot(found.observed_shape.e1, found.observed_shape.e2)
    return image.array.sum(), np.hypot(offset.x, offset.y), found.moments_sigma, ellipticity


def test_shapes_are_those_of_the_images_centred(galsim, catalogue):
    galaxies = RealGalaxies(catalogue, scale=0.2)
    np.testing.assert_array_equal(galaxies.magnitudes, [22.0, 23.0])  # the third is too faint
    rng = np.random.default_rng(0)
    # At the magnitude that galaxies have nothing is dilated, whichever of the two it is.
    galaxies.magnitudes = np.full(2, 22.5)
    flux, _, width, ellipticity = moments(galsim, profile(galsim))
    for _ in range(4):
        found = moments(galsim, galaxies.draw(rng, 22.5, SIZE_SLOPE))
        assert found[0] == pytest.approx(flux, rel=0.01)
        assert found[1] < 0.02
        assert found[2] == pytest.approx(width, rel=0.01)
        assert found[3] == pytest.approx(ellipticity, rel=0.02)


def test_sizes_follow_the_magnitude(galsim, catalogue):
    galaxies = RealGalaxies(catalogue, scale=0.2, faintest=22.5)
    drawn = galaxies.draw(np.random.default_rng(0), 25.0, SIZE_SLOPE)
    smaller = profile(galsim).shift(-0.09, 0.06).dilate(10**-0.3)
    assert moments(galsim, drawn)[2] == pytest.approx(moments(galsim, smaller)[2], rel=0.01)


def test_turned_and_mirrored(galsim, catalogue):
    galaxies = RealGalaxies(catalogue, scale=0.2)
    rng, sharp = np.random.default_rng(1), [model_psf(galsim, 0.2)]
    center = image_middle((32, 32))
    images = [
        draw(galsim, galaxies.draw(rng, 22.0, SIZE_SLOPE), center, sharp, (32, 32), 0.2)[0]
        for _ in range(3)
    ]
    for i in range(3):
        assert abs(images[i] - images[i - 1]).max() > 0.02 * images[i].max()


def test_a_set_of_real_galaxies(galsim, catalogue, tmp_path):
    two = simulate_set("lsst", 2, seed=3, sources=(2, 3), galaxies=catalogue)
    one = simulate_set("lsst", 1, seed=3, sources=(2, 3), galaxies=catalogue)
    np.testing.assert_array_equal(one["images"][0], two["images"][0])
    blends = BlendSet(write_set(tmp_path / "real.npz", two))
    assert blends.meta["galaxies"] == "catalogue.fits"
    assert np.all(two["snr"] >= 5)
    np.testing.assert_allclose(two["conv"].sum((2, 3)), two["flux_stamp"], rtol=1e-4)
    plain = simulate_set("lsst", 1, seed=3, sources=(2, 3))
    assert plain["images"].shape == one["images"].shape
    assert abs(plain["images"] - one["images"]).max() > 0


def test_mistakes_are_named(galsim, catalogue, tmp_path):
    with pytest.raises(InputError, match=r"no catalogue of real galaxies '.*nowhere.fits'"):
        RealGalaxies(tmp_path / "nowhere.fits", scale=0.2)
    with pytest.raises(InputError, match="no galaxy brighter than magnitude 20"):
        RealGalaxies(catalogue, scale=0.2, faintest=20.0)
    text = tmp_path / "text.fits"
    text.write_text("no table")
    with pytest.raises(InputError, match=r"text.fits is no catalogue of real galaxies"):
        RealGalaxies(text, scale=0.2)
    Table({"MAG": [22.0]}).write(tmp_path / "other.fits")
    with pytest.raises(InputError, match=r"other.fits .*(no catalogue|cannot be read)"):
        RealGalaxies(tmp_path / "other.fits", scale=0.2)
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "catalogue.fits"
    alone.write_bytes(catalogue.read_bytes())
    with pytest.raises(InputError, match="names images that cannot be read"):
        RealGalaxies(alone, scale=0.2)
