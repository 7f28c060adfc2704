"""Training recipes: small TOML files, checked before anything is computed."""

import dataclasses
import json
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scorepriors._addresses import is_address
from scorepriors._defaults import NUM_MODES, SCALE, SIGMA0, SIGMA_MAX, SOFTENING
from scorepriors._errors import InputError
from scorepriors._surveys import PIXEL_SCALES

#: Names of the built-in sets.
POPULATIONS = tuple(PIXEL_SCALES)

#: Endings of files of weights.
_WEIGHTS = (".safetensors", ".eqx")


@dataclass(frozen=True)
class DataRecipe:
    """The training images: a `set` (built in), a `path` (the user's own), or `noisy` stamps."""

    set: str | None = None
    path: str | None = None
    #: File of stamps as observed, with noise and PSFs; galaxies are learned from them in rounds.
    noisy: str | None = None
    #: Population from which that begins: a trained prior (name or file) or a built-in set.
    start: str | None = None
    box: int = 32
    num_images: int = 44_000
    num_held_out: int = 2_000
    seed: int = 0
    #: Arcsec per pixel of the user's own images, and standard deviation in pixels of
    #: their Gaussian PSF.  Without the latter they count as not convolved at all.
    pixel_scale: float | None = None
    model_psf_sigma: float | None = None


@dataclass(frozen=True)
class StretchRecipe:
    """The logarithmic stretch ``z = log(1 + x / softening) / scale``."""

    softening: float = SOFTENING
    scale: float = SCALE


@dataclass(frozen=True)
class NetworkRecipe:
    """Size of the network: principal modes seen, width, inner width, blocks."""

    modes: int = NUM_MODES
    width: int = 256
    inner: int = 512
    depth: int = 6


@dataclass(frozen=True)
class TrainingRecipe:
    """Optimization by Adam on denoising score matching."""

    steps: int = 40_000
    batch: int = 128
    learning_rate: float = 4e-3
    warmup: int = 1_000
    clip: float = 1.0
    ema: float = 0.9995
    sigma_min: float = 0.025
    sigma_max: float = SIGMA_MAX
    seed: int = 0
    block: int = 100
    devices: int = 1


@dataclass(frozen=True)
class ConfinementRecipe:
    """A wall around the region where the energy was learned (`scorepriors.Confined`)."""

    #: Training steps of the wall; zero leaves it out.
    steps: int = 0
    batch: int = 256
    learning_rate: float = 2e-3
    #: Sizes: codes of the bottleneck, width of the decoder, reach of the correction.
    codes: int = 32
    width: int = 192
    reach: float = 5.0
    #: Largest ratio of the noise of half the training images to the level given to the wall.
    wide_factor: float = 3.0
    #: Share of noisy training images that are inside; the wall begins a tenth further out.
    inside: float = 1.0


@dataclass(frozen=True)
class RoundsRecipe:
    """Rounds of learning from noisy stamps: clean galaxies are drawn, and learned from."""

    #: Rounds in all; the galaxies drawn in the last one train the prior.
    number: int = 6
    #: Galaxies of the start are magnified by random factors up to this, and down to one over it.
    #: One takes a prior as it is, network included.
    widen: float = 2.0
    #: The first rounds, in which only mean and covariance are learned, and no network.
    gaussian: int = 0
    #: Training steps between two rounds.
    steps: int = 6_000
    #: Noise levels of a chain, and its transitions at each.
    levels: int = 14
    transitions: int = 2
    #: Stamps drawn at a time.
    batch: int = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a set of trained weights."""

    name: str
    sigma0: float = SIGMA0
    license: str = "MIT"
    description: str = ""
    data: DataRecipe = field(default_factory=DataRecipe)
    stretch: StretchRecipe = field(default_factory=StretchRecipe)
    network: NetworkRecipe = field(default_factory=NetworkRecipe)
    training: TrainingRecipe = field(default_factory=TrainingRecipe)
    confinement: ConfinementRecipe = field(default_factory=ConfinementRecipe)
    rounds: RoundsRecipe = field(default_factory=RoundsRecipe)

    def as_dict(self) -> dict:
        """Return a plain nested dictionary, for metadata.

        Without noisy stamps it has no word on them, so that older versions read what is written.
        """
        described = dataclasses.asdict(self)
        if self.data.noisy is None:
            del described["rounds"]
            for name in ("noisy", "start"):
                if described["data"][name] is None:
                    del described["data"][name]
        return described


def read_recipe(path: str | Path, *, noisy: str | Path | None = None) -> Recipe:
    """Read and check a TOML recipe.

    Parameters
    ----------
    path
        The file.
    noisy
        File of stamps for a recipe whose [data] table names no images: `data.noisy`.

    Raises
    ------
    InputError
        For an unreadable file, an unknown key, a wrong type or an impossible value;
        the message names the key.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text())
    except IsADirectoryError as error:
        raise InputError(f"{str(path)!r} is a folder; give the recipe's TOML file.") from error
    except OSError as error:
        raise InputError(f"cannot read the recipe {str(path)!r}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is not valid TOML: {error}.") from error
    recipe = _fill(Recipe, table, "")
    if noisy is not None:
        if recipe.data.noisy is not None:
            raise InputError(
                f"{path.name} names stamps itself, as `data.noisy`; leave out that or the others."
            )
        named = dataclasses.replace(recipe.data, noisy=str(Path(noisy).absolute()))
        recipe = dataclasses.replace(recipe, data=named)
    data = recipe.data
    if (data.set, data.path, data.noisy).count(None) != 2:
        raise InputError(
            f"[data] needs one of `set` ({', '.join(POPULATIONS)}), `path` and `noisy`, and no two."
        )
    if (data.start is None) != (data.noisy is None):
        raise InputError(
            "`data.start`, a prior or a built-in set, is where learning from the stamps of "
            "`data.noisy` begins: give both or neither."
        )
    if data.set is not None and (data.pixel_scale or data.model_psf_sigma):
        raise InputError(
            "`data.pixel_scale` and `data.model_psf_sigma` describe images of your own; "
            f"those of the set {data.set!r} are known, so leave them out."
        )
    if data.path is not None:  # relative to the recipe, not to the working directory
        moved = dataclasses.replace(data, path=str(path.parent / data.path))
        recipe = dataclasses.replace(recipe, data=moved)
    if data.noisy is not None:
        changes = {"noisy": str(path.parent / data.noisy)}
        if data.start is not None and _is_path(data.start):
            # Absolute: `./lsst-32` is a folder, and `lsst-32` would be a shipped prior.
            changes["start"] = str((path.parent / data.start).absolute())
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(data, **changes))
    _check(recipe)
    return recipe


def _is_path(start: str) -> bool:
    """Return whether a start is a file or folder: no address, no name of a prior or of a set."""
    has_folder = Path(start).name != start
    return not is_address(start) and (has_folder or start.endswith(_WEIGHTS))


def without_folders(recipe: Recipe) -> Recipe:
    """Return a recipe that names the user's files, and not the folders that they are in.

    Where they lay is nobody else's business, and says nothing on another machine.
    """
    data = recipe.data
    changes: dict[str, Any] = {
        n: Path(v).name for n in ("path", "noisy") if (v := getattr(data, n))
    }
    if data.start is not None and _is_path(data.start):
        name = Path(data.start).name
        # A folder may have the name of a shipped prior.
        changes["start"] = name if name.endswith(_WEIGHTS) else f"./{name}"
    return dataclasses.replace(recipe, data=dataclasses.replace(data, **changes))


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as TOML, all keys written out; of the user's files only their names."""
    lines, tables = [], []
    for key, value in without_folders(recipe).as_dict().items():
        if isinstance(value, dict):
            told = {name: one for name, one in value.items() if one is not None}
            tables += ["", f"[{key}]", *(f"{name} = {_toml(one)}" for name, one in told.items())]
        else:
            lines.append(f"{key} = {_toml(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def _toml(value: str | int | float) -> str:
    # Strings of JSON are strings of TOML, where DEL must be escaped too.
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def recipe_from_dict(table: dict) -> Recipe:
    """Rebuild a recipe from `Recipe.as_dict`.

    Raises
    ------
    InputError
        For an unknown key, a wrong type, or a name that cannot be that of a file.
    """
    return _fill(Recipe, {k: v for k, v in table.items() if v is not None}, "")


def _fill(kind, table: dict, prefix: str):
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for key, value in table.items():
        # Weights and recipes of versions before 0.2 have the British spelling.
        key = "license" if key == "licence" and not prefix else key
        if key not in fields:
            raise InputError(
                f"unknown key `{prefix}{key}` in the recipe; known are {', '.join(fields)}."
            )
        nested = {
            "data": DataRecipe,
            "stretch": StretchRecipe,
            "network": NetworkRecipe,
            "training": TrainingRecipe,
            "confinement": ConfinementRecipe,
            "rounds": RoundsRecipe,
        }.get(key if not prefix else "")
        if nested is not None:
            if not isinstance(value, dict):
                raise InputError(f"`{key}` in the recipe must be a table, [{key}].")
            values[key] = _fill(nested, value, f"{key}.")
            continue
        wanted: Any = fields[key].type
        if wanted == float | None:
            wanted = float
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        allowed = {int: int, float: float, str: str}.get(wanted, str)
        if value is not None and (not isinstance(value, allowed) or isinstance(value, bool)):
            raise InputError(
                f"`{prefix}{key}` in the recipe must be {allowed.__name__}, got {value!r}."
            )
        values[key] = value
    if kind is Recipe and not values.get("name"):
        raise InputError("the recipe needs a `name` for the prior.")
    if kind is Recipe:
        _check_name(values["name"])
    return kind(**values)


def _check_name(name: str) -> None:
    """Raise InputError for a name that could lead out of a folder or break a line of a list.

    Files and folders are called by it, and it may come from a file of somebody else.
    """
    if name.startswith(".") or set(name) & set("/\\") or not name.isprintable():
        raise InputError(
            "`name` in the recipe names files; leave slashes, dots at its beginning and line breaks "
            f"out of {name!r}."
        )


def _check(recipe: Recipe) -> None:
    t, d, c = recipe.training, recipe.data, recipe.confinement
    positive: dict[str, float | None] = {
        "data.box": d.box,
        "data.num_images": d.num_images,
        "data.num_held_out": d.num_held_out,
        "stretch.softening": recipe.stretch.softening,
        "stretch.scale": recipe.stretch.scale,
        "network.modes": recipe.network.modes,
        "network.width": recipe.network.width,
        "network.inner": recipe.network.inner,
        "network.depth": recipe.network.depth,
        "training.steps": t.steps,
        "training.batch": t.batch,
        "training.block": t.block,
        "training.learning_rate": t.learning_rate,
        "training.sigma_min": t.sigma_min,
        "training.devices": t.devices,
        "training.clip": t.clip,
        "sigma0": recipe.sigma0,
        "confinement.batch": c.batch,
        "confinement.learning_rate": c.learning_rate,
        "confinement.codes": c.codes,
        "confinement.width": c.width,
        "confinement.reach": c.reach,
        "rounds.number": recipe.rounds.number,
        "rounds.steps": recipe.rounds.steps,
        "rounds.transitions": recipe.rounds.transitions,
        "rounds.batch": recipe.rounds.batch,
    }
    positive["data.pixel_scale"] = d.pixel_scale
    positive["data.model_psf_sigma"] = d.model_psf_sigma
    for name, value in positive.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InputError(f"`{name}` in the recipe must be positive, got {value}.")
    not_negative = {
        "data.seed": d.seed,
        "training.seed": t.seed,
        "training.warmup": t.warmup,
        "confinement.steps": c.steps,
        "rounds.gaussian": recipe.rounds.gaussian,
    }
    for name, value in not_negative.items():
        if value < 0:
            raise InputError(f"`{name}` in the recipe must not be negative, got {value}.")
    if not (t.sigma_max > t.sigma_min and math.isfinite(t.sigma_max)):
        raise InputError(
            f"`training.sigma_max` must exceed `training.sigma_min` and be finite, got {t.sigma_max}."
        )
    if not (recipe.rounds.widen >= 1 and math.isfinite(recipe.rounds.widen)):
        raise InputError(f"`rounds.widen` must be at least 1, got {recipe.rounds.widen}.")
    if recipe.rounds.levels < 2:
        raise InputError(f"`rounds.levels` must be at least 2, got {recipe.rounds.levels}.")
    if not c.wide_factor >= 1:
        raise InputError(f"`confinement.wide_factor` must be at least 1, got {c.wide_factor}.")
    if not 0.5 <= c.inside <= 1:
        raise InputError(f"`confinement.inside` must lie in [0.5, 1], got {c.inside}.")
    if not 0 <= t.ema < 1:
        raise InputError(f"`training.ema` must lie in [0, 1), got {t.ema}.")
    if recipe.network.modes > d.box**2:
        raise InputError(
            f"`network.modes` = {recipe.network.modes} exceeds the {d.box**2} pixels of the box."
        )
    if t.batch % t.devices:
        raise InputError(f"`training.batch` = {t.batch} must be a multiple of `training.devices`.")
