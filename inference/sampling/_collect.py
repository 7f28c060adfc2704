"""Conversion of the positions of chains to ArviZ's object."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors.inference._posterior import Posterior, observed_sites

from ._abstract import Coordinates
from ._labels import site_dims
from ._tree import make_tree


class Keep(NamedTuple):
    """Content of a result beside the draws, and the names of its axes.

    Attributes
    ----------
    log_likelihood
        Whether to keep the log-likelihood of every observed element, for ``arviz.loo``.
    posterior_predictive
        Whether to keep a draw of every observed site per draw.
    dims, coords
        Names of axes by site and their coordinates, beside those known from plates.
    constant_data
        Arrays to keep with the result, by name.
    """

    log_likelihood: bool = False
    posterior_predictive: bool = False
    dims: Mapping[str, Sequence[str]] = {}
    coords: Mapping[str, Any] = {}
    constant_data: Mapping[str, Any] = {}


def collect(coordinates: Coordinates, draws: list, stats: dict, keep: Keep, *, key) -> Any:
    """Return the tree of draws.

    Parameters
    ----------
    coordinates
        Coordinates of the draws.
    draws
        Blocks ``[n, C, d]`` of positions; the list is emptied.
    stats
        Sample statistics ``[C, n]``, by ArviZ's names.
    keep
        Further content of the tree.
    key
        Random key for sites that are drawn given the positions.
    """
    trace = coordinates.bound.trace(coordinates.params(jnp.asarray(draws[0][0, 0])))
    values, likelihoods, predictions = recover_draws(
        coordinates, draws, key, keep.log_likelihood, keep.posterior_predictive
    )
    groups = {
        "posterior": values,
        "sample_stats": stats,
        "log_likelihood": likelihoods,
        "posterior_predictive": predictions,
        "observed_data": observed_data(trace),
        "constant_data": dict(keep.constant_data),
    }
    names = {**site_dims(trace), **keep.dims}
    return make_tree(groups, dims=names, coords=dict(keep.coords))


@eqx.filter_jit
def _recover_block(coordinates, positions, key, index, log_likelihood, predictive):
    """Return values of draws ``[n, d]`` with numbers ``[n]``."""

    def one(index, q):
        return coordinates.bound.recover(
            jax.random.fold_in(key, index),
            coordinates.params(q),
            log_likelihood=log_likelihood,
            predictive=predictive,
        )

    # A few at a time: rendering needs much more memory than its result.
    return jax.lax.map(lambda x: one(*x), (index, positions), batch_size=8)


def recover_draws(coordinates, blocks, key, log_likelihood, predictive):
    """Return constrained values ``[C, n, ...]`` of the blocks of a run; the list is emptied."""
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
            coordinates,
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
    """Return values of the observed sites of a trace, by name."""
    # Data that the model computes from its arguments are not available here.
    return {
        name: np.asarray(site["value"])
        for name, site in observed_sites(trace).items()
        if not isinstance(site["value"], jax.core.Tracer)
    }


def prior_facts(bound: Posterior) -> dict[str, str]:
    """Return attributes with the names of a model's priors, and their noise levels."""
    priors = [
        leaf
        for leaf in jax.tree.leaves(
            bound.arguments, is_leaf=lambda node: isinstance(node, ScorePrior)
        )
        if isinstance(leaf, ScorePrior)
    ]
    if not priors:
        return {}
    return {
        "prior": json.dumps([repr(p) for p in priors]),
        "sigma0": json.dumps([float(p.sigma) for p in priors]),
    }
