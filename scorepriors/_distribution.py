"""The prior: a NumPyro distribution over galaxy images with a learned energy."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from scorepriors.energies._abstract import AbstractEnergy
from scorepriors.energies._confined import Confined
from scorepriors.energies._diffusion import flow_from_white, flow_to_white, white_noise
from scorepriors.energies._line import LineEnergy
from scorepriors.energies._wiener import WienerEnergy, gaussian_of

from ._aside import Aside
from ._compat import validate_sample
from ._defaults import MODEL_PSF_SIGMA, SIGMA0, SIGMA_MAX
from ._errors import InputError
from ._stretch import AbstractStretch, LogStretch


class _Facts(NamedTuple):
    """Facts about the training images that change no program."""

    name: str
    pixel_scale: float | None
    model_psf_sigma: float | None
    sigma_min: float


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
        Energy of one stretched image; see `scorepriors.AbstractEnergy`.
    stretch
        Transform from z to x; `scorepriors.LogStretch` by default.
    sigma
        The noise level sigma0, an array leaf: changing it recompiles nothing.
    sigma_max
        Noise level at which the energy is nearly Gaussian; sampling starts there.
    sigma_min
        Least noise level that the energy has learned, if known; `deblend` and `sample` refuse to go
        below it.
    name
        Name shown in the repr and written to every output.
    pixel_scale
        Arcseconds per pixel of the training images, if known.
    model_psf_sigma
        Standard deviation in pixels of the Gaussian PSF of the training images; None if
        they are not convolved.
    jacobian
        Whether the density includes the Jacobian of the stretch; False gives that of Sampson
        et al. (2024), eq. 11; use `as_published`.
    validate_args
        Whether to check arguments, as for every NumPyro distribution.

    Raises
    ------
    InputError
        If `energy` is of another kind, or `sigma` is not positive or more than one number.

    Notes
    -----
    The shape of the box, the kind of energy and of stretch, and `jacobian` decide what is
    compiled; priors that differ in numbers and names alone share it.

    `jax.export` serializes functions of arrays, not of this class: export a function of
    ``leaves, structure = jax.tree.flatten(prior)`` that begins with
    ``jax.tree.unflatten(structure, leaves)``, and call it with the leaves of any such prior.

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
    pytree_aux_fields = ("static", "_facts", "jacobian")

    @classmethod
    def gather_pytree_data_fields(cls):
        """Return names of array attributes in a fixed order; NumPyro's differs by process."""
        return tuple(sorted(super().gather_pytree_data_fields()))

    @classmethod
    def gather_pytree_aux_fields(cls):
        """Return names of other attributes in a fixed order."""
        return tuple(sorted(super().gather_pytree_aux_fields()))

    def __init__(
        self,
        energy: AbstractEnergy,
        stretch: AbstractStretch | None = None,
        sigma: float = SIGMA0,
        *,
        sigma_max: float = SIGMA_MAX,
        sigma_min: float = 0.0,
        name: str = "custom",
        pixel_scale: float | None = None,
        model_psf_sigma: float | None = MODEL_PSF_SIGMA,
        jacobian: bool = True,
        validate_args: bool | None = None,
    ):
        if not isinstance(energy, AbstractEnergy):
            raise InputError(
                f"`energy` of a prior must be an AbstractEnergy, got {type(energy).__name__}; a "
                "network that gives a score goes to `ScorePrior.from_score`."
            )
        _check_level(sigma)
        self.params, self.static = eqx.partition(energy, eqx.is_inexact_array)
        self.stretch = LogStretch() if stretch is None else stretch
        self.sigma = jnp.asarray(sigma, float)
        self.sigma_max = jnp.asarray(sigma_max, float)
        self._facts = Aside(_Facts(name, pixel_scale, model_psf_sigma, sigma_min))
        self.jacobian = jacobian
        box = energy.box
        super().__init__(event_shape=(box, box), validate_args=validate_args)

    @classmethod
    def from_score(
        cls,
        score_network: Callable,
        reference: Float[Array, "n n"],
        stretch: AbstractStretch | None = None,
        sigma: float = SIGMA0,
        **kwargs,
    ) -> "ScorePrior":
        """Return the prior of a network that gives only the score, through its line potential.

        Parameters
        ----------
        score_network
            ``(z [n, n], sigma) -> score [n, n]`` for additive noise; wrap a
            variance-preserving network in `scorepriors.VarianceExploding`.
        reference
            Stretched image ``[n, n]`` at the start of the line; a mean image.
        stretch, sigma, **kwargs
            Arguments of `ScorePrior`.
        """
        return cls(LineEnergy(score_network, jnp.asarray(reference)), stretch, sigma, **kwargs)

    @property
    def name(self) -> str:
        """Name in outputs; ``"custom"`` if none was given."""
        return self._facts.value.name

    @property
    def pixel_scale(self) -> float | None:
        """Arcseconds per pixel of the training images, if known."""
        return self._facts.value.pixel_scale

    @property
    def model_psf_sigma(self) -> float | None:
        """Standard deviation in pixels of the PSF of the training images, if they have one."""
        return self._facts.value.model_psf_sigma

    @property
    def sigma_min(self) -> float:
        """Least noise level that the energy has learned; zero if it is not known."""
        return self._facts.value.sigma_min

    @property
    def energy(self) -> AbstractEnergy:
        """The energy, for use in this package; models use the methods below."""
        return eqx.combine(self.params, self.static)

    @property
    def support(self):
        """Images whose every pixel lies in the range of the stretch."""
        return constraints.independent(self.stretch.codomain, 2)

    def at(self, sigma) -> "ScorePrior":
        """Return the same prior at another noise level; nothing is recompiled.

        Parameters
        ----------
        sigma
            One number, traced or not; for several levels use ``jax.vmap``, see the example.

        Raises
        ------
        InputError
            If `sigma` is not positive, or more than one number.  A traced number that is not
            positive raises Equinox' error when the program runs.

        Examples
        --------
        >>> from scorepriors import load_prior
        >>> prior, levels = load_prior("lsst-32"), jnp.asarray([0.1, 0.2, 0.4])
        >>> image = prior.sample(jax.random.key(0))
        >>> jax.vmap(lambda sigma: prior.at(sigma).log_prob(image))(levels).shape
        (3,)
        """
        _check_level(sigma)
        level = jnp.asarray(sigma, self.sigma.dtype)
        if isinstance(level, jax.core.Tracer):
            # Known only when the program runs.
            level = eqx.error_if(level, ~(level > 0), "`sigma` of a prior must be positive.")
        return self._replace(sigma=level)

    def as_published(self) -> "ScorePrior":
        """Return the prior of Sampson et al. (2024), eq. 11, whose score is times h'(x) only.

        That gradient belongs to ``exp(-E(h(x)))`` taken as a density in x, without the
        Jacobian of the stretch.  It exists to reproduce published results; it cannot
        be sampled by diffusion, since it is not the density of the training images.
        """
        return self._replace(jacobian=False)

    def astype(self, dtype) -> "ScorePrior":
        """Return the same prior with its parameters in another precision."""
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), self.params)
        return self._replace(
            params=params, sigma=self.sigma.astype(dtype), sigma_max=self.sigma_max.astype(dtype)
        )

    @validate_sample
    def log_prob(self, value: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
        """Return the unnormalized log-density, of the batch shape of `value`."""
        value = self._images(value)
        z = self.stretch.inv(value)
        log_prob = -self.potential(z)
        if self.jacobian:
            log_prob -= self.stretch.log_abs_det_jacobian(z, value).sum((-2, -1))
        return log_prob

    def potential(self, z: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
        """Return the energy of stretched images at sigma0.

        It is minus their log-density, up to a constant.

        The density is that of z: the Jacobian of the stretch is no part of it.
        """
        return _each(lambda one: self.energy(one, self.sigma), self._images(z))

    def score(self, value: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
        """Return the gradient of `log_prob`, in units of inverse intensity."""
        return jax.grad(lambda x: self.log_prob(x).sum())(value)

    def denoise(self, value: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
        """Return the estimate of the image without the noise of sigma0, by Tweedie's formula.

        The posterior mean is taken in the stretched space and mapped back.
        """
        return self.stretch(self.denoise_stretched(self.stretch.inv(self._images(value))))

    def denoise_stretched(self, z: Float[Array, "*batch n n"]) -> Float[Array, "*batch n n"]:
        """Return the posterior mean of `denoise`, from and to stretched images."""
        return _each(lambda one: self.energy.denoise(one, self.sigma), self._images(z))

    def from_white(self, white: Float[Array, "*batch n n"], num_steps: int, *, even: bool = False):
        """Map white noise to stretched draws ``[*batch, n, n]`` by the probability flow.

        A smooth map with a smooth inverse, `to_white`: coordinates in which the prior is a
        unit normal.

        Parameters
        ----------
        white
            Unit normal deviates.
        num_steps
            Steps from `sigma_max` to `sigma`, one network call each.
        even
            Whether the noise levels between are uniform in the logarithm, better for few steps.
        """
        return self._flow(flow_from_white, self._images(white), num_steps, even)

    def to_white(self, z: Float[Array, "*batch n n"], num_steps: int, *, even: bool = False):
        """Return the white noise of stretched images, up to the error of the steps."""
        return self._flow(flow_to_white, self._images(z), num_steps, even)

    def _flow(self, flow: Callable, images, num_steps: int, even: bool):
        flat = images.reshape((-1, *self.event_shape))
        moved = flow(self.params, self.static, flat, self.sigma_max, self.sigma, num_steps, even)
        return moved.reshape(images.shape)

    def gaussian(self, images: Float[Array, "N n n"]) -> "ScorePrior":
        """Return the Gaussian prior with the mean and covariance of the training images.

        Its denoiser is the Wiener filter, against which this prior is judged.  That of a
        `WienerEnergy` is its own linear part; any other's is made from `images`.

        Parameters
        ----------
        images
            Training images, scaled as the prior is; the first 20,000 are used.
        """
        energy = self.energy
        if isinstance(energy, WienerEnergy | Confined):
            linear = energy.gaussian()
        else:
            z = self.stretch.inv(jnp.asarray(images[:20_000], jnp.float32))
            linear = gaussian_of(np.asarray(z))
        params, static = eqx.partition(linear, eqx.is_inexact_array)
        return self._replace(params=params, static=static)

    def sample(self, key, sample_shape: tuple = (), *, num_steps: int = 30):
        """Draw images ``[*sample_shape, n, n]`` along the probability-flow ODE.

        Parameters
        ----------
        key
            Random key.
        sample_shape
            Leading shape of the draws.
        num_steps
            Steps from `sigma_max` to `sigma`, one network call each.
        """
        if not self.jacobian:
            raise InputError(
                "the published form of a prior is not the density it was trained on "
                "and cannot be sampled by diffusion; sample the prior itself."
            )
        shape = tuple(sample_shape) + self.event_shape
        white = white_noise(self.params, key, math.prod(sample_shape), self.event_shape[-1])
        return self.stretch(self.from_white(white, num_steps)).reshape(shape)

    def _images(self, images) -> Array:
        """Return the images as an array; InputError unless they have the prior's shape."""
        if np.shape(images)[-2:] != self.event_shape:
            n = self.event_shape[-1]
            raise InputError(
                f"a prior of {n} x {n} pixels takes images [..., {n}, {n}], got "
                f"{np.shape(images)}; cut or pad them to that box."
            )
        return jnp.asarray(images)

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


def _check_level(sigma) -> None:
    if np.ndim(sigma):
        raise InputError(
            f"`sigma` of a prior is one number, got shape {np.shape(sigma)}; map over several "
            "levels, `jax.vmap(lambda sigma: prior.at(sigma).log_prob(x))(levels)`."
        )
    if not isinstance(sigma, jax.core.Tracer) and not sigma > 0:
        raise InputError(f"`sigma` of a prior must be positive, got {sigma}.")


def _each(function: Callable, images: Float[Array, "*batch n n"]):
    """Map a function of one image over all leading axes."""
    if images.ndim == 2:
        return function(images)
    found = jax.vmap(function)(images.reshape(-1, *images.shape[-2:]))
    return found.reshape(*images.shape[:-2], *found.shape[1:])
