"""Runs: warm-up, draws, checkpoints, and the tree that ArviZ reads."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from scorepriors._loops import deferred_interrupt
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.curvature._preconditioner import identity_map
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.inference.sampling._algorithms import Algorithm
from scorepriors.inference.sampling._chains import make_target
from scorepriors.inference.sampling._checkpoints import fingerprint, save_run
from scorepriors.inference.sampling._collect import attributes, check_ranges, collect, reporter

from ._moves import advance
from ._scene import NUM_STEPS, parameters_of, scene_of
from ._start import begin

#: Acceptance rate that the steps of sources are tuned for.
SOURCE_RATE = 0.3

#: Sweeps per compiled call: between calls progress is shown and Ctrl-C read.
BLOCK = 10

#: Seconds between checkpoints.
CHECKPOINT_INTERVAL = 20.0

FLOW = Algorithm(
    init=lambda *_: None,
    step=lambda *_: None,
    first_step=lambda _: 0.1,
    note="moves of the noise that the prior's probability flow turns into galaxies",
)


def sample_flow_scene(
    bound: Posterior,
    best: MAPResult,
    *,
    key,
    num_warmup: int = 300,
    num_samples: int = 500,
    num_chains: int = 8,
    thinning: int = 1,
    log_likelihood: bool = False,
    posterior_predictive: bool = False,
    dims: dict | None = None,
    coords: dict | None = None,
    constant_data: dict | None = None,
    progress: Any = False,
    checkpoint: Any = None,
    target_acceptance_rate: float | None = None,
) -> Any:
    """Sample a scene of galaxies under a learned prior, and stars, about a mode.

    Parameters
    ----------
    bound, best
        A posterior of `scorepriors.models.blend` with free-form galaxies, and its mode.
    key, num_warmup, num_samples, num_chains, thinning, log_likelihood, posterior_predictive
        As for `sample`; a draw is a sweep over all sources.
    dims, coords, constant_data, progress, checkpoint
        As for `sample`.
    target_acceptance_rate
        Of the sources' moves; 0.3 by default.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        As from `sample`; ``lp`` among the sample statistics is the log-density that
        the moves are judged by.

    Raises
    ------
    InputError
        If the model is another one, or its spectra are not integrated out.
    """
    started = time.monotonic()
    rate = SOURCE_RATE if target_acceptance_rate is None else target_acceptance_rate
    check_ranges(
        rate,
        num_warmup=(num_warmup, 20),
        num_samples=(num_samples, 4),
        num_chains=(num_chains, 1),
        thinning=(thinning, 1),
    )
    scene = scene_of(bound)
    start_key, chain_key, draw_key = jax.random.split(key, 3)
    settings = {
        "algorithm": "flow",
        "num_warmup": num_warmup,
        "num_samples": num_samples,
        "num_chains": num_chains,
        "thinning": thinning,
        "rate": rate,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }
    total = num_warmup + num_samples
    with reporter(progress, total) as report, deferred_interrupt() as interrupt:
        report(0, "from galaxies to noise")
        run, near, start = begin(bound, scene, best, num_chains, checkpoint, settings, start_key)
        saved = time.monotonic()
        while run.done < total:
            warming = run.done < num_warmup
            count = min(BLOCK, (num_warmup if warming else total) - run.done)
            run.states, run.settings, flat, moves = advance(
                scene,
                near,
                run.states,
                run.settings,
                chain_key,
                np.int32(run.done),
                np.int32(count),
                np.int32(thinning),
                np.asarray(warming),
                np.float32(rate),
                BLOCK,
            )
            run.done += count
            run.gradients += count * thinning * num_chains * NUM_STEPS
            moves = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], moves)
            if not warming:
                run.draws.append(np.asarray(flat)[:count])
                run.moves.append(moves)
            steps = ", ".join(f"{s:.2g}" for s in np.asarray(run.settings.source).max(0))
            report(
                run.done,
                f"{'warm-up' if warming else 'draws'}: acceptance "
                f"{moves.acceptance_rate.mean():.2f}, steps {steps}",
            )
            due = time.monotonic() - saved > CHECKPOINT_INTERVAL
            if checkpoint is not None and (due or run.done == total or bool(interrupt)):
                save_run(checkpoint, run, {"references": near}, None, fingerprint(bound, settings))
                saved = time.monotonic()
            if interrupt:
                break
        kept = sum(len(d) for d in run.draws)
        if kept < 4:
            raise KeyboardInterrupt
        report(run.done, "from draws to values")
        flat, _ = ravel_pytree(parameters_of(scene, run.states, 0))
        plain = identity_map(len(flat), 1, flat.dtype)
        origin = jax.tree.map(jnp.zeros_like, parameters_of(scene, run.states, 0))
        stats = jax.tree.map(lambda *parts: np.concatenate(parts).T, *run.moves)._asdict()
        stats = {
            "lp": -stats.pop("energy"),
            **{n: v for n, v in stats.items() if n != "tree_depth"},
        }
        attrs = {
            **attributes(bound, settings, start, kept),
            "inference_library": "scorepriors",
            "step_size": float(np.asarray(run.settings.source).mean()),
            "source_steps": json.dumps(np.asarray(run.settings.source, float).tolist()),
            "gradients": run.gradients,
        }
        return collect(
            make_target(bound, origin, plain, plain),
            run.draws,
            stats,
            FLOW,
            key=draw_key,
            log_likelihood=log_likelihood,
            posterior_predictive=posterior_predictive,
            dims=dims,
            coords=coords,
            constant_data=constant_data,
            attrs=attrs,
            wanted=num_samples,
            started=started,
        )
