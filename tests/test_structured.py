"""Galaxies with structure, as training images and as profiles of simulated blends."""

import numpy as np
import pytest

from scorepriors._surveys import survey
from scorepriors.models.simulation._simulation import psf_profile
from scorepriors.training._sets import STRUCTURED, simulate
from scorepriors.training._structured import (
    SMOOTH,
    Structured,
    _Disk,
    draw_structured,
    render,
    structured_profile,
)


@pytest.fixture
def galsim():
    return pytest.importorskip("galsim")


def center(galsim, image):
    found = galsim.Image(np.asarray(image, float), xmin=0, ymin=0).FindAdaptiveMom()
    return np.array([found.moments_centroid.x, found.moments_centroid.y])


def plain_disk(seed: int, radius: float, ratio: float, angle: float) -> _Disk:
    disk = _Disk(np.random.default_rng(seed), radius, ratio, angle, smooth=True)
    disk.index = 1.0
    return disk


def test_training_images_are_centered_with_a_peak_of_one(galsim):
    images = simulate("euclid-large", 16, box=64, seed=3)
    assert (images.shape, images.dtype) == ((16, 64, 64), np.float32)
    np.testing.assert_allclose(images.max((1, 2)), 1)
    for image in images:
        # Shifts of up to 0.6 pixels, and a little for what the box cuts off.
        assert np.abs(center(galsim, image) - 31.5).max() < 0.75
    assert images.min() > -1e-5  # GalSim rings about bulges


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.043, -0.021)])
def test_a_disk_without_structure_is_what_galsim_draws(galsim, shift):
    radius, ratio, angle = 0.35, 0.6, 0.7
    galaxy = Structured(plain_disk(0, radius, ratio, angle), 1.0, None)
    image = render(galsim, galaxy, scale=0.1, box=64, shift=shift)
    exact = galsim.Exponential(half_light_radius=radius).shear(q=ratio, beta=angle * galsim.radians)
    # The disk keeps its major axis, GalSim's shear its area.
    exact = exact.expand(ratio**0.5).shift(*shift)
    exact = galsim.Convolve(exact, galsim.Gaussian(sigma=0.07))
    exact = exact.drawImage(nx=64, ny=64, scale=0.1).array
    # 0.4 % of the peak: the fine grid rounds the cusp of the disk off.
    np.testing.assert_allclose(image / image.sum(), exact / exact.sum(), atol=4e-3 * exact.max())


def test_structure_is_found_in_about_two_of_three(galsim):
    rng = np.random.default_rng(8)
    galaxies = [draw_structured(galsim, rng, STRUCTURED["euclid"]) for _ in range(400)]
    smooth = np.array([galaxy.disk.smooth for galaxy in galaxies])
    assert abs(smooth.mean() - SMOOTH) < 4 * np.sqrt(SMOOTH * (1 - SMOOTH) / 400)
    assert not any(any(galaxy.disk.has.values()) for galaxy in galaxies if galaxy.disk.smooth)
    kinds = {kind for galaxy in galaxies for kind, has in galaxy.disk.has.items() if has}
    assert kinds == {
        "arms",
        "bar",
        "ring",
        "clumps",
        "texture",
        "dust",
        "lopsided",
        "tail",
        "twist",
    }
    radii = np.array([galaxy.disk.radius for galaxy in galaxies])
    sizes = STRUCTURED["euclid"]
    assert sizes.smallest <= radii.min()
    assert radii.max() <= sizes.largest
    assert abs(np.median(radii) / sizes.median - 1) < 0.15


@pytest.mark.parametrize("kind", ["arms", "bar", "ring", "clumps", "texture", "tail", "twist"])
def test_each_kind_changes_the_disk(kind):
    at = np.linspace(-1.5, 1.5, 151)
    plain = plain_disk(4, 0.4, 0.8, 0.3)
    light = plain(at[None, :], at[:, None])
    plain.has[kind] = True
    changed = plain(at[None, :], at[:, None])
    step = at[1] - at[0]
    np.testing.assert_allclose([light.sum() * step**2, changed.sum() * step**2], 1)
    assert np.abs(changed - light).sum() * step**2 > 0.03


def test_a_lane_of_dust_takes_light_from_the_middle_of_an_edge_on_disk():
    at = np.linspace(-1.5, 1.5, 151)
    disk = plain_disk(2, 0.4, 0.2, 0.0)
    before = disk(at[None, :], at[:, None])
    disk.has["dust"] = True
    after = disk(at[None, :], at[:, None])
    near = np.abs(at) < 0.2
    kept = (after / before)[near][:, near]
    # A lane: all of the major axis near the center loses light, and less so further away.
    assert kept.min() < 0.8 * kept.max()
    dark = np.unravel_index(kept.argmin(), kept.shape)[0]
    assert kept[dark].max() < 1.1 * kept.min()


def test_profiles_have_unit_flux_about_their_center(galsim):
    rng = np.random.default_rng(1)
    for _ in range(4):
        profile = structured_profile(galsim, rng, STRUCTURED["euclid-large"])
        assert profile.flux == pytest.approx(1)
        seen = galsim.Convolve(profile, galsim.Gaussian(fwhm=0.16))
        image = seen.drawImage(nx=128, ny=128, scale=0.05).array
        assert np.abs(center(galsim, image) - 63.5).max() * 0.05 < 0.1


@pytest.mark.parametrize("name", ["euclid", "hst"])
def test_blends_as_a_telescope_in_space_sees_them(galsim, name):
    from scorepriors.models.simulation._blend_sets import simulate_set

    facts = survey(name)
    found = simulate_set(name, 2, seed=4, sources=(2, 3))
    assert [str(band) for band in found["bands"]] == list(facts.bands)
    np.testing.assert_allclose(found["psfs"].sum((2, 3)), 1, rtol=1e-5)
    camera = facts.published_camera()
    for band, width in enumerate(camera.seeing):
        psf = psf_profile(galsim, camera, band, width)
        image = psf.drawImage(scale=0.005, nx=201, ny=201, method="no_pixel")
        assert image.calculateFWHM() == pytest.approx(width, rel=0.04)
    residual = found["images"] - [
        found["conv"][a:b].sum(0)
        for a, b in zip(found["src_start"][:-1], found["src_start"][1:], strict=True)
    ]
    corner = residual[:, :, :12, :12].std((0, 2, 3))
    np.testing.assert_allclose(corner, np.sqrt(camera.sky_variance), rtol=0.15)


def test_a_field_of_the_visible_camera(galsim):
    from scorepriors.models.simulation._fields import simulate_field

    field = simulate_field("euclid", 100, seed=2)
    assert field.bands == ("VIS",)
    assert simulate_field("euclid", 100, bands="VIS", seed=2).bands == ("VIS",)
    assert len(field.truth) > 0
