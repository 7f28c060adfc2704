"""Sources of stamps without a catalog: detected, fitted, and looked for again in what is left.

Detection finds maxima.  Where sources overlap one maximum stands for several, and only a fit
tells that one galaxy cannot be all of the light.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from scorepriors._loops import interrupts_at_once
from scorepriors._threads import one_thread
from scorepriors.models.data.positions._positions import Positions

from ._local import smooth_weights
from ._missing import missing
from ._needed import needed
from ._options import Settings
from ._result import FittedScene
from ._stages import Blend, prepare

#: Largest number of looks at what a fit leaves.
LOOKS = 3

#: Least gain in nats of a source that stays: its place and its shape have to be paid for.
NEEDED = 9.0

#: Error in pixels, per axis, of places found in the residual.
CENTER_ERROR = 0.7

#: Distance to a dropped source within which there is no candidate, pixels.
DROPPED = 1.5

#: Sources are padded to a multiple of this.
PADDING = 8


@one_thread()
def find(
    observations: Sequence,
    detected: Sequence[Positions],
    settings: Settings,
    fit: Callable[[Sequence[Blend], Settings], list[FittedScene]],
) -> list[Positions]:
    """Find the sources of observations beside those that were detected, and mend these.

    Parameters
    ----------
    observations, detected
        Observations, and what detection found in each.
    settings
        Options and priors.
    fit
        Function that fits parametric scenes, called as ``fit(blends, settings)``.

    Returns
    -------
    list of Positions
        Sources at their fitted places, the brightest first, ids ``"1"``, ``"2"``, ...
    """
    # A neighbor that is not fitted yet is no outlier.
    own = replace(
        settings,
        options=replace(
            settings.options,
            free_form=False,
            outliers=False,
            center_error=CENTER_ERROR,
            padding=PADDING,
        ),
    )

    def fitted(numbers: Sequence[int], places: Sequence[np.ndarray]) -> list[FittedScene]:
        each = zip(numbers, places, strict=True)
        blends = [prepare(observations[i], _positions(at), own) for i, at in each]
        # Half a fit would be half a catalog.
        with interrupts_at_once():
            return fit(blends, own)

    todo = list(range(len(observations)))
    scenes = dict(zip(todo, fitted(todo, [one.row_column for one in detected]), strict=True))
    dropped = {i: np.zeros((0, 2)) for i in todo}
    for _ in range(LOOKS):
        more = {i: _more(observations[i], scenes[i], dropped[i]) for i in todo}
        todo = [i for i in todo if len(more[i])]
        both = [np.concatenate([scenes[i].center, more[i]]) for i in todo]
        scenes |= zip(todo, fitted(todo, both), strict=True)
        kept = {i: needed(scenes[i], NEEDED) for i in todo}
        again = [i for i in todo if kept[i].any() and not kept[i].all()]
        for i in again:
            dropped[i] = np.concatenate([dropped[i], scenes[i].center[~kept[i]]])
        scenes |= zip(again, fitted(again, [scenes[i].center[kept[i]] for i in again]), strict=True)
    return [_ordered(scenes[i], needed(scenes[i], NEEDED)) for i in range(len(observations))]


def _more(obs, scene: FittedScene, dropped: np.ndarray) -> np.ndarray:
    """Return places of candidates for sources that a scene lacks, ``[M, 2]``."""
    found = missing(obs, scene).places
    apart = np.linalg.norm(found[:, None] - dropped, axis=-1)
    return found[(apart > DROPPED).all(1)]


def _ordered(scene: FittedScene, kept: np.ndarray) -> Positions:
    """Return the fitted positions of the sources that stay, the brightest first.

    Something has been detected: where nothing is needed the brightest stays.
    """
    each = zip(scene.scene.exposures, scene.convolved, strict=True)
    light = sum((smooth_weights(e.noise) * drawn**2).sum((1, 2, 3)) for e, drawn in each)
    order = np.argsort(-np.asarray(light), kind="stable")
    chosen = order[kept[order]] if kept.any() else order[:1]
    return _positions(scene.center[chosen])


def _positions(places: np.ndarray) -> Positions:
    ids = tuple(str(number + 1) for number in range(len(places)))
    return Positions(ids, np.asarray(places, float), np.zeros(len(places), bool))
