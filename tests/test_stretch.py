import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors import AsinhStretch, InputError, LogStretch

STRETCHES = [LogStretch(0.05, 0.44), LogStretch(1.0, 0.1), AsinhStretch(0.1, 1.0)]


@pytest.mark.parametrize("stretch", STRETCHES, ids=repr)
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


def test_stretches_differ():
    assert LogStretch(0.05) != LogStretch(0.06)
    assert LogStretch() != AsinhStretch()


@pytest.mark.parametrize("kind", [LogStretch, AsinhStretch])
@pytest.mark.parametrize("name", ["softening", "scale"])
def test_parameters_must_be_positive(kind, name):
    with pytest.raises(InputError, match=name):
        kind(**{name: 0.0})
