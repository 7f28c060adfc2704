"""Whether the light of others about a scene has changed since it was fitted."""

import numpy as np

from ._light import Light, overlap
from ._parts import read_arrays_of
from ._tasks import SceneTask

#: Change of the flux of a point at a source's place, in units of its error, that asks for another fit.
CHANGE = 0.2

#: Norm of a point with a peak of one below which it is not in the window.
SEEN = 1e-3


def changed(scene: SceneTask, light: Light, fwhm: float) -> bool:
    """Return whether the light of others moves the flux of a point in the scene by more than `CHANGE`.

    A point at the place of each source: that of a galaxy of several widths of the PSF moves by up to as
    many times more of its error for a fixed shape.

    Parameters
    ----------
    scene
        Scene with its last record.
    light
        The light of all sources now.
    fwhm
        Full width at half maximum of the PSF, pixels.
    """
    assert scene.before is not None
    own, others, deviation = read_arrays_of(scene.before, "light", "others", "deviation")
    change = light.of(scene.window) - own - others
    # Beyond the field there is no light of anybody.
    inside = overlap(scene.window, light.whole[1:])[1]
    seen = np.zeros_like(change)
    seen[:, *inside] = change[:, *inside]
    change = seen
    if not change.any():
        return False
    sigma = fwhm / 2.355
    rows, columns = np.indices(change.shape[1:])
    for row, column in scene.own.row_column - np.array(scene.window[:2]):
        point = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * sigma**2))
        norm = np.sqrt((point**2).sum())
        # Far beyond the window nothing of a source is seen.
        if norm < SEEN:
            continue
        shift = (change * point).sum((1, 2)) / norm
        if np.sqrt(((shift / deviation) ** 2).sum()) > CHANGE:
            return True
    return False
