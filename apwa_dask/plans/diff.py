"""What one plan changes of another: typed, by step id and field; as text and as HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from apwa_dask.plans.describe import describe
from apwa_dask.plans.plan import Plan

__all__ = ["Change", "ChangeKind", "PlanDiff", "diff"]

ChangeKind = Literal["added", "removed", "changed", "moved"]

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_MOST_CHARACTERS = 400
_SIGNS: dict[ChangeKind, str] = {"added": "+", "removed": "-", "changed": "~", "moved": "^"}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes
    ----------
    kind : str
        ``added`` or ``removed`` (a whole step, or an entry of one), ``changed`` (a value), ``moved`` (a step
        that comes elsewhere in the order).
    step : str
        Id of the step; empty for a field of the plan itself.
    field : str
        Path inside the step, such as ``contract.output.topic.labels``; empty for the whole step.
    before, after : object
        Plain values; None on the side where there is nothing.
    """

    kind: ChangeKind
    step: str
    field: str
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        place = ".".join(part for part in (self.step, self.field) if part)
        sign = _SIGNS[self.kind]
        if self.kind == "moved":
            return f"{sign} {place}: now comes {_place(self.after)}, not {_place(self.before)}"
        if self.kind == "changed":
            return f"{sign} {place}: {_value(self.before)} -> {_value(self.after)}"
        return f"{sign} {place}: {_value(self.after if self.kind == 'added' else self.before)}"


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """All differences, in the order of the new plan's steps; false when there is none.

    ``str()`` and `text` are for terminals, `html` for notebooks.
    """

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    @property
    def steps(self) -> tuple[str, ...]:
        """Ids of all steps that are touched, each once."""
        return tuple(dict.fromkeys(change.step for change in self.changes if change.step))

    def text(self) -> str:
        """One line a change; control characters are taken out."""
        if not self.changes:
            return "no change"
        return "\n".join(_CONTROL.sub("", str(change).replace("\n", " ")) for change in self.changes)

    def html(self) -> str:
        """The same as an escaped HTML fragment without scripts."""
        if not self.changes:
            return "<div>no change</div>"
        return f'<ul style="list-style:none;padding-left:0">{"".join(map(_item, self.changes))}</ul>'

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return self.html()


def diff(old: Plan, new: Plan) -> PlanDiff:
    """What `new` changes of `old`, words and reasons included; empty only where nothing differs."""
    return PlanDiff(tuple(_changes(old, new)))


def _changes(old: Plan, new: Plan) -> Iterator[Change]:
    whole = [plan.model_dump(mode="json", exclude={"steps"}) for plan in (old, new)]
    yield from _fields("", "", *whole)
    before = {step.id: step for step in old.steps}
    after = {step.id: step for step in new.steps}
    for step_id, step in before.items():
        if step_id not in after:
            yield Change("removed", step_id, "", before=describe(step))
    places = _places(old, new)
    for step_id, step in after.items():
        if step_id not in before:
            yield Change("added", step_id, "", after=describe(step))
            continue
        pair = (before[step_id].model_dump(mode="json"), step.model_dump(mode="json"))
        yield from _fields(step_id, "", *pair)
        if step_id in places:
            yield Change("moved", step_id, "", *places[step_id])


def _places(old: Plan, new: Plan) -> dict[str, tuple[str, str]]:
    """Steps of both plans that follow another step (of those in both) than before: after which, and after
    which now.
    """
    shared = {step.id for step in old.steps} & {step.id for step in new.steps}
    earlier, later = (_followed([s.id for s in plan.steps if s.id in shared]) for plan in (old, new))
    return {step: (earlier[step], later[step]) for step in later if earlier[step] != later[step]}


def _followed(ids: list[str]) -> dict[str, str]:
    return dict(zip(ids, ["", *ids], strict=False))


def _fields(step: str, path: str, before: Any, after: Any) -> Iterator[Change]:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        if before != after:
            yield Change("changed", step, path, before, after)
        return
    # The order of entries is seen by a model (labels) or by the user (columns).
    if list(before) != list(after) and set(before) == set(after):
        yield Change("changed", step, path, list(before), list(after))
    for name in dict.fromkeys([*before, *after]):
        inner = f"{path}.{name}" if path else str(name)
        if name not in after:
            yield Change("removed", step, inner, before=before[name])
        elif name not in before:
            yield Change("added", step, inner, after=after[name])
        else:
            yield from _fields(step, inner, before[name], after[name])


def _place(step: str) -> str:
    return f"after {step}" if step else "first"


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return (
        text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}... ({len(text):,} characters)"
    )


def _item(change: Change) -> str:
    def mark(tag: str, value: Any) -> str:
        return f"<{tag}>{html.escape(_CONTROL.sub('', _value(value)))}</{tag}>"

    place = html.escape(".".join(part for part in (change.step, change.field) if part))
    if change.kind == "moved":
        told = html.escape(f"now comes {_place(change.after)}, not {_place(change.before)}")
    else:
        told = " ".join(
            mark(tag, value)
            for tag, value, shown in (
                ("del", change.before, change.kind != "added"),
                ("ins", change.after, change.kind != "removed"),
            )
            if shown
        )
    return f'<li style="white-space:pre-wrap">{_SIGNS[change.kind]} <b>{place}</b> {told}</li>'
