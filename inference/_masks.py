"""Masked elements of latent sites, which have no density of their own."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to
from numpyro.infer import init_to_feasible

from scorepriors._errors import InputError
from scorepriors._traces import Kept

from ._posterior import Posterior, latent_trace, mask_of


def check_masks(bound: Posterior) -> None:
    """Refuse masked elements of latent sites on which the density does not depend.

    NumPyro makes of ``numpyro.sample(..., obs_mask=...)`` a latent site of all elements whose
    observed ones are masked: directions without an end in which the density is flat.  A mask over
    a site whose density comes from a `numpyro.factor` is fine.

    Raises
    ------
    InputError
        For such elements.
    """
    if not bound.masked_sites():
        return
    found = jax.device_get(_flat(bound, jax.random.key(0)))
    for name, flat in found.items():
        if flat.any():
            raise InputError(
                f"the latent site {name!r} is masked, and {int(flat.sum())} of its {flat.size} "
                "elements are left without any density (with `obs_mask=` those that are observed), "
                "so they can be anywhere; make two sites of it: "
                '`numpyro.sample("y_seen", dist.Normal(mean[seen], width), obs=y[seen])` and '
                '`numpyro.sample("y_missing", dist.Normal(mean[missing], width))`, with `seen` and '
                "`missing` the numbers of the elements."
            )


@Kept
def _flat(bound: Posterior, key) -> dict:
    """Return which elements of the parameters of masked sites have no density."""
    sites = latent_trace(bound, {}, key, init_to_feasible())
    u = {name: biject_to(site["fn"].support).inv(site["value"]) for name, site in sites.items()}
    # Away from the middle of the supports, where a slope may be zero for another reason.
    middle, unravel = ravel_pytree(u)
    slopes = jax.grad(bound.potential_fn)(
        unravel(middle + 0.3 * jax.random.normal(key, middle.shape, middle.dtype))
    )
    flat = {}
    for name, site in sites.items():
        mask = mask_of(site["fn"])
        if mask is not None:
            event = biject_to(site["fn"].support).domain.event_dim
            mask = jnp.reshape(mask, jnp.shape(mask) + (1,) * event)
            flat[name] = ~mask & (slopes[name] == 0)
    return flat
