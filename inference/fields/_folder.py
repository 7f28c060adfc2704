"""The folder of a run: what it belongs to, and whether it may go on."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors._files import atomic_write
from scorepriors.inference.deblending._options import Settings
from scorepriors.models.data._field_checks import FieldWarning
from scorepriors.models.data._warnings import note

from ._parts import VERSION, digest

#: Name of the folder with the parts, within that of the results.
NAME = "run"

_FACTS = "run.json"

#: Side of the samples of pixels by which a field is recognized, and their number along an axis: 3 %
#: of an image of 2,000 pixels.  A change elsewhere is told by the times of the files.
_SAMPLE, _SAMPLES = 32, 12


def fingerprint(field: Any, positions: Any, settings: Settings, mend: tuple[bool, bool]) -> str:
    """Return a digest of what a run depends on: pixels (a sample of them), sources, options, priors."""
    parts: list[Any] = [
        __version__,
        VERSION,
        field.name,
        list(field.shape),
        list(field.bands),
        list(mend),
    ]
    wcs = None if field.wcs is None else field.wcs.to_header_string(relax=True)
    parts += [str(field.unit), field.zero_point, field.pixel_scale, wcs]
    for row in np.linspace(0, max(field.shape[0] - _SAMPLE, 0), _SAMPLES).astype(int):
        for column in np.linspace(0, max(field.shape[1] - _SAMPLE, 0), _SAMPLES).astype(int):
            obs = field.window(int(row), int(column), _SAMPLE, _SAMPLE)
            parts += [np.asarray(obs.images), np.asarray(obs.weights), np.asarray(obs.psfs)]
    if field.correlation is not None:
        parts.append(np.asarray(field.correlation))
    if positions is not None:
        parts += [list(positions.ids), positions.row_column, np.asarray(positions.is_point)]
    options = vars(settings.options)
    parts.append({n: getattr(v, "__qualname__", v) for n, v in options.items()})
    for prior in settings.priors:
        parts += [np.asarray(leaf) for leaf in jax.tree.leaves(prior) if np.ndim(leaf)]
        parts.append(float(prior.sigma))
    return digest(*parts)


def file_states(opened: Any) -> dict[str, list[int]]:
    """Return size and time of change of every file among the arguments of `Field.open`, by path."""
    if isinstance(opened, dict):
        opened = list(opened.values())
    if isinstance(opened, list | tuple):
        return {path: state for one in opened for path, state in file_states(one).items()}
    if not isinstance(opened, str | os.PathLike) or not os.path.isfile(opened):
        return {}
    about = os.stat(opened)
    return {os.path.abspath(opened): [about.st_size, about.st_mtime_ns]}


def say_changed_files(folder: Path, opened: Any) -> None:
    """Warn if files of a run have been written again since it began."""
    known, now = _read(folder).get("files", {}), file_states(opened)
    changed = [path for path, state in now.items() if known.get(path, state) != state]
    if changed:
        note(
            f"{', '.join(Path(path).name for path in changed)} was written again since the run in "
            f"{folder.parent} began: what is done is of the old pixels; --force (force=True) begins anew.",
            FieldWarning,
        )


def open_folder(directory: Path, mark: str, *, resume: bool, force: bool) -> Path:
    """Return the folder for the parts of a run, which nothing has been written to yet.

    Parameters
    ----------
    directory
        Folder of the results.
    mark
        What the run depends on (`fingerprint`).
    resume
        Whether to go on with what is there; where there is nothing the run begins.
    force
        Whether to replace what is there.

    Raises
    ------
    InputError
        If there is a run already and neither is asked for, or if it was another's.
    """
    folder = directory / NAME
    if resume and force:
        raise InputError(
            "resume goes on with a run and force begins anew: give one of them (--resume, --force)."
        )
    if folder.exists() and not (folder / _FACTS).exists():
        # Killed before it began, or a folder of the user's own.
        if not folder.is_dir() or any(not one.name.startswith(".") for one in folder.iterdir()):
            raise InputError(f"{folder} is no run of this program; give another --output.")
        shutil.rmtree(folder)
    if folder.exists() and not (resume or force):
        state = "a finished" if is_finished(folder) else "an unfinished"
        raise InputError(
            f"{directory} holds {state} run; --resume (resume=True) goes on with it, --force begins anew."
        )
    if folder.exists() and resume and _read(folder).get("mark") != mark:
        raise InputError(
            f"{directory} holds a run of another image, catalog, prior or other options, which can't "
            "be resumed; give what it had, or another --output, or --force to begin anew."
        )
    return folder


@contextmanager
def held(
    folder: Path, mark: str, opened: Any = None, *, resume: bool, temporary: bool = False
) -> Iterator[None]:
    """Hold the folder of a run, which one process at a time may work in.

    Parameters
    ----------
    folder, mark, resume
        Arguments and result of `open_folder`.
    opened
        Arguments of `Field.open`, whose files are remembered.
    temporary
        Whether the folder goes with the run.

    Raises
    ------
    InputError
        If another process works in it, or it can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            _take(lock, folder)
            if not resume:
                for old in folder.iterdir():
                    if old.name != ".lock":
                        shutil.rmtree(old) if old.is_dir() else old.unlink()
            if not (folder / _FACTS).exists():
                facts = {"mark": mark, "finished": False, "files": file_states(opened)}
                atomic_write(folder / _FACTS, json.dumps(facts))
            # What a killed process has left behind.
            for old in (*folder.rglob(".*"), *folder.glob("scorepriors-*.pickle")):
                if old.name != ".lock":
                    old.unlink()
            yield
    except OSError as error:
        # A lost scheduler is an error without a number.
        what = "the run ended" if error.errno is None else f"cannot write to {str(folder.parent)!r}"
        rest = (
            "give output=, a folder with room, where what is done is kept"
            if temporary
            else "what is done is kept, and --resume goes on with it"
        )
        raise InputError(
            f"{what}: {error.strerror or error or type(error).__name__}; {rest}."
        ) from error


def _take(lock, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"another process works in {str(folder.parent)!r}; wait for it, or give another --output."
        ) from error


def is_begun(folder: Path) -> bool:
    """Return whether there is a run in a folder, finished or not."""
    return (folder / _FACTS).exists()


def is_finished(folder: Path) -> bool:
    """Return whether the run in a folder is finished."""
    return bool(_read(folder).get("finished"))


def finish(folder: Path, facts: dict[str, Any]) -> None:
    """Record that a run is finished, with facts about its result."""
    atomic_write(folder / _FACTS, json.dumps(_read(folder) | facts | {"finished": True}))


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the facts of a finished run.

    Raises
    ------
    InputError
        If there is none, or it is not finished.
    """
    if not (folder / _FACTS).exists():
        raise InputError(
            f"{folder.parent} holds no results of a field: give a folder that `scorepriors deblend` "
            "wrote for one."
        )
    facts = _read(folder)
    if not facts.get("finished"):
        raise InputError(f"the run in {folder.parent} is not finished; --resume goes on with it.")
    return facts


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _FACTS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
