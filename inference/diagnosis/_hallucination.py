r"""Hallucination maps: influence of the prior per pixel and source of a deblended scene.

Sampson & Melchior (2023) compare, pixel by pixel, the curvature of the prior with that of
the likelihood (Sampson et al. 2024, eqs 17 and 18):

.. math:: \Delta F = \mathrm{diag}\,F_\mathrm{prior} - \mathrm{diag}\,F_\mathrm{like},
          \qquad \gamma = -\Delta F \cdot S.

Where it is positive the prior dominates.  Both are curvatures in the stretched space of
the prior, whose own is about :math:`1/\sigma_0^2` off the galaxies: the sign of
:math:`\Delta F` depends on the declared noise level, and so does the share of the data.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import xarray

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._progress import Progress, reporting
from scorepriors.inference.curvature._hessian import hessian, matrix
from scorepriors.inference.deblending._result import Deblended

from ._averages import averages, check_draws, group_draws
from ._galaxies import PIXELS, Galaxies, data_curvature, galaxies_of, ids_of, slope_of
from ._information import positive_part, source_information
from ._pairs import Pairs, correlations, neighborhood, source_blocks
from ._stretched import StretchedEnergy

#: Number of neighbors that are integrated out with a source; time grows with its cube.
NEIGHBORS = 3


def hallucination_map(
    result: Deblended,
    tree: Any = None,
    *,
    key=None,
    num_draws: int = 32,
    num_probes: int = 16,
    neighbors: int = NEIGHBORS,
    progress: Progress = False,
) -> xarray.Dataset:
    r"""Compute curvatures of prior and data for every free-form source.

    Parameters
    ----------
    result
        Result of `deblend`.
    tree
        Draws of the scene (`sample_deblended`, `laplace_deblended`) to average over.
    key
        Random key for the choice of draws and the probes; needed with `tree`.
    num_draws, num_probes
        Numbers of draws to average over, and of sign probes for the prior's curvature at each.
    neighbors
        Number of the most coupled neighbors of a source to integrate out; other sources,
        and all with boxes of another size, are held fixed.
    progress
        True for a bar; or a function called as ``progress(done, total, text)``.

    Returns
    -------
    xarray.Dataset
        Dimensions ``source, box_y, box_x``; sources are the free-form ones in the order
        of the catalog.  If their boxes have two sizes, the smaller are padded with NaN:
        ``box`` is the side of a source's own, see `pixels`.  Curvatures are in the stretched
        space, dimensionless; divide by ``slope`` squared for those in inverse intensity
        squared, multiply ``sd`` by ``slope`` for intensities.

        ``prior_curvature``, ``data_curvature``
            At the mode: of the prior (exact, by as many products as pixels), and of the
            likelihood in closed form with the PSF, spectra as in the fit (integrated
            out, determinant included, or maximized), neighbors held fixed.
        ``delta_f``, ``gamma``
            Eqs 17 and 18 at the mode.
        ``delta_f_aware``, ``data_share``
            With neighbors and spectra integrated out: :math:`F_\mathrm{prior} - F`, and
            :math:`F / (F + F_\mathrm{prior})`, the share of the data in the precision of a
            pixel, between 0 and 1, where a negative curvature of the prior counts as
            zero.
        ``sd``, ``slope``
            Standard deviation of a pixel in z; dx/dz.
        ``flux_share``
            Per source: mean of ``data_share`` weighted by the light of its pixels, the
            share of its flux that the data alone determine, pixel by pixel.
        ``flux_from_prior``
            Per source: by which part of itself the total flux leans on the prior.  It is the error
            that the flux would have in data without noise, as what they do not tell is the prior's;
            many pixels of which each is the prior's may have a sum that the data know well.
        ``flux_sd``, ``degrees_of_freedom``
            Per source: standard deviation of its total flux, in units of the image, and
            number of parameters of its image that the data determine; see
            `scorepriors.inference.diagnosis._information.source_information`.
        ``negative_curvatures``, ``lowest_curvature``
            Per source: of the prior at the mode; a mode of the posterior may have some.
        ``mean_delta_f``, ``mean_delta_f_error``, ``mean_gamma``, ``mean_gamma_error``
            With `tree`: averages over draws with standard errors, which include the
            scatter of draws and probes.
        ``significant``
            Whether \|delta F\| exceeds three standard errors: of the average over draws
            with `tree`, else (exact) wherever it is not zero.

    Raises
    ------
    InputError
        For anything but the result of `deblend`, if there is no free-form source, if `tree` is of another scene, or if the fit is
        so far from any galaxy that no matrix of curvatures is positive definite.

    Notes
    -----
    Given the other pixels of its source, the precision of a pixel is the sum of the
    information of the data, F, and of the prior; the share of the data refers to this sum.
    It increases with exposure, decreases where neighbors overlap, and is zero under a mask.
    It depends on sigma0 through the prior's curvature, which grows as :math:`1/\sigma_0^2`
    where the prior is dominated by its noise: sources can be compared, priors can't.
    """
    if not isinstance(result, Deblended):
        raise InputError(
            "`hallucination_map` needs the result of `deblend`, which has the scene and its "
            f"observation, got a {type(result).__name__}: for a fit of your own model compare "
            "`hessian_diagonal(fit.posterior, fit, part='prior')` with part='likelihood'."
        )
    if num_draws < 2 or num_probes < 2:
        raise InputError("`num_draws` and `num_probes` must be at least 2: one has no error.")
    if neighbors < 0:
        raise InputError(f"`neighbors` must not be negative, got {neighbors}.")
    if tree is not None and key is None:
        raise InputError("averages over draws need random probes; give a `key`.")
    priors = result.priors()
    if not priors:
        raise InputError(
            "no source is a free form: there is no image under a learned prior to question; deblend or "
            "sample with models='free-form' (--models free-form)."
        )
    if tree is not None:
        check_draws(result, tree)
    maps = []
    with reporting(progress, "hallucination") as report:
        for i, (name, prior) in enumerate(priors.items()):
            here, ids = galaxies_of(result, name), ids_of(result, name)
            total = 2 * len(ids) + (1 if tree is not None else 0)
            variables = _at_the_mode(
                here, prior, neighbors, lambda done, text, total=total: report(done, total, text)
            )
            if tree is not None:
                report(2 * len(ids), total, "average over draws")
                variables |= averages(
                    here,
                    prior,
                    group_draws(tree, name),
                    key=key if i == 0 else jax.random.fold_in(key, i),
                    num_draws=num_draws,
                    num_probes=num_probes,
                )
            report(total, total, "done")
            box = np.arange(here.box)
            maps.append(
                xarray.Dataset(
                    variables,
                    coords={"source": ids, "box_y": box, "box_x": box, "axis": ["y", "x"]},
                    attrs={
                        "prior": repr(prior),
                        "sigma0": float(prior.sigma),
                        "converged": int(result.converged),
                    },
                )
            )
    return maps[0] if len(maps) == 1 else _joined(maps, result)


def pixels(maps: xarray.Dataset, name: str, source: int) -> np.ndarray:
    """Return the map of one source ``[n, n]``, without the padding in `maps`."""
    values = maps[name].values[source]
    margin = (len(values) - int(maps["box"].values[source])) // 2
    return values[margin : len(values) - margin, margin : len(values) - margin]


def _at_the_mode(
    here: Galaxies, prior: ScorePrior, neighbors: int, report: Callable
) -> dict[str, Any]:
    """Return dimensions and values, by variable, of `hallucination_map` without draws."""
    count, box = len(here.corner), here.box
    z = prior.stretch.inv(here.morphology)
    slope = np.asarray(slope_of(prior, z), float)
    diagonals, values = np.empty_like(slope), np.empty((count, box * box))
    # In the precision of the network: in double, full matrices would fill the memory.
    positive = np.empty((count, box * box, box * box), z.dtype)
    for k in range(count):
        report(k, "curvature of the prior")
        curvature = np.asarray(matrix(hessian(StretchedEnergy(prior), z[k])), float)
        diagonals[k] = np.diagonal(curvature).reshape(box, box)
        positive[k], values[k] = positive_part(curvature)
    of_data = np.asarray(data_curvature(here), float) * slope**2
    pairs, coupling = Pairs(here, slope), correlations(here)
    found = []
    for k in range(count):
        report(count + k, "curvature of the data")
        members = neighborhood(coupling, k, neighbors)
        try:
            found.append(source_information(source_blocks(here, members, slope, positive, pairs)))
        except np.linalg.LinAlgError as error:
            raise InputError(
                f"galaxy {k + 1} of {count} curves the wrong way in more directions than the data "
                "hold: the fit ended far from a galaxy, where the prior has learned nothing; deblend "
                "again with the prior's own noise level, or from other positions."
            ) from error
    images = np.asarray(here.morphology, float)
    aware = np.stack([f.data_curvature for f in found]).reshape(slope.shape)
    delta = diagonals - of_data
    share = aware / np.maximum(aware + np.maximum(diagonals, 0.0), 1e-300)
    light = np.maximum(images, 0.0)
    total = np.abs(np.asarray(here.spectrum, float).sum(1) * images.sum((1, 2)))
    filled = np.array([f.flux_from_prior for f in found])
    return {
        "prior_curvature": (PIXELS, diagonals),
        "data_curvature": (PIXELS, of_data),
        "delta_f": (PIXELS, delta),
        "delta_f_aware": (PIXELS, diagonals - aware),
        "data_share": (PIXELS, share),
        "sd": (PIXELS, np.stack([f.pixel_sd for f in found]).reshape(slope.shape)),
        "slope": (PIXELS, slope),
        "morphology": (PIXELS, images),
        "significant": (PIXELS, delta != 0),
        "gamma": ("source", -np.sum(delta * images, axis=(1, 2))),
        "flux_share": ("source", (share * light).sum((1, 2)) / light.sum((1, 2))),
        "flux_sd": ("source", [f.flux_sd for f in found]),
        "flux_from_prior": ("source", filled / np.maximum(total, 1e-300)),
        "degrees_of_freedom": ("source", [f.degrees_of_freedom for f in found]),
        "negative_curvatures": ("source", [int((v < 0).sum()) for v in values]),
        "lowest_curvature": ("source", [v.min() for v in values]),
        "corner": (("source", "axis"), np.asarray(here.corner)),
        "box": ("source", np.full(count, box)),
    }


def _joined(maps: list[xarray.Dataset], result: Deblended) -> xarray.Dataset:
    """Join the maps of all groups in the order of the catalog, in boxes of the larger size."""
    largest = max(one.sizes["box_y"] for one in maps)
    padded = []
    for one in maps:
        margin = (largest - one.sizes["box_y"]) // 2
        around = {"box_y": (margin, margin), "box_x": (margin, margin)}
        wide = one.drop_vars(["box_y", "box_x"]).pad(around, constant_values=np.nan)
        wide["morphology"] = wide["morphology"].fillna(0.0)
        wide["significant"] = wide["significant"].fillna(False).astype(bool)
        wide["corner"] = one["corner"] - margin
        padded.append(wide)
    joined = xarray.concat(padded, "source", combine_attrs="override")
    every = [i for i in result.positions.ids if i in set(joined["source"].values.tolist())]
    joined = joined.sel(source=every)
    joined.attrs["prior"] = " and ".join(one.attrs["prior"] for one in maps)
    return joined.assign_coords(box_y=np.arange(largest), box_x=np.arange(largest))
