"""The main job: from an observation and positions to a scene taken apart.

A parametric scene fit comes first (it always ends somewhere sensible), the free-form
fit under the learned prior starts from it, and both results are kept.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from scorepriors.distribution import ScorePrior
from scorepriors.errors import InputError
from scorepriors.models.blend import blend
from scorepriors.models.detection import detect
from scorepriors.models.observation import Observation
from scorepriors.models.positions import Positions
from scorepriors.models.rendering import ImageData, image_data, overlap
from scorepriors.models.sources import (
    Morphologies,
    Sources,
    bulge_disk_image,
    place_sources,
    point_image,
)
from scorepriors.zoo import load_prior, prior_for

from .optimization import MAPResult, fit_map
from .starting import GAUSSIAN_WIDTH, STARTS, blobs, free_form_start, profile_start

#: Sides of the boxes of stars, pixels: ten standard deviations of the model PSF.
STAR_BOX = 15

#: Model PSF, in pixels, of parametric sources beside a prior whose images carry none:
#: narrow enough for the pixel to outweigh it.
UNRESOLVED = 0.1

#: Sources are padded to a multiple of this, so that few programs serve all blends.
PADDING = 4

#: Free-form fits that share an evaluation of the network: beyond some 64 images a call
#: takes longer in proportion, and the caches overflow.
SIDE_BY_SIDE = 8


#: Pixels of image and prior may differ in size by this factor, in the logarithm.
SAME_PIXELS = 0.1


class PriorWarning(UserWarning):
    """A prior is used on images unlike those it has learned from."""


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
        Wall time per stage; of a batch, each blend's share.
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
    start: str = "profiles",
    anneal: Sequence[float] = (),
    free_form: bool = True,
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
    start
        Where the fits start.  ``"profiles"``: the parametric fit at the least-squares
        fluxes, the free-form one at its result.  The others are bad on purpose, to see
        what comes of them.  ``"sed20"``: spectra 20 times too bright in both fits;
        ``"flat"``: spectra of ones (in units of the image); ``"gaussian"``: the parametric
        fit from round Gaussians at the given positions, as wide at half maximum as a
        fifth of the box; ``"blobs"``: the free-form fit from these, knowing nothing of
        the parametric one.
    anneal
        Noise levels of the prior, largest first, for free-form fits that go before the
        one at the prior's own: the rough shape is found before the details.
    free_form
        False ends with the parametric scene, which then is the result as well.
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
        If nothing is detected, for an unknown `start`, or for a noise level in `anneal`
        that is not positive.

    Warns
    -----
    PriorWarning
        If the prior has learned galaxies in pixels of another size.

    See Also
    --------
    deblend_many : Many blends, which then share programs and network calls.
    """
    prepared = _prepare(obs, positions, _load(prior))
    (result,) = _deblend_alike(
        [prepared], size=_padded_sizes([prepared], padding), side_by_side=1, chunk=1,
        spectra=spectra, center_error=center_error, start=start, anneal=anneal, free_form=free_form, key=key,
        max_iterations=max_iterations, tolerance=tolerance, progress=progress,
    )  # fmt: skip
    return result


def deblend_many(
    observations: Sequence[Observation],
    positions: Sequence[Positions | None] | None = None,
    *,
    prior: ScorePrior | str = "lsst-32",
    spectra: str = "marginal",
    center_error: float = 0.3,
    start: str = "profiles",
    anneal: Sequence[float] = (),
    free_form: bool = True,
    key=None,
    max_iterations: int = 300,
    tolerance: float = 1.0,
    padding: int = PADDING,
    side_by_side: int = SIDE_BY_SIDE,
    chunk: int = 32,
    progress: bool | Callable = False,
) -> list[Deblended | None]:
    """Take many blends apart, their free-form fits side by side.

    The network sees the sources of several blends in one call, and all blends of one
    shape (image, bands, PSF images) run the same compiled programs.  Each result is that
    of `deblend`, up to rounding.

    Parameters
    ----------
    observations
        Blends; those of one shape are fitted together.
    positions
        One entry per blend, None where sources are to be detected.
    prior, spectra, center_error, start, anneal, free_form, key, max_iterations, tolerance
        As for `deblend`.
    padding
        All blends are padded to the largest number of sources, rounded up to a multiple
        of this.
    side_by_side
        Free-form fits that share an evaluation.  When one ends the next takes its place.
    chunk
        Blends that go through both fits before the next ones begin: bounds the memory,
        and what Ctrl-C loses.
    progress
        True for progress bars over the blends.

    Returns
    -------
    list
        In the order given; None for blends that Ctrl-C left unfinished.

    Raises
    ------
    InputError
        If in some blend nothing is detected, for lists of different length, and as
        `deblend`.
    """
    given = [None] * len(observations) if positions is None else list(positions)
    if len(given) != len(observations):
        raise InputError(
            f"there are {len(observations)} observations but {len(given)} entries of `positions`; "
            "give one per observation, None where sources are to be detected."
        )
    for name, number in (("side_by_side", side_by_side), ("chunk", chunk)):
        if number < 1:
            raise InputError(f"`{name}` must be at least 1, got {number}.")
    prior = _load(prior)
    prepared = [_prepare(obs, where, prior) for obs, where in zip(observations, given, strict=True)]
    alike: dict = {}
    for index, blend_ in enumerate(prepared):
        alike.setdefault(blend_.shape, []).append(index)
    results: list[Deblended | None] = [None] * len(prepared)
    for members in alike.values():
        group = [prepared[i] for i in members]
        done = _deblend_alike(
            group, size=_padded_sizes(group, padding), side_by_side=side_by_side, chunk=chunk,
            spectra=spectra, center_error=center_error, start=start, anneal=anneal, free_form=free_form, key=key,
            max_iterations=max_iterations, tolerance=tolerance, progress=progress,
        )  # fmt: skip
        for index, result in zip(members, done, strict=True):
            results[index] = result
        if any(r is None or _stopped(r) for r in done):
            break
    return results


def _load(prior) -> ScorePrior:
    return load_prior(prior) if isinstance(prior, str) else prior


@dataclass(frozen=True)
class _Prepared:
    """A blend ready to be fitted."""

    obs: Observation
    positions: Positions
    prior: ScorePrior
    data: ImageData

    @property
    def is_point(self) -> np.ndarray:
        return np.asarray(self.positions.is_point)

    @property
    def shape(self):
        """Blends with equal shapes run the same programs."""
        leaves, structure = jax.tree.flatten(self.data)
        kinds = bool(self.is_point.any()), bool((~self.is_point).any())
        return tuple(np.shape(leaf) for leaf in leaves), structure, kinds


def _prepare(obs: Observation, positions: Positions | None, prior: ScorePrior) -> _Prepared:
    _compare_pixels(obs, prior)
    positions = detect(obs) if positions is None else positions
    if not len(positions.ids):
        raise InputError("there is no source to fit; give at least one position.")
    box = prior.event_shape[-1]
    data = image_data(obs, box=max(box, STAR_BOX), model_psf_sigma=prior.model_psf_sigma)
    return _Prepared(obs, positions, prior, data)


def _compare_pixels(obs: Observation, prior: ScorePrior) -> None:
    """Warn if the prior has learned galaxies in pixels of another size."""
    image, learned = obs.pixel_scale, prior.pixel_scale
    if image is None or learned is None or abs(np.log(image / learned)) < SAME_PIXELS:
        return
    better = prior_for(image)
    mend = "train one for these pixels" if better == prior.name else f"use {better!r}"
    warnings.warn(
        f"{obs.name or 'the image'} has pixels of {image:.3g} arcsec, but {prior.name} learned "
        f"galaxies in pixels of {learned:.3g} arcsec; {mend}.",
        PriorWarning,
        stacklevel=4,
    )


def _padded_sizes(blends: Sequence[_Prepared], padding: int) -> tuple[int, int]:
    """Padded numbers of stars and of galaxies that hold every blend."""
    stars = max(int(b.is_point.sum()) for b in blends)
    galaxies = max(int((~b.is_point).sum()) for b in blends)
    return -(-stars // padding) * padding, -(-galaxies // padding) * padding


def _deblend_alike(
    blends, *, size, side_by_side, chunk, spectra, center_error, start, anneal, free_form, key,
    max_iterations, tolerance, progress,
) -> list:  # fmt: skip
    """Both fits of blends of one shape, in chunks."""
    if start not in STARTS:
        raise InputError(f"unknown start {start!r}; there are {', '.join(STARTS)}.")
    if not all(level > 0 for level in anneal):
        raise InputError(f"noise levels in `anneal` must be positive, got {tuple(anneal)}.")
    key = jax.random.key(0) if key is None else key
    prior = blends[0].prior
    psf_sigma = UNRESOLVED if prior.model_psf_sigma is None else prior.model_psf_sigma
    options = {"box": prior.event_shape[-1], "star_box": STAR_BOX, "psf_sigma": psf_sigma}
    fit = partial(
        fit_map, blend, key=key, max_iterations=max_iterations,
        model_kwargs={**options, "spectra": spectra, "center_error": center_error},
    )  # fmt: skip
    results: list = [None] * len(blends)
    for first in range(0, len(blends), chunk):
        some = blends[first : first + chunk]
        results[first : first + chunk] = _deblend_chunk(
            some, fit, options, size, min(side_by_side, chunk), tolerance, start, anneal,
            free_form, partial(_label, progress),
        )  # fmt: skip
        if any(r is None or _stopped(r) for r in results[first : first + chunk]):
            break
    return results


def _stopped(result: Deblended) -> bool:
    return result.free_form.fit.interrupted


def _label(progress, name):
    return name if progress is True else progress


def _deblend_chunk(
    blends, fit, options, size, side_by_side, tolerance, start, anneal, free_form, label
) -> list:
    clock = time.monotonic()
    stars = [_group(b.positions.row_column[b.is_point], STAR_BOX, size[0]) for b in blends]
    galaxies = [
        _group(b.positions.row_column[~b.is_point], options["box"], size[1]) for b in blends
    ]
    counts = np.array([len(b.positions.ids) for b in blends])
    starts = [
        profile_start(b.data, *groups, **options, start=start)
        for b, *groups in zip(blends, stars, galaxies, strict=True)
    ]
    init, scale = _stacked(starts)
    data = _stacked([b.data for b in blends])
    # No network is in the parametric fit, so side by side would gain nothing and keep
    # finished blends busy.
    parametric = fit(
        data, None, None, _stacked(stars), _stacked(galaxies), init=init, scale=scale,
        tolerance=0.1 * tolerance * counts, in_axes=_axes(0, None, None, stars, galaxies),
        side_by_side=1, progress=label("profiles"),
    )  # fmt: skip
    if len(blends) > 1 and parametric.interrupted.any():
        return [None] * len(blends)
    scenes = [
        _Parametric(b, s, g, parametric[i], options, start)
        for i, (b, s, g) in enumerate(zip(blends, stars, galaxies, strict=True))
    ]
    seconds = {"parametric": (time.monotonic() - clock) / len(blends)}
    clock = time.monotonic()
    if size[1] and free_form:
        prior = blends[0].prior
        final: Any = None
        for level in (*anneal, None):
            now = prior if level is None else prior.at(level)
            before = [None if final is None else final[i] for i in range(len(blends))]
            init, scale = _stacked(
                [s.free_form_start(now, b) for s, b in zip(scenes, before, strict=True)]
            )
            final = fit(
                data, now, _stacked([scene.moved for scene in scenes]), _stacked(stars),
                init=init, scale=scale, tolerance=tolerance * counts,
                in_axes=_axes(0, None, 0, stars), side_by_side=side_by_side,
                progress=label("free-form" if level is None else f"sigma {level:g}"),
            )  # fmt: skip
            if final.interrupted.any():
                break
    else:
        final = parametric
    seconds["free_form"] = (time.monotonic() - clock) / len(blends)
    return [
        None
        if len(blends) > 1 and final.interrupted[i]
        else scene.result(final[i], seconds, free_form)
        for i, scene in enumerate(scenes)
    ]


def _axes(*arguments):
    """Batch axes of arguments: as given, or 0 for groups of sources that exist."""
    return tuple(a if a is None or a == 0 else (None if a[0] is None else 0) for a in arguments)


def _stacked(trees: list):
    """Trees of arrays side by side, along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _group(center: np.ndarray, box: int, size: int) -> Sources | None:
    return place_sources(center, box=box, size=size) if size else None


def _strip(values: dict, prefix: str) -> dict:
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}


_PROFILE_NAMES = (
    "log_radius",
    "ellipticity",
    "bulge_logit",
    "bulge_log_ratio",
    "bulge_ellipticity",
)


class _Parametric:
    """A fitted parametric scene, and the way from it to the free-form one."""

    def __init__(
        self, prepared: _Prepared, stars, galaxies, fit: MAPResult, options: dict, start: str
    ):
        self.prepared = prepared
        self.stars: Any = stars
        self.galaxies: Any = galaxies
        self.fit, self.options, self.start = fit, options, start
        self.is_point = prepared.is_point
        self.center = np.array(prepared.positions.row_column, float)
        for which, group, kind in (
            (self.is_point, stars, "stars"),
            (~self.is_point, galaxies, "profiles"),
        ):
            if group is not None:
                self.center[which] += self._values(kind)["offset"][: which.sum()]
        # The fitted centre decides where the box goes: a prior is strict about centring.
        self.moved: Any = None
        if galaxies is not None and start == "blobs":
            self.moved = galaxies
        elif galaxies is not None:
            self.moved = place_sources(
                self.center[~self.is_point], box=options["box"], size=len(galaxies.mask)
            )

    def _values(self, kind: str) -> dict:
        several = self.stars is not None and self.galaxies is not None
        return _strip(self.fit.values, f"{kind}/" if several else "")

    def _profile_images(self, sources: Sources) -> Morphologies:
        """Fitted bulges and disks on the boxes of `sources`, about the same centres."""
        values = {n: np.asarray(v) for n, v in self._values("profiles").items()}
        place = np.asarray(self.galaxies.center) + values["offset"] - np.asarray(sources.corner)
        image = bulge_disk_image(
            place, *(values[n] for n in _PROFILE_NAMES), box=self.options["box"],
            psf_sigma=self.options["psf_sigma"], xp=np,
        )  # fmt: skip
        return Morphologies(image, sources.corner, sources.mask)

    def _star_images(self, offset) -> Morphologies:
        stars = self.stars
        place = np.asarray(stars.center) + np.asarray(offset) - np.asarray(stars.corner)
        image = point_image(
            place, box=self.options["star_box"], psf_sigma=self.options["psf_sigma"], xp=np
        )
        return Morphologies(image, stars.corner, stars.mask)

    def free_form_start(self, prior: ScorePrior, before: MAPResult | None = None):
        """Start values and widths of the free-form fit under `prior`.

        Parameters
        ----------
        prior
            At the noise level of the fit.
        before
            A free-form fit at another noise level, to go on from.
        """
        data = self.prepared.data
        if before is not None:
            galaxies = Morphologies(
                before.values["morphology" if self.stars is None else "galaxies/morphology"],
                self.moved.corner, self.moved.mask,
            )  # fmt: skip
        elif self.start == "blobs":
            box = self.options["box"]
            image = blobs(self.moved, box, GAUSSIAN_WIDTH * box)
            galaxies = Morphologies(image, self.moved.corner, self.moved.mask)
        else:
            galaxies = self._profile_images(self.moved)
        # Once a fit has seen the data its fluxes are nobody's start any more.
        start = self.start if before is None else "profiles"
        if self.stars is None:
            return free_form_start(data, prior, galaxies, start=start)
        if before is None:
            offset = np.asarray(self._values("stars")["offset"])
        else:
            offset = np.asarray(before.values["stars/offset"])
        init, scale = free_form_start(data, prior, galaxies, self._star_images(offset), start=start)
        # Groups run galaxies, stars here and stars, profiles before; `free_form_start`
        # has put the brightness in the new order already.
        init["stars/offset"] = offset
        scale["stars/offset"] = np.full_like(offset, 0.02)
        return init, scale

    def result(self, final: MAPResult, seconds: dict, with_free_form: bool = True) -> Deblended:
        """Both scenes, with the free-form fit `final` if there was one."""
        groups = []
        if self.stars is not None:
            groups.append(self._star_images(self._values("stars")["offset"]))
        if self.galaxies is not None:
            groups.append(self._profile_images(self.galaxies))
        scene = partial(_scene, self.prepared, is_point=self.is_point)
        parametric = free_form = scene(groups, self.fit)
        if self.galaxies is not None and with_free_form:
            name = "galaxies/morphology" if self.stars is not None else "morphology"
            final_groups = [
                Morphologies(np.asarray(final.values[name]), self.moved.corner, self.moved.mask)
            ]
            if self.stars is not None:
                final_groups.append(self._star_images(final.values["stars/offset"]))
            free_form = scene(final_groups, final, galaxies_first=True)
        return Deblended(
            self.prepared.obs, self.prepared.positions, self.prepared.prior, free_form, parametric,
            self.center, self._profile(), seconds,
        )  # fmt: skip

    def _profile(self) -> dict:
        if self.galaxies is None:
            return {}
        out, values = {}, self._values("profiles")
        for name in _PROFILE_NAMES:
            value = np.asarray(values[name])
            full = np.full((len(self.is_point), *value.shape[1:]), np.nan)
            full[~self.is_point] = value[: (~self.is_point).sum()]
            out[name] = full
        return out


def _scene(prepared, groups, fit: MAPResult, *, is_point, galaxies_first=False) -> Scene:
    """Collect a fit's sources in the order of the catalogue, without padding."""
    masks = [np.asarray(m.mask) for m in groups]
    order = catalogue_order(is_point, galaxies_first=galaxies_first)
    real = np.concatenate(masks)
    pick = lambda name: np.asarray(fit.values[name])[real][order]  # noqa: E731
    images = [np.asarray(m.image)[mask] for m, mask in zip(groups, masks, strict=True)]
    corners = [np.asarray(m.corner)[mask] for m, mask in zip(groups, masks, strict=True)]
    data = prepared.data
    unit = [data.render_on_host(i, c) for i, c in zip(images, corners, strict=True)]
    convolved = np.concatenate(unit)[order] * pick("spectrum")[:, :, None, None]
    placed = [_on_image(i, c, prepared.obs.shape) for i, c in zip(images, corners, strict=True)]
    weights = np.asarray(data.weights)
    squared = (np.asarray(data.images) - convolved.sum(0)) ** 2 * weights
    return Scene(
        morphology=np.concatenate(placed)[order],
        convolved=convolved,
        flux=pick("flux"),
        flux_error=pick("flux_error"),
        chi2=float(squared.sum() / (weights > 0).sum()),
        source_chi2=footprint_chi2(squared, weights > 0, convolved),
        fit=fit,
    )


def catalogue_order(is_point: np.ndarray, *, galaxies_first: bool) -> np.ndarray:
    """Where, along the groups one after the other, each source of the catalogue is.

    Groups hold the stars first in a parametric scene, the galaxies in a free-form one.
    """
    catalogue = np.arange(len(is_point))
    parts = [catalogue[~is_point], catalogue[is_point]]
    return np.argsort(np.concatenate(parts if galaxies_first else parts[::-1]))


def footprint_chi2(squared: np.ndarray, seen: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean squared residual in units of the noise, where each source is seen.

    Each pixel counts by the source's share of the model there times its own
    significance, so empty sky around a source does not dilute the figure.

    Parameters
    ----------
    squared
        ``[B, H, W]``, squared residuals times weights.
    seen
        ``[B, H, W]``, False where masked.
    images
        ``[K, B, H, W]``, the sources as observed.
    """
    share = np.maximum(images, 0.0) * seen
    return (squared * share).sum((1, 2, 3)) / np.maximum(share.sum((1, 2, 3)), 1e-30)


def _on_image(images, corners, shape) -> np.ndarray:
    """Boxes placed on the image grid, each normalised to a total flux of one."""
    out = np.zeros((len(images), *shape), np.float32)
    for target, image, corner in zip(out, images, corners, strict=True):
        inside = overlap(corner, image.shape[-1], shape)
        if inside is not None:
            target[inside[0]] = image[inside[1]] / image.sum()
    return out
