"""The command `sample`."""

import json
import warnings
from pathlib import Path

import click

from scorepriors._errors import InputError

from . import _common as common
from ._common import (
    INTERRUPTED,
    NOT_TRUSTED,
    REMEDIES,
    Outcome,
    count_option,
    for_scripts,
    model_options,
    models_option,
    scene_options,
)
from ._diagnosis import diagnose_scene
from ._input import Input, field_options


@click.command()
@scene_options("sampled")
@models_option("simplest; free-form with --diagnose")
@click.option(
    "--algorithm",
    help="How chains move: reduced, flow, nuts, hmc, dynamic_hmc, adjusted_mclmc or mclmc.  "
    "[default: reduced without free forms; else flow if a source is faint (S/N below 40), else "
    "dynamic_hmc]",
)
@count_option(
    "--num-chains", "--chains", type=int, help="Side by side.  [default: 8 of flow, else 4]"
)
@count_option(
    "--num-warmup",
    "--warmup",
    type=int,
    help="Draws to tune with.  [default: 80 of reduced, else 300]",
)
@count_option(
    "--num-samples",
    "--draws",
    type=int,
    help="Draws kept per chain.  [default: until the chains agree, up to 2,000]",
)
@click.option("--thinning", type=int, help="Moves per draw kept.  [default: 1]")
@click.option(
    "--target-acceptance-rate", type=float, help="To tune steps for.  [default: the algorithm's]"
)
@model_options
@field_options()
@click.option("--resume", is_flag=True, help="Go on with a run that was cut short, or start one.")
@click.option("--diagnose", "diagnosed", is_flag=True, help="Also what `diagnose` does.")
@for_scripts()
def sample(
    prior_names,
    sigma,
    models,
    algorithm,
    num_chains,
    num_warmup,
    num_samples,
    thinning,
    target_acceptance_rate,
    resume,
    diagnosed,
    output,
    force,
    seed,
    quiet,
    **options,
):
    """Deblend the galaxies in FILE, and sample the posterior about the result.

    Writes posterior.nc (for ArviZ), catalog.ecsv, sources.fits, diagnostics.txt,
    report.html and scene.npz to the output folder, and light_curves.ecsv with --variable.  While it
    runs, its state is kept there in checkpoint.npz: after Ctrl-C, or a crash, --resume continues.
    Exit codes: 0 draws to be trusted, 2 bad input, 3 not to be trusted (results are written, with
    the reasons), 130 interrupted (draws made so far are written).
    """
    given = Input.take(options)
    if force and resume:
        raise InputError("give either --force, to start again, or --resume, to go on.")
    for name, number, least in (
        ("num_chains", num_chains, 1),
        ("thinning", thinning, 1),
        ("num_warmup", num_warmup, 20),
        ("num_samples", num_samples, 4),
    ):
        if number is not None and number < least:
            option = "--" + "-".join(name.split("_"))
            raise InputError(f"{option} must be at least {least}, got {number}.")
    rate = target_acceptance_rate
    if rate is not None and not 0 < rate < 1:
        raise InputError(f"--target-acceptance-rate must be between 0 and 1, got {rate:g}.")
    common.prepare_jax()
    common.leave_to_doubts()
    import jax

    from scorepriors._progress import unless_quiet
    from scorepriors.inference._status import record
    from scorepriors.inference.deblending._catalog import flag_words
    from scorepriors.inference.deblending._doubts import doubts_of_draws
    from scorepriors.inference.deblending._notes import notes_of_draws
    from scorepriors.inference.deblending._sampling import (
        SCENE_ALGORITHMS,
        default_algorithm,
        sample_deblended,
    )
    from scorepriors.inference.reports._samples import SAMPLE_NAMES, sample_summary, write_samples
    from scorepriors.inference.sampling._diagnostics import SamplingWarning, findings

    if algorithm is not None and algorithm not in SCENE_ALGORITHMS:
        known = ", ".join(sorted(SCENE_ALGORITHMS))
        raise InputError(f"unknown --algorithm {algorithm!r}; there are {known}.")
    folder = Path(output)
    checkpoint, replace = _checkpoint(folder, SAMPLE_NAMES, force=force, resume=resume)
    if diagnosed and models == "profiles":
        raise InputError(common.NOTHING_TO_DIAGNOSE)
    # Only a learned prior can be asked what it has made up.
    models = models or ("free-form" if diagnosed else "simplest")
    result = _deblend_one(
        given,
        prior_names,
        sigma=sigma,
        key=jax.random.key(seed),
        progress=unless_quiet(True, quiet),
        models=models,
        **options,
    )
    algorithm = default_algorithm(result) if algorithm is None else algorithm
    # Settings that are not given are the sampler's defaults.
    settings = {"thinning": thinning, "target_acceptance_rate": rate}
    sampler = SCENE_ALGORITHMS[algorithm](**{n: v for n, v in settings.items() if v is not None})
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            # Warnings are printed below, and written to every result file.
            warnings.filterwarnings("ignore", category=SamplingWarning)
            tree = sample_deblended(
                result,
                key=jax.random.key(seed),
                models="given",
                algorithm=sampler,
                num_chains=num_chains,
                num_warmup=num_warmup,
                num_samples=num_samples,
                checkpoint=checkpoint,
                progress=unless_quiet(True, quiet),
            )
    finally:
        if fresh and not any(folder.iterdir()):
            folder.rmdir()
    found = findings(tree)
    reasons = [finding.sentence(REMEDIES) for finding in found]
    # Before anything is written: all files name the options of the command.
    tree.attrs.update(record(found, bool(tree.attrs["interrupted"]), REMEDIES))
    paths = write_samples(result, tree, folder, force=replace, prior=prior_names)
    _print_fluxes(tree, flag_words(result))
    if diagnosed:
        paths += diagnose_scene(folder, result, tree, seed=seed, quiet=quiet)[1]
    for path in dict.fromkeys(paths):
        click.echo(str(path))
    reasons += doubts_of_draws(tree).values()
    common.say_notes([*filter(None, [models_sentence(tree, models)]), *notes_of_draws(tree)])
    for sentence in reasons:
        click.echo(f"scorepriors: {sentence}", err=True)

    def summary():
        return {"output": str(folder), **sample_summary(tree)}

    if tree.attrs.get("interrupted"):
        click.echo(
            f"scorepriors: interrupted after {tree.attrs['draws_kept']} draws per chain; "
            "--resume goes on.",
            err=True,
        )
        return Outcome(INTERRUPTED, summary)
    checkpoint.unlink(missing_ok=True)
    return Outcome(NOT_TRUSTED if reasons else 0, summary)


def models_sentence(tree, models: str) -> str:
    """Return a sentence on galaxies that are not sampled under the learned prior; empty for none.

    Parameters
    ----------
    tree
        Draws.
    models
        Models that were asked for: "simplest", "free-form" or "profiles".
    """
    from scorepriors.inference.sampling._tree import group

    known = json.loads(tree.attrs.get("models", "[]"))
    ids = group(tree, "posterior")["source"].values[: len(known)]
    names = [str(name) for name, model in zip(ids, known, strict=True) if model == "profile"]
    if not names or models == "profiles":
        return ""
    listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    what = (
        "source {} is sampled as the profile that explains it"
        if len(names) == 1
        else ("sources {} are sampled as the profiles that explain them")
    )
    if models == "free-form":
        return f"{what.format(listed)}: no box of a learned prior holds the light."
    return (
        f"{what.format(listed)}; --models free-form takes the learned prior for all galaxies that "
        "its boxes hold."
    )


def _checkpoint(folder: Path, names, *, force: bool, resume: bool) -> tuple[Path, bool]:
    """Return the path of a run's checkpoint, and whether results may be replaced.

    Those of a run that is finished, which has no checkpoint, are not for --resume to replace.
    """
    from scorepriors.inference.reports._outputs import check_target

    path = folder / "checkpoint.npz"
    replace = force or (resume and path.exists())
    check_target(folder, force=replace, names=names)
    if path.exists() and not replace:
        raise InputError(
            f"{path} is of a run that was cut short; use --resume to go on, or --force to start "
            "again."
        )
    if force:
        path.unlink(missing_ok=True)
    if resume and not replace:
        common.say_start(path)
    return path, replace


def _deblend_one(given: Input, prior_names, *, sigma, **options):
    """Return the scene to sample: one blend, without padding."""
    from scorepriors.inference.deblending._deblend import deblend, load_priors

    (obs,), (positions,), _ = given.read()
    prior = load_priors(prior_names or None, sigma=sigma, pixel_scale=obs.pixel_scale)
    result = deblend(obs, positions, prior=prior, padding=1, **options)
    if result.free_form.fit.interrupted:
        raise KeyboardInterrupt
    return result


def _print_fluxes(tree, flags) -> None:
    """Print the fluxes of the draws, and what the flags of the sources mean."""
    from scorepriors.inference.deblending._draws import seen_flux_draws
    from scorepriors.inference.deblending._seen import total_seen
    from scorepriors.inference.reports._numbers import value_and_error

    from ._source_tables import flux_title, source_tables

    flux = seen_flux_draws(tree)
    bands = [str(b) for b in flux["band"].values]
    draws = flux.values.reshape(-1, *flux.shape[2:])
    each = {band: draws[..., b] for b, band in enumerate(bands)} | {"total": total_seen(draws)}
    fluxes = {
        name: [value_and_error(one.mean(), one.std(ddof=1)) for one in own.T]
        for name, own in each.items()
    }
    ids = [str(one) for one in flux["source"].values]
    title = flux_title(len(ids), str(flux.attrs["unit"]))
    common.echo_table(source_tables(title, ids, {}, fluxes, flags))
