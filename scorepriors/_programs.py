"""Compiled programs: their cache on disk, and the memory mappings that they take."""

import os
import time
from pathlib import Path
from typing import Any

import jax

#: Share of its memory mappings at which a process counts as full.
FULL = 0.7

_MOST = Path("/proc/sys/vm/max_map_count")
_MAPPINGS = Path("/proc/self/maps")


def default_cache() -> Path:
    """Return the folder of this package below the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "scorepriors"


def cache_folder() -> Path:
    """Return the folder in which compiled programs are kept."""
    return Path(os.environ.get("SCOREPRIORS_CACHE", default_cache() / "xla"))


def keep_programs() -> bool:
    """Keep compiled programs for later processes; return whether their folder can be written."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False  # without a writable home programs are compiled again in each run
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return True


def kept_programs() -> Path | None:
    """Return the folder in which JAX keeps compiled programs; None if it keeps none in a folder."""
    settings: Any = jax.config
    folder = settings.jax_compilation_cache_dir
    if not folder or "://" in folder or not settings.jax_enable_compilation_cache:
        return None
    return Path(folder)


#: Seconds after which mappings are counted again: of 40,000 that takes 75 ms.
_AGAIN = 2.0

_counted = -_AGAIN


def make_room_now_and_then() -> None:
    """Call `make_room_for_programs` unless that was done a moment ago.

    For what is called often: a process that samples one model after the other, as a notebook or a
    benchmark does, ran out of mappings after some fifteen models and was ended.
    """
    global _counted
    now = time.monotonic()
    if now - _counted >= _AGAIN:
        _counted = now
        make_room_for_programs()


def make_room_for_programs() -> bool:
    """Drop compiled programs before the process runs out of memory mappings and is ended.

    On CPUs each kernel of a program takes memory mappings of its own.  Linux allows a
    process ``vm.max_map_count`` of them, 65,530 unless told otherwise: scenes of a dozen
    different shapes, sampled one after the other, need more.  Programs still in use
    compile again.

    Returns
    -------
    bool
        Whether programs were dropped; always False elsewhere than on Linux.
    """
    try:
        most = int(_MOST.read_text())
        with _MAPPINGS.open("rb") as mappings:
            used = sum(1 for _ in mappings)
    except (OSError, ValueError):
        return False
    if used < FULL * most:
        return False
    jax.clear_caches()
    return True
