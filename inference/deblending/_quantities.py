"""Quantities of a scene by which a run of draws is long enough."""

from collections.abc import Mapping

import equinox as eqx
import numpy as np

from scorepriors._moments import centroids, shapes
from scorepriors.inference.sampling._abstract import AbstractSampler
from scorepriors.inference.sampling._until import Quantities, Until
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.sources._placement import Placement
from scorepriors.models.sources._point import PointSource

from .flow import Flow
from .reduced import Reduced

#: Looks at draws of `Flow`, whose chains cross between shapes rarely: few draws can agree by chance.
FLOW_LOOKS = Until(at_least=500, every=250)

#: Looks at draws of `Reduced`.  Spectra, drawn after the run for each draw, add scatter of their own to
#: fluxes, of which some among thirty would have an R-hat just above 1.01 by chance.
REDUCED_LOOKS = Until(at_least=200, every=40, rhat=1.008)


def until_measured(scene: Scene, sampler: AbstractSampler) -> Until:
    """Return when a run for an unpadded scene ends, if no number of draws is given."""
    if isinstance(sampler, Flow):
        return FLOW_LOOKS.of(scene_quantities(scene, shaped=False))
    if isinstance(sampler, Reduced):
        return REDUCED_LOOKS.of(scene_quantities(scene, shaped=True))
    return Until().of(scene_quantities(scene, shaped=True))


def scene_quantities(scene: Scene, *, shaped: bool) -> Quantities:
    """Return a function of constrained values that gives all on which fluxes depend, as numbers.

    Parameters
    ----------
    scene
        Scene without padding.
    shaped
        Whether centroids and sizes of the sources are among them.
    """
    prefixes = tuple(f"{group.name}/" for group in scene.sources)

    def quantities(values: Mapping[str, np.ndarray]) -> np.ndarray:
        common = [v for name, v in values.items() if not name.startswith(prefixes)]
        columns = [v.reshape(len(v), -1) for v in common]
        for group in scene.sources:
            own = {
                name.removeprefix(f"{group.name}/"): v
                for name, v in values.items()
                if name.startswith(f"{group.name}/")
            }
            for row in range(len(group.at)):
                images = _images(group, row, {name: v[:, row] for name, v in own.items()})
                columns.append(_summary(images, shaped, isinstance(group, PointSource)))
        return np.concatenate(columns, axis=1)

    return quantities


def _images(group: AbstractSource, row: int, values: dict[str, np.ndarray]) -> np.ndarray:
    """Return images ``[N, n, n]`` of one source."""
    count = len(next(iter(values.values())))
    at = Placement(
        np.broadcast_to(np.asarray(group.at.center)[row], (count, 2)),
        np.broadcast_to(np.asarray(group.at.corner)[row], (count, 2)),
        np.zeros(count, int),
        group.at.box,
    )
    return np.asarray(eqx.tree_at(lambda g: g.at, group, at).image(values, np))


def _summary(images: np.ndarray, shaped: bool, point: bool) -> np.ndarray:
    """Return quantities ``[N, m]`` of the images of one source."""
    light = images.sum((1, 2))
    columns = [] if point else [np.log(np.maximum(light, np.finfo(light.dtype).tiny))]
    if shaped:
        columns += [*centroids(images).T, *([] if point else [shapes(images)[0]])]
    return np.stack(columns, 1) if columns else np.empty((len(images), 0))
