"""What bears on a result without speaking against it: notes for its summary and its report."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from scorepriors.models.data._correlations import (
    correlation_facts,
    correlation_sentence,
    known_sentence,
)
from scorepriors.models.data._model_noise import bands_with_own_noise

from ._priors import pixels_sentence
from ._result import Deblended
from ._unexplained import unexplained, unexplained_words


def notes(result: Deblended) -> list[str]:
    """Return what bears on a deblended scene and is no doubt about it, one sentence each.

    Parameters
    ----------
    result
        Result of `deblend`.

    Returns
    -------
    list of str
        What was understood, rather than read, in the files, and mended before the fit
        (`Observation.notes`); a learned prior for pixels of another size; variances that follow the
        noise of their own pixels; noise that is correlated, taken into account or only seen; and
        groups of pixels that no source explains.

    See Also
    --------
    doubts : What speaks against the result.
    """
    obs = result.observation
    learned = result.priors().values()
    return each_once(
        obs.notes,
        (pixels_sentence(obs, prior) for prior in learned),
        (noise_sentence(result), correlation_words(result)),
        (unexplained_words(unexplained(result)),),
    )


def notes_of_draws(tree: Any) -> list[str]:
    """Return the notes in draws of `sample_deblended`; those of earlier versions have none."""
    return json.loads(tree.attrs.get("notes", "[]"))


def each_once(*several: Iterable[str | None]) -> list[str]:
    """Return sentences in their order, each once and none that is empty."""
    return list(dict.fromkeys(one for each in several for one in each if one))


def noise_sentence(result: Any, argument: str = "noise") -> str:
    """Return a sentence on variances that follow the noise of their own pixels; empty if none do.

    Parameters
    ----------
    result
        Result of `deblend` or of `forced_photometry`.
    argument
        Name of the argument in Python that chooses the variances.
    """
    left = bands_with_own_noise(result.observation)
    return mended_noise(result.noise_from_model, argument) or (
        f"the variance in band {', '.join(left)} follows the noise of its own pixels, which biases fluxes "
        f"low; {argument}='auto' (--variances auto in the shell) takes the noise of sources from the model "
        "instead."
        if left
        else ""
    )


def mended_noise(bands: Sequence[str], argument: str = "noise") -> str:
    """Return a sentence on bands whose noise of sources came from the model; empty for none."""
    if not bands:
        return ""
    return (
        f"the variance in band {', '.join(bands)} follows the noise of its own pixels, which biases fluxes "
        f"low; the noise of sources was taken from the model instead ({argument}='file', or --variances file "
        "in the shell, keeps the file's)."
    )


def correlation_words(result: Deblended) -> str:
    """Return a sentence on correlated noise: taken into account, or seen; empty for neither."""
    obs = result.observation
    used = known_sentence(correlation_facts(obs))
    return used or correlation_sentence(obs, result.positions)
