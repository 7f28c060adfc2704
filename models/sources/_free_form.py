"""Free-form sources: every pixel free, under a learned prior."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors.models.rendering._information import likelihood_diagonal_on_host

from ._abstract import AbstractSource, Look
from ._placement import Placement


class FreeForm(AbstractSource):
    """Galaxies whose images are drawn from a prior, with the site ``morphology [K, n, n]``.

    Attributes
    ----------
    prior
        Prior of each image; None where only images of given values are needed.
    at
        Positions of the sources, with boxes of the prior's size.
    name
        Name of the group.
    axes
        Names of the rows and columns of the boxes, for ArviZ; groups with boxes of different
        sizes need different ones.
    """

    # Not `ScorePrior | None`: fits and draws always have one.
    prior: Any
    at: Placement
    name: str = eqx.field(static=True)
    axes: tuple[str, str] = eqx.field(static=True)

    def __init__(
        self,
        prior: ScorePrior | None,
        at: Placement,
        name: str = "galaxies",
        axes: tuple[str, str] = ("box_y", "box_x"),
    ):
        self.prior, self.at, self.name, self.axes = prior, at, name, axes

    def __check_init__(self):
        if self.prior is not None and self.prior.event_shape[-1] != self.at.box:
            raise InputError(
                f"the boxes have {self.at.box} pixels, the prior {self.prior.event_shape[-1]}; "
                "place the sources with `box=prior.event_shape[-1]`."
            )

    @property
    def learned(self) -> ScorePrior | None:
        """The prior."""
        return self.prior

    def sample(self) -> dict:
        """Draw the images from the prior."""
        with numpyro.plate("source", len(self.at)):
            infer = {"event_dims": list(self.axes)}
            return {"morphology": numpyro.sample("morphology", self.prior, infer=infer)}

    def image(self, values: dict, xp: Any = jnp):
        """Return the images, which are the site's values."""
        return xp.asarray(values["morphology"])

    def settings(self) -> dict:
        """Return names of the axes; the prior is not stored in JSON."""
        return {"axes": list(self.axes)}

    def start(self, look: Look) -> tuple[dict, dict]:
        """Start at the images of `look`, with peaks of one.

        Widths are those of a Gaussian with the curvature of the likelihood's diagonal plus the
        prior's noise floor, in the unconstrained space.
        """
        image = np.asarray(look.image)
        scaled = image / image.max((-2, -1), keepdims=True)
        image = self.prior.stretch.clip(scaled, np)
        real = np.asarray(self.at.mask)[:, None]
        amplitude = np.where(real, look.flux / image.sum((-2, -1))[:, None], 0.0)
        corner, box = np.asarray(self.at.corner), self.at.box
        information = likelihood_diagonal_on_host(look.exposures, amplitude, corner, box)
        by_u, z_by_u = self.prior.stretch.slopes(image, np)
        floor = (z_by_u / float(self.prior.sigma)) ** 2
        return {"morphology": image}, {"morphology": 1 / np.sqrt(information * by_u**2 + floor)}
