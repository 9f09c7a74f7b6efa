"""For small models: a plan through a few small choices, each narrowed to what makes sense at that point."""

from apwa_dask.manager.guided.guide import draft_guided

__all__ = ["draft_guided"]
