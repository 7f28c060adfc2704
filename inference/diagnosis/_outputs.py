"""Results of a diagnosis: columns of the catalog, maps in FITS, a figure."""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable

from scorepriors._errors import InputError
from scorepriors.inference.deblending._draws import seen_flux_draws
from scorepriors.inference.deblending._flags import DIAGNOSED, bands_of, bits_of, write_flags
from scorepriors.inference.deblending._hdus import fits_text, source_names
from scorepriors.inference.reports._outputs import (
    check_target,
    existing_file,
    recorded,
    write_with_parquet,
)
from scorepriors.inference.reports._page import report_page
from scorepriors.inference.reports._parquet import PARQUET, write_parquet
from scorepriors.inference.reports._regions import ds9_regions
from scorepriors.inference.reports._scene_page import scene_page

from ._diagnose import SceneDiagnosis, source_flags
from ._figures import diagnosis_figure, report_section
from ._hallucination import pixels

#: Names of the result files; the catalog of the folder gets new columns.
DIAGNOSIS_NAMES = ("hallucination.fits", "hallucination.png")

#: Columns in the catalog, and their descriptions.
COLUMNS = {
    "gamma": "confidence: minus the curvature excess of the prior, weighted by the shape (eq. 18)",
    "data_share": "share of its light that the data hold by themselves, 0 (prior) to 1 (data)",
    "flux_from_prior": "part of its total flux by which it leans on the prior: its error without noise",
    "degrees_of_freedom": "parameters of the image that the data determine",
    "typicality": "p-value of the shape under the prior among samples with the same light",
    "flux_err_free_total": "standard deviation of the total flux with all shapes free",
}


def add_columns(table: QTable, diagnosis: SceneDiagnosis) -> QTable:
    """Return the catalog of a scene with the columns of `COLUMNS`, and flags.

    Parameters
    ----------
    table
        Table of `catalog` or `flux_catalog`, in the order of the input positions.
    diagnosis
        Diagnosis of the same scene.

    Raises
    ------
    InputError
        If the table has other sources.
    """
    ids = list(diagnosis.result.positions.ids)
    if [str(i) for i in table["id"]] != ids:
        raise InputError("the catalog is of other sources than the scene; deblend again.")
    table = table.copy()
    maps = diagnosis.maps
    rows = [ids.index(str(i)) for i in maps["source"].values]
    for column, name in (
        ("gamma", "gamma"),
        ("data_share", "flux_share"),
        ("flux_from_prior", "flux_from_prior"),
        ("degrees_of_freedom", "degrees_of_freedom"),
    ):
        values = np.full(len(ids), np.nan)
        values[rows] = maps[name].values
        table[column] = values
    table["typicality"] = [diagnosis.typicality.get(i, np.nan) for i in ids]
    flux = seen_flux_draws(diagnosis.tree)
    spread = np.asarray(flux.sum("band").std(("chain", "draw")))
    table["flux_err_free_total"] = spread * u.Unit(flux.attrs["unit"])
    new = source_flags(diagnosis)
    old = table["flags"] if "flags" in table.colnames else ["ok"] * len(ids)
    # Flags of an earlier diagnosis are replaced.
    kept = ~sum(flag.value for flag in DIAGNOSED)
    bits = [bits_of(str(words)) & kept | bits_of(new[i]) for i, words in zip(ids, old, strict=True)]
    write_flags(table, np.array(bits), [bands_of(str(words)) for words in old])
    for name, meaning in COLUMNS.items():
        table[name].info.description = meaning
    table.meta["diagnosis_draws"] = maps.attrs["draws"]
    return table


def hallucination_images(diagnosis: SceneDiagnosis) -> fits.HDUList:
    """Return planes per source, ``[plane, n, n]``: curvatures, shares and widths per pixel."""
    maps = diagnosis.maps
    planes = (
        "mean_delta_f",
        "mean_delta_f_error",
        "delta_f",
        "delta_f_aware",
        "prior_curvature",
        "data_curvature",
        "data_share",
        "sd",
        "slope",
    )
    primary = fits.PrimaryHDU()
    primary.header["PRIOR"] = (fits_text(diagnosis.result.prior_name), "learned prior")
    primary.header["SIGMA0"] = (maps.attrs["sigma0"], "noise level of the prior")
    primary.header["DRAWS"] = (maps.attrs["draws"], "what the averages are over")
    hdus = [primary]
    ids = [str(one) for one in maps["source"].values]
    for k, (identity, named) in enumerate(zip(ids, source_names(ids), strict=True)):
        cube = np.stack([pixels(maps, name, k) for name in planes]).astype(np.float32)
        margin = (maps.sizes["box_y"] - cube.shape[-1]) // 2
        header = fits.Header()
        header["SOURCEID"] = fits_text(identity)
        # First pixel of the box in the image: the images of `sources.fits` start at 0, 0.
        header["CORNERX"] = (int(maps["corner"].values[k, 1]) + margin, "column of the first pixel")
        header["CORNERY"] = (int(maps["corner"].values[k, 0]) + margin, "row of the first pixel")
        for i, name in enumerate(planes):
            header[f"PLANE{i + 1}"] = name
        header["GAMMA"] = float(maps["gamma"][k])
        header["SHARE"] = (float(maps["flux_share"][k]), "of the light that the data hold")
        hdus.append(fits.ImageHDU(cube, header, name=f"DIAGNOSIS_{named}"))
    return fits.HDUList(hdus)


def write_diagnosis(
    diagnosis: SceneDiagnosis,
    directory: str | Path,
    *,
    force: bool = False,
    extra: dict | None = None,
) -> list[Path]:
    """Write maps and figure, and add columns and flags to the folder's catalog, page and regions.

    Parameters
    ----------
    diagnosis
        Result of `diagnose`.
    directory
        Folder of results of the scene.
    force
        Whether to replace an existing diagnosis.
    extra
        Further files to replace, as ``{name: function of a path}``.

    Returns
    -------
    list of pathlib.Path
        ``hallucination.fits``, ``hallucination.png``, ``catalog.ecsv``, ``catalog.parquet``,
        ``report.html`` and ``sources.reg`` if the folder has them, and the further ones.  Without
        pyarrow a ``catalog.parquet`` is removed: it would lack the new columns.

    Raises
    ------
    InputError
        If the folder holds no readable catalog, or a diagnosis and `force` is False.
    """
    directory = check_target(directory, force=force, names=DIAGNOSIS_NAMES)
    catalog = existing_file(directory, "catalog.ecsv")
    try:
        table = add_columns(QTable.read(catalog), diagnosis)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {catalog}: {error}; deblend again.") from error
    writers = {
        "hallucination.fits": lambda path: hallucination_images(diagnosis).writeto(path),
        "hallucination.png": lambda path: diagnosis_figure(diagnosis).savefig(path, dpi=110),
        "catalog.ecsv": lambda path: table.write(path, format="ascii.ecsv"),
    }
    result = diagnosis.result
    if (directory / "report.html").exists():
        page = _page(diagnosis, table, directory)
        writers["report.html"] = lambda path: path.write_text(page, encoding="utf-8")
    if (directory / PARQUET).exists():  # removed where it cannot be written anew
        writers[PARQUET] = lambda path: write_parquet(table, path)
    if (directory / "sources.reg").exists():
        regions = ds9_regions(result, table)
        writers["sources.reg"] = lambda path: path.write_text(regions, encoding="utf-8")
    writers |= extra or {}
    return write_with_parquet(directory, writers, force=True)


def _page(diagnosis: SceneDiagnosis, table: QTable, directory: Path) -> str:
    """Return the folder's page with the diagnosis: that of draws where there are chains."""
    more = [report_section(diagnosis)]
    if diagnosis.laplace_ratio is not None:
        return report_page(diagnosis.result, diagnosis.tree, table=table, more=more)
    return scene_page(diagnosis.result, table, recorded(directory, diagnosis.result), more=more)
