"""`KeptRun`: what a run's folder and journal say of it. The same in every process, at work or long ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa

from apwa_dask.execution.batch_jobs import JobBook
from apwa_dask.execution.compile import Stage, compile_plan
from apwa_dask.execution.failures import Failures
from apwa_dask.execution.last_words import write_manifest
from apwa_dask.execution.ledger import Entry, Ledger, with_uncommitted
from apwa_dask.execution.manifest import manifest_of
from apwa_dask.execution.partition import FAILURES
from apwa_dask.execution.runtime import runtime
from apwa_dask.execution.spec import RunSpec
from apwa_dask.models.leases import Money
from apwa_dask.models.prices import is_listed, prices_as_of
from apwa_dask.store.commit import CommitRecord
from apwa_dask.store.journal import Journal
from apwa_dask.store.names import default_store
from apwa_dask.store.runs import RunFolder, RunStatus

if TYPE_CHECKING:
    from apwa_dask.execution.lineage import Lineage
    from apwa_dask.execution.row_story import RowStory
    from apwa_dask.observe.history import History
    from apwa_dask.observe.standalone import Dashboard

__all__ = ["KeptRun"]


class KeptRun:
    """A run as it is stored. `Run` adds its life.

    Parameters
    ----------
    store : str
    folder : RunFolder
    frames : mapping of str to dask.dataframe.DataFrame
        The caller's own frames, by source; empty in a process that found the run again.
    """

    def __init__(self, store: str, folder: RunFolder, frames: Mapping[str, dd.DataFrame]) -> None:
        self.store, self.folder = store, folder
        self.spec = RunSpec.of(folder)
        self.stages = compile_plan(self.spec.plan, self.spec.catalog, self.spec.indexes)
        self._frames = dict(frames)
        self._history: History | None = None

    @property
    def id(self) -> str:
        return self.folder.run_id

    @property
    def how_to_go_on(self) -> str:
        """For a handle that nobody holds: ``table.run(...).result()``, or a cell that was interrupted."""
        elsewhere = "" if self.store == default_store() else f", {self.store!r}"
        return f"Nothing that was paid is lost: apwa.attach({self.id!r}{elsewhere}).resume() goes on."

    def status(self) -> dict[str, Any]:
        """State and counts, from storage: the same in every process."""
        return self.status_of(self.ledger())

    def status_of(self, ledger: Sequence[Entry]) -> dict[str, Any]:
        """`status`, where the run's ledger is known already."""
        done = [self._committed(stage) for stage in self.stages]
        last = done[-1]
        costs = [entry.cost_usd for entry in ledger]
        return {
            "id": self.id,
            "name": self.spec.name,
            "status": self._state(),
            "stages": len(self.stages),
            "stages_done": sum(not self._missing(stage) for stage in self.stages),
            "rows_in": sum(record.rows_in for record in done[0].values()),
            "rows_out": sum(record.rows_out for record in last.values()),
            "rows_failed": sum(record.failed for record in last.values()),
            "cost_usd": None if None in costs else sum(cost or 0.0 for cost in costs),
            "calls": sum(entry.calls for entry in ledger),
            "input_tokens": sum(entry.input_tokens for entry in ledger),
            "cached_tokens": sum(entry.cached_tokens for entry in ledger),
            "output_tokens": sum(entry.output_tokens for entry in ledger),
            "prices_as_of": prices_as_of() if any(map(is_listed, self.spec.models.values())) else None,
            **self._what_is_left(),
            "local_model": any(model.is_local for model in self.spec.models.values()),
        }

    def _what_is_left(self) -> dict[str, Any]:
        """Rows and money still to come: nothing when done, what was found when it stopped, else unknown."""
        if self.folder.status == RunStatus.DONE:
            return {"rows_left": 0, "rows_left_exact": True, "cost_left_usd": 0.0}
        history = self.folder.history()
        last: dict[str, Any] = history[-1] if history else {}
        return {name: last.get(name) for name in ("rows_left", "rows_left_exact", "cost_left_usd")}

    def costs(self) -> pd.DataFrame:
        """Calls, tokens and money by step, model and outcome: all that this run has paid for, failed attempts too.

        Returns
        -------
        pandas.DataFrame
            ``units`` (rows, groups or packs) ended with this ``outcome``; ``reused`` of them were answered by the
            journal and cost nothing. ``calls``, ``input_tokens``, ``cached_tokens``, ``output_tokens`` and
            ``cost_usd`` (missing where a price is unknown) are what was paid. The outcome ``uncommitted`` stands
            for calls whose partition was not committed by the process that paid them: it was killed or stopped,
            or is still at work. Their answers are kept. Of ``estimated`` units the endpoint did not state all
            tokens: theirs are our guess.
        """
        rows = [{name: getattr(entry, name) for name in Entry.__slots__} for entry in self.ledger()]
        return pd.DataFrame(rows, columns=list(Entry.__slots__))

    def ledger(self) -> list[Entry]:
        """What this run has paid for, by step, model and outcome; see `costs`."""
        manifest = self.folder.manifest
        if manifest is not None and manifest.get("status", "done") == "done":
            return [Entry(**line) for line in manifest["costs"]]
        committed = Ledger(
            Entry(**{name: getattr(line, name) for name in Entry.__slots__})
            for stage in self.stages
            for record in self._committed(stage).values()
            for line in record.ledger
        )
        return with_uncommitted(committed, self._journal().bill_of(self.id))

    @property
    def failures(self) -> Failures:
        """One row for each row that failed: id, step, class, message, attempts, tokens, cost, request id,
        inputs. A pandas frame; ``failures.summary()`` puts those that say the same in one line.
        """
        tables = self._failure_tables()
        return Failures.of(pa.concat_tables(tables) if tables else FAILURES.empty_table())

    def asked_in_vain(self) -> list[str]:
        """Fingerprints of the requests about rows that failed; a retry asks them anew."""
        return [
            prompt
            for table in self._failure_tables()
            if "prompt_hash" in table.column_names
            for prompt in table.column("prompt_hash").to_pylist()
            if prompt
        ]

    def _failure_tables(self) -> list[pa.Table]:
        return [
            self.folder.read_part(record.failures)
            for stage in self.stages
            for record in self._committed(stage).values()
            if record.failures is not None
        ]

    def batches(self) -> pd.DataFrame:
        """The batches of a run with ``mode="batch"``: shard, batch id, model, requests, when made, status."""
        columns = ["shard", "batch", "model", "requests", "made_s", "status"]
        return pd.DataFrame(self.batch_table(), columns=columns)

    def batch_table(self) -> list[dict[str, Any]]:
        """The lines of `batches`."""
        return JobBook(self.folder.room("batch")).table()

    def _state(self) -> str:
        return str(self.folder.status)

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run, on what, with what, and what came of it."""
        return self.folder.manifest or manifest_of(self)

    def row(self, row: str | int) -> RowStory:
        """All that is known of one row: status, values, prompts and answers step by step, tools, attempts, cost, and
        where it came from. Makes no call: what was said is found in the journal.

        Parameters
        ----------
        row : str or int
            An id, as in ``run.failures["row_id"]``; or a position in the result, from 0.
        """
        from apwa_dask.execution.explain_row import story_of

        return story_of(self, row)

    def lineage(self, row: str | int) -> Lineage:
        """From a row back to source files and rows, through filters, flat_maps, joins and groups; see `row`."""
        from apwa_dask.execution.lineage import lineage_of, locate, locate_position

        return lineage_of(self, locate_position(self, row) if isinstance(row, int) else locate(self, row))

    def dashboard(self, *, port: int = 0, show: bool = False) -> Dashboard:
        """The page ``/apwa`` for this run, served from this process on loopback until it is closed.

        A run that is worked on by another process, or has ended, is shown as its folder knows it. On a cluster the
        same page is on the scheduler's own dashboard, at ``/apwa``.

        Parameters
        ----------
        port : int
            0 takes a free one.
        show : bool
            Open it in a browser.

        Raises
        ------
        ConfigError
            Bokeh is not installed, or the port is taken.
        """
        from apwa_dask.observe.standalone import dashboard_of

        return dashboard_of(self, port=port, show=show)

    @property
    def seen(self) -> History | None:
        """What this process has seen of the run; None where it did not work on it."""
        return self._history

    @property
    def frames(self) -> Mapping[str, dd.DataFrame]:
        """The caller's own frames, by source; empty in a process that found the run again."""
        return self._frames

    def good_answers(self) -> Counter[str]:
        """Good answers that this run has paid for, by step."""
        bill = self._journal().bill_of(self.id).to_pylist()
        return Counter({line["step_id"]: line["records"] for line in bill if line["outcome"] == "ok"})

    def _write_manifest(self) -> None:
        write_manifest(self)

    def _spent(self) -> Money:
        """What this run has paid already, also for partitions that were never committed: a resume gets the rest."""
        if not self.folder.history():
            return Money()
        paid = self._journal().paid_by(self.id)
        return Money(paid.cost_usd, paid.tokens, paid.calls)

    def _rows_of(self, stage: Stage) -> int | None:
        total = 0
        for source in stage.inputs:
            if isinstance(source, str):
                known = self.spec.sources[source].rows
                if known is None:
                    return None
                total += known
            else:
                total += sum(record.rows_out for record in self._committed(self.stages[source]).values())
        return total

    def _journal(self) -> Journal:
        return runtime().journal(self.store, self.spec.namespace, store_prompts=self.spec.store_prompts)

    def _committed(self, stage: Stage) -> dict[int, CommitRecord]:
        return self.folder.committed(stage.index)

    def _missing(self, stage: Stage) -> bool:
        expected = next(
            (
                e["partitions"]
                for e in self.folder.history()
                if e["event"] == "stage" and e["stage"] == stage.index
            ),
            None,
        )
        return expected is None or len(self._committed(stage)) < expected

    def __repr__(self) -> str:
        facts = self.status()
        cost = "unknown cost" if facts["cost_usd"] is None else f"${facts['cost_usd']:.4f}"
        return (
            f"<Run {self.id} {facts['status']}: {facts['rows_out']} rows, {facts['rows_failed']} failed, "
            f"{facts['calls']} {'call' if facts['calls'] == 1 else 'calls'}, {cost}>"
        )

    def _repr_html_(self) -> str:
        from apwa_dask.observe.reprs import run_html

        return run_html(self.status())
