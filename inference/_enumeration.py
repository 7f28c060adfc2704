"""Discrete latent sites, summed over by enumeration with funsor, as NumPyro does.

A density over continuous parameters has no place for a discrete site: the sum over all its
values (Obermeyer et al. 2019, *Tensor variable elimination for plated factor graphs*) has.
`numpyro.contrib.funsor` computes it; this module prepares the model, and draws the discrete sites
given the others.
"""

import math
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import jax
import numpy as np
from numpyro import handlers

from scorepriors._compat import Messenger
from scorepriors._errors import InputError

#: End of the name under which NumPyro registers the weights of a network.
NETWORK = "$params"

#: Name of the one term of a density with discrete sites.
ENUMERATED = "sum over discrete sites"


class DiscreteSites(Exception):
    """A model has a discrete site without a value: its density is a sum."""


class continuous(Messenger):
    """Raise `DiscreteSites` at the first discrete latent site of a model; refuse a `numpyro.param`."""

    def process_message(self, msg):
        if msg["type"] == "control_flow" and msg["kwargs"]["rng_key"] is None:
            # No handler sees into a loop before it has run, and a discrete site draws there.
            msg["kwargs"]["rng_key"] = jax.random.key(0)
        if msg["type"] == "param" and not msg["name"].endswith(NETWORK):
            raise InputError(param_sentence(msg["name"]))
        if is_discrete(msg):
            raise DiscreteSites(msg["name"])

    def postprocess_message(self, msg):
        # A density is a function of its parameters alone: one key for all, as in NumPyro.  Where draws
        # are recovered a handler outside has given each its own.
        if msg["type"] == "prng_key" and msg["value"] is None:
            msg["value"] = jax.random.key(0)


class _watched(Messenger):
    """Note whether a model has loops of NumPyro (`scan`) inside."""

    found = False

    def process_message(self, msg):
        self.found |= msg["type"] == "control_flow"


def check_params(trace: dict) -> None:
    """Refuse what a trace has of `numpyro.param`, but networks of which every weight is a site.

    NumPyro's ``random_flax_module``, ``random_nnx_module`` and ``random_eqx_module`` register the
    weights and replace them by sites, whose names begin with that of the network.

    Raises
    ------
    InputError
        With the name.
    """
    for name, site in trace.items():
        if site["type"] != "param":
            continue
        network = name.removesuffix(NETWORK)
        if network == name:
            raise InputError(param_sentence(name))
        weights = jax.tree.leaves(site["value"], is_leaf=lambda x: hasattr(x, "shape"))
        drawn = (
            np.size(one["value"])
            for other, one in trace.items()
            if one["type"] == "sample" and other.startswith(network)
        )
        if sum(math.prod(one.shape) for one in weights) > sum(drawn):
            raise InputError(
                f"weights of the network {network!r} have no prior and so no place in a posterior; "
                "give one for every weight, as `random_flax_module(..., prior=dist.Normal())` does."
            )


def param_sentence(name: str) -> str:
    """Return why a model with a `numpyro.param` is refused."""
    return (
        f"the model has a `numpyro.param`, {name!r}, which has no prior and so no place in "
        "a posterior; make it a `numpyro.sample` site, with "
        "`dist.ImproperUniform(constraint, (), shape)` for a flat prior."
    )


def is_discrete(site: dict) -> bool:
    """Return whether a site of a trace is latent and discrete."""
    if site["type"] != "sample" or site["is_observed"]:
        return False
    return bool(getattr(site["fn"].support, "is_discrete", False))


def check_enumerable(sites: dict[str, Any]) -> None:
    """Refuse discrete sites of a trace that can't be enumerated.

    Raises
    ------
    InputError
        For a site with infinitely many values, for one that asks for another kind of
        enumeration, and without funsor.
    """
    for name, site in sites.items():
        kind = type(getattr(site["fn"], "base_dist", site["fn"])).__name__
        if not site["fn"].has_enumerate_support:
            raise InputError(
                f"the site {name!r} is discrete, and its distribution ({kind}) has no finite list "
                "of values to sum over: use one that has (`Categorical`), or write the sum into "
                "the model."
            )
        wanted = site["infer"].get("enumerate", "parallel")
        if wanted != "parallel":
            raise InputError(
                f"the discrete site {name!r} asks for infer={{'enumerate': {wanted!r}}}: only "
                "'parallel' is available."
            )
        if find_spec("funsor") is None:
            raise InputError(
                f"the site {name!r} is discrete: summing over its values needs funsor, "
                "pip install funsor (or 'scorepriors[enumerate]')."
            )


def traced(model: Callable, args, kwargs) -> tuple[dict, bool]:
    """Return the trace of a model with discrete sites drawn, and whether it has loops inside.

    Raises
    ------
    InputError
        For a `numpyro.param`: behind a discrete site `continuous` has not come to it.
    """
    seen = _watched(handlers.seed(model, jax.random.key(0)))
    trace = handlers.trace(seen).get_trace(*args, **kwargs)
    check_params(trace)
    return trace, seen.found


def enumerated(model: Callable, trace: dict) -> Callable:
    """Return the model with its discrete sites enumerated, for funsor's `log_density`.

    Parameters
    ----------
    model
        The model.
    trace
        Its trace, from which the axes taken by plates are known.
    """
    from numpyro.contrib.funsor import config_enumerate, enum

    check_enumerable({n: s for n, s in trace.items() if is_discrete(s)})
    return enum(config_enumerate(handlers.seed(model, jax.random.key(0))), _first_free(trace))


def draw_discrete(model: Callable, args, kwargs, trace: dict, key) -> dict:
    """Return a joint draw of the discrete sites given all others, which have values.

    Parameters
    ----------
    model
        The model, with values of all continuous sites.
    args, kwargs
        Its arguments.
    trace
        Its trace.
    key
        Random key.
    """
    from numpyro.contrib.funsor import config_enumerate, infer_discrete

    first, second = jax.random.split(key)
    seeded = handlers.seed(config_enumerate(model), first)
    drawn = infer_discrete(seeded, first_available_dim=_first_free(trace), rng_key=second)
    with summing():
        found = handlers.trace(drawn).get_trace(*args, **kwargs)
    return {name: found[name]["value"] for name, site in trace.items() if is_discrete(site)}


@contextmanager
def summing():
    """Silence what JAX says of the double precision that funsor asks it for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Explicitly requested dtype")
        yield


def untouched(compute: Callable, given: dict) -> frozenset[str]:
    """Return the names of a function's results that do not depend on its argument.

    Parameters
    ----------
    compute
        Function of a dictionary of arrays that returns values by name.
    given
        The argument, or its shapes.
    """
    # A result that depends on a mapped argument can't be returned unmapped: JAX refuses.
    stacked = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype), given)

    def is_free(name):
        try:
            one = jax.vmap(lambda values: compute(values)[name], out_axes=None)
            jax.eval_shape(one, stacked)
        except ValueError:
            return False
        return True

    return frozenset(name for name in jax.eval_shape(compute, given) if is_free(name))


def _first_free(trace: dict) -> int:
    """Return the first axis to the left of all plates."""
    taken = [
        frame.dim
        for site in trace.values()
        if site["type"] == "sample"
        for frame in site["cond_indep_stack"]
        if frame.dim is not None
    ]
    return min(taken, default=0) - 1
