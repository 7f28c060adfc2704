"""Minus the log-density of stretched images, as a function that is a pytree."""

import equinox as eqx
from jaxtyping import Array, Float

from scorepriors._distribution import ScorePrior


class StretchedEnergy(eqx.Module):
    """Minus the log-density of a prior's stretched image ``[n, n]``, up to a constant.

    Attributes
    ----------
    prior
        The prior, at its sigma0.
    """

    prior: ScorePrior

    def __call__(self, z: Float[Array, "n n"]) -> Float[Array, ""]:
        return self.prior.potential(z)
