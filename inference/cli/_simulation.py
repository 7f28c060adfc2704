"""The command `simulate`."""

from pathlib import Path

import click

from scorepriors._errors import InputError

from ._common import Outcome, count_option, for_scripts, seed_option, target_file

_SURVEYS = ("lsst", "hsc", "ztf", "euclid", "hst")

#: Options of `simulate` for sets of blends and for fields, by their names in the function.
_OF_SETS = {
    "number": "--num-blends",
    "sources": "--sources",
    "galaxies": "--galaxies",
    "gradient": "--gradient",
}
_OF_FIELDS = {
    "size": "--size",
    "density": "--density",
    "stars": "--stars",
    "clusters": "--clusters",
    "structured": "--structured",
    "gaps": "--gaps",
    "bands": "--bands",
}


@click.command()
@click.option("--survey", type=click.Choice(_SURVEYS), default="lsst", show_default=True)
@count_option(
    "--num-blends",
    "--number",
    "number",
    type=click.IntRange(1),
    help="How many blends.  [required for a set]",
)
@seed_option()
@click.option("--sources", metavar="MIN:MAX", help="Galaxies per blend.  [default: 2:8]")
@click.option(
    "--galaxies",
    type=click.Path(),
    metavar="CATALOG",
    help="Shapes of real galaxies, from a catalog in GalSim's format.  [default: bulges, disks]",
)
@click.option("--field", is_flag=True, help="One large image in place of a set of blends.")
@click.option("--size", type=int, metavar="PIXELS", help="Side of the field.  [required for it]")
@click.option("--density", type=float, help="Galaxies per square arcminute.  [default: 60 of lsst]")
@click.option("--stars", type=float, help="Stars per square arcminute.  [default: 2]")
@click.option("--clusters", type=click.IntRange(0), help="Clusters of galaxies.  [default: 0]")
@click.option("--structured", type=click.IntRange(0), help="Bright spirals.  [default: 0]")
@click.option(
    "--sky",
    type=float,
    help="Sky that is left in, sigma: of blends its level, of a field its change.  [default: 0]",
)
@click.option("--gradient", type=float, help="Change of the sky over a blend, sigma.  [default: 0]")
@click.option("--gaps", is_flag=True, default=None, help="An edge, a corner, holes without data.")
@click.option(
    "--noise-correlation",
    metavar="HOW",
    help="Noise of resampled images: lanczos3 or drizzle:PIXFRAC/SCALE; variances stay.",
)
@click.option("--bands", metavar="NAMES", help="Some of the survey's: g,r,i.  [default: all]")
@click.option(
    "--rotation",
    type=float,
    metavar="DEGREES",
    help="Pairs of files: a camera in space, turned by this, sees each blend as well.",
)
@click.option(
    "--epochs",
    type=int,
    metavar="N",
    help="Images of a transient in a galaxy at N times, with its true light curve.",
)
@click.option("--lumpy", is_flag=True, default=None, help="The galaxy of --epochs has lumps.")
@click.option(
    "--output", type=click.Path(), required=True, help="The npz file, or the folder of the others."
)
@click.option("--force", is_flag=True, help="Replace an existing file, or those in the folder.")
@for_scripts()
def simulate(survey, number, seed, field, rotation, epochs, output, force, quiet, **options):
    """Simulate blends of a survey, or a field, with truth, for `evaluate`.

    All else equal blend i depends on the seed and i only: a longer set begins with the shorter
    one.  The page "Input files" of the documentation describes the layout of the file;
    each blend is an observation as well: scorepriors deblend FILE --index I.

    With --field the output is a folder with field.fits, an image whose PSF varies, truth.fits
    and summary.json: scorepriors deblend FOLDER/field.fits --output FOLDER/deblended,
    scorepriors evaluate FOLDER.

    With --rotation the output is a folder with ground-SEED.fits, space-SEED.fits and
    truth-SEED.ecsv for each blend: scorepriors deblend ground-0.fits --with space-0.fits.

    With --epochs the output is a folder with epoch-1.fits and so on, catalog.ecsv and truth.ecsv:
    scorepriors deblend epoch-1.fits --with epoch-2.fits --catalog catalog.ecsv --variable transient.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if epochs is not None:
        others = {"field": field, "rotation": rotation, "num_blends": number} | given
        return _ended(_simulate_epochs(survey, seed, epochs, output, force, others), survey, seed)
    if given.pop("lumpy", False):
        raise InputError("--lumpy is for --epochs; give it as well, or leave it out.")
    if rotation is not None:
        pairs = _simulate_pairs(survey, number, seed, field, rotation, output, force, quiet, given)
        return _ended(pairs, survey, seed)
    wrong = [name for name in given if name in (_OF_SETS if field else _OF_FIELDS)]
    if field and number is not None:
        wrong.insert(0, "number")
    if wrong:
        option = {**_OF_SETS, **_OF_FIELDS}[wrong[0]]
        raise InputError(
            f"{option} is for sets of blends; leave it out or leave out --field."
            if field
            else f"{option} is for fields; give --field as well, or leave it out."
        )
    from scorepriors._progress import unless_quiet

    progress = unless_quiet(f"simulating {survey}", quiet)
    if field:
        path = _simulate_field(survey, seed, output, force, progress, given)
        return _ended([path], survey, seed)
    if number is None:
        raise InputError("give --num-blends, how many blends, or --field with --size.")
    path = target_file(output, force, ".npz")
    from scorepriors.models.simulation._blend_sets import parse_sources, simulate_set, write_set

    arrays = simulate_set(
        survey,
        number,
        seed=seed,
        sources=parse_sources(given.get("sources", "2:8")),
        galaxies=given.get("galaxies"),
        sky=given.get("sky", 0.0),
        gradient=given.get("gradient", 0.0),
        noise_correlation=given.get("noise_correlation"),
        progress=progress,
    )
    write_set(path, arrays)
    return _ended([path], survey, seed)


def _ended(paths, survey: str, seed: int) -> Outcome:
    """Print the files that were written, and return how the command ended."""
    files = [str(path) for path in paths]
    for one in files:
        click.echo(one)
    return Outcome(0, lambda: {"survey": survey, "seed": seed, "files": files})


def _simulate_epochs(survey, seed, epochs, output, force, others) -> list[Path]:
    """Write the epochs of a transient."""
    from scorepriors.models.simulation._epochs_files import write_epochs

    lumpy = others.pop("lumpy", False)
    wrong = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
    if survey != "lsst":
        wrong.insert(0, f"--survey {survey}")
    if wrong:
        raise InputError(
            f"{wrong[0]} does not go with --epochs, which makes one galaxy with a transient in it; "
            "leave it out."
        )
    return write_epochs(output, epochs, seed=seed, lumpy=lumpy, overwrite=force)


def _simulate_pairs(
    survey, number, seed, field, rotation, output, force, quiet, given
) -> list[Path]:
    """Write pairs of observations; what is wrong with the options is said before any work."""
    from scorepriors._progress import reporting, unless_quiet
    from scorepriors.models.simulation._pairs import check_pairs, write_pairs

    wrong = [f"--{name.replace('_', '-')}" for name in given if name != "sources"]
    if field or survey != "lsst":
        wrong.insert(0, "--field" if field else f"--survey {survey}")
    if wrong:
        raise InputError(
            f"{wrong[0]} does not go with --rotation, which makes pairs; leave it out."
        )
    if not -360 <= rotation <= 360:
        raise InputError(f"--rotation is {rotation:g}; give degrees between -360 and 360.")
    sources = given.get("sources", "3")
    if not sources.isdecimal() or int(sources) < 1:
        raise InputError(f"--sources is {sources!r}; pairs have one number of galaxies, such as 3.")
    count = 1 if number is None else number
    check_pairs(output, count, seed, overwrite=force)
    with reporting(unless_quiet("simulating pairs", quiet), "simulating pairs", count) as report:
        return write_pairs(
            output,
            count,
            seed=seed,
            sources=int(sources),
            rotation=rotation,
            overwrite=force,
            progress=report,
        )


def _simulate_field(survey, seed, output, force, progress, given) -> Path:
    """Write a field; what is wrong with the folder is said before any work is done."""
    from scorepriors.models.simulation._fields import simulate_field
    from scorepriors.models.simulation._fields_files import check_folder, write_field

    if "size" not in given:
        raise InputError("--field needs --size, the side of the field in pixels.")
    check_folder(output, overwrite=force)
    size, given["sky"] = given.pop("size"), given.pop("sky", 0.0)
    field = simulate_field(survey, size, seed=seed, progress=progress, **given)
    return write_field(field, output, overwrite=force)
