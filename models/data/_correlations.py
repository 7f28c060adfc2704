"""Correlations of the noise of an observation: measured, of a known resampling, or given.

They are measured where no source is, as `scorepriors.models.data._field_checks` finds such pixels, on
pixels in units of their own noise, so weights that vary do not matter.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from jaxtyping import Float

from scorepriors._errors import InputError
from scorepriors.models.noise._correlation import (
    LARGEST,
    by_band,
    drizzle_correlation,
    error_factor,
    lanczos_correlation,
    spectrum_correlation,
)
from scorepriors.models.noise._estimates import estimate, of_images

from ._field import Field
from ._field_checks import FieldWarning, _empty, _plane, _smooth_noise, _without_steps
from ._joint import JointObservation
from ._observation import Observation
from ._warnings import note
from .positions._positions import Positions

#: Largest distance along an axis at which correlations are measured, pixels.
REACH = 3

#: Fewest pairs of neighbors in all bands for a measurement: errors are then right to a tenth.
FEWEST = 2000

#: Distance in pixels from which, and share of that between neighbors above which, a correlation is
#: light of galaxies that reaches into the empty pixels.
LIGHT_AT, LIGHT = 6, 0.2

#: Noise of a large area in units of that of independent pixels from which it is worth a word, and
#: the least of its own errors that make it no accident.
VISIBLE, SIGNIFICANT = 1.08, 4.0

#: Number of windows along each side of a field, and their side in pixels.
_WINDOWS = 3, 256

#: Deviations beyond this, in units of the noise, are not noise.
_CLIP = 4.0

#: Words for correlations, for messages.
WORDS = '"measure", "lanczos3", "drizzle:RATIO" (pixfrac / scale), "white", a .npy or FITS file or an array'


def measure_correlation(
    obs: Observation | Sequence[Observation],
    positions: Positions | None = None,
    *,
    reach: int = REACH,
) -> Float[np.ndarray, "B k k"]:
    """Measure the correlation of the noise in the empty pixels of an observation.

    Parameters
    ----------
    obs
        Observation; or several windows of one field, with the same bands.
    positions
        Positions of sources, beside those that stand out by themselves (of one observation).
    reach
        Largest distance of pixels along an axis.

    Returns
    -------
    numpy.ndarray
        Correlations ``[B, k, k]`` with k = 2 `reach` + 1, symmetric and positive definite, for
        `with_correlation` and `Correlated`.

    Raises
    ------
    InputError
        If there are too few empty pixels: say of which resampling the image is instead.

    Notes
    -----
    What is not significant at a distance is drawn to zero, and bands to their mean as far as they do
    not differ by more than their errors (James & Stein).  Light of sources too faint to be seen
    counts as noise.
    """
    if not 1 <= reach <= 12:
        raise InputError(f"`reach` must be from 1 to 12 pixels, got {reach}.")
    products, pairs = _counted(obs, positions, int(reach))
    count = float(pairs[:, reach, reach + 1].sum())
    if count < FEWEST:
        raise InputError(
            f"the image has {count:.0f} pairs of empty pixels, too few to measure their correlation "
            f"({FEWEST} are needed); give that of its resampling, such as lanczos3 or drizzle:1.0."
        )
    return estimate(products, pairs)


def correlation_of(text: str) -> Float[np.ndarray, "k k"]:
    """Return the correlation of a resampling by its name.

    Parameters
    ----------
    text
        ``"white"``, ``"lanczos3"`` (2 to 6), ``"drizzle:RATIO"`` with the ratio of pixfrac to the
        scale of the output, a number or a fraction: ``"drizzle:0.8/0.6"``; or the name of a ``.npy`` or
        FITS file with a correlation, one in its center, or with a power spectrum
        (`spectrum_correlation`), ``[k, k]`` or ``[B, k, k]``.

    Raises
    ------
    InputError
        For other names or numbers out of range, or a file that has no such array.

    Examples
    --------
    >>> correlation_of("drizzle:1.0").shape
    (3, 3)
    """
    word = str(text).strip().lower()
    if word == "white":
        return np.ones((1, 1))
    if word.endswith((".npy", ".fits", ".fits.gz")):
        return correlation_of_file(str(text).strip())
    if match := re.fullmatch(r"lanczos-?(\d)", word):
        return lanczos_correlation(int(match[1]))
    if word.startswith("drizzle:"):
        try:
            numbers = [float(one) for one in word.removeprefix("drizzle:").split("/")]
            if len(numbers) <= 2:
                return drizzle_correlation(*numbers)
        except ValueError as error:
            if isinstance(error, InputError):
                raise
    raise InputError(f"unknown correlation {text!r}; there are {WORDS}.")


def correlation_of_file(path: str) -> Float[np.ndarray, "*B k k"]:
    """Return the correlation in a file, or that of the power spectrum in it.

    An array with an odd side and one in its center, its largest number, is a correlation.

    Raises
    ------
    InputError
        If there is no such file, or no image in it.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path} with a correlation or a power spectrum.")
    try:
        if path.lower().endswith(".npy"):
            found = np.load(path, allow_pickle=False)
        else:
            with fits.open(path) as hdus:
                found = next(h.data for h in hdus if h.is_image and h.data is not None)
    except (OSError, ValueError, StopIteration) as error:
        raise InputError(f"{path} has no image of a correlation or a power spectrum.") from error
    found = np.asarray(found)
    if found.ndim not in (2, 3) or found.dtype.kind not in "fiu":
        raise InputError(
            f"{path} has an array of the shape {found.shape} and {found.dtype}; a correlation or power "
            "spectrum has the shape [k, k] or [bands, k, k]."
        )
    found = found.astype(float)
    side = found.shape[-1]
    if found.shape[-2] == side and side % 2:
        middle = found[..., side // 2, side // 2]
        if np.allclose(middle, 1, atol=1e-5) and np.abs(found).max() < 1 + 1e-5 and side <= LARGEST:
            return found
    return spectrum_correlation(found)


def with_correlation(
    obs: Observation | JointObservation, correlation: Any, positions: Positions | None = None
) -> Observation | JointObservation:
    """Return an observation that knows the correlation of its noise.

    Parameters
    ----------
    obs
        The observation.
    correlation
        ``"measure"``: from its empty pixels.  ``"lanczos3"`` or ``"drizzle:RATIO"``: that of the
        resampling.  ``"white"``: none.  An array ``[k, k]`` or ``[B, k, k]``.  None: what the
        observation says.  Of joined observations a tuple with one of these for each.
    positions
        Positions of its sources, for a measurement.

    Returns
    -------
    Observation or JointObservation
        The same with another `Observation.correlation`; `deblend` and `exposures` use it.

    Raises
    ------
    InputError
        For other words, too few empty pixels, or an array that is no correlation.

    Examples
    --------
    >>> from scorepriors.models import load_example
    >>> obs = with_correlation(load_example()[0], "drizzle:1.0")
    >>> obs.correlation.shape
    (6, 3, 3)
    """
    if correlation is None:
        return obs
    if not isinstance(obs, JointObservation):
        if is_list(correlation):
            if len(correlation) != 1:
                raise InputError(f"there are {len(correlation)} correlations for one observation.")
            (correlation,) = correlation
        return _with(obs, correlation, positions)
    each = list(correlation) if is_list(correlation) else [correlation] * len(obs.views)
    if len(each) == 1:
        each *= len(obs.views)
    if len(each) != len(obs.views):
        raise InputError(
            f"there are {len(each)} correlations for {len(obs.views)} observations; give one for each, "
            "or one for all."
        )
    # Positions are in pixels of the first.
    views = tuple(
        dataclasses.replace(
            view, observation=_with(view.observation, one, None if number else positions)
        )
        for number, (view, one) in enumerate(zip(obs.views, each, strict=True))
    )
    return dataclasses.replace(obs, views=views)


def field_with_correlation(field: Field, correlation: Any) -> Field:
    """Return a field that knows the correlation of its noise; arguments of `with_correlation`.

    It is measured in windows that are spread over the field.
    """
    if is_list(correlation) and len(correlation) == 1:
        (correlation,) = correlation
    if correlation is None:
        return field
    if isinstance(correlation, str):
        measured = correlation.strip().lower() == "measure"
        found = measure_correlation(windows_of(field)) if measured else correlation_of(correlation)
    else:
        found = np.asarray(correlation)
    return dataclasses.replace(field, correlation=by_band(found, field.num_bands))


def windows_of(field: Field) -> list[Observation]:
    """Return windows that are spread over a field, a few on each side."""
    count, side = _WINDOWS
    corners = (
        sorted({int((n - min(side, n)) * k / (count - 1)) for k in range(count)})
        for n in field.shape
    )
    return [
        field.window(row, column, *(min(side, n) for n in field.shape))
        for row, column in itertools.product(*corners)
    ]


def correlation_facts(obs: Observation | JointObservation | Field) -> dict[str, float] | None:
    """Return the noise of large areas over that of independent pixels by band; None if not known."""
    views: Any = getattr(obs, "views", None) or (obs,)
    found: dict[str, float] = {}
    for view in views:
        known = getattr(view, "observation", view).correlation
        if known is not None:
            factors = error_factor(known).tolist()
            found |= {b: round(f, 4) for b, f in zip(view.bands, factors, strict=True)}
    return found or None


def is_list(correlation: Any) -> bool:
    """Return whether this is a list of correlations, one for each of several observations."""
    return isinstance(correlation, list | tuple) and any(
        one is None or isinstance(one, str) for one in correlation
    )


def warn_of_correlation(
    obs: Observation | JointObservation, positions: Positions | None = None
) -> None:
    """Warn if the noise of empty pixels is visibly correlated and the observation does not know."""
    sentence = correlation_sentence(obs, positions)
    if sentence:
        note(sentence, FieldWarning, to_results=False)


def correlation_sentence(
    obs: Observation | JointObservation, positions: Positions | None = None
) -> str:
    """Return a sentence on correlations that are seen and not known; empty if there are none."""
    factor = [
        visible(view.observation, None if number else positions)
        if view.observation.correlation is None
        else np.ones(len(view.bands))
        for number, view in enumerate(obs.views)
    ]
    return unknown_sentence(np.concatenate(factor), obs.bands)


def unknown_sentence(factor: np.ndarray, bands: Sequence[str]) -> str:
    """Return the sentence on errors that are too small by factors ``[B]``; empty if all are one."""
    if (factor == 1).all():
        return ""
    return (
        "neighboring pixels scatter together, as in resampled images, so errors of fluxes are too small "
        f"by a factor of up to {factor_words(factor, bands)}: correlation='measure' (--correlation "
        "measure), or lanczos3 or drizzle:RATIO, mends it."
    )


def factor_words(factor: Sequence[float] | np.ndarray, bands: Sequence[str]) -> str:
    """Return factors by band in words; one number where they are alike."""
    if max(factor) < 1.03 * min(factor):
        return f"{max(factor):.2f}"
    each = zip(factor, bands, strict=True)
    return ", ".join(f"{one:.2f} (band {band})" for one, band in each if one != 1)


def known_sentence(facts: dict[str, float] | None) -> str:
    """Return a sentence on correlations that were taken into account (`correlation_facts`)."""
    if not facts or all(factor == 1 for factor in facts.values()):
        return ""
    return (
        "the noise was taken as correlated: errors of large sources are "
        f"{factor_words(list(facts.values()), list(facts))} times those of independent pixels."
    )


def visible(
    obs: Observation | Sequence[Observation], positions: Positions | None = None
) -> Float[np.ndarray, " B"]:
    """Return the noise of large areas over that of independent pixels, ``[B]``; one if not visible."""
    wide, many = _counted(obs, positions, LIGHT_AT)
    if _is_light(wide, many):
        return np.ones(len(wide))
    near = slice(LIGHT_AT - 2, LIGHT_AT + 3)
    products, pairs = wide[:, near, near], many[:, near, near]
    number = pairs[:, 2, 3].sum()
    if number < FEWEST:
        return np.ones(len(products))
    found = estimate(products, pairs)
    # Of all bands together, whose sum is one of half as many independent products as distances.
    plain = (products * pairs[:, 2:3, 3:4]).sum() / number
    error = 2 * np.sqrt((found.shape[-1] ** 2 - 1) / 2 / number) * plain
    factor = error_factor(found)
    return np.where((factor > VISIBLE) & (plain - 1 > SIGNIFICANT * error), factor, 1.0)


def _is_light(products: np.ndarray, pairs: np.ndarray) -> bool:
    """Return whether pixels scatter together over distances that no resampling has."""
    rows, columns = np.indices(products.shape[1:]) - LIGHT_AT
    distance = np.hypot(rows, columns)
    beside, far = (
        (products * pairs)[:, which].sum() / max(pairs[:, which].sum(), 1.0)
        for which in (distance == 1, distance >= LIGHT_AT)
    )
    return far > LIGHT * beside


def _with(obs: Observation, correlation: Any, positions: Positions | None) -> Observation:
    if correlation is None:
        return obs
    if isinstance(correlation, str):
        if correlation.strip().lower() == "measure":
            found = measure_correlation(obs, positions)
        else:
            found = correlation_of(correlation)
    else:
        try:
            found = np.asarray(correlation)
        except ValueError as error:
            raise InputError(f"a correlation is {WORDS}, not a ragged list.") from error
    return dataclasses.replace(obs, correlation=by_band(found, obs.num_bands))


def _counted(obs, positions: Positions | None, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean products of empty pixels by distance and numbers of pairs, ``[B, k, k]``."""
    several = [obs] if isinstance(obs, Observation) else list(obs)
    side = 2 * half + 1
    bands = several[0].num_bands
    total, pairs = np.zeros((2, bands, side, side))
    for one in several:
        if not one.num_pixels:
            continue
        places = np.zeros((0, 2)) if positions is None else positions.row_column
        empty, _ = _empty(one, places)
        for band in range(bands):
            values, good = _noise(one.images[band], one.weights[band], empty)
            product, number = of_images(values[None], good[None], half)
            total[band] += product * number
            pairs[band] += number
    products = total / np.maximum(pairs, 1.0)
    # A band without pixels says nothing.
    products[:, half, half] = 1.0
    return products, pairs


def _noise(image, weights, empty) -> tuple[np.ndarray, np.ndarray]:
    """Return empty pixels of a band in units of their scatter, without a plane."""
    good = empty & (weights > 0)
    if good.sum() < 100:
        return np.zeros(image.shape), np.zeros(image.shape, bool)
    image, _ = _without_steps(np.asarray(image, float), good)
    values = (image - np.median(image[good])) / _smooth_noise(weights)
    low, high = np.percentile(values[good], [15.866, 84.134])
    if not high > low:
        return np.zeros(image.shape), np.zeros(image.shape, bool)
    values = values * 2 / (high - low)
    values = values - _plane(values, good)[0]
    return values, good & (np.abs(values) < _CLIP)
