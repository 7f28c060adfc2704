"""Result files, written atomically."""

import contextlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._doubts import doubts
from scorepriors.inference.deblending._hdus import finite, model_images
from scorepriors.inference.deblending._light_curves import light_curves
from scorepriors.inference.deblending._notes import notes
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.deblending._scene_file import NAME as SCENE
from scorepriors.inference.deblending._scene_file import save_scene
from scorepriors.inference.deblending._unexplained import unexplained
from scorepriors.models.data._correlations import correlation_facts

from ._figure import report_figure
from ._parquet import PARQUET, can_write_parquet, write_parquet
from ._regions import ds9_regions
from ._scene_page import scene_page

#: Names of the result files.
NAMES = (
    "catalog.ecsv", "sources.fits", "report.png", "summary.json", SCENE, "report.html", "sources.reg",
    PARQUET,
)  # fmt: skip

#: Name of the file of light curves, where a source varies.
CURVES = "light_curves.ecsv"

#: Names of files in earlier versions; such a file is replaced as if it had the new name.
EARLIER = {"catalog.ecsv": "catalogue.ecsv"}


def check_target(
    directory: str | Path, *, force: bool = False, names: Sequence[str] = NAMES
) -> Path:
    """Check that results can be written to `directory`, before any work is done.

    Raises
    ------
    InputError
        If it is a file, is not writable, or contains results and `force` is False.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"the output {str(directory)!r} is a file; give a folder.")
    names = _with_earlier(names)
    folders = [name for name in names if (directory / name).is_dir()]
    if folders:
        raise InputError(f"{directory / folders[0]} is a folder; remove it, or another --output.")
    existing = [name for name in names if (directory / name).exists()]
    if existing and not force:
        raise InputError(
            f"{directory / existing[0]} exists; use --force to replace it, or another --output."
        )
    parent = directory
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {str(directory)!r}: {parent} is not a writable folder.")
    return directory


def _with_earlier(names: Sequence[str]) -> list[str]:
    """Return names of files, with those of earlier versions."""
    return [one for name in names for one in (name, EARLIER.get(name)) if one is not None]


def existing_file(directory: Path, name: str) -> Path:
    """Return the path of a result file, with its earlier name if only that exists."""
    return next(
        (directory / one for one in _with_earlier([name]) if (directory / one).exists()),
        directory / name,
    )


def write_outputs(
    result: Deblended,
    directory: str | Path,
    *,
    force: bool = False,
    seed: int = 0,
    total_seconds: float | None = None,
    prior: str | Path | Sequence[str] = (),
    command: str | None = None,
    files: Sequence[str | Path] = (),
    extra: dict | None = None,
) -> list[Path]:
    """Write catalog, source images, reports and summary; all of them or none.

    Parameters
    ----------
    result
        Result of `deblend`.
    directory
        Folder to write to; made if missing.
    force
        Whether to replace existing results.
    seed
        Seed recorded in catalog and summary.
    total_seconds
        Total wall time for the summary; the sum of the stages if not given.
    prior
        Names or weight files for loading the priors again; their own names if not given.
    command
        The command of the run, for summary and report.
    files
        Files that were read, for the same; the names of the observations if not given.
    extra
        Further entries of the summary.

    Returns
    -------
    list of pathlib.Path
        Files ``catalog.ecsv``, ``sources.fits``, ``report.png``, ``summary.json``,
        ``scene.npz``, ``report.html`` (a page that needs nothing else), ``sources.reg`` (regions
        of DS9), ``catalog.parquet`` if pyarrow is installed, and ``light_curves.ecsv`` if a source
        varies.

    Raises
    ------
    InputError
        See `check_target`.
    """
    facts: dict[str, Any] = summary(
        result, seed=seed, total_seconds=total_seconds, command=command, files=files
    )
    facts |= {"date": datetime.now(UTC).isoformat(timespec="seconds")} | (extra or {})
    text = json.dumps(facts, indent=2, allow_nan=False)
    table = catalog(result, seed=seed)
    writers = (
        lambda path: table.write(path, format="ascii.ecsv"),
        lambda path: model_images(result).writeto(path),
        lambda path: report_figure(result, flags=table["flags"]).savefig(path, dpi=110),
        lambda path: path.write_text(text + "\n"),
        lambda path: save_scene(result, path, prior=prior),
        lambda path: path.write_text(scene_page(result, table, facts), encoding="utf-8"),
        lambda path: path.write_text(ds9_regions(result, table), encoding="utf-8"),
        lambda path: write_parquet(table, path),
    )
    named = dict(zip(NAMES, writers, strict=True))
    if result.variable:
        named[CURVES] = lambda path: light_curves(result).write(path, format="ascii.ecsv")
    return write_with_parquet(directory, named, force=force)


def write_with_parquet(
    directory: str | Path, writers: dict[str, Callable[[Path], object]], *, force: bool = False
) -> list[Path]:
    """Write several files as `write_whole` does, Parquet among them only if pyarrow is installed.

    One of an earlier run is removed then: it would not be that of the other files.
    """
    if can_write_parquet():
        return write_whole(directory, writers, force=force)
    check_target(directory, force=force, names=tuple(writers))
    others = {name: write for name, write in writers.items() if name != PARQUET}
    paths = write_whole(directory, others, force=force)
    (Path(directory) / PARQUET).unlink(missing_ok=True)
    return paths


def write_whole(
    directory: str | Path, writers: dict[str, Callable[[Path], object]], *, force: bool = False
) -> list[Path]:
    """Write several files, all of them or none.

    Parameters
    ----------
    directory
        Folder to write to; made if missing.
    writers
        Functions by name of the file, each of which writes to a given path.
    force
        Whether to replace existing files.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    InputError
        If a name leads to another folder, and see `check_target`.
    """
    # Names may come from files of others.
    for name in writers:
        if name == ".." or Path(name).name != name:
            raise InputError(f"{name!r} is no name of a file in {str(directory)!r}.")
    directory = check_target(directory, force=force, names=tuple(writers))
    fresh = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Written inside the target, so that the final moves are renames on one disk.
        staging = Path(tempfile.mkdtemp(prefix=".partial-", dir=directory))
    except OSError as error:
        raise InputError(f"cannot write to {str(directory)!r}: {error.strerror}.") from error
    done = False
    try:
        for name, write in writers.items():
            write(staging / name)
        _move_all(staging, directory, tuple(writers))
        done = True
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if fresh and not done:
            shutil.rmtree(directory, ignore_errors=True)
    return [directory / name for name in writers]


def _move_all(staging: Path, directory: Path, names: Sequence[str]) -> None:
    """Move the result files into place; restore the old ones if a move fails."""
    old = staging / "old"
    old.mkdir()
    moved = []
    try:
        for name in names:
            before = existing_file(directory, name)
            if before.exists():
                os.replace(before, old / before.name)
            moved.append((name, before))
            os.replace(staging / name, directory / name)
    except BaseException:
        for name, before in moved:
            (directory / name).unlink(missing_ok=True)
            if (old / before.name).exists():
                os.replace(old / before.name, before)
        raise


def recorded(directory: str | Path, result: Deblended) -> dict[str, Any]:
    """Return the summary in a folder of results, completed by what the result says itself.

    That of an earlier version may lack entries, or there is none.
    """
    facts: Any = {}
    with contextlib.suppress(OSError, ValueError):  # none, or no JSON
        facts = json.loads((Path(directory) / "summary.json").read_text(encoding="utf-8"))
    return {**summary(result), **(facts if isinstance(facts, Mapping) else {})}


def summary(
    result: Deblended,
    *,
    seed: int = 0,
    total_seconds: float | None = None,
    command: str | None = None,
    files: Sequence[str | Path] = (),
) -> dict:
    """Return a summary of the run, ready for JSON.

    Parameters
    ----------
    result
        Result of `deblend`.
    seed, total_seconds, command, files
        Arguments of `write_outputs`.
    """
    fit, first = result.free_form.fit, result.parametric.fit
    seconds = {name: round(value, 2) for name, value in result.seconds.items()}
    total = sum(result.seconds.values()) if total_seconds is None else total_seconds
    seconds["total"] = round(total, 2)
    names = [view.observation.name for view in result.observation.views]
    return {
        "command": command,
        "input": [str(one) for one in files] or [name for name in names if name],
        "converged": result.converged,
        "doubts": doubts(result),
        "notes": notes(result),
        "iterations": int(fit.num_iterations),
        "expected_gain": finite(fit.expected_gain),
        "chi2": finite(result.free_form.chi2),
        "num_sources": len(result.positions.ids),
        "bands": list(result.observation.bands),
        "noise_from_model": list(result.noise_from_model),
        "sky": None if result.sky is None else result.sky.facts(result.observation.bands),
        "down_weighted": result.num_down_weighted,
        "unexplained": [group.facts() for group in unexplained(result)],
        "model_error": result.error_of_model,
        "noise_correlation": correlation_facts(result.observation),
        "prior": result.prior_name,
        "sigma0": result.sigma0,
        "seed": seed,
        "parametric": {
            "converged": bool(first.converged),
            "iterations": int(first.num_iterations),
            "chi2": finite(result.parametric.chi2),
        },
        "kernel_error": finite(max(np.max(one.kernels.error) for one in result.scene.exposures)),
        "seconds": seconds,
        "versions": {
            "scorepriors": __version__,
            "jax": jax.__version__,
            "numpyro": numpyro.__version__,
            "python": platform.python_version(),
        },
    }
