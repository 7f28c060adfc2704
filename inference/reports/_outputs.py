"""Result files, written whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import numpyro
from astropy import units as u
from astropy.io import fits

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._scene_file import NAME as SCENE
from scorepriors.inference.deblending._scene_file import save_scene
from scorepriors.inference.deblending._scenes import Deblended

from ._figure import report_figure

#: Names of the result files.
NAMES = ("catalog.ecsv", "sources.fits", "report.png", "summary.json", SCENE)


def check_target(
    directory: str | Path, *, force: bool = False, names: Sequence[str] = NAMES
) -> Path:
    """Make sure that results can be written to `directory`, before any work is done.

    Raises
    ------
    InputError
        If it is a file, cannot be written to, or holds results and `force` is False.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise InputError(f"the output {str(directory)!r} is a file; give a folder.")
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


def write_outputs(
    result: Deblended,
    directory: str | Path,
    *,
    force: bool = False,
    seed: int = 0,
    total_seconds: float | None = None,
    prior: str | Path | Sequence[str] = (),
    extra: dict | None = None,
) -> list[Path]:
    """Write catalog, source images, report and summary; all of them or none.

    Parameters
    ----------
    result
        From `deblend`.
    directory
        Made if missing.
    force
        Replace results that are there.
    seed
        Recorded in catalog and summary.
    total_seconds
        Wall time of everything, for the summary; the sum of the stages if not given.
    prior
        Names or weight files to load the priors by again; their own names if not given.
    extra
        More entries of the summary.

    Returns
    -------
    list of pathlib.Path
        ``catalog.ecsv``, ``sources.fits``, ``report.png``, ``summary.json``, ``scene.npz``.

    Raises
    ------
    InputError
        See `check_target`.
    """
    facts = summary(result, seed=seed, total_seconds=total_seconds) | (extra or {})
    text = json.dumps(facts, indent=2, allow_nan=False)
    writers = (
        lambda path: catalog(result, seed=seed).write(path, format="ascii.ecsv"),
        lambda path: source_images(result).writeto(path),
        lambda path: report_figure(result).savefig(path, dpi=110),
        lambda path: path.write_text(text + "\n"),
        lambda path: save_scene(result, path, prior=prior),
    )
    return write_whole(directory, dict(zip(NAMES, writers, strict=True)), force=force)


def write_whole(
    directory: str | Path, writers: dict[str, Callable[[Path], object]], *, force: bool = False
) -> list[Path]:
    """Write several files, all of them or none.

    Parameters
    ----------
    directory
        Made if missing.
    writers
        By name, functions that write a file to the path they are given.
    force
        Replace files that are there.

    Returns
    -------
    list of pathlib.Path
        The files.
    """
    directory = check_target(directory, force=force, names=tuple(writers))
    fresh = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Built inside the target, so that the final moves are renames on one disk.
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
    """Move the result files into place; put the old ones back if one does not go."""
    old = staging / "old"
    old.mkdir()
    moved = []
    try:
        for name in names:
            if (directory / name).exists():
                os.replace(directory / name, old / name)
            moved.append(name)
            os.replace(staging / name, directory / name)
    except BaseException:
        for name in moved:
            (directory / name).unlink(missing_ok=True)
            if (old / name).exists():
                os.replace(old / name, directory / name)
        raise


def summary(result: Deblended, *, seed: int = 0, total_seconds: float | None = None) -> dict:
    """The run in numbers, ready for JSON."""
    fit, first = result.free_form.fit, result.parametric.fit
    data = fit.posterior.arguments[0][0]
    seconds = {name: round(value, 2) for name, value in result.seconds.items()}
    total = sum(result.seconds.values()) if total_seconds is None else total_seconds
    seconds["total"] = round(total, 2)
    return {
        "converged": result.converged,
        "iterations": int(fit.num_iterations),
        "expected_gain": _number(fit.expected_gain),
        "chi2": _number(result.free_form.chi2),
        "num_sources": len(result.positions.ids),
        "bands": list(result.observation.bands),
        "prior": result.prior_name,
        "sigma0": float(result.prior.sigma),
        "seed": seed,
        "parametric": {
            "converged": bool(first.converged),
            "iterations": int(first.num_iterations),
            "chi2": _number(result.parametric.chi2),
        },
        "kernel_error": _number(np.max(data.kernel_error)),
        "seconds": seconds,
        "versions": {
            "scorepriors": __version__,
            "jax": jax.__version__,
            "numpyro": numpyro.__version__,
        },
    }


def source_images(result: Deblended) -> fits.HDUList:
    """Two cubes per source, ``[B, H, W]``: the model's own and as observed; residual last.

    Of joined observations each has its own cubes of what was observed (SOURCE, SOURCE2, ...).
    """
    obs, scene = result.observation, result.free_form
    primary = fits.PrimaryHDU()
    primary.header["PRIOR"] = (fits_text(result.prior_name), "learned prior")
    primary.header["SIGMA0"] = (float(result.prior.sigma), "noise level of the prior")
    primary.header["CONVERGD"] = (result.converged, "whether the fit converged")
    primary.header["CHI2"] = (_number(scene.chi2), "per unmasked pixel")
    header = image_header(
        None if obs.wcs is None else obs.wcs.to_header(relax=True), obs.bands, obs.unit
    )
    hdus = [primary]
    for k, identity in enumerate(result.positions.ids):
        model = scene.morphology[k] * scene.flux[k][:, None, None]
        hdus.append(source_hdu(model, header, "MODEL", identity))
        hdus += observed_hdus(obs, scene.convolved[k], identity)
    hdus += residual_hdus(obs, scene.convolved)
    return fits.HDUList(hdus)


def image_header(wcs: fits.Header | None, bands, unit) -> fits.Header:
    """Header of images: the sky, the bands, and the unit (None or empty for none)."""
    header = fits.Header() if wcs is None else wcs.copy()
    header["BANDS"] = fits_text(",".join(map(str, bands)))
    if unit is not None and str(unit):
        header["BUNIT"] = u.Unit(unit).to_string()
    return header


def source_hdu(cube, header: fits.Header, label: str, identity) -> fits.ImageHDU:
    """Extension ``LABEL_id`` of one source."""
    named = header.copy()
    named["SOURCEID"] = fits_text(identity)
    name = f"{label}_{fits_text(identity)}"[:60]
    return fits.ImageHDU(np.asarray(cube, np.float32), named, name=name)


def observed_hdus(obs, cube, identity) -> list[fits.ImageHDU]:
    """Extensions ``SOURCE_id`` of a source as observed; one per joined observation."""
    return [
        source_hdu(part.cut(cube), header, f"SOURCE{number}", identity)
        for part, number, header in _parts(obs)
    ]


def residual_hdus(obs, convolved) -> list[fits.ImageHDU]:
    """Extensions RESIDUAL: the data minus all sources, zero where masked."""
    residual = np.where(obs.weights > 0, obs.images - convolved.sum(0), 0).astype(np.float32)
    return [
        fits.ImageHDU(part.cut(residual), header, name=f"RESIDUAL{number}")
        for part, number, header in _parts(obs)
    ]


def _parts(obs):
    """Joined observations, what is put behind the names of their extensions, and headers."""
    for number, part in enumerate(obs.parts, 1):
        wcs = obs.wcs if number == 1 else part.wcs
        header = image_header(
            None if wcs is None else wcs.to_header(relax=True), obs.bands[part.bands], obs.unit
        )
        yield part, "" if number == 1 else number, header


def fits_text(text: str) -> str:
    """Text that a FITS header can hold: printable ASCII, question marks for the rest."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in str(text))


def _number(value) -> float | None:
    """A float that JSON knows; None for NaN and infinities."""
    value = float(value)
    return value if np.isfinite(value) else None
