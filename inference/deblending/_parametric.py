"""A fitted scene of bulges, disks and stars, and the way from it to the free-form one."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.data._observation import Observation
from scorepriors.models.data._positions import Positions
from scorepriors.models.rendering._rendering import ImageData
from scorepriors.models.scene._blend import GROUPS, site_name
from scorepriors.models.sources._sources import (
    Morphologies,
    Sources,
    bulge_disk_image,
    place_sources,
    point_image,
)

from ._scenes import Deblended, collect_scene, source_kinds
from ._starting import GAUSSIAN_WIDTH, blobs, free_form_start

#: A galaxy gets a larger box if the smaller one would cut off more than this share of the
#: light of its fitted profile.
CUT_OFF = 0.01

PROFILE_NAMES = ("log_radius", "ellipticity", "bulge_logit", "bulge_log_ratio", "bulge_ellipticity")


class ParametricScene:
    """A fitted parametric scene.

    Parameters
    ----------
    obs, positions, data
        What was fitted.
    stars, galaxies
        The groups of the fit, padded.
    fit
        The fit.
    priors
        Of the free-form scene, boxes growing: one, or a second of larger boxes.
    options
        Keywords of the model: ``box``, ``star_box``, ``psf_sigma``.
    start
        See `scorepriors.inference.deblend`.
    """

    def __init__(
        self,
        obs: Observation,
        positions: Positions,
        data: ImageData,
        *,
        stars,
        galaxies,
        fit: MAPResult,
        priors: Sequence[ScorePrior],
        options: dict,
        start: str,
    ):
        self.obs, self.positions, self.data = obs, positions, data
        self.stars: Any = stars
        self.galaxies: Any = galaxies
        self.fit, self.priors, self.options, self.start = fit, priors, options, start
        self.is_point = np.asarray(positions.is_point)
        self.center = np.array(positions.row_column, float)
        for which, group, kind in (
            (self.is_point, stars, "stars"),
            (~self.is_point, galaxies, "profiles"),
        ):
            if group is not None:
                self.center[which] += self._values(kind)["offset"][: which.sum()]
        self.is_large = np.zeros(len(self.is_point), bool)
        if len(priors) > 1 and galaxies is not None and start != "blobs":
            self.is_large[~self.is_point] = self._cut_off(priors) > CUT_OFF
        #: Boxes of the free-form sources by group, about the fitted centers: a prior is
        #: strict about centring.
        self.boxes: dict[str, Sources] = {}

    @property
    def kinds(self) -> np.ndarray:
        """Groups of the sources in the free-form scene, ``[K]``."""
        return source_kinds(self.is_point, self.is_large)

    def place_boxes(self, priors: dict[str, ScorePrior], sizes: dict[str, int]) -> None:
        """Place the boxes of the free-form sources, each group padded to a size."""
        for name, prior in priors.items():
            center = self.center[self.kinds == name]
            self.boxes[name] = place_sources(center, box=prior.event_shape[-1], size=sizes[name])
        if self.start == "blobs":
            self.boxes["galaxies"] = self.galaxies

    def _values(self, kind: str) -> dict:
        groups = [
            n for n, g in (("stars", self.stars), ("profiles", self.galaxies)) if g is not None
        ]
        prefix = site_name(groups, kind, "")
        return {
            n.removeprefix(prefix): v for n, v in self.fit.values.items() if n.startswith(prefix)
        }

    def _cut_off(self, priors: Sequence[ScorePrior]) -> np.ndarray:
        """Share of each galaxy's light, as fitted, that the smaller boxes do not hold."""
        center = self.center[~self.is_point]
        rows = np.arange(len(center))
        small, large = (
            self._profiles(place_sources(center, box=box), rows, box).image.sum((-2, -1))
            for box in (prior.event_shape[-1] for prior in priors)
        )
        return 1 - small / large

    def _profiles(self, boxes: Sources, rows: np.ndarray, side: int) -> Morphologies:
        """Fitted bulges and disks, by their rows in the fit, on other boxes."""
        values = {n: np.asarray(v)[rows] for n, v in self._values("profiles").items()}
        center = np.asarray(self.galaxies.center)[rows] + values["offset"]
        # Padding stays in the middle of its box.
        center = np.where(np.asarray(boxes.mask)[:, None], center, np.asarray(boxes.center))
        image = bulge_disk_image(
            center - np.asarray(boxes.corner),
            *(values[n] for n in PROFILE_NAMES),
            box=side,
            psf_sigma=self.options["psf_sigma"],
            xp=np,
        )
        return Morphologies(image, boxes.corner, boxes.mask)

    def _profiles_of(self, name: str, side: int) -> Morphologies:
        """Fitted bulges and disks on the boxes of a free-form group."""
        boxes = self.boxes[name]
        rows = np.flatnonzero((self.kinds == name)[~self.is_point])
        spare = np.flatnonzero(~np.asarray(self.galaxies.mask))
        # Padding looks like the padding of the fit, if that had any.
        filler = spare if len(spare) else rows if len(rows) else np.array([0])
        rows = np.concatenate([rows, np.resize(filler, len(boxes.mask) - len(rows))])
        return self._profiles(boxes, rows, side)

    def _star_images(self, offset) -> Morphologies:
        stars = self.stars
        place = np.asarray(stars.center) + np.asarray(offset) - np.asarray(stars.corner)
        image = point_image(
            place, box=self.options["star_box"], psf_sigma=self.options["psf_sigma"], xp=np
        )
        return Morphologies(image, stars.corner, stars.mask)

    def _free_form_groups(self) -> list[str]:
        found = {*self.boxes, *(() if self.stars is None else ("stars",))}
        return [name for name in GROUPS if name in found]

    def free_form_start(self, priors: dict[str, ScorePrior], before: MAPResult | None = None):
        """Start values and widths of the free-form fit.

        Parameters
        ----------
        priors
            By group, at the noise level of the fit.
        before
            A free-form fit at another noise level, to go on from.
        """
        site = partial(site_name, self._free_form_groups())
        groups = {}
        for name, prior in priors.items():
            boxes, side = self.boxes[name], prior.event_shape[-1]
            if before is not None:
                image = before.values[site(name, "morphology")]
                groups[name] = Morphologies(image, boxes.corner, boxes.mask)
            elif self.start == "blobs":
                image = blobs(boxes, side, GAUSSIAN_WIDTH * side)
                groups[name] = Morphologies(image, boxes.corner, boxes.mask)
            else:
                groups[name] = self._profiles_of(name, side)
        # Once a fit has seen the data its fluxes are nobody's start any more.
        start = self.start if before is None else "profiles"
        stars = None
        if self.stars is not None:
            where = (
                self._values("stars")["offset"]
                if before is None
                else before.values[site("stars", "offset")]
            )
            offset = np.asarray(where)
            stars = self._star_images(offset)
        init, scale = free_form_start(
            self.data,
            priors.get("galaxies"),
            groups.get("galaxies"),
            stars,
            priors.get("large"),
            groups.get("large"),
            start=start,
        )
        if stars is not None:
            init[site("stars", "offset")] = offset
            scale[site("stars", "offset")] = np.full_like(offset, 0.02)
        return init, scale

    def result(
        self, priors: dict[str, ScorePrior], final: MAPResult | None, seconds: dict
    ) -> Deblended:
        """Both scenes, with the free-form fit `final` if there was one.

        Parameters
        ----------
        priors
            By group.
        final
            The fit.
        seconds
            Wall time per stage.
        """
        groups = {}
        if self.stars is not None:
            groups["stars"] = self._star_images(self._values("stars")["offset"])
        if self.galaxies is not None:
            rows = np.arange(len(self.galaxies.mask))
            groups["profiles"] = self._profiles(self.galaxies, rows, self.options["box"])
        kinds = np.where(self.is_point, "stars", "profiles")
        parametric = free_form = collect_scene(self.obs, self.data, groups, kinds, self.fit)
        is_large = self.is_large
        if final is not None:
            free_form = collect_scene(self.obs, self.data, self._fitted(final), self.kinds, final)
        else:
            is_large = np.zeros_like(is_large)
        return Deblended(
            self.obs,
            self.positions,
            priors["galaxies"],
            free_form,
            parametric,
            self.center,
            self._profile(),
            seconds,
            priors.get("large") if is_large.any() else None,
            is_large,
        )

    def _fitted(self, final: MAPResult) -> dict[str, Morphologies]:
        """Sources of the free-form fit by group."""
        site = partial(site_name, self._free_form_groups())
        groups = {}
        for name in self._free_form_groups():
            if name == "stars":
                groups[name] = self._star_images(final.values[site(name, "offset")])
            else:
                image = np.asarray(final.values[site(name, "morphology")])
                boxes = self.boxes[name]
                groups[name] = Morphologies(image, boxes.corner, boxes.mask)
        return groups

    def _profile(self) -> dict:
        if self.galaxies is None:
            return {}
        out, values = {}, self._values("profiles")
        for name in PROFILE_NAMES:
            value = np.asarray(values[name])
            full = np.full((len(self.is_point), *value.shape[1:]), np.nan)
            full[~self.is_point] = value[: (~self.is_point).sum()]
            out[name] = full
        return out
