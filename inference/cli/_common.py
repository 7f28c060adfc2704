"""Common parts of commands: exit codes, options of a scene, and reading of files."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from scorepriors._errors import InputError
from scorepriors.inference._status import Check, FitStatus

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

    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scorepriors" / "xla"
    cache = Path(os.environ.get("SCOREPRIORS_CACHE", default))
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # without a writable home programs are compiled again in each run
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    if devices > 1:
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
PROFILES = ("bulge-disk", "sersic")


def profile_option():
    """Return the option for the profile of parametric galaxies."""
    text = "Parametric galaxies: bulges and disks, or Sersic profiles of free index."
    return fit_option("--profile", type=click.Choice(PROFILES), help=text)


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


def field_options():
    """Return the options that mend the noise and the sky of a file."""
    noise = click.option(
        "--rescale-noise",
        is_flag=True,
        help="Rescale errors of bands whose empty pixels scatter by far more or less.",
    )
    sky = click.option(
        "--subtract-sky",
        is_flag=True,
        help="Subtract the median of the empty pixels from each band.",
    )
    return lambda command: noise(sky(command))


def input_sentences(result) -> list[str]:
    """Return sentences on positions, noise and sky that speak against a result."""
    from scorepriors.inference.deblending._doubts import doubts_of_input

    return list(doubts_of_input(result.observation, result.positions).values())


def leave_to_doubts() -> None:
    """Do not show warnings while a command runs that it repeats at its end, as doubts."""
    from scorepriors.models.data._field_checks import FieldWarning

    # The group of commands restores the filters.
    warnings.simplefilter("ignore", FieldWarning)


#: Kinds of noise, as in `scorepriors.models.data.readers._options`.
NOISE_KINDS = ("variance", "deviation", "ivar", "exposure")

#: Options of `Observation.from_fits`, by the names of their parameters in commands.
_FILE_OPTIONS = {
    "noise_files": "noise",
    "noise_kind": "noise_kind",
    "masks": "mask",
    "good": "good",
    "bad_planes": "bad_planes",
    "zero_point": "zero_point",
    "band_names": "bands",
    "hdu": "hdu",
    "position": "position",
    "size": "size",
    "psf_oversampling": "psf_oversampling",
}


def file_options(command):
    """Add the options that say what a FITS file does not tell; see `take_file_options`."""
    options = (
        click.option(
            "--noise",
            "noise_files",
            multiple=True,
            metavar="FILE",
            help="Noise in a file of its own, or file.fits[HDU]; once for each FILE.",
        ),
        click.option("--noise-kind", type=click.Choice(NOISE_KINDS), help="What the noise is."),
        click.option(
            "--mask",
            "masks",
            multiple=True,
            metavar="FILE",
            help="Mask in a file of its own, or file.fits[HDU]; once for each FILE.",
        ),
        click.option("--good", type=int, help="Value of the mask where pixels are good."),
        click.option("--bad-planes", metavar="NAMES", help="Planes or bits to mask: SAT,CR,11."),
        click.option(
            "--zero-point", metavar="MAG", help="AB magnitude of one unit, or one a band."
        ),
        click.option("--bands", "band_names", metavar="NAMES", help="Names of the bands: g,r,i."),
        click.option("--hdu", metavar="HDU", help="HDU of the image: number, name or SCI,2."),
        click.option("--position", nargs=2, metavar="RA DEC", help="Cut about it."),
        click.option("--size", type=float, metavar="ARCSEC", help="Side of the cut."),
        click.option(
            "--psf-oversampling", type=float, metavar="N", help="Samples of the PSF per pixel."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def take_file_options(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of files out of those of a command, as keywords of `Observation.read`."""
    taken = {keyword: options.pop(name) for name, keyword in _FILE_OPTIONS.items()}
    zero = taken["zero_point"]
    if zero is not None:
        try:
            values = [float(word) for word in zero.split(",")]
        except ValueError as error:
            raise InputError(
                f"--zero-point is {zero!r}; give numbers, as 27 or 27,27.1."
            ) from error
        taken["zero_point"] = values if len(values) > 1 else values[0]
    for name in ("noise", "mask"):
        taken[name] = list(taken[name]) or None
    return {keyword: value for keyword, value in taken.items() if value is not None}


def scene_options(folder: str):
    """Return the options of commands that deblend a scene; results go to `folder`."""
    options = (
        click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]..."),
        click.option("--example", is_flag=True, help="Use the embedded blend instead of a file."),
        click.option(
            "--catalog",
            type=click.Path(),
            help="Positions: x, y (0-based) or ra, dec; a table of any usual kind, or ds9 regions.",
        ),
        click.option(
            "--margin",
            type=click.FloatRange(0),
            metavar="PIXELS",
            help="Keep sources up to this far outside of the image.  [default: by their brightness]",
        ),
        click.option(
            "--psf",
            type=click.Path(),
            multiple=True,
            metavar="FILE",
            help="PSF, instead of the file's own: images, PSFEx, Piff or a grid; once for all "
            "bands, or once for each.",
        ),
        click.option("--index", type=int, help="Which blend of a set, or object of a MEDS file."),
        click.option(
            "--with",
            "others",
            type=click.Path(),
            multiple=True,
            metavar="FILE",
            help="Another observation of the same sky (other pixels, PSFs, bands), fitted "
            "jointly; may be given again.",
        ),
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
        command = file_options(command)
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def read_scenes(files, example, each, catalog, psf, index, others, reading=None, *, margin=None):
    """Return observations, their positions, and the truth of the example."""
    from scorepriors.models.data._own_noise import NoiseWarning
    from scorepriors.models.data.positions._light import PositionsWarning

    with warnings.catch_warnings():
        # `noise_sentence` says it, with what was done about it; and `doubts` the other.
        warnings.simplefilter("ignore", NoiseWarning)
        warnings.simplefilter("ignore", PositionsWarning)
        return _read_scenes(
            files, example, each, catalog, psf, index, others, reading or {}, margin
        )


def _read_scenes(files, example, each, catalog, psf, index, others, reading, margin):
    from scorepriors.models.data._observation import Observation
    from scorepriors.models.data.positions._reading import read_positions
    from scorepriors.models.simulation._example import load_example

    observations: list[Any]
    given_psfs = list(psf or ())
    psf = given_psfs if len(given_psfs) > 1 else next(iter(given_psfs), None)
    truth = None
    if example:
        given = [*reading, *(["psf"] if psf else [])]
        if given:
            raise InputError(f"{', '.join(given)}: options of files; the example needs none.")
        obs, truth = load_example()
        observations = [obs]
    else:
        # Without --each several files are the bands of one blend.
        scenes = files if each else [files[0] if len(files) == 1 else list(files)]
        observations = [
            Observation.read(scene, psf=psf, index=index, **own)
            for scene, own in zip(scenes, _own_files(reading, scenes, each), strict=True)
        ]
    if others:
        from scorepriors.models.data._joint import join_observations

        observations = [join_observations(observations[0], *map(Observation.read, others))]
    sources = [obs.catalog if catalog is None else catalog for obs in observations]
    positions = [
        None if source is None else read_positions(source, obs, margin=margin)
        for source, obs in zip(sources, observations, strict=True)
    ]
    return observations, positions, truth


def _own_files(reading: dict[str, Any], scenes, each: bool) -> list[dict[str, Any]]:
    """Return the options of each scene: with --each, the noise and the mask of its own file."""
    if not each:
        return [reading] * len(scenes)
    given = {name: reading[name] for name in ("noise", "mask") if name in reading}
    for name, files in given.items():
        if len(files) != len(scenes):
            raise InputError(f"{len(files)} --{name} for {len(scenes)} files; give one for each.")
    return [
        reading | {name: files[number] for name, files in given.items()}
        for number in range(len(scenes))
    ]
