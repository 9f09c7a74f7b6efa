"""One paid answer, as the journal keeps it, and its Arrow form."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

__all__ = ["KEY_BYTES", "OK", "SCHEMA", "Record", "completed", "is_earlier", "records_at", "to_table"]

KEY_BYTES = 32
OK = "ok"
"""The only outcome that is ever served again."""

_TEXT_FIELDS = ("outcome", "finish_reason", "model", "request_id", "run_id", "step_id")


@dataclass(frozen=True, slots=True)
class Record:
    """How one request to a model ended.

    Parameters
    ----------
    key : bytes
        The request's fingerprint, 32 bytes (SHA-256 of its canonical form).
    outcome : str
        Outcome class; only ``"ok"`` records are served to later requests.
    text : str or None
        The answer, exactly as it came.
    finish_reason, request_id : str or None
        As the endpoint said.
    model : str or None
        The model that answered, as the endpoint resolved it.
    input_tokens, cached_tokens, output_tokens : int
        What was billed.
    estimated : bool
        True where the endpoint gave no usage and the tokens were counted here.
    cost_usd : float or None
        None where no price is known.
    attempts : int
        Requests made for this answer.
    created_s : float
        Unix time.
    run_id, step_id : str
        Who paid for it.
    prompt : str or None
        Kept only by a journal with ``store_prompts``.
    tools : str or None
        JSON: ``calls``, the tools that this answer asks for, and ``turns``, what earlier calls of the same unit
        gave back. None where no tool took part.
    """

    key: bytes
    outcome: str
    text: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    estimated: bool = False
    cost_usd: float | None = None
    attempts: int = 1
    request_id: str | None = None
    created_s: float = 0.0
    run_id: str = ""
    step_id: str = ""
    prompt: str | None = None
    tools: str | None = None

    def __post_init__(self) -> None:
        # A value that Parquet cannot hold would block the whole batch it is written with, so it stops here.
        if type(self.key) is not bytes or len(self.key) != KEY_BYTES:
            raise ValueError(f"a record's key is {KEY_BYTES} bytes")
        for count in (self.input_tokens, self.cached_tokens, self.output_tokens, self.attempts):
            if type(count) is not int or not 0 <= count < 2**63:
                raise ValueError("tokens and attempts of a record are whole numbers, not negative")
        for value in (self.text, self.finish_reason, self.model, self.request_id, self.prompt, self.tools):
            if value is not None and not isinstance(value, str):
                raise ValueError("text fields of a record are str or None")
        if not (
            isinstance(self.outcome, str) and isinstance(self.run_id, str) and isinstance(self.step_id, str)
        ):
            raise ValueError("outcome, run_id and step_id of a record are str")
        if not isinstance(self.created_s, float | int) or not isinstance(self.estimated, bool):
            raise ValueError("created_s of a record is a Unix time, estimated a bool")
        if self.cost_usd is not None and not isinstance(self.cost_usd, float | int):
            raise ValueError("cost_usd of a record is a number or None")

    @property
    def is_served(self) -> bool:
        return self.outcome == OK

    @property
    def size_bytes(self) -> int:
        """A bound of the memory it holds, near enough to budget a cache."""
        return 600 + 4 * (len(self.text or "") + len(self.prompt or "") + len(self.tools or ""))


SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        # JSON answers can hold lone surrogates, which are no valid UTF-8: those few are kept here instead.
        pa.field("text_raw", pa.binary()),
        pa.field("finish_reason", pa.string()),
        pa.field("model", pa.string()),
        pa.field("input_tokens", pa.int64(), nullable=False),
        pa.field("cached_tokens", pa.int64(), nullable=False),
        pa.field("output_tokens", pa.int64(), nullable=False),
        pa.field("estimated", pa.bool_(), nullable=False),
        pa.field("cost_usd", pa.float64()),
        pa.field("attempts", pa.int64(), nullable=False),
        pa.field("request_id", pa.string()),
        pa.field("created_s", pa.float64(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("step_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),
        pa.field("tools", pa.string()),
    ]
)
"""Columns are only ever added, and a new one may be null: what was paid for before stays readable."""
_FIELDS = tuple(field.name for field in fields(Record))
# Column by column: a tuple for each record would be 256 objects for the garbage collector to go through.
_GETTERS = tuple((name, operator.attrgetter(name)) for name in _FIELDS)
_VARYING = {"key", "text", "input_tokens", "cost_usd", "request_id", "created_s"}
_MAX_CONSTANT_CHARS = 64


def to_table(records: Sequence[Record]) -> pa.Table:
    """`records` as a table of `SCHEMA`, in order. Total: whatever a `Record` can hold has a form here."""
    if not records:
        return SCHEMA.empty_table()
    columns: dict[str, Any] = {name: list(map(get, records)) for name, get in _GETTERS}
    columns["text_raw"] = [None] * len(records)
    try:
        return _table(columns)
    except UnicodeEncodeError:
        texts = [_split_text(text) for text in columns["text"]]
        columns["text"] = [text for text, _ in texts]
        columns["text_raw"] = [raw for _, raw in texts]
        for name in (*_TEXT_FIELDS, "prompt", "tools"):
            columns[name] = [None if value is None else _encodable(value) for value in columns[name]]
        return _table(columns)


def is_earlier(schema: pa.Schema) -> bool:
    """Whether `schema` is `SCHEMA`, or what it was before some of its nullable columns were added."""
    if schema.equals(SCHEMA):
        return True  # nearly always, and much cheaper
    names = set(schema.names)
    if len(names) < len(schema):
        return False
    kept = [field for field in SCHEMA if field.name in names]
    return list(schema) == kept and all(field.nullable or field.name in names for field in SCHEMA)


def completed(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns `names` of a table of an earlier schema, in this order; those it lacks are null."""
    if table.schema.names == list(names):
        return table
    present = set(table.schema.names)
    fields_ = [SCHEMA.field(name) for name in names]
    arrays = [
        table.column(field.name) if field.name in present else pa.nulls(table.num_rows, field.type)
        for field in fields_
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields_, metadata=table.schema.metadata))


def _table(columns: dict[str, Any]) -> pa.Table:
    return pa.Table.from_arrays([_array(field, columns[field.name]) for field in SCHEMA], schema=SCHEMA)


def _array(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    name = field.name
    if name == "key":
        joined = pa.py_buffer(b"".join(values))
        return pa.Array.from_buffers(field.type, len(values), [None, joined])
    if name not in _VARYING and values.count(values[0]) == len(values):
        value = values[0]
        if not isinstance(value, str) or len(value) <= _MAX_CONSTANT_CHARS:
            return _constant(name, value, len(values))
    return pa.array(values, type=field.type)


@functools.lru_cache(maxsize=32)
def _constant(name: str, value: object, count: int) -> pa.Array:
    """Of a run's batch most columns say one thing, and the same as of the batch before."""
    return pa.array([value] * count, type=SCHEMA.field(name).type)


def _split_text(text: str | None) -> tuple[str | None, bytes | None]:
    if text is None or _is_encodable(text):
        return text, None
    return None, text.encode("utf-8", "surrogatepass")


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def records_at(table: pa.Table, rows: Sequence[int]) -> list[Record]:
    """The records at `rows` of a table of `SCHEMA`."""
    picked = table.take(pa.array(rows, type=pa.int64()))
    columns = {name: picked.column(name).to_pylist() for name in (*_FIELDS, "text_raw")}
    if picked.column("text_raw").null_count < len(rows):
        columns["text"] = [
            text if raw is None else raw.decode("utf-8", "surrogatepass")
            for text, raw in zip(columns["text"], columns["text_raw"], strict=True)
        ]
    return [Record(*values) for values in zip(*(columns[name] for name in _FIELDS), strict=True)]
