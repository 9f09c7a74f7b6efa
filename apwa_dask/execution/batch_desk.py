"""The desk of a run in batches: it answers from what is known, and collects what must be asked.

Nothing waits here. A conversation that needs a call is given up as ``deferred``; the partition's task ends
without a commit, leaves its requests in the run's folder, and runs again when their answers are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from apwa_dask.agents.agent import Conversation
from apwa_dask.agents.capabilities import ToolResult
from apwa_dask.agents.outcome import Outcome
from apwa_dask.execution.batch_asks import Ask
from apwa_dask.execution.batch_replies import Held
from apwa_dask.execution.compile import ROW_ID
from apwa_dask.execution.pipeline import PipelineResult, run_pipeline
from apwa_dask.execution.stopping import Deferred
from apwa_dask.execution.watched_desk import WatchedDesk
from apwa_dask.models.redact import without_quotes
from apwa_dask.models.types import OutcomeClass, Reply, Request
from apwa_dask.plans.steps import LLMStep

if TYPE_CHECKING:
    from apwa_dask.execution.runtime import StageContext

__all__ = ["CollectingDesk", "defer_all", "run_deferring"]

WAITING = "its request waits for a batch"
DEFAULT_OUTPUT_TOKENS = 1024
"""Reserved for an answer without a ceiling."""


def run_deferring(context: StageContext, table: pa.Table) -> PipelineResult:
    """Run the stage's pipeline over a partition, as far as the answers go.

    Raises
    ------
    Deferred
        Requests were left in the run's folder.
    """
    owner = f"{context.stage.index}:{table.column(ROW_ID)[0].as_py() if table.num_rows else ''}"
    desk = CollectingDesk(context, owner)
    try:
        result = run_pipeline(context.stage.steps, context.agents, table, context.stage.schema, desk)
    except Deferred:
        desk.hand_in()
        raise
    desk.publish()
    return result


def defer_all(context: StageContext, conversations: Sequence[Conversation], step_id: str) -> None:
    """Hold conversations of a reduce to their ends, as far as the answers go.

    Raises
    ------
    Deferred
    """
    if not conversations:
        return
    first = next((held.request for held in conversations if held.request is not None), None)
    mark = b"" if first is None else first.fingerprint(context.spec.namespace)
    desk = CollectingDesk(context, f"{context.stage.index}:{hashlib.sha256(mark).hexdigest()[:16]}")
    desk.submit(conversations, step_id, lambda place: None, lambda: None)
    if desk.asks:
        desk.hand_in()
        raise Deferred(WAITING)


class CollectingDesk(WatchedDesk):
    """Feeds conversations of one unit of work with what batches have answered, and collects the rest.

    Parameters
    ----------
    context : StageContext
    owner : str
        Names this unit of work in every round and process.
    """

    def __init__(self, context: StageContext, owner: str) -> None:
        super().__init__(context)
        self.owner = owner
        self.asks: dict[bytes, Ask] = {}
        self._paid: set[bytes] = set()
        self._rows = self._failed = self._cached = 0
        self._failures: list[Outcome] = []
        self.note = self._keep

    def reuse(self, conversations: Sequence[Conversation]) -> None:
        """Nothing: `submit` answers at once what can be answered."""

    def submit(
        self,
        conversations: Sequence[Conversation],
        step_id: str,
        done: Callable[[int], None],
        wake: Callable[[], None],
    ) -> None:
        """Feed what is known, run tools, collect what is to be asked; all conversations end now."""
        self._advance(conversations, step_id)
        for position, conversation in enumerate(conversations):
            if not conversation.finished:
                conversation.give_up(OutcomeClass.DEFERRED, WAITING)
            done(position)
        wake()

    def hand_in(self) -> None:
        """Leave what was collected for the driver; what tools have said is durable first."""
        self.context.run.batches.replies.flush()
        self.context.run.batches.asks.hand_in(self.context.run.batches.round, self.owner, self.asks.values())

    def settled(self, step_id: str, outcome: Outcome) -> None:
        """Keep an outcome that is worth telling, until the unit is whole."""
        self._keep(outcome=outcome)

    def rows_ended(self, rows: int, failed: int = 0, cached: int = 0) -> None:
        """Rows have reached the end of this stage, in this round."""
        self._keep(rows=rows, failed=failed, cached=cached)

    def publish(self) -> None:
        """Count the unit towards progress, once: it is whole. Its calls were counted when they were paid."""
        self.context.meter.note(rows=self._rows, failed=self._failed, cached=self._cached)
        for outcome in self._failures:
            self.context.meter.note(outcome=outcome._replace(source="journal"))
        if self._failed:
            self.context.watch.rows_failed()

    def _keep(
        self,
        *,
        rows: int = 0,
        failed: int = 0,
        cached: int = 0,
        outcome: Outcome | None = None,
        step: str = "",
    ) -> None:
        self._rows, self._failed, self._cached = (
            self._rows + rows,
            self._failed + failed,
            self._cached + cached,
        )
        if outcome is not None and not outcome.ok:
            self._failures.append(outcome)

    # -- conversations

    def _advance(self, conversations: Sequence[Conversation], step_id: str) -> None:
        """Move conversations as far as the answers go, and collect the requests at which they end."""
        open_ = [leaf for held in conversations for leaf in _leaves(held)]
        while open_:
            asking = [(leaf, request) for leaf in open_ if (request := leaf.request) is not None]
            replies = self._known([request for _, request in asking])
            moved: list[Conversation] = []
            for (leaf, request), known in zip(asking, replies, strict=True):
                reply = known if known is not None else self._collect(request, step_id)
                if reply is None:
                    continue
                leaf.feed(reply)
                self._use_tools(leaf, request, step_id)
                moved.extend(_leaves(leaf))
            open_ = moved

    def _use_tools(self, leaf: Conversation, request: Request, step_id: str) -> None:
        """Answer the tool calls of a reply; a tool that has spoken in an earlier round is not run again."""
        calls, agent = leaf.pending_tools, self.context.agents.get(step_id)
        if not calls or agent is None:
            return
        key = request.fingerprint(self.context.spec.namespace)
        results: list[ToolResult] = []
        for place, (call, known) in enumerate(
            zip(calls, self.context.run.batches.replies.tool_results(key, len(calls)), strict=True)
        ):
            if known is None:
                known = agent.run_tool(call, leaf.unit)
                self.context.run.batches.replies.put_tool_result(key, place, known)
            results.append(known)
        leaf.feed_tools(results)

    def _known(self, requests: Sequence[Request]) -> list[Reply | None]:
        """From this run's batches, else from the journal."""
        run = self.context.run
        keys = [request.fingerprint(self.context.spec.namespace) for request in requests]
        held = run.batches.replies.get(keys)
        missing = [request for key, request in zip(keys, requests, strict=True) if key not in held]
        kept = iter(run.caller.reuse(missing))
        return [
            self._mine(key, held[key], request) if key in held else next(kept)
            for key, request in zip(keys, requests, strict=True)
        ]

    def _mine(self, key: bytes, held: Held, request: Request) -> Reply:
        """A reply, paid for by the first conversation of its owner that asks."""
        reply = held.to("" if key in self._paid else self.owner)
        if reply.source == "live":
            self._paid.add(key)
        return reply._replace(message=_unquoted(reply.message, request)) if reply.message else reply

    def _collect(self, request: Request, step_id: str) -> Reply | None:
        """Note the request for a batch; or the outcome of one that cannot be written down."""
        key = request.fingerprint(self.context.spec.namespace)
        if key in self.asks:
            return None
        alias = self._alias(step_id)
        wired = Request(
            self.context.run.batches.as_taken(alias, request.template), request.tail, request.ordinal
        )
        try:
            body = wired.body()
        except (TypeError, ValueError):
            words = "the text cannot be encoded as UTF-8 JSON (a lone surrogate?)"
            return Reply(OutcomeClass.BAD_INPUT, message=words, attempts=0)
        ceiling = request.template.max_output_tokens or DEFAULT_OUTPUT_TOKENS
        self.asks[key] = Ask(key, self.owner, step_id, alias, ceiling, body)
        return None

    def _alias(self, step_id: str) -> str:
        for step in self.context.stage.steps:
            if step.id == step_id and isinstance(step, LLMStep):
                return step.contract.model or ""
        return ""


def _leaves(conversation: Conversation) -> list[Conversation]:
    """The unfinished conversations in which this one asks: itself, or its independent branches."""
    if conversation.finished:
        return []
    branches = conversation.branches
    return [leaf for branch in branches for leaf in _leaves(branch)] if branches else [conversation]


def _unquoted(words: str, request: Request) -> str:
    """Words of the endpoint, unless they quote the row."""
    said: list[str] = []
    for message in request.tail:
        content = message.content
        said += [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
    return without_quotes(words, said)
