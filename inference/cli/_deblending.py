"""The command `deblend`."""

import shlex
import sys
import textwrap
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
    Outcome,
    for_scripts,
    model_options,
    models_option,
    say_notes,
    scene_options,
    written_summary,
)
from ._diagnosis import diagnose_scene
from ._each import REQUEST, Plan, folders, left_code, planned, those_of
from ._fields import FieldRun, Target, deblend_as_field, opened_field
from ._input import Input, field_options


@click.command()
@scene_options("deblended")
@click.option("--each", is_flag=True, help="Every FILE is a blend of its own; a folder for each.")
@models_option("free-form of a scene, simplest of a field")
@model_options
@field_options()
@click.option("--diagnose", "diagnosed", is_flag=True, help="Also what `diagnose` does.")
@click.option(
    "--field/--scene",
    "as_field",
    default=None,
    help="As a field of many scenes, or as one.  [default: a field beyond 192 x 192 pixels]",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes for a field; more than one need pip install 'scorepriors[cluster]'.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler of the workers for a field.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with a field, or with the files of --each, that was cut short, or start.",
)
@for_scripts()
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
    models,
    **options,
):
    """Deblend the galaxies in FILE (FITS or npz; or one FITS file per band).

    Writes catalog.ecsv, catalog.parquet (with pyarrow), sources.fits, report.html (a page to look at), report.png,
    sources.reg (for DS9), summary.json and scene.npz to the output folder, and
    light_curves.ecsv with --variable.  With --each every FILE is a blend, several are
    fitted at once, and the results go to one folder per file within the output folder, as
    soon as they are there; --resume leaves files that are done, unless they or the options changed.

    A large image is a field: it is read by windows and fitted in many scenes, and leaves
    catalog.parquet, catalog.fits, model.fits, residual.fits, kept.fits, summary.json and report.html.
    Most sources of a field are so faint that a free form gains nothing and takes long, so its
    default of --models is another one.

    Exit codes: 0 done, 2 bad input, 3 not converged or not to be trusted (results are
    written), 130 interrupted (what was reached is written; of a field it is kept for
    --resume).
    """
    started = time.monotonic()
    given = Input.take(options)
    run = FieldRun(workers, scheduler, resume)
    # Scenes and fields have defaults of their own.
    options |= {} if models is None else {"models": models}
    if diagnosed and models == "profiles":
        raise InputError(common.NOTHING_TO_DIAGNOSE)
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
        return deblend_as_field(given, field, run, where, sigma, options)
    run.refuse_for_scene()
    if each and (given.example or given.others):
        raise InputError(
            f"--each goes with files, not with {'--example' if given.example else '--with'}."
        )
    targets = folders(given.files, output) if each else [Path(output)]
    common.prepare_jax()
    common.leave_to_doubts()
    from scorepriors.inference.reports._outputs import check_target, write_outputs

    if resume and force:
        raise InputError("give either --force, to start again, or --resume, to go on.")
    plan = planned(given.files, targets, resume) if each else Plan([""], [0], set())
    for number in plan.todo:
        check_target(targets[number], force=force or number in plan.replaced)
    if resume and not each:
        click.echo("scorepriors: a scene keeps nothing to go on with; the run starts.", err=True)
    import jax

    from scorepriors._progress import unless_quiet
    from scorepriors.inference.deblending._catalog import flag_words
    from scorepriors.inference.deblending._deblend import deblend_many
    from scorepriors.inference.deblending._priors import load_priors
    from scorepriors.inference.diagnosis._outputs import DIAGNOSIS_NAMES

    done = [target for number, target in enumerate(targets) if number not in plan.todo]
    if not plan.todo:
        return Outcome(left_code(done), lambda: [written_summary(one) for one in targets])
    some = those_of(given, plan.todo) if each else given
    observations, positions, truth = some.read(each=each)
    # The priors are those for the pixels of the first file, done or not.
    first = observations if plan.todo[0] == 0 else those_of(given, [0]).read(each=True).observations
    pixel_scale = first[0].pixel_scale
    prior = load_priors(prior_names or None, sigma=sigma, pixel_scale=pixel_scale)
    written = []

    def write(index, result):
        number = plan.todo[index]
        target, interrupted = targets[number], result.free_form.fit.interrupted
        if number in plan.replaced:
            # A diagnosis is of the results that go.
            for name in DIAGNOSIS_NAMES:
                (target / name).unlink(missing_ok=True)
        paths = write_outputs(
            result,
            target,
            force=force or number in plan.replaced,
            seed=seed,
            total_seconds=None if each else time.monotonic() - started,
            prior=prior_names,
            command=shlex.join(["scorepriors", *sys.argv[1:]]),
            files=[given.files[number]] if each else given.names(),
            extra={REQUEST: None if interrupted else plan.requests[number]} if each else {},
        )
        written.append(number)
        _print_table(result, flag_words(result), truth)
        if diagnosed:
            paths += diagnose_scene(target, result, None, seed=seed, quiet=quiet)[1]
        for path in dict.fromkeys(paths):
            click.echo(str(path))

    results = deblend_many(
        observations,
        positions,
        prior=prior,
        key=jax.random.key(seed),
        progress=unless_quiet(True, quiet),
        side_by_side=1 if len(observations) == 1 else None,
        finished=write,
        **options,
    )

    def summary():
        left = [one for n, one in enumerate(targets) if n in written or n not in plan.todo]
        found = [written_summary(target) for target in left]
        return found if each else found[0]

    code = _verdict(results, [targets[number] for number in plan.todo], each)
    if code != INTERRUPTED:
        code = max(code, left_code(done))
    return Outcome(code, summary if written or done else None)


def _verdict(results, targets, each: bool = False) -> int:
    """Print problems of the fits, and return the exit code."""
    finished = [r for r in results if r is not None]
    if len(finished) < len(results) or any(r.free_form.fit.interrupted for r in finished):
        kept = (
            "the results are those reached so far"
            if len(results) == 1
            else f"{len(finished)} of {len(results)} blends are done"
        )
        more = "; --resume goes on" if each else ""
        click.echo(f"scorepriors: interrupted; {kept}{more}.", err=True)
        return INTERRUPTED
    from scorepriors.inference.deblending._doubts import doubts
    from scorepriors.inference.deblending._notes import notes

    code = 0
    for result, target in zip(results, targets, strict=True):
        which = "" if len(results) == 1 else f"{target}: "
        say_notes(notes(result), which)
        reasons = doubts(result)
        for sentence in reasons.values():
            click.echo(f"scorepriors: {which}{sentence}", err=True)
        if reasons:
            code = NOT_TRUSTED
        if result.converged:
            continue
        of_profiles, fit = result.free_form.fit.converged, result.free_form.fit
        if of_profiles:
            fit = result.parametric.fit
        facts = (
            f"{'profiles, ' if of_profiles else ''}{int(fit.num_iterations)} iterations, about "
            f"{float(fit.expected_gain):.2g} nats to gain"
        )
        click.echo(
            f"scorepriors: {which}not converged ({facts}): {fit.status.sentence}; "
            f"{FIT_REMEDIES[fit.status]}.",
            err=True,
        )
        code = NOT_CONVERGED
    return code


def _print_table(result, flags, truth=None) -> None:
    """Print the sources of a scene, what their flags mean, and how the fit ended."""
    from scorepriors.inference.reports._numbers import in_digits, value_and_error

    from ._source_tables import WIDTH, flux_title, source_tables

    obs, scene = result.observation, result.free_form
    unit, factor = obs.flux_unit
    ids, found = result.positions.ids, result.photometry.scaled(factor)
    spread = result.photometry.center_covariance
    row, column = result.center.T
    facts = {
        "x": [in_digits(x, c[1, 1] ** 0.5) for x, c in zip(column, spread, strict=True)],
        "y": [in_digits(y, c[0, 0] ** 0.5) for y, c in zip(row, spread, strict=True)],
        "S/N": [f"{one:.3g}" for one in found.snr],
        "chi2": [f"{one:.2f}" for one in scene.source_chi2],
    }
    if truth is not None:
        true = [(truth.flux[k] * factor)[found.seen[k]].sum() for k in range(len(ids))]
        facts["flux / truth"] = [f"{f / t:.3f}" for f, t in zip(found.total[0], true, strict=True)]
    each = [(band, found.flux[:, b], found.error[:, b]) for b, band in enumerate(obs.bands)]
    if len(obs.bands) > 1:
        each.append(("total", *found.total))
    fluxes = {
        name: [value_and_error(f, e) for f, e in zip(flux, error, strict=True)]
        for name, flux, error in each
    }
    title = flux_title(len(ids), unit.to_string())
    common.echo_table(source_tables(title, ids, facts, fluxes, flags))
    fit = scene.fit
    state = "converged" if result.converged else "NOT converged"
    prior = (
        f"prior {result.prior_name}, sigma0 = {result.sigma0:.3g}; " if result.prior_name else ""
    )
    said = (
        f"{state} in {int(fit.num_iterations)} iterations, chi2 per pixel {scene.chi2:.3f}; "
        f"{prior}errors know shapes, neighbors and model"
    )
    common.echo_table(f"\n{textwrap.fill(said, WIDTH)}")
