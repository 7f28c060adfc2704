"""Learned galaxy priors for NumPyro: the ground floor, what a prior is."""

import lazy_loader

__version__ = "0.1.0"

# Names and their homes stand once, in the stub beside this file (SPEC 1).
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
