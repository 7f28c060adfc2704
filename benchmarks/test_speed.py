"""Network calls, iterations of fits and thirty blends, as multiples of the arithmetic."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scorepriors import load_prior
from scorepriors.inference._posterior import posterior
from scorepriors.inference.deblending import _deblend
from scorepriors.inference.deblending._deblend import deblend_many
from scorepriors.inference.fitting._map import fit_map
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
    return 2 * 1024**3 / shortest(lambda: product(a), 10)


def shortest(call, rounds=20):
    """Return the least seconds of a call, compiled before."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def network_flops(prior, images):
    """Multiply-adds of value and gradient: the forward pass and as much again."""
    matrices = sum(leaf.size for leaf in jax.tree.leaves(prior.params) if leaf.ndim == 2)
    return 2 * 2 * matrices * images


@pytest.mark.parametrize("images", [5, 8, 64])
def test_network_call(benchmark, flops_per_second, images):
    prior = load_prior("lsst-32")
    x = prior.sample(jax.random.key(0), (images,))
    call = jax.jit(jax.value_and_grad(lambda x: prior.log_prob(x).sum()))
    jax.block_until_ready(call(x))
    benchmark(lambda: jax.block_until_ready(call(x)))
    arithmetic = network_flops(prior, images) / flops_per_second
    benchmark.extra_info["times_arithmetic"] = benchmark.stats["min"] / arithmetic
    benchmark.extra_info["share_of_matmul_rate"] = arithmetic / benchmark.stats["min"]


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
    jax.block_until_ready(whole(bound, u))
    own = shortest(lambda: network(x))
    benchmark(lambda: jax.block_until_ready(whole(bound, u)))
    benchmark.extra_info["network_share"] = own / benchmark.stats["min"]
    benchmark.extra_info["times_network"] = benchmark.stats["min"] / own


def eight_fits(prior):
    """The call of the free-form fits of eight blends of eight sources, as `deblend_many` makes it."""
    calls = []

    def recording(*args, **options):
        calls.append((args, options))
        return fit_map(*args, **options)

    observations = [simulate_blend(8, seed=300 + i, spread=9.0)[0] for i in range(8)]
    positions = [read_positions(obs.catalog, obs) for obs in observations]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_deblend, "fit_map", recording)
        # Once: neither outliers nor errors of the model begin fits anew.
        once = {"outliers": False, "model_error": False}
        deblend_many(observations, positions, prior=prior, padding=8, side_by_side=8, **once)
    return next(call for call in calls if call[1]["side_by_side"] == 8)


def test_eight_fits_side_by_side(benchmark, flops_per_second):
    """Time per fit and iteration, as a multiple of the network's own for eight of 64 images."""
    prior = load_prior("lsst-32")
    args, options = eight_fits(prior)

    def fit(iterations):
        start = time.perf_counter()
        # No fit ends before.
        found = fit_map(*args, **options | {"tolerance": 1e-9, "max_iterations": iterations})
        assert set(np.asarray(found.num_iterations)) == {iterations}
        return time.perf_counter() - start

    few, many = 10, 50
    start = min(fit(few) for _ in range(3))
    benchmark.pedantic(fit, (many,), rounds=3, warmup_rounds=1)
    each = (benchmark.stats["min"] - start) / (many - few) / 8
    x = prior.sample(jax.random.key(0), (64,))
    network = jax.jit(jax.value_and_grad(lambda x: prior.log_prob(x).sum()))
    own = shortest(lambda: network(x)) / 8
    benchmark.extra_info["milliseconds_per_fit_and_iteration"] = 1e3 * each
    benchmark.extra_info["times_network"] = each / own
    arithmetic = network_flops(prior, 8) / flops_per_second
    benchmark.extra_info["times_arithmetic"] = each / arithmetic


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
