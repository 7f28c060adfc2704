"""Convergence diagnostics of runs."""

import json
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from scorepriors.inference._status import Check, Finding, findings_of

from . import _tree as trees
from ._abstract import AbstractSampler
from ._rhat import ESS_ERROR, rank_rhat, rhat_excess
from ._undefined import undefined

#: Limits of the checks: Vehtari et al. 2021 (R-hat, ESS), and Betancourt 2016 (E-BFMI).
MAX_RHAT, MIN_ESS, MIN_BFMI = 1.01, 400.0, 0.3

#: Largest number of elements of sites, such as fluxes, that are judged together, all as one group;
#: larger ones, such as morphologies, are groups of their own.
FEW = 128

#: Least number of elements of a group whose median R-hat must be below `MAX_RHAT` too.
MANY = 16

#: Number of elements of a site, those of the largest R-hat, that are compared with chance.
COMPARED = 64

#: Largest number of elements of a site whose effective draws are computed: those of the largest R-hat,
#: and others at random.
SUBSET, SUSPECTS = 48, 16


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
        Largest R-hat of sites with up to `FEW` elements; infinite for draws of NaN.
    max_pixel_rhat
        Largest R-hat of the other sites; NaN if there are none.
    min_ess
        Smallest effective sample size (bulk) of the elements for which it is computed: all of a site
        with up to `SUBSET`; of larger ones as many, `SUSPECTS` of the largest R-hat (with several
        chains) and the others at random.  An element that is slow in all chains alike may be missed.
    worst
        Name of the site with that effective sample size.
    divergences
        Number of divergent transitions kept.
    min_bfmi
        Smallest energy Bayesian fraction of missing information of a chain; NaN for moves
        without an energy.
    saturated
        Share of draws whose tree had the largest depth allowed.
    findings
        Checks that failed; empty if none did.
    min_ess_tail
        Smallest effective sample size of the tails (the lesser of the 5% and the 95% quantile) of the
        same elements; no check is made of it.
    """

    max_rhat: float
    max_pixel_rhat: float
    min_ess: float
    worst: str
    divergences: int
    min_bfmi: float
    saturated: float
    findings: tuple[Finding, ...]
    min_ess_tail: float = np.nan

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems and remedies, one sentence each."""
        return tuple(finding.sentence() for finding in self.findings)


def diagnose(tree, sampler: AbstractSampler | type[AbstractSampler]) -> Diagnosis:
    """Check the draws of a tree made by `sample`.

    R-hat scatters: with 500 effective draws that of one quantity exceeds 1.01 in one run of six, and
    the largest of a hundred in nearly every run.  So elements are judged as many.  Each R-hat must
    be below 1.01, or below the limit by chance (`chance_rhat`), which all elements of a group
    together exceed in one of a hundred runs of chains that agree.  The limit is that for the
    effective draws within the chains, or for 400 if there are fewer: for one element with a
    thousand it is 1.01.  The median of 16 and more must be below 1.01, which finds what is a
    little wrong everywhere.  One chain that differs in one pixel is far beyond either.

    The smallest of many effective sample sizes is small by chance too: 400 is required of one,
    and of the smallest of several as much less as their scatter makes it.
    """
    whole, stuck = _moving(trees.group(tree, "posterior"))
    stats = trees.group(tree, "sample_stats")
    if not whole:
        stop = Finding(Check.NO_CHAIN_MOVED)
        divergences = int(stats["diverging"].sum())
        return Diagnosis(np.inf, np.nan, 0.0, "every site", divergences, np.nan, 0.0, (stop,))
    chains = next(iter(whole.values())).shape[0]
    rhats = {name: rank_rhat(draws) for name, draws in whole.items()} if chains > 1 else {}
    subset = _subset(whole, rhats)
    ess = trees.effective_sizes(subset)
    # Of all elements, as the ones with the largest R-hat are taken from all.
    enough = MIN_ESS * (1 - ESS_ERROR * norm.isf(0.5 / sum(v.shape[-1] for v in whole.values())))
    smallest = {n: np.min(v) if np.isfinite(v).all() else np.nan for n, v in ess.items()}
    tails = trees.effective_sizes(subset, method="tail").values()
    min_ess_tail = float(np.min([np.min(v) for v in tails]))  # NaN if one is
    worst = min(smallest, key=lambda n: -np.inf if np.isnan(smallest[n]) else smallest[n])
    min_ess = float(smallest[worst])
    max_rhat, max_pixel_rhat, disagreement = np.nan, np.nan, None
    if chains > 1:
        max_rhat, max_pixel_rhat, disagreement = _agreement(whole, rhats)
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
    if not min_ess >= enough:
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
    figures = max_rhat, max_pixel_rhat, min_ess, worst, divergences, min_bfmi, saturated
    return Diagnosis(*figures, tuple(found), min_ess_tail)


def _agreement(whole, rhats):
    """Return the largest R-hat of small and of large sites, and a finding about the worst."""
    few = [name for name, rhat in rhats.items() if rhat.size <= FEW]
    many = [name for name in rhats if name not in few]
    problems = []
    for group in ([few] if few else []) + [[name] for name in many]:
        problems += _problems(group, rhats, whole)
    largest = [
        float(np.nanmax([np.nanmax(_known(rhats[n])) for n in group])) if group else np.nan
        for group in (few, many)
    ]
    if not problems:
        return *largest, None
    how = max(problems)[1]
    # What is furthest beyond its limit need not be the largest, which tables show.
    top = max(rhats, key=lambda name: np.nanmax(_known(rhats[name])))
    highest = np.nanmax(_known(rhats[top]))
    said = f"{highest:.4f}"
    if np.isfinite(highest) and f"R-hat {said} " not in how:
        how += f"; the largest is {said}, of {top}"
    return *largest, how


def _known(rhat):
    return np.where(np.isnan(rhat), np.inf, rhat)


def _problems(group, rhats, whole) -> list[tuple[float, str]]:
    """Return how far R-hat of a group of sites exceeds its limits, and a sentence for each."""
    number = sum(rhats[name].size for name in group)
    typical = float(np.median(np.concatenate([_known(rhats[name]) for name in group])))
    found = []
    if number >= MANY and not typical < MAX_RHAT:
        names = group[0] if len(group) == 1 else f"{len(group)} sites, {group[0]} and others"
        excess = (typical - 1) / (MAX_RHAT - 1)
        text = f"median R-hat {typical:.4f} of {names}, should be below {MAX_RHAT}"
        found.append((excess, text))
    for name in group:
        worst = np.argsort(-_known(rhats[name]))[:COMPARED]
        worst = worst[_known(rhats[name][worst]) >= MAX_RHAT]
        if not len(worst):
            continue
        rhat, chance = rhat_excess(whole[name][..., worst].astype(float), number, least=MIN_ESS)
        limit = np.maximum(chance, MAX_RHAT)
        excess = (_known(rhat) - 1) / (limit - 1)
        at = int(np.argmax(excess))
        if excess[at] < 1:
            continue
        if limit[at] > MAX_RHAT:
            text = (
                f"R-hat {rhat[at]:.4f} in an element of {name}, where chance makes it at most "
                f"{limit[at]:.4f}"
            )
        else:
            text = f"R-hat {rhat[at]:.4f} of {name}, should be below {MAX_RHAT}"
        found.append((float(excess[at]), text))
    return found


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
        # Not by differences: those of a constant infinite element are NaN.
        fixed = (flat == flat[:, :1]).all(1)
        # A constant deterministic site has no mixing, and one with NaN is reported as such.
        moving = ~fixed.all(0) | (flat[:, 0] != flat[0, 0]).any(0)
        moving &= ~np.isnan(flat).any((0, 1))
        if moving.any():
            out[str(name)] = flat if moving.all() else flat[..., moving]
        if (fixed & ~fixed.all(0)).any():
            stuck = stuck or str(name)
    return out, stuck


def _subset(whole, rhats):
    """Return a Dataset of at most `SUBSET` elements of each site, the suspect ones among them."""
    import xarray

    rng = np.random.default_rng(0)
    out = {}
    for name, flat in whole.items():
        number = flat.shape[-1]
        if number > SUBSET:
            worst_first = np.argsort(-_known(rhats[name])) if name in rhats else np.arange(0)
            suspects = worst_first[:SUSPECTS]
            rest = np.setdiff1d(np.arange(number), suspects)
            chosen = rng.choice(rest, SUBSET - len(suspects), replace=False)
            flat = flat[..., np.sort([*suspects, *chosen])]
        out[name] = (("chain", "draw", f"{name}_element"), flat.astype(float))
    return xarray.Dataset(out)
