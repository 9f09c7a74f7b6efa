"""Stages of a run on disk: attempt files, commit records by put-if-absent, and the attempts counted.

The layout under a run::

    data/<stage>/<partition>/<attempt>-<random>.parquet    immutable, seen only through a commit record
    commit/<stage>/<partition>.<generation>.json           the first to put it wins
    attempts/<stage>/<partition>/<number>.json             one for each attempt begun
    attempts/<stage>/<hash of prompts>/<number>.json       of prompts that belong to no partition
"""

from __future__ import annotations

import hashlib
import io
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from apwa_dask.errors import StoreError
from apwa_dask.store.attempts import AttemptLog
from apwa_dask.store.commit import CommitRecord, PartFile, decode_commit, encode_commit
from apwa_dask.store.folder import Folder
from apwa_dask.store.killpoints import reach
from apwa_dask.store.names import safe_name

__all__ = ["Parts"]

_NAME = re.compile(r"(?P<partition>[0-9]{6,})\.[0-9]{4}\.json")


class Parts:
    """The partitions of a run's stages. Safe from several threads and processes; every method does I/O.

    Parameters
    ----------
    folder : Folder
        The run's.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        # Commit records never change, so none is read twice; which of them exist is asked anew each time.
        self._read_records: dict[str, CommitRecord] = {}

    def attempt_path(self, stage: str | int, partition: int, attempt: int) -> str:
        """Where the files of one attempt go: the start of their names, inside the run folder."""
        return f"data/{safe_name(stage, 'stage')}/{_number(partition)}/{attempt:04d}"

    def write_part(self, stage: str | int, partition: int, attempt: int, table: pa.Table) -> PartFile:
        """Write the rows of an attempt. Nobody reads them before a commit record names them."""
        return self._write(stage, partition, attempt, table, "part")

    def write_failures(self, stage: str | int, partition: int, attempt: int, table: pa.Table) -> PartFile:
        """Write the dead-letter rows of an attempt, to be named by the same commit record."""
        return self._write(stage, partition, attempt, table, "failures")

    def _write(self, stage: str | int, partition: int, attempt: int, table: pa.Table, kind: str) -> PartFile:
        data = _encode(table)
        # The random part keeps a zombie with the same attempt number from ever touching our file.
        name = f"{self.attempt_path(stage, partition, attempt)}-{secrets.token_hex(6)}.{kind}.parquet"
        self._folder.write(name, data, point=kind)
        return PartFile(name, table.num_rows, len(data), hashlib.sha256(data).hexdigest())

    def read_part(self, part: PartFile | CommitRecord, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a committed file, its checksum verified.

        Raises
        ------
        StoreError
            ``STORE-DAMAGED`` where the file is missing or is not what was committed.
        """
        if isinstance(part, CommitRecord):
            part = part.part
        try:
            data = self._folder.read(part.name)
        except FileNotFoundError:
            raise self._damaged(part, "the file is missing") from None
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise self._damaged(part, "its content is not what was committed")
        return pq.read_table(io.BytesIO(data), columns=None if columns is None else list(columns))

    def _damaged(self, part: PartFile, why: str) -> StoreError:
        return StoreError(
            "a committed file is damaged",
            where=f"{self._folder.url}/{part.name}",
            why=why,
            fix="retry the run: the partition is worked again, and its answers come from the journal",
            saved="all other partitions, and every journaled answer",
            code="STORE-DAMAGED",
        )

    def commit(self, stage: str | int, partition: int, record: CommitRecord) -> CommitRecord:
        """Make `record` the partition's result, unless another attempt already is.

        Returns
        -------
        CommitRecord
            The record that counts. Where it is not `record`, the files of `record` were deleted.

        Notes
        -----
        The generation is `record.generation`, or the next one up where a damaged record stands at that place.
        """
        stage = safe_name(stage, "stage")
        if (record.stage, record.partition) != (stage, partition):
            raise ValueError(
                f"the record is of {record.stage}/{record.partition}, not of {stage}/{partition}"
            )
        reach("commit.before")
        while True:
            name = f"commit/{stage}/{_number(partition)}.{record.generation:04d}.json"
            ours = encode_commit(record)
            theirs = self._folder.put_if_absent(name, ours, point="commit")
            if theirs == ours:
                reach("commit.after")
                return record
            stands = decode_commit(theirs)
            if stands is not None:
                break
            record = replace(record, generation=record.generation + 1)
        winner = self.commit_of(stage, partition) or stands
        self._delete_files_of(record, but=winner)
        return winner

    def _delete_files_of(self, loser: CommitRecord, *, but: CommitRecord) -> None:
        kept = {file.name for file in but.files}
        for file in loser.files:
            if file.name not in kept:
                self._folder.delete(file.name)

    def committed(self, stage: str | int) -> dict[int, CommitRecord]:
        """The records that count, by partition, in order. From a fresh listing of the commit folder."""
        stage = safe_name(stage, "stage")
        folder = self._folder.child("commit").child(stage)
        generations: dict[int, list[str]] = {}
        for entry in folder.entries():  # sorted, so that the newest generation comes last
            match = _NAME.fullmatch(entry.name)
            if match is not None:
                generations.setdefault(int(match["partition"]), []).append(entry.name)
        newest = self._records(folder, stage, [names[-1] for names in generations.values()])
        found: dict[int, CommitRecord] = {}
        for partition, names in sorted(generations.items()):
            record = newest.get(names[-1])
            if record is None and len(names) > 1:  # the newest is damaged: the one before counts again
                older = self._records(folder, stage, names[:-1])
                record = next((older[name] for name in reversed(names[:-1]) if name in older), None)
            if record is not None:
                found[partition] = record
        return found

    def _records(self, folder: Folder, stage: str, names: Sequence[str]) -> dict[str, CommitRecord]:
        """The sound records among the files `names`, by name."""
        known = self._read_records
        for name, data in folder.read_many(name for name in names if f"{stage}/{name}" not in known).items():
            record = decode_commit(data)
            if record is not None:
                known[f"{stage}/{name}"] = record
        return {name: known[f"{stage}/{name}"] for name in names if f"{stage}/{name}" in known}

    def committed_count(self, stage: str | int) -> int:
        """How many partitions are committed, from a fresh listing alone: cheap enough to poll."""
        folder = self._folder.child("commit").child(safe_name(stage, "stage"))
        return len({entry.name.split(".", 1)[0] for entry in folder.entries() if _NAME.fullmatch(entry.name)})

    def commit_of(self, stage: str | int, partition: int) -> CommitRecord | None:
        """The record that counts for one partition; None where it is not committed."""
        folder = self._folder.child("commit").child(safe_name(stage, "stage"))
        # Generations follow one another, so named reads find the last without any listing.
        newest, generation = None, 0
        while True:
            try:
                data = folder.read(f"{_number(partition)}.{generation:04d}.json")
            except FileNotFoundError:
                return newest
            newest = decode_commit(data) or newest
            generation += 1

    def attempt_log(self, stage: str | int, partition: int) -> AttemptLog:
        """Who began to work on a partition, and what became of that."""
        return AttemptLog(self._folder.child(f"attempts/{safe_name(stage, 'stage')}/{_number(partition)}"))

    def prompts_log(self, stage: str | int, name: str) -> AttemptLog:
        """Who began to work on prompts that belong to no partition, and what became of that."""
        place = f"attempts/{safe_name(stage, 'stage')}/{safe_name(name, 'prompts')}"
        return AttemptLog(self._folder.child(place))

    def begin_attempt(
        self, stage: str | int, partition: int, *, worker: str = "", limit: int | None = None
    ) -> int:
        """Count an attempt, for all processes and for ever; its number, from 1.

        Raises
        ------
        StoreError
            ``STORE-ATTEMPTS`` where `limit` attempts were begun already: this partition kills its workers.
        """
        place = f"attempts/{safe_name(stage, 'stage')}/{_number(partition)}"
        data = orjson.dumps({"worker": worker, "token": secrets.token_hex(8)})
        number = self.attempts_of(stage, partition)
        while True:
            number += 1
            if limit is not None and number > limit:
                raise StoreError(
                    f"partition {partition} of stage {stage} was begun {number - 1} times, never committed",
                    where=self._folder.url,
                    why="a row in it probably ends the process that works on it (memory, a crash)",
                    fix="look at the worker's log, or let the run bisect the partition",
                    saved="every journaled answer",
                    code="STORE-ATTEMPTS",
                )
            if self._folder.put_if_absent(f"{place}/{number:04d}.json", data, point="attempt") == data:
                return number

    def attempts_of(self, stage: str | int, partition: int) -> int:
        """How many attempts were begun."""
        place = self._folder.child(f"attempts/{safe_name(stage, 'stage')}/{_number(partition)}")
        numbers = [int(entry.name[:4]) for entry in place.entries() if entry.name[:4].isdigit()]
        return max(numbers, default=0)

    def sweep(self, stage: str | int) -> int:
        """Delete attempt files of a stage that no commit record names; how many.

        Only for who holds the run's claim, when nothing works on the stage any more.
        """
        data = self._folder.child("data").child(safe_name(stage, "stage"))
        kept = {file.name for record in self.committed(stage).values() for file in record.files}
        deleted = 0
        for partition in data.folders():
            for entry in data.child(partition).entries():
                name = f"data/{stage}/{partition}/{entry.name}"
                if name not in kept:
                    self._folder.delete(name)
                    deleted += 1
        return deleted


def _number(partition: int) -> str:
    if partition < 0:
        raise ValueError("a partition's number is not negative")
    return f"{partition:06d}"


def _encode(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
