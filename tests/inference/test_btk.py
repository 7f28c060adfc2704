"""Behind the interface of the BlendingToolKit, as PyPI has it; `.ci/peers` installs it.

All but two tests are skipped where it is not installed.
"""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import Table

from scorepriors import InputError
from scorepriors.inference import btk_deblender
from scorepriors.inference.evaluation import _btk
from scorepriors.inference.evaluation._btk import psf_images

SIZE = 41
CENTERS = (((20.0, 14.0), (21.0, 27.0)), ((19.0, 20.0),))  # (row, column), two blends


def test_a_sentence_without_it(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InputError, match="BlendingToolKit is not installed: pip install --no-deps"):
        btk_deblender(3)


def test_too_many_sources_are_noticed_before_a_fit(monkeypatch):
    class Deblender:
        def __init__(self, max_n_sources):
            self.max_n_sources = max_n_sources

    def fitted(*args, **kwargs):
        raise AssertionError("a blend was fitted")

    btk = SimpleNamespace(Deblender=Deblender)
    monkeypatch.setattr(importlib, "import_module", lambda name: btk)
    monkeypatch.setattr(_btk, "observation_of", lambda batch, index: index)
    monkeypatch.setattr(_btk, "_pixels", lambda catalog, wcs: catalog)
    monkeypatch.setattr(_btk, "read_positions", lambda catalog, obs: catalog)
    monkeypatch.setattr(_btk, "deblend_many", fitted)
    catalogs = [Table({"ra": np.zeros(n), "dec": np.zeros(n)}) for n in (1, 3)]
    batch = SimpleNamespace(batch_size=2, catalog_list=catalogs, wcs=None)
    with pytest.raises(InputError, match="blend 1 has 3 sources, more than `max_n_sources` = 2"):
        btk_deblender(2).batch_call(batch)
    with pytest.raises(AssertionError, match="was fitted"):  # control
        btk_deblender(3).batch_call(batch)


@pytest.fixture(scope="module")
def batch():
    """Two blends of exponential galaxies in LSST's six bands, with BTK's noise."""
    pytest.importorskip("btk")
    import galsim
    from btk.blend_batch import BlendBatch
    from btk.survey import get_surveys, make_wcs
    from surveycodex.utilities import mean_sky_level

    survey = get_surveys("LSST")
    bands, rng = survey.available_filters, np.random.default_rng(1)
    psfs = [survey.get_filter(band).psf for band in bands]
    scale = survey.pixel_scale.to_value("arcsec")
    wcs = make_wcs(scale, (SIZE, SIZE))
    isolated = np.zeros((2, 2, len(bands), SIZE, SIZE))
    blends = np.zeros((2, len(bands), SIZE, SIZE))
    catalogs = []
    for i, centers in enumerate(CENTERS):
        for b, (band, psf) in enumerate(zip(bands, psfs, strict=True)):
            sky = mean_sky_level(survey, survey.get_filter(band)).to_value("electron")
            for k, (row, column) in enumerate(centers):
                light = galsim.Exponential(half_light_radius=0.5, flux=400 * np.sqrt(sky))
                offset = (column - (SIZE - 1) / 2, row - (SIZE - 1) / 2)
                seen = galsim.Convolve(light, psf)
                image = seen.drawImage(nx=SIZE, ny=SIZE, scale=scale, offset=offset)
                isolated[i, k, b] = image.array
            light = isolated[i, :, b].sum(0)
            blends[i, b] = light + rng.normal(0, np.sqrt(sky + light))
        row, column = np.array(centers).T
        ra, dec = wcs.pixel_to_world_values(column, row)
        catalogs.append(Table({"ra": ra * 3600, "dec": dec * 3600}))
    return BlendBatch(2, 2, SIZE * scale + 1e-6, survey, blends, isolated, catalogs, psfs)


@pytest.fixture(scope="module")
def found(batch):
    # The profiles alone: what is tested here is the interface.
    return btk_deblender(3, free_form=False)(batch)


def test_images_and_catalogs_are_those_of_the_interface(batch, found):
    assert found.deblended_images.shape == (2, 3, 6, SIZE, SIZE)
    assert found.max_n_sources == 3
    for i, centers in enumerate(CENTERS):
        number = len(centers)
        assert not found.deblended_images[i, number:].any()
        true = batch.isolated_images[i, :number].sum((-2, -1))
        light = found.deblended_images[i, :number].sum((-2, -1))
        # The faintest band has a signal to noise of a few tens.
        np.testing.assert_allclose(light, true, rtol=0.2)
        catalog = found.catalog_list[i]
        np.testing.assert_allclose(
            np.stack([catalog["y_peak"], catalog["x_peak"]], 1), centers, atol=0.3
        )
        np.testing.assert_allclose(catalog["ra"], batch.catalog_list[i]["ra"], atol=0.1)
        fluxes = np.stack([catalog[f"flux_{band}"] for band in "ugrizy"], 1)
        errors = np.stack([catalog[f"flux_err_{band}"] for band in "ugrizy"], 1)
        assert (np.abs(fluxes - true) < 5 * errors + 0.02 * true).all()
        result = found.extra_data[i]["result"]
        assert set(result.noise_from_model) == set("ugrizy")


def test_metrics_of_btk_take_it(batch, found):
    from btk.metrics.reconstruction import MSE

    # What BTK calls so is the root of the mean square.
    rms = MSE(2)(batch.isolated_images[:, :, 2], found.deblended_images[:, :2, 2])
    light = np.sqrt(np.mean(batch.isolated_images[0, :, 2] ** 2))
    assert 0 < rms < 0.1 * light


def test_one_blend_other_positions_and_none(batch):
    empty = Table({"ra": [], "dec": []})
    deblender = btk_deblender(1, free_form=False)
    assert str(deblender) == "ScorepriorsDeblender"
    none = deblender.deblend(0, batch, reference_catalogs=[empty, empty])
    assert len(none.catalog) == 0
    assert not none.deblended_images.any()
    one = deblender.deblend(1, batch)
    assert len(one.catalog) == 1
    with pytest.raises(InputError, match="blend 0 has 2 sources, more than `max_n_sources` = 1"):
        deblender.deblend(0, batch)
    with pytest.raises(InputError, match="leave out `njobs`, got 2"):
        deblender(batch, njobs=2)


def test_psfs_are_on_the_pixels_of_the_images(batch):
    psfs = psf_images(batch)
    assert psfs.shape == (6, SIZE, SIZE)
    band = batch.survey.get_filter("r")
    middle = psfs[2, SIZE // 2]
    width = np.count_nonzero(middle > middle.max() / 2) * 0.2
    assert abs(width - band.psf_fwhm.to_value("arcsec")) < 0.25


def test_images_of_psfs_are_refused(batch):
    from dataclasses import replace

    with pytest.raises(InputError, match="images whose pixels have an unknown size"):
        psf_images(replace(batch, psf=[object()] * 6))
