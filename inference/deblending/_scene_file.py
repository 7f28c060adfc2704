"""A deblended scene in a file: everything that later commands need of it, as plain arrays."""

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._files import atomic_path
from scorepriors.inference._posterior import posterior
from scorepriors.inference._status import FitStatus
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._parts import Part
from scorepriors.models.data._positions import Positions
from scorepriors.models.rendering._rendering import ImageData
from scorepriors.models.scene._blend import blend
from scorepriors.models.sources._sources import Sources

from ._deblend import load_priors
from ._scenes import Deblended, Scene

#: Name of the file in a folder of results.
NAME = "scene.npz"

_VERSION = 3
#: Arguments of `blend` that are groups of sources.
_GROUPS = {"galaxies": 2, "stars": 3, "profiles": 4, "large": 6}
_SCENE_ARRAYS = ("morphology", "convolved", "flux", "flux_error", "source_chi2")
_FIT_ARRAYS = ("loss_history",)
_FIT_NUMBERS = ("potential", "gradient_norm", "expected_gain")


def save_scene(
    result: Deblended, path: str | Path, *, prior: str | Path | Sequence[str] = ()
) -> None:
    """Write a deblended scene, whole or not at all.

    Parameters
    ----------
    result
        From `deblend`.
    path
        File to write, ``.npz``; it holds numbers and text, no code.
    prior
        Names or weight files to load the priors by; their own names if not given.  The
        weights themselves are not stored.
    """
    given = [str(prior)] if isinstance(prior, str | Path) else list(prior)
    names = given or [str(p.name) for p in (result.prior, result.large_prior) if p]
    obs, positions = result.observation, result.positions
    arrays: dict = {
        "images": obs.images,
        "weights": obs.weights,
        "psfs": obs.psfs,
        "row_column": positions.row_column,
        "is_point": positions.is_point,
        "center": result.center,
        "is_large": result.kinds == "large",
    }
    facts = {
        "version": _VERSION,
        "priors": [_reference(name) for name in names],
        "sigma0": float(result.prior.sigma),
        "bands": list(obs.bands),
        "name": obs.name,
        "unit": None if obs.unit is None else obs.unit.to_string(),
        "zero_point": None if obs.zero_point is None else list(obs.zero_point),
        "wcs": _header(obs.wcs),
        "scale": obs.scale,
        "parts": [_part_facts(part) for part in obs.parts] if len(obs.parts) > 1 else [],
        "ids": list(positions.ids),
        "seconds": {n: float(v) for n, v in result.seconds.items()},
        "profile": sorted(result.profile),
    }
    arrays |= {f"profile/{name}": value for name, value in result.profile.items()}
    for label, scene in (("free_form", result.free_form), ("parametric", result.parametric)):
        facts[label] = _scene_facts(scene)
        arrays |= {f"{label}/{name}": array for name, array in _scene_arrays(scene).items()}
    arrays["facts"] = np.asarray(json.dumps(facts))
    path = Path(path)
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_scene(
    path: str | Path, *, prior: ScorePrior | Sequence[ScorePrior] | None = None
) -> Deblended:
    """Read what `save_scene` wrote.

    Parameters
    ----------
    path
        The file, or the folder of results it is in.
    prior
        The priors of the scene; loaded by the names in the file if not given.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another version, or its prior is not found.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise InputError(
            f"there is no {path}: give a folder that `scorepriors deblend` or `sample` wrote."
        )
    try:
        # Opened here: NumPy leaves the file open if it is damaged.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(str(arrays.pop("facts")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or no scene: {error}; deblend again.") from error
    if facts.get("version") != _VERSION:
        raise InputError(f"{path} is of another version of this package; deblend again.")
    if prior is None:
        priors = load_priors(facts["priors"], sigma=facts["sigma0"])
    else:
        priors = load_priors(prior)
    is_large = arrays["is_large"]
    if is_large.any() and len(priors) < 2:
        raise InputError(
            f"{path} has sources in boxes of two sizes; give the priors of both, not only "
            f"{priors[0].name}."
        )
    obs = Observation.from_arrays(
        arrays["images"],
        weights=arrays["weights"],
        psfs=arrays["psfs"],
        bands=facts["bands"],
        wcs=_wcs(facts["wcs"]),
        unit=facts["unit"],
        zero_point=facts["zero_point"],
        name=facts["name"],
        scale=facts.get("scale"),
    )
    if facts.get("parts"):
        obs = dataclasses.replace(obs, parts=tuple(map(_part, facts["parts"])))
    positions = Positions(tuple(facts["ids"]), arrays["row_column"], arrays["is_point"])
    free_form, parametric = (
        _scene(_under(arrays, label), facts[label], priors) for label in ("free_form", "parametric")
    )
    profile = {name: arrays[f"profile/{name}"] for name in facts["profile"]}
    return Deblended(
        obs,
        positions,
        priors[0],
        free_form,
        parametric,
        arrays["center"],
        profile,
        facts["seconds"],
        priors[1] if is_large.any() else None,
        is_large,
    )


def _header(wcs: WCS | None) -> str | None:
    return None if wcs is None else wcs.to_header_string(relax=True).rstrip()


def _wcs(header: str | None) -> WCS | None:
    return None if header is None else WCS(fits.Header.fromstring(header))


def _part_facts(part: Part) -> dict:
    facts = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return facts | {"wcs": _header(part.wcs)}


def _part(facts: dict) -> Part:
    pairs = {name: tuple(facts[name]) for name in ("origin", "shape")}
    return Part(**{**facts, **pairs, "wcs": _wcs(facts["wcs"])})


def _reference(prior: str) -> str:
    """What the prior is found by from any folder."""
    return str(Path(prior).resolve()) if Path(prior).is_file() else prior


def _under(arrays: dict, label: str) -> dict:
    start = f"{label}/"
    return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}


def _scene_facts(scene: Scene) -> dict:
    fit = scene.fit
    keywords = fit.posterior.arguments[1]
    data = fit.posterior.arguments[0][0]
    return {
        "chi2": scene.chi2,
        "status": fit.status.code,
        "num_iterations": int(fit.num_iterations),
        "seconds": float(fit.seconds),
        "numbers": {name: float(getattr(fit, name)) for name in _FIT_NUMBERS},
        "keywords": {n: v if isinstance(v, str) else float(v) for n, v in keywords.items()},
        "whole": [n for n, v in keywords.items() if isinstance(v, int)],
        "kernel_size": data.kernel_size,
        "grid": data.grid,
        "wide_grid": data.wide_grid,
        "has_prior": fit.posterior.arguments[0][1] is not None,
    }


def _scene_arrays(scene: Scene) -> dict:
    """Pictures, and what rebuilds the fit: data, places of the sources, site values."""
    fit = scene.fit
    arguments = fit.posterior.arguments[0]
    data = arguments[0]
    groups = {n: arguments[i] for n, i in _GROUPS.items() if i < len(arguments)}
    arrays = {name: getattr(scene, name) for name in _SCENE_ARRAYS}
    arrays |= {name: getattr(fit, name) for name in _FIT_ARRAYS}
    names = [f.name for f in dataclasses.fields(data) if not f.metadata.get("static")]
    leaves = {name: getattr(data, name) for name in names}
    arrays |= {f"data/{name}": leaf for name, leaf in leaves.items() if leaf is not None}
    for name, group in groups.items():
        if group is not None:
            arrays |= {
                f"groups/{name}/{f}": getattr(group, f) for f in ("center", "corner", "mask")
            }
    arrays |= {f"values/{name}": value for name, value in fit.values.items()}
    arrays |= {f"params/{name}": value for name, value in fit.params.items()}
    return {name: np.asarray(array) for name, array in arrays.items()}


def _scene(arrays: dict, facts: dict, priors: Sequence[ScorePrior]) -> Scene:
    groups = {
        name: Sources(*(jnp.asarray(part[f]) for f in ("center", "corner", "mask")))
        for name in _GROUPS
        if (part := _under(arrays, f"groups/{name}"))
    }
    leaves = _under(arrays, "data")
    names = [f.name for f in dataclasses.fields(ImageData) if not f.metadata.get("static")]
    data = ImageData(
        **{name: jnp.asarray(leaves[name]) for name in names if name in leaves},
        kernel_size=facts["kernel_size"],
        grid=facts["grid"],
        wide_grid=facts["wide_grid"],
    )
    keywords = {n: int(v) if n in facts["whole"] else v for n, v in facts["keywords"].items()}
    large = groups.get("large")
    bound = posterior(
        blend,
        data,
        priors[0] if facts["has_prior"] else None,
        *(groups.get(n) for n in ("galaxies", "stars", "profiles")),
        None if large is None else priors[1],
        large,
        model_kwargs=keywords,
    )
    params, values = (
        {n: jnp.asarray(a) for n, a in _under(arrays, which).items()}
        for which in ("params", "values")
    )
    fit = MAPResult(
        params=params,
        values=values,
        status=FitStatus(facts["status"]),
        num_iterations=facts["num_iterations"],
        loss_history=arrays["loss_history"],
        seconds=facts["seconds"],
        posterior=bound,
        **facts["numbers"],
    )
    return Scene(chi2=facts["chi2"], fit=fit, **{n: arrays[n] for n in _SCENE_ARRAYS})
