"""Find a key where no key may be: in journals, logs, pickles, pages, archives."""

from __future__ import annotations

import base64
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

__all__ = ["grep_canary"]


def grep_canary(places: bytes | str | Path | Iterable[bytes | str | Path], canary: str) -> list[str]:
    """Name the places that hold the canary key.

    Parameters
    ----------
    places : bytes, str, Path or iterable of these
        Bytes and strings are searched as they are; a `Path` is a file, or a folder searched to its depth.
        Members of zip files and the content of gzip files are searched too.
    canary : str
        The key. It is looked for as UTF-8, UTF-16, base64 (at any offset) and percent-encoded.

    Returns
    -------
    list of str
        Paths, or ``bytes[i]`` for the i-th place given as bytes or text. Empty is what a test wants.
    """
    if isinstance(places, bytes | str | Path):
        places = [places]
    needles = _spellings(canary)
    return [name for name, data in _contents(places) if any(needle in data for needle in needles)]


def _spellings(canary: str) -> tuple[bytes, ...]:
    plain = canary.encode()
    spellings = [plain, canary.encode("utf-16-le"), quote(canary, safe="").encode()]
    for shift in range(3):
        # Three alignments of base64; the first and last characters depend on the neighbours and are left out.
        encoded = base64.b64encode(b"\0" * shift + plain)
        spellings.append(encoded[4:-4])
    return tuple(spellings)


def _contents(places: Iterable[bytes | str | Path]) -> Iterator[tuple[str, bytes]]:
    for i, place in enumerate(places):
        if isinstance(place, bytes):
            yield from _opened(f"bytes[{i}]", place)
        elif isinstance(place, str):
            yield from _opened(f"bytes[{i}]", place.encode("utf-8", "surrogatepass"))
        elif place.is_dir():
            for path in sorted(found for found in place.rglob("*") if found.is_file()):
                yield from _opened(str(path), path.read_bytes())
        else:
            yield from _opened(str(place), place.read_bytes())


def _opened(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, data
    if data.startswith(b"\x1f\x8b"):
        try:
            yield f"{name} (gunzipped)", gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return  # not a whole gzip file: its bytes were searched as they are
    elif data.startswith(b"PK\x03\x04") and zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield f"{name}!{member}", archive.read(member)
