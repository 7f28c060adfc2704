"""The catalog of a field as a FITS table, and what its summary says of it."""

import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from scorepriors.inference.deblending._flags import FLAGS
from scorepriors.inference.deblending._hdus import fits_text
from scorepriors.inference.reports._parquet import plain_columns


def write_fits_table(catalog: Table, path: Path) -> None:
    """Write the catalog as the FITS table `fits_table`."""
    fits.HDUList([fits.PrimaryHDU(), fits_table(catalog)]).writeto(path, overwrite=True)


def fits_table(catalog: Table) -> fits.BinTableHDU:
    """Return a FITS table with units, descriptions (``TCOMMn``) and the sentences of the flags.

    FITS holds ASCII alone: other letters of names become question marks.
    """
    plain = plain_columns(catalog)
    meta, plain.meta = dict(plain.meta), {}
    for name in plain.colnames:
        column = plain[name]
        if column.dtype.kind in "UO":
            plain[name] = [_ascii(value) for value in column]
            plain[name].info.description = column.info.description
        if column.info.description is not None:
            plain[name].info.description = _ascii(column.info.description)
    # The cards below say this in full, one flag each.
    for name, text in (("flags", "words, or ok; see FLAGn"), ("flag_bits", "bits n of FLAGn")):
        if name in plain.colnames:
            plain[name].info.description = text
    buffer = io.BytesIO()
    plain.write(buffer, format="fits")  # with descriptions as astropy reads them
    with fits.open(io.BytesIO(buffer.getvalue()), memmap=False) as hdus:
        table = hdus[1].copy()
    table.name = "CATALOG"
    for number, name in enumerate(plain.colnames, 1):
        if plain[name].info.description is not None:
            table.header[f"TCOMM{number}"] = plain[name].info.description
    for flag in FLAGS.values():
        table.header[f"FLAG{flag.bit}"] = f"{flag.word}: {_ascii(flag.sentence)}"
    for key, value in meta.items():
        if isinstance(value, str | bool | int | float) and value == value:
            table.header[_keyword(key)] = fits_text(value) if isinstance(value, str) else value
    return table


def flag_counts(catalog: Table) -> dict[str, int]:
    """Return the number of sources with each flag that at least one has, by word."""
    bits = np.asarray(catalog["flag_bits"], np.int64)
    found = {word: int(np.count_nonzero(bits & flag.value)) for word, flag in FLAGS.items()}
    return {word: count for word, count in found.items() if count}


def kinds_of(catalog: Table) -> np.ndarray:
    """Return what each source is modeled as, ``[N]``: the column ``model``, or from the flags."""
    if "model" in catalog.colnames:
        return np.asarray(catalog["model"]).astype(str)
    is_point = np.asarray(catalog["flag_bits"], np.int64) & FLAGS["point"].value
    return np.where(is_point, "point", "free-form")


def model_counts(catalog: Table) -> dict[str, int]:
    """Return the number of sources by kind of model, the most frequent first."""
    return dict(Counter(map(str, kinds_of(catalog))).most_common())


def field_summary(result: Any, *, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the summary of a field, ready for JSON.

    Parameters
    ----------
    result
        The field's result: its `facts` come first.
    extra
        Further entries.
    """
    catalog, scenes = result.catalog, result.scenes
    found = {
        **result.facts,
        "shape": list(result.field.shape),
        "bands": list(result.field.bands),
        "num_sources": len(catalog),
        "num_scenes": len(scenes),
        "num_scenes_not_converged": int(np.count_nonzero(~np.asarray(scenes["converged"], bool))),
        "num_scenes_down_weighted": int(np.count_nonzero(scenes["down_weighted"])),
        "models": model_counts(catalog),
        "flags": flag_counts(catalog),
        **(extra or {}),
    }
    # JSON knows no NaN and no infinity: null.
    return json.loads(json.dumps(found), parse_constant=lambda name: None)


def _ascii(text: Any) -> str:
    return fits_text(str(text).replace("²", "2"))


def _keyword(name: str) -> str:
    """Return a name for a card; those of more than eight characters are hierarchical."""
    return name.upper() if len(name) <= 8 else f"HIERARCH {name.upper()}"
