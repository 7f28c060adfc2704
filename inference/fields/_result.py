"""The result of a field: one catalog, the light of all sources, and each source on demand."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import QTable, Table

from scorepriors._archives import read_archive, write_archive
from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._progress import Progress
from scorepriors.inference.deblending._catalog import EDGE, description, sky_columns
from scorepriors.inference.deblending._flags import FLAGS, bands_of, words_of
from scorepriors.inference.deblending._options import Settings
from scorepriors.inference.deblending._result import Deblended
from scorepriors.models.data._observation import Observation
from scorepriors.models.noise._diagonal import Diagonal
from scorepriors.models.rendering._exposure import Exposure
from scorepriors.models.rendering._kernels import kernels_of

from ._again import scene_again, settings_again
from ._census import Census
from ._light import Light, overlap
from ._parts import Place, Record, read_arrays_of, read_part
from ._plan import Window
from ._psfs import change_facts
from ._tasks import SceneTask, Work
from ._tile_mending import TileMending

#: Share of the scenes from which on a doubt about them is one about the field; single ones have flags.
MANY = 0.02

#: Most sentences of scenes that a field repeats: those that name a place may be as many as scenes.
MOST_NOTES = 12

#: Name, kind and version of the file that says where the records of a finished run are.
_NAME, _KIND, _VERSION = "result.npz", "result of a field", 2

#: Columns of the scenes with the first pixels of their windows, and with their sizes.
_WINDOWS = ("row", "column"), ("size", "size")


@dataclass(frozen=True)
class Source:
    """One source of a field.

    Attributes
    ----------
    id
        Its name.
    morphology
        Image ``[n, n]`` at the model's resolution, sum of one.
    corner
        Row and column of its first pixel in the field.
    flux
        Fluxes ``[B]`` of the mode, in the unit of the image.
    model
        The source at the model's resolution in every band, ``[B, n, n]``: the morphology times the
        fluxes, and what two parts of different colors add to it.
    observed
        The source as observed, ``[B, m, m]``.
    observed_corner
        Row and column of its first pixel in the field.
    others
        Light of all other sources there, ``[B, m, m]``.
    """

    id: str
    morphology: np.ndarray
    corner: tuple[int, int]
    flux: np.ndarray
    model: np.ndarray
    observed: np.ndarray
    observed_corner: tuple[int, int]
    others: np.ndarray


@dataclass(frozen=True)
class FieldResult:
    """Result of `scorepriors.inference.deblend_field`.

    Attributes
    ----------
    field
        The field.
    catalog
        All sources: the columns of `scorepriors.inference.catalog`, and ``scene`` (number of its
        scene), ``group`` (the same for all sources whose windows hold each other), ``added``
        (found in what a first fit left), ``p_star``, ``evidence`` and ``model``.  x and y are pixels of the field.
    scenes
        A row for each scene: ``scene``, ``row``, ``column``, ``size`` (its window),
        ``num_sources``, ``round`` (number of final fits), ``settled`` (whether the light of its
        neighbors stayed as it was in the last of them), ``converged``, ``chi2``, ``seconds``,
        ``down_weighted`` (pixels of all bands that lost weight as outliers).
    facts
        Facts for a summary, ready for JSON.
    """

    field: Any
    catalog: QTable
    scenes: Table
    facts: dict[str, Any]
    _light: Light
    _places: tuple[Place, ...]
    _kept: Any = None
    _settings: Settings | None = None
    _tiles: TileMending | None = None

    def model(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return the light of all sources in a window, ``[B, height, width]``."""
        return self._light.window(row, column, height, width)

    def as_fitted(self, obs: Observation, row: int, column: int) -> Observation:
        """Return a window of the field as it was fitted: without sky, with rescaled errors.

        Parameters
        ----------
        obs
            The window, of `field`.
        row, column
            Its first pixel in the field.
        """
        return obs if self._tiles is None else self._tiles.of(obs, row, column, self.field.shape)

    def kept(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """Return the share of their weight that the pixels of a window kept, ``[B, height, width]``.

        Lower than one where there are outliers.  Of several scenes that hold a pixel it is that of the
        one which left it least.
        """
        shape = height, width
        out = np.ones((len(self.field.bands), *shape), np.float32)
        first, size = (np.asarray([self.scenes[n] for n in names]).T for names in _WINDOWS)
        near = (
            (first < np.array([row + height, column + width])) & (first + size > (row, column))
        ).all(1)
        for k in np.flatnonzero(near & (np.asarray(self.scenes["down_weighted"]) > 0)):
            (share,) = read_arrays_of(self._places[k], "kept")
            window = Window(int(first[k, 0]) - row, int(first[k, 1]) - column, int(size[k, 0]))
            inside, own = overlap(window, shape)
            out[:, *inside] = np.minimum(out[:, *inside], share[:, *own])
        return out

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {str(name): k for k, name in enumerate(self.catalog["id"])}

    def source(self, id: str) -> Source:
        """Return one source.

        Raises
        ------
        InputError
            If there is no such source.
        """
        record = self._record(id)
        if "image/0" not in record.arrays:
            raise InputError(f"source {str(id)!r} has no data in any band, and so no image.")
        number = record.facts["ids"].index(str(id))
        image, corner = (record.arrays[f"{name}/{number}"] for name in ("image", "corner"))
        flux = record.arrays["spectrum"][number]
        side, size = record.facts["window"][2], len(image)
        middle = np.array(record.facts["window"][:2]) + (side - 1) / 2
        psfs = self.field.psfs_at(*middle)
        kernels = kernels_of(psfs, (max(size, 32),), record.facts["psf_sigma"], gain=1.0)
        whole = size + 2 * (kernels.size // 2)
        blank = np.zeros((len(psfs), whole, whole), np.float32)
        exposure = Exposure(blank, Diagonal(blank), kernels)
        at = np.array([[kernels.size // 2] * 2])
        drawn = exposure.render_on_host(image[None], at)[0] * flux[:, None, None]
        model = image * flux[:, None, None]
        if f"moved/{number}" in record.arrays:
            moved = record.arrays[f"moved/{number}"]
            gradient = record.arrays["gradient"][number][:, None, None]
            drawn = drawn + exposure.render_on_host(moved[None], at)[0] * gradient
            model = model + moved * gradient
        first = corner - kernels.size // 2
        # In the light of the field a source ends with the window of its scene.
        held = _within(first, whole, record.facts["window"], self.field.shape)
        others = self.model(int(first[0]), int(first[1]), whole, whole) - drawn * held
        corners = [(int(c[0]), int(c[1])) for c in (corner, first)]
        return Source(str(id), image, corners[0], flux, model, drawn, corners[1], others)

    def _mending(self, id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return sky and factors of errors ``[B]`` with which the scene of a source was fitted."""
        arrays = self._record(id).arrays
        return arrays["sky"], arrays["noise"]

    def _record(self, id: str) -> Record:
        """Return the record of the scene of a source."""
        if str(id) not in self._rows:
            raise InputError(
                f"the field has no source {str(id)!r}; see the column id of the catalog."
            )
        row = self._rows[str(id)]
        place = self._places[int(self.catalog["scene"][row])]
        if not place.part.exists():
            raise InputError(
                f"the files of the field are gone: there is no {place.part}; deblend it again."
            )
        return read_part(place.part)[place.number]

    def scene(
        self,
        id: str,
        *,
        prior: ScorePrior | str | Sequence[ScorePrior | str] | None = None,
        key=None,
        progress: Progress = False,
        **options: Any,
    ) -> Deblended:
        """Return the scene of a source, fitted again, for all that is done with single scenes.

        Parameters
        ----------
        id
            Name of the source.
        prior, key, progress
            Arguments of `deblend`; the prior is that of the field if not given.
        **options
            Options of `deblend` in place of those of the field, as ``models="free-form"`` for
            `diagnose`.  `padding` is 1 if not given: programs of this scene alone, and faster draws.

        Returns
        -------
        Deblended
            Result for the sources of its scene: `observation` is the window of the scene (``row``,
            ``column`` and ``size`` in `scenes`) without the light of all others, and positions are
            pixels of this window.  With the options of the field its fluxes are those of the catalog
            up to the tolerance of the fits.

        Raises
        ------
        InputError
            If there is no such source, its scene has no data, or the files of the field are gone.
        """
        settings = settings_again(
            self._settings or self.facts["settings"], self.field.pixel_scale, prior, options
        )
        work = Work(self.field, settings, key)
        return scene_again(work, self._record(id), progress=progress)

    def shapes(self) -> dict[str, tuple[np.ndarray, np.ndarray, float | None]]:
        """Return the shapes of all sources that have data, by their names.

        Each is an image ``[n, n]`` at the model's resolution with a sum of one, the row and column
        of its first pixel in the field, and the standard deviation in pixels of the PSF in it
        (None for none).
        """
        found = {}
        numbers: dict[Path, list[int]] = {}
        for place in self._places:
            numbers.setdefault(place.part, []).append(place.number)
        for part, members in numbers.items():
            records = read_part(part, lambda name: name.startswith(("image/", "corner/")))
            for one in members:
                record = records[one]
                for number, name in enumerate(record.facts["ids"]):
                    if f"image/{number}" in record.arrays:
                        image, corner = (
                            record.arrays[f"{n}/{number}"] for n in ("image", "corner")
                        )
                        found[str(name)] = (image, corner, record.facts["psf_sigma"])
        return found


def save(folder: Path, result: FieldResult) -> None:
    """Write into the folder of a run what `load` needs beside its parts."""
    tables = {"catalog": result.catalog, "scenes": result.scenes}
    arrays = {"number": np.array([place.number for place in result._places])}
    if result.field.correlation is not None:
        arrays["correlation"] = np.asarray(result.field.correlation)
    if result._tiles is not None:
        arrays |= {f"tiles/{name}": value for name, value in result._tiles._asdict().items()}
    facts: dict[str, Any] = {
        "parts": [str(place.part.relative_to(folder)) for place in result._places],
        "light": result._light.path.name,
    }
    for kind, table in tables.items():
        facts[kind] = [
            {
                "name": name,
                "unit": None if table[name].unit is None else str(table[name].unit),
                "description": table[name].info.description,
            }
            for name in table.colnames
        ]
        columns = (np.asarray(getattr(table[n], "value", table[n])) for n in table.colnames)
        arrays |= {f"{kind}/{number}": column for number, column in enumerate(columns)}
    write_archive(folder / _NAME, arrays, facts, kind=_KIND, version=_VERSION)


def load(folder: Path, field: Any, facts: dict[str, Any]) -> FieldResult:
    """Read a finished run."""
    mend = "resume the run, or begin it anew with --force"
    arrays, found = read_archive(folder / _NAME, kind=_KIND, version=_VERSION, mend=mend)
    if field.correlation is None and "correlation" in arrays:
        # It may have been an option of the run.
        field = replace(field, correlation=arrays["correlation"])
    numbers = arrays["number"].tolist()
    places = [Place(folder / p, n) for p, n in zip(found["parts"], numbers, strict=True)]
    light = Light(folder / found["light"], len(field.bands), field.shape)
    if not light.is_there:
        raise InputError(f"there is no {light.path}: {mend}.")
    catalog, scenes = QTable(), Table()
    _fill(catalog, "catalog", arrays, found)
    _fill(scenes, "scenes", arrays, found)
    mending = None
    if "tiles/sky" in arrays:
        mending = TileMending(arrays["tiles/sky"], arrays["tiles/noise"])
    return FieldResult(field, catalog, scenes, facts, light, tuple(places), _tiles=mending)


def load_scenes(folder: Path) -> Table | None:
    """Return the scenes of a finished run without its image; None if there is no such run."""
    if not (folder / _NAME).is_file():
        return None
    mend = "begin the run anew with --force"
    scenes = Table()
    arrays, found = read_archive(
        folder / _NAME,
        kind=_KIND,
        version=_VERSION,
        mend=mend,
        only=lambda name: name.startswith("scenes/"),
    )
    _fill(scenes, "scenes", arrays, found)
    return scenes


def _fill(table: Table, kind: str, arrays: dict[str, np.ndarray], found: dict[str, Any]) -> None:
    """Put into a table the columns that `save` wrote of it."""
    for number, about in enumerate(found[kind]):
        values = arrays[f"{kind}/{number}"]
        unit = about["unit"]
        table[about["name"]] = values if unit is None else values * u.Unit(unit)
        table[about["name"]].info.description = about["description"]


def collect(
    field: Any,
    census: Census,
    scenes: Sequence[SceneTask],
    rounds: Sequence[int],
    groups: np.ndarray,
    unsettled: Sequence[int],
) -> tuple[QTable, Table, dict[str, Any], tuple[Place, ...]]:
    """Collect the records of scenes.

    Parameters
    ----------
    field
        The field.
    census
        Its sources, which set the order of rows.
    scenes, rounds
        Scenes with their last records, and how often each was fitted.
    groups
        Number of the group of every source, ``[N]``.
    unsettled
        Numbers of the scenes whose neighbors' light changed after their last fit.

    Returns
    -------
    catalog, scenes, facts, places
        See `FieldResult`; facts are ``doubts``, ``scene_doubts`` (numbers of scenes by code),
        ``notes`` (of single scenes), ``noise_from_model`` and ``psf_change`` (`change_facts`).
    """
    records = _records(scenes)
    if all(np.isnan(record.arrays["spectrum"]).all() for record in records):
        said = next((r.facts["failed"] for r in records if r.facts.get("failed")), None)
        why = (
            "no source of the field has any data"
            if said is None
            else f"no scene can be fitted: {said}"
        )
        raise InputError(f"{why.rstrip('.')}; compare the places of the sources with the image.")
    ids = [name for record in records for name in record.facts["ids"]]
    order = _order(ids, census.ids)
    table = QTable()
    units, texts = ({k: v for r in records for k, v in r.facts[n].items()} for n in _ABOUT)
    for key in _columns(records):
        name = key.removeprefix("column/")
        values = np.concatenate([_column(record, key) for record in records])[order]
        table[name] = values * u.Unit(units[name]) if name in units else values
        table[name].info.description = texts[name] or _text(name, field.bands)
    covariance = np.concatenate([r.arrays["center_covariance"] for r in records])[order]
    scene = np.repeat(np.arange(len(records)), [len(r.facts["ids"]) for r in records])[order]
    windows = np.array([r.facts["window"] for r in records])[scene]
    _mark_edges(table, windows, field.shape)
    _mark(table, "unsettled", np.isin(scene, unsettled))
    if field.wcs is not None:
        found = sky_columns(np.asarray(table["y"]), np.asarray(table["x"]), covariance, field.wcs)
        after = table.colnames.index("y_err") + 1
        for number, (name, values) in enumerate(found.items()):
            table.add_column(values, name=name, index=after + number)
            table[name].info.description = description(name, field.bands)
    for name, values, text in (
        ("scene", scene, "number of the scene that it was fitted in"),
        ("group", groups, "number of its group: sources whose scenes hold light of each other"),
        ("added", census.added, "whether it was found in what a first fit left"),
        ("p_star", census.p_star, "probability that it is a star, by the evidence of both models"),
        (
            "evidence",
            census.evidence,
            "log evidence for the source against none at its place, nats",
        ),
    ):
        table[name] = values
        table[name].info.description = text
    rows = Table(
        {
            "scene": np.arange(len(records)),
            "row": [r.facts["window"][0] for r in records],
            "column": [r.facts["window"][1] for r in records],
            "size": [r.facts["window"][2] for r in records],
            "num_sources": [len(r.facts["ids"]) for r in records],
            "round": list(rounds),
            "settled": ~np.isin(np.arange(len(records)), unsettled),
            "converged": [r.facts["converged"] for r in records],
            "chi2": [r.facts["chi2"] for r in records],
            "seconds": [r.facts["seconds"] for r in records],
            "down_weighted": [r.facts["down_weighted"] for r in records],
        }
    )
    failed = [r.facts for r in records if r.facts.get("failed")]
    said, counts = _doubts(records, given=bool(census.given.any()))
    if failed:
        row, column, size = failed[0]["window"]
        said["failed"] = (
            f"{len(failed)} of {len(records)} scenes could not be fitted, first that of {size} x {size} "
            f"pixels from row {row}, column {column} ({failed[0]['failed']}); their sources have no flux "
            "and the flag not_converged."
        )
    if unsettled and len(unsettled) >= MANY * len(records):
        said["unsettled"] = (
            f"in {len(unsettled)} of {len(records)} scenes the light of neighbors still changed after the "
            "last fit, by what moves the flux of a point by a fifth of its error and more (flag unsettled)."
        )
    facts = {
        "doubts": said,
        "scene_doubts": counts,
        "failed": len(failed),
        "notes": _notes(records),
        "noise_from_model": sorted({b for r in records for b in r.facts["noise_from_model"]}),
        "psf_change": change_facts([r.facts["psf_change"] for r in records], field.bands),
    }
    return table, rows, facts, tuple(_place(scene) for scene in scenes)


#: Beginnings of the names of arrays that become columns.
_COLUMNS = ("column/", "center_covariance", "spectrum")


def _text(name: str, bands: Sequence[str]) -> str | None:
    """Return the description of a column that no scene describes."""
    return None if name in ("flags", "flag_bits") else description(name, bands)


#: Facts of a record about its columns.
_ABOUT = ("units", "descriptions")


def _columns(records: Sequence[Record]) -> list[str]:
    """Return the names of the columns that any scene has, in the order of the longest list."""
    each = [[n for n in record.arrays if n.startswith("column/")] for record in records]
    names = dict.fromkeys(each[int(np.argmax([len(some) for some in each]))])
    return list(names | dict.fromkeys(name for some in each for name in some))


def _column(record: Record, key: str) -> np.ndarray:
    """Return the values of a column; NaN where the kinds of a scene's sources don't have it."""
    return record.arrays.get(key, np.full(len(record.facts["ids"]), np.nan))


def _within(first: np.ndarray, side: int, window: Sequence[int], shape) -> np.ndarray:
    """Return which pixels ``[side, side]`` from `first` on are in a window and in the field."""
    each = []
    for start, low, length in zip(first, window[:2], shape, strict=True):
        at = start + np.arange(side)
        each.append((at >= max(low, 0)) & (at < min(low + window[2], length)))
    return np.outer(*each)


def _mark_edges(table: QTable, windows: np.ndarray, shape: tuple[int, int]) -> None:
    """Make the flag ``edge`` that of the field's border: windows ``[N, 3]`` end within it."""
    place = np.stack([np.asarray(table["y"]), np.asarray(table["x"])], axis=1)
    distance = np.minimum(place, np.array(shape) - 1 - place).min(1)
    last = windows[:, :2] + windows[:, 2:]
    at_border = ((windows[:, :2] <= 0) | (last >= np.array(shape))).any(1)
    has = np.asarray(table["flag_bits"]) & FLAGS["edge"].value != 0
    _mark(table, "edge", (distance < EDGE) | (has & at_border))


def _mark(table: QTable, word: str, sources: np.ndarray) -> None:
    """Give a flag to the sources of a mask ``[N]``, and take it from all others."""
    bits, words = np.asarray(table["flag_bits"]).copy(), [str(w) for w in table["flags"]]
    value = FLAGS[word].value
    for k in np.flatnonzero((bits & value != 0) != sources):
        bits[k] = (bits[k] & ~value) | (value if sources[k] else 0)
        words[k] = words_of(int(bits[k]), bands_of(words[k]))
    for name, values in (("flags", words), ("flag_bits", bits)):
        text = table[name].info.description
        table[name] = values
        table[name].info.description = text


def _order(ids: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    rank = {name: k for k, name in enumerate(wanted)}
    return np.argsort([rank[name] for name in ids], kind="stable")


def _place(scene: SceneTask) -> Place:
    assert scene.before is not None
    return scene.before


def _records(scenes: Sequence[SceneTask]) -> list[Record]:
    """Read the records of scenes without their images, each part once."""
    numbers: dict[Path, list[int]] = {}
    for k, scene in enumerate(scenes):
        numbers.setdefault(_place(scene).part, []).append(k)
    found: dict[int, Record] = {}
    for part, members in numbers.items():
        whole = read_part(part, lambda name: name.startswith(_COLUMNS))
        found |= {k: whole[_place(scenes[k]).number] for k in members}
    return [found[k] for k in range(len(scenes))]


def _notes(records: Sequence[Record]) -> list[str]:
    """Return what scenes note, each sentence once, the most frequent first; of many the first few."""
    # Parts of an earlier version have none.
    said = Counter(one for r in records for one in r.facts.get("notes", ()))
    out = [sentence for sentence, _ in said.most_common(MOST_NOTES)]
    left = len(said) - len(out)
    return [*out, f"{left} more notes are of single scenes."] if left else out


def _doubts(records: Sequence[Record], *, given: bool) -> tuple[dict[str, str], dict[str, int]]:
    """Return sentences by code on what many scenes say, the first of theirs; and all counts.

    Positions that nobody gave are no reason for a doubt.
    """
    out, counts = {}, {}
    for code in sorted({code for r in records for code in r.facts["doubts"]}):
        said = [r for r in records if code in r.facts["doubts"]]
        counts[code] = len(said)
        if len(said) < MANY * len(records) or (code == "misplaced" and not given):
            continue
        row, column, size = said[0].facts["window"]
        where = f"first that of {size} x {size} pixels from row {row}, column {column}"
        many = f"in {len(said)} of {len(records)} scenes, {where}: "
        out[code] = ("" if len(records) == 1 else many) + said[0].facts["doubts"][code]
    return out, counts
