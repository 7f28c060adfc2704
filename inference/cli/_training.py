"""The commands `train`, `priors` and `validate-prior`."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from scorepriors import __version__
from scorepriors._errors import InputError

from . import _common as common
from ._common import INTERRUPTED, NOT_TRUSTED, Outcome, count_option, for_scripts


@click.command()
@click.argument("config", type=click.Path())
@click.option(
    "--output", type=click.Path(), metavar="FOLDER", help="Run folder.  [default: runs/NAME]"
)
@click.option(
    "--from",
    "results",
    type=click.Path(),
    metavar="RESULTS",
    help="Folder of a deblended field: learn from its galaxies, which go to stamps.npz.",
)
@click.option(
    "--min-snr",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Smallest signal to noise of galaxies of --from.",
)
@for_scripts()
def train(config, output, results, min_snr, quiet):
    """Train a prior with the recipe CONFIG, a TOML file; resume an existing run.

    Writes images.npz (the training set), modes.npz, checkpoint.npz, confinement.npz (of the
    wall, if the recipe has one), NAME.safetensors, loss.png and samples.png to the run folder,
    and rounds/ if it learns from noisy stamps. Ctrl-C saves a checkpoint and ends.
    """
    from scorepriors.training._recipe import POPULATIONS, read_recipe

    recipe = read_recipe(config, noisy=None if results is None else "stamps.npz")
    common.prepare_jax(recipe.training.devices)
    import jax
    import numpy as np

    from scorepriors._progress import unless_quiet
    from scorepriors._zoo import load_prior, save_prior
    from scorepriors.inference.validation._cards import loss_curve_figure, sample_grid_figure
    from scorepriors.training._loop import train, training_images

    folder = Path(output) if output else Path("runs") / recipe.name
    if folder.is_file():
        raise InputError(f"{str(folder)!r} is a file; give a folder for the run (--output).")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}.") from error
    if results is not None:
        stamps = _stamps_of_results(results, folder, recipe.data.box, min_snr)
        recipe = read_recipe(config, noisy=stamps)
    start = recipe.data.start
    result = train(
        recipe,
        folder,
        start=None if start is None or start in POPULATIONS else load_prior(start),
        progress=unless_quiet(recipe.name, quiet),
    )
    if result.rounds[0] < result.rounds[1]:
        done, wanted = result.rounds
        _say_stopped(f"in round {done + 1} of {wanted}", folder)
        return Outcome(INTERRUPTED, partial(_training_facts, result, folder))
    loss_curve_figure(result.history, recipe.training.block, folder / "loss.png")
    if not result.finished:
        _say_stopped(f"at step {result.step}", folder)
        return Outcome(INTERRUPTED, partial(_training_facts, result, folder))
    weights = save_prior(
        folder / f"{recipe.name}.safetensors",
        result.prior,
        recipe,
        training={
            "seconds": round(result.seconds),
            "steps": result.step,
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
            "scorepriors": __version__,
        },
    )
    images, _ = training_images(recipe, folder)
    prior = load_prior(weights)
    samples = np.asarray(prior.sample(jax.random.key(recipe.training.seed), (64,)))
    sample_grid_figure(samples, images, folder / "samples.png", softening=recipe.stretch.softening)
    click.echo(str(weights))
    return Outcome(0, partial(_training_facts, result, folder, weights))


def _say_stopped(where: str, folder: Path) -> None:
    """Say where a run was stopped, and how it goes on."""
    click.echo(f"scorepriors: stopped {where}; the same command resumes from {folder}.", err=True)


def _training_facts(result, folder: Path, weights: Path | None = None) -> dict:
    """Return what --json says of a run: its weights are None until it is finished."""
    return {
        "output": str(folder),
        "weights": None if weights is None else str(weights),
        "finished": weights is not None,
        "steps": int(result.step),
        "seconds": round(float(result.seconds), 2),
    }


def _stamps_of_results(results: str, folder: Path, box: int, min_snr: float) -> Path:
    """Write the galaxies of a field to the run folder, once, and return the file."""
    from scorepriors._archives import read_archive, write_archive
    from scorepriors.inference.fields._stamps import open_field
    from scorepriors.inference.fields._training_stamps import field_digest, field_stamps

    path = folder / "stamps.npz"
    kind, version = "set of stamps of a field", 1
    # By its catalog: the folder may hold another run, and a run may lie in another folder.
    result = open_field(results)
    identity = json.dumps([field_digest(result), box, min_snr])
    if path.exists():
        other = (
            "another field, box or --min-snr, or to an earlier outcome of this field; train in a new "
            "folder (--output)"
        )
        read_archive(
            path, kind=kind, version=version, mend="delete it", identity=identity, other=other
        )
        return path
    found = field_stamps(result, box, min_snr=min_snr)
    write_archive(path, found, {}, kind=kind, version=version, identity=identity)
    click.echo(f"{len(found['id'])} galaxies of {results} in {path}", err=True)
    return path


@click.command()
@for_scripts("Print names alone, one a line.")
def priors(quiet):
    """List the priors that come with the package."""
    from rich.console import Console
    from rich.table import Table

    from scorepriors._zoo import list_priors

    found = list_priors()
    ended = Outcome(0, lambda: [asdict(info) | {"path": str(info.path)} for info in found])
    if quiet:
        for info in found:
            click.echo(info.name)
        return ended
    table = Table()
    for name in ("name", "box", "sigma0", "pixel", "license", "description"):
        table.add_column(name)
    for info in found:
        pixel = "" if info.pixel_scale is None else f'{info.pixel_scale:g}"'
        table.add_row(
            info.name,
            f"{info.box} x {info.box}",
            f"{info.sigma0:g}",
            pixel,
            info.license,
            info.description,
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return ended


@click.command("validate-prior")
@click.argument("name")
@count_option(
    "--num-samples",
    "--num",
    "num",
    type=click.IntRange(50),
    default=2000,
    show_default=True,
    help="Samples and held-out images.",
)
@click.option("--images", type=click.Path(), help="images.npz of the run; simulated if built in.")
@click.option(
    "--output", type=click.Path(), metavar="FOLDER", help="Folder.  [default: validation-NAME]"
)
@click.option("--force", is_flag=True, help="Replace existing results.")
@common.seed_option()
@for_scripts()
def validate(name, num, images, output, force, seed, quiet):
    """Compare samples of a prior with held-out images; write its model card.

    Exit codes: 0 all criteria are met, 2 bad input, 3 one is not (the card is written), 130
    interrupted.
    """
    common.prepare_jax()

    import jax
    import numpy as np

    from scorepriors._archives import read_arrays
    from scorepriors._files import atomic_write
    from scorepriors._progress import say, unless_quiet
    from scorepriors._zoo import load_prior, prior_recipe
    from scorepriors.inference.deblending._hdus import finite
    from scorepriors.inference.reports._outputs import check_target
    from scorepriors.inference.validation import (
        criteria,
        draw_clean_samples,
        passed,
        validate_prior,
    )
    from scorepriors.inference.validation._cards import (
        denoising_figure,
        sample_grid_figure,
        write_card,
    )
    from scorepriors.training._sets import simulate

    prior, recipe = load_prior(name), prior_recipe(name)
    own = [
        f"{recipe.name}{ending}" for ending in (".json", "-samples.png", "-denoising.png", ".md")
    ]
    folder = check_target(output or f"validation-{recipe.name}", force=force, names=own)
    data = recipe.data
    if images is not None:
        archive = read_arrays(images)
        if not {"train", "held_out"} <= set(archive):
            raise InputError(f"{images} is no images.npz of a training run.")
        train_images, held_out = archive["train"], archive["held_out"]
    elif data.set is not None:
        if not quiet:
            say("simulating the training and held-out images again ...")
        everything = simulate(
            data.set, data.num_images + data.num_held_out, box=data.box, seed=data.seed
        )
        train_images, held_out = everything[: data.num_images], everything[data.num_images :]
    else:
        raise InputError("this prior was trained on your own images; give --images RUN/images.npz.")
    folder.mkdir(parents=True, exist_ok=True)
    key = jax.random.key(seed)
    report = validate_prior(
        prior, train_images, held_out, key=key, num=num, progress=unless_quiet("validating", quiet)
    )
    atomic_write(folder / own[0], json.dumps(report, indent=1))
    samples = np.asarray(draw_clean_samples(prior, 64, key=key))
    sample_grid_figure(samples, train_images, folder / own[1], softening=recipe.stretch.softening)
    denoising_figure(report, folder / own[2])
    card = folder / own[3]
    write_card(card, name, report)
    sentences = _failures(report)
    for sentence in sentences:
        click.echo(f"scorepriors: {sentence}", err=True)
    common.echo_table(_verdict(report))
    click.echo(str(card))

    def summary():
        met = passed(report)
        found = {
            name: one._asdict() | {"value": finite(one.value), "passed": met[name]}
            for name, one in criteria(report).items()
        }
        facts = {"prior": report["prior"]["name"], "passed": all(met.values()), "criteria": found}
        return facts | {"card": str(card)}

    return Outcome(NOT_TRUSTED if sentences else 0, summary)


def _failures(report) -> list[str]:
    """Return a sentence on each criterion that a report does not meet."""
    from scorepriors.inference.validation import criteria

    return [
        f"{one.label} is {one.value:.4g}, and should be {one.comparison} {one.limit:g}."
        for one in criteria(report).values()
        if not one.passed
    ]


def _verdict(report) -> str:
    """Return a sentence on the criteria together."""
    from scorepriors.inference.validation import passed

    met = passed(report)
    if all(met.values()):
        return f"{report['prior']['name']} meets all {len(met)} criteria."
    return (
        f"{report['prior']['name']} fails {len(met) - sum(met.values())} of {len(met)} criteria, "
        "which are what a good prior of 32 x 32 pixels reaches on simulated galaxies."
    )
