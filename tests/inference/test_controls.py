"""Negative controls: errors that the comparison with closed forms must detect."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from blackjax.mcmc import hmc
from blackjax.mcmc.integrators import IntegratorState
from scipy.special import gamma

from scorepriors import InputError
from scorepriors.inference import AbstractGradientSampler, Move, SamplingWarning, sample
from scorepriors.inference.sampling._checks import check_gradient
from scorepriors.inference.sampling._tree import group


def path_integral(nodes, weights):
    """Leapfrog that adds up the score along its path, with a quadrature rule on (0, 1).

    Who has a score and no density may take the change of energy from it: right to the
    order of the rule, which must be higher than that of the error of the leapfrog.
    """

    def integrator(logdensity_fn, kinetic_energy_fn):
        gradient = jax.grad(logdensity_fn)

        def one_step(state, step_size):
            half = state.momentum + 0.5 * step_size * state.logdensity_grad
            moved = step_size * half  # the inverse mass is the identity
            end = state.position + moved
            last = gradient(end)
            slopes = [state.logdensity_grad]
            slopes += [gradient(state.position + t * moved) for t in nodes[1:-1]]
            slopes += [last]
            change = sum(w * jnp.vdot(s, moved) for w, s in zip(weights, slopes, strict=True))
            return IntegratorState(
                end, half + 0.5 * step_size * last, state.logdensity + change, last
            )

        return one_step

    return integrator


class AlongThePath(AbstractGradientSampler):
    """Hamiltonian Monte Carlo with an integrator of its own."""

    target_acceptance_rate: float = 0.6
    nodes: tuple = eqx.field(default=(), static=True)
    weights: tuple = eqx.field(default=(), static=True)

    name = "along_the_path"
    note = "Along the path."
    exact = True

    def first_step_size(self, dimension):
        return dimension**-0.25

    def begin(self, key, position, logdensity_fn):
        return hmc.init(position, logdensity_fn)

    def move(self, key, state, logdensity_fn, tuned, jitter):
        count = jnp.clip(jnp.ceil(tuned.length / tuned.step_size), 1, 64).astype(jnp.int32)
        kernel = hmc.build_kernel(path_integral(self.nodes, self.weights))
        one = jnp.ones_like(state.position)
        state, info = kernel(key, state, logdensity_fn, tuned.step_size, one, count)
        return state, Move(info.acceptance_rate, info.is_divergent, count, info.energy)


TRAPEZOID = AlongThePath(nodes=(0.0, 1.0), weights=(0.5, 0.5))
SIMPSON = AlongThePath(nodes=(0.0, 0.5, 1.0), weights=(1 / 6, 4 / 6, 1 / 6))


def quartic():
    with numpyro.plate("i", 50):
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("f", -(x**4) / 4)


def run(model, *args, **options):
    options = {"key": jax.random.key(0), "num_warmup": 400, "num_samples": 1500, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)
        return sample(model, *args, **options)


@pytest.mark.parametrize(("algorithm", "right"), [(SIMPSON, True), (TRAPEZOID, False)])
def test_only_the_trapezoid_rule_is_off_on_the_quartic(algorithm, right):
    tree = run(quartic, algorithm=algorithm, init="uniform")
    x = np.asarray(group(tree, "posterior")["x"])
    off = (x**2).mean() / (2 * gamma(0.75) / gamma(0.25)) - 1
    if right:
        assert abs(off) < 0.01
    else:
        assert abs(off) > 0.03


@jax.custom_jvp
def forceless(q):
    """A density that moves nothing: what a score left out of the gradient looks like."""
    return -0.5 * jnp.sum(q**2)


forceless.defjvp(lambda primals, tangents: (forceless(*primals), jnp.zeros_like(tangents[0][0])))


def test_rounding_is_forgiven_and_a_missing_part_is_not():
    """Numbers of a million leave single precision a sixteenth of a nat."""
    at, key = jnp.ones(30, jnp.float32), jax.random.key(0)

    def rounded(part):
        return lambda q: (part(q) - 1e6 * jnp.cos(1e-3 * q[0])) + 1e6 * jnp.cos(1e-3 * q[0])

    check_gradient(jax.tree_util.Partial(rounded(lambda q: -0.5 * jnp.sum(q**2))), at, key)
    with pytest.raises(InputError, match="is not that of the log-density"):
        check_gradient(jax.tree_util.Partial(rounded(forceless)), at, key)
