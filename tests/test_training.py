import os
import signal

import jax
import numpy as np
import pytest

from scorepriors import InputError
from scorepriors.recipe import DataRecipe, NetworkRecipe, Recipe, TrainingRecipe, read_recipe
from scorepriors.training import _write_checkpoint, train
from scorepriors.training_sets import read_images, simulate


@pytest.fixture
def recipe(tmp_path):
    rng = np.random.default_rng(0)
    rows, columns = np.indices((8, 8)) - 3.5
    width = rng.uniform(1, 2.5, (300, 1, 1))
    np.savez(tmp_path / "set.npz", images=np.exp(-(rows**2 + columns**2) / 2 / width**2))
    return Recipe(
        name="small",
        data=DataRecipe(path=str(tmp_path / "set.npz"), box=8),
        network=NetworkRecipe(modes=12, width=16, inner=16, depth=2),
        training=TrainingRecipe(
            steps=400, batch=64, block=20, warmup=20, ema=0.9, learning_rate=3e-3
        ),
    )


def test_loss_falls_and_a_resumed_run_is_bit_identical(recipe, tmp_path):
    whole = train(recipe, tmp_path / "whole")
    assert whole.finished
    # One is the Wiener filter, which is where the network starts.
    assert np.nanmean(whole.history[-5:]) < 0.9

    def stop(step, total, losses):
        if step == 200:
            os.kill(os.getpid(), signal.SIGINT)

    part = train(recipe, tmp_path / "part", progress=stop)
    assert (part.step, part.finished) == (200, False)
    rest = train(recipe, tmp_path / "part")
    for a, b in zip(jax.tree.leaves(whole.energy), jax.tree.leaves(rest.energy), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_recipe_does_not_resume(recipe, tmp_path):
    import dataclasses

    train(recipe, tmp_path / "run")
    changed = dataclasses.replace(recipe.training, learning_rate=1e-3)
    with pytest.raises(InputError, match="another recipe"):
        train(dataclasses.replace(recipe, training=changed), tmp_path / "run")
    data = dataclasses.replace(recipe.data, seed=1)
    with pytest.raises(InputError, match="another"):
        train(dataclasses.replace(recipe, data=data), tmp_path / "run")


class Unwritable:
    """Fails while it is being written, as a full disk would."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("the disk is full")


def test_a_failed_checkpoint_leaves_the_old_one(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="full"):
        _write_checkpoint(path, None, 1, 0.0, [], Unwritable())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["lsst", "ztf"])
def test_simulated_galaxies(name):
    pytest.importorskip("galsim")
    images = simulate(name, 6, box=32, seed=3)
    assert images.shape == (6, 32, 32)
    np.testing.assert_allclose(images.max((1, 2)), 1)
    peaks = [np.unravel_index(i.argmax(), i.shape) for i in images]
    assert all(p in (15, 16) for peak in peaks for p in peak)
    np.testing.assert_array_equal(simulate(name, 2, box=32, seed=3), images[:2])
    with pytest.raises(InputError, match="unknown training set"):
        simulate("hst", 1)


def test_images_of_users(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_images(tmp_path / "nothing")
    with pytest.raises(InputError, match="no images found"):
        read_images(tmp_path)
    np.save(tmp_path / "ignored.npy", np.ones((4, 4)))
    np.savez(tmp_path / "a.npz", np.ones((5, 12, 12)))
    assert read_images(tmp_path, box=8).shape == (5, 8, 8)
    with pytest.raises(InputError, match="smaller than box"):
        read_images(tmp_path, box=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1", "must be str"),
        ("name = 'a'\n[data]\nset = 'lsst'\npath = 'b'", "not both"),
        ("name = 'a'\n[data]\nset = 'lsst'\ncolour = 1", "unknown key `data.colour`"),
        ("name = 'a'\n[data]\nset = 'lsst'\n[training]\nsteps = 0", "training.steps"),
        ("name = 'a'\n[data]\nset = 'lsst'\n[training]\nsteps = 'many'", "must be int"),
        ("[data]\nset = 'lsst'", "needs a `name`"),
        ("name = ", "not valid TOML"),
    ],
)
def test_mistakes_in_recipes(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_recipe(path)
    with pytest.raises(InputError, match="folder"):
        read_recipe(tmp_path)
