"""Galaxies of a finished field as stamps that a prior learns from."""

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner
from field_results import stand_in

from scorepriors import InputError, load_prior
from scorepriors.inference.cli import main
from scorepriors.inference.fields import _stamps
from scorepriors.inference.fields._training_stamps import field_stamps
from scorepriors.training import _rounds
from scorepriors.training._stamps import read_stamps


@pytest.fixture(scope="module")
def result():
    return stand_in(number=24, seed=3)


def test_stamps_are_galaxies_without_flags_and_without_neighbors(result, tmp_path):
    found = field_stamps(result, 16, min_snr=100, neighbor_error=0.1)
    catalog = result.catalog
    wanted = [
        str(row["id"])
        for row in catalog
        if row["flag_bits"] == 0 and row["model"] != "point" and row["snr"] >= 100
    ]
    assert set(found["id"]) <= set(wanted)
    assert len(found["id"]) >= len(wanted) - 5 > 3  # some lie in the hole or at the border
    for k, id in enumerate(found["id"]):
        row = catalog[list(catalog["id"]).index(id)]
        good = ~found["mask"][k]
        own = result.sources[id]
        corner = [round(float(row[n]) - 7.5) for n in ("y", "x")]
        offset = np.subtract(corner, own.observed_corner)
        inside = tuple(slice(o, o + 16) for o in offset)
        # The brightest band is the last, with unit noise.
        residual = (found["images"][k] - own.observed[2][inside])[good]
        assert abs(residual.std() - 1) < 0.2
        np.testing.assert_allclose(
            found["variance"][k][good], (1 + (0.1 * own.others[2][inside]) ** 2)[good], rtol=1e-5
        )
    np.savez(tmp_path / "stamps.npz", **found)
    stamps = read_stamps(tmp_path / "stamps.npz", 16, 0.7)
    assert len(stamps.images) == len(found["id"])


def test_stamps_may_be_larger_than_the_window_of_a_source(result):
    found = field_stamps(result, 40, min_snr=100)
    assert found["images"].shape[1:] == (40, 40)
    frame = np.ones((40, 40), bool)
    frame[3:-3, 3:-3] = False
    # Beyond the window of the source, all that is left is noise.
    for image, variance, mask in zip(found["images"], found["variance"], found["mask"]):
        seen = frame & ~mask
        assert abs(np.mean(image[seen] ** 2 / variance[seen]) - 1) < 0.4
    # Galaxies in a hole are none to learn from.
    for image, mask in zip(found["images"], found["mask"]):
        assert image[~mask].std() > 2


def test_pixels_are_those_that_scenes_were_fitted_to(result):
    plain = field_stamps(result, 16, min_snr=20)
    correlation = np.zeros((3, 3, 3))
    correlation[:, 1, 1], correlation[:, 1, 0], correlation[:, 1, 2] = 1, 0.25, 0.25
    changed = dataclasses.replace(
        result,
        sky=(0.0, 0.0, 7.0),
        noise=(2.0, 2.0, 2.0),
        share=np.full_like(result.light, 0.5),
        field=dataclasses.replace(result.field, correlation=correlation),
    )
    found = field_stamps(changed, 16, min_snr=20)
    assert len(found["id"]) > 5
    for image, variance, mask, id in zip(*(found[n] for n in ("images", "variance", "mask", "id"))):
        k = list(plain["id"]).index(id)
        good = ~mask
        np.testing.assert_allclose(image[good], plain["images"][k][good] - 7, atol=1e-3)
        # Twice the error, half the weight, and 1.5 times the variance of sums.  Neighbors count as before.
        np.testing.assert_allclose(
            variance[good] - plain["variance"][k][good], 4 / 0.5 * 1.5 - 1, rtol=1e-4
        )


def test_the_band_that_is_taken_is_bright_enough_itself(result):
    faint = dataclasses.replace(result, catalog=result.catalog.copy())
    faint.catalog["snr"] = 1e6
    number = len(field_stamps(faint, 16, min_snr=300)["id"])
    assert number < len(field_stamps(faint, 16, min_snr=20)["id"])
    with pytest.raises(InputError, match="none has that in one band and enough pixels"):
        field_stamps(faint, 16, min_snr=1e5)


def test_a_field_without_a_galaxy_that_is_bright_enough_says_why(result):
    with pytest.raises(InputError, match=r"no galaxy of the field is left: of 24 sources \d+ are"):
        field_stamps(result, 16, min_snr=1e6)
    empty = dataclasses.replace(result, catalog=result.catalog[:0])
    with pytest.raises(InputError, match="of 0 sources 0 are galaxies"):
        field_stamps(empty, 16)


RECIPE = """
name = "own"
[data]
start = "lsst"
box = 16
[network]
modes = 12
width = 8
inner = 8
depth = 1
[training]
steps = 20
batch = 8
block = 20
[rounds]
number = 1
levels = 2
transitions = 1
batch = 8
"""


def test_the_command_learns_from_the_galaxies_of_a_field(result, tmp_path, monkeypatch):
    pytest.importorskip("galsim")
    # Fields are opened and simulated galaxies drawn elsewhere: both take long.
    monkeypatch.setattr(_stamps, "open_field", lambda folder: result)
    monkeypatch.setattr(_rounds, "NUM_START", 60)
    (tmp_path / "own.toml").write_text(RECIPE)
    command = ["train", str(tmp_path / "own.toml"), "--output", str(tmp_path / "run"), "--quiet"]
    ended = CliRunner().invoke(main, command)
    assert ended.exit_code == 2
    assert "[data] needs one of `set`" in ended.stderr
    command += ["--from", str(tmp_path / "field")]
    ended = CliRunner().invoke(main, [*command, "--min-snr", "100"])
    assert ended.exit_code == 0, ended.output
    number = len(field_stamps(result, 16, min_snr=100)["id"])
    assert f"{number} galaxies of" in ended.stderr
    prior = load_prior(tmp_path / "run" / "own.safetensors")
    assert (prior.event_shape, prior.model_psf_sigma) == ((16, 16), 0.7)
    with np.load(tmp_path / "run" / "images.npz") as images:
        assert len(images["train"]) + len(images["held_out"]) == number
    # The same again is done; others need a folder of their own.
    assert CliRunner().invoke(main, [*command, "--min-snr", "100"]).exit_code == 0
    ended = CliRunner().invoke(main, [*command, "--min-snr", "90"])
    assert ended.exit_code == 2
    assert "another field, box or --min-snr, or to an earlier outcome" in ended.stderr
    # So does the same folder after another run.
    again = dataclasses.replace(result, catalog=result.catalog.copy())
    again.catalog["chi2"] += 0.01
    monkeypatch.setattr(_stamps, "open_field", lambda folder: again)
    ended = CliRunner().invoke(main, [*command, "--min-snr", "100"])
    assert ended.exit_code == 2
    assert "or to an earlier outcome of this field; train in a new folder" in ended.stderr
    (tmp_path / "own.toml").write_text(RECIPE.replace("start", "noisy = 'a.npz'\nstart"))
    ended = CliRunner().invoke(main, command)
    assert ended.exit_code == 2
    assert "own.toml names stamps itself, as `data.noisy`; leave out" in ended.stderr
