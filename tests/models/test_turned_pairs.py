"""`scorepriors simulate --rotation`: pairs of observations that are turned against each other."""

import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner

from scorepriors.inference.cli import main
from scorepriors.models import Observation, exposures, join_observations, simulate_joint
from scorepriors.models.simulation._simulation import field_wcs

pytest.importorskip("galsim")


def run(*arguments):
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


@pytest.mark.parametrize(("rotation", "mirror"), [(33.0, False), (-110.0, True)])
def test_both_cameras_see_one_sky(rotation, mirror):
    options = {"seed": 3, "spread": 2.0, "gap": 2.5, "rotation": rotation, "mirror": mirror}
    ground, space, first, second = simulate_joint(2, **options)
    joined = join_observations(ground, space)
    view = joined.views[1]
    np.testing.assert_allclose(view.pixels(first.center), second.center, atol=1e-4)
    # What the model draws from the truth of one is the truth of the other, but for what the PSFs
    # lack beyond their images: shapes are turned as the places are.
    data = exposures(joined, boxes=(48,))[1]
    drawn = data.render_on_host(first.morphology.astype(np.float32), np.zeros((2, 2), int))
    seen = drawn * second.flux[:, :, None, None]
    for one, truth in zip(seen, second.convolved, strict=True):
        assert np.linalg.norm(one - truth) < 0.015 * np.linalg.norm(truth)


def test_the_angle_is_from_north_through_east():
    wcs = field_wcs((11, 11), 0.1, 30.0)
    middle, up = (wcs.pixel_to_world(5, row) for row in (5, 9))
    assert middle.position_angle(up).deg == pytest.approx(30, abs=0.01)
    left = wcs.pixel_to_world(1, 5)
    assert middle.position_angle(left).deg == pytest.approx(120, abs=0.01)


def test_the_command_writes_pairs(tmp_path):
    done = run("--rotation", 40, "--num-blends", 2, "--seed", 5, "--output", tmp_path, "--quiet")
    assert done.exit_code == 0, done.output
    assert len(done.output.split()) == 6
    ground, space = (Observation.read(tmp_path / f"{name}-6.fits") for name in ("ground", "space"))
    assert join_observations(ground, space).views[1].turned is not None
    truth = QTable.read(tmp_path / "truth-6.ecsv")
    assert len(truth) == 3
    assert {"flux_g", f"flux_{space.bands[0]}", "ra"} <= set(truth.colnames)
    again = run("--rotation", 40, "--seed", 5, "--output", tmp_path)
    assert again.exit_code == 2
    assert "--force" in again.output


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--field", "--size", 64), "does not go with --rotation"),
        (("--survey", "ztf"), "does not go with --rotation"),
        (("--sources", "2:4"), "one number of galaxies"),
        (("--gaps",), "--gaps does not go"),
        (("--sky", 1), "--sky does not go"),
        (("--noise-correlation", "lanczos3"), "--noise-correlation does not go"),
    ],
)
def test_what_pairs_do_not_take(wrong, message, tmp_path):
    done = run("--rotation", 10, "--output", tmp_path / "pairs", *wrong)
    assert done.exit_code == 2
    assert message in done.output
    over = run("--rotation", 1000, "--output", tmp_path / "pairs")
    assert "between -360 and 360" in over.output
