"""Names of the axes of a model's sites, for ArviZ, checked before the first draw."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior, observed_sites

from ._tree import plain

#: Names of the axes of all draws.
OF_DRAWS = ("chain", "draw")


class Layout(NamedTuple):
    """Names and axes of a result.

    Attributes
    ----------
    trace
        Trace of the model, with shapes where values depend on its arguments.
    dims
        Names of the axes by site, those of constant data included.
    left_out
        Latent and deterministic sites without draws: see `Posterior.survey`.
    unwanted
        Latent and deterministic sites that the user leaves out of the result.
    """

    trace: dict[str, Any]
    dims: dict[str, list[str]]
    left_out: tuple[str, ...]
    unwanted: tuple[str, ...] = ()


def site_dims(trace: dict[str, Any]) -> dict[str, list[str]]:
    """Return names of the axes of every site, from plates and from annotations of events.

    As in NumPyro, ``numpyro.sample(..., infer={"event_dims": ["y", "x"]})`` names the axes of one
    event.  Axes without a name are named after the site, as in ArviZ.

    Parameters
    ----------
    trace
        Result of `Posterior.trace`.

    Raises
    ------
    InputError
        For ``event_dims`` that are no list of as many names as an event has axes.
    """
    dims = {}
    for name, site in trace.items():
        if not _is_kept(site) or not np.ndim(site["value"]):
            continue
        ndim = np.ndim(site["value"])
        event = len(site["fn"].event_shape) if site["type"] == "sample" else 0
        axes = [f"{name}_dim_{i}" for i in range(ndim)]
        for frame in site.get("cond_indep_stack", []):
            axis = ndim - event + frame.dim
            # A deterministic value inside of a plate may have other axes than the plate's.
            if 0 <= axis < ndim - event and np.shape(site["value"])[axis] == frame.size:
                axes[axis] = frame.name
        own = (site.get("infer") or {}).get("event_dims")
        if own is not None:
            _check_event_dims(name, own, np.shape(site["value"])[ndim - event :])
            axes[ndim - event :] = own
        dims[name] = axes
    return dims


def _check_event_dims(name: str, own: Any, shape: tuple[int, ...]) -> None:
    names = isinstance(own, list | tuple) and all(isinstance(axis, str) for axis in own)
    if not names or len(own) != len(shape):
        raise InputError(
            f"the site {name!r} has infer={{'event_dims': {own!r}}}, and its event the shape "
            f"{shape}: give a list of {len(shape)} names; axes of plates have the plates' names."
        )


def lay_out(bound: Posterior, keep) -> Layout:
    """Return names and axes of the result of a run, before its first draw.

    Parameters
    ----------
    bound
        The posterior.
    keep
        A `Keep`.

    Raises
    ------
    InputError
        For names in its `dims`, `coords`, `constant_data` and `leave_out` that do not belong to the
        model, for axes of another number or length, for names that clash in the result, and for
        observed sites that can't be predicted.

    Warns
    -----
    UserWarning
        If sites have no draws, or a group that is asked for would be empty.
    """
    u = bound.shapes()
    trace, left_out = bound.survey(u)
    shapes = {n: np.shape(s["value"]) for n, s in trace.items() if _is_kept(s) and not _unit(s)}
    constants = {n: np.shape(np.asarray(a)) for n, a in keep.constant_data.items()}
    _check_names(shapes, constants)
    every = shapes | constants
    own = _own_dims(keep.dims, every)
    known = {name: axes for name, axes in site_dims(trace).items() if name in shapes}
    known |= {
        name: [f"{name}_dim_{i}" for i in range(len(shape))] for name, shape in constants.items()
    }
    dims = known | own
    lengths = _lengths(dims, every, own)
    _check_coords(keep.coords, lengths)
    observed = observed_sites(trace)
    if keep.log_likelihood or keep.posterior_predictive:
        _check_left_out([name for name in left_out if name in observed])
    left_out = tuple(name for name in left_out if name in shapes and name not in observed)
    if left_out:
        warnings.warn(
            f"NumPyro does not draw discrete sites of a model with a scan: {_listed(left_out)} are "
            "left out of the result.",
            UserWarning,
            stacklevel=4,
        )
    drawn = [name for name in shapes if name not in observed and name not in left_out]
    unwanted = _unwanted(keep.leave_out, drawn, observed)
    _check_wanted(bound, u, keep)
    return Layout(trace, dims, left_out, unwanted)


def unmasked(name: str, axes: list[str], mask: np.ndarray, coords: Mapping) -> tuple[str, dict]:
    """Return the name of the axis over unmasked elements of a site, and where they are.

    Parameters
    ----------
    name, axes
        The site, and names of the axes of its log-likelihood.
    mask
        Its mask, True for observations.
    coords
        Coordinates by axis.

    Returns
    -------
    axis
        ``<site>_unmasked``.
    where
        Coordinates along it, ``<site>_<axis>`` for every axis of the site.
    """
    axis = f"{plain(name)}_unmasked"
    where = {}
    for old, index in zip(axes, np.nonzero(mask), strict=True):
        labels = np.asarray(coords.get(old, np.arange(mask.shape[axes.index(old)])))
        new = plain(old) if old.startswith(f"{name}_") else f"{plain(name)}_{plain(old)}"
        where[new] = (axis, labels[index])
    return axis, where


def _is_kept(site: dict) -> bool:
    return site["type"] in ("sample", "deterministic")


def _unit(site: dict) -> bool:
    """Return whether a site is a `numpyro.factor`."""
    observed = site["type"] == "sample" and site["is_observed"]
    return observed and not observed_sites({"": site})


def _check_names(shapes: dict, constants: dict) -> None:
    for name in (*shapes, *constants):
        if plain(name) in OF_DRAWS:
            raise InputError(
                f"{name!r} is the name of an axis of all draws: give the site another name."
            )
    by_name: dict[str, str] = {}
    for name in shapes:
        other = by_name.setdefault(plain(name), name)
        if other != name:
            raise InputError(
                f"the sites {other!r} and {name!r} would both be called {plain(name)!r} in the "
                "result, where a slash becomes an underscore: rename one."
            )


def _own_dims(given: Mapping, shapes: dict) -> dict[str, list[str]]:
    """Return the user's names of axes by site."""
    if not isinstance(given, Mapping):
        raise InputError(f"`dims` must be a dictionary by site, got {given!r}.")
    sites = {plain(name): name for name in shapes}
    unknown = [name for name in given if plain(str(name)) not in sites]
    if unknown:
        raise InputError(
            f"`dims` names {_listed(unknown)}, no site of the model; its sites are "
            f"{_listed(shapes)}."
        )
    own = {}
    for key, axes in given.items():
        name = sites[plain(key)]
        shape = shapes[name]
        if isinstance(axes, str):
            raise InputError(
                f"`dims[{key!r}]` must be a list with a name for each axis, got the string "
                f"{axes!r}: give [{axes!r}]."
            )
        axes = list(axes)
        if not all(isinstance(axis, str) for axis in axes):
            raise InputError(f"`dims[{key!r}]` must be a list of strings, got {axes!r}.")
        if len(axes) != len(shape):
            raise InputError(
                f"`dims[{key!r}]` has {len(axes)} {'name' if len(axes) == 1 else 'names'} "
                f"({_listed(axes)}), the site has the shape {shape}: give {len(shape)}."
            )
        own[name] = axes
    return own


def _lengths(dims: dict, shapes: dict, own: dict) -> dict[str, tuple[int, str]]:
    """Return the length of every axis, with a site that has it."""
    lengths: dict[str, tuple[int, str]] = {}
    variables = {plain(name): name for name in shapes}
    for name, axes in dims.items():
        where = f"`dims[{name!r}]`" if name in own else f"the site {name!r}"
        for axis, length in zip(axes, shapes[name], strict=True):
            if plain(axis) in OF_DRAWS:
                raise InputError(
                    f"{where} has an axis named {axis!r}, which is that of all draws: give it "
                    "another name."
                )
            if plain(axis) in variables:
                raise InputError(
                    f"{where} has an axis named {axis!r}, which is the name of a site: give it "
                    "another name."
                )
            first, other = lengths.setdefault(plain(axis), (length, name))
            if first != length:
                raise InputError(
                    f"the axis {axis!r} has {first} elements in {other!r} and {length} in "
                    f"{name!r}: give them two names."
                )
        if len(set(axes)) < len(axes):
            raise InputError(f"{where} has two axes of one name: {_listed(axes)}.")
    return lengths


def _check_coords(coords: Mapping, lengths: dict) -> None:
    if not isinstance(coords, Mapping):
        raise InputError(f"`coords` must be a dictionary by axis, got {coords!r}.")
    unknown = [name for name in coords if plain(str(name)) not in lengths]
    if unknown:
        known = f"its axes are {_listed(lengths)}" if lengths else "it has none"
        raise InputError(f"`coords` names {_listed(unknown)}, no axis of the model; {known}.")
    for name, labels in coords.items():
        length, site = lengths[plain(name)]
        shape = np.shape(np.asarray(labels))
        if shape != (length,):
            found = f"{math.prod(shape)} labels" if len(shape) == 1 else f"the shape {shape}"
            raise InputError(
                f"`coords[{name!r}]` has {found}, and the axis {length} elements (in {site!r})."
            )


def _check_left_out(names: list[str]) -> None:
    if names:
        raise InputError(
            f"log-likelihoods and predictions of {_listed(names)} depend on discrete sites, which "
            "NumPyro does not draw in a model with a scan: leave `log_likelihood` and "
            "`posterior_predictive` out, or write the loop in Python with "
            "`numpyro.contrib.funsor.markov`."
        )


def _unwanted(given: Any, drawn: list[str], observed: Mapping) -> tuple[str, ...]:
    """Return the user's names of sites to leave out, as the model has them."""
    if isinstance(given, str):
        raise InputError(
            f"`leave_out` must be a list of names, got the string {given!r}: give [{given!r}]."
        )
    sites = {plain(name): name for name in (*drawn, *observed)}
    unknown = [name for name in given if plain(str(name)) not in sites]
    if unknown:
        raise InputError(
            f"`leave_out` names {_listed(unknown)}, no site with draws; those are {_listed(drawn)}."
        )
    names = tuple(dict.fromkeys(sites[plain(name)] for name in given))
    data = [name for name in names if name in observed]
    if data:
        raise InputError(
            f"`leave_out` names {_listed(data)}, which is observed: leave out `log_likelihood` and "
            "`posterior_predictive` to keep less of it."
        )
    if len(names) == len(drawn) > 0:
        raise InputError("`leave_out` names every site with draws: leave one of them in.")
    return names


def _check_wanted(bound: Posterior, u: dict, keep) -> None:
    """Trace what will be computed from the draws: what fails there would lose them."""
    wanted = {n: getattr(keep, n) for n in ("log_likelihood", "posterior_predictive", "log_prior")}
    if not any(wanted.values()):
        return

    def compute(u):
        key = jax.random.key(0)
        options = {"log_likelihood": keep.log_likelihood, "predictive": keep.posterior_predictive}
        _, likelihoods, predictions = bound.recover(key, u, **options)
        return likelihoods, predictions, bound.log_prior_terms(key, u) if keep.log_prior else {}

    found = dict(zip(wanted, jax.eval_shape(compute, u), strict=True))
    empty = [name for name, asked in wanted.items() if asked and not found[name]]
    if empty:
        warnings.warn(
            f"{' and '.join(f'`{name}`' for name in empty)} will be missing: the model has no "
            "observed site with a distribution, which a `numpyro.factor` is not; state the data as "
            "`numpyro.sample(name, distribution, obs=data)`.",
            UserWarning,
            stacklevel=5,
        )


def _listed(names) -> str:
    return ", ".join(repr(name) for name in names)
