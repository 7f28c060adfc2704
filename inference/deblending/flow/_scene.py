"""The density of a blend as a function of its galaxies' noise."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro.distributions import biject_to

from scorepriors._errors import InputError
from scorepriors.inference._posterior import Posterior
from scorepriors.models.scene._blend import SMALLEST_AREA, blend
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._free_form import FreeForm
from scorepriors.models.sources._point import PointSource
from scorepriors.models.spectra._priors import GalaxySpectra
from scorepriors.models.spectra._products import Products, mean_spectra
from scorepriors.models.spectra._spectra import SpectrumPosterior, SpectrumPrior, spectrum_posterior

#: Steps of the flow between the prior's largest noise and sigma0, even in its logarithm.  At five,
#: the distributions of flux, size, ellipticity and concentration of lsst-32 cannot be told from
#: those at forty by 2,000 draws.
NUM_STEPS = 5

#: Least flux, relative to that of the mode, that the shift of a brightness follows.
SMALLEST_SHARE = 0.1

#: Images of galaxies by the name of their group, in JAX's order of the keys of a dictionary.
Images = dict[str, Array]

#: Images of all sources ``[K, B, H, W]`` in every exposure.
Drawn = tuple[Float[Array, "K B H W"], ...]


class FlowScene(eqx.Module):
    """Terms of the density of a scene, as functions of its galaxies' noise.

    Galaxies come before stars, groups are ordered by their names: axes over all K sources have
    this order, which may differ from that of the scene.

    Attributes
    ----------
    scene
        The scene.
    """

    scene: Scene

    @property
    def groups(self) -> dict[str, FreeForm]:
        """Groups of galaxies by name."""
        found = {g.name: g for g in self.scene.sources if isinstance(g, FreeForm)}
        return dict(sorted(found.items()))

    @property
    def stars(self) -> PointSource | None:
        """The stars, if there are any."""
        return next((g for g in self.scene.sources if isinstance(g, PointSource)), None)

    def turned(self, offset, turn, white):
        """Move offsets of stars ``[..., S, 2]`` towards new draws of their Gaussian prior.

        The move leaves the prior invariant (preconditioned Crank-Nicolson).

        Parameters
        ----------
        offset
            Current offsets.
        turn
            Sizes of the moves, 0 to 1.
        white
            Standard normal numbers.
        """
        if self.stars is None:
            return offset
        site = self.stars.sites["offset"]
        moved = jnp.sqrt(1 - turn**2) * (offset - site.mean) + turn * site.width * white
        return site.mean + moved

    def galaxies(self, noise: Images) -> Images:
        """Map white noise to stretched galaxies by the flows, group by group."""
        return {name: self.galaxy(name, noise[name]) for name in self.groups}

    def galaxy(self, name: str, noise: Float[Array, "N n n"]):
        """Map white noise to stretched galaxies of one group by the flow."""
        return self.groups[name].prior.from_white(noise, NUM_STEPS, even=True)

    def noise(self, name: str, z: Float[Array, "N n n"]):
        """Map stretched galaxies to white noise: the approximate inverse of `galaxy`."""
        return self.groups[name].prior.to_white(z, NUM_STEPS, even=True)

    def render(self, z: Images, offset: Float[Array, "S 2"]) -> tuple[Drawn, Array]:
        """Return sources with unit spectra as observed, and their areas ``[K]``."""
        images = [
            (group.prior.stretch(z[name]), group.at.corner) for name, group in self.groups.items()
        ]
        if self.stars is not None:
            images.append((self.stars.image({"offset": offset}), self.stars.at.corner))
        drawn = tuple(
            jnp.concatenate([one.render(*group) for group in images])
            for one in self.scene.exposures
        )
        area = jnp.concatenate([image.sum((-2, -1)) for image, _ in images])
        return drawn, jnp.maximum(area, SMALLEST_AREA)

    def log_likelihood(self, brightness: Float[Array, " K"], drawn: Drawn, area):
        """Return the log-density of pixels and brightnesses, the spectra integrated out."""
        return self.spectra(brightness, drawn, area).log_marginal + self.usual(brightness)

    def spectra(self, brightness, drawn: Drawn, area) -> SpectrumPosterior:
        """Return the posterior of spectra given shapes and brightnesses."""
        images = [one.images for one in self.scene.exposures]
        prior = self.spectrum_prior(brightness, area)
        return spectrum_posterior(drawn, images, self.noises, prior)

    @property
    def noises(self) -> list:
        """Return the noise of every exposure."""
        return [one.noise for one in self.scene.exposures]

    def spectrum_prior(self, brightness: Float[Array, " K"], area) -> SpectrumPrior:
        """Return the prior of the amplitudes, given brightnesses and areas."""
        spectra: Any = self.scene.spectra
        return spectra.given(brightness).of_amplitudes(area)

    def open(self) -> "FlowScene":
        """Return the scene with spectra whose brightness is as open as their colors.

        Given the shapes, brightnesses follow the fluxes: what the pixels say about shapes alone
        is what they say where a change of the flux explains nothing.
        """
        spectra: Any = self.scene.spectra
        wider = jnp.outer(spectra.mean, spectra.mean) / spectra.color_width**2
        wide = eqx.tree_at(lambda s: s.covariance, spectra, spectra.covariance + wider)
        return FlowScene(eqx.tree_at(lambda s: s.spectra, self.scene, wide))

    def expected_brightness(self, center, products: Products, area, before):
        """Return the brightnesses ``[K]`` that the pixels give to sources of known shapes.

        They are logarithms of fluxes fitted with an open brightness, and depend on shapes alone.

        Parameters
        ----------
        center
            Brightnesses ``[K]`` about which it is open, the same for all shapes.
        products, before
            Arguments of `log_marginal`.
        area
            Areas of the sources, ``[K]``.
        """
        prior = self.open().spectrum_prior(center, area)
        total = (mean_spectra(products, prior, before) * area[:, None]).sum(-1)
        return center + jnp.log(jnp.maximum(total / jnp.exp(center), SMALLEST_SHARE))

    def usual(self, brightness: Float[Array, " K"]):
        """Return the log-density of the brightnesses under their prior."""
        spectra: Any = self.scene.spectra
        return spectra.usual().log_prob(brightness).sum()

    def _slots(self) -> np.ndarray:
        """Return indices among the scene's K sources, in the order of this class."""
        lengths = [len(group.at) for group in self.scene.sources]
        firsts = dict(zip(self.scene.names, np.cumsum([0, *lengths])[:-1], strict=True))
        order = [*self.groups, *([] if self.stars is None else [self.stars.name])]
        return np.concatenate(
            [firsts[name] + np.arange(len(self.scene[name].at)) for name in order]
        )

    def place_of(self, values: dict) -> "Place":
        """Return the place of given values of the model's sites."""
        images = {n: jnp.asarray(values[f"{n}/morphology"]) for n in self.groups}
        brightness = jnp.asarray(values["brightness"])[self._slots()]
        offset = jnp.zeros((0, 2), brightness.dtype)
        if self.stars is not None:
            offset = jnp.asarray(values[f"{self.stars.name}/offset"])
        return Place(images, offset, brightness)

    def parameters(self, z: Images, offset, brightness) -> dict:
        """Return unconstrained parameters of the model `blend`, by site."""
        found = {"brightness": brightness[np.argsort(self._slots())]}
        for name, group in self.groups.items():
            image = group.prior.stretch(z[name])
            found[f"{name}/morphology"] = biject_to(group.prior.support).inv(image)
        if self.stars is not None:
            found[f"{self.stars.name}/offset"] = offset
        return found


def refusal(bound: Posterior) -> str | None:
    """Return why the algorithm does not sample a posterior, in a sentence; None if it does."""
    args, _ = bound.arguments
    scene = args[0] if args else None
    if bound.model is not blend or not isinstance(scene, Scene):
        return (
            "the algorithm 'flow' samples free-form galaxies (and stars) of `blend`; "
            "use 'nuts' or 'dynamic_hmc' for another model."
        )
    points = [g for g in scene.sources if isinstance(g, PointSource)]
    galaxies = [g for g in scene.sources if isinstance(g, FreeForm)]
    if not galaxies or len(points) > 1 or len(points) + len(galaxies) < len(scene.sources):
        return (
            "the algorithm 'flow' samples free-form galaxies and one group of stars; use 'nuts' or "
            f"'dynamic_hmc' for a scene of {', '.join(type(g).__name__ for g in scene.sources)}."
        )
    if scene.treatment != "marginal":
        return (
            f"the algorithm 'flow' integrates spectra out, but spectra={scene.treatment!r}; "
            "deblend with spectra='marginal'."
        )
    if type(scene.spectra) is not GalaxySpectra:
        return (
            "the algorithm 'flow' knows the prior `GalaxySpectra` alone, got "
            f"{type(scene.spectra).__name__}; use 'nuts' or 'dynamic_hmc'."
        )
    return None


def scene_of(bound: Posterior) -> FlowScene:
    """Return the scene of a posterior of `blend`; `InputError` for another model."""
    reason = refusal(bound)
    if reason is not None:
        raise InputError(reason)
    args, _ = bound.arguments
    return FlowScene(args[0])


class Place(NamedTuple):
    """Galaxies by group, offsets of stars ``[S, 2]``, and brightnesses ``[K]``."""

    images: Images
    offset: Float[Array, "S 2"]
    brightness: Float[Array, " K"]


class Walkers(NamedTuple):
    """Points of C chains; the galaxies of all groups and S stars are K sources.

    Attributes
    ----------
    noise
        White noise ``[C, G, n, n]`` of each group.
    z
        Stretched galaxies of this noise.
    offset
        Offsets of the stars, ``[C, S, 2]``.
    brightness
        Brightnesses ``[C, K]``.
    drawn, area
        Results of `FlowScene.render`, ``[C, K, B, H, W]`` of every exposure and ``[C, K]``.
    log_likelihood
        Log-likelihoods ``[C]``.
    """

    noise: Images
    z: Images
    offset: Float[Array, "C S 2"]
    brightness: Float[Array, "C K"]
    drawn: tuple[Float[Array, "C K B H W"], ...]
    area: Float[Array, "C K"]
    log_likelihood: Float[Array, " C"]


def numbers_of(noise: Images, axis: int) -> Images:
    """Return indices of the galaxies of each group among all sources."""
    out, first = {}, 0
    for name, a in noise.items():
        out[name] = jnp.arange(first, first + a.shape[axis])
        first += a.shape[axis]
    return out


def as_one(noise: Images, axes: int):
    """Join images ``[*axes, G, n, n]`` of all groups into one row of pixels ``[*axes, 1, d]``."""
    rows = [a.reshape(*a.shape[:axes], 1, -1) for a in noise.values()]
    return jnp.concatenate(rows, -1)


def apart(row, like: Images) -> Images:
    """Undo `as_one`."""
    out, first = {}, 0
    for name, a in like.items():
        size = int(np.prod(a.shape[row.ndim - 2 :]))
        out[name] = row[..., 0, first : first + size].reshape(a.shape)
        first += size
    return out


def normals(key, like: Images) -> Images:
    """Draw white noise of the shapes of `like`."""
    return {
        name: jax.random.normal(key if i == 0 else jax.random.fold_in(key, i), a.shape, a.dtype)
        for i, (name, a) in enumerate(like.items())
    }


def of_all_chains(scene: FlowScene, noise: Images) -> Images:
    """Map noise to galaxies ``[C, G, n, n]``, those of all chains in one call of the network."""
    made = scene.galaxies({n: a.reshape(-1, *a.shape[2:]) for n, a in noise.items()})
    return {name: made[name].reshape(a.shape) for name, a in noise.items()}
