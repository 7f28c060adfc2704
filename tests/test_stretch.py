import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors import AsinhStretch, InputError, LogStretch

STRETCHES = [
    LogStretch(0.05, 0.44),
    LogStretch(1.0, 0.1),
    AsinhStretch(0.1, 1.0),
    AsinhStretch(0.05, 0.44),
]


@pytest.fixture(params=STRETCHES, ids=repr)
def stretch(request):
    return request.param


def test_inverse_jacobian_and_pytree(stretch):
    z = jnp.linspace(-2.0, 5.0, 29)
    x = stretch(z)
    np.testing.assert_allclose(stretch.inv(x), z, atol=2e-4)
    slope = jax.vmap(jax.grad(stretch))(z)
    np.testing.assert_allclose(stretch.log_abs_det_jacobian(z, x), jnp.log(slope), atol=1e-4)
    leaves, structure = jax.tree.flatten(stretch)
    assert jax.tree.unflatten(structure, leaves) == stretch
    np.testing.assert_allclose(jax.jit(lambda s, z: s(z))(stretch, z), x, rtol=1e-5)
    assert bool(stretch.codomain(x).all())


def test_jacobian_of_the_inverse_is_the_reciprocal(stretch):
    x = stretch(jnp.linspace(-2.0, 5.0, 29))
    slope = jax.vmap(jax.grad(stretch.inv))(x)
    np.testing.assert_allclose(
        -stretch.log_abs_det_jacobian(stretch.inv(x), x), jnp.log(slope), atol=2e-4
    )


def test_jacobian_is_elementwise_and_zero_maps_to_zero(stretch):
    z = jnp.ones((2, 3, 4, 4))
    assert stretch.log_abs_det_jacobian(z, stretch(z)).shape == z.shape
    assert stretch(jnp.zeros(())) == 0
    assert stretch.inv(jnp.zeros(())) == 0


def test_other_parameters_compile_nothing(stretch):
    traces = []

    @jax.jit
    def call(s, z):
        traces.append(1)
        return s(z)

    call(stretch, jnp.ones(3))
    call(type(stretch)(0.2, 0.3), jnp.ones(3))
    assert len(traces) == 1


def test_codomain_ends_at_minus_the_softening():
    below = LogStretch(0.05).codomain
    assert bool(below(-0.049))
    assert not bool(below(-0.051))
    assert bool(AsinhStretch(0.05).codomain(-1e3))


def test_asinh_stretch_is_odd_and_does_not_overflow():
    stretch = AsinhStretch(0.1, 1.0)
    z = jnp.linspace(0.0, 80.0, 9)
    np.testing.assert_allclose(stretch(-z), -stretch(z), rtol=1e-6)
    np.testing.assert_allclose(
        stretch.log_abs_det_jacobian(-z, stretch(-z)), stretch.log_abs_det_jacobian(z, stretch(z))
    )
    # cosh(200) is infinite in single precision, its logarithm is not.
    np.testing.assert_allclose(
        stretch.log_abs_det_jacobian(jnp.asarray(200.0), None),
        np.log(0.1) + 200 - np.log(2),
        rtol=1e-6,
    )


def test_stretches_differ():
    assert LogStretch(0.05) != LogStretch(0.06)
    assert LogStretch(0.05, 0.44) != LogStretch(0.05, 0.45)
    assert LogStretch() != AsinhStretch()
    assert LogStretch(0.05) == LogStretch(jnp.asarray(0.05))


def test_repr_survives_tracing():
    seen = []
    jax.jit(lambda s: seen.append(repr(s)) or s.softening)(LogStretch())
    assert "LogStretch(softening=<" in seen[0]


@pytest.mark.parametrize("kind", [LogStretch, AsinhStretch])
@pytest.mark.parametrize("name", ["softening", "scale"])
@pytest.mark.parametrize("value", [0.0, -1, float("nan")])
def test_parameters_must_be_positive(kind, name, value):
    with pytest.raises(InputError, match=f"`{name}` of a stretch must be positive"):
        kind(**{name: value})
