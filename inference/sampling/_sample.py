"""Draws from the posterior of any NumPyro model, as ArviZ's own object."""

import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scorepriors import __version__
from scorepriors._errors import InputError
from scorepriors._loops import deferred_interrupt
from scorepriors._programs import make_room_now_and_then
from scorepriors._progress import Progress, reporting
from scorepriors.inference._checked import check_free
from scorepriors.inference._masks import check_masks
from scorepriors.inference._moved import moved_keywords
from scorepriors.inference._posterior import Posterior, posterior
from scorepriors.inference._status import Check, Finding, RunStatus, record
from scorepriors.inference._tracing import refuse_tracing
from scorepriors.inference.curvature._differences import DIFFERENCES
from scorepriors.inference.fitting._map import MAPResult

from . import _tree as trees
from ._abstract import AbstractSampler, Counts, Move, Start
from ._algorithms import sampler_of
from ._checkpoints import fingerprint, load_run, save_run
from ._collect import Keep, collect, leave_out, prior_facts
from ._diagnostics import Diagnosis, SamplingWarning, diagnose
from ._gradient import BY_DIFFERENCES, JUMPING
from ._labels import lay_out
from ._run import Run, blocks, enough
from ._stein import SteinCheck, stein_check, stein_facts, stein_findings
from ._until import Until

#: Seconds between checkpoints.
CHECKPOINT_INTERVAL = 20.0

_INTO_SAMPLER = "is a setting of the sampler: algorithm=NUTS({}=...)"
_INTO_KEEP = "is part of what is kept: keep=Keep({}=...)"


@moved_keywords(
    dict.fromkeys(("target_acceptance_rate", "thinning", "preconditioner", "rank"), _INTO_SAMPLER)
    | dict.fromkeys(Keep._fields, _INTO_KEEP)
)
def sample(
    model: Callable | Posterior,
    *model_args: Any,
    key,
    model_kwargs: dict | None = None,
    algorithm: str | AbstractSampler = "nuts",
    num_warmup: int | None = None,
    num_samples: int | Until | None = None,
    num_chains: int | None = None,
    init: str | dict | MAPResult = "map",
    keep: Keep = Keep(),  # noqa: B008 (a value)
    progress: Progress = False,
    checkpoint: str | Path | None = None,
) -> Any:
    """Sample the posterior of any NumPyro model with BlackJAX.

    Chains move in whitened coordinates: offsets from the start, in units of widths that come
    from the Hessian there (in full up to 400 dimensions, scale plus low rank beyond) and are
    refined from warm-up draws.  All chains run at once in one compiled program, distributed
    over the devices if there are several.

    Parameters
    ----------
    model
        NumPyro model, or a `Posterior`.
    *model_args, model_kwargs
        Arguments of the model.
    key
        Random key; two runs with one key give the same draws, also if one was interrupted.
    algorithm
        Algorithm: ``"nuts"``, ``"hmc"``, ``"dynamic_hmc"``, ``"adjusted_mclmc"``, ``"mclmc"``
        (unadjusted), or a sampler with other settings, such as
        ``NUTS(target_acceptance_rate=0.9, thinning=2)``: see
        `scorepriors.inference.ALGORITHMS` and `scorepriors.inference.AbstractGradientSampler`.
    num_warmup, num_samples, num_chains
        Numbers of draws per chain for tuning and to keep, and of chains; the algorithm's
        defaults (500, 500 and 4) if not given.  `num_samples` may be an `Until`: draws until the
        chains agree.
    init
        Start of the chains.  ``"map"``: spread by the curvature about the mode; where no mode is
        found, or the density about it is not that of its Gaussian, as in a funnel, as under
        ``"uniform"``, or under ``"pathfinder"`` if that is too far from the posterior.
        ``"pathfinder"``: about the point of BlackJAX's Pathfinder.  ``"uniform"``: within 2 of
        zero in each unconstrained coordinate, without curvature.  Or site values
        (constrained), or a `MAPResult`.
    keep
        Content of the result beside the draws, and names of its axes: a `Keep`.
    progress
        True for a bar; or a function called as ``progress(done, total, text)``.
    checkpoint
        File for the state of the run.  If it exists and is of the same run, the run continues
        from there, to bit-identical draws.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        Draws in the format of the installed ArviZ.  Groups ``posterior`` (constrained sites
        and deterministic ones; exact spectra drawn), ``sample_stats``, ``observed_data``
        and those of `keep`.  Attributes: algorithm, versions, seed, seconds, gradient
        evaluations, step size, ``start``, the start taken and the reason in words, and ``warnings``, a JSON list of sentences that is empty
        if all checks pass; ``status``, the code of a `RunStatus`; ``findings``, the codes and
        facts of the sentences; ``stein_discrepancy`` and ``stein_p_value``, of the draws against
        the gradient of the log-density (NaN with fewer than 40 independent draws).

    Notes
    -----
    Models with derivatives in reverse mode only, such as ``jax.experimental.ode.odeint``, get their
    curvature from differences of gradients: a sentence among the warnings says so, and the
    status may still be ``trusted``, because draws are exact with any coordinates.

    The result takes the most memory: everything is kept in the precision of the model, four
    bytes a number unless JAX runs in 64 bits.  Draws are converted to values block by block,
    each block of draws being freed, so there is never a second copy.  Five
    sources of 32 x 32 pixels in four chains of 1,000 draws take 82 MB, their pixel
    log-likelihood in three bands of 64 x 64 another 197 MB.  If that is too much,
    leave ``log_likelihood`` of `Keep` out, or raise the sampler's ``thinning``, which keeps fewer
    draws for the same number of transitions.

    Raises
    ------
    InputError
        For a model that can't be sampled, a gradient that is not the density's, arguments out of
        range, names in `keep` that do not fit the model, or a call inside of `jax.jit`, `jax.vmap` or
        `jax.grad`: all before the first draw.

    Warns
    -----
    SamplingWarning
        If the draws fail a check.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> def coin(heads):
    ...     p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    ...     numpyro.sample("heads", dist.Binomial(10, p), obs=heads)
    >>> tree = sample(coin, jnp.asarray(7), key=jax.random.key(0))
    >>> bool(abs(float(tree["posterior"]["p"].mean()) - 8 / 12) < 0.02)
    True
    """
    started = time.monotonic()
    sampler = sampler_of(algorithm)
    until = num_samples if isinstance(num_samples, Until) else None
    most = num_samples.at_most if isinstance(num_samples, Until) else num_samples
    counts = _counts(sampler, num_warmup, most, num_chains)
    bound = posterior(model, *model_args, model_kwargs=model_kwargs)
    refuse_tracing("sample", bound, key, init)
    make_room_now_and_then()
    check_free(bound.sites(), "sample")
    check_masks(bound)
    layout = lay_out(bound, keep)
    start_key, chain_key, draw_key = jax.random.split(key, 3)
    seed = np.asarray(jax.random.key_data(key)).tolist()
    total = counts.num_warmup + counts.num_samples
    with reporting(progress, "sample", total) as tell, deferred_interrupt() as interrupt:
        report = partial(_tell, tell, total)
        report(0, "start values")
        settings = {
            "sampler": f"{type(sampler).__module__}.{sampler!r}",
            "counts": counts,
            "key": seed,
            # Other starts are stored in the checkpoint.
            "init": init if isinstance(init, str) else "given",
        }
        mark = fingerprint(bound, settings) if checkpoint is not None else ""
        if checkpoint is not None and Path(checkpoint).exists():
            like = sampler.shapes(bound, counts.num_chains)
            run = load_run(checkpoint, like, mark, sampler.block)
        else:
            run = Run(*sampler.init(start_key, bound, Start(init, counts.num_chains, report)))
        problem, run.state = sampler.bind(bound, run.learned, run.state)
        saved = time.monotonic()
        for moves in blocks(sampler, problem, run, counts, chain_key):
            report(run.done, _words(sampler, run, moves, counts))
            last = run.done == total or bool(interrupt)
            if checkpoint is not None and (last or time.monotonic() - saved > CHECKPOINT_INTERVAL):
                save_run(checkpoint, run, mark)
                saved = time.monotonic()
            if interrupt:
                break
            if until is not None and enough(until, problem, run, sampler.block):
                counts = counts._replace(num_samples=run.kept)
                break
        if run.kept < 4:
            raise KeyboardInterrupt
        report(run.done, "from draws to values")
        kept = run.kept
        every = jax.tree.map(lambda *parts: np.concatenate(parts).T, *run.moves)
        stats, own = sampler.results(run.state, every)
        end = sampler.snapshot(run.state)
        points = np.concatenate(run.draws) if end is None else np.stack(run.snapshots or [end])
        # Stein's identity has a term at every jump, which no gradient knows.
        jumps = JUMPING in run.start
        checked = SteinCheck() if jumps else stein_check(sampler, problem, run.state, points, seed)
        tree = collect(problem.coordinates, run.draws, stats, keep, layout, key=draw_key)
    tree.attrs.update(_facts(sampler, counts, seed, run))
    tree.attrs.update(prior_facts(bound) | own | stein_facts(checked))
    tree.attrs["seconds"] = time.monotonic() - started
    tree.attrs["draws_kept"] = kept
    judge(tree, sampler, trees.group(tree, "posterior"), cut=kept < counts.num_samples)
    leave_out(tree, layout)
    return tree


def _counts(sampler: AbstractSampler, *given: int | None) -> Counts:
    """Return the lengths of a run: as given, or the sampler's defaults."""
    pairs = zip(given, sampler.usual, strict=True)
    counts = Counts(*(usual if number is None else number for number, usual in pairs))
    for name, number, least in zip(Counts._fields, counts, (20, 4, 1), strict=True):
        if number < least:
            raise InputError(f"`{name}` must be at least {least}, got {number}.")
    return counts


def _tell(tell: Callable, total: int, done: int, text: str) -> None:
    tell(done, total, text)


def _words(sampler: AbstractSampler, run: Run, moves: Move, counts: Counts) -> str:
    phase = "warm-up" if run.done <= counts.num_warmup else "draws"
    diverging = int(sum(m.diverging.sum() for m in run.moves))
    return (
        f"{phase}: acceptance {float(np.mean(moves.acceptance_rate)):.2f}, "
        f"{sampler.describe(run.state, moves)}"
        + (f", {diverging} divergences" if diverging else "")
    )


def _facts(sampler: AbstractSampler, counts: Counts, seed: list, run: Run) -> dict:
    """Return the attributes of every run: versions, settings, cost."""
    import numpyro

    return {
        "scorepriors_version": __version__,
        "numpyro_version": numpyro.__version__,
        "jax_version": jax.__version__,
        "algorithm": sampler.name,
        "num_warmup": counts.num_warmup,
        "thinning": sampler.thinning,
        "target_acceptance_rate": sampler.target_acceptance_rate,
        "seed": json.dumps(seed),
        "start": run.start,
        "gradients": run.gradients,
    }


def judge(tree, sampler: AbstractSampler, whole, *, cut: bool) -> None:
    """Record the failed checks of a tree in its attributes, and warn about them.

    Parameters
    ----------
    tree
        The draws.
    sampler
        The sampler that made them.
    whole
        Dataset with the quantities, ``chain, draw, ...``, whose convergence is judged.
    cut
        Whether the run was interrupted.
    """
    stats = trees.group(tree, "sample_stats")
    found = diagnose({"posterior": whole, "sample_stats": stats}, sampler)
    said = [*stein_findings(tree.attrs)]
    if BY_DIFFERENCES in tree.attrs["start"]:
        said.append(Finding(Check.DIFFERENCES, {"note": DIFFERENCES}))
    if JUMPING in tree.attrs["start"]:
        said.append(Finding(Check.JUMPS))
    found = found._replace(findings=(*found.findings, *said))
    tree.attrs.update(_summary(found) | record(found.findings, cut) | {"interrupted": int(cut)})
    if cut:
        warnings.warn(
            f"interrupted: {tree.attrs['draws_kept']} draws per chain were made and are kept; to "
            f"go on, {RunStatus.INTERRUPTED.remedy}.",
            SamplingWarning,
            stacklevel=4,
        )
    for finding in found.findings:
        if finding.check is not Check.JUMPS:  # which was said before the first draw
            warnings.warn(finding.sentence(), SamplingWarning, stacklevel=4)


def _summary(found: Diagnosis) -> dict:
    return {
        "max_rhat": found.max_rhat,
        "max_pixel_rhat": found.max_pixel_rhat,
        "min_ess": found.min_ess,
        "min_ess_site": found.worst,
        "min_ess_tail": found.min_ess_tail,
        "divergences": found.divergences,
        "min_bfmi": found.min_bfmi,
    }
