"""Networks of galaxygrad as priors: files of its format, made here, and what is none."""

import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixer_files import made_network, write_network

from scorepriors import (
    InputError,
    LogStretch,
    VarianceExploding,
    load_galaxygrad,
    load_prior,
    prior_info,
    prior_recipe,
)
from scorepriors._galaxygrad import read_network
from scorepriors.inference.deblending._priors import load_priors


@pytest.fixture(scope="module")
def network():
    return made_network()


@pytest.fixture
def path(network, tmp_path):
    return write_network(tmp_path / "eqx_hsc_ScoreNet8.eqx", network)


def arrays_of(path):
    with path.open("rb") as handle:
        size = path.stat().st_size
        arrays = []
        while handle.tell() < size:
            arrays.append(np.load(handle, allow_pickle=False))
    return arrays


def rewrite(path, arrays):
    buffer = io.BytesIO()
    for array in arrays:
        np.save(buffer, array)
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize("sizes", [{}, {"side": 2, "num_blocks": 1}, {"box": 12, "width": 3}])
def test_the_network_is_that_of_the_file(sizes, tmp_path, key):
    network = made_network(**sizes)
    found = read_network(write_network(tmp_path / "a.eqx", network))
    box = sizes.get("box", 8)
    assert found.box == box
    z = 3 * jax.random.normal(key, (box, box))
    for time in (0.0, 0.02, 3.0):
        wanted = network(z, time)
        np.testing.assert_allclose(found(z, time), wanted, atol=2e-6 * float(jnp.abs(wanted).max()))


def test_a_file_is_a_prior_by_its_line_potential(network, path, key):
    prior = load_prior(path)
    assert (prior.name, prior.event_shape) == ("eqx_hsc_ScoreNet8", (8, 8))
    assert prior.stretch == LogStretch(1.0, 0.1)
    # exp(0.02) - 1: the time at which galaxygrad evaluates its networks.
    np.testing.assert_allclose(prior.sigma, 0.14212, rtol=1e-4)
    image = jax.random.uniform(key, (8, 8))
    score = VarianceExploding(network)

    def potential(z):
        # The integral of the score along the line from a blank image, by many small steps.
        steps = (jnp.arange(400) + 0.5) / 400
        along = jax.vmap(lambda t: score(t * z, prior.sigma))(steps)
        return jnp.einsum("iyx,yx->", along, z) / 400

    z = prior.stretch.inv(image)
    np.testing.assert_allclose(-prior.potential(z), potential(z), rtol=2e-3)
    assert prior.log_prob(image).shape == ()
    assert np.isfinite(prior.score(image)).all()
    assert load_prior(path) is prior
    np.testing.assert_allclose(load_prior(path, sigma=0.3).sigma, 0.3)


def test_what_the_file_does_not_say(path, key):
    image = jax.random.uniform(key, (8, 8))
    prior = load_galaxygrad(
        path, reference=image, name="mine", pixel_scale=0.168, model_psf_sigma=0.8, sigma=0.2
    )
    assert (prior.name, prior.pixel_scale, prior.model_psf_sigma) == ("mine", 0.168, 0.8)
    # Potentials are counted from the reference.
    np.testing.assert_allclose(prior.potential(prior.stretch.inv(image)), 0, atol=1e-5)
    unknown = load_prior(path)
    assert (unknown.pixel_scale, unknown.model_psf_sigma) == (None, None)
    with pytest.raises(InputError, match=r"`reference` must have the 8 x 8 pixels of eqx_hsc"):
        load_galaxygrad(path, reference=np.zeros((4, 8)))


def test_what_is_known_without_loading(path):
    info = prior_info(path)
    assert (info.name, info.box, info.pixel_scale) == ("eqx_hsc_ScoreNet8", 8, None)
    np.testing.assert_allclose(info.sigma0, load_prior(path).sigma, rtol=1e-6)
    with pytest.raises(InputError, match="a network of galaxygrad, which comes without a recipe"):
        prior_recipe(path)
    (prior,) = load_priors(str(path), sigma=0.2)
    np.testing.assert_allclose(prior.sigma, 0.2)


def test_a_file_of_double_precision_is_read(network, path):
    arrays = arrays_of(path)
    first = read_network(path)
    rewrite(path, [array.astype(np.float64) for array in arrays])
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(read_network(path))):
        np.testing.assert_array_equal(a, b)
    rewrite(path, [np.asarray(array, order="F") for array in arrays])
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(read_network(path))):
        np.testing.assert_array_equal(a, b)


def test_nothing_of_a_trace_is_kept(path):
    level = jax.jit(lambda x: x * load_prior(path).sigma)(1.0)
    assert float(level) == pytest.approx(0.14212, rel=1e-4)
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(load_prior(path)))


class Bomb:
    def __reduce__(self):
        return (exec, ("raise AssertionError('the file was run')",))


def a_pickle(path):
    path.write_bytes(pickle.dumps(Bomb()))


def an_object(path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())


def an_archive(path):
    buffer = io.BytesIO()
    np.savez(buffer, a=np.ones(3))
    path.write_bytes(buffer.getvalue())


def whole_numbers(path):
    rewrite(path, [np.arange(3)])


def too_large(path):
    """A description of more numbers than any memory holds, in a file without them."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**40)}
    )
    path.write_bytes(buffer.getvalue())


def described(path, text, version=b"\x01\x00"):
    """Begin a file with a description that NumPy does not write itself."""
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    path.write_bytes(b"\x93NUMPY" + version + length + text.encode() + bytes(64))


def unclosed(path):
    described(path, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2\n")


def unclosed_and_newer(path):
    described(path, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2\n", b"\x02\x00")


def deep(path):
    described(path, "(" * 9_000 + "\n")


def other_keys(path):
    described(path, "{1: 2, 'shape': ()}\n")


def no_kind(path):
    described(path, "{'descr': (), 'fortran_order': False, 'shape': ()}\n")


def negative(path):
    described(path, "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}\n")


def twice_negative(path):
    described(path, "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -1)}\n")


def shortened(path):
    path.write_bytes(path.read_bytes()[:-3])


def cut_in_a_description(path):
    path.write_bytes(path.read_bytes()[:30])


def cut_between_arrays(path):
    rewrite(path, arrays_of(path)[:-4])


def another_shape(path):
    arrays = arrays_of(path)
    arrays[9] = arrays[9][:-1]
    rewrite(path, arrays)


def not_finite(path):
    arrays = arrays_of(path)
    arrays[2] = arrays[2] * np.nan
    rewrite(path, arrays)


def no_square(path):
    write_network(path, made_network(num_blocks=1))
    arrays = arrays_of(path)
    three = [array[..., :3] if array.shape == (6, 4) else array for array in arrays]
    rewrite(path, three)


def other_layers(path):
    rewrite(path, [np.ones((3, 3))] * 19)


def colored(path):
    write_network(path, made_network(channels=3))


def no_numbers(path):
    rewrite(path, [np.ones((0, 2, 4, 4)), *arrays_of(path)[1:]])


def no_time(path):
    rewrite(path, [*arrays_of(path)[:-1], np.zeros(())])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (a_pickle, "no network of galaxygrad: array 1 does not begin as one of NumPy's"),
        (an_object, r"array 1 holds \|O, no real numbers"),
        (an_archive, "array 1 does not begin"),
        (whole_numbers, r"array 1 holds <i\d, no real numbers"),
        (too_large, "is cut short: array 1 has no end"),
        (shortened, "is cut short: array 31 has no end"),
        (cut_in_a_description, "no network of galaxygrad: array 1 does not begin"),
        (cut_between_arrays, "holds 27 arrays, and such a network has 7 and 12 more for each"),
        (another_shape, r"array 10 has the shape \(5,\), where \(6,\) belongs"),
        (not_finite, "damaged: array 3 has values that are not finite"),
        (no_square, "has 3 patches, which make no square image"),
        (other_layers, r"its first and last layers have the shapes \(3, 3\)"),
        (colored, r"array 1 has the shape \(6, 4, 4, 4\), where \(6, 2, 4, 4\) belongs"),
        (no_numbers, r"array 1 has the shape \(0, 2, 4, 4\), whose lengths must be positive"),
        (negative, r"array 1 has the shape \(-1,\), whose lengths must be positive"),
        (twice_negative, r"array 1 has the shape \(-1, -1\), whose lengths must be positive"),
        (unclosed, "no network of galaxygrad: array 1 does not begin"),
        (unclosed_and_newer, "no network of galaxygrad: array 1 does not begin"),
        (deep, "no network of galaxygrad: array 1 does not begin"),
        (other_keys, "no network of galaxygrad: array 1 does not begin"),
        (no_kind, "no network of galaxygrad: array 1 does not begin"),
        (no_time, "damaged: its diffusion ends at the time 0"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_other_files_are_refused_in_a_sentence(wrong, words, path):
    wrong(path)
    with pytest.raises(InputError, match=words) as error:
        load_prior(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(path.name)


def test_an_empty_file_and_none(path, tmp_path):
    path.write_bytes(b"")
    with pytest.raises(InputError, match="holds 0 arrays"):
        load_prior(path)
    with pytest.raises(InputError, match=r"no weights file at '.*nowhere\.eqx'"):
        load_prior(tmp_path / "nowhere.eqx")
    with pytest.raises(InputError, match=r"cannot read '.*nowhere\.eqx': No such file"):
        load_galaxygrad(tmp_path / "nowhere.eqx")
    with pytest.raises(InputError, match="is a folder"):
        load_galaxygrad(tmp_path)
