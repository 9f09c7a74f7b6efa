"""A scripted OpenAI-compatible server on loopback, for the tests of this package and of your own pipelines.

>>> from apwa_dask.testing import Fault, Script, ScriptedServer
>>> script = Script(rpm=600, faults=(Fault("reset", on="row 7", times=1),))
>>> with ScriptedServer(script) as server:  # doctest: +SKIP
...     run_my_pipeline(base_url=server.base_url)
...     assert server.log().billed.distinct_texts == 100

The server answers with values derived from the prompt, so that each row's right answer is known
(`expected_answer`); it really limits, fails, drips and truncates; and its log is the bill. Fixtures for
pytest are in `apwa_dask.testing.fixtures`.
"""

from __future__ import annotations

from apwa_dask.testing.answers import count_tokens, expected_answer
from apwa_dask.testing.batch_script import BatchFault, BatchRules
from apwa_dask.testing.canary import grep_canary
from apwa_dask.testing.log import Call, ServerLog, Stats
from apwa_dask.testing.script import ChatRequest, Fault, Lognormal, On, Rule, Script
from apwa_dask.testing.scripted_server import ScriptedServer

__all__ = [
    "BatchFault",
    "BatchRules",
    "Call",
    "ChatRequest",
    "Fault",
    "Lognormal",
    "On",
    "Rule",
    "Script",
    "ScriptedServer",
    "ServerLog",
    "Stats",
    "count_tokens",
    "expected_answer",
    "grep_canary",
]
