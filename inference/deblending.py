"""The main job: from an observation and positions to a scene taken apart.

A parametric scene fit comes first (it always ends somewhere sensible), the free-form
fit under the learned prior starts from it, and both results are kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.handlers import seed, substitute

from scorepriors.distribution import ScorePrior
from scorepriors.errors import InputError
from scorepriors.models.blend import blend, footprint_chi2
from scorepriors.models.detection import detect
from scorepriors.models.observation import Observation
from scorepriors.models.positions import Positions
from scorepriors.models.rendering import ImageData, image_data
from scorepriors.models.sources import (
    Morphologies,
    Sources,
    bulge_disk,
    place_sources,
    point_sources,
)
from scorepriors.zoo import load_prior

from .optimization import MAPResult, fit_map
from .starting import free_form_start, profile_start

#: Sides of the boxes of stars, pixels: ten standard deviations of the model PSF.
STAR_BOX = 15

#: Model PSF, in pixels, of parametric sources beside a prior whose images carry none:
#: narrow enough for the pixel to outweigh it.
UNRESOLVED = 0.1

#: Sources are padded to a multiple of this, so that few programs serve all blends.
PADDING = 4


@dataclass(frozen=True)
class Scene:
    """A set of sources that explains an image; padding removed, catalogue order.

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
    """Outcome of `deblend`.

    Attributes
    ----------
    observation, positions, prior
        What went in.
    free_form
        The scene under the learned prior: the result.
    parametric
        The bulge-and-disk scene it started from.
    center
        ``[K, 2]``, fitted (row, column).
    profile
        Parametric shapes by name, ``[K]`` or ``[K, 2]``; NaN for stars.
    seconds
        Wall time per stage.
    """

    observation: Observation
    positions: Positions
    prior: ScorePrior
    free_form: Scene
    parametric: Scene
    center: np.ndarray
    profile: dict
    seconds: dict

    @property
    def converged(self) -> bool:
        """Whether the free-form fit converged."""
        return bool(self.free_form.fit.converged)


def deblend(
    obs: Observation,
    positions: Positions | None = None,
    *,
    prior: ScorePrior | str = "lsst-32",
    spectra: str = "marginal",
    center_error: float = 0.3,
    key=None,
    max_iterations: int = 300,
    tolerance: float = 1.0,
    padding: int = PADDING,
    progress: bool | Callable = False,
) -> Deblended:
    """Take a blend apart.

    Parameters
    ----------
    obs
        Pixels, weights, PSFs.
    positions
        Where the sources are; detected on the sum of the bands if not given.
    prior
        A prior or the name of one.
    spectra
        How spectra are treated, ``"marginal"`` or ``"profiled"``: see `blend`.
    center_error
        Standard deviation in pixels of the given positions, per axis.
    key
        Random key; the fits draw nothing from it unless a start value is missing.
    max_iterations
        Of each of the two fits.
    tolerance
        Expected remaining gain per source at which a fit ends, nats.  One nat is far
        below the posterior's own spread; running on to the exact mode of so many
        dimensions costs iterations and, measured on simulated blends, accuracy.  The
        parametric fit, cheap and of few dimensions, goes on to a tenth of it.
    padding
        Sources are padded to a multiple of this; blends of one padded size (and image
        and PSF shape) share their compiled programs.
    progress
        True for progress bars.

    Returns
    -------
    Deblended
        Also when a fit has not converged: see `Deblended.converged`.

    Raises
    ------
    InputError
        If nothing is detected.
    """
    key = jax.random.key(0) if key is None else key
    prior = load_prior(prior) if isinstance(prior, str) else prior
    positions = detect(obs) if positions is None else positions
    if not len(positions.ids):
        raise InputError("there is no source to fit; give at least one position.")
    box = prior.event_shape[-1]
    psf_sigma = UNRESOLVED if prior.model_psf_sigma is None else prior.model_psf_sigma
    data = image_data(obs, box=max(box, STAR_BOX), model_psf_sigma=prior.model_psf_sigma)
    is_point = np.asarray(positions.is_point)
    center = positions.row_column
    galaxies = _group(center[~is_point], box, padding)
    stars = _group(center[is_point], STAR_BOX, padding)

    clock = time.monotonic()
    options = {"box": box, "star_box": STAR_BOX, "psf_sigma": psf_sigma}
    fit_options = {**options, "spectra": spectra, "center_error": center_error}
    label = partial(_label, progress)
    init, scale = profile_start(data, stars, galaxies, **options)
    parametric = fit_map(
        blend, data, None, None, stars, galaxies, key=key, model_kwargs=fit_options, init=init,
        scale=scale, max_iterations=max_iterations, tolerance=0.1 * tolerance * len(center),
        progress=label("profiles"),
    )  # fmt: skip
    groups = _morphologies(data, stars, galaxies, parametric, options)
    seconds = {"parametric": time.monotonic() - clock}
    parametric_scene = _scene(obs, data, groups, parametric, is_point)

    clock = time.monotonic()
    fitted = _fitted_centers(center, is_point, stars, galaxies, parametric)
    final_groups, final = groups, parametric
    if galaxies is not None:
        # The fitted centre decides where the box goes: a prior is strict about centring.
        moved = place_sources(fitted[~is_point], box=box, size=len(galaxies.mask))
        start = _profile_images(moved, galaxies, parametric, options, stars is not None)
        star_group = groups[0] if stars is not None else None
        init, scale = free_form_start(data, prior, start, star_group)
        if stars is not None:
            init["stars/offset"] = parametric.values["stars/offset"]
            scale["stars/offset"] = 0.02
            # Groups run galaxies, stars here and stars, profiles before; `free_form_start`
            # has put the brightness in the new order already.
        final = fit_map(
            blend, data, prior, moved, stars, key=key, model_kwargs=fit_options, init=init,
            scale=scale, max_iterations=max_iterations, tolerance=tolerance * len(center),
            progress=label("free-form"),
        )  # fmt: skip
        name = "galaxies/morphology" if stars is not None else "morphology"
        final_groups = [Morphologies(final.values[name], moved.corner, moved.mask)]
        if stars is not None:
            final_groups.append(_star_images(stars, final, options, "stars/"))
    seconds["free_form"] = time.monotonic() - clock
    galaxies_first = galaxies is not None
    free_form = _scene(obs, data, final_groups, final, is_point, galaxies_first=galaxies_first)
    profile = _profile_values(parametric, is_point, galaxies, stars is not None)
    return Deblended(obs, positions, prior, free_form, parametric_scene, fitted, profile, seconds)


def _label(progress, name):
    return name if progress is True else progress


def _group(center: np.ndarray, box: int, padding: int) -> Sources | None:
    if not len(center):
        return None
    size = -(-len(center) // padding) * padding
    return place_sources(center, box=box, size=size)


@eqx.filter_jit
def _draw(block, sources, values, options):
    """Images of a parametric group for given site values."""
    return substitute(seed(lambda: block(sources, **options), 0), data=values)()


def _strip(values: dict, prefix: str) -> dict:
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


def _profile_images(sources, original, fit: MAPResult, options, several) -> Morphologies:
    """Fitted bulges and disks drawn on the boxes of `sources`, about the same centres."""
    values = _strip(fit.values, "profiles/" if several else "")
    # Same place in the image, other corner: `center` moves with the sources.
    values = {**values, "offset": values["offset"] + original.center - sources.center}
    return _draw(
        bulge_disk, sources, values, {"box": options["box"], "psf_sigma": options["psf_sigma"]}
    )


def _star_images(stars, fit: MAPResult, options, prefix) -> Morphologies:
    values = _strip(fit.values, prefix)
    return _draw(
        point_sources, stars, values,
        {"box": options["star_box"], "psf_sigma": options["psf_sigma"]},
    )  # fmt: skip


def _morphologies(data, stars, galaxies, fit, options) -> list[Morphologies]:
    several = stars is not None and galaxies is not None
    groups = []
    if stars is not None:
        groups.append(_star_images(stars, fit, options, "stars/" if several else ""))
    if galaxies is not None:
        groups.append(_profile_images(galaxies, galaxies, fit, options, several))
    return groups


def _fitted_centers(center, is_point, stars, galaxies, fit: MAPResult) -> np.ndarray:
    several = stars is not None and galaxies is not None
    fitted = np.array(center, float)
    for which, name, group in ((is_point, "stars/", stars), (~is_point, "profiles/", galaxies)):
        if group is not None:
            offset = np.asarray(fit.values[(name if several else "") + "offset"])
            fitted[which] += offset[: which.sum()]
    return fitted


def _profile_values(fit, is_point, galaxies, several) -> dict:
    if galaxies is None:
        return {}
    values = _strip(fit.values, "profiles/" if several else "")
    out = {}
    for name in (
        "log_radius",
        "ellipticity",
        "bulge_logit",
        "bulge_log_ratio",
        "bulge_ellipticity",
    ):
        value = np.asarray(values[name])
        full = np.full((len(is_point), *value.shape[1:]), np.nan)
        full[~is_point] = value[: (~is_point).sum()]
        out[name] = full
    return out


@eqx.filter_jit
def _rendered(data: ImageData, groups, spectrum):
    convolved = jnp.concatenate([data.render(m.image, m.corner) for m in groups])
    mask = jnp.concatenate([m.mask for m in groups])
    convolved *= (spectrum * mask[:, None])[:, :, None, None]
    residual = (data.images - convolved.sum(0)) ** 2 * data.weights
    chi2 = residual.sum() / (data.weights > 0).sum()
    return convolved, chi2, footprint_chi2(data, convolved, mask)


def _scene(obs, data, groups, fit: MAPResult, is_point, *, galaxies_first=False) -> Scene:
    """Collect a fit's sources in the order of the catalogue, without padding."""
    convolved, chi2, source_chi2 = _rendered(data, groups, fit.values["spectrum"])
    mask = np.concatenate([np.asarray(m.mask) for m in groups])
    real = np.flatnonzero(mask)
    # Groups hold the stars first in a parametric scene, the galaxies in a free-form one.
    catalogue = np.arange(len(is_point))
    parts = [catalogue[~is_point], catalogue[is_point]]
    rank = np.concatenate(parts if galaxies_first else parts[::-1])
    order = np.empty(len(is_point), int)
    order[rank] = real
    height, width = obs.shape
    images = np.concatenate(
        [_on_image(np.asarray(m.image), np.asarray(m.corner), (height, width)) for m in groups]
    )
    pick = lambda name: np.asarray(fit.values[name])[order]  # noqa: E731
    return Scene(
        morphology=images[order],
        convolved=np.asarray(convolved)[order],
        flux=pick("flux"),
        flux_error=pick("flux_error"),
        chi2=float(chi2),
        source_chi2=np.asarray(source_chi2)[order],
        fit=fit,
    )


def _on_image(images, corners, shape) -> np.ndarray:
    """Boxes placed on the image grid, each normalised to a total flux of one."""
    out = np.zeros((len(images), *shape), np.float32)
    size = images.shape[-1]
    for target, image, (row, column) in zip(out, images, corners, strict=True):
        rows = slice(max(row, 0), min(row + size, shape[0]))
        columns = slice(max(column, 0), min(column + size, shape[1]))
        if rows.start < rows.stop and columns.start < columns.stop:
            target[rows, columns] = (
                image[
                    rows.start - row : rows.stop - row,
                    columns.start - column : columns.stop - column,
                ]
                / image.sum()
            )
    return out
