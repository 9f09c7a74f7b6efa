"""What it costs to keep every answer, and to come back for them: a journal of a million rows, resumed with no call.

Three fresh processes, one after the other, over the same files and the same store:

- **live**: a small run against the scripted server; CPU of the engine for each call.
- **fill**: the answers of all rows are put in the journal as a run puts them (rows of eight partitions in turn,
  batches of the default size, compaction in the background); CPU and bytes for each answer.
- **resume**: the same program again, as after a kill -9 before the first commit. Every answer must come from the
  journal: the benchmark fails when the server gets one call, or when a row is lost.

    python benchmarks/resume.py [--rows 1000000 --answer-bytes 40 --shuffled --json out.json]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

import apwa_dask as apwa  # noqa: E402
from apwa_dask.agents.agent import Agent  # noqa: E402
from apwa_dask.models.model import Model  # noqa: E402
from apwa_dask.store.journal import Journal, Record  # noqa: E402
from apwa_dask.testing import Script, ScriptedServer  # noqa: E402
from benchmarks.workload import INSTRUCTION, MODEL, TICKET  # noqa: E402

OUTPUT: dict[str, Any] = {"topic": str, "severity": int}
PARTITION_ROWS = 20_000
INTERLEAVED = 8
"""Partitions of a process that are under way at once: their answers alternate in the journal."""
BATCH = 256
"""Answers that the journal writes together by default."""


@dataclass(frozen=True)
class Job:
    """One benchmark, as its child processes are told of it.

    Parameters
    ----------
    folder : str
        Holds ``rows/`` (Parquet files of id and text) and ``store``.
    rows, live_rows : int
        Rows to journal; rows to call for.
    answer_bytes : int
        Length of one answer's text.
    shuffled : bool
        Resume over the same rows in another order than that in which they were answered.
    """

    folder: str
    base_url: str
    rows: int
    live_rows: int
    answer_bytes: int
    shuffled: bool

    @property
    def store(self) -> str:
        return f"{self.folder}/store"

    @property
    def model(self) -> apwa.Model:
        return apwa.Model(MODEL, base_url=self.base_url, max_concurrency=64, price=apwa.Price(1, 1))

    def table(self, source: apwa.Table) -> apwa.Table:
        """The one step of this benchmark over `source`."""
        return source.map(INSTRUCTION, inputs="text", output=OUTPUT, id="label")


def _texts(numbers: Sequence[int]) -> list[str]:
    return [f"Ticket {k}: {TICKET[k * 7 % len(TICKET) :]}"[:120] for k in numbers]


def _answer(row: int, size_bytes: int) -> str:
    """An answer of `size_bytes` that differs from row to row, so that no codec can fold them into one."""
    filler = hashlib.sha256(b"%d" % row).hexdigest() * (size_bytes // 64 + 1)
    return f'{{"topic":"{filler[: max(size_bytes - 27, 1)]}","severity":{row % 5}}}'


def write_rows(job: Job) -> None:
    """The rows as Parquet files of `PARTITION_ROWS`; shuffled over all files where the job says so."""
    folder = Path(job.folder) / "rows"
    folder.mkdir()
    order = np.arange(job.rows)
    if job.shuffled:
        np.random.default_rng(0).shuffle(order)
    for start in range(0, job.rows, PARTITION_ROWS):
        numbers = order[start : start + PARTITION_ROWS]
        frame = pd.DataFrame({"id": numbers, "text": _texts(numbers.tolist())})
        frame.to_parquet(folder / f"{start:09d}.parquet", index=False)


# -- the three processes


def live(job: Job) -> dict[str, float]:
    """CPU of the engine for each call, journal and all."""
    frame = pd.DataFrame({"text": [f"live {text}" for text in _texts(range(job.live_rows))]})
    table = job.table(apwa.from_pandas(frame, npartitions=4))
    settings = {"model": job.model, "scheduler": "threads", "progress": False}
    table.limit(64).run(store=f"{job.folder}/warm", **settings).wait()  # imports and connections
    cpu_s = time.process_time()
    table.run(store=f"{job.folder}/live", **settings).wait()
    return {"engine_cpu_us_per_call": 1e6 * (time.process_time() - cpu_s) / job.live_rows}


def fill(job: Job) -> dict[str, float]:
    """Journal an answer for each row; CPU is of `put`, batching, writing and compaction alone."""
    step = job.table(apwa.from_pandas(pd.DataFrame({"id": [0], "text": ["x"]}))).plan().plan.llm_steps[0]
    agent = Agent(
        step,
        Model.from_dict(job.model.as_dict()).pinned(),
        pa.schema([("id", pa.int64()), ("text", pa.string())]),
    )
    cpu_s = 0.0
    with Journal(job.store) as journal:
        for numbers in _as_answered(job.rows):
            batch = _records(agent, numbers, job.answer_bytes)
            begin_s = time.process_time()
            for record in batch:
                journal.put(record)
            journal.flush()
            cpu_s += time.process_time() - begin_s
        begin_s = time.process_time()
        journal.compact()
        cpu_s += time.process_time() - begin_s
        held = journal.stats()
    if held.records != job.rows:
        raise RuntimeError(f"the journal holds {held.records} answers of {job.rows}")
    return {
        "journal_cpu_us_per_answer": 1e6 * cpu_s / job.rows,
        "journal_bytes_per_row": held.size_bytes / job.rows,
        "segments": float(held.segments),
    }


def _as_answered(rows: int) -> Iterator[list[int]]:
    """Row numbers in batches of `BATCH`, `INTERLEAVED` partitions in turn."""
    stride = PARTITION_ROWS
    for group in range(0, rows, stride * INTERLEAVED):
        starts = list(range(group, min(group + stride * INTERLEAVED, rows), stride))
        mixed = [s + k for k in range(stride) for s in starts if s + k < rows]
        for begin in range(0, len(mixed), BATCH):
            yield mixed[begin : begin + BATCH]


def _records(agent: Agent, numbers: Sequence[int], answer_bytes: int) -> list[Record]:
    records = []
    for row, text in zip(numbers, _texts(numbers), strict=True):
        request = agent.begin({"text": text}).request
        if request is None:
            raise RuntimeError("the engine asks nothing for a row: adapt the benchmark")
        records.append(
            Record(
                key=request.fingerprint("default"),
                outcome="ok",
                text=_answer(row, answer_bytes),
                finish_reason="stop",
                model=MODEL,
                input_tokens=60 + row % 30,
                output_tokens=12,
                cost_usd=1e-6 * (72 + row % 30),
                request_id=f"chatcmpl-{hashlib.md5(b'%d' % row, usedforsecurity=False).hexdigest()}",
                created_s=1.7e9 + row * 1e-3,
                run_id="20261122-130034-9f31c07a",
                step_id="label",
            )
        )
    return records


def resume(job: Job) -> dict[str, float]:
    """The program again over the whole journal."""
    peak_before = _peak_bytes()
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    with Journal(job.store) as journal:
        journal.get_many([bytes(32)])
        opened_s, index_bytes = time.perf_counter() - begin_s, journal.stats().index_bytes
    begin_s = time.perf_counter()
    table = job.table(apwa.read(f"{job.folder}/rows/*.parquet", partition_rows=PARTITION_ROWS))
    run = table.run(model=job.model, store=job.store, scheduler="threads", progress=False).wait()
    wall_s = time.perf_counter() - begin_s
    facts = run.status()
    if (facts["rows_out"], facts["rows_failed"], facts["calls"]) != (job.rows, 0, 0):
        raise RuntimeError(f"rows lost, failed or paid for again: {facts}")
    part = run.folder.read_part(next(iter(run.folder.committed(0).values())))
    ids, severities = part.column("id").to_pylist(), part.column("severity").to_pylist()
    if severities != [row % 5 for row in ids]:
        raise RuntimeError("answers are on the wrong rows")
    return {
        "open_s": opened_s,
        "index_bytes_per_row": index_bytes / job.rows,
        "resume_s": wall_s,
        "resume_cpu_us_per_row": 1e6 * (time.process_time() - cpu_s) / job.rows,
        "peak_mb": _peak_bytes() / 2**20,
        "peak_above_start_mb": (_peak_bytes() - peak_before) / 2**20,
        "values_mb": _decoded_mb(job),
    }


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _decoded_mb(job: Job) -> float:
    """What all values of the journal would take in memory, by the files' own account."""
    total = 0
    for path in Path(job.store).glob("journal/*/seg-*.parquet"):  # `fill` has merged all others
        metadata = pq.read_metadata(path)
        total += sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
    return total / 2**20


# -- the parent


def measure(rows: int, live_rows: int, answer_bytes: int, shuffled: bool) -> dict[str, Any]:
    """All figures of one benchmark.

    Raises
    ------
    RuntimeError
        A process failed, or the resume called the model.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        ScriptedServer(Script(keep_bodies=False, keep_calls=0)) as server,
    ):
        job = Job(folder, server.base_url, rows, live_rows, answer_bytes, shuffled)
        write_rows(job)
        figures = _child(live, job)
        figures |= _child(fill, job)
        before = server.calls
        figures |= _child(resume, job)
        if server.calls != before:
            raise RuntimeError(f"the resume made {server.calls - before} calls")
    figures["journal_share_of_cpu"] = figures["journal_cpu_us_per_answer"] / figures["engine_cpu_us_per_call"]
    return {**figures, "rows": rows, "answer_bytes": answer_bytes, "shuffled": shuffled}


def _child(process: Any, job: Job) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--process", process.__name__, "--job", json.dumps(asdict(job))],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": "benchmark"},
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{process.__name__}: {done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--live-rows", type=int, default=5_000)
    parser.add_argument("--answer-bytes", type=int, default=40)
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--process", choices=["live", "fill", "resume"], help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.process:
        process = {"live": live, "fill": fill, "resume": resume}[chosen.process]
        print(json.dumps(process(Job(**json.loads(chosen.job)))))
        return
    figures = measure(chosen.rows, chosen.live_rows, chosen.answer_bytes, chosen.shuffled)
    for name, value in figures.items():
        print(f"{name:28s} {value:,.3f}" if isinstance(value, float) else f"{name:28s} {value}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
