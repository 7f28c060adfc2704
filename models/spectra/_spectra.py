r"""Exact solution for the spectra, which enter a blend linearly.

With unit renderings :math:`M_k` (band b: :math:`M_{kb}`), data Y, inverse variance W and
Gaussian spectra :math:`A_k \sim N(m_k, \Lambda_k)`, the precision of all spectra
jointly is

.. math:: P_{kb,lb'} = \delta_{bb'} \sum W_b M_{kb} M_{lb} + \delta_{kl} (\Lambda_k^{-1})_{bb'}

and everything follows from one Cholesky factorization of a KB x KB matrix.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from scorepriors._compat import SymbolicZero
from scorepriors._typing import Array
from scorepriors.models.noise._abstract import AbstractNoise

from ._factorization import cholesky_and_inverse

#: Scatter of the difference of the colors of two parts of a galaxy, in units of that of galaxies.
PARTS = 0.5


class SpectrumPrior(NamedTuple):
    """Gaussian prior of each source's spectrum (amplitudes per band).

    Attributes
    ----------
    mean
        Means ``[K, B]``.
    covariance
        Covariances ``[K, B, B]``, positive definite.
    basis, information
        Where amplitudes are tied to each other: matrices ``[K, B, B]`` so that they are the mean plus
        the basis times numbers of this precision, which knows no parameters.  The covariance, then
        all but singular, is not used for exact spectra.
    tilt
        Mean difference of the fluxes of two parts of a source for a share of one, ``[K, B]``; none
        if not given.
    """

    mean: Float[Array, "K B"]
    covariance: Float[Array, "K B B"]
    basis: Float[Array, "K B B"] | None = None
    information: Float[Array, "K B B"] | None = None
    tilt: Float[Array, "K B"] | None = None

    def of_amplitudes(self, area: Float[Array, " K"]) -> "SpectrumPrior":
        """Return the prior of amplitudes from this one of fluxes, amplitudes times `area`."""
        basis = None if self.basis is None else self.basis / area[:, None, None]
        covariance = self.covariance / area[:, None, None] ** 2
        return SpectrumPrior(self.mean / area[:, None], covariance, basis, self.information)

    def with_gradients(
        self,
        slots: Int[np.ndarray, " G"],
        share: Float[Array, " G"],
        known: Float[Array, "G B"] | None = None,
    ) -> "SpectrumPrior":
        """Return this prior of fluxes with that of differences between two parts of some sources below.

        Parameters
        ----------
        slots
            Sources of two parts.
        share
            Scale of each, `Gradient.share`; its square must not vanish.
        known
            Fluxes to which the scales are relative, NaN for the means of this prior.
        """
        scale = jnp.broadcast_to(share[:, None], (len(slots), self.mean.shape[1]))
        if known is not None:
            scale = scale * jnp.where(jnp.isnan(known), 1.0, known / self.mean[slots])
        wide = PARTS * scale
        added = wide[:, :, None] * wide[:, None, :] * self.covariance[slots]
        none = jnp.zeros_like(self.mean[slots])
        if self.tilt is not None:
            none = scale * self.tilt[slots]
        basis, information = self.basis, self.information
        if basis is not None:
            basis = jnp.concatenate([basis, wide[:, :, None] * basis[slots]])
        if information is not None:
            information = jnp.concatenate([information, information[slots]])
        mean = jnp.concatenate([self.mean, none])
        covariance = jnp.concatenate([self.covariance, added])
        return SpectrumPrior(mean, covariance, basis, information)


class SpectrumPosterior(eqx.Module):
    """Posterior of the spectra given the morphologies, which is exactly Gaussian.

    Attributes
    ----------
    mean
        Means ``[K, B]``, also the mode.
    root
        Root of the covariance ``[K B, K B]``, sources outermost: the covariance is its transpose
        times itself.
    log_profiled
        Log-density of pixels and spectra at the mode, for MAP fits, up to the normalization of
        the noise, ``noise.log_likelihood`` of a zero residual, a constant unless parameters of
        the noise are sampled.
    log_marginal
        Log-density of the pixels with the spectra integrated out, for sampling, up to the same
        constant.
    """

    mean: Float[Array, "K B"]
    root: Float[Array, "KB KB"]
    log_profiled: Float[Array, ""]
    log_marginal: Float[Array, ""]

    def sample(self, key) -> Float[Array, "K B"]:
        """Draw spectra ``[K, B]`` given the morphologies, exactly."""
        noise = jax.random.normal(key, self.root.shape[:1], self.root.dtype)
        return self.mean + (self.root.T @ noise).reshape(self.mean.shape)

    def covariance(self) -> Float[Array, "K B K B"]:
        """Covariance of the spectra between all sources and bands."""
        return (self.root.T @ self.root).reshape(*self.mean.shape, *self.mean.shape)


class NormalEquations(NamedTuple):
    """Equations for the spectra of K sources in B bands, in units of the prior's widths.

    Attributes
    ----------
    width
        Widths of the prior, ``[K, B]``.
    inverse
        Inverse of the prior's correlations, ``[K, B, B]``.
    balance
        Scales ``[K B]`` that give the precision a unit diagonal: bright and faint sources
        differ by 1e6 in curvature.
    balanced
        Precision ``[K B, K B]`` with unit diagonal.
    root
        Inverse of its lower Cholesky factor.
    log_det_prior, log_det
        Log-determinants of the prior's covariance and of the posterior's precision.
    basis
        What the numbers that are solved for do to the amplitudes, ``[K, B, B]``; None if these are
        the amplitudes in units of their widths.
    """

    width: Float[Array, "K B"]
    inverse: Float[Array, "K B B"]
    balance: Float[Array, " KB"]
    balanced: Float[Array, "KB KB"]
    root: Float[Array, "KB KB"]
    log_det_prior: Float[Array, ""]
    log_det: Float[Array, ""]
    basis: Float[Array, "K B B"] | None = None

    def step(self, solution: Float[Array, "K B"]) -> Float[Array, "K B"]:
        """Return the change of the amplitudes from the prior's mean."""
        if self.basis is None:
            return solution * self.width
        return jnp.einsum("kbc,kc->kb", self.basis, solution)

    def solve(self, projected: Float[Array, "K B"]) -> Float[Array, "K B"]:
        """Solve for products of the renderings with a residual about the prior's mean."""
        if self.basis is None:
            own = projected * self.width
        else:
            own = jnp.einsum("kbc,kb->kc", self.basis, projected)
        right = own.reshape(-1) * self.balance
        inverse = self.root.T @ self.root
        solution = inverse @ right
        # One refinement removes the effect of the ridge.
        solution += inverse @ (right - self.balanced @ solution)
        return (self.balance * solution).reshape(self.width.shape)

    def pull(self, solution: Float[Array, "K B"]) -> Float[Array, "K B"]:
        """Return the gradient of the prior's half chi^2 at a solution."""
        return jnp.einsum("kbc,kc->kb", self.inverse, solution)

    def root_of_covariance(self) -> Float[Array, "KB KB"]:
        """Return a root of the covariance of the spectra, which is its transpose times itself."""
        if self.basis is None:
            return self.root * (self.balance * self.width.reshape(-1))
        own = (self.root * self.balance).reshape(-1, *self.width.shape)
        return jnp.einsum("rkc,kbc->rkb", own, self.basis).reshape(self.root.shape)

    def covariance(self) -> Float[Array, "K B K B"]:
        """Covariance of the spectra."""
        root = self.root_of_covariance()
        return (root.T @ root).reshape(*self.width.shape, *self.width.shape)

    def shared(self, normal: Float[Array, "B K K"]) -> Float[Array, "K B B"]:
        """Return half of the derivative of the log-determinant of the precision by the basis."""
        scaled = self.root * self.balance
        inner = (scaled.T @ scaled).reshape(*self.width.shape, *self.width.shape)
        return jnp.einsum("bkl,lbd,ldkc->kbc", normal, self.basis, inner)


def normal_equations(normal: Float[Array, "B K K"], prior: SpectrumPrior) -> NormalEquations:
    """Return the factored equations for all spectra jointly.

    Parameters
    ----------
    normal
        Weighted products of the renderings with each other.
    prior
        Prior of the spectra.
    """
    num_bands, num_sources = normal.shape[:2]
    size = num_sources * num_bands
    # Coefficients are in units of the prior's widths, so that float32 numbers are near one.
    width = jnp.sqrt(jnp.diagonal(prior.covariance, axis1=1, axis2=2))
    if prior.basis is None:
        correlation = prior.covariance / (width[:, :, None] * width[:, None, :])
        factor, root = cholesky_and_inverse(correlation)
        inverse = jnp.swapaxes(root, -1, -2) @ root
        scaled = normal * width.T[:, :, None] * width.T[:, None, :]
        precision = jnp.einsum("bkl,bc->kblc", scaled, jnp.eye(num_bands))
        scales = jnp.diagonal(factor, axis1=1, axis2=2) * width
        log_det_prior = 2 * jnp.sum(jnp.log(scales))
    else:
        inverse = jnp.asarray(prior.information)
        precision = jnp.einsum("kbc,bkl,lbd->kcld", prior.basis, normal, prior.basis)
        log_det_prior = -jnp.sum(jnp.linalg.slogdet(inverse)[1])
    precision += jnp.einsum("kbc,kl->kblc", inverse, jnp.eye(num_sources))
    precision = precision.reshape(size, size)
    balance = 1 / jnp.sqrt(jnp.diagonal(precision))
    balanced = precision * balance[:, None] * balance[None, :]
    # Unit diagonal plus the rounding of a float32 factorization of this size: two sources
    # of almost one shape would otherwise make it fail.
    ridge = 4 * size * jnp.finfo(precision.dtype).eps
    lower, root = cholesky_and_inverse(balanced + ridge * jnp.eye(size))
    # Scales of the prior are part of the determinant where the amplitudes are solved for.
    unit = width.reshape(size) if prior.basis is None else 1.0
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(lower) / (balance * unit)))
    return NormalEquations(
        width, inverse, balance, balanced, root, log_det_prior, log_det, prior.basis
    )


def spectrum_posterior(
    renderings: Sequence[Float[Array, "K _ _ _"]],
    images: Sequence[Float[Array, "_ _ _"]],
    noise: Sequence[AbstractNoise],
    prior: SpectrumPrior,
) -> SpectrumPosterior:
    """Solve for all spectra jointly.

    Parameters
    ----------
    renderings
        Sources with unit spectra ``[K, B, H, W]`` in every exposure, from `Exposure.render`; all
        bands of all exposures together are the B bands of the spectra.
    images, noise
        Pixels ``[B, H, W]`` and noise of the exposures.
    prior
        Gaussian prior; a wide one makes the result least squares.

    Returns
    -------
    SpectrumPosterior
        Posterior with gradients in closed form, also by parameters of the noise.

    References
    ----------
    .. [1] Golub & Pereyra (1973), SIAM J. Numer. Anal. 10, 413 (maximized spectra).
    """
    num_sources = renderings[0].shape[0]
    num_bands = sum(drawn.shape[1] for drawn in renderings)
    # Bands outermost, pixels in one axis: products below are then matrix products.
    drawn = [_by_band(one) for one in renderings]
    weighted = [_by_band(n.precision(one)) for one, n in zip(renderings, noise, strict=True)]
    pixels = [one.reshape(len(one), -1) for one in images]
    normal = jnp.concatenate([w @ jnp.swapaxes(d, 1, 2) for w, d in zip(weighted, drawn)])
    # The residual about the prior mean is accurate in float32 where the data have little
    # information, and chi^2 is a sum of squares instead of a difference of large numbers.
    residual = [
        p - (mean.T[:, :, None] * d).sum(1)
        for p, d, mean in zip(pixels, drawn, _apart(prior.mean, drawn, 1))
    ]
    projected = jnp.concatenate(
        [(w * r[:, None]).sum(-1) for w, r in zip(weighted, residual, strict=True)]
    ).T
    equations = normal_equations(normal, prior)
    solution = equations.solve(projected)
    # The minimum as a sum of squares: residuals at the solution plus the prior's term.
    step = equations.step(solution)
    mode = prior.mean + step
    left = [
        r - (one.T[:, :, None] * d).sum(1)
        for r, d, one in zip(residual, drawn, _apart(step, drawn, 1))
    ]
    pulled = [
        n.precision(one.reshape(image.shape)).reshape(one.shape)
        for one, n, image in zip(left, noise, images, strict=True)
    ]
    pull = equations.pull(solution)
    chi2 = sum(jnp.sum(p * one) for p, one in zip(pulled, left)) + jnp.sum(pull * solution)
    log_profiled = -0.5 * (
        chi2 + equations.log_det_prior + num_sources * num_bands * math.log(2 * math.pi)
    )
    log_marginal = -0.5 * (chi2 + equations.log_det_prior + equations.log_det)
    # Gradients in closed form.  The derivative of the mode does not contribute (the envelope
    # theorem), and that of the determinant is the covariance times the derivative of the
    # precision: much less to compute, and to compile, than the derivative of every step above.
    covariance = equations.covariance()
    between = _apart(jnp.einsum("kblb->bkl", covariance), drawn, 0)
    within = jnp.einsum("kbkc->kbc", covariance)
    modes = _apart(mode, drawn, 1)
    along = [one.T[:, :, None] * p[:, None] for one, p in zip(modes, pulled, strict=True)]
    minus = [-p for p in pulled]
    spread = [b @ w for b, w in zip(between, weighted, strict=True)]
    if prior.basis is None:
        pull /= equations.width
        inverse = equations.inverse / (equations.width[:, :, None] * equations.width[:, None, :])
        of_prior = pull, 0.5 * (pull[:, :, None] * pull[:, None, :] - inverse)
        wider = of_prior[1] + 0.5 * inverse @ within @ inverse
        shape: Any = prior.covariance
    else:
        # By the mean the data alone pull at the mode; the precision of the numbers is fixed.
        parts = [(d * p[:, None]).sum(-1) for d, p in zip(drawn, pulled, strict=True)]
        data = jnp.concatenate(parts).T
        of_prior = data, data[:, :, None] * solution[:, None, :]
        wider = of_prior[1] - equations.shared(normal)
        shape = prior.basis
    profiled = (along, minus, *of_prior)
    marginal = ([a - s for a, s in zip(along, spread)], minus, of_prior[0], wider)
    inputs = (drawn, pixels, prior.mean, shape)
    seen = [one.reshape(image.shape) for one, image in zip(left, images, strict=True)]
    noise = list(noise)
    return SpectrumPosterior(
        mode,
        equations.root_of_covariance(),
        _with_gradient(log_profiled, inputs, profiled, noise, (seen, None, None)),
        _with_gradient(log_marginal, inputs, marginal, noise, (seen, list(renderings), between)),
    )


def _by_band(images: Float[Array, "K B H W"]) -> Float[Array, "B K P"]:
    return jnp.swapaxes(images, 0, 1).reshape(*images.shape[1::-1], -1)


def _apart(array, drawn: list, axis: int) -> list:
    """Return an array with an axis over all bands as one array per exposure."""
    return jnp.split(array, np.cumsum([len(one) for one in drawn])[:-1], axis=axis)


@jax.custom_jvp
def _with_gradient(value, inputs, gradient, noise, fixed):
    """Return a value with given derivatives.

    Parameters
    ----------
    value
        The value.
    inputs, gradient
        Inputs of the value, and its derivative by them.
    noise, fixed
        Noise of the exposures, and arguments of `_of_noise` for the derivative by it.
    """
    del inputs, gradient, noise, fixed
    return value


def _of_noise(noise, fixed):
    """Return the part of the value that depends on the noise, all else held fixed.

    Parameters
    ----------
    noise
        Noise of every exposure.
    fixed
        Residuals at the mode; renderings, and the covariance of the spectra between sources,
        whose products give the determinant (None, None if it is not in the value).
    """
    residuals, renderings, between = fixed
    total = sum(jnp.sum(n.inner(r, r)) for n, r in zip(noise, residuals, strict=True))
    if renderings is not None:
        for n, drawn, spread in zip(noise, renderings, between, strict=True):
            mixed = jnp.einsum("bkl,lbyx->kbyx", spread, drawn)
            total += jnp.sum(n.inner(mixed, drawn))
    return -0.5 * total


def _with_gradient_jvp(primals, tangents):
    value, _, gradient, noise, fixed = primals
    slope = jnp.zeros_like(value)
    is_zero = lambda t: isinstance(t, SymbolicZero)  # noqa: E731
    moved = jax.tree.leaves(tangents[1], is_leaf=is_zero)
    for tangent, part in zip(moved, jax.tree.leaves(gradient), strict=True):
        if not is_zero(tangent):
            slope += jnp.vdot(part, tangent)
    if not all(map(is_zero, jax.tree.leaves(tangents[3], is_leaf=is_zero))):
        dots = jax.tree.map(_instantiated, tangents[3], is_leaf=is_zero)
        slope += jax.jvp(lambda n: _of_noise(n, fixed), (noise,), (dots,))[1]
    return value, slope


def _instantiated(tangent):
    if not isinstance(tangent, SymbolicZero):
        return tangent
    aval = tangent.aval
    return (
        np.zeros(aval.shape, aval.dtype)
        if aval.dtype == jax.dtypes.float0
        else jnp.zeros(aval.shape, aval.dtype)
    )


_with_gradient.defjvp(_with_gradient_jvp, symbolic_zeros=True)
