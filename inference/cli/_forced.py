"""The command `forced`."""

import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import click

from scorepriors._errors import InputError

from . import _common as common
from ._common import Outcome, with_json, written_summary
from ._input import correlation_option, reading_options, take_reading


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
    type=click.Choice(("none", "constant", "plane")),
    default="none",
    show_default=True,
    help="A sky in each band, of a field in each window, that is fitted with the sources.",
)
@common.noise_option()
@correlation_option()
@click.option("--output", type=click.Path(), metavar="FOLDER", help="[default: DIR/forced-FILE]")
@click.option("--force", is_flag=True, help="Replace existing results.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@with_json
def forced(folder, image, psf, index, sky, noise, correlation, output, force, quiet, **options):
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
    from scorepriors.inference.deblending._result import Deblended
    from scorepriors.inference.forced._forced import forced_photometry
    from scorepriors.inference.forced._outputs import write_forced
    from scorepriors.models.data._correlations import (
        correlation_facts,
        correlation_sentence,
        field_with_correlation,
        known_sentence,
        with_correlation,
    )
    from scorepriors.models.data._field import Field
    from scorepriors.models.data._observation import Observation
    from scorepriors.models.data._own_noise import NoiseWarning

    result, draws = opened(folder)
    reading = take_reading(options)
    read = Observation.read if isinstance(result, Deblended) else Field.open
    with warnings.catch_warnings():
        # `noise_sentence` says it, with what was done about it.
        warnings.simplefilter("ignore", NoiseWarning)
        opened_image = read(
            list(image) if len(image) > 1 else image[0],
            psf=list(psf) if len(psf) > 1 else next(iter(psf), None),
            index=index,
            **reading,
        )
    obs: Any = (
        field_with_correlation(opened_image, correlation)
        if isinstance(opened_image, Field)
        else with_correlation(opened_image, correlation)
    )
    found = forced_photometry(
        result,
        obs,
        draws=draws,
        sky=None if sky == "none" else sky,
        variances=noise,
        progress=unless_quiet("measuring scenes", quiet),
    )
    said = known_sentence(correlation_facts(obs))
    if not said and isinstance(obs, Observation):
        said = correlation_sentence(obs)
    # Windows of a field decide one by one: nothing is said of those that needed no mending.
    biased = common.noise_sentence(found) if found.noise_from_model or noise == "file" else ""
    for sentence in filter(None, (said, biased)):
        click.echo(f"scorepriors: {sentence}", err=True)
    paths = write_forced(found, target, force=force, extra={"run": str(folder)})
    _print_fluxes(found)
    for path in paths:
        click.echo(str(path))
    return Outcome(0, partial(written_summary, target))


def _print_fluxes(found) -> None:
    from rich.console import Console
    from rich.table import Table

    from scorepriors.inference.forced._forced import SHAPES
    from scorepriors.inference.forced._table import forced_catalog

    unit, factor = found.flux_unit
    table = Table(title=f"{len(found.ids)} sources in {found.observation.name}, flux in {unit}")
    for name in ("id", *found.bands, "chi2", "flags"):
        table.add_column(name, justify="right")
    flux, error = found.flux * factor, found.error * factor
    catalog = forced_catalog(found)
    for k, identity in enumerate(found.ids[:50]):
        cells = [
            "no data" if f != f else f"{f:.4g} ± {e:.2g}"
            for f, e in zip(flux[k], error[k], strict=True)
        ]
        table.add_row(identity, *cells, f"{found.chi2[k]:.2f}", str(catalog["flags"][k]))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if len(found.ids) > 50:
        console.print(f"and {len(found.ids) - 50} more, in the catalog.")
    console.print(f"{SHAPES[found.shapes]}.", highlight=False)
