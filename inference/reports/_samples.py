"""Result files of a sampled scene, written atomically."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scorepriors.inference.deblending._catalog import catalog
from scorepriors.inference.deblending._doubts import doubts_of_draws
from scorepriors.inference.deblending._draws import flux_catalog, source_images
from scorepriors.inference.deblending._hdus import (
    finite,
    mending_hdus,
    observed_hdus,
    residual_hdus,
    source_names,
)
from scorepriors.inference.deblending._light_curves import light_curves
from scorepriors.inference.deblending._notes import notes_of_draws
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.deblending._scene_file import NAME as SCENE
from scorepriors.inference.deblending._scene_file import save_scene
from scorepriors.inference.deblending._simplest import as_sampled
from scorepriors.inference.sampling._diagnostics import said
from scorepriors.inference.sampling._stein import stein_sentence
from scorepriors.inference.sampling._tree import group, save_tree

from ._observed import mean_as_observed, sky_beside
from ._outputs import CURVES, write_with_parquet
from ._page import figures, report_page
from ._parquet import PARQUET, write_parquet

#: Names of the result files.
SAMPLE_NAMES = (
    "posterior.nc",
    "catalog.ecsv",
    "sources.fits",
    "diagnostics.txt",
    "report.html",
    SCENE,
    PARQUET,
)


def write_samples(
    result: Deblended,
    tree: Any,
    directory: str | Path,
    *,
    force: bool = False,
    prior: str | Path | Sequence[str] = (),
) -> list[Path]:
    """Write draws, catalog, source images, diagnostics and report; all of them or none.

    Parameters
    ----------
    result
        Result of `deblend` that was given to `sample_deblended`.  What is written is of the scene that
        was sampled, by default `simplest` of it.
    tree
        Result of `sample_deblended`.
    directory
        Folder to write to; made if missing.
    force
        Whether to replace existing results.
    prior
        Names or weight files for loading the priors again; their own names if not given.

    Returns
    -------
    list of pathlib.Path
        Files named as in `SAMPLE_NAMES`, and ``light_curves.ecsv`` if a source varies.
    """
    result = as_sampled(result, json.loads(tree.attrs.get("models", "[]")))
    table = _with_fitted(flux_catalog(tree), result)
    page = report_page(result, tree, table=table)
    images = source_images(tree)
    images.extend(_as_observed(result, tree))
    writers = (
        lambda path: save_tree(tree, path),
        lambda path: table.write(path, format="ascii.ecsv"),
        lambda path: images.writeto(path),
        lambda path: path.write_text(diagnostics(tree, table), encoding="utf-8"),
        lambda path: path.write_text(page, encoding="utf-8"),
        lambda path: save_scene(result, path, prior=prior),
        lambda path: write_parquet(table, path),
    )
    named = dict(zip(SAMPLE_NAMES, writers, strict=True))
    if result.variable:
        named[CURVES] = lambda path: light_curves(tree).write(path, format="ascii.ecsv")
    return write_with_parquet(directory, named, force=force)


def _with_fitted(table: Any, result: Deblended) -> Any:
    """Add what draws under a prior can't say: measured fluxes, which have none, and the fit's flags."""
    fitted = catalog(result)
    chosen = [n for n in fitted.colnames if n.startswith("measured_flux_")]
    for name in (*chosen, "snr", "flags", "flag_bits"):
        table[name] = fitted[name]
    return table


def _as_observed(result: Deblended, tree: Any) -> list:
    """Return the HDUs of every source's mean as observed, the residual, sky and weights."""
    convolved = mean_as_observed(result, tree)
    obs, sky = sky_beside(result, convolved)
    hdus = []
    ids = result.positions.ids
    for k, (identity, name) in enumerate(zip(ids, source_names(ids), strict=True)):
        hdus += observed_hdus(obs, [cube[k] for cube in convolved], identity, name)
    return [*hdus, *residual_hdus(obs, convolved), *mending_hdus(result, sky)]


#: Attributes of a tree of draws that its summary has, where they are known.
_SUMMED = (
    "status", "algorithm", "num_warmup", "draws_kept", "thinning", "seconds", "gradients", "max_rhat",
    "max_pixel_rhat", "min_ess", "min_ess_site", "stein_discrepancy", "stein_p_value", "divergences",
    "prior_name", "prior_sigma", "flux_unit",
)  # fmt: skip


def sample_summary(tree: Any) -> dict[str, Any]:
    """Return what is known of a run as a whole, ready for JSON; None for what is not defined."""
    posterior = group(tree, "posterior")
    facts = {name: tree.attrs[name] for name in _SUMMED if name in tree.attrs}
    plain = {
        name: getattr(value, "item", lambda value=value: value)() for name, value in facts.items()
    }
    return {
        **{n: finite(v) if isinstance(v, float) else v for n, v in plain.items()},
        "interrupted": bool(tree.attrs["interrupted"]),
        "warnings": json.loads(tree.attrs["warnings"]),
        "num_chains": int(posterior.sizes["chain"]),
        "num_sources": int(posterior.sizes["source"]),
        "bands": [str(band) for band in posterior["band"].values],
        "models": json.loads(tree.attrs.get("models", "[]")),
        "doubts": doubts_of_draws(tree),
        "notes": notes_of_draws(tree),
    }


def diagnostics(tree: Any, table: Any) -> str:
    """Return the diagnostics of a run with explanations, as plain text."""
    lines = ["Draws of a deblended scene", ""]
    lines += [f"{label:28s} {text}" for label, text in figures(tree)]
    lines += ["", "Effective draws and R-hat of the fluxes (the worst band), by source", ""]
    for row in table:
        rhat = f"{row['flux_rhat']:.4f}" if "flux_rhat" in table.colnames else "(one chain)"
        lines.append(f"{row['id']:28s} {row['flux_ess']:8.0f}   {rhat}")
    lines += ["", stein_sentence(tree.attrs), ""]
    checks, against, noted = said(tree), doubts_of_draws(tree), notes_of_draws(tree)
    if not checks:
        end = ", but the scene itself is in doubt." if against else "."
        lines.append(f"No check of the draws failed{end}")
    if checks or against:
        lines.append("These draws should not be trusted as they are:")
        lines += [f"  - {sentence}" for sentence in (*checks, *against.values())]
    if noted:
        lines += ["", "Notes on files, noise and prior:"]
        lines += [f"  - {sentence}" for sentence in noted]
    return "\n".join(lines) + "\n"
