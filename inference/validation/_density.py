"""Tests of an energy as a density: denoising, Jacobian, an added ring, shifts.

The prior is a PyTree argument of jitted functions, so a second one of equal shape recompiles
nothing.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from scorepriors._distribution import ScorePrior

#: Noise levels of the denoising test.
DENOISING_SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


def denoising_table(
    prior: ScorePrior,
    linear: ScorePrior,
    z: Float[Array, "N n n"],
    *,
    key: PRNGKeyArray,
    sigmas: tuple[float, ...] = DENOISING_SIGMAS,
) -> dict[str, list[float]]:
    """Return rms errors of denoised images, in units of the noise, at several noise levels.

    Parameters
    ----------
    prior
        The prior to judge.
    linear
        Prior of the Wiener filter, `ScorePrior.gaussian`, which denoises the same images.
    z
        Clean stretched images, held out from training.
    key
        Random key of the noise.
    sigmas
        Noise levels.

    Returns
    -------
    dict
        Lists ``sigma``, ``energy``, ``wiener`` and ``ratio`` (of the two).
    """
    table: dict[str, list[float]] = {"sigma": [], "energy": [], "wiener": [], "ratio": []}
    z = jnp.asarray(z)
    for sigma, key_noise in zip(sigmas, jr.split(key, len(sigmas)), strict=True):
        noise = jr.normal(key_noise, z.shape, z.dtype)
        level = jnp.asarray(sigma, z.dtype)
        ours = float(_denoising_rms(prior, z, noise, level))
        wiener = float(_denoising_rms(linear, z, noise, level))
        row = {"sigma": float(sigma), "energy": ours, "wiener": wiener, "ratio": ours / wiener}
        for name, value in row.items():
            table[name].append(value)
    return table


@eqx.filter_jit
def denoised(prior: ScorePrior, z, sigma):
    """Remove the noise of `sigma` from every stretched image, in one step."""
    return prior.at(sigma).denoise_stretched(z)


@eqx.filter_jit
def _denoising_rms(prior: ScorePrior, z, noise, sigma):
    error = denoised(prior, z + sigma * noise, sigma) - z
    return jnp.sqrt(jnp.mean((error / sigma) ** 2))


def jacobian_asymmetry(
    score_fn: Callable,
    z: Float[Array, "N n n"],
    sigma: float,
    *,
    key: PRNGKeyArray,
    num_probes: int = 8,
) -> float:
    r"""Return the asymmetry of the Jacobian J of a score: zero if and only if it is a gradient.

    .. math:: \kappa = \frac{\| J - J^T \|_F}{\| J + J^T \|_F},

    both norms from products with normal probes v, :math:`\|A\|_F^2 = E |A v|^2`,
    averaged over images and probes.  One JVP and one VJP per probe, in float64: the
    rounding of float32 alone would give about 1e-7.

    Parameters
    ----------
    score_fn
        ``(z [n, n], sigma) -> score [n, n]``.  A PyTree such as
        ``jax.tree_util.Partial(stretched_score, prior)`` compiles once for all of its shape.
    z
        Stretched images at which J is taken, noise of `sigma` included.
    sigma
        Noise level.
    key
        Random key of the probes.
    num_probes
        Number of probes per image.

    Returns
    -------
    float
        Asymmetry, between 0 and 1 for a score near a gradient; about 1 for a random field.

    Examples
    --------
    >>> z = jnp.zeros((1, 4, 4))
    >>> jacobian_asymmetry(lambda z, sigma: -z / sigma**2, z, 0.1, key=jr.key(0))
    0.0
    """
    with jax.enable_x64(True):
        score_fn = jax.tree.map(_as_double, score_fn)
        z, level = jnp.asarray(z, jnp.float64), jnp.asarray(sigma, jnp.float64)
        probes = jr.normal(key, (num_probes, *z.shape), jnp.float64)
        difference, total = _asymmetry(score_fn, z, level, probes)
        return float(np.sqrt(float(difference) / float(total)))


@eqx.filter_jit
def _asymmetry(score_fn, z, sigma, probes):
    def at_one(one, probe):
        _, forward = jax.jvp(lambda x: score_fn(x, sigma), (one,), (probe,))
        _, pull = jax.vjp(lambda x: score_fn(x, sigma), one)
        (backward,) = pull(probe)
        return jnp.sum((forward - backward) ** 2), jnp.sum((forward + backward) ** 2)

    difference, total = jax.vmap(lambda v: jax.vmap(at_one)(z, v))(probes)
    return difference.sum(), total.sum()


def _as_double(leaf):
    return leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf


def ring_test(
    prior: ScorePrior,
    z: Float[Array, "N n n"],
    *,
    sigma: float = 0.1,
    amplitude: float = 1.0,
    radius: float | None = None,
) -> dict[str, float]:
    """Add a ring, which no galaxy has, and test whether the score removes it.

    After Sampson et al. (2024), figure 4.

    Parameters
    ----------
    prior
        The prior to judge.
    z
        Noise-free stretched images.
    sigma
        Noise level of the score.
    amplitude
        Height of the ring in the stretched space.
    radius
        Radius in pixels about the center of the box, 9/32 of the box by default; the
        ring is one pixel wide.

    Returns
    -------
    dict
        ``on_ring`` and ``elsewhere``: mean score of the images with the ring, on it and
        off it; ``abs_elsewhere``: mean absolute score off it; ``abs_elsewhere_without``:
        the same for the images without ring; ``ratio``: minus ``on_ring`` over
        ``abs_elsewhere``; ``drop``: mean decrease of the log-density.  Stretched units.
    """
    z = jnp.asarray(z)
    size = z.shape[-1]
    radius = 9 * size / 32 if radius is None else radius
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    ring = np.abs(np.hypot(y, x) - radius) <= 0.5
    level = jnp.asarray(sigma, z.dtype)
    before, score_before = log_prob_and_score(prior, z, level)
    disturbed = z + amplitude * jnp.asarray(ring, z.dtype)
    after, score_after = log_prob_and_score(prior, disturbed, level)
    score_before, score_after = np.asarray(score_before), np.asarray(score_after)
    on_ring = float(score_after[:, ring].mean())
    elsewhere = float(np.abs(score_after[:, ~ring]).mean())
    return {
        "sigma": float(sigma),
        "amplitude": float(amplitude),
        "radius": float(radius),
        "on_ring": on_ring,
        "elsewhere": float(score_after[:, ~ring].mean()),
        "abs_elsewhere": elsewhere,
        "abs_elsewhere_without": float(np.abs(score_before[:, ~ring]).mean()),
        "ratio": -on_ring / max(elsewhere, 1e-12),
        "drop": float(np.mean(np.asarray(before) - np.asarray(after))),
    }


def shift_cost(
    prior: ScorePrior, z: Float[Array, "N n n"], sigma: float, *, shifts: tuple = (1, 2, 3)
) -> dict[str, list[float]]:
    """Return the mean decrease of the log-density for shifts by whole pixels along one axis.

    It shows how strictly the prior expects centered galaxies: lists ``pixels`` and ``drop``.
    The pixels uncovered at the edge repeat their neighbors.
    """
    z = jnp.asarray(z)
    level = jnp.asarray(sigma, z.dtype)
    before, _ = log_prob_and_score(prior, z, level)
    drops = []
    for shift in shifts:
        moved = jnp.pad(z, ((0, 0), (shift, 0), (0, 0)), mode="edge")[:, : z.shape[1]]
        after, _ = log_prob_and_score(prior, moved, level)
        drops.append(float(jnp.mean(before - after)))
    return {"pixels": [int(s) for s in shifts], "drop": drops}


@eqx.filter_jit
def log_prob_and_score(prior: ScorePrior, z, sigma):
    """Return log-density at `sigma`, up to a constant, and score of every stretched image."""
    value, gradient = jax.vmap(jax.value_and_grad(prior.at(sigma).potential))(z)
    return -value, -gradient


def stretched_score(prior: ScorePrior, z: Float[Array, "n n"], sigma) -> Float[Array, "n n"]:
    """Return the score of one stretched image at `sigma`."""
    return -jax.grad(prior.at(sigma).potential)(z)
