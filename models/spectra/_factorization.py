"""Cholesky factors of many small matrices at once, safe on machines of few cores.

The CPU kernels of jaxlib 0.10 distribute a large batch of factorizations over the threads that
run the program, and wait there for their end.  If as many of them run at once as there are
threads, they deadlock; on two cores this happens.  (From 0.11.2 on they are not distributed.)
Here a large batch is computed one matrix after the other on a CPU: for matrices of this size
that is no slower.
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Float

from scorepriors._compat import custom_vmap
from scorepriors._typing import Array

#: Batches of fewer floating point operations are not distributed; jaxlib's own limit is 2e5.
_LIMIT = 1e5


@jax.custom_jvp
def cholesky_and_inverse(
    matrix: Float[Array, "*batch n n"],
) -> tuple[Float[Array, "*batch n n"], Float[Array, "*batch n n"]]:
    """Return the lower Cholesky factor of a positive definite matrix, and the factor's inverse.

    Parameters
    ----------
    matrix
        Symmetric matrices ``[..., n, n]``.

    Returns
    -------
    lower, inverse
        Factor and inverse ``[..., n, n]``; NaN where a matrix is not positive definite.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> lower, inverse = cholesky_and_inverse(jnp.array([[4.0, 2.0], [2.0, 2.0]]))
    >>> lower.tolist(), inverse.tolist()
    ([[2.0, 0.0], [1.0, 1.0]], [[0.5, 0.0], [-0.5, 1.0]])
    """
    return _factorize(matrix)


@cholesky_and_inverse.defjvp
def _cholesky_and_inverse_jvp(primals, tangents):
    lower, inverse = cholesky_and_inverse(*primals)
    moved = jnp.tril(inverse @ tangents[0] @ jnp.swapaxes(inverse, -1, -2))
    moved -= 0.5 * moved * jnp.eye(moved.shape[-1], dtype=moved.dtype)
    return (lower, inverse), (lower @ moved, -moved @ inverse)


@custom_vmap
def _factorize(matrix):
    """Return the factors of a stack; a mapped axis becomes one more axis of the stack."""
    if matrix.size * matrix.shape[-1] < _LIMIT:
        return _at_once(matrix)
    return jax.lax.platform_dependent(matrix, cpu=_in_turn, default=_at_once)


@_factorize.def_vmap
def _factorize_stack(axis_size, in_batched, matrix):
    del axis_size, in_batched
    return _factorize(matrix), (True, True)


def _at_once(matrix):
    lower = jnp.linalg.cholesky(matrix)
    one = jnp.broadcast_to(jnp.eye(lower.shape[-1], dtype=lower.dtype), lower.shape)
    return lower, solve_triangular(lower, one, lower=True)


def _in_turn(matrix):
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    return tuple(part.reshape(matrix.shape) for part in jax.lax.map(_at_once, flat))
