"""Trained priors by name, path or address: safetensors weights, checksums, model cards.

A weights file holds arrays and a JSON description, never code.  Loading rebuilds the
network from the description and refuses a file whose digest does not match.  Files of
galaxygrad hold arrays alone (`scorepriors._galaxygrad`).
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from scorepriors.energies._confined import Confined
from scorepriors.energies._wiener import ModeNetwork, WienerEnergy
from scorepriors.training._prior import image_facts, prior_of
from scorepriors.training._recipe import Recipe, recipe_from_dict, without_folders
from scorepriors.training._wall import initial_wall

from . import _galaxygrad as galaxygrad
from ._addresses import checked_sum, compare_sum, is_address, local_copy, sum_of_file
from ._distribution import ScorePrior
from ._errors import InputError
from ._files import atomic_path
from ._surveys import nearest_survey

#: Version of the weights format; files of another version are refused.
FORMAT = 1

#: File of the checksums of shipped weights, and of those in a folder that is shared.
SUMS = "SHA256SUMS"

#: Endings of files of weights: ours, and galaxygrad's.
WEIGHTS, FOREIGN = ".safetensors", galaxygrad.ENDING
ENDINGS = (WEIGHTS, FOREIGN)

#: What the description of weights must have, and kinds of values.
_ENTRIES = {"recipe": dict, "training": dict, "digest": str}


@dataclass(frozen=True)
class PriorInfo:
    """Description of a trained prior, read without loading its weights."""

    name: str
    box: int
    sigma0: float
    pixel_scale: float | None
    description: str
    license: str
    path: Path


def _weights_folder() -> Path:
    return Path(str(files("scorepriors"))) / "weights"


def list_priors() -> list[PriorInfo]:
    """Return the priors shipped with the package, by name.

    Examples
    --------
    >>> [info.name for info in list_priors()]
    ['hsc-32', 'lsst-32', 'lsst-64', 'lsst-irregular-32', 'ztf-32']
    """
    return [prior_info(path) for path in sorted(_weights_folder().glob("*.safetensors"))]


def prior_path(name: str | Path, *, sha256: str | None = None) -> Path:
    """Return the file of a prior: a shipped one, a file, one in a folder, or one at an address.

    Parameters
    ----------
    name
        As for `load_prior`.  What lies at an address is fetched, unless the cache has it.
    sha256
        Checksum of the file.

    Raises
    ------
    InputError
        If there is no such prior, or its checksum is wrong.
    """
    if is_address(name):
        return local_copy(str(name), sha256, endings=ENDINGS)
    wanted = None if sha256 is None else checked_sum(sha256)
    path = _named_path(name)
    if wanted is not None:
        compare_sum(path, wanted)
    return path


def _named_path(name: str | Path) -> Path:
    path = Path(name)
    if path.suffix in ENDINGS:
        if not path.is_file():
            raise InputError(f"no weights file at {str(path)!r}.")
        return path
    if is_shipped(name):
        return _weights_folder() / f"{name}{WEIGHTS}"
    if path.is_dir() and str(name):
        return _path_in_folder(path)
    known = ", ".join(p.stem for p in sorted(_weights_folder().glob(f"*{WEIGHTS}")))
    raise InputError(
        f"unknown prior {str(name)!r}; shipped are {known}, or give a file {WEIGHTS} or {FOREIGN}, a "
        "folder that `scorepriors card` wrote, or an https:// or hf:// address."
    )


def is_shipped(name: str | Path) -> bool:
    """Return whether this is the name of a shipped prior, which it means wherever one is asked for."""
    return Path(name).name == str(name) and (_weights_folder() / f"{name}{WEIGHTS}").is_file()


def hides_a_folder(name: str | Path) -> bool:
    """Return whether a shipped prior is meant by the name of a folder here that shares another one."""
    sums = Path(name) / SUMS
    if not is_shipped(name) or not sums.is_file():
        return False
    return sum_of_file(_named_path(name)) not in sums.read_text(errors="replace")


def lasting_name(name: str | Path) -> str:
    """Return a name, an address or a path by which a prior is found from any folder."""
    if is_address(name) or is_shipped(name) or not Path(name).exists():
        return str(name)
    # Links are kept: what they lead to may have no ending, as in the cache of Hugging Face.
    return str(Path(name).absolute())


def _path_in_folder(folder: Path) -> Path:
    """Return the weights file of a folder that is shared; all that it lists are as listed."""
    if not (folder / SUMS).is_file():
        raise InputError(
            f"the folder {str(folder)!r} has no {SUMS}, as `scorepriors card` writes it; give the "
            "weights file in it."
        )
    sums = _read_sums(folder / SUMS)
    weights = [one for one in sums if one.endswith(ENDINGS)]
    if len(weights) != 1:
        raise InputError(
            f"{folder / SUMS} lists {len(weights)} weights files, where one belongs; give the file."
        )
    for one, wanted in sums.items():
        if not (folder / one).is_file():
            raise InputError(f"the folder {str(folder)!r} lacks {one}, which its {SUMS} lists.")
        compare_sum(folder / one, wanted)
    return folder / weights[0]


def _read_sums(path: Path) -> dict[str, str]:
    """Return checksums by name of the file, from lines as `sha256sum` writes them."""
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
        sums = {name.removeprefix("*"): checked_sum(digest) for digest, name in lines}
    except (OSError, ValueError) as error:  # also a digest that is none, and what is no text
        raise InputError(f"{path} is no list of checksums as `sha256sum` writes it.") from error
    if any(Path(name).name != name for name in sums):
        raise InputError(f"{path} lists files of other folders.")
    return sums


def prior_info(name: str | Path) -> PriorInfo:
    """Return the description of a prior, by anything that `load_prior` takes."""
    path = prior_path(name)
    if path.suffix == FOREIGN:
        box, level = galaxygrad.network_box(path), galaxygrad.default_level()
        return PriorInfo(path.stem, box, level, None, "network of galaxygrad", "unknown", path)
    header = _read_header(path)
    recipe = recipe_from_dict(header["recipe"])
    return PriorInfo(
        recipe.name,
        recipe.data.box,
        recipe.sigma0,
        header.get("pixel_scale"),
        recipe.description,
        recipe.license,
        path,
    )


def priors_for(pixel_scale: float | None) -> tuple[str, ...]:
    """Return names of the shipped priors whose pixels are nearest in size, by growing boxes.

    Priors that are used only if named (`Survey.named_priors`) are not among these.

    Parameters
    ----------
    pixel_scale
        Pixel scale in arcseconds; None, if unknown, gives those for LSST.

    Examples
    --------
    >>> priors_for(1.0), priors_for(0.2), priors_for(None)
    (('ztf-32',), ('lsst-32', 'lsst-64'), ('lsst-32', 'lsst-64'))
    """
    return nearest_survey(pixel_scale).priors


def load_prior(
    name: str | Path, *, sigma: float | None = None, sha256: str | None = None
) -> ScorePrior:
    """Load a trained prior.

    Parameters
    ----------
    name
        A shipped prior (see `list_priors`; a folder of the same name is ``"./NAME"``), the path of a ``.safetensors`` file written by
        `save_prior` or of a ``.eqx`` file of galaxygrad (see `load_galaxygrad`), a folder written
        by ``scorepriors card``, or the address of such a file:
        ``https://...`` or ``hf://OWNER/REPOSITORY/FILE@REVISION``, of Hugging Face.
    sigma
        Noise level sigma0 in the stretched space; the recipe's by default.
    sha256
        Checksum of the file.  An address needs one, here or at its end, ``#sha256=...``: what it
        gives is compared, and kept in a cache, from where it is loaded without network.

    Returns
    -------
    ScorePrior

    Raises
    ------
    InputError
        If the prior is unknown or out of reach, the file is damaged, or its checksum is wrong.

    Examples
    --------
    >>> load_prior("lsst-32", sigma=0.1)
    ScorePrior('lsst-32', 32x32, sigma0=0.1, LogStretch(softening=0.05, scale=0.44))
    """
    path = prior_path(name, sha256=sha256)
    precision = jnp.result_type(float)
    prior = _loaded(path.absolute(), precision, _state(path), _state(path.parent / SUMS))
    return prior if sigma is None else prior.at(sigma)


@lru_cache(maxsize=8)
def _loaded(path: Path, precision, *state) -> ScorePrior:
    """Return the prior of a file in a given state, for the precision of numbers now.

    Reading one takes as long as a fit.
    """
    if path.suffix == FOREIGN:
        with jax.ensure_compile_time_eval():
            return galaxygrad.load_galaxygrad(path)
    header = _read_header(path)
    recipe = recipe_from_dict(header["recipe"])
    arrays = _read_arrays(path, header)
    _verify_shipped(path)
    skeleton = eqx.filter_eval_shape(_skeleton, recipe)
    structure = jax.tree.structure(skeleton)
    names = _leaf_names(skeleton)
    if set(names) != set(arrays):
        raise InputError(f"the weights file {path.name} does not hold the network it describes.")
    facts = {name: header.get(name) for name in ("pixel_scale", "model_psf_sigma")}
    # Kept for later calls: no part may belong to a function that is traced now.
    with jax.ensure_compile_time_eval():
        energy = jax.tree.unflatten(structure, [jnp.asarray(arrays[n], jnp.float32) for n in names])
        return prior_of(energy, recipe, facts)


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with the content of a file; None if there is none."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def save_prior(
    path: str | Path,
    prior: ScorePrior | WienerEnergy | Confined,
    recipe: Recipe,
    *,
    training: dict | None = None,
) -> Path:
    """Write trained weights, the network in half precision, the modes in full.

    Parameters
    ----------
    path
        Target, ending in ``.safetensors``; replaced atomically.
    prior
        The trained prior, or its energy.
    recipe
        Recipe of the training; stretch, noise levels and name are taken from it.
    training
        Facts of the run for the model card (seconds, steps, versions).

    Returns
    -------
    pathlib.Path
        The file of the weights.

    Raises
    ------
    InputError
        If `path` has another ending, under which `load_prior` would not find a file, or if no
        recipe describes such a prior.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"the weights file must end in .safetensors, got {str(path)!r}.")
    energy = prior.energy if isinstance(prior, ScorePrior) else prior
    if not isinstance(energy, WienerEnergy | Confined):
        raise InputError(
            f"`prior` has an energy of kind {type(energy).__name__}, which no recipe describes; "
            "weights files hold what `train` makes."
        )
    leaves = jax.tree.leaves(energy)
    arrays = {}
    for name, leaf in zip(_leaf_names(energy), leaves, strict=True):
        half = name.startswith("network") and "frequencies" not in name
        arrays[name] = np.asarray(leaf, np.float16 if half else np.float32)
    header: dict[str, Any] = {
        "format": FORMAT,
        "recipe": recipe.as_dict(),
        **image_facts(recipe.data),
    }
    header["training"] = training or {}
    _write(path, arrays, header)
    return Path(path)


def _write(path: str | Path, arrays: dict, header: dict) -> None:
    header = header | {"digest": _digest(arrays, header)}
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"scorepriors": json.dumps(header)})


def copy_prior(name: str | Path, path: str | Path) -> None:
    """Copy weights that `save_prior` wrote, without the folders of the user's files in them.

    Raises
    ------
    InputError
        If they are damaged: checksums of the copy would say that they are not.
    """
    source = _own_path(name)
    header = _read_header(source)
    arrays = _read_arrays(source, header)  # with the description as it is
    _verify_shipped(source)
    recipe = recipe_from_dict(header["recipe"])
    named = without_folders(recipe).data
    if named == recipe.data:
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)
        return
    told = {name: getattr(named, name) for name in ("path", "noisy", "start")}
    header["recipe"]["data"] |= {name: one for name, one in told.items() if one is not None}
    _write(path, arrays, header)


def training_facts(name: str | Path) -> dict:
    """Return the facts of the training run stored with the weights."""
    return _read_header(_own_path(name))["training"]


def prior_recipe(name: str | Path) -> Recipe:
    """Return the recipe stored with the weights."""
    return recipe_from_dict(_read_header(_own_path(name))["recipe"])


def _own_path(name: str | Path) -> Path:
    """Return the path of a prior that `save_prior` wrote; only these have a recipe."""
    path = prior_path(name)
    if path.suffix == FOREIGN:
        raise InputError(f"{path.name} is a network of galaxygrad, which comes without a recipe.")
    return path


def _read_header(path: Path) -> dict:
    try:
        with safe_open(path, "np") as handle:
            metadata = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"the weights file {path.name} is damaged: {error}.") from error
    if "scorepriors" not in metadata:
        raise InputError(f"{path.name} holds no scorepriors weights (no description inside).")
    try:
        header = json.loads(metadata["scorepriors"])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is damaged: its description is not JSON.") from error
    if not isinstance(header, dict):
        raise InputError(f"{path.name} is damaged: its description is no table.")
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path.name} has weights format {header.get('format')}, this version reads {FORMAT}."
        )
    for name, kind in _ENTRIES.items():
        if not isinstance(header.get(name), kind):
            raise InputError(f"{path.name} is damaged: its description lacks `{name}`.")
    return header


def _read_arrays(path: Path, header: dict) -> dict[str, np.ndarray]:
    """Return the arrays of a weights file, compared with the digest in its description."""
    with safe_open(path, "np") as handle:
        arrays = {key: handle.get_tensor(key) for key in handle.keys()}
    if _digest(arrays, header) != header["digest"]:
        raise InputError(f"the weights file {path.name} is damaged: its checksum does not match.")
    return arrays


def _verify_shipped(path: Path) -> None:
    """Compare a shipped file with the checksum committed beside it."""
    sums = path.parent / SUMS
    if path.parent.resolve() != _weights_folder().resolve() or not sums.is_file():
        return
    known, actual = _read_sums(sums), sum_of_file(path)
    if known.get(path.name) != actual:
        raise InputError(
            f"the shipped weights {path.name} are damaged: SHA-256 {actual[:12]}..., expected "
            f"{known.get(path.name, 'none')[:12]}...; reinstall scorepriors."
        )


def _skeleton(recipe: Recipe) -> WienerEnergy | Confined:
    net, pixels = recipe.network, recipe.data.box**2
    energy = WienerEnergy(
        jnp.zeros(pixels),
        jnp.zeros((pixels, net.modes)),
        jnp.ones(net.modes),
        jnp.ones(()),
        ModeNetwork(net.modes, net.width, net.inner, net.depth, key=jr.key(0)),
    )
    return Confined(energy, initial_wall(recipe)) if recipe.confinement.steps else energy


def _leaf_names(energy: WienerEnergy | Confined) -> list[str]:
    paths = jax.tree_util.tree_flatten_with_path(energy)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]
    if not isinstance(energy, Confined):
        return names
    # In the format the wall is a part of the energy instead of the other way round.
    return [
        name.removeprefix("energy.") if name.startswith("energy.") else f"confinement{name[4:]}"
        for name in names
    ]


def _digest(arrays: dict, header: dict) -> str:
    described = {k: v for k, v in header.items() if k != "digest"}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
