"""The wall around an energy: zero for galaxies, and high in all directions beyond."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from scorepriors import Confined, load_prior, save_prior
from scorepriors.energies._wiener import ModeNetwork, WienerEnergy
from scorepriors.training._loop import train
from scorepriors.training._recipe import (
    ConfinementRecipe,
    DataRecipe,
    NetworkRecipe,
    Recipe,
    TrainingRecipe,
)
from scorepriors.training._wall import calibrate, initial_wall

MODES = 8


@pytest.fixture
def recipe(tmp_path):
    """Round galaxies of many sizes; both stages."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((8, 8)) - 3.5
    width = rng.uniform(1, 2.5, (300, 1, 1))
    np.savez(tmp_path / "set.npz", np.exp(-(rows**2 + columns**2) / 2 / width**2))
    return Recipe(
        name="small",
        data=DataRecipe(path=str(tmp_path / "set.npz"), box=8),
        network=NetworkRecipe(modes=MODES, width=16, inner=16, depth=1),
        training=TrainingRecipe(steps=40, batch=32, block=10, warmup=5, ema=0.9),
        confinement=ConfinementRecipe(steps=40, batch=32, codes=3, width=8),
    )


@pytest.fixture
def downhill(recipe):
    """An energy with a network that leads out of the galaxies, and galaxies as modes."""
    network = ModeNetwork(MODES, 16, 16, 1, key=jr.key(0))
    weight = 3 * jr.normal(jr.key(1), network.leave.weight.shape)
    network = eqx.tree_at(lambda n: n.leave.weight, network, weight)
    energy = WienerEnergy(
        jnp.zeros(64), jnp.eye(64, MODES), jnp.full(MODES, 4.0), jnp.asarray(0.01), network
    )
    return energy, 2 * jr.normal(jr.key(2), (200, MODES))


def walled(energy, recipe, galaxies):
    wall = calibrate(energy, initial_wall(recipe), galaxies, key=jr.key(3), inside=1.0, num=500)
    return Confined(energy, wall)


@pytest.mark.parametrize("sigma", [0.03, 0.15, 1.0, 20.0])
def test_the_wall_is_zero_on_noisy_galaxies(downhill, recipe, sigma):
    energy, galaxies = downhill
    noisy = galaxies + sigma * jr.normal(jr.key(4), galaxies.shape)
    sigma = jnp.asarray(sigma)
    bare = jax.vmap(energy.mode_energy, (0, None))(noisy, sigma)
    inside = jax.vmap(walled(energy, recipe, galaxies).mode_energy, (0, None))(noisy, sigma)
    # The threshold is the largest of 500 others with an allowance of a tenth.
    assert np.mean(np.asarray(inside == bare)) >= 0.98


@pytest.mark.parametrize("inside", [0.6, 0.9])
def test_a_share_of_the_galaxies_may_stay_outside(downhill, recipe, inside):
    energy, galaxies = downhill
    wall = calibrate(
        energy,
        initial_wall(recipe),
        galaxies,
        key=jr.key(3),
        num=4000,
        allowance=1.0,
        inside=inside,
    )
    confined = Confined(energy, wall)
    # At a level of the calibration, or the threshold is one between two.
    sigma = jnp.exp(wall.log_sigma[8])
    clean = galaxies[jr.randint(jr.key(8), (4000,), 0, len(galaxies))]
    noisy = clean + sigma * jr.normal(jr.key(9), clean.shape)
    bare, found = (
        np.asarray(jax.vmap(e.mode_energy, (0, None))(noisy, sigma)) for e in (energy, confined)
    )
    # Two sets of 4,000, each with a standard error below 0.008.
    assert np.mean(found == bare) == pytest.approx(inside, abs=0.04)


def test_far_off_the_energy_rises_in_every_direction(downhill, recipe):
    energy, galaxies = downhill
    confined = walled(energy, recipe, galaxies)
    sigma = jnp.asarray(0.15)
    directions = jr.normal(jr.key(5), (100, MODES))
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)

    def climb(mode_energy):
        near, far = (
            jax.vmap(mode_energy, (0, None))(r * directions, sigma) for r in (100.0, 200.0)
        )
        return np.asarray(far - near)

    assert climb(energy.mode_energy).min() < 0  # the way out
    # Gaussian noise about the origin would cost this much; the projections lie a little off.
    gaussian = (200.0**2 - 100.0**2) / 2 / 0.15**2
    assert climb(confined.mode_energy).min() > 0.8 * gaussian


def test_the_projection_stays_within_its_range(downhill, recipe):
    energy, galaxies = downhill
    wall = walled(energy, recipe, galaxies).wall
    a = 1e4 * jr.normal(jr.key(6), (50, MODES))
    features, wiener = jax.vmap(energy.features, (0, None))(a, 0.1)
    rough = jax.vmap(wall.reconstruct, (0, None))(features, energy.eigenvalues)
    found = jax.vmap(wall.project, (0, 0, None, None))(features, wiener, energy.eigenvalues, 0.1)
    assert float(jnp.linalg.norm(found - rough, axis=1).max()) <= float(wall.reach) * 1.001
    assert float(jnp.abs(rough).max()) < 100


def test_an_uncalibrated_wall_is_nowhere(downhill, recipe):
    energy, galaxies = downhill
    confined = Confined(energy, initial_wall(recipe))
    a, sigma = 1e3 * galaxies[0], jnp.asarray(0.1)
    np.testing.assert_array_equal(confined.mode_energy(a, sigma), energy.mode_energy(a, sigma))
    assert np.isfinite(jax.grad(confined.mode_energy)(a, sigma)).all()


def test_both_stages_resume_bit_identically_and_load(recipe, tmp_path):
    whole = train(recipe, tmp_path / "whole")
    assert (whole.step, whole.num_steps, whole.finished) == (80, 80, True)

    def crash(step, total, text):
        assert total == 80
        if step == 60:
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        train(recipe, tmp_path / "part", progress=crash, checkpoint_seconds=0.0)
    steps = []
    rest = train(recipe, tmp_path / "part", progress=lambda step, *_: steps.append(step))
    # The block at 60 was done, but not yet saved.
    assert steps == [60, 70, 80]
    for a, b in zip(jax.tree.leaves(whole.prior), jax.tree.leaves(rest.prior), strict=True):
        np.testing.assert_array_equal(a, b)

    path = save_prior(tmp_path / "small.safetensors", rest.prior, recipe)
    loaded = load_prior(path).energy
    for a, b in zip(
        jax.tree.leaves(loaded.wall), jax.tree.leaves(rest.prior.energy.wall), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_another_wall_keeps_the_energy(recipe, tmp_path):
    first = train(recipe, tmp_path / "run")
    other = dataclasses.replace(recipe.confinement, steps=0)
    bare = train(dataclasses.replace(recipe, confinement=other), tmp_path / "run")
    assert isinstance(bare.prior.energy, WienerEnergy)
    for a, b in zip(
        jax.tree.leaves(bare.prior.energy.network),
        jax.tree.leaves(first.prior.energy.energy.network),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
