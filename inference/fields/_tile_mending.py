"""The sky that a field's tiles were without when they were fitted, and the factors of their errors."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from scorepriors.models.data._observation import Observation, unchecked
from scorepriors.models.data._tiles import tiles


class TileMending(NamedTuple):
    """What was subtracted from the pixels of a field, and what their errors were multiplied by.

    A scene has the numbers of the tile in whose core the middle of its window is; here every pixel
    has those of its own tile.

    Attributes
    ----------
    sky
        Subtracted sky in the unit of the image, ``[T, B]`` by tile.
    noise
        Factors of the errors, ``[T, B]``.
    """

    sky: Float[np.ndarray, "T B"]
    noise: Float[np.ndarray, "T B"]

    @property
    def is_nothing(self) -> bool:
        """Whether all pixels are as they were."""
        return not self.sky.any() and bool((self.noise == 1).all())

    def of(self, obs: Observation, row: int, column: int, shape: tuple[int, int]) -> Observation:
        """Return a window of the field as it was fitted.

        Parameters
        ----------
        obs
            The window.
        row, column
            Its first pixel in the field.
        shape
            Height and width of the field.
        """
        if self.is_nothing:
            return obs
        images, weights = obs.images.copy(), obs.weights.copy()
        for tile, sky, noise in zip(tiles(shape), self.sky, self.noise, strict=True):
            part = tuple(
                slice(max(core.start - first, 0), max(core.stop - first, 0))
                for core, first in ((tile.core_rows, row), (tile.core_columns, column))
            )
            seen = weights[:, *part] > 0
            images[:, *part] -= np.where(seen, sky[:, None, None], 0).astype(images.dtype)
            weights[:, *part] /= (noise[:, None, None] ** 2).astype(weights.dtype)
        # A window may be without any data, as the first rows of a mosaic.
        return unchecked(**vars(obs) | {"images": images, "weights": weights})

    def facts(self, bands: tuple[str, ...], shape: tuple[int, int]) -> list[dict[str, Any]]:
        """Return sky and factors by tile for a summary; an empty list if there is nothing to say."""
        if self.is_nothing:
            return []
        each = zip(tiles(shape), self.sky.tolist(), self.noise.tolist(), strict=True)
        return [
            {
                "row": tile.core_rows.start,
                "column": tile.core_columns.start,
                "height": tile.core_rows.stop - tile.core_rows.start,
                "width": tile.core_columns.stop - tile.core_columns.start,
                "sky": dict(zip(bands, sky, strict=True)),
                "noise_factor": dict(zip(bands, noise, strict=True)),
            }
            for tile, sky, noise in each
        ]
