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
        Middle of its pixels, each with the number of its bands: of the first image in pixels of the
        catalog, of others in those of their files.
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
    found: list[Unexplained] = []
    for number, (view, share) in enumerate(zip(result.observation.views, result.kept or ())):
        obs = view.observation
        lost = np.asarray(share) < LOST
        labels, count = ndimage.label(lost.any(0), structure=np.ones((3, 3)))
        if not count:
            continue
        places = np.array(ndimage.center_of_mass(lost.sum(0), labels, range(1, count + 1)))
        world = None if obs.wcs is None else obs.wcs.pixel_to_world(*places.T[::-1]).icrs
        sky = None if world is None else np.stack([world.ra.deg, world.dec.deg], 1)
        # A joined image is the part of its file that the first one sees.
        corner = (0, 0) if number == 0 else obs.corner
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            mine = labels[box] == label
            own = lost[:, *box] & mine
            row, column = places[label - 1] + corner
            ra, dec = (None, None) if sky is None else map(float, sky[label - 1])
            bands = tuple(b for b, one in zip(view.bands, own, strict=True) if one.any())
            place = float(column), float(row), ra, dec
            found.append(Unexplained(obs.name, *place, bands, int(mine.sum())))
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
