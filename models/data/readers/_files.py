"""Reading of FITS files and npz archives into memory; damaged ones raise InputError."""

import bz2
import gzip
import io
import os
import re
import warnings
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.io.fits import VerifyError
from astropy.table import Table

from scorepriors._archives import read_arrays
from scorepriors._errors import InputError

from ._blocks import Blocks

FITS_ENDINGS = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.bz2", ".fz")
NPZ_ENDINGS = (".npz",)

READ_ERRORS = (OSError, TypeError, ValueError, EOFError, KeyError, IndexError, zlib.error)

Source = str | os.PathLike

#: Types of pixels on disk by the card BITPIX.
_STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}

#: Rows and columns of a part of an image.
Box = tuple[slice, slice]


class HDU(NamedTuple):
    """One HDU of a FITS file in memory."""

    name: str
    header: fits.Header
    data: Any  # an array, a Table, or None


def find_address(path: Source) -> str | None:
    """Return the address on the network that a path is, as ``https://...``; None if it is none."""
    found = re.match(r"^([a-z][a-z0-9+.-]+):/+(.+)$", str(path), re.IGNORECASE)
    return None if found is None or Path(path).exists() else f"{found[1]}://{found[2]}"


def check_file(path: Source, endings: Sequence[str], what: str) -> Path:
    """Return `path` if it is a file with one of the `endings` and not empty."""
    address = find_address(path)
    if address:
        raise InputError(
            f"{address} is an address, and files are read from disk: copy it there first (as "
            f"fsspec.open_local('simplecache::{address}', simplecache={{'same_names': True}}) does), or "
            "mount its store."
        )
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


def split_hdu(source: Source) -> tuple[Path, str | None]:
    """Split ``file.fits[HDU]`` into the path and the HDU."""
    match = re.match(r"^(.*)\[([^\[\]]+)\]$", str(source))
    if match and not Path(source).exists():
        return Path(match.group(1)), match.group(2)
    return Path(source), None


def reason(error: Exception) -> str:
    """Return the telling line of an error's message, to quote in another message."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    # Those of wcslib begin with the line of its code.
    return lines[-1 if lines[0].startswith("ERROR") else 0].strip().rstrip(".")


class Extension:
    """One HDU of an open FITS file, whose pixels are read when they are asked for.

    Attributes
    ----------
    name, version
        EXTNAME in capitals, and EXTVER.
    number
        Its place in the file, from 0.
    header, unreadable
        Header, without the cards that no program can read, and the names of those.
    shape
        Shape of the image; None for tables and HDUs without data.
    is_table
        Whether it holds a table.
    file_hdus
        All HDUs of the file, as astropy has them.
    """

    def __init__(self, hdu, number: int, file: str, file_hdus=None, often: bool = False):
        self.name, self.number, self._hdu, self._file = hdu.name.upper(), number, hdu, file
        self.file_hdus, self._often = file_hdus, often
        self.version = hdu.ver
        self.is_table = isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
        shape = () if self.is_table else tuple(getattr(hdu, "shape", ()) or ())
        self.shape = shape or None
        # Before pixels are read: astropy makes cards of scaled integers those of floats then.
        header = hdu.header
        self._stored: int = 0 if self.is_table else header.get("BITPIX", 0)
        self._scaled = any(card in header for card in ("BSCALE", "BZERO", "BLANK"))

    @cached_property
    def header(self) -> fits.Header:
        return self._cards[0]

    @cached_property
    def unreadable(self) -> tuple[str, ...]:
        return self._cards[1]

    @cached_property
    def _cards(self) -> tuple[fits.Header, tuple[str, ...]]:
        bad = []
        for index, card in enumerate(self._hdu.header.cards):
            try:
                value = card.value
            except (ValueError, VerifyError):
                bad.append(index)
                continue
            # Beyond the range of numbers; or no name, which astropy would take for a pattern.
            infinite = isinstance(value, float) and not np.isfinite(value)
            if infinite or re.search(r"[^ -~]|[*?\[\]()\\]", card.keyword):
                bad.append(index)
        if not bad:
            return self._hdu.header, ()
        header = self._hdu.header.copy()
        names = tuple(ascii(header.cards[index].keyword).strip("'") for index in bad)
        for index in reversed(bad):
            del header[index]
        return header, names

    @property
    def label(self) -> str:
        """Name for a message: the name with the version if it isn't 1, else the number."""
        if not self.name:
            return f"HDU {self.number}"
        return self.name if self.version == 1 else f"{self.name},{self.version}"

    def pixels(self, box: Box | None = None) -> np.ndarray:
        """Read the image, or its part in a box of rows and columns, as a new array."""
        with self._reading():
            if box is None:
                return np.array(self._hdu.data)
            if self._blocks is not None:
                return self._blocks.part(box)
            where = (..., *box) if len(self.shape or ()) > 2 else box
            stored = self._hdu.section if self._mapped is None else self._mapped
            # The type is that of the part: integers that are scaled, or may be blank, come as floats,
            # of which sections do not know.
            part = np.asarray(stored[where])
            return part.astype(part.dtype.newbyteorder("="))

    def pixels_of(self, boxes: Sequence[Box]) -> np.ndarray:
        """Read the parts in boxes of the same height, one beside the other, as a new array."""
        parts, rows, strip, start = [], None, np.zeros(0), 0
        for box in boxes:
            if box[0] != rows:
                # Compressed tiles are often whole rows: they are unpacked once for all boxes.
                rows, same = box[0], [columns for other, columns in boxes if other == box[0]]
                start = min(columns.start for columns in same)
                strip = self.pixels((rows, slice(start, max(columns.stop for columns in same))))
            parts.append(strip[..., box[1].start - start : box[1].stop - start])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    @cached_property
    def _mapped(self) -> np.ndarray | None:
        """Pixels on disk, where they are stored as they are and many parts are read."""
        about = self._hdu.fileinfo()
        on_disk = about is not None and isinstance(about["file"].name, str)
        compressed = isinstance(self._hdu, fits.CompImageHDU)
        if not self._often or self._scaled or compressed or not on_disk or self.shape is None:
            return None
        return np.memmap(
            about["file"].name,
            dtype=_STORED[self._stored],
            mode="r",
            offset=about["datLoc"],
            shape=self.shape,
        )

    @cached_property
    def _blocks(self) -> Blocks | None:
        """Blocks of a compressed image of which many parts are read."""
        if not self._often or not isinstance(self._hdu, fits.CompImageHDU) or self.shape is None:
            return None
        height, width = self._hdu.tile_shape[-2:]
        return Blocks(self._hdu.section, self.shape, (height, width))

    @contextmanager
    def _reading(self):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # cards of no meaning, which astropy corrects
                yield
        except READ_ERRORS as error:
            raise InputError(
                f"{self._file}: the pixels of {self.label} cannot be read: {reason(error)}."
            ) from error

    def table(self) -> Table:
        """Read the table."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return Table.read(self._hdu)
        except READ_ERRORS as error:
            raise InputError(
                f"{self._file}: the table {self.label} cannot be read: {reason(error)}."
            ) from error


@contextmanager
def open_fits(path: Source, endings: Sequence[str] = FITS_ENDINGS, *, often: bool = False):
    """Open a FITS file, and yield its HDUs as a list of `Extension`; only headers are read.

    With `often` parts of images are read fast where there are many of them: plain ones through a
    map of the file, compressed ones by blocks that are kept for a while.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated or not FITS.
    """
    path = check_file(path, endings, "FITS file")
    failure, extensions, opened = None, [], None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            source: Any = path
            with path.open("rb") as stream:
                start = stream.read(3)
            packed = start.startswith((b"\x1f\x8b", b"BZh"))
            if packed:
                # astropy accepts a truncated archive.
                unpack = bz2.decompress if start == b"BZh" else gzip.decompress
                source = io.BytesIO(unpack(path.read_bytes()))
            opened = fits.open(source, memmap=False)
            extensions = [
                Extension(hdu, number, path.name, opened, often and not packed)
                for number, hdu in enumerate(opened)
            ]
        except (*READ_ERRORS, VerifyError) as error:
            failure = error
    try:
        # A truncated file gives a warning, after which reading it may or may not fail.
        messages = [str(warning.message) for warning in caught]
        if isinstance(failure, EOFError) or any(
            word in message for message in messages for word in ("truncated", "corrupted")
        ):
            raise InputError(f"{path.name} is truncated; copy or download it again.") from failure
        if failure is not None:
            raise InputError(
                f"{path.name} is not a readable FITS file: {reason(failure)}."
            ) from failure
        yield extensions
    finally:
        if opened is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                opened.close()


def load_hdus(path: Source, endings: Sequence[str] = FITS_ENDINGS) -> list[HDU]:
    """Read every HDU of a FITS file into memory, without warnings.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated or not FITS.
    """
    with open_fits(path, endings) as extensions:
        return [HDU(one.name, one.header.copy(), _data(one)) for one in extensions]


def _data(extension: Extension):
    if extension.is_table:
        return extension.table()
    return None if extension.shape is None else extension.pixels()


def find_hdu(hdus: Sequence[HDU], names: Sequence[str]) -> HDU | None:
    """Return the first HDU with data and one of the `names`, earlier names first."""
    for name in names:
        for hdu in hdus:
            if hdu.name == name and hdu.data is not None:
                return hdu
    return None


def load_npz(path: Source) -> dict[str, np.ndarray]:
    """Read all arrays of an npz archive; pickled ones are refused."""
    return read_arrays(check_file(path, NPZ_ENDINGS, "npz file"))


def array_names(archive: dict[str, np.ndarray]) -> str:
    """Return the names of the arrays of an archive, for a message."""
    return ", ".join(archive) or "nothing"
