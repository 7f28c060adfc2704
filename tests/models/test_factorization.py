"""Cholesky factors against NumPy, alone and in batches that are computed sequentially."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors.models.spectra._factorization import cholesky_and_inverse

SIZE = 48


@pytest.fixture(scope="module")
def matrices():
    root = np.random.default_rng(0).normal(size=(2, 3, SIZE, SIZE))
    return jnp.asarray(root @ root.swapaxes(-1, -2) / SIZE + np.eye(SIZE), jnp.float32)


def map_once(function):
    return jax.vmap(function)


def map_twice(function):
    return jax.vmap(jax.vmap(function))


@pytest.mark.parametrize("mapped", [lambda f: f, map_once, map_twice])
def test_factors_are_those_of_numpy(matrices, mapped):
    lower, inverse = jax.jit(mapped(cholesky_and_inverse))(matrices)
    expected = np.linalg.cholesky(np.asarray(matrices, float))
    np.testing.assert_allclose(lower, expected, atol=1e-5)
    np.testing.assert_allclose(inverse, np.linalg.inv(expected), atol=1e-5)


def test_large_batches_are_worked_off_in_turn_on_a_cpu(matrices):
    # jaxlib 0.10 would spread them over the threads that wait for them, and never end.
    if jax.default_backend() != "cpu":
        pytest.skip("other devices do not know this")

    def lowered(batch):
        return jax.jit(jax.vmap(cholesky_and_inverse)).lower(batch).as_text()

    many = jnp.broadcast_to(matrices[0, 0], (8, SIZE, SIZE))
    assert "stablehlo.while" in lowered(many)
    assert "stablehlo.while" not in lowered(many[:, :6, :6])
    shape = f"tensor<8x{SIZE}x{SIZE}xf32>"
    calls = [line for line in lowered(many).splitlines() if "lapack_" in line]
    assert calls
    assert not any(shape in line for line in calls)


def test_derivatives_in_both_directions(matrices):
    def ours(matrix):
        lower, inverse = cholesky_and_inverse(matrix)
        return jnp.sum(jnp.sin(lower)) + jnp.sum(jnp.cos(inverse))

    def theirs(matrix):
        lower = jnp.linalg.cholesky(matrix, symmetrize_input=False)
        return jnp.sum(jnp.sin(lower)) + jnp.sum(jnp.cos(jnp.linalg.inv(lower)))

    def symmetric(function):
        return lambda a: function((a + a.T) / 2)

    matrix = matrices[0, 0, :6, :6] + jnp.eye(6)
    for derivative in (jax.grad, jax.jacfwd, jax.hessian):
        found, expected = (jax.jit(derivative(symmetric(f)))(matrix) for f in (ours, theirs))
        np.testing.assert_allclose(found, expected, atol=2e-4)
    batch = jnp.broadcast_to(matrices[0, 0], (4, SIZE, SIZE))
    slopes = jax.jit(jax.vmap(jax.grad(symmetric(ours))))(batch)
    np.testing.assert_allclose(slopes[0], jax.grad(symmetric(theirs))(batch[0]), atol=2e-4)


def test_a_matrix_that_is_not_positive_definite_gives_nan():
    lower, inverse = cholesky_and_inverse(-jnp.eye(3))
    assert np.isnan(lower).any()
    assert np.isnan(inverse).any()
