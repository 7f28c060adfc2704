"""Common base of sources with Gaussian shape parameters: sites and start values."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float

from scorepriors._typing import Array

from ._abstract import AbstractSource, Look


class Site(eqx.Module):
    """A site of K sources, with a Gaussian prior.

    Attributes
    ----------
    mean, width
        Mean and standard deviation of the prior.
    axis
        Name of the axis of a pair of numbers, for ArviZ; empty for single numbers.
    known
        Approximate inverse error of the site from the data per unit of signal to noise; it
        sets the first steps of a fit.
    """

    mean: Any
    width: Any
    axis: str = eqx.field(static=True, default="")
    known: float = eqx.field(static=True, default=0.5)


#: Largest inverse error assumed at the start, from data: positions may be wrong by far more than
#: a bright source's error, and steps of a hundred widths are a worse search than a somewhat
#: ill-conditioned one.
MOST_KNOWN = 30.0


class AbstractParametric(AbstractSource):
    """Sources whose sites are all numbers, or pairs of them, with Gaussian priors.

    A subclass has the field `sites` and draws the image; `sample` and `start` follow.

    Attributes
    ----------
    sites
        Sites by name.  A site ``offset`` is the distance (row, column) from the given position
        in pixels, a site ``log_radius`` the logarithm of a radius in pixels.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    """

    sites: eqx.AbstractVar[dict[str, Site]]
    psf_sigma: eqx.AbstractVar[Float[Array, ""]]

    def sample(self) -> dict:
        """Draw every site from its prior."""
        values = {}
        with numpyro.plate("source", len(self.at)):
            for name, site in self.sites.items():
                prior, infer = dist.Normal(site.mean, site.width), {}
                if site.axis:
                    prior, infer = prior.expand([2]).to_event(1), {"event_dims": [site.axis]}
                values[name] = numpyro.sample(name, prior, infer=infer)
        return values

    def start(self, look: Look) -> tuple[dict, dict]:
        """Start at the priors' means, with widths that depend on brightness.

        ``log_radius`` starts at the radius of `look`, if that has one.
        """
        values, widths = {}, {}
        for name, site in self.sites.items():
            shape = (len(self.at), 2) if site.axis else (len(self.at),)
            mean = float(site.mean)
            if name == "log_radius" and look.radius is not None:
                mean = math.log(look.radius)
            known = np.minimum(site.known * look.snr, MOST_KNOWN)
            width = 1 / np.sqrt(1 / float(site.width) ** 2 + known**2)
            values[name] = np.full(shape, mean)
            widths[name] = width[:, None] if site.axis else width
        if look.values is not None:
            values = {name: np.asarray(look.values[name]) for name in values}
        return values, widths

    def settings(self) -> dict[str, Any]:
        """Return model PSF and priors of the sites."""
        sites = {
            name: {
                "mean": float(site.mean),
                "width": float(site.width),
                "axis": site.axis,
                "known": site.known,
            }
            for name, site in self.sites.items()
        }
        return {"psf_sigma": float(self.psf_sigma), "sites": sites}

    def place(self, values: dict, xp: Any = jnp):
        """Return centers (row, column) in the boxes, ``[K, 2]``."""
        return xp.asarray(self.at.center) + values["offset"] - xp.asarray(self.at.corner)


def as_arrays(sites: dict[str, Any]) -> dict[str, Site]:
    """Return sites, given as such or as in `settings`, with arrays for their priors.

    Other values of the priors then recompile nothing.
    """
    made = {n: Site(**site) if isinstance(site, dict) else site for n, site in sites.items()}
    return {
        name: Site(
            np.asarray(site.mean, np.float32),
            np.asarray(site.width, np.float32),
            site.axis,
            site.known,
        )
        for name, site in made.items()
    }
