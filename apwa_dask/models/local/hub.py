"""Weights by plain https from the model hub, going on where an earlier try stopped."""

from __future__ import annotations

import hashlib
import http.client
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from apwa_dask.models.local.catalogue import Weights
from apwa_dask.models.local.wheels import FetchFailed

__all__ = ["download_from_hub", "hub_address"]

_OPEN_TIMEOUT_S = 5.0
_GIVE_UP_S = 8.0
_TRIES = 5
_CHUNK_BYTES = 1 << 20


def hub_address() -> str:
    """The hub's address; ``HF_ENDPOINT``, the hub's own variable for mirrors, wins."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"


def download_from_hub(weights: Weights, target: Path, *, advance: Callable[[int], None]) -> str:
    """Write the file to `target` and return its SHA-256.

    Bytes that `target` already has are kept and hashed; the rest is asked for with ``Range``. An unreachable
    hub costs seconds.

    Parameters
    ----------
    weights : Weights
        With a `hub_path`.
    target : Path
        In a folder of our own.
    advance : callable
        Called with the number of bytes added; negative where the hub made us begin again.

    Raises
    ------
    FetchFailed
        The hub cannot be reached, refuses, or breaks off again and again.
    """
    target.touch()
    digest = hashlib.sha256()
    with target.open("r+b") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
        broke = ""
        for _ in range(_TRIES):
            done = file.tell()
            if done >= weights.size_bytes:
                return digest.hexdigest()
            with _opened(f"{hub_address()}/{weights.hub_path}", done) as answer:
                if done and answer.status != http.client.PARTIAL_CONTENT:
                    file.seek(0)
                    file.truncate()
                    digest = hashlib.sha256()
                    advance(-done)
                try:
                    while chunk := answer.read(_CHUNK_BYTES):
                        file.write(chunk)
                        digest.update(chunk)
                        advance(len(chunk))
                except (OSError, http.client.HTTPException) as error:
                    broke = f": {error}"
        if file.tell() >= weights.size_bytes:
            return digest.hexdigest()
    raise FetchFailed(f"the hub broke off {_TRIES} times{broke}")


def _opened(url: str, from_byte: int) -> http.client.HTTPResponse:
    """Open `url` in a thread that may be left behind: name resolution has no timeout of its own."""
    answers: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()

    def open_it() -> None:
        request = urllib.request.Request(url, headers={"Range": f"bytes={from_byte}-"} if from_byte else {})
        try:
            answers.put(urllib.request.urlopen(request, timeout=_OPEN_TIMEOUT_S))
        except (OSError, http.client.HTTPException, ValueError) as error:
            answers.put(error)

    threading.Thread(target=open_it, name="apwa-hub", daemon=True).start()
    try:
        answer = answers.get(timeout=_GIVE_UP_S)
    except queue.Empty:
        raise FetchFailed(f"no answer from the hub in {_GIVE_UP_S:.0f} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        raise FetchFailed(f"the hub answered {answer.code}") from answer
    if isinstance(answer, Exception):
        raise FetchFailed(f"the hub cannot be reached ({answer})") from answer
    return answer
