"""The prior: a NumPyro distribution over galaxy images with a learned energy inside."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from scorepriors.energies._diffusion import sample_flow
from scorepriors.energies._networks import LineEnergy, denoise

from ._compat import validate_sample
from ._errors import InputError
from ._stretch import LogStretch


class ScorePrior(dist.Distribution):
    r"""Density of galaxy images ``[n, n]``, learned by score matching.

    The network gives a scalar energy :math:`E(z, \sigma_0)` of the stretched image
    :math:`z = h(x)`; with the exact Jacobian of the stretch,

    .. math:: \log p(x) = -E(h(x), \sigma_0) + \sum_i \log |h'(x_i)| + \text{const}.

    So `log_prob` is a number whose gradient is the score, and every sampler that
    compares densities (HMC, NUTS, any Metropolis test) is right with it.

    This is the *smoothed* density :math:`p_{\sigma_0}`: that of an image plus Gaussian
    noise of standard deviation `sigma` in the stretched space.

    Parameters
    ----------
    energy
        Module with ``energy(z, sigma) -> scalar``, ``energy.start(key, sigma)`` and
        ``energy.box``; see `scorepriors.networks`.
    stretch
        NumPyro transform from z to x.
    sigma
        The noise level sigma0, an array leaf: changing it compiles nothing.
    sigma_max
        Noise level where the energy is as good as Gaussian; sampling starts there.
    name
        For people: shown in the repr and carried into every output.
    pixel_scale
        Arcseconds per pixel of the training images, if known.
    model_psf_sigma
        Standard deviation in pixels of the Gaussian PSF of the training images; None if
        they are not convolved.
    jacobian
        False gives the density of Sampson et al. (2024), eq. 11; use `as_published`.
    validate_args
        As for every NumPyro distribution.

    Raises
    ------
    InputError
        If `sigma` is a number that is not positive.

    Notes
    -----
    `log_prob` is unnormalized, by a constant that depends on sigma: neither sigma nor
    the choice between priors can be inferred with it.

    References
    ----------
    .. [1] Sampson, Melchior, Ward & Birmingham (2024), Astronomy and Computing 49.
    .. [2] Karras, Aittala, Aila & Laine (2022), NeurIPS (noise schedule).

    Examples
    --------
    >>> from scorepriors import load_prior
    >>> prior = load_prior("lsst-32")
    >>> prior.event_shape
    (32, 32)
    >>> prior.sample(jax.random.key(0), (2,)).shape
    (2, 32, 32)
    """

    arg_constraints: dict = {}
    reparametrized_params: list = []
    pytree_data_fields = ("params", "stretch", "sigma", "sigma_max")
    pytree_aux_fields = ("static", "name", "pixel_scale", "model_psf_sigma", "jacobian")

    @classmethod
    def gather_pytree_data_fields(cls):
        """Names of the array attributes, in one order: NumPyro's own changes with the process."""
        return tuple(sorted(super().gather_pytree_data_fields()))

    def __init__(
        self,
        energy: Any,
        stretch: Transform | None = None,
        sigma: float = 0.15,
        *,
        sigma_max: float = 25.0,
        name: str = "custom",
        pixel_scale: float | None = None,
        model_psf_sigma: float | None = 0.7,
        jacobian: bool = True,
        validate_args: bool | None = None,
    ):
        if isinstance(sigma, int | float) and not sigma > 0:
            raise InputError(f"`sigma` of a prior must be positive, got {sigma}.")
        self.params, self.static = eqx.partition(energy, eqx.is_inexact_array)
        self.stretch = LogStretch() if stretch is None else stretch
        self.sigma = jnp.asarray(sigma, float)
        self.sigma_max = jnp.asarray(sigma_max, float)
        self.name = name
        self.pixel_scale = pixel_scale
        self.model_psf_sigma = model_psf_sigma
        self.jacobian = jacobian
        box = energy.box
        super().__init__(event_shape=(box, box), validate_args=validate_args)

    @classmethod
    def from_score(cls, score_network: Callable, reference, stretch=None, sigma=0.15, **kwargs):
        """Prior from a network that gives only the score, through its line potential.

        Parameters
        ----------
        score_network
            ``(z [n, n], sigma) -> score [n, n]`` for additive noise; wrap a
            variance-preserving network in `scorepriors.networks.VarianceExploding`.
        reference
            Stretched image ``[n, n]`` where the line starts; a mean image.
        stretch, sigma, **kwargs
            As for `ScorePrior`.
        """
        return cls(LineEnergy(score_network, jnp.asarray(reference)), stretch, sigma, **kwargs)

    @property
    def energy(self) -> Callable:
        """The energy module."""
        return eqx.combine(self.params, self.static)

    @property
    def support(self):
        """Images whose every pixel lies in the range of the stretch."""
        return constraints.independent(self.stretch.codomain, 2)

    def at(self, sigma) -> "ScorePrior":
        """The same prior at another noise level; nothing is recompiled."""
        if isinstance(sigma, int | float) and not sigma > 0:
            raise InputError(f"`sigma` of a prior must be positive, got {sigma}.")
        return self._replace(sigma=jnp.asarray(sigma, self.sigma.dtype))

    def as_published(self) -> "ScorePrior":
        """The prior of Sampson et al. (2024), eq. 11: the score times h'(x), no more.

        That gradient belongs to ``exp(-E(h(x)))`` taken as a density in x, without the
        Jacobian of the stretch.  It exists to reproduce published results; it cannot
        be sampled by diffusion, since it is not the density of the training images.
        """
        return self._replace(jacobian=False)

    def astype(self, dtype) -> "ScorePrior":
        """The same prior with its parameters in another precision."""
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), self.params)
        return self._replace(
            params=params, sigma=self.sigma.astype(dtype), sigma_max=self.sigma_max.astype(dtype)
        )

    @validate_sample
    def log_prob(self, value: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
        """Unnormalized log-density; shape: that of `value` without its last two axes."""
        z = self.stretch.inv(value)
        energy = self.energy
        flat = z.reshape((-1, *self.event_shape))
        log_prob = -jax.vmap(energy, (0, None))(flat, self.sigma).reshape(z.shape[:-2])
        if self.jacobian:
            log_prob -= self.stretch.log_abs_det_jacobian(z, value).sum((-2, -1))
        return log_prob

    def score(self, value: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
        """Gradient of `log_prob`; unit: inverse intensity."""
        return jax.grad(lambda x: self.log_prob(x).sum())(value)

    def denoise(self, value: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
        """Best estimate of the image without the noise of sigma0, by Tweedie's formula.

        The posterior mean is taken in the stretched space and mapped back.
        """
        z = self.stretch.inv(value)
        energy = self.energy
        clean = jax.vmap(lambda one: denoise(energy, one, self.sigma))(
            z.reshape((-1, *self.event_shape))
        )
        return self.stretch(clean.reshape(z.shape))

    def sample(self, key, sample_shape: tuple = (), *, num_steps: int = 30):
        """Draw images ``[*sample_shape, n, n]`` along the probability-flow ODE.

        Parameters
        ----------
        key
            Random key.
        sample_shape
            Leading shape.
        num_steps
            Steps from `sigma_max` to `sigma`, one network call each.
        """
        if not self.jacobian:
            raise InputError(
                "the published form of a prior is not the density it was trained on "
                "and cannot be sampled by diffusion; sample the prior itself."
            )
        shape = tuple(sample_shape)
        z = sample_flow(
            self.energy,
            key=key,
            num=math.prod(shape),
            sigma_max=self.sigma_max,
            sigma_min=self.sigma,
            num_steps=num_steps,
        )
        return self.stretch(z).reshape(shape + self.event_shape)

    def _replace(self, **fields) -> "ScorePrior":
        leaves, structure = jax.tree.flatten(self)
        new = jax.tree.unflatten(structure, leaves)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    def __repr__(self):
        n = self.event_shape[-1]
        try:
            level = f"{float(self.sigma):.4g}"
        except Exception:  # a tracer or a batch of levels
            level = f"<{type(self.sigma).__name__}>"
        published = "" if self.jacobian else ", as published (no Jacobian)"
        return f"ScorePrior({self.name!r}, {n}x{n}, sigma0={level}, {self.stretch!r}{published})"
