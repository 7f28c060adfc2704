"""Checkpoints of runs, from which an interrupted run continues to identical draws."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._archives import read_archive, write_archive
from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior
from scorepriors.inference._reads import digest_of

from ._abstract import Move
from ._run import Run

_KIND = "checkpoint of a sampling run"


def fingerprint(bound: Posterior, settings: dict) -> str:
    """Return a digest of a model, its arguments and the settings of a run."""
    digest = hashlib.sha256()
    for leaf in (*jax.tree.leaves(bound.arrays), *bound.constants):
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    name = getattr(bound.model, "__qualname__", type(bound.model).__name__)
    digest.update(f"{getattr(bound.model, '__module__', '')}.{name}".encode())
    # Numbers, strings and functions among the arguments, and what the model reads beside them.
    leaves, structure = bound.static
    digest.update(f"{bound.reads}{digest_of(leaves)}{structure}".encode())
    digest.update(json.dumps({n: list(s) for n, s in bound.sites().items()}).encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save_run(path: str | Path, run: Run, mark: str) -> None:
    """Write a run of any sampler, atomically.

    Raises
    ------
    InputError
        If it can't be written, for lack of space or of permission.
    """
    fixed = jax.tree.leaves((run.learned, run.state))
    arrays = {f"leaf{i}": _plain(a) for i, a in enumerate(fixed)}
    for name, parts in (("window", run.window), ("draws", run.draws), ("moves", run.moves)):
        if parts:
            whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
            arrays |= {f"{name}{i}": array for i, array in enumerate(jax.tree.leaves(whole))}
    if run.moves:
        arrays["recorded"] = np.array(
            [n for n, a in run.moves[0]._asdict().items() if a is not None]
        )
    facts = {"done": int(run.done), "gradients": int(run.gradients), "start": run.start}
    try:
        write_archive(path, arrays, facts, kind=_KIND, version=2, identity=mark)
    except OSError as error:
        raise InputError(f"the checkpoint {str(path)!r} can't be written: {error}.") from error


def load_run(path: str | Path, like: Any, mark: str, block: int) -> Run:
    """Read a file of `save_run`.

    Parameters
    ----------
    path
        The file.
    like
        Tree of arrays or shapes with the structure of (learned, state).
    mark
        Fingerprint of this run.
    block
        Number of draws of a block, as `blocks` makes them: what follows works block by block, and
        all draws as one would take the memory of all.

    Raises
    ------
    InputError
        If the file is of another run, or no checkpoint.
    """
    held, facts = read_archive(
        path,
        kind=_KIND,
        version=2,
        mend="name another file, or delete it",
        identity=mark,
        other="another model, other data or other settings",
    )
    leaves, structure = jax.tree.flatten(like)
    new = [_like(held[f"leaf{i}"], leaf) for i, leaf in enumerate(leaves)]
    learned, state = jax.tree.unflatten(structure, new)
    # Earlier files have no start.
    start = facts.get("start", "checkpoint")
    run = Run(learned, state, start, facts["done"], facts["gradients"])
    if "window0" in held:
        run.window = [(held["window0"], held.get("window1"))]
    if "draws0" in held:
        draws = held["draws0"]
        run.draws = [draws[first : first + block] for first in range(0, len(draws), block)]
        recorded = (str(name) for name in held["recorded"])
        moves: dict[str, Any] = {name: held[f"moves{i}"] for i, name in enumerate(recorded)}
        run.moves = [Move(**moves)]
    return run


def _plain(array):
    return np.asarray(jax.random.key_data(array) if _is_key(array) else array)


def _like(array, leaf):
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array))
    if tuple(array.shape) != tuple(leaf.shape):
        raise ValueError(f"stored array of shape {array.shape}, expected {leaf.shape}")
    return jnp.asarray(array, leaf.dtype)
