"""Arguments of a model as constants of its program, for models that need their values.

Arrays are traced, so that other data compile nothing again.  ``len(np.unique(group))``,
``int(x.max())`` or ``y[~mask]`` need numbers while the program is made.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

#: Errors of JAX where a program asks a traced array for its values.
NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)

#: What to tell a user.
SENTENCE = (
    "the model needs the values of its array arguments while its program is made (such as "
    "`np.unique(group)`, `int(x.max())`, `y[mask]`)"
)


@dataclass(frozen=True)
class Constant:
    """An array that is compared by its content, as the static part of a pytree has to be."""

    mark: bytes
    array: Any = field(compare=False, repr=False)


def constants(tree):
    """Return a tree with `Constant` in the place of arrays.  Random keys stay as they are."""

    def constant(leaf):
        if not isinstance(leaf, jax.Array | np.ndarray) or _is_key(leaf):
            return leaf
        array = np.asarray(leaf)
        words = f"{type(leaf).__name__} {array.dtype} {array.shape}".encode()
        digest = hashlib.blake2b(words + np.ascontiguousarray(array).tobytes(), digest_size=20)
        return Constant(digest.digest(), leaf)

    return jax.tree.map(constant, tree)


def has_tracers(tree) -> bool:
    """Return whether some arrays have no values yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def as_numpy(tree):
    """Return a tree with arrays of NumPy: operations on those of JAX have no values in a trace."""
    return jax.tree.map(
        lambda a: np.asarray(a) if isinstance(a, jax.Array) and not _is_key(a) else a, tree
    )


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
