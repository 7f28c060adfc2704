"""The command `evaluate`."""

import json
import sys
from pathlib import Path

import click

from scorepriors._errors import InputError
from scorepriors.inference.deblending._defaults import ANNEALING

from . import _common as common
from ._common import (
    INTERRUPTED,
    count_option,
    fit_option,
    models_option,
    profile_option,
    stdout_for_json,
    target_file,
)

_METHODS = ("parametric", "map", "annealed", "laplace", "posterior")
_STARTS = ("catalog", "scattered", "detect", "sed20", "flat", "gaussian", "blobs")
_TREATMENTS = ("marginal", "profiled")

#: File of --json that stands for stdout.
_STDOUT = "-"


class _Start(click.Choice):
    """A choice that also accepts spellings of earlier versions, with a warning."""

    _EARLIER = {"catalogue": "catalog"}

    def convert(self, value, param, ctx):
        """Return the current name of a choice."""
        if value in self._EARLIER:
            click.echo(
                f"scorepriors: --start {value} is called {self._EARLIER[value]} now.", err=True
            )
            value = self._EARLIER[value]
        return super().convert(value, param, ctx)


@click.command()
@click.argument("file", metavar="FILE_OR_FOLDER", type=click.Path())
@click.option(
    "--results",
    type=click.Path(),
    help="Of a field: folder of its catalog.  [default: FOLDER/deblended]",
)
@click.option("--no-peers", is_flag=True, help="Of a field: without sep and photutils.")
@count_option(
    "--num-blends",
    "--limit",
    "limit",
    type=click.IntRange(1),
    help="Only the first so many blends.",
)
@click.option(
    "--start",
    type=_Start(_STARTS),
    default="catalog",
    show_default=True,
    help="True centers as the catalog, the same with errors, detected sources, or true centers and a bad start.",
)
@click.option("--method", type=click.Choice(_METHODS), default="map", show_default=True)
@click.option(
    "--prior",
    multiple=True,
    metavar="NAME",
    help="Name, file or address of weights, or a folder of `card`; twice for small and large "
    "galaxies.  [default: those of the survey, or of LSST]",
)
@click.option("--sigma", type=float, help="Noise level sigma0 of the prior.")
@click.option(
    "--center-error",
    type=float,
    help="Error of the positions, px.  [default: 0.05 for true centers, 0.3 detected]",
)
@profile_option()
@models_option("simplest of --method posterior, else free-form")
@fit_option("--spectra", type=click.Choice(_TREATMENTS), help="What becomes of the fluxes.")
@fit_option("--tolerance", type=float, help="Nats per source.")
@fit_option("--max-iterations", type=click.IntRange(1), help="Most iterations of each fit.")
@click.option(
    "--anneal",
    metavar="SIGMA,...",
    default=",".join(f"{level:g}" for level in ANNEALING),
    show_default=True,
    help="Noise levels before the prior's own, for --method annealed.",
)
@count_option(
    "--num-chains",
    "--chains",
    "chains",
    type=click.IntRange(1),
    help="Of --method posterior.  [default: as `sample`]",
)
@count_option(
    "--num-warmup",
    "--warmup",
    "warmup",
    type=click.IntRange(20),
    help="Draws to tune with.  [default: as `sample`]",
)
@count_option(
    "--num-samples",
    "--draws",
    "draws",
    type=click.IntRange(4),
    help="Draws kept per chain.  [default: until the chains agree]",
)
@click.option(
    "--correlation",
    metavar="HOW",
    help="Correlation of neighbors' noise: measure, lanczos3, drizzle:RATIO.  [default: none]",
)
@common.seed_option("Of the draws.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(),
    is_flag=False,
    flag_value=_STDOUT,
    metavar="[FILE]",
    help="Write figures and table here; without FILE to stdout, and all else to stderr.",
)
@click.option("--figure", "figure_path", type=click.Path(), help="Write the figure (PNG) here.")
@click.option(
    "--compare",
    type=click.Path(),
    multiple=True,
    help="A JSON of before to draw into the figure; may be given again.",
)
@click.option(
    "--checkpoint",
    type=click.Path(),
    help="Where finished blends are kept.  [default: beside the JSON]",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was cut short, or start one.")
@click.option("--force", is_flag=True, help="Replace existing results; start again.")
@common.quiet_option()
@click.pass_context
def evaluate(
    context,
    file,
    results,
    no_peers,
    json_path,
    figure_path,
    compare,
    checkpoint,
    resume,
    force,
    quiet,
    anneal,
    chains,
    warmup,
    draws,
    **settings,
):
    """Deblend simulated blends and compare with their truth; or compare a deblended field.

    A folder is a field of `simulate --field`, deblended before: its catalog and those of sep and
    photutils on the same image are compared with the truth, in tables, in evaluation.json and
    in evaluation.png.  All options but --results, --no-peers, --json without FILE, --force and
    --quiet are for files.

    A file is a set of `simulate`, or any npz of that layout.  Metrics are those of Sampson et
    al. (2024), eqs. 14-16.  Finished blends are kept beside the JSON: after Ctrl-C, or a
    crash, --resume continues.  Exit codes: 0 done, 2 bad input, 130 interrupted.
    """
    to_stdout = json_path == _STDOUT
    show = context.with_resource(stdout_for_json(to_stdout))
    json_path = None if to_stdout else json_path
    if Path(file).is_dir():
        if json_path is not None:
            raise InputError("--json FILE is for sets of blends; a field's is evaluation.json.")
        own = ("file", "results", "no_peers", "json_path", "force", "quiet")
        _refuse_given(context, own, "sets of blends")
        show(_evaluate_folder(Path(file), results, not no_peers, force, quiet))
        return
    _refuse_given(context, set(context.params) - {"results", "no_peers"}, "folders of fields")
    if quiet and json_path is None and figure_path is None and not to_stdout:
        raise InputError(
            "--quiet prints no table, and nothing is written; give --json or --figure."
        )
    if force and resume:
        raise InputError("give either --force, to start again, or --resume, to go on.")
    kept = _kept(checkpoint, json_path, resume=resume)
    # A run that is finished has no checkpoint, and its results are not for --resume to replace.
    goes_on = resume and kept is not None and kept.exists()
    outputs = [
        None if path is None else target_file(path, force or goes_on, ending)
        for path, ending in ((json_path, ".json"), (figure_path, ".png"))
    ]
    earlier = [_read_result(path) for path in compare]
    levels = _levels(anneal)
    if kept is not None and resume and not goes_on:
        common.say_start(kept)

    common.prepare_jax()
    from scorepriors._progress import unless_quiet
    from scorepriors.inference.evaluation._evaluate import evaluate as run

    if settings["method"] == "posterior":
        names = ("num_chains", "num_warmup", "num_samples")
        given = zip(names, (chains, warmup, draws), strict=True)
        settings["sampling"] = {name: value for name, value in given if value is not None}
    settings["prior"] = settings["prior"] or None
    result = run(
        file,
        checkpoint=kept,
        resume=resume,
        restart=force,
        progress=unless_quiet(settings["method"], quiet),
        anneal=levels,
        **settings,
    )
    if result["number"] and not quiet:
        _print_result(result)
    show(result)
    if result["interrupted"]:
        from scorepriors.models.simulation._blend_sets import BlendSet

        total = min(len(BlendSet(file)), settings["limit"] or sys.maxsize)
        hint = "nothing was kept (give --json)" if kept is None else "--resume goes on"
        click.echo(
            f"scorepriors: interrupted after {result['number']} of {total} blends; {hint}.",
            err=True,
        )
        sys.exit(INTERRUPTED)
    _write(result, earlier, *outputs)
    if kept is not None:
        kept.unlink(missing_ok=True)


def _refuse_given(context, allowed, what: str) -> None:
    """Refuse options that were given and are only for something else."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if parameter.name not in allowed and source is click.core.ParameterSource.COMMANDLINE:
            raise InputError(f"{parameter.opts[0]} is for {what}; leave it out.")


def _evaluate_folder(directory: Path, results, peers: bool, force: bool, quiet: bool) -> dict:
    """Evaluate a field, print the tables, write JSON and figure into its folder; return the first."""
    outputs = [directory / name for name in ("evaluation.json", "evaluation.png")]
    for path in outputs:
        target_file(path, force, path.suffix)
    from scorepriors._files import atomic_path, atomic_write
    from scorepriors._progress import unless_quiet
    from scorepriors.inference.evaluation._fields_figure import field_figure
    from scorepriors.inference.evaluation._fields_run import evaluate_directory, open_field

    from ._field_tables import print_field

    result = evaluate_directory(
        directory, results=results, peers=peers, progress=unless_quiet("evaluating", quiet)
    )
    if not quiet:
        print_field(result)
    atomic_write(outputs[0], json.dumps(result, allow_nan=False) + "\n")
    with atomic_path(outputs[1]) as temporary, open_field(directory) as field:
        field_figure(result, field).savefig(temporary, dpi=120, format="png")
    for path in outputs:
        click.echo(str(path))
    return result


def _write(result, earlier, json_path, figure_path) -> None:
    from scorepriors._files import atomic_path, atomic_write
    from scorepriors.inference.evaluation._figures import evaluation_figure

    if json_path is not None:
        atomic_write(json_path, json.dumps(result, indent=1, allow_nan=False) + "\n")
        click.echo(str(json_path))
    if figure_path is not None:
        with atomic_path(figure_path) as temporary:
            evaluation_figure([*earlier, result]).savefig(temporary, dpi=130, format="png")
        click.echo(str(figure_path))


def _kept(checkpoint, json_path, *, resume: bool) -> Path | None:
    """Return the path of the checkpoint; None if there is none."""
    if checkpoint is None and json_path is None:
        if resume:
            raise InputError(
                "--resume needs --json FILE or --checkpoint, to know where the run is."
            )
        return None
    if checkpoint:
        return Path(checkpoint)
    beside = Path(json_path)
    return beside.parent / f"{beside.stem}.checkpoint.npz"


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        levels = (0.0,)
    if not all(level > 0 for level in levels):
        raise InputError(f"--anneal {text!r} is no list of noise levels; give such as 1,0.4.")
    return levels


def _read_result(path) -> dict:
    """Read an earlier result, for comparison."""
    try:
        result = json.loads(Path(path).read_text())
        if not {"sources", "method", "start"} <= result.keys():
            raise ValueError("no result of `evaluate`")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no JSON of an evaluation: {error}.") from error
    return result


#: Rows of the table on the terminal: key, name, format.
_TABLE = (
    ("median_abs_flux_error", "median |e_F|", ".4f"),
    ("median_abs_flux_error_blended", "  blendedness >= 0.5", ".4f"),
    ("median_abs_flux_error_isolated", "  blendedness < 0.5", ".4f"),
    ("share_flux_error_above_half", "share |e_F| > 0.5", ".3f"),
    ("xi_morphology_median", "xi morphology, median", ".5f"),
    ("xi_morphology_p16", "  16th percentile", ".5f"),
    ("xi_sed_median", "xi SED, median", ".5f"),
    ("xi_sed_p16", "  16th percentile", ".5f"),
    ("chi2_median", "chi2 per pixel, median", ".4f"),
    ("coverage_68", "truth in 68 % interval", ".3f"),
    ("seconds_per_blend", "seconds per blend", ".2f"),
)


def _print_result(result: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for key, name, style in _TABLE:
        value = result[key]
        table.add_row(name, "-" if value is None else format(value, style))
    for name, key in (("thirds of S/N", "snr"), ("below, above 0.5 blended", "blendedness")):
        shares = result[f"coverage_68_by_{key}"]
        cells = " ".join("-" if one is None else f"{one:.2f}" for one in shares)
        table.add_row(f"  {name}", cells)
    others = result["coverage_68_of"]
    for names in (("x", "y"), ("size", "e1", "e2"), ("mag",)):
        cells = " ".join(f"{others[n]['covered']:.2f}" if n in others else "-" for n in names)
        table.add_row(f"  {', '.join(names)}", cells)
    console = Console(width=None if sys.stdout.isatty() else 100)
    # Not as the table's title, which would be wrapped to its width.
    console.print(
        f"{_counted(result['number'], 'blend')}, {_counted(result['num_sources'], 'source')}: "
        f"{result['method']}, start {result['start']}",
        highlight=False,
    )
    console.print(table)
    if result["start"] == "detect":
        console.print(
            f"{_counted(result['num_missed'], 'source')} not detected (counted as zeros), "
            f"{_counted(result['num_spurious'], 'detection')} of nothing",
            highlight=False,
        )
    state = (
        f"{_counted(result['num_not_converged'], 'blend')} not converged"
        if result["num_not_converged"]
        else "all converged"
    )
    console.print(
        f"{state}; prior {result['prior']}, sigma0 = {result['sigma0']:.3g}", highlight=False
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
