"""A scene as a value: exposures, groups of sources, and the prior on their spectra."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._observation import Observation
from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.sources._abstract import AbstractSource, Morphologies
from scorepriors.models.sources._parametric import AbstractParametric
from scorepriors.models.spectra._priors import AbstractSpectra

from ._exposures import exposures, galaxy_spectra


class Scene(eqx.Module):
    """Exposures, groups of sources, and the prior on spectra; a pytree.

    Bind it to the model `blend`: ``fit_map(blend, scene, key=key)``.  Other pixels, positions
    or weights in arrays of the same shapes recompile nothing.

    Attributes
    ----------
    exposures
        Observed pixels with noise and kernels.
    sources
        Groups of sources, each of one kind and box size, names all different.  Axes over all K
        sources run over the groups in this order.
    spectra
        Prior on the fluxes.
    treatment
        Treatment of the spectra, ``"marginal"``, ``"profiled"`` or ``"sampled"``; static.
    """

    exposures: tuple[Exposure, ...]
    sources: tuple[AbstractSource, ...]
    spectra: AbstractSpectra
    treatment: str = eqx.field(static=True, default="marginal")

    def __check_init__(self):
        if not self.sources:
            raise InputError("a scene needs at least one group of sources.")
        names = self.names
        if len(set(names)) < len(names):
            raise InputError(f"groups of sources need different names, got {', '.join(names)}.")

    @classmethod
    def build(
        cls,
        obs: Observation | JointObservation,
        *,
        spectra: AbstractSpectra | None = None,
        noise: Sequence[AbstractNoise] | None = None,
        treatment: str = "marginal",
        **groups: AbstractSource,
    ) -> "Scene":
        """Build the scene of an observation.

        Parameters
        ----------
        obs
            Pixels, weights and PSFs.
        spectra
            Prior on the fluxes; that of galaxies in these bands by default.
        noise
            One model of the noise per exposure; by default that of the observation: its weights, and its
            `correlation` if that is known.
        treatment
            Treatment of the spectra, see the class.
        **groups
            Groups of sources by name.

        Raises
        ------
        InputError
            If morphologies carry PSFs of different widths.

        Examples
        --------
        >>> from scorepriors.models import PointSource, Scene, load_example, place_sources
        >>> obs, truth = load_example()
        >>> stars = PointSource(place_sources(truth.center, box=15))
        >>> scene = Scene.build(obs, stars=stars)
        >>> scene.names, scene.num_sources, scene.num_bands
        (('stars',), 4, 6)
        """
        named = tuple(group.named(name) for name, group in groups.items())
        boxes = tuple(group.at.box for group in named)
        found = exposures(obs, boxes=boxes or (1,), psf_sigma=_psf_sigma(named), noise=noise)
        usual = galaxy_spectra(obs, found) if spectra is None else spectra
        return cls(found, named, usual, treatment)

    @classmethod
    def of(
        cls,
        exposures: Sequence[Exposure],
        sources: Sequence[AbstractSource],
        spectra: AbstractSpectra,
        treatment: str = "marginal",
    ) -> "Scene":
        """Return a scene whose prior on spectra knows which source is in which slot.

        Parameters
        ----------
        exposures, sources, spectra, treatment
            Attributes of the class, the prior for the sources of the catalog.
        """
        scene = cls(tuple(exposures), tuple(sources), spectra, treatment)
        return eqx.tree_at(lambda s: s.spectra, scene, spectra.on(scene.index))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(group.name for group in self.sources)

    def __getitem__(self, name: str) -> AbstractSource:
        """Return the group of this name."""
        if name not in self.names:
            raise InputError(
                f"the scene has no group {name!r}; its groups are {', '.join(self.names)}."
            )
        return self.sources[self.names.index(name)]

    @property
    def num_sources(self) -> int:
        """Number of slots K over all groups, padding included."""
        return sum(len(group.at) for group in self.sources)

    @property
    def num_bands(self) -> int:
        """Number of bands B over all exposures."""
        return sum(one.num_bands for one in self.exposures)

    @property
    def mask(self) -> Bool[np.ndarray, " K"]:
        """Mask of the slots that hold a source."""
        return np.concatenate([np.asarray(group.at.mask) for group in self.sources])

    @property
    def index(self) -> Int[np.ndarray, " K"]:
        """Row of each slot in the catalog; -1 for padding."""
        return np.concatenate([np.asarray(group.at.index) for group in self.sources])

    @property
    def order(self) -> Int[np.ndarray, " N"]:
        """Slots of the N real sources, in the order of the catalog."""
        index = self.index
        return np.argsort(np.where(index < 0, len(index), index), kind="stable")[
            : int((index >= 0).sum())
        ]

    def kinds(self) -> np.ndarray:
        """Name of the group of every source, in the order of the catalog, ``[N]``."""
        names = np.repeat(self.names, [len(group.at) for group in self.sources])
        return names[self.order]

    def values_of(self, name: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return site values of one group, by name without prefix."""
        prefix = f"{name}/"
        return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}

    def morphologies(self, values: dict[str, Any]) -> list[Morphologies]:
        """Return boxes of every group for given site values, in NumPy."""
        host = {name: np.asarray(value) for name, value in values.items()}
        count = len(self.exposures)
        return [group.boxes(self.values_of(group.name, host), count) for group in self.sources]

    def centers(self, values: dict[str, Any]) -> Float[np.ndarray, "N 2"]:
        """Return centers (row, column) for given site values, in the order of the catalog."""
        each = [g.centers(self.values_of(g.name, values)) for g in self.sources]
        return np.concatenate(each)[self.order]

    def without_padding(self, values: dict[str, Any]) -> tuple["Scene", dict[str, np.ndarray]]:
        """Return the scene and its site values without the padded slots.

        These do not contribute to the image, so the posterior of the rest is the same; sampling
        them would cost time, and they would count in the checks of the draws.
        """
        real = {g.name: np.asarray(g.at.mask) for g in self.sources}
        groups = tuple(g.on(g.at.without_padding()) for g in self.sources)
        every = self.mask
        kept = {}
        for name, value in values.items():
            own = real.get(name.split("/")[0] if "/" in name else "", every)
            value = np.asarray(value)
            kept[name] = value[own] if value.ndim and len(value) == len(own) else value
        return Scene.of(self.exposures, groups, self.spectra, self.treatment), kept


def _psf_sigma(groups: Sequence[AbstractSource]) -> float | None:
    """Return the standard deviation of the PSF in the groups' morphologies; None for none.

    It is that of the learned priors where there are some: together with one whose images have
    none, parametric sources have a PSF narrower than a pixel.
    """
    learned = {g.learned.model_psf_sigma for g in groups if g.learned is not None}
    others = {float(g.psf_sigma) for g in groups if isinstance(g, AbstractParametric)}
    widths = learned or others or {0.7}
    if len(widths) > 1:
        raise InputError(
            f"sources carry PSFs of different widths ({', '.join(map(str, sorted(widths, key=str)))} "
            "pixels); give all of them the same `psf_sigma`, or priors of one model PSF."
        )
    return widths.pop()


def stack_scenes(scenes: Sequence[Scene]) -> tuple[Scene, Any]:
    """Stack scenes of one structure, and return the axes for `fit_map`.

    Parameters
    ----------
    scenes
        Scenes that differ in arrays alone; the priors of free-form sources are the first's.

    Returns
    -------
    scene
        Scene whose arrays have a leading axis over the scenes, except for priors.
    axes
        Tree for ``in_axes``: 0 for those arrays, None for priors.
    """

    def is_prior(node) -> bool:
        return isinstance(node, ScorePrior)

    def stack(*nodes):
        return nodes[0] if is_prior(nodes[0]) else np.stack([np.asarray(node) for node in nodes])

    stacked = jax.tree.map(stack, *scenes, is_leaf=is_prior)
    axes = jax.tree.map(lambda node: None if is_prior(node) else 0, stacked, is_leaf=is_prior)
    return stacked, axes
