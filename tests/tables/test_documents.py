"""Text, HTML, PDF and images, and tables read as documents."""

from __future__ import annotations

import io

import pytest

from apwa_dask.errors import SourceError
from apwa_dask.tables import read_sources


def _pdf(pages: list[str], password: str | None = None) -> bytes:
    canvas_of = pytest.importorskip("reportlab.pdfgen.canvas")
    buffer = io.BytesIO()
    canvas = canvas_of.Canvas(buffer, encrypt=password)
    for text in pages:
        canvas.drawString(72, 720, text)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def test_a_pdf_gives_a_row_a_page_however_it_is_cut(tmp_path, one, whole) -> None:
    (tmp_path / "a.pdf").write_bytes(_pdf([f"page number {n}" for n in range(1, 8)]))
    for rows in (1, 3, 100):
        table = whole(one(tmp_path / "a.pdf", partition_rows=rows))
        assert table.column("page").to_pylist() == [1, 2, 3, 4, 5, 6, 7]
        assert [text.strip() for text in table.column("text").to_pylist()] == [
            f"page number {n}" for n in range(1, 8)
        ]


def test_a_pdf_can_be_one_row(tmp_path, one, whole) -> None:
    (tmp_path / "a.pdf").write_bytes(_pdf(["first", "second"]))
    rows = whole(one(tmp_path / "a.pdf", pdf_rows="document")).to_pylist()
    assert len(rows) == 1
    assert rows[0]["page"] is None
    assert rows[0]["text"].split() == ["first", "second"]


def test_locked_and_cut_off_pdfs_fail_by_name_beside_a_good_one(tmp_path, one) -> None:
    good = _pdf(["hello"])
    (tmp_path / "good.pdf").write_bytes(good)
    (tmp_path / "locked.pdf").write_bytes(_pdf(["secret"], password="x"))
    (tmp_path / "cut.pdf").write_bytes(good[:60])
    source = one(tmp_path)
    assert source.manifest.rows == 1
    failed = {row.path: row.reason for row in read_sources(str(tmp_path)).report.failed}
    assert set(failed) == {"locked.pdf", "cut.pdf"}
    assert "password" in failed["locked.pdf"]


def test_html_gives_title_and_visible_text(tmp_path, one, whole) -> None:
    page = (
        "<html><head><title> A &amp; B </title><style>p {color: red}</style></head>"
        "<body><script>steal()</script><h1>Head</h1><p>caf&eacute; <b>bold</b></p>"
        "<noscript>no</noscript></body>"
    )
    (tmp_path / "a.html").write_text(page)
    assert whole(one(tmp_path / "a.html")).to_pylist() == [
        {"path": "a.html", "title": "A & B", "text": "Head\ncafé\nbold"}
    ]


def test_html_is_decoded_as_it_declares(tmp_path, one, whole) -> None:
    page = '<html><head><meta charset="iso-8859-2"></head><body><p>Łódź</p></body></html>'
    (tmp_path / "a.html").write_bytes(page.encode("iso-8859-2"))
    assert whole(one(tmp_path / "a.html")).column("text").to_pylist() == ["Łódź"]


def test_a_mixed_folder_gives_one_table_a_shape(tmp_path, whole) -> None:
    (tmp_path / "reviews.csv").write_text("id,text\n1,good\n2,bad\n")
    (tmp_path / "notes.md").write_text("# Notes\n")
    (tmp_path / "page.html").write_text("<html><body>hi</body></html>")
    (tmp_path / "pic.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 20)
    sources = read_sources(str(tmp_path))
    shapes = {tuple(source.manifest.schema.names): source.manifest.rows for source in sources.values()}
    assert shapes == {("id", "text"): 2, ("path", "text", "title"): 2, ("path", "media"): 1}
    for source in sources.values():
        whole(source)


def test_everything_can_be_documents(tmp_path, one, whole) -> None:
    (tmp_path / "a.csv").write_text("id,text,city\n1,good,Rome\n2,bad,\n")
    (tmp_path / "b.jsonl").write_text('{"only": "bare value", "n": 3}\n')
    (tmp_path / "c.txt").write_text("plain")
    (tmp_path / "d.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows = whole(one(tmp_path, documents=True)).to_pylist()
    assert rows == [
        {"path": "a.csv", "page": 0, "text": "text: good\ncity: Rome", "media": None},
        {"path": "a.csv", "page": 1, "text": "text: bad", "media": None},
        {"path": "b.jsonl", "page": 0, "text": "bare value", "media": None},
        {"path": "c.txt", "page": None, "text": "plain", "media": None},
        {"path": "d.png", "page": None, "text": None, "media": b"\x89PNG\r\n\x1a\n"},
    ]


def test_a_format_can_be_named(tmp_path, one, whole) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert whole(one(tmp_path / "a.csv", format="text")).column("text").to_pylist() == ["a,b\n1,2\n"]
    with pytest.raises(Exception, match="parquet"):
        read_sources(str(tmp_path / "a.csv"), format="parkuet")


def test_content_tells_the_format_where_the_name_does_not(tmp_path) -> None:
    (tmp_path / "one").write_text('{"a": 1}\n{"a": 2}\n')
    (tmp_path / "two").write_text("a\tb\n1\t2\n3\t4\n")
    (tmp_path / "three").write_text("Just some words.\n")
    (tmp_path / "four.dat").write_bytes(bytes(range(256)) * 10)
    (tmp_path / "five.csv").write_bytes(_pdf(["hi"]))
    formats = {row.path: row.format for row in read_sources(str(tmp_path)).report}
    assert formats == {"one": "jsonl", "two": "csv", "three": "text", "four.dat": "", "five.csv": "pdf"}


def test_a_folder_of_nothing_readable_lists_each_reason(tmp_path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "b.docx").write_bytes(b"PK\x03\x04")
    with pytest.raises(SourceError) as caught:
        read_sources(str(tmp_path))
    assert "a.parquet: " in caught.value.why
    assert "b.docx: no reader for .docx" in caught.value.why
