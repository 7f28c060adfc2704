"""What simulated fields are made of: galaxies of the blends, members of clusters, stars."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from scorepriors._filters import WAVELENGTHS
from scorepriors._surveys import Survey, flux_of

from ._blend_sets import bulge_and_disk, draw_magnitude
from ._simulation import colors

#: Logarithm of number counts of stars per magnitude, off the plane of the galaxy.
_STAR_COUNTS = 0.2

#: Magnitudes by which the brightest stars outshine the brightest galaxies of a survey's blends.
BRIGHTEST_STARS = 4.0

#: Coldest and hottest of stars, kelvin, and the share of the cold ones' inverse temperatures.
_TEMPERATURES = (3000.0, 8000.0)

#: Spread of magnitudes about those of a black body.
_STAR_SCATTER = 0.03

#: Slopes of the colors of a cluster's galaxies: all are red.
_RED, _RED_SCATTER = 2.0, 0.05


@dataclass(frozen=True)
class Body:
    """One source before it is drawn.

    Attributes
    ----------
    parts
        GalSim profiles of unit flux, each with its fluxes ``[B]`` in nJy; no profile for a star.
    magnitude
        AB magnitude in i (or in the middle band) that it was drawn for.
    is_star, has_structure
        What it is.
    """

    parts: tuple[tuple[Any, np.ndarray], ...]
    magnitude: float
    is_star: bool = False
    has_structure: bool = False

    @property
    def flux(self) -> np.ndarray:
        """Total fluxes ``[B]``, nJy."""
        return np.sum([flux for _, flux in self.parts], axis=0)


def draw_galaxy(galsim, rng, facts: Survey, bands: str) -> Body:
    """Draw a galaxy of the population of a survey's sets of blends."""
    population: Any = facts.galaxies
    magnitude = draw_magnitude(rng, *population.magnitudes)
    magnitudes = magnitude + colors(rng, 1, bands)[0]
    profile = bulge_and_disk(galsim, rng, population, magnitude)
    return Body(((profile, flux_of(magnitudes)),), magnitude)


def draw_star(galsim, rng, facts: Survey, bands: str) -> Body:
    """Draw a star: a point of the color of a black body."""
    population: Any = facts.galaxies
    bright, faint = population.magnitudes
    magnitude = draw_magnitude(rng, bright - BRIGHTEST_STARS, faint, _STAR_COUNTS)
    cold, hot = 1 / np.array(_TEMPERATURES)
    # Cold stars are the most numerous.
    temperature = 1 / (hot + (cold - hot) * np.sqrt(rng.uniform()))
    wave = np.array([WAVELENGTHS[band] for band in (*bands, "i")])
    light = -2.5 * np.log10(_black_body(wave, temperature))
    relative = light[:-1] - light[-1] + _STAR_SCATTER * rng.standard_normal(len(bands))
    flux = flux_of(magnitude + relative)
    return Body(((galsim.DeltaFunction(), flux),), magnitude, is_star=True)


def _black_body(wave: np.ndarray, temperature: float) -> np.ndarray:
    """Return the flux per frequency, in any unit, at wavelengths in nm."""
    # h c / k = 1.4388e7 nm K.
    return wave**-3.0 / np.expm1(1.4388e7 / (wave * temperature))
