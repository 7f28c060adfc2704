"""The density of a scene of profiles from a few coefficients per source."""

from typing import Any, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro
from jaxtyping import Float, Int
from numpyro.handlers import scope

from scorepriors._errors import InputError
from scorepriors._typing import Array
from scorepriors.inference._posterior import Posterior
from scorepriors.models.scene._blend import SMALLEST_AREA, blend
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.sources._parametric import AbstractParametric
from scorepriors.models.spectra._priors import AbstractSpectra, GalaxySpectra
from scorepriors.models.spectra._products import Products, chosen, log_marginal

#: Largest number of sources times pixels of all bands: the images of the components of all sources, in
#: all bands, are in memory at once (4 GiB here, with their products with the weights).
MOST_PIXELS = 16_000_000


class ReducedScene(eqx.Module):
    """A scene without pixels: see `reduced_blend`.

    Attributes
    ----------
    sources, spectra
        Groups of sources, of parametric kinds, and prior on spectra, those of the scene.
    pixels
        Pixels ``[K, P, 2]`` of the boxes of each group at which images are drawn.
    seen
        Images ``[K, P]`` there, at the origin.
    project
        Map ``[K, J, P]`` of each group from a change of an image at the pixels to coefficients.
    area, added
        Sums ``[K]`` of the images at the origin, and ``[K, J]`` of the components.
    before
        Amplitudes ``[K, B]`` whose residual the products are with.
    start, first, square
        Products at the origin: of the images with each other ``[B, K, K]`` and with the residual
        ``[B, K]``, and of the residual with itself ``[B]``.
    change
        Products of the components of each source with the components of all, with their images at
        the origin, and with the residual: ``[K, B, K (J + 1) + 1, J]``.
    """

    sources: tuple[AbstractParametric, ...]
    spectra: AbstractSpectra
    pixels: tuple[Int[Array, "_ P 2"], ...]
    seen: tuple[Float[Array, "_ P"], ...]
    project: tuple[Float[Array, "_ J P"], ...]
    area: Float[Array, " K"]
    added: Float[Array, "K J"]
    before: Float[Array, "K B"]
    start: Float[Array, "B K K"]
    first: Float[Array, "B K"]
    square: Float[Array, " B"]
    change: Float[Array, "K B _ J"]

    def coefficients(self, values: list[dict]) -> Float[Array, "K J"]:
        """Return the coefficients of the sources for values of the sites of every group."""
        groups = zip(self.sources, values, self.pixels, self.seen, self.project, strict=True)
        return jnp.concatenate(
            [
                jnp.einsum("kjp,kp->kj", project, group.image_at(own, pixels) - seen)
                for group, own, pixels, seen, project in groups
            ]
        )

    def products(self, moved: Float[Array, "K J"]) -> Products:
        """Return the products of K images and their changes, for given coefficients."""
        # One product of matrices for each source, as the array lies in memory.
        found = jnp.einsum("lbnj,lj->lbn", self.change, moved)
        count, number = moved.shape
        ends = [count * number, count * (number + 1)]
        with_components, cross, along = jnp.split(found, ends, 2)
        with_components = with_components.reshape(count, -1, count, number)
        cross = jnp.transpose(cross, (1, 2, 0))
        change = jnp.einsum("lbki,ki->bkl", with_components, moved)
        upper = jnp.concatenate([self.start, cross], 2)
        lower = jnp.concatenate([jnp.swapaxes(cross, 1, 2), change], 2)
        normal = jnp.concatenate([upper, lower], 1)
        return Products(normal, jnp.concatenate([self.first, along[..., 0].T], 1), self.square)


def reduced_blend(scene: ReducedScene) -> None:
    """NumPyro model of a scene whose images are changed in the span of their components alone.

    The sites are those of `scorepriors.models.blend`, without deterministic ones, and so is the
    density up to a constant, as far as components describe the images.
    """
    values = []
    for group in scene.sources:
        with scope(prefix=group.name, divider="/"):
            values.append(group.sample())
    moved = scene.coefficients(values)
    area = scene.area + jnp.einsum("kj,kj->k", scene.added, moved)
    area = jnp.maximum(area, SMALLEST_AREA)
    prior = scene.spectra.sample(len(area)).of_amplitudes(area)
    held = chosen(scene.products(moved), scene.before, jnp.ones(len(area), bool))
    numpyro.factor("pixels", log_marginal(held, prior, scene.before))


def parametric(scene: Scene) -> tuple[AbstractParametric, ...]:
    """Return the groups of a scene, all of which are of parametric kinds."""
    return cast(tuple[AbstractParametric, ...], scene.sources)


def refusal(bound: Posterior) -> str | None:
    """Return why the algorithm does not sample a posterior, in a sentence; None if it does."""
    args, _ = bound.arguments
    scene: Any = args[0] if args else None
    if bound.model is not blend or not isinstance(scene, Scene):
        return "the algorithm 'reduced' samples scenes of `blend`; use 'nuts' for another model."
    others = [g.name for g in scene.sources if not isinstance(g, AbstractParametric)]
    if others:
        return (
            "the algorithm 'reduced' samples stars and profiles, and the scene has free forms "
            f"({', '.join(others)}); use 'flow' or 'dynamic_hmc', or deblend with "
            "models='simplest'."
        )
    if scene.treatment != "marginal":
        return (
            f"the algorithm 'reduced' integrates spectra out, but spectra={scene.treatment!r}; "
            "deblend with spectra='marginal'."
        )
    changing = [g.name for g in scene.sources if _has_several_images(g)]
    if changing:
        return (
            "the algorithm 'reduced' knows one image of each source, and there are sources of two colors "
            f"or that move ({', '.join(changing)}); use 'dynamic_hmc' or 'nuts'."
        )
    pixels = sum(np.size(one.images) for one in scene.exposures)
    if scene.num_sources * pixels > MOST_PIXELS:
        return (
            f"the algorithm 'reduced' holds images of all sources in memory, and {scene.num_sources} "
            f"sources on {pixels} pixels are too many; deblend a part of the image, or use "
            "'dynamic_hmc'."
        )
    if type(scene.spectra) is not GalaxySpectra:
        return (
            "the algorithm 'reduced' knows the prior `GalaxySpectra` alone, got "
            f"{type(scene.spectra).__name__}; use 'dynamic_hmc' or 'nuts'."
        )
    return None


def _has_several_images(group: AbstractSource) -> bool:
    """Return whether sources look otherwise in some bands or exposures."""
    kind = type(group)
    usual = AbstractSource.gradient, AbstractSource.image_in
    return (kind.gradient, kind.image_in) != usual


def scene_of(bound: Posterior) -> Scene:
    """Return the scene of a posterior of `blend`; `InputError` if it is not for this algorithm."""
    reason = refusal(bound)
    if reason is not None:
        raise InputError(reason)
    args, _ = bound.arguments
    return args[0]
