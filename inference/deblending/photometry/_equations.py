r"""Normal equations for fluxes and shapes jointly, about the mode of the parametric scene.

With :math:`H` the Gauss-Newton matrix of the data about amplitudes and shape parameters, and
:math:`\Lambda` the precision of the shapes' priors, :math:`(H + \Lambda)^{-1}` is the covariance of
the fluxes that the *likelihood* measures, the shapes free.  It is never indefinite, unlike the
curvature of the density at the mode of a faint or close pair.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpyro import handlers
from scipy.linalg import block_diag

from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.scene._blend import SMALLEST_SHARE
from scorepriors.models.scene._linear import LinearScene, linearize, numbers_of
from scorepriors.models.scene._scene import Scene
from scorepriors.models.spectra._spectra import PARTS


class Parts(NamedTuple):
    """Color gradients of G sources of two parts, with R derivatives by shape parameters.

    Attributes
    ----------
    owner, shape
        Source of every gradient, ``[G]``, and shape parameter of every derivative, ``[R]``.
    amplitude
        Gradients at the mode, ``[G, B]``.
    root
        Roots of the covariances of their priors, ``[G, B, B]``.
    """

    owner: Int[np.ndarray, " G"]
    shape: Int[np.ndarray, " R"]
    amplitude: Float[np.ndarray, "G B"]
    root: Float[np.ndarray, "G B B"]


class Equations(NamedTuple):
    """Normal equations of N sources in B bands with Q shape parameters in all.

    Attributes
    ----------
    amplitude, area
        Amplitudes ``[N, B]`` at the mode, and pixel sums of the images ``[N]``.
    seen
        Mask ``[N, B]``, False where there are no data about a source.
    normal, projected
        Products ``[B, M, M]`` of N renderings and Q derivatives with each other, and ``[B, M]`` with
        the residual; with `parts` those of G gradients and R of their derivatives follow.
    owner, site
        Source and site of every shape parameter, ``[Q]``.
    area_slope
        Derivatives of the pixel sums, ``[Q]``.
    pull, precision
        First derivative of the log-prior of the shapes and minus the second, ``[Q]``.
    image, slope
        Images by source, and derivatives of the image by shape parameter.
    parts
        Color gradients; None where there are none.
    """

    amplitude: Float[np.ndarray, "N B"]
    area: Float[np.ndarray, " N"]
    seen: Bool[np.ndarray, "N B"]
    normal: Float[np.ndarray, "B M M"]
    projected: Float[np.ndarray, "B M"]
    owner: Int[np.ndarray, " Q"]
    site: np.ndarray
    area_slope: Float[np.ndarray, " Q"]
    pull: Float[np.ndarray, " Q"]
    precision: Float[np.ndarray, " Q"]
    image: list[np.ndarray]
    slope: list[np.ndarray]
    parts: Parts | None = None

    @property
    def flux(self) -> Float[np.ndarray, "N B"]:
        """Fluxes at the mode."""
        return self.amplitude * self.area[:, None]


class Solution(NamedTuple):
    """Solution of the equations.

    Attributes
    ----------
    flux_step
        Change of the fluxes from the mode, ``[N, B]``.
    covariance
        Covariance ``[N B + Q, N B + Q]`` of fluxes (bands fastest) and shape parameters.
    """

    flux_step: Float[np.ndarray, "N B"]
    covariance: Float[np.ndarray, "M M"]


def equations_of(scene: Scene, fit: MAPResult) -> Equations:
    """Return the equations at the mode, without padding, in the order of the catalog.

    Parameters
    ----------
    scene
        A scene of parametric sources.
    fit
        Its fit.
    """
    values = {name: np.asarray(value) for name, value in fit.values.items()}
    spectrum = values["spectrum"]
    shapes = {n: v for n, v in values.items() if "/" in n}
    linear = linearize(scene, shapes, spectrum, values.get("gradient"))
    equations, rows = _ordered(scene, shapes, spectrum, linear)
    if "gradient" in values:
        return _with_parts(equations, rows, scene, values, linear)
    return equations


def _ordered(
    scene: Scene, values: dict, spectrum: np.ndarray, linear: LinearScene
) -> tuple[Equations, np.ndarray]:
    """Return the equations without color gradients, and the rows of `linear` that they hold."""
    order = scene.order
    place = np.full(scene.num_sources, -1)
    place[order] = np.arange(len(order))
    owner, site, first = [], [], 0
    for group, slopes_of in zip(scene.sources, linear.groups, strict=True):
        count, numbers = np.shape(slopes_of.precision)
        mine = place[first : first + count]
        first += count
        owner.append(np.repeat(mine, numbers))
        site += numbers_of(scene.values_of(group.name, values)) * count
    owned = np.concatenate(owner)
    # Shape parameters source by source in the order of the catalog.
    shapes = np.argsort(np.where(owned < 0, len(owned), owned), kind="stable")
    shapes = shapes[: int((owned >= 0).sum())]
    rows = np.concatenate([order, scene.num_sources + shapes])

    def of_all(name: str) -> np.ndarray:
        return np.concatenate([np.ravel(getattr(g, name)) for g in linear.groups]).astype(float)

    images = [image for g in linear.groups for image in np.asarray(g.image, float)]
    slopes = [one for g in linear.groups for source in np.asarray(g.slope, float) for one in source]
    normal = np.asarray(linear.products.normal, float)[:, rows][:, :, rows]
    own = np.einsum("bnn->nb", normal[:, : len(order), : len(order)])
    found = Equations(
        amplitude=np.asarray(spectrum, float)[order],
        area=np.array([images[k].sum() for k in order]),
        seen=own > 0,
        normal=normal,
        projected=np.asarray(linear.products.projected, float)[:, rows],
        owner=owned[shapes],
        site=np.array(site)[shapes],
        area_slope=np.array([slopes[q].sum() for q in shapes]),
        pull=of_all("pull")[shapes],
        precision=of_all("precision")[shapes],
        image=[images[k] for k in order],
        slope=[slopes[q] for q in shapes],
    )
    return found, rows


def _with_parts(
    equations: Equations, rows: np.ndarray, scene: Scene, values: dict, linear: LinearScene
) -> Equations:
    """Return the equations with color gradients."""
    order, count = scene.order, scene.num_sources
    place = np.full(count, -1)
    place[order] = np.arange(len(order))
    number = {row: q for q, row in enumerate(rows[len(order) :])}
    slots, shapes, first, next_slope = [], [], 0, count
    for group in linear.groups:
        size, numbers = np.shape(group.precision)
        if group.gradient is not None:
            slots.append(first + np.arange(size))
            shapes.append(next_slope + np.arange(size * numbers))
        first, next_slope = first + size, next_slope + size * numbers
    slot, slope = np.concatenate(slots), np.concatenate(shapes)
    real, kept = place[slot] >= 0, np.isin(slope, rows)
    every = np.append(np.flatnonzero(real), len(slot) + np.flatnonzero(kept))
    rows = np.append(rows, next_slope + every)
    sites = {n: v for n, v in values.items() if "/" not in n and len(v) == count}
    with handlers.substitute(data=sites), handlers.seed(rng_seed=0):
        prior = scene.spectra.sample(count)
    share = np.concatenate([np.asarray(g.share) for g in linear.groups if g.share is not None])
    scale = PARTS * np.maximum(share[real], SMALLEST_SHARE).astype(float)
    width, axes = np.linalg.eigh(np.asarray(prior.covariance, float)[slot[real]])
    root = axes * np.sqrt(np.maximum(width, 0))[:, None] * scale[:, None, None]
    parts = Parts(
        place[slot[real]],
        np.array([number[row] for row in slope[kept]], int),
        np.asarray(values["gradient"], float)[slot[real]],
        root,
    )
    normal = np.asarray(linear.products.normal, float)[:, rows][:, :, rows]
    projected = np.asarray(linear.products.projected, float)[:, rows]
    return equations._replace(normal=normal, projected=projected, parts=parts)


class System(NamedTuple):
    """The equations in fluxes and shape parameters, without any prior.

    Attributes
    ----------
    equations
        The equations they are made of.
    matrix, right
        Gauss-Newton matrix ``[N B + Q, N B + Q]`` of the data (bands fastest), and minus the
        gradient.
    """

    equations: Equations
    matrix: Float[np.ndarray, "M M"]
    right: Float[np.ndarray, " M"]


def system_of(equations: Equations) -> System:
    """Assemble the equations for fluxes, amplitudes times pixel sums, and shapes.

    Color gradients are integrated out: at the mode nothing pulls at them.
    """
    amplitude, owner = equations.amplitude, equations.owner
    num_sources, num_bands = amplitude.shape
    fluxes, size = num_sources * num_bands, num_sources * num_bands + len(owner)
    parts, count = equations.parts, num_sources + len(owner)
    gradients = 0 if parts is None else len(parts.owner)
    whole = size + gradients * num_bands
    matrix, right = np.zeros((whole, whole)), np.zeros(size)
    unit = 1 / equations.area
    # A change of a shape at a fixed flux changes the amplitude as well: derivatives are those of
    # the normalized image.
    lost = equations.area_slope * unit[owner]
    select = np.arange(num_sources)[:, None] == owner
    for band in range(num_bands):
        normal, projected = equations.normal[band], equations.projected[band]
        bright = amplitude[owner, band]
        turn = np.zeros((len(normal), count + gradients))
        turn[:num_sources, :num_sources] = np.diag(unit)
        turn[:num_sources, num_sources:count] = -(select * lost * bright)
        turn[num_sources:count, num_sources:count] = np.diag(bright)
        rows = np.append(np.arange(num_sources) * num_bands + band, np.arange(fluxes, size))
        if parts is not None:
            turn[count : count + gradients, count:] = np.eye(gradients)
            own = dict(zip(parts.owner, parts.amplitude[:, band], strict=True))
            moved = count + gradients + np.arange(len(parts.shape))
            turn[moved, num_sources + parts.shape] = [own[k] for k in owner[parts.shape]]
            rows = np.append(rows, size + np.arange(gradients) * num_bands + band)
        matrix[np.ix_(rows, rows)] += turn.T @ normal @ turn
        right[rows[:count]] += (turn.T @ projected)[:count]
    if parts is not None:
        matrix = _integrated(matrix, size, parts.root)
    return System(equations, matrix, right)


def _integrated(matrix: np.ndarray, size: int, root: Float[np.ndarray, "G B B"]) -> np.ndarray:
    """Return the equations without their last numbers, of Gaussian priors with these roots."""
    wide = block_diag(*root)
    cross = matrix[:size, size:] @ wide
    own = wide.T @ matrix[size:, size:] @ wide + np.eye(len(wide))
    return matrix[:size, :size] - cross @ np.linalg.solve(own, cross.T)


def solve(
    system: System,
    share: float | np.ndarray = 1.0,
    flux_precision: Float[np.ndarray, "N B B"] | None = None,
) -> Solution:
    """Solve the equations for fluxes and shapes.

    Parameters
    ----------
    system
        The equations, assembled.
    share
        Factor of the shapes' prior, one number or one for each parameter.
    flux_precision
        Precision of a prior on the fluxes of each source; none by default.
    """
    equations = system.equations
    num_sources, num_bands = equations.amplitude.shape
    fluxes = num_sources * num_bands
    matrix, right = system.matrix.copy(), system.right.copy()
    of_shapes = np.arange(fluxes, len(right))
    matrix[of_shapes, of_shapes] += share * equations.precision
    right[fluxes:] += share * equations.pull
    if flux_precision is not None:
        for k in range(num_sources):
            rows = slice(k * num_bands, (k + 1) * num_bands)
            matrix[rows, rows] += flux_precision[k]
    known = np.append(equations.seen.ravel(), np.ones(len(of_shapes), bool))
    covariance = inverse(matrix, known)
    step = covariance @ right
    return Solution(step[:fluxes].reshape(num_sources, num_bands), covariance)


def inverse(matrix: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Invert a symmetric, nearly positive definite matrix in units of its diagonal.

    Parameters
    ----------
    matrix
        The matrix, in float64 from products in float32.
    known
        Mask of rows to keep; the others' rows and columns of the result are zero.
    """
    kept = np.diag(matrix) > 0
    kept = kept if known is None else kept & known
    part = matrix[np.ix_(kept, kept)]
    scale = 1 / np.sqrt(np.diag(part))
    # Two sources of one shape in one place cannot be told apart: float32 products say no more
    # than this of the difference of their fluxes.
    floor = len(part) * np.finfo(np.float32).eps
    unit = part * scale[:, None] * scale
    try:
        root = np.linalg.cholesky(unit + floor * np.eye(len(unit)))
        inverted = np.linalg.inv(root)
        found = inverted.T @ inverted
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(unit)
        found = (vectors / np.maximum(values, floor)) @ vectors.T
    found *= scale[:, None] * scale
    out = np.zeros_like(matrix)
    out[np.ix_(kept, kept)] = found
    return out
