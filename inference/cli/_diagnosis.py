"""The command `diagnose`, and the option `--diagnose` of others."""

import textwrap
import warnings
from pathlib import Path

import click

from scorepriors._errors import InputError

from . import _common as common


@click.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option("--force", is_flag=True, help="Replace a diagnosis that is there.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def diagnose(folder, force, seed, quiet):
    """Diagnose the influence of the prior on results of `deblend` or `sample` in DIR.

    Writes hallucination.fits and hallucination.png, gives catalog.ecsv the columns
    gamma, data_share, degrees_of_freedom, typicality, flux_err_free_total and more words
    in flags, and report.html a section.
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
    for written in diagnose_scene(path, result, tree, seed=seed, quiet=quiet):
        click.echo(str(written))


def diagnose_scene(folder, result, tree, *, seed, quiet) -> list[Path]:
    """Diagnose a scene, write the results, and print them."""
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
    return paths


def _print_diagnosis(found) -> None:
    from scorepriors.inference.diagnosis._diagnose import source_flags

    from ._source_tables import WIDTH, source_tables

    maps, flags = found.maps, source_flags(found)
    ids = [str(one) for one in maps["source"].values]
    facts = {
        "gamma": [f"{float(one):.3g}" for one in maps["gamma"].values],
        "data share": [f"{float(one):.0%}" for one in maps["flux_share"].values],
        "freedom": [f"{float(one):.0f}" for one in maps["degrees_of_freedom"].values],
        "typicality": [f"{found.typicality[one]:.3f}" for one in ids],
    }
    click.echo(
        source_tables(
            "What the prior made up: shares of the flux that the data hold by themselves,\n"
            "and the degrees of freedom of the shape that they determine",
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
        click.echo(f"\n{textwrap.fill(f'flux errors, Laplace over chains: {ratios}', WIDTH)}")
