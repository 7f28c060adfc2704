"""Compiled programs of this process and the memory mappings that they take."""

from pathlib import Path

import jax

#: Share of its memory mappings at which a process counts as full.
FULL = 0.7

_MOST = Path("/proc/sys/vm/max_map_count")
_MAPPINGS = Path("/proc/self/maps")


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
