"""What outlives a process: paid answers, commit records and runs, on any fsspec store. Knows no Dask."""
