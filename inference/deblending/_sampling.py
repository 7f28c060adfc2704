"""Draws of the posterior of a deblended scene."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import xarray

from scorepriors._errors import InputError
from scorepriors._moments import centroids, shapes
from scorepriors._programs import make_room_for_programs
from scorepriors.inference._posterior import posterior
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.inference.sampling._abstract import AbstractSampler
from scorepriors.inference.sampling._algorithms import OWN, DynamicHMC, sampler_of
from scorepriors.inference.sampling._collect import Keep
from scorepriors.inference.sampling._diagnostics import SamplingWarning
from scorepriors.inference.sampling._labels import lay_out
from scorepriors.inference.sampling._laplace import laplace
from scorepriors.inference.sampling._sample import judge, sample
from scorepriors.inference.sampling._tree import group, group_names, replace_group
from scorepriors.models.scene._blend import blend
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._kinds import group_facts

from ._doubts import doubts
from ._draws import source_draws
from ._light_curves import epoch_facts
from ._notes import notes
from ._quantities import until_measured
from ._result import Deblended
from ._seen import seen_share
from ._simplest import simplest
from .flow import Flow
from .flow._scene import refusal
from .reduced import Reduced
from .reduced._model import refusal as reduced_refusal

#: Warm-up of scenes with free forms.
SCENE_WARMUP = 300

#: Largest width for which trajectories in scenes are made longer.  The widest directions are pixels
#: that no flux depends on: of the embedded example a run until the chains agree took 83,000
#: gradients with 3, 53,000 with 1.6, 37,000 with 1.25.
SCENE_WIDTH = 1.25

#: Samplers of scenes, by their names in `sample_deblended` and the command line.
SCENE_ALGORITHMS: dict[str, Callable[..., AbstractSampler]] = {
    **{kind.name: partial(kind, longest_width=SCENE_WIDTH) for kind in OWN},
    Flow.name: Flow,
    Reduced.name: Reduced,
}

#: Models of galaxies that are sampled: see `sample_deblended`.
MODELS = "simplest", "given"

#: Default samplers of scenes with free forms: with faint sources, and without.
FAINT_ALGORITHM, BRIGHT_ALGORITHM = Flow.name, DynamicHMC.name

#: Signal to noise, of the flux of all bands for a fixed shape, below which a source is faint.  Of
#: sources of 40 and 20 Hamiltonian chains of hundreds of draws had fewer than 20 effective ones;
#: the four of the embedded example, of 47 to 195, they sample, and there "flow" is far slower.
FAINT = 40.0


def laplace_deblended(result: Deblended, *, key, keep: Keep = Keep(), **options: Any) -> Any:  # noqa: B008
    """Draw from the Gaussian approximation of the posterior about a deblended scene.

    Parameters
    ----------
    result
        Result of `deblend`.
    key, keep
        Arguments of `laplace`.
    **options
        Further arguments of `laplace`, except `model` and `best`.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        Draws as of `sample_deblended`, with one chain of independent draws.
    """
    return _draws(
        result,
        keep,
        lambda bound, best, keep: laplace(bound, key=key, best=best, keep=keep, **options),
    )


def sample_deblended(
    result: Deblended,
    *,
    key,
    models: str = "simplest",
    algorithm: str | AbstractSampler | None = None,
    keep: Keep = Keep(),  # noqa: B008 (a value)
    **options: Any,
) -> Any:
    """Sample the posterior about a deblended scene.

    Every galaxy is sampled under the simplest model that the data do not refuse, as by the command
    `sample` and by `evaluate`: its profile, which is far faster, or a free form under the learned prior
    where the profile leaves more than noise.

    Parameters
    ----------
    result
        Result of `deblend`; chains start about its mode.
    key
        Random key, as for `sample`.
    models
        ``"simplest"``: models of galaxies are those of `simplest`, which fits the scene again if some
        stay free forms.  ``"given"``: every source has the model that `deblend` gave it, by default a
        free form for each galaxy.
    algorithm
        Algorithm of `sample`, by name or with settings, or ``"flow"`` (`Flow`): moves of the
        noise that the prior's flow maps to galaxies.  It finds shapes far from the mode, which
        Hamiltonian trajectories do not; between bright galaxies it is slow.  Or ``"reduced"``
        (`Reduced`), for scenes of stars and profiles: Hamiltonian moves by a density without
        pixels, made exact.  If not given, ``"reduced"`` where no source is a free form; else
        ``"flow"`` where a source has a signal to noise below 40 (of its flux in all bands, for a
        fixed shape), ``"dynamic_hmc"`` otherwise and for scenes that neither of the two samples.
    keep
        Content of the result, as for `sample`; dimensions and coordinates of scenes are set.
    **options
        Further arguments of `sample`, except `model` and `init`.  If `num_warmup` is not given, it is
        300, of ``"reduced"`` 80.  If `num_samples` is not given,
        runs go on until the brightnesses and lights of all sources, their centroids and sizes have
        R-hat below 1.01 and 400 effective draws, or up to 2,000 draws per chain: of ``"reduced"``
        with an R-hat below 1.008; of ``"flow"`` from 500 on, by brightnesses and lights alone.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        Draws as of `sample`, in the order of the catalog and without padding.  Sites have the
        names of their groups, and so have the axes over their sources: ``galaxies_morphology`` has
        ``galaxies_source, box_y, box_x`` (of boxes; ``y, x`` are those of the image),
        ``large_morphology`` (in larger boxes) ``large_source, large_box_y, large_box_x``,
        ``stars_offset`` ``stars_source, axis``.  Spectra and fluxes, ``source, band``, are those of
        all sources, in the units of the image.  Group ``constant_data`` has the places of the boxes
        and the conversion of units; attributes are WCS, units and prior, and in JSON ``doubts`` (what
        speaks against the scene, by code) and ``notes`` (what else bears on it).

    Raises
    ------
    InputError
        If the spectra were profiled, which defines no density to sample; for unknown `models`; and
        see `sample`.

    Warns
    -----
    SamplingWarning
        If the draws fail a check.  R-hat and effective draws are those of fluxes, centroids and
        sizes of the sources (see `measured`), not of single pixels.
    """
    if models not in MODELS:
        raise InputError(f"`models` must be {' or '.join(map(repr, MODELS))}, got {models!r}.")
    _refuse_profiled(result)
    if models == "simplest":
        result = simplest(result, progress=options.get("progress", False))
    chosen = default_algorithm(result) if algorithm is None else algorithm
    sampler = sampler_of(chosen, SCENE_ALGORITHMS)
    given = dict(options)
    if given.get("num_warmup") is None:
        own = sampler.usual.num_warmup
        given["num_warmup"] = own if isinstance(sampler, Reduced) else SCENE_WARMUP
    if given.get("num_samples") is None:
        scene, _ = unpadded(result.scene, result.free_form.fit)
        given["num_samples"] = until_measured(scene, sampler)

    def draw(bound, best, keep):
        with warnings.catch_warnings():
            # Judged below, by what is taken from the draws.
            warnings.simplefilter("ignore", SamplingWarning)
            return sample(bound, key=key, algorithm=sampler, init=best, keep=keep, **given)

    tree = _draws(result, keep, draw)
    judge(tree, sampler, measured(tree), cut=bool(tree.attrs["interrupted"]))
    return tree


def default_algorithm(result: Deblended) -> str:
    """Return the name of the default sampler of a deblended scene.

    It is ``"reduced"`` for scenes of stars and profiles alone that `Reduced` samples (one image and
    color of each source, components that fit into memory); ``"flow"`` if the scene is one that
    `Flow` samples and any source is faint, with a signal to noise below 40; and ``"dynamic_hmc"``
    for others.
    """
    fit = result.free_form
    if reduced_refusal(unpadded(fit.scene, fit.fit)[1].posterior) is None:
        return Reduced.name
    unit = result.observation.flux_unit[1]
    flux, error = (np.asarray(a, float) * unit for a in (fit.flux, fit.flux_error))
    faint = flux.sum(1) < FAINT * np.sqrt(np.sum(error**2, 1))
    serves = refusal(unpadded(fit.scene, fit.fit)[1].posterior) is None
    return FAINT_ALGORITHM if serves and bool(faint.any()) else BRIGHT_ALGORITHM


def measured(tree: Any) -> xarray.Dataset:
    """Return what is measured on the draws of a scene, and judged to have converged.

    Parameters
    ----------
    tree
        Draws of `sample_deblended`.

    Returns
    -------
    xarray.Dataset
        ``flux`` of every source and band, ``centroid`` and ``size`` of every source that has an
        extent, over ``chain, draw``.
    """
    flux = np.asarray(group(tree, "posterior")["flux"])
    chains, number = flux.shape[:2]
    points = np.asarray(group(tree, "constant_data")["is_point"])
    where, size = [], []
    for point, drawn in zip(points, source_draws(tree), strict=True):
        where.append(centroids(drawn.image))
        if not point:
            size.append(shapes(drawn.image)[0])
    dims = ("chain", "draw")
    out: dict[str, Any] = {
        "flux": ((*dims, "source", "band"), flux),
        "centroid": ((*dims, "source", "axis"), np.stack(where, 1).reshape(chains, number, -1, 2)),
    }
    if size:
        out["size"] = ((*dims, "galaxy"), np.stack(size, 1).reshape(chains, number, -1))
    return xarray.Dataset(out)


def unpadded(scene: Scene, fit: MAPResult) -> tuple[Scene, MAPResult]:
    """Return a scene and its fit without padded slots; see `Scene.without_padding`."""
    real, values = scene.without_padding(fit.values)
    return real, dataclasses.replace(fit, values=values, posterior=posterior(blend, real))


def _refuse_profiled(result: Deblended) -> None:
    """Raise InputError if the spectra of a scene were profiled: there is nothing to sample."""
    if result.scene.treatment == "profiled":
        raise InputError(
            "the scene was fitted with spectra='profiled', a maximum and no density; "
            "deblend with spectra='marginal' to sample it."
        )


def _draws(result: Deblended, keep: Keep, draw: Callable) -> Any:
    """Return draws by ``draw(bound, mode, keep)`` in the order of the catalog."""
    make_room_for_programs()
    _refuse_profiled(result)
    if keep.leave_out:
        raise InputError(
            "`leave_out` is for `sample` and `laplace`: tables and images of a scene need all of its "
            "sites."
        )
    scene, best = unpadded(result.scene, result.free_form.fit)
    obs = result.observation
    coords: dict[str, Any] = {"band": list(obs.bands), "axis": ["y", "x"]}
    for number, view in enumerate(obs.views, 1):
        ending = "" if number == 1 else f"_{number}"
        height, width = view.observation.shape
        coords |= {f"y{ending}": np.arange(height), f"x{ending}": np.arange(width)}
        if len(obs.views) > 1:
            coords[f"band_{number}"] = list(view.bands)
    own = {"source", *(f"{one.name}_source" for one in scene.sources)} & set(keep.coords)
    if own:
        raise InputError(
            f"`coords` names {', '.join(map(repr, sorted(own)))}, which has the ids of the catalog."
        )
    dims = {**_CONSTANT_DIMS, **keep.dims}
    places = [g.at for g in scene.sources]
    weights = [view.observation.weights for view in obs.views]
    constants = {
        "center": np.concatenate([np.asarray(at.center) for at in places]),
        "corner": np.concatenate([np.asarray(at.corner) for at in places]),
        "is_point": np.asarray(result.is_point)[scene.index],
        "data_share": seen_share(result.free_form.convolved, weights, result.free_form.flux)[
            scene.index
        ],
        "flux_factor": np.asarray(obs.flux_unit[1], float),
        **keep.constant_data,
    }
    named = keep._replace(dims=dims, constant_data=constants)
    # Names in `keep` are checked; ours are those of all axes that a scene may have.
    axes = {axis for every in lay_out(best.posterior, named).dims.values() for axis in every}
    known = {name: labels for name, labels in coords.items() if name in axes}
    named = named._replace(coords=known | dict(keep.coords))
    tree = draw(best.posterior, best, named)
    ids, order = np.array(result.positions.ids), scene.order
    for name in group_names(tree):
        dataset = group(tree, name)
        if "source" in dataset.dims:
            dataset = dataset.isel(source=order).assign_coords(source=ids)
        # Within a group sources are in the order of the catalog already.
        for one in scene.sources:
            dim = f"{one.name}_source"
            if dim in dataset.dims:
                dataset = dataset.assign_coords({dim: ids[np.asarray(one.at.index)]})
        replace_group(tree, name, dataset)
    tree.attrs.update(_facts(result, scene))
    return tree


_CONSTANT_DIMS = {
    "center": ["source", "axis"],
    "corner": ["source", "axis"],
    "is_point": ["source"],
    "data_share": ["source", "band"],
    "flux_factor": ["band"],
}


def _facts(result: Deblended, scene: Scene) -> dict:
    """Return attributes of the tree for tables and figures of the draws."""
    obs = result.observation
    facts: dict[str, Any] = {
        "scene": json.dumps([group_facts(g) for g in scene.sources]),
        "models": json.dumps(result.free_form.models.tolist()),
        "name": obs.name,
        "prior_name": result.prior_name,
        "height": obs.shape[0],
        "width": obs.shape[1],
        "flux_unit": obs.flux_unit[0].to_string(),
        "image_unit": "" if obs.unit is None else obs.unit.to_string(),
        # Draws of a scene that is wrong can agree with each other: files and reports say both.
        "doubts": json.dumps(doubts(result)),
        "notes": json.dumps(notes(result)),
        **epoch_facts(result),
    }
    if result.sigma0 is not None:
        facts["prior_sigma"] = result.sigma0
    if obs.flux_zero_point is not None:
        facts["flux_zero_point"] = obs.flux_zero_point
    if obs.wcs is not None:
        facts["wcs"] = obs.wcs.to_header_string(relax=True).rstrip()
        facts["pixel_scale"] = obs.pixel_scale
    return facts
