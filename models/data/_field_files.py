"""Windows of the files of a field: opened once in each process, and read by its rules."""

import atexit
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS

from scorepriors._errors import InputError

from ._checks import check_bands, default_bands, single_precision
from ._observation import Observation, naming
from ._warnings import note, said_before
from .psfs._checks import check_psfs, fine_of, own_fine
from .psfs._read import choose, evaluate, place_at, place_of
from .psfs._sources import Source
from .readers._files import Box, find_address
from .readers._fits_files import FitsFiles, Rules
from .readers._options import FileOptions

#: Windows along one axis, and their side in pixels, that tell what all pixels would.
_COUNT, _SIDE = 6, 128

#: Fields whose files stay open in one process.
_MOST = 8

#: Size in bytes from which it matters that a file is unpacked as a whole.
_LARGE = 50e6

_OPENED: "OrderedDict[tuple[int, str], _Opened]" = OrderedDict()
_LOCK = threading.Lock()


class _Opened:
    """Open files of one field, for one thread at a time."""

    def __init__(self, files: FitsFiles, psf: Any, bands: tuple[str, ...]):
        self.files, self._psf, self._bands = files, psf, bands
        self.lock = threading.Lock()

    @cached_property
    def chosen(self) -> list[Source]:
        """PSF of each band."""
        return choose(self.files.psfs() if self._psf is None else self._psf, self._bands)


@dataclass(frozen=True, eq=False)
class FileWindows:
    """Where windows of files come from; a small value that other processes can be sent.

    Attributes
    ----------
    paths, psf, options, oversampling
        What was asked for.
    bands
        Names of the bands.
    wcs, scale, corner
        Those of the field.
    rules
        How its noise and masks are understood.
    center, fine
        PSFs ``[B, P, P]`` at the center, and their `Observation.fine_psfs`, or None.
    varies
        Whether they differ from place to place.
    states
        Size and time of change of each file when it was opened first.
    token
        Name under which a process keeps the open files.
    """

    paths: tuple[Path, ...]
    psf: Any
    options: FileOptions
    oversampling: float | None
    bands: tuple[str, ...]
    wcs: WCS | None
    scale: float | None
    corner: tuple[int, int]
    rules: Rules
    center: np.ndarray
    fine: np.ndarray | None
    varies: bool
    states: tuple[tuple[int, int], ...]
    token: str

    def pixels(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels and weights ``[B, h, w]``, float32, of rows and columns in the field."""
        opened = self._opened()
        with opened.lock, said_before(), naming(self.paths):
            return single_precision(*opened.files.window(box), self.bands)

    def psfs(self, row: float, column: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the PSFs ``[B, P, P]`` at a place in pixels of the field, and fine ones or None."""
        if not self.varies:
            return self.center, self.fine
        opened = self._opened()
        place = place_at(row, column, self.wcs, self.scale, self.corner)
        with opened.lock, said_before(), naming(self.paths):
            there = evaluate(opened.chosen, place, self.oversampling)
            found = check_psfs(there.images, self.bands)
        return _of_side(found, self.center.shape[-1]), fine_of(there.all_fine, found)

    def _opened(self) -> _Opened:
        """Return the open files in this process."""
        key = os.getpid(), self.token
        with _LOCK:
            if key in _OPENED:
                _OPENED.move_to_end(key)
                return _OPENED[key]
            for path, state in zip(self.paths, self.states, strict=True):
                if _state(path) != state:
                    raise InputError(
                        f"{path.name} has changed since the field was opened; open it again."
                    )
            with said_before():
                files = FitsFiles(self.paths, self.options, often=True, rules=self.rules)
            return _keep(key, _Opened(files, self.psf, self.bands))


def open_files(
    path, psf, options: FileOptions, oversampling: float | None
) -> tuple[Observation, tuple[int, int], FileWindows]:
    """Open FITS files as a field.

    What only all pixels tell, as whether weights are exposure times, is told by a sample of them,
    if there are many.

    Returns
    -------
    sample
        Observation of these pixels, checked, with what is the same for all pixels.
    shape
        Height and width of the field.
    windows
        Where its windows come from.
    """
    paths = (path,) if isinstance(path, str | os.PathLike) else tuple(path)
    paths = tuple(_absolute(one) for one in paths)
    psf = _absolute(psf)
    options = replace(options, noise=_absolute(options.noise), mask=_absolute(options.mask))
    files = FitsFiles(paths, options, often=True)
    try:
        shape = files.shape
        boxes = None if shape is None else sample_boxes(shape)
        arguments = files.read(psf, boxes)
        corner, wcs, scale = (arguments[name] for name in ("corner", "wcs", "scale"))
        if shape is None:
            height, width = arguments["images"].shape[-2:]
            shape = height, width
        if boxes is not None:
            _part_boxes(arguments["weights"], boxes)
        count = len(arguments["images"])
        with naming(path):
            bands = check_bands(arguments["bands"] or default_bands(count), count)
            opened = _Opened(files, arguments["psfs"], bands)
            place = place_of(shape, wcs, scale, corner)
            there = evaluate(opened.chosen, place, oversampling)
        fine = arguments.pop("fine_psfs", None)
        fine = own_fine(there.all_fine, there.images) if fine is None else fine
        sample = Observation._build({**arguments, "psfs": there.images, "fine_psfs": fine}, path)
    except BaseException:
        files.close()
        raise
    for one in paths:
        _say_packed(one)
    windows = FileWindows(
        paths=paths,
        psf=psf,
        options=options,
        oversampling=oversampling,
        bands=bands,
        wcs=sample.wcs,
        scale=sample.scale,
        corner=corner,
        rules=files.rules,
        center=sample.psfs,
        fine=sample.fine_psfs,
        varies=there.varies,
        states=tuple(map(_state, paths)),
        token=uuid.uuid4().hex,
    )
    with _LOCK:
        _keep((os.getpid(), windows.token), opened)
    return sample, shape, windows


def sample_boxes(shape: tuple[int, int]) -> list[Box] | None:
    """Return boxes of the same size, spread over an image; None for one that is small."""
    if shape[0] * shape[1] <= (_COUNT * _SIDE) ** 2:
        return None
    num_rows = max(min(_COUNT, shape[0] // _SIDE), 1)
    num_columns = max(min(_COUNT**2 // num_rows, shape[1] // _SIDE), 1)
    rows, columns = (
        _spread(length, count) for length, count in zip(shape, (num_rows, num_columns), strict=True)
    )
    return [(row, column) for row in rows for column in columns]


def _spread(length: int, count: int) -> list[slice]:
    """Return spans in the middle of equal parts of an axis."""
    side = min(_SIDE, length)
    starts = [(2 * number + 1) * length // (2 * count) - side // 2 for number in range(count)]
    return [slice(start, start + side) for start in np.clip(starts, 0, length - side).tolist()]


def _part_boxes(weights: np.ndarray, boxes: Sequence[Box]) -> None:
    """Mask the first column of each box, so that pixels of two places are no neighbors."""
    width = boxes[0][1].stop - boxes[0][1].start
    weights[..., width::width] = 0


def _keep(key: tuple[int, str], opened: _Opened) -> _Opened:
    _OPENED[key] = opened
    while len(_OPENED) > _MOST:
        _, oldest = _OPENED.popitem(last=False)
        with oldest.lock:
            oldest.files.close()
    return opened


@atexit.register
def _close_all() -> None:
    """Close files while there is still all that closing them takes."""
    with _LOCK:
        while _OPENED:
            _OPENED.popitem()[1].files.close()


def _of_side(psfs: np.ndarray, side: int) -> np.ndarray:
    """Return PSFs of a given odd side: padded with zeros, or cut and normalized again."""
    more = (side - psfs.shape[-1]) // 2
    if more >= 0:
        return np.pad(psfs, ((0, 0), (more, more), (more, more)))
    psfs = psfs[:, -more:more, -more:more]
    return psfs / psfs.sum(axis=(1, 2), keepdims=True)


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"no FITS file at {str(path)!r}: the path does not exist.") from error
    return found.st_size, found.st_mtime_ns


def _absolute(source):
    """Return paths as absolute ones, for processes in other folders; all else as it is.

    A file that is not there keeps its name as given, for the message.
    """
    if isinstance(source, str | os.PathLike):
        kept = find_address(source) or not os.path.exists(source)
        return Path(source) if kept else Path(source).absolute()
    if isinstance(source, dict):
        return {name: _absolute(one) for name, one in source.items()}
    if isinstance(source, list | tuple) and any(
        isinstance(one, str | os.PathLike) for one in source
    ):
        return [_absolute(one) for one in source]
    return source


def _say_packed(path: Path) -> None:
    """Say that a large file is packed as a whole, which every process unpacks into memory."""
    with path.open("rb") as stream:
        packed = stream.read(3).startswith((b"\x1f\x8b", b"BZh"))
    if packed and path.stat().st_size > _LARGE:
        note(
            f"{path.name} is packed as a whole, so every process unpacks it into its memory; unpack "
            "it, or pack it by tiles (fpack)."
        )
