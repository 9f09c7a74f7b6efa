"""What outlives a process: the journal of paid answers, commit records and runs, on any fsspec store. No Dask."""
