"""Batches of posteriors: leading axes of their arrays, and their members."""

from functools import partial

import equinox as eqx
import jax
import numpy as np

from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior, listed


class Axes:
    """A tree of axes, hashable so that jit can take it as static."""

    def __init__(self, tree):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
        self._key = (tuple(leaves), structure)

    def described(self):
        """Return its traced and its other parts, for the name of programs on disk."""
        return None, self.tree

    def __hash__(self):
        return hash(self._key)

    def __eq__(self, other):
        return isinstance(other, Axes) and self._key == other._key


def batch_axes(bound: Posterior, in_axes: tuple):
    """Return the tree of axes of a posterior's arrays, from an entry per positional argument.

    Parameters
    ----------
    bound
        The posterior.
    in_axes
        Entries as in `jax.vmap`: each is 0, None, or a tree of them that is a prefix of the
        argument's.

    Raises
    ------
    InputError
        For a wrong number of entries, an axis other than 0 and None, an entry whose structure is no
        prefix of its argument's, or a keyword argument that could have a batch axis: keywords are
        shared by all.
    """
    args, kwargs = bound.arrays
    if len(in_axes) != len(args):
        raise InputError(
            f"`in_axes` has {len(in_axes)} entries for {len(args)} positional arguments."
        )
    axes = tuple(
        _spread_axes(i, entry, arg)
        for i, (entry, arg) in enumerate(zip(in_axes, args, strict=True))
    )
    found = Axes((axes, jax.tree.map(lambda _: None, kwargs)))
    size = batch_size(bound, found)
    for name, value in kwargs.items():
        if any(np.ndim(one) and one.shape[0] == size for one in jax.tree.leaves(value)):
            raise InputError(
                f"the keyword argument {name!r} has an axis of the batch's length: keywords are "
                "shared by all fits.  Give it by position, with its entry in `in_axes`: 0 for a "
                "batch axis, None for an array that all share."
            )
    return found


def _spread_axes(position: int, entry, arg):
    """Return an axis for every array of an argument, from a prefix of its tree."""

    def spread(axis, branch):
        if axis is not None and not (isinstance(axis, int) and axis == 0):
            raise InputError(
                f"entry {position} of `in_axes` holds {axis!r}: an axis is 0, for a leading batch "
                "axis, or None, for arrays that all fits share."
            )
        return jax.tree.map(lambda _: axis, branch)

    try:
        return jax.tree.map(spread, entry, arg, is_leaf=lambda x: x is None)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(
            f"entry {position} of `in_axes` is no prefix of its argument, as `jax.vmap` takes "
            f"them: {error}."
        ) from error


def listed_batches(args: tuple, in_axes: tuple) -> tuple:
    """Return arguments with lists of numbers as arrays, where they have a batch axis.

    Elsewhere a list of integers is static (counts or sizes); along a batch it is data.

    Parameters
    ----------
    args
        Positional arguments of a model.
    in_axes
        Entries as in `batch_axes`, which refuses those that do not fit.
    """
    if not isinstance(in_axes, tuple | list):
        raise InputError(
            f"`in_axes` must be a tuple with an entry per positional argument, got {in_axes!r}: "
            f"give ({in_axes!r},)."
        )

    def convert(axis, branch):
        if axis is None:
            return branch
        as_data = partial(listed, static=False)
        return jax.tree.map(as_data, branch, is_leaf=lambda x: isinstance(x, list))

    def one(entry, arg):
        try:
            return jax.tree.map(convert, entry, arg, is_leaf=lambda x: x is None)
        except (TypeError, ValueError):
            return arg

    pairs = zip(in_axes, args, strict=False)
    return (*(one(entry, arg) for entry, arg in pairs), *args[len(in_axes) :])


def batch_size(bound: Posterior, batch: Axes) -> int:
    """Return the number of posteriors in a batch; `InputError` if the arrays disagree."""
    sizes = {
        leaf.shape[0]
        for axis, leaf in zip(
            jax.tree.leaves(batch.tree, is_leaf=lambda x: x is None),
            jax.tree.leaves(bound.arrays, is_leaf=lambda x: x is None),
            strict=True,
        )
        if axis == 0
    }
    if not sizes:
        raise InputError(
            "`in_axes` gives a batch axis to no array: give the entry of an argument that is an "
            "array (or a list of numbers) a 0."
        )
    if len(sizes) != 1:
        raise InputError(f"batched arguments disagree on the size of the batch: {sorted(sizes)}.")
    return sizes.pop()


def members_of(bound: Posterior, batch: Axes, index) -> Posterior:
    """Return one posterior of a batch, by its number; or a smaller batch, by several."""
    arrays = jax.tree.map(
        lambda axis, leaf: leaf if axis is None else np.asarray(leaf)[index],
        batch.tree,
        bound.arrays,
        is_leaf=lambda x: x is None,
    )
    return with_arrays(bound, arrays)


def with_arrays(bound: Posterior, arrays) -> Posterior:
    """Return the same posterior with other arrays."""
    return eqx.tree_at(lambda p: p.arrays, bound, arrays, is_leaf=lambda x: x is None)


def axes_of(batch: Axes | None):
    """Return the axes of the arrays for `jax.vmap`."""
    return None if batch is None else batch.tree


def mapped(function, batch: Axes | None, *axes):
    """Return the function of a single fit, or that of a batch."""
    if batch is None:
        return function
    return jax.vmap(function, in_axes=axes)
