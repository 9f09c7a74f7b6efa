"""An endpoint's files and batches: upload, create, watch, cancel, and read what came of each line.

Batches take their time, so nothing here is fast: one small session of its own beside the transport of live
calls, the same reading of failures (`outcomes.classify`), and the same bounds of retries. Only making a batch
cannot simply be tried again, because two batches cost twice: after a reply that was lost, it is looked for.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson

from apwa_dask.errors import ProviderError
from apwa_dask.models.endpoints import Lane
from apwa_dask.models.fatal import fatal_error, unreachable_error
from apwa_dask.models.outcomes import Retry, Trouble, Verdict, classify
from apwa_dask.models.redact import safe_identifier, safe_words
from apwa_dask.models.retry import RetryPolicy, Tries
from apwa_dask.models.transport import Raw, endpoint_url, proxy_for

__all__ = ["GONE", "BatchApi", "BatchJob", "BatchProblem"]

CHAT_PATH = "/v1/chat/completions"
WINDOW = "24h"
PAGE = 100
QUESTION_TIMEOUT_S = 60.0
TRANSFER_TIMEOUT_S = 1800.0
THROTTLED_WAIT_S = 5.0
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_RESULT_BYTES = 4 * 1024**3
"""A result file has at most 50,000 answers; this bounds what a broken server can make us hold."""

GONE = "gone"
"""Our word for a batch that the endpoint has forgotten, and its results with it."""

_ENDED = frozenset({"failed", "completed", "expired", "cancelled", GONE})
_ABSENT = frozenset({404, 405, 410, 501})

LACKING_WAITS_S = (0.5, 1.5, 0.0)
"""A file that was just written may not be everywhere yet. To ask its requests again costs money: look again first."""


class _LackingError(Exception):
    """The endpoint has nothing at this address."""


@dataclass(frozen=True, slots=True)
class BatchProblem:
    """Why a batch failed in validation. ``line`` counts from 1; 0 where none is named."""

    code: str
    message: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A batch as the endpoint shows it. ``done`` lines have an answer, be it an error."""

    id: str
    status: str
    input_file_id: str = ""
    output_file_id: str = ""
    error_file_id: str = ""
    total: int = 0
    done: int = 0
    created_s: float = 0.0
    problems: tuple[BatchProblem, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def ended(self) -> bool:
        """Nothing more will come of it."""
        return self.status in _ENDED


class BatchApi:
    """Files and batches of one lane's endpoint. All methods are coroutines on one event loop.

    Each raises `ProviderError` where the endpoint refuses for good, or does not answer within the policy's
    attempts.
    """

    def __init__(
        self, lane: Lane, policy: RetryPolicy | None = None, rng: random.Random | None = None
    ) -> None:
        self._lane, self._policy, self._rng = lane, policy or RetryPolicy(), rng or random.Random()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def check(self) -> None:
        """Find out, before anything is spent, whether there are batches at all.

        Raises
        ------
        ProviderError
            There are none.
        """
        try:
            await self._settled(
                "listing batches", lambda: self._send("GET", "/batches?limit=1"), may_lack=True
            )
        except _LackingError:
            raise self._absent() from None

    async def upload(self, content: bytes, name: str) -> str:
        """Upload an input file; its id. What a lost reply leaves behind costs nothing and expires."""

        async def send() -> Raw:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", io.BytesIO(content), filename=name, content_type="application/jsonl")
            return await self._send("POST", "/files", form(), TRANSFER_TIMEOUT_S)

        return str((await self._document("uploading requests", send))["id"])

    async def create(self, file_id: str, metadata: Mapping[str, str]) -> BatchJob:
        """Make a batch of an uploaded file, once: after a lost reply the batch with this metadata is looked for."""
        wanted = {
            "input_file_id": file_id,
            "endpoint": CHAT_PATH,
            "completion_window": WINDOW,
            "metadata": dict(metadata),
        }
        body = orjson.dumps(wanted)
        lost = False

        async def send() -> Raw:
            nonlocal lost
            if lost and (found := await self.find(metadata)):
                return Raw(200, {}, orjson.dumps({"id": found[0].id, "status": found[0].status}))
            raw = await self._send("POST", "/batches", body)
            lost = lost or raw.trouble not in ("", "connect") or raw.status >= 500
            return raw

        return _job_of(await self._document("making a batch", send))

    async def get(self, batch_id: str, metadata: Mapping[str, str], *, since_s: float = 0.0) -> BatchJob:
        """The batch as it is now; `GONE` where the endpoint does not find it, and lists none of this metadata."""

        async def send() -> Raw:
            return await self._send("GET", f"/batches/{batch_id}")

        try:
            return _job_of(await self._document("looking at a batch", send, may_lack=True))
        except _LackingError:
            listed = await self.find(metadata, since_s=since_s)
            return listed[0] if listed else BatchJob(batch_id, GONE)

    async def cancel(self, batch_id: str) -> BatchJob:
        """Ask for its end; answers made so far are kept, and paid for."""

        async def send() -> Raw:
            return await self._send("POST", f"/batches/{batch_id}/cancel", b"{}")

        return _job_of(await self._document("cancelling a batch", send))

    async def find(self, metadata: Mapping[str, str], *, since_s: float = 0.0) -> list[BatchJob]:
        """The batches that carry this metadata, newest first; those made before `since_s` are not looked at."""
        found: list[BatchJob] = []
        after = ""
        while True:
            query = urlencode({"limit": PAGE, **({"after": after} if after else {})})
            page = await self._document("listing batches", lambda q=query: self._send("GET", f"/batches?{q}"))  # type: ignore[misc]
            jobs = [_job_of(shown) for shown in page.get("data") or ()]
            found += [job for job in jobs if all(job.metadata.get(k) == v for k, v in metadata.items())]
            if not jobs or not page.get("has_more") or jobs[-1].created_s < since_s:
                return found
            after = jobs[-1].id

    async def results(self, file_id: str) -> bytes | None:
        """The content of a result file, which `read_lines` takes apart; None where the endpoint has it no more."""
        if not file_id:
            return b""

        async def send() -> Raw:
            return await self._send(
                "GET", f"/files/{file_id}/content", None, TRANSFER_TIMEOUT_S, MAX_RESULT_BYTES
            )

        for wait_s in LACKING_WAITS_S:
            try:
                return await self._settled("reading results", send, may_lack=True)
            except _LackingError:
                await asyncio.sleep(wait_s)
        return None

    # -- one exchange

    async def _document(
        self, doing: str, send: Callable[[], Awaitable[Raw]], *, may_lack: bool = False
    ) -> dict[str, Any]:
        body = await self._settled(doing, send, may_lack=may_lack)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            raise self._refused(doing, "the answer is no JSON object")
        return document

    async def _settled(
        self, doing: str, send: Callable[[], Awaitable[Raw]], *, may_lack: bool = False
    ) -> bytes:
        """Try until there is a good answer, within the policy."""
        loop = asyncio.get_running_loop()
        tries = Tries(self._policy, loop.time(), self._rng)
        while True:
            raw = await send()
            if raw.status == 200 and not raw.trouble and raw.body is not None:
                return raw.body
            if may_lack and raw.status in _ABSENT:
                raise _LackingError
            verdict = classify(raw.status, raw.headers, raw.body, raw.trouble, secrets=self._lane.secrets)
            wait_s = tries.wait_s(verdict, loop.time()) if verdict.retry is not Retry.NONE else None
            if wait_s is None:
                raise await self._given_up(doing, raw, verdict)
            if verdict.retry is Retry.THROTTLED:
                wait_s = verdict.wait_s or THROTTLED_WAIT_S
            await asyncio.sleep(wait_s)

    async def _given_up(self, doing: str, raw: Raw, verdict: Verdict) -> Exception:
        if verdict.fatal in ("key", "quota"):
            return await fatal_error(self._lane, verdict)
        if raw.trouble == "connect":
            return unreachable_error(self._lane.model)
        silent = verdict.retry is not Retry.NONE
        return self._refused(
            doing, verdict.words, code="PROVIDER-UNREACHABLE" if silent else "PROVIDER-BATCH"
        )

    def _refused(self, doing: str, why: str, code: str = "PROVIDER-BATCH") -> ProviderError:
        return ProviderError(
            f"{doing} failed",
            where=self._where,
            why=why,
            fix="resume the run later: its batches go on",
            saved="batches made so far, and all answers that were read",
            code=code,
        )

    def _absent(self) -> ProviderError:
        return ProviderError(
            "the endpoint has no batches",
            where=self._where,
            why="it has nothing at /batches",
            fix="run live: leave out mode='batch' (--batch)",
            saved="nothing was spent",
            code="PROVIDER-BATCH",
        )

    @property
    def _where(self) -> str:
        return f"model {self._lane.model.name!r} at {self._lane.model.endpoint_identity}"

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | aiohttp.MultipartWriter | Any = None,
        timeout_s: float = QUESTION_TIMEOUT_S,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Raw:
        url = endpoint_url(self._lane.model.resolved_base_url, path)
        if self._session is None:
            self._session = _session_for(self._lane.secrets)
        headers = {"Content-Type": "application/json"} if isinstance(data, bytes) else None
        trouble: Trouble
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method, url, data=data, headers=headers, proxy=proxy_for(url), allow_redirects=False
                ) as response,
            ):
                content = bytearray()
                async for chunk in response.content.iter_any():
                    content += chunk
                    if len(content) > max_bytes:
                        response.close()
                        return Raw(response.status, response.headers, None, "too_big")
                return Raw(response.status, response.headers, bytes(content))
        except TimeoutError:
            trouble = "deadline"
        except aiohttp.ClientConnectorError:
            trouble = "connect"
        except aiohttp.ClientPayloadError:
            trouble = "short_body"
        except (aiohttp.ClientError, OSError):
            trouble = "connection"
        return Raw(0, {}, None, trouble)


def _session_for(secrets: tuple[str, ...]) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {secrets[0]}"} if secrets else {}
    return aiohttp.ClientSession(
        headers=headers, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
    )


# -- what the endpoint shows, read


def _job_of(shown: Mapping[str, Any]) -> BatchJob:
    counts = shown.get("request_counts") or {}
    listed = (shown.get("errors") or {}).get("data") or ()
    problems = tuple(
        BatchProblem(
            safe_identifier(problem.get("code")),
            safe_words(str(problem.get("message") or "")),
            problem["line"] if type(problem.get("line")) is int else 0,
        )
        for problem in listed
    )
    return BatchJob(
        str(shown["id"]),
        str(shown.get("status") or ""),
        shown.get("input_file_id") or "",
        shown.get("output_file_id") or "",
        shown.get("error_file_id") or "",
        int(counts.get("total") or 0),
        int(counts.get("completed") or 0) + int(counts.get("failed") or 0),
        float(shown.get("created_at") or 0.0),
        problems,
        dict(shown.get("metadata") or {}),
    )
