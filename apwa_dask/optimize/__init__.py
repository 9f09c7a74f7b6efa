"""Plans made cheaper without a change of meaning, and what a plan will cost. Pure: no data, no calls."""

from apwa_dask.optimize.estimate import estimate
from apwa_dask.optimize.optimizer import Optimized, optimize

__all__ = ["Optimized", "estimate", "optimize"]
