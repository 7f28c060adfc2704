"""A model and its data as functions of unconstrained parameters."""

from collections.abc import Callable
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
        return _rebuild, (self.model, *self.arguments)

    @property
    def arguments(self) -> tuple[tuple, dict]:
        """Positional and keyword arguments of the model."""
        leaves, structure = self.static
        whole = eqx.combine(self.arrays, jax.tree.unflatten(structure, leaves))
        return whole

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
        shapes = {}

        def draw(bound, values):
            sites = _latent(bound, values, jax.random.key(0), init_to_feasible())
            shapes.update({name: site["fn"].shape() for name, site in sites.items()})

        # Abstractly: running the model eagerly would compile it operation by operation.
        jax.eval_shape(draw, self, {} if values is None else values)
        return shapes

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
    return {
        name: site
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


@eqx.filter_jit
def _start(bound: Posterior, values: dict, key) -> dict:
    median = init_to_median(num_samples=15)
    return {
        name: biject_to(site["fn"].support).inv(site["value"])
        for name, site in _latent(bound, values, key, median).items()
    }


def _rebuild(model, args, kwargs) -> Posterior:
    return posterior(model, *args, model_kwargs=kwargs)


def posterior(
    model: Callable | Posterior, *model_args: Any, model_kwargs: dict | None = None
) -> Posterior:
    """Bind a NumPyro model to its arguments.

    Parameters
    ----------
    model
        Any NumPyro model, or a `Posterior`, which is returned unchanged.
    *model_args, model_kwargs
        Arguments of the model.  Arrays are traced; Python numbers and strings are static.

    Raises
    ------
    InputError
        For arguments beside a `Posterior`, which has its own.
    """
    if isinstance(model, Posterior):
        if model_args or model_kwargs:
            raise InputError("a Posterior already holds its arguments; give it alone.")
        return model
    whole = (model_args, dict(model_kwargs or {}))
    # By `device_put`: a conversion would compile a program for every shape.
    whole = jax.tree.map(lambda a: jax.device_put(a) if isinstance(a, np.ndarray) else a, whole)
    arrays, static = eqx.partition(whole, eqx.is_array)
    leaves, structure = jax.tree.flatten(static, is_leaf=lambda x: x is None)
    return Posterior(arrays, (tuple(leaves), structure), model)
