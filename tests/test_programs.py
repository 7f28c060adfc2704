"""Memory mappings of compiled programs."""

import sys

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

from scorepriors import _programs
from scorepriors._programs import make_room_for_programs
from scorepriors.inference import fit_map, laplace


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


def test_mappings_are_counted_now_and_then(monkeypatch):
    counted = []
    monkeypatch.setattr(_programs, "make_room_for_programs", lambda: counted.append(1))
    clock = iter([100.0, 101.0, 103.0])
    monkeypatch.setattr(_programs.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(_programs, "_counted", 0.0)
    for _ in range(3):
        _programs.make_room_now_and_then()
    assert len(counted) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts mappings")
def test_models_one_after_the_other_make_room(monkeypatch):
    """Hundreds of models in one process ran out of mappings, which ends it."""
    monkeypatch.setattr(_programs, "FULL", 0.0)
    monkeypatch.setattr(_programs, "_AGAIN", 0.0)
    program = jax.jit(lambda x: 5 * x)

    def model(value):
        numpyro.sample("x", dist.Normal(value, 1.0))

    for run in (
        lambda: fit_map(model, 1.0, key=jax.random.key(0)),
        lambda: laplace(model, 1.0, key=jax.random.key(0), num_samples=8),
    ):
        program(jnp.ones(2))
        assert program._cache_size() == 1
        run()
        assert program._cache_size() == 0
