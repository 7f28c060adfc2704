"""A deblended scene with every galaxy under the simplest model that the data do not refuse."""

import json
from typing import Any

import jax
import numpy as np

from scorepriors._errors import InputError
from scorepriors._progress import Progress
from scorepriors.inference.fitting._map import fit_map
from scorepriors.models.data._warnings import note
from scorepriors.models.scene._blend import blend
from scorepriors.models.scene._scene import Scene
from scorepriors.models.scene._start import start_values
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.sources._placement import Placement

from ._choice import explained, galaxies_of, no_better
from ._deblend import IMAGE_OPTIMIZER
from ._result import Deblended, FittedScene, collect_scene
from ._stages import FREE_FORMS

#: Attribute of a result with what `simplest` made of it: written to its dictionary, as
#: `functools.cached_property` does, it lasts as long as the result and is no field of it.
_FOUND = "_simplest"


def simplest(result: Deblended, *, progress: Progress = False) -> Deblended:
    """Return a deblended scene with the simplest model of every galaxy that the data do not refuse.

    What ``deblend(obs, models="simplest")`` gives, from a result of free forms: galaxies whose
    profile leaves no more than noise, or that are too faint for their shape to matter, keep it, and so
    do those that a free form explains no better.  Scenes of which some galaxies stay free forms are
    fitted again, from both fits of the result and with its `max_iterations` and `tolerance`; once for
    each result, however often it is asked for.

    Parameters
    ----------
    result
        Result of `deblend`.
    progress
        True for a bar where the scene is fitted again; or a function called as
        ``progress(done, total, text)``.

    Returns
    -------
    Deblended
        The result as it is, where there is nothing to simplify.

    Warns
    -----
    UserWarning
        If the scene that was fitted again did not converge.

    See Also
    --------
    sample_deblended : Samples this scene by default.
    """
    found = vars(result).get(_FOUND)
    if found is None:
        found = _with_profiles(result, explained(result.parametric), progress)
        found = _with_profiles(found, no_better(found.parametric, found.free_form), progress)
        fit = found.free_form.fit
        if found is not result and fit is not result.parametric.fit and not fit.converged:
            note(
                f"the scene with the simplest models did not converge: {fit.status.sentence}; deblend "
                "with a larger `max_iterations`, or sample with models='given'.",
                UserWarning,
            )
        if found is not result and not fit.interrupted:
            vars(result)[_FOUND] = found
    return found


def as_sampled(result: Deblended, models: list[str]) -> Deblended:
    """Return the result that draws were made of: as it is, or the simplest.

    The models are those of the draws, which are not chosen again: what was sampled is never refused.

    Parameters
    ----------
    result
        Result of `deblend` that was given to `sample_deblended`.
    models
        Models of the sources in the draws; empty if they are not known.

    Raises
    ------
    InputError
        If the draws are of another scene.
    """
    if not models or models == result.free_form.models.tolist():
        return result
    known = vars(result).get(_FOUND)
    if known is not None and models == known.free_form.models.tolist():
        return known
    own, of_profiles = result.free_form.models, result.parametric.models
    found = None
    if len(models) == len(own):
        changed = own != models
        possible = np.isin(result.kinds, FREE_FORMS) & (of_profiles == models)
        found = _with_profiles(result, changed) if possible[changed].all() else None
    if found is None or models != found.free_form.models.tolist():
        raise InputError(
            f"the draws are of sources with the models {', '.join(models)}, the result has "
            f"{', '.join(result.free_form.models.tolist())}: give the result that was sampled."
        )
    return found


def check_sampled(result: Deblended, tree: Any) -> None:
    """Refuse draws of other models than those of a result.

    Parameters
    ----------
    result
        Result of `deblend`.
    tree
        Draws.

    Raises
    ------
    InputError
        If they are of another scene than the result's.
    """
    models = json.loads(tree.attrs.get("models", "[]"))
    if models and models != result.free_form.models.tolist():
        raise InputError(
            "the draws are of other models of the sources than the result (`sample_deblended` "
            "takes the simplest by default): sample with models='given', or give `simplest(result)`."
        )


def _with_profiles(result: Deblended, chosen: np.ndarray, progress: Progress = False) -> Deblended:
    """Return the result with the profiles of the free forms among the chosen sources."""
    kinds, simple = result.kinds.copy(), chosen & np.isin(result.kinds, FREE_FORMS)
    kinds[simple] = result.parametric.kinds[simple]
    if np.isin(kinds, FREE_FORMS).any():
        # Exposures for the boxes of free forms need not know those of wide profiles.
        unknown = simple & ~np.isin(kinds, ("profiles", *result.scene.names))
        kinds[unknown], simple = result.kinds[unknown], simple & ~unknown
    if not simple.any():
        return result
    free = np.isin(kinds, FREE_FORMS).any()
    final = _fitted(result, kinds, progress) if free else result.parametric
    return Deblended.of(
        result.observation,
        result.positions,
        final,
        result.parametric,
        result.seconds,
        result.psf_sigma,
        result.noise_from_model,
        result.sky,
        result.kept,
        result.model_error,
        result.max_iterations,
        result.tolerance,
    )


def _fitted(result: Deblended, kinds: np.ndarray, progress: Progress) -> FittedScene:
    """Fit the scene in which sources have these kinds, from the two scenes of a result."""
    old, before = result.scene, result.parametric.scene
    values: dict[str, Any] = dict(result.free_form.fit.values)
    groups = [_only(old[name], kinds) for name in FREE_FORMS if name in old.names]
    for name in galaxies_of(before):
        if (kinds == name).any():
            groups.append(_only(before[name], kinds))
            own = before.values_of(name, result.parametric.fit.values)
            values |= {f"{name}/{site}": value for site, value in own.items()}
    groups += [group for group in old.sources if group.name not in (*FREE_FORMS, *galaxies_of(old))]
    # Groups without a source would still be fitted.
    groups = [group for group in groups if (np.asarray(group.at.index) >= 0).any()]
    scene = Scene.of(old.exposures, groups, old.spectra, old.treatment)
    images = {}
    for group in groups:
        own = scene.values_of(group.name, values)
        learned = group.learned is not None
        images[group.name] = own["morphology"] if learned else group.boxes(own).image
    known = {n: v for n, v in values.items() if n.split("/")[0] in scene.names}
    psf_sigma = 0.0 if result.psf_sigma is None else result.psf_sigma
    init, scale = start_values(scene, images=images, values=known, psf_sigma=psf_sigma)
    fit = fit_map(
        blend,
        scene,
        # Nothing is drawn: all start values are known.
        key=jax.random.key(0),
        init=init,
        scale=scale,
        optimizer=IMAGE_OPTIMIZER,
        max_iterations=result.max_iterations,
        tolerance=result.tolerance * len(kinds),
        verify=False,
        progress="simplest models" if progress is True else progress,
    )
    return collect_scene(scene, fit)


def _only(group: AbstractSource, kinds: np.ndarray) -> AbstractSource:
    """Return a group with padding in place of sources that are of another kind now."""
    at = group.at
    index = np.asarray(at.index)
    stays = (index >= 0) & (kinds[np.maximum(index, 0)] == group.name)
    return group.on(Placement(at.center, at.corner, np.where(stays, index, -1), at.box))
