"""Pixels as images within a page: colors, and residuals in units of the noise."""

import base64
import io

import matplotlib
import numpy as np
from PIL import Image, features

#: Residuals are shown between these, in units of the noise.
RANGE = 4.0

#: Color of pixels without data in any band.
NO_DATA = (52, 52, 60)

#: Shades of residuals in exact pictures: a step is an eighth of the noise.
_SHADES = 65


def encoded(colors: np.ndarray, *, quality: int) -> str:
    """Return colors ``[h, w, 3]``, the top row first, as a `data:` address: WebP if possible.

    For large images: what is fine and faint is lost.
    """
    kind = "webp" if features.check("webp") else "jpeg"
    stream = io.BytesIO()
    Image.fromarray(colors).save(stream, kind, quality=quality)
    return _address(stream, kind)


def exact(colors: np.ndarray) -> str:
    """Return colors ``[h, w, 3]``, the first row at the bottom, as the `data:` address of a PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colors[::-1])).save(stream, "png")
    return _address(stream, "png")


def pull_colors(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return residuals in units of the noise ``[h, w]`` as colors ``[h, w, 3]``.

    Red is light that the model lacks; pixels that are not `seen` ``[h, w]`` are gray.
    """
    colors = _shades(256)[_level(values, 256)]
    colors[~seen] = NO_DATA
    return colors


def exact_pulls(values: np.ndarray, seen: np.ndarray) -> str:
    """Return `pull_colors`, the first row at the bottom, as the `data:` address of a small PNG."""
    index = np.where(seen, _level(values, _SHADES), _SHADES).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(index[::-1]))
    image.putpalette([*_shades(_SHADES).ravel().tolist(), *NO_DATA])
    stream = io.BytesIO()
    image.save(stream, "png")
    return _address(stream, "png")


def _level(values: np.ndarray, number: int) -> np.ndarray:
    """Return which of a number of shades residuals have."""
    share = (np.asarray(values) / RANGE + 1) / 2
    return np.clip(share * (number - 1), 0, number - 1).round().astype(np.uint8)


def _shades(number: int) -> np.ndarray:
    """Return colors ``[number, 3]`` from `-RANGE` to `RANGE`."""
    colors = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, number))[:, :3]
    return (colors * 255).round().astype(np.uint8)


def _address(stream: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
