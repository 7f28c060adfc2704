"""Interface of a kind of source: sites, images, start values of fits, catalog columns."""

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
from scorepriors._errors import InputError
from scorepriors._typing import Array
from scorepriors.models.rendering._exposure import Exposure

from ._placement import Placement


class Gradient(NamedTuple):
    """What light that moves between two parts of a source, each of a color of its own, adds to it.

    A source of two parts with the images D and B, of flux one each, is
    :math:`F_b [(1 - f) D + f B] + g_b (B - D)` in band b: the second part has the flux
    :math:`f F_b + g_b`, and both have :math:`F_b`.

    Attributes
    ----------
    image
        Images of B - D, ``[K, n, n]``, of sum zero.
    fraction
        Share f of the second part at the mean color, ``[K]``.
    flux
        Fluxes ``[K, B]`` to which the prior of g is relative; None for those of the prior of F, which
        follow the brightness.
    """

    image: Any
    fraction: Any
    flux: Any = None

    @property
    def share(self) -> Any:
        """Scale f (1 - f) of g for a difference of the colors of the parts of one."""
        return self.fraction * (1 - self.fraction)


class Morphologies(NamedTuple):
    """Boxes at the model's resolution, and their places in the image.

    Attributes
    ----------
    image
        Images ``[K, n, n]``, of any scale.
    corner
        First pixel (row, column) of each box, ``[K, 2]``.
    mask
        Mask ``[K]``, False for padding.
    gradient
        Of sources of two parts with colors of their own; None for sources of one color.
    each
        Images in every exposure, of sources that move; None where they are the same in all.
    """

    image: Any
    corner: Int[Array, "K 2"]
    mask: Bool[Array, " K"]
    gradient: Gradient | None = None
    each: tuple[Any, ...] | None = None

    def seen(self, number: int) -> Any:
        """Return the images in an exposure."""
        return self.image if self.each is None else self.each[number]


class Look(NamedTuple):
    """First estimates for the sources of a group, from the data; NumPy arrays.

    Attributes
    ----------
    image
        Assumed images of the sources ``[K, n, n]``, of any positive scale.
    flux
        Fluxes ``[K, B]`` for these images, in the unit of the image.
    snr
        Ratio of the flux of all bands to its noise, ``[K]``.
    exposures
        The data.
    radius
        Half-light radius in pixels at which shapes start; None for the default.
    values
        Site values of an earlier fit to start from; None if there is none.
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
        Name of the column.
    values
        Values ``[K]``.
    unit
        Unit of the values; None for dimensionless ones.
    text
        Description of the column.
    """

    name: str
    values: np.ndarray
    unit: units.UnitBase | None
    text: str


class AbstractSource(eqx.Module):
    """A group of sources of one kind.

    A new kind is a subclass in a file of its own with the fields `at` and `name` and the methods
    `sample`, `image` and `start`.  `scorepriors.models.blend` draws it, renders it and gives it
    a spectrum; fits, draws, tables and files then work with it.

    Attributes
    ----------
    at
        Positions of the sources.
    name
        Name of the group, the prefix of its sites.
    """

    at: eqx.AbstractVar[Placement]
    name: eqx.AbstractVar[str]

    #: Word for sources of this kind in the catalog's column ``flags``; empty for galaxies.
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
        """Return images of the sources for given values of the sites.

        Parameters
        ----------
        values
            Site values by name without prefix.
        xp
            Array module: `jax.numpy` (the default), or `numpy` for single calls, which do not
            repay a compilation.
        """

    @abc.abstractmethod
    def start(self, look: Look) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return start values of the sites, and their widths.

        Parameters
        ----------
        look
            First estimates for the sources.

        Returns
        -------
        values, widths
            Values and widths by site without prefix.  Values are constrained; widths are roughly
            those of the posterior in the unconstrained space, the units of the search.
        """

    @property
    def moves(self) -> bool:
        """Whether images differ between exposures: see `image_in`."""
        return type(self).image_in is not AbstractSource.image_in

    def image_in(
        self, values: dict[str, Any], number: int, xp: Any = None
    ) -> Float[Array, "K n n"]:
        """Return the images in one of the exposures: the same in all, unless a kind says otherwise.

        Parameters
        ----------
        values, xp
            Arguments of `image`.
        number
            Number of the exposure in the scene.
        """
        return self.image(values) if xp is None else self.image(values, xp)

    def gradient(self, values: dict[str, Any], xp: Any = None) -> Gradient | None:
        """Return what differences of color between two parts add; None for sources of one color.

        Parameters
        ----------
        values, xp
            Arguments of `image`.
        """
        return None

    def guess(self, width: float) -> Float[np.ndarray, "K n n"]:
        """Return assumed images of the sources before any fit: round Gaussians.

        Parameters
        ----------
        width
            Standard deviation of an extended source, pixels.
        """
        return round_gaussians(self.at, width)

    def centers(self, values: dict[str, Any]) -> Float[np.ndarray, "K 2"]:
        """Return centers (row, column) of the sources for given site values, pixels."""
        center = np.asarray(self.at.center, float)
        return center + np.asarray(values["offset"]) if "offset" in values else center

    def columns(self, values: dict[str, Any]) -> list[Column]:
        """Return columns for the catalog from fitted values; none by default."""
        return []

    def settings(self) -> dict[str, Any]:
        """Return arguments, for JSON, that with `at` and `name` make the same group again."""
        return {}

    def on(self, at: Placement) -> "AbstractSource":
        """Return the same kind of sources at other positions."""
        return eqx.tree_at(lambda group: group.at, self, at)

    def named(self, name: str) -> "AbstractSource":
        """Return the same group under another name."""
        return self.replaced(name=name)

    def replaced(self, **fields: Any) -> "AbstractSource":
        """Return the same group with other values of some fields."""
        # Field by field, as Equinox unflattens: a kind may define its own `__init__`.
        other = object.__new__(type(self))
        for one in dataclasses.fields(self):
            object.__setattr__(other, one.name, fields.get(one.name, getattr(self, one.name)))
        return other

    def draw(self, exposures: int = 1) -> Morphologies:
        """Draw the group in a NumPyro model: sites ``name/...``; return boxes to be rendered.

        Parameters
        ----------
        exposures
            Number of exposures of the scene.
        """
        with scope(prefix=self.name, divider="/"):
            values = self.sample()
        image = self.image(values)
        self._check(image)
        each = tuple(self.image_in(values, n) for n in range(exposures)) if self.moves else None
        return Morphologies(image, self.at.corner, self.at.mask, self.gradient(values), each)

    def boxes(self, values: dict[str, Any], exposures: int = 1) -> Morphologies:
        """Return boxes for given values of the sites, in NumPy; `exposures` as in `draw`."""
        image = np.asarray(self.image(values, np))
        self._check(image)
        place = np.asarray(self.at.corner), np.asarray(self.at.mask)
        every = range(exposures)
        each = tuple(self.image_in(values, n, np) for n in every) if self.moves else None
        return Morphologies(image, *place, self.gradient(values, np), each)

    def _check(self, image) -> None:
        """Raise InputError for images of another shape than the boxes'."""
        wanted = (len(self.at), self.at.box, self.at.box)
        if np.shape(image) != wanted:
            raise InputError(
                f"`image` of {type(self).__name__} returned the shape {np.shape(image)}; for "
                f"{wanted[0]} sources in boxes of {wanted[1]} pixels it must be {wanted}."
            )


def round_gaussians(at: Placement, width: float) -> Float[np.ndarray, "K n n"]:
    """Return round Gaussians of a standard deviation in pixels at the places of sources."""
    pixels = np.arange(at.box)
    place = np.asarray(at.center) - np.asarray(at.corner)
    rows = (pixels - place[:, 0, None]) ** 2
    columns = (pixels - place[:, 1, None]) ** 2
    return np.exp(-(rows[:, :, None] + columns[:, None, :]) / (2 * width**2))
