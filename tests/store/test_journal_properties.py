"""Whatever the order of puts, flushes, crashes and compactions: flushed answers stay, none is made up."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from apwa_dask.store.journal import Journal, Record

NUMBERS = st.integers(0, 30)
OUTCOMES = st.sampled_from(["ok", "ok", "ok", "truncated", "refused"])


def key_of(number: int) -> bytes:
    # Few distinct prefixes, so that keys collide in the index.
    return (number % 3).to_bytes(8, "big") + number.to_bytes(24, "big")


class JournalMachine(RuleBasedStateMachine):
    """Two writers of one journal, that crash and come back."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="apwa-journal-"))
        self.writers = [self.opened(), self.opened()]
        self.durable: dict[bytes, set[str]] = {}
        self.unflushed: list[list[Record]] = [[], []]
        self.paid = 0

    def opened(self) -> Journal:
        return Journal(str(self.folder), flush_records=10**6, flush_s=3600, compact_above=10**6)

    @rule(writer=st.integers(0, 1), number=NUMBERS, outcome=OUTCOMES, text=st.text(max_size=5))
    def put(self, writer: int, number: int, outcome: str, text: str) -> None:
        self.paid += 1
        record = Record(key_of(number), outcome, text=f"{self.paid} {text}", created_s=float(self.paid))
        self.writers[writer].put(record)
        self.unflushed[writer].append(record)

    @rule(writer=st.integers(0, 1))
    def flush(self, writer: int) -> None:
        self.writers[writer].flush()
        assert self.writers[writer].unflushed == 0
        for record in self.unflushed[writer]:
            if record.outcome == "ok":
                self.durable.setdefault(record.key, set()).add(record.text or "")
        self.unflushed[writer] = []

    @rule(writer=st.integers(0, 1))
    def crash(self, writer: int) -> None:
        """Forget the process's memory without a flush."""
        self.abandon(self.writers[writer])
        self.writers[writer] = self.opened()
        self.unflushed[writer] = []

    def abandon(self, journal: Journal) -> None:
        journal._closer.detach()
        journal._behind._buffer.clear()
        journal.close()

    @rule(writer=st.integers(0, 1))
    def close_and_open(self, writer: int) -> None:
        self.writers[writer].close()
        self.flush(writer)
        self.writers[writer] = self.opened()

    @rule(writer=st.integers(0, 1))
    def compact(self, writer: int) -> None:
        self.writers[writer].compact()

    @invariant()
    def a_fresh_reader_serves_all_that_was_flushed_and_only_that(self) -> None:
        with self.opened() as reader:
            found = reader.get_many([key_of(n) for n in range(31)])
            assert reader.stats().ignored == {}
        assert found.keys() == self.durable.keys()
        for key, record in found.items():
            assert record.key == key
            assert record.outcome == "ok"
            assert record.text in self.durable[key]

    @invariant()
    def a_writer_serves_its_own_answers_before_they_are_flushed(self) -> None:
        for journal, records in zip(self.writers, self.unflushed, strict=True):
            served = [record for record in records if record.outcome == "ok"]
            assert journal.get_many([record.key for record in served]).keys() == {r.key for r in served}

    def teardown(self) -> None:
        for journal in self.writers:
            self.abandon(journal)
        shutil.rmtree(self.folder)


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
