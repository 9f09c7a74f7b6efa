"""What may reach a prompt: pure rules from one cell of a frame to literal text, an image, a sound, or nothing.

Declared rules: nulls of every kind and blank text are *missing* and never spelled out; lone surrogates and
NUL become U+FFFD; numbers and dates have one canonical spelling whatever dtype carried them.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from apwa_dask.models.types import OutcomeClass

__all__ = ["MAX_MEDIA_BYTES", "BadInput", "cell_text", "cell_value", "clean_text", "is_blank", "media_part"]

MAX_MEDIA_BYTES = 20_000_000
"""Largest image or recording that is sent; the common providers refuse more."""

_REPLACEMENT = "\ufffd"
_INVISIBLE = "\0\u200b\u200c\u200d\u2060\ufeff\ufffd"
_BLANK = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2000\u2003\u2009\u2028\u2029\u202f\u3000" + _INVISIBLE
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"ID3", "mp3"),
    (b"\xff\xfb", "mp3"),
    (b"\xff\xf3", "mp3"),
    (b"\xff\xf2", "mp3"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "wav"}
"""Kinds of the container whose bytes 8 to 11 say what it holds."""
_LARGEST_EXACT_FLOAT = 2.0**53


@dataclass(frozen=True, slots=True)
class BadInput:
    """Why a row makes no call: ``bad_input`` or ``too_large``, in words without row text."""

    message: str
    outcome: OutcomeClass = OutcomeClass.BAD_INPUT


def clean_text(text: str) -> str:
    """`text` as it may be sent: lone surrogates and NUL become U+FFFD, all else is kept literally.

    Examples
    --------
    >>> clean_text("a\\ud800b{c}")
    'a\ufffdb{c}'
    """
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def is_blank(text: str) -> bool:
    """Nothing but white space and invisible characters."""
    return not text.strip() or not text.strip(_BLANK)


def cell_value(value: Any) -> Any:
    """The cell as plain data for JSON: None for missing, canonical numbers, ISO dates, clean text.

    Raises
    ------
    ValueError, RecursionError
        Bytes that are no UTF-8 text, numbers of thousands of digits, values nested too deep.
    """
    if isinstance(value, str):
        return None if is_blank(value) else clean_text(value)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return str(value)
    if isinstance(value, decimal.Decimal):
        return None if value.is_nan() else format(value, "f")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return cell_value(bytes(value).decode())
    if isinstance(value, Mapping):
        members = {clean_text(str(key)): cell_value(member) for key, member in value.items()}
        return members if any(member is not None for member in members.values()) else None
    if type(value).__name__ in (
        "datetime64",
        "timedelta64",
    ):  # their tolist gives a bare count of nanoseconds
        return None if str(value) == "NaT" else str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return cell_value(value.tolist())
    if hasattr(value, "as_py"):
        return cell_value(value.as_py())
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple)):
        elements = [cell_value(element) for element in value]
        return elements if any(element is not None for element in elements) else None
    return cell_value(str(value))


def cell_text(value: Any) -> str | None:
    """The cell as literal text for a prompt; None when it is missing or blank.

    Raises
    ------
    ValueError, TypeError, RecursionError
        Bytes that are no UTF-8 text, numbers of thousands of digits, values nested too deep.
    """
    if type(value) is str:  # the hot path
        return None if is_blank(value) else clean_text(value)
    plain = cell_value(value)
    if plain is None or isinstance(plain, str):
        return plain
    if plain is True or plain is False:
        return "true" if plain else "false"
    if isinstance(plain, (int, float)):
        return repr(plain)
    return orjson.dumps(plain).decode()


def media_part(value: Any) -> dict[str, Any] | BadInput | None:
    """An image or sound cell (bytes, or a mapping with ``bytes``) as a chat content part.

    Images become ``image_url`` parts with a data URL, WAV and MP3 recordings ``input_audio`` parts.

    Returns
    -------
    dict, BadInput or None
        None when the cell is missing; BadInput for an unknown format or more than `MAX_MEDIA_BYTES`.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if hasattr(value, "as_py"):
        value = value.as_py()
    if not isinstance(value, (bytes, bytearray, memoryview)) or len(value) == 0:
        return None
    content = bytes(value)
    if len(content) > MAX_MEDIA_BYTES:
        words = f"an image or recording of {len(content):,} bytes; at most {MAX_MEDIA_BYTES:,} are sent"
        return BadInput(words, OutcomeClass.TOO_LARGE)
    kind = _media_kind(content)
    if kind is None:
        return BadInput("a binary cell that is no PNG, JPEG, GIF or WebP image and no WAV or MP3 recording")
    encoded = base64.b64encode(content).decode()
    if not kind.startswith("image/"):
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": kind}}
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}


def _media_kind(content: bytes) -> str | None:
    """``image/...``, ``wav`` or ``mp3``, by the first bytes."""
    if content.startswith(b"RIFF"):
        return _RIFF.get(content[8:12])
    return next((kind for start, kind in _SIGNATURES if content.startswith(start)), None)


def _number(value: float) -> int | float | str | None:
    """One spelling whatever dtype carried the number: 3.0 in a float column with gaps is the 3 it was."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    value = float(value)
    return int(value) if value.is_integer() and abs(value) <= _LARGEST_EXACT_FLOAT else value
