"""Deblending of whole fields."""

import contextlib
import os
import shutil
import tempfile
import time
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scorepriors import __version__
from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._progress import Progress
from scorepriors.inference.deblending._deblend import settings_of
from scorepriors.inference.deblending._doubts import said_once
from scorepriors.inference.deblending._notes import each_once, mended_noise
from scorepriors.inference.deblending._options import Settings
from scorepriors.inference.deblending._priors import compare_pixels, pixels_sentence
from scorepriors.models.data._correlations import (
    correlation_facts,
    field_with_correlation,
    known_sentence,
    unknown_sentence,
    visible,
    windows_of,
)
from scorepriors.models.data._field import Field, field_with_notes
from scorepriors.models.data._field_checks import FieldWarning
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._warnings import collected, note
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.noise._sky import SKIES

from ._again import weights_digest
from ._engine import LOOKS, PASSES, Engine
from ._executors import executor
from ._folder import NAME as RUN
from ._folder import (
    facts_of,
    fingerprint,
    finish,
    held,
    is_finished,
    open_folder,
    say_changed_files,
)
from ._plan import Cell
from ._progress import FieldProgress
from ._psfs import change_words
from ._result import FieldResult, collect, load, save
from ._tasks import Work, quiet
from ._tile_mending import TileMending


def deblend_field(
    field: Field | Observation | str | os.PathLike | Sequence,
    positions: Positions | Any | None = None,
    *,
    prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
    key=None,
    output: str | os.PathLike | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = False,
    **options: Any,
) -> FieldResult:
    """Deblend an image of any size.

    Sources are found in tiles, grouped where their light overlaps, and fitted in scenes of a few
    sizes, each on the data without the light of all others; scenes whose neighbors' light changes
    are fitted again.

    Parameters
    ----------
    field
        The image: a `Field`, an `Observation`, or files that `Field.open` takes.
    positions
        Positions, or whatever `Field.positions` takes; those in the file, or else detected, if
        not given.
    prior, key
        Arguments of `deblend`.
    output
        Folder of the run, in its subfolder ``run``; a temporary one if not given.
    workers
        Number of processes of this machine.
    scheduler
        Address of a Dask scheduler whose workers fit the scenes; they must see `output`.
    resume
        Whether to go on with a run in `output` that was interrupted.
    force
        Whether to replace a run in `output`.
    progress
        True for a bar; or a function called as ``progress(done, total, text)``.
    **options
        Options of `deblend`; `sky` is that of each scene, beside that of the empty pixels about it,
        which is subtracted tile by tile (with ``"auto"`` where there is one, and no more); `models` is ``"simplest"`` by default: faint galaxies, and those that
        a bulge and disk explain, cost no network.

    Returns
    -------
    FieldResult
        Catalog, light of all sources, and each source on demand.

    Raises
    ------
    InputError
        As `deblend` does; if `output` holds a run already; if there is no source at all.

    Warns
    -----
    PriorWarning, FieldWarning
        As `deblend` does, once for the field.  The facts of the result have these sentences, and those of
        its scenes, as ``notes``.

    Notes
    -----
    Ctrl-C ends the run with a KeyboardInterrupt; what is done is in `output`, and ``resume=True``
    goes on from there.  The result does not depend on the number of workers, up to the tolerance
    of the fits: threads round sums in another order.
    """
    started = time.monotonic()
    given = [name for name in ("variable", "timescale", "moving") if _is_given(options.get(name))]
    if given:
        raise InputError(
            f"{', '.join(f'`{name}`' for name in given)}: what varies or moves is seen in several "
            "observations of one scene; use deblend, with join_observations."
        )
    field = _as_field(field)
    known = positions is not None or field.catalog is not None
    if known and not isinstance(positions, Positions):
        with collected() as said:
            positions = field.positions(positions)
        field = field_with_notes(field, said)
    subtract, rescale = (bool(options.pop(n, False)) for n in ("subtract_sky", "rescale_noise"))
    field = _with_correlation(field, options.pop("correlation", None))
    settings = settings_of({"models": "simplest"} | options, prior, field.pixel_scale)
    if settings.options.has_free_forms:
        compare_pixels(field, settings.priors[0])
    # What scenes fit is what is left of the sky of their tile.
    asked = subtract or settings.options.sky in SKIES
    mend = asked or settings.options.sky == "auto", rescale
    if positions is not None and not len(positions.ids):
        raise InputError("there is no source to fit; give at least one position.")
    temporary = None
    if output is None:
        if resume or scheduler is not None:
            name = "resume=True" if resume else "a scheduler"
            raise InputError(f"{name} needs the folder of the run, that all see; give output=.")
        temporary = _Temporary()
    directory = Path(temporary.path if temporary else output).absolute()  # type: ignore[arg-type]
    mark = fingerprint(field, positions, settings, mend)
    with contextlib.ExitStack() as stack:
        # First, so that a scheduler that does not answer leaves the folder as it is.
        run = stack.enter_context(executor(workers=workers, scheduler=scheduler))
        run.folder = folder = open_folder(directory, mark, resume=resume, force=force)
        if resume:
            say_changed_files(folder, field.opened)
        if resume and is_finished(folder):
            return load_field_result(directory, field)
        own = temporary is not None
        stack.enter_context(held(folder, mark, field.opened, resume=resume, temporary=own))
        shown = stack.enter_context(FieldProgress(progress, dashboard=run.dashboard))
        engine = Engine(Work(field, settings, key), folder, run, shown, mend, asked)
        return _run(engine, positions, started, temporary)


def _run(engine: Engine, positions, started: float, temporary) -> FieldResult:
    clock = [started]
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        now = time.monotonic()
        seconds[name] = round(seconds.get(name, 0.0) + now - clock[0], 2)
        clock[0] = now

    field = engine.work.field
    survey = engine.survey(positions)
    census = survey.census
    lap("survey")
    cells, light = engine.profiles(survey, census, "profiles-0")
    lap("profiles")
    dropped = np.zeros((0, 2))
    for number in range(1, PASSES + 1):
        census = engine.weighed(survey, census, cells)
        wanted = census.wanted()
        gone = ~np.isin(census.ids, wanted.ids)
        dropped = np.concatenate([dropped, census.places[gone]])
        if number <= LOOKS:
            wanted = engine.look_again(survey, wanted, light, number, dropped)
        lap("residual")
        if wanted.ids == census.ids and (wanted.is_point == census.is_point).all():
            break
        census = wanted
        if not len(census):
            raise InputError("nothing in the field is a source by the evidence; give a catalog.")
        cells, light = engine.profiles(survey, census, f"profiles-{number}")
        lap("profiles")
    else:
        census = engine.weighed(survey, census, cells)
    scenes, light, rounds, unsettled = engine.finals(survey, census, cells, light)
    lap("final")
    groups = _groups(cells, len(census))
    catalog, rows, found, places = collect(field, census, scenes, rounds, groups, unsettled)
    lap("catalog")
    mending = TileMending(survey.sky, survey.noise)
    facts = {
        "num_sources": len(catalog),
        "num_added": int(census.added.sum()),
        "num_scenes": len(rows),
        "num_groups": int(groups.max()) + 1,
        "converged": int(np.sum(rows["converged"])),
        "unsettled": len(unsettled),
        "shape": list(field.shape),
        "bands": list(field.bands),
        "doubts": said_once(survey.doubts | found["doubts"]),
        "notes": _notes(engine.work, catalog, survey.notes, found, len(rows)),
        "scene_doubts": found["scene_doubts"],
        "failed": found["failed"],
        "noise_from_model": found["noise_from_model"],
        "psf_change": found["psf_change"],
        "noise_correlation": correlation_facts(field),
        "mended_tiles": mending.facts(field.bands, field.shape),
        "seconds": seconds | {"total": round(time.monotonic() - started, 2)},
        "settings": _settings_facts(engine.work.settings, engine.mend),
        "versions": {
            "scorepriors": __version__,
            "jax": jax.__version__,
            "numpyro": numpyro.__version__,
        },
    }
    said = change_words(found["psf_change"], len(rows))
    if said:
        note(said, FieldWarning, to_results=False)
    settings = engine.work.settings
    result = FieldResult(field, catalog, rows, facts, light, places, temporary, settings, mending)
    save(engine.folder, result)
    finish(engine.folder, {"facts": facts, "opened": field.opened})
    return result


def _notes(work: Work, catalog, surveyed: Sequence[str], found, number: int) -> list[str]:
    """Return what bears on a field and is no doubt about it, one sentence each.

    Parameters
    ----------
    work
        What tasks share.
    catalog
        Catalog of the field.
    surveyed
        Notes of the survey.
    found
        Facts of `collect`.
    number
        Number of scenes.
    """
    field = work.field
    learned = work.settings.priors if "free-form" in np.asarray(catalog["model"]) else ()
    return each_once(
        field.notes,
        surveyed,
        (pixels_sentence(field, prior) for prior in learned),
        (
            mended_noise(found["noise_from_model"]),
            known_sentence(correlation_facts(field)),
            change_words(found["psf_change"], number),
        ),
        found["notes"],
    )


def load_field_result(directory: str | os.PathLike, field: Field | None = None) -> FieldResult:
    """Open the folder of a finished run.

    Parameters
    ----------
    directory
        Folder that was the `output` of `deblend_field`.
    field
        The field; its files are opened again if not given.

    Raises
    ------
    InputError
        If there is no finished run, its files are gone, or it was of an image in memory and
        `field` is not given.
    """
    folder = Path(directory).absolute() / RUN
    known = facts_of(folder)
    if field is None:
        if known.get("opened") is None:
            raise InputError(
                f"{directory} holds results of an image that was not read from files; give field=."
            )
        with warnings.catch_warnings():
            # What its files say was said when the run began.
            warnings.simplefilter("ignore", UserWarning)
            field = Field.open(**known["opened"])
        say_changed_files(folder, known["opened"])
    facts = known["facts"]
    if list(field.shape) != facts["shape"] or list(field.bands) != facts["bands"]:
        raise InputError(
            f"{directory} holds results of {facts['shape'][0]} x {facts['shape'][1]} pixels in "
            f"{', '.join(facts['bands'])}, which the image is not any more; give field=."
        )
    return load(folder, field, facts)


def _is_given(names: Any) -> bool:
    """Return whether an option names sources, or is a timescale: not None, and not empty."""
    return names is not None and np.size(names) > 0 and str(names) != ""


class _Temporary:
    """A folder that goes with the last result that needs it."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="scorepriors-")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _as_field(field) -> Field:
    if isinstance(field, Field):
        return field
    if isinstance(field, Observation):
        return Field.of(field)
    return Field.open(field)


def _with_correlation(field: Field, correlation) -> Field:
    """Return the field with the correlation of its noise; warn where it is seen and not given."""
    if correlation is not None:
        return field_with_correlation(field, correlation)
    if field.correlation is None:
        with quiet():
            factor = visible(windows_of(field))
        said = unknown_sentence(factor, field.bands)
        if said:
            note(said, FieldWarning, to_results=False)
            field = field_with_notes(field, [said])
    return field


def _groups(cells: Sequence[Cell], count: int) -> np.ndarray:
    """Return the number of the group of every source: scenes in whose halos it is are joined."""
    scene = np.zeros(count, int)
    for k, cell in enumerate(cells):
        scene[list(cell.own)] = k
    pairs = [(k, scene[source]) for k, cell in enumerate(cells) for source in cell.halo]
    one, other = np.array(pairs, int).reshape(-1, 2).T
    joined = coo_array((np.ones(len(pairs), bool), (one, other)), shape=(len(cells),) * 2)
    return connected_components(joined, directed=False)[1][scene]


def _settings_facts(settings: Settings, mend: tuple[bool, bool]) -> dict[str, Any]:
    options = {n: getattr(v, "__qualname__", v) for n, v in vars(settings.options).items()}
    options |= {name: list(options[name]) for name in ("anneal", "variable", "moving")}
    return options | {
        "subtract_sky": mend[0],
        "rescale_noise": mend[1],
        "priors": [str(prior.name) for prior in settings.priors],
        "sigma0": float(settings.priors[0].sigma),
        "weights": weights_digest(settings.priors),
    }
