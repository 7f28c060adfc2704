"""Which PSF belongs to which band: by what files say, else by their order."""

import re
from collections.abc import Sequence

from scorepriors._errors import InputError
from scorepriors.models.data._warnings import note

from ._sources import Source


def match(sources: Sequence[Source], bands: tuple[str, ...], in_order: bool) -> list[Source]:
    """Return one source for each band.

    Parameters
    ----------
    sources
        PSFs of one file, or one of each file.
    bands
        Names of the bands.
    in_order
        Whether the user gave them in an order, which then needs no word.

    Raises
    ------
    InputError
        If it can't be told which PSF belongs to which band.

    Warns
    -----
    FileWarning
        If one PSF stands for several bands, or the order of HDUs had to be trusted.
    """
    if len(sources) == 1:
        return _one_for_all(sources[0], bands)
    found = [named_band(source.band or source.name, bands) for source in sources]
    if not any(found):
        found = [_hinted_band(source, bands) for source in sources]
        # Words of file names are hints, not statements: all of them fit, or none counts.
        found = found if sorted(map(str, found)) == sorted(bands) else [None] * len(sources)
    chosen = {band: source for source, band in zip(sources, found) if band is not None}
    stated = [band for band in found if band is not None]
    if len(chosen) == len(bands) == len(stated):
        return [chosen[band] for band in bands]
    if not stated and len(sources) == len(bands):
        ordered = in_order or all(source.ordered for source in sources)
        if not ordered or any(source.band for source in sources):
            names = ", ".join(source.band or source.name or source.label for source in sources)
            note(
                f"the {len(sources)} PSFs of {_where(sources)} ({names}) do not name the bands; "
                f"they were taken in the order {', '.join(bands)} (a card BAND in each HDU tells)."
            )
        return list(sources)
    names = ", ".join(source.band or source.name or source.label for source in sources)
    raise InputError(
        f"there are {len(sources)} PSFs for {len(bands)} band(s), and it can't be told which "
        f"belongs to which: {_where(sources)} has {names}, the bands are {', '.join(bands)}; "
        "name each HDU's band by a card BAND, or give one for each band, as file.fits or "
        "file.fits[HDU]."
    )


def _one_for_all(source: Source, bands: tuple[str, ...]) -> list[Source]:
    if len(bands) > 1:
        said = f" of {source.band}" if source.band else ""
        note(
            f"{source.label} holds one PSF{said} for all of the bands {', '.join(bands)}; where "
            "they differ colors are wrong, so give one for each band."
        )
    elif source.band and not named_band(source.band, bands):
        note(f"{source.label} says that its PSF is of {source.band}, but the band is {bands[0]}.")
    return [source] * len(bands)


def named_band(name: str | None, bands: Sequence[str]) -> str | None:
    """Return the band that a card or the name of an HDU means; None if that is not clear.

    A name means a band if they are equal, or one is the last or first word of the other
    (``HSC-R`` means r, ``r`` means ``LSST_r``), capitals first as they are, then without regard
    to them.
    """
    if not name:
        return None
    for fold in (str, str.casefold):
        for shorten in (str, _last_word, _first_word):
            wanted = fold(shorten(name.strip()))
            same = [
                band
                for band in bands
                if wanted in (fold(band), fold(_last_word(band)), fold(_first_word(band)))
            ]
            if len(same) == 1:
                return same[0]
    return None


def _words(name: str) -> list[str]:
    return re.split(r"[\s_.\-/:]+", name.strip())


def _last_word(name: str) -> str:
    return _words(name)[-1]


def _first_word(name: str) -> str:
    return _words(name)[0]


def _hinted_band(source: Source, bands: Sequence[str]) -> str | None:
    words = _words(source.hint)
    for fold in (str, str.casefold):
        folded = [fold(word) for word in words]
        same = [band for band in bands if {fold(band), fold(_last_word(band))} & set(folded)]
        if len(same) == 1:
            return same[0]
    return None


def _where(sources: Sequence[Source]) -> str:
    files = list(dict.fromkeys(source.label.split(" [")[0] for source in sources))
    return ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
