"""Which files belong to one table, and what it is called. Pure functions."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from .locate import Located
from .pieces import Probe

__all__ = ["Probed", "Shape", "group", "source_name"]

SHARED_NAMES = 2 / 3
"""Two tabular files have one shape when they share at least this part of all their column names."""


@dataclass(frozen=True)
class Probed:
    """A file with what was learned of it."""

    file: Located
    compression: str
    probe: Probe
    checksum: str = ""


@dataclass
class Shape:
    """Files of one table, in reading order."""

    family: str
    names: set[str] = field(default_factory=set)
    members: list[Probed] = field(default_factory=list)

    def takes(self, family: str, names: set[str]) -> bool:
        """Whether a file of these columns belongs here."""
        if family != self.family:
            return False
        if family != "table":
            return True
        union = self.names | names
        return len(self.names & names) >= SHARED_NAMES * len(union)


def group(probed: Iterable[Probed], *, documents: bool) -> list[Shape]:
    """Put files into tables: text documents, images, recordings, tabular files by their column names.

    With `documents` all files make one table.
    """
    shapes: list[Shape] = []
    for item in probed:
        family = "documents" if documents else _family(item.probe.layout.format)
        names = set(item.probe.schema.names)
        shape = next((shape for shape in shapes if shape.takes(family, names)), None)
        if shape is None:
            shape = Shape(family)
            shapes.append(shape)
        shape.names |= names
        shape.members.append(item)
    return shapes


def _family(file_format: str) -> str:
    if file_format in ("text", "html", "pdf"):
        return "documents"
    return {"image": "images", "audio": "recordings"}.get(file_format, "table")


def source_name(files: Sequence[Located], taken: Iterable[str]) -> str:
    """Name a table after its file, or after what its files have in common, as a unique identifier."""
    used = set(taken)
    base = identifier(_stem(files[0].url) if len(files) == 1 else _common(files))
    name, count = base, 1
    while name in used:
        count += 1
        name = f"{base}_{count}"
    return name


def _stem(url: str) -> str:
    return PurePosixPath(url.partition("::")[0]).name.partition(".")[0]


def _common(files: Sequence[Located]) -> str:
    stems = [_stem(file.url) for file in files]
    prefix = stems[0]
    for stem in stems[1:]:
        while not stem.startswith(prefix):
            prefix = prefix[:-1]
    prefix = prefix.rstrip("0123456789-_. ")
    if len(prefix) >= 3:
        return prefix
    outer = files[0].url.partition("::")[2]
    return _stem(outer) if outer else PurePosixPath(files[0].url).parent.name


def identifier(text: str) -> str:
    """Turn any text into a Python identifier."""
    name = re.sub(r"\W+", "_", text).strip("_").lower() or "table"
    if name[0].isdigit():
        name = f"t_{name}"
    return f"{name}_" if keyword.iskeyword(name) else name
