"""``/files`` and ``/batches`` of a scripted server, in the shapes of OpenAI.

A batch moves when somebody looks at it: its lines are answered evenly over the time its script gives it.
Nothing runs in the background, so that the log at any moment is what a client could have seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qs

import orjson

from apwa_dask.testing.answers import chat_request, count_tokens
from apwa_dask.testing.batch_script import BatchFault
from apwa_dask.testing.chat import Desk, bearer, key_refusal
from apwa_dask.testing.log import Call
from apwa_dask.testing.script import ChatRequest
from apwa_dask.testing.wire import Reply, Request, error_reply, json_reply, response

__all__ = ["Batches"]

WINDOW_S = 86_400
MAX_PAGE = 100
_ENDED = frozenset({"failed", "completed", "expired", "cancelled"})


@dataclass(slots=True)
class _File:
    id: str
    name: str
    purpose: str
    content: bytes
    created_s: int

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.content),
            "created_at": self.created_s,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(slots=True)
class _Line:
    custom_id: str
    asked: ChatRequest
    call: Call


@dataclass(slots=True)
class _Batch:
    id: str
    number: int
    document: dict[str, Any]
    started: float
    fault: BatchFault | None
    input_bytes: int = 0
    tokens: int = 0
    lines: list[_Line] = field(default_factory=list)
    answered: int = 0
    good: list[bytes] = field(default_factory=list)
    bad: list[bytes] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.document["status"] in _ENDED

    @property
    def is_gone(self) -> bool:
        return self.fault is not None and self.fault.kind == "gone"


class Batches:
    """Files and batches of one server."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.files: dict[str, _File] = {}
        self.batches: dict[str, _Batch] = {}
        self._numbers = itertools.count(1)

    def serves(self, request: Request) -> bool:
        """Whether this request is about files or batches, and the script offers them."""
        path = request.path.partition("?")[0]
        mine = path.startswith(("/v1/files", "/v1/batches"))
        return mine and self.desk.script.batches.offered

    def listed(self) -> bytes:
        """All batches, oldest first, for the control endpoint."""
        return orjson.dumps(
            [{**self._look(batch), "bytes": batch.input_bytes} for batch in self.batches.values()]
        )

    def answer(self, request: Request) -> Reply:
        """Serve one request."""
        refusal = key_refusal(self.desk.script, bearer(request))
        if refusal is not None:
            return refusal
        path, _, query = request.path.partition("?")
        kind, *rest = path.removeprefix("/v1/").split("/")
        known = {
            ("POST", "files", 0): lambda: self._upload(request),
            ("GET", "files", 1): lambda: self._with_file(rest[0], lambda file: _json(file.shown())),
            ("GET", "files", 2): lambda: self._with_file(rest[0], _content),
            ("DELETE", "files", 1): lambda: self._with_file(rest[0], self._delete),
            ("POST", "batches", 0): lambda: self._create(request),
            ("GET", "batches", 0): lambda: self._list(query),
            ("GET", "batches", 1): lambda: self._with_batch(rest[0], self._look),
            ("POST", "batches", 2): lambda: self._with_batch(rest[0], self._cancel),
        }
        found = known.get((request.method, kind, len(rest)))
        return found() if found is not None else error_reply(404, f"Invalid URL ({request.method} {path})")

    # -- files

    def _upload(self, request: Request) -> Reply:
        head = b"content-type: " + request.headers.get(b"content-type", b"") + b"\r\n\r\n"
        form = BytesParser(policy=HTTP).parsebytes(head + request.body)
        parts = {
            part.get_param("name", header="content-disposition"): part
            for part in (form.iter_parts() if form.is_multipart() else ())
        }
        if "file" not in parts or "purpose" not in parts:
            return error_reply(400, "'file' and 'purpose' are required", param="file")
        purpose = str(parts["purpose"].get_content()).strip()
        content = parts["file"].get_payload(decode=True)
        name = parts["file"].get_filename() or "upload"
        file = self._store(name, purpose, content if isinstance(content, bytes) else b"")
        return _json(file.shown())

    def _store(self, name: str, purpose: str, content: bytes) -> _File:
        file = _File(f"file-{next(self._numbers)}", name, purpose, content, int(self.desk.wall()))
        self.files[file.id] = file
        return file

    def _with_file(self, file_id: str, use: Callable[[_File], Reply]) -> Reply:
        file = self.files.get(file_id)
        return error_reply(404, f"No such File object: {file_id}") if file is None else use(file)

    def _delete(self, file: _File) -> Reply:
        del self.files[file.id]
        return _json({"id": file.id, "object": "file", "deleted": True})

    # -- batches

    def _create(self, request: Request) -> Reply:
        try:
            given = orjson.loads(request.body)
            file, endpoint = self.files.get(given["input_file_id"]), given["endpoint"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return error_reply(400, "'input_file_id' and 'endpoint' are required")
        if file is None or file.purpose != "batch":
            return error_reply(
                400, "the input file does not exist or is not for batches", param="input_file_id"
            )
        if endpoint != "/v1/chat/completions" or given.get("completion_window") != "24h":
            return error_reply(400, "this server has batches of chat completions with a window of 24h")
        batch = self._open(given, file)
        self.batches[batch.id] = batch
        self._validate(batch, file.content)
        if batch.fault is not None and batch.fault.kind == "lost_reply":
            return Reply(0, b"", "reset")
        return _json(batch.document)

    def _open(self, given: dict[str, Any], file: _File) -> _Batch:
        number, now = len(self.batches) + 1, int(self.desk.wall())
        document = {
            "id": f"batch_{number}",
            "object": "batch",
            "endpoint": given["endpoint"],
            "errors": None,
            "input_file_id": file.id,
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + WINDOW_S,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": given.get("metadata"),
        }
        faults = self.desk.script.batches.faults
        fault = next((fault for fault in faults if fault.strikes(number)), None)
        return _Batch(f"batch_{number}", number, document, self.desk.clock(), fault, len(file.content))

    def _validate(self, batch: _Batch, content: bytes) -> None:
        rules, fault = self.desk.script.batches, batch.fault
        rows = content.splitlines()
        if fault is not None and fault.kind == "failed":
            self._fail(batch, fault.code, fault.message, fault.line)
            return
        if len(rows) > rules.max_requests or len(content) > rules.max_bytes:
            self._fail(batch, "file_too_large", "The file exceeds the limits of a batch.", None)
            return
        try:
            lines = [self._read(row) for row in rows]
        except (KeyError, TypeError, ValueError, AttributeError):
            self._fail(batch, "invalid_json_line", "A line is not a request.", None)
            return
        models = {asked.model for _, asked in lines}
        if len({custom_id for custom_id, _ in lines}) < len(lines) or len(models) > 1:
            code = "mismatched_model" if len(models) > 1 else "duplicate_custom_id"
            self._fail(batch, code, "The lines of the file do not fit together.", None)
            return
        batch.tokens = sum(count_tokens(asked.prompt) for _, asked in lines)
        waiting = sum(b.tokens for b in self.batches.values() if not b.ended and b is not batch)
        if rules.enqueued_tokens is not None and waiting + batch.tokens > rules.enqueued_tokens:
            self._fail(batch, "token_limit_exceeded", "Enqueued token limit reached for this model.", None)
            return
        batch.lines = [
            _Line(custom_id, asked, self.desk.take_line(asked, batch.id, custom_id))
            for custom_id, asked in lines
        ]
        batch.document["status"] = "in_progress"
        batch.document["in_progress_at"] = int(self.desk.wall())
        batch.document["request_counts"]["total"] = len(lines)

    def _read(self, row: bytes) -> tuple[str, ChatRequest]:
        line = orjson.loads(row)
        if line["method"] != "POST" or line["url"] != "/v1/chat/completions":
            raise ValueError("not a chat completion")
        return str(line["custom_id"]), chat_request(line["body"])

    def _fail(self, batch: _Batch, code: str, message: str, line: int | None) -> None:
        error = {"code": code, "message": message, "line": line, "param": None}
        batch.document["errors"] = {"object": "list", "data": [error]}
        batch.document["failed_at"] = int(self.desk.wall())
        batch.document["status"] = "failed"

    def _with_batch(self, batch_id: str, use: Callable[[_Batch], dict[str, Any]]) -> Reply:
        batch = self.batches.get(batch_id)
        if batch is None or batch.is_gone:
            return error_reply(404, f"No batch found with id '{batch_id}'.")
        return _json(use(batch))

    def _list(self, query: str) -> Reply:
        given = parse_qs(query)
        found = [batch for batch in reversed(self.batches.values()) if not batch.is_gone]
        after = given.get("after", [""])[0]
        start = next((k + 1 for k, batch in enumerate(found) if batch.id == after), 0)
        limit = min(int(given.get("limit", ["20"])[0]), MAX_PAGE)
        page = [self._look(batch) for batch in found[start : start + limit]]
        return _json(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": start + limit < len(found),
            }
        )

    def _cancel(self, batch: _Batch) -> dict[str, Any]:
        self._look(batch)
        if not batch.ended:
            batch.document["status"] = "cancelling"
            batch.document["cancelling_at"] = int(self.desk.wall())
        return batch.document

    def _look(self, batch: _Batch) -> dict[str, Any]:
        """The batch as it is now."""
        if batch.ended:
            return batch.document
        if batch.document["status"] == "cancelling":
            self._end(batch, "cancelled")
            return batch.document
        seconds = self.desk.script.batches.seconds
        passed = 1.0 if seconds <= 0 else min(1.0, (self.desk.clock() - batch.started) / seconds)
        ending = batch.fault if batch.fault and batch.fault.kind in ("expired", "cancelled") else None
        share = passed if ending is None else min(passed, ending.answered)
        self._answer_until(batch, int(len(batch.lines) * share))
        if passed >= 1.0:
            self._end(batch, "completed" if ending is None else ending.kind)
        return batch.document

    def _answer_until(self, batch: _Batch, count: int) -> None:
        counts = batch.document["request_counts"]
        for line in batch.lines[batch.answered : count]:
            status, body = self.desk.answer_line(line.call, line.asked)
            reply = {"status_code": status, "request_id": f"req_{line.call.n}", "body": _document(body)}
            (batch.good if status == 200 else batch.bad).append(_result(line, reply, None))
            counts["completed" if status == 200 else "failed"] += 1
        batch.answered = max(batch.answered, count)

    def _end(self, batch: _Batch, status: str) -> None:
        for line in batch.lines[batch.answered :]:
            self.desk.end_line(line.call)
            if status == "expired":
                words = "This request could not be executed before the completion window expired."
                batch.bad.append(_result(line, None, {"code": "batch_expired", "message": words}))
        batch.document["status"] = status
        batch.document[f"{status}_at"] = int(self.desk.wall())
        for name, lines in (("output_file_id", batch.good), ("error_file_id", batch.bad)):
            if lines:
                content = b"".join(reversed(lines))  # the order of results is nobody's promise
                batch.document[name] = self._store(f"{batch.id}.jsonl", "batch_output", content).id
        if batch.fault is not None and batch.fault.kind == "no_results":
            for name in ("input_file_id", "output_file_id", "error_file_id"):
                self.files.pop(batch.document[name], None)


def _result(line: _Line, reply: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    document = {
        "id": f"batch_req_{line.call.n}",
        "custom_id": line.custom_id,
        "response": reply,
        "error": error,
    }
    return orjson.dumps(document) + b"\n"


def _document(body: bytes) -> Any:
    """The body of an answer as a value; a body that a fault has broken is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _json(document: dict[str, Any]) -> Reply:
    return json_reply(200, orjson.dumps(document))


def _content(file: _File) -> Reply:
    return Reply(200, response(200, file.content, content_type="application/octet-stream"))
