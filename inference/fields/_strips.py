"""Images of a whole field, read and written by strips of rows so that memory stays small.

Tile-compressed FITS (Pence et al. 2010, PASP 122, 1065) holds one table row and one piece of the
heap per tile, so strips of whole tiles can be compressed by themselves and put one after another.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from astropy.io import fits

from scorepriors.inference.deblending._hdus import fits_text, image_header, source_names
from scorepriors.models.data._observation import Observation

#: Side of the tiles that are compressed, pixels.
TILE = 128

#: Rows of a strip: a multiple of TILE.
ROWS = 128

#: Values are rounded to the noise of a pixel over these.  The residual's rounding adds
#: (1 / 16)² / 12, or .03 %, to the variance of a pixel; the model has no noise of its own.
RESIDUAL_STEPS, MODEL_STEPS = 16, 64

#: Shares are written in steps of one over this, a power of two, so that they are exact where they are one.
SHARE_STEPS = 128

#: Side and number along each axis of the windows in which the noise is looked up.
_SAMPLE, _SAMPLES = 48, 6

_BLOCK = 2880


class Strip(NamedTuple):
    """Rows of a field.

    Attributes
    ----------
    row
        First row.
    seen
        The observation of these rows, of the whole width.
    model
        Light of all sources there, ``[B, rows, W]``.
    """

    row: int
    seen: Observation
    model: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """Data minus model ``[B, rows, W]``, NaN where masked."""
        obs = self.seen
        return np.where(obs.weights > 0, obs.images - self.model, np.float32(np.nan))


def strips(result: Any) -> Iterator[Strip]:
    """Yield the strips of a field from its first row on."""
    height, width = result.field.shape
    for row in range(0, height, ROWS):
        box = row, 0, min(ROWS, height - row), width
        yield Strip(row, result.field.window(*box), result.model(*box))


def pixel_noise(field: Any) -> np.ndarray:
    """Return the median standard deviation of the pixels of each band, ``[B]``.

    It is that of windows spread over the field.  A band without data has the median of the others.
    """
    found: list[list[np.ndarray]] = [[] for _ in field.bands]
    sizes = [min(_SAMPLE, size) for size in field.shape]
    starts = [
        np.unique(np.linspace(0, length - size, _SAMPLES).round().astype(int))
        for length, size in zip(field.shape, sizes, strict=True)
    ]
    for row in starts[0]:
        for column in starts[1]:
            weights = field.window(row, column, *sizes).weights
            for band, weight in zip(found, weights, strict=True):
                band.append(weight[weight > 0])
    joined = [np.concatenate(band) for band in found]
    noise = np.array([np.median(w) ** -0.5 if w.size else np.nan for w in joined])
    known = noise[np.isfinite(noise)]
    return np.where(np.isfinite(noise), noise, np.median(known) if known.size else 1.0)


def write_images(
    path: Path, result: Any, values: Callable[[Strip], np.ndarray], *, steps: int | None, title: str
) -> None:
    """Write an image of each band as a tile-compressed extension, strip by strip.

    Parameters
    ----------
    path
        File to write.
    result
        The field's result.
    values
        Function that returns what is written of a strip, ``[B, rows, W]``.
    steps
        Values are rounded to the noise over this, with a dither that leaves sums unbiased and zeros
        zero.  None for shares from 0 to 1, which have steps of `SHARE_STEPS` and no unit.
    title
        What the image is, for the header.
    """
    field = result.field
    noise = pixel_noise(field)
    with ExitStack() as files, open(path, "wb") as stream:
        # Beside the file: on the disk that is known to have room.
        bands = [
            _Band(
                files.enter_context(tempfile.TemporaryFile(dir=path.parent)),
                None if steps is None else sigma / steps,
            )
            for sigma in noise
        ]
        for strip in strips(result):
            for band, image in zip(bands, values(strip), strict=True):
                band.add(strip.row, image)
        fits.HDUList([_primary(field, title, steps)]).writeto(stream)
        wcs = None if field.wcs is None else field.wcs.to_header(relax=True)
        names = source_names(field.bands)  # which differ as names of extensions do
        zeros = field.zero_point or (None,) * len(names)
        for band, one, zero, name in zip(bands, field.bands, zeros, names, strict=True):
            about = (None, None) if steps is None else (field.unit, zero and [zero])
            header = image_header(wcs, [one], *about)
            header["EXTNAME"] = name
            if steps is None or band.step is None:
                header["BSCALE"] = (1 / SHARE_STEPS, "shares are rounded to this")
            else:
                sigma = float(band.step * steps)
                header["NOISE"] = (sigma, "median standard deviation of a pixel")
                header["QSTEP"] = (float(band.step), "values are rounded to this, with a dither")
            band.write(stream, header, field.shape)


def _primary(field: Any, title: str, steps: int | None) -> fits.PrimaryHDU:
    primary = fits.PrimaryHDU()
    primary.header["OBJECT"] = fits_text(field.name)
    primary.header["COMMENT"] = fits_text(title)
    if steps is None:
        return primary
    primary.header["COMMENT"] = (
        f"Values are rounded to 1/{steps} of the noise of a pixel (QSTEP of each extension), with a "
        "dither."
    )
    return primary


class _Band:
    """Tiles of one band: their table rows in memory, their bytes in a file without a name.

    They hold numbers that are rounded to `step`, or with None shares as integers.
    """

    def __init__(self, heap: IO[bytes], step: float | None):
        self.heap, self.step, self.size = heap, step, 0
        self.layout = _SHARES if step is None else _ROW
        self.rows: list[np.ndarray] = []
        self.header: fits.Header | None = None

    @property
    def _heaps(self) -> tuple[str, ...]:
        """Names of the columns that point into the heap."""
        return ("compressed",) if self.step is None else ("compressed", "lossless")

    def add(self, row: int, image: np.ndarray) -> None:
        """Compress a strip that begins at this row."""
        # The dither of a tile goes by its number, which begins anew in each strip.
        tiles = row // TILE * -(-image.shape[1] // TILE)
        how: dict[str, Any] = {"tile_shape": (TILE, TILE), "compression_type": "RICE_1"}
        if self.step is None:
            image = np.round(SHARE_STEPS * np.asarray(image)).astype(np.uint8)
        else:
            image = np.asarray(image, np.float32)
            how |= {"quantize_level": -float(self.step), "quantize_method": 2}
            how["dither_seed"] = tiles % 10_000 + 1
        hdu = fits.CompImageHDU(image, **how)
        buffer = io.BytesIO()
        hdu.writeto(buffer)
        with fits.open(
            io.BytesIO(buffer.getvalue()), disable_image_compression=True, memmap=False
        ) as hdus:
            table: Any = hdus[1]
            header = table.header
            start, count = table.fileinfo()["datLoc"], header["NAXIS1"] * header["NAXIS2"]
        whole = buffer.getbuffer()
        rows = np.frombuffer(whole[start : start + count], self.layout).copy()
        if self.header is None:
            self.header = header
        for name in self._heaps:
            rows[name][:, 1] += self.size
        self.rows.append(rows)
        self.size += self.heap.write(whole[start + count : start + count + header["PCOUNT"]])

    def write(self, stream, header: fits.Header, shape: tuple[int, int]) -> None:
        """Write the extension to a file that is open for writing."""
        assert self.header is not None
        rows = np.concatenate(
            self.rows, dtype=self.layout
        )  # by itself it would turn the bytes around
        own = self.header.copy()
        own["NAXIS2"], own["PCOUNT"] = len(rows), self.size
        for number, name in enumerate(self._heaps, 1):
            own[f"TFORM{number}"] = f"1PB({rows[name][:, 0].max()})"
        own["ZNAXIS1"], own["ZNAXIS2"] = shape[1], shape[0]
        if self.step is not None:
            own["ZDITHER0"], own["ZBLANK"] = 1, -(2**31)
        own.update(header)
        stream.write(own.tostring().encode("ascii"))
        stream.write(rows.tobytes())
        self.heap.seek(0)
        shutil.copyfileobj(self.heap, stream)
        stream.write(bytes(-(rows.nbytes + self.size) % _BLOCK))


#: Rows of the table of tiles: (length, offset) of the compressed bytes, and of those of tiles that
#: can't be rounded; scale and zero of the integers.
_ROW = np.dtype(
    [("compressed", ">i4", 2), ("lossless", ">i4", 2), ("scale", ">f8"), ("zero", ">f8")]
)

#: The same of integers.
_SHARES = np.dtype([("compressed", ">i4", 2)])
