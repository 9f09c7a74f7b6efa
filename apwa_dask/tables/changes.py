"""Whether a source is still what its manifest says, and a manifest of what it is now.

Files are compared by etag where the file system gives one (object stores), else by size and modification time, and
local files by a checksum of their content too (`checksums`). `revised` keeps every partition whose files are as they
were, with its place among its neighbours and the ids of its rows, and cuts only what changed anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from ..errors import SourceError
from .checksums import checksum
from .locate import Located, Opener, public_url
from .manifest import Manifest
from .packing import pack
from .pieces import Cut, FileInfo, Layout, Partition, Probe
from .reading import reason_of
from .shapes import Probed, group
from .sources import list_files, probe_file

__all__ = ["Changes", "changes_of", "revised"]

_NAMED = 10


@dataclass(frozen=True)
class Changes:
    """Paths of files that are not as they were; falsy when all are."""

    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone or self.added)

    def __str__(self) -> str:
        kinds = (("changed", self.changed), ("gone", self.gone), ("new", self.added))
        return "; ".join(f"{kind}: {_listed(paths)}" for kind, paths in kinds if paths)

    def __add__(self, other: Changes) -> Changes:
        return Changes(self.changed + other.changed, self.gone + other.gone, self.added + other.added)


def changes_of(
    manifest: Manifest, storage_options: Mapping[str, Any] | None = None, *, look_inside: bool = True
) -> Changes:
    """What has changed since the manifest was made: one listing, and a look into local files.

    Parameters
    ----------
    manifest : Manifest
        One that does not know what was asked for (a frame's) has no changes.
    storage_options : mapping, optional
        fsspec options of the source.
    look_inside : bool
        Whether local files of the same size and time are compared by content too.

    Raises
    ------
    SourceError
        The source cannot be listed.
    """
    if manifest.asked is None:
        return Changes()
    opener = Opener(storage_options)
    return _compare(manifest, _listing(manifest, opener), opener, look_inside=look_inside)


def revised(manifest: Manifest, storage_options: Mapping[str, Any] | None = None) -> Manifest:
    """The manifest of the source as it is now, in the schema that was declared then.

    Raises
    ------
    SourceError
        A file that changed or is new cannot be read.
    """
    if manifest.asked is None:
        return manifest
    opener = Opener(storage_options)
    listing = _listing(manifest, opener)
    changes = _compare(manifest, listing, opener)
    if not changes:
        return manifest
    dirty = set(changes.changed) | set(changes.added)
    probed = [_probed(manifest, item, opener) for url, item in listing.items() if item[0].path in dirty]
    return _revise(manifest, list(listing), [item for item in probed if _belongs(manifest, item)])


# -- comparing


def _listing(manifest: Manifest, opener: Opener) -> dict[str, tuple[Located, str]]:
    """The files of the source now, by URL, in reading order."""
    asked = manifest.asked
    assert asked is not None
    try:
        found = list_files(asked.urls, opener, asked.format)
    except SourceError as error:
        if error.code != "SOURCE-MISSING":
            raise
        found = []  # all of them are gone
    except Exception as error:
        # a file system may raise anything where a server or a permission is gone
        raise SourceError(
            "the source cannot be listed, so nobody can say whether it has changed",
            where=", ".join(public_url(url) for url in asked.urls[:5]),
            why=reason_of(error),
            fix="give its storage_options again, or see that it can be reached",
            code="SOURCE-READ",
        ) from None
    others = set(asked.others)
    return {file.url: (file, why) for file, why in found if not file.skip and file.url not in others}


def _compare(
    manifest: Manifest,
    listing: Mapping[str, tuple[Located, str]],
    opener: Opener,
    *,
    look_inside: bool = True,
) -> Changes:
    used = {piece.file for partition in manifest.partitions for piece in partition.pieces}
    known = {info.url: (k in used, info) for k, info in enumerate(manifest.files)}
    gone = [info.path for url, (in_use, info) in known.items() if in_use and url not in listing]
    changed = [
        info.path
        for url, (_, info) in known.items()
        if url in listing and not _same(info, listing[url][0], opener if look_inside else None)
    ]
    added = [file.path for url, (file, _) in listing.items() if url not in known]
    return Changes(tuple(changed), tuple(gone), tuple(added))


def _same(info: FileInfo, file: Located, opener: Opener | None) -> bool:
    if info.etag and file.etag:
        return info.etag == file.etag
    if (info.size, info.modified) != (file.size, file.modified):
        return False
    if opener is None or not info.checksum:
        return True
    with opener.open(info.url) as stream:
        return checksum(stream, file.size) == info.checksum


# -- revising


def _probed(manifest: Manifest, item: tuple[Located, str], opener: Opener) -> Probed:
    asked = manifest.asked
    assert asked is not None
    probed, report = probe_file(item, opener, asked.options, asked.format)
    if probed is None and report.status != "empty":
        raise SourceError(
            f"{item[0].path} changed and cannot be read",
            where=public_url(item[0].url),
            why=report.reason,
            fix="put the file right, or away",
            code="SOURCE-READ",
        )
    return probed or Probed(item[0], "", _nothing(manifest))


def _nothing(manifest: Manifest) -> Probe:
    return Probe(manifest.schema, manifest.layouts[0], ())


def _belongs(manifest: Manifest, item: Probed) -> bool:
    """Whether a new file joins the table, where its columns would have put it.

    Raises
    ------
    SourceError
        A file of the table is none any more.
    """
    first = manifest.layouts[0]
    table = Probed(item.file, "", dataclasses.replace(_nothing(manifest), layout=first))
    fits = len(group([table, item], documents=manifest.documents)) == 1
    known = any(item.file.url == info.url for info in manifest.files)
    if known and not fits:
        raise SourceError(
            f"{item.file.path} changed and is no part of its table any more",
            where=public_url(item.file.url),
            why=f"it holds {', '.join(item.probe.schema.names[:10])} now, as {item.probe.layout.format}",
            fix="put the file right, or away; or read the source anew",
            code="SOURCE-CHANGED",
        )
    return fits


def _revise(manifest: Manifest, order: Sequence[str], probed: Sequence[Probed]) -> Manifest:
    files, layouts = list(manifest.files), {layout: k for k, layout in enumerate(manifest.layouts)}
    numbers = {info.url: k for k, info in enumerate(files)}
    cuts: dict[int, tuple[Cut, ...]] = {}
    for item in probed:
        info = _info_of(item, layouts)
        number = numbers.setdefault(info.url, len(files))
        if number == len(files):
            files.append(info)
        else:
            files[number] = info
        cuts[number] = item.probe.cuts
    place = {numbers[url]: k for k, url in enumerate(order) if url in numbers}
    partitions = _partitions(manifest, place, cuts)
    return dataclasses.replace(manifest, partitions=partitions, files=tuple(files), layouts=tuple(layouts))


def _info_of(item: Probed, layouts: dict[Layout, int]) -> FileInfo:
    file = item.file
    layout = layouts.setdefault(item.probe.layout, len(layouts))
    return FileInfo(
        file.url, file.path, file.size, file.etag, file.modified, item.compression, layout, item.checksum
    )


@dataclass(frozen=True)
class _Loose:
    """A cut that has no partition yet; `place` is that of its file in the reading order."""

    place: int
    file: int
    cut: Cut

    @property
    def key(self) -> tuple[int, int]:
        return self.place, self.cut.first_row


def _partitions(
    manifest: Manifest, place: Mapping[int, int], cuts: Mapping[int, tuple[Cut, ...]]
) -> tuple[Partition, ...]:
    """Partitions kept as they are, and between them what is cut anew, in the order of the files now."""
    assert manifest.asked is not None
    parts: list[tuple[tuple[int, int], Partition | _Loose]] = []
    for partition in manifest.partitions:
        if _is_clean(partition, place, cuts):
            first = partition.pieces[0]
            parts.append(((place[first.file], first.first_row), partition))
            continue
        rest = [piece for piece in partition.pieces if piece.file in place and piece.file not in cuts]
        for piece in rest:
            tokens = partition.est_tokens * piece.rows // max(partition.rows, 1)
            loose = _Loose(
                place[piece.file], piece.file, Cut(piece.slice, piece.rows, piece.first_row, tokens)
            )
            parts.append((loose.key, loose))
    for number, found in cuts.items():
        loose_cuts = [_Loose(place[number], number, cut) for cut in found]
        parts += [(loose.key, loose) for loose in loose_cuts]
    parts.sort(key=lambda part: part[0])
    out: list[Partition] = []
    for _, run in groupby((part for _, part in parts), key=lambda part: isinstance(part, Partition)):
        members = list(run)
        out += [part for part in members if isinstance(part, Partition)]
        anew = [(part.file, (part.cut,)) for part in members if isinstance(part, _Loose)]
        out += pack(anew, manifest.asked.options.limits) if anew else ()
    out = out or list(pack((), manifest.asked.options.limits))
    return tuple(dataclasses.replace(partition, ordinal=k) for k, partition in enumerate(out))


def _is_clean(partition: Partition, place: Mapping[int, int], cuts: Mapping[int, tuple[Cut, ...]]) -> bool:
    """All its files are as they were, and none came between them."""
    numbers = [piece.file for piece in partition.pieces]
    if not numbers or any(number not in place or number in cuts for number in numbers):
        return False
    first, last = place[numbers[0]], place[numbers[-1]]
    return not any(first < place[number] < last for number in cuts)


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more
