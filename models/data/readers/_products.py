"""The products of surveys, one row each: how a file is recognized, and what its HDUs hold.

What a row leaves out follows the general rules for names and cards, so a row says only where a
product differs from them, or where it must not be guessed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

#: In `Product.bad_planes`: every plane of the mask.
ALL_PLANES = "*"


@dataclass(frozen=True, eq=False)
class Product:
    """Layout of one product of a survey.

    Attributes
    ----------
    name
        Name of the product, as in a sentence: "Rubin DP1 coadd".
    cards
        Recognized by: cards that some HDU must have, with a regular expression for the value
        (searched, without regard to case; ``""`` for any).
    hdus
        Recognized by: names of HDUs that must all be there.
    file_name
        Recognized by: regular expression, searched in the name of the file.
    matches
        Recognized by: function of the HDUs (`name`, `header`, `shape`) and of the path, where
        cards and names do not tell.
    image
        Names of the image's HDU, in the order of preference.  Where HDUs have no names,
        ``"#1"`` means the HDU of that number, and ``"CARD=VALUE"`` the one with that card.
    noise
        Name of the noise's HDU and kind of its content: ``"variance"``, ``"deviation"``,
        ``"ivar"`` or ``"exposure"`` (relative, scaled to the scatter of the pixels).  Several
        in the order of preference.
    mask, psf, catalog
        Names of the HDUs of the mask, the PSF and a table of positions.
    cells
        Whether the PSF's HDU holds one PSF per cell of the image.
    noise_file, mask_file, noise_file_kind
        Noise and mask in files of their own, beside the image's: pairs of a regular expression
        in the image's file name and its replacement; and the kind of the noise.
    unit
        Unit of a pixel where ``BUNIT`` is missing or wrong.
    zero_point
        Function of the image's header (with the primary's) that returns the AB magnitude of one
        unit of a pixel; None follows the general rules, a result of None means unknown.
    bands
        Function of the same header that returns the names of the bands, or None.
    planes
        Bits of the mask by the name of the plane, where the mask's header does not name them.
    bad_planes
        Names of planes, or bits, whose pixels are left out; `ALL_PLANES` for each nonzero pixel.
        The reader says how many pixels went by which plane.
    scaling, noise_scaling
        Functions ``(pixels, header)`` that return linear pixels, or noise, from stored ones; the
        header is that of the HDU (with the primary's).  `noise_scaling` comes before the noise
        is understood by its kind.
    open
        Function ``(path, index)`` that returns arguments of ``Observation.from_arrays``, for
        files that hold no plain images.
    note
        A sentence that the user should read when such a file is opened; "" for none.
    """

    name: str
    cards: Mapping[str, str] = field(default_factory=dict)
    hdus: tuple[str, ...] = ()
    file_name: str = ""
    matches: Callable[[Sequence[Any], Path], bool] | None = None
    image: tuple[str, ...] = ()
    noise: Mapping[str, str] = field(default_factory=dict)
    mask: tuple[str, ...] = ()
    psf: tuple[str, ...] = ()
    catalog: tuple[str, ...] = ()
    cells: bool = False
    noise_file: tuple[str, str] | None = None
    mask_file: tuple[str, str] | None = None
    noise_file_kind: str = ""
    unit: str = ""
    zero_point: Callable[[fits.Header], float | None] | None = None
    bands: Callable[[fits.Header], Sequence[str] | None] | None = None
    planes: Mapping[str, int] = field(default_factory=dict)
    bad_planes: tuple[str | int, ...] = ()
    scaling: Callable[[np.ndarray, fits.Header], np.ndarray] | None = None
    noise_scaling: Callable[[np.ndarray, fits.Header], np.ndarray] | None = None
    open: Callable[[Path, int | None], dict[str, Any]] | None = None
    note: str = ""


def recognize(hdus: Sequence[Any], path: Path) -> Product | None:
    """Return the row of the product that a file is, or None.

    Parameters
    ----------
    hdus
        HDUs of the file, each with a `name`, a `header` and the `shape` of its image (None for
        tables and empty ones).
    path
        Path of the file.
    """
    return next((row for row in PRODUCTS if _is(row, hdus, Path(path))), None)


def _is(row: Product, hdus: Sequence[Any], path: Path) -> bool:
    names = {hdu.name for hdu in hdus}
    return (
        all(_has_card(hdus, card, pattern) for card, pattern in row.cards.items())
        and names.issuperset(row.hdus)
        and re.search(row.file_name, path.name, re.IGNORECASE) is not None
        and (row.matches is None or row.matches(hdus, path))
    )


def _has_card(hdus: Sequence[Any], card: str, pattern: str) -> bool:
    return any(
        card in hdu.header and re.search(pattern, str(hdu.header[card]), re.IGNORECASE)
        for hdu in hdus
    )


#: Rows in the order in which they are tried: the more special ones first.
PRODUCTS: tuple[Product, ...] = (
    Product(
        name="Legacy Surveys viewer cutout",
        cards={"BANDS": "^[ugrizY]+$"},
        matches=lambda hdus, path: any(
            str(hdu.header.get("IMAGETYP", "")).strip().upper() in ("INVVAR", "MASKBITS")
            for hdu in hdus
        ),
        image=("#0",),
        noise={"IMAGETYP=INVVAR": "ivar"},
        mask=("IMAGETYP=MASKBITS",),
        unit="nanomaggy",
        bands=lambda header: tuple(str(header["BANDS"]).strip()),
        planes={
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
        },
        bad_planes=tuple(f"{kind}_{b}" for kind in ("SATUR", "ALLMASK") for b in "GRIZ"),
    ),
    Product(
        name="CCDData file",
        hdus=("UNCERT",),
        cards={"UTYPE": ""},
        image=("PRIMARY",),
        mask=("MASK",),
        bad_planes=(ALL_PLANES,),
    ),
    Product(
        name="Rubin DP2 cell coadd",
        cards={"MSKN0000": ""},
        hdus=("IMAGE", "MASK", "VARIANCE", "MASK_FRACTIONS"),
        image=("IMAGE",),
        noise={"VARIANCE": "variance"},
        mask=("MASK",),
        psf=("PSF",),
        cells=True,
        bad_planes=("NO_DATA", "SATURATED", "DETECTION_EDGE"),
    ),
)
