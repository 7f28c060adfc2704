"""A trained energy as the prior that its recipe describes."""

from typing import Any

from scorepriors._defaults import MODEL_PSF_SIGMA
from scorepriors._distribution import ScorePrior
from scorepriors._stretch import LogStretch
from scorepriors._surveys import PIXEL_SCALES
from scorepriors.energies._abstract import AbstractEnergy

from ._recipe import DataRecipe, Recipe


def image_facts(data: DataRecipe) -> dict[str, Any]:
    """Return ``pixel_scale`` and ``model_psf_sigma`` of training images, None if unknown."""
    if data.noisy is not None:
        # Not those of the stamps: what is learned is what a model convolves with their PSFs.
        sigma = MODEL_PSF_SIGMA if data.model_psf_sigma is None else data.model_psf_sigma
        return {"pixel_scale": data.pixel_scale, "model_psf_sigma": sigma}
    if data.set is None:
        return {"pixel_scale": data.pixel_scale, "model_psf_sigma": data.model_psf_sigma}
    return {"pixel_scale": PIXEL_SCALES[data.set], "model_psf_sigma": MODEL_PSF_SIGMA}


def prior_of(
    energy: AbstractEnergy, recipe: Recipe, facts: dict[str, Any] | None = None
) -> ScorePrior:
    """Return the prior of a recipe, at its sigma0.

    Parameters
    ----------
    energy
        Energy trained by the recipe.
    recipe
        Source of stretch, noise levels and name.
    facts
        Result of `image_facts`, by default of the recipe's images.
    """
    return ScorePrior(
        energy,
        LogStretch(recipe.stretch.softening, recipe.stretch.scale),
        recipe.sigma0,
        sigma_max=recipe.training.sigma_max,
        sigma_min=recipe.training.sigma_min,
        name=recipe.name,
        **(image_facts(recipe.data) if facts is None else facts),
    )
