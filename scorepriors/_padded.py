"""Priors of smaller images: the box of a prior where all around the image is blank."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from ._compat import validate_sample
from ._distribution import ScorePrior
from ._errors import InputError


class Padded(dist.Distribution):
    """Density of images ``[height, width]`` that are smaller than the box of a prior.

    It is the prior's density of the image in the middle of a blank box, up to a constant: that of
    the image, given that there is no light around it.  For programs whose boxes follow the sizes of
    galaxies, as scarlet2's do.

    Parameters
    ----------
    prior
        Prior of a box that is at least as large.
    shape
        Height and width of the images.
    validate_args
        Whether to check arguments, as for every NumPyro distribution.

    Raises
    ------
    InputError
        If an image does not fit into the box.

    Notes
    -----
    Of an odd number of blank rows or columns the larger part comes last, so that the middle pixel
    of an image with an odd number of pixels is one of the four in the middle of the box, where the
    shipped priors expect a peak.

    Examples
    --------
    >>> from scorepriors import load_prior
    >>> prior = load_prior("lsst-32")
    >>> small = Padded(prior, (21, 21))
    >>> image = jnp.zeros((21, 21)).at[10, 10].set(1.0)
    >>> bool(small.log_prob(image) == prior.log_prob(jnp.pad(image, ((5, 6), (5, 6)))))
    True
    """

    arg_constraints: dict = {}
    reparametrized_params: list = []
    pytree_data_fields = ("prior",)

    def __init__(
        self, prior: ScorePrior, shape: tuple[int, int], *, validate_args: bool | None = None
    ):
        height, width = (int(one) for one in shape)
        box = prior.event_shape[-1]
        if not (1 <= height <= box and 1 <= width <= box):
            raise InputError(
                f"images of {height} x {width} pixels do not fit into the {box} x {box} of "
                f"{prior.name}; cut them, or take a prior with a larger box."
            )
        self.prior = prior
        super().__init__(event_shape=(height, width), validate_args=validate_args)

    @property
    def support(self):
        """Images whose every pixel lies in the range of the stretch."""
        return constraints.independent(self.prior.stretch.codomain, 2)

    @validate_sample
    def log_prob(self, value: Float[Array, "*batch height width"]) -> Float[Array, "*batch"]:
        """Return the unnormalized log-density, of the batch shape of `value`."""
        value = jnp.asarray(value)
        box = self.prior.event_shape[-1]
        around = [(left := (box - n) // 2, box - n - left) for n in self.event_shape]
        return self.prior.log_prob(jnp.pad(value, [(0, 0)] * (value.ndim - 2) + around))

    def sample(self, key, sample_shape: tuple = ()):
        """Refuse: draws of the prior have light all over their box."""
        raise InputError(
            "a padded prior cannot be drawn from directly: sample it with a chain, or draw whole "
            "boxes from its `prior`."
        )
