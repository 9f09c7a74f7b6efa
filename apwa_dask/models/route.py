"""What all calls of one template share: the template as the endpoint takes it, and what a call may cost."""

from __future__ import annotations

from dataclasses import dataclass

from apwa_dask.models.adapt import Adaptation
from apwa_dask.models.endpoints import Lane
from apwa_dask.models.hedge import Lateness
from apwa_dask.models.leases import Money
from apwa_dask.models.outcomes import Verdict
from apwa_dask.models.tokens import BYTES_PER_TOKEN_AT_MOST, OutputEstimate, guess_output_tokens
from apwa_dask.models.types import NO_USAGE, OutcomeClass, Request, Template, Usage

__all__ = ["Route", "Spent"]

UNENCODABLE = Verdict(
    OutcomeClass.BAD_INPUT, words="the text cannot be encoded as UTF-8 JSON (a lone surrogate?)"
)


@dataclass(slots=True)
class Spent:
    """What one call has come to so far, over all its attempts."""

    attempts: int = 0
    usage: Usage = NO_USAGE
    last: Usage = NO_USAGE
    latency_s: float = 0.0
    flying: bool = False
    connected: bool = True
    template: Template | None = None

    def take_off(self, template: Template) -> None:
        """An attempt begins."""
        self.attempts += 1
        self.flying = True
        self.template = template

    def counted(self, before: int) -> Usage | None:
        """What the attempt after so many counts for at the endpoint; None when it was refused, or got lost."""
        if self.attempts == before:
            return Usage()
        return self.last if self.last.input else None

    def land(self, usage: Usage) -> None:
        """It ended, answered or given up."""
        self.flying = False
        self.last = usage
        self.usage = self.usage + usage if self.attempts > 1 else usage


class Route:
    """A template on its lane. Keeps the template, because clients look routes up by its id."""

    def __init__(self, template: Template, lane: Lane) -> None:
        self.template, self.lane = template, lane
        ceiling = template.max_output_tokens
        self.embeds = template.kind == "embeddings"
        if self.embeds:  # a vector is no tokens
            self.output = OutputEstimate(0, 0)
        else:
            self.output = OutputEstimate(guess_output_tokens(template.schema, ceiling), ceiling)
        hedges = template.model.hedge and not template.tools and not self.embeds
        self.lateness = Lateness() if hedges else None
        around = len(template.prefix) + len(template.suffix)
        # what stands around texts to be embedded is no text
        self._read_bytes, self._unread_bytes = (0, around) if self.embeds else (around, 0)
        self._adapted_for: Adaptation | None = None if lane.adaptation else lane.adaptation
        self._adapted = template

    def wire_template(self) -> Template:
        """The template with everything left out that the endpoint turned out to lack."""
        adaptation = self.lane.adaptation
        if adaptation is not self._adapted_for:
            self._adapted, self._adapted_for = adaptation.applied(self.template), adaptation
        return self._adapted

    def step_down(self, verdict: Verdict, sent: Template) -> bool:
        """Remember what the endpoint declined, for all its templates; False when there is no way down."""
        adaptation = self.lane.adaptation.after(verdict.step_down, sent)
        if adaptation is None:
            return False
        if adaptation != self.lane.adaptation:
            self.lane.adaptation = adaptation
        return True

    def encoded(self, template: Template, request: Request) -> bytes | Verdict:
        """The body; or the outcome of a row that cannot be sent."""
        wired = request if template is request.template else Request(template, request.tail, request.ordinal)
        try:
            body = wired.body()
        except (TypeError, ValueError):
            return UNENCODABLE
        window = self.lane.context_tokens
        together = self.embeds and len(request.tail) > 1  # the window is each text's own
        if window is None or together or len(body) / BYTES_PER_TOKEN_AT_MOST <= window:
            return body
        words = f"a prompt of {len(body)} bytes cannot fit a window of {window} tokens: no call made"
        return Verdict(OutcomeClass.TOO_LARGE, words=words)

    # -- expectations

    def input_tokens(self, request: Request) -> int:
        """Expected."""
        return self.lane.ratio.tokens(self._size_bytes(request))

    def reservation(self, request: Request) -> Money:
        """What one attempt may come to: a high guess, of which the rest comes back."""
        tokens_in, tokens_out = self.lane.ratio.tokens_at_most(self._size_bytes(request)), self.output.tokens
        price = self.lane.price
        usd = price.cost_usd(tokens_in, tokens_out) if price is not None else 0.0
        return Money(usd, tokens_in + tokens_out, 1)

    def _size_bytes(self, request: Request) -> int:
        """Of what the model reads; what cannot be encoded will not be sent."""
        try:
            return self._read_bytes + request.tail_bytes
        except (TypeError, ValueError):
            return self._read_bytes

    def actual(self, usage: Usage) -> Money:
        """What one attempt came to."""
        return Money(self.cost_usd(usage) or 0.0, usage.input + usage.output, 1)

    def cost_usd(self, usage: Usage) -> float | None:
        """None when the price is unknown."""
        price = self.lane.price
        return None if price is None else price.cost_usd(usage.input, usage.output, usage.cached)

    def usage(self, verdict: Verdict, size_bytes: int) -> Usage:
        """Of one attempt: as stated, or estimated where tokens were probably made and nobody says so."""
        completion, size_bytes = verdict.completion, size_bytes - self._unread_bytes
        if completion is not None and completion.usage is not None:
            usage = completion.usage
            self.lane.ratio.observe(size_bytes, usage.input)
            self.output.observe(usage.output)
            return usage
        if not verdict.sent:
            return Usage()
        tokens_in = self.lane.ratio.tokens(size_bytes)
        if self.embeds:
            return Usage(tokens_in, 0, estimated=True)
        if completion is not None and completion.text:
            return Usage(tokens_in, len(completion.text) // 4 + 1, estimated=True)
        return Usage(tokens_in, self.output.tokens, estimated=True)

    def abandoned(self, request: Request) -> Usage:
        """Of an attempt given up in flight: the endpoint goes on, and bills."""
        return Usage(self.input_tokens(request), self.output.tokens, estimated=True)
