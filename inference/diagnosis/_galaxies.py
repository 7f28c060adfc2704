"""Free-form sources of a scene at a point, and the information of the data on their pixels."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scorepriors._traces import Kept
from scorepriors._typing import Array
from scorepriors.inference.deblending._result import Deblended
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.rendering._information import likelihood_diagonal
from scorepriors.models.scene._curvature import scene_curvature, scene_diagonal
from scorepriors.models.spectra._priors import GalaxySpectra
from scorepriors.models.spectra._spectra import SpectrumPrior, spectrum_posterior

#: Dimensions of variables per pixel.
PIXELS = ("source", "box_y", "box_x")


class Galaxies(eqx.Module):
    """Free-form sources of one group of a scene at a point, in the order of the group.

    Attributes
    ----------
    exposures
        The data, without the light of the sources of all other groups.
    spectra
        Prior on the fluxes.
    corner
        First pixels of the boxes, ``[K, 2]``.
    morphology
        Images ``[K, n, n]``.
    spectrum
        Amplitudes ``[K, B]`` in the bands of all exposures.
    brightness
        Logarithms of the fluxes summed over the bands, ``[K]``.
    unit
        Sources as observed with unit spectra, ``[K, B, H, W]`` of every exposure.
    treatment
        Treatment of the spectra, see `Scene`; static.
    """

    exposures: tuple[Exposure, ...]
    spectra: GalaxySpectra
    corner: Int[Array, "K 2"]
    morphology: Float[Array, "K n n"]
    spectrum: Float[Array, "K B"]
    brightness: Float[Array, " K"]
    unit: tuple[Float[Array, "K B H W"], ...]
    treatment: str = eqx.field(static=True)

    def __init__(
        self,
        exposures,
        spectra,
        corner,
        morphology,
        spectrum,
        brightness,
        treatment: str = "marginal",
    ):
        self.exposures, self.spectra, self.treatment = tuple(exposures), spectra, treatment
        self.corner, self.morphology, self.spectrum, self.brightness = (
            jnp.asarray(a) for a in (corner, morphology, spectrum, brightness)
        )
        self.unit = _rendered(self.exposures, self.morphology, self.corner)

    def at(self, morphology, spectrum, brightness) -> "Galaxies":
        """Return the same sources at another point."""
        return Galaxies(
            self.exposures,
            self.spectra,
            self.corner,
            morphology,
            spectrum,
            brightness,
            self.treatment,
        )

    @property
    def box(self) -> int:
        """Side of the boxes in pixels."""
        return self.morphology.shape[-1]

    @property
    def num_bands(self) -> int:
        """Number of bands B over all exposures."""
        return self.spectrum.shape[-1]

    def flux_prior(self) -> SpectrumPrior:
        """Return the prior of the fluxes, given the brightnesses."""
        return self.spectra.given(self.brightness)


def galaxies_of(result: Deblended, name: str) -> Galaxies:
    """Return the free-form sources of a group at the mode of a scene, without padding.

    Parameters
    ----------
    result
        Result of `deblend`.
    name
        Name of the group.
    """
    scene, values = result.scene.without_padding(result.free_form.fit.values)
    group = scene[name]
    # Spectra run over all groups, in their order.
    own = np.repeat(scene.names, [len(g.at) for g in scene.sources]) == name
    is_other = result.kinds != name
    exposures = tuple(
        eqx.tree_at(
            lambda e: e.images, one, one.images - drawn[is_other].sum(0).astype(one.images.dtype)
        )
        for one, drawn in zip(scene.exposures, result.free_form.convolved, strict=True)
    )
    return Galaxies(
        exposures,
        scene.spectra,
        group.at.corner,
        scene.values_of(name, values)["morphology"],
        values["spectrum"][own],
        values["brightness"][own],
        scene.treatment,
    )


def ids_of(result: Deblended, name: str) -> list[str]:
    """Return ids of the sources of a group, in the order of the group."""
    index = result.scene[name].at.without_padding().index
    return [str(result.positions.ids[row]) for row in index]


@Kept
def _rendered(exposures, morphology, corner):
    return tuple(one.render(morphology, corner) for one in exposures)


@Kept
def data_curvature(here: Galaxies) -> Float[Array, "K n n"]:
    """Return the diagonal of minus the log-likelihood's Hessian, inverse intensity squared.

    In closed form with the PSF, spectra as in the fit, neighbors held fixed.
    """
    if here.treatment == "sampled":
        return likelihood_diagonal(here.exposures, here.spectrum, here.corner, here.box)
    flux = here.flux_prior()
    solved = spectrum_posterior(
        here.unit,
        tuple(one.images for one in here.exposures),
        tuple(one.noise for one in here.exposures),
        flux.of_amplitudes(here.morphology.sum((-2, -1))),
    )
    parts = scene_curvature(
        here.exposures,
        here.morphology,
        here.corner,
        flux,
        solved,
        marginal=here.treatment == "marginal",
    )
    return scene_diagonal(here.exposures, parts, here.corner)


@Kept
def slope_of(prior, z: Float[Array, "K n n"]) -> Float[Array, "K n n"]:
    """Return dx/dz, the derivative of intensities by stretched ones."""
    return jnp.exp(prior.stretch.log_abs_det_jacobian(z, prior.stretch(z)))
