from ._distribution import ScorePrior as ScorePrior
from ._errors import InputError as InputError
from ._galaxygrad import load_galaxygrad as load_galaxygrad
from ._padded import Padded as Padded
from ._stretch import AbstractStretch as AbstractStretch
from ._stretch import AsinhStretch as AsinhStretch
from ._stretch import LogStretch as LogStretch
from ._zoo import PriorInfo as PriorInfo
from ._zoo import list_priors as list_priors
from ._zoo import load_prior as load_prior
from ._zoo import prior_info as prior_info
from ._zoo import prior_recipe as prior_recipe
from ._zoo import priors_for as priors_for
from ._zoo import save_prior as save_prior
from .energies._abstract import AbstractEnergy as AbstractEnergy
from .energies._confined import Confined as Confined
from .energies._gaussian import GaussianEnergy as GaussianEnergy
from .energies._line import LineEnergy as LineEnergy
from .energies._line import VarianceExploding as VarianceExploding
from .energies._wiener import WienerEnergy as WienerEnergy
from .training._loop import TrainingResult as TrainingResult
from .training._loop import train as train
from .training._recipe import Recipe as Recipe
from .training._recipe import read_recipe as read_recipe

__version__: str
