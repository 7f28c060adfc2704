"""The main job: from an observation and positions to a scene taken apart.

A parametric scene fit comes first (it always ends somewhere sensible), the free-form
fit under the learned prior starts from it, and both results are kept.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._programs import make_room_for_programs
from scorepriors._zoo import load_prior, prior_info, priors_for
from scorepriors.inference.fitting._lbfgs import flat_lbfgs
from scorepriors.inference.fitting._map import compile_map, fit_map
from scorepriors.models.data._detection import detect
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._positions import Positions
from scorepriors.models.rendering._rendering import ImageData, image_data
from scorepriors.models.scene._blend import blend
from scorepriors.models.sources._sources import Sources, place_sources

from ._parametric import ParametricScene
from ._scenes import Deblended
from ._starting import STARTS, profile_start

#: For scenes of bulges and disks: up to nine parameters per source, which start dozens of their
#: widths away.  Longer memory and steps than for images save a tenth of the iterations.
_PROFILE_OPTIMIZER = flat_lbfgs(memory_size=40, first_step=0.5, max_step=20.0)

#: Sides of the boxes of stars, pixels: ten standard deviations of the model PSF.
STAR_BOX = 15

#: Model PSF, in pixels, of parametric sources beside a prior whose images carry none:
#: narrow enough for the pixel to outweigh it.
UNRESOLVED = 0.1

#: Sources are padded to a multiple of this, so that few programs serve all blends; those
#: in large boxes, which are few and expensive, to a multiple of the second.
PADDING, LARGE_PADDING = 4, 2

#: Free-form fits that share an evaluation of the network: beyond some 64 images a call
#: takes longer in proportion, and the caches overflow.
SIDE_BY_SIDE = 8

#: The same for blends with sources in large boxes.
LARGE_SIDE_BY_SIDE = 2

#: Pixels of image and prior may differ in size by this factor, in the logarithm.
SAME_PIXELS = 0.1


class PriorWarning(UserWarning):
    """A prior is used on images unlike those it has learned from."""


def deblend(
    obs: Observation,
    positions: Positions | None = None,
    *,
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
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
        A prior or the name of one, or two of them with boxes of different size: a galaxy
        gets the larger one if the smaller would cut off more than a hundredth of its light,
        by its fitted profile.  The shipped ones with the nearest pixels if not given
        (`scorepriors.zoo.priors_for`).
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
        Stars, and galaxies in small boxes, are padded to a multiple of this, galaxies in
        large boxes always to a multiple of two; blends of one padded size (and image and
        PSF shape) share their compiled programs.
    progress
        True for progress bars.

    Returns
    -------
    Deblended
        Also when a fit has not converged: see `Deblended.converged`.

    Raises
    ------
    InputError
        If nothing is detected, for an unknown `start`, for a noise level in `anneal` that
        the prior has not learned or that is not above its own, or for priors that do not go together.

    Warns
    -----
    PriorWarning
        If the prior has learned galaxies in pixels of another size.

    See Also
    --------
    deblend_many : Many blends, which then share programs and network calls.
    """
    prepared = _prepare(obs, positions, load_priors(prior, pixel_scale=obs.pixel_scale))
    (result,) = _deblend_alike(
        [prepared],
        size=_padded_sizes([prepared], padding),
        side_by_side=1,
        chunk=1,
        spectra=spectra,
        center_error=center_error,
        start=start,
        anneal=anneal,
        free_form=free_form,
        key=key,
        max_iterations=max_iterations,
        tolerance=tolerance,
        progress=progress,
    )
    return result


def deblend_many(
    observations: Sequence[Observation],
    positions: Sequence[Positions | None] | None = None,
    *,
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
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
        As for `deblend`; without a `prior` the pixels of the first blend choose.
    padding
        All blends are padded to the largest number of sources, rounded up to a multiple
        of this.
    side_by_side
        Free-form fits that share an evaluation, at most two where there are large boxes.
        When one ends the next takes its place.
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
    pixel_scale = observations[0].pixel_scale if observations else None
    priors = load_priors(prior, pixel_scale=pixel_scale)
    prepared = [_prepare(obs, at, priors) for obs, at in zip(observations, given, strict=True)]
    alike: dict = {}
    for index, blend_ in enumerate(prepared):
        alike.setdefault(blend_.shape, []).append(index)
    results: list[Deblended | None] = [None] * len(prepared)
    for members in alike.values():
        group = [prepared[i] for i in members]
        done = _deblend_alike(
            group,
            size=_padded_sizes(group, padding),
            side_by_side=side_by_side,
            chunk=chunk,
            spectra=spectra,
            center_error=center_error,
            start=start,
            anneal=anneal,
            free_form=free_form,
            key=key,
            max_iterations=max_iterations,
            tolerance=tolerance,
            progress=progress,
        )
        for index, result in zip(members, done, strict=True):
            results[index] = result
        if any(r is None or _stopped(r) for r in done):
            break
    return results


def load_priors(
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
    *,
    sigma: float | None = None,
    pixel_scale: float | None = None,
) -> tuple[ScorePrior, ...]:
    """One prior, or two by growing boxes.

    Parameters
    ----------
    prior
        Priors or names of them; if not given, the shipped ones for pixels of this size.
    sigma
        Noise level for all of them; their own if not given.
    pixel_scale
        Arcseconds per pixel, if known.

    Raises
    ------
    InputError
        If there are more, or two of one size or for different pixels or model PSFs, or for a
        noise level that they have not learned.
    """
    if prior is None:
        prior = priors_for(pixel_scale)
    several = [prior] if isinstance(prior, str | Path | ScorePrior) else list(prior)
    loaded = [load_prior(one) if isinstance(one, str | Path) else one for one in several]
    if sigma is not None:
        for one in loaded:
            if not 0 < sigma <= float(one.sigma_max):
                raise InputError(
                    f"`sigma` must be positive and at most {float(one.sigma_max):g}, the largest noise "
                    f"{one.name} has learned, got {sigma:g}."
                )
        loaded = [one.at(sigma) for one in loaded]
    if not 1 <= len(loaded) <= 2:
        raise InputError(f"give one prior or two, for small and large boxes, not {len(loaded)}.")
    loaded.sort(key=lambda one: one.event_shape[-1])
    if len(loaded) == 2:
        for what, (small, large) in (
            ("pixel scale", [one.pixel_scale for one in loaded]),
            ("model PSF", [one.model_psf_sigma for one in loaded]),
        ):
            if small != large:
                raise InputError(
                    f"{loaded[0].name} and {loaded[1].name} differ in their {what}, {small} and "
                    f"{large}; choose priors that were trained for the same images."
                )
        if loaded[0].event_shape == loaded[1].event_shape:
            raise InputError(
                f"{loaded[0].name} and {loaded[1].name} have boxes of the same size; give one of them."
            )
    return tuple(loaded)


@dataclass(frozen=True)
class _Prepared:
    """A blend ready to be fitted."""

    obs: Observation
    positions: Positions
    priors: tuple[ScorePrior, ...]
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


def _prepare(obs: Observation, positions: Positions | None, priors) -> _Prepared:
    _compare_pixels(obs, priors[0])
    positions = detect(obs) if positions is None else positions
    if not len(positions.ids):
        raise InputError("there is no source to fit; give at least one position.")
    return _Prepared(obs, positions, priors, _image_data(obs, priors[:1]))


def _image_data(obs: Observation, priors: Sequence[ScorePrior]) -> ImageData:
    """The observation, prepared for boxes of one prior or of both."""
    box, wide = (*(prior.event_shape[-1] for prior in priors), None)[:2]
    return image_data(
        obs, box=max(box, STAR_BOX), wide_box=wide, model_psf_sigma=priors[0].model_psf_sigma
    )


def _compare_pixels(obs: Observation, prior: ScorePrior) -> None:
    """Warn if the prior has learned galaxies in pixels of another size."""
    image, learned = obs.pixel_scale, prior.pixel_scale
    if image is None or learned is None or abs(np.log(image / learned)) < SAME_PIXELS:
        return
    better = priors_for(image)
    nearest = prior_info(better[0]).pixel_scale == learned
    mend = "train one for these pixels" if nearest else f"use {' and '.join(better)}"
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
    blends,
    *,
    size,
    side_by_side,
    chunk,
    spectra,
    center_error,
    start,
    anneal,
    free_form,
    key,
    max_iterations,
    tolerance,
    progress,
) -> list:
    """Both fits of blends of one shape, in chunks."""
    if not tolerance > 0:
        raise InputError(f"`tolerance` must be positive, got {tolerance}.")
    if start not in STARTS:
        raise InputError(f"unknown start {start!r}; there are {', '.join(STARTS)}.")
    prior = blends[0].priors[0]
    if not all(prior.sigma < level <= prior.sigma_max for level in anneal):
        raise InputError(
            f"noise levels in `anneal` must lie above the prior's own, {float(prior.sigma):g}, and be at "
            f"most {float(prior.sigma_max):g}, the largest it has learned; got {tuple(anneal)}."
        )
    make_room_for_programs()
    key = jax.random.key(0) if key is None else key
    psf_sigma = UNRESOLVED if prior.model_psf_sigma is None else prior.model_psf_sigma
    options = {"box": prior.event_shape[-1], "star_box": STAR_BOX, "psf_sigma": psf_sigma}
    fit = partial(
        fit_map,
        blend,
        key=key,
        max_iterations=max_iterations,
        model_kwargs={**options, "spectra": spectra, "center_error": center_error},
    )
    results: list = [None] * len(blends)
    for first in range(0, len(blends), chunk):
        some = blends[first : first + chunk]
        results[first : first + chunk] = _deblend_chunk(
            some,
            fit,
            options,
            size,
            min(side_by_side, chunk),
            tolerance,
            start,
            anneal,
            free_form,
            partial(_label, progress),
        )
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
    each = list(zip(blends, stars, galaxies, strict=True))
    looks = (profile_start(b.data, *sources, **options, start=start) for b, *sources in each)
    begun = next(looks)
    with ThreadPoolExecutor() as pool:
        # One program compiles while the other is traced and all starts are sought, and that
        # one while the first runs.
        ahead = _profile_fit(_compiled_ahead(fit), blends[:1], stars[:1], galaxies[:1], [begun])
        compiled = pool.submit(ahead())
        if size[1] and free_form:
            at_start: Any = SimpleNamespace(values=begun[0])
            unfitted = ParametricScene(
                blends[0].obs,
                blends[0].positions,
                blends[0].data,
                stars=stars[0],
                galaxies=galaxies[0],
                fit=at_start,
                priors=blends[0].priors[:1],
                options=options,
                start=start,
            )
            usual = {"galaxies": blends[0].priors[0]}
            ahead = _free_form(
                [unfitted], usual, _compiled_ahead(fit), size[1], side_by_side, 1.0, (), label
            )
            pool.submit(ahead)
        starts = [begun, *looks]
        compiled.result()
        parametric = _profile_fit(fit, blends, stars, galaxies, starts)(
            tolerance=0.1 * tolerance * counts, progress=label("profiles")
        )
    if len(blends) > 1 and parametric.interrupted.any():
        return [None] * len(blends)
    scenes = [
        ParametricScene(
            b.obs,
            b.positions,
            b.data,
            stars=s,
            galaxies=g,
            fit=parametric[i],
            priors=b.priors,
            options=options,
            start=start,
        )
        for i, (b, s, g) in enumerate(each)
    ]
    priors = dict(zip(("galaxies", "large"), blends[0].priors, strict=False))
    seconds = {"parametric": (time.monotonic() - clock) / len(blends)}
    finals: list[Any] = [None] * len(blends)
    fitted = size[1] and free_form
    if fitted:
        clock = time.monotonic()
        # Blends with the same groups run the same programs.
        alike: dict = {}
        for i, scene in enumerate(scenes):
            alike.setdefault(tuple(n for n in priors if (scene.kinds == n).any()), []).append(i)
        for groups, members in alike.items():
            found = _free_form(
                [scenes[i] for i in members],
                {n: priors[n] for n in groups},
                fit,
                size[1],
                side_by_side,
                tolerance * counts[members],
                anneal,
                label,
            )
            for k, i in enumerate(members):
                finals[i] = found[k]
            if found.interrupted.any():
                break
        seconds["free_form"] = (time.monotonic() - clock) / len(blends)
    else:
        seconds["free_form"] = 0.0
    return [
        None
        if fitted and (final is None or (len(blends) > 1 and final.interrupted))
        else scene.result(priors, final, seconds)
        for scene, final in zip(scenes, finals, strict=True)
    ]


def _profile_fit(fit: partial, blends, stars, galaxies, starts) -> partial:
    """The fit of bulges, disks and stars, one blend at a time.

    No network is in it, so side by side would gain nothing and keep finished blends busy.
    """
    init, scale = _stacked(starts)
    return partial(
        fit,
        _stacked([b.data for b in blends]),
        None,
        None,
        _stacked(stars),
        _stacked(galaxies),
        init=init,
        scale=scale,
        in_axes=_axes(0, None, None, stars, galaxies),
        side_by_side=1,
        optimizer=_PROFILE_OPTIMIZER,
    )


def _compiled_ahead(fit: partial) -> partial:
    """`compile_map` with the arguments of `fit_map` that are known."""
    return partial(compile_map, *fit.args, **fit.keywords)


def _free_form(scenes, priors, fit, size, side_by_side, tolerance, anneal, label) -> Any:
    """Fits of scenes with the same groups of free-form sources, those of `priors`.

    What `fit` returns, which is `fit_map` or `compile_map` with the model.
    """
    sizes = {"galaxies": size}
    if "large" in priors:
        most = max(int(scene.is_large.sum()) for scene in scenes)
        sizes["large"] = -(-most // LARGE_PADDING) * LARGE_PADDING
        side_by_side = min(side_by_side, LARGE_SIDE_BY_SIDE)
    for scene in scenes:
        scene.place_boxes(priors, sizes)
        if "large" in priors:
            scene.data = _image_data(scene.obs, scene.priors)
    data = _stacked([scene.data for scene in scenes])
    stars = [scene.stars for scene in scenes]
    boxes = {n: [scene.boxes.get(n) for scene in scenes] for n in ("galaxies", "large")}
    final: Any = None
    for level in (*anneal, None):
        now = {n: p if level is None else p.at(level) for n, p in priors.items()}
        init, scale = _stacked(
            [
                scene.free_form_start(now, None if final is None else final[i])
                for i, scene in enumerate(scenes)
            ]
        )
        final = fit(
            data,
            now.get("galaxies"),
            _stacked(boxes["galaxies"]),
            _stacked(stars),
            None,
            now.get("large"),
            _stacked(boxes["large"]),
            init=init,
            scale=scale,
            tolerance=tolerance,
            side_by_side=side_by_side,
            in_axes=_axes(0, None, boxes["galaxies"], stars, None, None, boxes["large"]),
            progress=label("free-form" if level is None else f"sigma {level:g}"),
        )
        if level is None or final.interrupted.any():
            break
    return final


def _axes(*arguments):
    """Batch axes of arguments: as given, or 0 for groups of sources that exist."""
    return tuple(a if a is None or a == 0 else (None if a[0] is None else 0) for a in arguments)


def _stacked(trees: list):
    """Trees of arrays side by side, along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def _group(center: np.ndarray, box: int, size: int) -> Sources | None:
    return place_sources(center, box=box, size=size) if size else None
