"""The sky of a deblending: what is subtracted before a fit, and what the fit finds of the rest.

The level of the empty pixels is subtracted first.  What is left of the sky is integrated out with the
spectra, under a prior so wide that the pixels decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from scorepriors.models.data._field_checks import check_field, has_hopeless_sky
from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._sky_level import has_slope, sky_level
from scorepriors.models.data._warnings import note
from scorepriors.models.noise._abstract import AbstractNoise
from scorepriors.models.noise._sky import SKIES, Sky, sky_templates
from scorepriors.models.rendering._exposure import Exposure

from .photometry._equations import inverse

#: Width of the prior of what is left of the sky, in units of the usual noise of a pixel.  The pixels
#: know it to a fiftieth of that, so that they decide, not the prior; and a scene that has no empty
#: pixel at all still says something.
WIDTH = 1.0


@dataclass(frozen=True)
class FittedSky:
    """The sky of the images of an observation.

    Attributes
    ----------
    kind
        ``"constant"`` or ``"plane"``.
    level, error
        Coefficients and standard deviations ``[B, K]`` for every image, image units: the level in
        its middle, and for a plane half of its change along rows and columns.
    shapes
        Height and width of every image.
    """

    kind: str
    level: tuple[Float[np.ndarray, "_ K"], ...]
    error: tuple[Float[np.ndarray, "_ K"], ...]
    shapes: tuple[tuple[int, int], ...]

    @property
    def images(self) -> tuple[np.ndarray, ...]:
        """The sky of every image, ``[B, H, W]``."""
        return tuple(
            sky_image(level, shape, self.kind)
            for level, shape in zip(self.level, self.shapes, strict=True)
        )

    def facts(self, bands: Sequence[str]) -> dict:
        """Return the sky by band, ready for JSON."""
        rows = zip(
            bands, (r for one in self.level for r in one), (r for one in self.error for r in one)
        )
        names = ("level", "half_change_along_rows", "half_change_along_columns")
        found = {
            band: {
                name: {"value": float(value), "error": float(error)}
                for name, value, error in zip(names, level, errors)
            }
            for band, level, errors in rows
        }
        return {"kind": self.kind, "bands": found}

    def as_json(self) -> dict:
        """Return everything, ready for JSON."""
        level, error = ([one.tolist() for one in each] for each in (self.level, self.error))
        return {"kind": self.kind, "level": level, "error": error, "shapes": list(self.shapes)}

    @classmethod
    def from_json(cls, facts: dict | None) -> "FittedSky | None":
        """Return the sky of `as_json`; None of None."""
        if facts is None:
            return None
        level, error = (tuple(map(np.array, facts[name])) for name in ("level", "error"))
        return cls(facts["kind"], level, error, tuple((h, w) for h, w in facts["shapes"]))

    def plus(self, level: Sequence[np.ndarray], error: Sequence[np.ndarray]) -> "FittedSky":
        """Return the sky with more of it, known with these errors."""
        total = tuple(old + new for old, new in zip(self.level, level, strict=True))
        return replace(self, level=total, error=tuple(error))


def sky_image(level: np.ndarray, shape: tuple[int, int], kind: str) -> np.ndarray:
    """Return the image ``[B, H, W]`` of coefficients ``[B, K]``."""
    templates = np.asarray(sky_templates(shape, kind), float)
    return np.tensordot(level, templates, 1).astype(np.float32)


def kind_of_sky(obs, positions, option: str | None) -> str | None:
    """Return the kind of sky to fit, or None.

    Parameters
    ----------
    obs, positions
        Observation, or joined observations, and positions of the sources.
    option
        Option of `deblend`.
    """
    if option != "auto":
        return None if option == "none" else option
    found = check_field(obs, positions)
    if not {"sky", "gradient"} & found.keys() or has_hopeless_sky(obs, positions):
        return None
    sloped = (
        has_slope(view.observation, None if number else positions)
        for number, view in enumerate(obs.views)
    )
    return "plane" if any(sloped) else "constant"


def with_level_subtracted(obs, positions, kind: str):
    """Return an observation without the level of its empty pixels, and that as `FittedSky`.

    Parameters
    ----------
    obs, positions
        Observation, or joined observations, and positions of the sources.
    kind
        ``"constant"`` or ``"plane"``.
    """
    level = tuple(
        sky_level(view.observation, None if number else positions, kind)
        for number, view in enumerate(obs.views)
    )
    nothing = no_sky(obs, kind)
    found = nothing.plus(level, nothing.error)
    return without(obs, found.images), found


def no_sky(obs, kind: str) -> FittedSky:
    """Return the sky of images that are already without its level, before it is fitted."""
    size = SKIES[kind]
    error = tuple(
        np.repeat(WIDTH * _widths(view.observation.weights)[:, None], size, axis=1)
        for view in obs.views
    )
    level = tuple(np.zeros(one.shape) for one in error)
    return FittedSky(kind, level, error, tuple(view.observation.shape for view in obs.views))


def without(obs, light: Sequence[np.ndarray] | None):
    """Return an observation without known light ``[B, H, W]`` of every image."""
    if light is None:
        return obs
    if isinstance(obs, JointObservation):
        each = zip(obs.views, light, strict=True)
        views = tuple(replace(v, observation=without(v.observation, (o,))) for v, o in each)
        return replace(obs, views=views)
    return replace(obs, images=obs.images - light[0] * (obs.weights > 0))


def with_sky(noises: Sequence[AbstractNoise], obs, kind: str | None) -> list[AbstractNoise]:
    """Return models of the noise with what is left of a sky integrated out.

    Parameters
    ----------
    noises
        Noise of every image.
    obs
        The observation.
    kind
        Kind of sky; None for none.
    """
    if kind is None:
        return list(noises)
    return [
        Sky.about(noise, WIDTH * _widths(view.observation.weights), kind)
        for noise, view in zip(noises, obs.views, strict=True)
    ]


def left_of_sky(
    exposures: Sequence[Exposure], convolved: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return what is left of the sky beside fitted sources, and errors that know their fluxes.

    Parameters
    ----------
    exposures
        Exposures whose noise is a `Sky`.
    convolved
        Sources as observed, ``[N, B, H, W]`` of every exposure.

    Returns
    -------
    level, error
        Coefficients ``[B, K]`` of every exposure, and standard deviations for given shapes.
    """
    levels, errors = [], []
    for one, drawn in zip(exposures, convolved, strict=True):
        noise = one.noise
        if not isinstance(noise, Sky):
            raise TypeError("the sky is that of exposures whose noise is a Sky.")
        level, _ = noise.level(np.asarray(one.images) - drawn.sum(0))
        levels.append(np.asarray(level, float))
        templates, width = np.asarray(noise.templates), np.asarray(noise.width, float)
        unit = np.broadcast_to(templates[:, None], (len(templates), *drawn.shape[1:]))
        design = np.concatenate([drawn, unit])
        weighed = np.asarray(noise.noise.precision(design), float)
        error = np.zeros(width.shape)
        for band in range(drawn.shape[1]):
            mine = weighed[:, band].reshape(len(design), -1)
            normal = mine @ design[:, band].reshape(len(design), -1).T
            prior = np.concatenate([np.zeros(len(drawn)), 1 / width[band] ** 2])
            covariance = inverse((normal + normal.T) / 2 + np.diag(prior))
            error[band] = np.sqrt(np.diag(covariance)[len(drawn) :])
        errors.append(error)
    return levels, errors


def tell_sky(sky: FittedSky, bands: Sequence[str]) -> None:
    """Say that a sky was found and is fitted with the sources."""
    level = np.concatenate([one[:, 0] for one in sky.level])
    each = ", ".join(f"{v:.3g} (band {b})" for v, b in zip(level, bands, strict=True))
    note(
        f"a sky is left in, per pixel {each}: it is fitted with the sources, as sky={sky.kind!r} "
        f"(--sky {sky.kind} in the shell) does; sky='none' leaves it in."
    )


def _widths(weights: np.ndarray) -> np.ndarray:
    """Return the usual noise of a pixel in every band, ``[B]``; one without data."""
    return np.array([np.median(w[w > 0]) ** -0.5 if (w > 0).any() else 1.0 for w in weights])
