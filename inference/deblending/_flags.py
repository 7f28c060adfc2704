"""The flags of catalogs: one registry of bits, words and sentences."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from astropy.table import Table

from scorepriors._errors import InputError


class Flag(NamedTuple):
    """A flag of a source.

    Attributes
    ----------
    bit
        Number of its bit in the column ``flag_bits``; never given to another flag.
    word
        Word in the column ``flags``.
    sentence
        Meaning of the flag, as a predicate of "the source".
    """

    bit: int
    word: str
    sentence: str

    @property
    def value(self) -> int:
        """Two to the power of the bit."""
        return 1 << self.bit


#: Flags that a fit sets.
FITTED = (
    Flag(0, "edge", "closer than 8 pixels to the border, or more than 1 % of its light beyond it"),
    Flag(1, "masked", "more than a fifth of the light falls on masked pixels"),
    Flag(2, "faint", "measured flux of all bands below five times its error"),
    Flag(3, "negative", "no positive total flux"),
    Flag(4, "moved", "fitted more than 1 pixel from the catalog position"),
    Flag(
        5,
        "outshone",
        "at its own position most of the light is that of others, whose shapes may have taken "
        "some of its own",
    ),
    Flag(
        6,
        "residual",
        "where it is seen the scene does not explain the data: its chi² is too high by five "
        "standard deviations",
    ),
    Flag(
        7,
        "disputed",
        "the bulge-and-disk scene gives it another flux, by three tenths and more of this one",
    ),
    Flag(
        8,
        "canceled",
        "negative light of its neighbors takes away a tenth of its own: neither flux is to be "
        "believed",
    ),
    Flag(9, "point", "modeled as a star"),
    Flag(10, "not_converged", "the fit ended early"),
    Flag(
        11,
        "no_data",
        "in the band named, as in no_data:g, less than a tenth of its light falls on pixels with "
        "data: it has no flux there, and sums over bands are of the others",
    ),
    Flag(
        12,
        "misfit",
        "a twentieth of the squared signal and more is left over where it is seen, as with a wrong "
        "PSF or position",
    ),
    Flag(
        13,
        "cut_off",
        "a thirtieth of its light and more is seen outside of its box, and is not in its flux",
    ),
    Flag(
        14,
        "down_weighted",
        "more than a tenth of the light falls on pixels that lost half of their weight or more, since "
        "no source explains them",
    ),
    Flag(
        15,
        "unsettled",
        "in a field: the light of its neighbors changed after its last fit, by what moves the flux "
        "of a point in its scene by a fifth of its error and more",
    ),
)

#: Flags that a diagnosis adds.
DIAGNOSED = (
    Flag(
        16,
        "made_up",
        "the prior holds over nine tenths of its light, pixel by pixel, and its flux leans on the prior by "
        "over a tenth",
    ),
    Flag(
        17, "atypical", "its shape is less usual than 99 % of the prior's galaxies with that light"
    ),
    Flag(
        18,
        "laplace_off",
        "flux errors from the curvature differ by more than 20 % from those of draws",
    ),
    Flag(
        19, "no_mode", "the fit had not converged, or curves the wrong way somewhere in the scene"
    ),
)

#: All flags by word, in the order of their bits.
FLAGS = {flag.word: flag for flag in FITTED + DIAGNOSED}


#: Flags that say that a flux may be wrong, not only that it is of a special kind; the worst first.
SERIOUS = (
    "not_converged", "no_mode", "negative", "canceled", "misfit", "outshone", "residual", "disputed",
    "down_weighted", "made_up", "atypical", "laplace_off",
)  # fmt: skip

#: Bits of `SERIOUS`.
SERIOUS_BITS = sum(FLAGS[word].value for word in SERIOUS)

#: All flags in the order in which tables, pictures and pages name them: the worst first.
SEVERITY = (
    *SERIOUS, "no_data", "cut_off", "unsettled", "masked", "edge", "moved", "faint", "point",
)  # fmt: skip


#: Sentences of all flags by word, in that order.
SENTENCES = {word: FLAGS[word].sentence for word in SEVERITY}


def without_band(word: str) -> str:
    """Return a word without the band that it names.

    Examples
    --------
    >>> without_band("no_data:g")
    'no_data'
    """
    return word.partition(":")[0]


def worst_first(words: str, known: Mapping[str, str] = SENTENCES) -> tuple[str, ...]:
    """Return comma-separated words in the order of `SEVERITY`; none for ``ok``.

    Names of bands, as in ``no_data:g``, stay with their word.  `known` has the sentences of other flags
    by word, the worst first.

    Examples
    --------
    >>> worst_first("edge,faint,residual,no_data:g"), worst_first("ok")
    (('residual', 'no_data:g', 'edge', 'faint'), ())
    """
    each = [word for word in words.split(",") if word not in ("", "ok")]
    order = list(known)
    return tuple(sorted(each, key=lambda word: order.index(without_band(word))))


def is_serious(words: Iterable[str]) -> bool:
    """Return whether one of the words of a source calls for a look."""
    return any(without_band(word) in SERIOUS for word in words)


def flags_said(words: Iterable[str], known: Mapping[str, str] = SENTENCES) -> dict[str, str]:
    """Return the sentence of each flag that some source has, by word, the worst first.

    Parameters
    ----------
    words
        Comma-separated words of each source, as in the column ``flags``.
    known
        Sentences of the flags by word, the worst first.
    """
    held = {without_band(word) for each in words for word in worst_first(each, known)}
    return {word: sentence for word, sentence in known.items() if word in held}


def bits_of(words: str | Iterable[str]) -> int:
    """Return the bits of comma-separated or single words; ``ok`` has none.

    Names of bands, as in ``no_data:g``, are left out (`bands_of`).

    Raises
    ------
    InputError
        For a word that is no flag.

    Examples
    --------
    >>> bits_of("edge,faint"), bits_of("ok")
    (5, 0)
    """
    each = words.split(",") if isinstance(words, str) else words
    parts = {without_band(word) for word in each} - {"", "ok"}
    unknown = sorted(parts - FLAGS.keys())
    if unknown:
        raise InputError(f"{unknown[0]!r} is no flag; there are {', '.join(FLAGS)}.")
    return sum(FLAGS[word].value for word in parts)


def bands_of(words: str) -> tuple[str, ...]:
    """Return the bands that are named in comma-separated words.

    Examples
    --------
    >>> bands_of("edge,no_data:g,no_data:r")
    ('g', 'r')
    """
    parts = (word.partition(":") for word in words.split(","))
    return tuple(band for _, colon, band in parts if colon)


def words_of(bits: int, bands: Iterable[str] = ()) -> str:
    """Return comma-separated words of the bits, or ``ok``; bits without a flag are left out.

    The word ``no_data`` is repeated with each of `bands`, those without data.

    (Not an empty string, which is read from ECSV files as missing.)

    Examples
    --------
    >>> words_of(5), words_of(0), words_of(2049, ["g", "r"])
    ('edge,faint', 'ok', 'edge,no_data:g,no_data:r')
    """
    named = [f"no_data:{band.replace(',', ';')}" for band in bands]
    words = {word: [word] for word in FLAGS} | ({"no_data": named} if named else {})
    held = (words[word] for word, flag in FLAGS.items() if int(bits) & flag.value)
    return ",".join(word for each in held for word in each) or "ok"


def bits_where(tests: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return bits ``[N]`` of N sources from booleans ``[N]`` by word."""
    bits = (np.asarray(true, np.int64) * FLAGS[word].value for word, true in tests.items())
    return sum(bits, start=np.zeros((), np.int64))


def write_flags(table: Table, bits: np.ndarray, bands: Sequence[Iterable[str]] = ()) -> None:
    """Set the columns ``flags`` (words) and ``flag_bits`` of a catalog, with descriptions.

    Parameters
    ----------
    table
        The catalog.
    bits
        Bits ``[N]``.
    bands
        Names of the bands without data of each source; of none if not given.
    """
    bits = np.asarray(bits, np.int64)
    each = bands or [()] * len(bits)
    table["flags"] = [words_of(one, named) for one, named in zip(bits, each, strict=True)]
    table["flag_bits"] = bits
    meanings = "; ".join(f"{flag.word}: {flag.sentence}" for flag in FLAGS.values())
    table["flags"].info.description = f"comma-separated words, or ok. {meanings}"
    numbers = ", ".join(f"{flag.bit} {flag.word}" for flag in FLAGS.values())
    table["flag_bits"].info.description = f"the flags as bits, lowest first: {numbers}"
