"""Programs that tests start, kill, freeze and interrupt: ``python programs.py NAME '{"url": ...}'``."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

import pandas as pd

import apwa_dask as apwa


def say(word: str, value: object) -> None:
    """One line that the test waits for."""
    sys.stdout.write(f"{word} {value}\n")
    sys.stdout.flush()


def frame(rows: int) -> pd.DataFrame:
    """As in `processes.frame`, which a program cannot import."""
    return pd.DataFrame(
        {"text": [f"note {k}" for k in range(rows)], "k": range(rows)}, index=[f"i{k}" for k in range(rows)]
    )


def place(options: dict[str, Any]) -> dict[str, Any]:
    """Where to run: on a cluster, or in threads of this process."""
    if "cluster" not in options:
        return {"scheduler": "threads"}
    from distributed import Client

    return {"client": Client(options["cluster"], set_as_default=False)}


def started(options: dict[str, Any], progress: Any = False, **more: Any) -> apwa.Run:
    model = apwa.Model(
        "test-model",
        base_url=options["url"],
        api_key_env="APWA_TEST_KEY",
        max_concurrency=options.get("concurrency", 8),
        price=apwa.Price(1, 1),
    )
    table = apwa.from_pandas(frame(options["rows"]), npartitions=options.get("npartitions", 8))
    mapped = table.map("How severe?", inputs="text", output={"severity": int}, id="ask", **more)
    run = mapped.run(model=model, store=options["store"], progress=progress, **place(options))
    say("RUN", run.id)
    return run


def whole(options: dict[str, Any]) -> None:
    started(options).wait()
    say("DONE", _peak_mib())


def resume(options: dict[str, Any]) -> None:
    run = apwa.attach(options["run"], options["store"], progress=False, **place(options)).resume().wait()
    say("DONE", run.id)


def interrupted(options: dict[str, Any]) -> None:
    """As a shell's program or a notebook's cell: Ctrl-C arrives in `wait`."""

    def watch(event: apwa.Event) -> None:
        if type(event).__name__ == "State":
            say("WORDS", event.words)

    run = started(options, watch)
    try:
        run.wait()
    except KeyboardInterrupt:
        say("STATUS", run.status()["status"])


def poisoned(options: dict[str, Any]) -> None:
    """A tool that ends the process on one row; each death leaves a line in a file."""
    _register_killer(options)
    run = started(options, tools=["look"])
    run.wait()
    say("DONE", run.id)


def resume_poisoned(options: dict[str, Any]) -> None:
    _register_killer(options)
    resume(options)


def _register_killer(options: dict[str, Any]) -> None:
    deaths = options["deaths"]

    @apwa.capability(name="look", version="1")
    def look(word: str) -> str:
        """Look a word up."""
        if word == "poison":
            with Path(deaths).open("a") as file:
                file.write(f"{os.getpid()}\n")
            os._exit(77)
        return f"found {word}"


def measured(options: dict[str, Any]) -> None:
    """Medians of memory over the fifth tenth of the rows and over the last, said in MiB."""
    from apwa_dask.store import journal

    # so that a short soak fills the memory of recent answers before the first mark
    journal._RECENT_BYTES = 2**20
    middle: list[float] = []  # by then all that is made once is made
    last: list[float] = []
    done = 0

    def watch(event: apwa.Event) -> None:
        nonlocal done
        if type(event).__name__ == "PartitionDone":
            done += event.rows_in
            tenth = 10 * done // options["rows"]
            if tenth in (4, 9):
                (middle if tenth == 4 else last).append(_now_mib())

    model = apwa.Model(
        "test-model",
        base_url=options["url"],
        api_key_env="APWA_TEST_KEY",
        max_concurrency=options["concurrency"],
    )
    table = apwa.from_pandas(frame(options["rows"]), npartitions=options["npartitions"])
    mapped = table.map("How severe?", inputs="text", output={"severity": int}, id="ask")
    run = mapped.run(model=model, store=options["store"], progress=watch, scheduler="threads").wait()
    # medians: while segments are merged, memory is higher for a moment
    say("HALF", statistics.median(middle))
    say("END", statistics.median(last))
    say("THREADS", len(os.listdir("/proc/self/task")))
    say("FILES", len(os.listdir("/proc/self/fd")))
    say("DONE", run.id)


def full_disk(options: dict[str, Any]) -> None:
    """A store on a disk of its own that is too small, and grows when the run has stopped."""
    import subprocess

    folder = Path(options["disk"])
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    subprocess.run([*mount, "-o", "size=400k"], check=True)
    run = started({**options, "store": str(folder / "store")})
    try:
        run.wait()
    except apwa.ApwaError as stopped:
        say("STOPPED", str(stopped).replace("\n", " "))
    say("STATUS", run.status()["status"])
    subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True)
    say("ROOM", "now")
    run.resume().wait()
    say("ROWS", int(run.result()["severity"].notna().sum()))
    from apwa_dask.store.journal import Journal

    with Journal(run.store) as journal:
        say("DAMAGED", journal.stats().ignored_count)


def _now_mib() -> float:
    """Memory that is held: what the allocator only keeps for later is given back first."""
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    globals()[sys.argv[1]](json.loads(sys.argv[2]))
