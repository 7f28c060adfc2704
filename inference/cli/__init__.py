"""The command line: deblend, source, sample, diagnose, forced, simulate, evaluate, train, ....

A command imports only what it needs, and rejects bad input before anything is compiled.
"""

import warnings

import click

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors.models.data._warnings import FileWarning

from ._common import BAD_INPUT, INTERRUPTED, said_sentences
from ._deblending import deblend
from ._diagnosis import diagnose
from ._doctor import doctor
from ._evaluation import evaluate
from ._forced import forced
from ._sampling import sample
from ._sharing import card
from ._simulation import simulate
from ._source import source
from ._training import priors, train, validate


class _Group(click.Group):
    """Group that reports every expected error, and what files say, in one line."""

    def invoke(self, ctx):
        usual = warnings.formatwarning
        warnings.formatwarning = _format_warning
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _say(warnings.showwarning)
                warnings.simplefilter("always", FileWarning)
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
    """Return our own sentences as one line, other warnings with their place in the code."""
    if category.__module__.startswith("scorepriors."):
        return f"scorepriors: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _say(show):
    """Return a function that prints warnings about files in one line, and others as `show` does."""

    def say(message, category, *rest, **named):
        said_sentences().add(str(message))
        if issubclass(category, FileWarning):
            click.echo(f"scorepriors: {message}", err=True)
        else:
            show(message, category, *rest, **named)

    return say


#: The first line keeps click from wrapping the others.
_COMPLETION = """\b
The shell completes names of commands and options after
  eval "$(_SCOREPRIORS_COMPLETE=bash_source scorepriors)"    in ~/.bashrc,
  eval "$(_SCOREPRIORS_COMPLETE=zsh_source scorepriors)"     in ~/.zshrc,
  _SCOREPRIORS_COMPLETE=fish_source scorepriors | source     in config.fish."""


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=_COMPLETION
)
@click.version_option(__version__)
def main():
    """Deblend galaxies with learned priors."""


for _command in (
    deblend,
    source,
    sample,
    diagnose,
    forced,
    simulate,
    evaluate,
    train,
    priors,
    validate,
    card,
    doctor,
):
    main.add_command(_command)
