"""Division of fields into scenes."""

import itertools

import numpy as np
import pytest

from scorepriors.inference.fields._plan import (
    FREE_FORM,
    MOST,
    SIZES,
    batches,
    padded,
    plan_cells,
    reach_of,
)

SHAPE, FWHM = (700, 900), 4.0


def crowd(seed=0, count=400):
    """Positions all over a field and in a dense cluster, with their significance."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 1, (count, 2)) * np.array(SHAPE)
    cluster = np.array([350.0, 400.0]) + rng.normal(0, 30, (60, 2))
    significance = 10 ** rng.uniform(0.7, 2.6, count + 60)
    return np.concatenate([places, cluster]), significance


def test_every_source_belongs_to_one_scene():
    places, significance = crowd()
    cells = plan_cells(places, significance, FWHM, SHAPE)
    owned = sorted(itertools.chain(*(cell.own for cell in cells)))
    assert owned == list(range(len(places)))
    assert max(len(cell.own) for cell in cells) <= MOST
    assert not any(set(cell.own) & set(cell.halo) for cell in cells)


def test_windows_are_in_the_field_and_hold_the_boxes_of_their_sources():
    places, significance = crowd()
    for cell in plan_cells(places, significance, FWHM, SHAPE):
        row, column, size = cell.window
        assert size in SIZES
        assert 0 <= row <= SHAPE[0] - size
        assert 0 <= column <= SHAPE[1] - size
        own = places[list(cell.own)] - (row, column)
        inside = np.minimum(own, size - 1 - own)
        border = np.minimum(places[list(cell.own)], np.array(SHAPE) - 1 - places[list(cell.own)])
        # A box of 32 pixels, except where the field itself ends.
        assert (inside >= np.minimum(16, np.floor(border))).all()


def test_the_closest_pairs_share_a_scene():
    places, significance = crowd()
    cells = plan_cells(places, significance, FWHM, SHAPE)
    scene = {k: number for number, cell in enumerate(cells) for k in cell.own}
    reach = reach_of(significance, FWHM)
    for one, other in itertools.combinations(range(400), 2):
        distance = np.hypot(*(places[one] - places[other]))
        if distance < 0.2 * (reach[one] + reach[other]):
            assert scene[one] == scene[other]


def test_the_order_of_a_catalog_does_not_matter():
    places, significance = crowd()
    order = np.random.default_rng(1).permutation(len(places))
    usual = plan_cells(places, significance, FWHM, SHAPE)
    other = plan_cells(places[order], significance[order], FWHM, SHAPE)
    assert [cell.window for cell in usual] == [cell.window for cell in other]
    assert [set(cell.own) for cell in usual] == [{int(order[k]) for k in c.own} for c in other]


def test_what_shines_into_a_window_without_overlap_is_hidden():
    # Two far from each other, a bright one just beyond the window of the first, a faint one not.
    places = np.array([[100.0, 100.0], [100.0, 138.0], [100.0, 300.0]])
    cells = plan_cells(places, np.array([6.0, 140.0, 6.0]), FWHM, SHAPE)
    found = {cell.own: (cell.halo, cell.hidden) for cell in cells}
    assert found[(0,)] == ((), (1,))
    assert found[(2,)] == ((), ())


def test_overlapping_sources_of_other_scenes_are_the_halo():
    places, significance = crowd()
    cells = plan_cells(places, significance, FWHM, SHAPE)
    reach = reach_of(significance, FWHM)
    assert any(cell.halo for cell in cells)
    for cell in cells:
        for others, overlap in ((cell.halo, True), (cell.hidden, False)):
            for other in others:
                distance = np.hypot(*(places[list(cell.own)] - places[other]).T)
                assert (distance < reach[list(cell.own)] + reach[other]).any() == overlap


def test_two_bright_ones_side_by_side_share_a_scene():
    # Each alone has a window of the largest size.
    places = np.array([[300.0, 300.0], [300.0, 305.0], [340.0, 300.0]])
    cells = plan_cells(places, np.array([5000.0, 4000.0, 20.0]), FWHM, SHAPE)
    assert {cell.own for cell in cells} == {(0, 1), (2,)}


@pytest.mark.parametrize("shape", [(40, 40), (64, 64), (50, 300)])
def test_fields_smaller_than_a_window_are_centered(shape):
    (cell,) = plan_cells([[20.0, 20.0]], [10.0], FWHM, shape)
    row, column, size = cell.window
    assert row <= 0
    assert row + size >= shape[0]
    assert column + size > 20 >= column


def test_padding_is_to_few_numbers():
    assert {padded(n, FREE_FORM) for n in range(1, 33)} == set(FREE_FORM)
    assert padded(0, FREE_FORM) == FREE_FORM[0]
    assert padded(33, FREE_FORM) == 2 * FREE_FORM[-1]


def test_batches_hold_items_of_one_key():
    assert batches(["a", "b", "a", "a", "b"], [2, 1, 2, 2, 1]) == [[0, 2], [1], [3], [4]]
