r"""Fluxes of a deblended scene with errors that know everything uncertain.

Two estimates, which answer two questions.

*Measured*: what the likelihood says, the shapes following the data with hardly any prior.  Free
to be negative and unbiased at blank sky: for stacks and for the significance of a source.

*Posterior*: what is known, the prior on brightness and colors included.  Positive in the mean,
with smaller errors where neighbors overlap.

Both have errors from the Gauss-Newton matrix of the parametric scene about fluxes and shapes
jointly, and an error of the model: by how much the two fits, which know galaxies in different
ways, disagree, and a share of the flux (`scorepriors._surveys.ErrorModel`).  The numbers are
calibrated on simulated blends of bulges and disks, irregular galaxies, color gradients and real
shapes (``benchmarks/errors``).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from scorepriors._moments import shapes
from scorepriors._surveys import ErrorModel
from scorepriors.inference.deblending._units import units_of
from scorepriors.models.scene._scene import Scene
from scorepriors.models.spectra._epochs import EpochSpectra

from ._equations import Equations, equations_of, solve, system_of
from ._posterior import posterior_fluxes

#: Factor of the posterior's width in the Gauss-Newton approximation, which exaggerates it for
#: shapes that are hardly known, and the signal to noise at which half of it holds: of a
#: source that is not there the shape does not matter.
WIDTH, KNOWN = 0.66, 3.0

#: Share of the prior of shapes that stays when a flux is measured: without any, the shape of a
#: source that is not there would be undetermined.  Positions keep theirs, which is the catalog's.
SHAPE_PRIOR = 0.05

#: Width of the likelihood of a flux without data, in units of the flux of the fit and of the
#: largest noise of the scene: far more than colors scatter.
UNKNOWN = 3.0, 30.0


@dataclass(frozen=True)
class Photometry:
    """Fluxes and errors of N sources in B bands, in the unit of the image.

    Attributes
    ----------
    flux, covariance
        Posterior mean of the fluxes ``[N, B]``, and their covariance ``[N, B, N, B]``.
    measured, measured_covariance
        Measured fluxes and their covariance.
    seen
        Mask ``[N, B]``, False where a band has no data about a source: its fluxes are NaN.
    center_covariance
        Covariance of the positions (row, column), ``[N, 2, 2]``; NaN for kinds of sources without
        a site ``offset``.
    way_covariance
        Covariance of the ways (row, column) of stars that move, in pixels between the first and the
        last time, ``[N, 2, 2]``; NaN for all others, None if nobody asked.
    shape_error
        Standard deviations of size (pixels), e1 and e2 at the model's resolution, ``[N, 3]``.
    unit
        Flux of one unit of each band in that of the first, ``[B]``; None if all are the same.
    """

    flux: Float[np.ndarray, "N B"]
    covariance: Float[np.ndarray, "N B N B"]
    measured: Float[np.ndarray, "N B"]
    measured_covariance: Float[np.ndarray, "N B N B"]
    seen: Bool[np.ndarray, "N B"]
    center_covariance: Float[np.ndarray, "N 2 2"]
    shape_error: Float[np.ndarray, "N 3"]
    way_covariance: Float[np.ndarray, "N 2 2"] | None = None
    unit: Float[np.ndarray, " B"] | None = None

    def scaled(self, factor: Float[np.ndarray, " B"]) -> "Photometry":
        """Return the same with fluxes times a factor per band, for other units."""
        factor = np.asarray(factor, float)
        both = factor[:, None, None] * factor
        return replace(
            self,
            flux=self.flux * factor,
            covariance=self.covariance * both,
            measured=self.measured * factor,
            measured_covariance=self.measured_covariance * both,
            unit=None if self.unit is None else self.unit / factor * factor[0],
        )

    @property
    def error(self) -> Float[np.ndarray, "N B"]:
        """Errors of the posterior fluxes."""
        return _errors(self.covariance)

    @property
    def measured_error(self) -> Float[np.ndarray, "N B"]:
        """Errors of the measured fluxes."""
        return _errors(self.measured_covariance)

    @property
    def total(self) -> Float[np.ndarray, "2 N"]:
        """Posterior flux summed over the bands with data, and its error, ``[2, N]``.

        In the unit of the first band.
        """
        return _totals(self.flux, self.covariance, self.unit)

    @property
    def measured_total(self) -> Float[np.ndarray, "2 N"]:
        """Measured flux summed over the bands with data, and its error, ``[2, N]``.

        In the unit of the first band.
        """
        return _totals(self.measured, self.measured_covariance, self.unit)

    @property
    def snr(self) -> Float[np.ndarray, " N"]:
        """Measured flux of all bands over its error: Gaussian with width one at blank sky."""
        flux, error = self.measured_total
        return np.divide(flux, error, out=np.zeros_like(flux), where=error > 0)


def photometry(
    scene: Scene,
    parametric: Any,
    result: Any,
    seen: np.ndarray,
    errors: ErrorModel = ErrorModel(),  # noqa: B008 (a value)
    single: np.ndarray | None = None,
) -> Photometry:
    """Return fluxes and errors of a deblended scene.

    Parameters
    ----------
    scene
        The parametric scene.
    parametric, result
        Fitted parametric scene and fitted scene of the result (`FittedScene`); the same if there
        is one fit alone.
    seen
        Mask ``[N, B]``, False where a band has no data about a source.
    errors
        Model of the errors beyond those of the curvature.
    single
        Mask ``[N]`` of galaxies that have one fit alone; none if not given.

    Notes
    -----
    The measured flux is least squares at the shapes of the result, plus the first-order change
    when the shapes of the parametric scene give up their prior.
    """
    equations = equations_of(scene, parametric.fit)
    seen = seen & equations.seen
    equations = equations._replace(seen=seen)
    system = system_of(equations)
    held = np.where(equations.site == "offset", 1.0, SHAPE_PRIOR)
    free, usual = solve(system, held), solve(system)
    fixed = parametric.least_squares - equations.flux
    disputed = np.where(seen, result.flux - parametric.flux, 0.0)
    measured = result.least_squares + np.where(seen, free.flux_step - fixed, 0.0)
    likely = result.least_squares + np.where(seen, usual.flux_step - fixed, 0.0)
    size = seen.size
    own = usual.covariance[:size, :size]
    # A fit that ended at a galaxy without light, or with light without end, measures nothing.
    seen = seen & np.isfinite(likely) & np.isfinite(measured)
    seen = seen & (np.diag(own).reshape(seen.shape) > 0)
    rough = np.nan_to_num(equations.flux, nan=0.0, posinf=0.0, neginf=0.0)
    flux, covariance, precision = posterior_fluxes(
        np.where(seen, likely, rough),
        _with_unknown(own, rough, seen),
        partial(_moments, scene, parametric.fit.values, _noise(own, seen)),
    )
    final = solve(system, flux_precision=precision)
    alone = np.zeros(len(seen)) if single is None else np.asarray(single, float)
    share = errors.single * alone
    unit = np.concatenate(units_of(scene.exposures))
    in_one = measured * unit, free.covariance[:size, :size] * _both(unit, len(seen))
    share /= np.sqrt(np.maximum(_significance(*in_one), 1.0))
    of_model = partial(_model_error, errors, disputed, share)
    width = errors.scale * _width(*in_one)
    if isinstance(scene.spectra, EpochSpectra):
        # It was measured on galaxies; a point that varies has no shape that it could be wrong about.
        width = np.where(scene.spectra.rows, 1.0, width)
    factor = np.repeat(width, seen.shape[1])
    return Photometry(
        flux=np.where(seen, flux, np.nan),
        covariance=_blocks(factor[:, None] * factor * covariance + of_model(flux), seen),
        measured=np.where(seen, measured, np.nan),
        measured_covariance=_blocks(
            errors.scale**2 * free.covariance[:size, :size] + of_model(measured), seen
        ),
        seen=seen,
        center_covariance=_center_covariance(equations, final.covariance[size:, size:]),
        shape_error=np.hypot(
            _shape_errors(equations, final.covariance[size:, size:])
            * np.stack([1 + (errors.single_size - 1) * alone, *np.ones((2, len(alone)))], 1),
            _model_errors_of_shapes(errors, result.morphology, parametric.morphology),
        ),
        way_covariance=_center_covariance(equations, final.covariance[size:, size:], "way"),
        unit=None if (unit == 1).all() else unit,
    )


def _both(unit: np.ndarray, count: int) -> np.ndarray:
    """Return the factors ``[N B, N B]`` of a covariance for fluxes in one unit."""
    each = np.tile(unit, count)
    return each[:, None] * each


def _moments(scene: Scene, values: dict, noise, flux, covariance):
    order, count = scene.order, scene.num_sources
    own = {n: np.asarray(v)[order] for n, v in values.items() if "/" not in n and len(v) == count}
    return scene.spectra.moments(flux, covariance, own, noise)


def _significance(flux: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the sum of each source's fluxes over its error, ``[N]``."""
    variance = np.einsum("kbkc->k", covariance.reshape(*flux.shape, *flux.shape))
    return np.abs(flux.sum(1)) / np.sqrt(np.maximum(variance, np.finfo(float).tiny))


def _width(flux: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the factor of the errors of each source, ``[N]``."""
    known = flux.sum(1) ** 2
    unknown = KNOWN**2 * np.einsum("kbkc->k", covariance.reshape(*flux.shape, *flux.shape))
    total = known + unknown
    share = np.divide(known, total, out=np.zeros_like(known), where=total > 0)
    return 1 - (1 - WIDTH) * share


def _noise(covariance: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return errors of the fluxes summed over the bands with data, ``[N]``."""
    blocks = covariance.reshape(*seen.shape, *seen.shape)
    noise = np.sqrt(np.einsum("kbkc->k", blocks))
    return np.where(noise > 0, noise, max(noise.max(), np.finfo(float).tiny))


def _with_unknown(covariance: np.ndarray, flux: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return a covariance with a wide Gaussian where there are no data."""
    found, missing = covariance.copy(), np.flatnonzero(~seen.ravel())
    largest = max(np.sqrt(np.diag(covariance).max()), np.finfo(float).tiny)
    width = UNKNOWN[0] * np.abs(flux.ravel()[missing]) + UNKNOWN[1] * largest
    found[missing, missing] = width**2
    return found


def _model_error(
    errors: ErrorModel, disputed: np.ndarray, share: np.ndarray, flux: np.ndarray
) -> np.ndarray:
    """Return the covariance of the model's errors: full between the bands of a source."""
    num_sources, num_bands = flux.shape
    out = np.zeros((num_sources, num_bands, num_sources, num_bands))
    for k in range(num_sources):
        out[k, :, k] = errors.misfit**2 * np.outer(disputed[k], disputed[k])
        out[k, :, k] += (errors.floor**2 + share[k] ** 2) * np.outer(flux[k], flux[k])
    return out.reshape(flux.size, flux.size)


def _blocks(covariance: np.ndarray, seen: np.ndarray) -> np.ndarray:
    known = seen.ravel()
    found = np.where(known[:, None] & known, covariance, np.nan)
    return found.reshape(*seen.shape, *seen.shape)


def _errors(covariance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("kbkb->kb", covariance))


def _totals(flux: np.ndarray, covariance: np.ndarray, unit: np.ndarray | None) -> np.ndarray:
    if unit is not None:
        flux, covariance = flux * unit, covariance * (unit[:, None, None] * unit)
    total = np.nansum(flux, 1)
    variance = np.nansum(np.einsum("kbkc->kbc", covariance), (1, 2))
    nothing = np.isnan(flux).all(1)
    return np.where(nothing, np.nan, np.stack([total, np.sqrt(variance)]))


def _center_covariance(
    equations: Equations, covariance: np.ndarray, site: str = "offset"
) -> np.ndarray:
    """Return the covariance of a pair of numbers of each source, NaN for sources without it."""
    out = np.full((len(equations.area), 2, 2), np.nan)
    for k in range(len(out)):
        mine = np.flatnonzero((equations.owner == k) & (equations.site == site))
        if len(mine) == 2:
            out[k] = covariance[np.ix_(mine, mine)]
    return out


def _shape_errors(equations: Equations, covariance: np.ndarray) -> np.ndarray:
    """Propagate the covariance of the shape parameters to size, e1 and e2."""
    widths = np.sqrt(np.diag(covariance))
    # Moments under a window are no linear functions of the image: differences over half of each
    # parameter's width.
    steps = [0.5 * width * slope for width, slope in zip(widths, equations.slope, strict=True)]
    moved = [equations.image[k] + step for k, step in zip(equations.owner, steps, strict=True)]
    change = _shapes(moved) - _shapes(equations.image)[equations.owner]
    slope = change / np.where(widths > 0, 0.5 * widths, 1.0)[:, None]
    out = np.zeros((len(equations.area), 3))
    for k in range(len(out)):
        mine = np.flatnonzero(equations.owner == k)
        variance = np.einsum(
            "ps,pq,qs->s", slope[mine], covariance[np.ix_(mine, mine)], slope[mine]
        )
        out[k] = np.sqrt(np.maximum(variance, 0.0))
    return out


def _model_errors_of_shapes(
    errors: ErrorModel, images: np.ndarray, others: np.ndarray
) -> Float[np.ndarray, "N 3"]:
    """Return errors of size, e1 and e2 by how much those of the two fits ``[N, H, W]`` disagree."""
    if images is others:
        return np.zeros((len(images), 3))
    size, e1, e2 = (a - b for a, b in zip(shapes(images), shapes(others), strict=True))
    # The same for both ellipticities, which mix as the image is turned.
    both = errors.ellipticity * np.hypot(e1, e2) / np.sqrt(2)
    return np.nan_to_num(np.stack([errors.size * np.abs(size), both, both], axis=1))


def _shapes(images: list[np.ndarray]) -> np.ndarray:
    """Return size, e1 and e2 ``[N, 3]`` of square images, those of one size at once."""
    out = np.zeros((len(images), 3))
    sides = np.array([len(image) for image in images])
    for side in np.unique(sides):
        which = np.flatnonzero(sides == side)
        out[which] = np.stack(shapes(np.stack([images[i] for i in which])), axis=1)
    return out
