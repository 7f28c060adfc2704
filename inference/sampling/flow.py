r"""Draws of whole scenes, by way of the noise that a prior's probability flow turns into galaxies.

A learned density is a thin, curved sheet in the space of images: from a small galaxy to a
large one, every pixel changes by many times the noise sigma0, and a chain of small steps
takes for ever to walk there.  The flow of the prior (`scorepriors.diffusion.follow_flow`)
unrolls the sheet: it turns Gaussian noise :math:`\xi` into galaxies :math:`T(\xi)`, with the
right share of every kind, so the posterior is

.. math:: p(\xi \mid Y) \propto N(\xi; 0, 1) \, p(Y \mid T(\xi)),

and where the data say little it is as round as the noise.  Each sweep offers every source

.. math:: \xi' = m + \sqrt{1 - s^2}\,(\xi - m) + s\,C^{1/2} \epsilon,

a move that leaves N(m, C) as it is, and accepts it by what the posterior is more or less
than that (preconditioned Crank-Nicolson: Neal 1998, eq. 15; Cotter et al. 2013; Rudolf &
Sprungk 2018).  Sweeps take turns: N(m, C) is the prior, N(0, 1); or a Gaussian about the mode
that knows what the data say of that galaxy (`scorepriors.inference.sampling.reference`); or
one of all galaxies at once, which move together, as neighbours that share their light must.
For a faint source s tunes itself to 1, a fresh galaxy each time.  The likelihood has the
spectra integrated out.

Positions of stars have Gaussian priors and move alike; brightnesses walk at random.
"""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from numpyro import distributions as dist
from numpyro.distributions import biject_to

from scorepriors._loops import deferred_interrupt
from scorepriors.diffusion import follow_flow, noise_schedule
from scorepriors.distribution import ScorePrior
from scorepriors.errors import InputError
from scorepriors.models.blend import (
    BRIGHTNESS,
    BRIGHTNESS_WIDTH,
    blend,
    flux_given_brightness,
    site_name,
)
from scorepriors.models.products import chosen, inner_products, log_marginal
from scorepriors.models.rendering import ImageData
from scorepriors.models.sources import Sources, point_image
from scorepriors.models.spectra import SpectrumPosterior, SpectrumPrior, spectrum_posterior
from scorepriors.networks import unconfined

from ..optimization import MAPResult
from ..posterior import Posterior
from .algorithms import Algorithm, Move
from .chains import Run, make_target
from .checkpoints import fingerprint, load_run, save_run
from .collect import attributes, check_ranges, collect, reporter
from .preconditioner import identity_map
from .reference import Reference, reference

#: Steps of the flow between the prior's largest noise and sigma0.  At eight, quantiles of
#: size and flux of lsst-32 agree with those at forty within 2 %.
NUM_STEPS = 8

#: Directions in which data are looked for, of each galaxy and, for each, of all together.
DIRECTIONS, TOGETHER = 40, 20

#: Acceptance rates that the steps of sources and of brightnesses are tuned for.
SOURCE_RATE, BRIGHTNESS_RATE = 0.3, 0.4

#: Scatter of the logarithm of each step about its tuned size: some are always bold.
BOLDNESS = 0.7

#: Sweeps per compiled call: between calls progress is shown and Ctrl-C read.
BLOCK = 10

#: Seconds between checkpoints.
CHECKPOINT_INTERVAL = 20.0

#: Images of galaxies by the name of their group; names of `GROUPS` are in the order in
#: which JAX has the keys of a dictionary.
_Images = dict[str, Array]

FLOW = Algorithm(
    init=lambda *_: None, step=lambda *_: None, first_step=lambda _: 0.1,
    note="moves of the noise that the prior's probability flow turns into galaxies",
)  # fmt: skip


class Group(eqx.Module):
    """Galaxies under one prior.

    Attributes
    ----------
    prior, sources
        As for `scorepriors.models.blend`.
    """

    prior: ScorePrior
    sources: Sources

    def galaxy(self, noise: Float[Array, "N n n"]):
        """Stretched galaxies that the flow makes of white noise."""
        energy: Any = unconfined(self.prior.energy)
        levels = self._levels()
        top = jax.vmap(lambda white: energy.colour(white, levels[0]))(noise)
        return follow_flow(energy, top, levels)

    def noise(self, z: Float[Array, "N n n"]):
        """White noise that the flow makes galaxies of: the inverse of `galaxy`, about."""
        energy: Any = unconfined(self.prior.energy)
        levels = self._levels()
        top = follow_flow(energy, z, levels[::-1])
        return jax.vmap(lambda one: energy.whiten(one, levels[0]))(top)

    def _levels(self):
        return noise_schedule(self.prior.sigma_max, self.prior.sigma, NUM_STEPS)


class Scene(eqx.Module):
    """What the density of a blend is made of; galaxies come before stars.

    Attributes
    ----------
    data, stars
        Arguments of `scorepriors.models.blend`.
    groups
        Galaxies by the name of their group there.
    colour_width, center_error, psf_sigma, star_box
        Keywords of it.
    """

    data: ImageData
    groups: dict[str, Group]
    stars: Sources | None
    colour_width: float
    center_error: float
    psf_sigma: float
    star_box: int = eqx.field(static=True)

    def galaxies(self, noise: _Images) -> _Images:
        """Stretched galaxies that the flows make of white noise, group by group."""
        return {name: group.galaxy(noise[name]) for name, group in self.groups.items()}

    def render(self, z: _Images, offset: Float[Array, "S 2"]):
        """Sources with unit spectra as observed ``[K, B, H, W]``, and their areas ``[K]``."""
        images = [
            (group.prior.stretch(z[name]), group.sources.corner)
            for name, group in self.groups.items()
        ]
        if self.stars is not None:
            place = self.stars.center + offset - self.stars.corner
            star = point_image(place, box=self.star_box, psf_sigma=self.psf_sigma)
            images.append((star, self.stars.corner))
        drawn = jnp.concatenate([self.data.render(*group) for group in images])
        area = jnp.concatenate([image.sum((-2, -1)) for image, _ in images])
        return drawn, jnp.maximum(area, 1e-3)

    def log_likelihood(self, brightness: Float[Array, " K"], drawn, area):
        """Log-density of pixels and brightnesses, the spectra integrated out."""
        return self.spectra(brightness, drawn, area).log_marginal + self.usual(brightness)

    def spectra(self, brightness, drawn, area) -> SpectrumPosterior:
        """Spectra given shapes and brightnesses."""
        prior = self.spectrum_prior(brightness, area)
        return spectrum_posterior(drawn, self.data.images, self.data.weights, prior)

    def spectrum_prior(self, brightness: Float[Array, " K"], area) -> SpectrumPrior:
        """Of the amplitudes, given brightnesses and areas."""
        flux = flux_given_brightness(self.data, brightness, colour_width=self.colour_width)
        return flux.of_amplitudes(area)

    def usual(self, brightness: Float[Array, " K"]):
        """Log-density of the brightnesses under their prior."""
        mean = jnp.log(self.data.noise_flux) + BRIGHTNESS
        return dist.Normal(mean, BRIGHTNESS_WIDTH).log_prob(brightness).sum()

    def site(self, group: str, site: str) -> str:
        """Name of a site of the model."""
        stars = [] if self.stars is None else ["stars"]
        return site_name([*self.groups, *stars], group, site)

    def parameters(self, z: _Images, offset, brightness) -> dict:
        """Unconstrained parameters of the model ``blend``, by site."""
        found = {"brightness": brightness}
        for name, group in self.groups.items():
            image = group.prior.stretch(z[name])
            found[self.site(name, "morphology")] = biject_to(group.prior.support).inv(image)
        if self.stars is not None:
            found[self.site("stars", "offset")] = offset
        return found


class Walkers(NamedTuple):
    """Where C chains stand; the galaxies of all groups and S stars are K sources.

    Attributes
    ----------
    noise
        White, ``[C, G, n, n]`` of each group.
    z
        The stretched galaxies that the flow makes of it.
    offset
        ``[C, S, 2]``, of the stars.
    brightness
        ``[C, K]``.
    drawn, area
        ``[C, K, B, H, W]`` and ``[C, K]``, from `Scene.render`.
    log_likelihood
        ``[C]``.
    """

    noise: _Images
    z: _Images
    offset: Float[Array, "C S 2"]
    brightness: Float[Array, "C K"]
    drawn: Float[Array, "C K B H W"]
    area: Float[Array, "C K"]
    log_likelihood: Float[Array, " C"]


class References(NamedTuple):
    """Gaussians that moves refer to: of each galaxy, by group, and of all of them as one."""

    each: dict[str, Reference]
    together: Reference


class Steps(NamedTuple):
    """Sizes of moves, common to all chains.

    Attributes
    ----------
    source
        ``[3, K]``, of moves about the prior, about each galaxy's reference, and (one number)
        of all galaxies about their common one.
    brightness
        ``[K]``.
    """

    source: Float[Array, "3 K"]
    brightness: Float[Array, " K"]


def sample_flow_scene(
    bound: Posterior,
    best: MAPResult,
    *,
    key,
    num_warmup: int = 300,
    num_samples: int = 500,
    num_chains: int = 8,
    thinning: int = 1,
    log_likelihood: bool = False,
    posterior_predictive: bool = False,
    dims: dict | None = None,
    coords: dict | None = None,
    constant_data: dict | None = None,
    progress: Any = False,
    checkpoint: Any = None,
    target_acceptance_rate: float | None = None,
) -> Any:
    """Sample a scene of galaxies under a learned prior, and stars, about a mode.

    Parameters
    ----------
    bound, best
        A posterior of `scorepriors.models.blend` with free-form galaxies, and its mode.
    key, num_warmup, num_samples, num_chains, thinning, log_likelihood, posterior_predictive
        As for `sample`; a draw is a sweep over all sources.
    dims, coords, constant_data, progress, checkpoint
        As for `sample`.
    target_acceptance_rate
        Of the sources' moves; 0.3 by default.

    Returns
    -------
    xarray.DataTree or arviz.InferenceData
        As from `sample`; ``lp`` among the sample statistics is the log-density that
        the moves are judged by.

    Raises
    ------
    InputError
        If the model is another one, or its spectra are not integrated out.
    """
    started = time.monotonic()
    rate = SOURCE_RATE if target_acceptance_rate is None else target_acceptance_rate
    check_ranges(
        rate, num_warmup=(num_warmup, 20), num_samples=(num_samples, 4),
        num_chains=(num_chains, 1), thinning=(thinning, 1),
    )  # fmt: skip
    scene = _scene(bound)
    start_key, chain_key, draw_key = jax.random.split(key, 3)
    settings = {
        "algorithm": "flow", "num_warmup": num_warmup, "num_samples": num_samples,
        "num_chains": num_chains, "thinning": thinning, "rate": rate,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }  # fmt: skip
    total = num_warmup + num_samples
    with reporter(progress, total) as report, deferred_interrupt() as interrupt:
        report(0, "from galaxies to noise")
        run, near, start = _begin(bound, scene, best, num_chains, checkpoint, settings, start_key)
        saved = time.monotonic()
        while run.done < total:
            warming = run.done < num_warmup
            count = min(BLOCK, (num_warmup if warming else total) - run.done)
            run.states, run.settings, flat, moves = _advance(
                scene, near, run.states, run.settings, chain_key, np.int32(run.done), np.int32(count),
                np.int32(thinning), np.asarray(warming), np.float32(rate), BLOCK,
            )  # fmt: skip
            run.done += count
            run.gradients += count * thinning * num_chains * NUM_STEPS
            moves = jax.tree.map(lambda a, n=count: np.asarray(a)[:n], moves)
            if not warming:
                run.draws.append(np.asarray(flat)[:count])
                run.moves.append(moves)
            steps = ", ".join(f"{s:.2g}" for s in np.asarray(run.settings.source).max(0))
            report(run.done, f"{'warm-up' if warming else 'draws'}: acceptance "
                   f"{moves.acceptance_rate.mean():.2f}, steps {steps}")  # fmt: skip
            due = time.monotonic() - saved > CHECKPOINT_INTERVAL
            if checkpoint is not None and (due or run.done == total or bool(interrupt)):
                save_run(checkpoint, run, {"references": near}, None, fingerprint(bound, settings))
                saved = time.monotonic()
            if interrupt:
                break
        kept = sum(len(d) for d in run.draws)
        if kept < 4:
            raise KeyboardInterrupt
        report(run.done, "from draws to values")
        flat, _ = ravel_pytree(_parameters(scene, run.states, 0))
        plain = identity_map(len(flat), 1, flat.dtype)
        origin = jax.tree.map(jnp.zeros_like, _parameters(scene, run.states, 0))
        stats = jax.tree.map(lambda *parts: np.concatenate(parts).T, *run.moves)._asdict()
        stats = {
            "lp": -stats.pop("energy"),
            **{n: v for n, v in stats.items() if n != "tree_depth"},
        }
        attrs = {
            **attributes(bound, settings, start, kept),
            "inference_library": "scorepriors",
            "step_size": float(np.asarray(run.settings.source).mean()),
            "source_steps": json.dumps(np.asarray(run.settings.source, float).tolist()),
            "gradients": run.gradients,
        }
        return collect(
            make_target(bound, origin, plain, plain), run.draws, stats, FLOW,
            key=draw_key, log_likelihood=log_likelihood, posterior_predictive=posterior_predictive,
            dims=dims, coords=coords, constant_data=constant_data, attrs=attrs,
            wanted=num_samples, started=started,
        )  # fmt: skip


def _scene(bound: Posterior) -> Scene:
    """The parts of a posterior of `blend`."""
    args, keywords = bound.arguments
    data, prior, galaxies, stars, profiles, large_prior, large = (*args, *[None] * 7)[:7]
    given = {"galaxies": (prior, galaxies), "large": (large_prior, large)}
    groups = {n: Group(*pair) for n, pair in given.items() if pair[1] is not None}
    if bound.model is not blend or not groups or profiles is not None:
        raise InputError(
            "the algorithm 'flow' samples free-form galaxies (and stars) of `blend`; "
            "use 'nuts' or 'dynamic_hmc' for another model."
        )
    if keywords.get("spectra", "marginal") != "marginal":
        raise InputError(
            f"the algorithm 'flow' integrates spectra out, but spectra={keywords['spectra']!r}; "
            "deblend with spectra='marginal'."
        )
    for group in groups.values():
        if not hasattr(group.prior.energy, "colour"):
            raise InputError(
                f"the energy of {group.prior.name} has no `colour`, which makes its start of "
                "white noise; add it, or use 'nuts' or 'dynamic_hmc'."
            )
    return Scene(
        data, groups, stars, keywords.get("colour_width", 1.0),
        keywords.get("center_error", 0.3), keywords.get("psf_sigma", 0.7),
        int(keywords.get("star_box", 15)),
    )  # fmt: skip


def _begin(bound, scene, best, num_chains, checkpoint, settings, key):
    """A run and its reference, at the start or as the checkpoint has them."""
    values = best.values
    images = {n: jnp.asarray(values[scene.site(n, "morphology")]) for n in scene.groups}
    stars = scene.stars
    offset = (
        jnp.zeros((0, 2)) if stars is None else jnp.asarray(values[scene.site("stars", "offset")])
    )
    brightness = jnp.asarray(values["brightness"])
    size, kind = len(brightness), brightness.dtype
    pixels = sum(image.size for image in images.values())

    def steps():
        return Steps(jnp.full((3, size), 0.3, kind), jnp.full(size, 0.2, kind))

    if checkpoint is not None and Path(checkpoint).exists():

        def skeleton():
            states = _about(scene, images, offset, brightness, num_chains)
            each = {
                n: _empty(len(image), image[0].size, DIRECTIONS, kind)
                for n, image in images.items()
            }
            near = References(each, _empty(1, pixels, TOGETHER * size, kind))
            return states, steps(), None, None, {"references": near}, None

        like = eqx.filter_eval_shape(skeleton)
        run, near, _ = load_run(checkpoint, like, fingerprint(bound, settings))
        return run, near["references"], "checkpoint"
    states = _about(scene, images, offset, brightness, num_chains)
    if not np.isfinite(np.asarray(states.log_likelihood)).all():
        raise InputError("the log-density is not finite at the mode; deblend again.")
    first, second = jax.random.split(key)
    one = jax.tree.map(lambda a: a[0], states)
    each = {
        name: reference(eqx.Partial(_curvature, scene, one, name), noise, DIRECTIONS, first)
        for name, noise in one.noise.items()
    }
    # Of several galaxies as of one image, their pixels one after the other.
    together = reference(
        eqx.Partial(_curvature, scene, one, None), _as_one(one.noise, 0), TOGETHER * size, first
    )
    states = _spread(scene, each, states, second)
    # No tuner and no map: these moves tune themselves by their acceptance.
    none: Any = None
    return Run(0, states, steps(), none, none), References(each, together), "given mode"


def _as_one(noise: _Images, axes: int):
    """Images ``[*axes, G, n, n]`` of all groups as one row of pixels, ``[*axes, 1, d]``."""
    rows = [a.reshape(*a.shape[:axes], 1, -1) for a in noise.values()]
    return jnp.concatenate(rows, -1)


def _apart(row, like: _Images) -> _Images:
    """The inverse of `_as_one`."""
    out, first = {}, 0
    for name, a in like.items():
        size = int(np.prod(a.shape[row.ndim - 2 :]))
        out[name] = row[..., 0, first : first + size].reshape(a.shape)
        first += size
    return out


def _empty(galaxies: int, dimension: int, directions: int, dtype) -> Reference:
    rank = min(directions, dimension)
    none = jnp.zeros((galaxies, rank), dtype)
    return Reference(jnp.zeros((galaxies, rank, dimension), dtype), none, none)


@eqx.filter_jit
def _about(scene: Scene, images: _Images, offset, brightness, num_chains: int) -> Walkers:
    """Chains that all stand at one point, or about: the flow is not undone to the last digit."""
    noise = {
        name: group.noise(group.prior.stretch.inv(images[name]))
        for name, group in scene.groups.items()
    }
    z = scene.galaxies(noise)
    drawn, area = scene.render(z, offset)
    value = scene.log_likelihood(brightness, drawn, area)
    one = Walkers(noise, z, offset, brightness, drawn, area, value)
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (num_chains, *a.shape)), one)


def _alone(scene: Scene, chain: Walkers, z: _Images, which):
    """Log-likelihoods of one chain, each with only one galaxy, by number, as in `z`."""
    drawn, area = scene.render(z, chain.offset)

    def with_one(k):
        mine = jnp.arange(len(area)) == k
        return scene.log_likelihood(
            chain.brightness, jnp.where(mine[:, None, None, None], drawn, chain.drawn),
            jnp.where(mine, area, chain.area),
        )  # fmt: skip

    return jax.lax.map(with_one, which)


def _numbers(noise: _Images, axis: int) -> _Images:
    """Numbers of the galaxies of each group among all sources."""
    out, first = {}, 0
    for name, a in noise.items():
        out[name] = jnp.arange(first, first + a.shape[axis])
        first += a.shape[axis]
    return out


def _curvature(scene: Scene, chain: Walkers, name: str | None):
    """Prepare products with the curvature of minus the log-likelihood in the noise.

    Of each galaxy of a group by itself, for ``v [G, d]``; or of all galaxies as one, for
    ``[1, d]``.  That of Gauss and Newton: :math:`J^T (W - W M C M^T W) J` with the derivative
    J of the model image, the weights W, and what the spectra, with covariance C, explain of
    it taken out.  It needs no second derivative of the flow, and is never negative.
    """
    data = scene.data
    solved = scene.spectra(chain.brightness, chain.drawn, chain.area)
    covariance = solved.covariance()
    if name is None:
        here, spectrum = _as_one(chain.noise, 0), solved.mean

        def drawn(noise):
            z = scene.galaxies(_apart(noise, chain.noise))
            return scene.render(z, chain.offset)[0]
    else:
        group = scene.groups[name]
        here, spectrum = chain.noise[name], solved.mean[_numbers(chain.noise, 0)[name]]

        def drawn(noise):
            return data.render(group.prior.stretch(group.galaxy(noise)), group.sources.corner)

    # Once for all products: what is left of each is linear.
    _, forward = jax.linearize(drawn, here)
    backward = jax.linear_transpose(forward, here)

    def unexplained(images):
        """Weighted changes of the model ``[..., B, H, W]`` that no spectrum makes up for."""
        weighed = data.weights * images
        seen = jnp.einsum("kbyx,...byx->...kb", chain.drawn, weighed)
        moved = jnp.einsum("kblc,...lc->...kb", covariance, seen)
        return weighed - data.weights * jnp.einsum("kbyx,...kb->...byx", chain.drawn, moved)

    def product(v):
        change = spectrum[:, :, None, None] * forward(v.reshape(here.shape))
        left = unexplained(change.sum(0) if name is None else change)
        return backward(spectrum[:, :, None, None] * left)[0].reshape(v.shape)

    return product


@eqx.filter_jit
def _spread(scene: Scene, near: dict[str, Reference], states: Walkers, key) -> Walkers:
    """Chains spread about the mode as far as the likelihood lets them, galaxy by galaxy."""
    fresh = _normals(key, states.noise)
    numbers = _numbers(states.noise, 1)
    every = jnp.concatenate(list(numbers.values()))
    # What a draw of the posterior loses against the mode, and half as much again.
    allowed = {name: -(5 + one.freedom()) for name, one in near.items()}

    def wider(carry, step):
        noise, z, _ = carry
        tried = {
            name: jax.vmap(lambda old, new, n=name: near[n].move(old, new, _each(step, old)))(
                noise[name], fresh[name]
            )
            for name in noise
        }
        made = _of_all_chains(scene, tried)
        values = jax.lax.map(lambda x: _alone(scene, x[0], x[1], every), (states, made))
        for name, mine in numbers.items():
            loss = values[:, mine] - states.log_likelihood[:, None]
            good = (loss > allowed[name])[..., None, None]
            tried[name] = jnp.where(good, tried[name], noise[name])
            made[name] = jnp.where(good, made[name], z[name])
        return (tried, made, step), None

    steps = jnp.asarray([0.05, 0.1, 0.2, 0.4, 0.7, 1.0], states.brightness.dtype)
    start = (states.noise, states.z, steps[0])
    (noise, z, _), _ = jax.lax.scan(wider, start, steps)
    drawn, area = jax.lax.map(lambda x: scene.render(*x), (z, states.offset))
    value = jax.lax.map(lambda x: scene.log_likelihood(*x), (states.brightness, drawn, area))
    return Walkers(noise, z, states.offset, states.brightness, drawn, area, value)


def _each(step, galaxies):
    return jnp.full(len(galaxies), step, galaxies.dtype)


def _normals(key, like: _Images) -> _Images:
    """White noise of the shapes of `like`."""
    return {
        name: jax.random.normal(key if i == 0 else jax.random.fold_in(key, i), a.shape, a.dtype)
        for i, (name, a) in enumerate(like.items())
    }


def _of_all_chains(scene: Scene, noise: _Images) -> _Images:
    """Galaxies ``[C, G, n, n]``: those of all chains in one call of the network."""
    made = scene.galaxies({n: a.reshape(-1, *a.shape[2:]) for n, a in noise.items()})
    return {name: made[name].reshape(a.shape) for name, a in noise.items()}


@eqx.filter_jit
def _parameters(scene: Scene, states: Walkers, chain) -> dict:
    z = {name: a[chain] for name, a in states.z.items()}
    return scene.parameters(z, states.offset[chain], states.brightness[chain])


@eqx.filter_jit
def _advance(scene, near, states, steps, key, first, count, thinning, warming, rate, size: int):
    """Make `count` draws of every chain, at most `size`.

    Returns
    -------
    states, steps
        Afterwards.
    flat
        ``[size, C, d]``, unconstrained parameters, rows beyond `count` unset.
    moves
        `Move` of ``[size, C]``.
    """
    chains = states.brightness.shape[0]

    def draw(i, carry):
        states, steps, flat, moves = carry

        def inner(j, carry):
            states, steps, accepted = carry
            number = (first + i) * thinning + j
            kind = number % 3
            states, rates, accepted = _sweep(
                scene, near, kind, states, steps._replace(source=steps.source[kind]),
                jax.random.fold_in(key, number),
            )  # fmt: skip
            push = jnp.where(warming, 2 * (number / 3 + 3.0) ** -0.6, 0.0)
            return states, _tuned(steps, kind, rates, push, rate), accepted

        zero = jnp.zeros(chains, states.log_likelihood.dtype)
        states, steps, accepted = jax.lax.fori_loop(0, thinning, inner, (states, steps, zero))
        one = jax.vmap(lambda *a: ravel_pytree(scene.parameters(*a))[0])
        move = Move(
            accepted, jnp.zeros(chains, bool), -states.log_likelihood,
            jnp.full(chains, NUM_STEPS, jnp.int32) * thinning, jnp.zeros(chains, jnp.int32),
        )  # fmt: skip
        flat = flat.at[i].set(one(states.z, states.offset, states.brightness))
        return states, steps, flat, jax.tree.map(lambda a, b: a.at[i].set(b), moves, move)

    one = (states.z, states.offset, states.brightness)
    dimension = sum(a[0].size for a in jax.tree.leaves(one))
    kind = states.log_likelihood.dtype
    moves = Move(
        jnp.zeros((size, chains), kind), jnp.zeros((size, chains), bool),
        jnp.zeros((size, chains), kind), jnp.zeros((size, chains), jnp.int32),
        jnp.zeros((size, chains), jnp.int32),
    )  # fmt: skip
    flat = jnp.zeros((size, chains, dimension), kind)
    return jax.lax.fori_loop(0, count, draw, (states, steps, flat, moves))


def _tuned(steps: Steps, kind, rates: Steps, push, rate) -> Steps:
    """Larger steps where more moves than wanted are accepted (Robbins and Monro 1951)."""
    source = steps.source[kind] * jnp.exp(push * (rates.source - rate))
    brightness = steps.brightness * jnp.exp(push * (rates.brightness - BRIGHTNESS_RATE))
    return Steps(
        steps.source.at[kind].set(jnp.clip(source, 1e-4, 1.0)), jnp.clip(brightness, 1e-4, 3.0)
    )


def _sweep(scene: Scene, near: References, kind, states: Walkers, steps: Steps, key):
    """Offer every source of every chain one move, or all galaxies of every chain (kind 2).

    Returns
    -------
    states
        Afterwards.
    rates
        Acceptance rates ``[K]`` of sources and of brightnesses, averaged over the chains.
    accepted
        ``[C]``, averaged over the sources.
    """
    numbers = _numbers(states.noise, 1)
    chains, num_galaxies = len(states.brightness), sum(len(n) for n in numbers.values())
    bold, fresh, star, judge = jax.random.split(key, 4)
    scatter = jax.random.normal(bold, states.brightness.shape, states.brightness.dtype)
    step = jnp.minimum(steps.source * jnp.exp(BOLDNESS * scatter), 1.0)
    new, jointly = _normals(fresh, states.noise), kind == 2
    each = {name: one.times(kind) for name, one in near.each.items()}
    before = _as_one(states.noise, 1)
    moved = _apart(jax.vmap(near.together.move)(before, _as_one(new, 1), step[:, :1]), states.noise)
    noise = {
        name: jnp.where(
            jointly, moved[name], jax.vmap(each[name].move)(old, new[name], step[:, numbers[name]])
        )
        for name, old in states.noise.items()
    }
    z = _of_all_chains(scene, noise)

    # What the reference says of a move, which the likelihood has to make up for.
    def gain(one, old, moved):
        return jax.vmap(lambda a, b: one.excess(b) - one.excess(a))(old, moved)

    alone = [gain(each[name], states.noise[name], noise[name]) for name in noise]
    common = gain(near.together, before, _as_one(noise, 1))
    first = jnp.arange(num_galaxies) == 0
    excess = jnp.where(jointly, common * first, jnp.concatenate(alone, 1))
    other = scene.center_error * jax.random.normal(star, states.offset.shape, states.offset.dtype)
    turn = jnp.where(jointly, 0.0, step[:, num_galaxies:, None])
    offset = jnp.sqrt(1 - turn**2) * states.offset + turn * other
    excess = jnp.concatenate([excess, jnp.zeros(offset.shape[:2], excess.dtype)], 1)
    # Chain by chain: one scene's renderings fit into the caches, those of all do not.
    states, source, brightness = jax.lax.map(
        lambda x: _judge(scene, steps.brightness, jointly, *x),
        (states, noise, z, offset, excess, jax.random.split(judge, chains)),
    )
    return states, Steps(source.mean(0), brightness.mean(0)), source.mean(1)


def _judge(scene: Scene, brightness_step, jointly, chain: Walkers, noise, z, offset, excess, key):
    """Take or leave the moves of one chain's sources, one after the other or all at once."""
    drawn, area = scene.render(z, offset)
    num_sources = len(area)
    keys = jax.random.split(key, (3, num_sources))
    # Pixels are looked at once; every choice after that is one of inner products.
    here = scene.spectra(chain.brightness, chain.drawn, chain.area).mean
    model = jnp.einsum("kb,kbyx->byx", here, chain.drawn)
    data = scene.data
    products = inner_products(
        jnp.concatenate([chain.drawn, drawn]), data.images - model, data.weights
    )
    current = jnp.arange(num_sources)

    def log_likelihood(brightness, taken):
        choice = current + num_sources * taken
        prior = scene.spectrum_prior(brightness, jnp.where(taken, area, chain.area))
        held = chosen(products, here, current, choice)
        return log_marginal(held, prior, here) + scene.usual(brightness)

    def source(k, carry):
        taken, value, rates = carry
        # All at once, the first decides for the others, which then change nothing.
        tried = jnp.where(jointly, taken | (k == 0), taken.at[k].set(True))
        new = log_likelihood(chain.brightness, tried)
        accept, odds = _accept(keys[0, k], new - value + excess[k])
        return (
            jnp.where(accept, tried, taken), jnp.where(accept, new, value), rates.at[k].set(odds),
        )  # fmt: skip

    zero = jnp.zeros(num_sources, chain.brightness.dtype)
    nobody = jnp.zeros(num_sources, bool)
    start = log_likelihood(chain.brightness, nobody)
    taken, value, source_rates = jax.lax.fori_loop(0, num_sources, source, (nobody, start, zero))

    def bright(k, carry):
        brightness, value, rates = carry
        # Now and then far: a source that may be there or not has two places to be.
        move, bold = jax.random.normal(keys[1, k], (2,), brightness.dtype)
        tried = brightness.at[k].add(brightness_step[k] * jnp.exp(bold) * move)
        new = log_likelihood(tried, taken)
        accept, odds = _accept(keys[2, k], new - value)
        return (
            jnp.where(accept, tried, brightness), jnp.where(accept, new, value),
            rates.at[k].set(odds),
        )  # fmt: skip

    brightness, value, brightness_rates = jax.lax.fori_loop(
        0, num_sources, bright, (chain.brightness, value, zero)
    )
    numbers = _numbers(z, 0)
    star = taken[sum(len(n) for n in numbers.values()) :]

    def either(new, old):
        return {n: jnp.where(taken[numbers[n]][:, None, None], new[n], old[n]) for n in new}

    return (
        Walkers(
            either(noise, chain.noise), either(z, chain.z),
            jnp.where(star[:, None], offset, chain.offset),
            brightness, jnp.where(taken[:, None, None, None], drawn, chain.drawn),
            jnp.where(taken, area, chain.area), value,
        ),
        source_rates,
        brightness_rates,
    )  # fmt: skip


def _accept(key, gain):
    """Metropolis's choice, and its probability; no move to where the density is none."""
    odds = jnp.where(jnp.isfinite(gain), jnp.minimum(jnp.exp(jnp.minimum(gain, 0.0)), 1.0), 0.0)
    return jax.random.uniform(key, (), odds.dtype) < odds, odds
