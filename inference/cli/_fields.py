"""Fields in the command `deblend`."""

import shlex
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from scorepriors._errors import InputError

from . import _common as common
from ._common import INTERRUPTED, NOT_CONVERGED, NOT_TRUSTED, Outcome, written_summary
from ._input import Input

#: Number of pixels beyond which an image is a field: 192 x 192.
SCENE_PIXELS = 192**2

#: Share of scenes that may end early without another exit code; their sources have flags.
UNCONVERGED = 0.01


@dataclass(frozen=True)
class FieldRun:
    """How a field is run.

    Attributes
    ----------
    workers, scheduler, resume
        Arguments of `deblend_field`.
    """

    workers: int = 1
    scheduler: str | None = None
    resume: bool = False

    def refuse_for_scene(self) -> None:
        """Refuse options of fields where there is one scene."""
        for name, given in (
            ("--workers", self.workers > 1),
            ("--scheduler", self.scheduler is not None),
        ):
            if given:
                raise InputError(
                    f"{name} is for fields, and this is a scene; leave it out, or use --field."
                )


@dataclass(frozen=True)
class Target:
    """Where results go, and how.

    Attributes
    ----------
    output, force, seed, quiet, prior
        Options of the command.
    """

    output: str
    force: bool
    seed: int
    quiet: bool
    prior: tuple[str, ...]


def opened_field(given: Input, as_field: bool | None):
    """Return the field that is to be deblended; None for a scene.

    Raises
    ------
    InputError
        If a field is asked for where there can't be one.
    """
    if as_field is False:
        return None
    if given.example or given.others:
        if as_field:
            raise InputError(
                f"--field goes with files, not with {'--example' if given.example else '--with'}."
            )
        return None
    from scorepriors.models.data._field import Field

    psf = given.psf[0] if len(given.psf) == 1 else list(given.psf) or None
    files = given.files[0] if len(given.files) == 1 else list(given.files)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        field = Field.open(files, psf, given.index, **given.reading)
    if not as_field and field.shape[0] * field.shape[1] <= SCENE_PIXELS:
        return None
    for one in said:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return field


def deblend_as_field(
    given: Input, field, run: FieldRun, target: Target, sigma: float | None, options: dict[str, Any]
) -> Outcome:
    """Deblend a field and write its results."""
    common.prepare_jax()
    import jax

    from scorepriors.inference.deblending._priors import load_priors
    from scorepriors.inference.evaluation._fields_run import truth_beside
    from scorepriors.inference.fields._deblend_field import deblend_field
    from scorepriors.inference.fields._folder import NAME as RUN
    from scorepriors.inference.fields._folder import is_begun
    from scorepriors.inference.fields._outputs import check_field_target, write_field_outputs
    from scorepriors.models.data._field import field_with_notes
    from scorepriors.models.data._own_noise import NoiseWarning
    from scorepriors.models.data._warnings import collected

    kept = Path(target.output) / RUN
    replace = target.force or (run.resume and is_begun(kept))
    check_field_target(target.output, force=replace)
    if run.resume and not replace:
        common.say_start(kept)
    prior = load_priors(target.prior or None, sigma=sigma, pixel_scale=field.pixel_scale)
    with warnings.catch_warnings():
        # Said at the end, with what was done about it.
        warnings.simplefilter("ignore", NoiseWarning)
        with collected() as said:
            positions = field.positions(given.catalog, margin=given.margin)
    field = field_with_notes(field, said)
    try:
        result = deblend_field(
            field,
            positions,
            prior=prior,
            key=jax.random.key(target.seed),
            output=target.output,
            workers=run.workers,
            scheduler=run.scheduler,
            resume=run.resume,
            force=target.force,
            progress=not target.quiet,
            **options,
        )
    except KeyboardInterrupt:
        click.echo("scorepriors: interrupted; --resume goes on from here.", err=True)
        return Outcome(INTERRUPTED, None)
    extra = {"seed": target.seed}
    evaluation = None
    if len(given.files) == 1 and tuple(field.corner) == (0, 0):
        evaluation = truth_beside(given.files[0], result.catalog, field.shape)
    paths = write_field_outputs(
        result,
        target.output,
        force=replace,
        evaluation=evaluation,
        command=shlex.join(["scorepriors", *sys.argv[1:]]),
        files=given.names(),
        extra=extra,
    )
    _print_summary(result)
    for path in paths:
        click.echo(str(path))
    return Outcome(_verdict(result), partial(written_summary, target.output))


def _print_summary(result) -> None:
    import numpy as np

    from scorepriors._progress import duration
    from scorepriors.inference.deblending._flags import SENTENCES
    from scorepriors.inference.fields._tables import flag_counts

    from ._source_tables import flag_line

    facts, catalog = result.facts, result.catalog
    models = Counter(str(one) for one in catalog["model"]).most_common()
    flags = sorted(flag_counts(catalog).items(), key=lambda one: -one[1])
    common.echo_table(
        f"{len(catalog):,} sources ({', '.join(f'{n:,} {name}' for name, n in models)}), "
        f"{facts['num_added']:,} of them from the residual"
    )
    common.echo_table(
        f"{facts['num_scenes']:,} scenes in {duration(facts['seconds']['total'])}, "
        f"{facts['converged']:,} converged, chi2 per pixel {np.nanmedian(result.scenes['chi2']):.3f} "
        "(median)"
    )
    common.echo_table("" if flags else "no flags")
    for word, number in flags:
        common.echo_table(flag_line(f"{word} ({number:,})", SENTENCES[word]))


def _verdict(result) -> int:
    """Print what speaks against the result, and return the exit code."""
    facts, code = result.facts, 0
    # A finished run of an earlier version has none.
    common.say_notes(facts.get("notes", ()))
    for sentence in facts["doubts"].values():
        click.echo(f"scorepriors: {sentence}", err=True)
        code = NOT_TRUSTED
    missing = facts["num_scenes"] - facts["converged"]
    if missing:
        click.echo(
            f"scorepriors: {missing:,} of {facts['num_scenes']:,} scenes ended early; their sources "
            "have the flag not_converged (raise --max-iterations).",
            err=True,
        )
    return NOT_CONVERGED if missing > UNCONVERGED * facts["num_scenes"] else code
