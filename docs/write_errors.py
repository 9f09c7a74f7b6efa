"""Writes docs/errors.md from the catalogue of error codes: ``make errors``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from apwa_dask.error_catalogue import CatalogueGroup, ErrorEntry, catalogue

PAGE = Path(__file__).parent / "errors.md"

HEAD = """\
<!-- Written by `make errors` from apwa_dask/errors.yaml: change it there. -->

# Error codes

Each message of an error begins with its code in brackets, and has up to five lines more: what happened, where, why,
what to do, and what is saved. `apwa explain-error CODE` prints the entry of a code in a terminal. With `--json`, a
command that fails writes the same fields as one document; the exit codes are listed by `apwa --help`.

An error stops a run or a command. What goes wrong with a single row is no error but the row's outcome: see
[Failed rows](howto/failures.md).
"""


def entry_lines(entry: ErrorEntry) -> Iterator[str]:
    yield f"### {entry.code}"
    yield f"{entry.means}"
    yield "\n".join(
        (
            f"- Usual cause: {entry.cause}",
            f"- What to do: {entry.do}",
            f"- Lost or paid for nothing: {entry.cost}",
            f"- Raised as {', '.join(f'`{kind}`' for kind in entry.kinds)}.",
        )
    )


def group_lines(group: CatalogueGroup) -> Iterator[str]:
    yield f"## {group.title}"
    yield group.about
    for entry in group.entries:
        yield from entry_lines(entry)


def page() -> str:
    """The page as it should stand in the repository."""
    return (
        "\n\n".join((HEAD.rstrip("\n"), *(line for group in catalogue() for line in group_lines(group))))
        + "\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
