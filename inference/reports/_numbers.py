"""Numbers with errors, in as many digits as the error bears."""

from typing import Any

import numpy as np


def number(value: Any) -> float:
    """Return a cell of a table as a number, without its unit."""
    return float(getattr(value, "value", value))


def value_and_error(value: float, error: float) -> str:
    """Return value and error, with the significant digits for the error."""
    if np.isnan(value):
        return "no data"
    return f"{in_digits(value, error)} ± {in_digits(error, error)}"


def in_digits(value: float, error: float) -> str:
    """Return a number rounded to two digits of its error, left of the point as well.

    Examples
    --------
    >>> in_digits(63187.4, 1523.0), in_digits(12.3456, 0.0213)
    ('63200', '12.346')
    """
    if not np.isfinite(error) or error <= 0 or not np.isfinite(value):
        return f"{value:.4g}"
    digits = min(int(1 - np.floor(np.log10(error))), 6)
    # Zero is added since a negative number may be rounded to -0.
    return f"{round(float(value), digits) + 0.0:.{max(digits, 0)}f}"
