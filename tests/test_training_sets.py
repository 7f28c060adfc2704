"""Images to train on: simulated populations and the user's own files."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from scorepriors import InputError
from scorepriors.training._sets import (
    STRUCTURED,
    _bulge_disk_lumps,
    iter_simulated,
    peak_normalize,
    read_images,
    simulate,
)

POPULATIONS = ["lsst", "lsst-irregular", "lsst-large", "hsc", "ztf"]


@pytest.fixture
def galsim():
    return pytest.importorskip("galsim")


@pytest.mark.parametrize("name", POPULATIONS)
def test_simulated_galaxies_are_centered_with_a_peak_of_one(galsim, name):
    images = simulate(name, 12, box=32, seed=3)
    assert (images.shape, images.dtype) == ((12, 32, 32), np.float32)
    np.testing.assert_allclose(images.max((1, 2)), 1)
    peaks = [np.unravel_index(image.argmax(), image.shape) for image in images]
    assert all(pixel in (15, 16) for peak in peaks for pixel in peak)
    assert len({image.tobytes() for image in images}) == 12


@pytest.mark.parametrize("name", [*POPULATIONS, *STRUCTURED])
def test_an_image_depends_on_the_seed_and_its_number_only(galsim, name):
    images = simulate(name, 9, box=16, seed=3)
    np.testing.assert_array_equal(simulate(name, 2, box=16, seed=3), images[:2])
    alone = list(iter_simulated(name, [8, 3, 1], box=16, seed=3))
    np.testing.assert_array_equal(alone, images[[8, 3, 1]])
    assert (simulate(name, 9, box=16, seed=4) != images).any((1, 2)).all()


def test_three_of_ten_galaxies_are_irregular(galsim):
    images = simulate("lsst-irregular", 120, box=32, seed=1)
    irregular = np.arange(120) % 10 >= 7
    smooth = simulate("lsst", 120, box=32, seed=1)
    np.testing.assert_array_equal(images[~irregular], smooth[~irregular])
    for image in images[irregular]:
        # Where a catalog would put it, up to the shift every galaxy has.
        center = galsim.Image(image, xmin=0, ymin=0).FindAdaptiveMom().moments_centroid
        assert max(abs(center.x - 15.5), abs(center.y - 15.5)) < 0.7
    # A bulge and a disk with one center are their own mirror image in it, up to pixels.
    asymmetry = np.array([_asymmetry(galsim, image) for image in images])
    parts = (asymmetry[irregular], asymmetry[~irregular])
    upper, upper_smooth = (np.percentile(part, 75) for part in parts)
    assert upper > 1.5 * upper_smooth


def test_what_makes_irregular_galaxies_irregular(galsim):
    rng = np.random.default_rng(5)
    parts = [_parts(_bulge_disk_lumps(galsim, rng), galsim) for _ in range(200)]
    disks = [p[galsim.Sersic][0] for p in parts]
    assert {disk.n for disk, _ in disks} == {0.5, 1.0, 1.5}
    bulges = [
        (p[galsim.Sersic][1], p[galsim.Sersic][0]) for p in parts if len(p[galsim.Sersic]) > 1
    ]
    assert 0.35 < len(bulges) / len(parts) < 0.65
    assert {bulge.n for (bulge, _), _ in bulges} == set(np.arange(2, 11) / 2)
    # Six per cent of the radius on either axis; the shear of the disk leaves its center.
    off = [np.hypot(*at) / disk.half_light_radius for (_, at), (disk, _) in bulges]
    assert 0.04 < np.sqrt(np.mean(np.square(off)) / 2) < 0.08
    lumpy = [p for p in parts if galsim.Gaussian in p]
    assert 0.4 < len(lumpy) / len(parts) < 0.6
    for p in lumpy:
        disk, lumps = p[galsim.Sersic][0][0], p[galsim.Gaussian]
        assert 1 <= len(lumps) <= 5
        light = sum(lump.flux for lump, _ in lumps)
        assert 0.05 <= light / (light + disk.flux) <= 0.3
        # The disk is seen from the side, which brings them nearer and changes no area.
        furthest = max(np.hypot(*at) for _, at in lumps)
        assert furthest <= 1.5 * disk.half_light_radius / np.sqrt(0.2) + 1e-9


def _parts(profile, galsim):
    """Profiles of a galaxy without shear, and where their centers are, by class."""
    found = {}

    def visit(one, shift, jacobian):
        if isinstance(one, galsim.Sum):
            for part in one.obj_list:
                visit(part, shift, jacobian)
        elif isinstance(one, galsim.Transformation):
            offset = jacobian @ np.array([one.offset.x, one.offset.y])
            visit(one.original, shift + offset, jacobian @ np.array(one.jac).reshape(2, 2))
        else:
            found.setdefault(type(one), []).append((one, tuple(shift)))

    visit(profile, np.zeros(2), np.eye(2))
    return found


def _asymmetry(galsim, image):
    """Share of the light that a turn by 180 degrees about the adaptive center moves."""
    image = galsim.Image(image, xmin=0, ymin=0)
    center = image.FindAdaptiveMom().moments_centroid - image.true_center
    profile = galsim.InterpolatedImage(image, scale=1).shift(-center)
    turned = profile.rotate(180 * galsim.degrees)
    a, b = (p.drawImage(nx=24, ny=24, scale=1, method="no_pixel").array for p in (profile, turned))
    return np.abs(a - b).sum() / np.abs(a).sum()


def test_unknown_populations_name_the_known_ones(galsim):
    with pytest.raises(
        InputError,
        match="unknown training set 'hst'; built in are euclid, euclid-large, hsc, lsst, lsst-irr",
    ):
        simulate("hst", 1)


def test_negative_seeds_are_refused(galsim):
    with pytest.raises(InputError, match="`seed` must not be negative, got -1"):
        simulate("lsst", 1, seed=-1)


def test_peaks_are_scaled_and_empty_images_refused():
    images = np.stack([np.eye(3) * 5, np.eye(3) / 7])
    np.testing.assert_allclose(peak_normalize(images), [np.eye(3)] * 2)
    images[1] = -1
    with pytest.raises(InputError, match="training image 1 has no positive pixel; remove the 1"):
        peak_normalize(images)


@pytest.fixture
def stack():
    return np.random.default_rng(0).uniform(0.1, 1, (5, 12, 12)).astype(np.float32)


def test_folders_are_read_in_the_order_of_names(tmp_path, stack):
    np.savez(tmp_path / "b.npz", stack[3:])
    fits.writeto(tmp_path / "a.fits", stack[:2])
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(stack[2])]).writeto(tmp_path / "a2.fits.gz")
    np.save(tmp_path / "ignored.npy", np.ones((4, 4)))
    (tmp_path / "notes.txt").write_text("not an image")
    images = read_images(tmp_path)
    assert (images.shape, images.dtype) == ((5, 12, 12), np.float32)
    np.testing.assert_allclose(images, stack / stack.max((1, 2), keepdims=True), rtol=1e-6)
    # The central pixels of each, scaled to their own peak.
    middle = stack[:, 2:10, 2:10]
    expected = middle / middle.max((1, 2), keepdims=True)
    np.testing.assert_allclose(read_images(tmp_path, box=8), expected, rtol=1e-6)


def test_single_files_are_read(tmp_path, stack):
    np.savez(tmp_path / "a.npz", images=stack, names=np.asarray(["x"] * 5), one=stack[0])
    assert read_images(tmp_path / "a.npz").shape == (6, 12, 12)
    (tmp_path / "a.npz").rename(tmp_path / "A.NPZ")
    assert read_images(tmp_path / "A.NPZ").shape == (6, 12, 12)


def test_folders_without_images(tmp_path):
    with pytest.raises(InputError, match="the path does not exist"):
        read_images(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no images found .*expected \.fits"):
        read_images(tmp_path)
    np.savez(tmp_path / "a.npz", np.ones(5))
    with pytest.raises(InputError, match="no images found"):
        read_images(tmp_path)


def test_images_that_do_not_fit(tmp_path, stack):
    np.savez(tmp_path / "a.npz", stack)
    with pytest.raises(InputError, match=r"a.npz \[arr_0\] is 12 x 12 pixels, smaller than box"):
        read_images(tmp_path, box=16)
    np.savez(tmp_path / "b.npz", stack[:, :10, :10])
    with pytest.raises(InputError, match=r"different shapes .*set `box`"):
        read_images(tmp_path)
    assert read_images(tmp_path, box=10).shape == (10, 10, 10)


def test_pixels_that_are_not_numbers(tmp_path, stack):
    stack[2, 3, 4] = np.nan
    np.savez(tmp_path / "a.npz", stack)
    with pytest.raises(InputError, match="NaN or infinite"):
        read_images(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "short", "changed", "text"])
def test_damaged_npz_files(tmp_path, stack, damage):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, stack)
    whole = path.read_bytes()
    changed = whole[:900] + bytes(byte ^ 255 for byte in whole[900:950]) + whole[950:]
    path.write_bytes(
        {"empty": b"", "short": whole[:900], "changed": changed, "text": b"hello"}[damage]
    )
    with pytest.raises(InputError, match=r"a.npz is not a readable npz archive"):
        read_images(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "text", "short gzip"])
def test_damaged_fits_files(tmp_path, stack, damage):
    fits.writeto(tmp_path / "whole.fits", stack)
    whole = gzip.compress((tmp_path / "whole.fits").read_bytes())
    path = tmp_path / "a.fits.gz"
    path.write_bytes({"empty": b"", "text": b"hello", "short gzip": whole[:1000]}[damage])
    with pytest.raises(InputError, match=r"a.fits.gz is not a readable FITS file"):
        read_images(path)
