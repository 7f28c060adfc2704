"""PSFs on the command line: once for all bands, once for each, oversampled."""

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from scorepriors.inference.cli import main
from scorepriors.inference.cli._common import BAD_INPUT
from scorepriors.inference.cli._input import Input
from scorepriors.models.data._warnings import FileWarning
from scorepriors.models.rendering._psf import gaussian_psf

SIGMAS = {"g": 2.0, "r": 1.7, "i": 1.4}


@pytest.fixture
def files(tmp_path):
    """One image for each band, and one PSF for each."""
    images, psfs = [], []
    for band, sigma in SIGMAS.items():
        header = fits.Header({"FILTER": band, "PIXSCALE": 0.2})
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.ones((12, 12), "f4"), header, name="SCI")]
        hdus += [fits.ImageHDU(np.ones((12, 12), "f4"), name="VARIANCE")]
        images.append(tmp_path / f"image_{band}.fits")
        fits.HDUList(hdus).writeto(images[-1])
        psfs.append(tmp_path / f"psf_{band}.fits")
        fits.PrimaryHDU(gaussian_psf(sigma, 21)).writeto(psfs[-1])
    return images, psfs


def read(images, psf, **reading):
    (obs,), _, _ = Input(images, psf=psf, reading=reading).read()
    return obs


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_one_for_each_band(files, order):
    images, psfs = files
    obs = read(images, tuple(map(str, psfs[order])))
    for image, sigma in zip(obs.psfs, SIGMAS.values(), strict=True):
        np.testing.assert_allclose(image, gaussian_psf(sigma, 21), atol=1e-6)


def test_one_for_all_bands_is_said(files):
    images, psfs = files
    with pytest.warns(FileWarning, match=r"psf_r.fits holds one PSF for all of the bands g, r, i"):
        obs = read(images, (str(psfs[1]),))
    np.testing.assert_allclose(obs.psfs[0], gaussian_psf(1.7, 21), atol=1e-6)


def test_oversampling(files, tmp_path):
    images, _ = files
    fine = np.stack([gaussian_psf(4 * sigma, 85) for sigma in SIGMAS.values()])
    np.save(tmp_path / "fine.npy", fine)
    obs = read(images, (str(tmp_path / "fine.npy"),), psf_oversampling=4.0)
    np.testing.assert_allclose(obs.psfs[2], gaussian_psf(1.4, len(obs.psfs[2])), atol=1e-3)


MISTAKES = {
    "two for three": (lambda psfs: psfs[:2], "2 PSFs for 3 band"),
    "no such file": (lambda psfs: [*psfs[:2], "no.fits"], "no PSF file at 'no.fits'"),
    "oversampling of zero": (lambda psfs: psfs, "psf_oversampling is 0.0; give"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_sentence(files, tmp_path, name):
    images, psfs = files
    chosen, message = MISTAKES[name]
    options = [word for psf in chosen(psfs) for word in ("--psf", str(psf))]
    if "oversampling" in name:
        options += ["--psf-oversampling", "0"]
    arguments = ["deblend", *map(str, images), *options, "--output", str(tmp_path / "out")]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == BAD_INPUT
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert message in outcome.stderr


def test_the_example_takes_no_psf(files, tmp_path):
    arguments = ["deblend", "--example", "--psf", str(files[1][0]), "--output", str(tmp_path)]
    outcome = CliRunner().invoke(main, arguments)
    assert outcome.exit_code == BAD_INPUT
    assert "psf: options of files; the example needs none" in outcome.stderr
