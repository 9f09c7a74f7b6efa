"""What people write around one conversation: an agent that reads everything, and a chat that gets item after item.

Both use the official client with its retries, send the history with each turn, as chat APIs want it, and keep
what was answered before they came to their end. Providers sell a repeated beginning of a prompt at half price:
so do we.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion

from apwa_dask.testing import count_tokens
from benchmarks.apwa.jobs import MODEL, WHOLE, Item, Job, Json, Workload
from benchmarks.apwa.scripted import END_OF_TABLE, READ_TOOL

__all__ = ["PAGE_TOKENS", "Attempt", "as_format", "one_agent", "one_chat", "words_of"]

PAGE_TOKENS = 8_000
_CACHED_FROM, _CACHED_STEP = 1_024, 128
"""OpenAI caches beginnings of 1,024 tokens and more, in steps of 128."""
_READ = {
    "type": "function",
    "function": {
        "name": READ_TOOL,
        "description": f"A page of the table. The last one ends with {END_OF_TABLE}.",
        "parameters": {
            "type": "object",
            "properties": {"page": {"type": "integer"}},
            "required": ["page"],
            "additionalProperties": False,
        },
    },
}


@dataclass
class Attempt:
    """What a client without the engine came to.

    Parameters
    ----------
    answers : dict
        By key of item.
    items_sent : int
        Items that were sent, the last ones perhaps in vain.
    cached_tokens : int
        Prompt tokens that were the beginning of the prompt before.
    ending : str
        Empty if it finished, else why it did not.
    """

    answers: dict[str, Json | None] = field(default_factory=dict)
    items_sent: int = 0
    cached_tokens: int = 0
    ending: str = ""


class _Chat:
    """A conversation that grows."""

    def __init__(self, job: Job, system: str, attempt: Attempt) -> None:
        self._client = OpenAI(base_url=job.base_url, api_key="benchmark")
        self._attempt, self._beginning_tokens = attempt, 0
        self.messages: list[Any] = [{"role": "system", "content": system}]

    def say(self, **options: Any) -> Any:
        """The model's next message, put into the history.

        Raises
        ------
        BadRequestError
            The history is longer than the window, for one.
        """
        # Not `chat.completions.create`: it looks into every message of the history at each turn, which takes more
        # CPU than all else here and would only make this client slower.
        body = {"model": MODEL, "messages": self.messages, **options}
        completion = self._client.post("/chat/completions", cast_to=ChatCompletion, body=body)
        usage = completion.usage
        assert usage is not None
        # Of a history that only grew, all of the prompt before is the beginning of this one.
        self._attempt.cached_tokens += _cached(self._beginning_tokens)
        self._beginning_tokens = usage.prompt_tokens
        said = completion.choices[0].message
        self.messages.append(said.model_dump(exclude_none=True))
        return said

    def forget_half(self) -> bool:
        """Drop the older half of the turns, but for the system message; false if there is nothing to drop."""
        turns = len(self.messages) - 1
        drop = turns // 2 + turns // 2 % 2  # a question goes with its answer
        if drop < 2:
            return False
        del self.messages[1 : 1 + drop]
        self._beginning_tokens = 0
        return True


def _cached(beginning_tokens: int) -> int:
    return beginning_tokens // _CACHED_STEP * _CACHED_STEP if beginning_tokens >= _CACHED_FROM else 0


def one_agent(job: Job, workload: Workload, items: Iterable[Item]) -> Attempt:
    """One agent with a tool that reads the table page by page; when it has read all, it answers about all."""
    attempt = Attempt()
    chat = _Chat(
        job, f"{workload.instruction}\nRead the whole table first. {_how_to_answer(workload)}", attempt
    )
    chat.messages.append({"role": "user", "content": "Do this for the whole table."})
    pages = _pages(items)
    try:
        while True:
            said = chat.say(tools=[_READ])
            if said.tool_calls:
                page, count = next(pages)
                chat.messages.append({"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": page})
                attempt.items_sent += count
                continue
            new = {WHOLE: json.loads(said.content)} if workload.whole else _read_lines(said.content)
            attempt.answers.update(new)
            if workload.whole or not new or len(attempt.answers) >= attempt.items_sent:
                return attempt
            chat.messages.append({"role": "user", "content": "Go on where you stopped."})
    except BadRequestError as why:
        attempt.ending = words_of(why)
        return attempt


def one_chat(job: Job, workload: Workload, items: Iterable[Item], *, forgets: bool) -> Attempt:
    """Each item is the next message of one chat. A chat that `forgets` drops older turns when it is full."""
    attempt = Attempt()
    how = (
        "Answer with JSON." if not workload.whole else "Answer with one summary of all you were given so far."
    )
    chat = _Chat(job, f"{workload.instruction}\n{how}", attempt)
    for calls, item in enumerate(items):
        if forgets and calls >= job.call_limit:
            attempt.ending = f"ended by us after {calls:,} calls"
            return attempt
        chat.messages.append({"role": "user", "content": item.text})
        said = None
        while said is None:
            try:
                said = chat.say(response_format=as_format(workload.schema(item.key)))
            except BadRequestError as why:
                if not forgets or not chat.forget_half():
                    attempt.ending = words_of(why)
                    return attempt
        attempt.items_sent += 1
        attempt.answers[WHOLE if workload.whole else item.key] = json.loads(said.content)
    return attempt


def _how_to_answer(workload: Workload) -> str:
    if workload.whole:
        return 'Then answer with JSON: {"summary": "..."}.'
    return "Then answer with one line of JSON for each item, its key first."


def as_format(schema: Json) -> Json:
    """A schema as the API wants it."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def _pages(items: Iterable[Item]) -> Iterator[tuple[str, int]]:
    """The table's texts in pages of at most `PAGE_TOKENS`, and how many items each holds."""
    texts: list[str] = []
    tokens = 0
    for item in items:
        size = count_tokens(item.text)
        if texts and tokens + size > PAGE_TOKENS:
            yield "\n".join(texts), len(texts)
            texts, tokens = [], 0
        texts.append(item.text)
        tokens += size
    yield "\n".join([*texts, END_OF_TABLE]), len(texts)


def _read_lines(text: str) -> dict[str, Json | None]:
    """Answers by key; a last line that was cut off is left out."""
    found: dict[str, Json | None] = {}
    for line in text.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        found[answer.pop("key")] = answer
    return found


def words_of(why: BadRequestError) -> str:
    """Status, code and message of a refusal."""
    body = why.body if isinstance(why.body, dict) else {}
    return f"{why.status_code} {body.get('code')}: {body.get('message')}"
