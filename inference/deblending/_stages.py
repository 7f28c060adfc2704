"""Scenes of a deblending: first the parametric one, then the one under the learned prior."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.data._model_noise import bands_with_own_noise, noise_from_model
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.scene._exposures import exposures
from scorepriors.models.scene._scene import Scene
from scorepriors.models.scene._start import start_values
from scorepriors.models.sources._abstract import AbstractSource, round_gaussians
from scorepriors.models.sources._free_form import FreeForm
from scorepriors.models.sources._moving import MOVING_BOX, MovingStar
from scorepriors.models.sources._placement import Placement, place_sources
from scorepriors.models.sources._point import STAR_BOX, PointSource
from scorepriors.models.sources._two_part import TwoPart
from scorepriors.models.spectra._priors import AbstractSpectra

from ._choice import carried, cut_off, explained, galaxies_of, parts_of, profiles, seen_beyond
from ._noise import noises_of
from ._options import Settings
from ._priors import compare_pixels
from ._result import FittedScene
from ._sky import FittedSky, left_of_sky, with_sky, without

#: Standard deviation of Gaussian starts as a share of the side of the box: a fifth of it
#: at half maximum.
GAUSSIAN_WIDTH = 0.2 / 2.355

#: Share of the light of a galaxy's fitted profile outside of the smaller box above which it
#: gets a larger one.
CUT_OFF = 0.01

#: The same of the largest box above which it keeps its profile, with its wings, in a wide box.
CUT_OFF_WIDE = 0.03

#: Sources in large boxes, which are few and expensive, are padded to a multiple of this.
LARGE_PADDING = 2


@dataclass(frozen=True)
class Blend:
    """A blend prepared for fits.

    Attributes
    ----------
    obs, positions
        Observation and positions of the sources.
    exposures, spectra
        Exposures for boxes of the first prior, and the prior on spectra.
    given
        Observation with the weights of the file, where those of `obs` come from a model; or None.
    others
        Light ``[B, H, W]`` in each image that is not of these sources, and is subtracted; or None.
    wide
        Mask ``[N]`` of galaxies in wide boxes; None for none.
    simple
        Mask ``[N]`` of galaxies that keep their profiles because free forms explain no more; None
        for none known.
    sky
        Sky that `obs` is without, and what is left of which is integrated out; None for none.
    unmended
        Observation with its weights before outliers and the error of the model; None if that is `obs`.
    kept
        Share ``[B, H, W]`` of the weight of each pixel of each image that is kept, lower where there
        are outliers; None for all of it.
    model_error
        Error of the model in units of its light, ``[B]`` of each image; None for none.
    trails
        Mask ``[B, H, W]`` of trails in each image, found before any fit; None for none.
    """

    obs: Any
    positions: Positions
    exposures: tuple[Exposure, ...]
    spectra: AbstractSpectra
    given: Any = None
    others: tuple[np.ndarray, ...] | None = None
    wide: np.ndarray | None = None
    simple: np.ndarray | None = None
    sky: FittedSky | None = None
    unmended: Any = None
    kept: tuple[np.ndarray, ...] | None = None
    model_error: tuple[np.ndarray, ...] | None = None
    trails: tuple[np.ndarray, ...] | None = None

    @property
    def own_noise(self) -> tuple[str, ...]:
        """Bands in which the noise of sources comes from a model."""
        return () if self.given is None else bands_with_own_noise(self.given)

    def with_model(self, images: Sequence[np.ndarray], settings: Settings) -> "Blend":
        """Return the blend with the noise of sources from models ``[B, H, W]`` of its images."""
        if self.others is not None:
            images = [image + other for image, other in zip(images, self.others, strict=True)]
        obs = without(noise_from_model(self.given, images), self.others)
        each = zip(self.exposures, noises_with_sky(obs, settings, self.sky), strict=True)
        seen = tuple(replace(exposure, noise=noise) for exposure, noise in each)
        spectra = settings.spectra(obs, seen, self.positions.ids)
        return replace(self, obs=obs, exposures=seen, spectra=spectra)

    def with_wide(self, wide: np.ndarray, settings: Settings) -> "Blend":
        """Return the blend with these galaxies in wide boxes."""
        boxes = (settings.boxes[0], settings.wide_box)
        found = prepared_exposures(self.obs, settings, boxes, self.sky)
        return replace(self, wide=wide, exposures=found)

    def without_sky(self, found: FittedScene) -> tuple["Blend", Scene]:
        """Return the blend and a fitted scene of it without what is left of the sky beside it."""
        if self.sky is None:
            return self, found.scene
        level, error = left_of_sky(found.scene.exposures, found.convolved)
        light = replace(self.sky, level=tuple(level)).images

        def mended(exposures):
            each = zip(exposures, light, strict=True)
            return tuple(replace(e, images=np.asarray(e.images) - sky) for e, sky in each)

        blend = replace(
            self,
            obs=without(self.obs, light),
            given=None if self.given is None else without(self.given, light),
            unmended=None if self.unmended is None else without(self.unmended, light),
            exposures=mended(self.exposures),
            sky=self.sky.plus(level, error),
        )
        return blend, replace(found.scene, exposures=mended(found.scene.exposures))

    @property
    def is_point(self) -> np.ndarray:
        """Mask of the stars, those that move included."""
        return np.asarray(self.positions.is_point)

    def is_moving(self, settings: Settings) -> np.ndarray:
        """Return the mask of the stars that move, ``[N]``."""
        return np.isin(self.positions.ids, settings.options.moving)

    @property
    def is_wide(self) -> np.ndarray:
        """Mask of galaxies in wide boxes."""
        return np.zeros(len(self.is_point), bool) if self.wide is None else self.wide

    @property
    def shape(self):
        """Shapes of the arrays; blends with equal shapes run the same programs."""
        leaves, structure = jax.tree.flatten(self.exposures)
        kinds = bool(self.is_point.any()), bool((~self.is_point).any())
        return tuple(np.shape(leaf) for leaf in leaves), structure, kinds


def prepare(
    obs,
    positions: Positions,
    settings: Settings,
    others: Sequence[np.ndarray] | None = None,
    sky: FittedSky | None = None,
) -> Blend:
    """Prepare a blend; `InputError` if there is no source.

    Parameters
    ----------
    obs, positions
        Observation, and positions of the sources.
    settings
        Options and priors.
    others
        Known light ``[B, H, W]`` of other sources in each image.  Their noise stays.
    sky
        Sky that the observation is without, and what is left of which is to be fitted; or None.
    """
    if settings.options.has_free_forms:
        compare_pixels(obs, settings.priors[0])
    if not len(positions.ids):
        raise InputError("there is no source to fit; give at least one position.")
    file = settings.options.noise == "file"
    moving = np.isin(positions.ids, settings.options.moving)
    if moving.any():
        positions = replace(positions, is_point=np.asarray(positions.is_point) | moving)
    used = obs if file else noise_from_model(obs)
    given = None if used is obs else obs
    light = None if others is None else tuple(others)
    used = without(used, light)
    found = prepared_exposures(used, settings, settings.boxes[:1], sky)
    spectra = settings.spectra(used, found, positions.ids)
    return Blend(used, positions, found, spectra, given, light, sky=sky)


def prepared_exposures(
    obs, settings: Settings, boxes: Sequence[int], sky: FittedSky | None = None
) -> tuple[Exposure, ...]:
    """Return exposures for these boxes and those of stars."""
    small, *large = boxes
    sigma = settings.priors[0].model_psf_sigma
    boxes = (max(small, MOVING_BOX if settings.options.moving else STAR_BOX), *large)
    return exposures(obs, boxes=boxes, psf_sigma=sigma, noise=noises_with_sky(obs, settings, sky))


def noises_with_sky(obs, settings: Settings, sky: FittedSky | None):
    """Return models of the noise, with what is left of a sky."""
    return with_sky(noises_of(obs, settings), obs, None if sky is None else sky.kind)


def padded_sizes(blends: Sequence[Blend], padding: int) -> tuple[int, int]:
    """Return padded numbers of stars and of galaxies that suffice for every blend."""
    stars = max(int(b.is_point.sum()) for b in blends)
    galaxies = max(int((~b.is_point).sum()) for b in blends)
    return -(-stars // padding) * padding, -(-galaxies // padding) * padding


def parametric_scene(
    blend: Blend, settings: Settings, sizes: tuple[int, int], num_wide: int = 0
) -> Scene:
    """Return the scene of stars and parametric galaxies at the given positions.

    Parameters
    ----------
    blend, settings
        The blend, and options and priors.
    sizes
        Padded numbers of stars and of galaxies.
    num_wide
        Padded number of galaxies in wide boxes.
    """

    def placed(which, box, size):
        center = blend.positions.row_column[which]
        return place_sources(center, box=box, size=size, index=np.flatnonzero(which))

    groups: list[AbstractSource] = []
    moving = blend.is_moving(settings)
    if moving.any():
        groups.append(_moving_stars(blend, settings, placed(moving, MOVING_BOX, moving.sum())))
    if (blend.is_point & ~moving).any() or (sizes[0] and not moving.any()):
        at = placed(blend.is_point & ~moving, STAR_BOX, sizes[0])
        error = settings.options.center_error
        groups.append(PointSource(at, psf_sigma=settings.psf_sigma, center_error=error))
    if sizes[1]:
        at = placed(~blend.is_point & ~blend.is_wide, settings.boxes[0], sizes[1])
        groups.append(settings.profiles(at, "profiles"))
    if num_wide:
        at = placed(blend.is_wide, settings.wide_box, num_wide)
        groups.append(settings.profiles(at, "wide"))
    return Scene.of(blend.exposures, groups, blend.spectra, settings.options.spectra)


def _moving_stars(blend: Blend, settings: Settings, at: Placement) -> MovingStar:
    """Return the stars that move at their places."""
    times = [view.observation.time for view in blend.obs.views]
    if any(time is None for time in times) or np.ptp(times) == 0:
        raise InputError(
            "a star moves between observations of different times; give time=MJD to each of them "
            "(--time, or a card MJD-AVG in its header)."
        )
    middle, days = (max(times) + min(times)) / 2, np.ptp(times)
    return MovingStar(
        at,
        phase=(np.array(times) - middle) / days,
        days=days,
        psf_sigma=settings.psf_sigma,
        center_error=settings.options.center_error,
    )


def may_be_wide(scene: Scene, values: dict, settings: Settings) -> bool:
    """Return whether a profile of a fitted parametric scene has light outside of its box."""
    found = cut_off(scene, values, settings.boxes[0], settings.wide_box)
    return settings.options.start != "blobs" and bool((found > CUT_OFF).any())


def wide_sources(blend: Blend, scene: Scene, found: FittedScene, settings: Settings) -> np.ndarray:
    """Return the galaxies of a fitted parametric scene that need wide boxes, ``[N]``.

    Those whose light no free form can hold; or, if they may keep their profiles, all that do not
    fit into the box of these.
    """
    if settings.options.start == "blobs":
        return np.zeros(len(scene.order), bool)
    box = settings.boxes[-1 if settings.options.models == "free-form" else 0]
    # A profile in a box too small for it is no measure: the fit in a wide one decides.
    return seen_outside(blend, scene, found, settings, box) > CUT_OFF


def seen_outside(blend: Blend, scene: Scene, found: FittedScene, settings: Settings, box: int):
    """Return the share of the light of each galaxy that is seen outside of a box, ``[N]``."""
    whole = settings.wide_box
    if not (cut_off(scene, found.fit.values, box, whole) > CUT_OFF).any():
        return np.zeros(len(scene.order))
    first = prepared_exposures(blend.obs, settings, (settings.boxes[0], whole), blend.sky)[0]
    return seen_beyond(scene, found.fit.values, found, box, (first, whole))


def parametric_start(scene: Scene, settings: Settings):
    """Return start values and widths of the parametric fit."""
    spoil = settings.spoil
    if settings.options.start == "gaussian":
        spoil = spoil._replace(width=GAUSSIAN_WIDTH * settings.boxes[0])
    return start_values(scene, psf_sigma=settings.psf_sigma, spoil=spoil)


def restarted(before: Scene, values: dict, scene: Scene, init: dict) -> dict[str, np.ndarray]:
    """Return start values of a parametric scene, those of a fit of the same sources where it has them.

    Parameters
    ----------
    before, values
        The fitted scene, and its values.
    scene, init
        The scene, and its usual start values.
    """
    out = {name: np.array(value) for name, value in init.items()}
    out |= carried(before, values, scene)
    if "wide" in scene.names and "wide" not in before.names:
        # What a profile in a box too small for it does outside means nothing.
        box = before["profiles"].at.box
        for name in init:
            site = name.removeprefix("wide/")
            if site != name and site not in ("offset", "ellipticity", "log_radius"):
                out[name] = np.array(init[name])
        if "wide/log_radius" in out:
            out["wide/log_radius"] = np.minimum(out["wide/log_radius"], np.log(box / 4))
    first, second = before.order, scene.order
    for name in init:
        if "/" not in name:
            out[name][second] = np.asarray(values[name])[first]
    return out


#: Names of the groups of free-form sources, by the side of their boxes.
FREE_FORMS = ("galaxies", "large")


class FreeFormStage:
    """Preparation of the scene under the learned priors from a fitted parametric one.

    Parameters
    ----------
    blend, settings
        The blend, and options and priors.
    scene, found
        The parametric scene and its fit.
    """

    def __init__(self, blend: Blend, settings: Settings, scene: Scene, found: FittedScene):
        self.blend, self.settings, self.before, self.fit = blend, settings, scene, found.fit
        self.found = found
        self.center = scene.centers(self.fit.values)
        values, boxes = self.fit.values, settings.boxes
        kinds = np.where(blend.is_point, "stars", "galaxies").astype("U8")
        kinds[blend.is_moving(settings)] = "moving"
        if settings.options.start != "blobs":
            if len(boxes) > 1:
                kinds[cut_off(scene, values, *boxes) > CUT_OFF] = "large"
            kept = blend.is_wide.copy()
            if kept.any():
                kept &= seen_outside(blend, scene, found, settings, boxes[-1]) > CUT_OFF_WIDE
            if settings.options.models == "simplest":
                simple = explained(found) & ~blend.is_point
                kept |= simple if blend.simple is None else simple | blend.simple
            kinds[kept] = np.where(blend.is_wide, "wide", "profiles")[kept]
        #: Group of every source.
        self.kinds = kinds

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of free-form sources."""
        return tuple(name for name in FREE_FORMS if (self.kinds == name).any())

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the groups of galaxies that keep their profiles."""
        return tuple(name for name in ("profiles", "wide") if (self.kinds == name).any())

    def number(self, name: str, padding: int) -> int:
        """Return the number of sources of a group, padded to a multiple."""
        return -(-int((self.kinds == name).sum()) // padding) * padding

    def scene(self, priors: dict[str, ScorePrior], sizes: dict[str, int]) -> Scene:
        """Return the free-form scene.

        Parameters
        ----------
        priors
            Priors by group, in the order of the groups.
        sizes
            Padded number of sources of each group.
        """
        groups: list[AbstractSource] = []
        for name, prior in priors.items():
            rows, box = np.flatnonzero(self.kinds == name), prior.event_shape[-1]
            axes = ("box_y", "box_x") if not groups else (f"{name}_box_y", f"{name}_box_x")
            if self.settings.options.start == "blobs":
                at = self.before["profiles"].at
            else:
                # About the fitted centers: a prior expects centered galaxies.
                at = place_sources(self.center[rows], box=box, size=sizes[name], index=rows)
            if self.settings.two_color:
                parts = parts_of(self.before, self.fit.values, at, np.asarray(at.index))
                flux = np.ones((len(at), self.found.flux.shape[1]))
                # A negative one is that of no galaxy.
                flux[: len(rows)] = np.maximum(self.found.flux[rows], self.found.flux_error[rows])
                known: dict[str, Any] = {
                    "shapes": parts,
                    "flux": flux,
                    "psf_sigma": self.settings.psf_sigma,
                }
                groups.append(TwoPart(prior, at, name, axes, **known))
            else:
                groups.append(FreeForm(prior, at, name, axes))
        boxes = {"profiles": self.settings.boxes[0], "wide": self.settings.wide_box}
        for name in self.kept:
            rows = np.flatnonzero(self.kinds == name)
            center = self.blend.positions.row_column[rows]
            at = place_sources(center, box=boxes[name], size=sizes[name], index=rows)
            groups.append(self.settings.profiles(at, name))
        groups += [group for group in self.before.sources if group.name in ("stars", "moving")]
        found = self.blend.exposures
        if "large" in priors:
            wide = [self.settings.wide_box] * ("wide" in self.kept)
            every = [*self.settings.boxes, *wide]
            found = prepared_exposures(self.blend.obs, self.settings, every, self.blend.sky)
        return Scene.of(found, groups, self.blend.spectra, self.settings.options.spectra)

    def start(self, scene: Scene, before: MAPResult | None = None):
        """Return start values and widths of the free-form fit.

        Parameters
        ----------
        scene
            The scene, at the noise level of the fit.
        before
            Free-form fit at another noise level, to start from.
        """
        settings = self.settings
        if before is not None:
            boxes = {g.name: scene.values_of(g.name, before.values) for g in scene.sources}
            images = {n: v["morphology"] for n, v in boxes.items() if "morphology" in v}
            images |= self._shapes(scene, before.values)
            # Deliberate errors of fluxes apply to the first fit only.
            return start_values(
                scene, images=images, values=before.values, psf_sigma=settings.psf_sigma
            )
        images = {}
        for group in scene.sources:
            if group.learned is not None:
                images[group.name] = self._images(group.at)
        values = carried(self.before, self.fit.values, scene)
        images |= self._shapes(scene, values)
        return start_values(
            scene, images=images, values=values, psf_sigma=settings.psf_sigma, spoil=settings.spoil
        )

    def _shapes(self, scene: Scene, values: dict) -> dict[str, np.ndarray]:
        """Return images of stars and profiles for given site values."""
        return {
            group.name: group.boxes(scene.values_of(group.name, values)).image
            for group in scene.sources
            if group.learned is None
        }

    def _images(self, at: Placement) -> np.ndarray:
        """Return images of the sources of a group at the start, ``[K, n, n]``."""
        if self.settings.options.start == "blobs":
            return round_gaussians(at, GAUSSIAN_WIDTH * at.box)
        each = [np.asarray(self.before[name].at.index) for name in galaxies_of(self.before)]
        index = np.concatenate(each)
        slots = {row: slot for slot, row in enumerate(index) if row >= 0}
        # Padding has the image of the fit's padding, if there is any.
        spare = [*np.flatnonzero(index < 0), 0][0]
        rows = [slots[row] if row >= 0 else spare for row in np.asarray(at.index)]
        return profiles(self.before, self.fit.values, at.box)[rows]
