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

from scorepriors._errors import InputError
from scorepriors._surveys import NANOJANSKY_ZERO_POINT

from . import _product_rules as rules
from ._bands import BandPart
from ._files import reason
from ._meds import open_meds

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
    noise_file, mask_file, noise_file_kind
        Noise and mask in files of their own, beside the image's: pairs of a regular expression
        in the image's file name and its replacement, in which ``*`` stands for anything and ``|``
        divides several names; and the kind of the noise in that file, ``"wht"`` for inverse
        variances unless they turn out to be exposure times.
    variance
        Function ``(pixels, header, hdus, box)`` that returns the variance of pixels, for files
        that hold none; `box` is the part that was cut out, or None.
    coverage
        Names of HDUs that are zero where the image holds no data.
    unit
        Unit of a pixel where ``BUNIT`` is missing or wrong.
    zero_point
        Function of the image's header (with the primary's) that returns the AB magnitude of one
        unit of a pixel; None follows the general rules, a result of None means unknown.
    zero_point_in
        The same of the HDUs, which comes first where it is not None.
    bands
        Function of the same header that returns the names of the bands, or None.
    bands_in
        The same of the HDUs, for files that do not name the band in a card.
    named
        Cards of the image that it may lack, by regular expressions whose group is the value in the
        name of the file.
    planes
        Bits of the mask by the name of the plane, where the mask's header does not name them.
    bad_planes
        Names of planes, or bits, whose pixels are left out; `ALL_PLANES` for each nonzero pixel.
        The reader says how many pixels went by which plane.
    scaling, noise_scaling
        Functions ``(pixels, header)`` that return linear pixels, or noise, from stored ones; the
        header is that of the HDU (with the primary's).  `noise_scaling` comes before the noise
        is understood by its kind.
    factor
        What linear pixels are multiplied by in the end, and their noise with them, for those that
        are too small for single precision: zero points that a user gives are of one unit before it.
    open
        Function ``(path, index)`` that returns a `BandPart`, for files that hold no plain images.
    native_side
        Arcseconds per pixel of the survey, for archives that also average pixels to other sides
        and keep their unit; 0 where there are none.
    resampled
        Whether it is a mosaic, on pixels and in an orientation of its own.
    noise_note, zero_point_note
        Sentences that the user should read where the noise was scaled or calculated by the row, and
        where the zero point is the row's; "" for none.
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
    noise_file: tuple[str, str] | None = None
    mask_file: tuple[str, str] | None = None
    noise_file_kind: str = ""
    variance: Callable[..., np.ndarray] | None = None
    coverage: tuple[str, ...] = ()
    unit: str = ""
    zero_point: Callable[[fits.Header], float | None] | None = None
    zero_point_in: Callable[[Sequence[Any]], float | None] | None = None
    bands: Callable[[fits.Header], Sequence[str] | None] | None = None
    bands_in: Callable[[Sequence[Any]], Sequence[str] | None] | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    planes: Mapping[str, int] = field(default_factory=dict)
    bad_planes: tuple[str | int, ...] = ()
    scaling: Callable[[np.ndarray, fits.Header], np.ndarray] | None = None
    noise_scaling: Callable[[np.ndarray, fits.Header], np.ndarray] | None = None
    factor: float = 1.0
    open: Callable[[Path, int | None], BandPart] | None = None
    native_side: float = 0.0
    resampled: bool = False
    noise_note: str = ""
    zero_point_note: str = ""


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


def by_row(row: Product, rule: Callable[..., Any], *arguments) -> Any:
    """Call a function of a row, whose cards may be missing or no numbers.

    Raises
    ------
    InputError
        If they are.
    """
    try:
        return rule(*arguments)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise InputError(
            f"a card of this {row.name} is missing or no number ({reason(error)}); correct it, or "
            "say what it holds (zero_point=, bands=, noise=)."
        ) from error


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


def _is_hsc(hdus: Sequence[Any], path: Path) -> bool:
    """Whether a file of the Rubin pipelines is one of HSC, whose coadds are in counts."""
    if _has_card(hdus, "BUNIT", "nJy"):
        return False
    return (
        _has_card(hdus, "FLUXMAG0", "")
        or any(hdu.name == "PHOTOCALIB" for hdu in hdus)
        or _has_card(hdus, "FILTER", "^(HSC|NB|IB)")
        or _has_card(hdus, "INSTRUME", "HSC|Hyper")
        or re.search(r"HSC|[-_](NB|IB)\d+", path.name) is not None
    )


def _is_coadd(hdus: Sequence[Any], path: Path) -> bool:
    """Whether a file of the Rubin pipelines is a coadd: by planes that only coadds have."""
    planes = ("MP_CLIPPED", "MP_REJECTED", "MP_SENSOR_EDGE", "MP_INEXACT_PSF")
    return (
        any(_has_card(hdus, plane, "") for plane in planes)
        or any("coaddpsf" in hdu.name.lower() for hdu in hdus)
        or re.search("coadd", path.name, re.IGNORECASE) is not None
    )


def _is_dp2_coadd(hdus: Sequence[Any], path: Path) -> bool:
    """Whether a file of lsst-images is a coadd, whose planes hold the flags of any visit."""
    planes = {str(v).strip() for hdu in hdus for c, v in hdu.header.items() if c[:4] == "MSKN"}
    return (
        any(hdu.name == "PSF" and len(hdu.shape or ()) == 4 for hdu in hdus)
        or _has_card(hdus, "DATAMODL", "coadd")
        or not planes.isdisjoint(("CLIPPED", "REJECTED", "INEXACT_PSF"))
    )


def _is_legacy_cutout(hdus: Sequence[Any], path: Path) -> bool:
    """Whether a file with BANDS is of the viewer: a cube of them all, or with its noise and mask.

    Images of bricks have these cards as well, each of one of the bands.
    """
    kinds = {str(hdu.header.get("IMAGETYP", "")).strip().upper() for hdu in hdus}
    if not kinds.isdisjoint(("INVVAR", "MASKBITS")):
        return True
    first = hdus[0]
    bands = rules.viewer_bands(first.header) if "BANDS" in first.header else ()
    cube = len(first.shape or ()) == 3 and first.shape[0] == len(bands)
    return _has_card(hdus, "BAND0", "") and (cube or len(bands) == 1)


def _is_des_coadd(hdus: Sequence[Any], path: Path) -> bool:
    return _has_card(hdus, "TILENAME", "^DES") or re.search(r"^DES\d{4}[+-]", path.name) is not None


def _is_wise(hdus: Sequence[Any], path: Path) -> bool:
    by_name = re.search(r"-w[1-4]-int-\d\w?\.fits", path.name, re.IGNORECASE) is not None
    by_cards = _has_card(hdus, "TELESCOP", "^WISE") and _has_card(hdus, "BAND", "^W?[1-4]$")
    return by_name or by_cards


def _is_panstarrs_stack(hdus: Sequence[Any], path: Path) -> bool:
    """Whether a file is a stack of Pan-STARRS, or what its archive cuts out of one.

    These cutouts are linear, without the cards of the scaling.
    """
    by_cards = _has_card(hdus, "BSOFTEN", "") and _has_card(hdus, "BOFFSET", "")
    cutout = r"^cutout_rings\..*\.stk\.[grizy]\.(unconv|conv)\.fits"
    return by_cards or re.search(cutout, path.name, re.IGNORECASE) is not None


def _is_ztf(hdus: Sequence[Any], path: Path, name: str) -> bool:
    """Whether a file is one of ZTF's by its name, or by cards; references count their frames."""
    by_cards = _has_card(hdus, "INSTRUME", "^ZTF") or _has_card(hdus, "FILTER", "^ZTF[_ ]")
    reference = _has_card(hdus, "NFRAMES", "") or not _has_card(hdus, "READNOI", "")
    return re.search(rf"^ztf_.*_{name}img", path.name) is not None or (
        by_cards and reference == (name == "ref")
    )


def _is_sdss_frame(hdus: Sequence[Any], path: Path) -> bool:
    by_cards = all(_has_card(hdus, card, "") for card in ("RUN", "CAMCOL", "FILTER"))
    return re.search(r"^frame-[ugriz]-\d{6}-[1-6]-\d{4}\.fits", path.name) is not None or (
        by_cards and len(hdus) > 2 and len(hdus[1].shape or ()) == 1
    )


def _is_kids(hdus: Sequence[Any], path: Path) -> bool:
    by_name = re.search(r"^KiDS_DR[\d.]+_.*_sci\.fits|^KIDS_[-\d._]+[ugri]\.fits", path.name)
    return by_name is not None or _has_card(hdus, "OBJECT", "^KIDS_")


def _is_infrared(hdus: Sequence[Any], path: Path) -> bool:
    return _has_card(hdus, "INSTRUME", "VIRCAM|WFCAM") and _has_card(hdus, "MAGZPT", "")


def _has_flux_unit(hdus: Sequence[Any], path: Path) -> bool:
    return _has_card(hdus, "BUNIT", "jansky|jy")


def _is_one_image(hdus: Sequence[Any], path: Path) -> bool:
    """Whether a file holds one image and nothing that could be its noise."""
    return sum(hdu.shape is not None for hdu in hdus) == 1


#: Rows in the order in which they are tried: the more special ones first.
PRODUCTS: tuple[Product, ...] = (
    # --- Rubin and HSC: the planes of the mask are named by cards.
    Product(
        name="Rubin DP2 cell coadd",
        cards={"MSKN0000": ""},
        hdus=("IMAGE", "MASK", "VARIANCE"),
        matches=_is_dp2_coadd,
        image=("IMAGE",),
        noise={"VARIANCE": "variance"},
        mask=("MASK",),
        psf=("PSF",),
        bands_in=rules.dp2_band,
        bad_planes=rules.DP2_COADD_BAD,
    ),
    Product(
        name="Rubin DP2 image",
        cards={"MSKN0000": ""},
        hdus=("IMAGE", "MASK", "VARIANCE"),
        image=("IMAGE",),
        noise={"VARIANCE": "variance"},
        mask=("MASK",),
        bands_in=rules.dp2_band,
        bad_planes=rules.DP2_VISIT_BAD,
    ),
    Product(
        name="HSC coadd",
        cards={"MP_BAD": ""},
        matches=lambda hdus, path: _is_hsc(hdus, path) and _is_coadd(hdus, path),
        image=("IMAGE",),
        noise={"VARIANCE": "variance"},
        mask=("MASK",),
        zero_point=rules.hsc_zero_point,
        zero_point_in=rules.photocalib_zero_point,
        bad_planes=rules.RUBIN_COADD_BAD,
    ),
    Product(
        name="HSC exposure",
        cards={"MP_BAD": ""},
        matches=_is_hsc,
        image=("IMAGE",),
        noise={"VARIANCE": "variance"},
        mask=("MASK",),
        zero_point_in=rules.photocalib_zero_point,
        bad_planes=rules.RUBIN_VISIT_BAD,
    ),
    Product(
        name="Rubin coadd",
        cards={"MP_BAD": ""},
        hdus=("IMAGE", "MASK"),
        matches=_is_coadd,
        image=("IMAGE",),
        noise={"VARIANCE": "variance"},
        mask=("MASK",),
        bands_in=rules.rubin_band,
        bad_planes=rules.RUBIN_COADD_BAD,
    ),
    Product(
        name="Rubin visit image",
        cards={"MP_BAD": ""},
        hdus=("IMAGE", "MASK"),
        image=("IMAGE",),
        noise={"VARIANCE": "variance"},
        mask=("MASK",),
        bands_in=rules.rubin_band,
        bad_planes=rules.RUBIN_VISIT_BAD,
    ),
    # --- Legacy Surveys, DES.
    Product(
        name="Legacy Surveys brick",
        file_name=r"^legacysurvey-.*-image-[a-z]\.fits",
        noise_file=("-image-", "-invvar-"),
        noise_file_kind="ivar",
        mask=("MASKBITS",),
        mask_file=(r"-image-[a-z]\.", "-maskbits."),
        unit="nanomaggy",
        named={"FILTERX": r"-image-([a-z])\."},
        bands=rules.brick_band,
        planes=rules.LEGACY_PLANES,
        bad_planes=rules.LEGACY_BAD,
    ),
    Product(
        name="Legacy Surveys viewer cutout",
        cards={"BANDS": "^[ugrizY](,? *[ugrizY])*$"},
        matches=_is_legacy_cutout,
        image=("#0",),
        noise={"IMAGETYP=INVVAR": "ivar"},
        mask=("IMAGETYP=MASKBITS",),
        unit="nanomaggy",
        native_side=0.262,
        bands=rules.viewer_bands,
        planes=rules.LEGACY_PLANES,
        bad_planes=rules.LEGACY_BAD,
    ),
    Product(
        name="DES coadd",
        hdus=("SCI", "MSK", "WGT"),
        matches=_is_des_coadd,
        image=("SCI",),
        noise={"WGT": "ivar"},
        mask=("MSK",),
        bands=lambda header: (str(header["BAND"]).strip(),) if header.get("BAND") else None,
        bad_planes=(ALL_PLANES,),
    ),
    Product(name="MEDS file", hdus=("OBJECT_DATA", "IMAGE_CUTOUTS"), open=open_meds),
    # --- From space.
    Product(
        name="Euclid MER mosaic",
        file_name=r"^EUC_MER_(BGSUB-)?MOSAIC-(?!.*-(RMS|FLAG|BKG)_)",
        resampled=True,
        noise_file=(
            r"^EUC_MER_(?:BGSUB-)?MOSAIC-(.+)_TILE(\d+).*$",
            r"EUC_MER_MOSAIC-\1-RMS_TILE\2-*.fits*|EUC_MER_MOSAIC-\1-RMS_TILE\2.fits*",
        ),
        noise_file_kind="deviation",
        # What its bits mean is not published: the general rule for such masks leaves out all.
        mask_file=(
            r"^EUC_MER_(?:BGSUB-)?MOSAIC-(.+)_TILE(\d+).*$",
            r"EUC_MER_MOSAIC-\1-FLAG_TILE\2-*.fits*|EUC_MER_MOSAIC-\1-FLAG_TILE\2.fits*",
        ),
    ),
    Product(
        name="JWST mosaic",
        hdus=("SCI", "ERR", "CON", "WHT"),
        image=("SCI_BKSUB", "SCI"),
        noise={"ERR": "deviation"},
        coverage=("WHT",),
        resampled=True,
    ),
    Product(
        name="JWST exposure",
        cards={"TELESCOP": "JWST"},
        hdus=("SCI", "ERR", "DQ"),
        image=("SCI",),
        noise={"ERR": "deviation"},
        mask=("DQ",),
        planes=rules.JWST_PLANES,
        bad_planes=("DO_NOT_USE",),
    ),
    Product(
        name="HST drizzle",
        cards={"TELESCOP": "HST"},
        hdus=("SCI", "WHT"),
        image=("SCI_BKSUB", "SCI"),
        noise={"ERR": "deviation", "WHT": "exposure"},
        resampled=True,
        noise_note="WHT was taken as exposure time, and the noise scaled to the scatter of the pixels; "
        "noise_kind='ivar' (--noise-kind ivar) takes it as inverse variance.",
    ),
    Product(
        name="grizli mosaic",
        file_name=r"_(drc|drz)_sci\.fits",
        matches=_has_flux_unit,
        noise_file=(r"_sci\.fits", "_wht.fits"),
        noise_file_kind="ivar",
        zero_point=rules.unit_zero_point,
        resampled=True,
    ),
    Product(
        name="drizzled mosaic",
        file_name=r"_(drc|drz)(_sci)?\.fits",
        noise_file=(r"_(drz|drc)(_sci)?\.fits", r"_*wht.fits"),
        # Compared with the scatter of the pixels, as one that is given by hand.
        noise_file_kind="wht",
        resampled=True,
    ),
    Product(
        name="mosaic of an archive",
        file_name=r"^hlsp_.*_(hst|jwst)_.*_sci\.fits",
        matches=_is_one_image,
        # An error comes before weights, whose kind is that of their name.
        noise_file=(r"_sci\.fits", "_err.fits|_rms.fits|_wht.fits|_weight.fits"),
        named={"FILTER": r"_(f\d{3,4}[a-z]+\d?)[_-]"},
        resampled=True,
    ),
    Product(
        name="unWISE coadd",
        file_name=r"^unwise-.*-w[1-4]-img-[mu]\.fits",
        noise_file=("-img-", "-invvar-"),
        noise_file_kind="ivar",
        # The first data release has no card of the band.
        named={"BAND": r"-(w[1-4])-img-"},
        bands=rules.wise_band,
        zero_point=rules.unwise_zero_point,
    ),
    Product(
        name="AllWISE atlas image",
        matches=_is_wise,
        noise_file=("-int-", "-unc-"),
        noise_file_kind="deviation",
        named={"BAND": r"-(w[1-4])-int-"},
        bands=rules.wise_band,
        zero_point=rules.wise_zero_point,
    ),
    # --- From the ground.
    Product(
        name="Pan-STARRS stack",
        matches=_is_panstarrs_stack,
        noise_file=(r"\.(unconv|conv)(?=\.fits)", r".\1.wt"),
        noise_file_kind="variance",
        mask_file=(r"\.(unconv|conv)(?=\.fits)", r".\1.mask"),
        bands=rules.panstarrs_band,
        zero_point=rules.panstarrs_zero_point,
        planes=rules.PANSTARRS_PLANES,
        bad_planes=rules.PANSTARRS_BAD,
        scaling=rules.panstarrs_linear,
        noise_scaling=rules.panstarrs_linear,
    ),
    Product(
        name="ZTF exposure",
        cards={"MAGZP": ""},
        matches=lambda hdus, path: _is_ztf(hdus, path, "sci"),
        variance=rules.ztf_variance,
        mask_file=("_sciimg", "_mskimg"),
        zero_point=rules.magzp,
        planes=rules.ZTF_PLANES,
        bad_planes=rules.ZTF_BAD,
        noise_note="its pixels hold the sky, and its noise was calculated from GAIN and READNOI.",
    ),
    Product(
        name="ZTF reference",
        cards={"MAGZP": ""},
        matches=lambda hdus, path: _is_ztf(hdus, path, "ref"),
        noise_file=("_refimg", "_refunc"),
        noise_file_kind="deviation",
        zero_point=rules.magzp,
    ),
    Product(
        name="Gemini image",
        cards={"INSTRUME": "GMOS|F2|NIRI|GSAOI|GNIRS"},
        hdus=("SCI", "VAR", "DQ"),
        image=("SCI",),
        noise={"VAR": "variance"},
        mask=("DQ",),
        planes=rules.GEMINI_PLANES,
        bad_planes=rules.GEMINI_BAD,
    ),
    Product(
        name="SDSS frame",
        matches=_is_sdss_frame,
        image=("#0",),
        variance=rules.sdss_variance,
        unit="nanomaggy",
        noise_note="its noise was calculated from the gain and the dark variance of its camera column.",
    ),
    Product(
        name="KiDS coadd",
        matches=_is_kids,
        noise_file=(r"(_sci)?\.fits.*$", "*wei*.fits*"),
        noise_file_kind="ivar",
        mask_file=(r"(_sci)?\.fits.*$", "*msk.fits*|*mask.fits*|*flag.fits*"),
        zero_point=lambda header: NANOJANSKY_ZERO_POINT,
        planes=rules.KIDS_PLANES,
        bad_planes=rules.KIDS_BAD,
        factor=rules.MAGGY,
    ),
    Product(
        name="DECam image",
        file_name=r"^(c4d|k4m|ksb)_.*_o[opsk][ij]_.*\.fits",
        noise_file=(r"_(o[opsk])[ij]_", r"_\1w_"),
        noise_file_kind="ivar",
        mask_file=(r"_(o[opsk])[ij]_", r"_\1d_"),
        # The community pipeline's masks hold one code each, none of them of a good pixel.
        bad_planes=(ALL_PLANES,),
    ),
    Product(
        name="CFHT stack",
        file_name=r"^(MegaPipe|CFIS|UNIONS|CFHTLS)[._-](?!.*weight).*\.fits",
        noise_file=(r"\.fits.*$", ".weight.fits*"),
        noise_file_kind="ivar",
    ),
    Product(
        name="VISTA or UKIDSS image",
        matches=_is_infrared,
        bands=rules.infrared_band,
        zero_point=rules.infrared_zero_point,
        zero_point_note="its zero point of Vega was converted to AB magnitudes, without extinction by the "
        "atmosphere.",
    ),
    Product(
        name="2MASS image",
        cards={"ORIGIN": "2MASS", "MAGZP": ""},
        bands=rules.twomass_band,
        zero_point=rules.twomass_zero_point,
    ),
    Product(
        name="image beside its noise",
        file_name=r"_sci\.fits",
        matches=_is_one_image,
        noise_file=(
            r"_sci\.fits",
            "_err.fits|_rms.fits|_unc.fits|_var.fits|_wht.fits|_weight.fits",
        ),
    ),
    Product(
        name="CCDData file",
        hdus=("UNCERT",),
        cards={"UTYPE": ""},
        image=("PRIMARY",),
        mask=("MASK",),
        bad_planes=(ALL_PLANES,),
    ),
)
