"""The batches of a run, as its folder knows them: what each was made of, its id, and what came of it.

Three immutable files for each, each put if absent: the shard (written before anything is sent), the job (its id
at the endpoint), the end (written when all its answers are durable). A process that dies between two of them
leaves a state that the next one can tell: a shard without a job is looked for at the endpoint by its metadata.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import orjson

from apwa_dask.errors import StoreError
from apwa_dask.models.leases import Money
from apwa_dask.models.types import Usage
from apwa_dask.store.folder import Folder

__all__ = ["JobBook", "Settlement", "Shard", "Tried"]

_FORMAT = "apwa-batch/1"


@dataclass(frozen=True)
class Shard:
    """The requests of one batch, in the order of its lines.

    Parameters
    ----------
    id : str
        Number within the run.
    run_id : str
    model : str
        The model's alias in the run.
    stage : int
        That asked; for progress.
    keys, owners, steps : tuple of str
        For each line its fingerprint (hexadecimal), who pays, and the step.
    tokens : int
        Prompt tokens, estimated.
    reserved : Money
    made_s : float
        Unix time.
    """

    id: str
    run_id: str
    model: str
    stage: int
    keys: tuple[str, ...]
    owners: tuple[str, ...]
    steps: tuple[str, ...]
    tokens: int
    reserved: Money
    made_s: float = field(default_factory=time.time)

    @property
    def metadata(self) -> dict[str, str]:
        """By which its batch is found again at the endpoint."""
        return {"apwa_run": self.run_id, "apwa_shard": self.id}


@dataclass(frozen=True, slots=True)
class Tried:
    """A request that was answered in vain, and is asked again."""

    key: str
    usage: tuple[int, int, int, bool] = (0, 0, 0, False)
    cost_usd: float | None = 0.0

    @property
    def tokens(self) -> Usage:
        return Usage(*self.usage)


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a shard.

    Parameters
    ----------
    status : str
        As the endpoint says, ``never made``, or ``gone``.
    spent : Money
        What all answers of the batch came to; where they are gone, what was set aside for it: nobody can tell.
    tried : tuple of Tried
        Requests whose answers failed, to be asked again.
    missed : tuple of str
        Requests that the batch did not come to in its time.
    """

    status: str
    spent: Money = field(default_factory=Money)
    tried: tuple[Tried, ...] = ()
    missed: tuple[str, ...] = ()


class JobBook:
    """Shards, jobs and settlements of one run."""

    def __init__(self, folder: Folder) -> None:
        self._shards, self._jobs = folder.child("shards"), folder.child("jobs")
        self._ends, self._cancelled = folder.child("ends"), folder.child("cancelled")

    def open_shard(self, shard: Shard) -> Shard:
        """Write a shard under the next free number; the shard with its number."""
        taken = [int(entry.name[:6]) for entry in self._shards.entries() if entry.name[:6].isdigit()]
        number = max(taken, default=-1)
        while True:
            number += 1
            numbered = replace(shard, id=f"{number:06d}")
            data = _encoded(asdict(numbered))
            if self._shards.put_if_absent(f"{numbered.id}.json", data, point="shard") == data:
                return numbered

    def made(self, shard: Shard, batch_id: str) -> str:
        """Note the id of a shard's batch; the id that stands."""
        data = _encoded({"batch": batch_id})
        stands = self._jobs.put_if_absent(f"{shard.id}.json", data, point="job")
        return str(_decoded(stands, self._jobs.url)["batch"])

    def cancelled_by_us(self, shard: Shard) -> None:
        """Note that its end was our wish, before we say so to the endpoint."""
        self._cancelled.put_if_absent(f"{shard.id}.json", _encoded({"at_s": time.time()}), point="cancelled")

    def was_cancelled_by_us(self, shard: Shard) -> bool:
        return self._cancelled.exists(f"{shard.id}.json")

    def settle(self, shard: Shard, end: Settlement) -> None:
        """Close a shard. Everything that its answers brought is durable before this."""
        self._ends.put_if_absent(f"{shard.id}.json", _encoded(asdict(end)), point="end")

    def unsettled(self) -> list[tuple[Shard, str]]:
        """Shards that are not closed, each with the id of its batch (empty: not known)."""
        jobs = {name: str(body["batch"]) for name, body in _contents(self._jobs)}
        ended = {entry.name for entry in self._ends.entries()}
        names = [entry.name for entry in self._shards.entries() if entry.name not in ended]
        return [(_shard(body), jobs.get(name, "")) for name, body in _contents(self._shards, names)]

    def settlements(self) -> Iterator[Settlement]:
        """The ends so far."""
        for _, body in _contents(self._ends):
            tried = tuple(Tried(**{**one, "usage": tuple(one["usage"])}) for one in body["tried"])
            yield Settlement(body["status"], Money(**body["spent"]), tried, tuple(body["missed"]))

    def table(self) -> list[dict[str, Any]]:
        """One line for each batch: shard, batch id, model, requests, status (``waiting`` until its end)."""
        jobs = {name: str(body["batch"]) for name, body in _contents(self._jobs)}
        ends = {name: str(body["status"]) for name, body in _contents(self._ends)}
        return [
            {
                "shard": body["id"],
                "batch": jobs.get(name, ""),
                "model": body["model"],
                "requests": len(body["keys"]),
                "made_s": body["made_s"],
                "status": ends.get(name, "waiting"),
            }
            for name, body in _contents(self._shards)
        ]


def _shard(body: Mapping[str, Any]) -> Shard:
    lists = {name: tuple(body[name]) for name in ("keys", "owners", "steps")}
    return Shard(**{**body, **lists, "reserved": Money(**body["reserved"])})


def _contents(folder: Folder, names: list[str] | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    wanted = [entry.name for entry in folder.entries()] if names is None else names
    found = folder.read_many(wanted)
    for name in sorted(found):
        yield name, _decoded(found[name], f"{folder.url}/{name}")


def _encoded(body: dict[str, Any]) -> bytes:
    data = orjson.dumps(body)
    return orjson.dumps({"format": _FORMAT, "sha256": hashlib.sha256(data).hexdigest()}) + b"\n" + data


def _decoded(data: bytes, where: str) -> dict[str, Any]:
    head, _, body = data.partition(b"\n")
    try:
        known = orjson.loads(head)
        if known["format"] == _FORMAT and known["sha256"] == hashlib.sha256(body).hexdigest():
            found: dict[str, Any] = orjson.loads(body)
            return found
    except (ValueError, KeyError, TypeError):
        pass  # damaged, as said below
    raise StoreError(
        "a file about a batch is damaged",
        where=where,
        fix="restore it from a backup; the batches themselves are listed at the provider",
        code="STORE-DAMAGED",
    )
