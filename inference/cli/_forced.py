"""The command `forced`."""

import textwrap
import warnings
from functools import partial
from pathlib import Path

import click

from scorepriors._errors import InputError

from . import _common as common
from ._common import Outcome, for_scripts, written_summary
from ._input import SKY, correlation_option, reading_options, take_reading

#: Most sources that are printed; the others are in the catalog.
MOST_SHOWN = 50


@click.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.option(
    "--on",
    "image",
    type=click.Path(),
    required=True,
    multiple=True,
    metavar="FILE",
    help="Image of the same sky, FITS or npz; once for each band where they are in several files.",
)
@click.option(
    "--psf",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    help="PSF in a file of its own, for all bands or once for each.",
)
@click.option("--index", type=int, help="Which blend of a set, or object of a MEDS file.")
@reading_options
@click.option(
    "--sky",
    type=click.Choice(SKY),
    default="auto",
    show_default=True,
    help="A sky in each band, of a field in each window, that is fitted with the sources; auto where "
    "empty pixels show one.",
)
@click.option(
    "--rescale-noise",
    is_flag=True,
    help="Rescale errors of bands whose empty pixels scatter by far more or less.",
)
@common.noise_option()
@correlation_option()
@click.option("--output", type=click.Path(), metavar="FOLDER", help="[default: DIR/forced-FILE]")
@click.option("--force", is_flag=True, help="Replace existing results.")
@for_scripts()
def forced(
    folder,
    image,
    psf,
    index,
    sky,
    rescale_noise,
    noise,
    correlation,
    output,
    force,
    quiet,
    **options,
):
    """Measure the sources of a finished run, in DIR, in another image.

    Shapes and places stay those of `deblend` or `sample`, of a scene or a field; fluxes are free,
    of all sources jointly, and may be negative.  The image may be of another band, telescope or
    epoch, with any WCS, pixels and PSF.  Errors know the noise, the neighbors and the shapes:
    from the draws of `sample` where there are some.

    Writes catalog.ecsv, images.fits (model and residual), report.png and summary.json.
    """
    name = Path(image[0]).name.removesuffix(".gz")
    target = Path(folder) / f"forced-{Path(name).stem}" if output is None else Path(output)
    from scorepriors.inference.forced._folders import opened
    from scorepriors.inference.forced._outputs import FORCED_NAMES
    from scorepriors.inference.reports._outputs import check_target

    if not Path(folder).is_dir():
        raise InputError(f"there is no folder {folder!r}; give one that `deblend` wrote.")
    check_target(target, force=force, names=FORCED_NAMES)
    common.prepare_jax()
    from scorepriors._progress import unless_quiet
    from scorepriors.inference.deblending._notes import noise_sentence
    from scorepriors.inference.forced._forced import forced_photometry
    from scorepriors.inference.forced._outputs import write_forced
    from scorepriors.models.data._correlations import (
        correlation_facts,
        correlation_sentence,
        field_with_correlation,
        known_sentence,
    )
    from scorepriors.models.data._field import Field
    from scorepriors.models.data._own_noise import NoiseWarning

    result, draws = opened(folder)
    reading = take_reading(options)
    with warnings.catch_warnings():
        # `noise_sentence` says it, with what was done about it.
        warnings.simplefilter("ignore", NoiseWarning)
        # What sees the sources is read, with the PSF there.
        image_field = Field.open(
            list(image) if len(image) > 1 else image[0],
            psf=list(psf) if len(psf) > 1 else next(iter(psf), None),
            index=index,
            **reading,
        )
    obs = field_with_correlation(image_field, correlation)
    found = forced_photometry(
        result,
        obs,
        draws=draws,
        sky=sky,
        variances=noise,
        rescale_noise=rescale_noise,
        progress=unless_quiet("measuring scenes", quiet),
    )
    said = known_sentence(correlation_facts(obs))
    if not said and found.covariance is not None:
        # Of a scene: its part of the image.
        said = correlation_sentence(found.observation)
    # Windows of a field decide one by one: nothing is said of those that needed no mending.
    biased = noise_sentence(found, "variances") if found.noise_from_model or noise == "file" else ""
    for sentence in filter(None, (said, biased)):
        click.echo(f"scorepriors: {sentence}", err=True)
    paths = write_forced(found, target, force=force, extra={"run": str(folder)})
    _print_fluxes(found)
    for path in paths:
        click.echo(str(path))
    return Outcome(0, partial(written_summary, target))


def _print_fluxes(found) -> None:
    from scorepriors.inference.forced._forced import SHAPES
    from scorepriors.inference.forced._table import FORCED_SENTENCES, forced_catalog
    from scorepriors.inference.reports._numbers import value_and_error

    from ._source_tables import WIDTH, flux_title, source_tables

    unit, factor = found.flux_unit
    shown = slice(MOST_SHOWN)
    flux, error = found.flux[shown] * factor, found.error[shown] * factor
    fluxes = {
        band: [value_and_error(f, e) for f, e in zip(flux[:, b], error[:, b], strict=True)]
        for b, band in enumerate(found.bands)
    }
    facts = {"chi2": [f"{one:.2f}" for one in found.chi2[shown]]}
    flags = [str(words) for words in forced_catalog(found)["flags"][shown]]
    image = found.observation.name
    title = flux_title(len(found.ids), unit.to_string()) + (f", in {image}" if image else "")
    common.echo_table(
        source_tables(title, found.ids[shown], facts, fluxes, flags, known=FORCED_SENTENCES)
    )
    left = len(found.ids) - MOST_SHOWN
    if left > 0:
        common.echo_table(f"\nand {left:,} more, in the catalog.")
    common.echo_table(f"\n{textwrap.fill(f'{SHAPES[found.shapes]}.', WIDTH)}")
