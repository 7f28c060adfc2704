"""The sources of a field that most need a look."""

from typing import Any, NamedTuple

import numpy as np

from scorepriors.inference.deblending._flags import (
    FLAGS,
    SERIOUS,
    SERIOUS_BITS,
    words_of,
    worst_first,
)
from scorepriors.inference.reports._pictures import encoded

from ._layers import significance_colors
from ._strips import Strip

#: Most sources that are shown.
MOST_WORST = 24

#: Side of the pictures in pixels of the field, and their quality.
_SIDE, _QUALITY = 48, 85


class Worst(NamedTuple):
    """A source that needs a look.

    Attributes
    ----------
    id
        Its name.
    number
        Its row in the catalog.
    flags, chi2
        Its flags in words, and its chi2.
    picture
        Data, model and residual side by side, as the address of an image.
    """

    id: str
    number: int
    flags: str
    chi2: float
    picture: str


def worst_rows(catalog: Any, number: int) -> np.ndarray:
    """Return the rows of the sources that most need a look, the worst first.

    Those with more serious flags come first, and of these the ones with the larger chi2.  Sources
    without such a flag are none of them.
    """
    bits = np.asarray(catalog["flag_bits"], np.int64) & SERIOUS_BITS
    count = np.sum([(bits >> FLAGS[word].bit) & 1 for word in SERIOUS], axis=0)
    chi2 = np.nan_to_num(np.asarray(catalog["chi2"], float), nan=0.0)
    order = np.lexsort((-chi2, -count))
    return order[count[order] > 0][:number]


def worst_sources(result: Any, compose: Any, *, number: int = MOST_WORST) -> list[Worst]:
    """Return the sources of a field that most need a look, with pictures.

    Parameters
    ----------
    result
        The field's result.
    compose
        Function from cubes of image units to colors.
    number
        Largest number of sources.
    """
    catalog, out = result.catalog, []
    for k in worst_rows(catalog, number):
        strip = _cut(result, float(catalog["y"][k]), float(catalog["x"][k]))
        panels = [compose(strip.seen.images), compose(strip.model), significance_colors(strip)]
        height = panels[0].shape[0]
        gap = np.full((height, 2, 3), 128, np.uint8)
        row = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], 1)
        bits = int(catalog["flag_bits"][k]) & SERIOUS_BITS
        words = ",".join(worst_first(words_of(bits)))
        picture = encoded(np.ascontiguousarray(row[::-1]), quality=_QUALITY)
        chi2 = float(catalog["chi2"][k])
        out.append(Worst(str(catalog["id"][k]), int(k), words, chi2, picture))
    return out


def _cut(result: Any, row: float, column: float) -> Strip:
    """Return the pixels about a place as they were fitted, as far as they are within the field."""
    sizes = [min(_SIDE, size) for size in result.field.shape]
    first = [
        int(np.clip(round(at) - size // 2, 0, whole - size))
        for at, size, whole in zip((row, column), sizes, result.field.shape, strict=True)
    ]
    seen = result.as_fitted(result.field.window(*first, *sizes), *first)
    return Strip(first[0], seen, result.model(*first, *sizes))


def brightness_counts(
    values: np.ndarray, kinds: np.ndarray, *, step: float = 0.5, widest: float = 15.0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return edges of bins and numbers of sources in them, by kind.

    Parameters
    ----------
    values
        Magnitudes ``[N]``; NaN are left out.
    kinds
        Kinds of the sources, ``[N]``.
    step
        Width of a bin.
    widest
        Largest range of magnitudes, from the brightest on; fainter ones are in the last bin.
    """
    known = np.isfinite(values)
    values, kinds = values[known], kinds[known]
    if not len(values):
        return np.array([0.0, step]), {}
    low = np.floor(values.min() / step) * step
    high = max(min(np.ceil(values.max() / step) * step, low + widest), low + step)
    edges = np.arange(low, high + step / 2, step)
    counts = {
        str(kind): np.histogram(np.minimum(values[kinds == kind], high), edges)[0]
        for kind in np.unique(kinds)
    }
    return edges, counts
