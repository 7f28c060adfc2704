"""Convergence diagnostics of runs."""

import json
import warnings
from typing import NamedTuple

import numpy as np

from scorepriors.inference._status import Check, Finding, findings_of

from . import _tree as trees
from ._abstract import AbstractSampler
from ._rhat import chance_rhat, rank_rhat
from ._undefined import undefined

#: Limits of the checks: Vehtari et al. 2021 (R-hat, ESS), and Betancourt 2016 (E-BFMI).
MAX_RHAT, MIN_ESS, MIN_BFMI = 1.01, 400.0, 0.3

#: Largest number of elements of sites, such as fluxes, whose R-hat must be below `MAX_RHAT` for
#: every element.
FEW = 128

#: Largest number of elements of a site, chosen at random, whose effective draws are computed.
SUBSET = 48


class SamplingWarning(UserWarning):
    """Warning about a run whose draws failed a check."""


def said(tree) -> list[str]:
    """Return the problems found in the draws of a tree, one sentence each."""
    return json.loads(tree.attrs.get("warnings", "[]"))


def findings(tree) -> list[Finding]:
    """Return the problems found in the draws of a tree, as codes with facts."""
    return findings_of(tree.attrs)


class Diagnosis(NamedTuple):
    """Diagnostics of a run.

    Attributes
    ----------
    max_rhat
        Largest R-hat of sites with up to `FEW` elements, which are checked one by one.
    max_pixel_rhat
        Largest R-hat of the other sites; NaN if there are none.
    min_ess
        Smallest effective sample size of an element.
    worst
        Name of the site with the smallest effective sample size.
    divergences
        Number of divergent transitions kept.
    min_bfmi
        Smallest energy Bayesian fraction of missing information of a chain; NaN for moves
        without an energy.
    saturated
        Share of draws whose tree had the largest depth allowed.
    findings
        Checks that failed; empty if none did.
    """

    max_rhat: float
    max_pixel_rhat: float
    min_ess: float
    worst: str
    divergences: int
    min_bfmi: float
    saturated: float
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems and remedies, one sentence each."""
        return tuple(finding.sentence() for finding in self.findings)


def diagnose(tree, sampler: AbstractSampler | type[AbstractSampler]) -> Diagnosis:
    """Check the draws of a tree made by `sample`.

    R-hat is checked in two ways.  Of sites with few elements, such as fluxes, each element
    must be below 1.01.  Of the thousands of pixels of a scene the largest exceeds that by
    chance alone: at 500 effective draws R-hat of one quantity scatters by about .005, and the
    maximum over 4,000 is near 1.03 for chains that agree perfectly.  There the median
    must be below 1.01, and the largest below the limit by chance (`chance_rhat`) for the
    effective draws of these pixels in location and in scale, or for the required ones.  One
    chain that differs in one pixel is far beyond that.
    """
    whole, stuck = _moving(trees.group(tree, "posterior"))
    stats = trees.group(tree, "sample_stats")
    if not whole:
        stop = Finding(Check.NO_CHAIN_MOVED)
        divergences = int(stats["diverging"].sum())
        return Diagnosis(np.inf, np.nan, 0.0, "every site", divergences, np.nan, 0.0, (stop,))
    chains = next(iter(whole.values())).shape[0]
    ess = trees.effective_sizes(_subset(whole))
    smallest = {n: np.min(v) if np.isfinite(v).all() else np.nan for n, v in ess.items()}
    worst = min(smallest, key=lambda n: -np.inf if np.isnan(smallest[n]) else smallest[n])
    min_ess = float(smallest[worst])
    max_rhat, max_pixel_rhat, disagreement = np.nan, np.nan, None
    if chains > 1:
        max_rhat, max_pixel_rhat, disagreement = _agreement(whole, smallest)
    divergences = int(stats["diverging"].sum())
    min_bfmi = np.nan
    if "energy" in stats:  # only Hamiltonian trajectories have an energy
        energy = np.asarray(stats["energy"])
        with np.errstate(all="ignore"):
            bfmi = (np.diff(energy, axis=1) ** 2).mean(1) / energy.var(1)
        min_bfmi = float(bfmi.min())
    saturated = 0.0
    if "reached_max_treedepth" in stats:
        saturated = float(stats["reached_max_treedepth"].mean())
    found = []
    if disagreement is not None:
        found.append(Finding(Check.CHAINS_DISAGREE, {"how": disagreement}))
    if stuck:
        found.append(Finding(Check.CHAIN_STUCK, {"site": stuck}))
    if chains == 1:
        found.append(Finding(Check.ONE_CHAIN))
    if not min_ess >= MIN_ESS:
        facts = {"found": min_ess, "site": worst, "wanted": MIN_ESS}
        found.append(Finding(Check.FEW_DRAWS, facts))
    if divergences:
        found.append(Finding(Check.DIVERGENCES, {"count": divergences}))
    # With thinning the energies kept are further apart than one transition, so this check is
    # less sensitive.
    if sampler.exact and min_bfmi < MIN_BFMI:
        found.append(Finding(Check.ENERGY, {"found": min_bfmi, "wanted": MIN_BFMI}))
    if saturated > 0.01:
        steps = 2 ** int(stats["tree_depth"].max())
        found.append(Finding(Check.LONG_TREES, {"share": saturated, "steps": steps}))
    found += undefined(tree)
    if not sampler.exact:
        found.append(Finding(Check.UNADJUSTED, {"note": sampler.note}))
    return Diagnosis(
        max_rhat, max_pixel_rhat, min_ess, worst, divergences, min_bfmi, saturated, tuple(found)
    )


def _agreement(whole, smallest):
    """Return the largest R-hat of small and of large sites, and findings about them."""
    few, many = [np.nan], [np.nan]
    wrong = None
    for name, draws in whole.items():
        rhat = rank_rhat(draws)
        largest = float(rhat.max())
        if rhat.size <= FEW:
            few.append(largest)
            if not largest < MAX_RHAT:
                wrong = wrong or f"R-hat {largest:.3f} of {name}, should be below {MAX_RHAT}"
            continue
        many.append(largest)
        typical = float(np.median(rhat))
        effective = max(MIN_ESS, np.nan_to_num(min(smallest[name], _effective(draws, rhat))))
        allowed = chance_rhat(rhat.size, draws.shape[0], draws.shape[1], effective)
        if not typical < MAX_RHAT:
            wrong = wrong or f"median R-hat {typical:.3f} of {name}, should be below {MAX_RHAT}"
        elif not largest < allowed:
            wrong = wrong or (
                f"R-hat {largest:.3f} in an element of {name}, where chance makes it at most "
                f"{allowed:.3f}"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all NaN: no site of that kind
        return float(np.nanmax(few)), float(np.nanmax(many)), wrong


def _effective(draws, rhat, count: int = 16) -> float:
    """Return the fewest effective draws of location or scale among elements of largest R-hat.

    R-hat depends on both, and widths mix more slowly than means: on the embedded example the
    pixels of largest R-hat had 1,800 effective draws in the bulk and a third of that in the
    tails.
    """
    import xarray

    worst = draws[..., np.argsort(-np.nan_to_num(rhat, nan=np.inf))[:count]].astype(float)
    folded = np.abs(worst - np.median(worst, axis=(0, 1)))
    dims = ("chain", "draw", "element")
    sizes = trees.effective_sizes(xarray.Dataset({"x": (dims, worst), "far": (dims, folded)}))
    return float(min(np.min(values) for values in sizes.values()))


def _moving(dataset):
    """Return continuous draws ``[chain, draw, element]`` that vary, and a stuck site."""
    out, stuck = {}, None
    for name, values in dataset.data_vars.items():
        array = np.asarray(values)
        # Integers, such as enumerated sites, are drawn anew given the rest: one that hardly ever
        # changes is no sign of a stuck chain.
        if not np.issubdtype(array.dtype, np.floating):
            continue
        flat = array.reshape(*array.shape[:2], -1)
        fixed = np.ptp(flat, axis=1) == 0
        # A constant deterministic site has no mixing, and one with NaN is reported as such.
        moving = ~fixed.all(0) | (np.ptp(flat[:, 0], axis=0) > 0)
        moving &= ~np.isnan(flat).any((0, 1))
        if moving.any():
            out[str(name)] = flat if moving.all() else flat[..., moving]
        if (fixed & ~fixed.all(0)).any():
            stuck = stuck or str(name)
    return out, stuck


def _subset(whole):
    """Return a Dataset of at most `SUBSET` elements of each site."""
    import xarray

    rng = np.random.default_rng(0)
    out = {}
    for name, flat in whole.items():
        if flat.shape[-1] > SUBSET:
            flat = flat[..., np.sort(rng.choice(flat.shape[-1], SUBSET, replace=False))]
        out[name] = (("chain", "draw", f"{name}_element"), flat.astype(float))
    return xarray.Dataset(out)
