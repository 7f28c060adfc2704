"""The command `deblend`."""

import sys
import time
from pathlib import Path

import click

from scorepriors._errors import InputError

from . import _common as common
from ._common import (
    FIT_REMEDIES,
    INTERRUPTED,
    NOT_CONVERGED,
    NOT_TRUSTED,
    correlation_words,
    fit_option,
    noise_option,
    noise_sentence,
    profile_option,
    scene_options,
)
from ._diagnosis import diagnose_scene
from ._fields import FieldRun, Target, deblend_as_field, opened_field
from ._input import Input, field_options


@click.command()
@scene_options("deblended")
@click.option("--each", is_flag=True, help="Every FILE is a blend of its own; a folder for each.")
@profile_option()
@fit_option("--max-iterations", type=click.IntRange(1), help="Most iterations of each fit.")
@noise_option()
@field_options()
@click.option(
    "--variable",
    multiple=True,
    metavar="ID",
    help="A source that varies between FILE and the --with images, the epochs; all others are constant.",
)
@click.option(
    "--timescale", type=float, metavar="DAYS", help="Time over which it varies.  [default: none]"
)
@click.option(
    "--moving",
    multiple=True,
    metavar="ID",
    help="A star that moves between FILE and the --with images: its motion is in the catalog.",
)
@click.option("--diagnose", "diagnosed", is_flag=True, help="Also what `diagnose` does.")
@click.option(
    "--field/--scene",
    "as_field",
    default=None,
    help="As a field of many scenes, or as one.  [default: a field beyond 192 x 192 pixels]",
)
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes for a field."
)
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler of the workers for a field.")
@click.option("--resume", is_flag=True, help="Go on with a field that was cut short.")
def deblend(
    each,
    prior_names,
    sigma,
    output,
    force,
    diagnosed,
    as_field,
    workers,
    scheduler,
    resume,
    seed,
    quiet,
    **options,
):
    """Deblend the galaxies in FILE (FITS or npz; or one FITS file per band).

    Writes catalog.ecsv, sources.fits, report.png, summary.json and scene.npz to the
    output folder, and light_curves.ecsv with --variable.  With --each every FILE is a blend, several are fitted at once, and the
    results go to one folder per file within the output folder.

    A large image is a field: it is read by windows and fitted in many scenes, and leaves
    catalog.parquet, catalog.fits, model.fits, residual.fits, summary.json and report.html.

    Exit codes: 0 done, 2 bad input, 3 not converged or not to be trusted (results are
    written), 130 interrupted (what was reached is written; of a field it is kept for
    --resume).
    """
    started = time.monotonic()
    given = Input.take(options)
    run = FieldRun(workers, scheduler, resume)
    if each and as_field:
        raise InputError("--field takes one field; leave out --each.")
    field = None if each else opened_field(given, as_field)
    if field is not None:
        if diagnosed:
            raise InputError("--diagnose is for single scenes; leave it out, or use --scene.")
        times = options.pop("variable"), options.pop("timescale"), options.pop("moving")
        if times != ((), None, ()):
            raise InputError(
                "--variable, --timescale and --moving are for single scenes; use --scene."
            )
        where = Target(output, force=force, seed=seed, quiet=quiet, prior=prior_names)
        sys.exit(deblend_as_field(given, field, run, where, sigma, options))
    run.refuse_for_scene()
    if each and (given.example or given.others):
        raise InputError(
            f"--each goes with files, not with {'--example' if given.example else '--with'}."
        )
    targets = _folders(given.files, output) if each else [output]
    common.prepare_jax()
    common.leave_to_doubts()
    from scorepriors.inference.reports._outputs import check_target, write_outputs

    for target in targets:
        check_target(target, force=force)
    import jax

    from scorepriors._progress import on_terminal
    from scorepriors.inference.deblending._deblend import deblend_many
    from scorepriors.inference.deblending._priors import load_priors

    observations, positions, truth = given.read(each=each)
    pixel_scale = observations[0].pixel_scale
    prior = load_priors(prior_names or None, sigma=sigma, pixel_scale=pixel_scale)
    results = deblend_many(
        observations,
        positions,
        prior=prior,
        key=jax.random.key(seed),
        progress=on_terminal(True, quiet),
        side_by_side=1 if len(observations) == 1 else None,
        **options,
    )
    seconds = (time.monotonic() - started) / len(observations)
    for result, target in zip(results, targets, strict=True):
        if result is None:
            continue
        paths = write_outputs(
            result, target, force=force, seed=seed, total_seconds=seconds, prior=prior_names
        )
        _print_table(result, truth)
        if diagnosed:
            paths += diagnose_scene(target, result, None, seed=seed, quiet=quiet)
        for path in dict.fromkeys(paths):
            click.echo(str(path))
    sys.exit(_verdict(results, targets))


def _folders(files, output) -> list[Path]:
    """Return one folder per file, named after it."""
    names = [Path(file).name.removesuffix(".gz") for file in files]
    names = [name.rsplit(".", 1)[0] or name for name in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"two files are called {twice[0]!r}, and so would be their folders of results; "
            "rename one."
        )
    return [Path(output) / name for name in names]


def _verdict(results, targets) -> int:
    """Print problems of the fits, and return the exit code."""
    finished = [r for r in results if r is not None]
    if len(finished) < len(results) or any(r.free_form.fit.interrupted for r in finished):
        kept = (
            "the results are those reached so far"
            if len(results) == 1
            else f"{len(finished)} of {len(results)} blends are done"
        )
        click.echo(f"scorepriors: interrupted; {kept}.", err=True)
        return INTERRUPTED
    from scorepriors.inference.deblending._doubts import doubts

    code = 0
    for result, target in zip(results, targets, strict=True):
        which = "" if len(results) == 1 else f"{target}: "
        for sentence in (noise_sentence(result), correlation_words(result)):
            if sentence:
                click.echo(f"scorepriors: {which}{sentence}", err=True)
        reasons = doubts(result)
        for sentence in reasons.values():
            click.echo(f"scorepriors: {which}{sentence}", err=True)
        if reasons:
            code = NOT_TRUSTED
        if result.converged:
            continue
        fit = result.free_form.fit
        facts = f"{int(fit.num_iterations)} iterations, about {float(fit.expected_gain):.2g} nats to gain"
        click.echo(
            f"scorepriors: {which}not converged ({facts}): {fit.status.sentence}; "
            f"{FIT_REMEDIES[fit.status]}.",
            err=True,
        )
        code = NOT_CONVERGED
    return code


def _print_table(result, truth=None) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    obs = result.observation
    unit, factor = obs.flux_unit
    table = Table(title=f"{len(result.positions.ids)} sources, flux in {unit}")
    for name in ("id", "x", "y", *obs.bands, "chi2"):
        table.add_column(name, justify="right")
    if truth is not None:
        table.add_column("total / truth", justify="right")
    scene, found = result.free_form, result.photometry.scaled(factor)
    for k, identity in enumerate(result.positions.ids):
        pairs = zip(found.flux[k], found.error[k], strict=True)
        cells = ["no data" if np.isnan(f) else f"{f:.4g} ± {e:.2g}" for f, e in pairs]
        row, column = result.center[k]
        cells = [identity, f"{column:.2f}", f"{row:.2f}", *cells, f"{scene.source_chi2[k]:.2f}"]
        if truth is not None:
            true = (truth.flux[k] * factor)[found.seen[k]].sum()
            cells.append(f"{found.total[0, k] / true:.3f}")
        table.add_row(*cells)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    fit = scene.fit
    state = "converged" if result.converged else "NOT converged"
    prior = (
        f"prior {result.prior_name}, sigma0 = {result.sigma0:.3g}; " if result.prior_name else ""
    )
    console.print(
        f"{state} in {int(fit.num_iterations)} iterations, chi2 per pixel {scene.chi2:.3f}; "
        f"{prior}errors know shapes, neighbors and model",
        highlight=False,
    )
