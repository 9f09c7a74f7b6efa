"""Reading: from files anywhere to partitions of one declared schema, and to a bounded profile."""

from __future__ import annotations

from .manifest import Manifest
from .pieces import FileInfo, Layout, Partition, Piece, Slice
from .profile import ColumnProfile, Profile, TokenLengths, profile_frame, profile_source
from .reading import read_partition
from .report import FileReport, ReadReport
from .schema import ROW_ID, type_name
from .sources import Source, Sources, read_sources
from .tokens import estimate_tokens

__all__ = [
    "ROW_ID",
    "ColumnProfile",
    "FileInfo",
    "FileReport",
    "Layout",
    "Manifest",
    "Partition",
    "Piece",
    "Profile",
    "ReadReport",
    "Slice",
    "Source",
    "Sources",
    "TokenLengths",
    "estimate_tokens",
    "profile_frame",
    "profile_source",
    "read_partition",
    "read_sources",
    "type_name",
]
