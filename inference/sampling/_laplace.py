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
from scorepriors._programs import make_room_now_and_then
from scorepriors.inference._checked import check_free
from scorepriors.inference._masks import check_masks
from scorepriors.inference._moved import moved_keywords
from scorepriors.inference._posterior import Posterior, posterior
from scorepriors.inference._status import Check, Finding, record
from scorepriors.inference._tracing import refuse_tracing
from scorepriors.inference.curvature._differences import DIFFERENCES
from scorepriors.inference.curvature._spectrum import DENSE, whitening_error
from scorepriors.inference.fitting._map import MAPResult, fit_map

from ._abstract import Coordinates
from ._collect import Keep, collect, leave_out
from ._diagnostics import SamplingWarning
from ._gaussian import Gaussian, gaussian_at_mode, largest_khat, log_ratios, pareto_khat
from ._labels import lay_out
from ._origin import at_fit
from ._undefined import undefined

#: Number of draws per call of the model, which limits the memory.
BLOCK = 64

#: Largest deviation of the curvature from one in whitened coordinates for which the widths
#: are reliable.  Learned priors had .003, one without structure .8.
WHITE = 0.1

#: Expected gain of a Newton step, in nats, from which a point is no mode: it may be off by .4 of
#: a standard deviation in one direction, or less in several.  Beyond `DENSE` dimensions times the
#: root of their ratio to that: rounding errors of so many slopes add up.
NO_MODE = 0.1

#: Standard deviation of log importance ratios, in nats, up to which the Gaussian is that of the
#: posterior whatever the shape of their tail: half its square is the divergence between the two.
CLOSE = 0.1

#: Least number of draws from which the Pareto k is computed.
CHECKED = 200


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
        Mode, from `fit_map`, which is called if it is not given.  Up to 400 dimensions Newton's
        steps go on from there.
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
        integrates out are drawn exactly.  Attributes: ``pareto_khat`` (of the importance ratios of
        such draws; above .7 the posterior is not this Gaussian), ``expected_gain`` (of a Newton
        step from the point that the Gaussian is about, in nats), ``negative_curvatures`` (their
        number), ``smallest_curvature`` in units of the typical one, ``curvature_error`` (root
        mean square deviation of the curvature from that of the draws), ``warnings``, ``status``
        and ``findings`` as from `sample`.

    Raises
    ------
    InputError
        If there is no mode, or no curvature at it, or inside of `jax.jit`, `jax.vmap` or `jax.grad`.

    Warns
    -----
    SamplingWarning
        If the point is no mode by its gradient, or curvatures are negative or zero: the Gaussian
        then gets ten times the typical width along such directions.  If the curvature has more
        structure than `rank` directions can represent.  If the posterior is not Gaussian.  If the
        model has derivatives in reverse mode only, so that curvatures are differences.

    Notes
    -----
    The approximation is Gaussian in the unconstrained coordinates, which for morphologies are
    the stretched ones; the distribution of fluxes is then skewed as that of the posterior.

    A Gaussian posterior of up to 400 dimensions is reproduced exactly, in single precision with a
    relative error of about the rounding error times the root of the ratio of its largest to its
    smallest curvature (1e-4 for a correlation of 1 - 1e-6).  Beyond 400 dimensions curvatures
    below a hundredth of the typical one are raised to that, with a warning.

    The Pareto k is about the joint density: in thousands of dimensions small deviations add up,
    and it is large where the width of each single parameter may still be good.
    """
    started = time.monotonic()
    if num_samples < 4:
        raise InputError(f"`num_samples` must be at least 4, got {num_samples}.")
    if rank < 1:
        raise InputError(f"`rank` must be at least 1, got {rank}.")
    bound = posterior(model, *model_args, model_kwargs=model_kwargs)
    refuse_tracing("laplace", bound, key)
    make_room_now_and_then()
    check_free(bound.sites(), "fit")
    check_masks(bound)
    layout = lay_out(bound, keep)
    fit_key, map_key, probe_key, draw_key, value_key, check_key = jax.random.split(key, 6)
    fit = fit_map(bound, key=fit_key, max_iterations=1000) if best is None else best
    point = at_fit(bound, fit, fit_key)
    flat, _ = ravel_pytree(point)
    gaussian = gaussian_at_mode(bound, point, rank=rank, key=map_key)
    if gaussian is None:
        raise InputError(
            "the curvature at the mode is not finite or nowhere positive: no Gaussian fits there; "
            "use `sample`."
        )
    spectrum = gaussian.spectrum
    error = whitening_error(bound, gaussian.point, gaussian.whiten, key=probe_key)
    draws = np.asarray(jax.random.normal(draw_key, (num_samples, 1, len(flat)), flat.dtype))
    tested = np.asarray(
        jax.random.normal(check_key, (max(num_samples, CHECKED), len(flat)), flat.dtype)
    )
    ratios = log_ratios(gaussian.log_density(bound), tested)
    khat = pareto_khat(ratios)
    findings = _findings(fit, gaussian, error, khat, ratios)
    blocks = [draws[first : first + BLOCK] for first in range(0, num_samples, BLOCK)]
    coordinates = Coordinates(bound, gaussian.point, gaussian.whiten)
    tree = collect(coordinates, blocks, {}, keep, layout, key=value_key)
    findings += undefined(tree)
    tree.attrs.update(
        {
            "scorepriors_version": __version__,
            "algorithm": "laplace",
            "seed": json.dumps(np.asarray(jax.random.key_data(key)).tolist()),
            "draws_kept": num_samples,
            "pareto_khat": khat,
            "expected_gain": gaussian.gain,
            "negative_curvatures": spectrum.negative,
            "smallest_curvature": float(spectrum.values.min()),
            "curvature_error": error,
            "directions": len(spectrum.values),
            "dimension": len(flat),
            "seconds": time.monotonic() - started,
        }
        | record(findings)
    )
    leave_out(tree, layout)
    for finding in findings:
        warnings.warn(finding.sentence(), SamplingWarning, stacklevel=3)
    return tree


def _findings(
    fit: MAPResult, gaussian: Gaussian, error: float, khat: float, ratios: np.ndarray
) -> list[Finding]:
    found = []
    spectrum = gaussian.spectrum
    dimension = len(spectrum.scale)
    few = len(spectrum.values) < dimension
    if few and error > WHITE:  # widths in which the slope could be judged are not known
        gain, arrived = float(fit.expected_gain), bool(fit.converged)
    else:
        gain = gaussian.gain
        arrived = gain <= NO_MODE * max(1, dimension / DENSE) ** 0.5
    if not arrived:
        found.append(Finding(Check.NOT_A_MODE, {"gain": gain}))
    facts = {"found": len(spectrum.values)}
    if spectrum.negative:
        least = float(spectrum.values.min())
        count = spectrum.negative
        found.append(Finding(Check.NEGATIVE_CURVATURE, {**facts, "count": count, "least": least}))
    if spectrum.flat:
        flat = np.abs(spectrum.values) <= spectrum.limits
        floor = float(spectrum.limits[flat].max())
        found.append(
            Finding(Check.FLAT_CURVATURE, {**facts, "count": spectrum.flat, "floor": floor})
        )
    if few and error > WHITE and not spectrum.negative + spectrum.flat:
        found.append(Finding(Check.FEW_DIRECTIONS, {**facts, "error": error}))
    wanted = largest_khat(len(ratios))
    with np.errstate(invalid="ignore"):  # of infinite ones
        close = ratios.std() < CLOSE
    if not (close or khat < wanted):
        found.append(Finding(Check.NOT_GAUSSIAN, {"found": khat, "wanted": wanted}))
    if spectrum.differences:
        found.append(Finding(Check.DIFFERENCES, {"note": DIFFERENCES}))
    return found
