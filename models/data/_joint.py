"""Joint observations: several of one sky, with other pixels, PSFs and bands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy import units
from astropy.table import Table
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._surveys import ZERO_POINT
from scorepriors.models.rendering._grids import regrid
from scorepriors.models.rendering._turned import Turned

from ._alignment import align, seen_part
from ._field import Field
from ._observation import Observation, with_notes
from ._views import Photometry, View
from ._warnings import collected, note
from .psfs._checks import FINE, PSFWarning

#: Share of a PSF's power beyond the Nyquist frequency of the reference that gives a warning.
_LOST_POWER = 0.02

#: Share of a PSF's light in the corners of its turned square that may be cut off.
_CUT_LIGHT = 2e-4

#: Least half of the side of a PSF: the kernel to a sharp one rings over as many pixels.
_LEAST_HALF = 8


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

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all observations, each once."""
        return tuple(dict.fromkeys(one for v in self.views for one in v.observation.notes))

    def to_fits(self, path, overwrite: bool = False) -> None:
        """Raise `InputError`: joined observations have no file format."""
        raise InputError("joined observations have no file format; write each on its own.")


def join_observations(
    reference: Observation, *others: Observation | Field
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
        another side, start anywhere, and be turned, mirrored or distorted, as their WCSs say.
        What lies further beyond the reference than the PSF is wide is left out.  Of a `Field`, which
        `Field.open` makes of a file, that part alone is read, with the PSFs in its middle; those of an
        `Observation` stay those of the middle of its whole image.

    Returns
    -------
    JointObservation
        Joint observation; the reference itself if there are no others.  Repeated names of bands
        get a number (``r_2``).  PSFs of the others are in pixels of the reference.

    Raises
    ------
    InputError
        If an observation has no WCS, is distorted so much that fluxes would be wrong by 0.001 or
        does not overlap, or if fluxes have no common unit.

    Warns
    -----
    PSFWarning
        If a PSF is too sharp for the pixels of the reference, or changes across an observation that
        was cut far from its middle.
    """
    if isinstance(reference, Field):
        raise InputError(
            "the first observation is a Field; give an Observation, as by its `window`."
        )
    if not others:
        return reference
    observations = [reference]
    for number, one in enumerate(others, 2):
        called = one.name or f"observation {number}"
        observations.append(seen_part(reference, one, called) if isinstance(one, Field) else one)
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
        with collected() as said:
            view = view_on(reference, obs, name, bands=bands, first=first)
        views.append(replace(view, observation=with_notes(view.observation, said)))
    zero_points, unit = _common_unit(observations)
    return JointObservation(tuple(views), names, zero_points, unit)


def noted(
    obs: Observation | JointObservation, notes: Iterable[str]
) -> Observation | JointObservation:
    """Return an observation, or joined ones, with further notes, those of the first."""
    if not isinstance(obs, JointObservation):
        return with_notes(obs, notes)
    first, *others = obs.views
    first = replace(first, observation=with_notes(first.observation, notes))
    return replace(obs, views=(first, *others))


def view_on(
    reference: Observation,
    obs: Observation,
    name: str,
    *,
    bands: tuple[str, ...] | None = None,
    first: int = 0,
) -> View:
    """Return an observation as seen from the pixels of another.

    Parameters
    ----------
    reference
        Observation with the pixels of the model.
    obs
        Another one of the same sky, cut to what the reference covers.
    name
        What messages call it.
    bands, first
        Names of the bands, its own if not given, and the index of the first.

    Raises
    ------
    InputError
        See `scorepriors.models.data._alignment.align`.
    """
    at = align(reference, obs, name)
    psfs = _psfs_on(at.slope, obs, name)
    names = obs.bands if bands is None else bands
    return View(at.observation, psfs, names, at.origin, at.scale, first, at.turned)


def _psfs_on(slope: np.ndarray, obs: Observation, name: str) -> np.ndarray:
    """Return PSFs ``[B, P, P]`` at pixels of the reference, band-limited to them.

    Parameters
    ----------
    slope
        Derivatives ``[2, 2]`` of places in the reference by pixels of the observation.
    obs
        The observation.
    name
        What messages call it.
    """
    images = obs.psfs
    if obs.fine_psfs is not None:
        # Between the pixels as well, which may undersample the PSF.
        images, slope = obs.fine_psfs, slope / FINE
    size = images.shape[-1]
    grid = 2 * size
    transforms = np.fft.rfft2(images.astype(float), (grid, grid))
    back = np.linalg.inv(slope)
    waves = np.stack(np.meshgrid(np.fft.fftfreq(grid), np.fft.rfftfreq(grid), indexing="ij"))
    # A wave over these pixels, seen in those of the model.
    fastest = abs(np.einsum("ji,j...->i...", back, waves)).max(0)
    # Of parallel pixels the highest wave is at the limit, up to rounding.
    held = fastest <= 0.5 * (1 + 1e-6)
    power = abs(transforms) ** 2
    lost = (power * ~held).sum((1, 2)) / power.sum((1, 2))
    sharp = [
        f"{band} {share:.0%}"
        for band, share in zip(obs.bands, lost, strict=True)
        if share > _LOST_POWER
    ]
    if sharp:
        note(
            f"PSFs of {name} are sharper than pixels of the first observation can show; the "
            f"share of their power that is lost: {', '.join(sharp)}. Put the sharper observation "
            "first, with a prior for its pixels.",
            PSFWarning,
        )
    # The largest square of the model's pixels that the turned one holds, and the one around it.
    least = max(int(size // 2 * np.sqrt(abs(np.linalg.det(slope))) + 1e-3), _LEAST_HALF)
    most = max(int(size // 2 * abs(slope).sum(1).max()), least)
    drawn = _drawn_psfs(transforms * held, back, size, most)
    total = drawn.sum((1, 2))
    for half in range(least, most + 1):
        inner = drawn[:, most - half : most + half + 1, most - half : most + half + 1]
        if (abs(inner.sum((1, 2)) / total - 1) < _CUT_LIGHT).all():
            break
    return inner / inner.sum((1, 2), keepdims=True)


def _drawn_psfs(transforms: np.ndarray, back: np.ndarray, size: int, half: int) -> np.ndarray:
    """Return PSFs ``[B, P, P]``, P = 2 half + 1, from their transforms on pixels of their own.

    Parameters
    ----------
    transforms
        Real transforms ``[B, N, N // 2 + 1]`` of images of `size` pixels, padded to N.
    back
        Derivatives ``[2, 2]`` of places in the images by pixels of the result.
    size
        Side of the images.
    half
        Half the side of the result.
    """
    shape, first = (2 * half + 1, 2 * half + 1), np.zeros((1, 2))
    if np.allclose(back, back[0, 0] * np.eye(2), rtol=1e-9):
        step = back[0, 0]
        start = size // 2 - half * step
        straight = np.array([start, start, step])
        return regrid(transforms[:, None], straight, first, size, shape, xp=np)[:, 0]
    coefficients = np.zeros((2, 10))
    coefficients[:, 0], coefficients[:, 1:3] = size // 2, back
    middle = np.array([half, half, 1.0])
    turned = Turned(coefficients, middle, bool(abs(back[1, 0]) > abs(back[0, 0])))
    # The polynomial is exact everywhere, but the middle of a box of even side is between pixels.
    return regrid(transforms[:, None], turned, first, size, shape, xp=np)[:, 0]


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
