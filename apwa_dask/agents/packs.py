"""Several rows in one prompt: answers carry small row numbers, so that none can shift.

Opt-in only (``unit: pack(n)`` or ``partition``): rows of one prompt can influence each other. A row that is
missing, doubled or unusable in the answer is asked again alone; a pack that fails as a whole is halved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from apwa_dask.agents.answers import AnswerReader, Invalid, find_json
from apwa_dask.agents.clean import cell_value
from apwa_dask.agents.conversation import Conversation, RowConversation, Terms
from apwa_dask.agents.describe import column_name
from apwa_dask.agents.limits import answer_bound, expected_answer, first_ceiling, room_of
from apwa_dask.agents.outcome import Outcome
from apwa_dask.agents.prompts import (
    answer_reader,
    answer_schema,
    compact_json,
    example_output,
    system_message,
)
from apwa_dask.agents.tokens import estimate_tokens
from apwa_dask.models.model import Model
from apwa_dask.models.types import Message, OutcomeClass, Reply, Request, Template
from apwa_dask.plans.contract import Contract, Limits
from apwa_dask.plans.schema import Schema
from apwa_dask.plans.steps import LLMStep

__all__ = [
    "PackConversation",
    "PackTerms",
    "Packed",
    "pack_rows",
    "packed",
    "row_key",
    "table_line",
    "table_message",
]

_HEADER_TOKENS = 32
_ROW_KEYS = ("row", "row_number", "row_no", "n")
_HALVED = frozenset(
    {
        OutcomeClass.TRUNCATED,
        OutcomeClass.INVALID_OUTPUT,
        OutcomeClass.TOO_LARGE,
        OutcomeClass.BAD_INPUT,
        OutcomeClass.REFUSED,
        OutcomeClass.FILTERED,
    }
)
"""What may be the fault of one row, or of the pack's size: smaller packs can tell."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One row on its way into a pack: its place, its line of the table, and its own message."""

    index: int
    line: str
    tail: tuple[Message, ...]
    tokens: int


def row_key(schema: Schema) -> str:
    """Name of the row number, which no field has."""
    taken = set(schema.names)
    return next(key for key in (*_ROW_KEYS, "_".join((*sorted(taken), "row"))) if key not in taken)


def table_line(contract: Contract, row: Mapping[str, Any]) -> str:
    """The row's cells as the inside of a JSON array: new lines and brackets in a cell cannot end its line."""
    return orjson.dumps([cell_value(row.get(column)) for column in contract.inputs]).decode()[1:-1]


def table_message(contract: Contract, key: str, lines: Sequence[str]) -> Message:
    """The rows as a table, columns named once, rows numbered from 1."""
    header = orjson.dumps([key, *map(column_name, contract.inputs)]).decode()
    return Message(
        "user", "\n".join([header, *(f"[{number},{line}]" for number, line in enumerate(lines, start=1))])
    )


class PackReader:
    """Reads ``{"rows": [{"row": 1, ...}, ...]}`` into values by row number, less what cannot be used."""

    def __init__(self, row: AnswerReader, key: str) -> None:
        self._row, self._key = row, key

    def read(self, text: str) -> dict[str, Any] | Invalid:
        """Values by row number as text; `Invalid` when not even one row can be used."""
        rows = _rows_in(text)
        if rows is None:
            return Invalid(f'the answer must be JSON with a list "rows", each with its "{self._key}" number')
        by_number: dict[str, list[dict[str, Any] | Invalid]] = {}
        for row in rows:
            number = row.get(self._key) if isinstance(row, dict) else None
            if isinstance(number, bool) or not isinstance(number, (int, str)):
                continue
            answer = {name: value for name, value in row.items() if name != self._key}
            by_number.setdefault(str(number).strip(), []).append(self._row.read_object(answer))
        # A number given twice is nobody's answer: which of the two is meant cannot be known.
        usable = {n: a[0] for n, a in by_number.items() if len(a) == 1 and not isinstance(a[0], Invalid)}
        return usable or Invalid(
            f'no row of the answer has a "{self._key}" number and all fields as described'
        )


def _rows_in(text: str) -> list[Any] | None:
    for candidate in _candidates(text):
        rows = candidate.get("rows") if isinstance(candidate, dict) else candidate
        if isinstance(rows, list) and rows:
            return rows
    return None


def _candidates(text: str) -> Iterator[Any]:
    try:
        yield orjson.loads(text)
    except ValueError:
        yield from find_json(text)


@dataclass(frozen=True)
class PackTerms:
    """What is constant for all packs of one contract."""

    contract: Contract
    schema: Schema
    key: str
    template: Template
    reader: PackReader
    row_terms: Terms
    _by_ceiling: dict[int, Terms] = field(default_factory=dict)

    @classmethod
    def of(cls, step: LLMStep, model: Model, row_terms: Terms) -> PackTerms:
        """The terms of packs beside the terms of single rows."""
        contract, schema = step.contract, answer_schema(step, model)
        key = row_key(schema)
        messages = [system_message(step, model, key)]
        if contract.examples:
            lines = [table_line(contract, example.inputs) for example in contract.examples]
            answers = [
                {key: number, **example_output(step, example.output, model)}
                for number, example in enumerate(contract.examples, start=1)
            ]
            messages += [
                table_message(contract, key, lines),
                Message("assistant", compact_json({"rows": answers})),
            ]
        row = schema.json_schema()
        row["properties"] = {key: {"type": "integer"}, **row["properties"]}
        row["required"] = [key, *row["required"]]
        answer = {
            "type": "object",
            "properties": {"rows": {"type": "array", "items": row}},
            "required": ["rows"],
            "additionalProperties": False,
        }
        template = Template(
            model, tuple(messages), answer, "rows", max_output_tokens=first_ceiling(contract, model, schema)
        )
        return cls(contract, schema, key, template, PackReader(answer_reader(step, model), key), row_terms)

    def for_rows(self, rows: int) -> Terms:
        """Terms with a ceiling for this many answers, rounded up to a power of two so that they are few."""
        wanted = 1 << max(rows * answer_bound(self.schema) - 1, 1).bit_length()
        ceiling = first_ceiling(self.contract, self.template.model, self.schema, wanted_tokens=wanted)
        known = self._by_ceiling.get(ceiling)
        if known is None:
            template = self.template.with_output_tokens(ceiling)
            terms = Terms(
                template, self.reader, room_of(template, self.contract), self.contract.limits, max_reasks=1
            )
            known = self._by_ceiling.setdefault(ceiling, terms)
        return known

    def most_rows(self) -> int:
        """How many answers the largest ceiling has room for."""
        ceiling = self.for_rows(10_000).template.max_output_tokens or 1
        return max(ceiling // expected_answer(self.schema), 1)


def pack_rows(terms: PackTerms, rows: Sequence[Packed], most_rows: int | None) -> list[list[Packed]]:
    """Cut rows, in order, into packs that fit one prompt and one answer. Deterministic.

    Parameters
    ----------
    terms : PackTerms
    rows : sequence of Packed
    most_rows : int or None
        ``n`` of ``pack(n)``; None for as many as fit.
    """
    limit = min(most_rows or len(rows), terms.most_rows())
    budget = terms.for_rows(limit).room.packing_tokens
    packs: list[list[Packed]] = []
    used = 0
    for row in rows:
        if packs and len(packs[-1]) < limit and used + row.tokens <= budget:
            packs[-1].append(row)
            used += row.tokens
        else:
            packs.append([row])
            used = _HEADER_TOKENS + row.tokens
    return packs


class PackConversation(Conversation):
    """The conversation about several rows: one prompt for all, then one for each row it left open."""

    __slots__ = ("_children", "_own", "_rows", "_settled", "_terms")

    def __init__(self, terms: PackTerms, rows: Sequence[Packed]) -> None:
        self._terms, self._rows = terms, tuple(rows)
        self._children: tuple[Conversation, ...] = ()
        self._settled: dict[int, Outcome] = {}
        message = table_message(terms.contract, terms.key, [row.line for row in rows])
        self._own = RowConversation(terms.for_rows(len(rows)), (message,))
        if self._own.finished:
            self._open_up()

    @property
    def request(self) -> Request | None:
        asking = self._asking()
        return None if asking is None else asking.request

    @property
    def finished(self) -> bool:
        return self._asking() is None

    @property
    def outcomes(self) -> Mapping[int, Outcome]:
        if not self._own.finished:
            return {}
        outcomes = dict(self._settled)
        for child in self._children:
            outcomes.update(child.outcomes)
        shares = self._own.bill.shares(len(self._rows))
        return {
            row.index: share.added_to(outcomes[row.index])
            for row, share in zip(self._rows, shares, strict=True)
            if row.index in outcomes
        }

    @property
    def limits(self) -> Limits:
        return self._terms.contract.limits

    @property
    def calls_s(self) -> float:
        return self._own.calls_s + max((child.calls_s for child in self._children), default=0.0)

    @property
    def branches(self) -> tuple[Conversation, ...]:
        return tuple(child for child in self._children if not child.finished)

    def feed(self, reply: Reply) -> None:
        asking = self._asking()
        if asking is None:
            raise RuntimeError("a reply came to a conversation that asks nothing")
        asking.feed(reply)
        if asking is self._own and asking.finished:
            self._open_up()

    def give_up(self, outcome: OutcomeClass, message: str) -> None:
        if not self._own.finished:
            self._own.give_up(outcome, message)
            self._open_up()
        for child in self._children:
            child.give_up(outcome, message)

    def _asking(self) -> Conversation | None:
        if not self._own.finished:
            return self._own
        return next((child for child in self._children if not child.finished), None)

    def _open_up(self) -> None:
        """The pack's own prompt is over: settle what it settled, and open conversations for the rest."""
        ended = self._own.outcome
        assert ended is not None
        if ended.ok:
            answers = ended.values or {}
            left = [
                row
                for number, row in enumerate(self._rows, start=1)
                if not self._settle(row, answers.get(str(number)))
            ]
            self._children = tuple(
                RowConversation(self._terms.row_terms, row.tail, row.index) for row in left
            )
        elif ended.outcome in _HALVED:
            middle = len(self._rows) // 2
            halves = (self._rows[:middle], self._rows[middle:])
            self._children = tuple(self._smaller(half) for half in halves if half)
        else:
            plain = Outcome(
                ended.outcome, message=ended.message, raw=ended.raw, prompt_hash=ended.prompt_hash
            )
            self._settled = {row.index: plain for row in self._rows}

    def _smaller(self, rows: tuple[Packed, ...]) -> Conversation:
        if len(rows) > 1:
            return PackConversation(self._terms, rows)
        return RowConversation(self._terms.row_terms, rows[0].tail, rows[0].index)

    def _settle(self, row: Packed, values: dict[str, Any] | None) -> bool:
        most = self._terms.row_terms.max_rows
        if values is None or (most is not None and len(values["rows"]) > most):
            return False
        answer: dict[str, Any] = {"values": values} if most is None else {"rows": values["rows"]}
        self._settled[row.index] = Outcome(OutcomeClass.OK, **answer)
        return True


def packed(contract: Contract, index: int, row: Mapping[str, Any], tail: tuple[Message, ...]) -> Packed:
    """A row, made ready for a pack."""
    line = table_line(contract, row)
    return Packed(index, line, tail, estimate_tokens(line) + 4)
