"""A user-defined kind of source in one file, from public names only."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from astropy import units

from scorepriors.models import AbstractSource, Column, Look, Placement


class GaussianGalaxies(AbstractSource):
    """Galaxies that are elliptical Gaussians.

    Sites: ``shift [K, 2]`` (pixels), ``log_sigma [K]`` (pixels) and ``stretch [K, 2]``, half the
    logarithm of the squared axis ratio along the rows and along the diagonal.

    Attributes
    ----------
    at
        Where the sources are.
    name
        Of the group.
    psf_sigma
        Standard deviation of the model's Gaussian PSF, pixels.
    center_error
        Standard deviation of the given positions, pixels.
    """

    at: Placement
    name: str = eqx.field(static=True, default="gaussians")
    psf_sigma: Any = eqx.field(converter=np.float32, default=0.7)
    center_error: Any = eqx.field(converter=np.float32, default=0.3)

    def sample(self):
        pair = dist.Normal(jnp.zeros(2), 1).to_event(1)
        with numpyro.plate("source", len(self.at)):
            shift = numpyro.sample(
                "shift",
                dist.Normal(jnp.zeros(2), self.center_error).to_event(1),
                infer={"event_dims": ["direction"]},
            )
            size = numpyro.sample("log_sigma", dist.Normal(0.3, 0.7))
            stretch = numpyro.sample("stretch", pair, infer={"event_dims": ["component"]})
        return {"shift": shift, "log_sigma": size, "stretch": stretch}

    def image(self, values, xp: Any = jnp):
        pixels = xp.arange(self.at.box)
        away = (xp.asarray(self.at.center) - xp.asarray(self.at.corner) + values["shift"])[
            ..., None
        ]
        row, column = pixels - away[:, 0], pixels - away[:, 1]
        variance = xp.exp(2 * values["log_sigma"])
        first, second = values["stretch"].T
        size = xp.sqrt(first**2 + second**2 + 1e-6)
        # Variance of the PSF and of a pixel beside that of the galaxy.
        own, blur = variance * xp.cosh(size), self.psf_sigma**2 + 1 / 12
        tilt = variance * xp.sinh(size) / size
        yy, xx, xy = own + tilt * first + blur, own - tilt * first + blur, tilt * second
        det = (yy * xx - xy**2)[:, None, None]
        squared = (
            xx[:, None, None] * row[:, :, None] ** 2
            + yy[:, None, None] * column[:, None, :] ** 2
            - 2 * xy[:, None, None] * row[:, :, None] * column[:, None, :]
        ) / det
        return xp.exp(-squared / 2) / (2 * np.pi * xp.sqrt(det))

    def start(self, look: Look):
        known = np.minimum(look.snr / 2, 30.0)
        values = {
            "shift": np.zeros((len(self.at), 2)),
            "log_sigma": np.full(len(self.at), 0.3),
            "stretch": np.zeros((len(self.at), 2)),
        }
        widths = {
            "shift": 1 / np.hypot(1 / float(self.center_error), known)[:, None],
            "log_sigma": 1 / np.hypot(1 / 0.7, known),
            "stretch": 1 / np.hypot(1.0, known)[:, None],
        }
        return look.values or values, widths

    def centers(self, values):
        return np.asarray(self.at.center, float) + np.asarray(values["shift"])

    def columns(self, values):
        sigma = np.exp(np.asarray(values["log_sigma"], float))
        axes = np.exp(np.hypot(*np.asarray(values["stretch"], float).T))
        return [
            Column("gaussian_sigma", sigma, units.pix, "standard deviation of the Gaussian"),
            Column("gaussian_axes", axes, None, "squared ratio of the axes of the Gaussian"),
        ]

    def settings(self):
        return {"psf_sigma": float(self.psf_sigma), "center_error": float(self.center_error)}
