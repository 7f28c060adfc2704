"""Network calls, MAP iterations and thirty blends, as multiples of the arithmetic."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors import load_prior
from scorepriors.inference._posterior import posterior
from scorepriors.inference.deblending._deblend import deblend_many
from scorepriors.models.data.positions._reading import read_positions
from scorepriors.models.scene._blend import blend
from scorepriors.models.scene._scene import Scene
from scorepriors.models.scene._start import start_values
from scorepriors.models.simulation._example import load_example
from scorepriors.models.simulation._simulation import simulate_blend
from scorepriors.models.sources._bulge_disk import BulgeDisk
from scorepriors.models.sources._free_form import FreeForm
from scorepriors.models.sources._placement import place_sources


@pytest.fixture(scope="session")
def flops_per_second():
    """Rate of a 1024 x 1024 float32 matrix product, the best of ten."""
    a = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        product(a).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(times)


def network_flops(prior, images):
    """Multiply-adds of value and gradient: the forward pass and as much again."""
    matrices = sum(leaf.size for leaf in jax.tree.leaves(prior.params) if leaf.ndim == 2)
    return 2 * 2 * matrices * images


@pytest.mark.parametrize("images", [5, 64])
def test_network_call(benchmark, flops_per_second, images):
    prior = load_prior("lsst-32")
    x = prior.sample(jax.random.key(0), (images,))
    call = jax.jit(jax.value_and_grad(lambda x: prior.log_prob(x).sum()))
    jax.block_until_ready(call(x))
    benchmark(lambda: jax.block_until_ready(call(x)))
    arithmetic = network_flops(prior, images) / flops_per_second
    benchmark.extra_info["times_arithmetic"] = benchmark.stats["min"] / arithmetic


def test_share_of_the_network_in_a_gradient(benchmark):
    obs, truth = load_example()
    prior = load_prior("lsst-32")
    at = place_sources(truth.center, box=32, size=8)
    scene = Scene.build(obs, galaxies=FreeForm(prior, at))
    bound = posterior(blend, scene)
    u = bound.start(
        {
            "galaxies/morphology": prior.sample(jax.random.key(0), (8,)),
            "brightness": jnp.full(8, 6.0),
        },
        key=jax.random.key(1),
    )
    whole = jax.jit(jax.value_and_grad(lambda b, u: b.potential_fn(u), argnums=1))
    network = jax.jit(jax.value_and_grad(lambda x: prior.log_prob(x).sum()))
    x = jnp.exp(u["galaxies/morphology"]) - 0.05
    jax.block_until_ready((whole(bound, u), network(x)))
    times = []
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(network(x))
        times.append(time.perf_counter() - start)
    benchmark(lambda: jax.block_until_ready(whole(bound, u)))
    benchmark.extra_info["network_share"] = min(times) / benchmark.stats["min"]


def thirty_blends():
    rng = np.random.default_rng(0)
    observations = [
        simulate_blend(int(rng.integers(2, 9)), seed=100 + i, spread=9.0)[0] for i in range(30)
    ]
    return observations, [read_positions(obs.catalog, obs) for obs in observations]


@pytest.mark.parametrize("compilation", [True, False])
def test_thirty_blends(benchmark, flops_per_second, compilation):
    """As multiples of the network's arithmetic for the sources there are, no padding."""
    observations, positions = thirty_blends()
    prior = load_prior("lsst-32")
    results = []
    if not compilation:
        deblend_many(observations[:2], positions[:2], prior=prior, padding=8)

    def run():
        if compilation:
            jax.clear_caches()
        results[:] = deblend_many(observations, positions, prior=prior, padding=8)

    benchmark.pedantic(run, rounds=1)
    images = sum(len(r.positions.ids) * int(r.free_form.fit.num_iterations) for r in results)
    arithmetic = network_flops(prior, images) / flops_per_second
    benchmark.extra_info["times_arithmetic"] = benchmark.stats["min"] / arithmetic
    benchmark.extra_info["converged"] = sum(r.converged for r in results)
    for stage in ("parametric", "free_form"):
        benchmark.extra_info[stage] = sum(r.seconds[stage] for r in results)


def test_profile_start(benchmark):
    obs, truth = load_example()
    scene = Scene.build(obs, profiles=BulgeDisk(place_sources(truth.center, box=32, size=8)))
    benchmark(lambda: start_values(scene))
