"""Making a batch is not simply tried again: two batches cost twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from apwa_dask.models.batches import BatchApi
from apwa_dask.models.model import Model
from apwa_dask.models.transport import Raw

Virtual = Callable[..., Any]
LOST = Raw(0, {}, None, "connection")
REFUSED = Raw(429, {"retry-after": "1"}, b"{}")
BUSY = Raw(503, {}, b"{}")


class Endpoint(BatchApi):
    """Answers so to each POST; its list shows the batch of the first one from the second look on."""

    def __init__(self, *answers: Raw) -> None:
        model = Model("m", base_url="http://127.0.0.1:9/v1", api_key_env="")
        lane: Any = SimpleNamespace(secrets=(), model=model)
        super().__init__(lane)
        self.answers, self.posts, self.looks = deque(answers), 0, 0

    async def _send(self, method: str, path: str, *given: Any) -> Raw:
        if method == "POST":
            self.posts += 1
            return self.answers.popleft()
        self.looks += 1
        made = {
            "id": "batch_1",
            "status": "validating",
            "metadata": {"apwa_run": "r", "apwa_shard": "000000"},
        }
        return Raw(200, {}, orjson.dumps({"data": [made] if self.looks > 1 else [], "has_more": False}))


@pytest.mark.parametrize("second", [LOST, REFUSED, BUSY])
def test_a_batch_whose_making_was_not_heard_of_is_looked_for_before_each_further_try(
    virtual_time: Virtual, second: Raw
) -> None:
    endpoint = Endpoint(LOST, second, Raw(200, {}, orjson.dumps({"id": "batch_2"})))
    job = virtual_time(endpoint.create("file", {"apwa_run": "r", "apwa_shard": "000000"}))
    assert (job.id, endpoint.posts) == ("batch_1", 2)


def test_what_was_refused_unmade_is_tried_again_without_a_look(virtual_time: Virtual) -> None:
    endpoint = Endpoint(REFUSED, Raw(200, {}, orjson.dumps({"id": "batch_2"})))
    job = virtual_time(endpoint.create("file", {"apwa_run": "r", "apwa_shard": "000000"}))
    assert (job.id, endpoint.posts, endpoint.looks) == ("batch_2", 2, 0)
