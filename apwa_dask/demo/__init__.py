"""The main job on a small folder of mixed files, with the embedded model: ``python -m apwa_dask.demo``."""
