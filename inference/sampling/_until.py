"""Runs that end when their chains agree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np
import xarray

from scorepriors._errors import InputError
from scorepriors._traces import Kept

from ._abstract import Coordinates
from ._diagnostics import MAX_RHAT, MIN_ESS
from ._rhat import rank_rhat
from ._tree import effective_sizes

#: Constrained values of draws by site, ``[N, ...]``, to quantities ``[N, m]``.
Quantities = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def every_element(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return all elements of all sites, ``[N, m]``."""
    return np.concatenate([v.reshape(len(v), -1) for v in values.values()], axis=1)


@dataclass(frozen=True)
class Until:
    """A run that goes on until its chains agree, in place of a number of draws.

    It ends at the first look at which all quantities have an R-hat below `rhat` and at least `ess`
    effective draws (Vehtari et al. 2021, arXiv:1903.08008).

    Attributes
    ----------
    at_most
        Largest number of draws per chain.
    at_least
        Number of draws per chain before the first look.
    every
        Number of draws per chain between looks.
    rhat, ess
        Limits: of the largest R-hat and the fewest effective draws.
    quantities
        Function of constrained values of draws by site, ``[N, ...]``, to quantities ``[N, m]``;
        every element of every site if not given.  Of hundreds of elements some have an R-hat above
        1.01 by chance: choose what you need.

    Raises
    ------
    InputError
        For limits out of range.

    Examples
    --------
    >>> Until(ess=1000, quantities=lambda values: values["slope"][:, None]).at_most
    2000
    """

    at_most: int = 2000
    at_least: int = 100
    every: int = 100
    rhat: float = MAX_RHAT
    ess: float = MIN_ESS
    quantities: Quantities = every_element

    def __post_init__(self):
        if not 4 <= self.at_least <= self.at_most:
            raise InputError(
                f"`at_least` must be between 4 and at_most={self.at_most}, got {self.at_least}."
            )
        if self.every < 1:
            raise InputError(f"`every` must be at least 1, got {self.every}.")
        if not self.rhat > 1 or not self.ess > 0:
            raise InputError(
                f"`rhat` must be above 1 and `ess` above 0, got {self.rhat} and {self.ess}."
            )

    def of(self, quantities: Quantities) -> "Until":
        """Return the same limits for other quantities."""
        return replace(self, quantities=quantities)

    def looks(self, kept: int, before: int) -> bool:
        """Return whether a look is due at `kept` draws, with `before` at the last block's end."""
        if kept < self.at_least:
            return False
        number = (kept - self.at_least) // self.every
        return before < self.at_least or number > (before - self.at_least) // self.every

    def met(self, found: np.ndarray) -> bool:
        """Return whether quantities ``[C, n, m]`` are within the limits."""
        if not np.max(rank_rhat(found)) < self.rhat:
            return False
        draws = xarray.Dataset({"x": (("chain", "draw", "element"), found)})
        return bool(np.min(effective_sizes(draws)["x"]) >= self.ess)


def quantities_of(until: Until, coordinates: Coordinates, positions: np.ndarray) -> np.ndarray:
    """Return the quantities ``[n, C, m]`` of a block ``[n, C, d]`` of kept positions."""
    count, chains = positions.shape[:2]
    values = _constrained(coordinates, positions.reshape(count * chains, -1))
    found = np.asarray(until.quantities({n: np.asarray(v) for n, v in values.items()}), float)
    if found.ndim != 2 or len(found) != count * chains:
        raise InputError(
            f"`quantities` returned the shape {found.shape} for {count * chains} draws; return "
            f"[{count * chains}, m]."
        )
    return found.reshape(count, chains, -1)


@Kept
def _constrained(coordinates: Coordinates, positions):
    def one(position):
        return coordinates.bound.constrain(coordinates.params(position), deterministics=False)

    return jax.vmap(one)(positions)
