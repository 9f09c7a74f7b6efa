"""``python -m apwa_dask.cli``."""

from apwa_dask.cli.group import main

main(prog_name="apwa")
