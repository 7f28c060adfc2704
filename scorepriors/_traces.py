"""Traced programs on disk: what a process has traced, later ones of the same shapes load.

Compiled programs are kept by JAX, but it has to trace and to lower a function before it knows which
one it needs: a second and more for each shape of a scene, in every process anew.  Here the lowered
program is found by a description of the arguments, without a look into the function.  It lies beside
the compiled ones, where JAX keeps these (``jax_compilation_cache_dir``, which the commands set), and
only if this package and those it is built on define all of it: what a user's function does can change
without a new name.  What is changed in these packages while a process runs (a constant, a function) is
not seen, and would be kept for others: set ``jax_enable_compilation_cache`` to False for that.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import inspect
import os
import pickle
import shutil
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jaxtyping
import numpy as np
from jax import export
from numpyro.distributions import Distribution

from . import _compat
from ._files import atomic_write
from ._programs import kept_programs

#: Packages whose functions and classes are known by their names, since their versions are.
PACKAGES = (
    "jax",
    "jaxlib",
    "numpyro",
    "blackjax",
    "equinox",
    "lineax",
    "matfree",
    "numpy",
    "optax",
)

#: The same of everything that comes with Python or with this package.
KNOWN = {*PACKAGES, "scorepriors", "builtins", "copyreg", "functools"}

#: When this process began, roughly: the source of what runs is older.
STARTED = time.time()

#: File of the decorator that checks arrays as tests run, or as a user asks for.
_CHECKS = jaxtyping.jaxtyped.__code__.co_filename

#: What `jax.jit` makes of a function.
_JITTED: Any = type(jax.jit(lambda x: x))

#: Most signatures that a function remembers in a process.
MOST = 512

#: Time after which traces of other versions are deleted, seconds.
OLD = 30 * 24 * 3600.0


class _UnknownError(Exception):
    """Something that no description tells from all others."""


class Kept:
    """A function as `equinox.filter_jit` compiles it, whose traces are kept on disk.

    Parameters
    ----------
    function
        A pure function of pytrees that returns arrays.
    compiler_options
        Function that returns options of XLA, which may depend on the backend.
    """

    def __init__(self, function: Callable, compiler_options: Callable[[], dict] = dict):
        functools.update_wrapper(self, function)
        self._function = function
        self._options = compiler_options
        self._programs: dict[Any, Callable | None] = {}
        self._shapes: dict[Any, Any] = {}

    @functools.cached_property
    def _plain(self) -> Callable:
        jit: Any = eqx.filter_jit
        return jit(self._function, compiler_options=self._options())

    def __call__(self, *args, **kwargs):
        """Return the value of the function."""
        folder = traces_folder()
        if kwargs:
            bound = inspect.signature(self._function).bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
            folder = None if kwargs else folder
        if folder is None:
            return self._plain(*args, **kwargs)
        leaves, structure = jax.tree.flatten(args)
        signature = _signature(leaves, structure)
        if signature is None:
            return self._plain(*args)
        key = folder, signature
        if key not in self._programs:
            _limit(self._programs)
            self._programs[key] = self._found(folder, args, leaves, structure)
        program = self._programs[key]
        if program is None:
            return self._plain(*args)
        return program([leaf for leaf in leaves if _is_array(leaf)])

    def shapes(self, *args):
        """Return what the function returns with `jax.ShapeDtypeStruct` for arrays."""
        signature = _signature(*jax.tree.flatten(args))
        if signature is None:
            return eqx.filter_eval_shape(self._function, *args)
        key = _settings(), jax.config.jax_enable_x64, signature  # type: ignore[attr-defined]
        if key not in self._shapes:
            _limit(self._shapes)
            self._shapes[key] = self._found_shapes(traces_folder(), args)
        return self._shapes[key]

    def _found_shapes(self, folder: Path | None, args):
        path = None if folder is None else self._path(folder, args, "shapes")
        found = None if path is None else _read(path)
        if found is None:
            found = {"shapes": eqx.filter_eval_shape(self._function, *args)}
            if path is not None:
                _write(path, found)
        return found["shapes"]

    def _found(self, folder: Path, args, leaves, structure) -> Callable | None:
        """Return the program for some arguments from its file, which is made if there is none."""
        path = self._path(folder, args, "program")
        if path is None:
            return None
        found = _read(path)
        program = None if found is None else self._loaded(found)
        if program is None:
            found = self._traced(leaves, structure)
            if found is not None and _write(path, found):
                program = self._loaded(found)
        return program

    def _loaded(self, found: dict[str, Any]) -> Callable | None:
        """Return the program that a file holds; None if it is none."""
        try:
            call: Any = export.deserialize(found["program"]).call
            outer = jax.tree.structure(found["shapes"])
        except Exception:  # anything, of what is no program
            return None
        compiled = jax.jit(call, compiler_options=self._options())
        return lambda arrays: jax.tree.unflatten(outer, compiled(arrays))

    def _traced(self, leaves, structure) -> dict[str, Any] | None:
        """Return the program as it is kept; None for one that can't be."""
        is_array, outer = [_is_array(leaf) for leaf in leaves], []

        def flat(arrays):
            rest = iter(arrays)
            whole = [next(rest) if here else leaf for here, leaf in zip(is_array, leaves)]
            result, form = jax.tree.flatten(self._function(*jax.tree.unflatten(structure, whole)))
            if not all(_is_array(leaf) for leaf in result):
                raise TypeError("what is no array would become one")
            outer.append(form)
            return result

        arrays = [leaf for leaf in leaves if _is_array(leaf)]
        try:
            program = export.export(jax.jit(flat))(arrays)
            data = program.serialize()
        except (NotImplementedError, ValueError, TypeError, ImportError):
            # As it runs without a file, or fails with its own words.
            return None
        shapes = [jax.ShapeDtypeStruct(one.shape, one.dtype) for one in program.out_avals]
        return {"program": data, "shapes": jax.tree.unflatten(outer[-1], shapes)}

    def _path(self, folder: Path, args, kind: str) -> Path | None:
        try:
            return folder / digest(kind, self._function, args=args)
        except Exception:  # of objects of others that are asked what they are
            return None


def traces_folder() -> Path | None:
    """Return the folder of the traces of these versions; None where programs are not kept."""
    kept, settings = kept_programs(), _settings()
    # Handlers about a call change the model within it.
    if kept is None or settings is None or _compat.active_handlers:
        return None
    return _folder(kept, settings)


def _settings() -> tuple | None:
    """Return what a trace depends on beside its arguments; None where traces are not to be kept.

    Settings of JAX, those of contexts included, its backend, what Equinox does at errors, and whether
    NumPyro's distributions check their values.
    """
    settings: Any = jax.config
    if jax.device_count() > 1 or settings.jax_default_device is not None:
        return None
    if settings.jax_disable_jit:
        return None
    found = tuple(map(repr, _compat.trace_context()))
    # What has no value of its own shows by its address, which is another one in every process.
    found = tuple(one for one in found if "AxisEnv" not in one)
    if any(" at 0x" in one for one in found):
        return None
    rest = os.environ.get("EQX_ON_ERROR", ""), Distribution._validate_args
    return *found, jax.default_backend(), *rest


@functools.cache
def _folder(kept: Path, settings: tuple) -> Path | None:
    """Return the folder for settings, and delete those of versions long gone."""
    mark = hashlib.blake2b(repr((_versions(), settings)).encode(), digest_size=16).hexdigest()
    folder = kept / "traces" / mark
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # of another user, or deleted by another process
        folder.touch()
        for other in folder.parent.iterdir():
            if time.time() - other.stat().st_mtime > OLD:
                shutil.rmtree(other, ignore_errors=True)
    return folder


@functools.cache
def _sources() -> tuple[Path, ...]:
    root = Path(__file__).parent
    # In a development install two of its folders are links.
    folders = [root, *(folder.resolve() for folder in root.iterdir() if folder.is_dir())]
    return tuple(sorted({path for folder in folders for path in folder.rglob("*.py")}))


@functools.cache
def _versions() -> tuple:
    """Return the versions of packages, and a digest of the source of this one."""
    source = hashlib.blake2b(digest_size=16)
    for path in _sources():
        source.update(path.read_bytes())
    return sys.version, *map(version, PACKAGES), source.hexdigest()


def _is_current() -> bool:
    """Return whether no source is younger than this process, which may run what is gone."""
    return all(path.stat().st_mtime < STARTED for path in _sources())


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a file holds; None if there is none, or not a whole one."""
    try:
        return pickle.loads(path.read_bytes())
    except Exception:
        # A file that was cut off raises anything; it is written again.
        return None


def _write(path: Path, found: dict[str, Any]) -> bool:
    """Write a file if its content can be, and return whether it could."""
    try:
        data = pickle.dumps(found)
    except Exception:
        return False  # a local class, say, among the results
    with contextlib.suppress(OSError):
        if _is_current():
            atomic_write(path, data)
    return True


def _signature(leaves, structure) -> tuple | None:
    """Return what arguments of one program have in common.

    None for what has no hash, is traced, or lies on another device than programs are made for.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    if jax.default_backend() != "cpu":
        here = {jax.devices()[0]}
        if any(isinstance(leaf, jax.Array) and leaf.devices() != here for leaf in leaves):
            return None
    # With types, for which 1 and 1.0 are the same.
    each = [_shape(leaf) if _is_array(leaf) else (type(leaf), leaf) for leaf in leaves]
    signature = structure, *each
    try:
        hash(signature)
    except TypeError:
        return None
    return signature


def _limit(programs: dict) -> None:
    """Keep what arguments of long ago hold on to from growing without end."""
    if len(programs) >= MOST:
        programs.clear()


def _is_array(leaf) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _shape(leaf) -> tuple:
    return np.shape(leaf), leaf.dtype, getattr(leaf, "weak_type", False)


def digest(kind: str, function: Callable, *, args: Any) -> str:
    """Return a name for a function and arguments that those of another program don't have.

    Arrays of arguments enter with their shapes and types, everything else with its value.
    """
    mark = hashlib.blake2b(digest_size=20)

    def put(*words):
        mark.update(repr(words).encode())

    put(kind)
    _describe(put, function, traced=False)
    _describe(put, args, traced=True)
    return mark.hexdigest()


def _describe(put: Callable, value: Any, *, traced: bool) -> None:
    """Put a description of a value, whose arrays are traced or constants, into a digest."""
    rest = functools.partial(_describe, put, traced=traced)
    constant = functools.partial(_describe, put, traced=False)
    if _is_array(value):  # before numbers, as NumPy's are both
        if not traced:
            raise _UnknownError(value)
        put("array", *map(str, _shape(value)))
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | np.dtype):
        put(type(value).__name__, repr(value))
    elif isinstance(value, type):
        put("type", *_name(value))
    elif isinstance(value, enum.Enum):
        put("member", *_name(type(value)), value.name)
    elif isinstance(value, types.FunctionType) and _is_checked(value):
        constant(value.__wrapped__)  # type: ignore[attr-defined]
    elif isinstance(value, types.FunctionType):
        if value.__globals__.get("__name__", "").partition(".")[0] not in KNOWN:
            raise _UnknownError(value)  # its module may be a claim, as of `functools.wraps`
        put("function", *_name(value))
        _describe_code(put, value.__code__)
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        constant((cells, value.__defaults__, value.__kwdefaults__))
    elif isinstance(value, types.MethodType):
        put("method")
        constant((value.__self__, value.__func__))
    elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
        put("builtin", *_name(value))
        owner = getattr(value, "__self__", None)
        constant(None if isinstance(owner, types.ModuleType) else owner)
    elif isinstance(value, _JITTED):
        put("jitted", *_name(value))
        constant(value.__wrapped__)  # type: ignore[attr-defined]
    elif isinstance(value, functools.partial):
        put("partial")
        constant((value.func, value.args, value.keywords))
    elif isinstance(value, dict):
        put("dict", *_name(type(value)), len(value))
        for key in sorted(value, key=repr) if traced else value:
            constant(key)
            rest(value[key])
    elif isinstance(value, list | tuple):
        put("sequence", *_name(type(value)), len(value))
        for one in value:
            rest(one)
    elif hasattr(value, "described"):
        put("described", *_name(type(value)))
        of_arrays, others = value.described()
        rest(of_arrays)
        constant(others)
    elif isinstance(value, eqx.Module):
        put("module", *_name(type(value)))
        for field in dataclasses.fields(value):
            put(field.name)
            inside = constant if field.metadata.get("static", False) else rest
            inside(getattr(value, field.name, None))
    else:
        _describe_other(put, value, traced=traced)


def _describe_other(put: Callable, value: Any, *, traced: bool) -> None:
    """Describe a node of a tree, or an object by what it would be pickled as."""
    module, name = _name(type(value))
    if isinstance(value, Distribution) and not module.startswith("scorepriors."):
        # NumPyro's list their attributes in another order in every process.
        raise _UnknownError(value)
    put("object", module, name)
    node = jax.tree_util.default_registry.flatten_one_level(value) if traced else None
    if node is not None:
        for child in node[0]:
            _describe(put, child, traced=True)
        _describe(put, node[1], traced=False)
        return
    if isinstance(value, set | frozenset):
        state: Any = (sorted(value, key=repr),)
    else:
        try:
            state = value.__reduce_ex__(4)
        except TypeError as error:
            raise _UnknownError(value) from error
    # Five parts would be a container's, whose items are iterators; a string a global object.
    if not isinstance(state, tuple) or any(state[3:]):
        raise _UnknownError(value)
    _describe(put, state[:3], traced=False)


def _describe_code(put: Callable, code: types.CodeType) -> None:
    """Describe what a function does; lambdas of one line have the same name."""
    put("code", code.co_name, code.co_firstlineno, code.co_code, code.co_names, code.co_freevars)
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            _describe_code(put, one)
        else:
            _describe(put, one, traced=False)


def _is_checked(function: types.FunctionType) -> bool:
    """Return whether a function is another one with checks of its arrays, which change no program."""
    return function.__code__.co_filename == _CHECKS and hasattr(function, "__wrapped__")


def _name(value: Any) -> tuple[str, str]:
    """Return module and name of a class or a function of a known package."""
    module = getattr(value, "__module__", None) or "builtins"
    if module.partition(".")[0] not in KNOWN:
        raise _UnknownError(value)
    return module, value.__qualname__ if hasattr(value, "__qualname__") else value.__name__
