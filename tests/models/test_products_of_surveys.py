"""Every product of a survey opens with right fluxes, bands, positions, noise and masks."""

import warnings

import numpy as np
import pytest
from survey_products import scene
from survey_products.layouts import MAKERS
from survey_products.measure import measure, nanojanskys

from scorepriors._filters import wavelength
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import FileWarning


def opened(made):
    """The observation of a product's files, as a user reads it, and what was said."""
    files = made.files[0] if len(made.files) == 1 else made.files
    psf = None if made.has_psf else scene.psf_image()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        obs = Observation.read(files, psf, **made.arguments)
    return obs, [one for one in caught if issubclass(one.category, UserWarning)]


@pytest.mark.parametrize("name", MAKERS)
def test_products_open_right(name, tmp_path):
    made = MAKERS[name](tmp_path)
    obs, said = opened(made)
    assert all(issubclass(one.category, FileWarning) for one in said), [str(w.message) for w in said]

    assert obs.bands == made.bands
    assert tuple(wavelength(band) for band in obs.bands) == made.wavelengths
    assert (nanojanskys(obs) is not None) == made.calibrated
    found = measure(made, obs)
    assert np.abs(found.ratio - 1).max() < 0.01
    assert (found.wrongly_masked, found.wrongly_used) == (0, 0)
    assert found.num_masked == made.masked.sum()
    assert found.noise_error < made.noise_error
    assert found.offset < 0.05
    assert (obs.wcs is not None) == made.has_wcs
    assert obs.pixel_scale == pytest.approx(made.pixel_scale, rel=1e-3)


def test_wrong_noise_would_show(tmp_path):
    made = MAKERS["Rubin DP1 visit image"](tmp_path)
    obs, _ = opened(made)
    made.sigma = made.sigma * 1.1
    made.fluxes = made.fluxes * 1.02
    made.masked = np.zeros_like(made.masked)
    found = measure(made, obs)
    assert found.noise_error > 0.05
    assert np.abs(found.ratio - 1).min() > 0.01
    assert found.wrongly_masked == 20
