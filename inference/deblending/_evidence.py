r"""Evidence for what a source is: a point, a bulge and disk, or nothing.

After the parametric fit of a scene every source is fitted again on a small stamp, the light of
all others held, once as a point and once as a galaxy.  Spectra are integrated out exactly
(`blend`), positions, shapes and brightness :math:`\theta` in d dimensions by Laplace's method:

.. math:: \log Z = \log p(\hat\theta) + \tfrac{d}{2} \log 2\pi - \tfrac12 \log \det H.

MacKay (2003), Information Theory, Inference, and Learning Algorithms, chapters 27 and 28.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float
from scipy.special import expit, logit

from scorepriors._compat import quick_compilation
from scorepriors._surveys import survey_of_pixels
from scorepriors._traces import Kept
from scorepriors.inference.fitting._lbfgs import flat_lbfgs
from scorepriors.inference.fitting._map import MAPResult, fit_map
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.scene._blend import blend
from scorepriors.models.scene._scene import Scene, stack_scenes
from scorepriors.models.scene._start import start_values
from scorepriors.models.sources._parametric import AbstractParametric
from scorepriors.models.sources._placement import place_sources
from scorepriors.models.sources._point import STAR_BOX, PointSource

from ._choice import source_values
from ._lanes import profile_lanes
from ._local import Window, cut_exposure
from ._needed import made_up, with_misfit
from ._options import Settings
from ._result import FittedScene

#: Side of the stamps, pixels.
SIDE = 32

#: Half-light radius in pixels at which the galaxy starts where a star was fitted.
SMALL = 0.5

#: Smallest curvature in units of the prior's: a direction that the data do not constrain, and in
#: which the mode is no maximum to rounding.
FLATTEST = 0.5

#: Tolerance of the fits, nats, and most iterations: they begin at the mode of the scene.
TOLERANCE, ITERATIONS = 0.1, 100

_OPTIMIZER = flat_lbfgs(memory_size=20, max_step=10.0, max_growth=40.0)


@dataclass(frozen=True)
class Weighed:
    """Evidence about N sources.

    Attributes
    ----------
    p_star
        Probability that the source is a point, ``[N]``, given that it is one or a galaxy.
    needed
        Evidence for the source against none at its place, nats, ``[N]``; negative where the data
        are better explained without it.  What it adds to brighter sources counts little where it
        may be an error of their models.
    point, galaxy
        Log evidence of either kind against none, the others' light held, nats, ``[N]``.
    others
        Nats of it that other sources would make up for without this one, their shapes free,
        ``[N]``.
    """

    p_star: Float[np.ndarray, " N"]
    needed: Float[np.ndarray, " N"]
    point: Float[np.ndarray, " N"]
    galaxy: Float[np.ndarray, " N"]
    others: Float[np.ndarray, " N"]


class Fitted(NamedTuple):
    """A fitted scene some sources of which are weighed.

    Attributes
    ----------
    obs, positions
        Observation, or joined observations, and positions of the sources, as they were fitted.
    scene
        Fitted scene of stars and parametric galaxies.
    rows
        Sources to weigh, ``[N]``.
    """

    obs: Any
    positions: Positions
    scene: FittedScene
    rows: np.ndarray


class Alone(NamedTuple):
    """Log evidence of N sources as points and as galaxies against none, the others' light held.

    Attributes
    ----------
    point, galaxy
        Nats, ``[N]``.
    """

    point: Float[np.ndarray, " N"]
    galaxy: Float[np.ndarray, " N"]


def weigh(
    obs: Any,
    positions: Positions,
    fitted: FittedScene,
    settings: Settings,
    *,
    star_share: float | None = None,
    rows: Sequence[int] | None = None,
) -> Weighed:
    """Weigh for every source of a parametric scene whether it is a star, and whether it is needed.

    Parameters
    ----------
    obs
        Observation, or joined observations.
    positions
        Positions of the sources, as they were fitted.
    fitted
        Fitted scene of stars and parametric galaxies.
    settings
        Settings of the fit.
    star_share
        Share of stars among all sources before any look at them; that of the nearest survey by
        default (`scorepriors._surveys.Survey.stars`).
    rows
        Sources to weigh; all if not given.
    """
    chosen = np.arange(len(fitted.flux)) if rows is None else np.asarray(rows, int)
    one = Fitted(obs, positions, fitted, chosen)
    return weigh_many([one], settings, star_share=star_share)[0]


def weigh_many(
    scenes: Sequence[Fitted], settings: Settings, *, star_share: float | None = None
) -> list[Weighed]:
    """Weigh sources of several scenes of the same bands and priors of spectra.

    Parameters
    ----------
    scenes
        The scenes.
    settings, star_share
        As for `weigh`.
    """
    each = zip(scenes, each_alone(scenes, settings), strict=True)
    return [weighed(*one, star_share=star_share) for one in each]


def each_alone(scenes: Sequence[Fitted], settings: Settings) -> list[Alone]:
    """Return what sources of several scenes are by themselves, for `weighed`.

    The stamps of all are fitted in one call: a source has the same stamp whatever the scene.
    """
    if not scenes:
        return []
    every = [stamp for one in scenes for stamp in _stamps(one.positions, one.scene, one.rows)]
    # Where a stamp has no data there is no evidence for anything.
    seen = np.array(
        [any(np.asarray(e.noise.diagonal()).any() for e in one.exposures) for one in every], bool
    )
    of_rows = [
        (one.scene.scene, source_values(one.scene.scene, one.scene.fit.values, row))
        for one in scenes
        for row in one.rows
    ]
    point, galaxy = np.zeros((2, len(every)))
    for kept in _alike(every, np.flatnonzero(seen).tolist()):
        nothing = np.array([-0.5 * _chi2(every[k]) for k in kept])
        for kind, out in ("stars", point), ("profiles", galaxy):
            alone = [_scene(every[k], of_rows[k][0], settings, kind) for k in kept]
            out[kept] = _evidences(alone, [of_rows[k][1] for k in kept], settings) - nothing
    ends = np.cumsum([len(one.rows) for one in scenes])[:-1]
    return [Alone(*pair) for pair in zip(np.split(point, ends), np.split(galaxy, ends))]


def _alike(stamps: Sequence["_Stamp"], numbers: Sequence[int]) -> list[list[int]]:
    """Return the numbers of some stamps in groups whose arrays can be stacked.

    Scenes with wide boxes have more kernels than others.
    """
    groups: dict[Any, list[int]] = {}
    for number in numbers:
        leaves, structure = jax.tree.flatten(stamps[number].exposures)
        key = structure, tuple(np.shape(leaf) for leaf in leaves)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def weighed(
    one: Fitted,
    alone: Alone,
    *,
    star_share: float | None = None,
    parts: Iterable[Window] | None = None,
) -> Weighed:
    """Weigh the sources of one scene by what they are alone.

    Parameters
    ----------
    one, alone
        The scene, and its sources by themselves (`each_alone`).
    star_share
        As for `weigh`.
    parts
        The `windows` of the sources, if they are there already.
    """
    point, galaxy = alone
    odds = survey_of_pixels(one.obs.pixel_scale).stars if star_share is None else star_share
    others, error = made_up(one.scene, one.rows, parts)
    either = np.logaddexp(math.log(odds) + point, math.log1p(-odds) + galaxy)
    needed = either - others
    needed = np.where(needed > 0, with_misfit(needed, error), needed)
    return Weighed(expit(point - galaxy + logit(odds)), needed, point, galaxy, others)


@dataclass(frozen=True)
class _Stamp:
    """A stamp: exposures without the light of others, and the place given in it."""

    exposures: tuple[Exposure, ...]
    center: np.ndarray


def _stamps(positions: Positions, fitted: FittedScene, rows: np.ndarray) -> list[_Stamp]:
    """Cut stamps about the fitted centers."""
    corners = np.round(fitted.center[rows] - (SIDE - 1) / 2).astype(int)
    total = [image.sum(0) for image in fitted.convolved]
    return [
        _Stamp(
            tuple(
                cut_exposure(one, np.asarray(one.images) - everything + own[row], corner, SIDE)[0]
                for one, everything, own in zip(
                    fitted.scene.exposures, total, fitted.convolved, strict=True
                )
            ),
            np.asarray(positions.row_column[row]) - corner,
        )
        for row, corner in zip(rows, corners, strict=True)
    ]


def _chi2(stamp: _Stamp) -> float:
    images = [np.asarray(e.images, float) for e in stamp.exposures]
    each = zip(images, stamp.exposures, strict=True)
    return float(sum((image * np.asarray(e.noise.precision(image))).sum() for image, e in each))


def _scene(stamp: _Stamp, scene: Scene, settings: Settings, kind: str) -> Scene:
    """Return the scene of one source of a kind on its stamp."""
    if kind == "stars":
        at = place_sources([stamp.center], box=STAR_BOX)
        error = settings.options.center_error
        group: Any = PointSource(at, psf_sigma=settings.psf_sigma, center_error=error)
    else:
        group = settings.profiles(place_sources([stamp.center], box=settings.boxes[0]), kind)
    return Scene(stamp.exposures, (group,), scene.spectra, "marginal")


def _evidences(scenes: Sequence[Scene], values: Sequence[dict], settings: Settings) -> np.ndarray:
    """Return the log evidence of scenes of one source, from fitted values where they fit."""
    starts = [_start(scene, known, settings) for scene, known in zip(scenes, values, strict=True)]
    stacked, axes = stack_scenes(scenes)
    init, scale = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    fits = fit_map(
        blend,
        stacked,
        key=jax.random.key(0),
        in_axes=(axes,),
        init=init,
        scale=scale,
        side_by_side=profile_lanes(scenes),
        tolerance=TOLERANCE,
        max_iterations=ITERATIONS,
        optimizer=_OPTIMIZER,
        verify=False,
    )
    return np.array([_laplace(scene, fits[i]) for i, scene in enumerate(scenes)])


def _start(scene: Scene, known: dict, settings: Settings) -> tuple[dict, dict]:
    init, scale = start_values(scene, psf_sigma=settings.psf_sigma)
    if "log_radius" not in known and "profiles/log_radius" in init:
        init["profiles/log_radius"] = np.full(1, math.log(SMALL), np.float32)
    for name, value in init.items():
        mine = known.get(name.rpartition("/")[2])
        if mine is not None and np.shape(mine) == np.shape(value)[1:]:
            init[name] = np.asarray(mine, np.float32)[None]
    return init, scale


def _laplace(scene: Scene, fit: MAPResult) -> float:
    """Return Laplace's approximation of the log evidence at a mode."""
    width, _ = ravel_pytree(_widths(scene, fit.params))
    curvature = np.asarray(_hessian(fit.posterior, fit.params), float)
    own = np.asarray(width, float)
    unit = own[:, None] * (curvature + curvature.T) / 2 * own
    values = np.linalg.eigvalsh(unit) if np.isfinite(unit).all() else np.full(len(own), np.inf)
    log_det = np.log(np.maximum(values, FLATTEST)).sum() - 2 * np.log(own).sum()
    return float(-fit.potential + 0.5 * (len(own) * math.log(2 * math.pi) - log_det))


def _widths(scene: Scene, params: dict) -> dict:
    """Return widths of the priors of the sites, in the shape of the parameters."""
    known = {
        f"{group.name}/{name}": site.width
        for group in scene.sources
        if isinstance(group, AbstractParametric)
        for name, site in group.sites.items()
    }
    known["brightness"] = getattr(scene.spectra, "brightness_width", 1.0)
    return {n: np.full(np.shape(v), np.asarray(known.get(n, 1.0))) for n, v in params.items()}


@partial(Kept, compiler_options=quick_compilation)
def _hessian(bound, params: dict):
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda v: bound.potential_fn(unravel(v)))(flat)
