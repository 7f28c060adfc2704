"""Kinds of sources, each a group of K side by side: free-form, point, parametric.

A group is a pytree of arrays (where the sources are) and a building block is a
function with NumPyro sites that returns `Morphologies`: boxes of pixels, ready to be
rendered.  Groups are padded to a common K; padded slots have ``mask`` False, keep
their prior, and never touch the image.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import erf as jax_erf
from jaxtyping import Array, Bool, Float, Int
from scipy.special import erf as scipy_erf

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError

from ._profiles import ellipse, gaussian_mixture_image, sersic_mixture


class Morphologies(NamedTuple):
    """Boxes at the model's resolution, and where they sit in the image.

    Attributes
    ----------
    image
        ``[K, n, n]``.
    corner
        ``[K, 2]``, (row, column) of the first pixel.
    mask
        ``[K]``, False for padding.
    """

    image: Any
    corner: Int[Array, "K 2"]
    mask: Bool[Array, " K"]


class Sources(eqx.Module):
    """Positions of a group of sources, padded to K.

    Attributes
    ----------
    center
        ``[K, 2]``, (row, column), pixel centers at integers.
    corner
        ``[K, 2]``, first pixel of each source's box.
    mask
        ``[K]``, False for padding.
    """

    center: Float[Array, "K 2"]
    corner: Int[Array, "K 2"]
    mask: Bool[Array, " K"]


def place_sources(center, *, box: int, size: int | None = None) -> Sources:
    """Boxes of `box` pixels about positions, padded to `size` sources.

    Parameters
    ----------
    center
        ``[K, 2]``, (row, column).
    box
        Side of the boxes.  The center of an even box lies between pixels, so a source
        ends up within half a pixel of it.
    size
        Padded number of sources; K by default.

    Raises
    ------
    InputError
        If there are more than `size` sources.
    """
    center = np.asarray(center, float).reshape(-1, 2)
    size = len(center) if size is None else size
    if len(center) > size:
        raise InputError(f"{len(center)} sources do not fit a scene padded to {size}.")
    corner = np.round(center - (box - 1) / 2).astype(int)
    # Padding sits in the corner of the image, where its box is a legal one.
    padded_center = np.full((size, 2), (box - 1) / 2)
    padded_corner = np.zeros((size, 2), int)
    padded_center[: len(center)], padded_corner[: len(center)] = center, corner
    return Sources(
        jax.device_put(np.asarray(padded_center, np.float32)),
        jax.device_put(np.asarray(padded_corner, np.int32)),
        jax.device_put(np.arange(size) < len(center)),
    )


def free_form(prior: ScorePrior, sources: Sources) -> Morphologies:
    """Every pixel free, under a learned prior.  Site ``morphology [K, n, n]``."""
    with numpyro.plate("source", len(sources.corner)):
        image = numpyro.sample("morphology", prior)
    return Morphologies(image, sources.corner, sources.mask)


def point_sources(
    sources: Sources, *, box: int = 15, psf_sigma: float = 0.7, center_error: float = 0.3
) -> Morphologies:
    """Stars: the model PSF at a free position.  Site ``offset [K, 2]``, in pixels.

    Parameters
    ----------
    sources
        Positions; the corners are those of boxes of `box` pixels.
    box
        Side of the boxes that hold the model PSF.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    center_error
        Standard deviation of the positions per axis, pixels.
    """
    with numpyro.plate("source", len(sources.corner)):
        offset = numpyro.sample("offset", dist.Normal(0.0, center_error).expand([2]).to_event(1))
    place = sources.center + offset - sources.corner
    return Morphologies(
        point_image(place, box=box, psf_sigma=psf_sigma), sources.corner, sources.mask
    )


def point_image(place: Float[Array, "K 2"], *, box: int, psf_sigma: float, xp=jnp):
    """The model PSF, integrated over pixels, at (row, column) in boxes ``[K, box, box]``."""
    erf = jax_erf if xp is jnp else scipy_erf
    edges = xp.arange(box + 1, dtype=place.dtype) - 0.5
    steps = xp.diff(erf((edges - place[..., None]) / (2**0.5 * psf_sigma))) / 2
    return steps[..., 0, :, None] * steps[..., 1, None, :]


def bulge_disk(
    sources: Sources, *, box: int = 32, psf_sigma: float = 0.7, center_error: float = 0.3
) -> Morphologies:
    """Exponential disk plus de Vaucouleurs bulge, one color.

    Sites, all ``[K]`` or ``[K, 2]`` and real: ``offset`` (pixels), ``log_radius`` (of
    the disk, pixels), ``ellipticity`` (see `ellipse`), ``bulge_logit`` (of the
    bulge's share of the flux), ``bulge_log_ratio`` (bulge to disk radius) and
    ``bulge_ellipticity``.  Their priors are wide Gaussians that keep faint sources
    galaxy-like and leave bright ones to the data.
    """
    with numpyro.plate("source", len(sources.corner)):
        offset = numpyro.sample("offset", dist.Normal(0.0, center_error).expand([2]).to_event(1))
        log_radius = numpyro.sample("log_radius", dist.Normal(np.log(1.5), 0.7))
        shape = numpyro.sample("ellipticity", dist.Normal(0.0, 0.3).expand([2]).to_event(1))
        logit = numpyro.sample("bulge_logit", dist.Normal(-2.0, 1.5))
        log_ratio = numpyro.sample("bulge_log_ratio", dist.Normal(np.log(0.6), 0.5))
        round_ = numpyro.sample("bulge_ellipticity", dist.Normal(0.0, 0.15).expand([2]).to_event(1))
    image = bulge_disk_image(
        sources.center + offset - sources.corner,
        log_radius,
        shape,
        logit,
        log_ratio,
        round_,
        box=box,
        psf_sigma=psf_sigma,
    )
    return Morphologies(image, sources.corner, sources.mask)


def bulge_disk_image(
    place,
    log_radius,
    ellipticity,
    bulge_logit,
    bulge_log_ratio,
    bulge_ellipticity,
    *,
    box: int,
    psf_sigma: float,
    xp=jnp,
):
    """Images ``[K, box, box]`` of `bulge_disk` for given values of its sites.

    Parameters
    ----------
    place
        ``[K, 2]``, (row, column) of the centers in the boxes.
    log_radius, ellipticity, bulge_logit, bulge_log_ratio, bulge_ellipticity
        See `bulge_disk`.
    box, psf_sigma
        See `bulge_disk`.
    xp
        `jax.numpy` or `numpy`.
    """
    disk, bulge = _mixture(1.0), _mixture(4.0)
    # Disk and bulge are one mixture, each component with its own size and shape.
    count = len(disk[0])
    is_bulge = np.arange(count + len(bulge[0])) >= count
    fraction = 1 / (1 + xp.exp(-bulge_logit[:, None]))
    weights = np.concatenate([disk[0], bulge[0]]) * xp.where(is_bulge, fraction, 1 - fraction)
    # A floor on the radius: below a twentieth of a pixel all sources are points.
    disk_radius = xp.exp(log_radius) + 0.05
    bulge_radius = disk_radius * xp.exp(bulge_log_ratio) + 0.05
    radius = xp.where(is_bulge, bulge_radius[:, None], disk_radius[:, None])
    shape = xp.where(is_bulge[:, None], bulge_ellipticity[:, None], ellipticity[:, None])
    return gaussian_mixture_image(
        weights,
        np.concatenate([disk[1], bulge[1]]) * radius,
        ellipse(shape, xp),
        place,
        box=box,
        psf_sigma=psf_sigma,
        xp=xp,
    )


def sersic(
    sources: Sources,
    *,
    index: float = 1.0,
    box: int = 32,
    psf_sigma: float = 0.7,
    center_error: float = 0.3,
) -> Morphologies:
    """A single Sersic profile of fixed index n.

    Sites: ``offset [K, 2]``, ``log_radius [K]`` and ``ellipticity [K, 2]``, as for
    `bulge_disk`.  The index is static: each value is a mixture of its own.
    """
    with numpyro.plate("source", len(sources.corner)):
        offset = numpyro.sample("offset", dist.Normal(0.0, center_error).expand([2]).to_event(1))
        log_radius = numpyro.sample("log_radius", dist.Normal(np.log(1.5), 0.7))
        shape = numpyro.sample("ellipticity", dist.Normal(0.0, 0.3).expand([2]).to_event(1))
    weights, sigmas = _mixture(float(index))
    image = gaussian_mixture_image(
        weights,
        sigmas * (jnp.exp(log_radius) + 0.05)[:, None],
        ellipse(shape[:, None]),
        sources.center + offset - sources.corner,
        box=box,
        psf_sigma=psf_sigma,
    )
    return Morphologies(image, sources.corner, sources.mask)


def _mixture(index: float):
    return tuple(np.asarray(a, np.float32) for a in sersic_mixture(index))
