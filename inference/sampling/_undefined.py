"""Draws that are no numbers."""

from typing import Any

import numpy as np

from scorepriors.inference._status import Check, Finding

from . import _tree as trees


def undefined(tree: Any) -> list[Finding]:
    """Return a finding for every site with draws of NaN, such as roots of negative numbers.

    Parameters of a density are never NaN, so the site is deterministic.  Means and widths by
    xarray pass over NaN, so without a word they would be those of the other draws.
    """
    found = []
    for name, values in trees.group(tree, "posterior").data_vars.items():
        array = np.asarray(values)
        if not np.issubdtype(array.dtype, np.floating):
            continue
        broken = np.isnan(array).any(tuple(range(2, array.ndim)))
        if broken.any():
            facts = {"site": str(name), "count": int(broken.sum()), "total": broken.size}
            found.append(Finding(Check.UNDEFINED, facts))
    return found
