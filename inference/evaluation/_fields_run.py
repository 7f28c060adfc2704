"""Evaluation of the folder of a simulated field: our catalog, and other programs beside it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors._progress import Progress, reporting
from scorepriors.inference.fields._folder import NAME as RUN
from scorepriors.inference.fields._result import load_scenes
from scorepriors.models.data.positions._files import read_table
from scorepriors.models.data.psfs._read import read_psf
from scorepriors.models.simulation._fields_files import FIELD, SUMMARY, TRUTH

from ._fields import evaluate_field
from ._peers import PEERS, FieldImages

#: Name of our own results among those of other programs.
OURS = "scorepriors"

#: Files in which a catalog is looked for, in this order.
CATALOGS = ("catalog.fits", "catalog.parquet", "catalog.ecsv")

#: Folder of results inside that of a field.
RESULTS = "deblended"


def evaluate_directory(
    directory: str | Path,
    *,
    results: str | Path | None = None,
    peers: bool = True,
    progress: Progress = False,
) -> dict[str, Any]:
    """Compare the catalog of a deblended field, and those of other programs, with its truth.

    Parameters
    ----------
    directory
        Folder of `scorepriors.models.write_field`.
    results
        Folder of the catalog (FITS, Parquet or ECSV); ``deblended`` in `directory` if not given.
    peers
        Whether sep and photutils are run on the same image.
    progress
        True for a bar; or a function, called as ``progress(done, total, text)``.

    Returns
    -------
    dict
        Ready for JSON: ``codes``, by name what `evaluate_field` returns, ours first; ``left_out``,
        sentences on programs that could not be run; ``seconds`` of each; ``field``, its
        summary; ``catalog``, ``psf_fwhm``, ``versions``.

    Raises
    ------
    InputError
        If a file is missing or not as `write_field` makes it, and for a catalog of another field.
    """
    directory = Path(directory)
    truth = _truth(directory)
    folder = directory / RESULTS if results is None else Path(results)
    path = _catalog_path(directory, folder)
    codes: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    seconds: dict[str, float] = {}
    with (
        reporting(progress, "evaluating", 1 + len(PEERS) * peers) as report,
        open_field(directory) as field,
    ):
        mask = field.any_mask()
        codes[OURS] = evaluate_field(
            truth,
            Table(read_table(path)),
            psf_fwhm=field.psf_fwhm,
            mask=mask,
            scenes=load_scenes(folder / RUN),
        )
        for done, (name, run) in enumerate(PEERS.items() if peers else (), 1):
            report(done, 1 + len(PEERS), name)
            clock = time.monotonic()
            try:
                found = run(field)
            except InputError as error:
                left_out[name] = str(error)
                continue
            seconds[name] = time.monotonic() - clock
            codes[name] = evaluate_field(truth, found, psf_fwhm=field.psf_fwhm, mask=mask)
        fwhm = field.psf_fwhm
    return {
        "field": _read_json(directory / SUMMARY),
        "catalog": path.name,
        "psf_fwhm": fwhm,
        "codes": codes,
        "left_out": left_out,
        "seconds": seconds,
        "versions": {"scorepriors": __version__},
    }


def truth_beside(path: str | Path, catalog: Table, shape: tuple[int, int]) -> dict[str, Any] | None:
    """Compare a catalog with the truth of a simulated field, for its report.

    Parameters
    ----------
    path
        File of the field.
    catalog
        Its catalog.
    shape
        Height and width of what was deblended, which may be a part of the file's image.

    Returns
    -------
    dict or None
        What `evaluate_field` returns; None if there is no truth beside the file, only a part of it
        was deblended, or the catalog can't be compared with it: results are written all the same.
    """
    path = Path(path)
    if path.name != FIELD or not (path.parent / TRUTH).is_file():
        return None
    with suppress(InputError), open_field(path.parent) as field:
        if field.images.shape[1:] == tuple(shape):
            return evaluate_field(
                _truth(path.parent), Table(catalog), psf_fwhm=field.psf_fwhm, mask=field.any_mask()
            )
    return None


@contextmanager
def open_field(directory: str | Path) -> Iterator[FieldImages]:
    """Open the image of a field, which stays on disk.

    Raises
    ------
    InputError
        If it is missing, or no such file.
    """
    path = Path(directory) / FIELD
    if not path.is_file():
        raise InputError(f"{directory} has no {FIELD}; {_MADE_BY}")
    try:
        hdus = fits.open(path, memmap=True)
    except OSError as error:
        raise InputError(f"{path} is no readable FITS file.") from error
    with hdus:
        missing = [name for name in ("IMAGE", "VARIANCE", "MASK") if name not in hdus]
        if missing:
            raise InputError(f"{path} has no HDU {', '.join(missing)}; {_MADE_BY}")
        header, images = hdus["IMAGE"].header, hdus["IMAGE"].data
        bands = [band.strip() for band in str(header.get("BANDS", "")).split(",")]
        if images.ndim != 3 or len(bands) != len(images):
            raise InputError(f"{path} does not name a band (BANDS) for each image; {_MADE_BY}")
        mask = np.array(hdus["MASK"].data) != 0
        fwhm = _fwhm(path, bands, header, images.shape[1:])
        yield FieldImages(images, hdus["VARIANCE"].data, mask, bands, fwhm)


_MADE_BY = "`scorepriors simulate --field --size PIXELS --output DIR` makes such a folder."


def _fwhm(path: Path, bands: list[str], header: fits.Header, shape: tuple[int, ...]) -> float:
    """Return the FWHM of the sharpest PSF in the middle of a field, pixels."""
    scale = float(proj_plane_pixel_scales(WCS(header, naxis=2)).mean()) * 3600
    middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    psfs = read_psf(path, bands=bands, place=middle, pixel_scale=scale)
    return float(2 * np.sqrt(min((psf > psf.max() / 2).sum() for psf in psfs) / np.pi))


def _truth(directory: Path) -> Table:
    if not directory.is_dir():
        raise InputError(f"there is no folder {str(directory)!r}; {_MADE_BY}")
    path = directory / TRUTH
    if not path.is_file():
        raise InputError(f"{directory} has no {TRUTH}; {_MADE_BY}")
    return Table(read_table(path))


def _catalog_path(directory: Path, folder: Path) -> Path:
    for name in CATALOGS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"{folder} has no {CATALOGS[1]} or {CATALOGS[0]}; make it with `scorepriors deblend "
        f"{directory / FIELD} --output {folder}`."
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Return an object of a JSON file; an empty one if there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
