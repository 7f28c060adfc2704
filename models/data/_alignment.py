"""Where the pixels of one observation lie on those of another, through both WCSs."""

from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS, NoConvergence

from scorepriors._errors import InputError
from scorepriors.models.rendering._turned import Turned, monomials

from ._field import Field
from ._observation import Observation, unchecked
from ._warnings import note
from .psfs._checks import PSFWarning

#: Largest error in pixels of the reference of a straight grid, which is faster than a turned one.
_STRAIGHT = 0.02

#: Largest error in pixels of the reference of the polynomial, and of a flux through the affine map
#: about each source.
_PLACE_ERROR, FLUX_ERROR = 0.05, 1e-3

#: Standard deviations in pixels of the model of the light that stands for a star and a galaxy.
_WIDTHS = (1.5, 4.0)

#: Pixels around the part of a field that is read, beside the PSF: that part is cut again.
_SPARE = 2

#: Distance of a part from the middle of its image, in units of the longer side of that, from which a
#: PSF that varies is another one.
_AWAY = 0.1

#: Places along each axis at which the map is fitted, and is compared with the WCSs.
_FITTED, _COMPARED = 12, 3


class Alignment(NamedTuple):
    """Pixels of an observation on those of the reference.

    Attributes
    ----------
    observation
        The observation, without what lies far beyond the reference.
    origin
        Center (row, column) of its first pixel, in pixels of the reference.
    scale
        Side of its pixels in pixels of the reference: the root of their area.
    turned
        Map of the pixels; None if they are straight: parallel to those of the reference.
    slope
        Derivatives ``[2, 2]`` of places in the reference by pixels, in the middle.
    """

    observation: Observation
    origin: tuple[float, float]
    scale: float
    turned: Turned | None
    slope: np.ndarray


def align(reference: Observation, obs: Observation, name: str) -> Alignment:
    """Return where the pixels of an observation lie on those of the reference.

    Parameters
    ----------
    reference
        Observation with the pixels of the model.
    obs
        Another one.
    name
        What messages call it.

    Raises
    ------
    InputError
        If one has no WCS, if they do not overlap, or if the map between them is so irregular that
        fluxes would be wrong by more than `FLUX_ERROR`.
    """
    _check_known(reference, obs, name)
    obs = _overlapping(reference, obs, name)
    pixels = _lattice(np.zeros(2), np.array(obs.shape) - 1.0, _FITTED)
    seen = _through(obs.wcs, reference.wcs, pixels, name)
    middle, reach = (np.array(obs.shape) - 1) / 2, max(obs.shape) / 2
    design = monomials((pixels - middle) / reach)
    (origin, *slopes), *_ = np.linalg.lstsq(design[:, :3], seen, rcond=None)
    slope = np.stack(slopes, 1) / reach
    scale = float(np.sqrt(abs(np.linalg.det(slope))))
    straight = origin + scale * (pixels - middle)
    if np.abs(straight - seen).max() <= _STRAIGHT:
        first = origin - scale * middle
        return Alignment(obs, (float(first[0]), float(first[1])), scale, None, scale * np.eye(2))
    coefficients = np.linalg.lstsq(design, seen, rcond=None)[0].T
    turned = Turned(
        coefficients.astype(np.float32),
        np.array([*middle, reach], np.float32),
        bool(abs(slope[1, 0]) > abs(slope[0, 0])),
    )
    missed = np.abs(design @ coefficients.T - seen).max()
    error = flux_error(reference, obs, turned, name)
    if missed > _PLACE_ERROR or error > FLUX_ERROR:
        raise InputError(
            f"the WCS of {name} is distorted too much for one scene: its map to the first "
            f"observation is {missed:.2g} px off, which changes fluxes by up to {error:.1g}; cut "
            "out a smaller part, or resample it."
        )
    first = turned.places(np.zeros(2), np)
    return Alignment(obs, (float(first[0]), float(first[1])), scale, turned, slope)


def seen_part(reference: Observation, image: Field, name: str) -> Observation:
    """Return the part of a field that sees the reference, with the PSFs of its middle.

    Parameters
    ----------
    reference
        Observation with the pixels of the model.
    image
        The field; only this part of it is read.
    name
        What messages call it.

    Returns
    -------
    Observation
        The part, with a margin of its PSF; it may be without any data.  Its `corner` is in pixels of
        the file.

    Raises
    ------
    InputError
        If one has no WCS, or they do not overlap.
    """
    _check_known(reference, image, name)
    first, last = _box(reference, image, name, image.psf_size + _SPARE)
    part = image.window(*first, *(last - first))
    row, column = image.corner
    corner = part.corner[0] + row, part.corner[1] + column
    return unchecked(**vars(part) | {"corner": corner, "notes": image.notes})


def _check_known(reference: Observation, obs: Observation | Field, name: str) -> None:
    for one, which in ((reference, "the first observation"), (obs, name)):
        if one.wcs is None:
            raise InputError(f"{which} has no WCS: nobody knows where it lies on the sky.")


def flux_error(reference: Observation, obs: Observation, turned: Turned, name: str) -> float:
    """Return the largest error of a flux that the affine map about sources makes.

    Fluxes of Gaussians, fitted at places all over the observation, are compared with those of the
    exact map.
    """
    worst = 0.0
    ends = np.array(obs.shape) - 1.0
    for at in _lattice(0.1 * ends, 0.9 * ends, _COMPARED):
        place = _through(obs.wcs, reference.wcs, at[None], name)
        pixel, near, slope = (a[0] for a in turned.near(place.astype(np.float32), np))
        for width in _WIDTHS:
            reach = 3 * width / np.sqrt(abs(np.linalg.det(slope)))
            pixels = _lattice(pixel - reach, pixel + reach, 25)
            exact = _through(obs.wcs, reference.wcs, pixels, name) - place
            affine = near + (pixels - pixel) @ slope.T - place
            light, model = (np.exp(-(a**2).sum(1) / (2 * width**2)) for a in (exact, affine))
            light *= _areas(exact) / _areas(affine)
            worst = max(worst, abs(float((light * model).sum() / (model**2).sum()) - 1))
    return worst


def _areas(places: np.ndarray) -> np.ndarray:
    """Return areas of the cells of a square lattice, from its places ``[n n, 2]``."""
    side = round(np.sqrt(len(places)))
    grid = places.reshape(side, side, 2)
    down, along = np.gradient(grid, axis=0), np.gradient(grid, axis=1)
    return abs(down[..., 0] * along[..., 1] - down[..., 1] * along[..., 0]).ravel()


def _overlapping(reference: Observation, obs: Observation, name: str) -> Observation:
    """Return the part of an observation that sees the reference, with a margin of its PSF."""
    first, last = _box(reference, obs, name, obs.psfs.shape[-1])
    shape = np.array(obs.shape)
    if (first == 0).all() and (last == shape).all():
        return obs
    away = np.abs((first + last) / 2 - shape / 2).max()
    if obs.psf_varies and away > _AWAY * shape.max():
        note(
            f"the PSFs of {name} change across its image and are those of its middle, {away:.0f} "
            "pixels from what the first observation sees; open it by Field.open(file), of which the "
            "part that is needed is read, with the PSFs there.",
            PSFWarning,
        )
    part = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    # Of checked arrays; there may be no data in this part.
    return unchecked(
        **vars(obs)
        | {
            "images": obs.images[:, *part],
            "weights": obs.weights[:, *part],
            "wcs": obs.wcs[part],  # type: ignore[index]
            "corner": (obs.corner[0] + int(first[0]), obs.corner[1] + int(first[1])),
        }
    )


def _box(
    reference: Observation, obs: Observation | Field, name: str, margin: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first pixel (row, column) of what sees the reference, and the one beyond the last."""
    ends = np.array(reference.shape) - 1.0
    seen = _through(reference.wcs, obs.wcs, _lattice(np.zeros(2), ends, 9), name)
    shape = np.array(obs.shape)
    first, last = np.floor(seen.min(0)), np.ceil(seen.max(0)) + 1
    if (last <= 0).any() or (first >= shape).any():
        raise InputError(f"{name} does not overlap the first observation on the sky.")
    first = np.maximum(first - margin, 0).astype(int)
    return first, np.minimum(last + margin, shape).astype(int)


def _through(one: WCS | None, other: WCS | None, pixels: np.ndarray, name: str) -> np.ndarray:
    """Return the pixels ``[N, 2]`` of another image at the places of those of one."""
    assert one is not None
    assert other is not None
    try:
        column, row = other.world_to_pixel(one.pixel_to_world(pixels[:, 1], pixels[:, 0]))
    except NoConvergence as error:
        raise InputError(
            f"the distortion in the WCS of {name} or of the first observation has no inverse "
            "where they are compared; do they overlap?"
        ) from error
    found = np.stack([row, column], axis=1)
    if not np.isfinite(found).all():
        raise InputError(f"{name} is on another side of the sky than the first observation.")
    return found


def _lattice(first: np.ndarray, last: np.ndarray, number: int) -> np.ndarray:
    """Return a square lattice of places ``[number^2, 2]`` between two corners."""
    rows, columns = (np.linspace(a, b, number) for a, b in zip(first, last, strict=True))
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
