"""Folders that simulations are written to."""

import os
from collections.abc import Iterable
from pathlib import Path

from scorepriors._errors import InputError


def writable_folder(
    directory: str | Path, paths: Iterable[Path], what: str, *, overwrite: bool
) -> Path:
    """Return a folder in which files may be written.

    Parameters
    ----------
    directory
        The folder; it need not be there.
    paths
        The files.
    what
        What needs the folder, with its verb: ``"pairs need"``.
    overwrite
        Whether files that are there may be replaced.

    Raises
    ------
    InputError
        If it is a file, holds one of the files already, or cannot be written to.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"the output {str(directory)!r} is a file; {what} a folder.")
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise InputError(
            f"{there[0]} exists; use --force (overwrite=True) to replace it, or another folder."
        )
    if directory.is_dir() and not os.access(directory, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {str(directory)!r}: it is not a writable folder.")
    return directory
