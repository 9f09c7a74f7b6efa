"""The read report: every file once, failures first in view."""

from __future__ import annotations

from apwa_dask.tables import FileReport, ReadReport


def test_the_report_is_a_frame_and_a_short_text() -> None:
    rows = [FileReport(f"{n}.pdf", "failed", "pdf", "needs a password", None) for n in range(20)]
    report = ReadReport((FileReport("a.csv", "ok", "csv", "", 3), *rows))
    frame = report.to_frame()
    assert list(frame.columns) == ["path", "status", "format", "reason", "rows"]
    assert frame["rows"].tolist()[0] == 3
    assert frame["rows"].isna().sum() == 20
    assert len(report.failed) == 20
    assert repr(report).splitlines()[0] == "ReadReport(21 files: 1 ok, 20 failed)"
    assert len(repr(report).splitlines()) == 7


def test_an_empty_report_is_still_a_frame() -> None:
    assert ReadReport(()).to_frame().empty
