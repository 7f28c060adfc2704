"""Deblending of observations with given or detected positions.

A parametric scene is fitted first, which is robust; the free-form fit under the learned
prior starts from it, and both results are kept.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._programs import make_room_for_programs
from scorepriors._progress import Progress
from scorepriors._threads import one_thread
from scorepriors.inference._posterior import posterior
from scorepriors.inference._status import FitStatus
from scorepriors.inference.fitting._lbfgs import flat_lbfgs
from scorepriors.inference.fitting._map import MAPResult, fit_map
from scorepriors.models.data._correlations import warn_of_correlation, with_correlation
from scorepriors.models.data._detection import detect
from scorepriors.models.data._field_checks import rescale_noise, subtract_sky, warn_of_field
from scorepriors.models.data._joint import JointObservation, noted
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import collected
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.data.positions._reading import read_positions
from scorepriors.models.scene._blend import blend
from scorepriors.models.scene._scene import Scene, stack_scenes

from ._choice import no_better
from ._find import find
from ._lanes import chunk_of, free_form_lanes, profile_lanes
from ._mending import with_error_of_model, without_outliers, without_trails
from ._options import Options, Settings
from ._priors import load_priors
from ._result import Deblended, FittedScene, collect_scene
from ._sky import kind_of_sky, tell_sky, with_level_subtracted
from ._stages import (
    FREE_FORMS,
    LARGE_PADDING,
    Blend,
    FreeFormStage,
    may_be_wide,
    padded_sizes,
    parametric_scene,
    parametric_start,
    prepare,
    restarted,
    wide_sources,
)

#: Optimizer for scenes of bulges and disks: up to nine parameters per source, which start dozens
#: of their widths away.  Longer memory and steps than for images save a tenth of the iterations.
_PROFILE_OPTIMIZER = flat_lbfgs(memory_size=40, first_step=0.5, max_step=20.0, max_growth=40.0)

#: Optimizer for free-form scenes.  Steps are bounded in widths: far from galaxies a learned prior
#: means nothing.
IMAGE_OPTIMIZER = flat_lbfgs(max_step=10.0, max_growth=100.0)

#: Rounds in which outliers, and the error of the model, are looked for: without the first of them more
#: may come to light.
ROUNDS = 2


def deblend(
    obs: Observation | JointObservation,
    positions: Positions | Any | None = None,
    *,
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
    key=None,
    progress: Progress = False,
    **options: Any,
) -> Deblended:
    """Deblend one observation.

    Parameters
    ----------
    obs
        Observation with pixels, weights and PSFs.
    positions
        Positions of the sources, or whatever `read_positions` takes: a file, a table, ...; detected
        on the sum of the bands if not given.
    prior
        Prior or its name, or two of them with boxes of different size: a galaxy gets the
        larger one if the smaller would cut off more than a hundredth of its light, by its
        fitted profile.  The shipped ones with the nearest pixels if not given
        (`scorepriors.priors_for`).
    key
        Random key, used only if a start value is missing.
    progress
        True for bars; or a function called as ``progress(done, total, text)``.
    **options
        Fields of `Options`: `profile`, `spectra`, `center_error`, `start`, `anneal`, `models`,
        `free_form`, `max_iterations`, `tolerance`, `noise`, `rescale_noise`, `subtract_sky`, `sky`,
        `outliers`, `model_error`, `correlation`, `variable`, `timescale`, `moving`, `padding`.

    Returns
    -------
    Deblended
        Result, converged or not: see `Deblended.converged`.

    Raises
    ------
    InputError
        If nothing is detected, for an option out of its range, for a noise level in `anneal` that
        is outside the range of the prior's training or not above its own, or for priors that
        can't be combined.

    Warns
    -----
    PriorWarning
        If the prior's training images have pixels of another size.
    FieldWarning
        If empty pixels scatter by far more or less than the noise of the file, a sky is left in, or
        neighboring pixels scatter together and `correlation` is not given.

    See Also
    --------
    deblend_many : Many blends, which then share programs and network calls.
    """
    settings = settings_of(options, prior, obs.pixel_scale)
    (one,) = _prepared([obs], [positions], settings)
    run = Run(settings, padded_sizes([one], settings.options.padding), 1, 1, key, progress)
    # Only of several blends may one be left out.
    result: Any = run.all([one])[0]
    return result


def deblend_many(
    observations: Sequence[Observation | JointObservation],
    positions: Sequence[Positions | Any | None] | None = None,
    *,
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
    key=None,
    progress: Progress = False,
    side_by_side: int | None = None,
    chunk: int | None = None,
    finished: Callable[[int, Deblended], object] | None = None,
    **options: Any,
) -> list[Deblended | None]:
    """Deblend many observations, with several free-form fits at once.

    The network evaluates the sources of several blends in one call, and all blends of one
    shape (image, bands, PSF images) run the same compiled programs.  Each result is that
    of `deblend`, up to rounding.

    Parameters
    ----------
    observations
        Observations; those of one shape are fitted together.
    positions
        Positions, one entry per blend, None where sources are to be detected.
    prior, key
        Arguments of `deblend`; the default `prior` is that for the pixels of the first blend.
    progress
        True for bars over the blends; or a function called as ``progress(done, total, text)``.
    side_by_side
        Number of free-form fits that share an evaluation; when one ends the next takes its place.
        If not given the device decides: eight on CPUs, on accelerators as many as a quarter of the
        memory holds, at most 256.  On CPUs never more than two where there are large boxes.
    chunk
        Number of blends for which both fits are done before the next ones begin, which limits
        the memory, and the loss at Ctrl-C; 32 on CPUs and 1024 on accelerators if not given.
    finished
        Function called as ``finished(number, result)`` for each blend as soon as its chunk is done,
        as to write files: a process that ends loses no more than a chunk.
    **options
        Options of `deblend`; all blends are padded to the largest number of sources, rounded up
        to a multiple of `padding`.

    Returns
    -------
    list
        Results in the order of the observations; None for blends unfinished at Ctrl-C.

    Raises
    ------
    InputError
        If nothing is detected in a blend, for lists of different length, and as for `deblend`.
    """
    given = [None] * len(observations) if positions is None else list(positions)
    if len(given) != len(observations):
        raise InputError(
            f"there are {len(observations)} observations but {len(given)} entries of `positions`; "
            "give one per observation, None where sources are to be detected."
        )
    for name, number in (("side_by_side", side_by_side), ("chunk", chunk)):
        if number is not None and number < 1:
            raise InputError(f"`{name}` must be at least 1, got {number}.")
    settings = settings_of(options, prior, observations[0].pixel_scale if observations else None)
    prepared = _prepared(observations, given, settings)
    alike: dict = {}
    for index, one in enumerate(prepared):
        alike.setdefault(one.shape, []).append(index)
    results: list[Deblended | None] = [None] * len(prepared)
    for members in alike.values():
        group = [prepared[i] for i in members]
        sizes = padded_sizes(group, settings.options.padding)
        run = Run(settings, sizes, side_by_side, chunk, key, progress)

        def done(number, result, members=members):
            if finished is not None:
                finished(members[number], result)

        for index, result in zip(members, run.all(group, done), strict=True):
            results[index] = result
        if any(results[i] is None or _stopped(results[i]) for i in members):
            break
    return results


def settings_of(options: dict, prior, pixel_scale) -> Settings:
    """Return options and priors from the keywords of `deblend`."""
    return Settings(Options.of(options), load_priors(prior, pixel_scale=pixel_scale))


def _prepared(
    observations: Sequence[Observation | JointObservation],
    given: Sequence[Positions | Any | None],
    settings: Settings,
) -> list[Blend]:
    """Return blends prepared for fits; where no positions are given their sources are found."""
    each, correlation = [], settings.options.correlation
    for obs, positions in zip(observations, given, strict=True):
        with collected() as said:
            if positions is None:
                obs = with_correlation(obs, correlation)
                found = detect(obs)
            else:
                found = (
                    positions
                    if isinstance(positions, Positions)
                    else read_positions(positions, obs)
                )
                obs = with_correlation(obs, correlation, found)
            if settings.options.subtract_sky:
                obs = subtract_sky(obs, found)
            if settings.options.rescale_noise:
                obs = rescale_noise(obs, found)
            sky, kind = None, kind_of_sky(obs, found, settings.options.sky)
            if kind is not None:
                obs, sky = with_level_subtracted(obs, found, kind)
                if settings.options.sky == "auto":
                    tell_sky(sky, obs.bands)
        obs = noted(obs, said)
        warn_of_field(obs, found)
        warn_of_correlation(obs, found)
        each.append((obs, found, sky))
    unknown = [i for i, positions in enumerate(given) if positions is None]
    if unknown:
        images, detected, _ = zip(*(each[i] for i in unknown), strict=True)
        for i, found in zip(unknown, find(images, detected, settings, _profiles), strict=True):
            each[i] = each[i][0], found, each[i][2]
    return [prepare(obs, found, settings, sky=sky) for obs, found, sky in each]


def _profiles(blends: Sequence[Blend], settings: Settings) -> list[FittedScene]:
    """Fit the parametric scenes of blends, those of one shape and padded size together."""
    found: dict[int, FittedScene] = {}
    alike: dict = {}
    for index, one in enumerate(blends):
        sizes = padded_sizes([one], settings.options.padding)
        alike.setdefault((one.shape, sizes), []).append(index)
    for (_, sizes), members in alike.items():
        fits = Run(settings, sizes).profiles([blends[i] for i in members])
        found |= zip(members, fits, strict=True)
    return [found[index] for index in range(len(blends))]


def _stopped(result: Deblended | None) -> bool:
    return result is None or bool(result.free_form.fit.interrupted)


@dataclass(frozen=True)
class Run:
    """Both fits of blends of one shape.

    Attributes
    ----------
    settings
        Options and priors.
    sizes
        Padded numbers of stars and galaxies.
    side_by_side, chunk, key, progress
        Arguments of `deblend_many`.
    profile_iterations
        Most iterations of a parametric fit, if fewer than those of all fits.
    """

    settings: Settings
    sizes: tuple[int, int]
    side_by_side: int | None = None
    chunk: int | None = None
    key: Any = None
    progress: Any = False
    profile_iterations: int | None = None

    @one_thread()
    def profiles(self, blends: Sequence[Blend]) -> list[FittedScene]:
        """Fit the parametric scenes alone."""
        make_room_for_programs()
        return [collect_scene(scene, fit) for _, scene, fit in self._parametric(blends)]

    @one_thread()
    def all(
        self,
        blends: Sequence[Blend],
        finished: Callable[[int, Deblended], object] = lambda number, result: None,
    ) -> list[Deblended | None]:
        """Fit all blends in chunks; `finished` is called for each at the end of its chunk."""
        make_room_for_programs()
        results: list = [None] * len(blends)
        chunk = chunk_of(self.chunk)
        for first in range(0, len(blends), chunk):
            some = self._some(blends[first : first + chunk])
            results[first : first + chunk] = some
            for number, result in enumerate(some, first):
                if result is not None:
                    finished(number, result)
            if any(map(_stopped, some)):
                break
        return results

    @property
    def _has_free_forms(self) -> bool:
        """Whether free forms are fitted after the profiles, where galaxies need them."""
        return bool(self.sizes[1] and self.settings.options.has_free_forms)

    def _some(self, blends: Sequence[Blend]) -> list[Deblended | None]:
        clock = time.monotonic()
        each = self._parametric(blends)
        if len(blends) > 1 and any(fit.interrupted for *_, fit in each):
            return [None] * len(blends)
        each = self._continued(each)
        first = [collect_scene(scene, fit) for _, scene, fit in each]
        free_form = self._has_free_forms
        for _ in range(0 if free_form else ROUNDS):
            mended = self._with_error([(b, one) for (b, *_), one in zip(each, first, strict=True)])
            each = self._again(each, mended)
            for i in mended:
                first[i] = collect_scene(*each[i][1:])
        seconds = {"parametric": (time.monotonic() - clock) / len(blends), "free_form": 0.0}
        clock = time.monotonic()
        finals: list[Any] = [(b, one) for (b, *_), one in zip(each, first, strict=True)]
        if free_form:
            finals = list(self._finals(each, first))
            each, finals = self._simplified(each, first, finals)
            for _ in range(ROUNDS if all(f is not None for f in finals) else 0):
                mended = self._with_error(finals)
                each = self._again(each, mended)
                for i in mended:
                    first[i] = collect_scene(*each[i][1:])
                if mended:
                    some = [each[i] for i in mended], [first[i] for i in mended]
                    again = self._finals(*some, [finals[i][1] for i in mended])
                    for i, one in zip(mended, again, strict=True):
                        finals[i] = one
            seconds["free_form"] = (time.monotonic() - clock) / len(blends)
        sigma = self.settings.priors[0].model_psf_sigma
        return [
            None
            if final is None or (len(blends) > 1 and final[1].fit.interrupted)
            else Deblended.of(
                final[0].obs,
                final[0].positions,
                final[1],
                one if final[1] is one else self._left(one),
                seconds,
                sigma,
                final[0].own_noise,
                final[0].sky,
                final[0].kept,
                final[0].model_error,
                self.settings.options.max_iterations,
                self.settings.options.tolerance,
            )
            for one, final in zip(first, finals, strict=True)
        ]

    def _left(self, found: FittedScene) -> FittedScene:
        """Say of profiles that were stopped early, before another fit, that this was on purpose."""
        if self.profile_iterations is None or found.fit.status is not FitStatus.OUT_OF_ITERATIONS:
            return found
        return replace(found, fit=replace(found.fit, status=FitStatus.LEFT))

    def _continued(self, each: list[tuple[Blend, Scene, MAPResult]]):
        """Go on with profiles that were stopped early if nothing else is fitted after them."""
        if self.profile_iterations is None or any(fit.interrupted for *_, fit in each):
            return each
        left: dict[int, Blend] = {}
        for i, (b, scene, fit) in enumerate(each):
            if fit.converged:
                continue
            found = collect_scene(scene, fit)
            if not self._has_free_forms or not FreeFormStage(b, self.settings, scene, found).groups:
                left[i] = b
        return replace(self, profile_iterations=None)._again(each, left)

    def _finals(
        self,
        each: list[tuple[Blend, Scene, MAPResult]],
        first: list[FittedScene],
        before: list[FittedScene] | None = None,
    ) -> list[tuple[Blend, FittedScene] | None]:
        """Fit free-form scenes from parametric ones, or from free-form ones of other weights."""
        stages = [
            FreeFormStage(b, self.settings, scene, found)
            for (b, scene, _), found in zip(each, first, strict=True)
        ]
        finals: list[Any] = [None] * len(each)
        # Blends with the same groups run the same programs.
        alike: dict = {}
        for i, (stage, (b, *_)) in enumerate(zip(stages, each, strict=True)):
            if stage.groups:
                alike.setdefault(self._alike(stage), []).append(i)
            else:
                finals[i] = b, first[i]
        for members in alike.values():
            known = None if before is None else [before[i] for i in members]
            found, fit = self._free_form([stages[i] for i in members], known)
            for k, i in enumerate(members):
                b, scene, one = _without_sky(each[i][0], found[k], fit[k])
                finals[i] = b, collect_scene(scene, one)
            if fit.interrupted.any():
                break
        return finals

    def _simplified(self, each: list[tuple[Blend, Scene, MAPResult]], first: list, finals: list):
        """Fit scenes again with the profiles of galaxies that free forms explain no better.

        Returns the parametric fits and the results, anew where there are any; `first`, what the
        parametric fits look like, is changed with them.
        """
        options = self.settings.options
        done = all(final is not None and not final[1].fit.interrupted for final in finals)
        if options.models != "simplest" or options.start == "blobs" or not done:
            return each, finals
        again: dict[int, tuple[Blend, Scene, MAPResult]] = {}
        for i, (b, scene, fit) in enumerate(each):
            kinds = FreeFormStage(b, self.settings, scene, first[i]).kinds
            simple = np.isin(kinds, FREE_FORMS) & no_better(first[i], finals[i][1])
            if simple.any():
                again[i] = replace(b, simple=simple), scene, fit
        if not again:
            return each, finals
        # Without free forms the profiles are the result, and must not have been stopped early.
        continued = self._continued(list(again.values()))
        looks = [collect_scene(scene, fit) for _, scene, fit in continued]
        new = self._finals(continued, looks)
        each, finals = list(each), list(finals)
        for i, one, look, final in zip(again, continued, looks, new, strict=True):
            if final is not None and not final[1].fit.interrupted:
                each[i], first[i], finals[i] = one, look, final
        return each, finals

    def _with_error(self, found: Sequence[tuple[Blend, FittedScene] | None]) -> dict[int, Blend]:
        """Return blends that need an error of the model, by number."""
        out: dict[int, Blend] = {}
        for i, one in enumerate(found if self.settings.options.model_error else ()):
            mended = None if one is None else with_error_of_model(*one, self.settings)
            if mended is not None:
                out[i] = mended
        return out

    def _without_outliers(self, each: list[tuple[Blend, Scene, MAPResult]]):
        """Fit scenes again in which pixels are far from the model, with less weight there."""
        for _ in range(ROUNDS if self.settings.options.outliers else 0):
            if any(fit.interrupted for *_, fit in each):
                break
            mended: dict[int, Blend] = {}
            for i, (b, scene, fit) in enumerate(each):
                other = without_outliers(b, collect_scene(scene, fit), self.settings)
                if other is not None:
                    mended[i] = other
            if not mended:
                break
            # Not from what the outliers have made of it.
            each = self._again(each, mended, fresh=True)
        return each

    def _again(
        self, each, mended: dict[int, Blend], *, fresh: bool = False
    ) -> list[tuple[Blend, Scene, MAPResult]]:
        """Fit parametric scenes again whose blends have changed, from their fits or afresh."""
        each = list(each)
        # Only where there are wide boxes are exposures made for them.
        for wide in (False, True):
            some = {i: b for i, b in mended.items() if bool(b.is_wide.any()) == wide}
            if some:
                before = [(scene, fit.values) for _, scene, fit in (each[i] for i in some)]
                found = self._profiles(list(some.values()), None if fresh else before)
                for i, one in zip(some, found, strict=True):
                    each[i] = _without_sky(*one)
        return each

    def _alike(self, stage: FreeFormStage) -> tuple:
        """Return what stages that run the same programs have in common."""
        simplest = self.settings.options.models == "simplest"
        number = stage.number("galaxies", self.settings.options.padding) if simplest else 0
        # Exposures for wide boxes have kernels for these as well.
        shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves(stage.blend.exposures))
        return stage.groups, stage.kept, number, shapes

    def _parametric(self, blends: Sequence[Blend]) -> list[tuple[Blend, Scene, MAPResult]]:
        """Fit profiles and stars; again with the noise of sources from the model where it matters."""
        each = self._profiles([without_trails(b, self.settings) for b in blends])
        again = [i for i, (blend, *_) in enumerate(each) if blend.own_noise]
        if again and not any(fit.interrupted for *_, fit in each):
            mended, starts = [], []
            for blend, scene, fit in (each[i] for i in again):
                model = [cube.sum(0) for cube in collect_scene(scene, fit).convolved]
                mended.append(blend.with_model(model, self.settings))
                starts.append((scene, fit.values))
            for i, one in zip(again, self._profiles(mended, starts), strict=True):
                each[i] = one
        each = [_without_sky(*one) for one in self._widened(each)]
        return self._without_outliers(each)

    def _widened(self, each: list[tuple[Blend, Scene, MAPResult]]):
        """Fit scenes again in which galaxies reach beyond their boxes."""
        if any(fit.interrupted for *_, fit in each):
            return each
        # Few scenes have one, and collecting costs more than the first look.
        wide = {
            i: wide_sources(blend, scene, collect_scene(scene, fit), self.settings)
            for i, (blend, scene, fit) in enumerate(each)
            if may_be_wide(scene, fit.values, self.settings)
        }
        again = [i for i, mask in wide.items() if mask.any()]
        if again:
            blends = [each[i][0].with_wide(wide[i], self.settings) for i in again]
            starts = [(scene, fit.values) for _, scene, fit in (each[i] for i in again)]
            for i, one in zip(again, self._profiles(blends, starts), strict=True):
                each[i] = one
        return each

    def _profiles(
        self, blends: Sequence[Blend], before: Sequence[tuple[Scene, dict]] | None = None
    ) -> list[tuple[Blend, Scene, MAPResult]]:
        """Fit profiles and stars, from fitted scenes if given."""
        most = max(int(b.is_wide.sum()) for b in blends)
        num_wide = -(-most // LARGE_PADDING) * LARGE_PADDING
        scenes = [parametric_scene(b, self.settings, self.sizes, num_wide) for b in blends]
        starts = [parametric_start(scene, self.settings) for scene in scenes]
        if before is not None:
            starts = [
                (restarted(*found, scene, init), scale)
                for scene, (init, scale), found in zip(scenes, starts, before, strict=True)
            ]
        init, scale = _stacked(starts)
        counts = np.array([len(b.positions.ids) for b in blends])
        fits = self._fit(
            scenes,
            init=init,
            scale=scale,
            side_by_side=profile_lanes(scenes, given=self.side_by_side),
            tolerance=self.settings.options.tolerance * counts,
            optimizer=_PROFILE_OPTIMIZER,
            progress=self._label("profiles"),
            max_iterations=self.profile_iterations or self.settings.options.max_iterations,
        )
        return [
            (b, scene, fits[i]) for i, (b, scene) in enumerate(zip(blends, scenes, strict=True))
        ]

    def _free_form(
        self, stages: Sequence[FreeFormStage], before: Sequence[FittedScene] | None = None
    ) -> tuple[list[Scene], MAPResult]:
        """Fit scenes with the same groups of free-form sources, from fits of them where given."""
        groups = stages[0].groups
        sizes, padding = {"galaxies": self.sizes[1]}, self.settings.options.padding
        if self.settings.options.models == "simplest":
            sizes["galaxies"] = stages[0].number("galaxies", padding)
            # As many slots in all, however many of them are free forms.
            sizes["profiles"] = self.sizes[1] - sizes["galaxies"] + padding
        for name in ("large", "wide"):
            sizes[name] = max(stage.number(name, LARGE_PADDING) for stage in stages)
        counts = np.array([len(stage.kinds) for stage in stages])
        names = ("galaxies", "large")
        priors = {n: p for n, p in zip(names, self.settings.priors) if n in groups}
        fits: Any = None
        # A fit that is known has found the rough shapes.
        levels = self.settings.options.anneal if before is None else ()
        for level in (*levels, None):
            now = {n: p if level is None else p.at(level) for n, p in priors.items()}
            scenes = [stage.scene(now, sizes) for stage in stages]
            init, scale = _stacked(
                [
                    stage.start(scene, _known(scene, before, i) if fits is None else fits[i])
                    for i, (stage, scene) in enumerate(zip(stages, scenes, strict=True))
                ]
            )
            lanes = free_form_lanes(scenes, large="large" in groups, given=self.side_by_side)
            fits = self._fit(
                scenes,
                init=init,
                scale=scale,
                side_by_side=min(lanes, chunk_of(self.chunk)),
                optimizer=IMAGE_OPTIMIZER,
                tolerance=self.settings.options.tolerance * counts,
                progress=self._label("free-form" if level is None else f"sigma {level:g}"),
            )
            if fits.interrupted.any():
                break
        return scenes, fits

    def _fit(self, scenes: Sequence[Scene], **rest) -> MAPResult:
        stacked, axes = stack_scenes(scenes)
        key = jax.random.key(0) if self.key is None else self.key
        # Untested: products with the Hessian would cost more than the fit.
        options: dict[str, Any] = {
            "max_iterations": self.settings.options.max_iterations,
            "verify": False,
        }
        return fit_map(blend, stacked, key=key, in_axes=(axes,), **(options | rest))

    def _label(self, name: str):
        return name if self.progress is True else self.progress


def _known(scene: Scene, before: Sequence[FittedScene] | None, number: int) -> MAPResult | None:
    """Return a fit of a scene with the same sources in the same slots; None if there is none."""
    if before is None:
        return None
    old = before[number].scene
    same = old.names == scene.names and np.array_equal(old.index, scene.index)
    return before[number].fit if same else None


def _without_sky(blend_: Blend, scene: Scene, fit: MAPResult) -> tuple[Blend, Scene, MAPResult]:
    """Take what is left of a fitted sky off the pixels."""
    if blend_.sky is None:
        return blend_, scene, fit
    mended, without = blend_.without_sky(collect_scene(scene, fit))
    return mended, without, replace(fit, posterior=posterior(blend, without))


def _stacked(trees: list):
    """Stack trees of arrays along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)
