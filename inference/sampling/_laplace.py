"""Laplace approximation: a Gaussian about the mode, for errors in a short time.

The curvature at the mode is also used to precondition the samplers; draws of the Gaussian are
passed through the model as draws of a chain are, so tables, images and reports can be made
from both.
"""

import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors.inference._moved import moved_keywords
from scorepriors.inference._posterior import Posterior, posterior
from scorepriors.inference._status import Check, Finding, record
from scorepriors.inference.curvature._spectrum import (
    FLOOR,
    curvature_spectrum,
    whitening_error,
    whitening_map,
)
from scorepriors.inference.fitting._map import MAPResult, fit_map

from ._abstract import Coordinates
from ._collect import Keep, collect
from ._diagnostics import SamplingWarning
from ._labels import lay_out
from ._undefined import undefined

#: Number of draws per call of the model, which limits the memory.
BLOCK = 64

#: Largest deviation of the curvature from one in whitened coordinates for which the widths
#: are reliable.  Learned priors had .003, one without structure .8.
WHITE = 0.1


@moved_keywords(
    dict.fromkeys(
        ("log_likelihood", "dims", "coords", "constant_data"),
        "is part of what is kept: keep=Keep({}=...)",
    )
)
def laplace(
    model: Callable | Posterior,
    *model_args: Any,
    key,
    model_kwargs: dict | None = None,
    best: MAPResult | None = None,
    num_samples: int = 1000,
    rank: int = 400,
    keep: Keep = Keep(),  # noqa: B008 (a value)
) -> Any:
    """Draw independently from the Gaussian approximation of a posterior at its mode.

    Parameters
    ----------
    model
        NumPyro model, or a `Posterior`.
    *model_args, model_kwargs
        Arguments of the model.
    key
        Random key for the draws, the starting vector of Lanczos, and the fit if needed.
    best
        Mode, from `fit_map`, which is called if it is not given.
    num_samples
        Number of draws.
    rank
        Number of directions of the curvature; beyond 400 dimensions the rest share one
        width, which for learned priors is close to the truth: see `sample`.
    keep
        Content of the result beside the draws: see `sample`.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        One chain of independent draws, sites as from `sample`: spectra that the model
        integrates out are drawn exactly.  Attributes: ``negative_curvatures`` (below minus a
        hundredth of the typical one), ``smallest_curvature`` in units of the typical one,
        ``curvature_error`` (root mean square deviation of the curvature from that of the
        draws), ``warnings``, ``status`` and ``findings`` as from `sample`.

    Raises
    ------
    InputError
        If there is no mode, or no curvature at it.

    Warns
    -----
    SamplingWarning
        If the fit has not converged or curvatures are negative: the Gaussian is then
        not that of a mode, and gets ten times the typical width along such directions.
        If the curvature has more structure than `rank` directions can represent.

    Notes
    -----
    The approximation is Gaussian in the unconstrained coordinates, which for morphologies are
    the stretched ones; the distribution of fluxes is then skewed as that of the posterior.
    """
    started = time.monotonic()
    if num_samples < 4:
        raise InputError(f"`num_samples` must be at least 4, got {num_samples}.")
    if rank < 1:
        raise InputError(f"`rank` must be at least 1, got {rank}.")
    bound = posterior(model, *model_args, model_kwargs=model_kwargs)
    layout = lay_out(bound, keep)
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
    findings = _findings(fit, spectrum.values, error)
    draws = np.asarray(jax.random.normal(draw_key, (num_samples, 1, len(flat)), flat.dtype))
    blocks = [draws[first : first + BLOCK] for first in range(0, num_samples, BLOCK)]
    coordinates = Coordinates(bound, point, whiten)
    tree = collect(coordinates, blocks, {}, keep, layout, key=value_key)
    findings += undefined(tree)
    tree.attrs.update(
        {
            "scorepriors_version": __version__,
            "algorithm": "laplace",
            "seed": json.dumps(np.asarray(jax.random.key_data(key)).tolist()),
            "draws_kept": num_samples,
            "negative_curvatures": int((spectrum.values < -FLOOR).sum()),
            "smallest_curvature": float(spectrum.values.min()),
            "curvature_error": error,
            "directions": len(spectrum.values),
            "dimension": len(flat),
            "seconds": time.monotonic() - started,
        }
        | record(findings)
    )
    for finding in findings:
        warnings.warn(finding.sentence(), SamplingWarning, stacklevel=3)
    return tree


def _findings(fit: MAPResult, values: np.ndarray, error: float) -> list[Finding]:
    found = []
    if not fit.converged:
        found.append(Finding(Check.NOT_A_MODE, {"what": fit.status.sentence}))
    # Rounding errors and an early stop give small values of either sign.
    negative, flat = int((values < -FLOOR).sum()), int((np.abs(values) <= FLOOR).sum())
    facts = {"found": len(values)}
    if negative:
        least = float(values.min())
        found.append(
            Finding(Check.NEGATIVE_CURVATURE, {**facts, "count": negative, "least": least})
        )
    if flat:
        found.append(Finding(Check.FLAT_CURVATURE, {**facts, "count": flat, "floor": FLOOR}))
    if error > WHITE and not negative + flat:
        found.append(Finding(Check.FEW_DIRECTIONS, {**facts, "error": error}))
    return found
