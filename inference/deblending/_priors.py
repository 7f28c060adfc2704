"""Learned priors for a deblending, and checks that they match the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._zoo import hides_a_folder, load_prior, prior_info, priors_for
from scorepriors.models.data._warnings import note

#: Largest difference in the logarithm of the pixel sizes of image and prior.
SAME_PIXELS = 0.1


class PriorWarning(UserWarning):
    """Warning about a prior used on images that differ from its training images."""


def load_priors(
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
    *,
    sigma: float | None = None,
    pixel_scale: float | None = None,
) -> tuple[ScorePrior, ...]:
    """Return one prior, or two by growing boxes.

    Parameters
    ----------
    prior
        Priors or their names; the shipped ones for pixels of this size if not given.
    sigma
        Noise level for all of them; their own if not given.
    pixel_scale
        Arcseconds per pixel, if known.

    Raises
    ------
    InputError
        If there are more than two, or two of one size or for different pixels or model PSFs, or
        for a noise level outside the range of their training.

    Warns
    -----
    PriorWarning
        If a shipped prior is loaded by a name that a folder with another one has too.
    """
    given = priors_for(pixel_scale) if prior is None else prior
    several = [given] if isinstance(given, str | Path | ScorePrior) else list(given)
    for one in several:
        if prior is not None and isinstance(one, str | Path) and hides_a_folder(one):
            note(
                f"{one} is the shipped prior, not the folder of that name: write './{one}' for the "
                "folder.",
                PriorWarning,
            )
    loaded = [load_prior(one) if isinstance(one, str | Path) else one for one in several]
    if sigma is not None:
        for one in loaded:
            least, most = one.sigma_min, float(one.sigma_max)
            if not max(least, np.finfo(float).tiny) <= sigma <= most:
                learned = f"at least {least:g}" if least else "positive"
                raise InputError(
                    f"`sigma` must be {learned} and at most {most:g}, the noise that {one.name} has "
                    f"learned, got {sigma:g}."
                )
        loaded = [one.at(sigma) for one in loaded]
    if not 1 <= len(loaded) <= 2:
        raise InputError(f"give one prior or two, for small and large boxes, not {len(loaded)}.")
    loaded.sort(key=lambda one: one.event_shape[-1])
    if len(loaded) == 2:
        for what, (small, large) in (
            ("pixel scale", [one.pixel_scale for one in loaded]),
            ("model PSF", [one.model_psf_sigma for one in loaded]),
        ):
            if small != large:
                raise InputError(
                    f"{loaded[0].name} and {loaded[1].name} differ in their {what}, {small} and "
                    f"{large}; choose priors that were trained for the same images."
                )
        if loaded[0].event_shape == loaded[1].event_shape:
            raise InputError(
                f"{loaded[0].name} and {loaded[1].name} have boxes of the same size; give one of them."
            )
    return tuple(loaded)


def compare_pixels(obs, prior: ScorePrior) -> None:
    """Warn if the prior's training images have pixels of another size."""
    sentence = pixels_sentence(obs, prior)
    if sentence:
        # Results say it themselves, if a source was fitted under the prior.
        note(sentence, PriorWarning, to_results=False)


def pixels_sentence(obs: Any, prior: ScorePrior) -> str:
    """Return a sentence on a prior for pixels of another size; empty if it is for these.

    Parameters
    ----------
    obs
        Observation, joined observations or a field: its pixel scale and its name.
    prior
        The prior.
    """
    image, learned = obs.pixel_scale, prior.pixel_scale
    if image is None or learned is None or _alike(image, learned):
        return ""
    better = priors_for(image)
    shipped = prior_info(better[0]).pixel_scale
    mend = (
        f"use {' and '.join(better)}"
        if shipped is not None and _alike(image, shipped)
        else "no shipped prior is for these pixels: train one for them, or do without "
        "(models='profiles', --models profiles in the shell)"
    )
    return (
        f"{obs.name or 'the image'} has pixels of {image:.3g} arcsec, but {prior.name} learned "
        f"galaxies in pixels of {learned:.3g} arcsec; {mend}."
    )


def _alike(one: float, other: float) -> bool:
    """Return whether pixels of two sizes are the same to a prior."""
    return bool(abs(np.log(one / other)) < SAME_PIXELS)
