"""Observations that are turned, mirrored or distorted against the first one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from turned_sky import sky, slope_of

from scorepriors._errors import InputError
from scorepriors.models import exposures, join_observations, place_sources
from scorepriors.models.data._observation import Observation
from scorepriors.models.rendering._grids import regrid
from scorepriors.models.rendering._information import (
    _seen,
    _seen_by_rendering,
    gather,
    likelihood_diagonal_on_host,
)
from scorepriors.models.rendering._turned import Turned

#: Side of the model's pixels, arcsec, and the shape of the first observation.
SIDE, SHAPE = 0.2, (44, 44)

#: Gaussian light of a galaxy: covariance in arcsec^2 (north, east).
GALAXY = np.array([[0.16, 0.05], [0.05, 0.09]])

PLACES = np.array([[21.4, 23.2], [14.7, 30.1]])


def gaussian(covariance, center, shape):
    """A Gaussian on pixels."""
    at = np.stack(np.indices(shape), -1) - center
    exponent = np.einsum("...i,ij,...j", at, np.linalg.inv(covariance), at)
    return np.exp(-exponent / 2) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))


def observation(wcs, shape, psf, bands, **options):
    """Noise of one, with a Gaussian PSF of a covariance in pixels, the pixel included."""
    side = 2 * int(5 * np.sqrt(np.linalg.eigvalsh(psf).max())) + 1
    psfs = np.repeat(gaussian(psf, (side // 2, side // 2), (side, side))[None], len(bands), 0)
    images = np.random.default_rng(3).normal(size=(len(bands), *shape))
    options = {"zero_point": 31.4, "name": "other", **options}
    weights = np.random.default_rng(4).uniform(0.5, 2, images.shape)
    return Observation.from_arrays(
        images, weights=weights, psfs=psfs, bands=bands, wcs=wcs, **options
    )


def joined_with(wcs, shape, psf, **options):
    first = observation(sky(SIDE, SHAPE), SHAPE, 3.0 * np.eye(2), ("r",))
    return join_observations(first, observation(wcs, shape, psf, ("J",), **options))


#: Rotation, mirror, scale, shear, and bending of the other's pixels.
GEOMETRIES = [
    (0.2, False, 1.0, 0.0, None),
    (17, True, 1.0, 0.0, None),
    (90, False, 0.7, 0.0, None),
    (133, False, 0.3, 0.0, None),
    (133, True, 3.0, 0.0, None),
    (30, False, 0.6, 0.25, None),
    (-61, False, 0.5, 0.1, 1e-4),
]


@pytest.mark.filterwarnings("ignore:the PSF of band 'J'")  # wide in small pixels
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_gaussians_under_any_wcs(geometry):
    turn, mirror, ratio, shear, bend = geometry
    side = round(SHAPE[0] / ratio)
    shape = (side, side + 3)
    wcs = sky(SIDE * ratio, shape, turn, mirror=mirror, shear=shear, bend=bend)
    # An elongated PSF, whose mirror image is another one.
    psf = np.array([[4.0, 0.9], [0.9, 2.6]]) / min(ratio, 1) ** 2
    joined = joined_with(wcs, shape, psf)
    view, data = joined.views[1], exposures(joined, boxes=(35,))[1]
    assert isinstance(data.grid, Turned)
    at = place_sources(PLACES, box=35)
    corner = np.asarray(at.corner)
    first = slope_of(joined.wcs, PLACES[0])
    back = np.linalg.inv(first)
    own = back @ GALAXY @ back.T + (0.7**2 + 1 / 12) * np.eye(2)
    boxes = np.stack([gaussian(own, p - c, (35, 35)) for p, c in zip(PLACES, corner, strict=True)])
    seen = data.render_on_host(boxes, corner)[:, 0]
    other = view.observation.wcs
    for drawn, place in zip(seen, PLACES, strict=True):
        column, row = other.world_to_pixel(joined.wcs.pixel_to_world(place[1], place[0]))
        pixel = np.array([row, column])
        np.testing.assert_allclose(view.pixels(place[None])[0], pixel, atol=0.005 / ratio)
        down = np.linalg.inv(slope_of(other, pixel))
        truth = gaussian(down @ GALAXY @ down.T + psf, pixel, view.observation.shape)
        assert drawn.sum() == pytest.approx(truth.sum(), rel=1e-3)
        assert (drawn * truth).sum() == pytest.approx((truth**2).sum(), rel=1e-3)
        assert np.linalg.norm(drawn - truth) < 3e-3 * np.linalg.norm(truth)


render = eqx.filter_jit(lambda exposure, boxes, corner: exposure.render(boxes, corner))


@pytest.mark.parametrize("turn", [17, 75])
def test_closed_forms_beside_renderings(turn):
    joined = joined_with(sky(0.16, (40, 46), turn), (40, 46), np.diag([3.0, 4.0]))
    data = exposures(joined, boxes=(9,))[1]
    assert data.grid.swapped == (turn > 45)
    corner = jnp.asarray(place_sources(np.array([[20.0, 22.0], [2.0, 41.0]]), box=9).corner)
    boxes = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 9, 9)), jnp.float32)
    drawn = render(data, boxes, corner)
    on_host = data.render_on_host(np.asarray(boxes), np.asarray(corner))
    np.testing.assert_allclose(on_host, drawn, atol=3e-5 * float(drawn.max()))
    # The transpose: one inner product in two places.
    images = jnp.asarray(np.random.default_rng(1).normal(size=drawn.shape), jnp.float32)
    back = eqx.filter_jit(gather)(data, images, corner, 9)
    np.testing.assert_allclose(
        jnp.sum(images * drawn, (2, 3)),
        jnp.sum(back * boxes[:, None], (2, 3)),
        rtol=1e-4,
        atol=1e-5,
    )
    exact = eqx.filter_jit(_seen_by_rendering)(data, corner, 9)
    closed = eqx.filter_jit(_seen)(data, corner, 9)
    np.testing.assert_allclose(closed, exact, atol=2e-3 * float(exact.max()))
    on_host = likelihood_diagonal_on_host((data,), np.ones((2, 1)), np.asarray(corner), 9)
    np.testing.assert_allclose(on_host, exact[:, 0], atol=2e-3 * float(exact.max()))


def test_derivatives_and_batches_on_turned_pixels():
    coefficients = np.zeros((2, 10), np.float32)
    coefficients[:, 0], coefficients[:, 1:3] = [6.3, 5.8], [[3.0, 3.4], [-3.4, 3.0]]
    coefficients[:, 3:] = 0.05
    turned = Turned(jnp.asarray(coefficients), jnp.array([4.0, 3.5, 4.5]), True)
    first = jnp.array([[1, 2], [-3, 4]])

    @eqx.filter_jit
    def total(boxes, first, turned):
        return regrid(jnp.fft.rfft2(boxes, (12, 12))[None], turned, first, 12, (9, 8))

    boxes = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 6)), jnp.float32)
    check_grads(lambda b: total(b, first, turned), (boxes,), 1, modes=("fwd", "rev"), rtol=1e-2)
    several = jax.tree.map(lambda a: jnp.stack([a, a]), turned)
    batched = jax.vmap(total)(jnp.stack([boxes, 2 * boxes]), jnp.stack([first, first + 1]), several)
    np.testing.assert_allclose(batched[1], total(2 * boxes, first + 1, turned), atol=1e-5)


def test_pixels_and_places_are_inverse():
    joined = joined_with(sky(0.12, (60, 64), 38, bend=1e-4), (60, 64), 4 * np.eye(2))
    turned = joined.views[1].turned
    pixels = np.array([[3.0, 50.0], [30.0, 31.0], [57.0, 2.0]])
    np.testing.assert_allclose(turned.pixels(turned.places(pixels, np), np), pixels, atol=1e-3)


def test_a_large_observation_is_cut_to_the_first():
    shape = (500, 400)
    joined = joined_with(sky(0.2, shape, 30), shape, 3 * np.eye(2))
    view = joined.views[1]
    assert max(view.observation.shape) < 120
    assert min(view.observation.corner) > 100
    middle = np.array(view.observation.corner) + view.pixels(np.array([[21.5, 21.5]]))[0]
    np.testing.assert_allclose(middle, [249.5, 199.5], atol=1e-3)


def test_three_observations_of_other_projections():
    first = observation(sky(SIDE, SHAPE), SHAPE, 3 * np.eye(2), ("r",))
    others = [
        observation(sky(0.2, (40, 40), 10 * n, kind=kind), (40, 40), 3 * np.eye(2), (f"b{n}",))
        for n, kind in enumerate(("ARC", "SIN", "STG"))
    ]
    joined = join_observations(first, *others)
    assert [view.turned is not None for view in joined.views] == [False, False, True, True]


def test_what_is_distorted_too_much_or_too_far_away():
    with pytest.raises(InputError, match=r"distorted too much .* cut out a smaller part"):
        joined_with(sky(0.2, (90, 90), 30, bend=5e-3), (90, 90), 3 * np.eye(2))
    away = sky(0.2, (40, 40), 30)
    away.wcs.crval = [10.01, 2.0]
    with pytest.raises(InputError, match="does not overlap"):
        joined_with(away, (40, 40), 3 * np.eye(2))


def galsim_pair(turn, mirror, ratio, shear):
    """Draw a galaxy with GalSim in the frames of the model and of another observation."""
    galsim = pytest.importorskip("galsim")

    def local(wcs, pixel):
        (a, b), (c, d) = slope_of(wcs, pixel)
        return galsim.JacobianWCS(-d, -c, b, a)  # u is west, v north

    def draw(profile, wcs, pixel, shape, corner=(0, 0)):
        image = galsim.Image(shape[1], shape[0], xmin=int(corner[1]), ymin=int(corner[0]))
        at = galsim.PositionD(pixel[1], pixel[0])
        return profile.drawImage(image, wcs=local(wcs, pixel), center=at).array.astype(float)

    side = round(SHAPE[0] / ratio)
    shape, wcs = (side, side), sky(SIDE * ratio, (side, side), turn, mirror=mirror, shear=shear)
    blur = galsim.Moffat(beta=3.5, fwhm=max(0.6, 3 * SIDE * ratio), trunc=2.4).shear(g1=0.1, g2=0.1)
    half = side // 2 - 1
    stamp = draw(blur, wcs, (half, half), (2 * half + 1, 2 * half + 1))
    first = observation(sky(SIDE, SHAPE), SHAPE, 3 * np.eye(2), ("r",))
    other = Observation.from_arrays(
        np.ones((1, *shape)),
        weights=np.ones((1, *shape)),
        psfs=stamp[None] / stamp.sum(),
        bands=("J",),
        wcs=wcs,
        zero_point=31.4,
    )
    joined = join_observations(first, other)
    galaxy = galsim.Exponential(half_light_radius=0.4).shear(g1=0.2, g2=-0.3)
    place = PLACES[0]
    corner = np.asarray(place_sources(place[None], box=36).corner)
    sharp = galsim.Convolve(galaxy, galsim.Gaussian(sigma=0.7 * SIDE))
    box = draw(sharp, joined.wcs, place, (36, 36), corner[0])
    view = joined.views[1]
    seen = exposures(joined, boxes=(36,))[1].render_on_host(box[None], corner)[0, 0]
    at = view.pixels(place[None])[0]
    cut = view.observation
    truth = draw(galsim.Convolve(galaxy, blur), cut.wcs, at, cut.shape)
    return seen, truth


@pytest.mark.parametrize(
    ("turn", "mirror", "ratio", "shear"),
    [(0.2, False, 1.0, 0.0), (17, True, 0.5, 0.0), (90, False, 1.0, 0.0), (133, False, 1.7, 0.2)],
)
def test_as_galsim_draws_it(turn, mirror, ratio, shear):
    seen, truth = galsim_pair(turn, mirror, ratio, shear)
    assert (seen * truth).sum() == pytest.approx((truth**2).sum(), rel=1e-3)
    assert seen.sum() == pytest.approx(truth.sum(), rel=2e-3)
