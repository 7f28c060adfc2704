"""Inference with models: fits, deblending, draws, diagnosis, reports."""

import lazy_loader

# The stub beside this file lists the public names and their modules (SPEC 1).
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
