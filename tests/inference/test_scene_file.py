"""Results that this version has written, kept as data, can still be read."""

from pathlib import Path

import numpy as np
import pytest
from conftest import gaussian_prior

from scorepriors import InputError
from scorepriors._archives import read_archive, write_archive
from scorepriors.inference import load_scene, save_scene
from scorepriors.inference.deblending._scene_file import KIND, VERSION

KEPT = Path(__file__).parents[1] / "data" / "scene-4.npz"

# Of the fit that was written: three sources, the second of them a star.
FLUX = [
    [309.10198974609375, 320.5220031738281, 313.572998046875],
    [186.3070068359375, 178.49000549316406, 194.7760009765625],
    [386.0190124511719, 388.5719909667969, 385.7669982910156],
]


def test_a_scene_of_schema_4_opens():
    result = load_scene(KEPT, prior=gaussian_prior())
    np.testing.assert_allclose(result.free_form.flux, FLUX, atol=0.001)
    assert result.free_form.chi2 == pytest.approx(1.1208178, rel=1e-5)
    assert result.kinds.tolist() == ["galaxies", "stars", "galaxies"]
    assert result.positions.ids == ("a", "star", "c")
    assert result.converged
    # The fit is one of the model: its density there is what the fit says.
    fit = result.free_form.fit
    again = float(fit.posterior.potential_fn(fit.params))
    assert again == pytest.approx(float(fit.potential), rel=1e-5)


def test_what_is_read_is_written_alike(tmp_path):
    result = load_scene(KEPT, prior=gaussian_prior())
    save_scene(result, tmp_path / "again.npz", prior="gaussian")
    first, facts = read_archive(KEPT, kind=KIND, version=VERSION, mend="")
    second, _ = read_archive(tmp_path / "again.npz", kind=KIND, version=VERSION, mend="")
    assert set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
    # Nothing of how this package is built inside.
    assert {name.split("/")[0] for name in first} == {
        "observation",
        "positions",
        "free_form",
        "parametric",
    }
    assert "observations" in facts


def test_another_schema_is_one_sentence(tmp_path):
    arrays, facts = read_archive(KEPT, kind=KIND, version=VERSION, mend="")
    write_archive(tmp_path / "old.npz", arrays, facts, kind=KIND, version=VERSION - 1)
    with pytest.raises(InputError, match=r"another version of scorepriors.*deblend again"):
        load_scene(tmp_path / "old.npz", prior=gaussian_prior())


def test_a_kind_that_no_module_defines_is_named(tmp_path):
    arrays, facts = read_archive(KEPT, kind=KIND, version=VERSION, mend="")
    facts["stages"]["parametric"]["groups"][1]["kind"] = "Spiral"
    write_archive(tmp_path / "own.npz", arrays, facts, kind=KIND, version=VERSION)
    with pytest.raises(InputError, match=r"'Spiral'.*import the module"):
        load_scene(tmp_path / "own.npz", prior=gaussian_prior())
