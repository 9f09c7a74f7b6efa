"""Runs in a store: each a folder that is enough to find it again, resume it and read its result.

The layout under the store::

    runs/<run id>/run.json             the spec, written once
    runs/<run id>/docs/<name>          plan, sources, report: small named documents
    runs/<run id>/history/<seq>.json   what happened, immutable
    runs/<run id>/lease/               who works on it
    runs/<run id>/manifest.json        written last
    runs/<run id>/{data,commit,attempts}/   see `apwa_dask.store.parts`
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from apwa_dask.errors import RunError, StoreError
from apwa_dask.store.folder import Folder, open_folder
from apwa_dask.store.lease import Claim, Lease, LeaseKeeper
from apwa_dask.store.names import new_run_id, redact, redact_tree, safe_name
from apwa_dask.store.parts import Parts

__all__ = ["RunFolder", "RunStatus", "RunStore", "RunSummary"]


class RunStatus(StrEnum):
    """Where a run stands, as its folder shows it."""

    CREATED = "created"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


_ENDS = frozenset({RunStatus.DONE, RunStatus.STOPPED, RunStatus.FAILED})


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of a list of runs."""

    run_id: str
    name: str
    created_s: float
    status: RunStatus


class RunFolder(Parts):
    """One run in the store.

    Parameters
    ----------
    folder : Folder
        Its folder.
    run_id : str
    """

    def __init__(self, folder: Folder, run_id: str) -> None:
        super().__init__(folder)
        self.run_id = run_id
        self._keeper = LeaseKeeper(folder.child("lease"))

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return self._folder.url

    def __repr__(self) -> str:
        return f"RunFolder({self.url!r})"

    def source_manifest_url(self, alias: str) -> str:
        """Where the manifest of a source is kept."""
        return f"{self.url}/docs/source-{alias}.json"

    def room(self, name: str) -> Folder:
        """A folder of the run's own for one purpose."""
        return self._folder.child(safe_name(name, "folder"))

    # Documents

    @property
    def spec(self) -> dict[str, Any]:
        """What the run was created with."""
        return _loads(self._folder.read("run.json"), f"{self.url}/run.json")

    def put_text(self, name: str, text: str) -> None:
        """Write a small named document (``plan.yaml``, ``report.html``), replacing an earlier one.

        Credentials in URLs are taken out.
        """
        data = redact(text).encode("utf-8", "replace")
        self._folder.write(f"docs/{safe_name(name, 'document')}", data, point="doc")

    def get_text(self, name: str) -> str:
        """A document's text.

        Raises
        ------
        StoreError
            Where there is none of that name.
        """
        try:
            return self._folder.read(f"docs/{safe_name(name, 'document')}").decode()
        except FileNotFoundError:
            known = ", ".join(self.documents()) or "none"
            raise StoreError(
                f"run {self.run_id} has no document {name!r}", why=f"documents: {known}"
            ) from None

    def documents(self) -> list[str]:
        """Names of the documents."""
        return [entry.name for entry in self._folder.child("docs").entries()]

    # History

    def append_history(self, event: str, **fields: Any) -> int:
        """Note that something happened; its number. ``started``, ``resumed``, ``stopped``, ``failed`` and
        ``done`` decide the run's status."""
        body = redact_tree({"event": event, "at_s": time.time(), **fields})
        history = self._folder.child("history")
        number = max((int(e.name[:6]) for e in history.entries() if e.name[:6].isdigit()), default=-1)
        while True:
            number += 1
            data = orjson.dumps({"seq": number, **body}, option=orjson.OPT_SERIALIZE_NUMPY)
            if history.put_if_absent(f"{number:06d}.json", data, point="history") == data:
                return number

    def history(self) -> list[dict[str, Any]]:
        """What happened, oldest first."""
        history = self._folder.child("history")
        contents = history.read_many(entry.name for entry in history.entries())
        return [_loads(contents[name], f"{history.url}/{name}") for name in sorted(contents)]

    # Ownership

    def claim(self, owner: str, ttl_s: float = 30.0, *, wait_s: float = 0.0) -> Lease:
        """Become the one who works on this run; renew with `Lease.heartbeat`.

        Raises
        ------
        StoreError
            ``STORE-CLAIMED`` where a living process holds it.
        """
        return self._keeper.claim(owner, ttl_s, wait_s=wait_s)

    def holder(self) -> Claim | None:
        """Who works on it now."""
        return self._keeper.holder()

    # The end

    def finish(self, manifest: Mapping[str, Any], *, replacing: bool = False) -> dict[str, Any]:
        """Write the manifest: the last act of a run.

        Parameters
        ----------
        manifest : mapping
            JSON data; ``"status"`` may say ``"failed"`` or ``"stopped"``, and is ``"done"`` where absent.
        replacing : bool
            Replace an earlier one, as after a retry; otherwise the first one stands.

        Returns
        -------
        dict
            The manifest that stands.
        """
        if manifest.get("status", RunStatus.DONE) not in _ENDS:
            raise ValueError(f"a manifest's status is one of {', '.join(sorted(_ENDS))}")
        data = orjson.dumps(
            redact_tree(dict(manifest)), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY
        )
        if replacing:
            self._folder.write("manifest.json", data, point="manifest")
        else:
            data = self._folder.put_if_absent("manifest.json", data, point="manifest")
        return _loads(data, f"{self.url}/manifest.json")

    @property
    def manifest(self) -> dict[str, Any] | None:
        """None before the run is finished."""
        try:
            return _loads(self._folder.read("manifest.json"), f"{self.url}/manifest.json")
        except FileNotFoundError:
            return None

    @property
    def status(self) -> RunStatus:
        """From the manifest, else from history, else from who holds the claim."""
        holder = self.holder()
        events = [event["event"] for event in self.history()]
        last = next((e for e in reversed(events) if e in _ENDS or e in ("started", "resumed")), None)
        if holder is not None and (last is None or last not in _ENDS):
            return RunStatus.RUNNING
        manifest = self.manifest
        if manifest is not None:
            return RunStatus(manifest.get("status", RunStatus.DONE))
        if last is None:
            return RunStatus.CREATED
        # Started, not ended, and nobody holds it: its process is gone.
        return RunStatus(last) if last in _ENDS else RunStatus.STOPPED


class RunStore:
    """All runs of a store.

    Parameters
    ----------
    url : str
        The store: a local path or any fsspec URL.
    storage_options : mapping, optional
        For the filesystem; in memory only.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._root = open_folder(url, storage_options)
        self._runs = self._root.child("runs")

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return self._root.url

    def __repr__(self) -> str:
        return f"RunStore({self.url!r})"

    def new_run_id(self) -> str:
        """A fresh id, sortable by time."""
        return new_run_id()

    def create(self, run_id: str, spec: Mapping[str, Any]) -> RunFolder:
        """Make a run; making it again with the same spec opens it.

        Raises
        ------
        StoreError
            Where a run of that id has another spec, or the spec holds storage options.
        """
        folder = self._folder_of(run_id)
        body = redact_tree(dict(spec))
        wanted = {"run_id": run_id, "created_s": time.time(), **body}
        data = orjson.dumps(wanted, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
        stands = _loads(folder.put_if_absent("run.json", data, point="run"), f"{folder.url}/run.json")
        if {**stands, "created_s": 0} != {**orjson.loads(data), "created_s": 0}:
            raise StoreError(
                f"run {run_id!r} exists with another plan or settings",
                where=folder.url,
                fix="choose another run id, or resume that run as it is",
                code="STORE-RUN-EXISTS",
            )
        return RunFolder(folder, run_id)

    def open(self, run_id: str) -> RunFolder:
        """A run by its id.

        Raises
        ------
        RunError
            Where there is none.
        """
        folder = self._folder_of(run_id)
        if not folder.exists("run.json"):
            recent = ", ".join(self.ids()[:5]) or "none"
            raise RunError(
                f"there is no run {run_id!r}",
                where=self.url,
                why=f"newest runs there: {recent}",
                fix="list the runs, or name the store the run was made in",
                code="RUN-UNKNOWN",
            )
        return RunFolder(folder, run_id)

    def ids(self) -> list[str]:
        """Ids of all runs, newest first."""
        return sorted(self._runs.folders(), reverse=True)

    def list(self, limit: int | None = None) -> list[RunSummary]:
        """The runs, newest first."""
        found: list[RunSummary] = []
        for run_id in self.ids():
            if limit is not None and len(found) >= limit:
                break
            run = RunFolder(self._folder_of(run_id), run_id)
            try:
                spec = run.spec
            except FileNotFoundError:
                continue  # being created, or being purged
            found.append(
                RunSummary(run_id, str(spec.get("name") or ""), float(spec["created_s"]), run.status)
            )
        return sorted(found, key=lambda run: (run.created_s, run.run_id), reverse=True)

    def purge(self, run_id: str, *, force: bool = False) -> None:
        """Delete a run and all its files. Its journaled answers are the journal's to purge.

        Raises
        ------
        StoreError
            Where a living process works on it and `force` is not given, or something could not be deleted.
        """
        run = self.open(run_id)
        holder = run.holder()
        if holder is not None and not force:
            raise StoreError(
                f"run {run_id!r} is at work",
                why=f"{holder.owner!r} (process {holder.process.pid}) holds it",
                fix="stop it first",
                code="STORE-CLAIMED",
            )
        folder = self._folder_of(run_id)
        folder.delete_tree()
        if folder.entries() or folder.folders():
            raise StoreError(f"not all files of run {run_id!r} could be deleted", where=folder.url)

    def _folder_of(self, run_id: str) -> Folder:
        return self._runs.child(safe_name(run_id, "run id"))


def _loads(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise StoreError(
            "a file of the run is damaged", where=where, why="it is not a JSON object", code="STORE-DAMAGED",
            fix="restore it from a backup, or run again: journaled answers are not paid again",
        )  # fmt: skip
    return value
