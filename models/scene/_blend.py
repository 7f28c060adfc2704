"""The NumPyro model of a scene, which can be copied and changed."""

import contextlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

from scorepriors._errors import InputError
from scorepriors._recovery import recovering
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.rendering._information import by_exposure
from scorepriors.models.sources._abstract import Morphologies
from scorepriors.models.spectra._priors import AbstractSpectra
from scorepriors.models.spectra._spectra import spectrum_posterior

from ._scene import Scene

#: Lower limit of the sum of a morphology's pixels, so that an image whose pixels sum to zero
#: stays finite.
SMALLEST_AREA = 1e-3


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

    One color per source is the assumption behind "spectrum x morphology" (paper eq. 1).
    """
    drawn = [group.draw() for group in scene.sources]
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
        jnp.concatenate([one.render(m.image, m.corner, m.mask) for m in morphologies])
        for one in exposures
    ]
    area = jnp.concatenate([m.image.sum((-2, -1)) for m in morphologies])
    area = jnp.maximum(area, SMALLEST_AREA)
    prior = spectra.sample(len(area)).of_amplitudes(area)
    if treatment == "sampled":
        with numpyro.plate("source", len(area)):
            spectrum = numpyro.sample(
                "spectrum",
                dist.MultivariateNormal(prior.mean, prior.covariance),
                infer={"event_dims": ["band"]},
            )
        _pixels(exposures, renderings, spectrum)
        _by_source("flux", spectrum * area[:, None])
        return
    images, noise = [one.images for one in exposures], [one.noise for one in exposures]
    solved = spectrum_posterior(renderings, images, noise, prior)
    if recovering():
        key = numpyro.prng_key()
        spectrum = solved.mean if treatment == "profiled" else solved.sample(key)
        _pixels(exposures, renderings, spectrum)
        _by_source("spectrum", spectrum)
        _by_source("flux", spectrum * area[:, None])
        return
    log_density = solved.log_marginal if treatment == "marginal" else solved.log_profiled
    numpyro.factor("pixels", log_density)
    _by_source("spectrum", solved.mean)
    _by_source("flux", solved.mean * area[:, None])
    variance = jnp.einsum("kbkb->kb", solved.covariance())
    _by_source("flux_error", jnp.sqrt(variance) * area[:, None])


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
