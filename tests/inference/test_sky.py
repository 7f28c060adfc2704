"""A sky that is left in, fitted with the sources, from the fit to the files."""

import json
import warnings
from dataclasses import replace

import jax
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from scorepriors import InputError
from scorepriors.inference import deblend, deblend_many, laplace_deblended, load_scene
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._doubts import doubts
from scorepriors.inference.deblending._scene_file import save_scene
from scorepriors.inference.reports._outputs import summary
from scorepriors.inference.reports._samples import _as_observed
from scorepriors.inference.sampling._diagnostics import SamplingWarning
from scorepriors.models import FieldWarning, FileWarning, Observation, Positions
from scorepriors.models.rendering._psf import gaussian_psf

SHAPE, CENTERS = (40, 36), np.array([[17.2, 15.6], [21.9, 19.4]])
STARS = Positions(("a", "b"), CENTERS, np.array([True, True]))
NUMBER = 8
OPTIONS = {"free_form": False, "center_error": 0.05}


def observation(seed=0, flux=250.0):
    """Two stars in two bands, with noise of one."""
    images = np.random.default_rng(seed).normal(size=(2, *SHAPE))
    psfs = np.stack([gaussian_psf(1.3 + 0.2 * b, 25) for b in range(2)])
    rows, columns = np.indices(SHAPE)
    for b, image in enumerate(images):
        for row, column in CENTERS:
            squared = (rows - row) ** 2 + (columns - column) ** 2
            width = 1.3 + 0.2 * b
            image += flux * np.exp(-squared / 2 / width**2) / (2 * np.pi * width**2)
    return Observation.from_arrays(images, variance=np.ones_like(images), psfs=psfs)


def observations(number):
    return [observation(seed) for seed in range(number)]


def with_light(obs, light):
    return replace(obs, images=obs.images + np.asarray(light, np.float32))


def plane(level=0.5, rows=0.3, columns=-0.4):
    down, right = (np.linspace(-1, 1, n) for n in SHAPE)
    return level + rows * down[:, None] + columns * right


@pytest.fixture(scope="module")
def clean():
    files = observations(NUMBER)
    return files, deblend_many(files, [STARS] * NUMBER, sky="none", **OPTIONS)


@pytest.fixture(scope="module")
def fitted(clean):
    """Blends with a sky of either kind, and results that model it."""
    files = clean[0]
    out = {}
    for kind, light in (("constant", 0.5), ("plane", plane())):
        spoilt = [with_light(obs, light) for obs in files]
        out[kind] = spoilt, deblend_many(spoilt, [STARS] * NUMBER, sky=kind, **OPTIONS)
    return out


def fluxes(results):
    return np.array([r.photometry.measured for r in results])


@pytest.mark.parametrize("kind", ["constant", "plane"])
def test_a_sky_costs_fluxes_less_than_a_tenth_of_their_error(clean, fitted, kind):
    known, (spoilt, found) = clean[1], fitted[kind]
    error = known[0].photometry.measured_error
    shift = (fluxes(found) - fluxes(known)) / error
    assert abs(shift.mean()) < 0.1
    # Without knowledge of the sky fluxes are known less well, and the errors say so.
    grown = found[0].photometry.measured_error / error
    assert (grown > 1.0).all()
    assert (grown < 1.5).all()
    assert abs(shift.std() ** 2 / (grown.mean() ** 2 - 1) - 1) < 0.8
    with pytest.warns(FieldWarning, match=rf"--sky {kind} in the shell\) fits it"):
        left_in = deblend_many(spoilt, [STARS] * NUMBER, sky=None, **OPTIONS)
    assert ((fluxes(left_in) - fluxes(known)) / error).mean() > 1


def test_the_sky_itself(fitted, tmp_path):
    spoilt, found = fitted["plane"]
    level = np.array([r.sky.level[0] for r in found])
    error = np.array([r.sky.error[0] for r in found])
    pull = (level - np.array([0.5, 0.3, -0.4])) / error
    assert abs(pull.mean()) < 4 / pull.size**0.5
    assert 0.7 < pull.std() < 1.3
    one = found[0]
    # Data are sources, sky and a residual that is noise; nothing speaks against the result.
    image = one.free_form.convolved[0].sum(0) + one.sky.images[0]
    assert abs((spoilt[0].images - image).std() - 1) < 0.05
    assert doubts(one) == {}
    assert abs(one.free_form.chi2 - 1) < 0.06
    facts = summary(one)["sky"]
    assert facts["kind"] == "plane"
    column = facts["bands"]["band0"]["half_change_along_columns"]
    assert column["value"] == pytest.approx(one.sky.level[0][0, 2])
    json.dumps(facts)
    save_scene(one, tmp_path / "scene.npz")
    back = load_scene(tmp_path / "scene.npz")
    np.testing.assert_allclose(back.sky.images[0], one.sky.images[0], rtol=1e-6)
    np.testing.assert_allclose(back.photometry.measured, one.photometry.measured, rtol=1e-3)
    np.testing.assert_allclose(
        back.photometry.measured_error, one.photometry.measured_error, rtol=1e-3
    )
    assert type(back.scene.exposures[0].noise).__name__ == "Sky"


def test_a_sky_that_matters_is_found_by_itself(clean):
    files, known = clean
    with pytest.warns(FileWarning, match=r"a sky is left in, per pixel 0.4.* it is fitted with"):
        found = deblend(with_light(files[1], 0.5), STARS, **OPTIONS)
    assert found.sky.kind == "constant"
    shift = found.photometry.measured - known[1].photometry.measured
    assert (np.abs(shift) < known[1].photometry.measured_error).all()
    with pytest.warns(FileWarning, match="sky='plane'"):
        tilted = deblend(with_light(files[1], 2 * plane(0)), STARS, **OPTIONS)
    assert tilted.sky.kind == "plane"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usual = deblend(files[1], STARS, **OPTIONS)
    assert usual.sky is None
    # Nothing is paid for a sky that is not there.
    np.testing.assert_array_equal(usual.photometry.flux, known[1].photometry.flux)
    assert summary(usual)["sky"] is None


def test_a_sky_far_above_the_noise_can_be_fitted(clean):
    files, known = clean
    found = deblend(with_light(files[2], 500.0), STARS, sky="constant", **OPTIONS)
    shift = found.photometry.measured - known[2].photometry.measured
    assert (np.abs(shift) < known[2].photometry.measured_error).all()


def test_unknown_skies():
    with pytest.raises(InputError, match="`sky` must be one of auto, constant, plane, none"):
        deblend(observations(1)[0], STARS, sky="cubic", **OPTIONS)


def test_the_command_writes_the_sky(tmp_path):
    obs = with_light(observations(1)[0], 0.5)
    obs.to_fits(tmp_path / "blend.fits")
    (tmp_path / "stars.csv").write_text("x,y,is_star\n15.6,17.2,1\n19.4,21.9,1\n")
    arguments = ["deblend", tmp_path / "blend.fits", "--catalog", tmp_path / "stars.csv"]
    arguments += ["--sky", "constant", "--output", tmp_path / "out", "--quiet"]
    outcome = CliRunner().invoke(main, [str(one) for one in arguments])
    assert outcome.exit_code == 0, outcome.output
    with fits.open(tmp_path / "out" / "sources.fits") as hdus:
        seen = sum(hdu.data for hdu in hdus if hdu.name.startswith("SOURCE_"))
        whole = seen + hdus["SKY"].data + hdus["RESIDUAL"].data
        np.testing.assert_allclose(whole, obs.images, atol=1e-4)
    facts = json.loads((tmp_path / "out" / "summary.json").read_text())
    level = facts["sky"]["bands"]["band0"]["level"]
    assert abs(level["value"] - 0.5) < 5 * level["error"] < 0.5


def test_files_of_draws_hold_sky_and_weights(clean, tmp_path):
    hot = np.zeros((2, *SHAPE))
    hot[0, 30, 8], hot[1, 8, 28] = 80.0, 60.0
    spoilt = with_light(with_light(clean[0][3], plane()), hot)
    result = deblend(spoilt, STARS, sky="plane", **OPTIONS)
    with warnings.catch_warnings():
        # Files of draws that are not to be trusted are like those of others.
        warnings.simplefilter("ignore", SamplingWarning)
        tree = laplace_deblended(result, key=jax.random.key(0), num_samples=200)
    # The whole folder has pages on chains as well, which this Gaussian has none of.
    fits.HDUList([fits.PrimaryHDU(), *_as_observed(result, tree)]).writeto(
        tmp_path / "sources.fits"
    )
    with fits.open(tmp_path / "sources.fits") as hdus:
        seen = sum(hdu.data for hdu in hdus if hdu.name.startswith("SOURCE_"))
        sky, residual, kept = (hdus[name].data for name in ("SKY", "RESIDUAL", "KEPT"))
        unit = "BUNIT" in hdus["KEPT"].header
    used = kept > 0.5
    whole = seen + sky + residual
    np.testing.assert_allclose(whole[used], spoilt.images[used], atol=1e-3)
    # What is left over has no sky: neither level nor slopes.
    rows, columns = (
        np.broadcast_to(t, SHAPE) for t in np.ix_(*(np.linspace(-1, 1, n) for n in SHAPE))
    )
    for image, mask, light in zip(residual, used, sky, strict=True):
        design = np.stack([np.ones(SHAPE), rows, columns], -1)[mask]
        level = np.linalg.lstsq(design, image[mask], rcond=None)[0]
        assert (abs(level) < 0.02).all()
        assert abs(light - plane()).max() < 0.5
    np.testing.assert_array_equal(kept[hot > 0], 0)
    assert (kept[hot == 0] > 0.9).mean() > 0.99
    assert not unit
    np.testing.assert_array_equal(kept, result.kept[0])
