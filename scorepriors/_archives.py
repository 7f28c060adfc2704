"""Files of named arrays and facts: npz without pickle, written atomically.

An archive is an npz file whose member ``facts`` is the text of a JSON object.  Beside the
facts themselves the object holds the ``kind`` of the file, the ``version`` of its layout,
and the ``identity`` of the run that made it: a text, such as a digest of data and settings,
that must be the same for a run that continues from the file.

`read_archive` makes the messages for files that are missing, damaged, of another kind, of
another version or of another run.  `read_arrays` does the same for npz files of users,
which have no such description.
"""

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._errors import InputError
from ._files import atomic_path

#: What NumPy, zipfile and zlib raise for files that are cut short or are something else.
_UNREADABLE = (
    OSError,
    TypeError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    zlib.error,
    zipfile.BadZipFile,
)

#: Names in the JSON object that describe the file.
_HEADER = ("kind", "version", "identity")


class _Damaged(Exception):
    """Reason why a file is no npz archive of plain arrays."""


class _Pickled(_Damaged):
    """A file with pickled objects, which could run any code when read."""


def write_archive(
    path: str | Path,
    arrays: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    kind: str,
    version: int,
    identity: str = "",
    compressed: bool = False,
) -> Path:
    """Write arrays and facts into one file, atomically.

    Parameters
    ----------
    path
        File to write, with any ending; replaced if it exists.
    arrays
        Arrays by name; the name ``facts`` is reserved.
    facts
        Values that JSON can hold, by name; NaN and infinities included.
    kind
        Kind of file, in words for a message: "checkpoint of a training run".
    version
        Version of the layout of this kind of file.
    identity
        Text that must be equal at writing and reading; see `fingerprint` of samplers.
    compressed
        Whether to compress: smaller, but several times slower to write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OSError
        If it can't be written, for lack of space or of permission.
    TypeError
        For arrays of Python objects, which only pickle could store.
    ValueError
        For reserved names.
    """
    taken = [name for name in _HEADER if name in facts] + ["facts"] * ("facts" in arrays)
    if taken:
        raise ValueError(f"{', '.join(taken)}: names that an archive uses itself.")
    header = {"kind": kind, "version": version, "identity": identity}
    text = np.asarray(json.dumps({**header, **facts}))
    return write_arrays(path, {**arrays, "facts": text}, compressed=compressed)


def write_arrays(path: str | Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> Path:
    """Write an npz file of plain arrays, atomically.

    Raises
    ------
    OSError
        If it can't be written.
    TypeError
        For arrays of Python objects, which only pickle could store.
    """
    plain = {name: np.asarray(array) for name, array in arrays.items()}
    pickled = [name for name, array in plain.items() if array.dtype.hasobject]
    if pickled:
        raise TypeError(f"arrays of Python objects are not stored: {', '.join(pickled)}.")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        (np.savez_compressed if compressed else np.savez)(stream, **plain)  # type: ignore[arg-type]
    return Path(path)


def read_archive(
    path: str | Path,
    *,
    kind: str,
    version: int | Sequence[int],
    mend: str,
    identity: str | None = None,
    other: str = "another run",
    only: Callable[[str], bool] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `write_archive` wrote.

    Parameters
    ----------
    path
        The file.
    kind
        Kind of file, as given to `write_archive`.
    version
        Version of the layout, or all that are accepted; the facts do not tell which it was.
    mend
        Advice for a file that can't be used, as the end of a sentence: "delete it".
    identity
        Identity as given to `write_archive`; not compared if not given.
    other
        Owner of a file of another identity, and advice for that case, in place of `mend`:
        "another recipe; use a new output directory".
    only
        Whether the array of a name is wanted; all if not given.

    Returns
    -------
    arrays
        Arrays by name.
    facts
        Facts by name, without kind, version and identity.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind or version, or of another identity.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no {path}: {mend}.")
    try:
        arrays = _load(path, only)
        facts = json.loads(str(arrays.pop("facts")))
        header = {name: facts.pop(name) for name in _HEADER}
    except (_Damaged, KeyError, ValueError, TypeError, AttributeError) as error:
        # The file is of an earlier version with another layout, or of another program.
        why = "it does not say what it is" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path} cannot be read ({why}): it is damaged or no {kind} of this version; {mend}."
        ) from error
    if header["kind"] != kind:
        raise InputError(f"{path} is a {header['kind']} and no {kind}; {mend}.")
    known = (version,) if isinstance(version, int) else tuple(version)
    if header["version"] not in known:
        later = isinstance(header["version"], int) and header["version"] > max(known)
        raise InputError(
            f"{path} is of another version of scorepriors, which wrote layout "
            f"{header['version']} where this one reads {', '.join(map(str, known))}; "
            f"{'update scorepriors, or ' if later else ''}{mend}."
        )
    if identity is not None and header["identity"] != identity:
        end = other if ";" in other else f"{other}; {mend}"
        raise InputError(f"{path} belongs to {end}.")
    return arrays, facts


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of a user's npz file; pickled ones are refused.

    Raises
    ------
    InputError
        If it is damaged, no npz file, or holds pickled objects.
    """
    path = Path(path)
    try:
        return _load(path)
    except _Pickled as error:
        raise InputError(
            f"{path.name} holds pickled objects, which are never loaded since they can run "
            "code; save plain arrays."
        ) from error
    except _Damaged as error:
        raise InputError(
            f"{path.name} is not a readable npz archive: {error}; save it with np.savez."
        ) from error


def _load(path: Path, only: Callable[[str], bool] | None = None) -> dict[str, np.ndarray]:
    try:
        # Opened here, since NumPy leaves the files of broken archives open.
        with path.open("rb") as stream:
            first = stream.read(1)
            # NumPy takes all other files for pickles; protocols from 2 on begin with 128.
            if first not in (b"P", b"\x80"):
                raise _Damaged("it is empty" if not first else "whatever its name")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as archive:
                names = [n for n in archive.files if only is None or n == "facts" or only(n)]
                return {name: archive[name] for name in names}
    except _UNREADABLE as error:
        said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        refused = "pickle" in said or "Object arrays" in said
        raise (_Pickled if refused else _Damaged)(said) from error
