"""The input of commands: files, positions, and what files do not tell."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import click

from scorepriors._errors import InputError

#: Kinds of noise, as in `scorepriors.models.data.readers._options`.
NOISE_KINDS = ("variance", "deviation", "ivar", "exposure")

#: Skies that are fitted, as in `scorepriors.inference.deblending._options`.
SKY = ("auto", "constant", "plane", "none")

#: Keywords of `Observation.read`, by the names of their options' parameters.
READING = {
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
    "time": "time",
    "psf_oversampling": "psf_oversampling",
}


def input_options(command):
    """Add the options of `Input`."""
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
            "--with-psf",
            "other_psfs",
            type=click.Path(),
            multiple=True,
            metavar="FILE",
            help="PSF of the --with image, as --psf is that of FILE; once for each of them, in order.",
        ),
    )
    command = reading_options(command)
    for option in reversed(options):
        command = option(command)
    return command


def reading_options(command):
    """Add the options of `take_reading`, which tell what files do not."""
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
        click.option("--time", type=float, metavar="MJD", help="Middle of the exposure."),
        click.option(
            "--psf-oversampling", type=float, metavar="N", help="Samples of the PSF per pixel."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def field_options():
    """Return the options that mend noise and sky of a file, and say what a model may miss."""
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
    left = click.option(
        "--sky",
        type=click.Choice(SKY),
        default="auto",
        show_default=True,
        help="Fit a sky with the sources: a constant or a plane in each band; auto where empty pixels "
        "show one.",
    )
    outliers = click.option(
        "--outliers/--no-outliers",
        default=True,
        show_default=True,
        help="Less weight for pixels that no source explains, such as cosmic rays.",
    )
    error = click.option(
        "--model-error/--no-model-error",
        default=True,
        show_default=True,
        help="An error that grows with the light, where the residual asks for it.",
    )
    correlation = correlation_option(" once, or for FILE and each --with.")
    return lambda command: noise(sky(left(outliers(error(correlation(command))))))


def correlation_option(more: str = ""):
    """Return the option for the correlation of the noise."""
    return click.option(
        "--correlation",
        multiple=True,
        metavar="HOW",
        callback=lambda context, option, given: given or None,
        help="Correlation of neighbors' noise: measure, lanczos3, drizzle:RATIO (pixfrac / scale), "
        f"white, or a .npy or FITS file;{more}  [default: the file's, or none]",
    )


class Scenes(NamedTuple):
    """What was read: observations, their positions or None, and the truth of the example."""

    observations: list[Any]
    positions: list[Any]
    truth: Any


@dataclass(frozen=True)
class Input:
    """What a command reads.

    Attributes
    ----------
    files
        Paths of images.
    example
        Whether the embedded example stands for them.
    catalog
        Path of positions, or None.
    margin
        Argument of `read_positions`.
    psf
        Paths of PSFs.
    index
        Number of a blend or an object in a file of many.
    others
        Paths of further observations of the same sky.
    other_psfs
        Paths of their PSFs, one for each; empty if their files have them.
    reading
        Keywords of `Observation.read`.
    """

    files: tuple = ()
    example: bool = False
    catalog: Any = None
    margin: float | None = None
    psf: tuple = ()
    index: int | None = None
    others: tuple = ()
    other_psfs: tuple = ()
    reading: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def take(cls, options: dict[str, Any]) -> "Input":
        """Take the options of `input_options` out of those of a command.

        Raises
        ------
        InputError
            Unless there is either a file or the example, and for PSFs that are not as many as the
            observations that they are of.
        """
        reading = take_reading(options)
        names = [one.name for one in fields(cls) if one.name != "reading"]
        own = {name: options.pop(name) for name in names}
        if own["example"] == bool(own["files"]):
            raise InputError("give either FILE or --example.")
        others, psfs = len(own["others"]), len(own["other_psfs"])
        if psfs not in (0, others):
            raise InputError(
                f"there {'is' if psfs == 1 else 'are'} {psfs} --with-psf for {others} --with; give one "
                "for each --with, in their order, or none where the files have their PSFs."
            )
        return cls(**own, reading=reading)

    def names(self) -> list[str]:
        """Return what is read, for records: the images, and those that are fitted jointly."""
        return ["the embedded example"] if self.example else [*self.files, *self.others]

    def read(self, *, each: bool = False) -> Scenes:
        """Read observations and positions; with `each`, every file is a scene of its own."""
        from scorepriors.models.data._own_noise import NoiseWarning
        from scorepriors.models.data.positions._light import PositionsWarning

        with warnings.catch_warnings():
            # `noise_sentence` says it, with what was done about it; and `doubts` the other.
            warnings.simplefilter("ignore", NoiseWarning)
            warnings.simplefilter("ignore", PositionsWarning)
            return _read(self, each)


def take_reading(options: dict[str, Any]) -> dict[str, Any]:
    """Take keywords of `Observation.read` out of the options of a command."""
    taken = {keyword: options.pop(name) for name, keyword in READING.items()}
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


def _read(given: Input, each: bool) -> Scenes:
    from scorepriors.models.data._field import Field
    from scorepriors.models.data._joint import join_observations, noted
    from scorepriors.models.data._observation import Observation
    from scorepriors.models.data._warnings import collected
    from scorepriors.models.data.positions._reading import read_positions
    from scorepriors.models.simulation._example import load_example

    observations: list[Any]
    files, psfs, truth = given.files, list(given.psf), None
    if given.example:
        useless = [*given.reading, *(["psf"] if psfs else [])]
        if useless:
            raise InputError(f"{', '.join(useless)}: options of files; the example needs none.")
        obs, truth = load_example()
        observations = [obs]
    else:
        psf = psfs if len(psfs) > 1 else next(iter(psfs), None)
        # Without --each several files are the bands of one blend.
        scenes = files if each else [files[0] if len(files) == 1 else list(files)]
        observations = [
            Observation.read(scene, psf=psf, index=given.index, **own)
            for scene, own in zip(scenes, _own_files(given.reading, scenes, each), strict=True)
        ]
    if given.others:
        # Of a field the part that the first observation sees is read, with the PSFs there.
        others = [_read_other(given, number, Field.open) for number in range(len(given.others))]
        observations = [join_observations(observations[0], *others)]
    sources = [obs.catalog if given.catalog is None else given.catalog for obs in observations]
    positions: list[Any] = []
    for number, (source, obs) in enumerate(zip(sources, observations, strict=True)):
        with collected() as said:
            positions.append(
                None if source is None else read_positions(source, obs, margin=given.margin)
            )
        observations[number] = noted(obs, said)
    return Scenes(observations, positions, truth)


def _read_other(given: Input, number: int, read: Callable[..., Any]) -> Any:
    """Read a further observation, about the place of the first where that is cut out."""
    from scorepriors.models.data.readers._files import NPZ_ENDINGS

    path = given.others[number]
    place = {name: given.reading[name] for name in ("position", "size") if name in given.reading}
    if str(path).lower().endswith(NPZ_ENDINGS) or len(place) < 2:
        # Sets of blends are no images of the sky that one could cut.
        place = {}
    else:
        # Whatever way its pixels are turned; what lies beyond the first is left out later.
        place["size"] = place["size"] * 2**0.5
    psf = given.other_psfs[number] if given.other_psfs else None
    try:
        return read(path, psf=psf, **place)
    except InputError as error:
        # The option of that name is for FILE.
        raise InputError(re.sub(r"--psf(?![\w-])", "--with-psf", str(error))) from error


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
