"""`simulate --epochs`: files that `deblend --variable` opens, with true light curves."""

import json

import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner

from scorepriors._errors import InputError
from scorepriors.inference import deblend, light_curves
from scorepriors.inference.cli import main
from scorepriors.models import Observation, join_observations
from scorepriors.models.simulation._epochs_files import supernova, write_epochs


def run(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_deblend_finds_the_light_curve_of_the_files(tmp_path):
    found = run("simulate", "--epochs", 4, "--seed", 3, "--output", tmp_path / "nights")
    assert found.exit_code == 0, found.stderr
    paths = found.stdout.split()
    names = [*(f"epoch-{count}.fits" for count in (1, 2, 3, 4)), "catalog.ecsv", "truth.ecsv"]
    assert [path.rsplit("/", 1)[1] for path in paths] == names
    again = ("simulate", "--epochs", 4, "--seed", 3, "--output", tmp_path / "nights", "--force")
    facts = json.loads(run(*again, "--json").stdout)
    assert facts == {"survey": "lsst", "seed": 3, "files": paths}
    obs = join_observations(*map(Observation.read, paths[:4]))
    result = deblend(obs, paths[4], variable=["transient"], free_form=False)
    curve = light_curves(result)
    truth = QTable.read(paths[5])
    assert curve["filter"].tolist() == truth["filter"].tolist()
    np.testing.assert_allclose(curve["time"].mjd, truth["time"].mjd)
    pull = ((curve["flux"] - truth["flux"]) / curve["flux_err"]).value
    assert abs(pull).max() < 4
    # Without the transient the light curve would be refused by many errors.
    assert ((truth["flux"] / curve["flux_err"]).value ** 2).sum() > 100


def test_the_transient_is_absent_at_first():
    flux = supernova(np.arange(9.0) * 5)
    assert (flux[:3] == 0).all()
    assert flux.max() > 400


def test_mistakes(tmp_path):
    with pytest.raises(InputError, match="at least two epochs, got 1"):
        write_epochs(tmp_path, 1)
    (tmp_path / "catalog.ecsv").touch()
    with pytest.raises(InputError, match=r"catalog.ecsv exists; use --force"):
        write_epochs(tmp_path, 3)
    wrong = run("simulate", "--epochs", 3, "--sky", 1, "--output", tmp_path)
    assert "--sky does not go with --epochs" in wrong.stderr
    wrong = run("simulate", "--lumpy", "--num-blends", 1, "--output", tmp_path / "a.npz")
    assert "--lumpy is for --epochs" in wrong.stderr
