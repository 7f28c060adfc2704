"""Shapes of real galaxies: unchanged except for rotation, reflection, center and size."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from scorepriors import InputError
from scorepriors.models.simulation._blend_sets import SIZE_SLOPE, BlendSet, simulate_set, write_set
from scorepriors.models.simulation._real_galaxies import RealGalaxies
from scorepriors.models.simulation._simulation import model_psf

#: Arcseconds per pixel of the telescope in space, and the width of its PSF.
SPACE, SEEING = 0.03, 0.1


@pytest.fixture(scope="module")
def galsim():
    return pytest.importorskip("galsim")


def profile(galsim):
    """A disk whose image is not in the middle of its cutout."""
    return galsim.Exponential(half_light_radius=0.5).shear(e1=0.4).shift(0.09, -0.06)


def write_catalog(galsim, folder, magnitudes, shape=None, **changes):
    """Files as GalSim wants them: the same galaxy for each magnitude."""
    shape = profile(galsim) if shape is None else shape
    seen = galsim.Convolve(shape, galsim.Gaussian(fwhm=SEEING))
    galaxy = seen.drawImage(nx=150, ny=150, scale=SPACE).array
    psf = galsim.Gaussian(fwhm=SEEING).drawImage(nx=41, ny=41, scale=SPACE).array
    count = len(magnitudes)
    for name, image in (("galaxies.fits", galaxy), ("psfs.fits", psf)):
        units = [fits.PrimaryHDU(image), *(fits.ImageHDU(image) for _ in range(count - 1))]
        fits.HDUList(units).writeto(folder / name)
    white = np.zeros((21, 21))
    white[10, 10] = 1
    fits.writeto(folder / "noise.fits", white)
    columns = {
        "IDENT": np.arange(count),
        "MAG": np.asarray(magnitudes, float),
        "BAND": ["F814W"] * count,
        "WEIGHT": np.ones(count),
        "GAL_FILENAME": ["galaxies.fits"] * count,
        "PSF_FILENAME": ["psfs.fits"] * count,
        "GAL_HDU": np.arange(count),
        "PSF_HDU": np.arange(count),
        "PIXEL_SCALE": np.full(count, SPACE),
        "NOISE_MEAN": np.zeros(count),
        "NOISE_VARIANCE": np.full(count, 1e-12),
        "NOISE_FILENAME": ["noise.fits"] * count,
        "stamp_flux": np.full(count, galaxy.sum()),
    }
    Table(columns | changes).write(folder / "catalog.fits")
    return folder / "catalog.fits"


@pytest.fixture(scope="module")
def catalog(galsim, tmp_path_factory):
    return write_catalog(galsim, tmp_path_factory.mktemp("real"), [22.0, 23.0, 25.0])


def through(galsim, shape):
    return galsim.Convolve(shape, model_psf(galsim, 0.2)).drawImage(nx=64, ny=64, scale=0.1)


def moments(galsim, shape):
    image = through(galsim, shape)
    found = image.FindAdaptiveMom()
    offset = found.moments_centroid - image.true_center
    ellipticity = np.hypot(found.observed_shape.e1, found.observed_shape.e2)
    return image.array.sum(), np.hypot(offset.x, offset.y), found.moments_sigma, ellipticity


def drawn(galsim, galaxies, rng, magnitude):
    return galaxies.draw(rng, magnitude, SIZE_SLOPE, model_psf(galsim, 0.2), 0.2)


def test_shapes_are_those_of_the_images_centered(galsim, catalog):
    galaxies = RealGalaxies(catalog)
    assert len(galaxies) == 2  # the third is too faint
    np.testing.assert_array_equal(galaxies.magnitudes, [22.0, 23.0])
    rng = np.random.default_rng(0)
    # At the magnitude that galaxies have nothing is dilated, whichever of the two it is.
    galaxies.magnitudes = np.full(2, 22.5)
    flux, _, width, ellipticity = moments(galsim, profile(galsim))
    for _ in range(4):
        found = moments(galsim, drawn(galsim, galaxies, rng, 22.5))
        assert found[0] == pytest.approx(flux, rel=0.01)
        assert found[1] < 0.02
        assert found[2] == pytest.approx(width, rel=0.01)
        assert found[3] == pytest.approx(ellipticity, rel=0.02)


@pytest.mark.parametrize("magnitude", [18.0, 25.0])
def test_sizes_follow_the_magnitude_and_centers_do_not(galsim, catalog, magnitude):
    galaxies = RealGalaxies(catalog, faintest=22.5)
    found = moments(galsim, drawn(galsim, galaxies, np.random.default_rng(0), magnitude))
    other = profile(galsim).shift(-0.09, 0.06).dilate(10 ** (-0.1 * (magnitude - 22)))
    assert found[2] == pytest.approx(moments(galsim, other)[2], rel=0.01)
    assert found[1] < 0.02


def test_turned_and_mirrored(galsim, tmp_path):
    """Three blobs of different brightness go round clockwise, or the other way."""
    blobs = ((1.0, 0.4, 0.0), (0.7, -0.2, 0.35), (0.4, -0.2, -0.35))
    shape = galsim.Sum([galsim.Gaussian(sigma=0.15, flux=f).shift(x, y) for f, x, y in blobs])
    galaxies = RealGalaxies(write_catalog(galsim, tmp_path, [22.0], shape))
    rng = np.random.default_rng(1)
    row, column = np.mgrid[:64, :64]
    hands, angles = set(), []
    for _ in range(8):
        image = through(galsim, drawn(galsim, galaxies, rng, 22.0)).array
        peaks = []
        for _ in range(3):
            at = np.unravel_index(image.argmax(), image.shape)
            peaks.append(np.array(at, float))
            image = np.where(np.hypot(row - at[0], column - at[1]) < 3, 0, image)
        (ay, ax), (by, bx) = peaks[1] - peaks[0], peaks[2] - peaks[0]
        hands.add(ax * by - ay * bx > 0)
        angles.append(np.arctan2(ay, ax))
    assert hands == {True, False}
    assert np.ptp(angles) > 1


def test_a_set_of_real_galaxies(galsim, catalog, tmp_path):
    two = simulate_set("lsst", 2, seed=3, sources=(2, 3), galaxies=catalog)
    one = simulate_set("lsst", 1, seed=3, sources=(2, 3), galaxies=catalog)
    np.testing.assert_array_equal(one["images"][0], two["images"][0])
    blends = BlendSet(write_set(tmp_path / "real.npz", two))
    assert blends.meta["galaxies"] == "catalog.fits"
    assert len(blends.meta["galaxies_sha256"]) == 64
    assert np.all(two["snr"] >= 5)
    np.testing.assert_allclose(two["conv"].sum((2, 3)), two["flux_stamp"], rtol=1e-4)
    plain = simulate_set("lsst", 1, seed=3, sources=(2, 3))
    assert plain["images"].shape == one["images"].shape
    assert abs(plain["images"] - one["images"]).max() > 0


def test_a_relative_path_is_one(galsim, catalog, monkeypatch):
    monkeypatch.chdir(catalog.parent.parent)
    galaxies = RealGalaxies(catalog.relative_to(catalog.parent.parent))
    drawn(galsim, galaxies, np.random.default_rng(0), 22.0)


@pytest.mark.parametrize("failures", [1, 200])
def test_a_galaxy_without_a_center_is_passed_over(galsim, catalog, monkeypatch, failures):
    measured, tries = galsim.Image.FindAdaptiveMom, []

    def sometimes(image, **options):
        tries.append(image)
        if len(tries) <= failures:
            raise galsim.GalSimHSMError("too many iterations")
        return measured(image, **options)

    monkeypatch.setattr(galsim.Image, "FindAdaptiveMom", sometimes)
    galaxies, rng = RealGalaxies(catalog), np.random.default_rng(0)
    if failures == 1:
        drawn(galsim, galaxies, rng, 22.0)
        assert len(tries) == 2
    else:
        with pytest.raises(InputError, match=r"none of 100 galaxies drawn from catalog.fits"):
            drawn(galsim, galaxies, rng, 22.0)


def test_mistakes_of_files_are_named(galsim, catalog, tmp_path):
    with pytest.raises(InputError, match=r"no catalog of real galaxies '.*nowhere.fits'"):
        RealGalaxies(tmp_path / "nowhere.fits")
    with pytest.raises(InputError, match="is a folder"):
        RealGalaxies(tmp_path)
    with pytest.raises(InputError, match="no galaxy brighter than magnitude 20"):
        RealGalaxies(catalog, faintest=20.0)
    text = tmp_path / "text.fits"
    text.write_text("no table")
    with pytest.raises(InputError, match=r"text.fits is no FITS table"):
        RealGalaxies(text)
    fits.writeto(tmp_path / "image.fits", np.zeros((4, 4)))
    with pytest.raises(InputError, match=r"image.fits is no FITS table"):
        RealGalaxies(tmp_path / "image.fits")
    Table({"MAG": [22.0], "IDENT": [1]}).write(tmp_path / "other.fits")
    with pytest.raises(InputError, match=r"other.fits .* lacks GAL_FILENAME, GAL_HDU"):
        RealGalaxies(tmp_path / "other.fits")
    (tmp_path / "alone").mkdir()
    alone = tmp_path / "alone" / "catalog.fits"
    alone.write_bytes(catalog.read_bytes())
    with pytest.raises(InputError, match=r"names a file 'galaxies.fits' that is not beside it"):
        RealGalaxies(alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MAG": ["bright"]}, "the column MAG holds no numbers"),
        ({"GAL_HDU": [7]}, r"galaxy 0 of catalog.fits cannot be read \("),
        ({"PSF_HDU": [-9]}, r"galaxy 0 of catalog.fits cannot be read \("),
        ({"PIXEL_SCALE": [0.0]}, r"galaxy 0 of catalog.fits cannot be read \("),
        ({"PIXEL_SCALE": [np.nan]}, r"galaxy 0 of catalog.fits cannot be read \("),
        ({"NOISE_VARIANCE": [-1.0]}, r"galaxy 0 of catalog.fits cannot be read \("),
    ],
)
def test_mistakes_in_the_table_are_named(galsim, tmp_path, changes, message):
    path = write_catalog(galsim, tmp_path, [22.0], **changes)
    with pytest.raises(InputError, match=message):
        drawn(galsim, RealGalaxies(path), np.random.default_rng(0), 22.0)
