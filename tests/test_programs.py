"""Memory mappings of compiled programs."""

import sys

import jax
import jax.numpy as jnp
import pytest

from scorepriors import _programs
from scorepriors._programs import make_room_for_programs


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts mappings")
@pytest.mark.parametrize("full", [False, True])
def test_programs_are_dropped_when_the_room_is_taken(monkeypatch, full):
    program = jax.jit(lambda x: 3 * x)
    program(jnp.ones(2))
    assert program._cache_size() == 1
    monkeypatch.setattr(_programs, "FULL", 0.0 if full else 1.0)
    assert make_room_for_programs() is full
    assert program._cache_size() == (0 if full else 1)
    assert program(jnp.ones(2))[0] == 3


def test_a_system_that_does_not_count_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(_programs, "FULL", 0.0)
    monkeypatch.setattr(_programs, "_MOST", tmp_path / "missing")
    assert not make_room_for_programs()
