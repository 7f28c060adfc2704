"""Sources as regions of DS9."""

import numpy as np
from astropy.table import QTable

from scorepriors.inference.deblending._flags import is_serious, worst_first
from scorepriors.inference.deblending._result import Deblended

#: Radius of the circles in second-moment radii of the sources, and the least one in pixels.
_RADII, _LEAST = 2.0, 2.0


def ds9_regions(result: Deblended, table: QTable) -> str:
    """Return circles about the sources as the text of a region file.

    On the sky (ICRS) where there is a WCS, else in pixels of the image, where DS9 counts from one.
    Names are texts and flags are tags; sources with a flag that calls for a look are red.

    Parameters
    ----------
    result
        Result of `deblend`.
    table
        Its `catalog`.
    """
    on_sky = "ra" in table.colnames
    size = np.nan_to_num(np.asarray(table["size"].value, float))
    radius = np.maximum(_RADII * size, _LEAST)
    lines = [
        "# Region file format: DS9 version 4.1",
        'global color=cyan width=1 font="helvetica 10 normal roman"',
        "icrs" if on_sky else "image",
    ]
    for k, row in enumerate(table):
        if on_sky:
            arcsec = radius[k] * float(result.observation.pixel_scale or 1.0)
            shape = f'{row["ra"].value:.7f},{row["dec"].value:.7f},{arcsec:.3f}"'
        else:
            shape = f"{row['x'] + 1:.3f},{row['y'] + 1:.3f},{radius[k]:.2f}"
        words = worst_first(str(row["flags"]))
        parts = [f"text={_quoted(str(row['id']))}"]
        parts += ["color=red"] if is_serious(words) else []
        parts += [f"tag={_quoted(word)}" for word in words]
        lines.append(f"circle({shape}) # {' '.join(parts)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text between signs that it does not have itself; DS9 knows no escapes."""
    text = " ".join(text.split())
    for first, last in (("{", "}"), ('"', '"'), ("'", "'")):
        if first not in text and last not in text:
            return f"{first}{text}{last}"
    return "{" + text.replace("{", "(").replace("}", ")") + "}"
