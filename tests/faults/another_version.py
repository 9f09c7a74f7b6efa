"""Preloaded by a worker of the tests: it has another version of this package."""

from __future__ import annotations

import apwa_dask

apwa_dask.__version__ = "0.0.1"
