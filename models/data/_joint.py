"""Several observations of one sky as one: other pixels, other PSFs, other bands."""

import warnings
from collections.abc import Sequence

import numpy as np
from astropy import units
from astropy.wcs import WCS

from scorepriors._errors import InputError
from scorepriors._surveys import ZERO_POINT
from scorepriors.models.rendering._grids import regrid

from ._observation import Observation
from ._parts import Part
from ._psf_checks import PSFWarning

#: Largest error in pixels of the reference that the straight grid of a part may make.
_STRAIGHT = 0.1

#: Share of a PSF's power beyond what the reference's pixels can hold that is worth a word.
_LOST_POWER = 0.02


def join_observations(reference: Observation, *others: Observation) -> Observation:
    """One observation of all bands, for a joint fit.

    Sources get one morphology, on the pixels of the reference, and a flux in every band of
    every observation.  Nothing is resampled: each observation is compared with the model
    on its own pixels.

    Parameters
    ----------
    reference
        Its pixels are the model's, so their side must be that of the prior; positions are in them.
    *others
        Of the same sky, with other pixels, PSFs and bands.  Their pixels may have another
        side and start anywhere, but must run along those of the reference.

    Returns
    -------
    Observation
        With `Observation.parts`; bands whose names are taken get a number (``r_2``).  The
        PSFs of the others are given in pixels of the reference.

    Raises
    ------
    InputError
        If an observation has no WCS, is turned or mirrored or does not overlap, or if fluxes have
        no common unit.

    Warns
    -----
    PSFWarning
        If a PSF is sharper than the pixels of the reference can hold.
    """
    observations = [reference, *others]
    if len(observations) == 1:
        return reference
    if any(len(obs.parts) > 1 for obs in observations):
        raise InputError("some of the observations are joined already; join all of them at once.")
    parts, first = [], 0
    for number, obs in enumerate(observations):
        name = obs.name or f"observation {number + 1}"
        origin, scale = ((0.0, 0.0), 1.0) if number == 0 else _straight_grid(reference, obs, name)
        parts.append(Part(first, obs.num_bands, origin, scale, obs.shape, obs.wcs, name))
        first += obs.num_bands
    psfs = [reference.psfs, *(_psfs_on(p, o) for p, o in zip(parts[1:], others, strict=True))]
    zero_points, unit = _common_unit(observations)
    canvas = np.max([obs.shape for obs in observations], axis=0)
    return Observation(
        np.concatenate([_padded(obs.images, canvas) for obs in observations]),
        np.concatenate([_padded(obs.weights, canvas) for obs in observations]),
        _same_size(psfs),
        _distinct([band for obs in observations for band in obs.bands]),
        reference.wcs,
        unit,
        zero_points,
        reference.name,
        reference.catalog,
        tuple(parts),
    )


def _straight_grid(reference: Observation, obs: Observation, name: str):
    """Origin and scale of an observation's pixels in those of the reference."""
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


def _psfs_on(part: Part, obs: Observation) -> np.ndarray:
    """PSFs ``[B, P, P]`` at pixels of the reference, as smooth as these can show."""
    size = obs.psfs.shape[-1]
    grid = 2 * size
    transforms = np.fft.rfft2(obs.psfs.astype(float), (grid, grid))
    fastest = np.maximum(abs(np.fft.fftfreq(grid))[:, None], np.fft.rfftfreq(grid)[None, :])
    held = fastest <= 0.5 * part.scale
    power = abs(transforms) ** 2
    lost = (power * ~held).sum((1, 2)) / power.sum((1, 2))
    sharp = [
        f"{band} {share:.0%}"
        for band, share in zip(obs.bands, lost, strict=True)
        if share > _LOST_POWER
    ]
    if sharp:
        warnings.warn(
            f"PSFs of {part.name} are sharper than pixels of the first observation can show; the "
            f"share of their power that is lost: {', '.join(sharp)}. Put the sharper observation "
            "first, with a prior for its pixels.",
            PSFWarning,
            stacklevel=3,
        )
    half = int(size // 2 * part.scale)
    start = size // 2 - half / part.scale
    grids = np.array([[start, start, 1 / part.scale]])
    shape = (2 * half + 1, 2 * half + 1)
    drawn = regrid(
        (transforms * held)[:, None],
        np.repeat(grids, len(transforms), 0),
        np.zeros((1, 2)),
        size,
        shape,
        xp=np,
    )[:, 0]
    return drawn / drawn.sum((1, 2), keepdims=True)


def _common_unit(observations: Sequence[Observation]):
    """Zero points of all bands, or the unit that all share."""
    if all(obs.flux_unit[0] == units.nJy for obs in observations):
        # Factors take image units to nanojanskys.
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
    """Names with numbers behind those that are taken."""
    out: list[str] = []
    for band in bands:
        name, number = band, 2
        while name in out:
            name, number = f"{band}_{number}", number + 1
        out.append(name)
    return tuple(out)


def _padded(cube: np.ndarray, canvas) -> np.ndarray:
    return np.pad(
        cube, [(0, 0), *((0, n - m) for n, m in zip(canvas, cube.shape[1:], strict=True))]
    )


def _same_size(psfs: Sequence[np.ndarray]) -> np.ndarray:
    """PSFs padded to the largest, centers kept."""
    size = max(p.shape[-1] for p in psfs)
    margins = [(size - p.shape[-1]) // 2 for p in psfs]
    return np.concatenate(
        [np.pad(p, [(0, 0), (m, m), (m, m)]) for p, m in zip(psfs, margins, strict=True)]
    )
