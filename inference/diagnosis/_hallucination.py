r"""What the prior made up: per pixel and per source of a deblended scene.

Sampson & Melchior (2023) compare, pixel by pixel, the curvature of the prior with that of
the likelihood (Sampson et al. 2024, eqs 17 and 18):

.. math:: \Delta F = \mathrm{diag}\,F_\mathrm{prior} - \mathrm{diag}\,F_\mathrm{like},
          \qquad \gamma = -\Delta F \cdot S.

Where it is positive the prior decides.  Both are curvatures in the stretched space of
the prior, whose own is about :math:`1/\sigma_0^2` off the galaxies: the sign of
:math:`\Delta F` depends on the declared noise level, and so does the share of the data.
A sharper prior claims to know more.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors.inference.curvature._hessian import HessianOperator, matrix
from scorepriors.inference.deblending._sampling import without_padding
from scorepriors.inference.deblending._scenes import Deblended
from scorepriors.inference.sampling._tree import group, known_ids, morphology_draws
from scorepriors.models.rendering._rendering import ImageData
from scorepriors.models.scene._blend import BRIGHTNESS_WIDTH, flux_given_brightness, site_name
from scorepriors.models.scene._information import (
    gather,
    likelihood_block,
    likelihood_diagonal,
    scene_curvature,
    scene_diagonal,
)
from scorepriors.models.spectra._spectra import SpectrumPrior, spectrum_posterior

from ._information import SourceBlocks, positive_part, source_information

#: Neighbors that are integrated out with a source; time grows with the cube of them.
NEIGHBORS = 3

#: Sources coupled more weakly than this (a correlation) do not count as neighbors.
COUPLED = 1e-3


class StretchedEnergy(eqx.Module):
    """Minus the log-density of a prior's stretched image ``[n, n]``."""

    prior: ScorePrior

    def __call__(self, z: Float[Array, "n n"]) -> Float[Array, ""]:
        return self.prior.energy(z, self.prior.sigma)


class _Galaxies(eqx.Module):
    """Free-form sources of a scene at a point, in the order of the model."""

    data: ImageData
    morphology: Float[Array, "K n n"]
    corner: Array
    spectrum: Float[Array, "K B"]
    brightness: Float[Array, " K"]
    unit: Float[Array, "K B H W"]
    color_width: Array

    def flux_prior(self) -> SpectrumPrior:
        """Of the fluxes, given the brightnesses."""
        return flux_given_brightness(self.data, self.brightness, color_width=self.color_width)


def hallucination_map(
    result: Deblended,
    tree: Any = None,
    *,
    key=None,
    num_draws: int = 32,
    num_probes: int = 16,
    neighbors: int = NEIGHBORS,
    progress: Callable | None = None,
) -> xarray.Dataset:
    r"""Curvatures of prior and data for every free-form source.

    Parameters
    ----------
    result
        From `deblend`.
    tree
        Draws of it (`sample_deblended`, `laplace_deblended`) to average over.
    key
        For the choice of draws and the probes; needed with `tree`.
    num_draws, num_probes
        Draws to average over, and sign probes for the prior's curvature at each.
    neighbors
        The most coupled neighbors of a source, integrated out with it; other sources,
        and all with boxes of another size, are held fixed.
    progress
        Called as ``progress(done, total, text)``.

    Returns
    -------
    xarray.Dataset
        Dimensions ``source, box_y, box_x``; sources are the free-form ones in the order
        of the catalog.  If their boxes have two sizes, the smaller are padded with NaN:
        ``box`` is the side of a source's own, see `pixels`.  Curvatures are in the stretched space, dimensionless; divide
        by ``slope`` squared for those in inverse intensity squared, multiply ``sd`` by
        ``slope`` for intensities.

        ``prior_curvature``, ``data_curvature``
            At the mode: of the prior (exact, by as many products as pixels), and of the
            likelihood in closed form with the PSF, spectra as in the fit (integrated
            out, determinant included, or maximized), neighbors held fixed.
        ``delta_f``, ``gamma``
            Eqs 17 and 18 at the mode.
        ``delta_f_aware``, ``data_share``
            With neighbors and spectra integrated out: :math:`F_\mathrm{prior} - F`, and
            :math:`F / (F + F_\mathrm{prior})`, the share of the data in what holds a
            pixel, between 0 and 1, where a negative curvature of the prior counts as
            none.
        ``sd``, ``slope``
            Standard deviation of a pixel in z; dx/dz.
        ``flux_share``
            Per source: mean of ``data_share`` weighted by the light of its pixels, the
            share of its flux that the data hold by themselves, pixel by pixel.
        ``flux_sd``, ``degrees_of_freedom``
            Per source: standard deviation of its total flux, in units of the image, and
            number of parameters of its image that the data determine; see
            `scorepriors.inference.information`.
        ``negative_curvatures``, ``lowest_curvature``
            Per source: of the prior at the mode; a mode of the posterior may have some.
        ``mean_delta_f``, ``mean_delta_f_error``, ``mean_gamma``, ``mean_gamma_error``
            With `tree`: averages over draws with standard errors, which hold the
            scatter of draws and probes.
        ``significant``
            Whether \|delta F\| exceeds three standard errors: of the average over draws
            with `tree`, else (exact) wherever it is not zero.

    Raises
    ------
    InputError
        If there is no free-form source, if `tree` is of another scene, or if the fit is
        so far from any galaxy that no matrix of curvatures is one of a density.

    Notes
    -----
    Given the other pixels of its source, the precision of a pixel is the sum of what the
    data say of it, F, and of what the prior says: that is what the share of the data is a
    share of.  It grows with exposure, falls where neighbors overlap, and is zero under a
    mask.  It depends on sigma0 through the prior's curvature, which grows as
    :math:`1/\sigma_0^2` where the prior is its own noise: compare sources, not priors.
    """
    if num_draws < 2 or num_probes < 2:
        raise InputError("`num_draws` and `num_probes` must be at least 2: one has no error.")
    if neighbors < 0:
        raise InputError(f"`neighbors` must not be negative, got {neighbors}.")
    if tree is not None and key is None:
        raise InputError("averages over draws need random probes; give a `key`.")
    priors = result.priors()
    if not priors:
        raise InputError("every source is a star: there is no free-form image to question.")
    if tree is not None:
        _check_draws(result, tree)
    maps = []
    for i, (name, prior) in enumerate(priors.items()):
        own = None if key is None else key if i == 0 else jax.random.fold_in(key, i)
        maps.append(
            _group_map(result, name, prior, tree, own, num_draws, num_probes, neighbors, progress)
        )
    return maps[0] if len(maps) == 1 else _joined(maps, result)


def pixels(maps: xarray.Dataset, name: str, source: int) -> np.ndarray:
    """A map of one source ``[n, n]``, in the box of its own: smaller ones are padded in `maps`."""
    values = maps[name].values[source]
    margin = (len(values) - int(maps["box"].values[source])) // 2
    return values[margin : len(values) - margin, margin : len(values) - margin]


def _group_map(
    result, name, prior, tree, key, num_draws, num_probes, neighbors, progress
) -> xarray.Dataset:
    """The maps of the sources of one group; the light of all others is taken off the image."""
    bound, fit, groups = without_padding(result.free_form.fit)
    keywords = bound.arguments[1]
    spectra = keywords.get("spectra", "marginal")
    here = _galaxies(result, bound.arguments[0][0], fit.values, groups, name)
    report = progress or (lambda done, total, text: None)
    count, box = len(here.corner), prior.event_shape[-1]
    total = 2 * count + (1 if tree is not None else 0)
    z = prior.stretch.inv(here.morphology)
    slope = np.asarray(_slope(prior, z), float)
    diagonals, values = np.empty_like(slope), np.empty((count, box * box))
    # In the precision of the network: in double, whole matrices would fill the memory.
    positive = np.empty((count, box * box, box * box), z.dtype)
    for k in range(count):
        report(k, total, "curvature of the prior")
        curvature = np.asarray(matrix(HessianOperator(StretchedEnergy(prior), z[k])), float)
        diagonals[k] = np.diagonal(curvature).reshape(box, box)
        positive[k], values[k] = positive_part(curvature)
    data_curvature = np.asarray(_data_curvature(here, spectra), float) * slope**2
    pairs = _Pairs(here, slope)
    found = []
    for k in range(count):
        report(count + k, total, "curvature of the data")
        members = _neighborhood(here, k, neighbors)
        try:
            found.append(source_information(_blocks(here, members, slope, positive, pairs)))
        except np.linalg.LinAlgError as error:
            raise InputError(
                f"galaxy {k + 1} of {count} curves the wrong way in more directions than the data "
                "hold: the fit ended far from a galaxy, where the prior has learned nothing; deblend "
                "again with the prior's own noise level, or from other positions."
            ) from error
    images = np.asarray(here.morphology, float)
    aware = np.stack([f.data_curvature for f in found]).reshape(slope.shape)
    delta = diagonals - data_curvature
    share = aware / np.maximum(aware + np.maximum(diagonals, 0.0), 1e-300)
    light = np.maximum(images, 0.0)
    variables: dict[str, Any] = {
        "prior_curvature": (_PIXELS, diagonals),
        "data_curvature": (_PIXELS, data_curvature),
        "delta_f": (_PIXELS, delta),
        "delta_f_aware": (_PIXELS, diagonals - aware),
        "data_share": (_PIXELS, share),
        "sd": (_PIXELS, np.stack([f.pixel_sd for f in found]).reshape(slope.shape)),
        "slope": (_PIXELS, slope),
        "morphology": (_PIXELS, images),
        "significant": (_PIXELS, delta != 0),
        "gamma": ("source", -np.sum(delta * images, axis=(1, 2))),
        "flux_share": ("source", (share * light).sum((1, 2)) / light.sum((1, 2))),
        "flux_sd": ("source", [f.flux_sd for f in found]),
        "degrees_of_freedom": ("source", [f.degrees_of_freedom for f in found]),
        "negative_curvatures": ("source", [int((v < 0).sum()) for v in values]),
        "lowest_curvature": ("source", [v.min() for v in values]),
        "corner": (("source", "axis"), np.asarray(here.corner)),
        "box": ("source", np.full(count, box)),
    }
    if tree is not None:
        report(2 * count, total, "average over draws")
        draws = _draws(tree, name)
        variables |= _averages(here, prior, spectra, draws, key, num_draws, num_probes)
    report(total, total, "done")
    ids = np.array(result.positions.ids)[result.kinds == name]
    attrs = {"prior": repr(prior), "sigma0": float(prior.sigma), "converged": int(result.converged)}
    coords = {"source": ids, "box_y": np.arange(box), "box_x": np.arange(box), "axis": ["y", "x"]}
    return xarray.Dataset(variables, coords=coords, attrs=attrs)


_PIXELS = ("source", "box_y", "box_x")


def _joined(maps: list[xarray.Dataset], result: Deblended) -> xarray.Dataset:
    """Maps of all groups in the order of the catalog, in boxes of the larger size."""
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


def _galaxies(result: Deblended, data: ImageData, values: dict, groups: dict, name: str):
    """The sources of one group at the mode; the others come off the image as they are."""
    morphology = jnp.asarray(values[site_name(groups, name, "morphology")])
    before = list(groups)[: list(groups).index(name)]
    first = sum(len(groups[other].corner) for other in before)
    spectrum, brightness = (
        jnp.asarray(values[n])[first : first + len(morphology)] for n in ("spectrum", "brightness")
    )
    corner = jnp.asarray(groups[name].corner)
    others = result.free_form.convolved[result.kinds != name].sum(0)
    data = dataclasses.replace(data, images=data.images - jnp.asarray(others, data.images.dtype))
    keywords = result.free_form.fit.posterior.arguments[1]
    width = jnp.asarray(keywords.get("color_width", 1.0))
    unit = _render(data, morphology, corner)
    return _Galaxies(data, morphology, corner, spectrum, brightness, unit, width)


_render = eqx.filter_jit(lambda data, morphology, corner: data.render(morphology, corner))


@eqx.filter_jit
def _slope(prior, z):
    """dx/dz."""
    return jnp.exp(prior.stretch.log_abs_det_jacobian(z, prior.stretch(z)))


@eqx.filter_jit
def _data_curvature(here: _Galaxies, spectra: str):
    """Diagonal of minus the log-likelihood's second derivative, in intensity."""
    box = here.morphology.shape[-1]
    if spectra == "sampled":
        return likelihood_diagonal(here.data, here.spectrum, here.corner, box)
    area = here.morphology.sum((-2, -1))
    flux = here.flux_prior()
    amplitudes = flux.of_amplitudes(area)
    solved = spectrum_posterior(here.unit, here.data.images, here.data.weights, amplitudes)
    parts = scene_curvature(
        here.data, here.morphology, here.corner, flux, solved, marginal=spectra == "marginal"
    )
    return scene_diagonal(here.data, parts, here.corner)


def _neighborhood(here: _Galaxies, k: int, most: int) -> list[int]:
    """The source itself, then its most coupled neighbors."""
    coupling = np.abs(np.asarray(_coupling(here), float))
    coupling /= np.sqrt(np.outer(np.diagonal(coupling), np.diagonal(coupling)) + 1e-300)
    order = [m for m in np.argsort(-coupling[k]) if m != k and coupling[k, m] > COUPLED]
    return [k, *(int(m) for m in order[:most])]


@eqx.filter_jit
def _coupling(here: _Galaxies):
    """``[K, K]``, overlaps of the sources as observed, weighed."""
    seen = here.unit * here.spectrum[:, :, None, None]
    return jnp.einsum("kbyx,lbyx,byx->kl", seen, seen, here.data.weights)


def _blocks(here: _Galaxies, members, slope, image_priors, pairs) -> SourceBlocks:
    """Matrices about the first of `members`, in z, amplitudes and log fluxes."""
    data, pixels = here.data, slope[0].size
    bands = data.num_bands
    own = pixels + bands + 1
    size = own * len(members)
    information, image_prior, flux_prior = np.zeros((3, size, size))
    for a, k in enumerate(members):
        rows = slice(a * own, a * own + pixels)
        image_prior[rows, rows] = image_priors[k]
        first = a * own
        flux_prior[first : first + own, first : first + own] = _flux_prior(here, k, slope[k])
        for b, m in enumerate(members[: a + 1]):
            block = pairs[k, m]
            information[first : first + own, b * own : (b + 1) * own] = block
            information[b * own : (b + 1) * own, first : first + own] = block.T
    # Total flux: amplitudes times the sum of the pixels.
    k = members[0]
    flux = np.zeros(size)
    flux[:pixels] = float(here.spectrum[k].sum()) * slope[k].ravel()
    flux[pixels : pixels + bands] = float(here.morphology[k].sum())
    return SourceBlocks(information, image_prior, flux_prior, flux, pixels, own)


class _Pairs:
    """Fisher information between all parameters of two sources; each pair is made once."""

    def __init__(self, here: _Galaxies, slope):
        self.here, self.slope = here, slope
        self.spectrum = np.asarray(here.spectrum, float)
        self.made: dict[tuple[int, int], np.ndarray] = {}

    def __getitem__(self, pair: tuple[int, int]) -> np.ndarray:
        k, m = pair
        if pair not in self.made:
            # Kept in the precision of the arrays it is made from.
            turned = self.made.get((m, k))
            precision = self.here.morphology.dtype
            self.made[pair] = turned.T if turned is not None else self._make(k, m).astype(precision)
        return self.made[pair]

    def _make(self, k: int, m: int) -> np.ndarray:
        pixels, bands = self.slope[0].size, self.here.data.num_bands
        between, row, column, amplitudes = (
            np.asarray(part, float) for part in _pair_arrays(self.here, np.int32(k), np.int32(m))
        )
        block = np.zeros((pixels + bands + 1, pixels + bands + 1))
        first, second = self.slope[k].ravel(), self.slope[m].ravel()
        block[:pixels, :pixels] = between * first[:, None] * second
        each = pixels + np.arange(bands)
        block[:pixels, each] = (row.reshape(bands, -1) * self.spectrum[k][:, None] * first).T
        block[each, :pixels] = column.reshape(bands, -1) * self.spectrum[m][:, None] * second
        block[each, each] = amplitudes
        return block


@eqx.filter_jit
def _pair_arrays(here: _Galaxies, k, m):
    data, box = here.data, here.morphology.shape[-1]
    products = here.spectrum[k] * here.spectrum[m]
    between = likelihood_block(data, products, here.corner[k], here.corner[m], box)
    weighed = data.weights * here.unit
    row = gather(data, weighed[m][None], here.corner[k][None], box)[0]
    column = gather(data, weighed[k][None], here.corner[m][None], box)[0]
    return between, row, column, jnp.sum(weighed[k] * here.unit[m], (-2, -1))


def _flux_prior(here: _Galaxies, k: int, slope):
    """Curvature of the prior of amplitudes and brightness, residuals squared alone.

    The residuals are those of the fluxes from their mean, in units of their width, and
    of the brightness from its own.
    """
    pixels, bands = slope.size, here.data.num_bands
    given = here.flux_prior()
    factor = np.linalg.inv(np.linalg.cholesky(np.asarray(given.covariance[k], float)))
    spectrum = np.asarray(here.spectrum[k], float)
    jacobian = np.zeros((bands + 1, pixels + bands + 1))
    jacobian[:bands, :pixels] = np.outer(factor @ spectrum, slope.ravel())
    jacobian[:bands, pixels:-1] = factor * float(here.morphology[k].sum())
    jacobian[:bands, -1] = -factor @ np.asarray(given.mean[k], float)
    jacobian[bands, -1] = 1 / BRIGHTNESS_WIDTH
    return jacobian.T @ jacobian


def _averages(here, prior, spectra, draws, key, num_draws, num_probes) -> dict:
    """Averages over draws, and their standard errors."""
    choose, probe = jax.random.split(key)
    images, spectrum, brightness = draws
    total = len(images)
    picks = np.asarray(jax.random.choice(choose, total, (min(num_draws, total),), replace=False))
    delta, gamma = [], []
    for i, pick in enumerate(np.sort(picks)):
        one = _at_draw(here, *(jnp.asarray(a[pick]) for a in (images, spectrum, brightness)))
        found = _delta_of_draw(one, prior, spectra, jax.random.fold_in(probe, i), num_probes)
        delta.append(np.asarray(found, float))
        gamma.append(-np.sum(delta[-1] * images[pick], axis=(1, 2)))
    mean, error = _mean_and_error(np.stack(delta))
    gamma_mean, gamma_error = _mean_and_error(np.stack(gamma))
    return {
        "mean_delta_f": (_PIXELS, mean),
        "mean_delta_f_error": (_PIXELS, error),
        "mean_gamma": ("source", gamma_mean),
        "mean_gamma_error": ("source", gamma_error),
        "significant": (_PIXELS, np.abs(mean) > 3 * error),
    }


def _mean_and_error(values):
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def _check_draws(result: Deblended, tree) -> None:
    """Raise InputError for draws of another scene."""
    found = morphology_draws(group(tree, "posterior"))
    for name, prior in result.priors().items():
        ids = [str(i) for i in np.array(result.positions.ids)[result.kinds == name]]
        known = found.get(name, found.get(""))
        if known is None or known.shape[3:] != prior.event_shape or known_ids(known) != ids:
            raise InputError("the draws are not of this scene: they hold other sources.")


def _draws(tree, name: str):
    """Images, spectra and brightnesses of one group, one chain after the other."""
    posterior = group(tree, "posterior")
    found = morphology_draws(posterior)
    images = found.get(name, found.get(""))
    every = [str(i) for i in posterior["source"].values]
    rows = [every.index(i) for i in known_ids(images)]
    arrays = [images, *(posterior[n].isel(source=rows) for n in ("spectrum", "brightness"))]
    return [np.asarray(a).reshape(-1, *a.shape[2:]) for a in arrays]


@eqx.filter_jit
def _at_draw(here: _Galaxies, morphology, spectrum, brightness) -> _Galaxies:
    unit = here.data.render(morphology, here.corner)
    return _Galaxies(
        here.data, morphology, here.corner, spectrum, brightness, unit, here.color_width
    )


@eqx.filter_jit
def _delta_of_draw(here: _Galaxies, prior, spectra, key, num_probes):
    z = prior.stretch.inv(here.morphology)
    slope = _slope(prior, z)
    signs = jax.random.rademacher(key, (num_probes, *z.shape), z.dtype)
    energy = StretchedEnergy(prior)

    def product(v):
        # Sources are independent under the prior: one probe serves them all.
        return jax.jvp(jax.vmap(jax.grad(energy)), (z,), (v,))[1]

    curvature = (signs * jax.lax.map(product, signs, batch_size=8)).mean(0)
    return curvature - _data_curvature(here, spectra) * slope**2
