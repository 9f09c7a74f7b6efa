"""`read_sources`: from URLs to tables that can be read partition by partition."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..errors import ConfigError, SourceError, candidates
from .asked import Asked, lasting
from .checksums import checksum
from .decoding import detect_compression
from .formats import FORMATS, detect_format
from .hive import folder_fields
from .locate import Located, Opener, archive_members, expand, public_url, split_userinfo
from .manifest import Manifest
from .packing import pack
from .pieces import FileInfo, Layout, Limits, Probe
from .readers.documents import DOCUMENT_SCHEMA
from .readers.registry import READERS
from .readers.source import ReadOptions, SourceFile
from .reading import reason_of
from .report import FileReport, ReadReport
from .schema import declared_type, merge_schemas
from .shapes import Probed, Shape, group, source_name

__all__ = ["Source", "Sources", "read_sources"]

_HEAD_BYTES = 64 * 1024
_THREADS = 4


@dataclass(frozen=True)
class Source:
    """One table to be: a name, its manifest, and the report of its files.

    `storage_options` is what `read_partition` needs to open the files; it is never part of the manifest.
    """

    name: str
    manifest: Manifest
    report: ReadReport
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class Sources(Mapping[str, Source]):
    """The tables of one `read_sources` call by name, and the report of all files, the unreadable ones too."""

    def __init__(self, sources: Sequence[Source], report: ReadReport) -> None:
        self._sources = {source.name: source for source in sources}
        self.report = report

    def __getitem__(self, name: str) -> Source:
        if name not in self._sources:
            raise KeyError(candidates(name, self._sources, noun="tables"))
        return self._sources[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def __repr__(self) -> str:
        lines = [f"  {name}: {source.manifest!r}" for name, source in self._sources.items()]
        return "\n".join([f"Sources({len(self)} tables)", *lines[:20], repr(self.report)])


def read_sources(
    urlpath: str | Sequence[str],
    *,
    format: str | None = None,
    documents: bool = False,
    columns: Sequence[str] | None = None,
    schema: Mapping[str, str | pa.DataType] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    partition_rows: int = 10_000,
    partition_tokens: int = 500_000,
    encoding: str | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    pdf_rows: str = "page",
    infer_bytes: int = 64 << 20,
) -> Sources:
    """List files, learn their shapes, and cut them into partitions. No file's contents are kept.

    Parameters
    ----------
    urlpath : str or sequence of str
        fsspec URLs, globs, folders (read recursively) or zip archives (read as folders).
    format : str, optional
        Read every file as this format instead of finding out.
    documents : bool, default False
        Make one table of documents (path, page, text, media) of all files. Each row of a tabular file is a
        document: the text of its text columns, ``column: value`` lines; `page` is then the row number.
    columns : sequence of str, optional
        Keep only these columns, in this order, of every table that has any of them.
    schema : mapping of str to str or pyarrow.DataType, optional
        Declared types, winning over what the data look like: string, integer, number, boolean, date,
        timestamp, binary.
    storage_options : mapping, optional
        fsspec options.
    partition_rows, partition_tokens : int
        Upper bounds of a partition, in rows and in estimated text tokens; one longer row is alone. Where this
        gives more than 500 partitions of a few rows, a run joins neighbours (up to 64 rows), unless an agent
        answers for partitions.
    encoding, delimiter : str, optional
        Of text and delimited files, where the guess would be wrong.
    header : bool, optional
        Whether delimited files have a header row.
    pdf_rows : {"page", "document"}
        What a row of a PDF is.
    infer_bytes : int
        Types are inferred from the whole of a file up to this size, else from this much of it.

    Returns
    -------
    Sources
        One `Source` for each shape of files: documents (text, HTML, PDF), images, recordings, and tabular files
        that share at least two thirds of their column names. Types that disagree between files widen, or
        become string.

    Raises
    ------
    SourceError
        When a name matches nothing, or no file can be read (with each reason).
    ConfigError
        For an unknown format or type.
    """
    options = ReadOptions(
        limits=_limits(partition_rows, partition_tokens),
        schema={name: declared_type(kind) for name, kind in (schema or {}).items()},
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        pdf_rows=_one_of(pdf_rows, ("page", "document"), "pdf_rows"),
        infer_bytes=infer_bytes,
    )
    if format is not None:
        _one_of(format, FORMATS, "format")
    urls, secrets = _without_userinfo(
        [urlpath] if isinstance(urlpath, str) else list(urlpath), storage_options
    )
    opener = Opener(secrets)
    lasting_urls = tuple(lasting(url) for url in urls)
    located = list_files(lasting_urls, opener, format)
    outcomes = _probed(located, opener, options, format)
    probed = [outcome for outcome, _ in outcomes if outcome is not None]
    report = ReadReport(tuple(row for _, row in outcomes))
    if not probed:
        raise _nothing_readable(urls, report)
    _refuse_unknown(columns, probed, documents)
    sources: list[Source] = []
    for shape in group(probed, documents=documents):
        name = source_name([member.file for member in shape.members], [source.name for source in sources])
        own = {member.file.url for member in shape.members}
        others = tuple(file.url for file, _ in located if not file.skip and file.url not in own)
        asked = Asked(lasting_urls, options, format, others)
        sources.append(_source(name, shape, asked, report, columns, documents, secrets))
    return Sources(sources, report)


def _probed(
    located: Sequence[tuple[Located, str]], opener: Opener, options: ReadOptions, said: str | None
) -> list[tuple[Probed | None, FileReport]]:
    def probe(item: tuple[Located, str]) -> tuple[Probed | None, FileReport]:
        return probe_file(item, opener, options, said)

    if len(located) == 1:
        return [probe(located[0])]
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="apwa-read") as pool:
        return list(pool.map(probe, located))


def list_files(urls: Sequence[str], opener: Opener, said: str | None) -> list[tuple[Located, str]]:
    """The files behind `urls` in reading order, members of archives too; each with why it cannot be opened, or "".

    Raises
    ------
    SourceError
        When a name matches nothing.
    """
    return _with_unique_paths(_open_archives(list(expand(urls, opener)), opener, said))


def _limits(rows: int, tokens: int) -> Limits:
    if rows < 1 or tokens < 1:
        raise ConfigError(
            "a partition holds at least one row and one token", where="partition_rows, partition_tokens"
        )
    return Limits(rows, tokens)


def _one_of(value: str, known: Sequence[str], where: str) -> str:
    if value not in known:
        raise ConfigError(
            f"{value!r} is not known", where=f"{where}=", fix=candidates(value, known, noun=f"{where}s")
        )
    return value


def _without_userinfo(urls: list[str], given: Mapping[str, Any] | None) -> tuple[list[str], dict[str, Any]]:
    options: dict[str, Any] = dict(given or {})
    clean = []
    for url in urls:
        stripped, found = split_userinfo(str(url))
        clean.append(stripped)
        options = {**found, **options}
    return clean, options


def _open_archives(located: list[Located], opener: Opener, said: str | None) -> list[tuple[Located, str]]:
    """Replace zip archives by their members; a damaged archive stays, with its reason."""
    files: list[tuple[Located, str]] = []
    for file in located:
        if file.skip or said not in (None, "zip") or not _is_zip(file, opener):
            files.append((file, ""))
            continue
        try:
            members = archive_members(file, opener)
        except Exception as error:
            files.append((file, f"not a readable zip archive: {reason_of(error)}"))
            continue
        prefix = "" if len(located) == 1 else f"{file.path}/"
        files += [(dataclasses.replace(member, path=prefix + member.path), "") for member in members]
    return files


def _is_zip(file: Located, opener: Opener) -> bool:
    if file.path.lower().endswith(".zip"):
        return True
    if "." in file.path.rpartition("/")[2]:
        return False
    try:
        with opener.open(file.url) as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError:
        return False


def _with_unique_paths(files: list[tuple[Located, str]]) -> list[tuple[Located, str]]:
    """Fall back to full URLs where two files would go by the same path."""
    seen: dict[str, int] = {}
    for file, _ in files:
        seen[file.path] = seen.get(file.path, 0) + 1
    return [
        (dataclasses.replace(file, path=file.url) if seen[file.path] > 1 else file, why)
        for file, why in files
    ]


def probe_file(
    item: tuple[Located, str], opener: Opener, options: ReadOptions, said: str | None
) -> tuple[Probed | None, FileReport]:
    """What is learned of one listed file, and its line of the report; None for one that holds no table."""
    file, broken = item
    if file.skip:
        return None, FileReport(file.path, "skipped", "", file.skip, None)
    if broken:
        return None, FileReport(file.path, "failed", "zip", broken, None)
    found = said if said != "zip" else None
    try:
        with opener.open(file.url) as stream:
            compression = detect_compression(file.path, stream.read(8))
        source = SourceFile(file.path, file.size, compression, lambda: opener.open(file.url))
        found = found or detect_format(file.path, source.head(_HEAD_BYTES))
        if found not in READERS:
            return None, FileReport(
                file.path, "failed", found, "an archive inside an archive is not opened", None
            )
        probe = _with_folder_columns(READERS[found].probe(source, options), file.path)
        content = _checksum(file, opener)
    except Exception as error:
        # A damaged file may raise anything from any library; it becomes a row of the report with its reason.
        return None, FileReport(file.path, "failed", found or "", reason_of(error), None)
    status = "ok" if probe.rows else "empty"
    row = FileReport(file.path, status, probe.layout.format, "; ".join(probe.notes), probe.rows)  # type: ignore[arg-type]
    return (Probed(file, compression, probe, content) if probe.schema.names else None), row


def _checksum(file: Located, opener: Opener) -> str:
    """Of local files, which have no etag: their size and time alone may stay the same when they change."""
    if file.etag or not file.url.startswith("file://"):
        return ""
    with opener.open(file.url) as stream:
        return checksum(stream, file.size)


def _with_folder_columns(probe: Probe, path: str) -> Probe:
    present = set(probe.schema.names)
    added = [field for field in folder_fields(path) if field.name not in present] if present else []
    return dataclasses.replace(probe, schema=pa.schema([*probe.schema, *added])) if added else probe


def _nothing_readable(urls: Sequence[str], report: ReadReport) -> SourceError:
    reasons = [f"{row.path}: {row.reason or row.status}" for row in report.files[:10]]
    more = f"; and {len(report) - 10} more" if len(report) > 10 else ""
    return SourceError(
        "no file can be read" if len(report) else "the folder holds no files",
        where=", ".join(public_url(url) for url in urls[:5]),
        why="; ".join(reasons) + more,
        code="SOURCE-NOTHING",
    )


def _source(
    name: str,
    shape: Shape,
    asked: Asked,
    report: ReadReport,
    columns: Sequence[str] | None,
    documents: bool,
    secrets: Mapping[str, Any],
) -> Source:
    layouts: dict[Layout, int] = {}
    files = tuple(_file_info(member, layouts) for member in shape.members)
    declared, notes = merge_schemas([member.probe.schema for member in shape.members], asked.options.schema)
    if documents:
        declared, notes = DOCUMENT_SCHEMA, []
    missing = [] if documents or shape.family != "table" else _missing_columns(shape, declared)
    if columns is not None:
        present = [declared.field(column) for column in columns if column in declared.names]
        declared = pa.schema(present) if present else declared
    partitions = pack(
        ((index, member.probe.cuts) for index, member in enumerate(shape.members)), asked.options.limits
    )
    manifest = Manifest(declared, partitions, files, tuple(layouts), documents, asked)
    paths = {file.path for file in files}
    rows = [row for row in report.files if row.path in paths]
    rows += [FileReport(name, "ok", "", note, None) for note in (*notes, *missing)]
    return Source(name, manifest, ReadReport(tuple(rows)), secrets)


def _file_info(member: Probed, layouts: dict[Layout, int]) -> FileInfo:
    file = member.file
    layout = layouts.setdefault(member.probe.layout, len(layouts))
    return FileInfo(
        file.url, file.path, file.size, file.etag, file.modified, member.compression, layout, member.checksum
    )


def _missing_columns(shape: Shape, declared: pa.Schema) -> list[str]:
    present = Counter(column for member in shape.members for column in member.probe.schema.names)
    files = len(shape.members)
    notes = [
        f"column {column!r} is missing in {files - present[column]} of {files} files: null there"
        for column in declared.names
        if present[column] < files
    ]
    return notes[:20]


def _refuse_unknown(columns: Sequence[str] | None, probed: Sequence[Probed], documents: bool) -> None:
    schemas = [DOCUMENT_SCHEMA] if documents else [item.probe.schema for item in probed]
    known = dict.fromkeys(name for schema in schemas for name in schema.names)
    for column in columns or ():
        if column not in known:
            raise SourceError(
                f"there is no column {column!r}",
                where="columns=",
                fix=candidates(column, known, noun="columns"),
                code="SOURCE-COLUMN",
            )
