"""Stars that move between exposures: proper motions, and bodies of the solar system."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from scorepriors._typing import Array

from ._abstract import Look
from ._parametric import AbstractParametric, Site
from ._placement import Placement
from ._point import SETTLED, point_image

#: Side of the boxes of stars that move, pixels: that of others, and as much again on either side.
MOVING_BOX = 31

#: Standard deviation of the way between the first and the last exposure, pixels.
WAY = 3.0


class MovingStar(AbstractParametric):
    """Stars on straight lines: sites ``offset [K, 2]`` and ``way [K, 2]`` in pixels.

    A star is at its position plus `offset` in the middle of all times, and goes by `way` from the
    first to the last.

    Attributes
    ----------
    at
        Positions of the sources in the middle of the times.
    name
        Name of the group.
    phase
        Time of every exposure, ``[E]``: -1/2 for the first, 1/2 for the last.
    days
        Days between these two.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    sites
        Priors of the sites.
    """

    at: Placement
    name: str = eqx.field(static=True)
    phase: Float[Array, " E"]
    days: float = eqx.field(static=True)
    psf_sigma: Float[Array, ""]
    sites: dict[str, Site]

    flag: ClassVar[str] = "point"

    def __init__(
        self,
        at: Placement,
        name: str = "moving",
        *,
        phase,
        days: float,
        psf_sigma: float = 0.7,
        center_error: float = 0.3,
    ):
        self.at, self.name, self.psf_sigma = at, name, np.asarray(psf_sigma, np.float32)
        self.phase, self.days = np.asarray(phase, np.float32), float(days)
        # The position in the catalog may be that of any time.
        error = float(np.hypot(center_error, WAY / 3))
        self.sites = {"offset": Site(0.0, error, "axis", 0.7), "way": Site(0.0, WAY, "axis", 0.3)}

    def image(self, values: dict, xp: Any = jnp):
        """Return the model PSF at the positions in the middle of the times."""
        place = self.place(values, xp)
        return point_image(place, box=self.at.box, psf_sigma=self.psf_sigma, xp=xp)

    def image_in(self, values: dict, number: int, xp: Any = jnp):
        """Return the model PSF at the positions in one of the exposures."""
        place = self.place(values, xp) + self.phase[number] * values["way"]
        return point_image(place, box=self.at.box, psf_sigma=self.psf_sigma, xp=xp)

    def image_at_phase(self, values: dict, phase: float, steps, xp: Any = jnp):
        """Return the model PSF at the positions at any time, in boxes moved by whole pixels.

        Parameters
        ----------
        values
            Values of the sites.
        phase
            The time, in units of that between the first and the last exposure, from their middle.
        steps
            Pixels (rows, columns) by which the boxes start later, ``[K, 2]``.
        xp
            NumPy or `jax.numpy`.
        """
        place = self.place(values, xp) + phase * values["way"] - steps
        return point_image(place, box=self.at.box, psf_sigma=self.psf_sigma, xp=xp)

    def guess(self, width: float):
        """Return the model PSF; `width` does not matter."""
        return super().guess(float(self.psf_sigma))

    def start(self, look: Look) -> tuple[dict, dict]:
        """Start at rest at the given positions, or at those of an earlier fit."""
        values, widths = super().start(look)
        if look.values is not None:
            widths = {name: np.full_like(value, SETTLED) for name, value in values.items()}
        return values, widths

    def settings(self) -> dict[str, Any]:
        """Return the times and the width of the model PSF."""
        return {"phase": np.asarray(self.phase, float).tolist(), "days": self.days} | (
            super().settings()
        )
