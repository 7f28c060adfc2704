"""Detection of sources: peaks of the sharpened sum of the bands that are no shreds.

Where galaxies overlap the brighter one has the only maximum, and the neighbor is a
shoulder on its flank.  Minus the Laplacian of the smoothed image turns shoulders into
peaks (Lindeberg 1998, International Journal of Computer Vision 30, 79): it is a filter
for blobs of one size, with a sum of zero, so that the smooth light of a large neighbor
cancels.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import sep
from scipy.ndimage import gaussian_filter, gaussian_laplace
from scipy.signal import fftconvolve

from scorepriors._errors import InputError
from scorepriors.models.noise._correlation import of_filtered

from ._joint import JointObservation
from ._observation import Observation
from ._saturation import about_cores, partly_masked
from ._shreds import filled, psf_sigma, shreds
from .positions._positions import Positions

#: Sizes of the blobs in standard deviations of the sharpest PSF: for barely resolved
#: galaxies, and larger ones.
SCALES = (0.7, 1.05, 1.6)

#: Smallest size in pixels: the Laplacian of smaller ones is undersampled.
SMALLEST = 1.0

#: Smallest distance of two sources among peaks of different sizes, pixels.
APART = 3.0

#: Smallest share of a peak on another's flank in the filtered flux of both.
CONTRAST = 1e-3

#: Threshold in units of the noise of the filtered image.
THRESHOLD = 4.0

#: Error of a model as a share of its light.
MISFIT = 0.05


def detection_image(
    obs: Observation | JointObservation, model: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the inverse-variance weighted sum of the bands, in units of its typical noise.

    Of a joint observation only the first is used, whose pixels are those of positions.

    Parameters
    ----------
    obs
        The observation.
    model
        Light ``[B, H, W]`` that is subtracted first; none by default.

    Returns
    -------
    significance, variance, mask
        Images ``[H, W]``: the sum divided by its typical standard deviation, the variance of
        that (brighter pixels are noisier), and True where no band has data.
    """
    first = obs.views[0].observation
    images, weights = first.images, first.weights
    if model is not None:
        images = images - model
    seen = weights > 0
    mask = ~np.any(seen, axis=0)
    # The median noise of a band sets its weight, so that the image is a fixed linear
    # combination and bright, noisier source pixels are not weighted down.
    levels = _levels(weights)
    background = np.array(
        [np.median(i[w > 0]) if (w > 0).any() else 0.0 for i, w in zip(images, weights)]
    )
    residual = np.where(seen, images - background[:, None, None], 0.0)
    total = np.einsum("b,byx->yx", levels, residual)
    noise = np.where(seen, 1 / np.where(seen, weights, 1.0), 0.0)
    variance = np.einsum("b,byx->yx", levels**2, noise) / levels.sum()
    return np.where(mask, 0.0, total / np.sqrt(levels.sum())), variance, mask


def _levels(weights: np.ndarray) -> np.ndarray:
    """Return the weights of the bands in the sum, ``[B]``."""
    return np.array([np.median(w[w > 0]) if (w > 0).any() else 0.0 for w in weights])


def _weighted(obs: Observation, light: np.ndarray) -> np.ndarray:
    """Return light ``[B, H, W]`` in the units of the detection image, ``[H, W]``."""
    levels = _levels(obs.weights)
    return np.einsum("b,byx->yx", levels, light) / np.sqrt(levels.sum())


def find_sources(obs: Observation | JointObservation, *, threshold: float = THRESHOLD) -> Positions:
    """Detect and separate sources on the sum of all bands; there may be none.

    Parameters
    ----------
    obs
        The observation.
    threshold
        Threshold in units of the noise of the filtered image.  At 4, about one in five
        images of 64 x 64 pixels has a false source.

    Returns
    -------
    Positions
        Peaks, brightest first, ids ``"1"``, ``"2"``, ...

    See Also
    --------
    find_left_over : Sources that a fitted model lacks.

    Raises
    ------
    InputError
        If `threshold` is not positive.
    """
    return _found(obs, None, np.zeros((0, 2)), (), threshold)


def find_left_over(
    obs: Observation | JointObservation,
    model: np.ndarray,
    positions: Positions | None = None,
    *,
    threshold: float = THRESHOLD,
) -> Positions:
    """Detect sources in what a model leaves of an observation; there may be none.

    Where the model is bright, what it leaves is as likely its own error: a share of its light
    (`MISFIT`) is added to the noise in quadrature.

    Parameters
    ----------
    obs
        The observation.
    model
        Light of all fitted sources as observed, ``[B, H, W]``, in the unit of the image; of a
        joint observation, that in its first.
    positions
        Sources of the model.  A peak within three pixels of one of them is no other source.
    threshold
        Threshold in units of the noise of the filtered image and the model's error.

    Returns
    -------
    Positions
        Peaks, brightest first; ids are numbers that `positions` does not have.

    Raises
    ------
    InputError
        If `model` has another shape than the images, or `threshold` is not positive.
    """
    model, first = np.asarray(model, float), obs.views[0].observation
    if model.shape != first.images.shape:
        raise InputError(
            f"`model` has the shape {model.shape} but the images have {first.images.shape}; give "
            "the light of all sources in every band."
        )
    places = np.zeros((0, 2)) if positions is None else np.asarray(positions.row_column)
    return _found(obs, model, places, () if positions is None else positions.ids, threshold)


def detect(obs: Observation | JointObservation, *, threshold: float = THRESHOLD) -> Positions:
    """Detect and separate sources on the sum of all bands.

    Parameters
    ----------
    obs
        The observation.
    threshold
        Threshold in units of the noise of the filtered image.  At 4, about one in five
        images of 64 x 64 pixels has a false source.

    Returns
    -------
    Positions
        Peaks, brightest first, ids ``"1"``, ``"2"``, ...

    Raises
    ------
    InputError
        If nothing is found.

    Notes
    -----
    On simulated LSST blends of 2 to 8 galaxies with a signal to noise above 5, some 60 % are
    found, and at most 15 % of those with a blendedness above .5.  `scorepriors.inference.deblend`
    without positions begins here and adds what a fit of these sources lacks.  A catalog of deeper
    or sharper images is better if available.
    """
    found = find_sources(obs, threshold=threshold)
    if not len(found):
        raise InputError(
            f"no source found above {threshold:g} sigma in the sum of the bands; give a catalog."
        )
    return found


def _found(obs, model, known: np.ndarray, ids: Sequence[str], threshold: float) -> Positions:
    """Return peaks of the data minus the model, apart from known places."""
    if not threshold > 0:
        raise InputError(f"`threshold` must be positive, got {threshold}.")
    first = obs.views[0].observation
    image, variance, mask = detection_image(obs, model)
    image = filled(image, mask)
    variance = np.where(mask, np.median(variance[~mask]), variance)
    width = min(map(psf_sigma, first.psfs))
    correlation = detection_correlation(first)
    doubtful = None if model is None else MISFIT * _weighted(first, np.maximum(model, 0.0))
    places, num_known = known, len(known)
    for scale in SCALES:
        sigma = max(scale * width, SMALLEST)
        for place in _blobs(image, variance, correlation, doubtful, mask, sigma, threshold):
            if (np.hypot(*(places - place).T) > APART).all():
                places = np.vstack([places, place])
    places = about_cores(places, partly_masked(first), num_known)
    part = shreds(first, places, model)[num_known:]
    places = places[num_known:][~part]
    smooth = gaussian_filter(image, width)
    brightness = smooth[tuple(np.round(places).astype(int).T)]
    places = places[np.argsort(-brightness)]
    free = (name for number in itertools.count(1) if (name := str(number)) not in set(ids))
    return Positions(
        tuple(itertools.islice(free, len(places))), places, np.zeros(len(places), bool)
    )


def detection_correlation(obs: Observation) -> np.ndarray | None:
    """Return the correlation of the noise of the detection image, ``[k, k]``; None if not known."""
    if obs.correlation is None or obs.correlation.shape[-1] == 1:
        return None
    # The variance of the sum is that of the bands by their weights in it.
    levels = _levels(obs.weights)
    return np.einsum("b,bij->ij", levels, obs.correlation) / max(levels.sum(), 1e-30)


def _blobs(
    image, variance, correlation, doubtful, mask, sigma: float, threshold: float
) -> np.ndarray:
    """Return places ``[M, 2]`` of blobs of one size, refined to a fraction of a pixel.

    `doubtful` is light that may be an error of a model, or None.
    """
    side = 2 * int(np.ceil(5 * sigma)) + 1
    unit = np.zeros((side, side))
    unit[side // 2, side // 2] = 1
    kernel = -gaussian_laplace(unit, sigma)
    # Zeros beyond the edge: reflected pixels would double the noise.
    sharp = fftconvolve(image, kernel, mode="same")
    power = np.maximum(fftconvolve(variance, of_filtered(kernel, correlation), mode="same"), 1e-12)
    if doubtful is not None:
        # An error of the model may follow the filter, unlike noise.
        power += fftconvolve(doubtful, np.abs(kernel), mode="same") ** 2
    noise = np.sqrt(power)
    # Its buffer is for images with few bright pixels.
    sep.set_extract_pixstack(max(sep.get_extract_pixstack(), image.size))
    found = sep.extract(
        np.ascontiguousarray(sharp, np.float32),
        threshold,
        err=np.ascontiguousarray(noise, np.float32),
        mask=mask,
        minarea=1,
        filter_kernel=None,
        deblend_nthresh=64,
        deblend_cont=CONTRAST,
    )
    places = [peak_at(sharp, int(y), int(x)) for y, x in zip(found["ypeak"], found["xpeak"])]
    return np.reshape(places, (-1, 2))


def peak_at(image: np.ndarray, row: int, column: int) -> tuple[float, float]:
    """Return where a maximum is to a fraction of a pixel, from the pixels about it."""

    def refine(before, here, after):
        bend = before - 2 * here + after
        return 0.0 if bend >= 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))

    height, width = image.shape
    if not (0 < row < height - 1 and 0 < column < width - 1):
        return float(row), float(column)
    down = refine(*image[row - 1 : row + 2, column])
    right = refine(*image[row, column - 1 : column + 2])
    return row + down, column + right
