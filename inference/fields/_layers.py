"""The images of a field for looking at: data, model, residual, weights as pyramids of small tiles."""

from typing import Any, NamedTuple

import matplotlib
import numpy as np

from scorepriors.inference.reports._figure import scaled_composer
from scorepriors.inference.reports._pictures import NO_DATA, encoded, pull_colors

from ._strips import ROWS, Strip, pixel_noise

#: Largest side of an image that is shown, pixels; larger fields are averaged over blocks.
LARGEST = 4096

#: Residuals of fields larger than this are averaged over blocks of twice the side: noise is hard to
#: compress, and what is left over shows better without it.
FINE_RESIDUAL = 2048

#: Bytes that all tiles may take in a page, as base64.
BYTES = 11_000_000

#: Side of a tile in pixels, and that of the coarsest image.
TILE, COARSEST = 512, 512

#: Quality of the compression of colors.
QUALITY = 72

#: Sky noise is this share of the linear range of brightness; Q of Lupton et al. (2004).
_NOISE_SHARE, _SOFTENING = 1 / 12, 8.0


class Level(NamedTuple):
    """One image of a pyramid, in tiles.

    Attributes
    ----------
    scale
        Pixels of the field per pixel of the image, along one axis.
    width, height
        Size in its own pixels.
    tiles
        Rows of tiles from the top, in base64; the top row of the image is the field's last.
    """

    scale: int
    width: int
    height: int
    tiles: list[list[str]]

    @property
    def bytes(self) -> int:
        """Number of bytes of all tiles."""
        return sum(len(tile) for row in self.tiles for tile in row)


class Mosaic:
    """Colors of the whole field, gathered strip by strip.

    Parameters
    ----------
    result
        The field's result.
    largest
        Largest side of the images, pixels.
    """

    def __init__(self, result: Any, *, largest: int = LARGEST):
        self._result, self._noise = result, pixel_noise(result.field)
        self.compose = field_composer(result, self._noise)
        side = max(result.field.shape)
        self._scale = 1
        while side > largest * self._scale and 4 * self._scale <= ROWS:  # strips are whole blocks
            self._scale *= 2
        blocks = {"data": self._scale, "model": self._scale, "residual": self._scale}
        blocks["residual"] *= 2 if side > FINE_RESIDUAL else 1
        if np.any(result.scenes["down_weighted"]):
            blocks["kept"] = self._scale
        self._blocks = blocks
        self.images: dict[str, np.ndarray] = {}
        for name, block in blocks.items():
            height, width = (-(-size // block) for size in result.field.shape)
            self.images[name] = np.zeros((height, width, 3), np.uint8)

    def add(self, strip: Strip) -> None:
        """Add a strip."""
        obs = strip.seen
        # A band that is masked where others are not would change the color: the model fills it.
        cubes = {"data": np.where(obs.weights > 0, obs.images, strip.model), "model": strip.model}
        for name, cube in cubes.items():
            block = self._blocks[name]
            colors = self.compose(block_mean(cube, block))
            if name == "data":
                colors[
                    block_mean(np.any(obs.weights > 0, axis=0, keepdims=True), block)[0] == 0
                ] = NO_DATA
            self._put(name, strip.row, colors)
        # That of the fit: a sky that was subtracted is no light that the model lacks.
        fitted = strip._replace(seen=self._result.as_fitted(obs, strip.row, 0))
        self._put("residual", strip.row, significance_colors(fitted, self._blocks["residual"]))
        if "kept" in self._blocks:
            kept = self._result.kept(strip.row, 0, *obs.images.shape[1:])
            self._put("kept", strip.row, kept_colors(strip, kept, self._blocks["kept"]))

    def _put(self, name: str, row: int, colors: np.ndarray) -> None:
        first = row // self._blocks[name]
        self.images[name][first : first + len(colors)] = colors

    def pyramids(self, *, largest_bytes: int = BYTES) -> dict[str, list[Level]]:
        """Return the levels of every image, the finest first, within a number of bytes.

        The finest levels of those that take most are left out until all fit.
        """
        out = {
            name: _levels(np.ascontiguousarray(image[::-1]), self._blocks[name])
            for name, image in self.images.items()
        }
        while sum(level.bytes for levels in out.values() for level in levels) > largest_bytes:
            most = max(out, key=lambda name: out[name][0].bytes if len(out[name]) > 1 else 0)
            if len(out[most]) == 1:
                break
            del out[most][0]
        return out


def field_composer(result: Any, noise: np.ndarray):
    """Return a function from cubes ``[B, h, w]`` of image units to colors ``[h, w, 3]``.

    The median source of the catalog is white, and the sky's noise is just seen.
    """
    fluxes = [np.asarray(result.catalog[f"flux_{band}"], float) for band in result.field.bands]
    flux = np.stack(fluxes, 1) / result.field.flux_unit[1]
    bright = np.asarray(result.catalog["snr"], float) > 10
    usual = flux[bright & np.isfinite(flux).all(1) & (flux > 0).all(1)]
    level = np.median(usual, 0) if len(usual) else noise
    level = level / level.mean()
    stretch = float(np.median(noise / level)) / _NOISE_SHARE
    return scaled_composer(level, stretch=stretch, softening=_SOFTENING)


def significance_colors(strip: Strip, block: int = 1) -> np.ndarray:
    """Return the residual of all bands in units of its noise, as colors ``[h, w, 3]``.

    Red is light that the model lacks; pixels without data are gray.
    """
    obs = strip.seen
    used = obs.weights > 0
    pulls = np.where(used, (obs.images - strip.model) * np.sqrt(obs.weights), 0).sum(0)
    number = used.sum(0)
    # Of a block: the sum over its own noise, so that the noise of blocks is one too.
    total, counts = (block_mean(one[None].astype(float), block)[0] for one in (pulls, number))
    value = total * block / np.sqrt(np.maximum(counts, 1e-9))
    return pull_colors(value, counts != 0)


def kept_colors(strip: Strip, kept: np.ndarray, block: int = 1) -> np.ndarray:
    """Return the least share of its weight that a pixel kept in any band, as colors ``[h, w, 3]``.

    Dark red pixels kept nothing, bright ones all; pixels without data are gray.  Of a block it is the
    least, so that single pixels are seen in large fields.
    """
    used = strip.seen.weights > 0
    least = np.where(used, kept, 1.0).min(0)
    rows, columns = (np.arange(0, size, block) for size in least.shape)
    least = np.minimum.reduceat(np.minimum.reduceat(least, rows, 0), columns, 1)
    colors = (matplotlib.colormaps["Reds_r"](least)[..., :3] * 255).round().astype(np.uint8)
    colors[block_mean(np.any(used, axis=0, keepdims=True), block)[0] == 0] = NO_DATA
    return colors


def block_mean(cube: np.ndarray, block: int) -> np.ndarray:
    """Return the means ``[B, h, w]`` of blocks of pixels; the last ones may hold fewer."""
    if block == 1:
        return cube.astype(float)
    height, width = cube.shape[-2:]
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    sums = np.add.reduceat(np.add.reduceat(cube.astype(float), rows, 1), columns, 2)
    sizes = [np.diff(np.append(first, size)) for first, size in ((rows, height), (columns, width))]
    return sums / (sizes[0][:, None] * sizes[1])


def _levels(image: np.ndarray, scale: int) -> list[Level]:
    """Return an image and its halves down to `COARSEST`; its last row is the field's first."""
    levels = []
    while True:
        height, width = image.shape[:2]
        tiles = [
            [
                encoded(image[i : i + TILE, j : j + TILE], quality=QUALITY)
                for j in range(0, width, TILE)
            ]
            for i in range(0, height, TILE)
        ]
        levels.append(Level(scale, width, height, tiles))
        if max(height, width) <= COARSEST:
            return levels
        image, scale = _halved(image), 2 * scale


def _halved(image: np.ndarray) -> np.ndarray:
    """Return the means of blocks of 2 x 2 pixels; an odd row is at the top, a column at the right.

    So all levels have the same lower and left edge, those of the field's first row and column.
    """
    odd = [size % 2 for size in image.shape[:2]]
    if any(odd):
        image = np.pad(image, [(odd[0], 0), (0, odd[1]), (0, 0)], mode="edge")
    total = image[::2, ::2].astype(np.uint16)
    for part in (image[1::2, ::2], image[::2, 1::2], image[1::2, 1::2]):
        total += part
    return ((total + 2) // 4).astype(np.uint8)
