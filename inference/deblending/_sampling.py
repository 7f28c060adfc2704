"""Draws of a whole scene: what `deblend` found, with the posterior about it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from scorepriors._errors import InputError
from scorepriors._programs import make_room_for_programs
from scorepriors.inference._posterior import Posterior, posterior
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.inference.sampling._laplace import laplace
from scorepriors.inference.sampling._sample import sample
from scorepriors.inference.sampling._tree import group, group_names, replace_group
from scorepriors.models.scene._blend import GROUPS

from ._scenes import Deblended, catalog_order
from .flow import sample_flow_scene


def laplace_deblended(result: Deblended, *, key, **options) -> Any:
    """Gaussian approximation of the posterior about a deblended scene.

    Parameters
    ----------
    result
        From `deblend`.
    key
        See `laplace`.
    **options
        Further arguments of `laplace`, except `model` and `best`.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        As from `sample_deblended`, with one chain of independent draws.
    """
    return _draws(
        result,
        lambda bound, best, **rest: laplace(bound, best=best, **rest),
        {"key": key, **options},
    )


def sample_deblended(result: Deblended, *, key, algorithm: Any = "nuts", **options) -> Any:
    """Sample the posterior about a deblended scene.

    Parameters
    ----------
    result
        From `deblend`; chains start about its mode.
    key
        See `sample`.
    algorithm
        One of `sample`, or ``"flow"`` (`scorepriors.inference.sampling.flow`): moves of
        the noise that the prior's flow turns into galaxies.  It finds shapes far from the
        mode, which Hamiltonian trajectories do not, and is the one for faint sources.
    **options
        Further arguments of `sample`, except `model` and `init`; of
        `scorepriors.inference.sampling.flow.sample_flow_scene` for ``"flow"``.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        As from `sample`, in the order of the catalog and without padding.  Images have
        the dimensions ``source, box_y, box_x`` (of boxes; ``y, x`` are those of the
        image), spectra and fluxes ``source, band``, in the units of the image.  With
        several kinds of sources in one scene, the sites of each have dimensions of their
        own: ``galaxies_morphology`` has ``galaxies_source``, ``large_morphology`` (in larger
        boxes) ``large_source, large_box_y, large_box_x``, ``stars_offset`` ``stars_source``.
        Group ``constant_data`` holds where the boxes are and how the
        units convert; attributes hold the WCS, the units and the prior.

    Raises
    ------
    InputError
        If the spectra were profiled, which leaves no density to sample; and see `sample`.
    """
    if algorithm == "flow":
        return _draws(result, sample_flow_scene, {"key": key, **options})
    return _draws(
        result,
        lambda bound, best, **rest: sample(bound, init=best, **rest),
        {"key": key, "algorithm": algorithm, **options},
    )


def _draws(result: Deblended, draw: Callable, options: dict) -> Any:
    """Draws by ``draw(bound, mode, **options)`` in the order of the catalog."""
    make_room_for_programs()
    bound, best, groups = without_padding(result.free_form.fit)
    keywords = bound.arguments[1]
    if keywords.get("spectra") == "profiled":
        raise InputError(
            "the scene was fitted with spectra='profiled', a maximum and no density; "
            "deblend with spectra='marginal' to sample it."
        )
    obs = result.observation
    is_point = np.asarray(result.positions.is_point)
    order = catalog_order(result.kinds, GROUPS)
    height, width = obs.images.shape[1:]
    coords = {
        "band": list(obs.bands),
        "y": np.arange(height),
        "x": np.arange(width),
        "axis": ["y", "x"],
        **(options.pop("coords", None) or {}),
    }
    dims = {"brightness": ["source"], **_CONSTANT_DIMS, **(options.pop("dims", None) or {})}
    constants = {
        "center": np.concatenate([np.asarray(g.center) for g in groups.values()]),
        "corner": np.concatenate([np.asarray(g.corner) for g in groups.values()]),
        "is_point": is_point[np.argsort(order)],
        "flux_factor": np.asarray(obs.flux_unit[1], float),
        **(options.pop("constant_data", None) or {}),
    }
    tree = draw(bound, best, coords=coords, dims=dims, constant_data=constants, **options)
    ids = np.array(result.positions.ids)
    for name in group_names(tree):
        dataset = group(tree, name)
        if "source" in dataset.dims:
            dataset = dataset.isel(source=order).assign_coords(source=ids)
        # Within its own group every source has the order of the catalog.
        for name_of_group in GROUPS:
            dim = f"{name_of_group}_source"
            if dim in dataset.dims:
                dataset = dataset.assign_coords({dim: ids[result.kinds == name_of_group]})
        replace_group(tree, name, dataset)
    tree.attrs.update(_facts(result, keywords))
    return tree


def without_padding(fit: MAPResult) -> tuple[Posterior, MAPResult, dict]:
    """A fit of a scene, with the padded slots gone.

    They never touch the image, so the posterior of the rest is the same; but to sample
    them would cost time, and they would count in the checks of the draws.

    Returns
    -------
    bound, fit, groups
        Posterior and mode of the real sources; their places by group, in the order in
        which the model runs over them.
    """
    args, keywords = fit.posterior.arguments
    data, prior, galaxies, stars, _, large_prior, large = (*args, *[None] * 7)[:7]
    pairs = zip(GROUPS, (galaxies, large, stars), strict=False)
    whole = {name: group for name, group in pairs if group is not None}
    masks = {n: np.asarray(g.mask) for n, g in whole.items()}
    groups = {n: jax.tree.map(lambda a, m=masks[n]: a[m], g) for n, g in whole.items()}
    every = np.concatenate(list(masks.values()))
    values = {}
    for name, value in fit.values.items():
        # A single group's sites have no prefix, and are as long as all.
        own = masks.get(name.split("/")[0], every)
        values[name] = value[own] if np.ndim(value) and len(value) == len(own) else value
    arguments: tuple = (data, prior, groups.get("galaxies"), groups.get("stars"))
    if large is not None:
        arguments = (*arguments, None, large_prior, groups["large"])
    bound = posterior(fit.posterior.model, *arguments, model_kwargs=keywords)
    return bound, dataclasses.replace(fit, values=values), groups


_CONSTANT_DIMS = {
    "center": ["source", "axis"],
    "corner": ["source", "axis"],
    "is_point": ["source"],
    "flux_factor": ["band"],
}


def _facts(result: Deblended, keywords: dict) -> dict:
    """Attributes: what a table or a picture made from the draws needs to know."""
    obs = result.observation
    facts: dict[str, Any] = {
        "scene": "deblended",
        "name": obs.name,
        "prior_name": result.prior_name,
        "prior_sigma": float(result.prior.sigma),
        "height": obs.shape[0],
        "width": obs.shape[1],
        "flux_unit": obs.flux_unit[0].to_string(),
        "image_unit": "" if obs.unit is None else obs.unit.to_string(),
        "star_box": int(keywords.get("star_box", 15)),
        "star_psf_sigma": float(keywords.get("psf_sigma", 0.7)),
    }
    if obs.flux_zero_point is not None:
        facts["flux_zero_point"] = obs.flux_zero_point
    if obs.wcs is not None:
        facts["wcs"] = obs.wcs.to_header_string(relax=True).rstrip()
        facts["pixel_scale"] = obs.pixel_scale
    return facts
