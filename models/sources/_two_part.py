"""Free-form sources in which light moves between a bulge and a disk of other colors."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scorepriors._distribution import ScorePrior
from scorepriors._typing import Array

from ._abstract import AbstractSource, Gradient, Look
from ._free_form import FreeForm
from ._placement import Placement
from ._two_color import TwoColor


class TwoPart(AbstractSource):
    """Galaxies drawn from a prior, with the color gradients of a bulge and disk.

    ``morphology [K, n, n]`` is the whole galaxy at its mean color, of which the prior knows.  What the
    colors of its parts differ by moves between a bulge and a disk of given shapes, those of a fit of
    `TwoColor`: were they free, they could take the place of the galaxy.

    Attributes
    ----------
    prior, at, name, axes
        Those of `FreeForm`.
    rows
        Rows in the catalog of the values below, ``[S]``.
    shapes
        Values ``[S, ...]`` of the sites of `TwoColor`; offsets are those from `at`.
    flux
        Fluxes ``[S, B]`` of that fit: gradients are in proportion to these.  Were they to the
        brightness, a galaxy much brighter than what is seen of it could have any.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    """

    prior: Any
    at: Placement
    name: str = eqx.field(static=True)
    axes: tuple[str, str] = eqx.field(static=True)
    rows: Int[Array, " S"]
    shapes: dict[str, Float[Array, "S *n"]]  # noqa: F821
    flux: Float[Array, "S B"]
    psf_sigma: Float[Array, ""]

    def __init__(
        self,
        prior: ScorePrior | None,
        at: Placement,
        name: str = "galaxies",
        axes: tuple[str, str] = ("box_y", "box_x"),
        *,
        shapes: Mapping[str, Any],
        flux: Any,
        rows: Any = None,
        psf_sigma: float = 0.7,
    ):
        whole = FreeForm(prior, at, name, axes)
        self.prior, self.at, self.name, self.axes = whole.prior, whole.at, whole.name, whole.axes
        self.rows = np.asarray(at.index if rows is None else rows, np.int32)
        self.shapes = {key: np.asarray(value, np.float32) for key, value in shapes.items()}
        self.flux = np.asarray(flux, np.float32)
        self.psf_sigma = np.asarray(psf_sigma, np.float32)

    @property
    def learned(self) -> ScorePrior | None:
        """The prior."""
        return self.prior

    def sample(self) -> dict:
        """Draw the images from the prior."""
        return self._whole().sample()

    def image(self, values: dict, xp: Any = jnp):
        """Return the images, which are the site's values."""
        return xp.asarray(values["morphology"])

    def gradient(self, values: dict, xp: Any = jnp) -> Gradient:
        """Return bulge minus disk."""
        own = (xp.asarray(self.at.index)[:, None] == xp.asarray(self.rows)).argmax(1)
        known = {name: xp.asarray(value)[own] for name, value in self.shapes.items()}
        found = TwoColor(self.at, psf_sigma=self.psf_sigma).gradient(known, xp)
        return found._replace(flux=xp.asarray(self.flux)[own])

    def start(self, look: Look) -> tuple[dict, dict]:
        """Start as `FreeForm`."""
        return self._whole().start(look)

    def settings(self) -> dict[str, Any]:
        """Return all but the prior, for JSON."""
        shapes = {name: np.asarray(value, float).tolist() for name, value in self.shapes.items()}
        return {
            "axes": list(self.axes),
            "rows": np.asarray(self.rows).tolist(),
            "shapes": shapes,
            "flux": np.asarray(self.flux, float).tolist(),
            "psf_sigma": float(self.psf_sigma),
        }

    def _whole(self) -> FreeForm:
        return FreeForm(self.prior, self.at, self.name, self.axes)
