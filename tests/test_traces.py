"""Traced programs on disk: found again by what they are programs of, and by nothing else."""

import os
import time
import types
from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from conftest import gaussian_prior, said_by_processes, small_observation
from numpyro import handlers

from scorepriors import LogStretch, _traces
from scorepriors._aside import Aside
from scorepriors._traces import Kept, digest
from scorepriors.inference import fit_map, posterior
from scorepriors.inference.fitting._lbfgs import flat_lbfgs
from scorepriors.models import FreeForm, Scene, blend, place_sources

CENTERS = np.array([[8.0, 9.0], [13.0, 12.0]])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the traces, which are kept here as the commands keep them."""
    monkeypatch.setattr(_traces, "kept_programs", lambda: tmp_path)
    _traces._folder.cache_clear()
    return _traces.traces_folder()


@pytest.fixture
def traced(monkeypatch):
    """Names of the functions that were traced for a file."""
    names, trace = [], Kept._traced

    def watched(self, *args):
        names.append(self.__name__)
        return trace(self, *args)

    monkeypatch.setattr(Kept, "_traced", watched)
    return names


def scene(flux=300.0):
    obs = small_observation(CENTERS, shape=(20, 20), flux=flux)
    return Scene.build(obs, galaxies=FreeForm(gaussian_prior(), place_sources(CENTERS, box=8)))


def ours(function):
    """The function as if a module of the package had it."""
    space = {**function.__globals__, "__name__": "scorepriors.models"}
    made = types.FunctionType(
        function.__code__, space, function.__name__, function.__defaults__, function.__closure__
    )
    made.__module__ = "scorepriors.models"
    return made


@ours
def stretched(stretch, values, times=1):
    return {"out": stretch(values["z"]) * times}


def name(*args):
    return digest("program", stretched, args=args)


def test_a_program_is_traced_once_and_read_by_later_processes(folder, traced):
    values = {"z": jnp.arange(3.0)}
    expected = np.asarray(LogStretch()(values["z"]))
    for number in range(3):
        # Each knows as little as another process.
        found = Kept(stretched)(LogStretch(), values)
        np.testing.assert_array_equal(found["out"], expected)
        assert len(traced) == 1
        assert len(list(folder.iterdir())) == 1, number
    other = Kept(stretched)
    np.testing.assert_array_equal(other(LogStretch(), values, 2)["out"], 2 * expected)
    np.testing.assert_array_equal(
        other(LogStretch(), {"z": np.zeros(2, np.float32)})["out"], LogStretch()(jnp.zeros(2))
    )
    assert len(traced) == 3


def test_fits_of_scenes_are_the_same_from_a_file(folder, traced, monkeypatch):
    plain = None
    for _ in range(2):
        result = fit_map(blend, scene(), key=jax.random.key(0), max_iterations=40, verify=False)
        if plain is None:
            plain = result
            assert {"advance", "_start"} <= set(traced)
            traced.clear()
            for function in _kept_functions():
                monkeypatch.setattr(function, "_programs", {})
                monkeypatch.setattr(function, "_shapes", {})
    assert not traced
    jax.tree.map(np.testing.assert_array_equal, result.params, plain.params)
    jax.tree.map(np.testing.assert_array_equal, result.values, plain.values)
    # Of other data of the shape the same programs.
    other = fit_map(blend, scene(90.0), key=jax.random.key(0), max_iterations=40, verify=False)
    assert not traced
    assert abs(float(other.potential) - float(plain.potential)) > 1


def _kept_functions():
    import gc

    return [one for one in gc.get_objects() if isinstance(one, Kept)]


def test_a_model_of_the_user_is_never_read_from_a_file(folder, traced):
    import numpyro

    def model(y):
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    fit_map(model, jnp.asarray(1.0), key=jax.random.key(0))
    assert not traced
    assert not list(folder.iterdir())


def test_names_differ_where_programs_do():
    base = name(LogStretch(), np.zeros(3, np.float32))
    assert base == name(LogStretch(), jnp.ones(3))
    assert base != name(LogStretch(), np.zeros(4, np.float32))
    assert base != name(LogStretch(), np.zeros(3, np.int32))
    assert base != digest("shapes", stretched, args=(LogStretch(), np.zeros(3, np.float32)))
    assert base != digest("program", flat_lbfgs, args=(LogStretch(), np.zeros(3, np.float32)))
    assert name(Aside("a")) == name(Aside("b"))
    assert name({1, 2}) != name({1, 3})
    assert name(range(2)) != name(range(3))
    assert name({"a": 1, "b": 2}) == name({"b": 2, "a": 1})
    assert name((1, 2)) != name(((1,), 2))
    assert len({name(1), name(1.0), name(True), name(np.int32(1))}) == 4
    assert name(np.float64(1)) == name(np.float64(2))
    first, second = ours(lambda x: x.sin()), ours(lambda x: x.cos())
    assert name(first) != name(second)
    assert len({name(ours(lambda x, n=n: n * x)) for n in (1, 2)}) == 2
    assert name({}.get) != name({1: 2}.get)
    assert name(posterior(blend, [1, 2])) != name(posterior(blend, (1, 2)))
    # What closures and partial applications hold counts.
    assert name(flat_lbfgs(3)) == name(flat_lbfgs(3)) != name(flat_lbfgs(4))
    assert name(partial(place_sources, box=1)) != name(partial(place_sources, box=2))
    first, second = scene(), scene(90.0)
    assert name(posterior(blend, first)) == name(posterior(blend, second))
    sampled = Scene(first.exposures, first.sources, first.spectra, "sampled")
    assert name(posterior(blend, first)) != name(posterior(blend, sampled))


class Thing:
    """Of a module that is not ours."""


@pytest.mark.parametrize(
    "value",
    [
        lambda x: x,
        scene,
        wraps(blend)(lambda scene: None),
        handlers.condition(blend, {"x": np.ones(2)}),
        np.ones(2).dot,
        partial(jnp.add, np.ones(2)),
        dist.Normal(0, 1),
        Thing(),
    ],
    ids=["lambda", "function", "wrapped", "handler", "method", "constant", "numpyro", "class"],
)
def test_what_has_no_safe_name_has_none(value):
    with pytest.raises(_traces._UnknownError):
        name(value)


def test_handlers_of_a_model_count():
    value = scene()
    found = [name(posterior(handlers.scale(blend, factor), value)) for factor in (0.25, 0.5)]
    assert len({*found, name(posterior(blend, value))}) == 3


def test_what_lies_about_a_call_counts(folder):
    def inside(context):
        with context:
            return _traces.traces_folder()

    # Within a handler a model is another one.
    assert inside(handlers.substitute(data={"x": 1.0})) is None
    assert inside(jax.default_device(jax.devices()[0])) is None
    others = [
        inside(context)
        for context in (
            jax.enable_x64(True),
            jax.default_matmul_precision("float32"),
            jax.numpy_rank_promotion("raise"),
            dist.distribution.validation_enabled(not dist.Distribution._validate_args),
        )
    ]
    assert len({folder, *others}) == 5


def test_sources_younger_than_the_process_are_not_kept(folder, monkeypatch):
    monkeypatch.setattr(_traces, "STARTED", 0.0)
    found = Kept(stretched)(LogStretch(), {"z": jnp.arange(3.0)})
    np.testing.assert_array_equal(found["out"], LogStretch()(jnp.arange(3.0)))
    assert not list(folder.iterdir())


def test_numbers_are_returned_as_numbers(folder):
    found = Kept(ours(lambda x: (x + 1, 3)))(jnp.zeros(2))
    assert found[1] == 3
    assert not isinstance(found[1], jax.Array)
    assert not list(folder.iterdir())


def test_a_broken_file_is_written_again(folder, traced):
    values = {"z": jnp.arange(3.0)}
    Kept(stretched)(LogStretch(), values)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    found = Kept(stretched)(LogStretch(), values)
    np.testing.assert_array_equal(found["out"], LogStretch()(values["z"]))
    assert len(traced) == 2
    assert len(path.read_bytes()) == len(whole)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch, traced):
    monkeypatch.setattr(_traces, "kept_programs", lambda: None)
    Kept(stretched)(LogStretch(), {"z": jnp.arange(3.0)})
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(_traces, "kept_programs", lambda: blocked)
    assert _traces.traces_folder() is None
    Kept(stretched)(LogStretch(), {"z": jnp.arange(3.0)})
    assert not traced


def test_errors_of_a_function_are_its_own(folder):
    @ours
    def refuses(x):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Kept(refuses)(jnp.zeros(2))


def test_folders_of_versions_long_gone_are_deleted(folder):
    old, new = folder.parent / "old", folder.parent / "new"
    old.mkdir()
    new.mkdir()
    long_ago = time.time() - 2 * _traces.OLD
    os.utime(old, (long_ago, long_ago))
    _traces._folder.cache_clear()
    assert _traces.traces_folder() == folder
    assert new.exists()
    assert not old.exists()


def test_names_are_those_of_other_processes():
    """Hashes of strings, and so the order of sets, differ between processes."""
    code = (
        "from scorepriors import load_prior, ScorePrior; from scorepriors._traces import digest;"
        "from scorepriors.inference.fitting._lbfgs import flat_lbfgs;"
        "args = load_prior('lsst-32'), flat_lbfgs(3), {'a', 'b', 'c'};"
        "print(digest('program', flat_lbfgs, args=args))"
    )
    assert len(said_by_processes(code)) == 1
