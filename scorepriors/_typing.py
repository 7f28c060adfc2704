"""Names for annotations."""

import jax
import numpy as np

#: An array of either library: NumPy's until a model is bound to it, JAX's inside of programs.
Array = jax.Array | np.ndarray
