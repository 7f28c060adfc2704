"""Simulation-based calibration: whether posteriors are right on average over the prior.

Truths drawn from the model's own prior must rank uniformly among posterior draws given
data simulated from them (Talts et al. 2018, arXiv:1804.06788), and central intervals
must cover them as often as they say.
"""

import numpy as np
from scipy.stats import binom, chisquare


def thin(draws: np.ndarray, number: int) -> np.ndarray:
    """``[C, n, ...]`` to `number` draws, evenly spaced over all chains: ``[number, ...]``."""
    flat = np.swapaxes(draws, 0, 1).reshape(-1, *draws.shape[2:])
    return flat[np.linspace(0, len(flat) - 1, number).round().astype(int)]


def ranks(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Number of draws ``[n, ...]`` below the truth ``[...]``: uniform on 0 ... n."""
    return (draws < truth).sum(0)


def uniformity(rank: np.ndarray, number: int, *, bins: int = 5) -> float:
    """p-value of a chi^2 test that ranks among `number` draws are uniform.

    Parameters
    ----------
    rank
        ``[m]``, of m simulations.
    number
        Draws per simulation.
    bins
        Number of equally wide bins; five or more ranks should fall into each.
    """
    edges = np.linspace(0, number + 1, bins + 1)
    inside = np.histogram(np.arange(number + 1), edges)[0]
    counts = np.histogram(rank, edges)[0]
    return float(chisquare(counts, inside / inside.sum() * len(rank)).pvalue)


def coverage(rank: np.ndarray, number: int, level: float) -> tuple[float, float, float]:
    """Share of truths inside the central interval of a level, and its 99 % bounds.

    Returns
    -------
    share, low, high
        The share found, and what a calibrated sampler would give in 99 of 100 tries.
    """
    inside = np.arange(number + 1)
    half = (1 - level) / 2 * (number + 1)
    # Ranks are whole numbers: the interval holds the level only about.
    held = (inside >= half) & (inside <= number - half)
    share = float(held[np.asarray(rank, int)].mean())
    low, high = binom.interval(0.99, len(rank), held.mean())
    return share, float(low) / len(rank), float(high) / len(rank)
