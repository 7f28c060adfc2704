r"""Checks of a field's empty pixels: their scatter against the noise of the file, and their median.

Both are measured where no source is: away from the given positions and from whatever stands out of
the smoothed image.  The scatter is the distance from the median to the 16th percentile, and so
blind to faint light.  Resampled pixels scatter less than their sum: with correlations
:math:`\rho` of neighbors, noise over an area is :math:`R = \sqrt{1 + \sum \rho}` times that of
independent pixels, and weights of drizzled images often mean the latter.  So errors count as too
large only if they are so with that factor as well.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter, uniform_filter
from scipy.signal import fftconvolve

from scorepriors._errors import InputError
from scorepriors.models.noise._correlation import error_factor

from ._detection import detection_image
from ._joint import JointObservation
from ._observation import Observation
from ._warnings import FileWarning, note
from .positions._margins import psf_fwhm
from .positions._positions import Positions

#: Scatter over noise of the file that is usual.
USUAL = (0.7, 1.4)

#: Sky in units of the noise of a pixel, and of the error of the flux of a galaxy, that matters.
SKY, SKY_OF_FLUX = 0.15, 1.0

#: Sky in units of the noise of a pixel with which a fit is refused, and depth of a slope below zero
#: that matters.
HOPELESS, TILT = 20.0, 0.4

#: Powers of the distance with which the light of a source may fall off in its outskirts, and how far
#: it may reach, pixels.
_HALOES, _HALO_REACH = (2, 3, 4), 100

#: Sky in units of its own error that is no accident.
SIGNIFICANT = 5.0

#: Distance from a position in FWHM of the PSF within which there is light of its source.
_REACH = 2.5

#: Signal to noise of the smoothed image above which there is a source, and its scales in widths of
#: the PSF.
_SOURCE, _SCALES = 3.0, (1.0, 2.5)

#: Scatter in units of the noise of the file below which an image has no noise, on purpose.
_NOISELESS = 1e-3

#: Fewest empty pixels for a judgment: the scatter is then known to a tenth.
_FEWEST = 100

#: Largest distance of pixels that are compared for correlations, and smallest R that is one.
_LAGS, _CORRELATED = 2, 1.15

#: Pixels for each different value below which an image is one of whole numbers, and side of the
#: square over which variances are averaged.
_STEPS, _AROUND = 10, 5

#: Distance of pixels whose noise is independent also where it is resampled.
_APART = 4

#: Fall of the light away from sources, in units of its error, that is no accident.
_FALLS = 2.0

#: Rounds of fits of a plane, and the deviation in units of the noise of pixels that are left out.
_ROUNDS, _CLIP = 4, 2.5

#: Percentile of a normal distribution one standard deviation below its mean.
_LOW = 15.866


class FieldWarning(FileWarning):
    """Warning about noise or sky that are not what the file says."""


class EmptyPixels(NamedTuple):
    """What the empty pixels of a field tell, by band; NaN where there are too few of them.

    Attributes
    ----------
    scatter
        Their scatter in units of the noise of the file, ``[B]``.
    correlation
        Noise over an area in units of that of independent pixels, ``[B]``, one or more.
    sky, sky_error
        Median of the empty pixels and its standard deviation, ``[B]``, in the unit of the image; less
        where they are the brighter the closer they are to sources, whose light reaches there.
    noise
        Scatter of empty pixels, ``[B]``, in the unit of the image.
    tilt
        How far below zero the darkest quarter of the empty pixels lies by a plane through them, ``[B]``,
        in units of `noise`; zero where its slope is no more than an accident.
    slope
        Largest change of the sky across the image, ``[B]``, in units of `noise`, beside light that falls
        off away from sources; zero where it is no more than an accident.
    area
        Pixels over which a point source is measured, ``[B]``: the sum of one over its squares.
    known
        As `correlation`, what of it the observation knows, ``[B]``.
    """

    scatter: np.ndarray
    correlation: np.ndarray
    sky: np.ndarray
    sky_error: np.ndarray
    noise: np.ndarray
    tilt: np.ndarray
    slope: np.ndarray
    area: np.ndarray
    known: np.ndarray

    @property
    def noise_factor(self) -> np.ndarray:
        """Factor ``[B]`` by which the errors must be multiplied; one where they are usual."""
        whole = self.scatter * np.maximum(self.correlation / self.known, 1.0)
        with np.errstate(invalid="ignore"):
            low, high = whole < USUAL[0], self.scatter > USUAL[1]
        return np.where(low, whole, np.where(high, self.scatter, 1.0))

    @property
    def has_sky(self) -> np.ndarray:
        """Mask ``[B]`` of bands with a sky that is significant and large enough to matter."""
        # Where neighbors scatter together, much of what is there is light of faint sources.
        least = np.maximum(SKY * self.correlation**2, SKY_OF_FLUX / np.sqrt(2 * self.area))
        with np.errstate(invalid="ignore"):
            return self.sky_is_significant & (np.abs(self.sky) > least * self.noise)

    @property
    def is_tilted(self) -> np.ndarray:
        """Mask ``[B]`` of bands in which one side of the sky is below zero by more than matters."""
        return self.tilt > TILT * self.correlation**2

    @property
    def is_sloped(self) -> np.ndarray:
        """Mask ``[B]`` of bands whose sky changes by more than matters from the middle to an edge."""
        return self.slope / 2 > SKY * self.correlation**2

    @property
    def sky_is_hopeless(self) -> np.ndarray:
        """Mask ``[B]`` of bands with a sky far above the noise, of which something is wrong."""
        with np.errstate(invalid="ignore"):
            return self.sky_is_significant & (np.abs(self.sky) > HOPELESS * self.noise)

    @property
    def sky_is_significant(self) -> np.ndarray:
        """Mask ``[B]`` of bands with a sky that is no accident."""
        with np.errstate(invalid="ignore"):
            return np.abs(self.sky) > SIGNIFICANT * self.sky_error


def has_hopeless_sky(obs: Observation | JointObservation, positions: Positions | None) -> bool:
    """Return whether there is so much sky that it must be asked for to be fitted."""
    return bool(_measure_all(obs, positions).sky_is_hopeless.any())


def measure_field(obs: Observation, positions: Positions | None = None) -> EmptyPixels:
    """Measure noise and sky in the empty pixels of an observation.

    Parameters
    ----------
    obs
        The observation.
    positions
        Positions of sources, beside those that stand out by themselves.
    """
    places = np.zeros((0, 2)) if positions is None else positions.row_column
    # Several questions are asked about one image, one after the other.
    if _LATEST and _LATEST[0][0] is obs and np.array_equal(_LATEST[0][1], places):
        return _LATEST[0][2]
    found = _measured(obs, places)
    _LATEST[:] = [(obs, places, found)]
    return found


#: The observation that was measured last, its places, and what was found.
_LATEST: list[tuple[Observation, np.ndarray, EmptyPixels]] = []


def _measured(obs: Observation, places: np.ndarray) -> EmptyPixels:
    empty, far = _empty(obs, places)
    width = psf_fwhm(obs.psfs)
    bands = [
        _band(*band, empty, far, width)
        for band in zip(obs.images, obs.weights, obs.psfs, strict=True)
    ]
    known = np.ones(obs.num_bands) if obs.correlation is None else error_factor(obs.correlation)
    columns = [*np.array(bands, float).T, np.maximum(known, 1.0)]
    return EmptyPixels(*columns)


def check_field(
    obs: Observation | JointObservation, positions: Positions | None = None
) -> dict[str, str]:
    """Return what noise and sky are that the file does not say; empty if all is well.

    Returns
    -------
    dict
        Sentences by code.  ``noise``: empty pixels scatter by far more or less.  ``sky``: their median
        is not zero.  ``gradient``: they change across the image.
    """
    return _sentences(_measure_all(obs, positions), obs)


def warn_of_field(obs: Observation | JointObservation, positions: Positions | None = None) -> None:
    """Warn with the sentences of `check_field`.

    Raises
    ------
    InputError
        If there is so much sky that fluxes would mean nothing.
    """
    field = _measure_all(obs, positions)
    _refuse_hopeless(field, obs.bands)
    for sentence in _sentences(field, obs).values():
        note(sentence, FieldWarning, to_results=False)


def refuse_hopeless(obs: Observation | JointObservation, positions: Positions | None) -> None:
    """Raise `InputError` if there is so much sky that fluxes would mean nothing."""
    _refuse_hopeless(_measure_all(obs, positions), obs.bands)


def _refuse_hopeless(field: EmptyPixels, bands: Sequence[str]) -> None:
    hopeless = field.sky_is_hopeless
    if hopeless.any():
        raise InputError(
            f"the sky is left in: {_by_band(bands, field.sky, hopeless)} per pixel, more than "
            f"{HOPELESS:g} times the noise; subtract it, or fit it with the sources, sky='constant' (--sky "
            "constant in the shell)."
        )


def _measure_all(obs: Observation | JointObservation, positions: Positions | None) -> EmptyPixels:
    """Measure the bands of all views; the positions are in pixels of the first."""
    each = [
        measure_field(view.observation, None if number else positions)
        for number, view in enumerate(obs.views)
    ]
    return EmptyPixels(*(np.concatenate(parts) for parts in zip(*each, strict=True)))


def rescale_noise(
    obs: Observation | JointObservation, positions: Positions | None = None
) -> Observation | JointObservation:
    """Rescale the noise of bands in which empty pixels scatter by far more or less than it says.

    Parameters
    ----------
    obs
        The observation.
    positions
        Positions of its sources; those that stand out are found by themselves.

    Returns
    -------
    Observation or JointObservation
        The observation with other weights in such bands; itself where there are none.

    Warns
    -----
    FileWarning
        With the factors.
    """

    def mended(one: Observation, bands: Sequence[str], at) -> Observation:
        factor = measure_field(one, at).noise_factor
        if (factor == 1).all():
            return one
        note(f"errors were multiplied by {_by_band(bands, factor, factor != 1)}.")
        return dataclasses.replace(one, weights=one.weights / factor[:, None, None] ** 2)

    return _each(obs, positions, mended)


def subtract_sky(
    obs: Observation | JointObservation, positions: Positions | None = None
) -> Observation | JointObservation:
    """Subtract the median of the empty pixels from every band in which it is significant.

    Parameters
    ----------
    obs
        The observation.
    positions
        Positions of its sources; those that stand out are found by themselves.

    Returns
    -------
    Observation or JointObservation
        The observation with other pixels in such bands; itself where there are none.

    Warns
    -----
    FileWarning
        With what was subtracted.
    """

    def mended(one: Observation, bands: Sequence[str], at) -> Observation:
        field = measure_field(one, at)
        found = field.sky_is_significant
        if not found.any():
            return one
        note(f"a sky per pixel was subtracted: {_by_band(bands, field.sky, found)}.")
        sky = np.where(found, field.sky, 0.0)[:, None, None]
        return dataclasses.replace(one, images=one.images - sky * (one.weights > 0))

    return _each(obs, positions, mended)


def _each(obs, positions, mend):
    """Apply a function to every observation of a joint one, or to one alone."""
    if not isinstance(obs, JointObservation):
        return mend(obs, obs.bands, positions)
    views = tuple(
        dataclasses.replace(
            view, observation=mend(view.observation, view.bands, None if number else positions)
        )
        for number, view in enumerate(obs.views)
    )
    return dataclasses.replace(obs, views=views)


def _by_band(bands: Sequence[str], values: np.ndarray, which: np.ndarray) -> str:
    chosen = [f"{v:.3g} (band {b})" for b, v, w in zip(bands, values, which, strict=True) if w]
    return ", ".join(chosen)


def _sentences(field: EmptyPixels, obs: Observation | JointObservation) -> dict[str, str]:
    said, factor = {}, field.noise_factor
    tilted, sloped = field.is_tilted, field.is_sloped
    kind = "plane" if (tilted | sloped).any() else "constant"
    if (factor != 1).any():
        each = [
            f"{max(f, 1 / f):.2g} times too {'large' if f < 1 else 'small'} in band {b}"
            for f, b in zip(factor, obs.bands, strict=True)
            if f != 1
        ]
        said["noise"] = (
            "empty pixels do not scatter by the noise in the file, whose errors are "
            f"{', '.join(each)}: are the weights inverse variances?  rescale_noise=True "
            "(--rescale-noise in the shell) mends it."
        )
    if field.has_sky.any():
        unit, to_unit = obs.flux_unit
        name = f" {unit}" if str(unit) else ""
        bias, in_noise = field.sky * field.area * to_unit, field.sky / field.noise
        each = [
            f"{field.sky[b]:.3g} ± {field.sky_error[b]:.1g} per pixel in band {band} "
            f"({in_noise[b]:+.2f} times its noise; {bias[b]:+.3g}{name} of flux for a point source, "
            f"{abs(in_noise[b]) * np.sqrt(field.area[b]):.1f} errors)"
            for b, band in enumerate(obs.bands)
            if field.has_sky[b]
        ]
        said["sky"] = (
            f"a sky is left in that biases fluxes, of galaxies the most: {', '.join(each)}; "
            f"sky='{kind}' (--sky {kind} in the shell) fits it with the sources."
        )
    if tilted.any():
        where = (
            f", and is below zero on one side by up to {_by_band(obs.bands, field.tilt, tilted)}"
        )
    elif sloped.any():
        where = f", by {_by_band(obs.bands, field.slope, sloped)}"
    if kind == "plane":
        said["gradient"] = (
            f"the sky changes across the image{where}, in units of the noise of a pixel: sky='plane' "
            "(--sky plane in the shell) fits it with the sources; or subtract a model of it, for "
            "example with sep.Background."
        )
    return said


def _empty(obs: Observation, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return masks ``[H, W]`` of empty pixels, and of those of them that are far from sources."""
    image, _, mask = detection_image(obs)
    width = psf_fwhm(obs.psfs)
    source = np.zeros(obs.shape, bool)
    for scale in _SCALES:
        smooth = gaussian_filter(
            np.where(mask, np.median(image[~mask]), image), scale * width / 2.355
        )
        middle, low = np.percentile(smooth[~mask], [50, _LOW])
        source |= (smooth - middle > _SOURCE * max(middle - low, 1e-30)) & ~mask
    radius = int(np.ceil(width))
    rows, columns = np.indices((2 * radius + 1,) * 2) - radius
    source = binary_dilation(source, rows**2 + columns**2 <= radius**2)
    reach = _REACH * width
    for place in places:
        # Only the pixels about it: fields may be large.
        low = np.clip(np.floor(place - reach), 0, obs.shape).astype(int)
        high = np.clip(np.ceil(place + reach) + 1, 0, obs.shape).astype(int)
        rows, columns = np.mgrid[low[0] : high[0], low[1] : high[1]]
        near = (rows - place[0]) ** 2 + (columns - place[1]) ** 2 < reach**2
        source[low[0] : high[0], low[1] : high[1]] |= near
    empty = ~source & ~mask
    if not source.any() or not empty.any():
        return empty, empty
    distance = distance_transform_edt(~source)
    return empty, empty & (distance >= np.median(distance[empty]))


def _band(image, weights, psf, empty, far, width: float) -> tuple[float, ...]:
    """Return the fields of `EmptyPixels` for one band."""
    area = 1 / float((np.asarray(psf, float) ** 2).sum())
    good = empty & (weights > 0)
    count = int(good.sum())
    if count < _FEWEST:
        return (np.nan, 1.0, np.nan, np.nan, np.nan, 0.0, 0.0, area)
    image, step = _without_steps(np.asarray(image, float), good)
    middle, low = (float(one) for one in np.percentile(image[good], [50, _LOW]))
    in_noise = (image - middle) / _smooth_noise(weights)
    scatter = min(-float(np.percentile(in_noise[good], _LOW)), _scatter_apart(in_noise, good))
    if not (scatter > _NOISELESS and middle > low):
        # Pixels without noise, as of a simulation on purpose.
        return (np.nan, 1.0, np.nan, np.nan, np.nan, 0.0, 0.0, area)
    plane, slopes, slope_errors = _plane(in_noise / scatter, good)
    correlation = _correlation(np.clip(in_noise / scatter - plane, -3, 3), good)
    # The median of n normal deviates scatters by 1.25 / sqrt(n).
    noise = middle - low
    error = 1.25 * noise * correlation / np.sqrt(count)
    flat = _flat(image, good, far, noise, correlation)
    # Steps of whole numbers were filled with noise of their own.
    own = np.sqrt(max(1 - step**2 / 12 / noise**2, 0.0))
    scatter, noise = scatter * own, noise * own
    # The errors of slopes are those of independent pixels.
    real = np.abs(slopes) > SIGNIFICANT * slope_errors * correlation
    # Light of sources makes one side brighter, but no side darker than nothing.
    quarter = good & (plane <= np.percentile(plane[good], 25))
    tilt = max(-_level(image[quarter]) / noise, 0.0) if real.any() else 0.0
    # Where light of sources cannot be the reason, neither side needs to be below zero.
    slope = (
        _slope_beside_haloes(in_noise / (scatter / own), good, width, correlation)
        if real.any()
        else 0.0
    )
    return (scatter, correlation, flat, error, noise, tilt, slope, area)


def _without_steps(image: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, float]:
    """Return an image of few different values with noise of one step added, and the step; else 0."""
    different = np.unique(image[good])
    if len(different) * _STEPS > good.sum() or len(different) < 2:
        return image, 0.0
    step = float(np.diff(different).min())
    return image + np.random.default_rng(0).uniform(-step / 2, step / 2, image.shape), step


def _smooth_noise(weights: np.ndarray) -> np.ndarray:
    """Return the noise of pixels by the mean variance about them: variances may follow the pixels."""
    good = (weights > 0).astype(float)
    variance = good / np.where(weights > 0, weights, 1.0)
    total, count = (uniform_filter(a, _AROUND, mode="constant") for a in (variance, good))
    return np.sqrt(np.where(good > 0, total / np.maximum(count, 1e-6), 1.0))


def _level(values: np.ndarray) -> float:
    """Return the median or the clipped mean, whichever is closer to zero; zero between them.

    Faint light raises the mean above the median, and a few counts lower the median below the mean.
    """
    middle, low = np.percentile(values, [50, _LOW])
    mean = float(values[np.abs(values - middle) < 3 * (middle - low)].mean())
    if middle * mean <= 0:
        return 0.0
    return float(min(middle, mean, key=abs))


def _flat(image, good, far, noise: float, correlation: float) -> float:
    """Return the sky; of a positive one the part that does not fall off away from sources."""
    sky = _level(image[good])
    outer, inner = good & far, good & ~far
    if sky <= 0 or outer.sum() < _FEWEST or inner.sum() < _FEWEST:
        return sky
    here = _level(image[outer])
    falls = _level(image[inner]) - here
    error = 1.25 * noise * correlation * np.sqrt(1 / outer.sum() + 1 / inner.sum())
    return sky if falls < _FALLS * error else max(here - falls, 0.0)


def _plane(
    values: np.ndarray, good: np.ndarray, extra: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a plane through good pixels, its change across the image along both axes, and errors.

    With further templates ``[H, W, K]`` fitted beside it, these are part of what is returned first.
    """
    height, width = values.shape
    rows, columns = np.indices(values.shape, float)
    design = np.stack([np.ones(values.shape), rows / height - 0.5, columns / width - 0.5], -1)
    if extra is not None:
        design = np.concatenate([design, extra], axis=-1)
    plane, found, inverse = np.zeros(values.shape), np.zeros(3), np.zeros((3, 3))
    for _ in range(_ROUNDS):
        # Faint light is above the sky, not below.
        used = good & (np.abs(values - plane) < _CLIP)
        if used.sum() < _FEWEST:
            return np.zeros(values.shape), np.zeros(2), np.zeros(2)
        inverse = np.linalg.pinv(design[used].T @ design[used])
        found = inverse @ (design[used].T @ values[used])
        plane = design @ found
    return plane, found[1:3], np.sqrt(np.diag(inverse))[1:3]


def _slope_beside_haloes(
    values: np.ndarray, good: np.ndarray, width: float, correlation: float
) -> float:
    """Return the larger change across the image that light of sources does not explain; zero for none.

    Such light falls off with distance from where the image is bright, however fast: that is fitted
    beside the plane.
    """
    light = np.where(good, 0.0, np.maximum(values, 0.0))
    reach = min(max(values.shape), _HALO_REACH)
    away = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) / width
    haloes = np.stack(
        [fftconvolve(light, (1 + away**2) ** (-power / 2), mode="same") for power in _HALOES], -1
    )
    largest = haloes.max((0, 1))
    haloes /= np.where(largest > 0, largest, 1.0)
    _, slopes, errors = _plane(values, good, haloes)
    real = np.abs(slopes) > SIGNIFICANT * errors * correlation
    return float(np.abs(slopes[real]).max(initial=0.0))


def _scatter_apart(values: np.ndarray, good: np.ndarray) -> float:
    """Return the scatter by second differences of pixels some way apart: blind to smooth light."""
    each = []
    for axis in (0, 1):
        one, use = np.moveaxis(values, axis, 0), np.moveaxis(good, axis, 0)
        bend = one[: -2 * _APART] - 2 * one[_APART:-_APART] + one[2 * _APART :]
        each.append(bend[use[: -2 * _APART] & use[_APART:-_APART] & use[2 * _APART :]])
    apart = np.concatenate([one.ravel() for one in each])
    if apart.size < _FEWEST:
        return np.inf
    low, high = np.percentile(apart, [_LOW, 100 - _LOW])
    return float(high - low) / 2 / np.sqrt(6)


def _correlation(values: np.ndarray, good: np.ndarray) -> float:
    """Return the noise over an area in units of that of independent pixels; one if it is close."""
    values = np.where(good, values, 0.0)
    power = (values**2).sum() / good.sum()
    total = 1.0
    for down in range(_LAGS + 1):
        for right in range(-_LAGS, _LAGS + 1):
            if (down, right) <= (0, 0):
                continue
            first = (slice(down, None), slice(max(right, 0), values.shape[1] + min(right, 0)))
            second = (
                slice(None, values.shape[0] - down),
                slice(max(-right, 0), values.shape[1] + min(-right, 0)),
            )
            pairs = (good[first] & good[second]).sum()
            if pairs:
                total += 2 * (values[first] * values[second]).sum() / pairs / power
    root = float(np.sqrt(max(total, 1.0)))
    return root if root > _CORRELATED else 1.0
