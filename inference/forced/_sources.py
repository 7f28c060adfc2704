"""Shapes and places of the sources of a finished scene, and how uncertain they are."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from scorepriors._errors import InputError
from scorepriors.inference.deblending._draws import source_draws
from scorepriors.inference.deblending._result import Deblended, FittedScene
from scorepriors.inference.deblending._simplest import as_sampled
from scorepriors.inference.deblending.photometry._equations import equations_of, solve, system_of
from scorepriors.inference.sampling._tree import group
from scorepriors.models.data._observation import Observation
from scorepriors.models.sources._moving import MovingStar

from ._moved import images_at, phase_at, slopes_at, way_at

#: Most draws, evenly chosen, in which fluxes are measured: their scatter is then known to 7 %.
MOST_DRAWS = 100


@dataclass(frozen=True)
class Boxes:
    """Images of N sources, each in a box of its own.

    Attributes
    ----------
    images
        Images ``[n, n]`` at the model's resolution, in any unit.
    corners
        First pixels (row, column) of the boxes, ``[N, 2]``.
    """

    images: list[np.ndarray]
    corners: Int[np.ndarray, "N 2"]

    @property
    def area(self) -> Float[np.ndarray, " N"]:
        """Sums over pixels: the flux of each image."""
        return np.array([np.sum(image, dtype=float) for image in self.images])

    @property
    def sides(self) -> tuple[int, ...]:
        """Different sides of the boxes, pixels."""
        return tuple(sorted({len(image) for image in self.images}))


@dataclass(frozen=True)
class Slopes:
    """Shapes as functions of parameters, about the parametric scene.

    Attributes
    ----------
    about
        Images of the parametric scene.
    owner
        Source of each of Q parameters, ``[Q]``.
    images
        Derivatives of the image by each parameter, in the box of its source.
    covariance
        Covariance of the parameters, ``[Q, Q]``.
    """

    about: Boxes
    owner: Int[np.ndarray, " Q"]
    images: list[np.ndarray]
    covariance: Float[np.ndarray, "Q Q"]


@dataclass(frozen=True)
class Fixed:
    """Sources whose shapes and places are known.

    Attributes
    ----------
    ids
        Names.
    reference
        Observation whose pixels the boxes are on.
    boxes
        Their images.
    center
        Places (row, column) ``[N, 2]``, pixels of the reference.
    psf_sigma
        Standard deviation in pixels of the PSF in the images; None for none.
    draws
        Images of the sources in draws of the posterior, ``[D]`` of `Boxes`; none if not known.
    slopes
        Their parametric shapes, where there are no draws; or None.
    lost
        Names of the stars that move, if the image has no time: nobody knows where they are.
    """

    ids: tuple[str, ...]
    reference: Observation
    boxes: Boxes
    center: Float[np.ndarray, "N 2"]
    psf_sigma: float | None
    draws: tuple[Boxes, ...] = ()
    slopes: Slopes | None = None
    lost: tuple[str, ...] = ()


def fixed_of(result: Deblended, tree: Any = None, time: float | None = None) -> Fixed:
    """Return the sources of a deblended scene, with what is known of their shapes.

    Parameters
    ----------
    result
        The scene.
    tree
        Draws of it, from `sample_deblended` or `laplace_deblended`; or None.  With draws the sources
        have the models that were sampled, by default those of `simplest`.
    time
        Time of the image in which they are measured, MJD, to which stars that move are taken; without
        one these have no light.

    Raises
    ------
    InputError
        If the draws are of another scene.
    """
    if tree is not None:
        _check_ids(result, tree)
        # Fluxes of free forms with errors of profiles would be those of neither.
        result = as_sampled(result, json.loads(tree.attrs.get("models", "[]")))
    ids = tuple(result.positions.ids)
    phase = phase_at(result, time)
    lost = np.isin(ids, result.moving if phase is None else ())
    return Fixed(
        ids=ids,
        reference=result.observation.views[0].observation,
        boxes=_without(_boxes_of(result.free_form, phase), lost),
        center=result.center + way_at(result.parametric, phase),
        psf_sigma=result.psf_sigma,
        draws=() if tree is None else tuple(_without(one, lost) for one in _drawn(tree, phase)),
        slopes=_slopes_of(result.parametric, phase) if tree is None else None,
        lost=tuple(np.array(ids)[lost].tolist()),
    )


def _without(boxes: Boxes, lost: np.ndarray) -> Boxes:
    """Return boxes without the light of some sources."""
    each = zip(boxes.images, lost, strict=True)
    return Boxes([0 * image if gone else image for image, gone in each], boxes.corners)


def _boxes_of(found: FittedScene, phase: float | None) -> Boxes:
    each = found.scene.morphologies(found.fit.values)
    drawn = [(np.asarray(one.image), np.asarray(one.corner)) for one in each]
    for number, stars in enumerate(found.scene.sources):
        if phase is not None and isinstance(stars, MovingStar):
            values = found.scene.values_of(stars.name, found.fit.values)
            drawn[number] = images_at(stars, values, phase)
    images = [image for one, _ in drawn for image in one]
    corners = np.concatenate([corner for _, corner in drawn])
    order = found.scene.order
    return Boxes([images[k] for k in order], corners[order])


def _check_ids(result: Deblended, tree: Any) -> None:
    ids = [str(one) for one in group(tree, "posterior")["source"].values]
    if ids != list(result.positions.ids):
        raise InputError(
            f"the draws are of {len(ids)} other sources than the {len(result.positions.ids)} of "
            "the scene; give those of the same run."
        )


def _drawn(tree: Any, phase: float | None) -> tuple[Boxes, ...]:
    each = list(source_draws(tree, phase))
    count = len(each[0].image)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_DRAWS)).astype(int))
    corners = np.stack([one.corner for one in each])
    return tuple(Boxes([one.image[i] for one in each], corners) for i in chosen)


def _slopes_of(found: FittedScene, phase: float | None) -> Slopes:
    equations = equations_of(found.scene, found.fit)
    size = equations.seen.size
    covariance = solve(system_of(equations)).covariance[size:, size:]
    there = _boxes_of(found, phase)
    images, slopes = list(equations.image), list(equations.slope)
    for row, moved in ({} if phase is None else slopes_at(found, phase)).items():
        images[row] = there.images[row]
        for name, each in moved.items():
            mine = np.flatnonzero((equations.owner == row) & (equations.site == name))
            for number, slope in zip(mine, each, strict=True):
                slopes[number] = slope
    return Slopes(Boxes(images, there.corners), equations.owner, slopes, covariance)
