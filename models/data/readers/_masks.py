"""Masks of files: plain ones, and bit masks whose planes have names."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from scorepriors._errors import InputError
from scorepriors.models.data._checks import numeric
from scorepriors.models.data._warnings import note

from ._products import ALL_PLANES, Product

#: Numbers of bits that a mask can have.
_BITS = range(64)

#: Planes that make a pixel unusable, by the names that pipelines of Rubin and HSC give them.
BAD_PLANES: tuple[str, ...] = (
    "BAD",
    "SAT",
    "SATURATED",
    "EDGE",
    "DETECTION_EDGE",
    "SUSPECT",
    "NO_DATA",
)

#: Bits of planes in masks of Rubin (DP1) and HSC, where names were lost.
_PIPELINE_PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "DETECTED": 5}
_PIPELINE_PLANES |= {"DETECTED_NEGATIVE": 6, "SUSPECT": 7, "NO_DATA": 8}

#: Planes that do so on single visits; on coadds one of many visits sets them.
_VISIT_PLANES = ("INTRP", "INTERPOLATED", "CR", "COSMIC_RAY")

#: Planes that coadds alone have.
_COADD_PLANES = ("CLIPPED", "REJECTED", "INEXACT_PSF", "SENSOR_EDGE")

#: Planes that say nothing against a pixel.
_FINE_PLANES: tuple[str, ...] = (
    "DETECTED",
    "DETECTED_NEGATIVE",
    "BRIGHT_OBJECT",
    "CROSSTALK",
    "NOT_DEBLENDED",
)
_FINE_PLANES += ("UNMASKEDNAN", "VIGNETTED", "STREAK", "INJECTED", "INJECTED_CORE")
_FINE_PLANES += ("PARTLY_VIGNETTED", "ITL_DIP", "SPIKE", "HIGH_VARIANCE", "SAT_TEMPLATE")


def mask_planes(header: fits.Header) -> dict[str, int]:
    """Return bits by the names of planes, from cards ``MP_<plane>`` or ``MSKNnnnn``, ``MSKMnnnn``.

    Raises
    ------
    InputError
        If the value of such a card is no bit.
    """
    planes = {}
    for card in header:
        value = header[card]
        if card.startswith("MP_"):
            planes[card[3:].upper()] = _bit(card, value)
        match = re.match(r"^MSKN(\d+)$", card)
        if match:
            name, marked = str(value).strip().upper(), f"MSKM{match.group(1)}"
            mask = header.get(marked)
            if not isinstance(mask, int) or isinstance(mask, bool) or mask < 1 or mask & (mask - 1):
                raise InputError(f"the card {marked} holds {mask!r}; give the value of one bit.")
            planes[name] = mask.bit_length() - 1
    return planes


def _bit(card: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in _BITS:
        raise InputError(f"the card {card} holds {value!r}; give the number of a bit, 0 to 63.")
    return value


class MaskRule(NamedTuple):
    """Which pixels a mask excludes: those that are not zero, if nothing else is given.

    Attributes
    ----------
    good
        Value of good pixels; all others are excluded.
    bits
        Bits of which any excludes a pixel.
    """

    good: int | None = None
    bits: tuple[int, ...] | None = None

    def excluded(self, mask) -> np.ndarray:
        """Return the pixels of a mask that are excluded."""
        blank = np.zeros(mask.shape, bool)
        if mask.dtype.kind == "f":
            # Integers with BLANK pixels come as floats.
            blank = ~np.isfinite(mask)
            mask = np.where(blank, 0, mask)
        if self.good is not None:
            return blank | (mask != self.good)
        return blank | ((mask != 0) if self.bits is None else _any_bit(mask, self.bits))


def masked_pixels(mask, header: fits.Header | None = None, what: str = "MASK", **about):
    """Return the pixels that a mask from a file excludes; parameters are those of `mask_rule`."""
    return mask_rule(mask, header, what, **about).excluded(numeric(mask, what))


def mask_rule(
    mask,
    header: fits.Header | None = None,
    what: str = "MASK",
    *,
    product: Product | None = None,
    good: int | None = None,
    bad_planes: Sequence[str | int] | None = None,
) -> MaskRule:
    """Return which pixels a mask from a file excludes.

    A mask of booleans or of 0 and 1 is used as it is.  Integers with other values are bit
    masks: pipelines also flag pixels on which a source was *detected*, and those must not be
    excluded.  Planes are those named in the header (`mask_planes`) or in the product's row.  A
    bit mask without names is not guessed at: all its nonzero pixels are excluded, and said.

    Parameters
    ----------
    mask
        Mask of any shape, all of its pixels or a sample.
    header
        Its header.
    what
        Name for messages.
    product
        Row of the survey's product.
    good
        The value of good pixels.
    bad_planes
        Names or bits of the planes that exclude a pixel.

    Raises
    ------
    InputError
        If a plane is not known, or if a bit mask without names would exclude most pixels.
    """
    mask = numeric(mask, what)
    if mask.dtype.kind == "f":
        filled = np.where(np.isfinite(mask), mask, 0)
        if bad_planes is not None or (filled == np.round(filled)).all():
            mask = filled.astype(np.int64)
    if good is not None:
        return MaskRule(good=good)
    if mask.dtype.kind not in "iu":
        return MaskRule()
    named = {} if header is None else mask_planes(header)
    planes: Sequence[str | int]
    if bad_planes is None and product is not None and product.bad_planes:
        by_cards = bool(named)
        named = named or dict(product.planes)
        # A release may lack a plane that the row names.
        planes = [p for p in product.bad_planes if p == ALL_PLANES or p in named or p in _BITS]
        if by_cards:
            _say_unknown(mask, _with_unnamed(mask, named), planes, what)
    elif bad_planes is not None:
        planes = list(bad_planes)
        named = named or dict(product.planes if product is not None else {})
    elif named:
        planes = _usual(named)
        _say_unknown(mask, named, planes, what)
    elif np.isin(mask, (0, 1)).all():
        return MaskRule()
    else:
        return MaskRule(bits=_unnamed_bits(mask, what))
    if ALL_PLANES in planes:
        return MaskRule()
    return MaskRule(bits=tuple(_number(plane, named, what) for plane in planes))


def _number(plane: str | int, named: Mapping[str, int], what: str) -> int:
    if isinstance(plane, int):
        if plane not in _BITS:
            raise InputError(f"bad_planes has the bit {plane}; bits go from 0 to 63.")
        return plane
    if plane not in named:
        known = ", ".join(named) or "none by name, so give numbers of bits"
        raise InputError(f"{what} has no plane {plane!r}; it has {known}.")
    return named[plane]


def _any_bit(mask: np.ndarray, bits: Sequence[int]) -> np.ndarray:
    wanted = np.uint64(sum(1 << bit for bit in set(bits)))
    return (mask.astype(np.int64).view(np.uint64) & wanted) != 0


def _usual(named: Mapping[str, int]) -> list[str]:
    coadd = any(plane in named for plane in _COADD_PLANES)
    bad = BAD_PLANES if coadd else (*BAD_PLANES, *_VISIT_PLANES)
    return [plane for plane in named if plane in bad]


def _with_unnamed(mask, named: Mapping[str, int]) -> dict[str, int]:
    """Add bits that are set, between those that cards name: their cards were lost."""
    holes = set(range(max(named.values()))) - set(named.values())
    rest = [bit for bit in sorted(holes) if _any_bit(mask, [bit]).any()]
    return {**named, **{f"bit {bit} without a name": bit for bit in rest}}


def _say_unknown(mask, named: Mapping[str, int], planes: Sequence[str | int], what: str) -> None:
    """Say which planes were masked, if some that are set are of unknown meaning."""
    known = (*BAD_PLANES, *_VISIT_PLANES, *_COADD_PLANES, *_FINE_PLANES)
    count = {plane: np.count_nonzero(_any_bit(mask, [bit])) for plane, bit in named.items()}
    if not any(number and plane not in known for plane, number in count.items()):
        return
    masked = ", ".join(f"{p} ({n} pixels)" for p, n in count.items() if p in planes) or "none"
    left = ", ".join(f"{p} ({n})" for p, n in count.items() if n and p not in planes)
    note(
        f"of the planes of {what} these were masked: {masked}; these were not: {left}; "
        "bad_planes= (--bad-planes) says otherwise."
    )


def _as_of_the_pipelines(mask: np.ndarray, what: str) -> tuple[int, ...]:
    """Return the planes to mask of Rubin's and HSC's pipelines, in a mask that looks like theirs."""
    highest = int(mask.max()).bit_length() - 1
    # Planes of coadds alone have high numbers.
    named = _PIPELINE_PLANES | ({"CLIPPED": highest} if highest > 12 else {})
    planes = [plane for plane in _usual(named) if plane in _PIPELINE_PLANES]
    bits = tuple(_PIPELINE_PLANES[plane] for plane in planes)
    said = ", ".join(f"{plane} {_PIPELINE_PLANES[plane]}" for plane in planes)
    note(
        f"{what} is a bit mask without names of its planes; bit 5, which is set most often, is "
        f"DETECTED in masks of Rubin and HSC, so their planes {said} were masked "
        f"({_any_bit(mask, bits).sum()} pixels); bad_planes= (--bad-planes) says otherwise."
    )
    return bits


def _unnamed_bits(mask: np.ndarray, what: str) -> tuple[int, ...] | None:
    """Return the bits to mask of a mask without names; None for all."""
    masked = mask != 0
    counts = [(bit, np.count_nonzero(_any_bit(mask, [bit]))) for bit in range(64)]
    bits = ", ".join(f"bit {bit} in {count} pixels" for bit, count in counts if count)
    share = masked.mean()
    if share > 0.5:
        most, count = max(counts, key=lambda pair: pair[1])
        # Bits of a DQ are those of space telescopes, where the same one is a defect.
        if most == _PIPELINE_PLANES["DETECTED"] and count < mask.size and "[DQ]" not in what:
            return _as_of_the_pipelines(mask, what)
        raise InputError(
            f"{what} is a bit mask without names of its planes, and {share:.0%} of its pixels are "
            f"not zero ({bits}); say which are bad with bad_planes= (--bad-planes), or which "
            "value is good with good= (--good)."
        )
    note(
        f"{what} is a bit mask without names of its planes; all its {masked.sum()} nonzero pixels "
        f"were masked ({bits}); bad_planes= (--bad-planes) says otherwise."
    )
    return None
