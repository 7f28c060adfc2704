"""The command line: deblend, sample, diagnose, simulate, evaluate, train, validate, priors.

What a command does not need it does not import; what it refuses, it refuses before
anything is compiled.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

import click

from scorepriors import __version__
from scorepriors.errors import InputError

from .evaluation_cli import evaluate, simulate

#: Exit codes: bad input, a result not to be trusted, Ctrl-C.
BAD_INPUT, NOT_CONVERGED, NOT_TRUSTED, INTERRUPTED = 2, 3, 3, 130


class _Group(click.Group):
    """Turns every expected error into one line and an exit code of its own."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"scorepriors: {error}", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("scorepriors: interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Learned galaxy priors: take blended galaxies apart."""


main.add_command(simulate)
main.add_command(evaluate)


def _prepare_jax(devices: int = 1) -> None:
    """Keep compiled programs between runs."""
    import jax

    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scorepriors" / "xla"
    cache = Path(os.environ.get("SCOREPRIORS_CACHE", default))
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a read-only home costs compilation time, not the result
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


def _scene_options(folder: str):
    """Options of every command that takes a scene apart; results go to `folder`."""
    options = (
        click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]..."),
        click.option("--example", is_flag=True, help="Use the embedded blend instead of a file."),
        click.option(
            "--catalog", type=click.Path(), help="Positions: x, y (0-based) or ra, dec."
        ),
        click.option("--psf", type=click.Path(), help="PSF images, if the file has none."),
        click.option("--index", type=int, help="Which blend of a stacked npz set."),
        click.option(
            "--with", "others", type=click.Path(), multiple=True, metavar="FILE",
            help="Another observation of the same sky (other pixels, PSFs, bands), fitted "
            "jointly; may be given again.",
        ),
        click.option(
            "--prior", "prior_names", multiple=True, metavar="NAME",
            help="Name or .safetensors file; twice for small and large galaxies.  [default: the "
            "shipped ones with the nearest pixels]",
        ),
        click.option("--sigma", type=float, help="Noise level sigma0 of the prior."),
        click.option(
            "--output", type=click.Path(), default=folder, show_default=True,
            help="Folder for the results.",
        ),
        click.option("--force", is_flag=True, help="Replace existing results."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--quiet", is_flag=True, help="No progress bars."),
    )  # fmt: skip

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _read_scenes(files, example, each, catalog, psf, index, others):
    """Observations, the positions that go with them, and the truth of the example."""
    from scorepriors.models.example import load_example
    from scorepriors.models.observation import Observation
    from scorepriors.models.positions import read_positions

    truth = None
    if example:
        obs, truth = load_example()
        observations = [obs]
    else:
        # Without --each several files are the bands of one blend.
        scenes = files if each else [files[0] if len(files) == 1 else list(files)]
        observations = [Observation.read(scene, psf=psf, index=index) for scene in scenes]
    if others:
        from scorepriors.models.joint import join_observations

        observations = [join_observations(observations[0], *map(Observation.read, others))]
    sources = [obs.catalog if catalog is None else catalog for obs in observations]
    positions = [
        None if source is None else read_positions(source, obs)
        for source, obs in zip(sources, observations, strict=True)
    ]
    return observations, positions, truth


@main.command()
@_scene_options("deblended")
@click.option("--each", is_flag=True, help="Every FILE is a blend of its own; a folder for each.")
@click.option("--max-iterations", type=click.IntRange(1), default=300, show_default=True)
@click.option("--diagnose", "diagnosed", is_flag=True, help="Also what `diagnose` does.")
def deblend(files, example, each, catalog, psf, index, others, prior_names, sigma, output, force,
            max_iterations, diagnosed, seed, quiet):  # fmt: skip
    """Take the galaxies in FILE apart (FITS or npz; or one FITS file per band).

    Writes catalogue.ecsv, sources.fits, report.png, summary.json and scene.npz to the
    output folder.  With --each every FILE is a blend, they are fitted side by side, and the
    results go to one folder per file within the output folder.  Exit codes: 0 done, 2
    bad input, 3 not converged (results are written).
    """
    started = time.monotonic()
    if example == bool(files):
        raise InputError("give either FILE or --example.")
    if each and (example or others):
        raise InputError(
            f"--each goes with files, not with {'--example' if example else '--with'}."
        )
    targets = _folders(files, output) if each else [output]
    _prepare_jax()
    from .outputs import check_target, write_outputs

    for target in targets:
        check_target(target, force=force)
    import jax

    from scorepriors.zoo import priors_for

    from .deblending import SIDE_BY_SIDE, deblend_many, load_priors

    observations, positions, truth = _read_scenes(files, example, each, catalog, psf, index, others)
    prior = load_priors(prior_names or priors_for(observations[0].pixel_scale), sigma=sigma)
    results = deblend_many(
        observations, positions, prior=prior, key=jax.random.key(seed),
        max_iterations=max_iterations, progress=not quiet and sys.stderr.isatty(),
        side_by_side=1 if len(observations) == 1 else SIDE_BY_SIDE,
    )  # fmt: skip
    seconds = (time.monotonic() - started) / len(observations)
    for result, target in zip(results, targets, strict=True):
        if result is None:
            continue
        paths = write_outputs(
            result, target, force=force, seed=seed, total_seconds=seconds, prior=prior_names
        )
        _print_table(result, truth)
        if diagnosed:
            paths += _diagnose(target, result, None, seed=seed, quiet=quiet)
        for path in dict.fromkeys(paths):
            click.echo(str(path))
    sys.exit(_verdict(results, targets))


def _folders(files, output) -> list[Path]:
    """One folder per file, named after it."""
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
    """Say what went wrong, and choose the exit code."""
    finished = [r for r in results if r is not None]
    if len(finished) < len(results) or any(r.free_form.fit.interrupted for r in finished):
        kept = (
            "the results are those reached so far"
            if len(results) == 1
            else f"{len(finished)} of {len(results)} blends are done"
        )
        click.echo(f"scorepriors: interrupted; {kept}.", err=True)
        return INTERRUPTED
    code = 0
    for result, target in zip(results, targets, strict=True):
        if result.converged:
            continue
        fit = result.free_form.fit
        which = "" if len(results) == 1 else f"{target}: "
        click.echo(
            f"scorepriors: {which}not converged after {int(fit.num_iterations)} iterations (about "
            f"{float(fit.expected_gain):.2g} nats to gain); raise --max-iterations.",
            err=True,
        )
        code = NOT_CONVERGED
    return code


def _print_table(result, truth=None) -> None:
    from rich.console import Console
    from rich.table import Table

    obs = result.observation
    unit, factor = obs.flux_unit
    table = Table(title=f"{len(result.positions.ids)} sources, flux in {unit}")
    for name in ("id", "x", "y", *obs.bands, "chi2"):
        table.add_column(name, justify="right")
    if truth is not None:
        table.add_column("total / truth", justify="right")
    scene = result.free_form
    for k, identity in enumerate(result.positions.ids):
        flux, error = scene.flux[k] * factor, scene.flux_error[k] * factor
        cells = [f"{f:.4g} ± {e:.2g}" for f, e in zip(flux, error, strict=True)]
        row, column = result.center[k]
        cells = [identity, f"{column:.2f}", f"{row:.2f}", *cells, f"{scene.source_chi2[k]:.2f}"]
        if truth is not None:
            cells.append(f"{scene.flux[k].sum() / truth.flux[k].sum():.3f}")
        table.add_row(*cells)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    fit = scene.fit
    state = "converged" if result.converged else "NOT converged"
    console.print(
        f"{state} in {int(fit.num_iterations)} iterations, chi2 per pixel {scene.chi2:.3f}; "
        f"prior {result.prior_name}, sigma0 = {float(result.prior.sigma):.3g}; "
        f"errors hold the shapes fixed",
        highlight=False,
    )


@main.command()
@_scene_options("sampled")
@click.option(
    "--algorithm", default="dynamic_hmc", show_default=True,
    help="How chains move; flow is the one for faint sources.",
)  # fmt: skip
@click.option("--chains", type=int, default=4, show_default=True)
@click.option("--warmup", type=int, default=300, show_default=True, help="Draws to tune with.")
@click.option("--draws", type=int, default=500, show_default=True, help="Draws kept per chain.")
@click.option("--thinning", type=int, default=1, show_default=True, help="Moves per draw kept.")
@click.option(
    "--target-acceptance-rate", type=float, help="To tune steps for.  [default: the algorithm's]"
)
@click.option("--resume", is_flag=True, help="Go on with a run that was cut short.")
@click.option("--diagnose", "diagnosed", is_flag=True, help="Also what `diagnose` does.")
def sample(files, example, catalog, psf, index, others, prior_names, sigma, algorithm, chains, warmup,
           draws, thinning, target_acceptance_rate, resume, diagnosed, output, force, seed,
           quiet):  # fmt: skip
    """Take the galaxies in FILE apart, and sample the posterior about the result.

    Writes posterior.nc (for ArviZ), catalogue.ecsv, sources.fits, diagnostics.txt,
    report.html and scene.npz to the output folder.  While it runs, its state is kept there in
    checkpoint.npz: after Ctrl-C, or a crash, --resume goes on.  Exit codes: 0 draws to be
    trusted, 2 bad input, 3 not to be trusted (results are written, with the reasons), 130
    interrupted (draws made so far are written).
    """
    if example == bool(files):
        raise InputError("give either FILE or --example.")
    if force and resume:
        raise InputError("give either --force, to start again, or --resume, to go on.")
    for option, number, least in (
        ("chains", chains, 1),
        ("thinning", thinning, 1),
        ("warmup", warmup, 20),
        ("draws", draws, 4),
    ):
        if number < least:
            raise InputError(f"--{option} must be at least {least}, got {number}.")
    rate = target_acceptance_rate
    if rate is not None and not 0 < rate < 1:
        raise InputError(f"--target-acceptance-rate must be between 0 and 1, got {rate:g}.")
    _prepare_jax()
    import jax

    from .sampling.algorithms import ALGORITHMS
    from .sampling.diagnostics import SamplingWarning, said
    from .sampling.results import SAMPLE_NAMES, write_samples
    from .sampling.scene import sample_deblended

    known = sorted([*ALGORITHMS, "flow"])
    if algorithm not in known:
        raise InputError(f"unknown --algorithm {algorithm!r}; there are {', '.join(known)}.")
    folder = Path(output)
    checkpoint = _checkpoint(folder, SAMPLE_NAMES, force=force, resume=resume)
    result = _deblend_one(
        files, example, catalog, psf, index, others, prior_names, sigma, seed, not quiet
    )  # fmt: skip
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            # They are told below, and in every result file.
            warnings.filterwarnings("ignore", category=SamplingWarning)
            tree = sample_deblended(
                result, key=jax.random.key(seed), algorithm=algorithm, num_warmup=warmup,
                num_samples=draws, num_chains=chains, thinning=thinning,
                target_acceptance_rate=target_acceptance_rate, checkpoint=checkpoint,
                progress=not quiet and sys.stderr.isatty(),
            )  # fmt: skip
    finally:
        if fresh and not any(folder.iterdir()):
            folder.rmdir()
    reasons = [_as_options(sentence) for sentence in said(tree)]
    # Before anything is written: every file of a command speaks of its options.
    tree.attrs["warnings"] = json.dumps(reasons)
    paths = write_samples(result, tree, folder, force=force or resume, prior=prior_names)
    _print_fluxes(tree)
    if diagnosed:
        paths += _diagnose(folder, result, tree, seed=seed, quiet=quiet)
    for path in dict.fromkeys(paths):
        click.echo(str(path))
    for sentence in reasons:
        click.echo(f"scorepriors: {sentence}", err=True)
    if tree.attrs.get("interrupted"):
        click.echo(
            f"scorepriors: interrupted after {tree.attrs['draws_kept']} of {draws} draws per chain; "
            "--resume goes on.",
            err=True,
        )
        sys.exit(INTERRUPTED)
    checkpoint.unlink(missing_ok=True)
    sys.exit(NOT_TRUSTED if reasons else 0)


#: Arguments that the checks of draws advise to change, and the options that do.
_OPTIONS = {
    "num_warmup": "--warmup",
    "num_samples": "--draws",
    "num_chains=": "--chains ",
    "thinning": "--thinning",
    "target_acceptance_rate": "--target-acceptance-rate",
}


def _as_options(sentence: str) -> str:
    """A sentence for those who run the command: arguments are options."""
    for argument, option in _OPTIONS.items():
        sentence = sentence.replace(argument, option)
    return sentence


def _checkpoint(folder: Path, names, *, force: bool, resume: bool) -> Path:
    """Where the state of a run is kept; checks that the run may use its folder."""
    from .outputs import check_target

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


def _deblend_one(
    files, example, catalog, psf, index, others, prior_names, sigma, seed, progress
):  # fmt: skip
    """The scene to sample: one blend, without padding."""
    import jax

    from scorepriors.zoo import priors_for

    from .deblending import deblend, load_priors

    (obs,), (positions,), _ = _read_scenes(files, example, False, catalog, psf, index, others)
    prior = load_priors(prior_names or priors_for(obs.pixel_scale), sigma=sigma)
    result = deblend(
        obs, positions, prior=prior, key=jax.random.key(seed), padding=1,
        progress=progress and sys.stderr.isatty(),
    )  # fmt: skip
    if result.free_form.fit.interrupted:
        raise KeyboardInterrupt
    return result


def _print_fluxes(tree) -> None:
    from rich.console import Console
    from rich.table import Table

    from .sampling.fluxes import flux_draws
    from .sampling.page import in_digits

    flux = flux_draws(tree)
    unit, bands = flux.attrs["unit"], [str(b) for b in flux["band"].values]
    table = Table(title=f"{flux.sizes['source']} sources, flux{f' in {unit}' if unit else ''}")
    for name in ("id", *bands, "total"):
        table.add_column(name, justify="right")
    for k, identity in enumerate(flux["source"].values):
        draws = flux.values[:, :, k].reshape(-1, len(bands))
        cells = [
            f"{in_digits(d.mean(), d.std(ddof=1))} ± {in_digits(d.std(ddof=1), d.std(ddof=1))}"
            for d in (*draws.T, draws.sum(1))
        ]
        table.add_row(str(identity), *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@main.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option("--force", is_flag=True, help="Replace a diagnosis that is there.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def diagnose(folder, force, seed, quiet):
    """Say what the prior made up in the results that `deblend` or `sample` wrote to DIR.

    Writes hallucination.fits and hallucination.png, gives catalogue.ecsv the columns
    gamma, data_share, degrees_of_freedom, typicality, flux_err_free_total and more words
    in flags, and, where there are chains, report.html a section.
    """
    from .outputs import check_target

    path = Path(folder)
    if not path.is_dir():
        raise InputError(
            f"there is no folder {folder!r}; give one that `deblend` or `sample` wrote."
        )
    _prepare_jax()
    from .diagnosis import DIAGNOSIS_NAMES
    from .sampling.tree import load_tree
    from .scene_file import load_scene

    check_target(path, force=force, names=DIAGNOSIS_NAMES)
    result = load_scene(path)
    chains = path / "posterior.nc"
    tree = load_tree(chains) if chains.exists() else None
    for written in _diagnose(path, result, tree, seed=seed, quiet=quiet):
        click.echo(str(written))


def _diagnose(folder, result, tree, *, seed, quiet) -> list[Path]:
    """Diagnose a scene, write what was found, and say it."""
    import jax

    from ._progress import bar_on_terminal
    from .diagnosis import diagnose, write_diagnosis
    from .sampling.diagnostics import SamplingWarning

    with warnings.catch_warnings(), bar_on_terminal("diagnose", 1, quiet) as update:
        # That the curvature is not that of a mode is told by a flag.
        warnings.filterwarnings("ignore", category=SamplingWarning)
        found = diagnose(
            result, tree, key=jax.random.key(seed),
            progress=lambda done, total, text: update(done, text, total),
        )  # fmt: skip
    extra = {}
    if tree is not None:
        from .diagnosis_figures import report_section
        from .sampling.page import report_page

        page = report_page(result, tree, more=[report_section(found)])
        extra["report.html"] = lambda path: path.write_text(page, encoding="utf-8")
    paths = write_diagnosis(found, folder, force=True, extra=extra)
    _print_diagnosis(found)
    return paths


def _print_diagnosis(found) -> None:
    from rich.console import Console
    from rich.table import Table

    from .diagnosis import FLAGS, source_flags

    table = Table(title="What the prior made up")
    for name in ("id", "gamma", "data share of flux", "degrees of freedom", "typicality", "flags"):
        table.add_column(name, justify="right")
    maps, flags = found.maps, source_flags(found)
    for k, identity in enumerate(str(i) for i in maps["source"].values):
        table.add_row(
            identity, f"{float(maps['gamma'][k]):.3g}", f"{float(maps['flux_share'][k]):.0%}",
            f"{float(maps['degrees_of_freedom'][k]):.0f}", f"{found.typicality[identity]:.3f}",
            ", ".join(flags[identity]) or "ok",
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if found.laplace_ratio is not None:
        ratios = ", ".join(
            f"{identity} {ratio:.2f}"
            for identity, ratio in zip(found.result.positions.ids, found.laplace_ratio, strict=True)
        )
        console.print(f"flux errors, Laplace over chains: {ratios}", highlight=False)
    for word in dict.fromkeys(word for words in flags.values() for word in words):
        console.print(f"{word}: {FLAGS[word]}", highlight=False)


@main.command()
@click.argument("config", type=click.Path())
@click.option("--output", type=click.Path(), help="Run folder.  [default: runs/NAME]")
def train(config, output):
    """Train a prior as the TOML file CONFIG says; resumes a run it finds.

    Writes images.npz (the training set), checkpoint.npz, NAME.safetensors, loss.png
    and samples.png to the run folder.  Ctrl-C saves a checkpoint and ends.
    """
    from scorepriors.recipe import read_recipe

    recipe = read_recipe(config)
    _prepare_jax(recipe.training.devices)
    import jax
    import numpy as np

    from scorepriors.cards import loss_curve_figure, sample_grid_figure
    from scorepriors.training import LOSS_BINS, train, training_images
    from scorepriors.zoo import load_prior, save_prior

    from ._progress import bar

    folder = Path(output) if output else Path("runs") / recipe.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r}: {error.strerror}.") from error
    if recipe.data.set is not None and not (folder / "images.npz").exists():
        total = recipe.data.num_images + recipe.data.num_held_out
        with bar("simulating", total) as update:
            images, _ = training_images(recipe, folder, lambda done, total: update(done))
    with bar(recipe.name, recipe.training.steps + recipe.confinement.steps) as update:

        def report(step, total, losses):
            centres = np.sqrt(np.asarray(LOSS_BINS[:-1]) * np.asarray(LOSS_BINS[1:]))
            text = "  ".join(f"{s:.2g}: {v:.3f}" for s, v in zip(centres, losses, strict=True))
            update(step, f"loss at sigma {text}")

        result = train(recipe, folder, progress=report)
    loss_curve_figure(result.history, recipe.training.block, folder / "loss.png")
    if not result.finished:
        click.echo(f"stopped at step {result.step}; the same command resumes from {folder}.")
        sys.exit(INTERRUPTED)
    weights = save_prior(
        folder / f"{recipe.name}.safetensors", result.energy, recipe,
        training={"seconds": round(result.seconds), "steps": result.step,
                  "device": jax.devices()[0].device_kind, "jax": jax.__version__,
                  "scorepriors": __version__},
    )  # fmt: skip
    images, _ = training_images(recipe, folder)
    prior = load_prior(weights)
    samples = np.asarray(prior.sample(jax.random.key(recipe.training.seed), (64,)))
    sample_grid_figure(samples, images, folder / "samples.png", softening=recipe.stretch.softening)
    click.echo(str(weights))


@main.command()
def priors():
    """List the priors that come with the package."""
    from rich.console import Console
    from rich.table import Table

    from scorepriors.zoo import list_priors

    table = Table()
    for name in ("name", "box", "sigma0", "pixel", "licence", "description"):
        table.add_column(name)
    for info in list_priors():
        pixel = "" if info.pixel_scale is None else f'{info.pixel_scale:g}"'
        table.add_row(
            info.name, f"{info.box} x {info.box}", f"{info.sigma0:g}", pixel, info.licence,
            info.description,
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@main.command("validate-prior")
@click.argument("name")
@click.option(
    "--num",
    type=click.IntRange(50),
    default=2000,
    show_default=True,
    help="Samples and held-out images.",
)
@click.option("--images", type=click.Path(), help="images.npz of the run; simulated if built in.")
@click.option("--output", type=click.Path(), help="Folder.  [default: validation-NAME]")
@click.option("--seed", type=int, default=0, show_default=True)
def validate_prior_command(name, num, images, output, seed):
    """Compare samples of a prior with held-out images; write its model card."""
    _prepare_jax()
    import json

    import jax
    import numpy as np

    from scorepriors._files import atomic_write
    from scorepriors.cards import denoising_figure, sample_grid_figure, write_card
    from scorepriors.training_sets import simulate
    from scorepriors.validation import draw_clean_samples, validate_prior
    from scorepriors.zoo import load_prior, prior_recipe

    from ._progress import console

    prior, recipe = load_prior(name), prior_recipe(name)
    data = recipe.data
    if images is not None:
        try:
            with np.load(images, allow_pickle=False) as archive:
                train_images, held_out = archive["train"], archive["held_out"]
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{images} is no images.npz of a training run: {error}.") from error
    elif data.set is not None:
        console.print("simulating the training and held-out images again ...")
        everything = simulate(data.set, data.num_images + data.num_held_out,
                              box=data.box, seed=data.seed)  # fmt: skip
        train_images, held_out = everything[: data.num_images], everything[data.num_images :]
    else:
        raise InputError("this prior was trained on your own images; give --images RUN/images.npz.")
    folder = Path(output) if output else Path(f"validation-{recipe.name}")
    folder.mkdir(parents=True, exist_ok=True)
    key = jax.random.key(seed)
    report = validate_prior(
        prior, train_images, held_out, key=key, num=num,
        progress=lambda part: console.print(f"  {part}"),
    )  # fmt: skip
    atomic_write(folder / f"{recipe.name}.json", json.dumps(report, indent=1))
    samples = np.asarray(draw_clean_samples(prior, 64, key=key))
    sample_grid_figure(samples, train_images, folder / f"{recipe.name}-samples.png",
                       softening=recipe.stretch.softening)  # fmt: skip
    denoising_figure(report, folder / f"{recipe.name}-denoising.png")
    card = folder / f"{recipe.name}.md"
    write_card(card, name, report)
    click.echo(str(card))


if __name__ == "__main__":
    main()
