"""The scene of a finished field, fitted once more as a result of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import jax
import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._progress import Progress
from scorepriors.inference.deblending._deblend import Run
from scorepriors.inference.deblending._options import PROFILES, Options, Settings
from scorepriors.inference.deblending._priors import load_priors
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.deblending._stages import padded_sizes

from ._parts import Record, digest
from ._plan import Window
from ._tasks import ITERATIONS, SceneTask, Sources, Work, blend_again, quiet

#: Options that change the pixels: what was done to those of the field stays.
_OF_THE_FIELD = ("subtract_sky", "rescale_noise", "correlation")


def scene_again(work: Work, record: Record, *, progress: Progress = False) -> Deblended:
    """Return the scene of a record, fitted on the data without the light of all others.

    Raises
    ------
    InputError
        If the scene has no data or could not be fitted.
    """
    facts, arrays = record.facts, record.arrays
    if facts.get("failed"):
        raise InputError(
            f"this scene of the field could not be fitted: {facts['failed'].rstrip('.')}."
        )
    if "image/0" not in arrays:
        raise InputError("this scene of the field has no data in any band.")
    own = Sources(tuple(facts["ids"]), arrays["row_column"], arrays["is_point"])
    window, nothing = Window(*facts["window"]), np.zeros((0, 3))
    scene = SceneTask(window, own, None, nothing, None, arrays["sky"], arrays["noise"])
    blend = blend_again(work, scene, arrays["others"])
    options = work.settings.options
    few = min(ITERATIONS, options.max_iterations) if arrays["is_structured"] else None
    sizes = padded_sizes([blend], options.padding)
    run = Run(work.settings, sizes, 1, 1, work.key, progress, few)
    with quiet():
        # Only of several scenes may one be left out.
        found: Any = run.all([blend])[0]
    return found


def weights_digest(priors: Sequence[ScorePrior]) -> str:
    """Return a digest of the weights of priors, whatever their names and levels of noise."""
    leaves = (leaf for prior in priors for leaf in jax.tree.leaves(prior))
    return digest(*(np.asarray(leaf) for leaf in leaves if np.ndim(leaf)))


def settings_again(
    known: Settings | Mapping[str, Any], pixel_scale, prior, options: Mapping[str, Any]
) -> Settings:
    """Return the settings of a finished run with other options.

    Parameters
    ----------
    known
        Settings of the run, or the facts about them in its folder.
    pixel_scale
        Side of a pixel in arcseconds, or None.
    prior
        Argument of `deblend`, or None for that of the run.
    options
        Options in place of those of the run.

    Raises
    ------
    InputError
        For options that change the pixels, and where the run had a profile or prior that its folder
        does not hold.
    """
    for name in _OF_THE_FIELD:
        if name in options:
            raise InputError(
                f"`{name}` is that of the whole field; give it to deblend_field, or leave it out."
            )
    if isinstance(known, Settings):
        whole = vars(known.options) | {"padding": 1} | dict(options)
        priors = known.priors if prior is None else load_priors(prior, pixel_scale=pixel_scale)
        return Settings(Options.of(whole), priors)
    names = [one.name for one in fields(Options) if one.name not in _OF_THE_FIELD]
    whole = {name: known[name] for name in names if name in known} | {"padding": 1} | dict(options)
    if isinstance(whole["profile"], str) and whole["profile"] not in PROFILES:
        raise InputError(
            f"the field was deblended with a profile of its own, {whole['profile']!r}; give profile=."
        )
    if prior is None:
        try:
            priors = load_priors(known["priors"], sigma=known["sigma0"], pixel_scale=pixel_scale)
        except InputError as error:
            raise InputError(
                f"the prior of the field, {' and '.join(known['priors'])}, is not found by its name; "
                "give prior=."
            ) from error
        if weights_digest(priors) != known["weights"]:
            raise InputError(
                f"the prior of the field was called {' and '.join(known['priors'])}, but had other "
                "weights than what is found by that name; give prior=."
            )
    else:
        priors = load_priors(prior, pixel_scale=pixel_scale)
    return Settings(Options.of(whole), priors)
