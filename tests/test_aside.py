"""Descriptive values in pytrees, which JAX does not compare."""

import copy
import pickle

import jax
import jax.numpy as jnp
import pytest

from scorepriors._aside import Aside


@jax.tree_util.register_pytree_node_class
class Named:
    def __init__(self, value, name):
        self.value, self.name = value, name

    def tree_flatten(self):
        return (self.value,), Aside(self.name)

    @classmethod
    def tree_unflatten(cls, aside, leaves):
        return cls(*leaves, aside.value)


def test_all_are_equal_and_nothing_else_is():
    a, b = Aside("a"), Aside([1, 2])
    assert a == b
    assert hash(a) == hash(b)
    assert a != "a"


def test_is_immutable():
    with pytest.raises(AttributeError, match="immutable"):
        Aside(1).value = 2


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_survives_copies(again):
    assert again(Aside({"band": "g"})).value == {"band": "g"}


def test_traces_once_and_keeps_each_value():
    traces = []

    @jax.jit
    def double(named):
        traces.append(1)
        return 2 * named.value

    a, b = Named(jnp.ones(2), "a"), Named(jnp.ones(2), "b")
    double(a), double(b)
    assert len(traces) == 1
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.map(lambda x: x, b).name == "b"
