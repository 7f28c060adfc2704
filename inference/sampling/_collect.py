"""From the positions of chains to ArviZ's object, with what it says of itself."""

import json
import time
import warnings
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors import __version__
from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors.inference._posterior import observed_sites
from scorepriors.inference._progress import bar

from ._algorithms import Algorithm
from ._chains import Target
from ._diagnostics import Diagnosis, SamplingWarning, diagnose
from ._labels import site_dims
from ._tree import make_tree


@contextmanager
def reporter(progress, total):
    """Yield ``report(done, text)``: a bar, a function of the caller, or nothing."""
    if callable(progress):
        yield lambda done, text: progress(done, total, text)
    elif progress:
        with bar("sample", total) as update:
            yield update
    else:
        yield lambda done, text: None


def check_ranges(rate: float, **numbers: tuple[int, int]) -> None:
    """Raise InputError for an acceptance rate or ``name=(number, least)`` out of range."""
    for name, (number, least) in numbers.items():
        if number < least:
            raise InputError(f"`{name}` must be at least {least}, got {number}.")
    if not 0 < rate < 1:
        raise InputError(f"`target_acceptance_rate` must be between 0 and 1, got {rate}.")


def collect(
    target: Target,
    draws: list,
    stats: dict,
    method: Algorithm,
    *,
    key,
    log_likelihood: bool,
    posterior_predictive: bool,
    dims: dict | None,
    coords: dict | None,
    constant_data: dict | None,
    attrs: dict,
    wanted: int,
    started: float,
) -> Any:
    """The tree of a run, checked; warns of what speaks against it.

    Parameters
    ----------
    target
        What was sampled.
    draws
        Blocks ``[n, C, d]`` of positions, before the refinement; used up.
    stats
        Sample statistics ``[C, n]``, by ArviZ's names.
    method
        How the chains moved.
    key
        For what is drawn on top of the positions.
    log_likelihood, posterior_predictive, dims, coords, constant_data
        See `sample`.
    attrs
        Facts of the run.
    wanted
        Draws per chain that were asked for.
    started
        Clock (monotonic) at the start of the run.
    """
    kept = sum(len(d) for d in draws)
    trace = target.bound.trace(target.params(draws[0][0, 0]))
    values, likelihoods, predictions = recover_draws(
        target, draws, key, log_likelihood, posterior_predictive
    )
    groups = {
        "posterior": values,
        "sample_stats": stats,
        "log_likelihood": likelihoods,
        "posterior_predictive": predictions,
        "observed_data": observed_data(trace),
        "constant_data": dict(constant_data or {}),
    }
    attrs = {**attrs, "seconds": time.monotonic() - started, "interrupted": int(kept < wanted)}
    names = {**site_dims(trace), **(dims or {})}
    tree = make_tree(groups, dims=names, coords=coords, attrs=attrs)
    found = diagnose(tree, method)
    tree.attrs.update(_summary(found))
    if kept < wanted:
        warnings.warn(
            f"interrupted: {kept} of {wanted} draws per chain were made and are kept.",
            SamplingWarning,
            stacklevel=3,
        )
    for sentence in found.warnings:
        warnings.warn(sentence, SamplingWarning, stacklevel=3)
    return tree


@eqx.filter_jit
def _recover_block(target, offsets, key, index, log_likelihood, predictive):
    """Values of draws ``[n, d]``, given before the refinement, with numbers ``[n]``."""

    def one(index, q):
        flat = target.preconditioner.center + target.preconditioner.curvature(q)
        _, unravel = ravel_pytree(target.origin)
        return target.bound.recover(
            jax.random.fold_in(key, index),
            unravel(flat),
            log_likelihood=log_likelihood,
            predictive=predictive,
        )

    # A few at a time: rendering needs much more memory than what is kept of it.
    return jax.lax.map(lambda x: one(*x), (index, offsets), batch_size=8)


def recover_draws(target, blocks, key, log_likelihood, predictive):
    """Constrained values ``[C, n, ...]`` of the blocks of a run, which are used up."""
    count = sum(len(block) for block in blocks)
    size = max(len(block) for block in blocks)
    chains = blocks[0].shape[1]
    out, done = None, 0
    blocks.reverse()
    while blocks:
        block = blocks.pop()
        number = done + np.arange(len(block))
        # Chain by chain, so that a draw's randomness depends on its place alone.
        index = np.arange(chains) * count + number[:, None]
        padding = [(0, size - len(block)), (0, 0)]
        made = _recover_block(
            target,
            np.pad(block, [*padding, (0, 0)], "edge").reshape(size * chains, -1),
            key,
            np.pad(index, padding, "edge").ravel().astype(np.int32),
            log_likelihood,
            predictive,
        )
        made = jax.tree.map(lambda a: np.asarray(a).reshape(size, chains, *a.shape[1:]), made)
        if out is None:
            out = jax.tree.map(lambda a: np.empty((chains, count, *a.shape[2:]), a.dtype), made)
        for whole, new in zip(jax.tree.leaves(out), jax.tree.leaves(made), strict=True):
            whole[:, number] = np.swapaxes(new[: len(block)], 0, 1)
        done += len(block)
    return out


def observed_data(trace) -> dict:
    """Values of the observed sites of a trace, by name."""
    # Data that the model computes from its arguments are not at hand here.
    return {
        name: np.asarray(site["value"])
        for name, site in observed_sites(trace).items()
        if not isinstance(site["value"], jax.core.Tracer)
    }


def attributes(bound, settings: dict, start: str, kept: int) -> dict:
    """Facts that every run has: versions, settings, priors."""
    import numpyro

    about = {
        "scorepriors_version": __version__,
        "numpyro_version": numpyro.__version__,
        "jax_version": jax.__version__,
        "algorithm": settings["algorithm"],
        "num_warmup": settings["num_warmup"],
        "thinning": settings["thinning"],
        "target_acceptance_rate": settings["rate"],
        "seed": json.dumps(settings["key"]),
        "start": start,
        "draws_kept": kept,
    }
    priors = [
        leaf
        for leaf in jax.tree.leaves(
            bound.arguments, is_leaf=lambda node: isinstance(node, ScorePrior)
        )
        if isinstance(leaf, ScorePrior)
    ]
    if priors:
        about["prior"] = json.dumps([repr(p) for p in priors])
        about["sigma0"] = json.dumps([float(p.sigma) for p in priors])
    return about


def _summary(found: Diagnosis) -> dict:
    return {
        "max_rhat": found.max_rhat,
        "max_pixel_rhat": found.max_pixel_rhat,
        "min_ess": found.min_ess,
        "min_ess_site": found.worst,
        "divergences": found.divergences,
        "min_bfmi": found.min_bfmi,
        "warnings": json.dumps(list(found.warnings)),
    }
