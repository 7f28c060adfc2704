"""Noise of files: its kinds, pixels without data, and weights that are exposure times."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy import units
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models.data._checks import noise_of_shape, weights_from_noise
from scorepriors.models.data._warnings import note

from ._cards import header_unit, number, text
from ._names import NOISE_NAMES, UNCERTAINTY_TYPES

#: Smallest variance that means "no data": pipelines write 1e30, as variance or deviation.
_NO_DATA = 0.9e30

#: Weights below this share of the median are no data: deviations a million times larger.
_SMALLEST_SHARE = 1e-12

#: How far weights may disagree with the scatter of the pixels, as a factor of the deviation,
#: before they can't be inverse variances; crowded images and correlated noise stay within it.
_DISAGREE = 3.0

#: Parts of file names that tell the kind of a noise image.
_FILE_KINDS = (
    (r"(^|[-_.])(inv-?var|ivar|ivm|invvar)([-_.]|$)", "ivar"),
    (r"(^|[-_.])(rms|sigma|std|err|error|unc|uncert)([-_.]|$)", "deviation"),
    (r"(^|[-_.])(var|variance)([-_.]|$)", "variance"),
    (r"(^|[-_.])wht([-_.]|$)", "wht"),
    (r"(^|[-_.])(weight|wgt|weights)([-_.]|$)", "weight"),
    (r"(^|[-_.])(exp|exptime|exposure)([-_.]|$)", "exposure"),
)


def kind_of(name: str, header: fits.Header, what: str) -> str:
    """Return the kind of a noise HDU, by its card UTYPE or by its name."""
    said = text(header, "UTYPE").lower()
    if said:
        if said not in UNCERTAINTY_TYPES:
            raise InputError(
                f"{what} holds an uncertainty of the type {header['UTYPE']!r}; say what it is "
                "with noise_kind= (--noise-kind)."
            )
        return UNCERTAINTY_TYPES[said]
    if name == "UNCERT":
        note(
            f"{what} does not say what kind of uncertainty it holds (UTYPE), and was taken as "
            "standard deviations; noise_kind= (--noise-kind) says otherwise."
        )
    return NOISE_NAMES.get(name, "")


def kind_of_file(path: Path) -> str:
    """Return the kind of noise that the name of a file tells; "" if it does not."""
    stem = re.sub(r"\.(fits?|fz|gz)\b", "", path.name, flags=re.IGNORECASE)
    return next(
        (kind for pattern, kind in _FILE_KINDS if re.search(pattern, stem, re.IGNORECASE)), ""
    )


def noise_factor(header: fits.Header, unit: units.UnitBase | None, kind: str, what: str) -> float:
    """Return the factor that brings noise to the image's unit, by the noise's own BUNIT.

    Raises
    ------
    InputError
        If the noise has a unit and the image has none, or if neither can be converted to the other.
    """
    power = {"deviation": 1, "variance": 2, "ivar": -2}.get(kind)
    own = header_unit(header)
    if power is None or own is None or isinstance(own, units.UnrecognizedUnit):
        return 1.0
    if unit is None:
        if own == units.dimensionless_unscaled:
            return 1.0
        raise InputError(f"{what} is in {own}, but the image has no unit; add its card BUNIT.")
    if isinstance(unit, units.UnrecognizedUnit) or own == unit:
        return 1.0
    if own.is_equivalent(unit**power):
        return float(own.to(unit**power))
    # Many write the image's unit, or one over it, beside variances and weights as well.
    usual = [unit**power, unit, *([unit**-1] if kind == "ivar" else [])]
    if own == units.dimensionless_unscaled or _counts(own) in map(_counts, usual):
        return 1.0
    raise InputError(
        f"{what} is in {own} and the image in {unit}: bring both to one unit, the noise to "
        f"{(unit**power).to_string()}, or correct the card BUNIT that is wrong."
    )


def _counts(unit: units.UnitBase) -> units.UnitBase:
    """Return a unit with all that stands for a count of a camera as one unit."""
    found = unit.decompose()
    for one in (units.adu, units.DN):
        if one in found.bases:
            power = found.powers[found.bases.index(one)]
            found = (found * units.ct**power / one**power).decompose()
    return found


class NoiseRule(NamedTuple):
    """How the noise of a file is understood: what only all of its pixels together tell.

    Attributes
    ----------
    kind
        ``"variance"``, ``"deviation"`` or ``"weight"``, an inverse variance.
    scales
        What weights are divided by, ``[B]``, where they are relative; else None.
    some_negative
        Whether negative noise is that of a few damaged pixels, which are masked.
    smallest
        Weight below which there is no data.
    """

    kind: str
    scales: np.ndarray | None
    some_negative: bool
    smallest: float

    def weights(self, images: np.ndarray, noise, masked: np.ndarray, what: str) -> np.ndarray:
        """Return inverse variances ``[B, H, W]``, zero where masked or without data."""
        noise = noise_of_shape(noise, images.shape, what)
        bad = no_data(images, noise, self.kind, what, self.some_negative)
        out = masked | np.logical_or.reduce([*bad.values()])
        weights = _weights(noise, self.kind, out, self.scales, what)
        return np.where((weights > 0) & (weights < self.smallest), 0.0, weights)


def no_data(
    images: np.ndarray, noise: np.ndarray, kind: str, what: str, some_negative: bool
) -> dict[str, np.ndarray]:
    """Return the pixels without data ``[B, H, W]``, by what tells it; zero weights excepted."""
    with np.errstate(invalid="ignore"):
        found = {
            "NaN or infinite in the image": ~np.isfinite(images) | (np.abs(images) > _NO_DATA),
            f"NaN in {what}": np.isnan(noise),
        }
        if kind in ("variance", "deviation"):
            found[f"zero in {what}"] = noise == 0
            found[f"infinite or 1e30 in {what}"] = noise > _NO_DATA
            if some_negative:
                found[f"negative in {what}"] = noise < 0
        else:
            found[f"infinite in {what}"] = np.isinf(noise) | (noise > _NO_DATA)
    return found


def file_weights(images: np.ndarray, noise, kind: str, masked: np.ndarray, **about) -> np.ndarray:
    """Return inverse variances from the noise of a file, zero where masked or without data.

    Parameters are those of `noise_rule`.
    """
    rule = noise_rule(images, noise, kind, masked, **about)
    return rule.weights(images, noise, masked, about["what"])


def noise_rule(
    images: np.ndarray,
    noise,
    kind: str,
    masked: np.ndarray,
    *,
    what: str,
    where: str,
    header: fits.Header,
    noise_header: fits.Header,
    alone: bool = True,
) -> NoiseRule:
    """Return how the noise of a file is to be understood, and say which pixels have no data.

    Parameters
    ----------
    images
        Pixels ``[B, H, W]``, all of them or a sample.
    noise
        Noise ``[B, H, W]``, or ``[H, W]`` of one band.
    kind
        One of `NOISE_KINDS`; or ``"weight"`` or ``"wht"``, an inverse variance by its name, which
        is compared with the exposure time, and with the scatter of the pixels.
    masked
        Mask ``[B, H, W]``.
    what, where
        Names of the noise and of the file, for messages.
    header, noise_header
        Cards of the image and of the noise.
    alone
        Whether there is no other band, which may have data where this one has none.
    """
    noise = noise_of_shape(noise, images.shape, what)
    # A few are damaged pixels; many mean another kind of noise.
    with np.errstate(invalid="ignore"):
        some_negative = bool((noise < 0).sum() < 0.5 * noise.size)
    empty = np.zeros(images.shape, bool)
    said = []
    for reason, bad in no_data(images, noise, kind, what, some_negative).items():
        new = bad & ~empty & ~masked
        empty |= bad
        if new.any():
            said.append(f"{reason} {new.sum()}")
    out = masked | empty
    if out.all() and alone and said:
        raise InputError(f"no pixel has data that is not masked ({', '.join(said)}).")
    scales = None
    if kind in ("weight", "wht", "exposure"):
        relative = np.where(out, 0.0, noise)
        scales = _scales(images, relative, kind, what, where, header, noise_header)
    kind = kind if kind in ("variance", "deviation") else "weight"
    weights = _weights(noise, kind, out, scales, what)
    positive = weights[weights > 0]
    smallest = 0.0
    if positive.size:
        smallest = float(_SMALLEST_SHARE * np.median(positive))
        tiny = (weights > 0) & (weights < smallest)
        if tiny.any():
            said.append(f"a million times the usual noise {tiny.sum()}")
            empty |= tiny
    if said:
        count = np.count_nonzero(empty & ~masked)
        note(
            f"{where}: {count} of {images.size} pixels have no data ({', '.join(said)}) and were "
            "masked."
        )
    return NoiseRule(kind, scales, some_negative, smallest)


def _weights(noise, kind: str, out: np.ndarray, scales: np.ndarray | None, what: str):
    """Return inverse variances, zero where `out`."""
    noise = np.where(out, 0.0 if kind == "weight" else np.inf, noise)
    if scales is not None:
        noise = noise / scales[:, None, None]
    return weights_from_noise(noise, kind, out, what)


def _scales(images, noise, kind, what, where, header, noise_header) -> np.ndarray | None:
    """Return what exposure times are divided by, ``[B]``, to be inverse variances; else None."""
    seconds = next(
        (
            value
            for card in ("EXPTIME", "TEXPTIME", "XPOSURE", "EFFEXPTM")
            if (value := number(header, card)) is not None and value > 0
        ),
        None,
    )
    positive = noise[noise > 0]
    if not positive.size:
        return None
    middle, most = float(np.median(positive)), float(positive.max())
    scaled = images * np.sqrt(np.maximum(noise, 0))
    ratios = np.array([_scatter(*band) for band in zip(scaled, noise > 0, strict=True)])
    known = ratios[ratios > 0]
    ratio = float(np.median(known)) if known.size else 0.0
    off = not ((known > 1 / _DISAGREE) & (known < _DISAGREE)).all()
    is_time = kind == "exposure" or text(noise_header, "BUNIT").lower() in ("s", "sec", "second")
    if not is_time and seconds is not None:
        near = any(abs(value / seconds - 1) < 0.1 for value in (middle, most))
        is_time = near or (off and 0.2 < middle / seconds < 1.2)
    if is_time:
        if not known.size:
            raise InputError(
                f"{what} holds exposure times, but the pixels have no scatter to scale them to; "
                "give the noise with noise= (--noise)."
            )
        if kind != "exposure":
            note(
                f"{where}: {what} (median {middle:.4g}) is exposure time and no inverse variance: it "
                "was scaled to the scatter of the pixels, a deviation of "
                f"{ratio / np.sqrt(middle):.3g} at the median (noise_kind='ivar', --noise-kind "
                "ivar, takes it as inverse variance)."
            )
        return np.where(ratios > 0, ratios, ratio) ** 2
    if off and kind == "wht":
        raise InputError(
            f"{what} can be no inverse variance, since it means a deviation of "
            f"{1 / np.sqrt(middle):.3g} where pixels scatter by {ratio / np.sqrt(middle):.3g}; say "
            "noise_kind='exposure' to scale it to that scatter, or 'ivar' if it is right "
            "(--noise-kind)."
        )
    return None


def _scatter(values: np.ndarray, good: np.ndarray) -> float:
    """Return the standard deviation of the empty pixels, all bands together."""
    kept, sigma = values[good & np.isfinite(values)], 0.0
    for _ in range(5 if kept.size else 0):
        # Sources are above the sky: what is below the median tells the noise of the sky.
        middle = np.median(kept)
        below = middle - kept[kept <= middle]
        # 1.4826 = 1 / norm.ppf(0.75) makes it the deviation of a Gaussian.
        sigma = 1.4826 * float(np.median(below)) if below.size else 0.0
        kept = kept[np.abs(kept - middle) <= 3 * sigma] if sigma > 0 else kept
    return sigma
