"""The command `card`."""

from pathlib import Path

import click

from ._common import Outcome, for_scripts


@click.command()
@click.argument("prior")
@click.option(
    "--output", type=click.Path(), metavar="FOLDER", help="Folder to write.  [default: NAME]"
)
@click.option(
    "--report",
    type=click.Path(),
    metavar="FILE.json",
    help="Report of `validate-prior`, whose figures the card then has.",
)
@click.option("--force", is_flag=True, help="Replace existing files.")
@for_scripts()
def card(prior, output, report, force, quiet):
    """Write a folder that shares PRIOR: weights, card, recipe, checksums.

    PRIOR is a .safetensors file, or anything else that --prior of `deblend` takes.  Whoever has the
    folder gives it to --prior, or to `load_prior`.
    """
    from scorepriors._zoo import prior_info
    from scorepriors.inference.validation._share import share_prior

    paths = share_prior(
        output if output is not None else prior_info(prior).name, prior, report=report, force=force
    )
    # Names of files are all that is printed, --quiet or not.
    del quiet
    for path in paths:
        click.echo(str(path))

    def summary():
        weights, written, recipe, sums = map(str, paths)
        digest = Path(sums).read_text().split()[0]
        return {
            "weights": weights,
            "card": written,
            "recipe": recipe,
            "sums": sums,
            "sha256": digest,
        }

    return Outcome(0, summary)
