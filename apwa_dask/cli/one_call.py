"""One tiny question to the model that a run would ask: the only proof that key, name and address go together."""

from __future__ import annotations

import asyncio
from typing import Any

from apwa_dask.errors import ApwaError
from apwa_dask.models.budget import Budget, Wallet
from apwa_dask.models.client import Client
from apwa_dask.models.endpoints import Endpoints
from apwa_dask.models.model import Model
from apwa_dask.models.retry import RetryPolicy
from apwa_dask.models.types import Message, OutcomeClass, Purpose, Reply, Request, Template

__all__ = ["answer_of", "asked_for"]

ANSWER_TOKENS = 64
"""Enough for a word, and little enough that a model which thinks aloud costs next to nothing."""
TIMEOUT_S = 60.0
_ONE_ATTEMPT = RetryPolicy(attempts=1, deadline_attempts=1, reasks=1, unreachable_attempts=1)
_ANSWERS = (OutcomeClass.OK, OutcomeClass.TRUNCATED)


def asked_for(model: Any) -> Model:
    """The model that a run without aliases would ask, pinned.

    Raises
    ------
    ConfigError
        An endpoint is configured, and no model is named for it.
    """
    from apwa_dask.api.settings import models_of

    return models_of(model)[""].pinned()


def answer_of(model: Model) -> Reply:
    """Ask once, without retries and apart from every store and run.

    Raises
    ------
    ApwaError
        The endpoint refuses for good, cannot be reached, or says nothing within `TIMEOUT_S`.
    """
    from apwa_dask.execution.loop import run_sync

    return run_sync(_asked(model))


async def _asked(model: Model) -> Reply:
    endpoints = Endpoints()
    client = Client(endpoints, Wallet(Budget()), policy=_ONE_ATTEMPT)
    words = Message("user", "Answer with the word yes.")
    request = Request(Template(model, (), max_output_tokens=ANSWER_TOKENS), (words,))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reply = await client.call(request, Purpose("doctor", "doctor"))
    except TimeoutError:
        raise ApwaError(f"no answer within {TIMEOUT_S:g} s", fix="look at the endpoint's own log") from None
    finally:
        await endpoints.close()
    if reply.outcome not in _ANSWERS:
        raise ApwaError(reply.message or str(reply.outcome))
    return reply
