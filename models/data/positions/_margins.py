"""Sources beyond the edge of an image, whose light may reach into it."""

from typing import NamedTuple

import numpy as np
from astropy import units
from astropy.table import Table

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric
from scorepriors.models.data._warnings import note

from ._columns import first_of, numbers
from ._places import is_inside

#: Smallest margin in pixels where nothing is known of brightness.
FEW_PIXELS = 3.0

#: Largest margin in pixels that is chosen: half a box of the largest shipped prior.
_LARGEST = 32.0

#: Signal to noise of the light in the image above which a source beyond the edge is kept.
_SHINES = 1.0

#: Radius of the aperture, in pixels, in which sources are measured to gauge the catalog's fluxes.
_APERTURE = 4

#: Half-light radius in pixels of galaxies of which none is known, beside the PSF.
_RADIUS = 2.0

#: Columns of brightness (lower case), and whether they are magnitudes.
_BRIGHTNESS = (
    ("mag_auto", True),  # SExtractor
    ("flux_auto", False),
    ("auto_mag", True),  # SourceXtractor++
    ("auto_flux", False),
    ("kron_flux", False),  # photutils
    ("segment_flux", False),
    ("flux_r", False),  # Tractor
    ("flux_g", False),
    ("flux_i", False),
    ("flux_z", False),
    ("r_cmodelflux", False),  # Rubin
    ("i_cmodelflux", False),
    ("g_cmodelflux", False),
    ("r_psfflux", False),
    ("i_psfflux", False),
    ("flux_detection_total", False),  # Euclid
    ("flux_vis_psf", False),
    ("flux_vis_1fwhm_aper", False),
    ("phot_g_mean_mag", True),  # Gaia
    ("flux", False),
    ("total_flux", False),
    ("mag", True),
    ("mag_r", True),
    ("mag_i", True),
    ("rmag", True),
    ("imag", True),
    ("vmag", True),
    ("rmeanpsfmag", True),  # Pan-STARRS
)

#: Columns of half-light radii (lower case), and whether they are in arcseconds.
_SIZES = (("flux_radius", False), ("shape_r", True), ("half_light_radius", True))


def check_margin(margin) -> float | None:
    """Return a margin in pixels, or None for one by the brightness of each source.

    Raises
    ------
    InputError
        If it is no number, or below zero.
    """
    if margin is None:
        return None
    value = numeric(margin, "margin")
    if value.ndim or not (np.isfinite(value) and value >= 0):
        raise InputError(f"`margin` must be a number of pixels, 0 or more; got {margin!r}.")
    return float(value)


class Reach(NamedTuple):
    """Which sources of a catalog matter to an image.

    Attributes
    ----------
    kept
        Booleans ``[K]``.
    beyond
        Number of those whose centers lie outside of the image.
    """

    kept: np.ndarray
    beyond: int


def in_reach(
    row_column: np.ndarray, table: Table, columns: dict[str, str], obs, margin: float | None
) -> Reach:
    """Return which sources are in the image, or shine into it.

    Parameters
    ----------
    row_column
        Places ``[K, 2]``, NaN far from the image.
    table, columns
        The catalog, and its names of columns by their lower case.
    obs
        The observation.
    margin
        Largest distance beyond the edge, pixels.  None: where the catalog has a brightness, which
        is gauged by the sources inside, sources are kept whose light in the image is above its
        noise; otherwise those within a FWHM of the PSF, at least 3 pixels.
    """
    inside = is_inside(row_column, obs.shape)
    if margin is not None:
        kept = is_inside(row_column, obs.shape, margin)
    else:
        near = is_inside(row_column, obs.shape, _LARGEST) & ~inside
        kept = inside.copy()
        if near.any() and inside.any():
            kept |= _shining(row_column, inside, near, table, columns, obs)
    return Reach(kept, int((kept & ~inside).sum()))


def say_reach(reach: Reach, margin: float | None) -> None:
    """Warn about sources outside of the image: those left out, and those kept."""
    left, beyond = int((~reach.kept).sum()), reach.beyond
    if not left and not beyond:
        return
    said = []
    if left:
        said.append(
            f"{left} of {len(reach.kept)} sources of the catalog are outside of the image and were "
            "left out"
        )
    if beyond:
        by = "their light reaches into it" if margin is None else f"margin {margin:g} px"
        said.append(f"{beyond} just outside {'were' if beyond > 1 else 'was'} kept ({by})")
    note("; ".join(said) + ".")


def _shining(row_column, inside, near, table, columns, obs) -> np.ndarray:
    width = psf_fwhm(obs.views[0].psfs)
    few = is_inside(row_column, obs.shape, max(FEW_PIXELS, width)) & near
    first = obs.views[0].observation
    image, noise = _in_noise(first)
    flux = _fluxes(table, columns)
    if flux is None or not (noise > 0):
        return few
    apertures = np.array([_aperture(image, place) for place in row_column[inside]])
    good = np.isfinite(flux[inside]) & (flux[inside] > 0) & np.isfinite(apertures)
    if not good.any():
        return few
    # A robust ratio: neighbors and variable stars are in some apertures.
    gauge = np.median(apertures[good] / flux[inside][good])
    if not gauge > 0:
        return few
    # Aperture fluxes miss wings; half of the light is the usual loss.
    light = 2 * gauge * np.where(np.isfinite(flux), flux, 0.0)
    radius = np.hypot(_half_light(table, columns, first), width / 2)
    out = np.zeros(len(row_column), bool)
    for k in np.flatnonzero(near):
        out[k] = _signal(light[k], radius[k], row_column[k], obs.shape) > _SHINES
    return out


def psf_fwhm(psfs: np.ndarray) -> float:
    """Return the FWHM of the widest PSF in pixels, by its area above half of the peak."""
    return float(2 * np.sqrt(max((psf > psf.max() / 2).sum() for psf in psfs) / np.pi))


def _in_noise(obs) -> tuple[np.ndarray, float]:
    """Return the weighted sum of the bands in units of its noise, and 1 (0 without data)."""
    weights, images = obs.weights.astype(float), obs.images.astype(float)
    levels = np.array([np.median(w[w > 0]) if (w > 0).any() else 0.0 for w in weights])
    sky = [np.median(i[w > 0]) if (w > 0).any() else 0.0 for i, w in zip(images, weights)]
    light = np.where(weights > 0, images - np.array(sky)[:, None, None], 0.0)
    total = np.sqrt(max(levels.sum(), 1e-300))
    return np.einsum("b,byx->yx", levels, light) / total, float(levels.sum() > 0)


def _aperture(image: np.ndarray, place: np.ndarray) -> float:
    row, column = np.round(place).astype(int)
    low = np.maximum([row - _APERTURE, column - _APERTURE], 0)
    part = image[low[0] : row + _APERTURE + 1, low[1] : column + _APERTURE + 1]
    return float(part.sum())


def _fluxes(table: Table, columns: dict[str, str]) -> np.ndarray | None:
    """Return relative fluxes from the first column of brightness; None without any."""
    for name, is_magnitude in _BRIGHTNESS:
        if name in columns:
            try:
                values = numbers(table, columns[name])
            except InputError:
                continue
            # 99 and -99 are no magnitudes.
            return (
                np.where(np.abs(values) < 90, 10 ** (-0.4 * values), np.nan)
                if is_magnitude
                else values
            )
    return None


def _half_light(table: Table, columns: dict[str, str], obs) -> np.ndarray:
    """Return half-light radii in pixels, a usual one where they are not known."""
    name = first_of(columns, [name for name, _ in _SIZES])
    if name is None:
        return np.full(len(table), _RADIUS)
    in_arcsec = dict(_SIZES)[name.lower()]
    values = numbers(table, name, units.arcsec if in_arcsec else units.pix)
    if in_arcsec:
        values = values / (obs.pixel_scale or 1.0)
    return np.where(np.isfinite(values) & (values > 0), values, _RADIUS)


def _signal(light: float, radius: float, place: np.ndarray, shape: tuple[int, int]) -> float:
    """Return the signal to noise in the image of a round exponential profile.

    `light` is in units of the noise of a pixel.
    """
    rows = np.arange(shape[0])[:, None] - place[0]
    distance = np.hypot(rows, np.arange(shape[1])[None, :] - place[1])
    length = radius / 1.678  # half of an exponential's light is within 1.678 scale lengths
    profile = np.exp(-distance / length) / (2 * np.pi * length**2)
    return float(light * np.sqrt((profile**2).sum()))
