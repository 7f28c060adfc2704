"""Networks of galaxygrad in its files ``.eqx``, as priors (Sampson et al. 2024).

Such a file holds arrays alone, one after another in NumPy's own format, in the order of the leaves
of an MLP-Mixer: no names, no sizes, no code.  Everything else follows from the shapes.
"""

import math
from pathlib import Path
from typing import BinaryIO

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from scorepriors.energies._line import VarianceExploding

from ._distribution import ScorePrior
from ._errors import InputError
from ._stretch import LogStretch

#: Ending of the files.
ENDING = ".eqx"

#: Time at which galaxygrad 0.3.0 evaluates its networks unless told otherwise.
TIME = 0.02

#: The published stretch, log(1 + x) / 0.1.
SOFTENING, SCALE = 1.0, 0.1

#: What Equinox adds to variances in layers of normalization.
_EPSILON = 1e-5

#: Leaves: weight and bias of the layers before the blocks and after them, of each block, of the last
#: normalization, and the end of the diffusion time.
_OUTSIDE, _BLOCK, _END = 4, 12, 3

#: Longest description of an array in the file, bytes.
_LONGEST = 10_000


class _Block(eqx.Module):
    """Mixes patches within each channel, then channels within each patch."""

    patches: tuple[Array, Array, Array, Array]
    channels: tuple[Array, Array, Array, Array]
    before_patches: tuple[Array, Array]
    before_channels: tuple[Array, Array]

    def __call__(self, y: Float[Array, "channel patch"]) -> Float[Array, "channel patch"]:
        y = y + _two_layers(_normalized(y, self.before_patches), self.patches)
        turned = y.T + _two_layers(_normalized(y.T, self.before_channels), self.channels)
        return turned.T


class MixerScore(eqx.Module):
    """The score network of galaxygrad: an MLP-Mixer of an image and the diffusion time.

    It gives the score of the variance-preserving process whose rate is one:
    wrap it in `scorepriors.VarianceExploding`.
    """

    entry: tuple[Array, Array]
    exit: tuple[Array, Array]
    blocks: list[_Block]
    last: tuple[Array, Array]
    end_time: Array

    @property
    def box(self) -> int:
        """Pixels on a side."""
        side = self.entry[0].shape[-1]
        return side * math.isqrt(self.last[0].shape[-1])

    def __call__(self, z: Float[Array, "n n"], time) -> Float[Array, "n n"]:
        """Return the score ``[n, n]`` of the marginal at `time`."""
        kernel, offset = self.entry
        side = kernel.shape[-1]
        across = self.box // side
        planes = jnp.stack([z, jnp.full_like(z, time / self.end_time)])
        cut = planes.reshape(2, across, side, across, side)
        y = jnp.einsum("hcab,ciajb->hij", kernel, cut) + offset
        y = y.reshape(len(kernel), across**2)
        for block in self.blocks:
            y = block(y)
        y = _normalized(y, self.last).reshape(len(kernel), across, across)
        kernel, offset = self.exit
        # Equinox transposes the convolution without turning its kernel.
        image = jnp.einsum("hij,hab->iajb", y, kernel[0, :, ::-1, ::-1])
        return image.reshape(z.shape) + offset[0]


def load_galaxygrad(
    path: str | Path,
    *,
    sigma: float | None = None,
    reference: ArrayLike | None = None,
    name: str | None = None,
    pixel_scale: float | None = None,
    model_psf_sigma: float | None = None,
) -> ScorePrior:
    """Load a network of galaxygrad as a prior, through its line potential.

    `load_prior` takes such a file too; this function takes what the file does not say.

    Parameters
    ----------
    path
        A file ``.eqx`` with the leaves of galaxygrad's network, for boxes of any size.  Nothing in
        it is run.
    sigma
        Noise level in the stretched space.  By default that of the time 0.02, at which galaxygrad
        evaluates its networks: sigma squared is ``exp(time) - 1``.
    reference
        Image ``[n, n]`` at the start of the line, with a peak of about one; blank if not given.
    name
        Name of the prior; that of the file by default.
    pixel_scale, model_psf_sigma
        Pixels of the training images in arcseconds, and the standard deviation of their Gaussian PSF
        in pixels, if known.  Without the latter a model convolves with all of the observed PSF.

    Returns
    -------
    ScorePrior
        With the published stretch, ``LogStretch(1, 0.1)``, and its Jacobian; galaxygrad leaves that
        out, as `ScorePrior.as_published` does.

    Raises
    ------
    InputError
        If the file is none of these, damaged, or `reference` has another shape.
    """
    path = Path(path)
    network = read_network(path)
    stretch = LogStretch(SOFTENING, SCALE)
    box = network.box
    if reference is None:
        start = jnp.zeros((box, box), jnp.float32)
    elif np.shape(reference) != (box, box):
        raise InputError(
            f"`reference` must have the {box} x {box} pixels of {path.name}, got {np.shape(reference)}."
        )
    else:
        start = stretch.inv(jnp.asarray(reference, jnp.float32))
    return ScorePrior.from_score(
        VarianceExploding(network),
        start,
        stretch,
        default_level() if sigma is None else sigma,
        name=path.stem if name is None else name,
        pixel_scale=pixel_scale,
        model_psf_sigma=model_psf_sigma,
    )


def default_level() -> float:
    """Return the noise level at which galaxygrad evaluates its networks, in our coordinates."""
    return math.sqrt(math.expm1(TIME))


def read_network(path: Path) -> MixerScore:
    """Return the network in a file.

    Raises
    ------
    InputError
        See `load_galaxygrad`.
    """
    try:
        with path.open("rb") as handle:
            leaves = _read_leaves(handle, path)
    except IsADirectoryError as error:
        raise InputError(f"{str(path)!r} is a folder; give a file {ENDING} in it.") from error
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}.") from error
    _check_shapes(leaves, path.name)
    # Priors are kept for later calls: no part may belong to a function that is traced now.
    with jax.ensure_compile_time_eval():
        arrays = iter([jnp.asarray(leaf, jnp.float32) for leaf in leaves])

        def take(number: int) -> tuple:
            return tuple(next(arrays) for _ in range(number))

        start, stop = take(2), take(2)
        num = (len(leaves) - _OUTSIDE - _END) // _BLOCK
        blocks = [_Block(take(4), take(4), take(2), take(2)) for _ in range(num)]
        last = take(2)
        return MixerScore(start, stop, blocks, last, next(arrays))


def network_box(path: Path) -> int:
    """Return the pixels on a side of the images of a network in a file."""
    return read_network(path).box


def _read_leaves(handle: BinaryIO, path: Path) -> list[np.ndarray]:
    """Return all arrays of a file; the reader knows numbers alone, so nothing can be run."""
    size = path.stat().st_size
    leaves: list[np.ndarray] = []
    while handle.tell() < size:
        try:
            version = np.lib.format.read_magic(handle)
            reader = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = reader(handle, max_header_size=_LONGEST)
        except OSError:
            raise
        # NumPy hands descriptions to Python's own parser, which has many kinds of errors: that of an
        # unclosed bracket is none of syntax.
        except Exception as error:
            what = "no network of galaxygrad" if not leaves else "damaged"
            raise InputError(
                f"{path.name} is {what}: array {len(leaves) + 1} does not begin as one of NumPy's."
            ) from error
        if dtype.kind != "f" or dtype.itemsize > 8:
            raise InputError(
                f"{path.name} is no network of galaxygrad: array {len(leaves) + 1} holds {dtype.str}, "
                "no real numbers."
            )
        if min(shape, default=1) < 1:
            raise InputError(
                f"{path.name} is no network of galaxygrad: array {len(leaves) + 1} has the shape "
                f"{shape}, whose lengths must be positive."
            )
        # Counted with Python's numbers, which don't overflow, and before anything is allocated.
        length = math.prod(shape) * dtype.itemsize
        if length > size - handle.tell():
            raise InputError(f"{path.name} is cut short: array {len(leaves) + 1} has no end.")
        values = np.frombuffer(handle.read(length), dtype)
        leaves.append(values.reshape(shape, order="F" if fortran else "C"))
    return leaves


def _check_shapes(leaves: list[np.ndarray], name: str) -> None:
    """Raise InputError unless the arrays are those of one network."""
    num = len(leaves) - _OUTSIDE - _END
    if num < _BLOCK or num % _BLOCK:
        raise InputError(
            f"{name} is no network of galaxygrad: it holds {len(leaves)} arrays, and such a network "
            f"has {_OUTSIDE + _END} and {_BLOCK} more for each block."
        )
    first, last = leaves[0].shape, leaves[-3].shape
    if len(first) != 4 or len(last) != 2:
        raise InputError(
            f"{name} is no network of galaxygrad: its first and last layers have the shapes {first} "
            f"and {last}, not (width, 2, side, side) and (width, patches)."
        )
    width, side, patches = first[0], first[-1], last[1]
    if math.isqrt(patches) ** 2 != patches:
        raise InputError(f"{name} has {patches} patches, which make no square image.")
    wanted: list[tuple] = [(width, 2, side, side), (width, 1, 1), (1, width, side, side), (1, 1, 1)]
    for start in range(_OUTSIDE, len(leaves) - _END, _BLOCK):
        for count, at in ((patches, start), (width, start + 4)):
            inner = len(leaves[at]) if leaves[at].ndim else 0
            wanted += [(inner, count), (inner,), (count, inner), (count,)]
        wanted += [(width, patches)] * 2 + [(patches, width)] * 2
    wanted += [(width, patches), (width, patches), ()]
    for number, (leaf, shape) in enumerate(zip(leaves, wanted, strict=True), 1):
        if leaf.shape != shape:
            raise InputError(
                f"{name} is no network of galaxygrad: array {number} has the shape {leaf.shape}, "
                f"where {shape} belongs."
            )
        if not np.all(np.isfinite(leaf)):
            raise InputError(f"{name} is damaged: array {number} has values that are not finite.")
    if not leaves[-1] > 0:
        raise InputError(f"{name} is damaged: its diffusion ends at the time {leaves[-1]:g}.")


def _normalized(y, scale_and_shift):
    """Return an array of mean zero and variance one, scaled and shifted elementwise."""
    scale, shift = scale_and_shift
    centered = y - y.mean()
    return centered * jax.lax.rsqrt(jnp.mean(centered**2) + _EPSILON) * scale + shift


def _two_layers(y, layers):
    """Apply a network with one hidden layer to each row."""
    first, offset, second, shift = layers
    return jax.nn.relu(y @ first.T + offset) @ second.T + shift
