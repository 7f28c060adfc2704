"""Common parts of commands: exit codes, options of a scene, and reading of files."""

import contextlib
import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from scorepriors._errors import InputError
from scorepriors.inference._status import Check, FitStatus
from scorepriors.inference.deblending import _defaults as defaults

from ._input import input_options

#: Exit codes: bad input, an unconverged or unreliable result, Ctrl-C.
BAD_INPUT, NOT_CONVERGED, NOT_TRUSTED, INTERRUPTED = 2, 3, 3, 130


#: Remedies for failed checks and unconverged fits, in terms of the command line.
REMEDIES = {
    Check.CHAINS_DISAGREE: "raise --num-warmup and --num-samples; if it stays, the posterior may "
    "have several modes",
    Check.CHAIN_STUCK: "raise --num-warmup, and check the data there",
    Check.NO_CHAIN_MOVED: "check the data for bad pixels and weights, or try another --algorithm",
    Check.ONE_CHAIN: "use --num-chains 4",
    Check.FEW_DRAWS: "raise --num-samples or --thinning",
    Check.NOT_THE_DENSITY: "raise --num-warmup and --num-samples",
    Check.DIVERGENCES: "raise --target-acceptance-rate, or try another --algorithm",
    Check.ENERGY: "raise --num-warmup, or try another --algorithm",
    Check.LONG_TREES: "raise --num-warmup",
    Check.NOT_GAUSSIAN: "run scorepriors sample",
}
FIT_REMEDIES = {
    FitStatus.OUT_OF_ITERATIONS: "raise --max-iterations",
    FitStatus.DENSITY_BROKE: "check the data for bad pixels and weights",
}


class Outcome(NamedTuple):
    """How a command has ended.

    Attributes
    ----------
    code
        Exit code.
    summary
        Function that returns the summary for --json; None if there is no result.
    """

    code: int
    summary: Callable[[], Any] | None


#: What --quiet leaves of what most commands print.
QUIET = "No progress and no tables: print names of files alone."


def quiet_option(text: str = QUIET):
    """Return the option --quiet; `text` says what is still printed to stdout."""
    return click.option("--quiet", is_flag=True, help=text)


def for_scripts(quiet: str = QUIET):
    """Return what adds the options --quiet and --json to a command that returns an `Outcome`.

    With --json nothing but the summary goes to stdout: what the command prints goes to stderr.

    Parameters
    ----------
    quiet
        What --quiet leaves.
    """

    def decorate(command):
        @quiet_option(quiet)
        @click.option(
            "--json", "as_json", is_flag=True, help="Print the summary as JSON, all else on stderr."
        )
        @functools.wraps(command)
        def run(*arguments, as_json, **options):
            with stdout_for_json(as_json) as show:
                outcome = command(*arguments, **options)
                if as_json and outcome.summary is not None:
                    show(outcome.summary())
            sys.exit(outcome.code)

        return run

    return decorate


def is_quiet() -> bool:
    """Return whether the running command was told to be quiet."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get("quiet"))


def echo_table(text: str) -> None:
    """Print a table, or other words for people, unless the command is to be quiet."""
    if not is_quiet():
        click.echo(text)


@contextlib.contextmanager
def stdout_for_json(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Yield a function that prints JSON to stdout, while all that is printed goes to stderr.

    Without `as_json` everything goes where it went, and the function does nothing.
    """
    if not as_json:
        yield lambda facts: None
        return
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        yield lambda facts: print(json.dumps(facts, indent=2, allow_nan=False), file=stdout)


def written_summary(folder: str | Path) -> dict[str, Any]:
    """Return the summary that was written to a folder, with its name."""
    facts = json.loads((Path(folder) / "summary.json").read_text())
    return {"output": str(folder), **facts}


class OptionOfOldNames(click.Option):
    """An option whose names after the first are those of earlier versions, which no help shows."""

    def get_help_record(self, ctx):
        """Return the help of the first name."""
        names, self.opts = self.opts, self.opts[:1]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = names


def count_option(*names, **attributes):
    """Return an option for a number of things, which has had the names after the first."""
    return click.option(*names, cls=OptionOfOldNames, **attributes)


def seed_option(text: str = "Of random numbers."):
    """Return the option for the seed."""
    return click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help=text)


def prepare_jax(devices: int = 1) -> None:
    """Enable the cache of compiled programs, and set the number of devices."""
    import jax

    from scorepriors._programs import keep_programs

    if keep_programs() and devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


def fit_option(name: str, **attributes):
    """Return an option for a field of `Options`, with the field's default."""
    default = getattr(defaults, name.removeprefix("--").replace("-", "_").upper())
    return click.option(name, default=default, show_default=True, **attributes)


#: Names of parametric profiles, as in `scorepriors.inference.deblending._options`.
PROFILES = ("bulge-disk", "sersic", "two-color")


def profile_option():
    """Return the option for the profile of parametric galaxies."""
    text = (
        "Parametric galaxies: bulges and disks, Sersic profiles of free index, or bulges and disks "
        "with a spectrum each."
    )
    return fit_option("--profile", type=click.Choice(PROFILES), help=text)


#: Models of galaxies, as in `scorepriors.inference.deblending._options`.
MODELS = ("simplest", "free-form", "profiles")


#: What is wrong with --diagnose where no source has a free form.
NOTHING_TO_DIAGNOSE = (
    "--diagnose asks what the learned prior has made up, and --models profiles does without it; leave "
    "out one of them."
)


def models_option(default: str):
    """Return the option for the models of galaxies; `default` says in words what they are without it."""
    text = (
        "simplest: galaxies keep their bulge and disk unless the data refuse it.  free-form: all are "
        f"images under the learned prior.  profiles: none is.  [default: {default}]"
    )
    return click.option("--models", type=click.Choice(MODELS), help=text)


#: Variances of the pixels, as in `scorepriors.inference.deblending._options`.
NOISES = ("auto", "file")


def noise_option():
    """Return the option for the variances of the pixels."""
    text = (
        "Variances: the file's, or where they follow the noise of their own pixels with the noise "
        "of sources from the model."
    )
    return click.option(
        "--variances",
        "noise",
        default=defaults.NOISE,
        show_default=True,
        type=click.Choice(NOISES),
        help=text,
    )


def model_options(command):
    """Add the options of `deblend` and `sample` that say what is fitted: profiles, variances, epochs."""
    options = (
        profile_option(),
        fit_option("--max-iterations", type=click.IntRange(1), help="Most iterations of each fit."),
        noise_option(),
        click.option(
            "--variable",
            multiple=True,
            metavar="ID",
            help="A source that varies between FILE and the --with images, the epochs; all others are "
            "constant.",
        ),
        click.option(
            "--timescale",
            type=float,
            metavar="DAYS",
            help="Time over which it varies.  [default: none]",
        ),
        click.option(
            "--moving",
            multiple=True,
            metavar="ID",
            help="A star that moves between FILE and the --with images: its motion is in the catalog.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


#: Sentences that were printed, in the metadata of the command's context.
_SAID = __name__


def said_sentences() -> set[str]:
    """Return the sentences that the running command has printed; change it to add some."""
    context = click.get_current_context(silent=True)
    return set() if context is None else context.meta.setdefault(_SAID, set())


def say_notes(sentences: Iterable[str], which: str = "") -> None:
    """Print notes on a result, those that were not said while it was made.

    Parameters
    ----------
    sentences
        The notes.
    which
        What is put before each, such as the folder of one of several results.
    """
    said = said_sentences()
    for sentence in sentences:
        if sentence not in said:
            said.add(sentence)
            click.echo(f"scorepriors: {which}{sentence}", err=True)


def say_start(path: str | Path) -> None:
    """Say that a run starts which --resume was to go on with, as batch systems restart their jobs."""
    click.echo(f"scorepriors: there is no {path} to go on with; the run starts.", err=True)


def leave_to_doubts() -> None:
    """Do not show warnings while a command runs that it repeats at its end, as doubts."""
    from scorepriors.models.data._field_checks import FieldWarning

    # The group of commands restores the filters.
    warnings.simplefilter("ignore", FieldWarning)


def scene_options(folder: str):
    """Return the options of commands that deblend a scene; results go to `folder`."""
    options = (
        click.option(
            "--prior",
            "prior_names",
            multiple=True,
            metavar="NAME",
            help="Name, file or address of weights, or a folder of `card`; twice for small and large "
            "galaxies.  [default: the shipped ones with the nearest pixels]",
        ),
        click.option("--sigma", type=float, help="Noise level sigma0 of the prior."),
        click.option(
            "--output",
            type=click.Path(),
            metavar="FOLDER",
            default=folder,
            show_default=True,
            help="Folder for the results.",
        ),
        click.option("--force", is_flag=True, help="Replace existing results."),
        seed_option(),
    )

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return input_options(command)

    return decorate


def target_file(path, force: bool, ending: str) -> Path:
    """Return the path of an output file, checked before any work is done."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"the output {str(path)!r} is a folder; give a file.")
    if not path.name.lower().endswith(ending):
        raise InputError(f"cannot write {path.name!r}: its name must end in {ending}.")
    if path.exists() and not force:
        raise InputError(f"{path} exists; use --force to replace it, or another name.")
    if not path.parent.is_dir():
        raise InputError(f"the folder {str(path.parent)!r} does not exist; make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {str(path.parent)!r}: it is not a writable folder.")
    return path
