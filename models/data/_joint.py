"""Joint observations: several of one sky, with other pixels, PSFs and bands."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy import units
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._surveys import ZERO_POINT
from scorepriors.models.rendering._grids import regrid

from ._observation import Observation
from ._views import Photometry, View
from .psfs._checks import PSFWarning

#: Largest error in pixels of the reference that the straight grid of a part may make.
_STRAIGHT = 0.1

#: Share of a PSF's power beyond the Nyquist frequency of the reference that gives a warning.
_LOST_POWER = 0.02


@dataclass(frozen=True, eq=False)
class JointObservation(Photometry):
    """Several observations of one sky, each on its own pixels; from `join_observations`.

    Attributes
    ----------
    views
        The observations, the first of which has the pixels of the model.
    bands
        Names of the bands of all observations, all different.
    zero_point
        AB magnitude of one image unit in each band; or None.
    unit
        Unit of a pixel's value where there is no zero point; or None.
    """

    views: tuple[View, ...]
    bands: tuple[str, ...]
    zero_point: tuple[float, ...] | None = None
    unit: units.UnitBase | None = None

    @property
    def reference(self) -> Observation:
        """The first observation."""
        return self.views[0].observation

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the first observation, in pixels."""
        return self.reference.shape

    @property
    def num_pixels(self) -> int:
        """Number of unmasked pixel values, over all bands of all observations."""
        return sum(view.observation.num_pixels for view in self.views)

    @property
    def wcs(self) -> WCS | None:
        """WCS of the first observation."""
        return self.reference.wcs

    @property
    def pixel_scale(self) -> float | None:
        """Side of a pixel of the first observation in arcseconds."""
        return self.reference.pixel_scale

    @property
    def name(self) -> str:
        """Name of the first observation."""
        return self.reference.name

    @property
    def catalog(self) -> Table | None:
        """Positions that came with the first observation."""
        return self.reference.catalog

    def to_fits(self, path, overwrite: bool = False) -> None:
        """Raise `InputError`: joined observations have no file format."""
        raise InputError("joined observations have no file format; write each on its own.")


def join_observations(
    reference: Observation, *others: Observation
) -> Observation | JointObservation:
    """Join observations of the same sky into one, for a joint fit.

    Sources get one morphology, on the pixels of the reference, and a flux in every band of
    every observation.  Nothing is resampled: each observation is compared with the model
    on its own pixels.

    Parameters
    ----------
    reference
        Observation with the pixels of the model and of positions; their side must be that of
        the prior's.
    *others
        Observations of the same sky, with other pixels, PSFs and bands.  Their pixels may have
        another side and start anywhere, but must be parallel to those of the reference.

    Returns
    -------
    JointObservation
        Joint observation; the reference itself if there are no others.  Repeated names of bands
        get a number (``r_2``).  PSFs of the others are in pixels of the reference.

    Raises
    ------
    InputError
        If an observation has no WCS, is turned or mirrored or does not overlap, or if fluxes have
        no common unit.

    Warns
    -----
    PSFWarning
        If a PSF is too sharp for the pixels of the reference.
    """
    observations = [reference, *others]
    if len(observations) == 1:
        return reference
    if any(isinstance(obs, JointObservation) for obs in observations):
        raise InputError("some of the observations are joined already; join all of them at once.")
    names = _distinct([band for obs in observations for band in obs.bands])
    views: list[View] = []
    for number, obs in enumerate(observations):
        first = sum(len(view.bands) for view in views)
        bands = names[first : first + obs.num_bands]
        if number == 0:
            views.append(View(obs, obs.psfs, bands))
            continue
        name = obs.name or f"observation {number + 1}"
        origin, scale = _straight_grid(reference, obs, name)
        psfs = _psfs_on(scale, obs, name)
        views.append(View(obs, psfs, bands, origin, scale, first))
    zero_points, unit = _common_unit(observations)
    return JointObservation(tuple(views), names, zero_points, unit)


def _straight_grid(reference: Observation, obs: Observation, name: str):
    """Return origin and scale of an observation's pixels in those of the reference."""
    for one, which in ((reference, "the first observation"), (obs, name)):
        if one.wcs is None:
            raise InputError(f"{which} has no WCS: nobody knows where it lies on the sky.")
    sky_of: WCS = obs.wcs  # type: ignore[assignment]
    ends = [np.linspace(0, n - 1, 5) for n in obs.shape]
    row, column = (a.ravel() for a in np.meshgrid(*ends, indexing="ij"))
    x, y = reference.wcs.world_to_pixel(sky_of.pixel_to_world(column, row))  # type: ignore[union-attr]
    seen = np.stack([y, x], axis=1)
    if not np.isfinite(seen).all():
        raise InputError(f"{name} is on another side of the sky than the first observation.")
    design = np.stack([np.ones_like(row), row, column], axis=1)
    (origin, along, across), *_ = np.linalg.lstsq(design, seen, rcond=None)
    if along[0] * across[1] - along[1] * across[0] <= 0:
        raise InputError(f"{name} is a mirror image of the first observation; flip one of them.")
    scale = (along[0] + across[1]) / 2
    straight = origin + scale * np.stack([row, column], axis=1)
    error = np.abs(straight - seen).max()
    if not scale > 0 or error > _STRAIGHT:
        turned = np.degrees(np.arctan2(across[0] - along[1], along[0] + across[1]))
        raise InputError(
            f"the pixels of {name} do not run along those of the first observation (turned by "
            f"{turned:.2g} degrees, up to {error:.2g} px apart); resample one of them first."
        )
    last = origin + scale * (np.array(obs.shape) - 1)
    if (last < 0).any() or (origin > np.array(reference.shape) - 1).any():
        raise InputError(f"{name} does not overlap the first observation on the sky.")
    return (float(origin[0]), float(origin[1])), float(scale)


def _psfs_on(scale: float, obs: Observation, name: str) -> np.ndarray:
    """Return PSFs ``[B, P, P]`` at pixels of the reference, band-limited to them."""
    size = obs.psfs.shape[-1]
    grid = 2 * size
    transforms = np.fft.rfft2(obs.psfs.astype(float), (grid, grid))
    fastest = np.maximum(abs(np.fft.fftfreq(grid))[:, None], np.fft.rfftfreq(grid)[None, :])
    held = fastest <= 0.5 * scale
    power = abs(transforms) ** 2
    lost = (power * ~held).sum((1, 2)) / power.sum((1, 2))
    sharp = [
        f"{band} {share:.0%}"
        for band, share in zip(obs.bands, lost, strict=True)
        if share > _LOST_POWER
    ]
    if sharp:
        warnings.warn(
            f"PSFs of {name} are sharper than pixels of the first observation can show; the "
            f"share of their power that is lost: {', '.join(sharp)}. Put the sharper observation "
            "first, with a prior for its pixels.",
            PSFWarning,
            stacklevel=3,
        )
    half = int(size // 2 * scale)
    start = size // 2 - half / scale
    grid = np.array([start, start, 1 / scale])
    shape = (2 * half + 1, 2 * half + 1)
    drawn = regrid((transforms * held)[:, None], grid, np.zeros((1, 2)), size, shape, xp=np)[:, 0]
    return drawn / drawn.sum((1, 2), keepdims=True)


def _common_unit(observations: Sequence[Observation]):
    """Return zero points of all bands, or the unit that all share."""
    if all(obs.flux_unit[0] == units.nJy for obs in observations):
        # Factors convert image units to nanojanskys.
        factors = np.concatenate([obs.flux_unit[1] for obs in observations])
        return tuple(ZERO_POINT - 2.5 * np.log10(factors)), None
    found = {str(obs.unit or "no unit") for obs in observations}
    if len(found) > 1 or any(obs.zero_point is not None for obs in observations):
        raise InputError(
            "the fluxes of the observations cannot be compared: give zero points, or images in "
            "nJy, for all of them."
        )
    return None, observations[0].unit


def _distinct(bands: Sequence[str]) -> tuple[str, ...]:
    """Return names with numbers appended to repeated ones."""
    out: list[str] = []
    for band in bands:
        name, number = band, 2
        while name in out:
            name, number = f"{band}_{number}", number + 1
        out.append(name)
    return tuple(out)
