"""The command `diagnose`, and the option `--diagnose` of others."""

import sys
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
    in flags, and, where there are chains, report.html a section.
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
    extra = {}
    if tree is not None:
        from scorepriors.inference.diagnosis._figures import report_section
        from scorepriors.inference.reports._page import report_page

        page = report_page(result, tree, more=[report_section(found)])
        extra["report.html"] = lambda path: path.write_text(page, encoding="utf-8")
    paths = write_diagnosis(found, folder, force=True, extra=extra)
    _print_diagnosis(found)
    return paths


def _print_diagnosis(found) -> None:
    from rich.console import Console
    from rich.table import Table

    from scorepriors.inference.deblending._flags import FLAGS
    from scorepriors.inference.diagnosis._diagnose import source_flags

    table = Table(title="What the prior made up")
    for name in ("id", "gamma", "data share of flux", "degrees of freedom", "typicality", "flags"):
        table.add_column(name, justify="right")
    maps, flags = found.maps, source_flags(found)
    for k, identity in enumerate(str(i) for i in maps["source"].values):
        table.add_row(
            identity,
            f"{float(maps['gamma'][k]):.3g}",
            f"{float(maps['flux_share'][k]):.0%}",
            f"{float(maps['degrees_of_freedom'][k]):.0f}",
            f"{found.typicality[identity]:.3f}",
            ", ".join(flags[identity]) or "ok",
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if found.laplace_ratio is not None:
        ratios = ", ".join(
            f"{identity} {ratio:.2f}"
            for identity, ratio in zip(found.result.positions.ids, found.laplace_ratio, strict=True)
        )
        console.print(f"flux errors, Laplace over chains: {ratios}", highlight=False)
    for word in dict.fromkeys(word for words in flags.values() for word in words):
        console.print(f"{word}: {FLAGS[word].sentence}", highlight=False)
