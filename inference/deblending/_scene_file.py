"""Files of deblended scenes: the observation, positions, and site values, under a schema.

Nothing else is stored: exposures, images and fluxes are computed again when it is read, so a
file does not depend on the internals of this package.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from scorepriors._archives import read_archive, write_archive
from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._zoo import lasting_name
from scorepriors.inference._posterior import posterior
from scorepriors.inference._status import FitStatus
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.data._joint import JointObservation, noted
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._views import View
from scorepriors.models.data._warnings import said_before
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.rendering._turned import Turned
from scorepriors.models.scene._blend import blend
from scorepriors.models.scene._exposures import exposures, noise_of
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._kinds import group_facts, group_from
from scorepriors.models.sources._placement import Placement

from ._defaults import MAX_ITERATIONS, TOLERANCE
from ._priors import load_priors
from ._result import Deblended, FittedScene, collect_scene
from ._sky import FittedSky, with_sky
from ._spectra import spectra_of

#: Name of the file in a folder of results.
NAME = "scene.npz"

#: Kind of the archive, and the version of its schema.
KIND, VERSION = "deblended scene", 4

_STAGES = ("free_form", "parametric")
_NUMBERS = ("potential", "gradient_norm", "expected_gain", "seconds")


def save_scene(
    result: Deblended, path: str | Path, *, prior: str | Path | Sequence[str] = ()
) -> None:
    """Write a deblended scene, atomically.

    Parameters
    ----------
    result
        Result of `deblend`.
    path
        File to write, ``.npz``; it contains numbers and text, no code.
    prior
        Names or weight files for loading the priors; their own names if not given.  The
        weights themselves are not stored.

    Notes
    -----
    Facts: ``observations`` (bands, unit, zero point, WCS, place on the grid of the first),
    ``ids``, ``priors``, ``sigma0``, ``seconds``, and for each of ``free_form`` and ``parametric``
    the groups of sources (name, kind, box, settings), the treatment of the spectra, and how the
    fit ended.  Arrays: ``observation/i/...`` (images, weights, psfs,
    correlation), ``positions/...``, and
    ``<stage>/at/<group>/...`` (center, corner, index), ``<stage>/values/<site>`` and
    ``<stage>/params/<site>``.
    """
    given = [str(prior)] if isinstance(prior, str | Path) else list(prior)
    names = given or [str(p.name) for p in result.priors().values()]
    obs, positions = result.observation, result.positions
    stages = _STAGES if result.free_form is not result.parametric else _STAGES[1:]
    facts: dict[str, Any] = {
        "observations": [_view_facts(view) for view in obs.views],
        "unit": None if obs.unit is None else obs.unit.to_string(),
        "zero_point": None if obs.zero_point is None else list(obs.zero_point),
        "ids": list(positions.ids),
        "priors": [lasting_name(name) for name in names],
        "sigma0": result.sigma0,
        "psf_sigma": result.psf_sigma,
        "noise_from_model": list(result.noise_from_model),
        "notes": list(obs.notes),
        "variable": list(result.variable),
        "moving": list(result.moving),
        "timescale": getattr(result.parametric.scene.spectra, "timescale", None),
        # What their site `brightness` holds with a timescale; it meant nothing before.
        "amplitudes": True,
        "sky": None if result.sky is None else result.sky.as_json(),
        "model_error": None
        if result.model_error is None
        else [one.tolist() for one in result.model_error],
        "seconds": {n: float(v) for n, v in result.seconds.items()},
        "max_iterations": int(result.max_iterations),
        "tolerance": float(result.tolerance),
        "stages": {stage: _stage_facts(getattr(result, stage)) for stage in stages},
    }
    arrays: dict[str, Any] = {
        "positions/row_column": positions.row_column,
        "positions/is_point": positions.is_point,
    }
    for i, view in enumerate(obs.views):
        for name in ("images", "weights", "psfs"):
            arrays[f"observation/{i}/{name}"] = getattr(view.observation, name)
        arrays[f"observation/{i}/psfs_of_model"] = view.psfs
        if result.kept is not None:
            arrays[f"observation/{i}/kept"] = np.asarray(result.kept[i], np.float32)
        if view.observation.correlation is not None:
            arrays[f"observation/{i}/correlation"] = view.observation.correlation
    for stage in stages:
        arrays |= _stage_arrays(stage, getattr(result, stage))
    write_archive(path, arrays, facts, kind=KIND, version=VERSION, compressed=True)


def load_scene(
    path: str | Path, *, prior: ScorePrior | Sequence[ScorePrior] | None = None
) -> Deblended:
    """Read a file of `save_scene`.

    Parameters
    ----------
    path
        The file, or the folder of results with it.
    prior
        Priors of the scene; loaded by the names in the file if not given.

    Raises
    ------
    InputError
        If the file is missing, damaged or of another version, or its prior is not found, or for
        a kind of sources whose module is not imported.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise InputError(
            f"there is no {path}: give a folder that `scorepriors deblend` or `sample` wrote."
        )
    arrays, facts = read_archive(path, kind=KIND, version=VERSION, mend="deblend again")
    priors: tuple[ScorePrior, ...] = ()
    if prior is not None:
        priors = load_priors(prior)
    elif facts["priors"]:
        with said_before():  # these names meant what they mean, wherever they are read
            priors = load_priors(facts["priors"], sigma=facts["sigma0"])
    obs = noted(_observation(arrays, facts), facts.get("notes", ()))
    positions = Positions(
        tuple(facts["ids"]), arrays["positions/row_column"], arrays["positions/is_point"]
    )
    sky = FittedSky.from_json(facts.get("sky"))
    found = {
        stage: _stage(stage, arrays, about, obs, priors, facts, path, sky)
        for stage, about in facts["stages"].items()
    }
    kept = [arrays.get(f"observation/{i}/kept") for i in range(len(facts["observations"]))]
    error = facts.get("model_error")
    parametric = found["parametric"]
    free_form = found.get("free_form", parametric)
    return Deblended.of(
        obs,
        positions,
        free_form,
        parametric,
        facts["seconds"],
        facts["psf_sigma"],
        tuple(facts.get("noise_from_model", ())),
        sky,
        None if kept[0] is None else tuple(np.asarray(one) for one in kept),
        None if error is None else tuple(np.array(one) for one in error),
        # Earlier files don't have them.
        facts.get("max_iterations", MAX_ITERATIONS),
        facts.get("tolerance", TOLERANCE),
    )


def _view_facts(view: View) -> dict:
    one = view.observation
    return {
        "bands": list(one.bands),
        "bands_of_model": list(view.bands),
        "unit": None if one.unit is None else one.unit.to_string(),
        "zero_point": None if one.zero_point is None else list(one.zero_point),
        "wcs": None if one.wcs is None else one.wcs.to_header_string(relax=True).rstrip(),
        "name": one.name,
        "pixel_scale": one.scale,
        "time": one.time,
        "origin": list(view.origin),
        "scale": view.scale,
        "first": view.first,
        "turned": None if view.turned is None else view.turned.facts(),
    }


def _observation(arrays: Mapping, facts: Mapping) -> Observation | JointObservation:
    views = []
    for i, about in enumerate(facts["observations"]):
        own = _under(arrays, f"observation/{i}")
        one = Observation.from_arrays(
            own["images"],
            weights=own["weights"],
            psfs=own["psfs"],
            bands=about["bands"],
            wcs=None if about["wcs"] is None else WCS(fits.Header.fromstring(about["wcs"])),
            unit=about["unit"],
            zero_point=about["zero_point"],
            name=about["name"],
            scale=about["pixel_scale"],
            time=about.get("time"),
            correlation=own.get("correlation"),
        )
        bands, origin = tuple(about["bands_of_model"]), tuple(about["origin"])
        turned = about.get("turned")
        views.append(
            View(
                one,
                own["psfs_of_model"],
                bands,
                origin,
                about["scale"],
                about["first"],
                None if turned is None else Turned.of(turned),
            )
        )
    if len(views) == 1:
        return views[0].observation
    zero_point = facts["zero_point"]
    return JointObservation(
        tuple(views),
        tuple(band for view in views for band in view.bands),
        None if zero_point is None else tuple(zero_point),
        views[0].observation.unit if zero_point is None else None,
    )


def _under(arrays: Mapping, label: str) -> dict:
    start = f"{label}/"
    return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}


def _stage_facts(found: FittedScene) -> dict:
    fit = found.fit
    return {
        "groups": [group_facts(group) for group in found.scene.sources],
        "treatment": found.scene.treatment,
        "status": fit.status.code,
        "num_iterations": int(fit.num_iterations),
        **{name: float(getattr(fit, name)) for name in _NUMBERS},
    }


def _stage_arrays(stage: str, found: FittedScene) -> dict[str, np.ndarray]:
    arrays = {f"{stage}/loss_history": found.fit.loss_history}
    for group in found.scene.sources:
        for name in ("center", "corner", "index"):
            arrays[f"{stage}/at/{group.name}/{name}"] = getattr(group.at, name)
    arrays |= {f"{stage}/values/{n}": value for n, value in found.fit.values.items()}
    arrays |= {f"{stage}/params/{n}": value for n, value in found.fit.params.items()}
    return {name: np.asarray(array) for name, array in arrays.items()}


def _stage(stage, arrays, about, obs, priors, facts, path, sky) -> FittedScene:
    """Return a fitted scene from its groups and site values."""
    own = _under(arrays, stage)
    by_box = {prior.event_shape[-1]: prior for prior in priors}
    groups = []
    for known in about["groups"]:
        place = _under(own, f"at/{known['name']}")
        at = Placement(place["center"], place["corner"], place["index"], int(known["box"]))
        prior = by_box.get(at.box)
        if known["kind"] == "FreeForm" and prior is None:
            raise InputError(
                f"{path} has sources in boxes of {at.box} pixels, and the prior given is for boxes of "
                f"{', '.join(map(str, by_box)) or 'none'}; give the priors of the scene."
            )
        groups.append(group_from(known, at, prior))
    boxes = tuple(group.at.box for group in groups)
    noises = [noise_of(view.observation) for view in obs.views]
    noise = with_sky(noises, obs, None if sky is None else sky.kind)
    seen = exposures(obs, boxes=boxes, psf_sigma=facts["psf_sigma"], noise=noise)
    variable, timescale = facts.get("variable", ()), facts.get("timescale")
    moving = facts.get("moving", ())
    if variable and timescale is not None and not facts.get("amplitudes"):
        raise InputError(
            "the scene has a timescale and was saved before light curves had an amplitude each; deblend again."
        )
    spectra = spectra_of(obs, seen, tuple(facts["ids"]), variable, timescale, moving)
    scene = Scene.of(seen, groups, spectra, about["treatment"])
    params, values = (
        {n: jnp.asarray(a) for n, a in _under(own, which).items()} for which in ("params", "values")
    )
    fit = MAPResult(
        params=params,
        values=values,
        status=FitStatus(about["status"]),
        num_iterations=about["num_iterations"],
        loss_history=own["loss_history"],
        posterior=posterior(blend, scene),
        **{name: about[name] for name in _NUMBERS},
    )
    return collect_scene(scene, fit)
