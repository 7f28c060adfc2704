"""Observations from npz archives: of one blend, or one blend of a set."""

import json
import operator
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from scipy.ndimage import uniform_filter

from scorepriors._errors import InputError
from scorepriors.models.data._checks import broadcast_mask, numeric, parse_unit, weights_from_noise
from scorepriors.models.data.psfs._contents import npz_sources

from ._cards import given_zero_point
from ._files import Source, array_names, load_npz
from ._masks import masked_pixels
from ._options import FileOptions, given_bands

#: Options of `FileOptions` that npz archives take; the others are arrays of the archive.
NPZ_OPTIONS = ("good", "bad_planes", "zero_point", "bands", "time")


def read_npz(
    path: Source, index: int | None = None, psf=None, options: FileOptions | None = None
) -> dict[str, Any]:
    """Read an npz archive; see `scorepriors.models.data.readers` for the layouts.

    Parameters
    ----------
    path
        The archive.
    index
        Number of the blend in a set, from 0.
    psf
        PSF as for `scorepriors.models.data.psfs._read.read_psf`, which replaces the archive's
        own.
    options
        What the archive does not tell: those of `NPZ_OPTIONS`.

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
    options = FileOptions() if options is None else options
    others = [name for name in options.given if name not in NPZ_OPTIONS]
    if others:
        raise InputError(
            f"{', '.join(others)}: options of FITS files; put it into the npz archive."
        )
    archive = load_npz(path)
    if "images" not in archive:
        raise InputError(f"{path.name} holds no array `images`; found {array_names(archive)}.")
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
        if options.planes is not None or options.good is not None:
            raise InputError(f"{path.name} is a set, which has no mask for good= or bad_planes=.")
        return _said(read_from_set(path, archive, index, psf), options)
    if index is not None:
        raise InputError(f"{path.name} holds one blend, not a set; leave out index={index}.")
    arguments = _read_single(path, archive, images, options)
    return _said(_complete(arguments, archive, psf), options)


def _said(arguments: dict[str, Any], options: FileOptions) -> dict[str, Any]:
    """Put what was said in the place of what the archive holds."""
    if options.bands is not None:
        arguments["bands"] = given_bands(options.bands)
    if options.time is not None:
        arguments["time"] = options.time
    if options.zero_point is not None:
        arguments["zero_point"], arguments["unit"] = given_zero_point(
            options.zero_point, parse_unit(arguments.get("unit")), len(arguments["images"])
        )
    return arguments


def _complete(arguments: dict[str, Any], archive: dict[str, np.ndarray], psf) -> dict[str, Any]:
    if psf is not None:
        arguments["psfs"] = psf
    names = archive.get("bands", archive.get("filters"))
    arguments["bands"] = None if names is None else tuple(str(name) for name in np.ravel(names))
    return arguments


def _read_single(
    path: Path, archive: dict[str, np.ndarray], images: np.ndarray, options: FileOptions
) -> dict[str, Any]:
    masked = np.zeros(images.shape, bool)
    if "mask" not in archive and (options.planes is not None or options.good is not None):
        raise InputError(f"{path.name} has no array `mask` for good= or bad_planes=.")
    if "mask" in archive:
        mask = masked_pixels(
            archive["mask"],
            what=f"{path.name} [mask]",
            good=options.good,
            bad_planes=options.planes,
        )
        masked |= broadcast_mask(mask, images.shape)
    kind = next((name for name in ("variance", "weights") if name in archive), None)
    if kind is None:
        noise, kind = _estimate_variance(path, images, masked), "variance"
    else:
        noise = archive[kind]
    arguments = {
        "images": images,
        "weights": weights_from_noise(
            noise, kind.removesuffix("s"), masked, f"{path.name} [{kind}]"
        ),
        "psfs": npz_sources(archive, path.name) if "psfs" in archive else None,
        "catalog": plain_catalog(archive["catalog"]) if "catalog" in archive else None,
        "name": path.stem,
    }
    if "zero_point" in archive:
        zero = numeric(archive["zero_point"], f"{path.name} [zero_point]")
        arguments["zero_point"] = float(zero) if zero.ndim == 0 else zero.tolist()
    if "unit" in archive:
        arguments["unit"] = str(archive["unit"])
    if "scale" in archive:
        arguments["scale"] = archive["scale"]
    if "correlation" in archive:
        arguments["correlation"] = numeric(archive["correlation"], f"{path.name} [correlation]")
    return arguments


def _estimate_variance(path: Path, images: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Return a constant variance per band: (1.4826 x median absolute deviation) squared."""
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
    """Return arguments of ``Observation.from_arrays`` for a blend of a set read by `load_npz`.

    Parameters
    ----------
    path
        Path of the archive, for messages and names.
    archive
        Arrays of the archive.
    index
        Number of the blend, from 0.
    psf
        PSF, as for `read_npz`.
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
            f"{path.name} is a set without {' and '.join(missing)}; found {array_names(archive)}."
        )
    sky = numeric(archive["skyvar"], f"{path.name} [skyvar]")[index][:, None, None]
    gain = numeric(archive["gain"], f"{path.name} [gain]")[:, None, None]
    image = images[index].astype(np.float64)
    bad = np.count_nonzero(~np.isfinite(image))
    if bad:
        raise InputError(
            f"{path.name} [images] is NaN or infinite at {bad} pixel(s) of blend {index}; sets have "
            "no mask, so put numbers there."
        )
    # The variance of a pixel must not follow its own noise: low pixels would get larger
    # weights and bias every flux low.  A 3 x 3 mean reduces that by a factor of nine.
    smooth = np.maximum(uniform_filter(image, size=(1, 3, 3), mode="nearest"), 0)
    catalog = None
    if "centers" in archive and "src_start" in archive:
        start, stop = archive["src_start"][index : index + 2]
        centers = archive["centers"][start:stop]
        # (row, column): checked against the positions of the flux.
        catalog = Table({"x": centers[:, 1], "y": centers[:, 0]})
    psfs = archive.get("psfs")
    arguments = {
        "images": image,
        "weights": weights_from_noise(
            sky + gain * smooth, "variance", np.zeros(image.shape, bool), f"{path.name} [skyvar]"
        ),
        "psfs": psfs[index] if psfs is not None and psfs.ndim == 4 else psfs,
        "catalog": catalog,
        "name": f"{path.stem}-{operator.index(index)}",
    }
    if "meta" in archive:
        try:
            meta = json.loads(str(archive["meta"]))
            arguments |= {"zero_point": meta.get("zp"), "scale": meta.get("scale")}
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path.name} [meta] is not a JSON object.") from error
    return _complete(arguments, archive, psf)


def plain_catalog(catalog: np.ndarray) -> Table:
    """Return a table of the scalar numbers and booleans of a structured array."""
    names = catalog.dtype.names
    if names is None:
        raise InputError("the array `catalog` has no named columns; save a structured array.")
    kept = [
        name
        for name in names
        if catalog.dtype[name].shape == () and catalog.dtype[name].kind in "fiub"
    ]
    return Table({name: np.atleast_1d(catalog[name]) for name in kept})
