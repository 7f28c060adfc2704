"""The command `diagnose`, and the option `--diagnose` of others."""

import textwrap
import warnings
from pathlib import Path
from typing import Any

import click

from scorepriors._errors import InputError

from . import _common as common


@click.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option("--force", is_flag=True, help="Replace a diagnosis that is there.")
@common.seed_option()
@common.for_scripts()
def diagnose(folder, force, seed, quiet):
    """Diagnose the influence of the prior on results of `deblend` or `sample` in DIR.

    Writes hallucination.fits and hallucination.png, gives catalog.ecsv the columns
    gamma, data_share, flux_from_prior, degrees_of_freedom, typicality, flux_err_free_total
    and more words in flags, and report.html a section.
    """
    from scorepriors.inference.reports._outputs import check_target

    path = Path(folder)
    if not path.is_dir():
        raise InputError(
            f"there is no folder {folder!r}; give one that `deblend` or `sample` wrote."
        )
    common.prepare_jax()
    from scorepriors.inference.deblending._scene_file import load_scene
    from scorepriors.inference.diagnosis._outputs import DIAGNOSIS_NAMES
    from scorepriors.inference.sampling._tree import load_tree

    check_target(path, force=force, names=DIAGNOSIS_NAMES)
    result = load_scene(path)
    chains = path / "posterior.nc"
    tree = load_tree(chains) if chains.exists() else None
    found, paths = diagnose_scene(path, result, tree, seed=seed, quiet=quiet)
    for written in paths:
        click.echo(str(written))
    return common.Outcome(0, lambda: {"output": str(path), **diagnosis_facts(found)})


def diagnose_scene(folder, result, tree, *, seed, quiet) -> tuple[Any, list[Path]]:
    """Diagnose a scene, write the results, and print them; return the diagnosis and the files."""
    import jax

    from scorepriors._progress import unless_quiet
    from scorepriors.inference.diagnosis._diagnose import diagnose
    from scorepriors.inference.diagnosis._outputs import write_diagnosis
    from scorepriors.inference.sampling._diagnostics import SamplingWarning

    with warnings.catch_warnings():
        # A flag records that the curvature is not that of a mode.
        warnings.filterwarnings("ignore", category=SamplingWarning)
        found = diagnose(
            result, tree, key=jax.random.key(seed), progress=unless_quiet("diagnose", quiet)
        )
    paths = write_diagnosis(found, folder, force=True)
    _print_diagnosis(found)
    return found, paths


def diagnosis_facts(found) -> dict[str, Any]:
    """Return what --json says of a diagnosis: what was averaged over, and each source by its id."""
    from scorepriors.inference.deblending._hdus import finite
    from scorepriors.inference.diagnosis._diagnose import source_flags

    maps, flags = found.maps, source_flags(found)
    sources: dict[str, dict[str, Any]] = {one: {"flags": flags[one]} for one in flags}
    columns = (
        ("gamma", "gamma"), ("data_share", "flux_share"), ("flux_from_prior", "flux_from_prior"),
        ("degrees_of_freedom", "degrees_of_freedom"),
    )  # fmt: skip
    for k, identity in enumerate(str(one) for one in maps["source"].values):
        facts = {name: finite(float(maps[key][k])) for name, key in columns}
        sources[identity] |= facts | {"typicality": finite(found.typicality[identity])}
    if found.laplace_ratio is not None:
        for identity, ratio in zip(flags, found.laplace_ratio, strict=True):
            sources[identity]["laplace_ratio"] = finite(float(ratio))
    return {"draws": maps.attrs["draws"], "sources": sources}


def _print_diagnosis(found) -> None:
    from scorepriors.inference.diagnosis._diagnose import source_flags

    from ._source_tables import WIDTH, source_tables

    maps, flags = found.maps, source_flags(found)
    ids = [str(one) for one in maps["source"].values]
    facts = {
        "gamma": [f"{float(one):.3g}" for one in maps["gamma"].values],
        "data share": [f"{float(one):.0%}" for one in maps["flux_share"].values],
        "from prior": [f"{float(one):.1%}" for one in maps["flux_from_prior"].values],
        "freedom": [f"{float(one):.0f}" for one in maps["degrees_of_freedom"].values],
        "typicality": [f"{found.typicality[one]:.3f}" for one in ids],
    }
    common.echo_table(
        source_tables(
            "What the prior made up: shares of the flux that the data hold by themselves,\n"
            "pixel by pixel; by how much its sum leans on the prior; and the degrees of\n"
            "freedom of the shape that the data determine",
            ids,
            facts,
            {},
            [",".join(flags[one]) for one in ids],
        )
    )
    if found.laplace_ratio is not None:
        ratios = ", ".join(
            f"{identity} {ratio:.2f}"
            for identity, ratio in zip(found.result.positions.ids, found.laplace_ratio, strict=True)
        )
        common.echo_table(
            f"\n{textwrap.fill(f'flux errors, Laplace over chains: {ratios}', WIDTH)}"
        )
