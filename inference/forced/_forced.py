"""Forced photometry of a deblended scene in another image."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from astropy import units as u
from jaxtyping import Float

from scorepriors._errors import InputError
from scorepriors.inference.deblending._options import NOISES, SKY
from scorepriors.inference.deblending._result import Deblended, footprint_chi2
from scorepriors.inference.deblending._sky import tell_sky
from scorepriors.inference.deblending._units import in_one_unit
from scorepriors.models.data._alignment import seen_part
from scorepriors.models.data._field import Field
from scorepriors.models.data._joint import JointObservation, view_on
from scorepriors.models.data._model_noise import bands_with_own_noise, noise_from_model
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._views import Photometry, View
from scorepriors.models.data._warnings import note
from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.noise._sky import Sky
from scorepriors.models.scene._exposures import exposure_of

from ._checked import Checked, checked, tell_doubts
from ._solve import Solved, shapes_by_draws, shapes_by_slopes, solve_fluxes, unit_fluxes
from ._sources import Fixed, fixed_of

#: Width of the sky that is fitted, in standard deviations of a pixel: it is hardly known before.
_SKY_WIDTH = 10.0

#: What the words for the origin of the errors of shapes mean.
SHAPES = {
    "draws": "errors of shapes are the scatter of the fluxes over draws of the posterior",
    "curvature": "errors of shapes follow from the curvature of the deblended scene",
    "catalog": "errors of shapes follow from those of positions, sizes and ellipticities in the "
    "catalog",
    "none": "errors of shapes are left out",
}


@dataclass(frozen=True, eq=False)
class Forced(Photometry):
    """Fluxes of N sources in B bands of another image, in its unit; NaN without data.

    Attributes
    ----------
    ids
        Names of the sources, in the order of the catalog.
    observation
        The image, of a scene without what lies far beyond it.
    first
        Row and column of the first pixel of `observation` in the image that was given.
    bands, unit, zero_point
        Those of the image.
    pixel
        Places (row, column) of the sources in `observation`, ``[N, 2]``.
    sky
        Right ascension and declination in degrees, ``[N, 2]``.
    flux
        Fluxes ``[N, B]``, which may be negative.
    noise_error, shape_error
        Errors from the noise of the pixels and from the shapes, ``[N, B]``.
    alone_error
        What `noise_error` would be without neighbors, ``[N, B]``.
    share
        Share of the light on unmasked pixels of the image, ``[N, B]``.
    chi2
        Mean squared residual over noise where a source is seen, ``[N]``.
    model
        Light of all sources, ``[B, H, W]``.
    shapes
        Origin of the errors of shapes: a key of `SHAPES`.
    covariance
        Covariance ``[B, N, N]`` of noise and shapes; None for a field.
    background
        Sky that was fitted with the sources, ``[B, H, W]``; None for none.
    noise_from_model
        Bands in which the variances of the file followed the noise of their own pixels, so that the
        noise of sources was taken from the model.
    lost
        Names of stars that move, if the image has no time: they have no fluxes.
    doubts
        Sentences on noise and sky that the empty pixels deny, by code, as those of
        `check_field`.
    """

    ids: tuple[str, ...]
    observation: Observation
    bands: tuple[str, ...]
    unit: u.UnitBase | None
    zero_point: tuple[float, ...] | None
    pixel: Float[np.ndarray, "N 2"]
    sky: Float[np.ndarray, "N 2"]
    flux: Float[np.ndarray, "N B"]
    noise_error: Float[np.ndarray, "N B"]
    shape_error: Float[np.ndarray, "N B"]
    alone_error: Float[np.ndarray, "N B"]
    share: Float[np.ndarray, "N B"]
    chi2: Float[np.ndarray, " N"]
    model: Float[np.ndarray, "B H W"]
    shapes: str
    covariance: Float[np.ndarray, "B N N"] | None = None
    background: Float[np.ndarray, "B H W"] | None = None
    noise_from_model: tuple[str, ...] = ()
    first: tuple[int, int] = (0, 0)
    lost: tuple[str, ...] = ()
    doubts: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> Float[np.ndarray, "N B"]:
        """Errors from noise and shapes together."""
        return np.hypot(self.noise_error, self.shape_error)

    @property
    def snr(self) -> Float[np.ndarray, "N B"]:
        """Fluxes over their errors: Gaussian of width one where there is nothing."""
        return self.flux / self.error

    @property
    def residual(self) -> Float[np.ndarray, "B H W"]:
        """Image minus the light of all sources and the sky, zero where masked."""
        obs = self.observation
        known = self.model if self.background is None else self.model + self.background
        return np.where(obs.weights > 0, obs.images - known, 0).astype(np.float32)


def forced_photometry(
    result: Any,
    obs: Observation | Field,
    *,
    draws: Any = None,
    noise: AbstractNoise | None = None,
    sky: str | None = "auto",
    variances: str = "auto",
    rescale_noise: bool = False,
    progress: Any = None,
) -> Forced:
    """Measure the fluxes of the sources of a finished run in another image.

    Shapes and places stay those of the run; fluxes are free, those of all sources jointly, and
    have no prior, so that they may be negative and can be stacked.

    Parameters
    ----------
    result
        Result of `deblend` or `deblend_field`, or the folder that the commands ``deblend`` and
        ``sample`` wrote; draws in that folder are used.
    obs
        Image of the same sky: of another band, telescope or epoch, with any WCS, pixels and PSF.
        Of a `Field` (`Field.open`) only what sees the sources is read, with the PSF there; that of an
        `Observation` is the one of its middle.  Stars that move are measured where they are at
        its time, and not at all if it has none.
    draws
        Draws of the scene, from `sample_deblended` or `laplace_deblended`: the scatter of the
        fluxes over them is the error that the shapes make, and the sources have the models that were
        sampled (by default those of `simplest`).  Without, it follows from the curvature of the
        scene.
    noise
        Model of the noise of the image; its weights, and its correlation if that is known, if not
        given.  Nothing is then said of the noise of the file, and a sky is the model's own.
    sky
        ``"constant"`` or ``"plane"``: a sky in each band, of a field in each window, that is fitted
        with the sources; ``"auto"``: where the empty pixels show one, and with a warning; ``"none"``.
    variances
        ``"auto"``: where the variances of the image follow the noise of their own pixels, which
        biases fluxes low, the noise of sources is taken from the model
        (`scorepriors.models.noise_from_model`).  ``"file"``: always those of the image.  Nothing of
        it holds where `noise` is given.
    rescale_noise
        Whether the errors of bands whose empty pixels scatter by far more or less are rescaled.
    progress
        Function for `scorepriors._progress`, called with done and total scenes of a field.

    Returns
    -------
    Forced
        Fluxes with errors, and the model of the image.

    Raises
    ------
    InputError
        If the folder holds no result, an image has no WCS or the two do not overlap, for draws of
        another scene, for unknown `variances` or `sky`, or if there is so much sky that fluxes would
        mean nothing and it is not fitted.

    Warns
    -----
    FieldWarning
        If empty pixels scatter by far more or less than the noise of the file, or a sky is left in.

    Examples
    --------
    >>> forced_photometry(deblend(obs), other).flux  # doctest: +SKIP
    array([[12.3, ...
    """
    from ._folders import opened

    if variances not in NOISES:
        raise InputError(f"`variances` must be one of {', '.join(NOISES)}, got {variances!r}.")
    sky = "none" if sky is None else sky
    if sky not in SKY:
        raise InputError(f"`sky` must be one of {', '.join(SKY)}, got {sky!r}.")
    result, found = opened(result)
    draws = found if draws is None else draws
    if isinstance(obs, JointObservation):
        raise InputError("the image is several joined ones; give each by itself.")
    if isinstance(result, Deblended):
        if not isinstance(obs, Observation | Field):
            raise InputError(f"the image is a {type(obs).__name__}; give an Observation.")
        if noise is not None:
            if isinstance(obs, Field):
                raise InputError("a model of the noise is that of an Observation; give one.")
            # Its sky, if any, is its own.
            sky = "none" if sky == "auto" else sky
        return forced_scene(
            fixed_of(result, draws, obs.time), obs, noise, sky, variances, rescale_noise
        )
    if draws is not None or noise is not None:
        raise InputError("a field has neither draws nor a model of the noise; leave them out.")
    from ._fields import forced_field

    return forced_field(result, obs, sky, variances, rescale_noise, progress)


def forced_scene(
    fixed: Fixed,
    obs: Observation | Field,
    noise: AbstractNoise | None = None,
    sky: str = "none",
    variances: str = "auto",
    rescale: bool = False,
) -> Forced:
    """Measure fluxes of sources of known shapes in another image."""
    name = obs.name or "the image"
    # Of a field what sees the sources is read.
    whole = seen_part(fixed.reference, obs, name) if isinstance(obs, Field) else obs
    found = measured(fixed, whole, noise, sky, variances, rescale)
    if sky == "auto" and found.checked.level is not None:
        tell_sky(found.checked.level, whole.bands)
    tell_doubts(found.checked.doubts.values())
    if fixed.lost:
        note(
            f"{', '.join(fixed.lost)}: no flux of what moves, since {name} has no time and nobody knows "
            "where it was then; give time=MJD (--time), or a card MJD-AVG or MJD-OBS in its header."
        )
    seen, solved, of_shapes = found.view, found.solved, found.of_shapes
    part = seen.observation
    world = fixed.reference.wcs.pixel_to_world(fixed.center[:, 1], fixed.center[:, 0]).icrs  # type: ignore[union-attr]
    shape_error = np.sqrt(np.einsum("bkk->kb", of_shapes))
    return Forced(
        ids=fixed.ids,
        observation=part,
        bands=part.bands,
        unit=part.unit,
        zero_point=part.zero_point,
        pixel=seen.pixels(fixed.center),
        sky=np.stack([world.ra.deg, world.dec.deg], 1),
        flux=solved.flux,
        noise_error=np.sqrt(np.einsum("bkk->kb", solved.covariance)),
        shape_error=shape_error,
        alone_error=solved.alone,
        share=solved.share,
        chi2=found.chi2,
        model=np.einsum("kb,kbyx->byx", np.nan_to_num(solved.flux), solved.unit),
        shapes=origin_of_shapes(fixed),
        covariance=solved.covariance + of_shapes,
        background=found.background,
        noise_from_model=found.noise_from_model,
        first=(part.corner[0] - obs.corner[0], part.corner[1] - obs.corner[1]),
        lost=fixed.lost,
        doubts=found.checked.doubts,
    )


def origin_of_shapes(fixed: Fixed) -> str:
    """Return the key of `SHAPES` for sources of a scene."""
    if fixed.draws:
        return "draws"
    return "none" if fixed.slopes is None else "curvature"


class Measured(NamedTuple):
    """Fluxes of the sources of one scene.

    Attributes
    ----------
    view
        The image as seen from the pixels of the shapes, cut to what these cover.
    solved
        Fluxes and their noise.
    of_shapes
        Covariance that the shapes make, ``[B, N, N]``.
    chi2
        Mean squared residual over noise where each source is seen, ``[N]``.
    background
        Fitted sky ``[B, H, W]``; None for none.
    checked
        The image as its empty pixels say.
    noise_from_model
        See `Forced`.
    """

    view: View
    solved: Solved
    of_shapes: Float[np.ndarray, "B N N"]
    chi2: Float[np.ndarray, " N"]
    background: Float[np.ndarray, "B H W"] | None
    checked: Checked
    noise_from_model: tuple[str, ...] = ()


def measured(
    fixed: Fixed,
    obs: Observation,
    noise: AbstractNoise | None = None,
    sky: str = "none",
    variances: str = "auto",
    rescale: bool = False,
    refuse: bool = True,
) -> Measured:
    """Solve for the fluxes of sources of known shapes; a hopeless sky is refused or a doubt."""
    view = view_on(fixed.reference, obs, obs.name or "the image")
    given = view.observation
    if noise is not None:
        if given is not obs:
            noise = _cut(noise, np.subtract(given.corner, obs.corner), given.shape)
        kind = None if sky == "none" else sky
        return _solved(fixed, view, noise, Checked(given, kind))
    about = checked(given, view.pixels(fixed.center), sky, rescale=rescale, refuse=refuse)
    view = replace(view, observation=about.observation)
    own = bands_with_own_noise(about.observation) if variances == "auto" else ()
    if not own:
        return _solved(fixed, view, None, about)
    first = _solved(fixed, _with_noise(view, None), None, about)
    model = np.einsum("kb,kbyx->byx", np.nan_to_num(first.solved.flux), first.solved.unit)
    if first.background is not None:
        model = model + first.background
    return _solved(fixed, _with_noise(view, model), None, about)._replace(noise_from_model=own)


def _cut(noise: AbstractNoise, corner: np.ndarray, shape: tuple[int, int]) -> AbstractNoise:
    """Return the noise of a part of an image, whose sky is of the same kind."""
    if isinstance(noise, Sky):
        return noise.cut(corner, shape, noise.kind)
    return noise.cut(corner, shape)


def _with_noise(view: View, model: np.ndarray | None) -> View:
    return replace(view, observation=noise_from_model(view.observation, model))


def _solved(fixed: Fixed, view: View, noise: AbstractNoise | None, about: Checked) -> Measured:
    """Solve with one model of the noise."""
    part, sky = view.observation, about.kind
    sides = set(fixed.boxes.sides)
    if fixed.slopes is not None:
        sides |= set(fixed.slopes.about.sides)
    exposure = exposure_of(
        view, boxes=tuple(sorted(sides)), psf_sigma=fixed.psf_sigma, noise=noise, on_model=False
    )
    if sky is not None:
        scatter = [1 / np.sqrt(w[w > 0].mean()) if (w > 0).any() else 1.0 for w in part.weights]
        width = _SKY_WIDTH * np.array(scatter, np.float32)
        exposure = replace(exposure, noise=Sky.about(exposure.noise, width, sky))
    solved = solve_fluxes(exposure, unit_fluxes(exposure, fixed.boxes))
    seen = ~np.isnan(solved.flux)
    if fixed.draws:
        of_shapes = shapes_by_draws(exposure, fixed.draws, seen)
    elif fixed.slopes is not None:
        of_shapes = shapes_by_slopes(exposure, fixed.slopes, solved.flux, seen)
    else:
        of_shapes = np.where(np.isnan(solved.covariance), np.nan, 0.0)
    light = solved.unit * np.nan_to_num(solved.flux)[:, :, None, None].astype(np.float32)
    residual = np.asarray(exposure.images) - light.sum(0)
    squared = residual * np.asarray(exposure.noise.precision(residual))
    unit = part.flux_unit[1]
    bright = in_one_unit([np.abs(light)], [unit / unit[0]])
    chi2 = footprint_chi2([squared], [part.weights > 0], bright)
    background = None
    if isinstance(exposure.noise, Sky):
        level, _ = exposure.noise.level(residual)
        background = np.einsum("bk,kyx->byx", level, exposure.noise.templates)
    return Measured(view, solved, of_shapes, chi2, background, about)
