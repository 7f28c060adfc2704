"""Common base of sources with Gaussian shape parameters: sites and start values."""

import inspect
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Float, Int

from scorepriors._errors import InputError
from scorepriors._typing import Array

from ._abstract import AbstractSource, Look


def single(number: Any) -> Any:
    """Return an array for a Python number, so that another value of it recompiles nothing."""
    return np.asarray(number, np.float32) if isinstance(number, int | float) else number


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

    mean: Any = eqx.field(converter=single)
    width: Any = eqx.field(converter=single)
    axis: str = eqx.field(static=True, default="")
    known: float = eqx.field(static=True, default=0.5)


#: Largest inverse error assumed at the start, from data: positions may be wrong by far more than
#: a bright source's error, and steps of a hundred widths are a worse search than a somewhat
#: ill-conditioned one.
MOST_KNOWN = 30.0


class AbstractParametric(AbstractSource):
    """Sources whose sites are all numbers, or pairs of them, with Gaussian priors.

    A subclass has the field `sites` and draws the image; `sample` and `start` follow.  Its `image`
    may take ``pixels`` ``[K, P, 2]`` of each box, and then returns ``[K, P]``: see `image_at`.

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

    def __check_init__(self):
        if "offset" in self.sites and not self.sites["offset"].axis:
            raise InputError(
                f"the site 'offset' of {type(self).__name__} is a pair (row, column); give it the "
                'name of its axis: `Site(0.0, center_error, "axis")`.'
            )

    def image_at(self, values: dict, pixels: Int[Array, "K P 2"]) -> Float[Array, "K P"]:
        """Return the images at pixels (row, column) of each box.

        Where the method `image` of a kind takes an argument ``pixels``, the rest is not drawn.

        Parameters
        ----------
        values
            Site values by name without prefix.
        pixels
            Pixels of each box, the same number of each.
        """
        if "pixels" in inspect.signature(type(self).image).parameters:
            return self.image(values, jnp, pixels=pixels)  # type: ignore[call-arg]
        image = self.image(values, jnp)
        number = pixels[..., 0] * self.at.box + pixels[..., 1]
        return jnp.take_along_axis(image.reshape(len(image), -1), number, 1)

    def settings(self) -> dict[str, Any]:
        """Return the width of the model PSF; kinds with settings of their own add them."""
        return {"psf_sigma": float(self.psf_sigma)}

    def place(self, values: dict, xp: Any = jnp):
        """Return centers (row, column) in the boxes, ``[K, 2]``."""
        if "offset" not in values:
            raise InputError(
                f"{type(self).__name__} has no site 'offset', which `place` needs; its sites are "
                f"{', '.join(values)}."
            )
        center = xp.asarray(self.at.center)
        # NumPy would make float64 of float32 and integers, five times as slow on the host.
        return center + values["offset"] - xp.asarray(self.at.corner, center.dtype)
