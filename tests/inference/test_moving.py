"""Stars that move between epochs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u

from scorepriors import InputError
from scorepriors.inference import (
    catalog,
    deblend,
    flux_catalog,
    forced_catalog,
    forced_photometry,
    laplace_deblended,
    load_scene,
)
from scorepriors.inference.deblending._scene_file import save_scene
from scorepriors.inference.reports._observed import mean_as_observed
from scorepriors.models import (
    MovingStar,
    Observation,
    join_observations,
    place_sources,
    simulate_epochs,
)

TIMES = 60000.0 + 10.0 * np.arange(4)
#: Pixels per day along rows and columns: 3 and 1.8 pixels in all.
MOTION = np.array([0.1, -0.06])


@pytest.fixture(scope="module")
def epochs():
    return simulate_epochs(TIMES, lambda t: 2000 + 0 * t, seed=7, motion=tuple(MOTION))


@pytest.fixture(scope="module")
def result(epochs):
    obs = join_observations(*epochs.observations)
    return deblend(obs, epochs.catalog, moving=["transient"], free_form=False)


def test_the_motion_is_that_of_the_star(result):
    assert result.converged
    assert result.moving == ("transient",)
    table = catalog(result)
    found = np.array([table[f"motion_{axis}"][1].value for axis in "yx"])
    error = np.array([table[f"motion_{axis}_err"][1].value for axis in "yx"])
    assert (abs(found - MOTION) < 4 * error).all()
    # Of a Gaussian of width s and flux F in noise sigma a position has the error (8 pi)^1/2 s^2 sigma / F,
    # of a star on a galaxy whose shape is free a larger one.
    each = np.sqrt(8 * np.pi) * 1.875**2 * 5 / 2000 / np.sqrt(1 + 0.6**2)
    best = each / np.sqrt(((TIMES - TIMES.mean()) ** 2).sum())
    assert (error > 0.95 * best).all()
    assert (error < 1.6 * best).all()
    assert np.isnan(table["motion_x"][0])
    assert table["motion_x"].unit == u.pix / u.day


def test_on_the_sky_it_is_east_and_north(result):
    table = catalog(result)
    # Columns go west, rows north, on pixels of .2 arcseconds.
    scale = 0.2 * u.arcsec / u.pix
    for name, pixels in (("pm_ra", -table["motion_x"]), ("pm_dec", table["motion_y"])):
        wanted = (pixels[1] * scale).to(u.arcsec / u.yr)
        assert u.isclose(table[name][1], wanted, rtol=1e-3)
        assert table[name + "_err"][1] > 0 * u.arcsec / u.yr


def test_fluxes_of_star_and_host_are_right(result):
    flux, error = result.photometry.flux, result.photometry.error
    for row, true in ((0, [3000, 5000]), (1, [1200, 2000])):
        pull = (flux[row] - np.tile(true, 4)) / error[row]
        assert abs(pull).max() < 4
    # One flux per filter.
    assert np.ptp(flux[1][::2]) < 0.01 * flux[1][0]


def test_a_star_at_rest_would_not_fit(epochs, result):
    obs = join_observations(*epochs.observations)
    rest = deblend(obs, epochs.catalog, free_form=False, outliers=False, model_error=False)
    assert rest.free_form.source_chi2[1] > 1.5 * result.free_form.source_chi2[1]


def test_it_is_written_and_read_again(result, tmp_path):
    save_scene(result, tmp_path / "scene.npz", prior="lsst-32")
    again = catalog(load_scene(tmp_path / "scene.npz"))
    for name in ("motion_x", "motion_x_err", "pm_dec"):
        np.testing.assert_allclose(again[name].value, catalog(result)[name].value, rtol=1e-3)


def test_images_are_the_same_in_jax_and_on_the_host():
    group = MovingStar(place_sources([(20.2, 19.7)], box=31), phase=[-0.5, 0.1, 0.5], days=3.0)
    values = {"offset": np.array([[0.1, 0.2]]), "way": np.array([[2.0, -4.0]])}
    drawn = group.boxes(values, 3)
    rows = np.arange(31)
    for number, phase in enumerate((-0.5, 0.1, 0.5)):
        image = drawn.seen(number)[0]
        place = np.array([20.3, 19.9]) - np.asarray(group.at.corner)[0] + phase * np.array([2, -4])
        np.testing.assert_allclose(image.sum(1) @ rows, place[0], atol=1e-3)
        np.testing.assert_allclose(image.sum(0) @ rows, place[1], atol=1e-3)
        traced = group.image_in({n: jnp.asarray(v) for n, v in values.items()}, number)
        np.testing.assert_allclose(traced[0], image, atol=1e-6)


def test_mistakes(epochs):
    obs = join_observations(*epochs.observations)
    with pytest.raises(InputError, match="no source 'comet' that could move"):
        deblend(obs, epochs.catalog, moving="comet", free_form=False)
    with pytest.raises(InputError, match="at which nothing varies or moves"):
        deblend(epochs.observations[0], epochs.catalog, moving="transient", free_form=False)
    timeless = [dataclasses.replace(one, time=None) for one in epochs.observations]
    with pytest.raises(InputError, match="give time=MJD to each of them"):
        deblend(join_observations(*timeless), epochs.catalog, moving="transient", free_form=False)


def test_a_star_may_be_seen_in_another_filter_each_time(epochs):
    """As in images of two telescopes, years apart."""
    first, last = (
        Observation.from_arrays(
            one.images[band : band + 1],
            weights=one.weights[band : band + 1],
            psfs=one.psfs[band : band + 1],
            bands=one.bands[band : band + 1],
            wcs=one.wcs,
            zero_point=one.zero_point[band],
            time=one.time,
        )
        for band, one in ((0, epochs.observations[0]), (1, epochs.observations[3]))
    )
    obs = join_observations(first, last)
    found = deblend(obs, epochs.catalog, moving="transient", free_form=False)
    table = catalog(found)
    motion = np.array([table[f"motion_{axis}"][1].value for axis in "yx"])
    error = np.array([table[f"motion_{axis}_err"][1].value for axis in "yx"])
    assert (abs(motion - MOTION) < 4 * error).all()
    assert (error < 0.02).all()
    with pytest.raises(InputError, match="each of the bands g, r is seen once"):
        deblend(obs, epochs.catalog, variable="transient", free_form=False)
    timeless = [dataclasses.replace(one, time=None) for one in (first, last)]
    with pytest.raises(InputError, match="give time=MJD to each of them"):
        deblend(join_observations(*timeless), epochs.catalog, moving="transient", free_form=False)


def test_draws_know_the_motion(result):
    tree = laplace_deblended(result, key=jax.random.key(2), num_samples=500)
    fitted, table = catalog(result), flux_catalog(tree)
    for name in ("motion_x", "motion_y", "pm_ra", "pm_dec"):
        found, wanted, error = (t[1] for t in (table[name], fitted[name], fitted[f"{name}_err"]))
        assert abs(found - wanted) < 0.3 * error
        assert 0.8 < table[f"{name}_err"][1] / error < 1.25
        assert np.isnan(table[name][0])
    assert table["motion_x"].info.description == fitted["motion_x"].info.description
    # As observed the star is where it is at each time, not in the middle of its way.
    rows = np.arange(48)
    places = []
    for seen, fit in zip(mean_as_observed(result, tree), result.free_form.convolved, strict=True):
        places.append([cube[1].sum((0, 2)) @ rows / cube[1].sum() for cube in (seen, fit)])
    found, wanted = np.transpose(places)
    np.testing.assert_allclose(found, wanted, atol=0.05)
    assert found[-1] - found[0] > 2


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("drawn", [False, True])
def test_forced_photometry_is_where_the_star_is_at_the_time(epochs, result, number, drawn):
    image = epochs.observations[number]
    tree = laplace_deblended(result, key=jax.random.key(2), num_samples=60) if drawn else None
    found = forced_photometry(result, image, draws=tree)
    pull = (found.flux[1] - [1200, 2000]) / found.error[1]
    assert abs(pull).max() < 4
    assert (found.error[1] < 0.1 * found.flux[1]).all()
    assert (found.shape_error[1] > 0).all()
    phase = (number - 1.5) / 3
    way = 30 * MOTION * phase
    np.testing.assert_allclose(found.pixel[1] - result.center[1], way, atol=0.3)
    np.testing.assert_allclose(found.pixel[0], result.center[0])
    # In the middle of its way it would be far fainter.
    middle = dataclasses.replace(image, time=float(TIMES.mean()))
    assert (forced_photometry(result, middle, draws=tree).flux[1] < 0.85 * found.flux[1]).all()


def test_an_image_without_a_time_has_no_flux_of_what_moves(epochs, result):
    image = dataclasses.replace(epochs.observations[0], time=None)
    with pytest.warns(UserWarning, match="transient: no flux of what moves"):
        found = forced_photometry(result, image)
    assert found.lost == ("transient",)
    assert np.isnan(found.flux[1]).all()
    assert not np.isnan(found.flux[0]).any()
    table = forced_catalog(found)
    assert table["flags"][1] == "no_time"
    assert "no_time" not in table["flags"][0]
