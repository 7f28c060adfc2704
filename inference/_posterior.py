"""A model and its data as functions of unconstrained parameters."""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

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
from scorepriors._traces import Kept

from ._checked import check_point
from ._constants import NEEDS_VALUES, SENTENCE, Constant, as_numpy, constants, has_tracers
from ._containers import plain_arrays, refuse_quantity
from ._enumeration import (
    ENUMERATED,
    DiscreteSites,
    check_enumerable,
    check_params,
    continuous,
    draw_discrete,
    enumerated,
    is_discrete,
    summing,
    traced,
    untouched,
)
from ._reads import reads

AnyMethod = TypeVar("AnyMethod", bound=Callable)


class Method(eqx.Module):
    """A method of a `Posterior` as a pytree that `jax.jit` takes too.

    Methods of Equinox modules are compared by their arrays, which have no hash; `jax.jit` needs
    one.  This is compared by identity.  Under `jax.jit` the data are constants of the program,
    under `equinox.filter_jit` they are traced.
    """

    bound: "Posterior"
    function: Callable = eqx.field(static=True)

    def __call__(self, *args, **kwargs):
        return self.function(self.bound, *args, **kwargs)

    def __eq__(self, other):
        same = isinstance(other, Method) and self.bound is other.bound
        return same and self.function is other.function

    def __hash__(self):
        return hash((id(self.bound), self.function))


class _method:
    """Descriptor that makes a `Method` of a function."""

    def __init__(self, function):
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance, owner=None):
        return self.function if instance is None else Method(instance, self.function)


def function(method: AnyMethod) -> AnyMethod:
    """Mark a method of `Posterior` as a function of its parameters."""
    return _method(method)  # type: ignore[return-value]


class Posterior(eqx.Module):
    """Log-density of any NumPyro model in its unconstrained space; a pytree.

    Parameters u are a dictionary of arrays by site name.  A morphology's
    unconstrained space is ``log(x + softening)``: the stretched space of its prior up
    to a shift and a scale, in which modes are taken.

    Discrete latent sites are summed over (`numpyro.contrib.funsor`, for which funsor has to be
    installed): they are no parameters, and `recover` draws them given the rest.

    Methods are functions that JAX's transforms take: ``jax.jit(bound.log_density)`` compiles the
    data in as constants, ``equinox.filter_jit(bound.log_density)`` traces them.

    Attributes
    ----------
    arrays
        Array leaves of the model's arguments: traced, so other data of the same
        shapes reuse the compiled program.
    static
        Everything else (Python scalars, strings, functions), and the arrays of a model that
        needs their values: see `posterior`.
    model
        The NumPyro model.
    reads
        Digest of what the model reads beside its arguments (closure, globals, attributes): other
        values there are another program.
    """

    arrays: Any
    static: Any = eqx.field(static=True)
    model: Callable = eqx.field(static=True)
    reads: str = eqx.field(static=True)

    def __reduce__(self):
        # The tree structure of the arguments can't be pickled, the arguments can.
        args, kwargs = self._with_numbers(lambda rows: np.array(rows).tolist())
        return _rebuild, (self.model, args, kwargs)

    def described(self) -> tuple[Any, Any]:
        """Return its traced and its other parts, for the names of its programs on disk."""
        return self._with_numbers(_Numbers), self.model

    @property
    def arguments(self) -> tuple[tuple, dict]:
        """Positional and keyword arguments of the model."""
        return self._with_numbers(np.array)

    def _with_numbers(self, convert: Callable) -> tuple[tuple, dict]:
        leaves, structure = self.static
        leaves = [convert(leaf.rows) if isinstance(leaf, _Numbers) else leaf for leaf in leaves]
        leaves = [leaf.array if isinstance(leaf, Constant) else leaf for leaf in leaves]
        return eqx.combine(self.arrays, jax.tree.unflatten(structure, leaves))

    @property
    def constants(self) -> list:
        """Arrays of the arguments whose values the model needs: constants of its programs."""
        return [leaf.array for leaf in self.static[0] if isinstance(leaf, Constant)]

    @function
    def potential_fn(self, u: dict) -> jax.Array:
        """Return minus the log-density, as for ``numpyro.infer.NUTS(potential_fn=...)``."""
        args, kwargs = self.arguments
        try:
            with self._at_a_point(u):
                return potential_energy(continuous(self.model), args, kwargs, u)
        except DiscreteSites:
            trace, _ = traced(self._at(u), args, kwargs)
            with summing():
                return potential_energy(enumerated(self.model, trace), args, kwargs, u, enum=True)

    @function
    def potential_and_values(self, u: dict) -> tuple[jax.Array, dict]:
        """Return `potential_fn` and `constrain` by one evaluation of the model."""
        args, kwargs = self.arguments
        sites: dict = {}

        def watched(*args, **kwargs):
            with handlers.trace() as trace:
                self.model(*args, **kwargs)
            sites.update(trace)

        try:
            with self._at_a_point(u):
                potential = potential_energy(continuous(watched), args, kwargs, u)
        except DiscreteSites:
            return self.potential_fn(u), self.constrain(u)
        return potential, _values(sites)

    @function
    def log_density(self, u: dict) -> jax.Array:
        """Return the log of the joint density at u, Jacobians of the transforms included."""
        return -self.potential_fn(u)

    @function
    def log_density_terms(self, u: dict) -> dict:
        """Return the terms of `log_density` by site, one entry per element of a plate.

        Differences of these, taken before the sum, keep float32 accurate where the sum is
        large: a chi^2 of 1e5 has no digits for the tenth of a nat that determines whether a
        proposal is accepted.  With discrete sites, over which a sum couples all others, there is
        one term.
        """
        args, kwargs = self.arguments
        try:
            model = continuous(self._at(u))
            with self._at_a_point(u):
                terms, _ = compute_log_probs(model, args, kwargs, {}, sum_log_prob=False)
        except DiscreteSites:
            return {ENUMERATED: self.log_density(u)}
        return terms

    @contextmanager
    def _at_a_point(self, u: dict):
        """Say in a sentence that a density failed because its point is not one of the model."""
        try:
            yield
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            # Only here: on every call it would be one more trace of the model.
            if not isinstance(error, InputError):
                check_point(self.shapes(), u, "a density")
            raise

    def _at(self, u: dict) -> Callable:
        """Return the model at u, as in `potential_energy`, which returns only a sum."""
        return handlers.substitute(self.model, substitute_fn=partial(unconstrain_reparam, u))

    @function
    def recover(self, key, u: dict, *, log_likelihood: bool = False, predictive: bool = False):
        """Return constrained and deterministic sites at u.

        Sites that the density integrates out (exact spectra) or sums over (discrete ones) are
        drawn, given the rest; see `scorepriors._recovery.recover` and `survey`.

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
        _, trace, missing = self._recovered(key, u)
        args, kwargs = self.arguments
        values = {n: v for n, v in _values(trace).items() if n not in missing}
        observed = {n: s for n, s in observed_sites(trace).items() if n not in missing}
        likelihoods = {n: s["fn"].log_prob(s["value"]) for n, s in observed.items()}
        predictions = {}
        if predictive:
            # The same values of all unobserved sites, and new data.  Deterministic sites follow:
            # those of observed ones are of the new data too.
            drawn = {
                n: s["value"]
                for n, s in trace.items()
                if n not in observed and s["type"] != "deterministic"
            }
            without = without_data(self.model, observed)
            again = handlers.substitute(without, data=drawn)
            try:
                new = _recovered(again, key, args, kwargs)
            except NotImplementedError as error:
                if without.last is None:
                    raise
                kind = type(_wrapped(observed[without.last]["fn"])).__name__
                raise InputError(
                    f"the site {without.last!r} can't be predicted, as its distribution ({kind}) "
                    "draws no samples: give the distribution a method `sample`, or leave "
                    "`posterior_predictive` out."
                ) from error
            predictions = {n: new[n]["value"] for n in observed}
        return values, likelihoods if log_likelihood else {}, predictions

    @function
    def log_prior_terms(self, key, u: dict) -> dict:
        """Return the log-density of every latent site given the sites above it, at u.

        Of the constrained values, without Jacobians, one entry per element of a plate.  With the
        log-likelihoods of `recover` for the same key they add up to the joint density, except for
        terms of a `numpyro.factor` and of sites that the model integrates out.  Factors of
        `numpyro.handlers.scale` (of plates with ``subsample_size`` too) are in the joint density
        and in neither of these.
        """
        _, trace, missing = self._recovered(key, u)
        return {
            name: site["fn"].log_prob(site["value"])
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"] and name not in missing
        }

    @function
    def observed(self, key, u: dict) -> dict:
        """Return the values of the observed sites by name, those that the model computes included.

        Parameters
        ----------
        key, u
            As for `recover`.  Values that depend on either are no data.
        """
        _, trace, missing = self._recovered(key, u)
        return {
            name: jnp.asarray(site["value"])
            for name, site in observed_sites(trace).items()
            if name not in missing
        }

    @function
    def masks(self, u: dict) -> dict:
        """Return the masks of observed sites by name, of the shape of their log-likelihood.

        Elements with False (`numpyro.handlers.mask`, `Distribution.mask`, pixels without weight)
        are not observations.  Sites without a mask are not in the dictionary.
        """
        _, trace, _ = self._recovered(jax.random.key(0), u)
        found = {}
        for name, site in observed_sites(trace).items():
            mask = mask_of(site["fn"])
            if mask is not None:
                shape = jnp.shape(site["fn"].log_prob(site["value"]))
                found[name] = jnp.broadcast_to(mask, shape)
        return found

    def _recovered(self, key, u: dict) -> tuple[Callable, dict, frozenset[str]]:
        """Return the model at u, its trace with all sites drawn, and those without a draw."""
        args, kwargs = self.arguments
        values = self.constrain(u, deterministics=False)
        model = handlers.substitute(self.model, data=values)
        try:
            return model, _recovered(continuous(model), key, args, kwargs), frozenset()
        except DiscreteSites:
            trace, looped = traced(model, args, kwargs)
        if looped:
            return model, trace, frozenset(trace) - self._undisturbed(model, trace)
        first, second = jax.random.split(key)
        drawn = draw_discrete(model, args, kwargs, trace, first)
        model = handlers.substitute(model, data=drawn)
        return model, _recovered(model, second, args, kwargs), frozenset()

    def _undisturbed(self, model: Callable, trace: dict) -> frozenset[str]:
        """Return the sites of a model whose value and density depend on no discrete site."""
        args, kwargs = self.arguments

        def compute(discrete):
            again, _ = traced(handlers.substitute(model, data=discrete), args, kwargs)
            return {n: _shown(site) for n, site in again.items() if site["type"] in _SHOWN}

        return untouched(compute, {n: s["value"] for n, s in trace.items() if is_discrete(s)})

    def trace(self, u: dict) -> dict:
        """Return NumPyro's trace at u, with shapes where values depend on the arguments."""
        return self.survey(u)[0]

    def survey(self, u: dict) -> tuple[dict, tuple[str, ...]]:
        """Return `trace` at u, and the names of the sites that `recover` leaves out.

        NumPyro draws discrete sites given the rest, but not in a model with a
        `numpyro.contrib.control_flow.scan`: there these are left out, with all that depends on
        them.
        """
        found: dict = {}

        def abstract(u):
            _, found["trace"], found["missing"] = self._recovered(jax.random.key(0), u)

        jax.eval_shape(abstract, u)
        return found["trace"], tuple(sorted(found["missing"]))

    @function
    def constrain(self, u: dict, *, deterministics: bool = True) -> dict:
        """Return values of the sites (and deterministic sites) at u.

        Without discrete sites, and deterministic ones that depend on them.
        """
        args, kwargs = self.arguments
        try:
            model = continuous(self.model)
            with self._at_a_point(u):
                return constrain_fn(model, args, kwargs, u, return_deterministic=deterministics)
        except DiscreteSites:
            fixed = self._at(u)
            trace, _ = traced(fixed, args, kwargs)
            values = {name: trace[name]["value"] for name in u}
            if deterministics:
                free = self._undisturbed(fixed, trace)
                values |= {n: v for n, v in _values(trace).items() if n in free}
            return values

    @function
    def unconstrain(self, values: dict) -> dict:
        """Return the parameters u of given site values; every latent site needs one."""
        names = self.sites()
        missing = sorted(set(names) - set(values))
        if missing:
            raise InputError(f"`unconstrain` needs a value of {', '.join(map(repr, missing))}.")
        return self.unconstrain_all({n: floating(values[n]) for n in names})

    def unconstrain_all(self, given: dict) -> dict:
        """Return `unconstrain` of values that are known to be floats of all sites."""
        args, kwargs = self.arguments
        try:
            return unconstrain_fn(continuous(self.model), args, kwargs, given)
        except DiscreteSites:
            trace, _ = traced(handlers.substitute(self.model, data=given), args, kwargs)
            return {n: biject_to(trace[n]["fn"].support).inv(v) for n, v in given.items()}

    def sites(self, values: dict | None = None) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the continuous latent sites, without drawing from priors.

        Parameters
        ----------
        values
            Values of sites; others are set to the middle of their support.
        """
        # Abstractly: running the model eagerly would compile it operation by operation.
        found = _empty_sites.shapes(self, {} if values is None else values)
        return {name: site.shape for name, site in zip(found.names, found.sites, strict=True)}

    def masked_sites(self) -> tuple[str, ...]:
        """Return the names of the continuous latent sites under a mask."""
        return _empty_sites.shapes(self, {}).masked

    def shapes(self) -> dict:
        """Return the shapes of the parameters u, as `jax.eval_shape` does."""
        return dict(_middle.shapes(self))

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
        values = {} if values is None else {n: floating(v) for n, v in values.items()}
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


def floating(value) -> jax.Array:
    """Return values of a continuous site as floats: an integer would stay one in every step."""
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def floating_on_host(value) -> np.ndarray:
    """Return `floating` of values in host memory, where no shape compiles a program of its own."""
    array = np.asarray(value)
    kind = array.dtype if jnp.issubdtype(array.dtype, jnp.floating) else float
    return array.astype(jax.dtypes.canonicalize_dtype(kind))


def _values(trace) -> dict:
    """Return values of the latent and the deterministic sites."""
    return {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "deterministic" or (site["type"] == "sample" and not site["is_observed"])
    }


#: Types of the sites of a trace that have values to show.
_SHOWN = ("sample", "deterministic")


def _shown(site: dict):
    # An observed value depends on nothing; its distribution may.
    return site["value"], site["fn"].log_prob(site["value"]) if site["type"] == "sample" else 0.0


def mask_of(fn: dist.Distribution):
    """Return the mask of a distribution, of its batch shape; None without one.

    An event is masked where all of its elements are.
    """
    shape = fn.batch_shape
    if isinstance(fn, dist.MaskedDistribution):
        inner, own = mask_of(fn.base_dist), jnp.broadcast_to(fn._mask, shape)
        return own if inner is None else own & jnp.broadcast_to(inner, shape)
    if isinstance(fn, dist.ExpandedDistribution):
        inner = mask_of(fn.base_dist)
        return None if inner is None else jnp.broadcast_to(inner, shape)
    if isinstance(fn, dist.Independent):
        inner = mask_of(fn.base_dist)
        axes = tuple(range(-fn.reinterpreted_batch_ndims, 0))
        return None if inner is None else jnp.any(inner, axes)
    return None


def _wrapped(fn: dist.Distribution) -> dist.Distribution:
    """Return the distribution of a site without the plates, events and masks about it."""
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


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

    #: Name of the last of them that was met.
    last: str | None = None

    def __init__(self, fn, names):
        super().__init__(fn)
        self._names = frozenset(names)

    def process_message(self, msg):
        if msg["type"] == "sample" and msg["name"] in self._names:
            msg["is_observed"] = False
            msg["value"] = None
            self.last = msg["name"]


def latent_trace(bound: Posterior, values: dict, key, other: Callable):
    """Return the trace of the model with `values`, and other sites as set by `other`."""
    args, kwargs = bound.arguments

    def fill(site):
        # Discrete sites are drawn: a median of integers is none.
        return None if site["name"] in values or is_discrete(site) else other(site)

    model = handlers.substitute(handlers.seed(bound.model, key), substitute_fn=fill)
    trace = handlers.trace(handlers.substitute(model, data=values)).get_trace(*args, **kwargs)
    check_params(trace)
    for name, site in trace.items():
        if site["type"] == "sample":
            refuse_quantity(site["value"], f"the value of the site {name!r}")
    latent = {
        name: site
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    discrete = {name: site for name, site in latent.items() if is_discrete(site)}
    check_enumerable(discrete)
    return {name: site for name, site in latent.items() if name not in discrete}


class _Sites(eqx.Module):
    """Latent sites in the order of the model, which a dictionary under jit does not keep."""

    sites: tuple
    names: tuple[str, ...] = eqx.field(static=True)
    masked: tuple[str, ...] = eqx.field(static=True)


@Kept
def _middle(bound: Posterior) -> dict:
    """Return parameters in the middle of the supports."""
    sites = latent_trace(bound, {}, jax.random.key(0), init_to_feasible())
    return {n: biject_to(s["fn"].support).inv(s["value"]) for n, s in sites.items()}


@Kept
def _empty_sites(bound: Posterior, values: dict) -> _Sites:
    """Return zeros in the shapes of the latent sites."""
    sites = latent_trace(bound, values, jax.random.key(0), init_to_feasible())
    masked = tuple(name for name, site in sites.items() if mask_of(site["fn"]) is not None)
    return _Sites(tuple(jnp.zeros(_shape(site)) for site in sites.values()), tuple(sites), masked)


def _shape(site: dict) -> tuple[int, ...]:
    # Of the site itself, whatever value was given for it.
    return site["fn"].shape(site["kwargs"].get("sample_shape", ()))


@Kept
def _start(bound: Posterior, values: dict, key) -> dict:
    median = init_to_median(num_samples=15)
    return {
        name: biject_to(site["fn"].support).inv(site["value"])
        for name, site in latent_trace(bound, values, key, median).items()
    }


@dataclass(frozen=True)
class _Numbers:
    """Rows of a list of integers, hashable as `Posterior.static` has to be."""

    rows: tuple


def listed(value, *, static: bool = True):
    """Return a list of numbers as an array, and anything else unchanged.

    Parameters
    ----------
    value
        An argument of a model, or a part of one.
    static
        Whether a list of integers (counts or sizes) is static.
    """
    if not isinstance(value, list) or not value:
        return value
    numbers = jax.tree.leaves(value, is_leaf=lambda x: x is None)
    if not all(isinstance(n, bool | int | float | np.number) for n in numbers):
        each = partial(listed, static=static)
        return jax.tree.map(each, value, is_leaf=lambda x: isinstance(x, list) and x is not value)
    try:
        array = np.array(value)
    except ValueError:  # rows of different lengths
        return value
    if array.dtype.kind == "f" or not static:
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return _Numbers(_as_tuples(array.tolist()))


def _as_tuples(rows):
    return tuple(map(_as_tuples, rows)) if isinstance(rows, list) else rows


def _rebuild(model, args, kwargs) -> Posterior:
    return _with_values(*bind(model, *args, model_kwargs=kwargs))


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
        sizes) otherwise.  Series and tables of pandas, xarray and others are taken by their
        `to_numpy`.

    Raises
    ------
    InputError
        For arguments beside a `Posterior`, which has its own; for quantities with a unit, arrays
        with masked elements or without numbers, and integers beyond the type of JAX.

    Warns
    -----
    UserWarning
        If the model needs the values of its arrays while its program is made
        (``len(np.unique(group))``, ``int(x.max())``, ``y[mask]``): they are constants then, and
        other data compile it anew.
    """
    bound, whole = bind(model, *model_args, model_kwargs=model_kwargs)
    settled = bound if whole is None else _with_values(bound, whole)
    if settled is not bound:
        warnings.warn(
            f"{SENTENCE}: all are constants of it, and other data will compile it anew.  To "
            "spare that, compute the number outside and give it as an argument.",
            UserWarning,
            stacklevel=2,
        )
    return settled


def _with_values(bound: Posterior, whole) -> Posterior:
    """Return the posterior with all arguments as constants where their values are needed."""
    if has_tracers(whole) or not needs_values(bound):
        return bound
    for one in (whole, as_numpy(whole)):
        other = _bound(bound.model, constants(one), bound.reads)
        if not needs_values(other):
            return other
    return bound  # which needs values of sites: JAX says where


def needs_values(bound: Posterior) -> bool:
    """Return whether a model can't be traced for want of the values of arrays."""
    if getattr(bound.model, "__module__", "").partition(".")[0] == "scorepriors":
        return False  # and so no second trace of a scene
    try:
        bound.sites()
    except NEEDS_VALUES:
        return True
    except Exception:  # of another kind, which is raised where the model is used
        return False
    return False


def bind(
    model: Callable | Posterior, *model_args: Any, model_kwargs: dict | None = None
) -> tuple[Posterior, Any]:
    """Return a model with its arrays traced, as `posterior` does, and all of its arguments.

    The arguments are None beside a `Posterior`, which has its own.
    """
    if isinstance(model, Posterior):
        if model_args or model_kwargs:
            raise InputError("a Posterior already holds its arguments; give it alone.")
        return model, None
    keywords = dict(model_kwargs or {})
    if isinstance(model, partial):
        model_args, keywords = (*model.args, *model_args), {**model.keywords, **keywords}
        model = model.func
    plain = plain_arrays(model, model_args, keywords)
    whole = jax.tree.map(listed, plain, is_leaf=lambda x: isinstance(x, list))
    # By `device_put`: a conversion would compile a program for every shape.
    traced = jax.tree.map(lambda a: jax.device_put(a) if isinstance(a, np.ndarray) else a, whole)
    return _bound(model, traced, reads(model)), whole


def _bound(model: Callable, whole, read: str) -> Posterior:
    arrays, static = eqx.partition(whole, eqx.is_array)
    leaves, structure = jax.tree.flatten(static, is_leaf=lambda x: x is None)
    return Posterior(arrays, (tuple(leaves), structure), model, read)
