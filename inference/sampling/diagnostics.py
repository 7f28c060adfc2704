"""Whether a run is to be trusted, in words."""

import json
import warnings
from typing import NamedTuple

import numpy as np

from . import tree as trees
from .algorithms import MAX_DOUBLINGS, Algorithm

#: Limits beyond which a run is not to be trusted: Vehtari et al. 2021 (R-hat, ESS), and
#: Betancourt 2016 (E-BFMI).
MAX_RHAT, MIN_ESS, MIN_BFMI = 1.01, 400.0, 0.3

#: Sites with more elements than this are judged by a random subset of so many.
SUBSET = 48


class SamplingWarning(UserWarning):
    """A run whose draws should not be trusted as they are."""


def said(tree) -> list[str]:
    """What speaks against trusting the draws of a tree, one sentence each."""
    return json.loads(tree.attrs.get("warnings", "[]"))


class Diagnosis(NamedTuple):
    """Figures of a run.

    Attributes
    ----------
    max_rhat, min_ess
        The worst element, and its name in `worst`.
    worst
        Name of the site with the smallest effective sample size.
    divergences
        Number of divergent transitions kept.
    min_bfmi
        The smallest energy Bayesian fraction of missing information of a chain.
    saturated
        Share of draws whose tree had the largest depth allowed.
    warnings
        What is wrong and how to mend it, one sentence each; empty if nothing is.
    """

    max_rhat: float
    min_ess: float
    worst: str
    divergences: int
    min_bfmi: float
    saturated: float
    warnings: tuple[str, ...]


def diagnose(tree, algorithm: Algorithm) -> Diagnosis:
    """Check the draws of a tree made by `sample`."""
    posterior = _thin_out(trees.group(tree, "posterior"))
    stats = trees.group(tree, "sample_stats")
    if not posterior:
        stuck = "no chain has moved: the step size collapsed; check the model for bounds and NaN."
        divergences = int(stats["diverging"].sum())
        return Diagnosis(np.inf, 0.0, "every site", divergences, np.nan, 0.0, (stuck,))
    chains = posterior.sizes["chain"]
    ess = trees.effective_sizes(posterior)
    smallest = {n: np.min(v) if np.isfinite(v).all() else np.nan for n, v in ess.items() if v.size}
    worst = min(smallest, key=lambda n: -np.inf if np.isnan(smallest[n]) else smallest[n])
    min_ess = float(smallest[worst])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        values = [np.ravel(v) for v in trees.rank_rhat(posterior).values()]
    max_rhat = float(np.max(np.concatenate(values))) if chains > 1 else float("nan")
    divergences = int(stats["diverging"].sum())
    energy = np.asarray(stats["energy"])
    with np.errstate(all="ignore"):
        bfmi = (np.diff(energy, axis=1) ** 2).mean(1) / energy.var(1)
    min_bfmi = float(bfmi.min())
    saturated = 0.0
    if "reached_max_treedepth" in stats:
        saturated = float(stats["reached_max_treedepth"].mean())
    said = []
    if chains > 1 and not max_rhat < MAX_RHAT:
        said.append(
            f"chains disagree (R-hat {max_rhat:.3f}, should be below {MAX_RHAT}): raise "
            "num_warmup and num_samples; if it stays, the posterior may have several modes."
        )
    if chains == 1:
        said.append("one chain cannot show whether it has converged: use num_chains=4.")
    if not min_ess >= MIN_ESS:
        said.append(
            f"few effective draws ({min_ess:.0f} for {worst}, should be {MIN_ESS:.0f}): raise "
            "num_samples or thinning."
        )
    if divergences:
        said.append(
            f"{divergences} divergent transitions: the step size is too large for a part of the "
            "posterior; raise target_acceptance_rate, or reparametrise the model."
        )
    # With thinning the energies kept are further apart than one transition, and this
    # warns too late rather than too early.
    if algorithm.exact and min_bfmi < MIN_BFMI:
        said.append(
            f"energies mix slowly (E-BFMI {min_bfmi:.2f}, should be above {MIN_BFMI}): the tails "
            "are explored badly; raise num_warmup or reparametrise the model."
        )
    if saturated > 0.01:
        said.append(
            f"{saturated:.0%} of the trajectories stopped at {2**MAX_DOUBLINGS} steps: the "
            "posterior is far from round; raise num_warmup."
        )
    if not algorithm.exact:
        said.append(algorithm.note)
    return Diagnosis(max_rhat, min_ess, worst, divergences, min_bfmi, saturated, tuple(said))


def _thin_out(dataset):
    """The dataset with at most `SUBSET` elements of each variable."""
    import xarray

    rng = np.random.default_rng(0)
    out = {}
    for name, values in dataset.data_vars.items():
        array = np.asarray(values)
        flat = array.reshape(*array.shape[:2], -1)
        if flat.shape[-1] > SUBSET:
            flat = flat[..., np.sort(rng.choice(flat.shape[-1], SUBSET, replace=False))]
        # A deterministic that never moves has no mixing to speak of.
        moving = flat.std((0, 1)) > 0
        if moving.any():
            out[name] = (("chain", "draw", f"{name}_element"), flat[..., moving].astype(float))
    return xarray.Dataset(out)
