"""The command line ``apwa``, also found as ``dask apwa``: thin commands over `apwa_dask.api`."""

from apwa_dask.cli.group import main

__all__ = ["main"]
