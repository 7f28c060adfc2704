"""What a kind of source answers: its sites, its image, where a fit starts, its columns."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from astropy import units
from jaxtyping import Bool, Float, Int
from numpyro.handlers import scope

from scorepriors._distribution import ScorePrior
from scorepriors._typing import Array
from scorepriors.models.rendering._exposure import Exposure

from ._placement import Placement


class Morphologies(NamedTuple):
    """Boxes at the model's resolution, and where they sit in the image.

    Attributes
    ----------
    image
        ``[K, n, n]``, any scale.
    corner
        ``[K, 2]``, (row, column) of the first pixel.
    mask
        ``[K]``, False for padding.
    """

    image: Any
    corner: Int[Array, "K 2"]
    mask: Bool[Array, " K"]


class Look(NamedTuple):
    """What a first look at the data says of the sources of a group; NumPy arrays.

    Attributes
    ----------
    image
        ``[K, n, n]``, what the sources are taken to look like, any positive scale.
    flux
        ``[K, B]``, their fluxes for that, in the unit of the image.
    snr
        ``[K]``, ratio of the flux of all bands to its noise.
    exposures
        The data.
    radius
        Half-light radius in pixels at which shapes start; None for what is usual.
    values
        Site values of an earlier fit to go on from; None if there is none.
    """

    image: np.ndarray
    flux: np.ndarray
    snr: np.ndarray
    exposures: Sequence[Exposure]
    radius: float | None = None
    values: dict | None = None


class Column(NamedTuple):
    """A column that a kind of source adds to the catalog.

    Attributes
    ----------
    name
        Of the column.
    values
        ``[K]``.
    unit
        Of the values; None for plain numbers.
    text
        What the column holds.
    """

    name: str
    values: np.ndarray
    unit: units.UnitBase | None
    text: str


class AbstractSource(eqx.Module):
    """A group of sources of one kind, side by side.

    A new kind is a subclass in a file of its own with the fields `at` and `name` and the methods
    `sample`, `image` and `start`.  `scorepriors.models.blend` draws it, renders it and gives it
    a spectrum; fits, draws, tables and files then need to know no more of it.

    Attributes
    ----------
    at
        Where the sources are.
    name
        Of the group; the prefix of its sites.
    """

    at: eqx.AbstractVar[Placement]
    name: eqx.AbstractVar[str]

    #: How the catalog's column ``flags`` calls sources of this kind; empty for galaxies.
    flag: ClassVar[str] = ""

    @property
    def learned(self) -> ScorePrior | None:
        """The learned prior of the images; None for sources of another kind."""
        return None

    @abc.abstractmethod
    def sample(self) -> dict[str, Array]:
        """Draw the sites of the group, by name without prefix, in a plate over its K sources."""

    @abc.abstractmethod
    def image(self, values: dict[str, Any], xp: Any = None) -> Float[Array, "K n n"]:
        """Images of the sources for given values of the sites.

        Parameters
        ----------
        values
            By name without prefix.
        xp
            `jax.numpy` (the default), or `numpy` where a single look is not worth a compilation.
        """

    @abc.abstractmethod
    def start(self, look: Look) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Start values of the sites, and their widths.

        Parameters
        ----------
        look
            What is known of the sources.

        Returns
        -------
        values, widths
            By site without prefix.  Values are constrained, widths those of the posterior in
            the unconstrained space, roughly: the search runs in units of them.
        """

    def guess(self, width: float) -> Float[np.ndarray, "K n n"]:
        """What the sources are taken to look like before any fit: round Gaussians.

        Parameters
        ----------
        width
            Standard deviation of an extended source, pixels.
        """
        return round_gaussians(self.at, width)

    def centers(self, values: dict[str, Any]) -> Float[np.ndarray, "K 2"]:
        """Centers (row, column) of the sources for given values of the sites, pixels."""
        center = np.asarray(self.at.center, float)
        return center + np.asarray(values["offset"]) if "offset" in values else center

    def columns(self, values: dict[str, Any]) -> list[Column]:
        """Columns for the catalog, from the values at a fit's end; none by default."""
        return []

    def settings(self) -> dict[str, Any]:
        """Arguments that, with `at` and `name`, make the same group again; as JSON can hold them."""
        return {}

    def on(self, at: Placement) -> "AbstractSource":
        """The same kind of sources at other places."""
        return eqx.tree_at(lambda group: group.at, self, at)

    def named(self, name: str) -> "AbstractSource":
        """The same group under another name."""
        # Field by field, as Equinox unflattens: a kind may have an `__init__` of its own.
        other = object.__new__(type(self))
        for one in dataclasses.fields(self):
            value = name if one.name == "name" else getattr(self, one.name)
            object.__setattr__(other, one.name, value)
        return other

    def draw(self) -> Morphologies:
        """Draw the group in a NumPyro model: sites ``name/...``, boxes ready to be rendered."""
        with scope(prefix=self.name, divider="/"):
            values = self.sample()
        return Morphologies(self.image(values), self.at.corner, self.at.mask)

    def boxes(self, values: dict[str, Any]) -> Morphologies:
        """Boxes for given values of the sites, in NumPy."""
        image = np.asarray(self.image(values, np))
        return Morphologies(image, np.asarray(self.at.corner), np.asarray(self.at.mask))


def round_gaussians(at: Placement, width: float) -> Float[np.ndarray, "K n n"]:
    """Round Gaussians of a standard deviation in pixels at the places of sources."""
    pixels = np.arange(at.box)
    place = np.asarray(at.center) - np.asarray(at.corner)
    rows = (pixels - place[:, 0, None]) ** 2
    columns = (pixels - place[:, 1, None]) ** 2
    return np.exp(-(rows[:, :, None] + columns[:, None, :]) / (2 * width**2))
