"""Files as galaxygrad publishes its networks: an MLP-Mixer of layers of Equinox, leaves alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr


class Mixing(eqx.Module):
    along_patches: eqx.nn.MLP
    along_channels: eqx.nn.MLP
    first: eqx.nn.LayerNorm
    second: eqx.nn.LayerNorm

    def __init__(self, width, patches, inner, key):
        keys = jr.split(key)
        self.along_patches = eqx.nn.MLP(patches, patches, inner, depth=1, key=keys[0])
        self.along_channels = eqx.nn.MLP(width, width, inner + 1, depth=1, key=keys[1])
        self.first = eqx.nn.LayerNorm((width, patches))
        self.second = eqx.nn.LayerNorm((patches, width))

    def __call__(self, y):
        y = y + jax.vmap(self.along_patches)(self.first(y))
        return (y.T + jax.vmap(self.along_channels)(self.second(y.T))).T


class Network(eqx.Module):
    """Order and kinds of leaves are those of the published files; layers do the work."""

    entry: eqx.nn.Conv2d
    exit: eqx.nn.ConvTranspose2d
    blocks: list
    last: eqx.nn.LayerNorm
    end_time: float

    def __init__(self, box=8, *, side=4, width=6, inner=5, num_blocks=2, channels=1, key):
        keys = jr.split(key, 3)
        patches = (box // side) ** 2
        self.entry = eqx.nn.Conv2d(channels + 1, width, side, stride=side, key=keys[0])
        self.exit = eqx.nn.ConvTranspose2d(width, channels, side, stride=side, key=keys[1])
        self.blocks = [Mixing(width, patches, inner, one) for one in jr.split(keys[2], num_blocks)]
        self.last = eqx.nn.LayerNorm((width, patches))
        self.end_time = 10.0

    def __call__(self, z, time):
        y = self.entry(jnp.stack([z, jnp.full_like(z, time / self.end_time)]))
        shape, y = y.shape, y.reshape(len(y), -1)
        for block in self.blocks:
            y = block(y)
        return self.exit(self.last(y).reshape(shape))[0]


def made_network(box=8, *, seed=0, **sizes):
    """A network with random values in all its leaves, those of normalizations too."""
    key = jr.key(seed)
    leaves, structure = jax.tree.flatten(Network(box, key=key, **sizes))
    keys = jr.split(key, len(leaves))
    leaves = [
        leaf + 0.3 * jr.normal(one, leaf.shape) if eqx.is_array(leaf) else leaf
        for one, leaf in zip(keys, leaves)
    ]
    return jax.tree.unflatten(structure, leaves)


def write_network(path, network):
    eqx.tree_serialise_leaves(path, network)
    return path
