"""Rules of single surveys for zero points, bands, planes of masks, scalings and noise.

The rows of `._products` refer to them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from scipy.ndimage import map_coordinates, uniform_filter

from scorepriors._errors import InputError
from scorepriors._surveys import NANOJANSKY_ZERO_POINT
from scorepriors.models.data._checks import parse_unit
from scorepriors.models.data._warnings import note

from ._cards import check_plausible

#: Narrow bands of WFCAM and VIRCAM, for which nothing here has the magnitude of Vega.
_NARROW_INFRARED = re.compile(r"^(H2|BR?-?G(AMMA)?|1-0S1|NB\d+|\d\.\d+(NB)?\w?)$", re.IGNORECASE)

#: Rows and columns of a part of an image.
Box = tuple[slice, slice]

# --- planes of masks ------------------------------------------------------------------------

#: Planes that make a pixel of a Rubin or HSC coadd unusable: those of Rubin's own deblender.
#: INTRP and CR are here set where any of the visits had them, and the coadd left these out.
RUBIN_COADD_BAD = ("BAD", "SAT", "EDGE", "SUSPECT", "NO_DATA")

#: Planes that make a pixel of a single visit unusable.
RUBIN_VISIT_BAD = (*RUBIN_COADD_BAD, "INTRP", "CR")

#: The same in files of lsst-images, from DP2 on.
DP2_COADD_BAD = ("BAD", "SATURATED", "DETECTION_EDGE", "SUSPECT", "NO_DATA")
DP2_VISIT_BAD = (*DP2_COADD_BAD, "INTERPOLATED", "COSMIC_RAY", "UNMASKED_NAN")

#: Bits of MASKBITS of the Legacy Surveys, data release 10.
LEGACY_PLANES = {
    "NPRIMARY": 0,
    "BRIGHT": 1,
    "SATUR_G": 2,
    "SATUR_R": 3,
    "SATUR_Z": 4,
    "ALLMASK_G": 5,
    "ALLMASK_R": 6,
    "ALLMASK_Z": 7,
    "WISEM1": 8,
    "WISEM2": 9,
    "BAILOUT": 10,
    "MEDIUM": 11,
    "GALAXY": 12,
    "CLUSTER": 13,
    "SATUR_I": 14,
    "ALLMASK_I": 15,
    "SUB_BLOB": 16,
}
LEGACY_BAD = tuple(f"{kind}_{band}" for kind in ("SATUR", "ALLMASK") for band in "GRIZ")

#: Bits of the masks of Pan-STARRS (masks.16bit.config of its pipeline).
PANSTARRS_PLANES = {
    "DETECTOR": 0,
    "FLAT": 1,
    "DARK": 2,
    "BLANK": 3,
    "CTE": 4,
    "SAT": 5,
    "LOW": 6,
    "SUSPECT": 7,
    "CR": 8,
    "SPIKE": 9,
    "GHOST": 10,
    "STREAK": 11,
    "STARCORE": 12,
    "CONV.BAD": 13,
    "CONV.POOR": 14,
}
#: Not SUSPECT and CONV.POOR, which cover much of a stack.
PANSTARRS_BAD = tuple(plane for plane in PANSTARRS_PLANES if plane not in ("SUSPECT", "CONV.POOR"))

#: Bits of the masks of ZTF (Masci et al. 2019, table 8).
ZTF_PLANES = {
    "TRACK": 0,
    "SOURCE": 1,
    "LOW": 2,
    "HIGH": 3,
    "NOISY": 4,
    "GHOST": 5,
    "SPILLAGE": 6,
    "SPIKE": 7,
    "SATURATED": 8,
    "DEAD": 9,
    "NAN": 10,
    "PSF_SOURCE": 11,
    "HALO": 12,
}
#: Not the pixels of sources, nor the halos of bright stars.
ZTF_BAD = tuple(plane for plane in ZTF_PLANES if plane not in ("SOURCE", "PSF_SOURCE", "HALO"))

#: Bits of DQ in files of DRAGONS (Gemini).
GEMINI_PLANES = {
    "BAD_PIXEL": 0,
    "NON_LINEAR": 1,
    "SATURATED": 2,
    "COSMIC_RAY": 3,
    "NO_DATA": 4,
    "OVERLAP": 5,
    "UNILLUMINATED": 6,
}
GEMINI_BAD = ("BAD_PIXEL", "SATURATED", "COSMIC_RAY", "NO_DATA", "UNILLUMINATED")

#: Bits of the masks of KiDS (de Jong et al. 2015, section 3.4).
KIDS_PLANES = {
    "READOUT_SPIKE": 0,
    "SATURATION_CORE": 1,
    "DIFFRACTION_SPIKE": 2,
    "PRIMARY_HALO": 3,
    "SECONDARY_HALO": 4,
    "TERTIARY_HALO": 5,
    "BAD_PIXEL": 6,
    "MANUAL": 7,
}
KIDS_BAD = ("READOUT_SPIKE", "SATURATION_CORE", "DIFFRACTION_SPIKE", "BAD_PIXEL", "MANUAL")

#: Bits of DQ in exposures of JWST.
JWST_PLANES = {"DO_NOT_USE": 0, "SATURATED": 1, "JUMP_DET": 2}


# --- zero points ----------------------------------------------------------------------------

#: AB less Vega magnitude of bands: WISE (Cutri et al. 2012), 2MASS (Blanton et al. 2005),
#: VISTA (Gonzalez-Fernandez et al. 2018) and UKIDSS (Hewett et al. 2006).
VEGA = {"W1": 2.699, "W2": 3.339, "W3": 5.174, "W4": 6.620}
VEGA |= {"2MASS_J": 0.91, "2MASS_H": 1.39, "2MASS_Ks": 1.85}
VEGA |= {"VISTA_Z": 0.502, "VISTA_Y": 0.600, "VISTA_J": 0.916, "VISTA_H": 1.366}
VEGA |= {"VISTA_Ks": 1.827, "UKIDSS_Z": 0.528, "UKIDSS_Y": 0.634, "UKIDSS_J": 0.938}
VEGA |= {"UKIDSS_H": 1.379, "UKIDSS_K": 1.900}


def number(header: Mapping[str, Any], card: str) -> float:
    """Return the number of a card, or raise InputError."""
    value = header.get(card)
    try:
        found = np.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = np.nan
    if not np.isfinite(found):
        raise InputError(
            f"the card {card} is {'missing' if value is None else repr(value)}, but what a count "
            "is worth follows from it; correct it, or give zero_point= and noise= (--zero-point, "
            "--noise)."
        )
    return found


def positive(header: Mapping[str, Any], card: str) -> float:
    """Return the positive number of a card, or raise InputError."""
    found = number(header, card)
    if found <= 0:
        raise InputError(
            f"the card {card} is {found:g}, not positive, but what a count is worth follows from "
            "it; correct it, or give zero_point= and noise= (--zero-point, --noise)."
        )
    return found


def magnitude(header: Mapping[str, Any], card: str) -> float:
    """Return the magnitude of one count by a card, or raise InputError for what is none."""
    found = number(header, card)
    check_plausible(found, f"the card {card}", 5.0)
    return found


def hsc_zero_point(header: fits.Header) -> float:
    """AB magnitude of one count: `FLUXMAG0` counts are magnitude 0; else that of coadds, 27."""
    if "FLUXMAG0" in header:
        return 2.5 * float(np.log10(positive(header, "FLUXMAG0")))
    return 27.0


def photocalib_zero_point(hdus: Sequence[Any]) -> float | None:
    """AB magnitude of one count by the table of the calibration, nJy of one count.

    Coadds have a row of it for each exposure that went in as well.  None where the card `FLUXMAG0`
    says what a count is worth, or where there is no such table.
    """
    if any("FLUXMAG0" in hdu.header for hdu in hdus):
        return None
    tables = [hdu for hdu in hdus if hdu.is_table and hdu.name == "PHOTOCALIB"]
    means = [mean for hdu in tables for mean in _calibration_means(hdu)]
    if not means:
        return None
    mean = _own_calibration(hdus)
    if mean is None:
        if min(means) != max(means):
            raise InputError(
                f"the table PhotoCalib has {len(means)} calibrations ({min(means):.4g} to "
                f"{max(means):.4g} nJy for one count), and the file does not say which is the "
                "image's (PHOTOCALIB_ID, ARCHIVE_INDEX); give zero_point= (--zero-point)."
            )
        mean = means[0]
    if not (np.isfinite(mean) and mean > 0):
        raise InputError(
            f"the table PhotoCalib has {mean:g} nJy for one count; give zero_point= (--zero-point)."
        )
    return NANOJANSKY_ZERO_POINT - 2.5 * float(np.log10(mean))


def _calibration_means(hdu: Any) -> list[float]:
    table = hdu.table()
    name = next((n for n in table.colnames if n.lower() == "calibrationmean"), None)
    return [] if name is None else [float(mean) for mean in table[name]]


def _own_calibration(hdus: Sequence[Any]) -> float | None:
    """Return the image's own row of the calibrations, nJy of one count; None if it can't be found.

    The card `PHOTOCALIB_ID` is the id of objects in the table ARCHIVE_INDEX, which names the table
    (``cat.archive``, counted from the index, which is 0) and the first row of each.
    """
    wanted = next((h.header["PHOTOCALIB_ID"] for h in hdus if "PHOTOCALIB_ID" in h.header), None)
    index = next((one for one in hdus if one.is_table and one.name == "ARCHIVE_INDEX"), None)
    if wanted is None or index is None:
        return None
    table = index.table()
    if not {"id", "cat.archive", "row0"}.issubset(table.colnames):
        return None
    for entry in table[np.asarray(table["id"]) == wanted]:
        number = index.number + int(entry["cat.archive"])
        for hdu in hdus:
            if hdu.is_table and hdu.number == number and hdu.name == "PHOTOCALIB":
                means, row = _calibration_means(hdu), int(entry["row0"])
                return means[row] if 0 <= row < len(means) else None
    return None


def unit_zero_point(header: fits.Header) -> float | None:
    """AB magnitude of one unit by `BUNIT`, a unit of flux, whatever other cards say."""
    unit = parse_unit(str(header.get("BUNIT", "")))
    if not isinstance(unit, units.UnitBase) or not unit.is_equivalent(units.nJy):
        raise InputError(
            f"the card BUNIT is {header.get('BUNIT')!r}, not the unit of flux it used to be; give "
            "zero_point= (--zero-point), the AB magnitude of one unit."
        )
    return NANOJANSKY_ZERO_POINT - 2.5 * float(np.log10(unit.to(units.nJy)))


def panstarrs_zero_point(header: fits.Header) -> float:
    """AB magnitude of one count of a stack: 25 in one second."""
    return 25.0 + 2.5 * float(np.log10(positive(header, "EXPTIME")))


def magzp(header: fits.Header) -> float:
    """AB magnitude of one count by the card `MAGZP`."""
    return magnitude(header, "MAGZP")


def unwise_zero_point(header: fits.Header) -> float:
    """AB magnitude of one Vega nanomaggy."""
    return 22.5 + VEGA[wise_band(header)[0]]


def wise_zero_point(header: fits.Header) -> float:
    """AB magnitude of one count, whose Vega magnitude is `MAGZP`."""
    return magnitude(header, "MAGZP") + VEGA[wise_band(header)[0]]


def twomass_zero_point(header: fits.Header) -> float:
    """AB magnitude of one count, whose Vega magnitude is `MAGZP`."""
    return magnitude(header, "MAGZP") + VEGA[twomass_band(header)[0]]


def infrared_zero_point(header: fits.Header) -> float | None:
    """AB magnitude of one count of VISTA or UKIDSS; `MAGZPT` is Vega's, of one a second.

    None for narrow bands, whose Vega has no known AB magnitude.
    """
    card = "EXP_TIME" if "EXPTIME" not in header and "EXP_TIME" in header else "EXPTIME"  # UKIDSS
    seconds = 2.5 * float(np.log10(positive(header, card)))
    zero, (band,) = magnitude(header, "MAGZPT"), infrared_band(header)
    if band not in VEGA:
        note(
            f"the magnitudes of Vega in the narrow band {band} can't be converted to AB, so fluxes stay "
            "in counts; say zero_point= (--zero-point), the AB magnitude of one count."
        )
        return None
    return zero + seconds + VEGA[band]


# --- bands ----------------------------------------------------------------------------------


def viewer_bands(header: fits.Header) -> tuple[str, ...]:
    """The letters of `BANDS`, of the viewer of the Legacy Surveys, with or without commas."""
    return tuple(re.sub(r"[\s,]", "", str(header["BANDS"])))


def brick_band(header: fits.Header) -> tuple[str] | None:
    """The letter of `FILTERX`: `BANDS` of a brick are those of all its images."""
    letter = str(header.get("FILTERX", "")).strip()
    return (letter,) if letter else None


def panstarrs_band(header: fits.Header) -> tuple[str] | None:
    """The letter of ``FPA.FILTERID`` ("i.00000"), with the survey's name for its wavelength."""
    cards = ("FPA.FILTERID", "FPA.FILTER", "FILTER")
    letter = next((str(header[card]) for card in cards if card in header), "").strip()[:1].lower()
    return (f"PS1_{letter}",) if letter in set("grizyw") else None


def wise_band(header: fits.Header) -> tuple[str]:
    """``W1`` to ``W4`` by the card `BAND`."""
    name = f"W{str(header.get('BAND', '')).strip().upper().removeprefix('W')}"
    if name not in VEGA:
        raise InputError(
            f"the card BAND is {header.get('BAND')!r}, but WISE has the bands 1 to 4; mend it."
        )
    return (name,)


def twomass_band(header: fits.Header) -> tuple[str]:
    """``2MASS_J``, ``2MASS_H`` or ``2MASS_Ks`` by the card `FILTER`."""
    return _lettered("2MASS", header, ("FILTER",))


def infrared_band(header: fits.Header) -> tuple[str]:
    """``VISTA_J`` and the like, or ``UKIDSS_K``, by the card of the filter; narrow bands by its word."""
    survey = "UKIDSS" if "WFCAM" in str(header.get("INSTRUME", "")).upper() else "VISTA"
    cards = ("HIERARCH ESO INS FILT1 NAME", "FILTER", "FILTNAME")
    said = next((str(header[card]).strip() for card in cards if card in header), "")
    if _NARROW_INFRARED.match(said):
        return (said,)
    return _lettered(survey, header, cards)


def _lettered(survey: str, header: fits.Header, cards: Sequence[str]) -> tuple[str]:
    """Name of the band of a survey, whose filter's card is the letter; K and Ks are the same."""
    said = next((str(header[card]).strip() for card in cards if card in header), "")
    known = [name for name in VEGA if name.startswith(f"{survey}_")]
    for name in known:
        if said.upper().removesuffix("S") == name.removeprefix(f"{survey}_").upper().removesuffix(
            "S"
        ):
            return (name,)
    letters = ", ".join(name.removeprefix(f"{survey}_") for name in known)
    raise InputError(
        f"the card FILTER is {said!r}, but {survey} has {letters}; mend it, or give bands= and "
        "zero_point= (--bands, --zero-point)."
    )


def rubin_band(hdus: Sequence[Any]) -> tuple[str] | None:
    """The band in the table of the filter, whose card says the piece of glass: ``i_06``."""
    for hdu in hdus:
        if hdu.is_table and hdu.name == "FILTERLABEL":
            try:
                table = hdu.table()
            except InputError:
                return None  # the name of the band is no reason to refuse an image
            if "band" in table.colnames and len(table):
                value = table["band"][0]
                if isinstance(value, np.ndarray):  # of bytes
                    value = bytes(value.astype(np.uint8)).decode("ascii", "replace")
                band = str(value).strip().strip("\0")
                return (band,) if band else None
    return None


def dp2_band(hdus: Sequence[Any]) -> tuple[str] | None:
    """The band in the JSON tree that lsst-images writes in place of cards."""
    for hdu in hdus:
        if hdu.name == "JSON" and hdu.is_table:
            try:
                tree = json.loads(bytes(np.asarray(hdu.table().columns[0][0], np.uint8)))
            except (ValueError, TypeError, IndexError):
                return None
            band = tree.get("band") if isinstance(tree, dict) else None
            return (band,) if isinstance(band, str) and band else None
    return None


# --- scalings -------------------------------------------------------------------------------


def panstarrs_linear(pixels: np.ndarray, header: fits.Header) -> np.ndarray:
    """Undo the asinh scaling of stacks: ``BOFFSET + 2 BSOFTEN sinh(x / 1.0857)``."""
    if "BSOFTEN" not in header:
        return pixels
    offset, softening = number(header, "BOFFSET"), positive(header, "BSOFTEN")
    scaled = np.asarray(pixels, np.float64) * (np.log(10) / 2.5)
    return offset + 2 * softening * np.sinh(scaled)


#: nJy of one unit of the AB system, in which images of KiDS are: their zero point is 0.  Squares of
#: such pixels do not go with single precision.
MAGGY = 3631e9


# --- noise that the files leave to be calculated --------------------------------------------


#: Electrons per count that no camera reaches.
_LARGEST_GAIN = 1e3


def ztf_variance(
    pixels: np.ndarray, header: fits.Header, hdus: Sequence[Any], box: Box | None
) -> np.ndarray:
    """Variance of an exposure of ZTF, counts squared: of its photons, and of the readout.

    The pixels hold the sky.  Their mean over 3 x 3 stands for the photons: a variance that
    follows the noise of its own pixel would bias fluxes.
    """
    gain = positive(header, "GAIN")
    if not gain < _LARGEST_GAIN:
        raise InputError(f"the card GAIN is {gain:g} electrons per count; give noise= (--noise).")
    return _smooth(pixels) / gain + (positive(header, "READNOI") / gain) ** 2


#: Electrons per count by camera column, and variance of dark and readout, counts squared:
#: https://data.sdss.org/datamodel, frame.
_SDSS_GAIN = {
    "u": (1.62, 1.595, 1.59, 1.6, 1.47, 2.17),
    "g": (3.32, 3.855, 3.845, 3.995, 4.05, 4.035),
    "r": (4.71, 4.6, 4.72, 4.76, 4.725, 4.895),
    "i": (5.165, 6.565, 4.86, 4.885, 4.64, 4.76),
    "z": (4.745, 5.155, 4.885, 4.775, 3.48, 4.69),
}
_SDSS_DARK = {
    "u": (9.61, 12.6025, 8.7025, 12.6025, 9.3025, 7.0225),
    "g": (15.6025, 1.44, 1.3225, 1.96, 1.1025, 1.8225),
    "r": (1.8225, 1.00, 1.3225, 1.3225, 0.81, 0.9025),
    "i": (7.84, 5.76, 4.6225, 6.25, 7.84, 5.0625),
    "z": (0.81, 1.0, 1.0, 9.61, 1.8225, 1.21),
}
#: What changed with a run: band, column, first run, gain, dark variance.
_SDSS_CHANGES = (
    ("u", 2, 1100, 1.825, 12.6025),
    ("i", 2, 1500, 6.565, 6.25),
    ("i", 4, 1500, 4.885, 7.5625),
    ("z", 4, 1500, 4.775, 12.6025),
)


def sdss_variance(
    pixels: np.ndarray, header: fits.Header, hdus: Sequence[Any], box: Box | None
) -> np.ndarray:
    """Variance of a frame of SDSS, nanomaggies squared.

    Counts are calculated back from the calibration of each column (HDU 1) and the sky
    (HDU 2), as the data model of the frames says.
    """
    band, run, column = (str(header.get(card, "")).strip() for card in ("FILTER", "RUN", "CAMCOL"))
    try:
        gain = _SDSS_GAIN[band][int(column) - 1]
        dark = _SDSS_DARK[band][int(column) - 1]
        for changed, where, first, new_gain, new_dark in _SDSS_CHANGES:
            if (changed, where) == (band, int(column)) and int(run) > first:
                gain, dark = new_gain, new_dark
        calibration = np.asarray(hdus[1].pixels(), float)
        table = hdus[2].table()
        sky, x, y = (np.asarray(table[name][0], float) for name in ("ALLSKY", "XINTERP", "YINTERP"))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(
            "an SDSS frame needs its cards FILTER, RUN and CAMCOL, its calibration (HDU 1) and "
            "its sky (HDU 2) for the noise; download the whole file, or give noise= (--noise)."
        ) from error
    if box is not None:
        calibration, x, y = calibration[box[1]], x[box[1]], y[box[0]]
    if calibration.shape != pixels.shape[-1:] or (y.size, x.size) != pixels.shape[-2:]:
        raise InputError(
            f"an SDSS frame of {pixels.shape[-2:]} pixels has a calibration of "
            f"{calibration.shape} and a sky of {(y.size, x.size)}; cut it with position= and size= "
            "(--position, --size), or give noise= (--noise)."
        )
    counts = map_coordinates(sky, np.meshgrid(y, x, indexing="ij"), order=1, mode="nearest")
    counts = counts + _smooth(pixels) / calibration
    return (np.maximum(counts, 0) / gain + dark) * calibration**2


def _smooth(pixels: np.ndarray) -> np.ndarray:
    """Mean of 3 x 3 pixels, not below zero; pixels without data count as their neighbors' 0."""
    clean = np.nan_to_num(np.asarray(pixels, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    size = (1,) * (clean.ndim - 2) + (3, 3)
    return np.maximum(uniform_filter(clean, size=size, mode="nearest"), 0)
