"""Points about which chains begin."""

from typing import Any

import blackjax
import equinox as eqx
import jax

from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior
from scorepriors.inference.fitting._map import MAPResult, fit_map

#: Expected gain, in nats, below which an unconverged fit is close enough to its mode.
NEAR_MODE = 0.1


def origin_of(bound: Posterior, init: str | dict | MAPResult, key) -> tuple[dict, str]:
    """Return the unconstrained point about which chains start, and its origin in words.

    Parameters
    ----------
    bound
        The posterior.
    init
        Argument of `scorepriors.inference.sample`.
    key
        Random key for fits, and for sites without a value.

    Raises
    ------
    InputError
        For an `init` that is none of those.
    """
    if isinstance(init, MAPResult):
        return bound.start({n: init.values[n] for n in bound.sites()}, key=key), "given mode"
    if isinstance(init, dict):
        return bound.start(init, key=key), "given values"
    if init == "map":
        try:
            fit = fit_map(bound, key=key, max_iterations=1000)
        except InputError:
            return bound.start(key=key), "uniform"
        # Rounding in a very bright scene can prevent convergence: near the mode is enough.
        # A mode at infinity always has a larger expected gain.
        if fit.converged or 0 <= float(fit.expected_gain) < NEAR_MODE:
            return fit.params, "map"
        return bound.start(key=key), "uniform"
    if init == "pathfinder":
        first, second = jax.random.split(key)
        return _pathfinder(bound, bound.start(key=first), second), "pathfinder"
    if init == "uniform":
        return bound.start(key=key), "uniform"
    raise InputError(
        f"`init` must be 'map', 'pathfinder', 'uniform', site values or a MAPResult, got {init!r}."
    )


@eqx.filter_jit
def _pathfinder(bound: Posterior, start: dict, key) -> Any:
    state, _ = blackjax.vi.pathfinder.approximate(key, bound.log_density, start)
    return state.position
