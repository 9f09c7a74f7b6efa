"""What a process must know to reach a store, and may never write, show or put in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from apwa_dask.store.names import JOURNAL_KEY_VARIABLE, journal_key

__all__ = ["Secrets"]


class Secrets:
    """Storage options by the place they are for (a store's URL, or ``run id/alias`` of a source), in memory only."""

    def __init__(self) -> None:
        self._options: dict[str, Mapping[str, Any]] = {}
        self.ask_options: Callable[[str], Mapping[str, Any] | None] | None = None
        """Set on Dask workers: asks the cluster for storage options that the caller lent it."""

    def remember_options(self, url: str, options: Mapping[str, Any] | None) -> None:
        """Keep a store's or source's storage options for this process."""
        if options:
            self._options[url] = dict(options)

    def options_of(self, url: str) -> Mapping[str, Any] | None:
        """Storage options for this URL: given in this process, or lent by the caller to this cluster."""
        known = self._options.get(url)
        if known is None and self.ask_options is not None:
            return self.ask_options(url)
        return known

    def options_for(self, store: str, run_id: str) -> dict[str, Mapping[str, Any]]:
        """Secrets that a run needs elsewhere: storage options of its store and sources, the journal's key."""
        found: dict[str, Mapping[str, Any]] = {
            place: options
            for place, options in self._options.items()
            if place == store or place.startswith(f"{run_id}/")
        }
        key = journal_key()
        return found if key is None else {**found, JOURNAL_KEY_VARIABLE: {"key": key}}

    def copy_options(self, old_run: str, new_run: str, aliases: Iterable[str]) -> None:
        """Let a new run of the same sources use the options of an old one."""
        for alias in aliases:
            self.remember_options(f"{new_run}/{alias}", self.options_of(f"{old_run}/{alias}"))

    def journal_key(self) -> bytes | None:
        """The key that signs journals: of this process's environment, or lent by the caller to this cluster."""
        own = journal_key()
        if own is not None or self.ask_options is None:
            return own
        lent = self.ask_options(JOURNAL_KEY_VARIABLE)
        return None if lent is None else lent["key"]
