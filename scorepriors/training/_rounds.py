r"""Learning from noisy stamps, by expectation maximization with draws.

A round draws a clean galaxy for every stamp (`draw_galaxies`) under the prior of the round before,
and learns the next prior from these.  First rounds learn mean and covariance alone; then a network is
trained, and its training continued from round to round.

Modes, mean and eigenvalues are those of the first draws that a network is trained on, and stay:
a network is valid only in the coordinates of its training.  What `train` makes of the last draws in the end is
trained from the start, in modes of their own.

References
----------
.. [1] Rozet, Andry, Lanusse & Louppe (2024), NeurIPS: diffusion priors from noisy observations by
   expectation maximization.
.. [2] Barco, Adam, Stone, Hezaveh & Perreault-Levasseur (2024): populations from noisy images.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.ndimage import map_coordinates

from scorepriors._archives import read_archive, write_archive
from scorepriors._distribution import ScorePrior
from scorepriors._errors import InputError
from scorepriors._loops import deferred_interrupt
from scorepriors._progress import Report
from scorepriors._stretch import LogStretch
from scorepriors.energies._confined import Confined
from scorepriors.energies._wiener import WienerEnergy, gaussian_of

from ._draws import Target, draw_galaxies, linear_modes, make_target
from ._likelihood import Stamp
from ._prior import image_facts
from ._recipe import POPULATIONS, Recipe
from ._sets import peak_normalize, simulate
from ._stamps import Stamps, read_stamps

_DRAWS = "set of draws from noisy stamps"

#: Galaxies of the start from which a first Gaussian is made.
NUM_START = 2000


class Rounds(NamedTuple):
    """Outcome of `learn_from_stamps`.

    Attributes
    ----------
    images
        Galaxies of the last round ``[N, n, n]``, peaks of one; None if interrupted.
    energy
        The prior under which they were drawn.
    done, total
        Rounds done and wanted.
    """

    images: np.ndarray | None
    energy: WienerEnergy
    done: int
    total: int


#: A function ``fit(energy, images, folder, number)`` that trains the network of an energy further on
#: the galaxies of a round, its checkpoint in a folder, and returns the energy; None if interrupted.
Fit = Callable[[WienerEnergy, np.ndarray, Path, int], WienerEnergy | None]


def learn_from_stamps(
    recipe: Recipe,
    stamps: Stamps,
    start: ScorePrior | None,
    directory: Path,
    untrained: Callable[[np.ndarray, Path], WienerEnergy],
    fit: Fit,
    report: Report,
    checkpoint_seconds: float,
) -> Rounds:
    """Draw clean galaxies of stamps and learn from them, in turn; go on where a run stopped.

    Parameters
    ----------
    recipe
        Recipe with `data.noisy`.
    stamps
        The stamps to learn from.
    start
        The prior that `data.start` names; None if that is a built-in set.
    directory
        Folder of the rounds: a folder ``01``, ``02``, ... for each, with its draws and what was
        trained on them.
    untrained
        Function that returns the energy of galaxies with an untrained network, its modes stored in
        a folder.
    fit
        Function that trains a network; see `Fit`.
    report
        Function that is told the progress.
    checkpoint_seconds
        Smallest time between checkpoints.

    Returns
    -------
    Rounds

    Raises
    ------
    InputError
        If the start does not fit the recipe, or the draws of another recipe are in the folder.
    """
    stretch = LogStretch(recipe.stretch.softening, recipe.stretch.scale)
    identity = identity_of(recipe, stamps, origin_of(recipe, start))
    energy, reference = _start(recipe, start, stretch)
    total = recipe.rounds.number
    _, learned = held_and_learned(recipe, len(stamps.images))
    network: WienerEnergy | None = None
    z: np.ndarray | None = None
    for number in range(1, total + 1):
        folder = directory / f"{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        # Chains begin at the draws of the round before; the first ones search.
        z = _draw_round(
            recipe, stamps, identity, folder, number, energy, reference, z, report,
            checkpoint_seconds,
        )  # fmt: skip
        if z is None:
            return Rounds(None, energy, number - 1, total)
        images = np.asarray(stretch(jnp.asarray(z)))
        if number == total:
            return Rounds(images, energy, total, total)
        reference = z[learned]
        if number <= recipe.rounds.gaussian:
            energy = gaussian_of(reference, recipe.network.modes)
            continue
        if network is None:
            network = untrained(images[learned], directory)
        network = fit(network, images[learned], folder, number)
        if network is None:
            return Rounds(None, energy, number - 1, total)
        energy = network
    raise AssertionError("a recipe has at least one round")


def held_and_learned(recipe: Recipe, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which stamps are held out and which are learned from, as numbers.

    The recipe does not set how many there are: it sets the share that is held out, and the most
    that are used.
    """
    data = recipe.data
    order = np.random.default_rng(data.seed).permutation(num)
    most = data.num_images + data.num_held_out
    held = max(1, round(data.num_held_out / most * min(num, most)))
    return order[:held], order[held : held + data.num_images]


def _draw_round(
    recipe, stamps, identity, folder, number, energy, reference, start, report, checkpoint_seconds
):
    """Return the stretched galaxies of a round, peaks of one; None if interrupted."""
    path = folder / "draws.npz"
    z = np.zeros(stamps.images.shape, np.float32)
    accepted = np.zeros(len(z), np.float32)
    done = 0
    if path.exists():
        arrays, facts = read_archive(
            path,
            kind=_DRAWS,
            version=1,
            mend="delete the folder of its round and those after it",
            identity=identity,
            other="another recipe, other stamps or another start; train in a new directory",
        )
        z, accepted, done = arrays["z"], arrays["accepted"], facts["done"]
    if done == len(z):
        return z
    stretch = LogStretch(recipe.stretch.softening, recipe.stretch.scale)
    key = jr.fold_in(jr.fold_in(jr.key(recipe.training.seed), 2), number)
    target = make_target(
        energy, stretch, reference, recipe.training.sigma_min, recipe.rounds.levels,
        key=jr.fold_in(key, len(z)),
    )  # fmt: skip
    saved = time.monotonic()

    def save():
        facts = {"done": int(done)}
        arrays = {"z": z, "accepted": accepted}
        write_archive(path, arrays, facts, kind=_DRAWS, version=1, identity=identity)

    with deferred_interrupt() as interrupt:
        while done < len(z) and not interrupt:
            count = min(recipe.rounds.batch, len(z) - done)
            found = _draw_batch(recipe, stamps, target, done, count, start, key)
            z[done : done + count], accepted[done : done + count] = found
            done += count
            text = f"stamps drawn, round {number} of {recipe.rounds.number}"
            if stamps.left_out:
                text += f", {stamps.left_out:,} more left out by `data.num_images`"
            report(done, len(z), f"{text}, {accepted[:done].mean():.0%} of proposals accepted")
            if time.monotonic() - saved > checkpoint_seconds and done < len(z):
                save()
                saved = time.monotonic()
    save()
    return z if done == len(z) else None


def _draw_batch(recipe, stamps, target: Target, first: int, count: int, start, key):
    """Return draws of some stamps with peaks of one, and shares of accepted proposals."""
    batch = recipe.rounds.batch
    # The last batch is filled up, so that nothing compiles for it.
    index = np.minimum(np.arange(first, first + batch), len(stamps.images) - 1)
    parts = Stamp(*map(jnp.asarray, stamps.part(index)))
    begin = linear_modes(target, parts, half=stamps.half) if start is None else start[index]
    drawn = draw_galaxies(
        target,
        parts,
        jnp.asarray(begin),
        jax.vmap(lambda number: jr.fold_in(key, number))(jnp.asarray(index)),
        half=stamps.half,
        num_transitions=recipe.rounds.transitions,
    )
    z, accepted = np.asarray(drawn.z)[:count], np.asarray(drawn.accepted)[:count]
    if not np.isfinite(z).all():
        bad = stamps.numbers[first + int(np.flatnonzero(~np.isfinite(z).all((1, 2)))[0])]
        raise InputError(f"the draw of stamp {bad} is not finite; look at it, and leave it out.")
    return with_unit_peaks(z, target.stretch), accepted


def with_unit_peaks(z: np.ndarray, stretch: LogStretch) -> np.ndarray:
    """Return stretched galaxies scaled to peaks of one.

    Their flux is free, so the stamp's likelihood stays the same, and the two can't drift apart.
    """
    x = np.asarray(stretch(jnp.asarray(z)))
    x = stretch.clip(peak_normalize(x))
    return np.asarray(stretch.inv(jnp.asarray(x, jnp.float32)))


def _start(recipe: Recipe, start: ScorePrior | None, stretch: LogStretch):
    """Return energy and stretched galaxies of the start."""
    data, widen = recipe.data, recipe.rounds.widen
    if data.start in POPULATIONS:
        images = simulate(data.start, NUM_START, box=data.box, seed=data.seed)
    else:
        energy, images = _prior_start(recipe, start, stretch)
        if widen == 1:
            return energy, np.asarray(stretch.inv(jnp.asarray(images)))
    rng = np.random.default_rng((data.seed, 1))
    factors = np.exp(rng.uniform(-1, 1, len(images)) * np.log(widen))
    z = np.asarray(stretch.inv(jnp.asarray(magnified(images, factors))))
    return gaussian_of(z, recipe.network.modes), z


def _prior_start(
    recipe: Recipe, prior: ScorePrior | None, stretch: LogStretch
) -> tuple[WienerEnergy, np.ndarray]:
    """Return the energy of a trained prior without its wall, and galaxies drawn from it."""
    data = recipe.data
    assert prior is not None  # `origin_of` asked for it
    energy = prior.energy.energy if isinstance(prior.energy, Confined) else prior.energy
    if not isinstance(energy, WienerEnergy):
        raise InputError(
            f"`start` has an energy of kind {type(energy).__name__}; galaxies are drawn under those "
            "that `train` makes."
        )
    named = f"`data.start` = {data.start!r}"
    if energy.box != data.box:
        raise InputError(
            f"{named} has {energy.box} x {energy.box} pixels, and `data.box` is {data.box}; take "
            "a start of this box, or a built-in set."
        )
    if prior.stretch != stretch:
        raise InputError(
            f"{named} has the stretch {prior.stretch!r}, and the recipe {stretch!r}; write that "
            "of the start into [stretch]."
        )
    wanted = image_facts(data)["model_psf_sigma"]
    if prior.model_psf_sigma != wanted:
        raise InputError(
            f"{named} has galaxies with a PSF of {prior.model_psf_sigma} pixels, and the recipe "
            f"wants {wanted}; set `data.model_psf_sigma` to that of the start."
        )
    low = prior.at(recipe.training.sigma_min)
    drawn = low.sample(jr.fold_in(jr.key(recipe.training.seed), 3), (NUM_START,))
    clean = np.asarray(low.denoise(drawn))
    return energy, stretch.clip(peak_normalize(clean))


def magnified(images: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return images ``[N, n, n]`` magnified about their middle, with peaks of one.

    What is beyond their border is dark.  Their PSFs are magnified as well: good for a first guess.
    """
    middle = (images.shape[-1] - 1) / 2
    places = np.indices(images.shape[1:]) - middle
    found = [
        map_coordinates(one, middle + places / factor, order=1)
        for one, factor in zip(images, factors, strict=True)
    ]
    return peak_normalize(np.stack(found))


def origin_of(recipe: Recipe, start: ScorePrior | None) -> str:
    """Return what tells a start from others: the name of a built-in set, or a digest of weights.

    A file of the same name may hold other weights, and a file elsewhere the same ones.

    Raises
    ------
    InputError
        If the start is no built-in set, and no prior is given.
    """
    if recipe.data.start in POPULATIONS:
        return str(recipe.data.start)
    if start is None:
        raise InputError(
            f"`data.start` = {recipe.data.start!r} is no built-in set; load that prior for `train`, "
            f"with start=load_prior({recipe.data.start!r})."
        )
    digest = hashlib.sha256(type(start.energy).__name__.encode())
    for leaf in jax.tree.leaves(eqx.filter(start.energy, eqx.is_array)):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()[:16]


def identity_of(recipe: Recipe, stamps: Stamps, origin: str = "") -> str:
    """Return what must be the same for a run to go on: the recipe's numbers, stamps and start."""
    described = recipe.as_dict()
    for name in ("noisy", "start"):  # where they lie is of no matter
        del described["data"][name]
    names = ("data", "stretch", "network", "training", "rounds")
    about = {"stamps": stamps.digest} | ({"start": origin} if origin else {})
    return json.dumps({n: described[n] for n in names} | about, sort_keys=True)


def read_recipe_stamps(recipe: Recipe) -> Stamps:
    """Return the stamps of a recipe with `data.noisy`, no more than it learns from or holds out.

    Raises
    ------
    InputError
        If they can't be read, or are fewer than a prior can be trained on.
    """
    assert recipe.data.noisy is not None
    sigma = image_facts(recipe.data)["model_psf_sigma"]
    stamps = read_stamps(recipe.data.noisy, recipe.data.box, sigma)
    if len(stamps.images) < 3:
        raise InputError(f"{len(stamps.images)} stamps are too few to train on.")
    most = recipe.data.num_images + recipe.data.num_held_out
    if len(stamps.images) <= most:
        return stamps
    # Draws of others would be thrown away, round after round.
    index = np.random.default_rng(recipe.data.seed).permutation(len(stamps.images))[:most]
    return stamps.only(np.sort(index))
