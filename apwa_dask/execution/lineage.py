"""From a row of a run back to the files it came from: through filters, flat_maps, joins, reduces and all.

Nothing is stored for it. Row ids tell the way through steps that work row by row (a child has its parent's id and a
number); a group's members are found again by their keys among the committed rows that the group was made of. So a
lineage costs no byte while a run works, and is as exact as the committed parts, which never change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from apwa_dask.agents.clean import BadInput
from apwa_dask.agents.reduce import ReduceAgent
from apwa_dask.errors import RunError
from apwa_dask.execution.compile import ROW_ID, STATUS, Stage
from apwa_dask.execution.manifest import source_manifest
from apwa_dask.execution.tables_of_run import input_partitions, input_table
from apwa_dask.plans.lowering import Clustered, Joined, Pairs, Ranked, lowered
from apwa_dask.plans.steps import Aggregate, Chunk, Concat, Explode, FlatMap, Merge, Reduce
from apwa_dask.tables.manifest import Manifest

if TYPE_CHECKING:
    from apwa_dask.execution.kept import KeptRun

__all__ = ["Hop", "Lineage", "Place", "lineage_of", "locate", "locate_position", "parents_of"]

_GROWING = (FlatMap, Explode, Chunk)
_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands: an id in a partition of a stage (a number) or of a source (its alias)."""

    table: int | str
    partition: int
    row_id: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One stage on the way back: ``rows`` rows of it led to the row asked for."""

    stage: int
    steps: tuple[str, ...]
    kind: str
    rows: int
    row_ids: tuple[str, ...]
    """The first few of them."""


@dataclass(frozen=True)
class Lineage:
    """Where a row comes from.

    Attributes
    ----------
    run_id, row_id : str
    hops : tuple of Hop
        From the row asked for back to the sources.
    origins : pandas.DataFrame
        One row for each row of a source that led to it: ``source``, ``file``, ``row`` (0-based, in the file; in the
        partition for a caller's frame), ``partition``, ``row_id``, and the caller's ``index`` where there is one. For a
        group: all rows that were consumed.
    """

    run_id: str
    row_id: str
    hops: tuple[Hop, ...]
    origins: pd.DataFrame = field(repr=False, compare=False)

    def __repr__(self) -> str:
        from apwa_dask.observe.row_report import lineage_text

        return lineage_text(self)

    def _repr_html_(self) -> str:
        from apwa_dask.observe.row_report import lineage_html

        return lineage_html(self)


def lineage_of(run: KeptRun, place: Place) -> Lineage:
    """Walk back from `place` to the sources.

    Raises
    ------
    RunError
        A stage on the way is not committed, or the rows of a caller's frame are needed and its session is gone.
    SourceError
        A file changed since it was read.
    """
    hops: list[Hop] = []
    found: dict[Place, None] = {}
    here: dict[int, dict[Place, None]] = {}
    _sort_in(place, here, found)
    while here:
        index = max(here)  # stages come after those they read, so nothing is visited twice
        places = list(here.pop(index))
        stage = run.stages[index]
        ids = tuple(each.row_id for each in places)
        hops.append(
            Hop(index, tuple(step.id for step in stage.steps), stage.kind, len(ids), ids[:_SHOWN_IDS])
        )
        for parent in parents_of(run, stage, places):
            _sort_in(parent, here, found)
    return Lineage(run.id, place.row_id, tuple(hops), _origins(run, found))


def _sort_in(place: Place, here: dict[int, dict[Place, None]], found: dict[Place, None]) -> None:
    if isinstance(place.table, str):
        found[place] = None
    else:
        here.setdefault(place.table, {})[place] = None


# -- one stage back


def parents_of(run: KeptRun, stage: Stage, places: Sequence[Place]) -> list[Place]:
    """The rows of the stage's inputs that led to rows of it."""
    if stage.kind == "rows":
        return _through_rows(run, stage, places)
    (step,) = stage.steps
    if isinstance(step, (Aggregate, Reduce)):
        return [member for place in places for member in _members(run, stage, step, place)]
    if isinstance(step, Concat):
        return [_before_concat(run, stage, place) for place in places]
    if isinstance(step, (Merge, Pairs, Joined, Ranked, Clustered)):
        return _before_meeting(run, stage, step, places)
    return _search(run, stage.inputs[0], [place.row_id for place in places])


def _through_rows(run: KeptRun, stage: Stage, places: Sequence[Place]) -> list[Place]:
    """The partition is the same; the id is the parent's, perhaps with numbers behind it."""
    (source,) = stage.inputs
    grown = sum(isinstance(step, _GROWING) for step in stage.steps)
    if isinstance(source, str):  # ids of sources hold no points
        return [Place(source, place.partition, place.row_id.partition(".")[0]) for place in places]
    parents = []
    for partition in dict.fromkeys(place.partition for place in places):
        known = set(_ids(run, source, partition))
        for place in places:
            if place.partition == partition:
                parents.append(Place(source, partition, _parent_id(place.row_id, known, grown)))
    return parents


def _parent_id(row_id: str, known: set[str], grown: int) -> str:
    parent = row_id
    for _ in range(grown):  # a row that failed before a step was not grown by it
        if parent in known:
            break
        parent = parent.rpartition(".")[0]
    return parent


def _before_concat(run: KeptRun, stage: Stage, place: Place) -> Place:
    """Partitions of the first table come first, then those of the second."""
    first = 0
    for source in stage.inputs:
        count = input_partitions(run, source)
        if place.partition < first + count:
            return Place(source, place.partition - first, place.row_id)
        first += count
    raise _lost(run, place)


def _before_meeting(
    run: KeptRun, stage: Stage, step: Merge | Pairs | Joined | Ranked | Clustered, places: Sequence[Place]
) -> list[Place]:
    """A joined row's id is both ids with ``~`` between; ids of earlier joins hold one themselves."""
    if not step.meets:
        return _search(run, stage.inputs[0 if isinstance(step, Pairs) else 1], [p.row_id for p in places])
    left, right = (_ids_by_place(run, source) for source in stage.inputs[-2:])
    parents: list[Place] = []
    for place in places:
        pieces = place.row_id.split("~")
        for cut in range(1, len(pieces)):
            sides = ("~".join(pieces[:cut]), left), ("~".join(pieces[cut:]), right)
            if all(not row_id or row_id in known for row_id, known in sides):
                parents += [known[row_id] for row_id, known in sides if row_id]
                break
        else:
            raise _lost(run, place)
    return parents


def _ids_by_place(run: KeptRun, source: int | str) -> dict[str, Place]:
    return {
        row_id: Place(source, partition, row_id)
        for partition in range(input_partitions(run, source))
        for row_id in _ids(run, source, partition)
    }


def _search(run: KeptRun, source: int | str, row_ids: Sequence[str]) -> list[Place]:
    """Steps that pick or order rows keep their ids; which partition they were in is looked up."""
    wanted, found = set(row_ids), []
    for partition in range(input_partitions(run, source)):
        for row_id in _ids(run, source, partition):
            if row_id in wanted:
                found.append(Place(source, partition, row_id))
    return found


def _members(run: KeptRun, stage: Stage, step: Aggregate | Reduce, place: Place) -> Iterable[Place]:
    """The rows that a group consumed: its keys, no failure before, and for a model something to read."""
    (source,) = stage.inputs
    inputs = step.contract.inputs if isinstance(step, Reduce) else ()
    columns = list(dict.fromkeys([ROW_ID, STATUS, *step.by, *inputs]))
    keys = _row(run, stage, place).select(list(step.by)).to_pylist()[0] if step.by else {}
    partitions: Iterable[int] = range(input_partitions(run, source))
    if isinstance(step, Reduce) and step.contract.unit == "partition" and not step.by:
        partitions = [place.partition]
    agent = _reader(run, step) if isinstance(step, Reduce) else None
    for partition in partitions:
        table = with_keys(input_table(run, source, partition, columns), keys)
        table = table.filter(pc.is_null(table.column(STATUS)))
        for row in table.to_pylist():
            if agent is None or not isinstance(agent.item({name: row[name] for name in inputs}), BadInput):
                yield Place(source, partition, row[ROW_ID])


def with_keys(table: pa.Table, keys: Mapping[str, Any]) -> pa.Table:
    """The rows of one group; null (and not-a-number) is a value like any other."""
    for name, value in keys.items():
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        same = (
            pc.is_null(column, nan_is_null=True)
            if value is None or value != value
            else pc.fill_null(pc.equal(column, pa.scalar(value, column.type)), False)
        )
        table = table.filter(same)
    return table


def _reader(run: KeptRun, step: Reduce) -> ReduceAgent:
    from apwa_dask.plans.infer import infer

    schema = infer(lowered(run.spec.plan, run.spec.catalog), run.spec.catalog)[step.input]
    return ReduceAgent(step, run.spec.model_for(step.contract.model), schema)


# -- rows by id or position


def locate(run: KeptRun, row_id: str) -> Place:
    """The last place in the run where there is a row of this id: in the result, else in an earlier stage or a source.

    Raises
    ------
    RunError
        There is none, or more than one (tables that were put under one another may share ids).
    """
    for stage in reversed(run.stages):
        found = [
            Place(stage.index, partition, row_id)
            for partition, record in run.folder.committed(stage.index).items()
            for known in run.folder.read_part(record, [ROW_ID]).column(ROW_ID).to_pylist()
            if known == row_id
        ]
        if len(found) > 1:
            raise RunError(
                f"{len(found)} rows of the run have the id {row_id!r}",
                why="tables that were put under one another may share ids",
                fix="name the row by its position in the result: run.row(0)",
                code="RUN-ROW-AMBIGUOUS",
            )
        if found:
            return found[0]
    return _in_source(run, row_id)


def locate_position(run: KeptRun, position: int) -> Place:
    """Row number `position` of the result, from 0; negative from its end."""
    last = run.stages[-1].index
    records = run.folder.committed(last)
    total = sum(record.rows_out for record in records.values())
    left = position + total if position < 0 else position
    for partition, record in sorted(records.items()):
        if 0 <= left < record.rows_out:
            ids = run.folder.read_part(record, [ROW_ID]).column(ROW_ID)
            return Place(last, partition, ids[left].as_py())
        left -= record.rows_out
    raise RunError(
        f"there is no row {position} in the result",
        why=f"it has {total} rows",
        fix="give a position below that, or an id from run.failures['row_id']",
        code="RUN-ROW-UNKNOWN",
    )


def _in_source(run: KeptRun, row_id: str) -> Place:
    root = row_id.partition(".")[0]
    first, _, number = root.partition(":")
    readers = [alias for alias in run.spec.sources if _partition_of(run, alias, first, number) is not None]
    if len(readers) != 1:
        raise RunError(
            f"there is no row {row_id!r} in the run",
            why="ids are those in run.failures['row_id'] and in lineage; numbers are positions in the result"
            if not readers
            else f"sources {', '.join(readers)} each have such a row, and none of them is in the result",
            fix="run.row(0) is the first row of the result",
            code="RUN-ROW-UNKNOWN",
        )
    partition = _partition_of(run, readers[0], first, number)
    assert partition is not None
    return Place(readers[0], partition, root)


def _partition_of(run: KeptRun, alias: str, file: str, row: str) -> int | None:
    if not (file.isdigit() and row.isdigit()):
        return None
    manifest = source_manifest(run, alias)
    if manifest is None:
        return int(file) if int(file) < run.spec.sources[alias].npartitions else None
    for ordinal, partition in enumerate(manifest.partitions):
        for piece in partition.pieces:
            if piece.file == int(file) and piece.first_row <= int(row) < piece.first_row + piece.rows:
                return ordinal
    return None


def _ids(run: KeptRun, source: int | str, partition: int) -> list[str]:
    ids: list[str] = input_table(run, source, partition, [ROW_ID]).column(ROW_ID).to_pylist()
    return ids


def _row(run: KeptRun, stage: Stage, place: Place) -> pa.Table:
    table = input_table(run, stage.index, place.partition, None)
    return table.filter(pc.equal(table.column(ROW_ID), place.row_id))


def _lost(run: KeptRun, place: Place) -> RunError:
    return RunError(
        f"row {place.row_id!r} of run {run.id} cannot be traced back",
        why="its parents are not among the committed rows",
        fix="please report this with the plan: run.manifest['plan']",
        code="RUN-ROW-LOST",
    )


# -- the sources


class _Files:
    """Files and index labels of a source's rows."""

    def __init__(self, run: KeptRun, alias: str) -> None:
        self.run, self.alias = run, alias
        self.manifest: Manifest | None = source_manifest(run, alias)
        self._labels: dict[int, dict[str, Any]] = {}

    def file(self, number: int) -> str:
        return "" if self.manifest is None else self.manifest.files[number].path

    @cached_property
    def levels(self) -> list[str]:
        return list(self.run.spec.sources[self.alias].index.names)

    def label(self, place: Place) -> Any:
        """The caller's index of a row; None where the source has none."""
        if not self.levels or (self.manifest is None and self.alias not in self.run.frames):
            return None
        if place.partition not in self._labels:
            table = input_table(self.run, self.alias, place.partition, [ROW_ID, *self.levels])
            cells = zip(*(table.column(name).to_pylist() for name in self.levels), strict=True)
            self._labels[place.partition] = dict(zip(table.column(ROW_ID).to_pylist(), cells, strict=True))
        label = self._labels[place.partition][place.row_id]
        return label[0] if len(label) == 1 else label


def _origins(run: KeptRun, places: Iterable[Place]) -> pd.DataFrame:
    files: dict[str, _Files] = {}
    rows = []
    for place in places:
        alias = str(place.table)
        if alias not in files:
            files[alias] = _Files(run, alias)
        known = files[alias]
        number, _, row = place.row_id.partition(":")
        rows.append(
            {
                "source": alias,
                "file": known.file(int(number)),
                "row": int(row),
                "partition": place.partition,
                "row_id": place.row_id,
                "index": known.label(place),
            }
        )
    frame = pd.DataFrame(rows, columns=["source", "file", "row", "partition", "row_id", "index"])
    has_index = any(source.index.names for source in run.spec.sources.values())
    return frame if has_index else frame.drop(columns="index")
