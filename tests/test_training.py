"""Training: convergence, interruption, exact resumption, and checkpoints of other recipes."""

import dataclasses
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy.io import fits
from scipy.stats import norm

import scorepriors.training._loop as training
from scorepriors import InputError
from scorepriors.training._loop import (
    LOSS_BINS,
    _binned,
    _write_checkpoint,
    denoising_loss,
    initial_energy,
    mode_coordinates,
    train,
    training_images,
    training_modes,
)
from scorepriors.training._recipe import DataRecipe, NetworkRecipe, Recipe, TrainingRecipe


@pytest.fixture
def recipe(tmp_path):
    """A folder of round galaxies of many sizes, half in npz and half in FITS."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((8, 8)) - 3.5
    width = rng.uniform(1, 2.5, (300, 1, 1))
    images = np.exp(-(rows**2 + columns**2) / 2 / width**2).astype(np.float32)
    folder = tmp_path / "set"
    folder.mkdir()
    np.savez(folder / "a.npz", images=images[:150])
    fits.writeto(folder / "b.fits", images[150:])
    return Recipe(
        name="small",
        data=DataRecipe(path=str(folder), box=8),
        network=NetworkRecipe(modes=12, width=16, inner=16, depth=1),
        training=TrainingRecipe(
            steps=400, batch=64, block=20, warmup=20, ema=0.9, learning_rate=3e-3
        ),
    )


def shorter(recipe, steps, **changes):
    changed = dataclasses.replace(recipe.training, steps=steps, block=10, **changes)
    return dataclasses.replace(recipe, training=changed)


def test_loss_falls_and_a_resumed_run_is_bit_identical(recipe, tmp_path):
    whole = train(recipe, tmp_path / "whole")
    assert whole.finished
    assert whole.history.shape == (20, len(LOSS_BINS) - 1)
    # One is the Wiener filter, which is where the network starts.
    assert np.nanmean(whole.history[-5:]) < 0.9
    assert np.nanmean(whole.history[-5:]) < np.nanmean(whole.history[:1])

    def stop(step, total, text):
        if step == 200:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    part = train(recipe, tmp_path / "part", progress=stop)
    assert (part.step, part.finished) == (200, False)
    assert signal.getsignal(signal.SIGINT) is handler
    rest = train(recipe, tmp_path / "part")
    assert (rest.step, rest.finished) == (400, True)
    for a, b in zip(jax.tree.leaves(whole.prior), jax.tree.leaves(rest.prior), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.history, rest.history)


def test_a_run_takes_its_modes_along_to_another_machine(recipe, tmp_path, monkeypatch):
    whole = train(shorter(recipe, 40), tmp_path / "whole")

    def stop(step, total, text):
        if step == 20:
            raise RuntimeError

    # As often as not, another linear algebra gives modes of the other sign.
    with pytest.raises(RuntimeError):
        train(shorter(recipe, 40), tmp_path / "run", progress=stop, checkpoint_seconds=0)
    here = training.principal_modes

    def elsewhere(*arguments):
        mean, basis, *rest = here(*arguments)
        return mean, -basis, *rest

    monkeypatch.setattr(training, "principal_modes", elsewhere)
    moved = train(shorter(recipe, 40), tmp_path / "run")
    for one, other in zip(jax.tree.leaves(moved.prior), jax.tree.leaves(whole.prior)):
        np.testing.assert_array_equal(one, other)


def test_a_crash_goes_on_from_the_last_checkpoint_of_the_same_recipe(recipe, tmp_path):
    recipe, directory = shorter(recipe, 30), tmp_path / "run"

    def crash(step, total, text):
        if step == 20:
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        train(recipe, directory, progress=crash, checkpoint_seconds=0.0)
    steps = []
    rest = train(recipe, directory, progress=lambda step, *_: steps.append(step))
    assert steps == [20, 30]

    with pytest.raises(InputError, match="belongs to another recipe; use a new output directory"):
        train(shorter(recipe, 30, learning_rate=1e-3), directory)
    data = dataclasses.replace(recipe.data, seed=1)
    with pytest.raises(InputError, match=r"another \[data\] table; train in a new directory"):
        train(dataclasses.replace(recipe, data=data), directory)
    # What does not touch the weights may change; a finished run does no more steps.
    again = train(dataclasses.replace(recipe, description="new words"), directory)
    assert (again.step, again.seconds) == (30, rest.seconds)


@pytest.mark.parametrize("content", [b"", b"text", "short"])
def test_a_checkpoint_that_cannot_be_read(recipe, tmp_path, content):
    recipe = shorter(recipe, 10)
    path = tmp_path / "checkpoint.npz"
    if content == "short":
        _write_checkpoint(path, [jnp.ones(300)], 1, 0.0, [], "{}")
        content = path.read_bytes()[:500]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint.npz cannot be read .*delete it"):
        train(recipe, tmp_path)


class Unwritable:
    """Fails while it is being written, as a full disk would."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("the disk is full")


def test_a_failed_checkpoint_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="full"):
        _write_checkpoint(path, None, 1, 0.0, Unwritable(), "{}")

    def half(handle, **arrays):
        handle.write(b"half of it")
        raise OSError("the disk is full")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="full"):
        _write_checkpoint(path, None, 1, 0.0, [], "{}")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_loss_that_is_not_finite_stops_and_says_what_to_change(recipe, tmp_path, monkeypatch):
    def diverged(state, key, step, count):
        return state, np.ones((count, 64)), np.full((count, 64), np.nan)

    monkeypatch.setattr(training, "_compile_block", lambda *arguments: diverged)
    with pytest.raises(
        InputError, match=r"not finite after step 0; lower `training.learning_rate`"
    ):
        train(shorter(recipe, 10), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.npz").exists()


def test_images_are_stored_and_split_without_overlap(recipe, tmp_path):
    images, held_out = training_images(recipe, tmp_path)
    # 2,000 of 46,000 are held out, of 300 as large a share.
    assert (len(images), len(held_out)) == (287, 13)
    assert len({image.tobytes() for image in (*images, *held_out)}) == 300
    again, held_again = training_images(recipe, tmp_path)
    np.testing.assert_array_equal(again, images)
    np.testing.assert_array_equal(held_again, held_out)


def test_too_few_images(tmp_path):
    np.savez(tmp_path / "two.npz", np.ones((2, 8, 8)))
    recipe = Recipe("few", data=DataRecipe(path=str(tmp_path / "two.npz"), box=8))
    with pytest.raises(InputError, match="2 images are too few to train on"):
        training_images(recipe, tmp_path)


def test_the_loss_of_an_untrained_network_is_one(recipe, tmp_path):
    images, _ = training_images(recipe, tmp_path)
    energy = initial_energy(recipe, training_modes(recipe, tmp_path, images))
    coordinates = mode_coordinates(recipe, energy, images)
    assert coordinates.shape == (8 * len(images), 12)
    # The modes are those of all eight orientations: mean zero, variance the eigenvalue.
    np.testing.assert_allclose(coordinates.mean(0), 0, atol=1e-4)
    leading = np.asarray(energy.eigenvalues) > 1e-3
    np.testing.assert_allclose(coordinates.var(0)[leading], energy.eigenvalues[leading], rtol=1e-2)
    # Each image with its own noise, at noise levels from below to above the modes.
    clean = jnp.asarray(coordinates, jnp.float32)
    noise = jax.random.normal(jax.random.key(0), clean.shape)
    for sigma in (0.05, 0.5, 5.0):
        losses = np.asarray(denoising_loss(energy, clean, jnp.full(len(clean), sigma), noise))
        # Eight orientations of a round galaxy are one galaxy: count the galaxies.
        error = losses.std() / len(images) ** 0.5
        assert abs(losses.mean() - 1) < norm.isf(1e-6 / 6) * error
        assert error < 0.1


def test_losses_are_averaged_within_their_noise_bins():
    sigmas, losses = np.asarray([[0.03, 0.09, 0.5], [7.0, 8.0, 9.0]]), np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(_binned(sigmas, losses), [0.5, np.nan, 2.0, np.nan, 4.0])


def test_damaged_stored_images_are_named(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "images.npz").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        train(recipe, tmp_path / "run")
