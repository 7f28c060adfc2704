"""What diagonals of a prior's Hessian cost, in network gradients.

    pytest benchmarks/test_hessian_speed.py --benchmark-only

One gradient here is one image's share of a call with 64 images side by side, which is how
the products are made too.
"""

import time

import jax
import numpy as np
import pytest

from scorepriors import load_prior
from scorepriors.inference.curvature._hessian import diagonal, hessian
from scorepriors.inference.diagnosis._stretched import StretchedEnergy

SIDE_BY_SIDE = 64


@pytest.fixture(scope="module")
def operator():
    prior = load_prior("lsst-32")
    image = prior.sample(jax.random.key(0), (1,))[0]
    return hessian(StretchedEnergy(prior), prior.stretch.inv(image))


@pytest.fixture(scope="module")
def seconds_per_gradient(operator):
    """Median over ten calls of 64 gradients."""
    gradient = jax.jit(jax.vmap(jax.grad(operator.function)))
    images = jax.numpy.broadcast_to(operator.point, (SIDE_BY_SIDE, *operator.point.shape))
    jax.block_until_ready(gradient(images))
    spent = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(gradient(images))
        spent.append(time.perf_counter() - start)
    return float(np.median(spent)) / SIDE_BY_SIDE


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("exact", {"method": "exact"}),
        ("hutchinson, 1 %", {"method": "hutchinson", "relative_error": 0.01}),
        ("xdiag, 512 probes", {"method": "xdiag", "num_probes": 512}),
    ],
)
def test_diagonal(benchmark, operator, seconds_per_gradient, name, options):
    sigma = float(operator.function.prior.sigma)
    if options["method"] == "xdiag":
        options = options | {"shift": sigma**-2}
    exact = np.asarray(diagonal(operator, method="exact").value)

    def run():
        return diagonal(operator, key=jax.random.key(1), **options)

    found = benchmark.pedantic(run, rounds=3, warmup_rounds=1)
    error = np.linalg.norm(np.asarray(found.value) - exact) / np.linalg.norm(exact)
    benchmark.extra_info |= {
        "gradients": round(benchmark.stats["median"] / seconds_per_gradient),
        "products": found.num_products,
        "relative error": float(error),
    }
    print(f"\n{name}: {benchmark.extra_info}")
