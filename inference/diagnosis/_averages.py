"""Excess of the prior's curvature, averaged over draws of a scene."""

from typing import Any

import jax
import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._traces import Kept
from scorepriors.inference.deblending._draws import group_ids, scene_groups
from scorepriors.inference.deblending._result import Deblended

from ._galaxies import PIXELS, Galaxies, data_curvature, ids_of, slope_of
from ._stretched import StretchedEnergy


def check_draws(result: Deblended, tree: Any) -> None:
    """Raise InputError for draws of another scene."""
    posterior, _ = scene_groups(tree)
    for name, prior in result.priors().items():
        known = posterior.get(f"{name}_morphology")
        if (
            known is None
            or known.shape[3:] != prior.event_shape
            or group_ids(posterior, name) != ids_of(result, name)
        ):
            raise InputError("the draws are not of this scene: they hold other sources.")


def group_draws(tree: Any, name: str) -> list[np.ndarray]:
    """Return images, spectra and brightnesses of one group, one chain after the other."""
    posterior, _ = scene_groups(tree)
    every = [str(i) for i in posterior["source"].values]
    rows = [every.index(i) for i in group_ids(posterior, name)]
    arrays = [
        posterior[f"{name}_morphology"],
        *(posterior[n].isel(source=rows) for n in ("spectrum", "brightness")),
    ]
    return [np.asarray(a).reshape(-1, *a.shape[2:]) for a in arrays]


def averages(
    here: Galaxies,
    prior: ScorePrior,
    draws: list[np.ndarray],
    *,
    key,
    num_draws: int,
    num_probes: int,
) -> dict[str, Any]:
    """Return averages over draws, and their standard errors.

    Parameters
    ----------
    here
        The sources, at any point.
    prior
        Prior of the sources.
    draws
        Result of `group_draws`.
    key
        Random key for the choice of draws and the probes.
    num_draws, num_probes
        Numbers of draws to average over, and of sign probes for the prior's curvature at each.

    Returns
    -------
    dict
        Dimensions and values, by variable of `hallucination_map`.
    """
    choose, probe = jax.random.split(key)
    images = draws[0]
    total = len(images)
    picks = np.asarray(jax.random.choice(choose, total, (min(num_draws, total),), replace=False))
    delta, gamma = [], []
    for i, pick in enumerate(np.sort(picks)):
        one = here.at(*(a[pick] for a in draws))
        found = _delta_of_draw(one, prior, jax.random.fold_in(probe, i), num_probes)
        delta.append(np.asarray(found, float))
        gamma.append(-np.sum(delta[-1] * images[pick], axis=(1, 2)))
    mean, error = _mean_and_error(np.stack(delta))
    gamma_mean, gamma_error = _mean_and_error(np.stack(gamma))
    return {
        "mean_delta_f": (PIXELS, mean),
        "mean_delta_f_error": (PIXELS, error),
        "mean_gamma": ("source", gamma_mean),
        "mean_gamma_error": ("source", gamma_error),
        "significant": (PIXELS, np.abs(mean) > 3 * error),
    }


def _mean_and_error(values):
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


@Kept
def _delta_of_draw(here: Galaxies, prior, key, num_probes):
    z = prior.stretch.inv(here.morphology)
    slope = slope_of(prior, z)
    signs = jax.random.rademacher(key, (num_probes, *z.shape), z.dtype)
    energy = StretchedEnergy(prior)

    def product(v):
        # Sources are independent under the prior, so one probe is used for all.
        return jax.jvp(jax.vmap(jax.grad(energy)), (z,), (v,))[1]

    curvature = (signs * jax.lax.map(product, signs, batch_size=8)).mean(0)
    return curvature - data_curvature(here) * slope**2
