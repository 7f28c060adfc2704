r"""A check of draws against the gradient of their density, which needs no truth.

For a density p with score s, and any smooth f that does not grow too fast, Stein's identity is

.. math:: E_p[s(x) \cdot f(x) + \nabla \cdot f(x)] = 0.

The kernel Stein discrepancy is the largest violation of it by the mean over the draws, among the
functions f of a unit ball (Liu, Lee & Jordan 2016; Chwialkowski, Strathmann & Gretton 2016).  With
the inverse multiquadric kernel it vanishes only for draws that converge to p (Gorham & Mackey
2017).  The identity also holds for functions of some directions alone, with the score along
these (Gong, Li & Hernandez-Lobato 2021), so a few of many directions can be checked.

R-hat compares chains with each other; this compares them with the density.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from scorepriors._traces import Kept
from scorepriors.inference._status import Check, Finding

from ._abstract import AbstractSampler
from ._tree import effective_sizes

#: Largest number of directions that are checked.
DIRECTIONS = 12

#: Smallest number of draws in the check.
FEWEST = 40

#: p-value below which draws are said to disagree with the density.
SMALLEST_P = 0.001

#: Draws of the wild bootstrap.
RESAMPLED = 4000


class SteinCheck(NamedTuple):
    """Result of the check.

    Attributes
    ----------
    discrepancy
        Kernel Stein discrepancy; NaN if there were too few independent draws to tell.
    p_value
        Probability of a discrepancy as large for draws from the density.
    num_draws, num_directions
        Numbers of draws and of directions in the check.
    """

    discrepancy: float = np.nan
    p_value: float = np.nan
    num_draws: int = 0
    num_directions: int = 0


def stein_facts(check: SteinCheck) -> dict[str, float]:
    """Return the attributes of a tree with the result of the check."""
    return {
        "stein_discrepancy": check.discrepancy,
        "stein_p_value": check.p_value,
        "stein_draws": check.num_draws,
        "stein_directions": check.num_directions,
    }


def stein_findings(attrs: Mapping[str, Any]) -> list[Finding]:
    """Return the finding that draws do not have the density, if the attributes say so."""
    p_value = float(attrs.get("stein_p_value", np.nan))
    if not p_value < SMALLEST_P:
        return []
    facts = {"value": float(attrs["stein_discrepancy"]), "p": p_value, "least": SMALLEST_P}
    return [Finding(Check.NOT_THE_DENSITY, facts)]


def stein_sentence(attrs: Mapping[str, Any]) -> str:
    """Return in words whether the draws agree with the density, from the attributes of a tree."""
    p_value = float(attrs.get("stein_p_value", np.nan))
    if Check.JUMPS.value in str(attrs.get("findings", "")):
        return "The draws were not compared with the density, which jumps."
    if not np.isfinite(p_value):
        return (
            "The draws were not compared with the density: that takes at least "
            f"{FEWEST} independent ones."
        )
    verb = "disagree" if p_value < SMALLEST_P else "agree"
    return (
        f"The draws {verb} with the gradient of the density: kernel Stein discrepancy "
        f"{float(attrs['stein_discrepancy']):.3g} of {int(attrs['stein_draws'])} draws in "
        f"{int(attrs['stein_directions'])} directions, p = {p_value:.2g}."
    )


def stein_kernel(x: Float[np.ndarray, "n d"], score: Float[np.ndarray, "n d"]) -> np.ndarray:
    r"""Return the Stein kernel ``[n, n]`` of points and scores.

    For the kernel :math:`k(x, y) = (1 + |x - y|^2 / d)^{-1/2} + x \cdot y / d` it is

    .. math:: s(x) \cdot s(y) k + s(x) \cdot \nabla_y k + s(y) \cdot \nabla_x k
              + \nabla_x \cdot \nabla_y k.

    The first term alone is known to be nearly blind to wrong widths in several dimensions; the
    second one compares exactly these (Kanagawa et al. 2022 add such terms to control moments).

    Parameters
    ----------
    x
        Points, in coordinates of about mean zero and unit width.
    score
        Gradients of the log-density there.

    References
    ----------
    .. [1] Gorham & Mackey (2017), ICML 70, 1292, eq. 8 and section 3.2.
    .. [2] Kanagawa, Barp, Gretton & Mackey (2022), arXiv:2211.05408.
    """
    dimension = x.shape[1]
    apart = x[:, None] - x[None]
    square = np.sum(apart**2, -1)
    base = 1 + square / dimension
    kernel = base**-0.5
    # Gradient by the first point is minus this times the distance, by the second plus.
    slope = base**-1.5 / dimension
    own = np.einsum("ijd,id->ij", apart, score) - np.einsum("ijd,jd->ij", apart, score)
    trace = slope * dimension - 3 * base**-2.5 * square / dimension**2
    near = score @ score.T * kernel + slope * own + trace
    along = np.sum(score * x, 1)
    linear = (score @ score.T) * (x @ x.T) + along[:, None] + along + dimension
    return near + linear / dimension


def discrepancy(x: np.ndarray, score: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Return the kernel Stein discrepancy of independent draws, and its p-value.

    Parameters
    ----------
    x, score
        Points and scores ``[n, d]``, see `stein_kernel`.
    rng
        Random numbers of the wild bootstrap, which changes the signs of draws at random.

    References
    ----------
    .. [1] Chwialkowski, Strathmann & Gretton (2016), ICML 48, 2606, section 4.
    """
    kernel = stein_kernel(x, score)
    number = len(x)
    found = kernel.mean()
    signs = rng.choice([-1.0, 1.0], (RESAMPLED, number))
    by_chance = np.einsum("ri,ri->r", signs @ kernel, signs) / number**2
    exceed = np.count_nonzero(by_chance >= found)
    return float(np.sqrt(max(found, 0.0))), (1 + exceed) / (1 + RESAMPLED)


def stein_check(
    sampler: AbstractSampler, problem: Any, state: Any, draws: Float[np.ndarray, "N C d"], seed
) -> SteinCheck:
    """Check the draws of a run against the gradient of their log-density.

    Parameters
    ----------
    sampler, problem, state
        The sampler, and its problem and state at the end of the run.
    draws
        Points of `AbstractSampler.snapshot`, or kept positions.
    seed
        Seed of the bootstrap.
    """
    half = len(draws) // 2
    # Directions from one half, the check from the other: among many directions some seem wide by
    # chance, and would fail for that.
    rows = sampler.directions(problem, state, draws[:half], DIRECTIONS)
    used = draws if rows is None else draws[half:]
    along = used if rows is None else used @ rows.T
    if len(along) < 4 or not np.isfinite(along).all() or (np.ptp(along, axis=(0, 1)) == 0).any():
        return SteinCheck()
    names = ("chain", "draw", "element")
    sizes = effective_sizes(xarray.Dataset({"x": (names, np.swapaxes(along, 0, 1).astype(float))}))
    enough = np.min(sizes["x"])
    wanted = int(min(enough, sampler.checked_draws)) if np.isfinite(enough) else 0
    if wanted < FEWEST:
        return SteinCheck()
    # Evenly among the draws, chain after chain: about independent.
    flat = np.swapaxes(used, 0, 1).reshape(-1, used.shape[-1])
    chosen = np.linspace(0, len(flat) - 1, wanted).astype(int)
    # One shape for all runs: the last are repeated.
    padded = flat[np.pad(chosen, (0, sampler.checked_draws - wanted), "edge")]
    scores = np.asarray(_scores(sampler, problem, padded, rows), float)[:wanted]
    x = np.swapaxes(along, 0, 1).reshape(-1, along.shape[-1]).astype(float)
    center, covariance = x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return SteinCheck()
    white = np.linalg.solve(root, (x[chosen] - center).T).T
    scores = scores @ root
    if not np.isfinite(scores).all():
        return SteinCheck()
    value, p_value = discrepancy(white, scores, np.random.default_rng(seed))
    return SteinCheck(value, p_value, wanted, white.shape[1])


@Kept
def _scores(sampler: AbstractSampler, problem, positions, rows) -> Float[Array, "n r"]:
    """Return gradients of the log-density at ``positions [n, d]``, along rows if there are any."""
    density = sampler.density(problem)

    def one(position):
        slope = jax.grad(density)(position)
        return slope if rows is None else rows @ slope

    return jax.lax.map(one, jnp.asarray(positions), batch_size=4)
