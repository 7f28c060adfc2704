r"""Typicality of an image under a prior: a p-value, calibrated on the prior's own samples.

An energy alone is not enough: larger galaxies have other energies than smaller ones, and
the noise of sigma0 in every sample contributes most of it.  So an image is compared with
samples of the prior with the same flux, and *draws* are compared, not modes, which differ
by hundreds of nats from any draw.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._traces import Kept
from scorepriors.inference.deblending._draws import group_ids, scene_groups

from ._stretched import StretchedEnergy

#: Number of samples of the prior, and of those among them, nearest in flux, that are compared.
REFERENCE, NEAREST = 1024, 256

#: Number of draws of a source that are scored.
NUM_DRAWS = 32


class Reference(eqx.Module):
    """Samples of a prior, ordered by their flux.

    Attributes
    ----------
    light
        Logarithm of the sum of the pixels, ``[N]``, ascending.
    oddness
        Energies and norms of scores, ``[N, 2]``, see `oddness`.
    """

    light: Float[Array, " N"]
    oddness: Float[Array, "N 2"]


def reference(prior: ScorePrior, *, key, number: int = REFERENCE) -> Reference:
    """Draw the samples that images are compared with.

    Parameters
    ----------
    prior
        The prior, at its sigma0.
    key
        Random key.
    number
        Number of samples.
    """
    if number < 2 * NEAREST:
        raise InputError(f"`number` must be at least {2 * NEAREST}, got {number}.")
    images = prior.sample(key, (number,))
    light = _light(images)
    order = jnp.argsort(light)
    return Reference(light[order], oddness(prior, images)[order])


def _light(images):
    return jnp.log(jnp.maximum(images.sum((-2, -1)), 1e-6))


@Kept
def oddness(prior: ScorePrior, images: Float[Array, "N n n"]) -> Float[Array, "N 2"]:
    """Return energy (nats) and norm of the score of each image, in the stretched space.

    Both are larger for unusual images: the energy for any feature, the norm of the score for
    features with a strong gradient of the density.
    """
    energy = jax.value_and_grad(StretchedEnergy(prior))

    def one(image):
        value, slope = energy(prior.stretch.inv(image))
        return jnp.stack([value, jnp.linalg.norm(slope)])

    return jax.lax.map(one, images, batch_size=64)


def typicality(
    prior: ScorePrior, images: Float[Array, "N n n"], *, key=None, against: Reference | None = None
) -> np.ndarray:
    """Return the probability that a sample of the prior with equal flux is as unusual.

    Parameters
    ----------
    prior
        The prior.
    images
        Draws ``[N, n, n]``, with their noise of sigma0.
    key
        Random key of the reference.
    against
        Reference samples from `reference`, in place of `key`.

    Returns
    -------
    numpy.ndarray
        P-values ``[N]``, uniform for samples of the prior, small for an image with features
        that its galaxies do not have.  The smallest is 1 / 257.

    Raises
    ------
    InputError
        For images of another shape than the prior's, or neither `key` nor `against`.

    Notes
    -----
    Of the reference the 256 nearest in flux are used.  Among them and the image, energy
    and norm of the score are ranked; the image's smaller rank is compared with the
    smaller rank of each of the others, so the p-value of the pair is exact for any
    dependence between the two.  The test is one-sided: images *more* probable than samples,
    such as modes, pass.
    """
    images = jnp.asarray(images)
    if images.ndim != 3 or images.shape[1:] != prior.event_shape:
        n = prior.event_shape[-1]
        raise InputError(f"`images` must be [N, {n}, {n}], got {images.shape}.")
    if against is None:
        if key is None:
            raise InputError("give a `key` to draw the reference, or a reference as `against`.")
        against = reference(prior, key=key)
    found = np.asarray(oddness(prior, images), float)
    light, known = np.asarray(_light(images), float), np.asarray(against.oddness, float)
    usual = np.asarray(against.light, float)
    return np.array(
        [_p_value(own, _nearest(known, usual, at)) for own, at in zip(found, light, strict=True)]
    )


def _nearest(known, usual, at):
    first = np.clip(np.searchsorted(usual, at) - NEAREST // 2, 0, len(usual) - NEAREST)
    return known[first : first + NEAREST]


def _p_value(own, others) -> float:
    if not np.isfinite(own).all():
        return 1 / (len(others) + 1)
    pool = np.vstack([own, others])
    # Rank 1 is the most unusual; ties count against the image.
    ranks = (pool[None, :, :] >= pool[:, None, :]).sum(1).min(1)
    return float((ranks <= ranks[0]).sum() / len(pool))


def source_typicality(
    tree: Any, priors: dict[str, ScorePrior], *, key, num_draws: int = NUM_DRAWS
) -> dict[str, float]:
    """Return the typicality of every free-form source of a scene, by its id.

    Parameters
    ----------
    tree
        Draws, from `sample_deblended` or `laplace_deblended`.
    priors
        Priors of the scene, at their sigma0, by group: `Deblended.priors`.
    key
        Random key for the reference and the choice of draws.
    num_draws
        Number of draws to score.

    Returns
    -------
    dict
        Median over the draws, by id.  Data reduce the noise that samples of the prior have,
        so draws of bright sources are *less* unusual than samples and the median is biased
        towards one: small values are significant.

    Raises
    ------
    InputError
        If there is no free-form source, or if the draws are not of such a scene.
    """
    if not priors:
        raise InputError(
            "no source is a free form: there is no image under a learned prior to judge; deblend or "
            "sample with models='free-form' (--models free-form)."
        )
    posterior, _ = scene_groups(tree)
    said = {}
    for i, (name, prior) in enumerate(priors.items()):
        site = f"{name}_morphology"
        if site not in posterior:
            raise InputError(
                f"the draws hold no images of the group {name!r}; give draws of the scene that "
                "the priors are of."
            )
        first, second = jax.random.split(key if i == 0 else jax.random.fold_in(key, i))
        against = reference(prior, key=first)
        values = np.asarray(posterior[site])
        values = values.reshape(-1, *values.shape[2:])
        count = min(num_draws, len(values))
        picks = jax.random.choice(second, len(values), (count,), replace=False)
        chosen = values[np.sort(np.asarray(picks))]
        for k, identity in enumerate(group_ids(posterior, name)):
            said[identity] = float(np.median(typicality(prior, chosen[:, k], against=against)))
    return said
