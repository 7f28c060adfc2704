"""The command line: deblend, sample, diagnose, simulate, evaluate, train, validate, priors.

A command imports only what it needs, and rejects bad input before anything is compiled.
"""

import warnings

import click

from scorepriors import __version__
from scorepriors._errors import InputError

from ._common import BAD_INPUT, INTERRUPTED
from ._deblending import deblend
from ._diagnosis import diagnose
from ._evaluation import evaluate, simulate
from ._sampling import sample
from ._training import priors, train, validate


class _Group(click.Group):
    """Group that reports every expected error in one line, with an exit code."""

    def invoke(self, ctx):
        usual = warnings.formatwarning
        warnings.formatwarning = _format_warning
        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"scorepriors: {error}", err=True)
            ctx.exit(BAD_INPUT)
        except OSError as error:
            # The disk is full, a file is missing, ...; a closed pipe is handled by click.
            if error.filename is None or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"scorepriors: {error.filename}: {error.strerror}.", err=True)
            ctx.exit(BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("scorepriors: interrupted.", err=True)
            ctx.exit(INTERRUPTED)
        finally:
            warnings.formatwarning = usual


def _format_warning(message, category, filename, lineno, line=None):
    """Return what a file says or lacks as one line, other warnings with their place in the code."""
    from scorepriors.models.data._warnings import FileWarning

    if issubclass(category, FileWarning):
        return f"scorepriors: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Deblend galaxies with learned priors."""


for _command in (deblend, sample, diagnose, simulate, evaluate, train, priors, validate):
    main.add_command(_command)
