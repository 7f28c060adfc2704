"""The table of surveys, and its agreement with other places."""

import numpy as np
import pytest

from scorepriors import InputError, list_priors
from scorepriors._surveys import (
    LSST,
    PIXEL_SCALES,
    SPACE,
    SURVEYS,
    nearest_survey,
    survey,
    survey_of_pixels,
)
from scorepriors.inference.cli._simulation import _SURVEYS


def test_every_shipped_prior_belongs_to_one_survey_of_its_pixels():
    shipped = {info.name: info for info in list_priors()}
    rows = {name: one for one in SURVEYS for name in one.priors + one.named_priors}
    assert rows.keys() == shipped.keys()
    assert len(rows) == sum(len(one.priors + one.named_priors) for one in SURVEYS)
    for name, one in rows.items():
        assert shipped[name].pixel_scale == one.scale
    for one in SURVEYS:
        boxes = [shipped[name].box for name in one.priors]
        assert boxes == sorted(set(boxes))


def test_rows_agree_with_what_names_them():
    assert tuple(one.name for one in SURVEYS if one.galaxies) == _SURVEYS
    assert {
        **dict.fromkeys(("lsst", "lsst-irregular", "lsst-large"), 0.2),
        **dict.fromkeys(("euclid", "euclid-large"), 0.1),
        "hsc": 0.168,
        "ztf": 1.01,
    } == PIXEL_SCALES
    for one in SURVEYS:
        assert len(one.wavelengths) == len(one.bands)
        assert one.wavelengths == tuple(sorted(one.wavelengths))
        if one.galaxies:
            assert one.galaxies.training_set in PIXEL_SCALES


def test_the_pixels_of_the_table_are_those_of_surveycodex():
    surveycodex = pytest.importorskip("surveycodex")
    for one in SURVEYS:
        if one.in_codex:
            facts = surveycodex.get_survey(one.name.upper())
            assert one.scale == facts.pixel_scale.to_value("arcsec")


def test_nearest_pixels():
    assert [nearest_survey(s).name for s in (None, 0.2, 0.168, 0.1, 0.5, 3.0)] == [
        "lsst",
        "lsst",
        "hsc",
        "hsc",
        "ztf",
        "ztf",
    ]


def test_errors_are_those_of_the_nearest_pixels():
    """With priors or without: pixels of Euclid and HST have the priors of HSC, not its errors."""
    scales = (None, 0.2, 0.168, 0.1, 0.05, 1.2)
    assert [survey_of_pixels(s).name for s in scales] == [
        "lsst",
        "lsst",
        "hsc",
        "euclid",
        "hst",
        "ztf",
    ]
    assert survey_of_pixels(0.1).errors.scale > survey_of_pixels(0.168).errors.scale


def test_published_cameras():
    camera = LSST.published_camera("gi", years=10 / 4)
    depth = 31.4 - 2.5 * np.log10(5 * np.sqrt(camera.sky_variance * 2.266) * camera.seeing / 0.2)
    np.testing.assert_allclose(depth, np.array([27.4, 26.8]) - 1.25 * np.log10(4))
    np.testing.assert_allclose(SPACE.published_camera().seeing, [0.48, 0.50, 0.52])
    with pytest.raises(InputError, match="unknown LSST band 'x'; known are ugrizy"):
        LSST.published_camera("gx")
    for name in ("space", "des"):
        with pytest.raises(InputError, match=f"unknown survey '{name}'; there are lsst, hsc, ztf"):
            survey(name)
