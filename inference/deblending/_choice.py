"""Which model a galaxy needs after the parametric fit: a profile, a wide one, or a free form."""

import numpy as np

from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._parametric import AbstractParametric
from scorepriors.models.sources._placement import Placement, place_sources
from scorepriors.models.sources._two_color import TwoColor

from ._result import FittedScene, chi2_on, chi2_spread

#: Share of a profile outside of a box below which there is nothing to look for, and least
#: significance of what is there.
SMALLEST_SHARE, SIGNIFICANT = 0.005, 3.0

#: Excess of a source's chi2, in standard deviations of noise, above which its profile is not
#: believed.
REFUSED = 2.0

#: Signal to noise of all bands below which free forms are no better than profiles.
FAINT = 20.0


def explained(found: FittedScene) -> np.ndarray:
    """Return which sources of a parametric scene need no other model, ``[N]``.

    Those whose chi2 is not above that of noise, and those too faint for a learned prior to matter.
    """
    weights = [np.asarray(one.noise.diagonal()) for one in found.scene.exposures]
    excess = (found.source_chi2 - 1) / np.maximum(chi2_spread(found.light, weights), 1e-30)
    light = np.zeros(len(excess))
    for image, one in zip(found.convolved, found.scene.exposures, strict=True):
        light += np.asarray(one.noise.inner(image, image), float).sum(1)
    return (excess < REFUSED) | (np.sqrt(light) < FAINT)


def no_better(found: FittedScene, final: FittedScene) -> np.ndarray:
    """Return which sources a scene of free forms explains no better than a parametric one, ``[N]``.

    Those that it does not explain either, and whose chi2 it lowers by less than what refuses a
    profile: what is left is then no structure of the source, but light that no source has, or at
    the border.  Both are taken on the footprint of the profile.
    """
    weights = [np.asarray(one.noise.diagonal()) for one in found.scene.exposures]
    spread = np.maximum(chi2_spread(found.light, weights), 1e-30)
    left = chi2_on(found.light, final)
    return (left - 1 >= REFUSED * spread) & (found.source_chi2 - left < REFUSED * spread)


def cut_off(scene: Scene, values: dict, box: int, within: int) -> np.ndarray:
    """Return the share of the light of profiles outside of a box, ``[N]``; zero for other kinds.

    Parameters
    ----------
    scene, values
        Scene of stars and parametric galaxies, and its fitted site values.
    box, within
        Sides of the box, and of one that holds all of the light, pixels.
    """
    out = np.zeros(len(scene.order))
    index = _rows(scene)
    real = index >= 0
    inner, whole = (profiles(scene, values, side).sum((-2, -1)) for side in (box, within))
    out[index[real].astype(int)] = (1 - inner / np.maximum(whole, 1e-30))[real]
    return out


def seen_beyond(scene: Scene, values: dict, found: FittedScene, box: int, wide) -> np.ndarray:
    """Return the share of the light of each galaxy that is seen outside of a box, ``[N]``.

    Not what the profile has there, which was fitted to the inner parts, but how much of that the
    first image shows; zero where it is not significant.

    Parameters
    ----------
    scene, values, found
        Scene of stars and parametric galaxies, its fitted site values, and what it looks like.
    box
        Side of the box in pixels.
    wide
        Exposure with kernels for boxes that hold all of the light, and their side.
    """
    exposure, whole = wide
    share = cut_off(scene, values, box, whole)
    index = _rows(scene)
    slots = [s for s, row in enumerate(index) if row >= 0 and share[int(row)] > SMALLEST_SHARE]
    if not slots:
        return np.zeros(len(share))
    rows = index[slots].astype(int)
    image = profiles(scene, values, whole)[slots]
    centers = found.center[rows]
    corner = place_sources(centers, box=whole).corner
    inner = place_sources(centers, box=box).corner - corner
    own = np.concatenate(
        [scene[n].boxes(scene.values_of(n, values)).image.sum((1, 2)) for n in galaxies_of(scene)]
    )[slots]
    # Images of the scene's profiles have this scale.
    scale = (found.flux[rows][:, : exposure.num_bands] / own[:, None])[:, :, None, None]
    full = scale * exposure.render_on_host(image, corner)
    for one, (row, column) in zip(image, inner, strict=True):
        one[row : row + box, column : column + box] = 0.0
    drawn = scale * exposure.render_on_host(image, corner)
    everything = found.convolved[0].sum(0) - found.convolved[0][rows].sum(0) + full.sum(0)
    residual = np.asarray(exposure.images) - found.convolved[0].sum(0)
    sides = np.concatenate([np.full(len(scene[n].at), scene[n].at.box) for n in galaxies_of(scene)])
    out = np.zeros(len(share))
    for row, outer, mine, side in zip(rows, drawn, full, sides[slots], strict=True):
        # In boxes as wide as that the outer part is in the model already.
        left = residual + outer if side >= whole else residual
        # The outskirts of a bright galaxy are not those of its neighbors.
        if outer[everything - mine < outer].sum() < 0.5 * outer.sum():
            continue
        squared = float(np.asarray(exposure.noise.inner(outer, outer), float).sum())
        if squared > 0:
            part = float(np.asarray(exposure.noise.inner(outer, left), float).sum()) / squared
            out[row] = share[row] * part if part * squared**0.5 > SIGNIFICANT else 0.0
    return out


def galaxies_of(scene: Scene) -> tuple[str, ...]:
    """Return the names of the groups of parametric galaxies."""
    return tuple(name for name in ("profiles", "wide") if name in scene.names)


def _rows(scene: Scene) -> np.ndarray:
    """Return the rows in the catalog of the slots of parametric galaxies; -1 for padding."""
    each = [np.asarray(scene[name].at.index) for name in galaxies_of(scene)]
    return np.concatenate([np.zeros(0, int), *each])


def profiles(scene: Scene, values: dict, box: int) -> np.ndarray:
    """Return fitted profiles on boxes of one side about their centers, ``[K, n, n]``.

    K runs over the slots of parametric galaxies.
    """
    images = [np.zeros((0, box, box))]
    for name in galaxies_of(scene):
        group = scene[name]
        host = {site: np.asarray(v) for site, v in scene.values_of(name, values).items()}
        corner = place_sources(group.centers(host), box=box).corner
        at = Placement(group.at.center, corner, group.at.index, box)
        images.append(np.asarray(group.on(at).image(host, np)))
    return np.concatenate(images)


def carried(before: Scene, values: dict, scene: Scene) -> dict[str, np.ndarray]:
    """Return site values of the parametric groups of another scene of the same sources.

    Parameters
    ----------
    before, values
        The fitted scene, and its values.
    scene
        The other scene.  Its padding has the usual values of the priors.
    """
    known = [source_values(before, values, row) for row in range(len(before.order))]
    out = {}
    for group in scene.sources:
        if not isinstance(group, AbstractParametric):
            continue
        for name, site in group.sites.items():
            shape = (len(group.at), 2) if site.axis else (len(group.at),)
            value = np.full(shape, np.asarray(site.mean), np.float32)
            for slot, row in enumerate(np.asarray(group.at.index)):
                value[slot] = known[row].get(name, value[slot]) if row >= 0 else value[slot]
            out[f"{group.name}/{name}"] = value
    return out


def parts_of(scene: Scene, values: dict, at: Placement, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the shapes of the bulges and disks of some galaxies for `TwoPart`, padded.

    Parameters
    ----------
    scene, values
        Scene of bulges and disks with spectra of their own, and its fitted values.
    at
        Places of the galaxies.
    rows
        Their rows in the catalog, ``[K]``; -1 for padding.
    """
    centers = scene.centers(values)
    known = [source_values(scene, values, row) for row in rows if row >= 0]
    group = next(g for g in scene.sources if isinstance(g, TwoColor))
    found = {}
    for name, site in group.sites.items():
        each = np.full((len(rows), 2) if site.axis else (len(rows),), float(site.mean))
        each[: len(known)] = [one[name] for one in known]
        found[name] = each
    found["offset"] = np.zeros((len(rows), 2))
    found["offset"][: len(known)] = centers[rows[rows >= 0]] - at.center[: len(known)]
    return found


def source_values(scene: Scene, values: dict, row: int) -> dict[str, np.ndarray]:
    """Return the fitted site values of one source, by name without prefix."""
    slot, first, count = scene.order[row], 0, scene.num_sources
    whole = {n: np.asarray(v) for n, v in values.items() if "/" not in n}
    found = {n: v[slot] for n, v in whole.items() if v.ndim and len(v) == count}
    for group in scene.sources:
        if first <= slot < first + len(group.at):
            own = scene.values_of(group.name, values)
            found |= {n: np.asarray(v)[slot - first] for n, v in own.items()}
        first += len(group.at)
    return found
