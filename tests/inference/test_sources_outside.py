"""Sources whose centers lie outside of the image, from positions to files; and names of these."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable, Table
from conftest import gaussian_prior, small_observation

from scorepriors.inference import catalog, deblend
from scorepriors.inference.deblending._hdus import model_images, source_names
from scorepriors.inference.deblending._scene_file import load_scene
from scorepriors.inference.reports._outputs import write_outputs
from scorepriors.models import read_positions
from scorepriors.models.data._warnings import FileWarning

#: One in the image, one that shines in, one far outside: (row, column).
CENTERS = np.array([[12.0, 11.0], [-1.5, 6.0], [9.0, 45.0]])


@pytest.fixture(scope="module")
def result():
    obs = small_observation(CENTERS[:2], flux=800.0)
    table = Table({"id": ["in", "IN", "far"], "x": CENTERS[:, 1], "y": CENTERS[:, 0]})
    with pytest.warns(FileWarning, match="2 just outside were kept"):
        positions = read_positions(table, obs, margin=30)
    return deblend(obs, positions, prior=gaussian_prior(), padding=1)


def test_a_table_is_enough():
    obs = small_observation(CENTERS[:2], flux=800.0)
    table = {"x": CENTERS[:2, 1], "y": CENTERS[:2, 0]}
    with pytest.warns(FileWarning, match="1 just outside was kept"):
        found = deblend(obs, table, prior=gaussian_prior(), padding=1, free_form=False)
    assert found.positions.ids == ("0", "1")


def test_the_catalog_has_all_sources(result):
    table = catalog(result)
    assert table["id"].tolist() == ["in", "IN", "far"]
    flags = table["flags"].tolist()
    assert "edge" in flags[1]
    assert "no_data" in flags[2]
    assert np.isnan(table["flux_band0"][2])
    parametric = result.parametric.flux
    np.testing.assert_allclose(parametric[0], 800, rtol=0.1)
    np.testing.assert_allclose(parametric[1], 800, rtol=0.4)


def test_files_can_be_read_again(result, tmp_path):
    write_outputs(result, tmp_path / "out")
    again = load_scene(tmp_path / "out", prior=gaussian_prior())
    np.testing.assert_allclose(again.center, result.center)
    written = QTable.read(tmp_path / "out" / "catalog.ecsv")
    assert len(written) == 3
    with fits.open(tmp_path / "out" / "sources.fits") as hdus:
        assert not hdus["SOURCE_far"].data.any()


def test_names_of_extensions_differ(result):
    names = [hdu.name for hdu in model_images(result)]
    assert len(set(names)) == len(names)
    assert {"MODEL_IN", "MODEL_IN_2", "SOURCE_IN_2", "MODEL_FAR"} <= set(names)


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["a", "A"], ["a", "A_2"]),
        (["é", "è", "?"], ["?", "?_2", "?_3"]),
        (["x" * 60 + "1", "x" * 60 + "2"], ["x" * 48, "x" * 48 + "_2"]),
        (["a", "a_2", "A"], ["a", "a_2", "A_3"]),
    ],
)
def test_equal_names_get_numbers(ids, names):
    assert source_names(ids) == names
