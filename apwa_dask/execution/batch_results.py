"""From the lines of a batch to replies, the bill, and what is to be asked again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from apwa_dask.errors import ProviderError
from apwa_dask.execution.batch_jobs import Settlement, Shard, Tried
from apwa_dask.execution.batch_replies import Held
from apwa_dask.execution.caller import record_of
from apwa_dask.execution.tool_notes import tools_text
from apwa_dask.models.adapt import Adaptation
from apwa_dask.models.batch_lines import BatchLine
from apwa_dask.models.batches import BatchJob
from apwa_dask.models.endpoints import Lane
from apwa_dask.models.leases import Money
from apwa_dask.models.outcomes import Completion, Retry, Verdict
from apwa_dask.models.types import OutcomeClass, Purpose, Reply, Request, Template, Usage
from apwa_dask.store.record import Record

__all__ = ["History", "Results", "refusal_of"]

_SILENCE = Completion(None, "")
_NOTHING = Usage()


@dataclass
class History:
    """What earlier batches of the run made of requests that had to be asked again."""

    attempts: int
    """Batches that one request may be part of."""
    _tried: dict[str, list[Tried]] = field(default_factory=dict)
    _missed: dict[str, int] = field(default_factory=dict)

    def add(self, end: Settlement) -> None:
        """Remember an end."""
        for one in end.tried:
            self._tried.setdefault(one.key, []).append(one)
        for key in end.missed:
            self._missed[key] = self._missed.get(key, 0) + 1

    def tried(self, key: str) -> list[Tried]:
        """Answers in vain so far."""
        return self._tried.get(key, [])

    def is_last(self, key: str) -> bool:
        """Whether the request has been part of as many batches as it may, the present one included."""
        return len(self.tried(key)) + self._missed.get(key, 0) + 1 >= self.attempts


class Results:
    """Reads the lines of one shard's batch. Each request gets at most one reply.

    Parameters
    ----------
    shard : Shard
    lane : Lane
        Of its model: price and what was learned of it.
    adaptation : Adaptation
        With which its lines were written.
    history : History
    prompts : mapping of str to str, optional
        Bodies of the requests by key, where the run keeps them.
    """

    def __init__(
        self,
        shard: Shard,
        lane: Lane,
        adaptation: Adaptation,
        history: History,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        self.shard, self.lane, self.history = shard, lane, history
        self._prompts = prompts or {}
        self.adaptation = adaptation
        self.lowered: Adaptation | None = None
        """What the endpoint turned out to lack, for the rounds to come."""
        self.replies: dict[bytes, Held] = {}
        self.records: list[Record] = []
        self.spent = Money()
        self.fatal: Verdict | None = None
        """The first refusal for good, of the request `fatal_key`."""
        self.fatal_key = ""
        self._tried: list[Tried] = []
        self._open = dict(zip(shard.keys, zip(shard.owners, shard.steps, strict=True), strict=True))
        self.usage = _NOTHING

    def take(self, lines: Iterable[BatchLine]) -> None:
        """Read lines; those that name no open request of this shard are none of ours."""
        for line in lines:
            if line.verdict is not None and line.custom_id in self._open:
                self._take(line.custom_id, line.verdict, line.size_bytes)

    def refuse(self, job: BatchJob) -> None:
        """A batch that failed in validation: the requests it names are at fault, the others are not."""
        for problem in job.problems:
            if 1 <= problem.line <= len(self.shard.keys):
                words = ": ".join(part for part in (problem.code, problem.message) if part)
                key = self.shard.keys[problem.line - 1]
                if key in self._open:
                    verdict = Verdict(OutcomeClass.BAD_INPUT, words=f"the batch was refused ({words})")
                    self._close(key, verdict, (), _NOTHING, 0.0, attempts=0)

    def settled(self, job: BatchJob, *, in_time: bool) -> Settlement:
        """The end of the shard; requests that nobody answered were missed, where time was what they lacked."""
        missed: list[str] = []
        for key in list(self._open) if in_time else []:
            if self.history.is_last(key):
                words = f"not answered by any of {self.history.attempts} batches in its time"
                tried = self.history.tried(key)
                verdict = Verdict(OutcomeClass.DEADLINE, words=words)
                self._close(key, verdict, tried, _NOTHING, 0.0, attempts=len(tried))
            else:
                missed.append(key)
        return Settlement(job.status, self.spent, tuple(self._tried), tuple(missed))

    # -- one line

    def _take(self, key: str, verdict: Verdict, size_bytes: int) -> None:
        usage = self._usage(verdict, size_bytes)
        cost = self._cost_usd(usage)
        paid = usage.input + usage.output
        self.spent += Money(cost or 0.0, paid, 1)
        self.usage = self.usage + usage
        if verdict.fatal:
            self.fatal, self.fatal_key = (self.fatal, self.fatal_key) if self.fatal else (verdict, key)
            del self._open[key]  # neither answered nor tried: a resume asks again
            return
        if self._asks_again(verdict, key):
            self._tried.append(Tried(key, (usage.input, usage.output, usage.cached, usage.estimated), cost))
            del self._open[key]
            return
        tried = self.history.tried(key)
        self._close(key, verdict, tried, usage, cost, attempts=len(tried) + 1)

    def _asks_again(self, verdict: Verdict, key: str) -> bool:
        if verdict.retry is Retry.NONE:
            return False
        if verdict.retry is Retry.STEP_DOWN:
            return self._step_down(verdict)
        return not self.history.is_last(key)

    def _step_down(self, verdict: Verdict) -> bool:
        """Learn what the endpoint lacks; False where there is no way down."""
        sent = self.adaptation.applied(Template(self.lane.model, (), {"type": "object"}))
        lower = self.adaptation.after(verdict.step_down, sent)
        if lower is None:
            return False
        self.lowered = lower
        return True

    def _close(
        self,
        key: str,
        verdict: Verdict,
        tried: Iterable[Tried],
        usage: Usage,
        cost: float | None,
        *,
        attempts: int,
    ) -> None:
        owner, step = self._open.pop(key)
        said = verdict.completion or _SILENCE
        before = list(tried)
        costs = [cost, *(one.cost_usd for one in before)]
        reply = Reply(
            verdict.outcome,
            said.text,
            said.tool_calls,
            sum((one.tokens for one in before), usage),
            None if None in costs else sum(one or 0.0 for one in costs),
            said.model,
            said.finish_reason,
            said.request_id,
            attempts,
            0.0,
            "live",
            verdict.words,
        )
        fingerprint = bytes.fromhex(key)
        self.replies[fingerprint] = Held(reply, owner)
        if attempts:
            self.records.append(self._record(fingerprint, reply, step))

    def _record(self, key: bytes, reply: Reply, step: str) -> Record:
        """For the journal: good answers serve other runs, all of them are on the bill."""
        tools = tools_text(reply, Request(Template(self.lane.model, ()), ()))
        return record_of(key, reply, Purpose(self.shard.run_id, step), self._prompts.get(key.hex()), tools)

    def _usage(self, verdict: Verdict, size_bytes: int) -> Usage:
        completion = verdict.completion
        if completion is not None and completion.usage is not None:
            return completion.usage
        if not verdict.sent:
            return _NOTHING
        each = self.shard.tokens // max(len(self.shard.keys), 1)
        return Usage(each, size_bytes // 4, estimated=True)

    def _cost_usd(self, usage: Usage) -> float | None:
        price = self.lane.price
        return None if price is None else price.in_batches.cost_usd(usage.input, usage.output, usage.cached)


def refusal_of(shard: Shard, job: BatchJob, model: str) -> ProviderError:
    """The error for a batch that failed as a whole in validation."""
    words = "; ".join(f"{problem.code}: {problem.message}".strip(": ") for problem in job.problems)
    return ProviderError(
        "the endpoint refused a batch",
        where=f"batch {job.id} of {len(shard.keys):,} requests for {model!r}",
        why=words or "it gives no reason",
        fix="run live, or with other limits: mode=BatchTerms(max_requests=..., max_enqueued_tokens=...)",
        saved="all answers so far; this batch cost nothing",
        code="PROVIDER-BATCH",
    )
