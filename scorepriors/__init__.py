"""Learned galaxy priors for NumPyro."""

import lazy_loader

__version__ = "0.1.0"

# The stub beside this file lists the public names and their modules (SPEC 1).
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
