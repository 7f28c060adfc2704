"""Runs on disk: what a killed run needs to go on as if nothing had happened."""

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

from ._algorithms import Move
from ._chains import Run

_KIND = "checkpoint of a sampling run"


def fingerprint(bound: Posterior, settings: dict) -> str:
    """Digest of a model, its arguments and the settings of a run."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(bound.arrays):
        array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    name = getattr(bound.model, "__qualname__", type(bound.model).__name__)
    digest.update(f"{getattr(bound.model, '__module__', '')}.{name}".encode())
    digest.update(json.dumps({n: list(s) for n, s in bound.sites().items()}).encode())
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save_run(path: str | Path, run: Run, origin: dict, curvature: Any, mark: str) -> None:
    """Write a run, whole or not at all.

    Raises
    ------
    InputError
        If it can't be written, for want of space or of permission.
    """
    fixed = (run.states, run.settings, run.tuner, run.refinement, origin, curvature)
    arrays = {f"leaf{i}": _plain(a) for i, a in enumerate(jax.tree.leaves(fixed))}
    if run.window:
        arrays["window_positions"] = np.concatenate([p for p, _ in run.window])
        arrays["window_gradients"] = np.concatenate([g for _, g in run.window])
    if run.draws:
        arrays["draws"] = np.concatenate(run.draws)
        for name, values in zip(Move._fields, _stacked(run.moves), strict=True):
            arrays[f"move_{name}"] = values
    facts = {"done": int(run.done), "gradients": int(run.gradients)}
    try:
        write_archive(path, arrays, facts, kind=_KIND, version=1, identity=mark)
    except OSError as error:
        raise InputError(f"the checkpoint {str(path)!r} can't be written: {error}.") from error


def load_run(path: str | Path, like: Any, mark: str) -> tuple[Run, dict, Any]:
    """Read what `save_run` wrote.

    Parameters
    ----------
    path
        The file.
    like
        Tree of arrays or shapes with the structure of (states, settings, tuner,
        refinement, origin, curvature).
    mark
        Fingerprint of this run.

    Raises
    ------
    InputError
        If the file is of another run, or is none.
    """
    held, facts = read_archive(
        path,
        kind=_KIND,
        version=1,
        mend="name another file, or delete it",
        identity=mark,
        other="another model, other data or other settings",
    )
    leaves, structure = jax.tree.flatten(like)
    try:
        new = [_like(held[f"leaf{i}"], leaf) for i, leaf in enumerate(leaves)]
    except (KeyError, ValueError) as error:  # the same run of an earlier scorepriors
        raise InputError(f"{str(path)!r} is no {_KIND} of this version: {error}.") from error
    states, settings, tuner, refinement, origin, curvature = jax.tree.unflatten(structure, new)
    run = Run(facts["done"], states, settings, tuner, refinement, gradients=facts["gradients"])
    if "window_positions" in held:
        run.window = [(held["window_positions"], held["window_gradients"])]
    if "draws" in held:
        run.draws = [held["draws"]]
        run.moves = [Move(*(held[f"move_{name}"] for name in Move._fields))]
    return run, origin, curvature


def _plain(array):
    return np.asarray(jax.random.key_data(array) if _is_key(array) else array)


def _like(array, leaf):
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array))
    if tuple(array.shape) != tuple(leaf.shape):
        raise ValueError(f"stored array of shape {array.shape}, expected {leaf.shape}")
    return jnp.asarray(array, leaf.dtype)


def _stacked(moves: list[Move]) -> Move:
    return jax.tree.map(lambda *parts: np.concatenate(parts), *moves)
