"""The NumPyro model of a scene, which can be copied and changed."""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from scorepriors._errors import InputError
from scorepriors._recovery import recovering
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.rendering._information import by_exposure
from scorepriors.models.sources._abstract import Gradient, Morphologies
from scorepriors.models.spectra._priors import AbstractSpectra
from scorepriors.models.spectra._spectra import SpectrumPrior, spectrum_posterior

from ._scene import Scene

#: Lower limit of the sum of a morphology's pixels, so that an image whose pixels sum to zero
#: stays finite.
SMALLEST_AREA = 1e-3

#: Lower limit of the scale of color gradients, so that their prior stays a Gaussian.
SMALLEST_SHARE = 1e-3


def blend(scene: Scene) -> None:
    """NumPyro model of a scene: morphologies, spectra, pixels.

    Parameters
    ----------
    scene
        Exposures, groups of sources, the prior on spectra, and the treatment of the spectra.

    Notes
    -----
    Sites are those of the groups (``galaxies/morphology``, ``stars/offset``, ...), those of the
    prior on spectra (``brightness [K]``), ``spectrum [K, B]`` and the deterministic ``flux [K, B]``
    with ``flux_error``.  K runs over the groups in their order.

    One color per source is the assumption behind "spectrum x morphology" (paper eq. 1).  Sources of
    two parts (`Gradient`) have a color gradient besides, one number per band that is integrated out
    with the spectra: the deterministic ``gradient [K, B]``, zero for all others.
    """
    drawn = [group.draw(len(scene.exposures)) for group in scene.sources]
    observe(scene.exposures, drawn, scene.spectra, treatment=scene.treatment)


def observe(
    exposures: Sequence[Exposure],
    morphologies: Sequence[Morphologies],
    spectra: AbstractSpectra,
    *,
    treatment: str = "marginal",
) -> None:
    """Draw or solve for spectra, render the sources, and compare with the data.

    The second half of every blend model, after the morphologies have been drawn.  Sites: see
    `blend`.

    Parameters
    ----------
    exposures
        The data, from `scorepriors.models.exposures`.
    morphologies
        Morphologies, one entry per group of sources.
    spectra
        Prior on the fluxes.
    treatment
        Treatment of the spectra.  ``"marginal"``: integrated out exactly (the default, for
        sampling and modes).  ``"profiled"``: maximized exactly.  ``"sampled"``: an ordinary site.

    Raises
    ------
    InputError
        For another `treatment`.

    Notes
    -----
    Except for ``"sampled"`` spectra the normalization of the noise, a constant, is left out.  A
    model that samples parameters of its noise adds it, ``noise.log_likelihood`` of a zero
    residual, in a `numpyro.factor`.
    """
    if treatment not in TREATMENTS:
        raise InputError(f"`treatment` must be one of {', '.join(TREATMENTS)}, got {treatment!r}.")
    renderings = [
        jnp.concatenate([one.render(m.seen(n), m.corner, m.mask) for m in morphologies])
        for n, one in enumerate(exposures)
    ]
    area = jnp.concatenate([m.image.sum((-2, -1)) for m in morphologies])
    area = jnp.maximum(area, SMALLEST_AREA)
    parts, slots = two_parts(morphologies)
    prior = spectra.sample(len(area))
    if len(slots):
        prior = prior.with_gradients(slots, *scales_of([m.gradient for m in parts], prior))
        moved = [
            [one.render(m.gradient.image, m.corner, m.mask) for m in parts] for one in exposures
        ]
        renderings = [jnp.concatenate([r, *m]) for r, m in zip(renderings, moved, strict=True)]
    prior = prior.of_amplitudes(jnp.append(area, jnp.ones(len(slots), area.dtype)))
    if treatment == "sampled":
        spectrum = _sampled("source", "spectrum", prior, slice(0, len(area)))
        if len(slots):
            given = _sampled("two_part", "difference", prior, slice(len(area), None))
            spectrum = jnp.concatenate([spectrum, given])
        _pixels(exposures, renderings, spectrum)
        _by_source("flux", spectrum[: len(area)] * area[:, None])
        _add_gradient(spectrum, len(area), slots)
        return
    images, noise = [one.images for one in exposures], [one.noise for one in exposures]
    solved = spectrum_posterior(renderings, images, noise, prior)
    if recovering():
        key = numpyro.prng_key()
        spectrum = solved.mean if treatment == "profiled" else solved.sample(key)
        _pixels(exposures, renderings, spectrum)
        _add_gradient(spectrum, len(area), slots)
        spectrum = spectrum[: len(area)]
        _by_source("spectrum", spectrum)
        _by_source("flux", spectrum * area[:, None])
        return
    log_density = solved.log_marginal if treatment == "marginal" else solved.log_profiled
    numpyro.factor("pixels", log_density)
    spectrum = solved.mean[: len(area)]
    _by_source("spectrum", spectrum)
    _by_source("flux", spectrum * area[:, None])
    variance = jnp.einsum("kbkb->kb", solved.covariance())[: len(area)]
    _by_source("flux_error", jnp.sqrt(variance) * area[:, None])
    _add_gradient(solved.mean, len(area), slots)


def two_parts(morphologies: Sequence[Morphologies]) -> tuple[list[Any], np.ndarray]:
    """Return the groups of sources of two parts, and the slots of these among all sources."""
    found, slots, first = [], [np.zeros(0, int)], 0
    for one in morphologies:
        count = len(one.mask)
        if one.gradient is not None:
            found.append(one)
            slots.append(first + np.arange(count))
        first += count
    return found, np.concatenate(slots)


def scales_of(gradients: Sequence[Gradient], prior: SpectrumPrior):
    """Return scales ``[G]`` of color gradients, and fluxes ``[G, B]`` that they are relative to.

    None for the fluxes if all are relative to those of the prior.
    """
    share = jnp.concatenate([jnp.asarray(one.share) for one in gradients])
    share = jnp.maximum(share, SMALLEST_SHARE)
    if all(one.flux is None for one in gradients):
        return share, None
    bands = prior.mean.shape[1]
    each = [
        jnp.full((len(g.share), bands), jnp.nan) if g.flux is None else g.flux for g in gradients
    ]
    return share, jnp.concatenate(each)


def _sampled(plate: str, name: str, prior: SpectrumPrior, rows: slice):
    """Draw amplitudes ``[K, B]`` of some rows of their prior."""
    mean, covariance = prior.mean[rows], prior.covariance[rows]
    with numpyro.plate(plate, len(mean)):
        return numpyro.sample(
            name, dist.MultivariateNormal(mean, covariance), infer={"event_dims": ["band"]}
        )


def _add_gradient(spectrum, count: int, slots: np.ndarray) -> None:
    """Add the deterministic site of color gradients, where there are any."""
    if len(slots):
        every = jnp.zeros_like(spectrum[:count]).at[slots].set(spectrum[count:])
        _by_source("gradient", every)


#: Treatments of the spectra.
TREATMENTS = ("marginal", "profiled", "sampled")


def _by_source(name: str, values) -> None:
    """Add a deterministic site ``[K, B]``."""
    sources, bands = values.shape
    with numpyro.plate("source", sources, dim=-2), numpyro.plate("band", bands, dim=-1):
        numpyro.deterministic(name, values)


def _pixels(exposures: Sequence[Exposure], renderings, spectrum) -> None:
    """Add the observed sites, in separate plates, so that leave-one-out is by pixel.

    ``pixels`` of the first exposure, ``pixels_2`` of the second, with axes named likewise; if
    there are several, ``band`` is the axis of all bands and the first has ``band_1``.  Axes over
    which the noise is correlated are no plates: leave-one-out is then over the other axes.
    """
    each = zip(exposures, renderings, by_exposure(spectrum, exposures), strict=True)
    for number, (one, drawn, own) in enumerate(each, 1):
        ending = "" if number == 1 else f"_{number}"
        model = jnp.einsum("kb,kbyx->byx", own, drawn)
        likelihood = one.likelihood(model)
        bands = f"band_{number}" if len(exposures) > 1 else "band"
        names = [bands, f"y{ending}", f"x{ending}"]
        batch = len(likelihood.batch_shape)
        infer = {"event_dims": names[batch:]} if batch < len(names) else None
        with contextlib.ExitStack() as plates:
            for axis in range(batch):
                plate = numpyro.plate(names[axis], model.shape[axis], dim=axis - batch)
                plates.enter_context(plate)
            numpyro.sample(f"pixels{ending}", likelihood, obs=one.images, infer=infer)
