"""Every product of a survey as a field: its windows are cuts of the observation."""

import pickle
import warnings

import numpy as np
import pytest
from survey_products import scene
from survey_products.layouts import MAKERS

from scorepriors.models import Field, Observation
from scorepriors.models.data import _field_files


def in_another_process(field):
    """The field as a process gets it that has not opened its files."""
    _field_files._close_all()
    return pickle.loads(pickle.dumps(field))


@pytest.mark.parametrize("name", MAKERS)
def test_windows_are_cuts(name, tmp_path):
    made = MAKERS[name](tmp_path)
    files = made.files[0] if len(made.files) == 1 else made.files
    psf = None if made.has_psf else scene.psf_image()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        obs = Observation.read(files, psf, **made.arguments)
    with warnings.catch_warnings(record=True) as said_of_field:
        warnings.simplefilter("always")
        field = Field.open(files, psf, **made.arguments)
    assert [str(one.message) for one in said_of_field] == [str(one.message) for one in said]
    for one in (field, in_another_process(field)):
        window = one.window(7, 5, 20, 24)
        np.testing.assert_array_equal(window.images, obs.images[:, 7:27, 5:29])
        np.testing.assert_array_equal(window.weights, obs.weights[:, 7:27, 5:29])
        assert one.psfs_at(20.0, 30.0).shape == obs.psfs.shape
        whole = one.whole()
        np.testing.assert_array_equal(whole.weights, obs.weights)
        np.testing.assert_array_equal(whole.psfs, obs.psfs)
    assert (field.shape, field.bands, field.unit) == (obs.shape, obs.bands, obs.unit)
    assert (field.zero_point, field.name) == (obs.zero_point, obs.name)
    assert field.pixel_scale == obs.pixel_scale
