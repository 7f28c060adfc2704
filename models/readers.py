"""Readers of observations: FITS files, npz archives and astropy's NDData.

**FITS, one file for all bands.**  HDUs are found by name (EXTNAME), in any order:

- ``IMAGE`` (or ``SCI``, or the primary HDU): pixels ``[B, H, W]``, or ``[H, W]`` for
  one band.  Cards, looked for here and then in the primary header: ``BANDS = 'u,g,r,i'``
  or ``BAND1`` to ``BANDn``; ``BUNIT``; ``MAGZERO`` (AB magnitude of one image unit, all
  bands) or ``MAGZERO1`` to ``MAGZEROn``; a celestial WCS on the first two axes.
- one of ``VARIANCE``, ``STD`` (or ``ERR``; standard deviations), ``IVAR`` or ``WEIGHT``
  (or ``WHT``; inverse variances), shaped like the image.  Of several the first in this
  order is taken.  Weight zero and infinite variance mean masked.
- optional ``MASK``, ``[B, H, W]`` or ``[H, W]``: nonzero means masked.  A mask with
  values other than 0 and 1 is a bit mask, see `masked_pixels`.
- ``PSF``: ``[B, P, P]``, or ``[P, P]`` for all bands; or in a file of its own.
- optional table ``CATALOG`` with positions of sources.

**FITS, one file per band.**  The same with 2-D images.  The band is the ``FILTER`` or
``BAND`` card or the file's name without its ending.  Shapes and WCS must agree.

**npz.**  ``images [B, H, W]``, ``variance`` or ``weights``, ``psfs``, ``bands`` (or
``filters``), and optionally ``mask``, ``zero_point``, ``unit`` and ``catalog``, a
structured array with x and y.  A set of blends has ``images [N, B, H, W]``, ``psfs``,
``skyvar [N, B]``, ``gain [B]``, ``src_start``, ``centers`` in **(row, column)** order
and ``meta`` (JSON with ``zp``); the reader takes one of its blends.

Everything returned is a dictionary of arguments of ``Observation.from_arrays``.
"""

import gzip
import io
import json
import operator
import os
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from scipy.ndimage import uniform_filter

from scorepriors.errors import InputError

FITS_ENDINGS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fz")
NPZ_ENDINGS = (".npz",)

#: Bits that make a pixel unusable in masks of the Rubin and HSC pipelines, by plane.
#: The planes DETECTED (5) and DETECTED_NEGATIVE (6) mark the sources themselves, and
#: planes from 9 on differ between releases, so neither is here.
BAD_PLANES = {"BAD": 0, "SAT": 1, "INTRP": 2, "CR": 3, "EDGE": 4, "SUSPECT": 7, "NO_DATA": 8}

#: Names of the noise HDUs, in the order of preference, and what they hold.  WHT comes
#: last since drizzled images use it for exposure times beside a true ERR.
_NOISE = {
    "VARIANCE": "variance",
    "STD": "deviation",
    "ERR": "deviation",
    "IVAR": "weight",
    "WEIGHT": "weight",
    "WHT": "weight",
}

#: AB magnitude of one nanomaggy, the unit of SDSS and of the Legacy Surveys.
_NANOMAGGY = {"nanomaggy": 22.5, "nanomaggies": 22.5, "nmgy": 22.5}

_READ_ERRORS = (OSError, TypeError, ValueError, EOFError, KeyError, IndexError, zlib.error)

#: Largest disagreement of two WCS at the corners, pixels.
_WCS_TOLERANCE = 0.1

Source = str | os.PathLike


class _Part(NamedTuple):
    """What one file or one NDData brings: a few bands of the observation."""

    label: str
    images: np.ndarray
    weights: np.ndarray
    psfs: np.ndarray | None
    bands: tuple[str, ...] | None
    wcs: WCS | None
    unit: units.UnitBase | None
    zero_point: tuple[float, ...] | None
    catalog: Table | None


class _HDU(NamedTuple):
    name: str
    header: fits.Header
    data: Any  # an array, a Table, or None


# --- small checks, shared with observation.py -------------------------------------------


def numeric(array, what: str) -> np.ndarray:
    """Turn `array` into a real numeric numpy array, or say that `what` is none."""
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise InputError(f"{what} is ragged: give an array with rows of one length.") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} has the type {array.dtype}; give an array of real numbers.")
    return array


def where_first(bad: np.ndarray, bands: Sequence[str] | None = None) -> str:
    """Name the first true pixel of a mask ``[B, H, W]``, for a message."""
    band, row, column = np.argwhere(bad)[0]
    band = f"{bands[band]!r}" if bands else f"{band}"
    return f"first at (band {band}, row {row}, column {column})"


def weights_from_variance(
    variance, masked: np.ndarray, what: str = "variance", bands: Sequence[str] | None = None
) -> np.ndarray:
    """Inverse variance; zero where `masked` and where the variance is infinite.

    Raises
    ------
    InputError
        If an unmasked variance is NaN, negative or zero.
    """
    variance = numeric(variance, what)
    if variance.shape != masked.shape:
        raise InputError(
            f"{what} has the shape {variance.shape} but the images have {masked.shape}; "
            "they must agree."
        )
    variance = np.where(masked, np.inf, variance.astype(np.float64))
    with np.errstate(invalid="ignore"):
        problems = {
            "NaN": np.isnan(variance),
            "negative": variance < 0,
            "zero": variance == 0,
        }
    for problem, bad in problems.items():
        if bad.any():
            raise InputError(
                f"{what} is {problem} at {bad.sum()} unmasked pixel(s), "
                f"{where_first(bad, bands)}; mask such pixels."
            )
    return 1 / variance


def masked_pixels(mask, header: fits.Header | None = None, what: str = "MASK") -> np.ndarray:
    """Which pixels a mask from a file rules out.

    A mask of booleans or of 0 and 1 is taken as it is.  Integers with other values are
    bit masks: pipelines also flag pixels on which a source was *detected*, and those
    must stay.  The bits come from the ``MP_<plane>`` cards of the header (Rubin, HSC)
    and are BAD, SAT, INTRP, CR, EDGE, SUSPECT and NO_DATA; without such cards their
    usual numbers are assumed, and a UserWarning says so.
    """
    mask = numeric(mask, what)
    if mask.dtype.kind not in "iu" or np.isin(mask, (0, 1)).all():
        return mask != 0
    cards = {} if header is None else header
    named = {card[3:].upper(): int(cards[card]) for card in cards if card.startswith("MP_")}
    if not named:
        names = ", ".join(BAD_PLANES)
        warnings.warn(
            f"{what} is a bit mask without plane names; taking the Rubin and HSC planes "
            f"{names} as masked and ignoring all others (give a 0/1 mask to decide yourself).",
            UserWarning,
            stacklevel=2,
        )
        named = BAD_PLANES
    bits = sum(1 << bit for plane, bit in named.items() if plane in BAD_PLANES)
    return (mask.astype(np.int64) & bits) != 0


def check_file(path: Source, endings: Sequence[str], what: str) -> Path:
    """Return `path` if it is a file with one of the `endings` and not empty."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the path of one {what}.")
    if not path.exists():
        raise InputError(f"no {what} at {str(path)!r}: the path does not exist.")
    if not path.name.lower().endswith(tuple(endings)):
        raise InputError(
            f"no {what} is named like {path.name}: its name must end in {' or '.join(endings)}."
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes); copy or download it again.")
    return path


def parse_unit(unit) -> units.UnitBase | None:
    """Parse a unit; unknown words are kept as they are, without a meaning."""
    if unit is None or isinstance(unit, units.UnitBase):
        return unit
    try:
        return units.Unit(unit, parse_strict="silent")
    except (TypeError, ValueError) as error:
        raise InputError(f"{unit!r} is not a unit; give an astropy unit such as 'nJy'.") from error


def _stem(path: Path) -> str:
    name = path.name
    for ending in sorted((*FITS_ENDINGS, *NPZ_ENDINGS), key=len, reverse=True):
        if name.lower().endswith(ending):
            # `x.fits.fz` has two endings.
            return name[: -len(ending)].removesuffix(".fits")
    return path.stem


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


# --- FITS ---------------------------------------------------------------------------------


def load_hdus(path: Source) -> list[_HDU]:
    """Read every HDU of a FITS file into memory; no warning gets out.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated or not FITS.
    """
    path = check_file(path, FITS_ENDINGS, "FITS file")
    failure = None
    hdus = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            content = path.read_bytes()
            if content.startswith(b"\x1f\x8b"):
                content = gzip.decompress(content)  # astropy passes over a cut archive
            with fits.open(io.BytesIO(content), memmap=False) as opened:
                hdus = [_HDU(hdu.name.upper(), hdu.header.copy(), _data(hdu)) for hdu in opened]
        except _READ_ERRORS as error:
            failure = error
    # A file cut short shows as a warning, and reading it may go on to fail or not.
    messages = [str(warning.message) for warning in caught]
    if isinstance(failure, EOFError) or any(
        word in message for message in messages for word in ("truncated", "corrupted")
    ):
        raise InputError(f"{path.name} is truncated; copy or download it again.") from failure
    if failure is not None:
        raise InputError(
            f"{path.name} is not a readable FITS file: {_reason(failure)}."
        ) from failure
    return hdus


def _data(hdu):
    if isinstance(hdu, fits.BinTableHDU | fits.TableHDU):
        return Table.read(hdu)
    data = getattr(hdu, "data", None)
    return None if data is None else np.array(data)


def _find(hdus: Sequence[_HDU], names: Sequence[str]) -> _HDU | None:
    for name in names:
        for hdu in hdus:
            if hdu.name == name and hdu.data is not None:
                return hdu
    return None


def _find_image(hdus: Sequence[_HDU]) -> _HDU | None:
    """IMAGE, SCI, the primary HDU, or else (compressed files) the first unnamed one."""
    named = _find(hdus, ("IMAGE", "SCI"))
    if named is not None:
        return named
    for hdu in hdus:
        if isinstance(hdu.data, np.ndarray) and hdu.name in ("", "PRIMARY", "COMPRESSED_IMAGE"):
            return hdu
    return None


def celestial_wcs(header: fits.Header) -> WCS | None:
    """WCS of the first two axes of a header; None if they are not on the sky."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # non-standard cards, which astropy mends
        try:
            # Not `.celestial`: it would reorder the pixel axes of a (Dec, RA) header.
            wcs = WCS(header, naxis=2)
        except Exception as error:
            raise InputError(f"the WCS cannot be read: {_reason(error)}.") from error
    return wcs if wcs.has_celestial else None


def _header_bands(header: fits.Header, num_bands: int) -> tuple[str, ...] | None:
    if "BANDS" in header:
        return tuple(band.strip() for band in str(header["BANDS"]).split(","))
    if "BAND1" in header:
        return tuple(str(header[f"BAND{i}"]) for i in range(1, 1000) if f"BAND{i}" in header)
    for card in ("FILTER", "BAND"):
        if num_bands == 1 and str(header.get(card, "")).strip():
            return (str(header[card]).strip(),)
    return None


def _header_zero_point(header: fits.Header, num_bands: int) -> tuple[float, ...] | None:
    if "MAGZERO1" in header:
        values = [header[f"MAGZERO{i}"] for i in range(1, 1000) if f"MAGZERO{i}" in header]
    elif "MAGZERO" in header:
        values = [header["MAGZERO"]] * num_bands
    else:
        scale = _NANOMAGGY.get(str(header.get("BUNIT", "")).strip().lower())
        return None if scale is None else (scale,) * num_bands
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"the card MAGZERO holds {values[0]!r}; give a number.") from error


def _read_part(path: Path) -> _Part:
    hdus = load_hdus(path)
    found = ", ".join(hdu.name or "(unnamed)" for hdu in hdus)
    image = _find_image(hdus)
    if image is None:
        raise InputError(f"no IMAGE extension (nor SCI, nor a primary image); found {found}.")
    if not isinstance(image.data, np.ndarray) or image.data.ndim not in (2, 3):
        shape = getattr(image.data, "shape", "a table")
        raise InputError(f"the HDU {image.name} holds {shape}; give an image [H, W] or [B, H, W].")
    shape = image.data.shape if image.data.ndim == 3 else (1, *image.data.shape)
    header = hdus[0].header.copy()
    header.extend(image.header, update=True)
    noise = _find(hdus, tuple(_NOISE))
    if noise is None:
        raise InputError(f"no noise extension (one of {', '.join(_NOISE)}); found {found}.")
    mask = _find(hdus, ("MASK",))
    masked = np.zeros(shape, bool)
    if mask is not None:
        masked |= _broadcast_mask(masked_pixels(mask.data, mask.header), shape)
    psf = _find(hdus, ("PSF",))
    catalog = _find(hdus, ("CATALOG",))
    unit = str(header.get("BUNIT", "")).strip()
    return _Part(
        label=path.name,
        images=image.data.reshape(shape),
        weights=_weights(noise.data, _NOISE[noise.name], masked, noise.name),
        psfs=None if psf is None else psf.data,
        bands=_header_bands(header, shape[0]),
        wcs=celestial_wcs(image.header),
        unit=parse_unit(unit) if unit else None,
        zero_point=_header_zero_point(header, shape[0]),
        catalog=None if catalog is None else catalog.data,
    )


def _broadcast_mask(masked: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if masked.shape not in (shape, shape[1:]):
        raise InputError(
            f"mask has the shape {masked.shape} but the images have {shape}; "
            f"give {shape} or {shape[1:]}."
        )
    return np.broadcast_to(masked, shape)


def _weights(noise, kind: str, masked: np.ndarray, what: str) -> np.ndarray:
    """Inverse variance, zero where `masked`; `kind` says what `noise` is."""
    noise = numeric(noise, what)
    if noise.ndim == 2 and masked.shape[0] == 1:
        noise = noise[None]
    if noise.shape != masked.shape:
        raise InputError(
            f"{what} has the shape {noise.shape} but the images have {masked.shape}; "
            "they must agree."
        )
    noise = noise.astype(np.float64)
    if kind == "weight":
        return np.where(masked, 0.0, noise)
    if kind == "deviation":
        # The sign survives, so that a negative deviation is refused, not squared away.
        noise = np.sign(noise) * noise**2
    return weights_from_variance(noise, masked, what)


def read_psf(psf) -> np.ndarray:
    """PSF images from a FITS, npz or npy file, a list of those (one per band) or an array.

    FITS files hold it in an HDU named PSF or in the first image; npz archives under
    ``psfs`` or ``psf``.

    Returns
    -------
    numpy.ndarray
        ``[B, P, P]`` or ``[P, P]``, as found.
    """
    if isinstance(psf, list | tuple) and psf and all(isinstance(p, str | Path) for p in psf):
        return _stack_psfs([read_psf(path) for path in psf])
    if not isinstance(psf, str | os.PathLike):
        return numeric(psf, "psf")
    path = check_file(psf, (*FITS_ENDINGS, ".npz", ".npy"), "PSF file")
    ending = path.suffix.lower()
    if ending == ".npz":
        archive = load_npz(path)
        name = next((name for name in ("psfs", "psf") if name in archive), None)
        if name is None:
            raise InputError(f"{path.name} holds neither psfs nor psf; found {_names(archive)}.")
        return numeric(archive[name], f"{path.name} [{name}]")
    if ending == ".npy":
        try:
            return numeric(np.load(path, allow_pickle=False), path.name)
        except _READ_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path.name} is not a readable npy file: {_reason(error)}."
            ) from error
    hdus = load_hdus(path)
    images = [hdu for hdu in hdus if isinstance(hdu.data, np.ndarray)]
    found = _find(hdus, ("PSF",)) or (images[0] if images else None)
    if found is None or not isinstance(found.data, np.ndarray):
        raise InputError(f"{path.name} holds no PSF image; put it in an HDU named PSF.")
    return found.data


def _stack_psfs(psfs: Sequence[np.ndarray]) -> np.ndarray:
    """Stack PSFs of different sizes, padded with zeros about the pixel ``P // 2``."""
    stacks = [psf if psf.ndim == 3 else psf[None] for psf in psfs]
    sizes = {stack.shape[1:] for stack in stacks}
    if len(sizes) == 1:
        return np.concatenate(stacks)
    if any(height != width for height, width in sizes):
        raise InputError(f"PSF images must be square; their shapes are {sorted(sizes)}.")
    size = max(height for height, _ in sizes)
    padded = []
    for stack in stacks:
        before = size // 2 - stack.shape[-1] // 2
        after = size - stack.shape[-1] - before
        padded.append(np.pad(stack, ((0, 0), (before, after), (before, after))))
    return np.concatenate(padded)


def read_fits(source: Source | Sequence[Source], psf=None) -> dict[str, Any]:
    """Read one multi-extension file, or one file per band; see the module's docstring.

    Parameters
    ----------
    source
        A path, or several in the order of the bands.
    psf
        What `read_psf` takes; it replaces the PSF extensions.

    Returns
    -------
    dict
        Arguments of ``Observation.from_arrays``.
    """
    paths = [Path(p) for p in ([source] if isinstance(source, str | os.PathLike) else source)]
    if not paths:
        raise InputError("no files given; give one FITS file, or one per band.")
    parts = []
    for path in paths:
        check_file(path, FITS_ENDINGS, "FITS file")
        try:
            part = _read_part(path)
        except InputError as error:
            message = str(error)
            named = message.startswith(path.name)
            raise InputError(message if named else f"{path.name}: {message}") from error
        if part.bands is None and part.images.shape[0] == 1:
            part = part._replace(bands=(_stem(path),))
        if len(paths) > 1 and part.images.shape[0] != 1:
            raise InputError(
                f"{path.name} holds {part.images.shape[0]} bands; of several files each must "
                "hold one."
            )
        if psf is None and part.psfs is None:
            raise InputError(
                f"{path.name} has no PSF extension; add one or give the PSF's file as psf=."
            )
        parts.append(part)
    stem = _stem(paths[0])
    if len(paths) > 1:
        # Characters in common are meant, not folders.
        common = os.path.commonprefix([_stem(path) for path in paths])  # noqa: RUF071
        stem = common.rstrip("-_. ") or stem
    return _combine(parts, None if psf is None else read_psf(psf), name=stem)


def _combine(parts: Sequence[_Part], psfs: np.ndarray | None, name: str) -> dict[str, Any]:
    """Stack parts along the band axis after checking that they belong together."""
    first = parts[0]
    images, weights, wcs = [], [], None
    for part in parts:
        if part.images.shape[1:] != first.images.shape[1:]:
            raise InputError(
                f"{part.label} has {part.images.shape[1:]} pixels but {first.label} has "
                f"{first.images.shape[1:]}; cut them to one size."
            )
        if part.wcs is not None:
            wcs = part.wcs if wcs is None else wcs
            _check_same_wcs(part, part.wcs, wcs, first.label)
        factor = _unit_factor(part, first)
        images.append(part.images * factor)
        weights.append(part.weights / factor**2)
    known = [part.zero_point is not None for part in parts]
    if any(known) and not all(known):
        missing = parts[known.index(False)].label
        raise InputError(f"{missing} has no MAGZERO card, but other bands have one; add it.")
    zero_point = None
    if all(known):
        # Images were brought to the first one's unit, and so are their zero points.
        zero_point = tuple(
            float(zero + 2.5 * np.log10(_unit_factor(part, first)))
            for part in parts
            for zero in part.zero_point or ()
        )
    bands = None
    if all(part.bands is not None for part in parts):
        bands = tuple(band for part in parts for band in part.bands or ())
    if psfs is None:
        found = [np.asarray(part.psfs) for part in parts]
        psfs = found[0] if len(found) == 1 else _stack_psfs(found)
    return {
        "images": np.concatenate(images),
        "weights": np.concatenate(weights),
        "psfs": psfs,
        "bands": bands,
        "wcs": wcs,
        "unit": first.unit,
        "zero_point": zero_point,
        "name": name,
        "catalog": next((part.catalog for part in parts if part.catalog is not None), None),
    }


def _unit_factor(part: _Part, first: _Part) -> float:
    if part.unit == first.unit:
        return 1.0
    if part.unit is not None and first.unit is not None and part.unit.is_equivalent(first.unit):
        return float(part.unit.to(first.unit))
    raise InputError(
        f"{part.label} has the unit {part.unit} but {first.label} has {first.unit}; "
        "bring all bands to one unit."
    )


def _check_same_wcs(part: _Part, own: WCS, wcs: WCS, label: str) -> None:
    height, width = part.images.shape[1:]
    x, y = np.array([0.0, width - 1, 0, width - 1]), np.array([0.0, 0, height - 1, height - 1])
    try:
        there = wcs.world_to_pixel(own.pixel_to_world(x, y))
        distance = np.hypot(there[0] - x, there[1] - y).max()
    except Exception:  # astropy's NoConvergence, or points behind the projection
        distance = np.inf
    if not distance <= _WCS_TOLERANCE:
        raise InputError(
            f"the WCS of {part.label} differs from that of {label} by {distance:.3g} pixels; "
            "resample the bands to one pixel grid."
        )


# --- NDData -------------------------------------------------------------------------------


def read_nddata(images: Sequence, psfs, bands: Sequence[str] | None = None) -> dict[str, Any]:
    """Arguments of ``Observation.from_arrays`` from one NDData (or CCDData) per band."""
    if not isinstance(images, list | tuple):
        images = [images]
    if not images:
        raise InputError("no images given; give a list with one NDData per band.")
    parts = [_nddata_part(number, image) for number, image in enumerate(images)]
    arguments = _combine(parts, numeric(psfs, "psfs"), name="")
    if bands is not None:
        arguments["bands"] = tuple(bands)
    return arguments


def _nddata_part(number: int, image) -> _Part:
    label = f"image {number}"
    if not isinstance(image, NDData):
        raise InputError(f"{label} is of the type {type(image).__name__}; give NDData or CCDData.")
    data = numeric(image.data, label)
    if data.ndim != 2:
        raise InputError(f"{label} has the shape {data.shape}; give one 2-D NDData per band.")
    kinds = {StdDevUncertainty: ("deviation", 1), VarianceUncertainty: ("variance", 2)}
    kinds[InverseVariance] = ("weight", -2)
    uncertainty = image.uncertainty
    if type(uncertainty) not in kinds:
        raise InputError(
            f"{label} has {'no' if uncertainty is None else 'an unknown kind of'} uncertainty; "
            "give a StdDevUncertainty, VarianceUncertainty or InverseVariance."
        )
    kind, power = kinds[type(uncertainty)]
    noise = numeric(uncertainty.array, f"the uncertainty of {label}")
    if uncertainty.unit is not None and image.unit is not None:
        noise = noise * float(uncertainty.unit.to(image.unit**power))
    masked = np.zeros(data.shape, bool) if image.mask is None else np.asarray(image.mask) != 0
    wcs = image.wcs
    if wcs is not None and not isinstance(wcs, WCS):
        raise InputError(
            f"{label} has a WCS of the type {type(wcs).__name__}; give an astropy.wcs.WCS "
            "(slices of CCDData keep it, those of other NDData do not)."
        )
    meta = image.meta or {}
    band = next((str(meta[key]) for key in ("FILTER", "BAND") if meta.get(key)), None)
    shape = (1, *data.shape)
    return _Part(
        label=label,
        images=data[None],
        weights=_weights(
            noise,
            kind,
            _broadcast_mask(np.broadcast_to(masked, data.shape), shape),
            f"the uncertainty of {label}",
        ),
        psfs=None,
        bands=None if band is None else (band,),
        wcs=wcs,
        unit=image.unit,
        zero_point=None,
        catalog=None,
    )


# --- npz ----------------------------------------------------------------------------------


def load_npz(path: Source) -> dict[str, np.ndarray]:
    """Read all arrays of an npz archive; pickled ones are refused."""
    path = check_file(path, NPZ_ENDINGS, "npz file")
    try:
        # Opened here, since numpy leaves the files of broken archives open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*_READ_ERRORS, AttributeError, zipfile.BadZipFile) as error:
        if "pickle" in str(error) or "Object arrays" in str(error):
            raise InputError(
                f"{path.name} holds pickled objects, which are never loaded since they can run "
                "code; save plain arrays."
            ) from error
        raise InputError(f"{path.name} is not a readable npz archive: {_reason(error)}.") from error


def _names(archive: dict[str, np.ndarray]) -> str:
    return ", ".join(archive) or "nothing"


def read_npz(path: Source, index: int | None = None, psf=None) -> dict[str, Any]:
    """Read an npz archive; see the module's docstring for the layouts.

    Parameters
    ----------
    path
        The archive.
    index
        Which blend of a set; from 0.
    psf
        What `read_psf` takes; it replaces the archive's own.

    Returns
    -------
    dict
        Arguments of ``Observation.from_arrays``.

    Warns
    -----
    UserWarning
        If there is no variance (a constant one is estimated in each band from the
        median absolute deviation of its pixels), or if a bit mask has no plane names.
    """
    path = Path(path)
    archive = load_npz(path)
    if "images" not in archive:
        raise InputError(f"{path.name} holds no array `images`; found {_names(archive)}.")
    if psf is None and "psfs" not in archive:
        raise InputError(
            f"{path.name} holds no array `psfs`; add it or give the PSF's file as psf=."
        )
    images = numeric(archive["images"], f"{path.name} [images]")
    if images.ndim not in (3, 4):
        raise InputError(
            f"{path.name}: images have the shape {images.shape}; give [B, H, W], or "
            "[N, B, H, W] for a set."
        )
    if images.ndim == 4:
        return read_from_set(path, archive, index, psf)
    if index is not None:
        raise InputError(f"{path.name} holds one blend, not a set; leave out index={index}.")
    arguments = _read_single(path, archive, images)
    return _complete(arguments, archive, psf)


def _complete(arguments: dict[str, Any], archive: dict[str, np.ndarray], psf) -> dict[str, Any]:
    if psf is not None:
        arguments["psfs"] = read_psf(psf)
    names = archive.get("bands", archive.get("filters"))
    arguments["bands"] = None if names is None else tuple(str(name) for name in np.ravel(names))
    return arguments


def _read_single(path: Path, archive: dict[str, np.ndarray], images: np.ndarray) -> dict[str, Any]:
    masked = np.zeros(images.shape, bool)
    if "mask" in archive:
        mask = masked_pixels(archive["mask"], what=f"{path.name} [mask]")
        masked |= _broadcast_mask(mask, images.shape)
    kind = next((name for name in ("variance", "weights") if name in archive), None)
    if kind is None:
        noise, kind = _estimate_variance(path, images, masked), "variance"
    else:
        noise = archive[kind]
    arguments = {
        "images": images,
        "weights": _weights(noise, kind.removesuffix("s"), masked, f"{path.name} [{kind}]"),
        "psfs": archive.get("psfs"),
        "catalog": plain_catalog(archive["catalog"]) if "catalog" in archive else None,
        "name": path.stem,
    }
    if "zero_point" in archive:
        zero = numeric(archive["zero_point"], f"{path.name} [zero_point]")
        arguments["zero_point"] = float(zero) if zero.ndim == 0 else zero.tolist()
    if "unit" in archive:
        arguments["unit"] = str(archive["unit"])
    return arguments


def _estimate_variance(path: Path, images: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Constant variance of each band: (1.4826 x median absolute deviation) squared."""
    pixels = np.where(masked | ~np.isfinite(images), np.nan, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a band without any pixel
        median = np.nanmedian(pixels, axis=(1, 2), keepdims=True)
        # 1.4826 = 1 / norm.ppf(0.75) makes it the deviation of a Gaussian.
        sigma = 1.4826 * np.nanmedian(np.abs(pixels - median), axis=(1, 2), keepdims=True)
    flat = np.flatnonzero(sigma[:, 0, 0] == 0)
    if flat.size:
        raise InputError(
            f"{path.name} holds neither variance nor weights, and the scatter of band "
            f"{flat[0]} is zero; add an array `variance`."
        )
    warnings.warn(
        f"{path.name} holds neither variance nor weights; taking a constant variance in each "
        "band from the median absolute deviation of its pixels (sigma = "
        f"{', '.join(f'{s:.3g}' for s in sigma[:, 0, 0])}).",
        UserWarning,
        stacklevel=2,
    )
    return np.broadcast_to(np.nan_to_num(sigma, nan=np.inf) ** 2, images.shape)


def read_from_set(
    path: Path, archive: dict[str, np.ndarray], index: int | None, psf=None
) -> dict[str, Any]:
    """Arguments of ``Observation.from_arrays`` for one blend of a set read by `load_npz`.

    Parameters
    ----------
    path
        Where the archive came from; for messages and names.
    archive
        Its arrays.
    index
        Which blend; from 0.
    psf
        As for `read_npz`.
    """
    images = numeric(archive["images"], f"{path.name} [images]")
    count = len(images)
    if index is None:
        raise InputError(
            f"{path.name} is a set of {count} blends; choose one with index=0 to {count - 1}."
        )
    if not 0 <= operator.index(index) < count:
        raise InputError(f"index={index} is not in {path.name}; choose from 0 to {count - 1}.")
    missing = [name for name in ("skyvar", "gain") if name not in archive]
    if missing:
        raise InputError(
            f"{path.name} is a set without {' and '.join(missing)}; found {_names(archive)}."
        )
    sky = numeric(archive["skyvar"], f"{path.name} [skyvar]")[index][:, None, None]
    gain = numeric(archive["gain"], f"{path.name} [gain]")[:, None, None]
    image = images[index].astype(np.float64)
    # The variance of a pixel must not follow its own noise: low pixels would get the
    # larger weights and drag every flux down.  A 3 x 3 mean cuts that by nine.
    smooth = np.maximum(uniform_filter(image, size=(1, 3, 3), mode="nearest"), 0)
    catalog = None
    if "centers" in archive and "src_start" in archive:
        start, stop = archive["src_start"][index : index + 2]
        centers = archive["centers"][start:stop]
        # (row, column): checked against where the flux is.
        catalog = Table({"x": centers[:, 1], "y": centers[:, 0]})
    psfs = archive.get("psfs")
    arguments = {
        "images": image,
        "weights": _weights(
            sky + gain * smooth, "variance", np.zeros(image.shape, bool), f"{path.name} [skyvar]"
        ),
        "psfs": psfs[index] if psfs is not None and psfs.ndim == 4 else psfs,
        "catalog": catalog,
        "name": f"{path.stem}-{operator.index(index)}",
    }
    if "meta" in archive:
        try:
            zero_point = json.loads(str(archive["meta"])).get("zp")
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path.name} [meta] is not a JSON object.") from error
        arguments["zero_point"] = zero_point
    return _complete(arguments, archive, psf)


def plain_catalog(catalog: np.ndarray) -> Table:
    """Table of the scalar numbers and truth values of a structured array."""
    names = catalog.dtype.names
    if names is None:
        raise InputError("the array `catalog` has no named columns; save a structured array.")
    kept = [
        name
        for name in names
        if catalog.dtype[name].shape == () and catalog.dtype[name].kind in "fiub"
    ]
    return Table({name: np.atleast_1d(catalog[name]) for name in kept})
