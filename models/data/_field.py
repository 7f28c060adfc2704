"""A field: an image that is larger than a scene, read by windows."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from astropy import units
from astropy.table import Table
from astropy.wcs import WCS, Sip

from scorepriors._errors import InputError

from ._field_files import open_files
from ._observation import Observation, unchecked
from ._views import Photometry
from ._warnings import collected
from .positions._positions import Positions
from .readers._files import FITS_ENDINGS, NPZ_ENDINGS, check_file
from .readers._options import FileOptions


@dataclass(frozen=True, eq=False)
class Field(Photometry):
    """Images of a field, one per band, that are read by windows.

    A field is a small value: it can be pickled, and whoever gets it opens its files by himself.
    Build one with `open` or `of`.

    Attributes
    ----------
    shape
        Height and width in pixels.
    bands
        Names of the bands, all different.
    wcs
        Celestial WCS of two axes; or None.
    unit
        Unit of a pixel's value; or None.
    zero_point
        AB magnitude of one image unit in each band; or None.
    pixel_scale
        Side of a pixel in arcseconds; or None.
    name
        Name for titles and files.
    catalog
        Table of positions that came with the images, unchanged; or None.
    psf_size
        Side of the PSFs in pixels, P; the same everywhere.
    opened
        Arguments of `open` by which it can be opened again, ready for JSON; or None.
    corner
        Row and column of the first pixel in the image of the file, if the field was cut out of
        it; (0, 0) otherwise.
    correlation
        Correlations of the noise, ``[B, k, k]``, the same everywhere; or None.
    notes
        Sentences on what bears on a result: see `Observation.notes`.
    time
        Middle of the exposure, MJD; or None.
    """

    shape: tuple[int, int]
    bands: tuple[str, ...]
    wcs: WCS | None
    unit: units.UnitBase | None
    zero_point: tuple[float, ...] | None
    pixel_scale: float | None
    name: str
    catalog: Table | None
    psf_size: int
    corner: tuple[int, int]
    _source: Any = field(repr=False)
    opened: dict[str, Any] | None = None
    correlation: np.ndarray | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    time: float | None = None

    @classmethod
    def of(cls, obs: Observation) -> "Field":
        """Return the field of an image in memory."""
        if not isinstance(obs, Observation):
            raise InputError(
                f"a field is one observation, not a {type(obs).__name__}; give an Observation, or a "
                "file to Field.open."
            )
        return cls._of(obs, obs.shape, _Memory(obs))

    @classmethod
    def _of(cls, obs: Observation, shape: tuple[int, int], source) -> "Field":
        """Return the field of a source of windows, with what is the same for all of them."""
        return cls(
            shape=shape,
            bands=obs.bands,
            wcs=obs.wcs,
            unit=obs.unit,
            zero_point=obs.zero_point,
            pixel_scale=obs.pixel_scale,
            name=obs.name,
            catalog=obs.catalog,
            psf_size=obs.psfs.shape[-1],
            corner=obs.corner,
            _source=source,
            correlation=obs.correlation,
            notes=obs.notes,
            time=obs.time,
        )

    @classmethod
    def open(cls, path, psf=None, index: int | None = None, **options) -> "Field":
        """Open FITS or npz files as a field; of FITS files only the windows asked for are read.

        What only all pixels tell, as whether weights are exposure times, is told by a sample of
        them where there are many, and holds for all windows.

        Parameters
        ----------
        path, psf, index, options
            As for `Observation.read`.

        Raises
        ------
        InputError
            As `Observation.read` does; for fields also if no pixel of the sample has data.

        Warns
        -----
        FileWarning
            If something in the file bears on the result, and how it was understood: once, not
            for every window.
        """
        if isinstance(path, list | tuple) and len(path) == 1:
            return cls.open(path[0], psf, index, **options)
        paths = [path] if isinstance(path, str | os.PathLike) else list(path)
        packed = any(str(one).lower().endswith(NPZ_ENDINGS) for one in paths)
        given = _plain({"path": path, "psf": psf, "index": index, **options})
        if packed or index is not None or not paths:
            return replace(cls.of(Observation.read(path, psf, index, **options)), opened=given)
        if len(paths) == 1:
            check_file(path, (*FITS_ENDINGS, *NPZ_ENDINGS), "image file")
        oversampling = options.pop("psf_oversampling", None)
        with collected() as said:
            found = cls._of(*open_files(path, psf, FileOptions(**options), oversampling))
        return field_with_notes(replace(found, opened=given), said)

    def window(self, row: int, column: int, height: int, width: int) -> Observation:
        """Read a part of the field.

        Parameters
        ----------
        row, column
            First pixel.
        height, width
            Size in pixels.  The window may reach beyond the field, where weights are zero.

        Returns
        -------
        Observation
            The window; its `corner` is (row, column), and its PSFs are those at its center.  It
            may be without any data: then its `num_pixels` is zero.
        """
        row, column, height, width = (int(value) for value in (row, column, height, width))
        if height < 1 or width < 1:
            raise InputError(
                f"a window of {height} x {width} pixels holds none; give a larger one."
            )
        shape = (self.num_bands, height, width)
        images, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        last = (min(row + height, self.shape[0]), min(column + width, self.shape[1]))
        box = slice(max(row, 0), last[0]), slice(max(column, 0), last[1])
        if box[0].start < box[0].stop and box[1].start < box[1].stop:
            inside = (
                slice(None),
                slice(box[0].start - row, box[0].stop - row),
                slice(box[1].start - column, box[1].stop - column),
            )
            images[inside], weights[inside] = self._source.pixels(box)
        psfs, fine = self._psfs(row + (height - 1) / 2, column + (width - 1) / 2)
        return unchecked(
            images=images,
            weights=weights,
            psfs=psfs,
            bands=self.bands,
            wcs=None if self.wcs is None else shifted(self.wcs, row, column, (height, width)),
            unit=self.unit,
            zero_point=self.zero_point,
            name=self.name,
            catalog=None,
            scale=self.pixel_scale if self.wcs is None else None,
            corner=(row, column),
            time=self.time,
            correlation=self.correlation,
            fine_psfs=fine,
        )

    def psfs_at(self, row: float, column: float) -> np.ndarray:
        """Return the PSFs ``[B, P, P]`` at a place, P the same everywhere.

        Beyond the field they are those of the nearest place in it.
        """
        return self._psfs(row, column)[0]

    def _psfs(self, row: float, column: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the PSFs at a place, and `Observation.fine_psfs` there."""
        place = np.clip([row, column], 0, np.array(self.shape) - 1)
        return self._source.psfs(*map(float, place))

    def positions(self, catalog=None, *, margin: float | None = None) -> Positions | None:
        """Read positions of sources of the whole field.

        Parameters
        ----------
        catalog
            Catalog as for `read_positions`; that of the file if None.
        margin
            Largest distance of a source beyond the edge, pixels.  If not given, that of
            `read_positions` for a small field, and a FWHM of the PSF for a large one.

        Returns
        -------
        Positions or None
            Positions in pixels of the field; None if there is no catalog.

        Raises
        ------
        InputError
            As `read_positions` does.

        Warns
        -----
        FileWarning, PositionsWarning
            As `read_positions` does; a large field is compared with the catalog in some windows.
        """
        # Light at positions is looked for in joint observations too, which have parts of fields.
        from ._field_positions import field_positions

        catalog = self.catalog if catalog is None else catalog
        return None if catalog is None else field_positions(catalog, self, margin)

    def whole(self) -> Observation:
        """Read all of the field at once."""
        obs = self.window(0, 0, *self.shape)
        own = {"corner": self.corner, "catalog": self.catalog, "psf_varies": self._source.varies}
        return unchecked(**vars(obs) | own)


def field_with_notes(known: Field, notes: Iterable[str]) -> Field:
    """Return a field with further notes, each once."""
    return replace(known, notes=tuple(dict.fromkeys((*known.notes, *notes))))


#: Arguments of `Field.open` that are files.
_FILES = ("path", "psf", "noise", "mask")


def _plain(arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Return arguments as JSON holds them, paths in full; None if there are arrays or objects."""

    def plain(name, value):
        if isinstance(value, os.PathLike) or (isinstance(value, str) and name in _FILES):
            # What follows the file is its HDU.
            file, bracket, hdu = os.fspath(value).partition("[")
            return (os.path.abspath(file) if os.path.exists(file) else file) + bracket + hdu
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, list | tuple):
            return [plain(name, one) for one in value]
        raise TypeError

    try:
        return {name: plain(name, value) for name, value in arguments.items() if value is not None}
    except TypeError:
        return None


class _Memory:
    """Windows of an image in memory."""

    def __init__(self, obs: Observation):
        self.obs, self.varies = obs, obs.psf_varies

    def pixels(self, box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        return self.obs.images[:, *box], self.obs.weights[:, *box]

    def psfs(self, row: float, column: float) -> tuple[np.ndarray, np.ndarray | None]:
        return self.obs.psfs, self.obs.fine_psfs


def shifted(wcs: WCS, row: int, column: int, shape: tuple[int, int]) -> WCS:
    """Return the WCS of a window, which may begin before the first pixel."""
    moved, by = wcs.deepcopy(), np.array([column, row], float)
    moved.wcs.crpix = moved.wcs.crpix - by
    if moved.sip is not None:
        old = wcs.sip
        moved.sip = Sip(old.a, old.b, old.ap, old.bp, old.crpix - by)
    for table in (moved.cpdis1, moved.cpdis2, moved.det2im1, moved.det2im2):
        if table is not None:
            table.crval = [value - step for value, step in zip(table.crval, by)]
    moved.array_shape = shape
    return moved
