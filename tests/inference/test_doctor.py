"""The state of an installation, as the command `doctor` tells it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from scorepriors import InputError, __version__
from scorepriors.inference import _doctor
from scorepriors.inference.cli import main


def test_it_tests_what_the_package_computes():
    ran = CliRunner().invoke(main, ["doctor"])
    assert ran.exit_code == 0, ran.output
    assert ran.output.count("\nok ") == 4
    assert "All tests passed." in ran.output
    assert f"scorepriors   {__version__}, Python 3." in ran.output
    assert all(len(line) <= 140 for line in ran.output.splitlines())


def test_json_has_all_of_it(monkeypatch):
    monkeypatch.setattr(_doctor, "trials", lambda: iter([_doctor.Trial("a", True, "b")]))
    ran = CliRunner().invoke(main, ["doctor", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert "ok      a: b." in ran.stderr
    assert found["passed"] is True
    assert found["tests"] == [{"name": "a", "passed": True, "text": "b"}]
    assert found["libraries"]["numpy"] == np.__version__
    assert found["cpus"] >= 1
    assert found["devices"]


def test_quiet_says_what_failed_alone(monkeypatch):
    for passed, output in ((True, ""), (False, "FAILED  a: b.\n")):
        trial = _doctor.Trial("a", passed, "b")
        monkeypatch.setattr(_doctor, "trials", lambda trial=trial: iter([trial]))
        ran = CliRunner().invoke(main, ["doctor", "--quiet"])
        assert (ran.exit_code, ran.output) == (0 if passed else 3, output)


def test_a_wrong_number_is_exit_code_3(monkeypatch):
    """A file that is not what was shipped, a crash."""

    def broken(name):
        raise InputError(f"{name} is damaged.")

    monkeypatch.setattr(_doctor, "load_prior", broken)
    monkeypatch.setattr(_doctor, "fit_map", lambda *args, **rest: 1 / 0)
    ran = CliRunner().invoke(main, ["doctor"])
    assert ran.exit_code == 3
    lines = [line for line in ran.output.splitlines() if line.startswith("FAILED")]
    assert [line.split("  ")[1].split(":")[0] for line in lines] == [
        "weights of the priors",
        "derivative of a learned density",
        "fit of a straight line",
    ]
    assert "lsst-32.safetensors is damaged." in lines[0]
    assert "ZeroDivisionError" in lines[2]
    assert "does not compute right" in ran.output


@pytest.mark.parametrize("factor", [2.0, 0.9])
def test_a_derivative_that_is_off_is_found(monkeypatch, factor):
    class Prior:
        event_shape = (8, 8)

        def log_prob(self, image):
            return -0.5 * (image**2).sum()

    monkeypatch.setattr(_doctor, "load_prior", lambda name: Prior())
    good, text = _doctor._derivative()
    assert good
    assert "at most 2 %" in text
    grad = _doctor.jax.grad
    monkeypatch.setattr(_doctor.jax, "grad", lambda f: lambda x: factor * grad(f)(x))
    bad, _ = _doctor._derivative()
    assert not bad


def test_a_cache_that_can_not_be_written(tmp_path):
    assert _doctor._cache(tmp_path / "missing" / "folder")["writable"]
    # A file where the folder should be.
    (tmp_path / "file").touch()
    found = _doctor._cache(tmp_path / "file" / "folder")
    assert found == {
        "folder": str(tmp_path / "file" / "folder"),
        "writable": False,
        "programs": 0,
        "mib": 0.0,
    }
