"""Finding sources when no catalogue is given: SEP on the noise-weighted band sum."""

import numpy as np
import sep

from scorepriors.errors import InputError

from .observation import Observation
from .positions import Positions


def detection_image(obs: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Inverse-variance weighted sum of the bands, in units of its own noise.

    Of several joined observations, the first: its pixels are those of positions.

    Returns
    -------
    significance, mask
        ``[H, W]``: the sum divided by its standard deviation, and True where no band
        has data.
    """
    first = obs.parts[0]
    images, weights = first.cut(obs.images), first.cut(obs.weights)
    mask = ~np.any(weights > 0, axis=0)
    # Median noise per band sets the band's weight, so that the image stays a fixed
    # linear combination and bright, noisier source pixels are not weighted down.
    levels = np.array([np.median(w[w > 0]) if (w > 0).any() else 0.0 for w in weights])
    background = np.array(
        [np.median(i[w > 0]) if (w > 0).any() else 0.0 for i, w in zip(images, weights)]
    )
    total = np.einsum("b,byx->yx", levels, images - background[:, None, None])
    noise = np.sqrt(levels.sum())
    return np.where(mask, 0.0, total / noise), mask


def detect(obs: Observation, *, threshold: float = 3.0, min_area: int = 4) -> Positions:
    """Detect and separate sources on the sum of all bands.

    Parameters
    ----------
    obs
        The observation.
    threshold
        In units of the noise of the filtered image.
    min_area
        Connected pixels above the threshold.

    Returns
    -------
    Positions
        Peaks, brightest first, ids ``"1"``, ``"2"``, ...

    Raises
    ------
    InputError
        If nothing is found.
    """
    image, mask = detection_image(obs)
    found = sep.extract(
        np.ascontiguousarray(image, np.float32), threshold, err=1.0, mask=mask,
        minarea=min_area, deblend_nthresh=64, deblend_cont=5e-4,
    )  # fmt: skip
    if not len(found):
        raise InputError(
            f"no source found above {threshold:g} sigma in the sum of the bands; give a catalogue."
        )
    found = found[np.argsort(-found["flux"])]
    # Windowed centroids of blended sources drift towards the neighbour: take the peak,
    # refined by a parabola through the pixels beside it.
    places = np.stack(
        [_peak(image, int(y), int(x)) for y, x in zip(found["ypeak"], found["xpeak"])]
    )
    return Positions(
        tuple(str(i + 1) for i in range(len(found))), places, np.zeros(len(found), bool)
    )


def _peak(image: np.ndarray, row: int, column: int) -> tuple[float, float]:
    def refine(before, here, after):
        bend = before - 2 * here + after
        return 0.0 if bend >= 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))

    height, width = image.shape
    if not (0 < row < height - 1 and 0 < column < width - 1):
        return float(row), float(column)
    down = refine(*image[row - 1 : row + 2, column])
    right = refine(*image[row, column - 1 : column + 2])
    return row + down, column + right
