"""Names of HDUs: which of them hold the image, its noise, its mask and its PSF."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from scorepriors._errors import InputError
from scorepriors._filters import wavelength
from scorepriors.models.data._warnings import note

from ._files import Extension
from ._products import Product

#: Names of the image's HDU, in the order of preference.
IMAGE_NAMES = ("IMAGE", "SCI_BKSUB", "SCI", "SCIENCE", "DATA", "COADD", "SIGNAL", "FLUX")

#: Name of the image without its background, which mosaics of CEERS have beside SCI.
_WITHOUT_BACKGROUND = "SCI_BKSUB"

#: Names of the noise's HDU, in the order of preference, and their content.  Names of weights
#: come last, since drizzled images have exposure times in WHT beside a true ERR: ``"weight"`` and
#: ``"wht"`` are inverse variances unless they turn out to be exposure times.
NOISE_NAMES = {
    "VARIANCE": "variance",
    "VAR": "variance",
    "STAT": "variance",
    "STD": "deviation",
    "STDDEV": "deviation",
    "STDEV": "deviation",
    "ERR": "deviation",
    "ERROR": "deviation",
    "ERRORS": "deviation",
    "SIGMA": "deviation",
    "RMS": "deviation",
    "NOISE": "deviation",
    "UNC": "deviation",
    "UNCERTAINTY": "deviation",
    "UNCERT": "deviation",
    "IVAR": "ivar",
    "INVVAR": "ivar",
    "INVERSE_VARIANCE": "ivar",
    "IVM": "ivar",
    "WEIGHT": "weight",
    "WEIGHTS": "weight",
    "WGT": "weight",
    "WHT": "wht",
    "EXPTIME": "exposure",
    "EXPOSURE": "exposure",
    "EXP": "exposure",
}

#: Content of an HDU by its card UTYPE, as astropy's CCDData writes it.
UNCERTAINTY_TYPES = {
    "stddevuncertainty": "deviation",
    "std": "deviation",
    "varianceuncertainty": "variance",
    "var": "variance",
    "inversevariance": "ivar",
    "ivar": "ivar",
}

#: Names of the mask's HDU.
MASK_NAMES: tuple[str, ...] = (
    "MASK",
    "DQ",
    "MSK",
    "FLAGS",
    "FLAG",
    "FLG",  # exposures of Euclid
    "MASKBITS",
    "BPM",
    "BADPIX",
    "QUALITY",
)
MASK_NAMES += ("BITMASK", "DQUALITY", "DATAQUALITY", "DATA_QUALITY", "IMAFLAGS_ISO", "BADMASK")

#: HDUs that belong to a known image and do not bear on the fit.
_HARMLESS = re.compile(
    r"^(CON|CTX|CONTEXT|SEG|SEGM|SEGMENTATION|VAR_\w+|AREA|WAVELENGTH|WMAP|D2IMARR|WCSDVARR|"
    r"SIP\w*|HDRTAB|ASDF|NOISE_REALIZATIONS.*|MASK_FRACTIONS.*|BACKGROUND|BKG|BKGD|SKY|NEXP|COVERAGE|"
    r"CATALOG|CORRELATION|FINE_SAMPLES|ARCHIVE.*|PIXELDQ|GROUPDQ|MDRIZSKY|DEPTH|NIMS?|PSFSIZE|PSF.*|"
    # Truth beside simulated images, as in the embedded example.
    r"TRUTH\w*)$"
)


class Group(NamedTuple):
    """The image of one or all bands, and what tells its noise, mask and PSF from others.

    Attributes
    ----------
    image
        HDU of the image.
    suffix
        Name of the band in names of HDUs such as ``SCI_G``; "" without.
    """

    image: Extension
    suffix: str = ""


def plain(name: str) -> str:
    """Return the name of an HDU without the word map: ``RMS_MAP`` is ``RMS``."""
    return re.sub(r"[ _-]?MAP$", "", name)


def select(extensions: Sequence[Extension], selector: str) -> list[Extension]:
    """Return HDUs of a name, of a number ``#1``, or with a card of a value ``CARD=VALUE``."""
    if selector.startswith("#"):
        return [one for one in extensions if one.number == int(selector[1:])]
    if "=" in selector:
        card, value = selector.split("=", 1)
        return [e for e in extensions if str(e.header.get(card, "")).strip().upper() == value]
    return [one for one in extensions if selector in (one.name, plain(one.name))]


def pointed(extensions: Sequence[Extension], hdu: str | int, where: str) -> Extension:
    """Return the HDU that a user points at: by number, ``NAME`` or ``NAME,version``."""
    word = str(hdu).strip().upper()
    name, _, version = word.rpartition(",") if "," in word else (word, "", "")
    for one in extensions:
        by_number = word.isdigit() and one.number == int(word)
        if by_number or (one.name == name and (not version or str(one.version) == version.strip())):
            if one.shape is None:
                raise InputError(
                    f"{where}: the HDU {hdu!r} holds no image; found {found(extensions)}."
                )
            return one
    raise InputError(f"{where}: there is no HDU {hdu!r}; found {found(extensions)}.")


def found(extensions: Iterable[Extension]) -> str:
    """Return the names of the HDUs of a file, for a message."""
    return ", ".join(one.label if one.name else "(unnamed)" for one in extensions)


def split_suffix(name: str, bases: Iterable[str]) -> tuple[str, str] | None:
    """Split names such as ``SCI_G`` or ``G-SCI`` into the base and the band; None if neither."""
    for base in bases:
        for pattern in (rf"^{base}[_\-. ](.+)$", rf"^(.+)[_\-. ]{base}$"):
            match = re.match(pattern, name)
            if match:
                return base, match.group(1)
    return None


def is_band(word: str) -> bool:
    """Return whether a word is the name of a band, or a number in its place."""
    return (
        wavelength(word) is not None
        or re.match(r"^(F\d{3,4}[A-Z]\w*|NB?\d{3,4}|W[1-4]|[A-Z]|\d+)$", word, re.IGNORECASE)
        is not None
    )


def find_images(
    extensions: Sequence[Extension], product: Product | None, hdu: str | int | None, where: str
) -> list[Group]:
    """Return the HDUs of images, of several bands if each has its own.

    Raises
    ------
    InputError
        If there is none, or if it can't be told which.
    """
    if hdu is not None:
        one = pointed(extensions, hdu, where)
        whole = one.name in IMAGE_NAMES
        parts = None if whole else split_suffix(one.name, IMAGE_NAMES)
        return [Group(one, parts[1] if parts else "")]
    images = [one for one in extensions if one.shape is not None]
    if product is not None:
        for selector in product.image:
            chosen = [one for one in select(images, selector)]
            if chosen:
                _say_without_background(chosen[0], images, where)
                return [Group(one) for one in chosen]
    for base in IMAGE_NAMES:
        chosen = [one for one in images if one.name == base]
        if chosen:
            _say_without_background(chosen[0], images, where)
            return [Group(one) for one in chosen]
    others = (*NOISE_NAMES, *MASK_NAMES, "PSF")
    by_band = []
    for one in images:
        parts = split_suffix(one.name, IMAGE_NAMES) or ("", one.name)
        other = plain(one.name) in others or split_suffix(one.name, others) is not None
        if not other and is_band(parts[1]):
            by_band.append(Group(one, parts[1]))
    if by_band:
        return by_band
    for one in images:
        if one.name in ("", "PRIMARY", "COMPRESSED_IMAGE"):
            return [Group(one)]
    rest = [
        one
        for one in images
        if plain(one.name) not in others
        and not split_suffix(one.name, others)
        and not _HARMLESS.match(one.name)
    ]
    if len(rest) == 1:
        return [Group(rest[0])]
    raise InputError(
        f"no IMAGE extension (nor SCI, nor a primary image); found {found(extensions)}; say "
        "which with hdu= (--hdu)."
    )


def _say_without_background(image: Extension, images: Sequence[Extension], where: str) -> None:
    if image.name == _WITHOUT_BACKGROUND and any(one.name == "SCI" for one in images):
        note(
            f"{where}: {_WITHOUT_BACKGROUND}, the image without its background, was read and SCI passed "
            "over; hdu='SCI' (--hdu SCI) reads that one."
        )


def find_partner(
    extensions: Sequence[Extension],
    names: Iterable[str],
    group: Group,
    several: bool,
    shared: bool = True,
) -> tuple[Extension, str] | None:
    """Return the HDU that belongs to an image, and the one of `names` that it goes by.

    Parameters
    ----------
    extensions
        HDUs of the file.
    names
        Names or selectors, in the order of preference.
    group
        The image.
    several
        Whether the file has several images: then the version or the band must be the image's.
    shared
        Whether a single one may be that of several images.
    """
    others = [one for one in extensions if one.shape is not None and one is not group.image]
    for name in names:
        same = select(others, name)
        if group.suffix:
            for one in others:
                if split_suffix(one.name, (name,)) == (name, group.suffix):
                    return one, name
        else:
            for one in same:
                if one.version == group.image.version:
                    return one, name
        alone = shared and len(same) == 1 and len(same[0].shape or ()) == 2
        if same and (not several or alone):
            return same[0], name
    return None


def of_image(extensions: Sequence[Extension], group: Group) -> list[Extension]:
    """Return the HDUs that are named as those of one of several images: by its band or its version.

    For an image that stands alone none are.
    """
    image, suffix = group.image, group.suffix
    if suffix:
        pattern = re.compile(rf"^{re.escape(suffix)}[_\-. ]|[_\-. ]{re.escape(suffix)}$")
        return [one for one in extensions if pattern.search(one.name)]
    if sum(one.name == image.name for one in extensions) > 1:
        return [one for one in extensions if one.version == image.version]
    return []


def passed_over(extensions: Sequence[Extension], used: Sequence[Extension]) -> list[str]:
    """Return HDUs that look like further images of the same field, and were not read."""
    shapes = {(one.shape or ())[-2:] for one in used}
    known = (*NOISE_NAMES, *MASK_NAMES)
    if any(one.name == _WITHOUT_BACKGROUND for one in used):
        known += ("SCI",)  # was said already
    return [
        one.label
        for one in extensions
        if one.shape is not None
        and one not in used
        and one.shape[-2:] in shapes
        and plain(one.name) not in known
        and not split_suffix(one.name, known)
        and not _HARMLESS.match(one.name)
    ]
