"""Results of a cluster's tasks as they come, whatever happens to its workers meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd
from distributed import Client, Future, KilledWorker, as_completed

from apwa_dask.errors import RunError

__all__ = ["gathered"]

MAX_BLAMES = 64
"""How often one task may be blamed for the death of a worker. Dask blames every task that was on it, so the
innocent are among them; the guilty row is found by `apwa_dask.execution.bisect` long before."""


def gathered(client: Client, futures: Sequence[Future], run_id: str) -> Iterator[pd.DataFrame]:
    """The frames of `futures`, batch by batch, in the order in which they are done.

    Raises
    ------
    RunError
        ``RUN-CLUSTER`` where the scheduler is gone; ``RUN-POISON`` where workers die without end.
    BaseException
        What a task raised.
    """
    blamed: Counter[str] = Counter()
    pending = as_completed(futures, loop=client.loop, with_results=True, raise_errors=False)
    for batch in pending.batches():
        done: list[pd.DataFrame] = []
        killed: list[Future] = []
        for future, result in batch:
            if future.status == "finished":
                done.append(result)
            elif future.status == "error" and isinstance(result[1], KilledWorker):
                killed.append(future)
            elif future.status == "error":
                raise result[1].with_traceback(result[2])
            elif future.status == "pending":  # the task that was killed was its too, and is tried again
                pending.update([future])
            else:
                raise _lost(client, run_id)
        if killed:
            blamed.update(future.key for future in killed)
            _, most = blamed.most_common(1)[0]
            if most > MAX_BLAMES:
                raise _endless(most, run_id)
            client.sync(_retry, client, killed)
            pending.update(killed)
        if done:
            yield pd.concat(done, ignore_index=True)


async def _retry(client: Client, futures: Sequence[Future]) -> None:
    """As `Client.retry`, which fails where the task to try again is inside the graph: no future of the client."""
    keys = await client.scheduler.retry(keys=[future.key for future in futures], client=client.id)
    for key in keys:
        state = client.futures.get(key)
        if state is not None:
            state.retry()


def _lost(client: Client, run_id: str) -> RunError:
    return RunError(
        "the cluster's scheduler is gone, or has forgotten this run",
        where=str(client.scheduler.address) if client.scheduler else "",
        why="the connection to it was lost, or the cluster was restarted",
        fix=f"start a cluster and go on there: apwa resume {run_id} --client ADDRESS",
        saved="finished partitions and paid answers are in the run's store",
        code="RUN-CLUSTER",
    )


def _endless(times: int, run_id: str) -> RunError:
    return RunError(
        f"workers died {times} times around one task",
        why="memory, a crash in a library, or a cluster that is being taken down",
        fix=f"look at the workers' logs, then go on: apwa resume {run_id}",
        saved="finished partitions and paid answers are kept",
        code="RUN-POISON",
    )
