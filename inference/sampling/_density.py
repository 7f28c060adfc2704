"""Log-density of a posterior in the coordinates of chains, accurate in single precision."""

import equinox as eqx
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from scorepriors._traces import Kept
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.curvature._preconditioner import LowRankMap, identity_map

from ._abstract import Coordinates

#: Number of directions in which warm-up draws correct the curvature.
REFINEMENT_RANK = 64


class Problem(eqx.Module):
    """A posterior, with its density at the origin by site.

    Differences from that are summed element by element, so that they are accurate in float32
    for the Metropolis test.
    """

    coordinates: Coordinates
    reference: dict


class LogDensity(eqx.Module):
    """Log-density of a posterior in the coordinates of the chains."""

    problem: Problem
    refinement: LowRankMap

    def __call__(self, q):
        coordinates = self.problem.coordinates
        terms = coordinates.bound.log_density_terms(coordinates.params(self.refinement(q)))
        return sum(
            (jnp.sum(term - self.problem.reference[name]) for name, term in terms.items()),
            start=0.0,
        )


def problem_at(bound: Posterior, origin: dict, curvature: LowRankMap) -> Problem:
    """Return the problem in coordinates about an origin."""
    return Problem(Coordinates(bound, origin, curvature), _terms(bound, origin))


def no_refinement(origin: dict) -> LowRankMap:
    """Return the identity, in the shape of a refinement."""
    flat, _ = ravel_pytree(origin)
    return identity_map(len(flat), min(REFINEMENT_RANK, len(flat)), flat.dtype)


@Kept
def _terms(bound: Posterior, origin: dict) -> dict:
    return bound.log_density_terms(origin)
