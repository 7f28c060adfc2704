"""Parts of a run on disk: one archive per batch of scenes, named after what went into it.

A part is written as a whole or not at all, and its name is a digest of its scenes' input.  So a
killed run finds what it had done, and a scene that nothing has changed is not fitted again.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from scorepriors._archives import read_archive, write_archive
from scorepriors._errors import InputError

KIND, VERSION = "part of a field", 3

_MEND = "delete it, and resume the run"


@dataclass(frozen=True)
class Record:
    """What one task found about one scene or tile.

    Attributes
    ----------
    arrays
        Arrays by name.
    facts
        Facts that JSON can hold.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)


class Place(NamedTuple):
    """Where the record of a scene is: the part, and its number there."""

    part: Path
    number: int


def digest(*values: Any) -> str:
    """Return a digest of numbers, texts and arrays."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            found.update(f"{value.dtype}{value.shape}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
        else:
            found.update(json.dumps(value, default=str).encode())
        found.update(b"\0")
    return found.hexdigest()[:24]


def write_part(path: Path, records: Sequence[Record]) -> None:
    """Write the records of a batch, atomically."""
    arrays = {
        f"{number}/{name}": array
        for number, record in enumerate(records)
        for name, array in record.arrays.items()
    }
    facts = {"records": [record.facts for record in records]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_archive(path, arrays, facts, kind=KIND, version=VERSION)


def read_part(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> list[Record]:
    """Read the records of a batch, of their arrays those whose names are wanted."""

    def chosen(name: str) -> bool:
        return wanted(name.partition("/")[2])

    arrays, facts = read_archive(path, kind=KIND, version=VERSION, mend=_MEND, only=chosen)
    each: list[dict[str, np.ndarray]] = [{} for _ in facts["records"]]
    for name, array in arrays.items():
        number, _, own = name.partition("/")
        each[int(number)][own] = array
    return [Record(a, f) for a, f in zip(each, facts["records"], strict=True)]


def read_arrays_of(place: Place, *names: str) -> tuple[np.ndarray, ...]:
    """Read single arrays of one record; nothing else of the part is loaded.

    Raises
    ------
    InputError
        If the part is damaged.
    """
    try:
        about = place.part.stat()
        archive = _opened(place.part, (about.st_mtime_ns, about.st_size, about.st_ino))
        return tuple(archive[f"{place.number}/{name}"] for name in names)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{place.part} cannot be read: {_MEND}.") from error


@lru_cache(maxsize=16)
def _opened(part: Path, state: tuple[int, ...]):
    """Return an open part: scenes of one batch are read one after the other.

    A run that replaces another (``force``) writes parts of the same names, hence the `state` of the
    file: what was open is the part that was deleted.
    """
    return np.load(part, allow_pickle=False)
