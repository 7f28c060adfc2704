"""Images of one field in several bands, with weights, PSFs, units and WCS."""

import copy
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import Table
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area

from scorepriors._errors import InputError
from scorepriors._files import atomic_path
from scorepriors.models.data.readers._correlations import CORRELATION
from scorepriors.models.data.readers._files import FITS_ENDINGS, NPZ_ENDINGS, check_file
from scorepriors.models.data.readers._fits_files import FINE_SAMPLES, read_fits
from scorepriors.models.data.readers._nddata import read_nddata
from scorepriors.models.data.readers._npz_files import read_npz
from scorepriors.models.data.readers._options import FileOptions
from scorepriors.models.noise._correlation import by_band

from ._checks import (
    check_bands,
    check_image_shape,
    check_pixels,
    check_scale,
    check_time,
    check_wcs,
    check_zero_point,
    default_bands,
    numeric,
    parse_unit,
    strip_unit,
    weights_from_variance,
)
from ._own_noise import check_own_noise
from ._views import Photometry, View
from ._warnings import collected
from .psfs._checks import check_fine, check_psfs, own_fine
from .psfs._read import place_of, psfs_for
from .psfs._sampling import tell_sampling


@dataclass(frozen=True, eq=False)
class Observation(Photometry):
    """Images of one field, one per band, checked once and never changed.

    The arrays are read-only copies.  Pixel order is (row, column); row 0 is the first
    row of the array, which FITS viewers show at the bottom.  Build one with
    `from_arrays`, `from_nddata`, `from_fits`, `from_npz` or `read`.

    Attributes
    ----------
    images
        Pixels ``[B, H, W]``, float32, in `unit`; zero where the weight is zero.
    weights
        Inverse variances ``[B, H, W]``, float32; zero means masked.
    psfs
        Effective PSFs ``[B, P, P]``, float32, P odd, sums of one, centered on pixel
        ``P // 2``, the pixel's response included.
    bands
        Names of the bands, all different.
    wcs
        Celestial WCS of two axes, shared by all bands; or None.
    unit
        Unit of a pixel's value; or None.
    zero_point
        AB magnitude of one image unit in each band; or None.  A number stands for all.
    name
        Name for titles and files.
    catalog
        Table of positions that came with the images, unchanged; or None.
    scale
        Arcseconds per pixel where there is no `wcs`; or None.
    corner
        Row and column of the first pixel in the image of the file, if the observation was cut
        out of it; (0, 0) otherwise.
    time
        Middle of the exposure, MJD; by cards of the file, or by the `wcs` (``MJD-AVG``, or ``MJD-OBS``
        and half of the exposure, in its header) if not given, and None if nobody knows.
    correlation
        Correlations of the noise of pixels by their distance, ``[B, k, k]``, one in the center
        (`with_correlation`); None if it is not known, and pixels are taken as independent.
    fine_psfs
        The same PSFs at four places per pixel, ``[B, Q, Q]``, the pixel's response included: joint
        fits need them where pixels undersample the PSF.  Known where `from_arrays` is given samples
        finer than half a pixel; None otherwise, and the PSF between pixels is interpolated.
    notes
        Sentences on what bears on a result, as warnings said them: what was understood rather than
        read, and mended.  Summaries and reports of results have them.
    psf_varies
        Whether `psfs` are those of the middle of the image, and others hold elsewhere in it.

    Raises
    ------
    InputError
        If anything is inconsistent; the message names it and how to correct it.

    Warns
    -----
    PSFWarning
        If a PSF's sum differs from one by more than 1 % (it is normalized), or its centroid
        from the center by more than 0.1 pixel (it is moved there).
    NoiseWarning
        If the variance of a band follows the noise of its own pixels (`noise_from_model`).
    """

    images: np.ndarray
    weights: np.ndarray
    psfs: np.ndarray
    bands: tuple[str, ...]
    wcs: WCS | None = None
    unit: units.UnitBase | None = None
    zero_point: tuple[float, ...] | None = None
    name: str = ""
    catalog: Table | None = None
    scale: float | None = None
    corner: tuple[int, int] = (0, 0)
    time: float | None = None
    correlation: np.ndarray | None = None
    fine_psfs: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    psf_varies: bool = False

    def __post_init__(self):
        images = numeric(self.images, "images")
        check_image_shape(images)
        bands = check_bands(self.bands, len(images))
        images, weights = check_pixels(images, numeric(self.weights, "weights"), bands)
        check_own_noise(images, weights, bands)
        psfs = check_psfs(self.psfs, bands)
        fine = check_fine(self.fine_psfs, psfs)
        unit = parse_unit(self.unit)
        checked = {
            "images": _freeze(images),
            "weights": _freeze(weights),
            "psfs": _freeze(psfs),
            "bands": bands,
            "wcs": check_wcs(self.wcs),
            "unit": unit,
            "zero_point": check_zero_point(self.zero_point, unit, len(bands)),
            "name": str(self.name),
            "scale": check_scale(self.scale),
            "corner": (int(self.corner[0]), int(self.corner[1])),
            "time": check_time(self.time, self.wcs),
            "correlation": _checked_correlation(self.correlation, len(bands)),
            "fine_psfs": None if fine is None else _freeze(fine),
            "notes": tuple(self.notes),
            "psf_varies": bool(self.psf_varies),
        }
        for field, value in checked.items():
            object.__setattr__(self, field, value)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.images.shape[1:]
        return height, width

    @property
    def views(self) -> tuple[View, ...]:
        """The observation itself, as the only view of its scene."""
        return (View(self, self.psfs, self.bands),)

    @property
    def num_pixels(self) -> int:
        """Number of unmasked pixel values, over all bands."""
        return int(np.count_nonzero(self.weights))

    @property
    def pixel_scale(self) -> float | None:
        """Side of a pixel in arcseconds (square root of its area), or None: from `wcs` or `scale`."""
        if self.wcs is None:
            return self.scale
        return float(np.sqrt(proj_plane_pixel_area(self.wcs)) * 3600)

    @classmethod
    def from_arrays(
        cls,
        images,
        *,
        weights=None,
        variance=None,
        mask=None,
        psfs,
        bands: Sequence[str] | None = None,
        wcs: WCS | None = None,
        unit: units.UnitBase | str | None = None,
        zero_point: float | Sequence[float] | None = None,
        name: str = "",
        catalog: Table | None = None,
        scale: float | None = None,
        corner: tuple[int, int] = (0, 0),
        time: float | None = None,
        correlation=None,
        psf_oversampling: float | None = None,
        fine_psfs=None,
    ) -> "Observation":
        """Build an observation from arrays.

        Parameters
        ----------
        images
            Pixels ``[B, H, W]``; an astropy Quantity brings its unit, a masked array its mask.
        weights, variance
            Inverse variances, or variances (infinite means masked); exactly one of them.
        mask
            Mask ``[B, H, W]`` or ``[H, W]``, nonzero where a pixel must not be used.  Reduce
            bit masks to the relevant bits first: ``mask & bits``.
        psfs
            PSFs ``[B, P, P]``, or ``[P, P]`` for all bands; a list of images of different
            sizes; files or objects as for `read_psf`, evaluated at the center of the images.
            Those that are not centered on a pixel, as for even P, are moved there.
        bands
            Names of the bands; ``band0``, ``band1``, ... if not given.
        wcs, unit, zero_point, name, catalog, scale, corner, time
            Attributes of the class.
        correlation
            Correlations of the noise, ``[B, k, k]``, or ``[k, k]`` for all bands; None if unknown.
        psf_oversampling
            Samples of the PSFs per pixel, along one axis; None for one, or what files say.
        fine_psfs
            Attribute of the class, where `psfs` are on pixels; None to take it from `psfs`.

        Warns
        -----
        FileWarning
            If one PSF of a file stands for several bands, or had to be resampled.
        PSFWarning
            If the pixels undersample a PSF (FWHM below 2 pixels), or it is unusually wide.

        Examples
        --------
        >>> import numpy as np
        >>> obs = Observation.from_arrays(
        ...     np.ones((2, 8, 8)), variance=np.ones((2, 8, 8)), psfs=np.ones((1, 1)),
        ...     bands=("g", "r"), zero_point=27.0,
        ... )
        >>> obs.shape, obs.bands, obs.num_pixels
        ((8, 8), ('g', 'r'), 128)
        """
        with collected() as said:
            obs = cls._of_arrays(
                images,
                weights,
                variance,
                mask,
                psfs,
                bands,
                psf_oversampling,
                (wcs, unit, zero_point, name, catalog, scale, corner, time, correlation, fine_psfs),
            )
        return with_notes(obs, said)

    @classmethod
    def _of_arrays(
        cls, images, weights, variance, mask, psfs, bands, psf_oversampling, about
    ) -> "Observation":
        """Build an observation; `about` are the arguments of `from_arrays` from `wcs` on."""
        wcs, unit, zero_point, name, catalog, scale, corner, time, correlation, fine_psfs = about
        if (weights is None) == (variance is None):
            given = "neither" if weights is None else "both"
            raise InputError(f"give weights or variance: exactly one of them, not {given}.")
        images, unit = strip_unit(images, parse_unit(unit), 1, "images")
        noise_name, power = ("variance", 2) if weights is None else ("weights", -2)
        noise = variance if weights is None else weights
        noise, _ = strip_unit(noise, unit, power, noise_name)
        values = numeric(images, "images")
        check_image_shape(values)
        masked = np.zeros(values.shape, bool)
        for array in (images, noise):
            if np.ma.isMaskedArray(array) and array.shape == values.shape:
                masked |= np.ma.getmaskarray(array)
        if mask is not None:
            given_mask = numeric(mask, "mask") != 0
            if given_mask.shape not in (values.shape, values.shape[1:]):
                raise InputError(
                    f"mask has the shape {given_mask.shape} but the images have "
                    f"{values.shape}; give {values.shape} or {values.shape[1:]}."
                )
            masked |= given_mask
        if bands is None:
            bands = default_bands(len(values))
        elif isinstance(bands, str):
            bands = (bands,)  # not its letters
        if weights is None:
            noise = weights_from_variance(noise, masked)
        else:
            noise = numeric(noise, "weights")
            if noise.shape == masked.shape:
                noise = np.where(masked, 0, noise)
        zero_point = check_zero_point(zero_point, unit, len(values))
        bands, wcs, scale = check_bands(bands, len(values)), check_wcs(wcs), check_scale(scale)
        place = place_of(values.shape[1:], wcs, scale, corner)
        found = psfs_for(psfs, bands, place, psf_oversampling)
        about = (
            *(wcs, unit, zero_point, name, catalog, scale, corner, time, correlation),
            own_fine(found.all_fine, found.images) if fine_psfs is None else fine_psfs,
            (),
            found.varies,
        )
        stamps: Any = found.images  # of one size once they are checked
        obs = cls(values, noise, stamps, bands, *about)
        tell_sampling(obs.psfs, obs.bands, obs.pixel_scale)
        return obs

    @classmethod
    def from_nddata(
        cls,
        images: NDData | Sequence[NDData],
        psfs,
        bands=None,
        psf_oversampling: float | None = None,
        time=None,
    ) -> "Observation":
        """Build an observation from one astropy NDData or CCDData per band, or one alone.

        Each needs an uncertainty (standard deviation, variance or inverse variance); mask,
        WCS and unit are honored.  Band names come from `bands`, or from FILTER or BAND in
        the metadata, and `time` (MJD or an astropy Time) from its cards if it is not given.  PSFs are
        as for `from_arrays`.
        """
        with collected() as said:
            arguments = read_nddata(images, psfs, bands, time)
            obs = cls.from_arrays(**arguments, psf_oversampling=psf_oversampling)
        return with_notes(obs, said)

    @classmethod
    def from_fits(
        cls,
        path,
        psf=None,
        index: int | None = None,
        *,
        noise=None,
        noise_kind: str | None = None,
        mask=None,
        good: int | None = None,
        bad_planes: str | int | Sequence[str | int] | None = None,
        zero_point: float | Sequence[float] | None = None,
        bands: str | Sequence[str] | None = None,
        hdu: str | int | None = None,
        position=None,
        size=None,
        time=None,
        psf_oversampling: float | None = None,
    ) -> "Observation":
        """Read one multi-extension FITS file, or a list of files, one per band.

        Products of surveys are known by their names and cards; other files follow general rules
        for names of HDUs and cards.  What is left, the options tell.

        Parameters
        ----------
        path
            File or files; their layout is described in `scorepriors.models.data.readers`.
        psf
            PSF that replaces those in the files: a file, array or object, a list with one for
            each band, or a dictionary by band; see `read_psf`.
        index
            Number of an object, of products that hold many.
        noise, mask
            Files with the noise and the mask, one for each image file; ``file.fits[WHT]`` or
            ``file.fits[2]`` names the HDU.
        noise_kind
            What the noise is: ``"variance"``, ``"deviation"``, ``"ivar"`` (inverse variance) or
            ``"exposure"`` (exposure time, scaled to the scatter of the pixels).
        good
            Value of the mask where pixels are good.
        bad_planes
            Names or bits of the planes of a bit mask that exclude a pixel.
        zero_point
            AB magnitude of one unit of a pixel, for all bands or for each.
        bands
            Names of the bands.
        hdu
            HDU of the image: a number, a name, or ``"SCI,2"``.
        position, size
            Cut a square of this side in arcseconds about (RA, Dec) in degrees, or a SkyCoord;
            nothing else of the file is read.
        time
            Middle of the exposure, MJD or an astropy Time, instead of what cards say.
        psf_oversampling
            Samples of the PSFs per pixel, along one axis, where files do not say so.

        Warns
        -----
        FileWarning
            If something in the file bears on the result, and how it was understood.
        """
        options = FileOptions(
            *(noise, noise_kind, mask, good, bad_planes, zero_point, bands, hdu, position, size),
            time=time,
        )
        with collected() as said:
            arguments = read_fits(path, psf, options, index)
            obs = cls._build({**arguments, "psf_oversampling": psf_oversampling}, path)
        return with_notes(obs, said)

    @classmethod
    def from_npz(
        cls,
        path,
        index: int | None = None,
        psf=None,
        psf_oversampling: float | None = None,
        **options,
    ) -> "Observation":
        """Read an npz archive; `index` selects one blend of a set.

        The layouts are described in `scorepriors.models.data.readers`; `psf`,
        `psf_oversampling` and further `options` (``good``, ``bad_planes``, ``zero_point``,
        ``bands``, ``time``) are as for `from_fits`.
        """
        with collected() as said:
            arguments = read_npz(path, index, psf, FileOptions(**options))
            obs = cls._build({**arguments, "psf_oversampling": psf_oversampling}, path)
        return with_notes(obs, said)

    @classmethod
    def read(cls, path, psf=None, index: int | None = None, **options) -> "Observation":
        """Read FITS or npz by the ending of the name: `from_fits`, with its options, or `from_npz`."""
        if not isinstance(path, str | os.PathLike):
            paths = list(path)
            if len(paths) == 1:
                return cls.read(paths[0], psf, index, **options)
            if any(str(p).lower().endswith(NPZ_ENDINGS) for p in paths):
                raise InputError("an npz file holds all bands; give one npz file, not a list.")
            path = paths
        else:
            endings = (*FITS_ENDINGS, *NPZ_ENDINGS)
            check_file(path, endings, "image file")
            if str(path).lower().endswith(NPZ_ENDINGS):
                return cls.from_npz(path, index, psf, **options)
        return cls.from_fits(path, psf, index, **options)

    @classmethod
    def _build(cls, arguments: dict[str, Any], path) -> "Observation":
        """Call `from_arrays`, with the file's name before every message."""
        with naming(path):
            return cls.from_arrays(**arguments)

    def to_fits(self, path: str | os.PathLike, overwrite: bool = False) -> None:
        """Write one multi-extension FITS file that `from_fits` reads, atomically.

        Extensions: IMAGE, WEIGHT (inverse variances, zero where masked), PSF and, if there
        are any, FINE_SAMPLES (`fine_psfs`), CORRELATION (of the noise) and CATALOG.

        Raises
        ------
        InputError
            If the file exists and `overwrite` is false, its folder does not, or its name does
            not end in ``.fits``, ``.fit`` or ``.fits.gz``.
        """
        path = Path(path)
        endings = (".fits", ".fit", ".fits.gz")
        if not path.name.lower().endswith(endings):
            raise InputError(f"cannot write {path.name!r}: name it {' or '.join(endings)}.")
        if path.exists() and not overwrite:
            raise InputError(f"{str(path)!r} exists; choose another name or overwrite=True.")
        if not path.parent.is_dir():
            raise InputError(f"the folder {str(path.parent)!r} does not exist; make it first.")
        hdus = fits.HDUList([fits.PrimaryHDU()])
        hdus.append(fits.ImageHDU(self.images, self._header(), name="IMAGE"))
        hdus.append(fits.ImageHDU(self.weights, name="WEIGHT"))
        hdus.append(fits.ImageHDU(self.psfs, name="PSF"))
        if self.fine_psfs is not None:
            hdus.append(fits.ImageHDU(self.fine_psfs, name=FINE_SAMPLES))
        if self.correlation is not None:
            hdus.append(fits.ImageHDU(self.correlation, name=CORRELATION))
        if self.catalog is not None:
            hdus.append(_table_hdu(self.catalog))
        with atomic_path(path) as temporary:
            hdus.writeto(temporary, overwrite=True)

    def _header(self) -> fits.Header:
        header = fits.Header() if self.wcs is None else self.wcs.to_header(relax=True)
        if not all(band.isascii() and band.isprintable() for band in self.bands):
            raise InputError(f"FITS headers hold plain ASCII only; rename the bands {self.bands}.")
        if any("," in band for band in self.bands):
            header.update({f"BAND{i}": band for i, band in enumerate(self.bands, 1)})
        else:
            header["BANDS"] = ",".join(self.bands)
        if self.wcs is None and self.scale is not None:
            header["PIXSCALE"] = self.scale
        if self.time is not None:
            header["MJD-AVG"], header["TIMESYS"] = self.time, "UTC"
        if self.unit is not None:
            header["BUNIT"] = self.unit.to_string()
        if self.zero_point is not None:
            header.update({f"MAGZERO{i}": zero for i, zero in enumerate(self.zero_point, 1)})
        if self.name and self.name.isascii() and self.name.isprintable():
            header["OBJECT"] = self.name
        return header


def with_notes(obs: Observation, notes: Iterable[str]) -> Observation:
    """Return an observation with further notes, each once."""
    found = tuple(dict.fromkeys((*obs.notes, *notes)))
    if found == obs.notes:
        return obs
    # Nothing that would have to be checked again.
    other = copy.copy(obs)
    object.__setattr__(other, "notes", found)
    return other


def unchecked(**values) -> Observation:
    """Return an observation of checked parts: all of its pixels may be masked."""
    obs = object.__new__(Observation)
    values = {"time": check_time(None, values["wcs"])} | values
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
        object.__setattr__(obs, name, value)
    return obs


@contextmanager
def naming(path):
    """Put the name of a file, or of the first of several, before every message."""
    try:
        yield
    except InputError as error:
        single = isinstance(path, str | os.PathLike)
        name = Path(path if single else path[0]).name
        raise InputError(f"{name}{'' if single else ' ...'}: {error}") from error


def _table_hdu(table: Table) -> fits.BinTableHDU:
    """Return a table as an HDU, by the writer that also handles columns such as SkyCoord."""
    buffer = io.BytesIO()
    table.write(buffer, format="fits")
    with fits.open(io.BytesIO(buffer.getvalue()), memmap=False) as hdus:
        hdu = hdus[1].copy()
    hdu.name = "CATALOG"
    return hdu


def _checked_correlation(correlation, bands: int) -> np.ndarray | None:
    if correlation is None:
        return None
    return _freeze(by_band(numeric(correlation, "correlation"), bands).astype(np.float32))


def _freeze(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array
