"""Resumable training of a `WienerEnergy`, with atomic checkpoints and progress reports.

Two stages: denoising score matching, then, if the recipe has one, the wall of
`scorepriors.Confined` around the learned region.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scorepriors._archives import read_archive, write_archive
from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._loops import deferred_interrupt
from scorepriors._progress import Progress, Report, reporting
from scorepriors._stretch import LogStretch
from scorepriors.energies._confined import Confined, Wall
from scorepriors.energies._wiener import ModeNetwork, WienerEnergy, dihedral, principal_modes

from ._prior import prior_of
from ._recipe import Recipe
from ._rounds import (
    Rounds,
    held_and_learned,
    identity_of,
    learn_from_stamps,
    origin_of,
    read_recipe_stamps,
)
from ._sets import iter_simulated, read_images
from ._stamps import Stamps
from ._wall import WallState, calibrate, initial_wall, make_wall_optimizer, make_wall_step

_CHECKPOINT = "checkpoint of a training run"

#: Edges in sigma of the bins in which progress reports the loss.
LOSS_BINS = (0.025, 0.1, 0.4, 1.6, 6.4, 25.6)


class TrainingState(NamedTuple):
    """State in a checkpoint: the trained network, its average, the optimizer."""

    network: ModeNetwork
    average: ModeNetwork
    optimizer: optax.OptState


@dataclass
class TrainingResult:
    """Outcome of `train`.

    Attributes
    ----------
    prior
        The prior at the recipe's sigma0, with the averaged weights; `scorepriors.save_prior`
        writes it.
    step, num_steps
        Steps done and wanted; fewer done after an interruption.
    seconds
        Time spent in optimization, all resumed runs together.
    history
        Denoising loss per block and noise bin, ``[blocks, bins]``, NaN where a bin got no
        image.
    rounds
        Rounds done and wanted, for a recipe with noisy stamps; (0, 0) for others.
    """

    prior: ScorePrior
    step: int
    num_steps: int
    seconds: float
    history: np.ndarray
    rounds: tuple[int, int] = (0, 0)

    @property
    def finished(self) -> bool:
        """Whether every round and step of the recipe was done."""
        return self.step >= self.num_steps and self.rounds[0] >= self.rounds[1]


def training_images(recipe: Recipe, directory: Path, progress: Progress = False):
    """Return the images of a recipe, stored in `directory` so that a run can be repeated.

    Returns
    -------
    train, held_out
        Disjoint sets of images ``[N, n, n]``, float32, with peaks of one.

    Raises
    ------
    InputError
        If the user's images can't be used, or those stored are of another recipe; for noisy
        stamps, if `train` has not drawn galaxies of them yet.
    """
    data = recipe.data
    stored = directory / "images.npz"
    if data.noisy is not None:
        identity = identity_of(recipe, read_recipe_stamps(recipe))
        kept = _read_stored(stored, identity, "recipe or other stamps")
        if kept is None:
            raise InputError(f"{directory} holds no galaxies of the noisy stamps yet; train first.")
        return kept["train"], kept["held_out"]
    identity = json.dumps(_described(recipe)["data"], sort_keys=True)
    kept = _read_stored(stored, identity, "[data] table")
    if kept is not None:
        return kept["train"], kept["held_out"]
    if data.set is not None:
        images = _simulate_parallel(recipe, progress)
    elif data.path is not None:
        images = read_images(data.path, box=data.box)
        images = np.random.default_rng(data.seed).permutation(images)
        # The recipe does not set the size of a user's set: keep its share of held-out images.
        share = data.num_held_out / (data.num_images + data.num_held_out)
        held = max(1, round(share * len(images)))
        if len(images) - held < 2:
            raise InputError(f"{len(images)} images are too few to train on.")
        held_out, train = images[:held], images[held : held + data.num_images]
    if data.set is not None:
        held_out, train = images[data.num_images :], images[: data.num_images]
    _store(stored, identity, train=train, held_out=held_out)
    return train, held_out


def _store(path: Path, identity: str, **arrays: np.ndarray) -> None:
    write_archive(path, arrays, {}, kind=f"set of {path.stem}", version=1, identity=identity)


def _read_stored(path: Path, identity: str, table: str = "recipe") -> dict[str, np.ndarray] | None:
    """Return what `_store` wrote, None if missing; InputError for one of another recipe."""
    if not path.exists():
        return None
    arrays, _ = read_archive(
        path,
        kind=f"set of {path.stem}",
        version=1,
        mend="delete the file",
        identity=identity,
        other=f"another {table}; train in a new directory",
    )
    return arrays


def _simulate_chunk(task):
    name, start, stop, box, seed = task
    return np.stack(list(iter_simulated(name, range(start, stop), box=box, seed=seed)))


def _simulate_parallel(recipe: Recipe, progress: Progress) -> np.ndarray:
    data = recipe.data
    total, chunk = data.num_images + data.num_held_out, 500
    tasks = [
        (data.set, start, min(start + chunk, total), data.box, data.seed)
        for start in range(0, total, chunk)
    ]
    images = []
    # Spawned, because JAX's threads do not survive a fork.
    with (
        reporting(progress, "simulating", total) as report,
        ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
    ):
        for part in pool.map(_simulate_chunk, tasks):
            images.append(part)
            report(sum(map(len, images)), total, "images simulated")
    return np.concatenate(images)


def training_modes(
    recipe: Recipe, directory: Path, train: np.ndarray, noisy: str = ""
) -> dict[str, np.ndarray]:
    """Return mean and leading modes of the training images, stored in `directory`.

    A network is valid only in the coordinates of the modes that it was trained with, and
    two machines give modes of different signs.  The stored modes let a run move to another.
    `noisy` tells apart what a run with noisy stamps learns from.
    """
    stored = directory / "modes.npz"
    identity = _identity(recipe, "data", "stretch", "network", noisy=noisy)
    modes = _read_stored(stored, identity)
    if modes is None:
        stretch = LogStretch(recipe.stretch.softening, recipe.stretch.scale)
        # The covariance needs thousands of images, not all of them.
        z = np.asarray(stretch.inv(train[:20_000]))
        names = ("mean", "basis", "eigenvalues", "tail")
        found = principal_modes(z, recipe.network.modes)
        modes = {n: np.asarray(a) for n, a in zip(names, found, strict=True)}
        _store(stored, identity, **modes)
    return modes


def initial_energy(recipe: Recipe, modes: dict[str, np.ndarray]) -> WienerEnergy:
    """Return the Wiener filter of the training images with an untrained network.

    Parameters
    ----------
    recipe
        Sizes of the network and noise levels.
    modes
        Result of `training_modes`.
    """
    net = recipe.network
    network = ModeNetwork(
        net.modes, net.width, net.inner, net.depth, key=jr.key(recipe.training.seed)
    )
    mean, basis, values, tail = (
        jnp.asarray(modes[n], jnp.float32) for n in ("mean", "basis", "eigenvalues", "tail")
    )
    return WienerEnergy(mean, basis, values, tail, network)


def mode_coordinates(recipe: Recipe, energy: WienerEnergy, images: np.ndarray) -> np.ndarray:
    """Return leading coordinates ``[8 N, m]`` of the images in all eight orientations."""
    stretch = LogStretch(recipe.stretch.softening, recipe.stretch.scale)
    z = np.asarray(stretch.inv(images))
    mean, basis = np.asarray(energy.mean), np.asarray(energy.basis)
    return np.concatenate([(t.reshape(len(z), -1) - mean) @ basis for t in dihedral(z)])


def denoising_loss(energy: WienerEnergy, clean, sigma, noise):
    """Return the squared error of the denoised modes, one being the Wiener filter's expected.

    Parameters
    ----------
    energy
        Energy in training.
    clean, noise
        Mode coordinates and unit normal deviates, ``[batch, m]``.
    sigma
        Noise levels ``[batch]``.

    Returns
    -------
    Array
        Losses ``[batch]`` of score matching (Sampson et al. 2024, eq. 7), with equal weights
        of all noise levels: one is the Wiener filter.
    """
    a = clean + sigma[:, None] * noise
    gradient = jax.vmap(jax.grad(energy.mode_energy))(a, sigma)
    denoised = a - sigma[:, None] ** 2 * gradient
    variance = sigma[:, None] ** 2
    wiener = (energy.eigenvalues * variance / (energy.eigenvalues + variance)).sum(1)
    return ((denoised - clean) ** 2).sum(1) / wiener


def train(
    recipe: Recipe,
    directory: str | Path,
    *,
    start: ScorePrior | None = None,
    progress: Progress = False,
    checkpoint_seconds: float = 60.0,
) -> TrainingResult:
    """Train a prior; continue from the checkpoint in `directory` if there is one.

    Parameters
    ----------
    recipe
        Result of `read_recipe`.
    directory
        Folder of the stored images and the checkpoint; made if missing.
    start
        For noisy stamps: the prior that `data.start` names, by `load_prior`; none for a built-in
        set.
    progress
        True for a bar; or a function, called as ``progress(done, total, text)`` while images
        are simulated and then after every block of steps, with the losses as the text.
    checkpoint_seconds
        Smallest time between checkpoints, seconds.  One is always written at the end and
        after Ctrl-C; each replaces the last atomically, so kill -9 is safe too.

    Returns
    -------
    TrainingResult
        Unfinished after Ctrl-C.  The randomness of step i depends on the seed and i
        only: a resumed run gives the weights of an uninterrupted one.

    Raises
    ------
    InputError
        If the checkpoint belongs to another recipe, or the loss is no longer finite.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with reporting(progress, recipe.name) as report:
        return _train(recipe, directory, start, report, checkpoint_seconds)


def _train(recipe: Recipe, directory: Path, start, report, checkpoint_seconds) -> TrainingResult:
    done, noisy = (0, 0), ""
    if recipe.data.noisy is not None:
        stamps, origin = read_recipe_stamps(recipe), origin_of(recipe, start)
        done, noisy = (recipe.rounds.number,) * 2, f"{stamps.digest} {origin}"
        _check_origin(recipe, stamps, directory / "images.npz", origin)
    if recipe.data.noisy is not None and not (directory / "images.npz").exists():
        rounds = _draw_images(recipe, stamps, directory, start, report, checkpoint_seconds)
        done = (rounds.done, rounds.total)
        if rounds.images is None:
            wanted = recipe.training.steps + recipe.confinement.steps
            prior = prior_of(rounds.energy, recipe)
            return TrainingResult(prior, 0, wanted, 0.0, np.zeros((0, len(LOSS_BINS) - 1)), done)
    images, _ = training_images(recipe, directory, report)
    energy = initial_energy(recipe, training_modes(recipe, directory, images, noisy))
    coordinates = jnp.asarray(mode_coordinates(recipe, energy, images), jnp.float32)
    first, second = recipe.training.steps, recipe.confinement.steps
    optimizer = make_optimizer(recipe)
    run = _run_stage(
        directory / "checkpoint.npz",
        _identity(recipe, "data", "stretch", "network", "training", noisy=noisy),
        _Run(TrainingState(energy.network, energy.network, optimizer.init(energy.network))),
        first,
        lambda: _compile_block(energy, optimizer, recipe, coordinates),
        _Settings(recipe, partial(_report, report, 0, first + second), checkpoint_seconds),
    )
    energy = eqx.tree_at(lambda e: e.network, energy, run.state.average)
    step, seconds, history = run.step, run.seconds, run.history
    if second and step == first:
        untrained = initial_wall(recipe)
        start = make_wall_optimizer(recipe.confinement).init(untrained)
        run = _run_stage(
            # A separate checkpoint: another wall needs no new energy.
            directory / "confinement.npz",
            _identity(recipe, "data", "stretch", "network", "training", "confinement", noisy=noisy),
            _Run(WallState(untrained, start)),
            second,
            lambda: _wall_block(energy, recipe, coordinates),
            _Settings(recipe, partial(_report, report, first, first + second), checkpoint_seconds),
        )
        step, seconds = step + run.step, seconds + run.seconds
        wall = _placed(energy, run.state.wall, coordinates, recipe)
        prior = prior_of(Confined(energy, wall), recipe)
    else:
        prior = prior_of(energy, recipe)
    return TrainingResult(prior, step, first + second, seconds, np.asarray(history), done)


def _check_origin(recipe: Recipe, stamps: Stamps, path: Path, origin: str) -> None:
    """Raise InputError if the galaxies that a run has drawn began with another start."""
    kept = _read_stored(path, identity_of(recipe, stamps), "recipe or other stamps")
    if kept is not None and str(kept["origin"]) != origin:
        raise InputError(
            f"{path} holds galaxies that were drawn from another start than "
            f"{recipe.data.start!r} is now; train in a new directory."
        )


def _draw_images(
    recipe: Recipe, stamps: Stamps, directory: Path, start, report, checkpoint_seconds
) -> Rounds:
    """Store the images that are learned from noisy stamps, as the training set of a run."""
    origin = origin_of(recipe, start)
    noisy = f"{stamps.digest} {origin}"

    def untrained(images, folder):
        return initial_energy(recipe, training_modes(recipe, folder, images, noisy))

    def fit(energy, images, folder, number):
        # Every round has its own batches and noise.
        training = dataclasses.replace(
            recipe.training, steps=recipe.rounds.steps, seed=recipe.training.seed + 7919 * number
        )
        within = dataclasses.replace(recipe, training=training)
        coordinates = jnp.asarray(mode_coordinates(recipe, energy, images), jnp.float32)
        optimizer = make_optimizer(within)
        run = _run_stage(
            folder / "checkpoint.npz",
            _identity(within, "data", "stretch", "network", "training", noisy=noisy),
            _Run(TrainingState(energy.network, energy.network, optimizer.init(energy.network))),
            training.steps,
            lambda: _compile_block(energy, optimizer, within, coordinates),
            _Settings(within, partial(_report, report, 0, training.steps), checkpoint_seconds),
        )
        if run.step < training.steps:
            return None
        return eqx.tree_at(lambda e: e.network, energy, run.state.average)

    found = learn_from_stamps(
        recipe, stamps, start, directory / "rounds", untrained, fit, report, checkpoint_seconds
    )
    if found.images is not None:
        held, learned = held_and_learned(recipe, len(found.images))
        # Without the start, so that who reads the images needs none.
        identity = identity_of(recipe, stamps)
        sets = {"train": found.images[learned], "held_out": found.images[held]}
        sets["origin"] = np.asarray(origin)
        _store(directory / "images.npz", identity, **sets)
    return found


class _Run(NamedTuple):
    """State of a stage: steps done, time spent and losses."""

    state: Any
    step: int = 0
    seconds: float = 0.0
    history: Sequence = ()


class _Settings(NamedTuple):
    recipe: Recipe
    report: Callable
    checkpoint_seconds: float


def _run_stage(
    checkpoint: Path, identity: str, run: _Run, steps: int, compile_block: Callable, settings
) -> _Run:
    """Run the steps of a stage that its checkpoint does not contain yet."""
    recipe, report, checkpoint_seconds = settings
    state, step, seconds, history = run
    if checkpoint.exists():
        state, step, seconds, history = _read_checkpoint(checkpoint, state, identity)
    history = list(history)
    if step >= steps:
        return _Run(state, step, seconds, history)
    block = compile_block()
    key = jr.key(recipe.training.seed)
    saved = time.monotonic()
    with deferred_interrupt() as interrupt:
        while step < steps and not interrupt:
            started = time.monotonic()
            count = min(recipe.training.block, steps - step)
            after, sigmas, losses = block(state, key, step, count)
            losses = np.asarray(losses)
            if not np.isfinite(losses).all():
                raise InputError(
                    f"the loss is not finite after step {step}; lower `training.learning_rate` "
                    f"(or `confinement.learning_rate`) and train in a new directory."
                )
            state, step = after, step + count
            seconds += time.monotonic() - started
            history.append(_binned(np.asarray(sigmas), losses))
            report(step, history[-1])
            if time.monotonic() - saved > checkpoint_seconds:
                _write_checkpoint(checkpoint, state, step, seconds, history, identity)
                saved = time.monotonic()
    _write_checkpoint(checkpoint, state, step, seconds, history, identity)
    return _Run(state, step, seconds, history)


def _identity(recipe: Recipe, *tables: str, noisy: str = "") -> str:
    described = _described(recipe)
    rounds = () if recipe.data.noisy is None else ("rounds",)
    about = {name: described[name] for name in (*tables, *rounds)}
    return json.dumps(about | ({"noisy": noisy} if noisy else {}), sort_keys=True)


def _described(recipe: Recipe) -> dict:
    """Return a recipe as it was described before there were noisy stamps, if it has none.

    Runs that began then go on.  Stamps and starts are told apart by what they hold, not by their place.
    """
    described = recipe.as_dict()
    for name in ("noisy", "start"):
        described["data"].pop(name, None)
    return described


def _report(report: Report, before: int, total: int, step: int, losses: Sequence[float]) -> None:
    """Report the progress of a stage that begins after `before` steps, with its losses."""
    centers = np.sqrt(np.asarray(LOSS_BINS[:-1]) * np.asarray(LOSS_BINS[1:]))
    text = "  ".join(f"{s:.2g}: {v:.3f}" for s, v in zip(centers, losses, strict=True))
    report(before + step, total, f"loss at sigma {text}")


def _wall_block(energy, recipe, coordinates):
    step = make_wall_step(energy, recipe)

    def block(state, key, start, count):
        seen = []
        for number in range(start, start + count):
            # Random numbers differ from those of the first stage at the same step.
            key_step = jr.fold_in(jr.fold_in(key, recipe.training.steps), number)
            state, outcome = step(state, key_step, coordinates)
            seen.append(outcome)
        sigmas, losses = zip(*seen, strict=True)
        return state, np.stack(sigmas), np.stack(losses)

    return block


def _placed(energy: WienerEnergy, wall: Wall, coordinates, recipe: Recipe) -> Wall:
    """Return the wall with its threshold beyond all training images, or all but a few."""
    key = jr.fold_in(jr.key(recipe.training.seed), 1)
    return calibrate(energy, wall, coordinates, key=key, inside=recipe.confinement.inside)


def make_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Return clipped Adam with warm-up and cosine decay."""
    config = recipe.training
    warmup = min(config.warmup, max(1, config.steps // 10))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup, max(config.steps, warmup + 1)
    )
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(schedule))


def _compile_block(energy, optimizer, recipe, coordinates):
    config = recipe.training
    mesh = Mesh(np.asarray(jax.devices()[: config.devices]), ("batch",))
    by_image = NamedSharding(mesh, PartitionSpec("batch"))

    def loss_fn(network, clean, sigma, noise):
        model = eqx.tree_at(lambda e: e.network, energy, network)
        losses = denoising_loss(model, clean, sigma, noise)
        return losses.mean(), losses

    def one(state, key, coordinates):
        key_image, key_sigma, key_noise = jr.split(key, 3)
        pick = jr.randint(key_image, (config.batch,), 0, len(coordinates))
        clean = coordinates[pick]
        # Stratified over the batch: every step covers the range of noise levels.
        strata = (jnp.arange(config.batch) + jr.uniform(key_sigma, (config.batch,))) / config.batch
        low, high = jnp.log(config.sigma_min), jnp.log(config.sigma_max)
        sigma = jnp.exp(low + strata * (high - low))
        noise = jr.normal(key_noise, clean.shape)
        if config.devices > 1:
            clean, sigma, noise = jax.lax.with_sharding_constraint((clean, sigma, noise), by_image)
        (_, losses), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.network, clean, sigma, noise
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.network)
        network = optax.apply_updates(state.network, updates)
        average = optax.incremental_update(network, state.average, 1 - config.ema)
        return TrainingState(network, average, optimizer_state), sigma, losses

    def body(carry, step):
        state, key, coordinates = carry
        state, sigma, losses = one(state, jr.fold_in(key, step), coordinates)
        return (state, key, coordinates), (sigma, losses)

    @eqx.filter_jit
    def run(state, key, coordinates, steps):
        (state, _, _), (sigma, losses) = jax.lax.scan(body, (state, key, coordinates), steps)
        return state, sigma, losses

    if config.devices > 1:
        coordinates = jax.device_put(coordinates, NamedSharding(mesh, PartitionSpec()))
    return lambda state, key, start, count: run(
        state, key, coordinates, jnp.arange(start, start + count)
    )


def _binned(sigmas: np.ndarray, losses: np.ndarray) -> list[float]:
    which = np.digitize(sigmas.ravel(), LOSS_BINS) - 1
    flat = losses.ravel()
    return [
        float(flat[which == i].mean()) if (which == i).any() else float("nan")
        for i in range(len(LOSS_BINS) - 1)
    ]


def _write_checkpoint(path, state, step, seconds, history, identity):
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    arrays = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays["history"] = np.asarray(history)
    facts = {"step": int(step), "seconds": float(seconds)}
    write_archive(path, arrays, facts, kind=_CHECKPOINT, version=1, identity=identity)


def _read_checkpoint(path, state, identity):
    stored, facts = read_archive(
        path,
        kind=_CHECKPOINT,
        version=1,
        mend="delete it",
        identity=identity,
        other="another recipe; use a new output directory",
    )
    leaves, structure = jax.tree.flatten(state)
    loaded = [jnp.asarray(stored[f"leaf{i}"]) for i in range(len(leaves))]
    state = jax.tree.unflatten(structure, loaded)
    return state, facts["step"], facts["seconds"], list(stored["history"])
