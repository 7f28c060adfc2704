"""Deblending of files whose variance follows the noise of its own pixels."""

import json
import warnings

import numpy as np
import pytest
from astropy.table import Table
from click.testing import CliRunner

from scorepriors import InputError
from scorepriors.inference import deblend, deblend_many, load_scene
from scorepriors.inference.cli import main
from scorepriors.inference.deblending._scene_file import save_scene
from scorepriors.inference.reports._outputs import summary
from scorepriors.models import NoiseWarning, Observation, Positions

SKY, FLUX, CENTER = 4.0, 600.0, np.array([[12.2, 11.6]])
STAR = Positions(("star",), CENTER, np.array([True]))


def gaussian(shape, center, width=1.7):
    rows, columns = np.indices(shape)
    squared = (rows - center[0]) ** 2 + (columns - center[1]) ** 2
    image = np.exp(-squared / (2 * width**2))
    return image / (2 * np.pi * width**2)


def observation(seed, *, own=(True, False)):
    """One star in two bands, with variances from pixels where `own`."""
    rng = np.random.default_rng(seed)
    light = FLUX * gaussian((24, 24), CENTER[0])
    images = np.stack([rng.poisson(light + SKY) - SKY for _ in own])
    pairs = zip(images, own, strict=True)
    variance = np.stack([np.maximum(SKY + (image if o else light), 1) for image, o in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        return Observation.from_arrays(
            images,
            variance=variance,
            psfs=gaussian((21, 21), (10, 10)),
            bands=("g", "r"),
            catalog=Table({"x": CENTER[:, 1], "y": CENTER[:, 0], "is_star": [True]}),
        )


def test_fluxes_are_those_of_an_honest_variance_unless_told_otherwise(tmp_path):
    files = [observation(seed) for seed in range(16)]
    options = {"free_form": False}
    auto = deblend_many(files, [STAR] * 16, **options)
    file = deblend_many(files, [STAR] * 16, noise="file", **options)
    honest = [observation(seed, own=(False, False)) for seed in range(16)]
    true = deblend_many(honest, [STAR] * 16, **options)
    found, biased, wanted = (np.array([r.free_form.flux[0] for r in x]) for x in (auto, file, true))
    error = true[0].free_form.flux_error[0]
    assert ((biased - wanted)[:, 0] / error[0]).mean() < -1
    assert abs(((found - wanted) / error).mean(0)).max() < 0.1
    for one in auto:
        assert one.noise_from_model == ("g",)
        weights = one.observation.weights
        np.testing.assert_allclose(
            1 / weights[0], 1 / true[0].observation.weights[0], rtol=0.15, atol=1
        )
    assert all(one.noise_from_model == () for one in (*file, *true))
    assert [one.observation for one in file] == files
    # What was fitted alone is what was fitted among others; and it is recorded.
    alone = deblend(files[3], STAR, **options)
    np.testing.assert_allclose(alone.free_form.flux, found[3:4], rtol=1e-4)
    assert summary(alone)["noise_from_model"] == ["g"]
    save_scene(alone, tmp_path / "scene.npz")
    back = load_scene(tmp_path / "scene.npz")
    assert back.noise_from_model == ("g",)
    np.testing.assert_array_equal(back.observation.weights, alone.observation.weights)
    np.testing.assert_allclose(back.free_form.flux, alone.free_form.flux, rtol=1e-5)
    with pytest.raises(InputError, match="`noise` must be one of auto, file, got 'flat'"):
        deblend(files[0], STAR, noise="flat")


def test_the_command_says_what_it_did(tmp_path):
    observation(0).to_fits(tmp_path / "star.fits")
    for more, words, bands in (
        ((), "taken from the model instead", ["g"]),
        (("--variances", "file"), "--variances auto in the shell", []),
    ):
        arguments = ["deblend", tmp_path / "star.fits", "--output", tmp_path / "out", "--force"]
        outcome = CliRunner().invoke(main, [str(a) for a in (*arguments, *more)])
        assert outcome.exit_code == 0, outcome.output
        (line,) = [x for x in outcome.stderr.splitlines() if "its own pixels" in x]
        assert line.startswith("scorepriors: the variance in band g follows the noise")
        assert words in line
        facts = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert facts["noise_from_model"] == bands
