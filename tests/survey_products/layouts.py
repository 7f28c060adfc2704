"""Makers of the files, one per product: each writes into a folder and says what it wrote."""

import bz2
import gzip
import json
from pathlib import Path

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.table import Table

from . import scene
from .scene import BAD, HARMLESS, SHAPE, Made, draw, wcs_cards

#: nJy of one maggy.
MAGGY = 3631e9
STORED = Path(__file__).parents[1] / "data" / "products"


def flux_of(zero_point):
    """Flux in nJy of one unit with this AB magnitude."""
    return MAGGY * 10 ** (-0.4 * zero_point)


def write(path, *hdus):
    fits.HDUList(list(hdus)).writeto(path)
    return path


def compressed(data, header=None, name=None, lossy=False, kind="RICE_1"):
    """Tile-compressed image: rows, as pipelines do; without loss for integers."""
    if data.dtype.kind == "f" and not lossy:
        kind = "GZIP_2"
    options = {"quantize_level": 16.0 if lossy else 0.0}
    return fits.CompImageHDU(data, header, name=name, compression_type=kind, **options)


def compressed_integers(data, header):
    """Tile-compressed image of scaled integers of two bytes; those without data are `BLANK`."""
    low, high = float(np.nanmin(data)), float(np.nanmax(data))
    scale, zero, blank = (high - low) / 65000, (high + low) / 2, -32768
    stored = np.where(np.isfinite(data), np.round((data - zero) / scale), blank)
    hdu = compressed(stored.astype(np.int16), header)
    hdu.header.update({"BSCALE": scale, "BZERO": zero, "BLANK": blank})
    return hdu


def flags(**planes):
    """Bit mask from ``bit=region``."""
    mask = np.zeros(SHAPE, np.int32)
    for bit, region in planes.items():
        mask[region] |= 1 << int(bit.removeprefix("b"))
    return mask


# --- Rubin ----------------------------------------------------------------------------------

RUBIN_PLANES = {
    "BAD": 0,
    "SAT": 1,
    "INTRP": 2,
    "CR": 3,
    "EDGE": 4,
    "DETECTED": 5,
    "DETECTED_NEGATIVE": 6,
    "SUSPECT": 7,
    "NO_DATA": 8,
    "CLIPPED": 9,
    "REJECTED": 10,
    "SENSOR_EDGE": 11,
}
#: Planes of visit images, which have other ones from 9 on.
VISIT_PLANES = {name: bit for name, bit in RUBIN_PLANES.items() if bit < 9}
VISIT_PLANES |= {"CROSSTALK": 9, "ITL_DIP": 10, "NOT_DEBLENDED": 11, "SPIKE": 12}


def long_cards(cards):
    """Header of cards, some with names of more than eight letters."""
    return fits.Header({f"HIERARCH {c}" if len(c) > 8 else c: v for c, v in cards.items()})


def plane_cards(planes):
    return fits.Header({f"HIERARCH MP_{name}": bit for name, bit in planes.items()})


def rubin_hdus(image, mask, variance, planes, scale=0.2, unit="nJy", image_cards=()):
    header = wcs_cards(scale)
    header.update(image_cards)
    header["EXTTYPE"] = "IMAGE"
    if unit:
        header["BUNIT"] = unit
    header.update({"CRVAL1A": 8000, "CRVAL2A": 12000, "LTV1": -8000, "LTV2": -12000})
    found = [compressed(image.astype(np.float32), header, "IMAGE", lossy=True)]
    if mask is not None:
        cards = plane_cards(planes)
        cards["EXTTYPE"] = "MASK"
        found.append(compressed(mask, cards, "MASK"))
        found.append(
            compressed(
                variance.astype(np.float32), fits.Header({"EXTTYPE": "VARIANCE"}), "VARIANCE"
            )
        )
    return found


def archive_tables(band="r"):
    """Binary tables after the images, of which only the stack makes sense."""
    columns = [fits.Column("id", "J", array=[1]), fits.Column("band", "16A", array=[band])]
    return [
        fits.BinTableHDU.from_columns(columns, name=name)
        for name in ("ARCHIVE_INDEX", "FilterLabel", "SkyWcs", "CoaddPsf")
    ]


def rubin_dp1_coadd(folder):
    images, sigma, flux = draw(sigma=20.0, seed=1)
    masked = scene.bad_pixels()
    # INTRP and CR are those of any visit: on a coadd they spoil nothing.
    mask = flags(b1=BAD, b5=HARMLESS, b2=HARMLESS, b3=(slice(28, 36), slice(33, 44)))
    primary = fits.Header({"AR_HDU": 5, "FILTER": "r", "EXTTYPE": "EMPTY"})
    path = write(
        folder / "deep_coadd_5063_14_r_lsst_cells_v1_LSSTComCam_runs_DRP_DP1.fits",
        fits.PrimaryHDU(header=primary),
        *rubin_hdus(images[0], mask, sigma[0] ** 2, RUBIN_PLANES),
        *archive_tables(),
    )
    return Made([path], ("r",), (622,), flux, sigma, masked)


def rubin_dp1_visit(folder):
    images, sigma, flux = draw(sigma=120.0, seed=2)
    masked = scene.bad_pixels()
    spots = (slice(30, 32), slice(5, 9))
    masked[0][spots] = True
    mask = flags(b1=BAD, b5=HARMLESS, b3=spots)
    primary = fits.Header(
        {"AR_HDU": 5, "FILTER": "i_06", "INSTRUME": "LSSTComCam", "EXPTIME": 30.0, "MJD": 60600.1}
    )
    path = write(
        folder / "visit_image_LSSTComCam_i_i_06_2024110800250_R22_S11.fits",
        fits.PrimaryHDU(header=primary),
        *rubin_hdus(images[0], mask, sigma[0] ** 2, VISIT_PLANES),
        *archive_tables("i")[:3],
    )
    return Made([path], ("i",), (755,), flux, sigma, masked)


def rubin_maskedimage(folder):
    images, sigma, flux = draw(sigma=20.0, seed=3)
    mask = flags(b8=BAD, b5=HARMLESS, b2=HARMLESS)
    path = write(
        folder / "cutout-deep_coadd-g.fits",
        fits.PrimaryHDU(header=fits.Header({"FILTER": "g"})),
        *rubin_hdus(images[0], mask, sigma[0] ** 2, RUBIN_PLANES),
    )
    return Made([path], ("g",), (483,), flux, sigma, scene.bad_pixels())


def rubin_image_only(folder):
    """The archive's default cutout: the pixels alone."""
    images, sigma, flux = draw(sigma=20.0, seed=3)
    path = write(
        folder / "cutout.fits", fits.PrimaryHDU(), *rubin_hdus(images[0], None, None, RUBIN_PLANES)
    )
    return Made([path], ("cutout",), (None,), flux, sigma, scene.bad_pixels())


def json_hdu(tree):
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    column = fits.Column("JSON", f"PB({text.size})", array=np.array([text], dtype=object))
    return fits.BinTableHDU.from_columns([column], name="JSON")


def rubin_dp2_visit(folder):
    images, sigma, flux = draw(sigma=120.0, seed=4)
    masked = scene.bad_pixels()
    spots = (slice(30, 32), slice(5, 9))
    masked[0][spots] = True
    planes = ("BAD", "SATURATED", "INTERPOLATED", "COSMIC_RAY", "DETECTION_EDGE")
    planes += ("SUSPECT", "NO_DATA", "DETECTED", "CROSSTALK")
    cards = fits.Header()
    for number, name in enumerate(planes):
        cards[f"MSKN{number:04d}"] = name
        cards[f"MSKM{number:04d}"] = 1 << number
    mask = flags(b1=BAD, b7=HARMLESS, b3=spots)
    header = wcs_cards(0.2)
    header["BUNIT"] = "nJy"
    primary = fits.Header({"FMTVER": 1, "INDXADDR": 0, "JSONADDR": 0})
    primary["DATAMODL"] = "https://images.lsst.io/schemas/visit_image-1.0.0"
    path = write(
        folder / "visit_image_LSSTCam_z_z_20_2025062000250_R22_S11.fits",
        fits.PrimaryHDU(header=primary),
        compressed(images[0].astype(np.float32), header, "IMAGE"),
        compressed(mask, cards, "MASK"),
        compressed((sigma[0] ** 2).astype(np.float32), name="VARIANCE"),
        json_hdu({"schema_version": "1.0.0", "band": "z", "image": {"yx0": [0, 0]}}),
    )
    return Made([path], ("z",), (869,), flux, sigma, masked)


def rubin_dp2_coadd(folder):
    """The file that `rubin_library` wrote with lsst-images."""
    _, sigma, flux = draw(sigma=20.0, seed=11)
    masked = scene.bad_pixels()
    masked[0, :2, :3] = True
    path = folder / "deep_coadd_5063_14_r.fits"
    path.write_bytes((STORED / "rubin-dp2-coadd.fits").read_bytes())
    return Made([path], ("r",), (622,), flux, sigma, masked, has_psf=True)


# --- Subaru ---------------------------------------------------------------------------------

HSC_PLANES = RUBIN_PLANES | {
    "BRIGHT_OBJECT": 9,
    "CROSSTALK": 10,
    "NOT_DEBLENDED": 11,
    "UNMASKEDNAN": 12,
    "REJECTED": 13,
    "CLIPPED": 14,
    "SENSOR_EDGE": 15,
}


#: nJy of one count of the exposures that went into a coadd, whose own is `COADD_MEAN`.
VISIT_MEANS, COADD_MEAN = (31.3, 30.7, 33.1), 57.5439937


def photocalib(mean, before=()):
    """Table of the calibration, nJy of one count; in coadds exposures come before."""
    columns = [fits.Column("calibrationMean", "D", array=[*before, mean])]
    return fits.BinTableHDU.from_columns(columns, name="PhotoCalib")


def calibrations(mean, before=()):
    """What is after the images: an index of all objects, and the tables that hold them."""
    rest = [*archive_tables()[1:], photocalib(mean, before)]
    ids = [1, 2, 3, *(100 + i for i in range(len(before) + 1))]
    of_tables = [1, 2, 3, *[len(rest)] * (len(before) + 1)]
    columns = [
        fits.Column("id", "J", array=ids),
        fits.Column("cat.archive", "J", array=of_tables),
        fits.Column("cat.persistable", "J", array=[0] * len(ids)),
        fits.Column("row0", "J", array=[0, 0, 0, *range(len(before) + 1)]),
        fits.Column("nrows", "J", array=[1] * len(ids)),
    ]
    index = fits.BinTableHDU.from_columns(columns, name="ARCHIVE_INDEX")
    return {"PHOTOCALIB_ID": ids[-1]}, [index, *rest]


def hsc(folder, name, primary, seed, band, wave, zero_point=27.0, tables=()):
    images, sigma, flux = draw(sigma=3.0, seed=seed)
    unit = flux_of(zero_point)
    coadd = "EXPTIME" not in primary
    planes = HSC_PLANES if coadd else VISIT_PLANES
    mask = flags(b1=BAD, b5=HARMLESS)
    if coadd:
        mask |= flags(b2=HARMLESS, b9=HARMLESS, b13=HARMLESS)
    path = write(
        folder / name,
        fits.PrimaryHDU(header=long_cards(primary)),
        *rubin_hdus(images[0] / unit, mask, (sigma[0] / unit) ** 2, planes, scale=0.168, unit=""),
        *tables,
    )
    return Made([path], (band,), (wave,), flux, sigma, scene.bad_pixels(), pixel_scale=0.168)


def hsc_pdr2_calexp(folder):
    primary = {"FLUXMAG0": 6.3095734448e10, "FILTER": "HSC-I", "AR_HDU": 5}
    name = "calexp-HSC-I-9813-4,4.fits"
    return hsc(folder, name, primary, 5, "HSC-I", 770, tables=archive_tables())


def hsc_pdr3_calexp(folder):
    """A coadd that holds the calibrations of its exposures as well, before its own."""
    cards, tables = calibrations(COADD_MEAN, VISIT_MEANS)
    primary = {"FILTER": "HSC-R2", "AR_HDU": 5} | cards
    return hsc(folder, "calexp-HSC-R2-9813-4,4.fits", primary, 6, "HSC-R2", 621, tables=tables)


def hsc_exposure(folder):
    """A calibrated exposure, whose zero point is in a table alone."""
    primary = {"FILTER": "HSC-Z", "INSTRUME": "Hyper Suprime-Cam", "EXPTIME": 200.0}
    zero_point = 31.1
    tables = [*archive_tables()[:3], photocalib(flux_of(zero_point))]
    return hsc(folder, "CORR-0011704-050.fits", primary, 30, "HSC-Z", 890, zero_point, tables)


def hsc_cutout(folder):
    primary = {"FLUXMAG0": 6.3095734448e10, "FILTER": "NB0921"}
    name = "cutout-NB0921-9813-pdr2_dud.fits"
    return hsc(folder, name, primary, 7, "NB0921", 921)


# --- DESI Legacy Surveys --------------------------------------------------------------------


def legacy_viewer(folder, scale=0.262):
    bands = "griz"
    images, sigma, flux = draw(4, sigma=12.0, seed=8)
    masked = scene.bad_pixels(4)
    unit = flux_of(22.5)
    header = wcs_cards(scale)
    header.update({"SURVEY": "DESI Legacy Imaging Surveys", "VERSION": "DR10", "BANDS": bands})
    header.update({f"BAND{i}": band for i, band in enumerate(bands)})
    cards = header.copy()
    header["IMAGETYP"], cards["IMAGETYP"] = "IMAGE", "INVVAR"
    invvar = np.where(masked, 0, (unit / sigma) ** 2)
    bits = header.copy()
    bits["IMAGETYP"] = "MASKBITS"
    mask = flags(b0=HARMLESS, b1=HARMLESS, b11=HARMLESS, b5=BAD).astype(np.int16)
    path = write(
        folder / "cutout_150.1000_2.2000.fits",
        fits.PrimaryHDU((images / unit).astype(np.float32), header),
        fits.ImageHDU(invvar.astype(np.float32), cards),
        fits.ImageHDU(mask, bits),
    )
    return Made([path], tuple(bands), (483, 622, 755, 869), flux, sigma, masked, pixel_scale=scale)


def legacy_brick(folder):
    bands = "grz"
    images, sigma, flux = draw(3, sigma=12.0, seed=9)
    masked = scene.bad_pixels(3)
    unit = flux_of(22.5)
    files = []
    for i, band in enumerate(bands):
        header = wcs_cards(0.262)
        header.update({"BRICK": "1501p022", "FILTER": f"{band} DECam SDSS c0002 6415.0 1480.0"})
        header.update({"MAGZERO": 22.5, "IMTYPE": "image", "IMAGETYP": "image", "FILTERX": band})
        # Those of all images of the brick, as data release 10 has them.
        header.update({"BANDS": "griz", "NBANDS": 4})
        header.update({f"BAND{i}": one for i, one in enumerate("griz")})
        image = (images[i] / unit).astype(np.float32)
        files.append(folder / f"legacysurvey-1501p022-image-{band}.fits.fz")
        header["BUNIT"] = "nanomaggy"
        write(files[-1], fits.PrimaryHDU(), compressed(image, header, lossy=True))
        header.update({"IMTYPE": "invvar", "IMAGETYP": "invvar", "BUNIT": "1/nanomaggy^2"})
        invvar = np.where(masked[i], 0, (unit / sigma[i]) ** 2).astype(np.float32)
        path = folder / f"legacysurvey-1501p022-invvar-{band}.fits.fz"
        write(path, fits.PrimaryHDU(), compressed(invvar, header))
    header.update({"IMTYPE": "maskbits", "IMAGETYP": "maskbits"})
    header.remove("BUNIT")
    satur = (slice(40, 42), slice(3, 6))
    masked[:, *satur] = True
    mask = flags(b0=HARMLESS, b1=HARMLESS, b2=satur)
    path = folder / "legacysurvey-1501p022-maskbits.fits.fz"
    write(path, fits.PrimaryHDU(), compressed(mask, header, "MASKBITS"))
    return Made(files, tuple(bands), (483, 622, 869), flux, sigma, masked, pixel_scale=0.262)


# --- Space ----------------------------------------------------------------------------------


def euclid_mer(folder):
    """Mosaic, RMS and FLAG: the rest of their names, hash and date, differs."""
    zero_point = 24.6
    images, sigma, flux = draw(sigma=5.0, seed=10)
    unit = flux_of(zero_point)
    header = wcs_cards(0.1)
    header.update({"MAGZERO": zero_point, "FILTER": "VIS", "INSTRUME": "VIS", "TELESCOP": "Euclid"})
    names = {
        "BGSUB-MOSAIC-VIS": "ADC8F1_20241018T142710.045906Z_00.00",
        "MOSAIC-VIS-RMS": "58A1D9_20241018T142712.245906Z_00.00",
        "MOSAIC-VIS-FLAG": "9E6DB7_20241018T142714.445906Z_00.00",
    }
    rms = sigma[0] / unit
    rms[BAD] = 1e20
    spots = (slice(30, 32), slice(5, 9))
    mask = flags(b2=BAD, b5=spots)
    data = ((images[0] / unit).astype(np.float32), rms.astype(np.float32), mask)
    files = [
        write(folder / f"EUC_MER_{kind}_TILE102158889-{rest}.fits", fits.PrimaryHDU(one, header))
        for (kind, rest), one in zip(names.items(), data)
    ]
    masked = scene.bad_pixels()
    masked[0][spots] = True
    return Made(files[:1], ("VIS",), (715,), flux, sigma, masked, pixel_scale=0.1)


def jwst_i2d(folder):
    images, sigma, flux = draw(sigma=1.5, seed=12)
    area = (0.03 / 3600 * np.pi / 180) ** 2
    unit = area * 1e15  # nJy of one MJy/sr
    masked = scene.bad_pixels()
    masked[0, :, :3] = True
    outside = (slice(None), slice(0, 3))
    header = wcs_cards(0.03)
    header.update({"BUNIT": "MJy/sr", "PIXAR_SR": area, "PIXAR_A2": 9e-4, "PHOTMJSR": 0.4})
    primary = {"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "FILTER": "F444W", "PUPIL": "CLEAR"}
    pixels = (images[0] / unit).astype(np.float32)
    error = (sigma[0] / unit).astype(np.float32)
    weight = np.full(SHAPE, 1200.0, np.float32)
    for one in (pixels, error):
        one[outside] = np.nan
    for region in (outside, BAD):
        weight[region] = 0
    path = write(
        folder / "jw01727-o043_t001_nircam_clear-f444w_i2d.fits",
        fits.PrimaryHDU(header=fits.Header(primary)),
        fits.ImageHDU(pixels, header, "SCI"),
        fits.ImageHDU(error, fits.Header({"BUNIT": "MJy/sr"}), "ERR"),
        fits.ImageHDU(np.ones((1, *SHAPE), np.int32), name="CON"),
        fits.ImageHDU(weight, name="WHT"),
        *(
            fits.ImageHDU(error**2 / 3, name=f"VAR_{kind}")
            for kind in ("POISSON", "RNOISE", "FLAT")
        ),
        fits.BinTableHDU.from_columns([fits.Column("FILENAME", "20A", array=["x"])], name="HDRTAB"),
        fits.BinTableHDU.from_columns([fits.Column("ASDF_METADATA", "4B")], name="ASDF"),
    )
    return Made([path], ("F444W",), (4402,), flux, sigma, masked, pixel_scale=0.03)


def gzipped(path):
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def grizli(folder):
    """A mosaic of the DAWN archive: its card ZP says 23.9, of a unit that it is not in."""
    images, sigma, flux = draw(sigma=1.5, seed=13)
    masked = scene.bad_pixels()
    header = wcs_cards(0.04)
    header.update({"BUNIT": "10.0*nanoJansky", "ZP": 23.9, "FILTER": "F200W", "PUPIL": "CLEAR"})
    header.update({"TELESCOP": "JWST", "INSTRUME": "NIRCAM", "PHOTFNU": 1e-8})
    weight = np.where(masked, 0, (10 / sigma) ** 2)[0]
    stem = "gds-grizli-v7.2-f200w-clear_drc"
    sci = write(
        folder / f"{stem}_sci.fits", fits.PrimaryHDU((images[0] / 10).astype(np.float32), header)
    )
    wht = write(folder / f"{stem}_wht.fits", fits.PrimaryHDU(weight.astype(np.float32), header))
    sci, _ = gzipped(sci), gzipped(wht)
    return Made([sci], ("F200W",), (1988,), flux, sigma, masked, pixel_scale=0.04)


PHOTFLAM, PHOTPLAM = 7.0196e-20, 8044.99


def hst_zero_point():
    return -2.5 * np.log10(PHOTFLAM) - 5 * np.log10(PHOTPLAM) - 2.408


def hst_cards(scale):
    header = wcs_cards(scale)
    header.update({"BUNIT": "ELECTRONS/S", "PHOTFLAM": PHOTFLAM, "PHOTPLAM": PHOTPLAM})
    header["PHOTZPT"] = -21.1
    return header


def hst_hap(folder):
    images, sigma, flux = draw(sigma=4.0, seed=14)
    masked = scene.bad_pixels()
    unit = flux_of(hst_zero_point())
    exposure = np.where(masked, 0, 2000 * (4.0 / sigma) ** 2)[0]
    primary = {"TELESCOP": "HST", "INSTRUME": "ACS", "DETECTOR": "WFC", "EXPTIME": 2000.0}
    primary |= {"FILTER1": "CLEAR1L", "FILTER2": "F814W", "D001KERN": "square", "D001PIXF": 1.0}
    path = write(
        folder / "hst_12440_01_acs_wfc_f814w_jbo801_drc.fits",
        fits.PrimaryHDU(header=fits.Header(primary)),
        fits.ImageHDU((images[0] / unit).astype(np.float32), hst_cards(0.05), "SCI"),
        fits.ImageHDU(exposure.astype(np.float32), fits.Header({"BUNIT": "UNITLESS"}), "WHT"),
        fits.ImageHDU(np.ones(SHAPE, np.int32), name="CTX"),
    )
    # The file does not say the noise: it is scaled to the scatter of pixels.
    return Made([path], ("F814W",), (806,), flux, sigma, masked, pixel_scale=0.05, noise_error=0.1)


def hst_candels(folder):
    images, sigma, flux = draw(sigma=4.0, seed=15)
    masked = scene.bad_pixels()
    unit = flux_of(hst_zero_point())
    header = hst_cards(0.06)
    header.update({"TELESCOP": "HST", "INSTRUME": "WFC3", "DETECTOR": "IR", "FILTER": "F160W"})
    weight = np.where(masked, 0, (unit / sigma) ** 2)[0].astype(np.float32)
    stem = "hlsp_candels_hst_wfc3_gs-tot_f160w_v1.0"
    path = write(
        folder / f"{stem}_drz.fits", fits.PrimaryHDU((images[0] / unit).astype(np.float32), header)
    )
    write(folder / f"{stem}_wht.fits", fits.PrimaryHDU(weight, header))
    return Made([path], ("F160W",), (1537,), flux, sigma, masked, pixel_scale=0.06)


# --- Dark Energy Survey ---------------------------------------------------------------------


def des_coadd(folder):
    images, sigma, flux = draw(sigma=10.0, seed=16)
    masked = scene.bad_pixels()
    unit = flux_of(30.0)
    header = wcs_cards(0.263)
    header.update({"MAGZERO": 30.0, "BAND": "r", "FILTER": "r DECam SDSS c0002 6415.0 1480.0"})
    header.update({"TILENAME": "DES1000+0209", "TELESCOP": "CTIO 4.0-m telescope"})
    weight = np.where(masked, 0, (unit / sigma) ** 2)[0].astype(np.float32)
    path = write(
        folder / "DES1000+0209_r2585p01_r.fits.fz",
        fits.PrimaryHDU(),
        compressed((images[0] / unit).astype(np.float32), header, "SCI", lossy=True),
        compressed(flags(b0=BAD).astype(np.int16), name="MSK"),
        compressed(weight, name="WGT"),
    )
    return Made([path], ("r",), (622,), flux, sigma, masked, pixel_scale=0.263)


def des_meds(folder, band="i", order=(987000001, 987000002), center=scene.POSITIONS[1]):
    """Two objects with a coadd and an epoch each; the object of number 1 is the scene."""
    images, sigma, flux = draw(sigma=10.0, seed=17)
    masked = scene.bad_pixels()
    size = 64  # squares, padded with weight zero
    unit = flux_of(30.0)
    padded = np.zeros((4, size, size), np.float32)
    weight = np.zeros((4, size, size), np.float32)
    bits = np.zeros((4, size, size), np.int32)
    padded[2, : SHAPE[0], : SHAPE[1]] = images[0] / unit
    weight[2, : SHAPE[0], : SHAPE[1]] = (unit / sigma[0]) ** 2
    bits[2, : SHAPE[0], : SHAPE[1]] = flags(b1=BAD)
    padded[[0, 1, 3]] = 7.0
    segments = np.zeros((4, size, size), np.int32)
    segments[2, 24:38, 30:46], segments[2, 9:21, 9:22] = 2, 1
    weight[[0, 1, 3]] = 1.0
    psf = scene.psf_image()
    objects = np.zeros(
        2,
        dtype=[
            ("id", "i8"),
            ("number", "i8"),
            ("ra", "f8"),
            ("dec", "f8"),
            ("box_size", "i8"),
            ("ncutout", "i8"),
            ("file_id", "i8", 2),
            ("start_row", "i8", 2),
            ("orig_row", "f8", 2),
            ("orig_col", "f8", 2),
            ("cutout_row", "f8", 2),
            ("cutout_col", "f8", 2),
            ("dudrow", "f8", 2),
            ("dudcol", "f8", 2),
            ("dvdrow", "f8", 2),
            ("dvdcol", "f8", 2),
            ("psf_row_size", "i8", 2),
            ("psf_col_size", "i8", 2),
            ("psf_start_row", "i8", 2),
        ],
    )
    objects["id"], objects["number"] = order, (1, 2)
    objects["ra"], objects["dec"], objects["box_size"] = scene.RA, scene.DEC, size
    objects["ncutout"] = 2
    objects["start_row"] = np.arange(4).reshape(2, 2) * size**2
    objects["cutout_row"], objects["cutout_col"] = center[1], center[0]
    objects["dudcol"], objects["dvdrow"] = 0.263, 0.263
    objects["psf_row_size"] = objects["psf_col_size"] = len(psf)
    objects["psf_start_row"] = np.arange(4).reshape(2, 2) * psf.size
    info = np.zeros(2, dtype=[("image_path", "S60"), ("magzp", "f4"), ("scale", "f4")])
    info["image_path"] = f"DES1000+0209_r2585p01_{band}.fits.fz".encode()
    info["magzp"], info["scale"] = 30.0, 1.0
    metadata = np.zeros(1, dtype=[("magzp_ref", "f8"), ("band", "S1")])
    metadata["magzp_ref"], metadata["band"] = 30.0, band.encode()
    path = write(
        folder / f"DES1000+0209_r2585p01_{band}_meds-Y3v02.fits.fz",
        fits.PrimaryHDU(),
        fits.BinTableHDU(objects, name="object_data"),
        fits.BinTableHDU(info, name="image_info"),
        fits.BinTableHDU(metadata, name="metadata"),
        compressed(padded.ravel(), name="image_cutouts"),
        compressed(weight.ravel(), name="weight_cutouts"),
        compressed(segments.ravel(), name="seg_cutouts"),
        compressed(bits.ravel(), name="bmask_cutouts"),
        fits.ImageHDU(np.repeat(psf[None], 4, 0).ravel(), name="psf"),
    )
    return Made(
        [path],
        (band,),
        (755,),
        flux,
        _pad(sigma, size, 0),
        _pad(masked, size, True),
        {"index": 1},
        has_wcs=False,
        pixel_scale=0.263,
        has_psf=True,
    )


def _pad(array, size, value):
    after = [(0, 0), (0, size - array.shape[1]), (0, size - array.shape[2])]
    return np.pad(array, after, constant_values=value)


# --- Pan-STARRS, ZTF ------------------------------------------------------------------------


def panstarrs_stack(folder):
    """Scaled integers, as the archive has them."""
    images, sigma, flux = draw(sigma=150.0, seed=18)
    masked = scene.bad_pixels()
    exposure, offset, softening = 900.0, 12.0, 300.0
    unit = flux_of(25.0) / exposure  # counts in all the exposure
    a = 2.5 / np.log(10)

    def stored(linear):
        return a * np.arcsinh((linear - offset) / (2 * softening))

    header = wcs_cards(0.25)
    header.update({"EXPTIME": exposure, "HIERARCH FPA.FILTERID": "i.00000"})
    header.update({"HIERARCH FPA.ZP": 25.0, "HIERARCH FPA.TELESCOPE": "PS1"})
    scaling = {"BOFFSET": offset, "BSOFTEN": softening}
    stem = "rings.v3.skycell.1266.071.stk.i.unconv"
    header.update(scaling)
    path = folder / f"{stem}.fits"
    write(path, fits.PrimaryHDU(), compressed_integers(stored(images[0] / unit), header))
    variance = stored((sigma[0] / unit) ** 2)
    variance[40:42, :2] = np.nan
    masked[0, 40:42, :2] = True
    write(folder / f"{stem}.wt.fits", fits.PrimaryHDU(), compressed_integers(variance, header))
    # Suspect pixels are half of a stack.
    mask = flags(b5=BAD, b7=HARMLESS, b14=HARMLESS).astype(np.int16)
    for card in scaling:
        header.remove(card)
    write(folder / f"{stem}.mask.fits", fits.PrimaryHDU(), compressed(mask, header))
    return Made([path], ("PS1_i",), (754,), flux, sigma, masked, pixel_scale=0.25)


def ztf_cards(band, zero_point):
    header = wcs_cards(1.01)
    header.update({"FILTER": band, "MAGZP": zero_point, "GAIN": 6.2, "READNOI": 10.0})
    header.update({"INSTRUME": "ZTF/MOSAIC", "TELESCOP": "P48", "EXPTIME": 30.0})
    return header


ZTF_BITS = {"b1": HARMLESS, "b11": HARMLESS, "b7": BAD}


def ztf_science(folder):
    """One exposure, with its sky, whose noise follows from the gain."""
    zero_point, gain, readout, sky = 26.2, 6.2, 10.0, 180.0
    flux = np.array([[3.0e6], [5.0e6]])
    unit = flux_of(zero_point)
    truth = np.einsum("kb,kyx->byx", flux / unit, scene.templates()) + sky
    sigma = np.sqrt(truth / gain + (readout / gain) ** 2)
    images = truth + sigma * np.random.default_rng(19).normal(size=truth.shape)
    images[0][BAD] = 6e4
    path = write(
        folder / "ztf_20200611300000_000716_zg_c08_o_q1_sciimg.fits",
        fits.PrimaryHDU(images[0].astype(np.float32), ztf_cards("ZTF_g", zero_point)),
    )
    mask = flags(**ZTF_BITS).astype(np.int16)
    write(folder / "ztf_20200611300000_000716_zg_c08_o_q1_mskimg.fits", fits.PrimaryHDU(mask))
    return Made(
        [path],
        ("ZTF_g",),
        (477,),
        flux,
        sigma * unit,
        scene.bad_pixels(),
        noise_error=0.1,
        pixel_scale=1.01,
        sky=True,
    )


def ztf_reference(folder):
    zero_point = 26.3
    images, sigma, flux = draw(sigma=300.0, seed=20)
    unit = flux_of(zero_point)
    stem = "ztf_000716_zr_c08_q1_ref"
    header = ztf_cards("ZTF_r", zero_point)
    header["NFRAMES"] = 15
    path = write(
        folder / f"{stem}img.fits", fits.PrimaryHDU((images[0] / unit).astype(np.float32), header)
    )
    uncertainty = sigma[0] / unit
    uncertainty[BAD] = np.nan
    write(folder / f"{stem}unc.fits", fits.PrimaryHDU(uncertainty.astype(np.float32), header))
    return Made([path], ("ZTF_r",), (640,), flux, sigma, scene.bad_pixels(), pixel_scale=1.01)


# --- Gemini, CCDData ------------------------------------------------------------------------


def gemini(folder):
    images, sigma, flux = draw(sigma=8.0, seed=21)
    masked = scene.bad_pixels()
    primary = {"TELESCOP": "Gemini-South", "INSTRUME": "GMOS-S", "FILTER1": "open1-6"}
    primary |= {"FILTER2": "r_G0326", "OBSTYPE": "OBJECT"}
    header = wcs_cards(0.16)
    header.update({"BUNIT": "electron", "EXTVER": 1})
    # Nonlinear pixels and those where chips overlap are light all the same.
    mask = flags(b2=BAD, b5=HARMLESS, b1=HARMLESS).astype(np.int16)
    path = write(
        folder / "S20190101S0001_stack.fits",
        fits.PrimaryHDU(header=fits.Header(primary)),
        fits.ImageHDU(images[0].astype(np.float32), header, "SCI"),
        fits.ImageHDU((sigma[0] ** 2).astype(np.float32), name="VAR"),
        fits.ImageHDU(mask, name="DQ"),
    )
    return Made([path], ("r",), (622,), flux, sigma, masked, calibrated=False, pixel_scale=0.16)


def ccddata(folder, kind=StdDevUncertainty):
    images, sigma, flux = draw(sigma=8.0, seed=22)
    masked = scene.bad_pixels()
    noise = {StdDevUncertainty: sigma[0], InverseVariance: sigma[0] ** -2.0}[kind]
    ccd = CCDData(
        images[0].astype(np.float32),
        uncertainty=kind(noise.astype(np.float32)),
        mask=masked[0],
        unit=units.nJy,
        wcs=scene.wcs(0.3),
        meta={"FILTER": "g"},
    )
    path = folder / "night-g.fits"
    ccd.write(path)
    return Made([path], ("g",), (483,), flux, sigma, masked, pixel_scale=0.3)


def ccddata_inverse(folder):
    return ccddata(folder, InverseVariance)


# --- SDSS, KiDS -----------------------------------------------------------------------------


def sdss_frame(folder):
    """No noise in the file: it follows from the gain and the dark variance of run and column."""
    gain, dark, sky = 4.76, 1.3225, 130.0  # r, column 4
    flux = np.array([[3.0e5], [5.0e5]])
    calibration = np.full(SHAPE[1], 0.0051, np.float32)  # nanomaggies of a count
    unit = flux_of(22.5)
    clean = np.einsum("kb,kyx->byx", flux / unit, scene.templates())
    counts = clean / calibration + sky
    sigma = np.sqrt(counts / gain + dark) * calibration
    images = clean + sigma * np.random.default_rng(23).normal(size=clean.shape)
    header = wcs_cards(0.396)
    header.update({"FILTER": "r", "RUN": 3918, "CAMCOL": 4, "FRAME": 213, "BUNIT": "nanomaggy"})
    header.update({"ORIGIN": "SDSS", "NMGY": 0.0051})
    table = Table(
        {
            "ALLSKY": np.full((1, 6, 7), sky, np.float32),
            "XINTERP": np.linspace(0, 6, SHAPE[1], dtype=np.float32)[None],
            "YINTERP": np.linspace(0, 5, SHAPE[0], dtype=np.float32)[None],
        }
    )
    path = write(
        folder / "frame-r-003918-4-0213.fits",
        fits.PrimaryHDU(images[0].astype(np.float32), header),
        fits.ImageHDU(calibration),
        fits.table_to_hdu(table),
        fits.BinTableHDU.from_columns([fits.Column("run", "J", array=[3918])]),
    )
    packed = path.with_name(path.name + ".bz2")
    packed.write_bytes(bz2.compress(path.read_bytes()))
    path.unlink()
    masked = np.zeros((1, *SHAPE), bool)
    return Made(
        [packed], ("r",), (622,), flux, sigma * unit, masked, noise_error=0.1, pixel_scale=0.396
    )


def kids(folder):
    images, sigma, flux = draw(sigma=15.0, seed=24)
    masked = scene.bad_pixels()
    header = wcs_cards(0.2)
    header.update({"INSTRUME": "OMEGACAM", "FILTER": "r_SDSS", "OBJECT": "KIDS_150.1_2.2"})
    weight = np.where(masked, 0, (MAGGY / sigma) ** 2)[0].astype(np.float32)
    stem = folder / "KiDS_DR4.0_150.1_2.2_r"
    path = write(
        Path(f"{stem}_sci.fits"), fits.PrimaryHDU((images[0] / MAGGY).astype(np.float32), header)
    )
    write(Path(f"{stem}_wei.fits"), fits.PrimaryHDU(weight, header))
    spike = (slice(40, 42), slice(3, 6))
    masked[0][spike] = True
    # Halos of bright stars do not spoil pixels.
    mask = flags(b3=HARMLESS, b4=HARMLESS, b2=spike).astype(np.int32)
    write(Path(f"{stem}_msk.fits"), fits.PrimaryHDU(mask, header))
    return Made([path], ("r",), (622,), flux, sigma, masked)


# --- WISE -----------------------------------------------------------------------------------


def unwise(folder):
    images, sigma, flux = draw(sigma=900.0, seed=25)
    masked = scene.bad_pixels()
    unit = flux_of(22.5 + 2.699)
    header = wcs_cards(2.75)
    header.update({"TELESCOP": "WISE", "BAND": 1, "MAGZP": 22.5, "COADD_ID": "1501p015"})
    path = write(
        folder / "unwise-1501p015-w1-img-m.fits",
        fits.PrimaryHDU((images[0] / unit).astype(np.float32), header),
    )
    invvar = np.where(masked, 0, (unit / sigma) ** 2)[0].astype(np.float32)
    gzipped(write(folder / "unwise-1501p015-w1-invvar-m.fits", fits.PrimaryHDU(invvar, header)))
    return Made([path], ("W1",), (3368,), flux, sigma, masked, pixel_scale=2.75)


def allwise_atlas(folder):
    images, sigma, flux = draw(sigma=900.0, seed=26)
    masked = scene.bad_pixels()
    unit = flux_of(19.5 + 3.339)
    header = wcs_cards(1.375)
    header.update({"TELESCOP": "WISE", "BAND": 2, "MAGZP": 19.5, "COADDID": "1501p015_ac51"})
    header["BUNIT"] = "DN"
    path = write(
        folder / "1501p015_ac51-w2-int-3.fits",
        fits.PrimaryHDU((images[0] / unit).astype(np.float32), header),
    )
    noise = sigma[0] / unit
    noise[BAD] = np.nan
    packed = write(
        folder / "1501p015_ac51-w2-unc-3.fits", fits.PrimaryHDU(noise.astype(np.float32), header)
    )
    gzipped(packed)
    return Made([path], ("W2",), (4618,), flux, sigma, masked, pixel_scale=1.375)


# --- other cameras on the ground ------------------------------------------------------------


def decam_stack(folder):
    images, sigma, flux = draw(sigma=20.0, seed=27)
    masked = scene.bad_pixels()
    unit = flux_of(29.9)
    header = wcs_cards(0.27)
    header.update({"FILTER": "g DECam SDSS c0001 4720.0 1520.0", "MAGZERO": 29.9})
    header.update({"INSTRUME": "DECam", "PROCTYPE": "Stacked", "EXPTIME": 900.0})
    stem = "c4d_200611_031021_os{}_g_v1.fits.fz"
    weight = np.where(masked, 0, (unit / sigma) ** 2)[0].astype(np.float32)
    path = folder / stem.format("i")
    write(
        path,
        fits.PrimaryHDU(),
        compressed((images[0] / unit).astype(np.float32), header, lossy=True),
    )
    write(folder / stem.format("w"), fits.PrimaryHDU(), compressed(weight, header))
    codes = np.zeros(SHAPE, np.int16)
    codes[BAD] = 3
    codes[40:42, 3:6] = 5
    masked[0, 40:42, 3:6] = True
    write(folder / stem.format("d"), fits.PrimaryHDU(), compressed(codes, header))
    return Made([path], ("g",), (483,), flux, sigma, masked, pixel_scale=0.27)


def cfht_stack(folder):
    images, sigma, flux = draw(sigma=20.0, seed=28)
    masked = scene.bad_pixels()
    unit = flux_of(30.0)
    header = wcs_cards(0.186)
    header.update({"FILTER": "r.MP9602", "MAGZP": 30.0, "INSTRUME": "MegaPrime"})
    path = write(
        folder / "CFIS.205.272.r.fits", fits.PrimaryHDU((images[0] / unit).astype("f4"), header)
    )
    weight = np.where(masked, 0, (unit / sigma) ** 2)[0].astype(np.float32)
    write(folder / "CFIS.205.272.r.weight.fits.fz", fits.PrimaryHDU(), compressed(weight, header))
    return Made([path], ("r",), (622,), flux, sigma, masked, pixel_scale=0.186)


def vista(folder):
    """A tile of VISTA: its zero point is of Vega and of one second; the noise is given."""
    images, sigma, flux = draw(sigma=200.0, seed=29)
    unit = flux_of(23.1 + 2.5 * np.log10(50.0) + 0.916)
    header = wcs_cards(0.34)
    header.update({"INSTRUME": "VIRCAM", "MAGZPT": 23.1, "EXPTIME": 50.0})
    header["HIERARCH ESO INS FILT1 NAME"] = "J"
    path = write(
        folder / "v20100410_00617_st_tl.fits",
        fits.PrimaryHDU(),
        compressed((images[0] / unit).astype(np.float32), header, lossy=True),
    )
    noise = sigma[0] / unit
    noise[BAD] = np.inf
    rms = write(folder / "rms.fits", fits.PrimaryHDU(noise.astype(np.float32)))
    return Made(
        [path],
        ("VISTA_J",),
        (1253,),
        flux,
        sigma,
        scene.bad_pixels(),
        {"noise": rms},
        pixel_scale=0.34,
    )


#: All products, by the name of their row.
MAKERS = {
    "Rubin DP1 coadd": rubin_dp1_coadd,
    "Rubin DP1 visit image": rubin_dp1_visit,
    "Rubin cutout with mask and variance": rubin_maskedimage,
    "Rubin DP2 cell coadd": rubin_dp2_coadd,
    "Rubin DP2 visit image": rubin_dp2_visit,
    "HSC PDR2 calexp": hsc_pdr2_calexp,
    "HSC PDR3 calexp": hsc_pdr3_calexp,
    "HSC cutout": hsc_cutout,
    "HSC exposure": hsc_exposure,
    "Legacy Surveys viewer cutout": legacy_viewer,
    "Legacy Surveys brick": legacy_brick,
    "Euclid MER mosaic": euclid_mer,
    "JWST i2d": jwst_i2d,
    "grizli mosaic": grizli,
    "HST drizzle (HAP)": hst_hap,
    "HST drizzle (CANDELS)": hst_candels,
    "DES coadd": des_coadd,
    "DES MEDS": des_meds,
    "Pan-STARRS stack": panstarrs_stack,
    "ZTF exposure": ztf_science,
    "ZTF reference": ztf_reference,
    "Gemini DRAGONS": gemini,
    "CCDData": ccddata,
    "CCDData, inverse variance": ccddata_inverse,
    "SDSS frame": sdss_frame,
    "KiDS coadd": kids,
    "unWISE coadd": unwise,
    "AllWISE atlas image": allwise_atlas,
    "DECam image": decam_stack,
    "CFHT stack": cfht_stack,
    "VISTA or UKIDSS image": vista,
}
