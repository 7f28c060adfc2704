"""The comparison with peers: its metrics and table, and what becomes of codes that fail."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scorepriors.models.simulation._blend_sets import BlendSet, simulate_set, write_set

FOLDER = Path(__file__).parents[1] / "benchmarks" / "peers"


def loaded(name):
    spec = importlib.util.spec_from_file_location(f"peers_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def blends(tmp_path_factory):
    path = tmp_path_factory.mktemp("peers") / "blends.npz"
    return BlendSet(write_set(path, simulate_set("lsst", 2, seed=3, sources=(2, 3))))


def truths(blends):
    return np.concatenate([blends.truth(i).convolved for i in range(len(blends))])


def test_table_and_files(blends, tmp_path):
    table = loaded("table")
    true = truths(blends)
    codes = [
        table.entry("perfect", blends, 2, true, version="1.0", all_seconds=5.0, failed=0),
        table.entry("half as bright", blends, 2, true / 2, peak_bytes=2_500_000_000),
        table.entry("failed", blends, 2, np.full_like(true, np.nan), failed=2),
        table.missing("elsewhere", "not installed: a|b"),
        table.entry("floor", blends, 2, table.floor(blends, 2)),
    ]
    perfect, half, failed, _, floor = codes
    assert perfect["summary"]["median_abs_flux_error"] < 1e-5
    assert perfect["summary"]["xi_morphology_p16"] > 0.9999
    assert abs(perfect["summary"]["chi2_median"] - 1) < 0.05
    assert half["summary"]["median_abs_flux_error"] == pytest.approx(0.5, abs=1e-4)
    assert half["summary"]["xi_sed_median"] > 0.9999
    assert half["summary"]["chi2_median"] > perfect["summary"]["chi2_median"]
    assert failed["summary"]["share_flux_error_above_half"] == 1
    # Known shapes leave the noise, and fit it a little.
    assert 0 < floor["summary"]["median_abs_flux_error"] < 0.2
    assert floor["summary"]["chi2_median"] < perfect["summary"]["chi2_median"]
    facts = {"blends": 2, "sources": len(true), "seed": 3, "machine": "m", "cores": 2, "date": "d"}
    text = table.write({"facts": facts, "codes": codes}, tmp_path)
    lines = text.splitlines()
    assert len({line.count("|") for line in lines[:7]}) == 1
    assert lines[2].startswith("| perfect 1.0 | 0.000 / ")
    assert "| 5.0 |" in lines[2]
    assert "| 2.50 |" in lines[3]
    assert lines[5].startswith("| elsewhere | not installed: a/b |")
    assert json.loads((tmp_path / "results.json").read_text())["codes"][3]["missing"]
    assert (tmp_path / "table.md").read_text() == text
    assert (tmp_path / "figure.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="models for"):
        table.measured(blends, 1, true)


def test_an_error_in_a_blend_is_noted_and_the_next_one_runs(blends, tmp_path):
    counts = [len(blends.truth(i).flux) for i in range(2)]
    np.savez(
        tmp_path / "seen.npz",
        path=str(blends.path),
        images=np.stack([blends.observation(i).images for i in range(2)]),
        weights=np.stack([blends.observation(i).weights for i in range(2)]),
        psfs=np.stack([blends.observation(i).psfs for i in range(2)]),
        bands=np.array(blends.observation(0).bands),
        centers=np.concatenate([blends.truth(i).center for i in range(2)]),
        src_start=np.concatenate([[0], np.cumsum(counts)]),
    )
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        "import numpy as np\n"
        "def version():\n    return '7'\n"
        "def deblend(blend, light=1.0):\n"
        "    if blend.index == 0:\n        raise ValueError('no such luck')\n"
        "    return np.full((len(blend.centers), *blend.images.shape), light)\n"
    )
    command = [sys.executable, FOLDER / "child.py", adapter, tmp_path / "seen.npz"]
    command += [tmp_path / "made.npz", "--settings", '{"light": 2.0}']
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    with np.load(tmp_path / "made.npz") as made:
        assert list(made["errors"]) == ["ValueError: no such luck", ""]
        assert made["models"].shape == truths(blends).shape
        assert (made["models"][: counts[0]] == 0).all()
        assert (made["models"][counts[0] :] == 2).all()
        assert made["peak_bytes"] > 1e6
        assert str(made["version"]) == "7"
    subprocess.run([*map(str, command), "--limit", "1"], check=True, capture_output=True)
    with np.load(tmp_path / "made.npz") as made:
        assert len(made["models"]) == counts[0]


def test_a_peer_that_cannot_be_installed_says_why(monkeypatch):
    environment = loaded("environment")
    said = []

    def run(command, **_):
        said.append(command)
        # Nothing is there yet, and pip finds nothing.
        error = "ERROR: No matching distribution found\n" if "pip" in command else "no module\n"
        return subprocess.CompletedProcess(command, 1, "", error)

    monkeypatch.setattr(environment.subprocess, "run", run)
    why = environment.install(Path("python"), "scarlet2")
    assert why == "ERROR: No matching distribution found"
    assert said[1][-2:] == ["scarlet2==0.5.1", "tqdm"]
    said.clear()
    assert environment.install(Path("python"), "scarlet", "checkout")
    # First what building it takes.
    assert said[1][-1] == "numpy"
