"""Diagnosis of the influence of a scene's prior, source by source: values, flags, sentences."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray

from scorepriors._progress import Progress, reporting
from scorepriors.inference.deblending._draws import error_ratio
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.deblending._sampling import laplace_deblended
from scorepriors.inference.deblending._simplest import check_sampled

from ._hallucination import NEIGHBORS, hallucination_map
from ._typicality import source_typicality

#: Limits of the flags.  Light is made up where the data hold less than the first of its pixels, one by
#: one, and its sum leans on the prior by more than the second: pixels of which each is the prior's may
#: have a sum that the data know to a per mille, and such a flux is no alarm.
_MADE_UP, _LEANS, _ATYPICAL, _OFF = 0.1, 0.1, 0.01, 0.2


@dataclass(frozen=True)
class SceneDiagnosis:
    """Outcome of `diagnose`.

    Attributes
    ----------
    result
        The scene.
    tree
        Draws for the averages: the chains given, or those of the Laplace approximation.
    maps
        Result of `hallucination_map`.
    typicality
        P-value by source id.
    laplace_ratio
        Flux errors of the Laplace approximation over those of the chains, ``[K]``; None
        without chains.
    """

    result: Deblended
    tree: Any
    maps: xarray.Dataset
    typicality: dict[str, float]
    laplace_ratio: np.ndarray | None


def diagnose(
    result: Deblended,
    tree: Any = None,
    *,
    key,
    neighbors: int = NEIGHBORS,
    progress: Progress = False,
) -> SceneDiagnosis:
    """Diagnose the influence of the prior on a scene.

    Parameters
    ----------
    result
        Result of `deblend`.
    tree
        Draws of ``sample_deblended(result, models="given")``; those of `laplace_deblended` if not
        given.
    key
        Random key.
    neighbors
        Number of neighbors, see `hallucination_map`.
    progress
        True for a bar; or a function called as ``progress(done, total, text)``.

    Returns
    -------
    SceneDiagnosis

    Raises
    ------
    InputError
        If the draws are of other models of the sources than the result.
    """
    if tree is not None:
        check_sampled(result, tree)
    first, second, third = jax.random.split(key, 3)
    with reporting(progress, "diagnose") as report:
        report(0, 1, "curvature at the mode")
        approximate = laplace_deblended(result, key=first)
        draws = approximate if tree is None else tree
        maps = hallucination_map(result, draws, key=second, neighbors=neighbors, progress=report)
        report(0, 1, "samples of the prior")
        usual = source_typicality(draws, result.priors(), key=third)
    ratio = None if tree is None else error_ratio(approximate, tree)
    maps.attrs["draws"] = str(draws.attrs.get("algorithm", ""))
    maps.attrs["negative_curvatures"] = int(approximate.attrs["negative_curvatures"])
    return SceneDiagnosis(result, draws, maps, usual, ratio)


def source_flags(diagnosis: SceneDiagnosis) -> dict[str, list[str]]:
    """Return words of `DIAGNOSED` by source id; stars have none."""
    ids = diagnosis.result.positions.ids
    maps, ratio = diagnosis.maps, diagnosis.laplace_ratio
    words: dict[str, list[str]] = {identity: [] for identity in ids}
    for k, identity in enumerate(str(i) for i in maps["source"].values):
        if float(maps["flux_share"][k]) < _MADE_UP and float(maps["flux_from_prior"][k]) > _LEANS:
            words[identity].append("made_up")
        if diagnosis.typicality[identity] < _ATYPICAL:
            words[identity].append("atypical")
    for k, identity in enumerate(ids):
        if ratio is not None and not abs(np.log(ratio[k])) < np.log1p(_OFF):
            words[identity].append("laplace_off")
        if not diagnosis.result.converged or maps.attrs["negative_curvatures"]:
            words[identity].append("no_mode")
    return words


def in_words(diagnosis: SceneDiagnosis) -> dict[str, str]:
    """Return one or two sentences per free-form source, by its id."""
    maps = diagnosis.maps
    said = {}
    for k, identity in enumerate(str(i) for i in maps["source"].values):
        share, freedom = float(maps["flux_share"][k]), float(maps["degrees_of_freedom"][k])
        leans = 100 * float(maps["flux_from_prior"][k])
        p = diagnosis.typicality[identity]
        usual = f"p = {p:.2f}" if p >= _ATYPICAL else f"p < {max(p, 0.004):.3f}, unusual"
        said[identity] = (
            f"{share:.0%} of this source's flux is held by the data alone, pixel by pixel; they "
            f"determine {freedom:.0f} degrees of freedom of its shape. Its sum leans on the prior by "
            f"{leans:.2g} %. Among the prior's galaxies with that light: {usual}."
        )
    return said
