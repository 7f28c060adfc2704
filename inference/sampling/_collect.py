"""Conversion of the positions of chains to ArviZ's object."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._traces import Kept
from scorepriors.inference._enumeration import untouched
from scorepriors.inference._posterior import Posterior, observed_sites

from ._abstract import Coordinates
from ._labels import Layout, unmasked
from ._tree import group, make_tree, plain, replace_group


class Keep(NamedTuple):
    """Content of a result beside the draws, and the names of its axes.

    Attributes
    ----------
    log_likelihood
        Whether to keep the log-likelihood of every observed element, for ``arviz.loo``.  Masked
        elements are no observations: a site that has some, such as an image with masked pixels,
        has one axis ``<site>_unmasked`` over the others, with coordinates ``<site>_<axis>`` that
        tell where they are.
    posterior_predictive
        Whether to keep a draw of every observed site per draw.
    dims, coords
        Names of axes by site and their coordinates, beside those known from plates; checked
        before the first draw.
    constant_data
        Arrays to keep with the result, by name.
    log_prior
        Whether to keep the log-density of every latent site given the sites above it, for
        sensitivity to the prior by power-scaling (``arviz.psens``, ``psense`` in version 1).
        Of constrained values, without Jacobians; sites that are integrated out have none.
    leave_out
        Names of latent and deterministic sites to leave out of the draws, such as large ones that
        are computed for the likelihood alone; checked before the first draw.  Latent sites are
        judged by `sample` all the same, deterministic ones are not computed.
    """

    log_likelihood: bool = False
    posterior_predictive: bool = False
    dims: Mapping[str, Sequence[str]] = {}
    coords: Mapping[str, Any] = {}
    constant_data: Mapping[str, Any] = {}
    log_prior: bool = False
    leave_out: Sequence[str] = ()


def collect(
    coordinates: Coordinates, draws: list, stats: dict, keep: Keep, layout: Layout, *, key
) -> Any:
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
    layout
        Names of axes, from `lay_out`.
    key
        Random key for sites that are drawn given the positions.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        Unwanted latent sites are still there, to be judged: see `leave_out`.
    """
    data = observed_data(coordinates, draws[0][0, 0], layout.trace)
    masks = fixed_masks(coordinates, draws[0][0, 0]) if keep.log_likelihood else {}
    followed = [n for n in layout.unwanted if layout.trace[n]["type"] == "deterministic"]
    values, likelihoods, predictions, priors = recover_draws(
        coordinates, draws, key, keep, frozenset(followed)
    )
    groups = {
        "posterior": values,
        "sample_stats": stats,
        "log_likelihood": likelihoods,
        "log_prior": priors,
        "posterior_predictive": predictions,
        "observed_data": data,
        "constant_data": dict(keep.constant_data),
    }
    tree = make_tree(groups, dims=layout.dims, coords=dict(keep.coords))
    if masks:
        _leave_masked_out(tree, masks, layout, keep.coords)
    if layout.left_out:
        tree.attrs["left_out"] = json.dumps(layout.left_out)
    return tree


def leave_out(tree: Any, layout: Layout) -> None:
    """Take the sites that the user does not want out of the draws of a tree, in place."""
    if not layout.unwanted:
        return
    dataset = group(tree, "posterior")
    names = [plain(name) for name in layout.unwanted if plain(name) in dataset]
    replace_group(tree, "posterior", _without_idle(dataset.drop_vars(names)))


@Kept
def _masks(coordinates: Coordinates, position) -> dict:
    return coordinates.bound.masks(coordinates.params(position))


def fixed_masks(coordinates: Coordinates, position) -> dict[str, np.ndarray]:
    """Return masks of observed sites with masked elements, if they depend on no parameter.

    Parameters
    ----------
    coordinates
        Coordinates of draws.
    position
        Any of them.
    """
    bound, u = coordinates.bound, jax.eval_shape(coordinates.params, position)
    fixed = untouched(bound.masks, u)
    if not fixed:
        return {}
    masks = {n: np.asarray(mask) for n, mask in _masks(coordinates, jnp.asarray(position)).items()}
    return {name: masks[name] for name in sorted(fixed) if not masks[name].all()}


def _leave_masked_out(tree: Any, masks: dict, layout: Layout, coords: Mapping) -> None:
    """Keep of log-likelihoods the unmasked elements alone, in place."""
    dataset = group(tree, "log_likelihood")
    for name, mask in masks.items():
        values = dataset[plain(name)]
        dataset = dataset.drop_vars(plain(name))
        if mask.any():
            axes = layout.dims.get(name, [])[: mask.ndim]
            if len(axes) < mask.ndim:  # a single value, observed many times
                axes = [f"{name}_dim_{i}" for i in range(mask.ndim)]
            axis, where = unmasked(name, axes, mask, coords)
            draws = np.asarray(values)[..., mask]
            dataset[plain(name)] = (("chain", "draw", axis), draws)
            dataset = dataset.assign_coords(where)
    replace_group(tree, "log_likelihood", _without_idle(dataset))


def _without_idle(dataset: Any) -> Any:
    """Return a dataset without the coordinates of axes that no variable has any more."""
    idle = [n for n in dataset.dims if not any(n in v.dims for v in dataset.data_vars.values())]
    return dataset.drop_vars([n for n in idle if n in dataset])


@Kept
def _recover_block(
    coordinates, positions, key, index, log_likelihood, predictive, log_prior, unwanted
):
    """Return values of draws ``[n, d]`` with numbers ``[n]``, without those of unwanted sites."""

    def one(index, q):
        bound, u, own = coordinates.bound, coordinates.params(q), jax.random.fold_in(key, index)
        options = {"log_likelihood": log_likelihood, "predictive": predictive}
        values, *found = bound.recover(own, u, **options)
        values = {name: value for name, value in values.items() if name not in unwanted}
        return values, *found, bound.log_prior_terms(own, u) if log_prior else {}

    # A few at a time: rendering needs much more memory than its result.
    return jax.lax.map(lambda x: one(*x), (index, positions), batch_size=8)


def recover_draws(coordinates, blocks, key, keep: Keep, unwanted: frozenset[str] = frozenset()):
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
            keep.log_likelihood,
            keep.posterior_predictive,
            keep.log_prior,
            tuple(sorted(unwanted)),
        )
        made = jax.tree.map(lambda a: np.asarray(a).reshape(size, chains, *a.shape[1:]), made)
        if out is None:
            out = jax.tree.map(lambda a: np.empty((chains, count, *a.shape[2:]), a.dtype), made)
        for whole, new in zip(jax.tree.leaves(out), jax.tree.leaves(made), strict=True):
            whole[:, number] = np.swapaxes(new[: len(block)], 0, 1)
        done += len(block)
    return out


@Kept
def _observed(coordinates: Coordinates, position, names: tuple[str, ...]) -> dict:
    found = coordinates.bound.observed(jax.random.key(0), coordinates.params(position))
    return {name: found[name] for name in names}


def observed_data(coordinates: Coordinates, position, trace) -> dict:
    """Return values of the observed sites of a model, by name.

    Parameters
    ----------
    coordinates
        Coordinates of draws.
    position
        Any of them.
    trace
        Trace of the model, with shapes where values depend on its arguments.
    """
    values = {name: site["value"] for name, site in observed_sites(trace).items()}
    data = {n: np.asarray(v) for n, v in values.items() if not isinstance(v, jax.core.Tracer)}
    if len(data) < len(values):  # the model computes them: `y[seen]`, `jnp.log(y)`
        bound, u = coordinates.bound, jax.eval_shape(coordinates.params, position)
        given = {"key": jax.eval_shape(lambda: jax.random.key(0)), "u": u}
        fixed = untouched(lambda at: bound.observed(at["key"], at["u"]), given)
        names = tuple(sorted(fixed - set(data)))
        if names:
            computed = _observed(coordinates, jnp.asarray(position), names)
            data |= {name: np.asarray(value) for name, value in computed.items()}
    return {name: data[name] for name in values if name in data}


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
