"""The command `source`."""

from functools import partial

import click

from scorepriors._errors import InputError

from ._common import Outcome, for_scripts


@click.command()
@click.argument("folder", type=click.Path(), metavar="DIR")
@click.argument("id", required=False, metavar="[ID]")
@click.option("--position", nargs=2, metavar="RA DEC", help="The source that is nearest to it.")
@click.option(
    "--output", type=click.Path(), metavar="FILE.fits", help="Write its images and its row."
)
@click.option("--picture", type=click.Path(), metavar="FILE.png", help="Draw it.")
@click.option("--force", is_flag=True, help="Replace existing files.")
@for_scripts()
def source(folder, id, position, output, picture, force, quiet):
    """Show the source ID of a field that `deblend` wrote to DIR.

    Prints its row with errors, and its flags in sentences.  The images of --output are its
    light at the model's resolution and as observed, the data, the data minus all others, and
    the residual, with WCS.
    """
    if (id is None) == (position is None):
        raise InputError(
            "give the id of a source or --position RA DEC"
            + ("." if id is None else ": one of them, not both.")
        )
    from scorepriors.inference.fields._stamps import check_file_target, distance_to, open_field
    from scorepriors.inference.fields._stamps import source as source_of

    if output is not None and not output.lower().endswith((".fits", ".fit", ".fits.gz")):
        raise InputError(f"cannot write {output!r}: name it .fits, .fit or .fits.gz.")
    if picture is not None and not picture.lower().endswith((".png", ".pdf", ".svg", ".jpg")):
        raise InputError(f"cannot draw {picture!r}: name it .png, .pdf, .svg or .jpg.")
    for path in (output, picture):
        if path is not None:
            check_file_target(path, force)
    result = open_field(folder)
    stamp = source_of(result, id, position=position)
    from scorepriors.inference.fields._source_text import source_facts, source_text

    if position is not None and not quiet:
        far = distance_to(stamp.row, position)
        click.echo(f"the nearest source is {far:.2f} arcsec from the position")
    if not quiet:
        click.echo(source_text(stamp))
    if output is not None:
        stamp.write(output, overwrite=force)
        click.echo(output)
    if picture is not None:
        from scorepriors._files import atomic_path
        from scorepriors.inference.fields._source_figure import source_figure

        ending = picture.rsplit(".", 1)[1].lower()
        with atomic_path(picture) as temporary:
            source_figure(stamp).savefig(temporary, dpi=110, format=ending)
        click.echo(picture)
    return Outcome(0, partial(source_facts, stamp))
