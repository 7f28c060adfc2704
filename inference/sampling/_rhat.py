"""R-hat of many quantities at once, and its largest value by chance (Vehtari et al. 2021)."""

import numpy as np
from scipy.stats import chi2, norm, rankdata

#: Number of elements ranked at a time, which limits the memory for large scenes.
_CHUNK = 128

#: Relative standard error of an effective sample size: .05 of 2,000 independent draws, .12 for 500
#: effective ones of as many.
ESS_ERROR = 0.1


def rank_rhat(draws: np.ndarray) -> np.ndarray:
    """Return rank-normalized split R-hat ``[...]`` of draws ``[chain, draw, ...]``.

    The larger of R-hat of the ranks (location) and of the ranks of the distance from
    the median (scale).  ``arviz.rhat`` gives the same, one element at a time, which takes a
    minute for the pixels of one scene.

    Parameters
    ----------
    draws
        Draws ``[chain, draw, ...]``, at least four.

    Returns
    -------
    numpy.ndarray
        R-hat ``[...]``; NaN for elements with a NaN among their draws.
    """
    chains, count = draws.shape[:2]
    half = count // 2
    # Elements first, so that draws ranked together are contiguous.
    flat = np.moveaxis(draws.reshape(chains, count, -1), -1, 0)
    parts = [
        np.max([_rhat(scores) for scores in _kinds(flat[first : first + _CHUNK], half)], axis=0)
        for first in range(0, len(flat), _CHUNK)
    ]
    return np.concatenate(parts).reshape(draws.shape[2:])


def _kinds(draws, half):
    """Return normal scores ``[k, 2 C, n]`` of half-chains, for location and for scale."""
    # As in ArviZ, the middle one of an odd number of draws is left out.
    halves = np.concatenate([draws[..., :half], draws[..., -half:]], axis=1)
    folded = np.abs(halves - np.median(halves, axis=(1, 2), keepdims=True))
    return _normal_scores(halves), _normal_scores(folded)


def _normal_scores(values):
    ranks = rankdata(values.reshape(len(values), -1), axis=1)
    count = ranks.shape[1]
    # Ranks, also of ties, are multiples of a half, so a table of all scores is short.
    table = norm.ppf((np.arange(2, 2 * count + 1) / 2 - 0.375) / (count + 0.25))
    place = np.rint(2 * np.nan_to_num(ranks, nan=1.0)).astype(int) - 2
    # One NaN among the draws of an element makes its R-hat NaN.
    return np.where(np.isnan(ranks), np.nan, table[place]).reshape(values.shape)


def _rhat(values):
    count = values.shape[-1]
    between = count * values.mean(-1).var(-1, ddof=1)
    within = values.var(-1, ddof=1).mean(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within + count - 1) / count)


def rhat_excess(draws: np.ndarray, number: int, *, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Return R-hat of draws ``[chain, draw, k]`` and the largest that chance makes of it.

    Of location and scale that which exceeds its limit by more.  The limit is `chance_rhat` at the
    effective draws within the chains, of the very scores that R-hat compares: how far the chains
    are from each other does not enter, and scales mix more slowly than locations.

    Parameters
    ----------
    draws
        Draws of few elements: each takes milliseconds.
    number
        Number of elements among which these were found.
    least
        Least number of effective draws; chains with fewer are held to the limit for as many.

    Returns
    -------
    rhat, limit
        Arrays ``[k]``.
    """
    chains, count = draws.shape[:2]
    halves = np.moveaxis(draws, -1, 0)
    found, limits = [], []
    for scores in _kinds(halves, count // 2):
        # What alarms among many may have an estimate that is too large by chance.
        chosen = 1 + ESS_ERROR * norm.isf(0.5 / number)
        effective = np.maximum(np.nan_to_num(_within(scores)) / chosen, least)
        found.append(_rhat(scores))
        limits.append([chance_rhat(number, chains, count, size) for size in effective])
    rhat, limit = np.array(found), np.array(limits)
    kind = np.argmax(np.nan_to_num(rhat, nan=np.inf) - limit, axis=0), np.arange(len(halves))
    return rhat[kind], limit[kind]


def _within(scores) -> np.ndarray:
    """Return effective draws ``[k]`` of scores ``[k, 2 C, n]``, summed over the half-chains."""
    import xarray

    from ._tree import effective_sizes

    # As chains of their own, so that differences between them don't count.
    alone = xarray.Dataset(
        {"x": (("chain", "draw", "k", "half"), np.moveaxis(scores, -1, 0)[None])}
    )
    return effective_sizes(alone, method="mean")["x"].sum(-1)


def chance_rhat(
    number: int, chains: int, draws: int, effective: float, *, risk: float = 0.01
) -> float:
    r"""Return the largest R-hat by chance among many elements of chains that agree.

    The means of the 2C half-chains, of n = N/2 draws each, scatter by the posterior's
    variance over their effective draws.  So with S effective draws in all,

    .. math:: \hat R^2 \approx 1 - \frac1n + \frac{2C}{S} \, \frac{\chi^2_{2C-1}}{2C-1},

    and the bound is the quantile that is exceeded anywhere, among `number` elements and
    the two kinds of R-hat, with probability `risk` (Bonferroni: elements may depend on
    one another).

    Parameters
    ----------
    number
        Number of elements.
    chains, draws
        Numbers C and N of chains and of draws in each.
    effective
        Number S of effective draws.
    risk
        Probability of a false alarm.

    Returns
    -------
    float
        R-hat that a run in agreement exceeds with the probability `risk`.
    """
    halves = 2 * chains
    quantile = chi2.isf(risk / (2 * number), halves - 1)
    return float(np.sqrt(1 - 2 / draws + halves / effective * quantile / (halves - 1)))
