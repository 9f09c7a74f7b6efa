"""What every error code means, why it happens, what to do, and whether anything is lost; read when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from apwa_dask.errors import ConfigError, candidates

__all__ = ["LOST", "CatalogueGroup", "ErrorEntry", "catalogue", "explain_error"]

LOST = {
    "nothing": "Nothing was called or paid.",
    "kept": "Nothing: answers that were paid are kept and are not paid again.",
    "in_flight": "At most the calls in flight and answers not yet flushed; all others are kept.",
    "draft": "Only the planner's own calls were paid; no row was sent to a model.",
}
"""What an error costs, by the key that the catalogue uses."""


@dataclass(frozen=True, slots=True)
class ErrorEntry:
    """One code of the catalogue.

    Parameters
    ----------
    code : str
        As it stands in brackets before a message, such as ``PLAN-COLUMN``.
    kinds : tuple of str
        Names of the exception classes in `apwa_dask.errors` that carry it.
    means, cause, do : str
        What happened, the usual cause, what to do.
    lost : str
        A key of `LOST`.
    """

    code: str
    kinds: tuple[str, ...]
    means: str
    cause: str
    do: str
    lost: str

    def __post_init__(self) -> None:
        if self.lost not in LOST:
            raise ConfigError(
                f"{self.lost!r} says nothing about what {self.code} costs",
                where="apwa_dask/errors.yaml",
                fix=candidates(self.lost, LOST, noun="keys"),
                code="CONFIG",
            )

    @property
    def cost(self) -> str:
        """Whether anything is lost or paid for nothing, in words."""
        return LOST[self.lost]

    def __str__(self) -> str:
        return "\n".join(
            (
                f"[{self.code}] {self.means}",
                f"  cause: {self.cause}",
                f"  do this: {self.do}",
                f"  lost: {self.cost}",
                f"  raised as: {', '.join(self.kinds)}",
            )
        )


@dataclass(frozen=True, slots=True)
class CatalogueGroup:
    """Codes that belong together."""

    title: str
    about: str
    entries: tuple[ErrorEntry, ...]


@lru_cache(maxsize=1)
def catalogue() -> tuple[CatalogueGroup, ...]:
    """All groups, in the order of the documentation. Reads ``errors.yaml`` of this package once."""
    import yaml

    text = (files("apwa_dask") / "errors.yaml").read_text(encoding="utf-8")
    return tuple(
        CatalogueGroup(
            group["title"],
            group["about"],
            tuple(
                ErrorEntry(code, tuple(entry.pop("kinds")), **entry) for code, entry in group["codes"].items()
            ),
        )
        for group in yaml.safe_load(text)
    )


def explain_error(code: str) -> ErrorEntry:
    """What a code means; upper and lower case, brackets or none.

    Raises
    ------
    ConfigError
        There is no such code; the nearest ones are named.
    """
    entries = {entry.code: entry for group in catalogue() for entry in group.entries}
    wanted = code.strip().strip("[]").upper()
    if wanted not in entries:
        raise ConfigError(
            f"there is no error code {wanted[:60]!r}",
            fix=candidates(wanted, entries, noun="codes"),
            code="CONFIG-ERROR-CODE",
        )
    return entries[wanted]
