"""Request lines on their way from partition tasks to the process that makes batches of them.

A task leaves one immutable file a round, with a checksum; the driver reads them all and deletes them when their
batches are made, because they hold prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from apwa_dask.errors import StoreError
from apwa_dask.store.folder import Folder

__all__ = ["Ask", "AskBook"]

_FORMAT = "apwa-asks/1"
_HEAD = b'{"custom_id":"%s","method":"POST","url":"/v1/chat/completions","body":'
_FIELDS = ("owner", "step", "model", "output_tokens")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request that waits for a batch.

    Parameters
    ----------
    key : bytes
        Fingerprint of the request, in hexadecimal its ``custom_id``.
    owner : str
        The unit of work whose ledger bears the cost; others that ask the same share the answer.
    step, model : str
        Step id, and the model's alias in the run.
    output_tokens : int
        Ceiling of the answer, to reserve.
    body : bytes
        The request's body, as a live call would send it.
    """

    key: bytes
    owner: str
    step: str
    model: str
    output_tokens: int
    body: bytes

    @property
    def line(self) -> bytes:
        """Its line of an input file."""
        return b"".join((_HEAD % self.key.hex().encode(), self.body, b"}\n"))

    @property
    def line_bytes(self) -> int:
        """Size of `line`."""
        return len(_HEAD) - len(b"%s") + 2 * len(self.key) + len(self.body) + len(b"}\n")


class AskBook:
    """The files of asks of one run, by round.

    Parameters
    ----------
    folder : Folder
        Of the run, for this purpose alone.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def hand_in(self, round_: int, owner: str, asks: Iterable[Ask]) -> None:
        """Write what one unit of work asks in a round; a task that runs twice writes once."""
        rows: list[bytes] = []
        for ask in asks:
            facts = (ask.key.hex(), *(getattr(ask, name) for name in _FIELDS))
            rows += (orjson.dumps(facts), ask.body.replace(b"\n", b" "))
        body = b"\n".join(rows)
        head = {"format": _FORMAT, "sha256": hashlib.sha256(body).hexdigest(), "asks": len(rows) // 2}
        name = hashlib.sha256(owner.encode()).hexdigest()[:32]
        self._round(round_).put_if_absent(f"{name}.asks", orjson.dumps(head) + b"\n" + body, point="asks")

    def read(self, round_: int) -> Iterator[list[Ask]]:
        """What was asked in a round, one list for each unit of work.

        Raises
        ------
        StoreError
            A file is damaged.
        """
        folder = self._round(round_)
        for entry in folder.entries():
            if entry.name.endswith(".asks"):
                yield _decoded(folder.read(entry.name), f"{folder.url}/{entry.name}")

    def clear(self) -> None:
        """Delete all of them."""
        self._folder.delete_tree()

    def _round(self, round_: int) -> Folder:
        return self._folder.child(f"{round_:06d}")


def _decoded(data: bytes, where: str) -> list[Ask]:
    head, _, body = data.partition(b"\n")
    try:
        known = orjson.loads(head)
        sound = known["format"] == _FORMAT and known["sha256"] == hashlib.sha256(body).hexdigest()
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise StoreError(
            "a file of requests is damaged",
            where=where,
            fix="resume the run: its partitions ask again",
            code="STORE-DAMAGED",
        )
    rows = body.split(b"\n") if body else []
    return [_ask(rows[k], rows[k + 1]) for k in range(0, len(rows), 2)]


def _ask(facts: bytes, body: bytes) -> Ask:
    key, owner, step, model, output_tokens = orjson.loads(facts)
    return Ask(bytes.fromhex(key), owner, step, model, output_tokens, body)
