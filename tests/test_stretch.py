import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import biject_to

from scorepriors import AbstractStretch, AsinhStretch, InputError, LogStretch

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


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_slopes_are_those_by_the_unconstrained_coordinate(stretch, xp):
    x = stretch(jnp.linspace(-2.0, 5.0, 28)).reshape(4, 7)
    to_x = biject_to(stretch.codomain)
    u = to_x.inv(x).ravel()
    dx_du = jax.vmap(jax.grad(to_x))(u).reshape(x.shape)
    dz_du = jax.vmap(jax.grad(lambda u: stretch.inv(to_x(u))))(u).reshape(x.shape)
    found = stretch.slopes(xp.asarray(x), xp)
    for value, expected in zip(found, (dx_du, dz_du), strict=True):
        assert isinstance(value, np.ndarray if xp is np else jax.Array)
        assert value.shape == x.shape
        assert value.dtype == x.dtype
        # u and z of the faintest pixels are differences of nearly equal numbers.
        np.testing.assert_allclose(value, expected, rtol=1e-3)


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_clipped_images_lie_well_inside_the_support(stretch, xp):
    x = xp.asarray(np.array([[-10.0, -0.02], [0.0, 3.0]], np.float32))
    found = stretch.clip(x, xp)
    assert isinstance(found, np.ndarray if xp is np else jax.Array)
    assert found.dtype == x.dtype
    assert bool(stretch.codomain(found).all())
    assert np.isfinite(biject_to(stretch.codomain).inv(jnp.asarray(found))).all()
    np.testing.assert_array_equal(found[1], x[1])
    # Inside, nothing moves: for a stretch without an end nothing at all.
    assert found[0, 1] == x[0, 1]
    if isinstance(stretch, AsinhStretch):
        assert found[0, 0] == -10
    else:
        assert found[0, 0] == np.float32(-0.5 * stretch.softening)


def test_slopes_and_clip_trace_with_the_stretch(stretch):
    x = stretch(jnp.linspace(-2.0, 5.0, 7))
    inside = jax.jit(lambda s, x: (s.slopes(x, jnp), s.clip(x, jnp)))(stretch, x)
    outside = stretch.slopes(x, jnp), stretch.clip(x, jnp)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), inside, outside)


def test_a_stretch_of_ones_own_says_what_is_missing():
    class Nothing(AbstractStretch):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()


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
