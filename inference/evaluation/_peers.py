"""Other programs on the same field: SExtractor's algorithm (sep) and photutils."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import sep
from astropy.table import Table
from scipy.signal import oaconvolve

from scorepriors._errors import InputError

#: Threshold of detection in standard deviations of the smoothed image, smallest number of pixels,
#: levels and contrast of the deblending.  These are the best of ten settings on simulated fields:
#: SExtractor's defaults (a threshold of 9 so counted, a contrast of 0.005) find a third less.
THRESHOLD, PIXELS, LEVELS, CONTRAST = 3.5, 5, 32, 1e-4

#: Side of the boxes in which the sky is measured, pixels.
_BOX = 64

#: Kron's apertures: factor of the radius, and the smallest one in units of the axes, as in
#: SExtractor.
_KRON, _SMALLEST = 2.5, 3.5

#: Names in photutils before version 3, and since.
_NAMES = (
    ("xcentroid", "ycentroid", "kron_flux", "kron_fluxerr", "detection_cat"),
    ("x_centroid", "y_centroid", "kron_flux", "kron_flux_err", "detection_catalog"),
)

#: Objects that sep may have on one image, and pixels of one.
_MOST_OBJECTS, _MOST_PIXELS = 100_000, 5_000_000


@dataclass(frozen=True)
class FieldImages:
    """Bands of a field, one after the other in memory.

    Attributes
    ----------
    images, variance
        Pixels and their variance, ``[B, H, W]``; arrays or memory maps.
    mask
        True for pixels that can't be used, ``[B, H, W]``.
    bands
        Names.
    psf_fwhm
        FWHM of the sharpest PSF, pixels.
    """

    images: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    bands: Sequence[str]
    psf_fwhm: float

    def any_mask(self) -> np.ndarray:
        """Return the pixels that can't be used in some band, ``[H, W]``."""
        return np.any(self.mask, axis=0)

    def band(self, order: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a band without its sky, the standard deviation and the mask; no NaN."""
        mask = np.array(self.mask[order], bool)
        image = np.array(self.images[order], np.float32, order="C")
        variance = np.array(self.variance[order], np.float32)
        mask |= ~(np.isfinite(image) & np.isfinite(variance) & (variance > 0))
        image[mask] = 0.0
        deviation = np.sqrt(np.where(mask, 1.0, variance)).astype(np.float32)
        if not mask.all():
            image -= sep.Background(image, mask=mask, bw=_BOX, bh=_BOX).back().astype(np.float32)
        image[mask] = 0.0
        return image, deviation, mask

    def detection(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum of the bands, in standard deviations of the sky, and its mask."""
        total = np.zeros(self.images.shape[1:], np.float32)
        weight = np.zeros_like(total)
        for order in range(len(self.bands)):
            image, deviation, mask = self.band(order)
            # The noise of the sky alone: that of bright sources would flatten them.
            level = np.float32(1 / np.median(deviation[~mask]) ** 2) if not mask.all() else 0.0
            total += np.where(mask, 0, image * level)
            weight += np.where(mask, 0, level)
        nothing = weight == 0
        return np.where(nothing, 0, total / np.sqrt(np.where(nothing, 1, weight))), nothing


def sep_catalog(field: FieldImages) -> Table:
    """Return the sources that sep finds and deblends, with fluxes in Kron's apertures.

    Pixels of other sources are left out of an aperture, and what is missing is made up for as by
    SExtractor's correction.

    Parameters
    ----------
    field
        The images.

    Returns
    -------
    astropy.table.Table
        ``x``, ``y``, and for each band ``flux_<band>`` with ``flux_err_<band>``.
    """
    image, nothing = field.detection()
    kernel = _kernel(field.psf_fwhm)
    before = sep.get_extract_pixstack(), sep.get_sub_object_limit()
    try:
        sep.set_extract_pixstack(_MOST_PIXELS)
        sep.set_sub_object_limit(_MOST_OBJECTS)
        found, segments = sep.extract(
            image,
            THRESHOLD * _noise(kernel),
            err=1.0,
            mask=nothing,
            minarea=PIXELS,
            filter_kernel=kernel,
            filter_type="conv",
            deblend_nthresh=LEVELS,
            deblend_cont=CONTRAST,
            segmentation_map=True,
        )
    finally:
        sep.set_extract_pixstack(before[0])
        sep.set_sub_object_limit(before[1])
    table = Table({"x": found["x"], "y": found["y"]})
    where = (found["x"], found["y"])
    # Ellipses of a few pixels without width have no area to integrate over.
    a, b = (np.maximum(found[axis], 0.5) for axis in "ab")
    angle = np.clip(found["theta"], -np.pi / 2, np.pi / 2)
    own = np.arange(1, len(found) + 1, dtype=np.int32)
    neighbors: dict[str, Any] = {"seg_id": own, "segmap": segments}
    kron, _ = sep.kron_radius(image, *where, a, b, angle, 6.0, mask=nothing, **neighbors)
    radius = np.maximum(_KRON * np.nan_to_num(kron), _SMALLEST)
    for order, band in enumerate(field.bands):
        pixels, deviation, mask = field.band(order)
        flux, error, _ = sep.sum_ellipse(
            pixels, *where, a, b, angle, radius, err=deviation, mask=mask, **neighbors
        )
        table[f"flux_{band}"], table[f"flux_err_{band}"] = flux, error
    return table


def photutils_catalog(field: FieldImages) -> Table:
    """Return the sources that photutils finds and deblends, with fluxes in Kron's apertures.

    Parameters
    ----------
    field
        The images.

    Returns
    -------
    astropy.table.Table
        As of `sep_catalog`.

    Raises
    ------
    InputError
        If photutils is not installed, or scikit-image, which it needs.
    """
    try:
        from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources

        import_module("skimage.segmentation")  # which it separates sources with
    except ImportError as error:
        raise InputError(
            "photutils or scikit-image is not installed: pip install 'scorepriors[peers]'."
        ) from error
    image, nothing = field.detection()
    kernel = _kernel(field.psf_fwhm)
    smooth = oaconvolve(image, kernel.astype(np.float32), mode="same")
    with warnings.catch_warnings():
        # That nothing was found, or that an object has too many peaks, is no news here.
        warnings.simplefilter("ignore")
        segments = detect_sources(smooth, THRESHOLD * _noise(kernel), PIXELS, mask=nothing)
        if segments is None:
            names = [f"{what}_{band}" for band in field.bands for what in ("flux", "flux_err")]
            return Table({name: np.zeros(0) for name in ("x", "y", *names)})
        # Its default number of levels is that of SExtractor.
        segments = deblend_sources(smooth, segments, PIXELS, contrast=CONTRAST, progress_bar=False)
        main = SourceCatalog(image, segments, convolved_data=smooth, mask=nothing)
        new = hasattr(SourceCatalog, "x_centroid")  # names of version 3
        x, y, flux, flux_error, first = _NAMES[new]
        table = Table({"x": getattr(main, x), "y": getattr(main, y)})
        for order, band in enumerate(field.bands):
            pixels, deviation, mask = field.band(order)
            own = SourceCatalog(pixels, segments, error=deviation, mask=mask, **{first: main})
            table[f"flux_{band}"] = getattr(own, flux)
            table[f"flux_err_{band}"] = getattr(own, flux_error)
    return table


#: Programs by name.
PEERS = {"sep": sep_catalog, "photutils": photutils_catalog}


def _kernel(fwhm: float) -> np.ndarray:
    """Return a Gaussian with the width of the PSF, sum of one."""
    sigma = fwhm / 2.3548
    half = int(np.ceil(2.5 * sigma))
    along = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    kernel = np.outer(along, along)
    return kernel / kernel.sum()


def _noise(kernel: np.ndarray) -> float:
    """Return the standard deviation of white noise of one that was smoothed."""
    return float(np.linalg.norm(kernel))
