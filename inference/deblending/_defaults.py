"""Defaults that the help of commands shows, in a module that loads nothing.

`Options` and evaluations take them from here.
"""

#: Fields of `Options`.
PROFILE = "bulge-disk"
SPECTRA = "marginal"
MAX_ITERATIONS = 300
TOLERANCE = 0.5
NOISE = "auto"

#: Noise levels of the prior before its own, for ``"annealed"`` evaluations.
ANNEALING = (1.0, 0.4)
