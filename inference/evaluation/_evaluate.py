"""Evaluation of deblending on a set with truth; resumable blend by blend.

Of the truth only the true centers enter a fit, as the catalog (unless sources are to be
detected): weights are those that `Observation` derives from the image.
"""

import dataclasses
import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
from astropy.table import QTable, Table

from scorepriors import __version__
from scorepriors._archives import read_archive, write_archive
from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._moments import shapes
from scorepriors._progress import Progress, reporting
from scorepriors._surveys import magnitude_errors
from scorepriors.inference.deblending._catalog import add_positions, add_shapes
from scorepriors.inference.deblending._deblend import deblend_many
from scorepriors.inference.deblending._defaults import ANNEALING
from scorepriors.inference.deblending._options import STARTS as FIT_STARTS
from scorepriors.inference.deblending._options import Options
from scorepriors.inference.deblending._priors import load_priors
from scorepriors.inference.deblending._result import Deblended
from scorepriors.inference.reports._observed import observed_mean
from scorepriors.models.data._correlations import with_correlation
from scorepriors.models.data._detection import detect
from scorepriors.models.data._observation import Observation
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.data.positions._reading import read_positions
from scorepriors.models.simulation._blend_sets import BlendSet, BlendTruth

from ._metrics import central_interval, match_positions, mean_chi2, source_metrics, summarize

METHODS = ("parametric", "map", "annealed", "laplace", "posterior")

#: Names of starts here and in `deblend`.
STARTS = {"catalog": "profiles", "scattered": "profiles", "detect": "profiles"}
STARTS |= {name: name for name in FIT_STARTS if name != "profiles"}

#: Spellings of starts in earlier versions.
_EARLIER = {"catalogue": "catalog"}

#: Error of the positions in pixels: a catalog of true centers has none (a small value helps
#: the fit), peaks of a noisy image have some.
EXACT_CENTER_ERROR, DETECTED_CENTER_ERROR = 0.05, 0.3

#: Largest distance of a detection from the true center of its source, pixels.
MATCH_RADIUS = 3.0

#: Keywords of `sample_deblended` and `laplace_deblended` where others are not given.
SAMPLING: dict[str, dict[str, Any]] = {"posterior": {}, "laplace": {"num_samples": 400}}

#: Blends fitted between two checkpoints.
CHUNK = 16

_CHECKPOINT = "checkpoint of an evaluation"


@dataclass(frozen=True)
class Settings:
    """Settings that, with the set, determine the result of an evaluation.

    Attributes
    ----------
    method, start, seed
        Arguments of `evaluate`.
    options
        Options of the deblending.
    sampling
        Keywords for the draws; empty for methods without draws.
    """

    method: str
    start: str
    seed: int
    options: Options
    sampling: dict[str, Any]

    @classmethod
    def of(
        cls,
        *,
        method: str = "map",
        start: str = "catalog",
        seed: int = 0,
        sampling: dict[str, Any] | None = None,
        **options: Any,
    ) -> "Settings":
        """Return settings from the arguments of `evaluate`; `InputError` for unknown ones."""
        start = _respelled(start)
        for name, value, known in (("method", method, METHODS), ("start", start, tuple(STARTS))):
            if value not in known:
                raise InputError(f"unknown {name} {value!r}; there are {', '.join(known)}.")
        if "free_form" in options:
            raise InputError("`free_form` follows from `method`; give method='parametric'.")
        if sampling and method not in SAMPLING:
            raise InputError(
                f"`sampling` goes with the methods {' and '.join(SAMPLING)}, not with {method!r}."
            )
        if options.get("center_error") is None:
            uncertain = start in ("scattered", "detect")
            options["center_error"] = DETECTED_CENTER_ERROR if uncertain else EXACT_CENTER_ERROR
        if not options["center_error"] > 0:
            raise InputError(f"`center_error` must be positive, got {options['center_error']}.")
        levels = tuple(options.pop("anneal", ANNEALING))
        if options.get("models") is None:
            options["models"] = "simplest" if method == "posterior" else "free-form"
        own = {
            "start": STARTS[start],
            "anneal": levels if method == "annealed" else (),
            "free_form": method != "parametric",
        }
        draws = {**SAMPLING.get(method, {}), **(sampling or {})}
        return cls(method, start, seed, Options.of({**options, **own}), draws)

    def facts(self) -> dict[str, Any]:
        """Return the settings, ready for JSON."""
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(Options)}
        del options["start"], options["free_form"], options["padding"]
        profile = options["profile"]
        return options | {
            "method": self.method,
            "start": self.start,
            "seed": self.seed,
            "profile": profile
            if isinstance(profile, str)
            else getattr(profile, "__name__", repr(profile)),
            "anneal": list(self.options.anneal),
            "variable": list(self.options.variable),
            "moving": list(self.options.moving),
            "correlation": _lists(self.options.correlation),
            "sampling": self.sampling,
        }


def _lists(value: Any) -> Any:
    """Return nested tuples as lists, as they come back from JSON."""
    return list(map(_lists, value)) if isinstance(value, tuple) else value


def _respelled(start: str) -> str:
    """Return the current name of a start, with a warning for one of earlier versions."""
    if start not in _EARLIER:
        return start
    warnings.warn(
        f"the start {start!r} is called {_EARLIER[start]!r} now.", FutureWarning, stacklevel=4
    )
    return _EARLIER[start]


@dataclass(frozen=True)
class _Fitted:
    """Results for one blend that the metrics need; K sources as found."""

    center: np.ndarray  # [K, 2], positions given to the fit
    models: np.ndarray  # [K, B, H, W]
    error: np.ndarray  # [K], of the flux summed over bands
    low: np.ndarray  # [K], the 68 % interval of that flux
    high: np.ndarray
    converged: bool
    measured: np.ndarray | None = None  # [2, K], measured flux and its error
    # Values and errors ``[2, K]`` by name.
    quantities: Mapping[str, np.ndarray] = field(default_factory=dict)


def evaluate(
    path: str | Path,
    *,
    method: str = "map",
    start: str = "catalog",
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
    sigma: float | None = None,
    limit: int | None = None,
    seed: int = 0,
    sampling: dict[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    restart: bool = False,
    progress: Progress = False,
    **options: Any,
) -> dict[str, Any]:
    """Deblend the blends of a set and compare with the truth.

    Parameters
    ----------
    path
        File of a set, as `scorepriors.models.write_set` writes it.
    method
        ``"parametric"``: the scene of parametric profiles.  ``"map"``: free-form under the prior.
        ``"annealed"``: the same, after fits at larger noise levels of the prior.
        ``"laplace"``: that of ``"map"`` with errors from the curvature, all shapes free.
        ``"posterior"``: means and quantiles of draws by `sample_deblended`, of every source under
        the simplest model that the data do not refuse, unless `models` is given.
    start
        ``"catalog"``, ``"scattered"`` (true centers plus Gaussian errors of `center_error`, drawn from
        `seed`), ``"detect"``, or a bad start: ``"sed20"``, ``"flat"``,
        ``"gaussian"``, ``"blobs"`` (see `deblend`), with true centers.
    prior
        Priors, as for `deblend`; those of the set's survey if not given.
    sigma
        Noise level sigma0 of the prior; its own if not given.
    limit
        Number of blends to use, from the first; all if not given.
    seed
        Seed of the draws.
    sampling
        Keywords of `sample_deblended` for ``"posterior"``, of `laplace_deblended` for ``"laplace"`` (400 draws).
    checkpoint
        File for the results of finished blends.
    resume
        Whether to continue with the blends that are not in `checkpoint`; with all if there is none.
    restart
        Whether to replace an existing checkpoint, once a blend is finished.
    progress
        True for a bar; or a function called as ``progress(done, total, text)`` with the
        number of finished blends.
    **options
        Options of `deblend`: `profile`, `spectra`, `center_error`, `anneal`, `max_iterations`,
        `tolerance`, `correlation`, `models`, `padding`.  If not given, `center_error` is 0.05 px for true centers and 0.3 px
        for scattered ones and detections, and `anneal`, which is used for ``"annealed"`` alone, is (1, 0.4).

    Returns
    -------
    dict
        Results, ready for JSON: those of `summarize`, ``seconds_total``, ``seconds_per_blend``
        (wall time of fits and draws, compilation included), ``sources`` (a row per true
        source; fluxes in ``flux_unit``, summed over bands, of the part on the image; ``quantities``
        by name, ``x``, ``y``, ``size``, ``e1``, ``e2`` and ``mag_<band>``, with ``value``, ``error`` and
        ``true``),
        ``number`` of blends, settings, prior and versions.  Ctrl-C sets ``interrupted``; the
        finished blends are included.

    Notes
    -----
    ``flux`` is that of the images.  With ``"parametric"``, ``"map"`` and ``"annealed"`` errors and
    intervals are those of the catalog, about the posterior mean (`Photometry`); for
    ``"laplace"`` those of the Gaussian about the mode, all shapes free; for ``"posterior"`` the
    standard deviation of the draws, and intervals are their quantiles.

    True shapes are moments of the set's noiseless images at the model's resolution (``morph``), as
    those of catalogs are.  Where true centers are the catalog (all starts but ``"scattered"`` and
    ``"detect"``) positions are known better than `center_error` says, and more of them than 68 % lie
    within their errors.

    With detected sources, each true source is matched to the nearest detection within 3 px
    that is not nearer to another.  True sources without one count as zeros (``e_F = -1``,
    correlations 0) and have no interval; detections without a true source enter chi2 alone.

    Raises
    ------
    InputError
        If the set has no truth, for unknown methods, starts and options, or if the checkpoint
        exists without `resume` or `restart`, is of another run, or is no checkpoint.
    """
    chosen = Settings.of(method=method, start=start, seed=seed, sampling=sampling, **options)
    blends = BlendSet(path)
    if limit is not None and limit < 1:
        raise InputError(f"`limit` must be at least 1, got {limit}.")
    number = len(blends) if limit is None else min(limit, len(blends))
    priors = load_priors(prior, sigma=sigma, pixel_scale=blends.observation(0).pixel_scale)
    facts = _facts(chosen, priors, blends.path)
    kept = _Checkpoint(checkpoint, facts, resume=resume, restart=restart)
    interrupted = False
    try:
        with reporting(progress, chosen.method, number) as report:

            def finished(done: int, total: int, text: str) -> None:
                report(len(kept.blends), number, f"{done} fits" if done else "")

            for first in range(0, number, CHUNK):
                part = range(first, min(first + CHUNK, number))
                missing = [i for i in part if i not in kept.blends]
                if missing and not _evaluate_chunk(blends, missing, priors, chosen, kept, finished):
                    interrupted = True
                    break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        kept.save()
    done = [kept.blends[i] for i in sorted(kept.blends) if i < number]
    sources = [row for blend in done for row in blend["sources"]]
    result: dict[str, Any] = summarize(sources, [blend["chi2"] for blend in done])
    seconds = sum(blend["seconds"] for blend in done)
    return {
        **result,
        "seconds_total": seconds,
        "seconds_per_blend": seconds / len(done) if done else None,
        "number": len(done),
        "num_sources": len(sources),
        "num_missed": sum(not row["found"] for row in sources),
        "num_spurious": sum(blend["spurious"] for blend in done),
        "num_not_converged": sum(not blend["converged"] for blend in done),
        "interrupted": interrupted,
        "flux_unit": done[0]["flux_unit"] if done else "",
        "survey": str(blends.meta.get("survey", "")),
        **facts,
        "sources": sources,
    }


def _facts(chosen: Settings, priors: Sequence[ScorePrior], path: Path) -> dict[str, Any]:
    """Return the facts that must agree between a checkpoint and a run that continues it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        **chosen.facts(),
        "prior": " and ".join(str(prior.name) for prior in priors),
        "sigma0": float(priors[0].sigma),
        "set": path.name,
        "set_sha256": digest,
        "versions": {
            "scorepriors": __version__,
            "jax": jax.__version__,
            "numpyro": numpyro.__version__,
        },
    }


class _Checkpoint:
    """Results of finished blends, by index, and their file."""

    def __init__(self, path: str | Path | None, facts: dict, *, resume: bool, restart: bool):
        self.path, self.facts = None if path is None else Path(path), facts
        self.blends: dict[int, dict] = {}
        if self.path is None:
            if resume:
                raise InputError("there is no checkpoint to go on with; give its file.")
            return
        if not self.path.exists():
            # Resumed or not: batch systems restart a job with the command it began with.
            return
        _, content = read_archive(
            self.path, kind=_CHECKPOINT, version=1, mend="give another name, or remove it"
        )
        before = content["run"]
        if restart:
            return
        if not resume:
            raise InputError(
                f"{self.path} is of a run that was cut short; resume it, or start again in its "
                "place (--resume, --force)."
            )
        self.blends = {int(i): blend for i, blend in content["blends"].items()}
        for name, value in facts.items():
            if before.get(name) != value:
                raise InputError(
                    f"{self.path} is of another run: {name} was {before.get(name)} and is {value}; "
                    "change it back, or remove the file."
                )

    def save(self) -> None:
        """Write the file, if any blend is finished."""
        if self.path is not None and self.blends:
            facts = {"run": self.facts, "blends": self.blends}
            write_archive(self.path, {}, facts, kind=_CHECKPOINT, version=1)


def _evaluate_chunk(blends, indices, priors, chosen, kept, report) -> bool:
    """Fit some blends and store their rows; return False if interrupted by Ctrl-C."""
    clock = time.monotonic()
    observations = [blends.observation(i) for i in indices]
    truths = [blends.truth(i) for i in indices]
    positions = [
        _positions(o, t, chosen, i) for i, o, t in zip(indices, observations, truths, strict=True)
    ]
    seen = [j for j, where in enumerate(positions) if where is not None]
    fitted = deblend_many(
        [observations[j] for j in seen],
        # What is detected is where the search for sources begins.
        [None if chosen.start == "detect" else positions[j] for j in seen],
        prior=priors,
        key=jax.random.key(chosen.seed),
        chunk=CHUNK,
        **_options(blends, positions, chosen),
        progress=report,
    )
    shared = (time.monotonic() - clock) / len(indices)
    results = dict(zip(seen, fitted, strict=True))
    for j, index in enumerate(indices):
        clock = time.monotonic()
        result = results.get(j)
        if result is None:
            if j in results:
                return False
            scene = _nothing(observations[j])
        elif result.free_form.fit.interrupted:
            return False
        elif chosen.method == "posterior":
            drawn = _posterior_scene(result, index, chosen, report)
            if drawn is None:
                return False
            scene = drawn
        elif chosen.method == "laplace":
            scene = _laplace_scene(result, index, chosen)
        else:
            scene = _fitted_scene(result, chosen)
        match = (
            match_positions(scene.center, truths[j].center, radius=MATCH_RADIUS)
            if chosen.start == "detect"
            else np.arange(len(scene.center))
        )
        row = _rows(index, observations[j], truths[j], scene, match)
        row["seconds"] = shared + time.monotonic() - clock
        kept.blends[index] = row
        report(0, 0, "")
        if chosen.method == "posterior":
            kept.save()
    kept.save()
    return True


def _options(blends: BlendSet, positions, chosen: Settings) -> dict[str, Any]:
    """Return options of a chunk: one padded size for the set, so that one program serves all."""
    options = {f.name: getattr(chosen.options, f.name) for f in dataclasses.fields(Options)}
    largest = max([blends.max_sources, *(len(p) for p in positions if p is not None)])
    multiple = options["padding"]
    return {**options, "padding": -(-largest // multiple) * multiple}


def _positions(
    obs: Observation, truth: BlendTruth, chosen: Settings, index: int
) -> Positions | None:
    """Return the catalog of a blend, given by its number; None if nothing is detected."""
    if chosen.start == "scattered":
        rng = np.random.default_rng((chosen.seed, index))
        center = truth.center + chosen.options.center_error * rng.standard_normal(
            truth.center.shape
        )
        # Not by `read_positions`, which refuses pairs that errors have brought to one place.
        names = tuple(str(number) for number in range(len(center)))
        return Positions(names, center, np.zeros(len(center), bool))
    if chosen.start != "detect":
        return read_positions(Table({"x": truth.center[:, 1], "y": truth.center[:, 0]}), obs)
    try:
        return detect(with_correlation(obs, chosen.options.correlation))
    except InputError:
        return None


def _nothing(obs: Observation) -> _Fitted:
    none = np.zeros(0)
    return _Fitted(np.zeros((0, 2)), np.zeros((0, *obs.images.shape)), none, none, none, True)


def _fitted_scene(result: Deblended, chosen: Settings) -> _Fitted:
    scene = result.parametric if chosen.method == "parametric" else result.free_form
    (images,) = scene.convolved
    flux = images.sum((1, 2, 3), dtype=float)
    # The total flux is fitted, the flux on the image is compared.
    share = _share(flux, scene.flux.sum(1))
    found = result.photometry
    mean, error = share * found.total
    measured = share * found.measured_total
    low, high = central_interval(mean, error)
    fit = scene.fit
    converged = bool(fit.converged) if chosen.method == "parametric" else result.converged
    return _Fitted(
        _places(result), images, error, low, high, converged, measured, _catalog_quantities(result)
    )


def _catalog_quantities(result: Deblended) -> dict[str, np.ndarray]:
    """Return values and errors ``[2, K]`` of positions, shapes and magnitudes in the catalog."""
    obs, found, table = result.observation, result.photometry, QTable()
    add_positions(table, result)
    add_shapes(table, result)
    magnitudes = obs.magnitudes(found.flux)
    if magnitudes is not None:
        errors = magnitude_errors(found.flux, found.error)
        for b, band in enumerate(obs.bands):
            table[f"mag_{band}"], table[f"mag_err_{band}"] = magnitudes[:, b], errors[:, b]
    return _quantities(table, obs.bands)


def _quantities(table: QTable, bands: Sequence[str]) -> dict[str, np.ndarray]:
    names = {name: f"{name}_err" for name in ("x", "y", "size", "e1", "e2")}
    names |= {f"mag_{band}": f"mag_err_{band}" for band in bands if f"mag_{band}" in table.colnames}
    plain = lambda name: np.asarray(getattr(table[name], "value", table[name]), float)  # noqa: E731
    return {name: np.stack([plain(name), plain(error)]) for name, error in names.items()}


def _true_quantities(obs: Observation, truth: BlendTruth) -> dict[str, np.ndarray]:
    """Return the truth ``[K]`` of what `_quantities` has, as far as the set has it."""
    out = {"x": truth.center[:, 1], "y": truth.center[:, 0]}
    if truth.morphology is not None:
        out |= dict(zip(("size", "e1", "e2"), shapes(truth.morphology), strict=True))
    magnitudes = obs.magnitudes(truth.flux_total)
    if magnitudes is not None:
        out |= {f"mag_{band}": magnitudes[:, b] for b, band in enumerate(obs.bands)}
    return out


def _laplace_scene(result: Deblended, index: int, chosen: Settings) -> _Fitted:
    """Return the mode, with the errors of the Gaussian about it."""
    from scorepriors.inference.deblending._draws import flux_catalog, flux_draws
    from scorepriors.inference.deblending._sampling import laplace_deblended
    from scorepriors.inference.sampling._diagnostics import SamplingWarning

    mode = _fitted_scene(result, chosen)
    with warnings.catch_warnings():
        # A curvature that is not that of a mode affects the coverage.
        warnings.filterwarnings("ignore", category=SamplingWarning)
        tree = laplace_deblended(
            result, key=jax.random.fold_in(jax.random.key(chosen.seed), index), **chosen.sampling
        )
    drawn = flux_draws(tree) / np.asarray(result.observation.flux_unit[1], float)
    spread = np.asarray(drawn.sum("band").std(("chain", "draw")))
    flux = mode.models.sum((1, 2, 3), dtype=float)
    error = _share(flux, result.free_form.flux.sum(1)) * spread
    low, high = central_interval(flux, error)
    quantities = _quantities(flux_catalog(tree), result.observation.bands)
    return dataclasses.replace(
        mode, error=error, low=low, high=high, measured=None, quantities=quantities
    )


def _share(on_image: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(on_image, total, out=np.ones_like(on_image), where=np.abs(total) > 0)


def _posterior_scene(result: Deblended, index: int, chosen: Settings, report) -> _Fitted | None:
    """Return posterior means as observed, and quantiles of fluxes; None if interrupted."""
    from scorepriors.inference.deblending._draws import flux_catalog, source_draws
    from scorepriors.inference.deblending._sampling import sample_deblended
    from scorepriors.inference.sampling._diagnostics import SamplingWarning, said

    with warnings.catch_warnings():
        # Recorded as `converged` in the table.
        warnings.filterwarnings("ignore", category=SamplingWarning)
        tree = sample_deblended(
            result,
            key=jax.random.fold_in(jax.random.key(chosen.seed), index),
            models="given",
            **chosen.sampling,
            progress=lambda done, total, text: report(0, 0, ""),
        )
    if tree.attrs.get("interrupted"):
        return None
    models, error, low, high = [], [], [], []
    for draw in source_draws(tree):
        (model,) = observed_mean(result.scene, draw)
        total = draw.spectrum.sum(1) * draw.image.sum((1, 2))
        share = _share(np.array(model.sum(dtype=float)), np.array(total.mean()))
        quantiles = np.quantile(total, [0.16, 0.84]) * share
        models.append(model)
        error.append(total.std(ddof=1) * share)
        low.append(quantiles[0])
        high.append(quantiles[1])
    return _Fitted(
        _places(result),
        np.stack(models),
        np.array(error),
        np.array(low),
        np.array(high),
        converged=not said(tree),
        quantities=_quantities(flux_catalog(tree), result.observation.bands),
    )


def _places(result: Deblended) -> np.ndarray:
    return np.asarray(result.positions.row_column, float)


def _rows(
    index: int, obs: Observation, truth: BlendTruth, scene: _Fitted, match: np.ndarray
) -> dict[str, Any]:
    """Return the rows of one blend for the checkpoint; `match` is from `match_positions`."""
    found = match >= 0
    models = np.zeros_like(truth.convolved)
    models[found] = scene.models[match[found]]
    metrics = source_metrics(models, truth.convolved, truth.flux)
    true = truth.flux.sum(1)
    error, low, high, measured, measured_error = np.full((5, len(match)), np.nan)
    given = [(error, scene.error), (low, scene.low), (high, scene.high)]
    if scene.measured is not None:
        given += zip((measured, measured_error), scene.measured, strict=True)
    for column, values in given:
        column[found] = values[match[found]]
    covered = (low <= true) & (true <= high)
    unit, factor = obs.flux_unit
    scale = float(factor[0])
    known = _true_quantities(obs, truth)
    compared = {name: pair for name, pair in scene.quantities.items() if name in known}
    rows = []
    for k in range(len(true)):
        rows.append(
            {
                "blend": index,
                "id": str(k),
                "x": float(truth.center[k, 1]),
                "y": float(truth.center[k, 0]),
                "found": bool(found[k]),
                "beta": float(truth.blendedness[k]),
                "snr": _number(truth.snr[k]),
                "magnitude": _number(truth.magnitude[k]),
                "flux_true": float(true[k] * scale),
                "flux": float(metrics["flux"][k] * scale),
                "flux_error": _number(error[k] * scale),
                "flux_low": _number(low[k] * scale),
                "flux_high": _number(high[k] * scale),
                "measured_flux": _number(measured[k] * scale),
                "measured_flux_error": _number(measured_error[k] * scale),
                "covered": bool(covered[k]) if found[k] else None,
                "e_F": float(metrics["e_F"][k]),
                "xi_morphology": float(metrics["xi_morphology"][k]),
                "xi_sed": float(metrics["xi_sed"][k]),
                "quantities": {
                    name: {
                        "value": _number(pair[0, match[k]]),
                        "error": _number(pair[1, match[k]]),
                        "true": _number(known[name][k]),
                    }
                    for name, pair in compared.items()
                    if found[k]
                },
            }
        )
    return {
        "chi2": mean_chi2(obs.images, scene.models.sum(0), truth.weights),
        "converged": scene.converged,
        "spurious": len(scene.center) - int(found.sum()),
        "flux_unit": unit.to_string(),
        "sources": rows,
    }


def _number(value) -> float | None:
    """Return a float for JSON; None for NaN and infinities."""
    return float(value) if np.isfinite(value) else None
