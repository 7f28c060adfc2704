from ._distribution import ScorePrior as ScorePrior
from ._errors import InputError as InputError
from ._stretch import AsinhStretch as AsinhStretch
from ._stretch import LogStretch as LogStretch
from ._zoo import list_priors as list_priors
from ._zoo import load_prior as load_prior
from ._zoo import save_prior as save_prior

__version__: str
