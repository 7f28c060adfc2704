"""Truths of a learned prior: draws from its own density, whatever its sampler does.

    python benchmarks/calibration/truths.py RUN/lsst-12.safetensors truths.npz

Not by the reverse diffusion alone: its images have another distribution unless the network
is perfect, and calibration would then measure the network instead of the sampler.  And
not by Markov chains on the density alone: at low noise they do not cross from compact to
extended galaxies.  So many particles go down from high noise, where chains mix, by steps of
the probability flow whose Jacobian is known, and are weighed by what the density says of
where they arrive; Markov moves at every level do the rest (annealed importance sampling
with transport: Arbel, Matthews & Doucet 2021, arXiv:2102.07501).  With many particles the
result is the density's, however bad the flow: the worse it is, the fewer particles count.
"""

import argparse
import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from blackjax.smc.resampling import systematic

from scorepriors import ScorePrior, load_prior
from scorepriors._files import atomic_path
from scorepriors.energies._diffusion import noise_schedule

PARTICLES, LEVELS = 1024, 80

#: Transitions at the highest noise, where they mix, and at each level below.
FIRST_MOVES, MOVES = 200, 3

#: Leapfrog steps of a transition, and their size in units of the noise.
LEAPFROG, STEP = 10, 0.2

#: Particles are drawn anew when fewer than this share of them count.
RESAMPLE_BELOW = 0.7


def effective(log_weights) -> float:
    """Share of the particles that count."""
    w = jax.nn.softmax(log_weights)
    return float(1 / jnp.sum(w**2) / len(w))


@jax.jit
def transport(energy, z, sigma, lower):
    """One step of the flow from `sigma` down to `lower`; what it adds to the log-weights."""

    def one(z):
        def step(flat):
            image = flat.reshape(z.shape)
            clean = energy.denoise(image, sigma)
            return (clean + (lower / sigma) * (image - clean)).ravel()

        there = step(z.ravel()).reshape(z.shape)
        volume = jnp.linalg.slogdet(jax.jacfwd(step)(z.ravel()))[1]
        return there, energy(z, sigma) - energy(there, lower) + volume

    return jax.lax.map(one, z, batch_size=64)


@partial(jax.jit, static_argnames="number")
def move(energy, z, sigma, key, number):
    """Hamiltonian moves of every particle at one level, and their mean acceptance."""
    mass = jnp.ones(z[0].size)
    kernel = blackjax.hmc(lambda z: -energy(z, sigma), STEP * sigma, mass, LEAPFROG)

    def one(z, key):
        def body(state, key):
            state, info = kernel.step(key, state)
            return state, info.acceptance_rate

        state, rate = jax.lax.scan(body, kernel.init(z), jax.random.split(key, number))
        return state.position, rate.mean()

    z, rate = jax.lax.map(
        lambda pair: one(*pair), (z, jax.random.split(key, len(z))), batch_size=256
    )
    return z, rate.mean()


def draw(prior: ScorePrior, *, key, particles=PARTICLES, levels=LEVELS, progress=False):
    """Truths ``[particles, n, n]`` in random order, and how they came about."""
    energy, sigmas = prior.energy, noise_schedule(prior.sigma_max, prior.sigma, levels)
    sigmas = sigmas.astype(jnp.float32)
    start_key, first_key, key = jax.random.split(key, 3)
    white = jax.random.normal(start_key, (particles, *prior.event_shape))
    z = jax.vmap(energy.from_white, (0, None))(white, sigmas[0])
    z, _ = move(energy, z, sigmas[0], first_key, FIRST_MOVES)
    log_weights = jnp.zeros(particles)
    ancestors, rates, increments, resampled = np.arange(particles), [], [], 0
    for level, (sigma, lower) in enumerate(pairwise(sigmas)):
        key, move_key, pick_key = jax.random.split(key, 3)
        z, gained = transport(energy, z, sigma, lower)
        log_weights += gained
        increments.append(float(gained.std()))
        share = effective(log_weights)
        if share < RESAMPLE_BELOW or level == levels - 1:
            picked = systematic(pick_key, jax.nn.softmax(log_weights), particles)
            z, ancestors = z[picked], ancestors[np.asarray(picked)]
            log_weights = jnp.zeros(particles)
            resampled += 1
        z, rate = move(energy, z, lower, move_key, MOVES)
        rates.append(float(rate))
        if progress and level % 10 == 9:
            print(
                f"noise {float(lower):.3f}: {share:.0%} of the particles count, acceptance "
                f"{rates[-1]:.2f}, scatter of the last weights {increments[-1]:.2f}",
                flush=True,
            )
    families = np.bincount(ancestors)
    facts = {
        "particles": particles,
        "sigma": float(prior.sigma),
        "resampled": resampled,
        "families": int((families > 0).sum()),
        "effective families": round(float(particles**2 / np.sum(families**2.0))),
        "acceptance": [round(min(rates), 3), round(max(rates), 3)],
        "largest scatter of log-weights in a step": round(max(increments), 3),
    }
    # Relatives are spread out: two in one blend would be alike.
    order = np.random.default_rng(0).permutation(particles)
    return np.asarray(prior.stretch(z))[order], facts


def main():
    """Draw, report, and show some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", help="Weights of a trained prior.")
    parser.add_argument("output", type=Path)
    parser.add_argument("--sigma", type=float, help="Noise level; the recipe's by default.")
    given = parser.parse_args()
    images, facts = draw(
        load_prior(given.prior, sigma=given.sigma), key=jax.random.key(11), progress=True
    )
    with atomic_path(given.output) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, images=images, facts=json.dumps(facts))
    print(json.dumps(facts, indent=1))
    axes = plt.subplots(4, 10, figsize=(10, 4), layout="constrained")[1].ravel()
    for axis, x in zip(axes, images, strict=False):
        axis.imshow(np.log1p(np.maximum(x, 0) / 0.05), origin="lower", vmin=0, vmax=3)
        axis.set_axis_off()
    plt.savefig(given.output.with_suffix(".png"), dpi=90)


if __name__ == "__main__":
    main()
