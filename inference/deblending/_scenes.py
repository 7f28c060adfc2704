"""Scenes: sources as they explain an image, in the order of the catalog."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._positions import Positions
from scorepriors.models.rendering._rendering import ImageData, overlap
from scorepriors.models.sources._sources import Morphologies


@dataclass(frozen=True)
class Scene:
    """A set of sources that explains an image; padding removed, catalog order.

    Attributes
    ----------
    morphology
        ``[K, H, W]``, on the grid of the image at the model's resolution, total flux
        of one.  Light that falls off the image is lost here, but counted in `flux`.
    convolved
        ``[K, B, H, W]``, as observed, in the units of the image.
    flux, flux_error
        ``[K, B]``, units of the image; the error is that for given morphologies.
    chi2
        Per unmasked pixel.
    source_chi2
        ``[K]``, where each source is seen (`footprint_chi2`).
    fit
        The fit it came from.
    """

    morphology: np.ndarray
    convolved: np.ndarray
    flux: np.ndarray
    flux_error: np.ndarray
    chi2: float
    source_chi2: np.ndarray
    fit: MAPResult


@dataclass(frozen=True)
class Deblended:
    """Outcome of `scorepriors.inference.deblend`.

    Attributes
    ----------
    observation, positions
        What went in.
    prior
        Of the free-form sources, or of those in small boxes if there are two kinds.
    free_form
        The scene under the learned prior: the result.
    parametric
        The bulge-and-disk scene it started from.
    center
        ``[K, 2]``, fitted (row, column).
    profile
        Parametric shapes by name, ``[K]`` or ``[K, 2]``; NaN for stars.
    seconds
        Wall time per stage; of a batch, each blend's share.
    large_prior
        Of the sources in large boxes; None if there are none.
    is_large
        ``[K]``, which sources those are.
    """

    observation: Observation
    positions: Positions
    prior: ScorePrior
    free_form: Scene
    parametric: Scene
    center: np.ndarray
    profile: dict
    seconds: dict
    large_prior: ScorePrior | None = None
    is_large: np.ndarray | None = None

    @property
    def converged(self) -> bool:
        """Whether the free-form fit converged."""
        return bool(self.free_form.fit.converged)

    @property
    def kinds(self) -> np.ndarray:
        """Group of `scorepriors.models.blend.GROUPS` of every source, ``[K]``."""
        is_point = np.asarray(self.positions.is_point)
        return source_kinds(is_point, self.is_large)

    def priors(self) -> dict[str, ScorePrior]:
        """Priors by the group of their sources, of groups that have some."""
        pairs = {"galaxies": self.prior, "large": self.large_prior}
        return {n: p for n, p in pairs.items() if p is not None and (self.kinds == n).any()}

    @property
    def prior_name(self) -> str:
        """Names of the priors, for people."""
        priors = self.priors() or {"": self.prior}
        return " and ".join(str(prior.name) for prior in priors.values())


def source_kinds(is_point: np.ndarray, is_large: np.ndarray | None = None) -> np.ndarray:
    """Group of every source of a free-form scene by its name, ``[K]``."""
    large = np.zeros_like(is_point) if is_large is None else is_large
    return np.where(is_point, "stars", np.where(large, "large", "galaxies"))


def catalog_order(kinds: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Where, along the groups one after the other, each source of the catalog is.

    Parameters
    ----------
    kinds
        ``[K]``, names of groups.
    groups
        The order in which the groups follow each other.
    """
    number = {name: i for i, name in enumerate(groups)}
    return np.argsort(np.argsort([number[kind] for kind in kinds], kind="stable"))


def collect_scene(
    obs: Observation,
    data: ImageData,
    groups: dict[str, Morphologies],
    kinds: np.ndarray,
    fit: MAPResult,
) -> Scene:
    """Collect a fit's sources in the order of the catalog, without padding.

    Parameters
    ----------
    obs, data
        What was fitted.
    groups
        Morphologies by the name of their group, in the order of the fit's model.
    kinds
        ``[K]``, the group of every source of the catalog.
    fit
        The fit.
    """
    masks = [np.asarray(m.mask) for m in groups.values()]
    order = catalog_order(kinds, list(groups))
    real = np.concatenate(masks)
    pick = lambda name: np.asarray(fit.values[name])[real][order]  # noqa: E731
    images = [np.asarray(m.image)[mask] for m, mask in zip(groups.values(), masks, strict=True)]
    corners = [np.asarray(m.corner)[mask] for m, mask in zip(groups.values(), masks, strict=True)]
    unit = [data.render_on_host(i, c) for i, c in zip(images, corners, strict=True)]
    convolved = np.concatenate(unit)[order] * pick("spectrum")[:, :, None, None]
    placed = [_on_image(i, c, obs.shape) for i, c in zip(images, corners, strict=True)]
    weights = np.asarray(data.weights)
    squared = (np.asarray(data.images) - convolved.sum(0)) ** 2 * weights
    return Scene(
        morphology=np.concatenate(placed)[order],
        convolved=convolved,
        flux=pick("flux"),
        flux_error=pick("flux_error"),
        chi2=float(squared.sum() / (weights > 0).sum()),
        source_chi2=footprint_chi2(squared, weights > 0, convolved),
        fit=fit,
    )


def footprint_chi2(squared: np.ndarray, seen: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean squared residual in units of the noise, where each source is seen.

    Each pixel counts by the source's share of the model there times its own
    significance, so empty sky around a source does not dilute the figure.

    Parameters
    ----------
    squared
        ``[B, H, W]``, squared residuals times weights.
    seen
        ``[B, H, W]``, False where masked.
    images
        ``[K, B, H, W]``, the sources as observed.
    """
    share = np.maximum(images, 0.0) * seen
    return (squared * share).sum((1, 2, 3)) / np.maximum(share.sum((1, 2, 3)), 1e-30)


def _on_image(images, corners, shape) -> np.ndarray:
    """Boxes placed on the image grid, each normalized to a total flux of one."""
    out = np.zeros((len(images), *shape), np.float32)
    for target, image, corner in zip(out, images, corners, strict=True):
        inside = overlap(corner, image.shape[-1], shape)
        if inside is not None:
            target[inside[0]] = image[inside[1]] / image.sum()
    return out
