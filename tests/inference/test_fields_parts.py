"""Parts, light and census of a field."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import QTable, Table

from scorepriors import InputError
from scorepriors.inference.fields._census import Census
from scorepriors.inference.fields._light import Light
from scorepriors.inference.fields._parts import (
    Place,
    Record,
    digest,
    read_arrays_of,
    read_part,
    write_part,
)
from scorepriors.inference.fields._plan import Window
from scorepriors.inference.fields._result import FieldResult
from scorepriors.inference.fields._seams import CHANGE, changed
from scorepriors.inference.fields._survey import owns, without_twins
from scorepriors.inference.fields._tasks import SceneTask, Sources
from scorepriors.models.data._tiles import tiles


def test_a_part_reads_back(tmp_path):
    records = [
        Record({"light": np.arange(6.0).reshape(2, 3), "ids": np.array(["a", "ü"])}, {"n": 1}),
        Record({"light": np.zeros((1, 2))}, {"n": 2, "chi2": float("nan")}),
    ]
    path = tmp_path / "step" / "part.npz"
    write_part(path, records)
    one, other = read_part(path)
    np.testing.assert_array_equal(one.arrays["light"], records[0].arrays["light"])
    assert list(one.arrays["ids"]) == ["a", "ü"]
    assert (one.facts["n"], other.facts["n"]) == (1, 2)
    (light,) = read_arrays_of(Place(path, 1), "light")
    np.testing.assert_array_equal(light, np.zeros((1, 2)))
    assert set(read_part(path, lambda name: name == "ids")[0].arrays) == {"ids"}


def test_a_damaged_part_is_named(tmp_path):
    path = tmp_path / "part.npz"
    write_part(path, [Record({"light": np.ones(3)})])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="delete it, and resume"):
        read_part(path)


def test_digests_tell_inputs_apart():
    array = np.arange(4.0)
    assert digest("a", array) == digest("a", array.copy())
    others = [digest("b", array), digest("a", array[::-1]), digest("a", array.reshape(2, 2))]
    assert len({digest("a", array), *others}) == 4


def test_light_adds_up_and_ends_with_the_field(tmp_path):
    light = Light(tmp_path / "light.dat", 2, (20, 30))
    assert not light.is_there
    ones = np.ones((2, 8, 8), np.float32)
    light.write([(Window(-4, 0, 8), ones), (Window(0, 4, 8), 2 * ones), (Window(16, 26, 8), ones)])
    assert light.is_there
    whole = light.window(0, 0, 20, 30)
    assert whole[0].sum() == 4 * 8 + 2 * 64 + 4 * 4
    assert whole[1, 2, 6] == 3
    np.testing.assert_array_equal(light.window(-4, 0, 8, 8)[:, 4:], whole[:, :4, :8])
    assert not light.window(100, 100, 4, 4).any()
    again = pickle.loads(pickle.dumps(light))
    np.testing.assert_array_equal(again.of(Window(0, 4, 8)), light.of(Window(0, 4, 8)))


def census(given=False, is_point=(False, False, True)):
    places = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])
    return Census.begin(("1", "2", "3"), places, is_point, np.array([5.0, 9.0, 7.0]), given=given)


def weighed(one, p_star, evidence):
    from dataclasses import replace

    return replace(one, p_star=np.array(p_star), evidence=np.array(evidence))


def test_detections_need_evidence():
    wanted = weighed(census(), [0.1, 0.9, 0.2], [100.0, 50.0, 1.0]).wanted()
    assert wanted.ids == ("1", "2")
    assert wanted.is_point.tolist() == [False, True]


def test_a_catalog_keeps_its_sources_and_its_stars():
    wanted = weighed(census(given=True), [0.1, 0.9, 0.2], [100.0, 50.0, -3.0]).wanted()
    assert wanted.ids == ("1", "2", "3")
    assert wanted.is_point.tolist() == [False, False, True]
    # One that knows no stars leaves it to the evidence.
    none = census(given=True, is_point=(False, False, False))
    wanted = weighed(none, [0.1, 0.9, 0.2], [100.0, 50.0, -3.0]).wanted()
    assert wanted.is_point.tolist() == [False, True, False]


def test_new_sources_have_names_of_their_own():
    more = census().with_added(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([4.0, 8.0]))
    assert more.ids == ("1", "2", "3", "4", "5")
    np.testing.assert_array_equal(more.places[3:], [[3.0, 4.0], [1.0, 2.0]])
    assert more.added.tolist() == [False] * 3 + [True] * 2
    assert more.keep(more.added).ids == ("4", "5")
    # The name of one that was dropped is not given again.
    fewer = more.keep(np.arange(5) < 4)
    assert fewer.with_added(np.array([[9.0, 9.0]]), np.array([5.0])).ids == (
        "1",
        "2",
        "3",
        "4",
        "6",
    )


def test_of_twins_at_a_seam_one_stays():
    places = np.array([[511.6, 40.0], [512.4, 40.5], [300.0, 40.0]])
    assert without_twins(places, np.array([5.0, 6.0, 4.0])).tolist() == [False, True, True]
    assert not len(without_twins(places[:0], np.zeros(0)))


def test_every_place_has_one_tile():
    shape = (700, 1300)
    rng = np.random.default_rng(0)
    places = rng.uniform(-30, 1, (500, 2)) + rng.uniform(0, 1, (500, 2)) * (720, 1320)
    count = sum(owns(tile, places, shape).astype(int) for tile in tiles(shape))
    assert (count == 1).all()


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_scene_is_fitted_again_if_its_neighbors_light_changes(tmp_path, share):
    """By more than the limit, in errors of a point's flux at the source's place."""
    deviation, sigma = 0.1, 4.0 / 2.355
    rows, columns = np.indices((64, 64))
    point = np.exp(-((rows - 30) ** 2 + (columns - 30) ** 2) / (2 * sigma**2))
    change = share * CHANGE * deviation * point / np.sqrt((point**2).sum())
    path = tmp_path / "part.npz"
    arrays = {
        "light": np.zeros((1, 64, 64), np.float32),
        "others": np.zeros((1, 64, 64), np.float32),
        "deviation": np.array([deviation]),
    }
    write_part(path, [Record(arrays)])
    own = Sources(("a",), np.array([[30.0, 30.0]]), np.zeros(1, bool))
    window = Window(0, 0, 64)
    scene = SceneTask(window, own, None, np.zeros((0, 3)), Place(path, 0), np.zeros(1), np.ones(1))
    light = Light(tmp_path / "light.dat", 1, (64, 64))
    light.write([(window, change[None].astype(np.float32))])
    assert changed(scene, light, 4.0) == (share > 1)


def test_shares_of_weights_are_those_of_the_scene_that_left_least(tmp_path):
    share = np.ones((2, 2, 16, 16), np.float32)
    share[0, 0, 10, 12] = 0.2  # row 10, column 12 of the field
    share[1, 0, 2, 4] = 0.6  # the same pixel in the window of another scene
    share[1, 1, 9, 0] = 0.0  # row 17, column 8
    part = tmp_path / "final.npz"
    write_part(
        part, [Record({"kept": share[0]}), Record({"light": share[0]}), Record({"kept": share[1]})]
    )
    windows = {"row": [0, 4, 8], "column": [0, 4, 8], "size": [16] * 3, "down_weighted": [1, 0, 2]}
    places = tuple(Place(part, number) for number in range(3))
    field = SimpleNamespace(bands=("g", "r"), shape=(40, 40))
    result = FieldResult(field, QTable(), Table(windows), {}, Light(tmp_path, 2, (40, 40)), places)
    whole = result.kept(0, 0, 40, 40)
    lost = {tuple(at): float(whole[tuple(at)]) for at in np.argwhere(whole < 1)}
    assert lost == {(0, 10, 12): pytest.approx(0.2), (1, 17, 8): 0.0}
    np.testing.assert_array_equal(result.kept(8, 6, 12, 9), whole[:, 8:20, 6:15])
    # The border of a window is not part of the next one, and beyond the field nothing is lost.
    assert (result.kept(11, 13, 4, 4) == 1).all()
    assert (result.kept(-6, -6, 6, 6) == 1).all()
