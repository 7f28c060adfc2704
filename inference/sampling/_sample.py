"""Draws from the posterior of any NumPyro model, as ArviZ's own object."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors._errors import InputError
from scorepriors._loops import deferred_interrupt
from scorepriors.inference._posterior import Posterior, posterior
from scorepriors.inference.curvature._preconditioner import identity_map
from scorepriors.inference.curvature._spectrum import curvature_map, map_rank
from scorepriors.inference.fitting._map import MAPResult, fit_map

from ._algorithms import ALGORITHMS, MAX_DOUBLINGS, Algorithm, Move, Settings
from ._chains import Run, Target, begin, begin_tuner, make_target, run_chains
from ._checkpoints import fingerprint, load_run, save_run
from ._checks import check_gradient
from ._collect import attributes, check_ranges, collect, reporter

#: Directions in which warm-up draws may correct the curvature.
REFINEMENT_RANK = 64

#: Expected gain, in nats, below which an unfinished fit has found its mode.
NEAR_MODE = 0.1

#: Where the coordinates that chains move in may come from.
PRECONDITIONERS = ("both", "curvature", "warmup", "none")

#: Seconds between checkpoints.
CHECKPOINT_INTERVAL = 20.0


def sample(
    model: Callable | Posterior,
    *model_args,
    key,
    model_kwargs: dict | None = None,
    algorithm: str | Algorithm = "nuts",
    num_warmup: int = 500,
    num_samples: int = 500,
    num_chains: int = 4,
    init: str | dict | MAPResult = "map",
    target_acceptance_rate: float | None = None,
    thinning: int = 1,
    preconditioner: str = "both",
    rank: int = 400,
    log_likelihood: bool = False,
    posterior_predictive: bool = False,
    dims: dict | None = None,
    coords: dict | None = None,
    constant_data: dict | None = None,
    progress: bool | Callable = False,
    checkpoint: str | Path | None = None,
) -> Any:
    """Sample the posterior of any NumPyro model with BlackJAX.

    Chains move in coordinates in which the posterior is about round: offsets from the
    start, in units of widths that come from the Hessian there (whole up to 400
    dimensions, scale plus low rank beyond) and are refined from warm-up draws.  All
    chains run side by side in one compiled program, spread over the devices if there
    are several.

    Parameters
    ----------
    model
        NumPyro model, or a `Posterior`.
    *model_args, model_kwargs
        Its arguments.
    key
        Two runs with one key give the same draws, also if one of them was interrupted.
    algorithm
        ``"nuts"``, ``"hmc"``, ``"dynamic_hmc"``, ``"adjusted_mclmc"``, ``"mclmc"``
        (unadjusted), or a row of one's own: see `scorepriors.inference.ALGORITHMS`.
    num_warmup, num_samples, num_chains
        Draws per chain to tune with, to keep, and chains.
    init
        ``"map"``: chains start spread by the curvature about the mode, or as under
        ``"uniform"`` where no mode is found.  ``"pathfinder"``: about the mean of
        BlackJAX's Pathfinder.  ``"uniform"``: within 2 of zero in each unconstrained
        coordinate, without curvature.  Or site values (constrained), or a `MAPResult`.
    target_acceptance_rate
        To tune the step size for; each algorithm has its own default.
    thinning
        Transitions per kept draw.
    preconditioner
        Where the coordinates come from: the curvature at the start, refined from warm-up
        draws (``"both"``), one of the two (``"curvature"``, ``"warmup"``), or neither
        (``"none"``).  Draws are right with any; to compare, and for models whose
        curvature is too dear.
    rank
        Directions of the curvature, beyond 400 dimensions.
    log_likelihood
        Keep the log-likelihood of every observed element, for ``arviz.loo``.
    posterior_predictive
        Keep a draw of every observed site per draw.
    dims, coords
        Names of axes and their coordinates, beside those known from plates.
    constant_data
        Arrays to keep with the result.
    progress
        True for a bar; or a function called as ``progress(done, total, text)``.
    checkpoint
        File to keep the run in.  If it exists and is of this very run, the run goes on
        where it stood, to bit-identical draws.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        As the installed ArviZ has it.  Groups ``posterior`` (constrained sites and
        deterministic ones; exact spectra drawn), ``sample_stats``, ``observed_data``
        and those asked for.  Attributes: algorithm, versions, seed, seconds, gradient
        evaluations, step size, and ``warnings``, a JSON list of sentences that is empty
        if the run is to be trusted.

    Notes
    -----
    Memory goes into the result: everything is kept in the precision of the model, four
    bytes a number unless JAX runs in 64 bits.  Draws turn into values block by block,
    each block of draws given up for its values, so there is never a second copy.  Five
    sources of 32 x 32 pixels in four chains of 1,000 draws take 82 MB, their pixel
    log-likelihood in three bands of 64 x 64 another 197 MB.  Where that is too much,
    leave `log_likelihood` out, or raise `thinning`, which keeps fewer draws for the same
    number of transitions.

    Raises
    ------
    InputError
        For a model that can't be sampled, a gradient that is not the density's, or
        arguments out of range.

    Warns
    -----
    SamplingWarning
        If the draws are not to be trusted.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> def coin(heads):
    ...     p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    ...     numpyro.sample("heads", dist.Binomial(10, p), obs=heads)
    >>> tree = sample(coin, jnp.asarray(7), key=jax.random.key(0))
    >>> bool(abs(float(tree["posterior"]["p"].mean()) - 8 / 12) < 0.02)
    True
    """
    started = time.monotonic()
    method = _algorithm(algorithm)
    rate = method.target if target_acceptance_rate is None else target_acceptance_rate
    check_ranges(
        rate,
        num_warmup=(num_warmup, 20),
        num_samples=(num_samples, 4),
        num_chains=(num_chains, 1),
        thinning=(thinning, 1),
        rank=(rank, 1),
    )
    if preconditioner not in PRECONDITIONERS:
        raise InputError(
            f"`preconditioner` must be one of {', '.join(PRECONDITIONERS)}, got {preconditioner!r}."
        )
    bound = posterior(model, *model_args, model_kwargs=model_kwargs)
    if not bound.sites():
        raise InputError("the model has no free site to sample: every site is observed.")
    start_key, chain_key, draw_key = jax.random.split(key, 3)
    settings = {
        "algorithm": algorithm if isinstance(algorithm, str) else _description(method),
        "num_warmup": num_warmup,
        "num_samples": num_samples,
        "num_chains": num_chains,
        "thinning": thinning,
        "rate": rate,
        "rank": rank,
        "preconditioner": preconditioner,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "init": _description(init),
    }
    directions = rank if preconditioner in ("both", "curvature") else 0
    total = num_warmup + num_samples
    with reporter(progress, total) as report, deferred_interrupt() as interrupt:
        report(0, "start values and curvature")
        mark = fingerprint(bound, settings) if checkpoint is not None else ""
        resumed = checkpoint is not None and Path(checkpoint).exists()
        if resumed:
            target, run, start = _resume(bound, method, checkpoint, mark, num_chains, directions)
        else:
            target, run, start = _start(
                bound, method, init, directions, num_chains, rate, start_key, report
            )
        run.states = _spread_over_devices(run.states)
        saved = time.monotonic()
        for moves in run_chains(
            target,
            method,
            run,
            num_warmup=num_warmup,
            num_samples=num_samples,
            thinning=thinning,
            rate=rate,
            key=chain_key,
            refining=preconditioner in ("both", "warmup"),
        ):
            report(run.done, _state_of(run, moves, num_warmup))
            last = run.done == total or bool(interrupt)
            if checkpoint is not None and (last or time.monotonic() - saved > CHECKPOINT_INTERVAL):
                curvature = target.preconditioner.curvature
                save_run(checkpoint, run, target.origin, curvature, mark)
                saved = time.monotonic()
            if interrupt:
                break
        kept = sum(len(d) for d in run.draws)
        if kept < 4:
            raise KeyboardInterrupt
        report(run.done, "from draws to values")
        return collect(
            target,
            run.draws,
            _sample_stats(run.moves, run.settings),
            method,
            key=draw_key,
            log_likelihood=log_likelihood,
            posterior_predictive=posterior_predictive,
            dims=dims,
            coords=coords,
            constant_data=constant_data,
            attrs={**attributes(bound, settings, start, kept), **_about(settings, run)},
            wanted=num_samples,
            started=started,
        )


def _algorithm(algorithm: str | Algorithm) -> Algorithm:
    if isinstance(algorithm, Algorithm):
        return algorithm
    if algorithm not in ALGORITHMS:
        raise InputError(
            f"unknown algorithm {algorithm!r}; there are {', '.join(sorted(ALGORITHMS))}."
        )
    return ALGORITHMS[algorithm]


def _description(what) -> str:
    """Text that stands for a start or an algorithm in checkpoint and attributes."""
    if isinstance(what, str):
        return what
    if isinstance(what, Algorithm):
        return f"{what.note} ({what.step.__module__}.{what.step.__qualname__})"
    return "given"  # the checkpoint itself holds the start


def _state_of(run: Run, moves: Move, num_warmup: int) -> str:
    phase = "warm-up" if run.done <= num_warmup else "draws"
    diverging = int(sum(m.diverging.sum() for m in run.moves))
    return (
        f"{phase}: acceptance {float(np.mean(moves.acceptance_rate)):.2f}, step "
        f"{float(run.settings.step_size):.3g}, {float(np.mean(moves.n_steps)):.0f} steps a draw, "
        f"{diverging} divergences"
    )


def _start(bound, method, init, rank, num_chains, rate, key, report):
    """Target, and chains at their start; a rank of zero leaves the curvature out."""
    first, second, third, fourth = jax.random.split(key, 4)
    origin, start = _origin(bound, init, first)
    # Explicit types: weak ones would compile everything a second time.
    origin = jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), origin)
    flat, _ = ravel_pytree(origin)
    dimension = len(flat)
    curvature = None
    if start != "uniform" and rank:
        report(0, "curvature")
        curvature = curvature_map(bound, origin, rank=rank, key=second)
        if curvature is None:
            start = "uniform (no curvature at the start)"
    refinement = identity_map(dimension, min(REFINEMENT_RANK, dimension), flat.dtype)
    shape = (num_chains, dimension)
    if curvature is None:
        curvature = identity_map(dimension, map_rank(dimension, rank), flat.dtype)
        if start.startswith("uniform"):
            origin = jax.tree.map(jnp.zeros_like, origin)
            spread = jax.random.uniform(third, shape, flat.dtype, -2.0, 2.0)
        else:  # no widths are known: all chains leave from one point
            spread = jnp.zeros(shape, flat.dtype)
    else:
        spread = jax.random.normal(third, shape, flat.dtype)
    target = make_target(bound, origin, curvature, refinement)
    positions = _inside(target, spread)
    check_gradient(target, positions[0], fourth)
    settings = Settings(
        jnp.asarray(method.first_step(float(dimension)), flat.dtype),
        jnp.asarray(np.pi / 2, flat.dtype),
    )
    states = begin(target, method, positions, fourth)
    tuner = begin_tuner(settings.step_size, np.float32(rate))
    return target, Run(0, states, settings, tuner, refinement), start


def _origin(bound: Posterior, init, key):
    """Unconstrained point about which chains start, and how it came about."""
    if isinstance(init, MAPResult):
        return bound.start({n: init.values[n] for n in bound.sites()}, key=key), "given mode"
    if isinstance(init, dict):
        return bound.start(init, key=key), "given values"
    if init == "map":
        try:
            fit = fit_map(bound, key=key, max_iterations=1000)
        except InputError:
            return bound.start(key=key), "uniform"
        # Rounding of a very bright scene keeps a fit from settling: near the mode is enough.
        # A mode at infinity always has more than this to gain.
        if bool(fit.converged) or 0 <= float(fit.expected_gain) < NEAR_MODE:
            return fit.params, "map"
        return bound.start(key=key), "uniform"
    if init == "pathfinder":
        first, second = jax.random.split(key)
        return _pathfinder(bound, bound.start(key=first), second), "pathfinder"
    if init == "uniform":
        return bound.start(key=key), "uniform"
    raise InputError(
        f"`init` must be 'map', 'pathfinder', 'uniform', site values or a MAPResult, got {init!r}."
    )


@eqx.filter_jit
def _pathfinder(bound: Posterior, start: dict, key):
    state, _ = blackjax.vi.pathfinder.approximate(key, bound.log_density, start)
    return state.position


def _inside(target: Target, spread):
    """Chain starts at which density and gradient are finite, pulled in where they aren't."""
    for _ in range(12):
        good = np.asarray(_finite(target, spread))
        if good.all():
            return spread
        spread = jnp.where(good[:, None], spread, spread / 2)
    raise InputError(
        "the model's log-density or its gradient is not finite at the start values; give `init`, "
        "or check the data for NaN."
    )


@eqx.filter_jit
def _finite(target: Target, positions):
    """Whether density and gradient are finite at each of ``positions [C, d]``."""
    values, slopes = jax.vmap(jax.value_and_grad(lambda q: target(q)))(positions)
    return jnp.isfinite(values) & jnp.isfinite(slopes).all(-1)


def _resume(bound, method, path, mark, num_chains, rank):
    """The run stored in a checkpoint."""

    def skeleton(key):
        origin = bound.start(key=key)
        flat, _ = ravel_pytree(origin)
        d = len(flat)
        refinement = identity_map(d, min(REFINEMENT_RANK, d), flat.dtype)
        curvature = identity_map(d, map_rank(d, rank), flat.dtype)
        target = make_target(bound, origin, curvature, refinement)
        states = begin(target, method, jnp.zeros((num_chains, d), flat.dtype), key)
        step = jnp.asarray(1.0, flat.dtype)
        tuner = begin_tuner(step, np.float32(0.8))
        return states, Settings(step, step), tuner, refinement, origin, curvature

    # In shapes alone: the arrays come from the file.
    like = eqx.filter_eval_shape(skeleton, jax.random.key(0))
    run, origin, curvature = load_run(path, like, mark)
    return make_target(bound, origin, curvature, run.refinement), run, "checkpoint"


def _spread_over_devices(states):
    """Shard chains over the devices, where their number divides."""
    devices = jax.devices()
    chains = states.position.shape[0]
    if len(devices) == 1 or chains % len(devices):
        return states
    mesh = jax.sharding.Mesh(np.array(devices), ("chain",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("chain"))
    return jax.tree.map(lambda a: jax.device_put(a, sharding), states)


def _sample_stats(moves, settings) -> dict:
    stacked = jax.tree.map(lambda *parts: np.concatenate(parts).T, *moves)
    stats = stacked._asdict()
    depth = stats.pop("tree_depth")
    if depth.any():
        stats["tree_depth"] = depth
        stats["reached_max_treedepth"] = depth >= MAX_DOUBLINGS
    shape = stats["energy"].shape
    stats["step_size"] = np.full(shape, float(settings.step_size))
    return stats


def _about(settings, run: Run) -> dict:
    """Facts of a run of BlackJAX's kernels."""
    gain = np.asarray(run.refinement.gain)
    return {
        "inference_library": "blackjax",
        "inference_library_version": blackjax.__version__,
        "step_size": float(run.settings.step_size),
        "trajectory_length": float(run.settings.length),
        "gradients": run.gradients,
        "inverse_mass": json.dumps(
            {
                "kind": settings["preconditioner"],
                "dimension": len(run.refinement.scale),
                "refined_directions": int((gain != 1).sum()),
                "largest_refined_width": float(gain.max(initial=1.0)),
                "smallest_refined_width": float(gain.min(initial=1.0)),
            }
        ),
    }
