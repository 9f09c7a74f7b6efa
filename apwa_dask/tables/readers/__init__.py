"""One module a format family; each has ``probe`` (learn shape and cuts) and ``read`` (one slice)."""
