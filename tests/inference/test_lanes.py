"""How many fits run side by side follows from the device."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from scorepriors.inference.deblending import _lanes


def scenes(number=1000, *, sources=8, box=32, bands=(6,)):
    """Stand-ins with what the memory of a fit hangs on."""
    at = type("At", (), {"box": box, "__len__": lambda self: sources})()
    seen = [SimpleNamespace(num_bands=count) for count in bands]
    return [SimpleNamespace(sources=[SimpleNamespace(at=at)], exposures=seen)] * number


def device(monkeypatch, backend, memory=None):
    """Pretend that there is another device."""
    stats = None if memory is None else {"bytes_limit": memory}
    one = SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(_lanes.jax, "default_backend", lambda: backend)
    monkeypatch.setattr(_lanes.jax, "local_devices", lambda: [one])


def test_on_a_cpu_there_are_eight_and_two():
    assert jax.default_backend() == "cpu"
    assert _lanes.free_form_lanes(scenes(), large=False) == 8
    assert _lanes.free_form_lanes(scenes(), large=True) == 2
    assert _lanes.free_form_lanes(scenes(), large=False, given=20) == 20
    assert _lanes.free_form_lanes(scenes(), large=True, given=20) == 2
    assert _lanes.free_form_lanes(scenes(), large=True, given=1) == 1
    assert _lanes.profile_lanes(scenes()) == _lanes.profile_lanes(scenes(), 20) == 1
    assert (_lanes.chunk_of(None), _lanes.chunk_of(5)) == (32, 5)


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_elsewhere_the_memory_decides(monkeypatch, backend):
    one = _lanes.BYTES * 8 * 32**2 / _lanes.SHARE
    device(monkeypatch, backend, 40 * one)
    # A power of two that fits.
    assert _lanes.free_form_lanes(scenes(), large=False) == 32
    assert _lanes.profile_lanes(scenes()) == 32
    assert _lanes.profile_lanes(scenes(), 20) == 20
    # Many epochs take memory of their own, few bands save none.
    assert _lanes.free_form_lanes(scenes(bands=(6, 6, 12)), large=False) == 8
    assert _lanes.free_form_lanes(scenes(bands=(1,)), large=False) == 32
    assert _lanes.free_form_lanes(scenes(), large=False, given=20) == 20
    # Four times the pixels, or half of them.
    assert _lanes.free_form_lanes(scenes(box=64), large=True) == 8
    assert _lanes.free_form_lanes(scenes(sources=4), large=False) == 64
    # Not many more than there are fits, at least one, and never beyond the limit.
    assert _lanes.free_form_lanes(scenes(5), large=False) == 8
    assert _lanes.free_form_lanes(scenes(1), large=False) == 1
    device(monkeypatch, backend, 0.1 * one)
    assert _lanes.free_form_lanes(scenes(), large=False) == 1
    device(monkeypatch, backend, 1e6 * one)
    assert _lanes.free_form_lanes(scenes(), large=False) == _lanes.MOST
    device(monkeypatch, backend)
    known = 1 << int(np.log2(_lanes.UNKNOWN / one))
    assert _lanes.free_form_lanes(scenes(), large=False) == known
    assert _lanes.chunk_of(None) > _lanes.MOST
