"""Training and judging of networks on data held as tensors: fit, predict, evaluate, recalibrate_batchnorm.

Everything random hangs on the seed given, and the global random state is left as it was. The last digits of a result
depend on the number of threads (torch sums in another order), which is the caller's business.
"""

from cosim.training.fitting import fit
from cosim.training.judging import evaluate, predict, recalibrate_batchnorm
from cosim.training.recipe import FitOptions, Recipe

__all__ = ["FitOptions", "Recipe", "evaluate", "fit", "predict", "recalibrate_batchnorm"]
