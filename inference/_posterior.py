"""A model and its data as functions of unconstrained parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import init_to_feasible, init_to_median

from scorepriors._compat import (
    Messenger,
    compute_log_probs,
    constrain_fn,
    potential_energy,
    unconstrain_fn,
    unconstrain_reparam,
)
from scorepriors._errors import InputError
from scorepriors._recovery import recover


class Posterior(eqx.Module):
    """Log-density of any NumPyro model in its unconstrained space; a pytree.

    Parameters u are a dictionary of arrays by site name.  A morphology's
    unconstrained space is ``log(x + softening)``: the stretched space of its prior up
    to a shift and a scale, in which modes are taken.

    Attributes
    ----------
    arrays
        Array leaves of the model's arguments: traced, so other data of the same
        shapes reuse the compiled program.
    static
        Everything else (Python scalars, strings, functions).
    model
        The NumPyro model.
    """

    arrays: Any
    static: Any = eqx.field(static=True)
    model: Callable = eqx.field(static=True)

    def __reduce__(self):
        # The tree structure of the arguments can't be pickled, the arguments can.
        args, kwargs = self._with_numbers(lambda rows: np.array(rows).tolist())
        return _rebuild, (self.model, args, kwargs)

    @property
    def arguments(self) -> tuple[tuple, dict]:
        """Positional and keyword arguments of the model."""
        return self._with_numbers(np.array)

    def _with_numbers(self, convert: Callable) -> tuple[tuple, dict]:
        leaves, structure = self.static
        leaves = [convert(leaf.rows) if isinstance(leaf, _Numbers) else leaf for leaf in leaves]
        return eqx.combine(self.arrays, jax.tree.unflatten(structure, leaves))

    def potential_fn(self, u: dict) -> jax.Array:
        """Return minus the log-density, as for ``numpyro.infer.NUTS(potential_fn=...)``."""
        args, kwargs = self.arguments
        return potential_energy(self.model, args, kwargs, u)

    def potential_and_values(self, u: dict) -> tuple[jax.Array, dict]:
        """Return `potential_fn` and `constrain` by one evaluation of the model."""
        args, kwargs = self.arguments
        sites: dict = {}

        def watched(*args, **kwargs):
            with handlers.trace() as trace:
                self.model(*args, **kwargs)
            sites.update(trace)

        potential = potential_energy(watched, args, kwargs, u)
        return potential, _values(sites)

    def log_density(self, u: dict) -> jax.Array:
        """Return the log of the joint density at u, Jacobians of the transforms included."""
        return -self.potential_fn(u)

    def log_density_terms(self, u: dict) -> dict:
        """Return the terms of `log_density` by site, one entry per element of a plate.

        Differences of these, taken before the sum, keep float32 accurate where the sum is
        large: a chi^2 of 1e5 has no digits for the tenth of a nat that determines whether a
        proposal is accepted.
        """
        args, kwargs = self.arguments
        # As in `potential_energy`, which returns only the sum of the terms.
        model = handlers.substitute(self.model, substitute_fn=partial(unconstrain_reparam, u))
        terms, _ = compute_log_probs(model, args, kwargs, {}, sum_log_prob=False)
        return terms

    def recover(self, key, u: dict, *, log_likelihood: bool = False, predictive: bool = False):
        """Return constrained and deterministic sites at u.

        Sites that the density integrates out (exact spectra) are drawn, given the rest; see
        `scorepriors.models.recovery`.

        Parameters
        ----------
        key
            Random key of those draws, and of the predictive ones.
        u
            Unconstrained parameters.
        log_likelihood
            Whether to return the log-likelihood of every observed element.
        predictive
            Whether to return a draw of every observed site.

        Returns
        -------
        values, log_likelihoods, predictions
            Three dictionaries by site; the last two are empty unless asked for.
        """
        args, kwargs = self.arguments
        conditioned = handlers.substitute(self.model, data=self.constrain(u, deterministics=False))
        trace = _recovered(conditioned, key, args, kwargs)
        values = _values(trace)
        observed = observed_sites(trace)
        likelihoods = {n: s["fn"].log_prob(s["value"]) for n, s in observed.items()}
        predictions = {}
        if predictive:
            # The same values of all unobserved sites, and new data.
            drawn = {n: s["value"] for n, s in trace.items() if n not in observed}
            again = handlers.substitute(without_data(self.model, observed), data=drawn)
            new = _recovered(again, key, args, kwargs)
            predictions = {n: new[n]["value"] for n in observed}
        return values, likelihoods if log_likelihood else {}, predictions

    def trace(self, u: dict) -> dict:
        """Return NumPyro's trace at u, with shapes where values depend on the arguments."""
        args, kwargs = self.arguments
        found = {}

        def abstract(u):
            values = self.constrain(u, deterministics=False)
            conditioned = handlers.substitute(self.model, data=values)
            found.update(_recovered(conditioned, jax.random.key(0), args, kwargs))
            return 0

        jax.eval_shape(abstract, u)
        return found

    def constrain(self, u: dict, *, deterministics: bool = True) -> dict:
        """Return values of the sites (and deterministic sites) at u."""
        args, kwargs = self.arguments
        return constrain_fn(self.model, args, kwargs, u, return_deterministic=deterministics)

    def unconstrain(self, values: dict) -> dict:
        """Return the parameters u of given site values; every latent site needs one."""
        args, kwargs = self.arguments
        return unconstrain_fn(self.model, args, kwargs, {n: values[n] for n in self.sites()})

    def sites(self, values: dict | None = None) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the latent sites, without drawing from priors.

        Parameters
        ----------
        values
            Values of sites; others are set to the middle of their support.
        """
        # Abstractly: running the model eagerly would compile it operation by operation.
        found = _empty_sites.eval_shape(self, {} if values is None else values)
        return {name: site.shape for name, site in zip(found.names, found.sites, strict=True)}

    def start(self, values: dict | None = None, *, key) -> dict:
        """Return parameters u to start from.

        Parameters
        ----------
        values
            Constrained values of some or all sites.
        key
            Random key for sites without a value, which start at the median of prior draws.

        Raises
        ------
        InputError
            If a value has an unknown name, the wrong shape, or lies outside the support.
        """
        values = {} if values is None else {n: jnp.asarray(v) for n, v in values.items()}
        shapes = self.sites()
        for name, value in values.items():
            if name not in shapes:
                raise InputError(
                    f"`init` names {name!r}, which is no latent site of the model; "
                    f"its sites are {', '.join(shapes)}."
                )
            if value.shape != shapes[name]:
                raise InputError(
                    f"`init[{name!r}]` has shape {value.shape}, the site {shapes[name]}."
                )
        u = _start(self, values, key)
        for name in values:
            if not np.isfinite(np.asarray(u[name])).all():
                raise InputError(f"`init[{name!r}]` holds values outside the site's support.")
        return u


def _values(trace) -> dict:
    """Return values of the latent and the deterministic sites."""
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "deterministic" or (site["type"] == "sample" and not site["is_observed"])
    }


def observed_sites(trace) -> dict:
    """Return observed sites with a distribution, which a `numpyro.factor` is not."""
    return {
        name: site
        for name, site in trace.items()
        if site["type"] == "sample"
        and site["is_observed"]
        and not isinstance(getattr(site["fn"], "base_dist", site["fn"]), dist.Unit)
    }


def _recovered(model, key, args, kwargs):
    with recover():
        seeded = handlers.seed(model, key)
        return handlers.trace(seeded).get_trace(*args, **kwargs)


class without_data(Messenger):
    """Turn observed sites of a model back into sites to draw."""

    def __init__(self, fn, names):
        super().__init__(fn)
        self._names = frozenset(names)

    def process_message(self, msg):
        if msg["type"] == "sample" and msg["name"] in self._names:
            msg["is_observed"] = False
            msg["value"] = None


def _latent(bound: Posterior, values: dict, key, other: Callable):
    """Return the trace of the model with `values`, and other sites as set by `other`."""
    args, kwargs = bound.arguments

    def fill(site):
        return None if site["name"] in values else other(site)

    model = handlers.substitute(handlers.seed(bound.model, key), substitute_fn=fill)
    trace = handlers.trace(handlers.substitute(model, data=values)).get_trace(*args, **kwargs)
    for name, site in trace.items():
        if site["type"] == "param":
            raise InputError(
                f"the model has a `numpyro.param`, {name!r}, which has no prior and so no place in "
                "a posterior; make it a `numpyro.sample` site, with "
                "`dist.ImproperUniform(constraint, (), shape)` for a flat prior."
            )
    return {
        name: site
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


class _Sites(eqx.Module):
    """Latent sites in the order of the model, which a dictionary under jit does not keep."""

    sites: tuple
    names: tuple[str, ...] = eqx.field(static=True)


# Under jit for its cache: the model is traced once for each shape.
@jax.jit
def _empty_sites(bound: Posterior, values: dict) -> _Sites:
    """Return zeros in the shapes of the latent sites."""
    sites = _latent(bound, values, jax.random.key(0), init_to_feasible())
    return _Sites(tuple(jnp.zeros(site["fn"].shape()) for site in sites.values()), tuple(sites))


@eqx.filter_jit
def _start(bound: Posterior, values: dict, key) -> dict:
    median = init_to_median(num_samples=15)
    return {
        name: biject_to(site["fn"].support).inv(site["value"])
        for name, site in _latent(bound, values, key, median).items()
    }


@dataclass(frozen=True)
class _Numbers:
    """Rows of a list of integers, hashable as `Posterior.static` has to be."""

    rows: tuple


def _listed(value):
    """Return a list of numbers as an array, and anything else unchanged."""
    if not isinstance(value, list) or not value:
        return value
    numbers = jax.tree.leaves(value, is_leaf=lambda x: x is None)
    if not all(isinstance(n, bool | int | float | np.number) for n in numbers):
        return jax.tree.map(
            _listed, value, is_leaf=lambda x: isinstance(x, list) and x is not value
        )
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        return value
    if array.dtype.kind == "f":
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return _Numbers(_as_tuples(array.tolist()))


def _as_tuples(rows):
    return tuple(map(_as_tuples, rows)) if isinstance(rows, list) else rows


def _rebuild(model, args, kwargs) -> Posterior:
    return posterior(model, *args, model_kwargs=kwargs)


def posterior(
    model: Callable | Posterior, *model_args: Any, model_kwargs: dict | None = None
) -> Posterior:
    """Bind a NumPyro model to its arguments.

    Parameters
    ----------
    model
        Any NumPyro model, or a `Posterior`, which is returned unchanged.  Arguments in a
        `functools.partial` are those of the model.
    *model_args, model_kwargs
        Arguments of the model.  Arrays are traced; Python numbers and strings are static.  A
        list of numbers becomes an array: traced if one of them is a float, static (counts or
        sizes) otherwise.

    Raises
    ------
    InputError
        For arguments beside a `Posterior`, which has its own.
    """
    if isinstance(model, Posterior):
        if model_args or model_kwargs:
            raise InputError("a Posterior already holds its arguments; give it alone.")
        return model
    keywords = dict(model_kwargs or {})
    if isinstance(model, partial):
        model_args, keywords = (*model.args, *model_args), {**model.keywords, **keywords}
        model = model.func
    whole = jax.tree.map(_listed, (model_args, keywords), is_leaf=lambda x: isinstance(x, list))
    # By `device_put`: a conversion would compile a program for every shape.
    whole = jax.tree.map(lambda a: jax.device_put(a) if isinstance(a, np.ndarray) else a, whole)
    arrays, static = eqx.partition(whole, eqx.is_array)
    leaves, structure = jax.tree.flatten(static, is_leaf=lambda x: x is None)
    return Posterior(arrays, (tuple(leaves), structure), model)
