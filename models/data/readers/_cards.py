"""Header cards: names of bands, units and zero points, and the WCS."""

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area, wcs_to_celestial_frame

from scorepriors._errors import InputError
from scorepriors.models.data._checks import check_zero_point, meant_zero_point, parse_unit
from scorepriors.models.data._warnings import note

from ._files import reason

#: Cards with the AB magnitude of one unit of a pixel, where that is what the card means.
_ZERO_POINT_CARDS = ("MAGZERO", "ABZP", "ZPAB", "ABMAGZP", "MAGZP_AB")

#: Cards that usually mean the same, but may be Vega's, or for one second of an exposure.
_LOOSE_CARDS: tuple[str, ...] = (
    "MAGZP",
    "MAGZPT",
    "MAG_ZP",
    "MAG_ZERO",
    "MAG0",
    "PHOTZP",
    "PHOT_ZP",
    "ZP",
)
_LOOSE_CARDS += ("ZEROPT", "ZEROPNT", "ZEROPOIN", "ZPTMAG", "SEXMGZPT", "REFZP", "MAGZPREF")

#: Cards with the system of magnitudes.
_SYSTEM_CARDS = ("MAGSYS", "PHOTSYS", "MAGSYST", "ZPSYS", "PHOTSYST", "MAGTYPE")

#: What stands in headers for a value that is not known.
_NOTHING = ("", "indef", "none", "n/a", "na", "null", "undefined", "unknown")

#: Words in filter cards that are no filter.
_CLEAR = re.compile(
    r"^(clear\w*|open[\w-]*|empty|none|n/a|blank|unknown|undefined|null|0|air|gr\d+\w*|n2)$",
    re.IGNORECASE,
)

#: Cards with the name of the filter, in the order in which they are looked at.
_FILTER_CARDS: tuple[str, ...] = (
    "FILTER",
    "BAND",
    "FILTER1",
    "FILTER2",
    "FILTER3",
    "PUPIL",
    "FILTNAM1",
)
_FILTER_CARDS += ("FILTNAM2", "FILTNAM", "FILTNAME", "FILTER01", "FILTER02", "FILTERS")
_FILTER_CARDS += ("INSFLNAM", "INSFILTE", "ESO INS FILT1 NAME", "FILTERID", "FILTER_ID", "FILT")

#: Filters between two glass plates of one instrument: that of the pupil wheel counts.
_NARROW = re.compile(r"^F\d+[NM]$")

#: AB magnitudes of one unit of a pixel that cards may mean: from the MJy on.
_PLAUSIBLE = (-10.0, 60.0)

#: Beginnings of `CTYPE3` of cubes whose planes are no bands.
_NO_BANDS = ("STOKES", "TIME", "UTC", "TAI", "VRAD", "VOPT", "VELO", "ZOPT", "FELO")

#: Largest disagreement of `PIXAR_SR` and the WCS on the area of a pixel, as a factor; distortion
#: makes some per cent.
_AREA_TOLERANCE = 1.2

#: Largest disagreement in magnitudes between cards.
_TOLERANCE = 0.01


def merged(primary: fits.Header, header: fits.Header) -> fits.Header:
    """Return the cards of an image's header, and those of the primary header that it lacks."""
    both = fits.Header()
    for part in (primary, header):
        for card in part.cards:
            if card.keyword in ("COMMENT", "HISTORY", ""):
                continue
            standard = re.match(r"^[A-Z0-9_-]{1,8}$", card.keyword) is not None
            try:
                both[card.keyword if standard else f"HIERARCH {card.keyword}"] = card.value
            except (ValueError, fits.VerifyError):
                continue  # a card that no program can read
    return both


def says_nothing(value: str) -> bool:
    """Return whether a text stands for a value that is not known."""
    return str(value).strip().lower() in _NOTHING


def text(header: fits.Header, card: str) -> str:
    """Return the text of a card; empty if it is missing or says that nothing is known."""
    value = header.get(card)
    if value is None or isinstance(value, bool | fits.card.Undefined):
        return ""
    return "" if says_nothing(value) else str(value).strip()


def number(header: fits.Header, card: str) -> float | None:
    """Return the finite number of a card, also one that is written as text; None if missing."""
    value = header.get(card)
    if value is None or isinstance(value, fits.card.Undefined):
        return None
    if isinstance(value, str) and says_nothing(value):
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        result = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"the card {card} holds {value!r}; give a number.") from error
    if not np.isfinite(result):
        raise InputError(f"the card {card} holds {result}; give a finite number.")
    return result


def _numbered(header: fits.Header, card: str) -> list[str]:
    """Return the cards ``card0`` or ``card1`` and those that follow, as far as they go."""
    first = 0 if f"{card}0" in header else 1
    found: list[str] = []
    while f"{card}{first + len(found)}" in header:
        found.append(f"{card}{first + len(found)}")
    return found


# --- bands -----------------------------------------------------------------------------------


def clean_band(name: str) -> str:
    """Return the name of a band as people say it.

    Examples
    --------
    >>> clean_band("r DECam SDSS c0002 6415.0 1480.0"), clean_band("CLEAR2L; F435W")
    ('r', 'F435W')
    >>> clean_band("i.MP9703"), clean_band("g_G0301"), clean_band("ZTF_g"), clean_band("clear")
    ('i', 'g', 'ZTF_g', '')
    """
    name = name.strip().strip("'\"")
    if "decam" in name.lower():
        return name.split()[0]
    parts = [part for part in re.split(r"[;,|+&/]|\s+", name) if part]
    kept = [part for part in parts if not _CLEAR.match(part)]
    name = kept[0] if len(kept) == 1 else ("" if not kept else name)
    # Codes of the glass (MegaCam, GMOS) and names of the system behind a letter.
    code = re.match(r"^([A-Za-z]{1,2})[._](MP\d+|G\d{4}|SDSS|sdss|bessell?|Bessell?)$", name)
    return code.group(1) if code else name


def header_bands(header: fits.Header, num_bands: int) -> tuple[str, ...] | None:
    """Return names of bands from ``BANDS``, ``BAND1`` ..., or a filter's cards; None if unknown."""
    listed = text(header, "BANDS")
    own = text(header, "FILTERX") if num_bands == 1 else ""
    if own:
        return (own,)  # in bricks of the Legacy Surveys, whose BANDS are those of all files
    if listed:
        return _names_in(listed, num_bands)
    numbered = _numbered(header, "BAND")
    if numbered:
        return tuple(str(header[card]).strip() for card in numbered)
    if num_bands != 1:
        return _bands_of_axis(header, num_bands)
    name = _filter(header)
    return None if not name else (name,)


def refuse_planes(header: fits.Header, number: int) -> None:
    """Refuse a cube whose planes are no bands, for a user who does not name them.

    Parameters
    ----------
    header
        Cards of the cube and of the primary header.
    number
        Number of planes.

    Raises
    ------
    InputError
        With what they are.
    """
    kind = text(header, "CTYPE3").upper()
    mend = (
        "write a plane of it, or the mean of its planes, as an image; or name them with bands= "
        "(--bands)."
    )
    if kind.startswith(_NO_BANDS):
        raise InputError(f"the third axis of the image is {kind} (card CTYPE3), no bands: {mend}")
    told = any(text(header, card) for card in ("BANDS", "FILTERS", "BAND1", "BAND0", "FILTER1"))
    if text(header, "TELESCOP").upper() == "JWST" and not told and not kind.startswith("WAVE"):
        raise InputError(
            f"the {number} planes of this JWST image are integrations, no bands: take its _cal.fits or "
            f"_i2d.fits, which are their mean; or {mend}"
        )


def _names_in(listed: str, num_bands: int) -> tuple[str, ...]:
    """Return the names in one text: between commas, blanks, or each letter."""
    names = [name.strip() for name in re.split(r"[,;]", listed)]
    if len(names) == 1 and len(names[0].split()) == num_bands:
        names = names[0].split()
    if len(names) == 1 < num_bands == len(names[0]):
        names = list(names[0])
    return tuple(names)


def _filter(header: fits.Header) -> str:
    found = {}
    for card in _FILTER_CARDS:
        name = clean_band(text(header, card))
        if name:
            found[card] = name
    pupil = found.get("PUPIL", "")
    if _NARROW.match(pupil) and "FILTER" in found and found["FILTER"].endswith(("W", "W2")):
        return pupil
    return next(iter(found.values()), "")


def _bands_of_axis(header: fits.Header, num_bands: int) -> tuple[str, ...] | None:
    """Return names of planes: from cards of filters, or wavelengths of the third axis."""
    for card in ("FILTERS", "FILTER", "BAND"):
        names = _names_in(text(header, card), num_bands)
        if len(names) == num_bands and all(names):
            return names
    numbered = _numbered(header, "FILTER")
    if len(numbered) == num_bands:
        names = tuple(clean_band(text(header, card)) for card in numbered)
        if all(names):
            return names
    kind = text(header, "CTYPE3").upper()
    if header.get("NAXIS3") != num_bands and "ZNAXIS3" not in header:
        return None
    if not kind.startswith(("WAVE", "AWAV", "LAMBDA", "WAVELEN", "FREQ")):
        return None
    step = next((number(header, c) for c in ("CDELT3", "CD3_3") if c in header), None)
    start, pixel = number(header, "CRVAL3"), number(header, "CRPIX3")
    if start is None or step is None:
        return None
    values = start + step * (np.arange(num_bands) + 1 - (1.0 if pixel is None else pixel))
    default = "Hz" if kind.startswith("FREQ") else "m"
    unit = units.Unit(text(header, "CUNIT3") or default, parse_strict="silent")
    try:
        waves = (values * unit).to_value(units.nm, units.spectral())
    except units.UnitConversionError:
        return None
    if not (np.isfinite(waves) & (waves > 0)).all():
        return None
    # Micrometers beyond what is usually given in nanometers; no exponents.
    factor, unit = (1, "nm") if waves.max() < 5000 else (1000, "um")
    for digits in range(8):
        names = tuple(f"{wave / factor:.{digits}f}{unit}" for wave in waves)
        if len(set(names)) == num_bands:
            return names
    return None


# --- units and zero points -------------------------------------------------------------------


def header_unit(header: fits.Header, instead: str = "") -> units.UnitBase | None:
    """Return the unit of a pixel, ``"/pixel"`` left out; `instead` where the header has none."""
    word = text(header, "BUNIT") or instead
    if not word:
        return None
    unit = parse_unit(word)
    if isinstance(unit, units.UnitBase) and unit.is_equivalent(units.one) and unit.scale != 1:
        return units.UnrecognizedUnit(word)  # a number
    if not isinstance(unit, units.UnitBase) or units.mag in getattr(unit, "bases", ()):
        raise InputError(
            f"the pixels are in {unit}, a logarithm; give an image that is linear in flux."
        )
    return unit


def _vega_card(header: fits.Header) -> str:
    """Return the card that says that magnitudes are Vega's; "" if none does."""
    cards = (card for card in _SYSTEM_CARDS if "vega" in text(header, card).lower())
    return next(cards, "")


def header_zero_point(
    header: fits.Header, num_bands: int, unit: units.UnitBase | None, area: float | None
) -> tuple[float, ...] | None:
    """Return AB magnitudes of one unit of a pixel, or None.

    Parameters
    ----------
    header
        Cards of the image and of the primary header.
    num_bands
        Number of bands.
    unit
        Unit of a pixel.
    area
        Area of a pixel in steradians, if it is known: for surface brightnesses.

    Raises
    ------
    InputError
        If two cards, or a card and the unit, contradict each other.
    """
    meant = meant_zero_point(unit, area=area, wavelength=number(header, "PHOTPLAM"))
    found = _numbered_zero_points(header, num_bands)
    if found is not None:
        for zero in found:
            check_plausible(zero, "the card MAGZERO1 or one that follows it")
        _agree("MAGZERO1", found, str(unit), meant)
        return found
    known: dict[str, float] = {}
    for card in _ZERO_POINT_CARDS:
        written = number(header, card)
        if written is not None:
            known[card] = written
    flux = number(header, "FLUXMAG0")
    if flux is not None:
        if flux <= 0:
            raise InputError(f"the card FLUXMAG0 holds {flux:g}; give a positive flux.")
        known["FLUXMAG0"] = 2.5 * float(np.log10(flux))
    rate = None if known or meant is not None else _hubble_zero_point(header, unit)
    if rate is not None:
        known["PHOTFLAM"] = rate
    loose = _loose_zero_points(header)
    vega = _vega_card(header)
    if vega and ("MAGZERO" in known or loose):
        names = [*(["MAGZERO"] if known.pop("MAGZERO", None) is not None else []), *loose]
        loose = {}
        note(
            f"the card {vega} says {header[vega]!r}, so {', '.join(names)} was not used; say "
            "zero_point= (--zero-point) in AB for nanojanskys and magnitudes."
        )
    for card, value in (known | loose).items():
        check_plausible(value, f"the card {card}")
        _agree(card, (value,), str(unit), meant)
    if vega and not known and unit is not None and "mgy" in unit.to_string():
        raise InputError(
            f"the card {vega} says {header[vega]!r}, so maggies are not those of AB; say zero_point= "
            "(--zero-point), in AB: 22.5 for nanomaggies and the AB magnitude of Vega in the band."
        )
    first = next(iter(known.items()), None)
    for card, value in (known | loose).items():
        if first is not None and abs(value - first[1]) > _TOLERANCE:
            raise InputError(
                f"the cards {first[0]} and {card} mean zero points of {first[1]:.3f} and "
                f"{value:.3f}; say which with zero_point= (--zero-point)."
            )
    if first is not None:
        return (first[1],) * num_bands
    if meant is not None and unit is not None:
        # A unit of flux density says it itself.
        return None if unit.is_equivalent(units.nJy) else (meant,) * num_bands
    if loose:
        card, value = next(iter(loose.items()))
        if max(loose.values()) - min(loose.values()) > _TOLERANCE:
            said = ", ".join(f"{name} {one:g}" for name, one in loose.items())
            raise InputError(
                f"the header has several zero points ({said}); say which with zero_point= "
                "(--zero-point)."
            )
        note(
            f"the zero point {value:g} of the card {card} was taken as the AB magnitude of one "
            "unit of a pixel; say zero_point= (--zero-point) if it is another."
        )
        return (value,) * num_bands
    _say_no_zero_point(header, unit)
    return None


def _say_no_zero_point(header: fits.Header, unit: units.UnitBase | None) -> None:
    """Say why there are no magnitudes, where a card or a unit would make one expect them."""
    mend = "say zero_point= (--zero-point) for nanojanskys and magnitudes."
    for card in (*_ZERO_POINT_CARDS, *_LOOSE_CARDS, "FLUXMAG0", "PHOTFLAM", "PHOTPLAM"):
        # Zero stands for sensitivities that are not known.
        if card in header and header[card] != 0 and not _vega_card(header):
            said = str(header[card]).strip()
            note(f"no zero point comes from the card {card}, which is {said!r}; {mend}")
            break
    if isinstance(unit, units.UnrecognizedUnit):
        note(f"the unit {str(unit)!r} is not known, so fluxes stay in the unit of a pixel; {mend}")
    elif unit is not None and units.kg in unit.decompose().bases:  # unlike counts and electrons
        lacks = "the pivot wavelength (PHOTPLAM)"
        if unit.is_equivalent(units.Jy / units.sr):
            lacks = "the area of a pixel (PIXAR_SR)"
        elif units.beam in unit.bases:
            lacks = "the area of the beam"
        note(f"the unit {unit} is no flux of a pixel without {lacks}; {mend}")


def _numbered_zero_points(header: fits.Header, num_bands: int) -> tuple[float, ...] | None:
    cards = _numbered(header, "MAGZERO")
    if not cards:
        return None
    values = [number(header, card) for card in cards]
    if None in values:
        card = cards[values.index(None)]
        raise InputError(f"the card {card} holds {header[card]!r}; give a number.")
    if len(values) != num_bands:
        raise InputError(
            f"{len(values)} card(s) {cards[0]} to {cards[-1]} for {num_bands} band(s); give one "
            "for each, or MAGZERO for all."
        )
    return tuple(value for value in values if value is not None)


def _loose_zero_points(header: fits.Header) -> dict[str, float]:
    found = {}
    for card in _LOOSE_CARDS:
        try:
            value = number(header, card)
        except InputError as error:
            note(f"{str(error).split(';')[0]}, which is no zero point and was left out.")
            continue
        if value is not None:
            found[card] = value
    return found


def check_plausible(value: float, what: str, least: float = _PLAUSIBLE[0]) -> None:
    """Refuse a zero point that no image has; `least` is the smallest one it may have."""
    if not least <= value <= _PLAUSIBLE[1]:
        raise InputError(
            f"by {what} one unit of a pixel has the AB magnitude {value:.4g}, which is not likely; "
            "give zero_point= (--zero-point), that one if it is right."
        )


def _hubble_zero_point(header: fits.Header, unit: units.UnitBase | None) -> float | None:
    """Return the AB magnitude of one unit from the sensitivities in headers of HST."""
    flam, pivot = number(header, "PHOTFLAM"), number(header, "PHOTPLAM")
    if not flam or not pivot or flam < 0 or pivot < 0:
        return None
    zero = -2.5 * np.log10(flam) - 5 * np.log10(pivot) - 2.408
    if unit is None or _is_rate(unit):
        return float(zero)
    if isinstance(unit, units.UnrecognizedUnit) or not unit.bases:
        raise InputError(
            f"PHOTFLAM is for counts per second, but the unit {str(unit)!r} is not known; say "
            "zero_point= (--zero-point)."
        )
    seconds = number(header, "EXPTIME")
    if not seconds or seconds < 0:
        raise InputError(
            f"PHOTFLAM is for one second, but pixels are in {unit} and EXPTIME is missing; say "
            "zero_point= (--zero-point)."
        )
    return float(zero + 2.5 * np.log10(seconds))


def _is_rate(unit: units.UnitBase) -> bool:
    if isinstance(unit, units.UnrecognizedUnit):
        return bool(re.search(r"/\s*s|s\^?-1|per sec", str(unit), re.IGNORECASE))
    return any(base == units.s and power < 0 for base, power in zip(unit.bases, unit.powers))


def _agree(card: str, values: Sequence[float], unit: str, meant: float | None) -> None:
    if meant is not None and np.abs(np.array(values) - meant).max() > _TOLERANCE:
        raise InputError(
            f"the unit {unit} means a zero point of {meant:.2f}, but the card {card} is "
            f"{values[0]:g}; say which with zero_point= (--zero-point)."
        )


def given_zero_point(
    given: Any, unit: units.UnitBase | None, num_bands: int
) -> tuple[tuple[float, ...], units.UnitBase | None]:
    """Return zero points that a user gave, and the unit unless they contradict it."""
    zero = check_zero_point(given, None, num_bands)
    assert zero is not None
    try:
        check_zero_point(given, unit, num_bands)
    except InputError:
        note(
            f"the zero point {zero[0]:g} that was given contradicts the unit {unit}, which was "
            "left out."
        )
        return zero, None
    return zero, unit


# --- WCS -------------------------------------------------------------------------------------


def celestial_wcs(headers: Sequence[fits.Header], hdus=None, where: str = "") -> WCS | None:
    """Return the WCS of the first two axes of the first header that has one on the sky.

    A WCS that can't be read is noted, since positions in pixels need none.

    Parameters
    ----------
    headers
        Headers of the image and of the primary HDU.
    hdus
        Open file, for lookup tables of distortions.
    where
        Beginning of the sentence.
    """
    problem = ""
    for header in headers:
        try:
            wcs = _wcs(header, hdus)
        except Exception as error:  # astropy raises errors of many kinds here
            problem = problem or reason(error)
            continue
        if wcs.has_celestial:
            return wcs
    if problem:
        note(
            f"{where}the WCS cannot be read ({problem}), so there is none: positions in pixels "
            "go, those on the sky need a corrected header."
        )
    return None


def _wcs(header: fits.Header, hdus) -> WCS:
    header = header.copy()
    for card in ("CUNIT1", "CUNIT2"):
        if re.match(r"^deg(ree)?s?$", str(header.get(card, "")).strip(), re.IGNORECASE):
            header[card] = "deg"
    for card in ("RADESYS", "RADECSYS"):
        if card in header and not text(header, card):
            del header[card]
    _check_wcs_cards(header)
    tables = hdus if any(f"{kind}DIS1" in header for kind in ("CP", "CQ", "D2IM")) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-standard cards, which astropy corrects
        # Not `.celestial`: it would reorder the pixel axes of a (Dec, RA) header.
        wcs = WCS(header, fobj=tables, naxis=2)
        if wcs.pixel_shape is not None:
            wcs.pixel_shape = wcs.pixel_shape[:2]  # that of a cube would mix up slices
        if wcs.has_celestial:
            wcs_to_celestial_frame(wcs)  # raises for those that astropy does not know
            area = proj_plane_pixel_area(wcs)
            middle = [max(float(header.get(f"NAXIS{axis}") or 1), 1) / 2 for axis in (1, 2)]
            if not (np.isfinite(area) and area > 0):
                raise ValueError("its pixels have no area")
            if not np.isfinite(wcs.wcs_pix2world([middle], 0)).all():
                raise ValueError("it gives no sky position")
    return wcs


def _check_wcs_cards(header: fits.Header) -> None:
    """Refuse cards that are missing or no numbers, which wcslib takes as zero or one."""
    if "CTYPE1" not in header or "CTYPE2" not in header:
        return
    numbers = re.compile(r"^(CRVAL|CRPIX|CDELT|CROTA)[12]$|^(CD|PC)[12]_[12]$|^PV[12]_\d+$")
    for card in filter(numbers.match, header):
        if number(header, card) is None:
            raise InputError(f"the card {card} holds {header[card]!r}; give a number")
    missing = [card for card in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2") if card not in header]
    if not any(re.match(r"^(CD|PC)[12]_[12]$", card) for card in header):
        missing += [card for card in ("CDELT1", "CDELT2") if card not in header]
    if missing and "-" in str(header["CTYPE1"]):
        raise InputError(f"the card {missing[0]} is missing")


def pixel_area(header: fits.Header, wcs: WCS | None, unit: units.UnitBase | None) -> float | None:
    """Return the area of a pixel in steradians: from ``PIXAR_SR``, ``PIXAR_A2`` or the WCS.

    None for units that are not of an angle: mosaics on other pixels keep a camera's ``PIXAR_SR``.
    """
    if unit is None or units.rad not in unit.decompose().bases:
        return None
    area = number(header, "PIXAR_SR")
    squared = number(header, "PIXAR_A2") if area is None else None
    if squared is not None:
        area = float((squared * units.arcsec**2).to_value(units.sr))
    scale = number(header, "PIXSCALE") if area is None and wcs is None else None
    if scale is not None:
        area = float((scale * units.arcsec).to_value(units.rad) ** 2)
    if area is None and wcs is not None:
        area = float(proj_plane_pixel_area(wcs) * np.radians(1) ** 2)
    if area is not None and not area > 0:
        raise InputError(f"the card PIXAR_SR holds {area:g}; give the area of a pixel.")
    if area is not None and wcs is not None:
        factor = area / float(proj_plane_pixel_area(wcs) * np.radians(1) ** 2)
        if not 1 / _AREA_TOLERANCE < factor < _AREA_TOLERANCE:
            raise InputError(
                f"the card PIXAR_SR means pixels of {factor:.3g} times the area that they have by "
                "the WCS; correct one of them, or give zero_point= (--zero-point)."
            )
    return area
