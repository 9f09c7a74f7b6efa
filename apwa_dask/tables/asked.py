"""What was asked for when a source was read: enough to list it again and to see what has changed."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
import pyarrow as pa

from .pieces import Limits
from .readers.source import ReadOptions

__all__ = ["Asked", "lasting"]


@dataclass(frozen=True)
class Asked:
    """The call of `read_sources` behind a manifest, without storage options.

    Attributes
    ----------
    urls : tuple of str
        As `lasting` writes them, without user names or passwords.
    options : ReadOptions
    format : str or None
        Where it was said, not found out.
    others : tuple of str
        URLs that were listed and are no part of this table: other tables' files, hidden and unreadable ones.
    """

    urls: tuple[str, ...]
    options: ReadOptions
    format: str | None = None
    others: tuple[str, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """As plain data, to be read by `from_dict`."""
        options = self.options
        return {
            "urls": list(self.urls),
            "format": self.format,
            "others": list(self.others),
            "rows": options.limits.rows,
            "tokens": options.limits.tokens,
            "schema": base64.b64encode(pa.schema(options.schema).serialize().to_pybytes()).decode(),
            "encoding": options.encoding,
            "delimiter": options.delimiter,
            "header": options.header,
            "pdf_rows": options.pdf_rows,
            "infer_bytes": options.infer_bytes,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Asked:
        """Inverse of `as_dict`."""
        declared = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["schema"])))
        options = ReadOptions(
            limits=Limits(data["rows"], data["tokens"]),
            schema={column.name: column.type for column in declared},
            encoding=data["encoding"],
            delimiter=data["delimiter"],
            header=data["header"],
            pdf_rows=data["pdf_rows"],
            infer_bytes=data["infer_bytes"],
        )
        return cls(tuple(data["urls"]), options, data["format"], tuple(data["others"]))


def lasting(url: str) -> str:
    """`url` so that another process, in another folder, means the same by it."""
    if "://" in url or "::" in url:
        return url
    return str(fsspec.filesystem("file").unstrip_protocol(url))
