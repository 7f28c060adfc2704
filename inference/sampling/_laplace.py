"""A Gaussian about the mode instead of a chain: errors for those who can't wait.

The curvature at the mode is that which also preconditions the samplers; draws of the
Gaussian go through the model as draws of a chain do, so tables, images and reports made
from the one can be made from the other.
"""

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior, posterior
from scorepriors.inference.curvature._preconditioner import identity_map
from scorepriors.inference.curvature._spectrum import (
    FLOOR,
    curvature_spectrum,
    whitening_error,
    whitening_map,
)
from scorepriors.inference.fitting._map import MAPResult, fit_map

from ._chains import make_target
from ._collect import observed_data, recover_draws
from ._diagnostics import SamplingWarning
from ._labels import site_dims
from ._tree import make_tree

#: Draws that go through the model in one call: bounds the memory.
BLOCK = 64

#: Deviation of the curvature from one, in the coordinates that should make it so, beyond
#: which the widths are not to be trusted.  Learned priors had .003, one without structure .8.
WHITE = 0.1


def laplace(
    model: Callable | Posterior,
    *model_args,
    key,
    model_kwargs: dict | None = None,
    best: MAPResult | None = None,
    num_samples: int = 1000,
    rank: int = 400,
    log_likelihood: bool = False,
    dims: dict | None = None,
    coords: dict | None = None,
    constant_data: dict | None = None,
) -> Any:
    """Independent draws from the Gaussian approximation of a posterior at its mode.

    Parameters
    ----------
    model
        NumPyro model, or a `Posterior`.
    *model_args, model_kwargs
        Its arguments.
    key
        For the draws, the starting vector of Lanczos, and the fit if there is none.
    best
        The mode, from `fit_map`, which is called if it is not given.
    num_samples
        Number of draws.
    rank
        Directions of the curvature to find; beyond 400 dimensions the rest share one
        width, which for learned priors is close to the truth: see `sample`.
    log_likelihood, dims, coords, constant_data
        See `sample`.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        One chain of independent draws, sites as from `sample`: spectra that the model
        integrates out are drawn exactly.  Attributes: ``negative_curvatures`` (below minus a
        hundredth of the typical one), ``smallest_curvature`` in units of the typical one, ``curvature_error`` (root mean
        square deviation of the curvature from what the draws have), and ``warnings``.

    Raises
    ------
    InputError
        If there is no mode, or no curvature at it.

    Warns
    -----
    SamplingWarning
        If the fit has not converged or curvatures are negative: the Gaussian is then
        not that of a mode, and along such directions gets ten times the typical width.
        If there is more structure in the curvature than `rank` directions hold.

    Notes
    -----
    The Gaussian is taken in the unconstrained coordinates, which for morphologies are
    the stretched ones; values far out are then skewed in flux as those of the posterior.
    """
    started = time.monotonic()
    if num_samples < 4:
        raise InputError(f"`num_samples` must be at least 4, got {num_samples}.")
    if rank < 1:
        raise InputError(f"`rank` must be at least 1, got {rank}.")
    bound = posterior(model, *model_args, model_kwargs=model_kwargs)
    fit_key, map_key, probe_key, draw_key, value_key = jax.random.split(key, 5)
    fit = fit_map(bound, key=fit_key, max_iterations=1000) if best is None else best
    point = bound.start({n: fit.values[n] for n in bound.sites()}, key=fit_key)
    flat, _ = ravel_pytree(point)
    spectrum = curvature_spectrum(bound, point, rank=rank, key=map_key)
    if spectrum is None:
        raise InputError(
            "the curvature at the mode is not finite or nowhere positive: no Gaussian fits there; "
            "use `sample`."
        )
    whiten = whitening_map(spectrum, flat.dtype)
    error = whitening_error(bound, point, whiten, key=probe_key)
    said = _complaints(fit, spectrum.values, error)
    # The draws are given before the second map, which here changes nothing.
    target = make_target(bound, point, whiten, identity_map(len(flat), 1, flat.dtype))
    draws = np.asarray(jax.random.normal(draw_key, (num_samples, 1, len(flat)), flat.dtype))
    trace = bound.trace(target.params(jnp.asarray(draws[0, 0])))
    blocks = [draws[first : first + BLOCK] for first in range(0, num_samples, BLOCK)]
    values, likelihoods, _ = recover_draws(target, blocks, value_key, log_likelihood, False)
    groups = {
        "posterior": values,
        "log_likelihood": likelihoods,
        "observed_data": observed_data(trace),
        "constant_data": dict(constant_data or {}),
    }
    attrs = {
        "scorepriors_version": __version__,
        "algorithm": "laplace",
        "seed": json.dumps(np.asarray(jax.random.key_data(key)).tolist()),
        "draws_kept": num_samples,
        "negative_curvatures": int((spectrum.values < -FLOOR).sum()),
        "smallest_curvature": float(spectrum.values.min()),
        "curvature_error": error,
        "directions": len(spectrum.values),
        "dimension": len(flat),
        "warnings": json.dumps(said),
        "seconds": time.monotonic() - started,
    }
    names = {**site_dims(trace), **(dims or {})}
    for sentence in said:
        warnings.warn(sentence, SamplingWarning, stacklevel=2)
    return make_tree(groups, dims=names, coords=coords, attrs=attrs)


def _complaints(fit: MAPResult, values: np.ndarray, error: float) -> list[str]:
    said = []
    if not bool(fit.converged):
        said.append(
            "the fit had not converged: this Gaussian is about a point that is no mode; raise "
            "max_iterations."
        )
    # Rounding and an early stop make zeros of either sign.
    negative, flat = int((values < -FLOOR).sum()), int((np.abs(values) <= FLOOR).sum())
    if negative:
        said.append(
            f"{negative} of {len(values)} curvatures found are negative (the least "
            f"{values.min():.2g} of the typical one): the widths there are made up; use `sample`."
        )
    if flat:
        said.append(
            f"{flat} of {len(values)} curvatures found are within {FLOOR} of the typical one of zero: the "
            "widths there are cut at ten times the typical one; use `sample`."
        )
    if error > WHITE and not negative + flat:
        said.append(
            f"the curvature is not that of {len(values)} directions and one width for the rest (it "
            f"is off by {error:.0%} in the root mean square): raise `rank`."
        )
    return said
