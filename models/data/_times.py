"""When an image was taken, by the cards of its header."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.time import Time
from astropy.wcs import WCS

#: MJD that cards may mean, of the years 1890 and 2130; others are placeholders.
_FIRST, _LAST = 11400.0, 99400.0

#: Cards of the middle of an exposure, of its two ends, and of its start, MJD.
_MIDDLES = ("MJD-AVG", "MJD-MID", "EXPMID")
_ENDS = (("MJD-BEG", "MJD-END"), ("EXPSTART", "EXPEND"))
_STARTS = ("MJD-OBS", "OBSMJD", "MJD-BEG", "EXPSTART")

#: Cards of the length of an exposure in seconds.
_LENGTHS = ("XPOSURE", "EXPTIME", "EXP_TIME")

#: Cards of the time of a day, where `DATE-OBS` is the day alone.
_OF_THE_DAY = ("TAIHMS", "TIME-OBS", "UTC-OBS", "UTSTART")

_DAY = 86400.0


def middle_of_exposure(header: Mapping[str, Any]) -> float | None:
    """Return the middle of an exposure, MJD (UTC), by the cards of its header; None if none tells it.

    A day without a time of day tells none: half a day is a parallax, or a light curve.

    Parameters
    ----------
    header
        Cards of the image, with those of the primary header that it lacks.
    """
    scale = str(header.get("TIMESYS", "UTC")).strip().lower()
    scale = scale if scale in Time.SCALES and scale != "local" else "utc"
    middle = _first(header, _MIDDLES)
    middle = _of_date(header.get("DATE-AVG"), scale) if middle is None else middle
    for ends in _ENDS if middle is None else ():
        found = [value for card in ends if (value := _first(header, (card,))) is not None]
        if middle is None and len(found) == 2 and found[0] <= found[1]:
            middle = sum(found) / 2
    if middle is None:
        start, scale = _start(header, scale)
        if start is None:
            return None
        middle = start + _seconds(header) / 2 / _DAY
    return middle if scale == "utc" else float(Time(middle, format="mjd", scale=scale).utc.mjd)


def time_of_wcs(wcs: WCS) -> float | None:
    """Return the middle of an exposure, MJD, by what a WCS took over from its header; or None."""
    about = wcs.wcs
    cards = {"MJD-AVG": about.mjdavg, "DATE-AVG": about.dateavg, "MJD-OBS": about.mjdobs}
    cards |= {"MJD-BEG": about.mjdbeg, "MJD-END": about.mjdend, "XPOSURE": about.xposure}
    if about.dateobs and "T" not in about.dateobs and about.mjdobs % 1 == 0:
        del cards["MJD-OBS"]  # astropy's, of 0 h on that day
    cards["TIMESYS"] = about.timesys or "UTC"
    return middle_of_exposure(cards)


def _start(header: Mapping[str, Any], scale: str) -> tuple[float | None, str]:
    """Return the start of an exposure, MJD, and its scale."""
    seconds = _number(header, "TAI")
    if seconds is not None and _FIRST < seconds / _DAY < _LAST:
        return seconds / _DAY, "tai"  # of SDSS, since MJD 0
    start = _first(header, _STARTS)
    if start is not None:
        return start, scale
    for card in ("DATE-BEG", "DATE-OBS"):
        found = _of_date(header.get(card), scale)
        if found is not None:
            return found, scale
    for card in _OF_THE_DAY:
        clock = str(header.get(card, "")).strip()
        if re.match(r"^\d{1,2}:\d{2}:\d{2}(\.\d*)?$", clock):
            found = _of_date(f"{str(header.get('DATE-OBS', '')).strip()}T{clock}", scale)
            if found is not None:
                return found, "tai" if card == "TAIHMS" else scale
    return None, scale


def _of_date(value: Any, scale: str) -> float | None:
    """Return the MJD of a date with a time of day; None for anything else."""
    text = str(value).strip()
    old = re.match(r"^(\d\d)/(\d\d)/(\d\d)(T.*)$", text)
    if old:  # as before the year 2000
        text = f"19{old[3]}-{old[2]}-{old[1]}{old[4]}"
    if not re.match(r"^\d{4}-\d\d-\d\d[T ]\d", text):
        return None
    try:
        found = float(Time(text.removesuffix("Z"), scale=scale).mjd)
    except ValueError:
        return None
    return found if _FIRST < found < _LAST else None


def _seconds(header: Mapping[str, Any]) -> float:
    """Return the length of an exposure in seconds; 0 where it is not known."""
    found = (_number(header, card) for card in _LENGTHS)
    return next((value for value in found if value is not None and 0 < value < _DAY), 0.0)


def _first(header: Mapping[str, Any], cards: Sequence[str]) -> float | None:
    """Return the MJD of the first card that holds one."""
    found = (_number(header, card) for card in cards)
    return next((v for v in found if v is not None and _FIRST < v < _LAST), None)


def _number(header: Mapping[str, Any], card: str) -> float | None:
    try:
        value = float(header.get(card))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None
