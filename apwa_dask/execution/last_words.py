"""The end of a run that is done: its manifest, and a warning where a model answered that was not the one asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apwa_dask.execution.manifest import manifest_of

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun

__all__ = ["write_manifest"]

_logger = logging.getLogger(__name__)


def write_manifest(run: KeptRun) -> None:
    """Write the manifest of a run that has come to its end."""
    manifest = manifest_of(run)
    run.folder.finish(manifest, replacing=True)
    for words in _strangers(manifest):
        _logger.warning("run %s: %s", run.id, words)


def _strangers(manifest: Mapping[str, Any]) -> list[str]:
    """Words about models that answered in place of the one that was asked, or one after the other.

    A name that begins with the one asked for is a version of it, as endpoints state for an alias.
    """
    found = []
    for facts in manifest["models"].values():
        asked, answered = facts["asked"], facts["resolved"]
        strange = [name for name in answered if not _is_version_of(name, asked)]
        if strange or len(answered) > 1:
            found.append(f"model {asked!r} was asked, and answered as {', '.join(map(repr, answered))}")
    return found


def _is_version_of(name: str, asked: str) -> bool:
    """A gateway may put the provider before either of them."""
    return name.rpartition("/")[2].startswith(asked.rpartition("/")[2])
