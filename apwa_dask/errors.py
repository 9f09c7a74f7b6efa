"""The exceptions users meet: one short hierarchy, each message teaches.

Every error says what happened, where, why, what to do, and what is saved. All are picklable and carry only
text: no request, header, client or key can travel inside one (a provider exception would carry the bearer
token through the scheduler to the client; see the threat model in the documentation).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self, TypeVar

__all__ = [
    "ApwaError",
    "BudgetError",
    "BudgetWarning",
    "ConfigError",
    "LocalModelError",
    "PlanError",
    "ProviderError",
    "RefusalError",
    "RunError",
    "SourceError",
    "StoreError",
    "candidates",
]


class ApwaError(Exception):
    """Base of all errors raised on purpose by this package.

    Parameters
    ----------
    what : str
        One line: what happened.
    where : str, optional
        Step, column, row id or file.
    why : str, optional
        The probable cause.
    fix : str, optional
        What to do: exact code or command.
    saved : str, optional
        What is already safe, and what it cost.
    code : str, optional
        Stable identifier such as ``"PLAN-COLUMN"``: an entry of ``errors.yaml``, so of ``docs/errors.md`` and of
        ``apwa explain-error``.
    """

    code = "APWA"

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        why: str = "",
        fix: str = "",
        saved: str = "",
        code: str = "",
    ) -> None:
        self.what, self.where, self.why, self.fix, self.saved = what, where, why, fix, saved
        if code:
            self.code = code
        super().__init__(what)

    def __str__(self) -> str:
        parts = [f"[{self.code}] {self.what}"]
        for label, text in (
            ("where", self.where),
            ("why", self.why),
            ("do this", self.fix),
            ("saved", self.saved),
        ):
            if text:
                parts.append(f"  {label}: {text}")
        return "\n".join(parts)

    def alone(self) -> Self:
        """The same error without what led to it. Dask sends the causes of an error along with it, and a provider's own
        exception may hold the request, its key included."""
        return _rebuild(type(self), (self.what, self.where, self.why, self.fix, self.saved, self.code))

    def __reduce__(self) -> tuple[object, ...]:
        fields = (self.what, self.where, self.why, self.fix, self.saved, self.code)
        return _rebuild, (type(self), fields)


_Kind = TypeVar("_Kind", bound=ApwaError)


def _rebuild(cls: type[_Kind], fields: tuple[str, str, str, str, str, str]) -> _Kind:
    what, where, why, fix, saved, code = fields
    return cls(what, where=where, why=why, fix=fix, saved=saved, code=code)


class ConfigError(ApwaError):
    """A setting or argument is wrong, or missing."""

    code = "CONFIG"


class SourceError(ApwaError):
    """A source cannot be read, or does not fit the table it belongs to."""

    code = "SOURCE"


class PlanError(ApwaError):
    """A plan is not valid for its tables. Raised before any call to a model."""

    code = "PLAN"


class RefusalError(PlanError):
    """The manager says that the data cannot answer the question."""

    code = "PLAN-REFUSED"


class ProviderError(ApwaError):
    """The endpoint refused in a way that stops the run: wrong key, unknown model, quota."""

    code = "PROVIDER"


class BudgetError(ApwaError):
    """The run reached, or would pass, its ceiling."""

    code = "BUDGET"


class BudgetWarning(UserWarning):
    """A run that may cost much has no ceiling."""


class StoreError(ApwaError):
    """The journal or the run store cannot be read or written."""

    code = "STORE"


class RunError(ApwaError):
    """A run failed, was stopped, or cannot be found."""

    code = "RUN"


class LocalModelError(ApwaError):
    """The embedded model cannot be had or started."""

    code = "LOCAL"


def candidates(name: str, known: Iterable[str], *, noun: str = "names") -> str:
    """Say which names exist, the nearest first, for an error about `name`.

    Examples
    --------
    >>> candidates("sevrity", ["text", "severity"], noun="columns")
    "did you mean 'severity'? columns: text, severity"
    """
    options = list(known)
    listed = ", ".join(options[:30]) + (f", ... ({len(options)} in all)" if len(options) > 30 else "")
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}{noun}: {listed or 'none'}"
