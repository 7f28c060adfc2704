"""The command `sample`."""

import json
import sys
import warnings
from pathlib import Path

import click

from scorepriors._errors import InputError

from . import _common as common
from ._common import (
    INTERRUPTED,
    NOT_TRUSTED,
    REMEDIES,
    correlation_words,
    models_option,
    noise_sentence,
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
@click.option(
    "--num-chains", "--chains", type=int, help="Side by side.  [default: 8 of flow, else 4]"
)
@click.option(
    "--num-warmup",
    "--warmup",
    type=int,
    help="Draws to tune with.  [default: 80 of reduced, else 300]",
)
@click.option(
    "--num-samples",
    "--draws",
    type=int,
    help="Draws kept per chain.  [default: until the chains agree, up to 2,000]",
)
@click.option("--thinning", type=int, help="Moves per draw kept.  [default: 1]")
@click.option(
    "--target-acceptance-rate", type=float, help="To tune steps for.  [default: the algorithm's]"
)
@field_options()
@click.option("--resume", is_flag=True, help="Go on with a run that was cut short.")
@click.option("--diagnose", "diagnosed", is_flag=True, help="Also what `diagnose` does.")
def sample(
    prior_names,
    sigma,
    models,
    algorithm,
    thinning,
    target_acceptance_rate,
    rescale_noise,
    subtract_sky,
    sky,
    outliers,
    model_error,
    correlation,
    resume,
    diagnosed,
    output,
    force,
    seed,
    quiet,
    **counts,
):
    """Deblend the galaxies in FILE, and sample the posterior about the result.

    Writes posterior.nc (for ArviZ), catalog.ecsv, sources.fits, diagnostics.txt,
    report.html and scene.npz to the output folder.  While it runs, its state is kept there in
    checkpoint.npz: after Ctrl-C, or a crash, --resume continues.  Exit codes: 0 draws to be
    trusted, 2 bad input, 3 not to be trusted (results are written, with the reasons), 130
    interrupted (draws made so far are written).
    """
    given = Input.take(counts)
    if force and resume:
        raise InputError("give either --force, to start again, or --resume, to go on.")
    for name, number, least in (
        ("num_chains", counts["num_chains"], 1),
        ("thinning", thinning, 1),
        ("num_warmup", counts["num_warmup"], 20),
        ("num_samples", counts["num_samples"], 4),
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

    from scorepriors._progress import on_terminal
    from scorepriors.inference._status import record
    from scorepriors.inference.deblending._doubts import doubts
    from scorepriors.inference.deblending._sampling import (
        SCENE_ALGORITHMS,
        default_algorithm,
        sample_deblended,
    )
    from scorepriors.inference.reports._samples import SAMPLE_NAMES, write_samples
    from scorepriors.inference.sampling._diagnostics import SamplingWarning, findings

    if algorithm is not None and algorithm not in SCENE_ALGORITHMS:
        known = ", ".join(sorted(SCENE_ALGORITHMS))
        raise InputError(f"unknown --algorithm {algorithm!r}; there are {known}.")
    folder = Path(output)
    checkpoint = _checkpoint(folder, SAMPLE_NAMES, force=force, resume=resume)
    # Only a learned prior can be asked what it has made up.
    models = models or ("free-form" if diagnosed else "simplest")
    result = _deblend_one(
        given,
        prior_names,
        sigma=sigma,
        key=jax.random.key(seed),
        progress=on_terminal(True, quiet),
        models=models,
        rescale_noise=rescale_noise,
        subtract_sky=subtract_sky,
        sky=sky,
        outliers=outliers,
        model_error=model_error,
        correlation=correlation,
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
                algorithm=sampler,
                **counts,
                checkpoint=checkpoint,
                progress=on_terminal(True, quiet),
            )
    finally:
        if fresh and not any(folder.iterdir()):
            folder.rmdir()
    found = findings(tree)
    reasons = [finding.sentence(REMEDIES) for finding in found]
    # Before anything is written: all files name the options of the command.
    tree.attrs.update(record(found, bool(tree.attrs["interrupted"]), REMEDIES))
    paths = write_samples(result, tree, folder, force=force or resume, prior=prior_names)
    _print_fluxes(tree)
    if diagnosed:
        paths += diagnose_scene(folder, result, tree, seed=seed, quiet=quiet)
    for path in dict.fromkeys(paths):
        click.echo(str(path))
    reasons += doubts(result).values()
    facts = models_sentence(tree, models), noise_sentence(result), correlation_words(result)
    for sentence in [*filter(None, facts), *reasons]:
        click.echo(f"scorepriors: {sentence}", err=True)
    if tree.attrs.get("interrupted"):
        click.echo(
            f"scorepriors: interrupted after {tree.attrs['draws_kept']} draws per chain; "
            "--resume goes on.",
            err=True,
        )
        sys.exit(INTERRUPTED)
    checkpoint.unlink(missing_ok=True)
    sys.exit(NOT_TRUSTED if reasons else 0)


def models_sentence(tree, models: str) -> str:
    """Return a sentence on galaxies that are not sampled under the learned prior; empty for none.

    Parameters
    ----------
    tree
        Draws.
    models
        Models that were asked for: "simplest" or "free-form".
    """
    from scorepriors.inference.sampling._tree import group

    known = json.loads(tree.attrs.get("models", "[]"))
    ids = group(tree, "posterior")["source"].values[: len(known)]
    names = [str(name) for name, model in zip(ids, known, strict=True) if model == "profile"]
    if not names:
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


def _checkpoint(folder: Path, names, *, force: bool, resume: bool) -> Path:
    """Return the path of a run's checkpoint, after checking that its folder can be used."""
    from scorepriors.inference.reports._outputs import check_target

    check_target(folder, force=force or resume, names=names)
    path = folder / "checkpoint.npz"
    if path.exists() and not (force or resume):
        raise InputError(
            f"{path} is of a run that was cut short; use --resume to go on, or --force to start "
            "again."
        )
    if resume and not path.exists():
        raise InputError(f"there is no {path} to go on with; leave out --resume.")
    if force:
        path.unlink(missing_ok=True)
    return path


def _deblend_one(given: Input, prior_names, *, sigma, **options):
    """Return the scene to sample: one blend, without padding."""
    from scorepriors.inference.deblending._deblend import deblend, load_priors

    (obs,), (positions,), _ = given.read()
    prior = load_priors(prior_names or None, sigma=sigma, pixel_scale=obs.pixel_scale)
    result = deblend(obs, positions, prior=prior, padding=1, **options)
    if result.free_form.fit.interrupted:
        raise KeyboardInterrupt
    return result


def _print_fluxes(tree) -> None:
    from rich.console import Console
    from rich.table import Table

    from scorepriors.inference.deblending._draws import seen_flux_draws
    from scorepriors.inference.deblending._seen import total_seen
    from scorepriors.inference.reports._numbers import value_and_error

    flux = seen_flux_draws(tree)
    unit, bands = flux.attrs["unit"], [str(b) for b in flux["band"].values]
    table = Table(title=f"{flux.sizes['source']} sources, flux{f' in {unit}' if unit else ''}")
    for name in ("id", *bands, "total"):
        table.add_column(name, justify="right")
    for k, identity in enumerate(flux["source"].values):
        draws = flux.values[:, :, k].reshape(-1, len(bands))
        each = (*draws.T, total_seen(draws))
        cells = [value_and_error(d.mean(), d.std(ddof=1)) for d in each]
        table.add_row(str(identity), *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
