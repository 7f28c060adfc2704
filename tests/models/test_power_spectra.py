"""Correlations from power spectra, and from files."""

import numpy as np
import pytest
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models import (
    Correlated,
    draw_correlated,
    drizzle_correlation,
    lanczos_correlation,
    load_example,
    spectrum_correlation,
    with_correlation,
)

GRID = (48, 40)


def spectrum(correlation, grid=GRID):
    """The power spectrum of noise of a correlation, as its definition says."""
    half = correlation.shape[-1] // 2
    rows, columns = (np.arange(-half, half + 1) for _ in "yx")
    down, right = (np.fft.fftfreq(n) for n in grid)
    waves = np.exp(-2j * np.pi * np.multiply.outer(down, rows))
    across = np.exp(-2j * np.pi * np.multiply.outer(right, columns))
    return (waves @ correlation @ across.T).real


@pytest.mark.parametrize(
    "known", [drizzle_correlation(1.0), drizzle_correlation(0.8, 0.6), lanczos_correlation(3)]
)
def test_the_spectrum_of_a_correlation_gives_it_back(known):
    found = spectrum_correlation(7.3 * spectrum(known), reach=len(known) // 2)
    np.testing.assert_allclose(found, known, atol=1e-12)


def test_power_laws_and_bands():
    power = np.stack([spectrum(drizzle_correlation(r)) for r in (0.5, 1.0)])
    found = spectrum_correlation(power)
    # What is zero for all bands is cut.
    assert found.shape == (2, 3, 3)
    np.testing.assert_allclose(found[1], drizzle_correlation(1.0), atol=1e-12)
    assert spectrum_correlation(np.ones((8, 8))).shape == (3, 3)


def test_noise_of_a_spectrum_is_that_of_its_correlation():
    weights, known = np.full((1, 16, 16), 4.0, np.float32), drizzle_correlation(1.0)
    first = Correlated(weights, known)
    second = Correlated.from_power_spectrum(weights, spectrum(known))
    images = np.random.default_rng(0).normal(size=(1, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(second.precision(images), first.precision(images), rtol=1e-5)


def test_the_mean_spectrum_of_noise_gives_its_correlation():
    rng, known = np.random.default_rng(1), drizzle_correlation(1.0)
    # A window of a periodic grid has leakage of some per cent; 400 of them leave 1 % of scatter.
    noise = draw_correlated(rng, (400, 64, 64), known)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(0)
    power = (power + np.roll(power[::-1, ::-1], (1, 1), (0, 1))) / 2
    np.testing.assert_allclose(spectrum_correlation(power, reach=1), known, atol=0.01)


def test_files_hold_correlations_or_spectra(tmp_path):
    obs, _ = load_example()
    known = drizzle_correlation(1.0)
    np.save(tmp_path / "known.npy", known)
    fits.PrimaryHDU(spectrum(known)).writeto(tmp_path / "power.fits")
    for name in ("known.npy", "power.fits"):
        found = with_correlation(obs, str(tmp_path / name)).correlation
        np.testing.assert_allclose(found, np.broadcast_to(known, (6, 3, 3)), atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_mistakes(tmp_path):
    with pytest.raises(InputError, match=r"array \[n, m\]"):
        spectrum_correlation(np.ones(5))
    with pytest.raises(InputError, match="not negative"):
        spectrum_correlation(-np.ones((8, 8)))
    power = np.abs(np.fft.fft2(np.random.default_rng(0).normal(size=(16, 16)))) ** 2
    with pytest.raises(InputError, match="undo an fftshift"):
        spectrum_correlation(np.fft.fftshift(power) * np.linspace(1, 2, 16))
    with pytest.raises(InputError, match="from 1 to 3 pixels for this spectrum, got 9"):
        spectrum_correlation(np.ones((8, 8)), reach=9)
    obs, _ = load_example()
    with pytest.raises(InputError, match=r"there is no file gone\.npy"):
        with_correlation(obs, "gone.npy")
    (tmp_path / "bad.fits").write_text("nothing")
    with pytest.raises(InputError, match="has no image of a correlation"):
        with_correlation(obs, str(tmp_path / "bad.fits"))
    np.save(tmp_path / "line.npy", np.ones(3))
    with pytest.raises(InputError, match=r"has an array of the shape \(3,\)"):
        with_correlation(obs, str(tmp_path / "line.npy"))
