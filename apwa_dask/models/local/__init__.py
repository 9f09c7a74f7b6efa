"""The embedded model: weights fetched once and verified, and one shared server per machine, on loopback."""

from apwa_dask.models.local.catalogue import CATALOGUE, DEFAULT_MODEL, Weights, known_weights
from apwa_dask.models.local.grammar import answer_format
from apwa_dask.models.local.lifecycle import acquire, local_server, release
from apwa_dask.models.local.progress import FetchProgress, Report
from apwa_dask.models.local.settings import LocalEndpoint
from apwa_dask.models.local.weights import ModelFile, cached_weights, ensure_weights, models_folder

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "FetchProgress",
    "LocalEndpoint",
    "ModelFile",
    "Report",
    "Weights",
    "acquire",
    "answer_format",
    "cached_weights",
    "ensure_weights",
    "known_weights",
    "local_server",
    "models_folder",
    "release",
]
