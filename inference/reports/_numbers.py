"""Numbers with errors, in as many digits as the error bears."""

import numpy as np


def value_and_error(value: float, error: float) -> str:
    """Return value and error, with the significant digits for the error."""
    if np.isnan(value):
        return "no data"
    return f"{in_digits(value, error)} ± {in_digits(error, error)}"


def in_digits(value: float, error: float) -> str:
    """Return a number with as many decimals as two digits of its error have."""
    if not np.isfinite(error) or error <= 0:
        return f"{value:.4g}"
    return f"{value:.{int(np.clip(1 - np.floor(np.log10(error)), 0, 6))}f}"
