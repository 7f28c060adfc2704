"""Simulation-based calibration: correctness of posteriors on average over the prior.

Truths drawn from the model's own prior must rank uniformly among posterior draws given
data simulated from them (Talts et al. 2018, arXiv:1804.06788), and central intervals
must cover them at their nominal rate.
"""

import numpy as np
from scipy.stats import binom, chisquare


def thin(draws: np.ndarray, number: int) -> np.ndarray:
    """Reduce ``[C, n, ...]`` to `number` draws, evenly spaced over chains: ``[number, ...]``."""
    flat = np.swapaxes(draws, 0, 1).reshape(-1, *draws.shape[2:])
    return flat[np.linspace(0, len(flat) - 1, number).round().astype(int)]


def ranks(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the number of draws ``[n, ...]`` below the truth ``[...]``: uniform on 0 ... n."""
    return (draws < truth).sum(0)


def uniformity(rank: np.ndarray, number: int, *, bins: int = 5) -> float:
    """Return the p-value of a chi^2 test that ranks among `number` draws are uniform.

    Parameters
    ----------
    rank
        Ranks ``[m]`` of m simulations.
    number
        Number of draws per simulation.
    bins
        Number of equally wide bins, with five or more ranks expected in each.
    """
    edges = np.linspace(0, number + 1, bins + 1)
    inside = np.histogram(np.arange(number + 1), edges)[0]
    counts = np.histogram(rank, edges)[0]
    return float(chisquare(counts, inside / inside.sum() * len(rank)).pvalue)


def coverage(rank: np.ndarray, number: int, level: float) -> tuple[float, float, float]:
    """Return the share of truths inside the central interval of a level, and its 99 % bounds.

    Returns
    -------
    share, low, high
        Measured share, and the interval of 99 % probability for a calibrated sampler.
    """
    inside = np.arange(number + 1)
    half = (1 - level) / 2 * (number + 1)
    # Ranks are integers, so the interval has the level only approximately.
    held = (inside >= half) & (inside <= number - half)
    share = float(held[np.asarray(rank, int)].mean())
    low, high = binom.interval(0.99, len(rank), held.mean())
    return share, float(low) / len(rank), float(high) / len(rank)
