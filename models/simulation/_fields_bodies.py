"""What simulated fields are made of: galaxies of the blends, members of clusters, stars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scorepriors._filters import WAVELENGTHS
from scorepriors._surveys import Survey, flux_of

from ._blend_sets import bulge_and_disk, draw_magnitude
from ._simulation import colors

#: Magnitudes by which the brightest stars outshine the brightest galaxies of a survey's blends,
#: and by which stars of that brightness do that fill a pixel of its camera.
BRIGHTEST_STARS, SATURATED_STARS = 4.0, 2.0

#: Logarithm of number counts per magnitude, of stars off the plane of the galaxy and of members
#: of clusters: both grow less than those of galaxies.
_STAR_COUNTS, _MEMBER_COUNTS = 0.1, 0.15

#: Coldest and hottest of stars, kelvin.
_TEMPERATURES = (3000.0, 8000.0)

#: Spread of magnitudes of stars about those of a black body.
_STAR_SCATTER = 0.03

#: Slopes of the colors of members of clusters, of bulges, disks and young stars, and their scatter.
_MEMBERS, _BULGES, _DISKS, _YOUNG = (1.9, 2.1), (1.8, 2.1), (1.1, 1.5), (0.0, 0.4)
_COLOR_SCATTER = 0.03

#: Half-light radii of central galaxies of clusters and of galaxies with structure, pixels.
_CENTRAL_SIZES, _STRUCTURED_SIZES = (7.0, 14.0), (5.0, 14.0)

#: Magnitudes of galaxies with structure relative to the brightest of a survey's blends.
_STRUCTURED_MAGNITUDES = (-2.0, 0.5)


@dataclass(frozen=True)
class Body:
    """One source before it is drawn.

    Attributes
    ----------
    parts
        GalSim profiles of unit flux, each with its fluxes ``[B]`` in nJy.
    magnitude
        AB magnitude in i that it was drawn for.
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


def draw_galaxy(galsim, rng, facts: Survey, bands: Sequence[str]) -> Body:
    """Draw a galaxy of the population of a survey's sets of blends."""
    population: Any = facts.galaxies
    magnitude = draw_magnitude(rng, *population.magnitudes)
    magnitudes = magnitude + colors(rng, 1, bands)[0]
    profile = bulge_and_disk(galsim, rng, population, magnitude)
    return Body(((profile, flux_of(magnitudes)),), magnitude)


def draw_member(galsim, rng, facts: Survey, bands: Sequence[str]) -> Body:
    """Draw a galaxy of a cluster: of the same shapes, but red, and more often bright."""
    population: Any = facts.galaxies
    bright, faint = population.magnitudes
    magnitude = draw_magnitude(rng, bright, faint, _MEMBER_COUNTS)
    profile = bulge_and_disk(galsim, rng, population, magnitude)
    return Body(((profile, _flux(rng, magnitude, bands, _MEMBERS)),), magnitude)


def draw_central(galsim, rng, facts: Survey, bands: Sequence[str]) -> Body:
    """Draw the galaxy in the middle of a cluster: bright, large, with the wings of a bulge."""
    population: Any = facts.galaxies
    magnitude = population.magnitudes[0] - rng.uniform(0, 1)
    radius = rng.uniform(*_CENTRAL_SIZES) * facts.scale
    profile = galsim.DeVaucouleurs(half_light_radius=radius)
    profile = profile.shear(q=rng.uniform(0.6, 1), beta=rng.uniform(0, 180) * galsim.degrees)
    return Body(((profile, _flux(rng, magnitude, bands, _MEMBERS)),), magnitude)


def draw_structured(galsim, rng, facts: Survey, bands: Sequence[str]) -> Body:
    """Draw a bright spiral: a red bulge, a disk, and lumps of young stars along two arms."""
    population: Any = facts.galaxies
    magnitude = population.magnitudes[0] + rng.uniform(*_STRUCTURED_MAGNITUDES)
    radius = rng.uniform(*_STRUCTURED_SIZES) * facts.scale
    bulge, young = rng.uniform(0.05, 0.25), rng.uniform(0.15, 0.35)
    ratio, angle = rng.uniform(0.3, 0.95), rng.uniform(0, 180) * galsim.degrees
    shares = (bulge, 1 - bulge - young, young)
    core = galsim.DeVaucouleurs(half_light_radius=0.25 * radius)
    profiles = (
        core.shear(q=(1 + ratio) / 2, beta=angle),  # bulges are thicker than disks
        galsim.Exponential(half_light_radius=radius).shear(q=ratio, beta=angle),
        _arms(galsim, rng, radius).shear(q=ratio, beta=angle),
    )
    parts = tuple(
        (profile, share * _flux(rng, magnitude, bands, slopes))
        for profile, share, slopes in zip(profiles, shares, (_BULGES, _DISKS, _YOUNG), strict=True)
    )
    return Body(parts, magnitude, has_structure=True)


def _arms(galsim, rng, radius: float):
    """Return lumps of unit flux along two logarithmic spirals, as seen from above."""
    count = int(rng.integers(25, 60))
    shares = rng.dirichlet(np.full(count, 0.8))
    # Radii of an exponential disk's stars, half of whose light is within 1.678 scale lengths.
    distances = radius * np.clip(rng.gamma(2, 1 / 1.678, count), 0.3, 2.2)
    pitch = np.tan(np.deg2rad(rng.uniform(12, 28))) * rng.choice((-1, 1))
    turns = np.log(distances / radius) / pitch + rng.normal(0, 0.25, count)
    azimuths = rng.uniform(0, 2 * np.pi) + np.pi * rng.integers(2, size=count) + turns
    sizes = radius * rng.uniform(0.04, 0.12, count)
    return galsim.Sum(
        [
            galsim.Gaussian(sigma=size, flux=share).shift(
                distance * np.cos(azimuth), distance * np.sin(azimuth)
            )
            for size, share, distance, azimuth in zip(
                sizes, shares, distances, azimuths, strict=True
            )
        ]
    )


def draw_star(galsim, rng, facts: Survey, bands: Sequence[str]) -> Body:
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


def _flux(rng, magnitude: float, bands: Sequence[str], slopes: tuple[float, float]) -> np.ndarray:
    return flux_of(magnitude + colors(rng, 1, bands, slopes, _COLOR_SCATTER)[0])


def _black_body(wave: np.ndarray, temperature: float) -> np.ndarray:
    """Return the flux per frequency, in any unit, at wavelengths in nm."""
    # h c / k = 1.4388e7 nm K.
    return wave**-3.0 / np.expm1(1.4388e7 / (wave * temperature))
