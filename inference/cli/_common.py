"""Common parts of commands: exit codes, options of a scene, and reading of files."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scorepriors._errors import InputError
from scorepriors.inference._status import Check, FitStatus

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


def prepare_jax(devices: int = 1) -> None:
    """Enable the cache of compiled programs, and set the number of devices."""
    import jax

    from scorepriors._programs import keep_programs

    if keep_programs() and devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


class OptionWithLazyDefault(click.Option):
    """An option whose default is a function, which is called for its help as well.

    Defaults are in modules that a command imports when it runs: reading them earlier would
    load JAX for every other command.
    """

    def get_default(self, ctx, call: bool = True):
        """Return the value of the default instead of the function."""
        del call
        return super().get_default(ctx, call=True)


def option_with_lazy_default(*names, default: Callable[[], Any], **attributes):
    """Return an option with a default that is looked up when it is needed."""
    return click.option(
        *names, cls=OptionWithLazyDefault, default=default, show_default=True, **attributes
    )


def fit_option(name: str, **attributes):
    """Return an option for a field of `Options`, with the field's default."""

    def default():
        from scorepriors.inference.deblending._options import Options

        return getattr(Options(), name.removeprefix("--").replace("-", "_"))

    return option_with_lazy_default(name, default=default, **attributes)


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
MODELS = ("simplest", "free-form")


def models_option(default: str):
    """Return the option for the models of galaxies; `default` says in words what they are without it."""
    text = (
        "simplest: galaxies keep their bulge and disk unless the data refuse it.  free-form: all are "
        f"images under the learned prior.  [default: {default}]"
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
    return option_with_lazy_default(
        "--variances", "noise", default=_default_noise, type=click.Choice(NOISES), help=text
    )


def _default_noise():
    from scorepriors.inference.deblending._options import Options

    return Options().noise


def noise_sentence(result) -> str:
    """Return a sentence on variances that follow the noise of their own pixels; empty if none do."""
    from scorepriors.models.data._model_noise import bands_with_own_noise

    mended, left = result.noise_from_model, bands_with_own_noise(result.observation)
    if mended:
        return (
            f"the variance in band {', '.join(mended)} follows the noise of its own pixels, which "
            "biases fluxes low; the noise of sources was taken from the model instead "
            "(--variances file keeps the file's)."
        )
    if left:
        return (
            f"the variance in band {', '.join(left)} follows the noise of its own pixels, which "
            "biases fluxes low; --variances auto takes the noise of sources from the model instead."
        )
    return ""


def correlation_words(result) -> str:
    """Return a sentence on the correlation of the noise: taken into account, or seen; or neither."""
    from scorepriors.models.data import _correlations as known

    obs = result.observation
    used = known.known_sentence(known.correlation_facts(obs))
    return used or known.correlation_sentence(obs, result.positions)


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
            help="Name or .safetensors file; twice for small and large galaxies.  [default: the "
            "shipped ones with the nearest pixels]",
        ),
        click.option("--sigma", type=float, help="Noise level sigma0 of the prior."),
        click.option(
            "--output",
            type=click.Path(),
            default=folder,
            show_default=True,
            help="Folder for the results.",
        ),
        click.option("--force", is_flag=True, help="Replace existing results."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--quiet", is_flag=True, help="No progress bars."),
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
