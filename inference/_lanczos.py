r"""Lanczos's recurrence for symmetric operators, several at once, orthogonalized in full.

One step, `_extend`, is used in two ways.  `ritz_pairs` calls it from outside of a compiled
program, so that a product that is already compiled is not compiled again within a loop;
`ritz_pairs_each` puts it into one program with products that share a preparation.

Where the Krylov space is exhausted the recurrence continues with a new direction: many equal
eigenvalues exhaust it early.  Matfree's ``tridiag_sym`` orthogonalizes in full as well, but
divides by the vanishing remainder there and continues with noise.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import eigh_tridiagonal

from scorepriors._traces import Kept


class RitzPairs(NamedTuple):
    """Approximate eigenpairs, by ascending eigenvalue.

    Attributes
    ----------
    values
        Eigenvalues ``[m]``.
    vectors
        Orthonormal columns ``[d, m]``.
    residuals
        Norms of H v - lambda v, ``[m]``: an eigenvalue is within that distance of each value.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


class _Krylov(NamedTuple):
    """Orthonormal rows of G operators, and the tridiagonal matrices in them."""

    basis: Float[Array, "m G d"]
    diagonal: Float[Array, "m G"]
    beside: Float[Array, "m G"]


def ritz_pairs(product: Callable, like: Float[Array, " d"], steps: int, key) -> RitzPairs:
    """Return Ritz pairs of one symmetric operator.

    Parameters
    ----------
    product
        Function from a vector ``[d]`` to the operator times it.
    like
        Vector of the same shape and type.
    steps
        Number of products m, at most d.
    key
        Random key for the first vector, and for new ones.
    """
    *_, pairs = ritz_pairs_so_far(product, like, steps, steps, key)
    return pairs


def ritz_pairs_so_far(
    product: Callable, like: Float[Array, " d"], steps: int, every: int, key
) -> Iterator[RitzPairs]:
    """Yield Ritz pairs of one symmetric operator after every few products, and after the last.

    Parameters
    ----------
    product, like, steps, key
        Arguments of `ritz_pairs`.
    every
        Number of products from one to the next.
    """
    found = _begin(like[None], steps, key)
    for i in range(steps):
        row = np.int32(i)
        found = _extend_compiled(found, row, product(_row(found.basis, row)), key)
        done = i + 1
        if done == steps or done % every == 0:
            begun = _Krylov(found.basis[:done], found.diagonal[:done], found.beside[:done])
            yield _diagonalized(begun)[0]


def ritz_pairs_each(
    operator: Callable, like: Float[Array, "G d"], steps: int, key
) -> list[RitzPairs]:
    """Return Ritz pairs of G symmetric operators, by one program.

    Parameters
    ----------
    operator
        Function, called once, that returns a function from ``v [G, d]`` to each operator times
        its vector.  A pytree (`equinox.Partial`): other arrays in it recompile nothing.
    like, steps, key
        Arguments of `ritz_pairs`.
    """
    return _diagonalized(_extend_all(operator, like, steps, key))


@Kept
def _extend_all(operator, like, steps: int, key) -> _Krylov:
    product = operator()
    return jax.lax.fori_loop(
        0,
        steps,
        lambda i, found: _extend(found, i, product(found.basis[i]), key),
        _begin(like, steps, key),
    )


def _begin(like, steps: int, key) -> _Krylov:
    basis = jnp.zeros((steps, *like.shape), like.dtype)
    first = jax.random.normal(key, like.shape, like.dtype)
    diagonal, beside = (jnp.zeros((steps, len(like)), like.dtype) for _ in range(2))
    return _Krylov(basis.at[0].set(_unit(first)), diagonal, beside)


def _extend(found: _Krylov, i, image, key) -> _Krylov:
    """Add row i + 1 of the basis from the product ``image [G, d]`` with row i."""
    basis, diagonal, beside = found
    diagonal = diagonal.at[i].set(jnp.sum(image * basis[i], -1))
    rest = _without(basis, image)
    norm = jnp.linalg.norm(image, axis=-1)
    # What overflows is no exhausted space, and makes all pairs NaN.
    length = jnp.where(jnp.isfinite(norm), jnp.linalg.norm(rest, axis=-1), jnp.inf)
    # Rounding error of a product within the space.
    noise = 10 * jnp.finfo(image.dtype).eps * norm
    exhausted = jnp.isfinite(length) & (length <= noise * image.shape[-1] ** 0.5)
    fresh = jax.lax.cond(
        exhausted.any(),
        lambda: _without(
            basis, jax.random.normal(jax.random.fold_in(key, i), image.shape, image.dtype)
        ),
        lambda: rest,
    )
    following = _unit(jnp.where(exhausted[:, None], fresh, rest))
    return _Krylov(
        basis.at[i + 1].set(following, mode="drop"),
        diagonal,
        beside.at[i].set(jnp.where(exhausted, 0.0, length)),
    )


@partial(jax.jit, donate_argnums=0)
def _extend_compiled(found, i, image, key):
    return _extend(found, i, image[None], key)


@jax.jit
def _row(basis, i):
    return basis[i, 0]


def _without(basis, vectors):
    """Remove from vectors ``[G, d]`` their parts along rows of the basis (zeros have none)."""
    for _ in range(2):  # once is not enough in finite precision
        along = jnp.einsum("mgd,gd->mg", basis, vectors)
        vectors = vectors - jnp.einsum("mg,mgd->gd", along, basis)
    return vectors


def _unit(vectors):
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


def _diagonalized(found: _Krylov) -> list[RitzPairs]:
    """Return eigenpairs of the tridiagonal matrices, in double precision on the host."""
    basis, diagonal, beside = (np.asarray(a, float) for a in found)
    pairs = []
    for g in range(basis.shape[1]):
        if not (np.isfinite(diagonal[:, g]).all() and np.isfinite(beside[:, g]).all()):
            nothing = np.full(len(diagonal), np.nan)
            pairs.append(RitzPairs(nothing, basis[:, g].T, nothing))
            continue
        values, vectors = eigh_tridiagonal(diagonal[:, g], beside[:-1, g])
        residuals = np.abs(beside[-1, g] * vectors[-1])
        pairs.append(RitzPairs(values, basis[:, g].T @ vectors, residuals))
    return pairs
