"""The density of a scene of profiles from a few coefficients per source."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpyro
from jaxtyping import Float

from scorepriors._errors import InputError
from scorepriors._typing import Array
from scorepriors.inference._posterior import Posterior
from scorepriors.models.scene._blend import SMALLEST_AREA, blend
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._abstract import AbstractSource
from scorepriors.models.sources._parametric import AbstractParametric
from scorepriors.models.spectra._priors import AbstractSpectra, GalaxySpectra
from scorepriors.models.spectra._products import Products, chosen, log_marginal


class ReducedScene(eqx.Module):
    """A scene without pixels: see `reduced_blend`.

    Attributes
    ----------
    sources, spectra
        Groups of sources, of parametric kinds, and prior on spectra, those of the scene.
    image
        Images ``[K, n, n]`` of the sources of each group at the origin.
    project
        Map ``[K, J, n, n]`` of each group from a change of an image to coefficients.
    before
        Amplitudes ``[K, B]`` whose residual the products are with.
    start, square
        Products at the origin: of the images with each other ``[B, K, K]`` and with the residual
        ``[B, K]``, and of the residual with itself ``[B]``.
    cross, change, along
        Products of the components: with images at the origin ``[B, K, K, J]``, with each other
        ``[B, K, J, K, J]`` and with the residual ``[B, K, J]``.
    """

    sources: tuple[AbstractSource, ...]
    spectra: AbstractSpectra
    image: tuple[Float[Array, "_ _ _"], ...]
    project: tuple[Float[Array, "_ _ _ _"], ...]
    before: Float[Array, "K B"]
    start: Float[Array, "B K K"]
    square: Float[Array, " B"]
    pixels: Float[Array, "B K"]
    cross: Float[Array, "B K K J"]
    change: Float[Array, "B K J K J"]
    along: Float[Array, "B K J"]

    def products(self, images) -> Products:
        """Return the products of K images and their changes, for images of every group."""
        each = [
            jnp.einsum("kjyx,kyx->kj", p, new - old)
            for p, new, old in zip(self.project, images, self.image, strict=True)
        ]
        moved = jnp.concatenate(each)
        cross = jnp.einsum("bklj,lj->bkl", self.cross, moved)
        half = jnp.einsum("bkilj,lj->bkil", self.change, moved)
        change = jnp.einsum("bkil,ki->bkl", half, moved)
        upper = jnp.concatenate([self.start, cross], 2)
        lower = jnp.concatenate([jnp.swapaxes(cross, 1, 2), change], 2)
        along = jnp.einsum("bkj,kj->bk", self.along, moved)
        normal = jnp.concatenate([upper, lower], 1)
        return Products(normal, jnp.concatenate([self.pixels, along], 1), self.square)


def reduced_blend(scene: ReducedScene) -> None:
    """NumPyro model of a scene whose images are changed in the span of their components alone.

    The sites are those of `scorepriors.models.blend`, without deterministic ones, and so is the
    density up to a constant, as far as components describe the images.
    """
    drawn = [group.draw() for group in scene.sources]
    images = [one.image for one in drawn]
    area = jnp.concatenate([image.sum((-2, -1)) for image in images])
    area = jnp.maximum(area, SMALLEST_AREA)
    prior = scene.spectra.sample(len(area)).of_amplitudes(area)
    held = chosen(scene.products(images), scene.before, jnp.ones(len(area), bool))
    numpyro.factor("pixels", log_marginal(held, prior, scene.before))


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
