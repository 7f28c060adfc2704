"""The prior on colors: galaxies, stars, and bands of unknown wavelength."""

import numpy as np
import pytest

from scorepriors._filters import WAVELENGTHS, wavelength
from scorepriors.models.spectra._colors import UNKNOWN, color_prior

LSST = ("u", "g", "r", "i", "z", "y")
WAVES = [wavelength(band) for band in LSST]


@pytest.fixture
def optical():
    return color_prior(WAVES, np.ones(6))


def power_law(slope):
    flux = np.array([WAVELENGTHS[b] for b in LSST], float) ** slope
    return flux / flux.sum()


def distance(spectrum, mean, covariance):
    """Squared distance from the mean, in widths, of a spectrum with the sum of the mean."""
    away = spectrum / mean - 1
    return away @ np.linalg.solve(covariance, away)


@pytest.mark.parametrize("slope", [0.3, 1.5, 2.7])
def test_galaxies_from_blue_to_red_are_usual(optical, slope):
    # Six numbers: the mean of their squared distance is 6.
    assert distance(power_law(slope), *optical) < 6


@pytest.mark.parametrize("spectrum", [power_law(-6.0), np.array([1.0, 0, 1, 0, 1, 0]) / 3])
def test_what_no_galaxy_has_is_unusual(optical, spectrum):
    assert distance(spectrum, *optical) > 40


def test_units_of_single_bands_change_nothing_but_units(optical):
    mean, covariance = optical
    factor = np.array([1.0, 2, 4, 1, 0.5, 3])
    scaled, same = color_prior(WAVES, factor)
    np.testing.assert_allclose(scaled, factor * mean / (factor * mean).sum())
    assert scaled.sum() == pytest.approx(1)
    assert np.linalg.eigvalsh(same).min() > 0
    np.testing.assert_allclose(np.diag(same)[[0, 5]], np.diag(covariance)[[0, 5]], rtol=0.5)


def test_bands_of_unknown_wavelength_are_taken_as_flat():
    mean, covariance = color_prior([wavelength("a"), wavelength("i")], np.array([1.0, 3.0]))
    np.testing.assert_allclose(mean, [0.25, 0.75])
    np.testing.assert_allclose(np.diag(covariance), UNKNOWN**2)
