"""Where pixels lost their weight: groups of them, and whether they look like a source in several bands."""

from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from ._result import Deblended

#: Share of its weight below which a pixel counts as lost, and least number of pixels of a group that may
#: be a source: the core of a point under a PSF that is well sampled.
LOST, CORE = 0.5, 4


class Unexplained(NamedTuple):
    """A group of touching pixels that lost their weight in one image, since no source explains them.

    Attributes
    ----------
    image
        Name of the image.
    x, y
        Middle of its pixels, each with the number of its bands; pixels of the image, as of the catalog.
    ra, dec
        The same on the sky (ICRS), degrees; None without a WCS.
    bands
        Bands in which it has lost pixels.
    pixels
        Number of pixels that were lost in any of them.
    """

    image: str
    x: float
    y: float
    ra: float | None
    dec: float | None
    bands: tuple[str, ...]
    pixels: int

    @property
    def is_like_a_source(self) -> bool:
        """Whether light of the sky would do this: in several bands, and wider than a hot pixel."""
        return len(self.bands) > 1 and self.pixels >= CORE

    def facts(self) -> dict[str, Any]:
        """Return the group for a summary, ready for JSON."""
        return self._asdict() | {"bands": list(self.bands)}


def unexplained(result: Deblended) -> list[Unexplained]:
    """Return the groups of pixels that lost their weight, those that look like a source first.

    Parameters
    ----------
    result
        Result of `deblend`.
    """
    found = []
    kept = result.kept or ()
    for view, share in zip(result.observation.views, kept):
        obs = view.observation
        lost = np.asarray(share) < LOST
        number = lost.sum(0)
        labels, count = ndimage.label(number > 0, structure=np.ones((3, 3)))
        for label in range(1, count + 1):
            mine = labels == label
            row, column = ndimage.center_of_mass(number * mine)
            sky = None if obs.wcs is None else obs.wcs.pixel_to_world(column, row).icrs
            found.append(
                Unexplained(
                    obs.name,
                    float(column),
                    float(row),
                    None if sky is None else float(sky.ra.deg),
                    None if sky is None else float(sky.dec.deg),
                    tuple(b for b, one in zip(view.bands, lost, strict=True) if one[mine].any()),
                    int(mine.sum()),
                )
            )
    return sorted(found, key=lambda one: (-one.is_like_a_source, -one.pixels, one.y, one.x))


def unexplained_words(groups: list[Unexplained]) -> str | None:
    """Return a sentence on groups that look like sources; None if there is none."""
    alike = [one for one in groups if one.is_like_a_source]
    if not alike:
        return None
    first = alike[0]
    what = "a group of pixels" if len(alike) == 1 else f"{len(alike)} groups of pixels"
    which = "" if len(alike) == 1 else ", the largest"
    return (
        f"{what} that no source explains in several bands{which} at (x, y) = ({first.x:.1f}, "
        f"{first.y:.1f}) in {', '.join(first.bands)}: a source that the catalog lacks? They count little "
        "in the fit (all are listed in summary.json under unexplained)."
    )
