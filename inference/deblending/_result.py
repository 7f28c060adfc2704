"""Results of a deblending: fitted scenes, in the order of the catalog."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._surveys import survey_of_pixels
from scorepriors.inference._status import FitStatus
from scorepriors.inference.fitting._map import MAPResult
from scorepriors.models.data._joint import JointObservation
from scorepriors.models.data._observation import Observation
from scorepriors.models.data.positions._positions import Positions
from scorepriors.models.rendering._placing import overlap
from scorepriors.models.scene._scene import Scene
from scorepriors.models.sources._abstract import AbstractSource, Column, Morphologies
from scorepriors.models.sources._moving import MovingStar
from scorepriors.models.spectra._epochs import EpochSpectra

from ._defaults import MAX_ITERATIONS, TOLERANCE
from ._seen import has_data, seen_share
from ._sky import FittedSky
from ._units import in_one_unit, units_of
from .photometry._equations import inverse
from .photometry._photometry import Photometry, photometry


@dataclass(frozen=True)
class FittedScene:
    """A scene at the mode found by a fit, without padding, in the order of the catalog.

    Attributes
    ----------
    scene
        The fitted scene.
    fit
        The fit.
    morphology
        Images ``[N, H, W]`` on the grid of the first image at the model's resolution, total
        flux of one.  Light beyond the image is missing here, but counted in `flux`.
    convolved
        Sources as observed, ``[N, B, H, W]`` of every exposure, in the units of the image.
    flux, flux_error
        Fluxes ``[N, B]`` of the mode in the bands of all exposures, units of the image, and
        errors for given morphologies.
    least_squares
        Fluxes ``[N, B]`` for these morphologies without any prior; zero in bands without data.
    chi2
        Mean chi2 per unmasked pixel.
    source_chi2
        Chi2 on the footprint of each source, ``[N]`` (`footprint_chi2`).
    bulge_fraction
        Share of the second part in the flux of sources of two parts with spectra of their own,
        ``[N, B]``, NaN for others; None where there are none.
    gradient, moved
        Amplitudes ``[N, B]`` of color gradients of such sources, and their images ``[N, H, W]``; None
        likewise.
    """

    scene: Scene
    fit: MAPResult
    morphology: np.ndarray
    convolved: tuple[np.ndarray, ...]
    flux: np.ndarray
    flux_error: np.ndarray
    least_squares: np.ndarray
    chi2: float
    source_chi2: np.ndarray
    bulge_fraction: np.ndarray | None = None
    gradient: np.ndarray | None = None
    moved: np.ndarray | None = None

    def model(self, number: int) -> np.ndarray:
        """Return a source at the model's resolution in every band, ``[B, H, W]``."""
        found = self.morphology[number] * self.flux[number][:, None, None]
        if self.gradient is None or self.moved is None:
            return found
        return found + self.moved[number] * self.gradient[number][:, None, None]

    @property
    def light(self) -> tuple[np.ndarray, ...]:
        """`convolved` with all bands in one unit of flux, that of the first."""
        return in_one_unit(self.convolved, units_of(self.scene.exposures))

    @property
    def kinds(self) -> np.ndarray:
        """Name of the group of every source, ``[N]``."""
        return self.scene.kinds()

    @property
    def models(self) -> np.ndarray:
        """Model of every source, ``[N]``: ``point``, ``profile`` or ``free-form``."""
        words = {group.name: _word(group) for group in self.scene.sources}
        return np.array([words[kind] for kind in self.kinds], dtype="U9")

    @property
    def center(self) -> np.ndarray:
        """Fitted (row, column) of every source, ``[N, 2]``, pixels."""
        return self.scene.centers(self.fit.values)

    @property
    def columns(self) -> list[Column]:
        """Columns that kinds of sources add to the catalog, ``[N]``, NaN for other kinds."""
        found: dict[str, Column] = {}
        rows = len(self.scene.order)
        for group in self.scene.sources:
            index = np.asarray(group.at.index)
            real = index >= 0
            values = self.scene.values_of(group.name, self.fit.values)
            for column in group.columns(values):
                whole = found.get(column.name)
                full = np.full(rows, np.nan) if whole is None else whole.values
                own = np.asarray(column.values)
                if own.shape != index.shape:
                    raise InputError(
                        f"the column {column.name!r} of {type(group).__name__} has the shape "
                        f"{own.shape}; it must have one value for each of {len(index)} sources."
                    )
                full[index[real]] = own[real]
                found[column.name] = column._replace(values=full)
        return list(found.values())


@dataclass(frozen=True)
class Deblended:
    """Result of `scorepriors.inference.deblend`.

    Attributes
    ----------
    observation, positions
        Observation and positions of the sources, as given or detected.
    free_form
        Fitted scene under the learned prior: the result.
    parametric
        Fitted scene of parametric profiles, from which that fit started.
    photometry
        Fluxes with errors that know shapes, neighbors and the model.
    seconds
        Wall time per stage; of a batch, each blend's share.
    psf_sigma
        Standard deviation in pixels of the PSF in the morphologies; None for none.
    noise_from_model
        Bands in which the variance of the file followed the noise of its own pixels, so that the
        noise of sources in the weights of `observation` comes from the parametric scene.
    sky
        Sky that was fitted with the sources, and that the images of `observation` are without; or
        None.
    kept
        Share ``[B, H, W]`` of the weight of each pixel that was kept, lower where there are outliers,
        for each image; None if there are none.
    model_error
        Error of the model in units of its light, ``[B]`` for each image, which is in the weights of
        `observation`; None if none was needed.
    max_iterations, tolerance
        Options of its fits, with which `simplest` fits the scene again.
    """

    observation: Observation | JointObservation
    positions: Positions
    free_form: FittedScene
    parametric: FittedScene
    photometry: Photometry
    seconds: dict
    psf_sigma: float | None = 0.7
    noise_from_model: tuple[str, ...] = ()
    sky: FittedSky | None = None
    kept: tuple[np.ndarray, ...] | None = None
    model_error: tuple[np.ndarray, ...] | None = None
    max_iterations: int = MAX_ITERATIONS
    tolerance: float = TOLERANCE

    @property
    def variable(self) -> tuple[str, ...]:
        """Names of the sources that vary between epochs."""
        spectra = self.parametric.scene.spectra
        if not isinstance(spectra, EpochSpectra):
            return ()
        return tuple(name for name, row in zip(self.positions.ids, spectra.rows) if row)

    @property
    def moving(self) -> tuple[str, ...]:
        """Names of the stars that move."""
        groups = (g for g in self.parametric.scene.sources if isinstance(g, MovingStar))
        rows = {int(row) for group in groups for row in np.asarray(group.at.index) if row >= 0}
        return tuple(name for row, name in enumerate(self.positions.ids) if row in rows)

    @classmethod
    def of(
        cls,
        observation: Observation | JointObservation,
        positions: Positions,
        free_form: FittedScene,
        parametric: FittedScene,
        seconds: dict,
        psf_sigma: float | None,
        noise_from_model: tuple[str, ...] = (),
        sky: FittedSky | None = None,
        kept: tuple[np.ndarray, ...] | None = None,
        model_error: tuple[np.ndarray, ...] | None = None,
        max_iterations: int = MAX_ITERATIONS,
        tolerance: float = TOLERANCE,
    ) -> "Deblended":
        """Return the result of two fits, with the photometry that follows from them."""
        weights = [view.observation.weights for view in observation.views]
        seen = has_data(seen_share(free_form.convolved, weights, free_form.flux))
        errors = survey_of_pixels(observation.pixel_scale).errors
        return cls(
            observation,
            positions,
            free_form,
            parametric,
            photometry(
                parametric.scene, parametric, free_form, seen, errors, free_form.models == "profile"
            ),
            seconds,
            psf_sigma,
            noise_from_model,
            sky,
            kept,
            model_error,
            max_iterations,
            tolerance,
        )

    @property
    def scene(self) -> Scene:
        """The scene of the result: ``sample(blend, result.scene, ...)``."""
        return self.free_form.scene

    @property
    def converged(self) -> bool:
        """Whether both fits converged: fluxes are of the one, most of their errors of the other.

        Profiles that a field left early, since free forms follow where they can't rest, count as
        converged.
        """
        profiles = self.parametric.fit
        left = profiles.status is FitStatus.LEFT
        return bool(self.free_form.fit.converged and (left or profiles.converged))

    @property
    def center(self) -> np.ndarray:
        """Centers (row, column) of the sources in the parametric scene, ``[N, 2]``, pixels."""
        return self.parametric.center

    @property
    def kinds(self) -> np.ndarray:
        """Name of the group of every source, ``[N]``."""
        return self.free_form.kinds

    @property
    def is_point(self) -> np.ndarray:
        """Mask ``[N]``, True for stars."""
        return np.asarray(self.positions.is_point)

    @property
    def num_down_weighted(self) -> dict[str, int]:
        """Number of pixels that lost more than half of their weight as outliers, by band."""
        bands = self.observation.bands
        if self.kept is None:
            return dict.fromkeys(bands, 0)
        lost = [one < 0.5 for one in self.kept]
        return dict(zip(bands, (int(band.sum()) for one in lost for band in one), strict=True))

    @property
    def error_of_model(self) -> dict[str, float]:
        """Error of the model in units of its light, by band."""
        bands = self.observation.bands
        if self.model_error is None:
            return dict.fromkeys(bands, 0.0)
        return dict(zip(bands, map(float, np.concatenate(self.model_error)), strict=True))

    def priors(self) -> dict[str, ScorePrior]:
        """Learned priors by the group of their sources."""
        kinds = set(self.kinds)
        learned = {g.name: g.learned for g in self.scene.sources if g.name in kinds}
        return {name: prior for name, prior in learned.items() if prior is not None}

    @property
    def prior_name(self) -> str:
        """Names of the priors, for display; empty without free-form sources."""
        return " and ".join(str(prior.name) for prior in self.priors().values())

    @property
    def sigma0(self) -> float | None:
        """Noise level of the priors; None without free-form sources."""
        return next((float(prior.sigma) for prior in self.priors().values()), None)


def _word(group: AbstractSource) -> str:
    """Return the word for sources of a kind in the catalog's column ``model``."""
    return "free-form" if group.learned is not None else group.flag or "profile"


def collect_scene(scene: Scene, fit: MAPResult) -> FittedScene:
    """Collect a fit's sources in the order of the catalog, without padding.

    Parameters
    ----------
    scene
        The fitted scene.
    fit
        The fit of `blend`.
    """
    order = scene.order
    boxes = scene.morphologies(fit.values)
    spectrum = np.asarray(fit.values["spectrum"])[order]
    flux, error = (np.asarray(fit.values[name])[order] for name in ("flux", "flux_error"))
    area = np.concatenate([b.image.sum((-2, -1)) for b in boxes])[order]
    gradient = np.asarray(fit.values["gradient"])[order] if "gradient" in fit.values else None
    moved = [] if gradient is None else _gradient_boxes(boxes)
    shape, first = scene.exposures[0].shape, 0
    convolved, squared, fitted = [], [], []
    for number, one in enumerate(scene.exposures):
        bands = slice(first, first + one.num_bands)
        first += one.num_bands
        unit = _drawn(one, [b._replace(image=b.seen(number)) for b in boxes], order)
        drawn = unit * spectrum[:, bands, None, None]
        added = None
        if gradient is not None:
            added = _drawn(one, moved, order) * gradient[:, bands, None, None]
            drawn += added
        fitted.append(_least_squares(one, unit, added))
        convolved.append(drawn)
        squared.append(_squared_residual(one, drawn.sum(0)))
    seen = [np.asarray(one.noise.diagonal()) > 0 for one in scene.exposures]
    return FittedScene(
        scene=scene,
        fit=fit,
        morphology=_on_image(boxes, shape)[order],
        convolved=tuple(convolved),
        flux=flux,
        flux_error=error,
        least_squares=np.concatenate(fitted, 1) * area[:, None],
        chi2=float(sum(s.sum() for s in squared) / sum(s.sum() for s in seen)),
        source_chi2=footprint_chi2(
            squared, seen, in_one_unit(convolved, units_of(scene.exposures))
        ),
        bulge_fraction=None if gradient is None else _bulge_fraction(boxes, order, flux, gradient),
        gradient=gradient,
        moved=None if gradient is None else _on_image(moved, shape, unit_flux=False)[order],
    )


def _gradient_boxes(boxes: Sequence[Morphologies]) -> list[Morphologies]:
    """Return boxes with color gradients as images, zero for sources of one color."""
    return [
        b._replace(image=np.zeros_like(b.image) if b.gradient is None else b.gradient.image)
        for b in boxes
    ]


def _bulge_fraction(boxes, order, flux, gradient) -> np.ndarray:
    """Return the share of the second part in the fluxes ``[N, B]``; NaN for sources of one color."""
    usual = np.concatenate(
        [np.full(len(b.mask), np.nan) if b.gradient is None else b.gradient.fraction for b in boxes]
    )[order]
    with np.errstate(divide="ignore", invalid="ignore"):
        return usual[:, None] + gradient / flux


def _drawn(exposure, boxes, order) -> np.ndarray:
    """Render unit spectra in one exposure, ``[N, B, H, W]``, in the order of the catalog."""
    slots = np.concatenate([np.flatnonzero(b.mask) + f for b, f in zip(boxes, _firsts(boxes))])
    drawn = np.concatenate(
        [exposure.render_on_host(b.image[b.mask], b.corner[b.mask]) for b in boxes]
    )
    return drawn[np.searchsorted(slots, order)]


def _firsts(boxes) -> np.ndarray:
    return np.cumsum([0, *(len(b.mask) for b in boxes)])[:-1]


def _least_squares(exposure, unit: np.ndarray, known: np.ndarray | None = None) -> np.ndarray:
    """Return amplitudes ``[N, B]`` of unit renderings ``[N, B, H, W]`` by least squares.

    `known` is light of theirs ``[N, B, H, W]`` that does not follow the amplitudes.
    """
    weighed = np.asarray(exposure.noise.precision(unit), float)
    found = np.zeros(unit.shape[:2])
    images = np.asarray(exposure.images, float) - (0.0 if known is None else known.sum(0))
    for band, image in enumerate(images):
        mine = weighed[:, band].reshape(len(unit), -1)
        normal = mine @ unit[:, band].reshape(len(unit), -1).T
        found[:, band] = inverse((normal + normal.T) / 2) @ (mine @ image.ravel())
    return found


def _squared_residual(exposure, model: np.ndarray) -> np.ndarray:
    """Return the residual times its product with the pixels' precision, ``[B, H, W]``."""
    residual = np.asarray(exposure.images) - model
    return residual * np.asarray(exposure.noise.precision(residual))


def footprint_chi2(squared, seen, images) -> np.ndarray:
    """Return the mean squared residual in units of the noise on the footprint of each source.

    The weight of a pixel is the source's share of the model there times the source's
    significance, so empty sky around a source does not dilute the mean.

    Parameters
    ----------
    squared
        Squared residuals over the noise, ``[B, H, W]`` of every exposure.
    seen
        Mask ``[B, H, W]`` of every exposure, False where masked.
    images
        Sources as observed, ``[N, B, H, W]`` of every exposure, all bands in one unit of flux.
    """
    weighed, total = 0.0, 0.0
    for square, good, image in zip(squared, seen, images, strict=True):
        share = np.maximum(image, 0.0) * good
        weighed = weighed + (square * share).sum((1, 2, 3))
        total = total + share.sum((1, 2, 3))
    return weighed / np.maximum(total, 1e-30)


def chi2_on(images: Sequence[np.ndarray], found: FittedScene) -> np.ndarray:
    """Return the chi2 of a fit on the footprints of other images of its sources, ``[N]``.

    Their bands are in one unit of flux, as in `FittedScene.light`.
    """
    exposures = found.scene.exposures
    squared = [
        _squared_residual(one, drawn.sum(0))
        for one, drawn in zip(exposures, found.convolved, strict=True)
    ]
    seen = [np.asarray(one.noise.diagonal()) > 0 for one in exposures]
    return footprint_chi2(squared, seen, images)


def chi2_spread(images: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return the standard deviation of each source's chi2 for pure noise, ``[N]``.

    Images are those of `footprint_chi2`.
    """
    total, squares = 0.0, 0.0
    for image, weight in zip(images, weights, strict=True):
        share = np.maximum(image, 0.0) * (weight > 0)
        total = total + share.sum((1, 2, 3))
        squares = squares + (share**2).sum((1, 2, 3))
    return np.sqrt(2 * squares) / np.maximum(total, 1e-30)


def _on_image(boxes, shape, *, unit_flux: bool = True) -> np.ndarray:
    """Place boxes on the image grid, ``[K, H, W]``, each normalized to a total flux of one if asked."""
    out = np.zeros((sum(len(b.mask) for b in boxes), *shape), np.float32)
    images = [image for b in boxes for image in b.image]
    corners = [corner for b in boxes for corner in b.corner]
    for target, image, corner in zip(out, images, corners, strict=True):
        inside = overlap(corner, image.shape[-1], shape)
        if inside is not None:
            target[inside[0]] = image[inside[1]] / (image.sum() if unit_flux else 1.0)
    return out
