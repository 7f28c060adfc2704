"""What a model reads beside its arguments: its code, what its closure holds, globals, attributes.

A compiled program is that of a model and of the shapes of its arguments.  A number that the model
takes from elsewhere is a constant of the program, and a checkpoint belongs to its value too: a
digest of all of them, made anew for every call, tells when it has changed.
"""

import functools
import hashlib
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scorepriors._traces import KNOWN

#: Modules whose functions are known by name: their versions do not change within a process.
_LIBRARIES = {*KNOWN, *sys.stdlib_module_names}

#: How deep objects within objects are looked at: models read numbers, not whole graphs of objects.
DEEPEST = 20

#: Attributes that change as a model is traced: keys of NumPyro's handlers.
_CHANGING = ("rng_key",)


def reads(model: Callable) -> str:
    """Return a digest of what a model reads beside its arguments; empty for models of this package.

    Functions and classes of the user's modules enter with their code, and with what this names;
    those of installed packages with their names.

    Parameters
    ----------
    model
        A NumPyro model.
    """
    if _module(model) == "scorepriors":
        return ""
    return digest_of(model)


def digest_of(value: Any) -> str:
    """Return a digest of a value and of all that it refers to, the same in every process."""
    mark = hashlib.blake2b(digest_size=16)
    _put(lambda *words: mark.update(repr(words).encode()), value, set())
    return mark.hexdigest()


def _put(put: Callable, value: Any, seen: set[int], depth: int = 0) -> None:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        put(type(value).__name__, value)
        return
    if isinstance(value, jax.core.Tracer):
        put("traced", value.shape, str(value.dtype))
        return
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        _put_array(put, value)
        return
    if id(value) in seen or depth > DEEPEST:  # a cycle, or a second way to the same object
        put("again")
        return
    seen.add(id(value))
    put(type(value).__module__, type(value).__qualname__)
    rest = functools.partial(_put, put, seen=seen, depth=depth + 1)
    if isinstance(value, types.FunctionType):
        _put_function(put, value, rest)
    elif isinstance(value, types.MethodType):
        rest(value.__self__)
        rest(value.__func__)
    elif isinstance(value, type):
        put(value.__module__, value.__qualname__)
        if not _is_library(value):
            for name, one in sorted(vars(value).items()):
                if isinstance(one, types.FunctionType | bool | int | float | str | tuple):
                    put(name)
                    rest(one)
    elif isinstance(value, types.ModuleType | types.BuiltinFunctionType):
        put(value.__name__)
    elif isinstance(value, dict):
        for key, one in value.items():
            rest(key)
            rest(one)
    elif isinstance(value, list | tuple):
        put(len(value))
        for one in value:
            rest(one)
    elif isinstance(value, set | frozenset):
        for one in sorted(value, key=repr):
            rest(one)
    elif isinstance(value, functools.partial):
        for one in (value.func, value.args, value.keywords):
            rest(one)
    elif hasattr(value, "__dict__") and not _is_machinery(value):
        for name, one in sorted(vars(value).items()):
            if name not in _CHANGING:
                put(name)
                rest(one)


def _is_machinery(value: Any) -> bool:
    """Return whether an object is Python's own (a logger, a file), whose state no model reads."""
    own = _module(type(value)) in sys.stdlib_module_names
    return own and not isinstance(value, types.SimpleNamespace)


def _put_array(put: Callable, value: Any) -> None:
    if isinstance(value, jax.Array) and value.is_deleted():
        put("deleted")
        return
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    held = array.tolist() if array.dtype.hasobject else hashlib.blake2b(_bytes(array)).digest()
    put("array", str(array.dtype), array.shape, held if isinstance(held, bytes) else repr(held))


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _put_function(put: Callable, function: types.FunctionType, rest: Callable) -> None:
    put(function.__module__, function.__qualname__)
    if _is_library(function):
        return
    code = function.__code__
    _put_code(put, code, function.__doc__, rest)
    rest([_content(cell) for cell in function.__closure__ or ()])
    rest((function.__defaults__, function.__kwdefaults__))
    named = _named(code)
    for name in sorted(named & function.__globals__.keys()):
        one = function.__globals__[name]
        put(name)
        rest(one)
        if isinstance(one, types.ModuleType) and not _is_library(one):
            for attribute in sorted(named & vars(one).keys()):
                put(attribute)
                rest(vars(one)[attribute])


def _put_code(put: Callable, code: types.CodeType, doc: str | None, rest: Callable) -> None:
    put(code.co_name, code.co_code, code.co_names, code.co_varnames, code.co_freevars)
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            _put_code(put, one, None, rest)
        elif one != doc or doc is None:
            rest(one)


def _named(code: types.CodeType) -> set[str]:
    """Return the names that a function's code, and that of functions within it, looks up."""
    inner = (_named(one) for one in code.co_consts if isinstance(one, types.CodeType))
    return set(code.co_names).union(*inner)


def _content(cell) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled, as that of a function that calls itself
        return None


def _module(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return value.__name__.partition(".")[0]
    return (getattr(value, "__module__", None) or "builtins").partition(".")[0]


def _is_library(value: Any) -> bool:
    name = _module(value)
    return name in _LIBRARIES or _is_installed(name)


@functools.cache
def _is_installed(name: str) -> bool:
    """Return whether a module lies among installed packages, where nobody edits it."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # `__main__` of a notebook has none
        return False
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any("site-packages" in one or "dist-packages" in one for one in places)
