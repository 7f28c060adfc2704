"""How many fits run side by side, and in one chunk: the device decides."""

from collections.abc import Sequence

import jax

from scorepriors.models.scene._scene import Scene

#: Free-form fits that share an evaluation of the network on CPUs: beyond some 64 images a call takes
#: longer in proportion, and the caches overflow.
ON_CPU = 8

#: The same for blends with sources in large boxes.
LARGE_ON_CPU = 2

#: Blends on a CPU for which both fits are done before the next ones begin.
CHUNK = 32

#: Most fits side by side on an accelerator: what is not arithmetic is done for each, one after the other.
MOST = 256

#: Share of an accelerator's memory that fits side by side may take; programs of other shapes, and what
#: XLA keeps for itself, need some as well.
SHARE = 0.25

#: Memory of a fit per pixel of the boxes of its sources, bytes: twice what XLA reserves on CPUs for three
#: to six bands, most of it the memory of the optimizer; and for how many bands that is enough.
BYTES, BANDS = 2000, 6

#: Memory of an accelerator that does not tell it, bytes.
UNKNOWN = 4 * 2**30


def free_form_lanes(scenes: Sequence[Scene], *, large: bool, given: int | None = None) -> int:
    """Return the number of free-form fits that share an evaluation of the network.

    Parameters
    ----------
    scenes
        The scenes to fit, of one shape.
    large
        Whether they have sources in large boxes.
    given
        Number that the user asks for.
    """
    if jax.default_backend() != "cpu":
        return _in_memory(scenes) if given is None else given
    lanes = ON_CPU if given is None else given
    return min(lanes, LARGE_ON_CPU) if large else lanes


def profile_lanes(scenes: Sequence[Scene], given: int | None = None) -> int:
    """Return the number of fits of profiles side by side.

    One on CPUs, whatever is asked for: without a network fits at once would gain nothing, and
    continue finished ones.  An accelerator would mostly wait for small kernels to start.
    """
    if jax.default_backend() == "cpu":
        return 1
    return _in_memory(scenes) if given is None else given


def chunk_of(given: int | None) -> int:
    """Return the number of blends in a chunk; enough for every lane several times."""
    if given is not None:
        return given
    return CHUNK if jax.default_backend() == "cpu" else 4 * MOST


def _in_memory(scenes: Sequence[Scene]) -> int:
    """Return how many fits the memory holds, as a power of two: few programs are compiled."""
    facts = jax.local_devices()[0].memory_stats() or {}
    memory = facts.get("bytes_limit", UNKNOWN)
    bands = sum(exposure.num_bands for exposure in scenes[0].exposures)
    each = BYTES * max(bands / BANDS, 1.0) * _pixels(scenes[0])
    most = max(int(SHARE * memory / each), 1)
    # Lanes beyond the number of fits would run in vain.
    return min(MOST, 1 << (most.bit_length() - 1), 1 << (len(scenes) - 1).bit_length())


def _pixels(scene: Scene) -> int:
    """Return the pixels of the boxes of a scene's sources."""
    return sum(len(group.at) * group.at.box**2 for group in scene.sources)
