r"""Normal equations for fluxes and shapes jointly, about the mode of the parametric scene.

With :math:`H` the Gauss-Newton matrix of the data about amplitudes and shape parameters, and
:math:`\Lambda` the precision of the shapes' priors, :math:`(H + \Lambda)^{-1}` is the covariance of
the fluxes that the *likelihood* measures, the shapes free.  It is never indefinite, unlike the
curvature of the density at the mode of a faint or close pair.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.scene._linear import LinearScene, linearize, numbers_of
from scorepriors.models.scene._scene import Scene


class Equations(NamedTuple):
    """Normal equations of N sources in B bands with Q shape parameters in all.

    Attributes
    ----------
    amplitude, area
        Amplitudes ``[N, B]`` at the mode, and pixel sums of the images ``[N]``.
    seen
        Mask ``[N, B]``, False where there are no data about a source.
    normal, projected
        Products ``[B, N + Q, N + Q]`` of renderings and derivatives with each other, and
        ``[B, N + Q]`` with the residual.
    owner, site
        Source and site of every shape parameter, ``[Q]``.
    area_slope
        Derivatives of the pixel sums, ``[Q]``.
    pull, precision
        First derivative of the log-prior of the shapes and minus the second, ``[Q]``.
    image, slope
        Images by source, and derivatives of the image by shape parameter.
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
    return _ordered(scene, shapes, spectrum, linearize(scene, shapes, spectrum))


def _ordered(scene: Scene, values: dict, spectrum: np.ndarray, linear: LinearScene) -> Equations:
    order = scene.order
    place = np.full(scene.num_sources, -1)
    place[order] = np.arange(len(order))
    owner, site, first = [], [], 0
    for group, found in zip(scene.sources, linear.groups, strict=True):
        count, numbers = np.shape(found.precision)
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
    return Equations(
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
    """Assemble the equations for fluxes, amplitudes times pixel sums, and shapes."""
    amplitude, owner = equations.amplitude, equations.owner
    num_sources, num_bands = amplitude.shape
    fluxes, size = num_sources * num_bands, num_sources * num_bands + len(owner)
    matrix, right = np.zeros((size, size)), np.zeros(size)
    unit = 1 / equations.area
    # A change of a shape at a fixed flux changes the amplitude as well: derivatives are those of
    # the normalized image.
    lost = equations.area_slope * unit[owner]
    select = np.arange(num_sources)[:, None] == owner
    for band in range(num_bands):
        normal, projected = equations.normal[band], equations.projected[band]
        bright = amplitude[owner, band]
        turn = np.zeros((num_sources + len(owner), num_sources + len(owner)))
        turn[:num_sources, :num_sources] = np.diag(unit)
        turn[:num_sources, num_sources:] = -(select * lost * bright)
        turn[num_sources:, num_sources:] = np.diag(bright)
        rows = np.append(np.arange(num_sources) * num_bands + band, np.arange(fluxes, size))
        matrix[np.ix_(rows, rows)] += turn.T @ normal @ turn
        right[rows] += turn.T @ projected
    return System(equations, matrix, right)


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
