"""What is done with a model: fits, deblending, draws, diagnosis, reports."""

import lazy_loader

# Names and their homes stand once, in the stub beside this file (SPEC 1).
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
