"""Stars that move, at the time of the image in which they are measured."""

import numpy as np
from jaxtyping import Float

from scorepriors.inference.deblending._result import Deblended, FittedScene
from scorepriors.models.sources._moving import MovingStar

#: Step of the derivatives by the place, pixels.
_STEP = 0.05


def phase_at(result: Deblended, time: float | None) -> float | None:
    """Return a time in units of that between the first and the last exposure, from their middle.

    Parameters
    ----------
    result
        The scene.
    time
        The time, MJD; or None.

    Returns
    -------
    float or None
        The phase of `MovingStar.image_at_phase`; None without a time, or if nothing moves.
    """
    if time is None or not result.moving:
        return None
    times = np.array([view.observation.time for view in result.observation.views], float)
    return float((time - (times.max() + times.min()) / 2) / np.ptp(times))


def way_at(found: FittedScene, phase: float | None) -> Float[np.ndarray, "N 2"]:
    """Return the way (rows, columns) of every source from its place in the middle, pixels."""
    out = np.zeros((len(found.scene.order), 2))
    for group, values in _moving(found) if phase is not None else ():
        index = np.asarray(group.at.index)
        out[index[index >= 0]] = phase * values["way"][index >= 0]
    return out


def images_at(group: MovingStar, values: dict, phase: float) -> tuple[np.ndarray, np.ndarray]:
    """Return images ``[K, n, n]`` at a time, and the first pixels ``[K, 2]`` of their boxes."""
    values = {name: np.asarray(value) for name, value in values.items()}
    steps = _steps(values, phase)
    return group.image_at_phase(values, phase, steps, np), np.asarray(group.at.corner) + steps


def slopes_at(found: FittedScene, phase: float) -> dict[int, dict[str, list[np.ndarray]]]:
    """Return derivatives of the images of stars that move by their sites, rows first, at a time.

    Returns
    -------
    dict
        By the row of the star in the catalog: derivatives ``[n, n]`` by ``offset`` and ``way``.
    """
    out = {}
    for group, values in _moving(found):
        steps, slopes = _steps(values, phase), []
        for axis in (0, 1):
            by = _STEP * np.eye(2)[axis]
            up, down = (group.image_at_phase(values, phase, steps - s * by, np) for s in (1, -1))
            slopes.append((up - down) / (2 * _STEP))
        for slot, row in enumerate(np.asarray(group.at.index)):
            if row >= 0:
                own = [slope[slot] for slope in slopes]
                out[int(row)] = {"offset": own, "way": [phase * one for one in own]}
    return out


def _moving(found: FittedScene) -> list[tuple[MovingStar, dict]]:
    """Return the groups of stars that move, with the values of their sites."""
    scene = found.scene
    groups = [group for group in scene.sources if isinstance(group, MovingStar)]
    return [
        (g, {n: np.asarray(v) for n, v in scene.values_of(g.name, found.fit.values).items()})
        for g in groups
    ]


def _steps(values: dict, phase: float) -> np.ndarray:
    """Return whole pixels by which boxes are moved, so that they hold the stars."""
    return np.round(phase * values["way"]).astype(int)
