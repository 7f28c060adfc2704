"""Result files of a field, all of them or none."""

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scorepriors._errors import InputError
from scorepriors._files import atomic_write
from scorepriors.inference.reports._outputs import check_target, write_whole
from scorepriors.inference.reports._parquet import can_write_parquet, write_parquet
from scorepriors.models.data._warnings import note

from ._report import field_page
from ._strips import MODEL_STEPS, RESIDUAL_STEPS, write_images
from ._tables import field_summary, write_fits_table

#: Names of the result files of a field.
FIELD_NAMES = (
    "catalog.parquet", "catalog.fits", "model.fits", "residual.fits", "kept.fits", "summary.json",
    "report.html",
)  # fmt: skip


def check_field_target(directory: str | Path, *, force: bool = False) -> Path:
    """Check that a field's results can be written to `directory`, before any work is done.

    Raises
    ------
    InputError
        If it is a file, is not writable, or contains results and `force` is False.
    """
    return check_target(directory, force=force, names=FIELD_NAMES)


def write_field_outputs(
    result: Any,
    directory: str | Path,
    *,
    force: bool = False,
    evaluation: Mapping[str, Any] | None = None,
    command: str | None = None,
    files: Sequence[str | Path] = (),
    extra: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write catalog, images, summary and report of a field; all of them or none.

    Parameters
    ----------
    result
        Result of `deblend_field`.
    directory
        Folder to write to; made if missing.
    force
        Whether to replace existing results.
    evaluation
        What `evaluate_field` found, for the report.
    command
        The command of the run, for summary and report.
    files
        Files that were read, for the same; those of the field, or its name, if not given.
    extra
        Further entries of the summary.

    Returns
    -------
    list of pathlib.Path
        Files ``catalog.parquet``, ``catalog.fits``, ``model.fits``, ``residual.fits``,
        ``kept.fits``, ``summary.json`` and ``report.html``.

    Raises
    ------
    InputError
        See `check_field_target`; or if writing fails, as on a full disk.  Files of before are kept.

    Warns
    -----
    FileWarning
        If there is no ``catalog.parquet`` since pyarrow is not installed.

    Notes
    -----
    Images have one extension for each band, compressed by tiles: pixels of the model are rounded
    to 1/64 of the noise, those of the residual to 1/16, with a dither, and shares of weights to 1/128 without.
    They are written by strips of rows, so that memory does not grow with the height of the field.
    """
    directory = check_field_target(directory, force=force)
    read = [str(one) for one in files] or _input(result.field)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    run: dict[str, Any] = {"command": command} if command else {}
    run |= {"input": read, "date": date, **(extra or {})}
    summary = json.dumps(field_summary(result, extra=run), indent=2, allow_nan=False)
    titles = {
        "model.fits": "Light of all sources as observed. It is given under masked pixels too.",
        "residual.fits": "Data minus model. NaN where a pixel is masked in its band.",
        "kept.fits": "Share of the weight that a pixel kept: less than one where no source explains it.",
    }
    writers = {
        "catalog.parquet": lambda path: write_parquet(result.catalog, path),
        "catalog.fits": lambda path: write_fits_table(result.catalog, path),
        "model.fits": lambda path: write_images(
            path, result, lambda s: s.model, steps=MODEL_STEPS, title=titles[path.name]
        ),
        "residual.fits": lambda path: write_images(
            path, result, lambda s: s.residual, steps=RESIDUAL_STEPS, title=titles[path.name]
        ),
        "kept.fits": lambda path: write_images(
            path,
            result,
            lambda s: result.kept(s.row, 0, *s.seen.shape),
            steps=None,
            title=titles[path.name],
        ),
        "summary.json": lambda path: path.write_text(summary + "\n", encoding="utf-8"),
        "report.html": lambda path: path.write_text(
            field_page(
                result,
                evaluation=evaluation,
                command=command,
                folder=str(directory),
                files=read,
                date=date,
            ),
            encoding="utf-8",
        ),
    }
    if not can_write_parquet():
        del writers["catalog.parquet"]
        note(
            "catalog.parquet is not written, since pyarrow is not installed (pip install "
            "'scorepriors[parquet]'); catalog.fits holds the same."
        )
    for left in directory.glob(".partial-*"):  # of a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    try:
        paths = write_whole(directory, writers, force=force)
    except OSError as error:
        raise InputError(
            f"cannot write to {str(directory)!r}: {error.strerror or error}. What was there is as "
            "before, and the run is kept: --resume (resume=True) writes its results."
        ) from error
    if "catalog.parquet" not in writers:
        # One of an earlier run would not be that of the other files.
        (directory / "catalog.parquet").unlink(missing_ok=True)
    return paths


def _input(field: Any) -> list[str]:
    """Return the files that a field was opened from, or else its name, if it has one."""
    path = (getattr(field, "opened", None) or {}).get("path")
    if path is None:
        return [field.name] if field.name else []
    return [path] if isinstance(path, str) else list(path)


def write_field_report(
    result: Any, directory: str | Path, *, evaluation: Mapping[str, Any] | None = None
) -> Path:
    """Write the report of a field once more, with what a comparison with the truth found.

    Parameters
    ----------
    result
        Result of `deblend_field`.
    directory
        Folder of its results.
    evaluation
        What `evaluate_field` found.

    Returns
    -------
    pathlib.Path
        The file ``report.html``, which is replaced.
    """
    directory = Path(directory)
    path = directory / "report.html"
    known: Any = {}
    with contextlib.suppress(OSError, ValueError):  # none, or no JSON
        known = json.loads((directory / "summary.json").read_text())
    known = known if isinstance(known, Mapping) else {}
    page = field_page(
        result,
        evaluation=evaluation,
        command=known.get("command"),
        folder=str(directory),
        files=known.get("input") or _input(result.field),
        date=known.get("date"),
    )
    atomic_write(path, page)
    return path
