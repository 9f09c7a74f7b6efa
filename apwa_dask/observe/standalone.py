"""The dashboard page of one run without a cluster: a Bokeh server of its own, on loopback."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import cache
from html import escape
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any

from apwa_dask.errors import ConfigError
from apwa_dask.observe.stored_picture import stored_picture

if TYPE_CHECKING:
    from bokeh.document import Document
    from jinja2 import Template

    from apwa_dask.execution.kept import KeptRun
    from apwa_dask.observe.page import Pictures

__all__ = ["Dashboard", "dashboard_of"]

HOST = "127.0.0.1"
START_S = 20.0


class Dashboard:
    """A served page. It goes on until `close`, the end of a ``with`` block, or the end of the process.

    Attributes
    ----------
    url : str
        Where to look. On loopback: whoever is on this machine may look, and nobody else.
    """

    def __init__(self, pictures: Pictures, *, port: int = 0) -> None:
        self._pictures = pictures
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: OSError | None = None
        self.url = ""
        self._thread = threading.Thread(target=self._serve, args=(port,), name="apwa-dashboard", daemon=True)
        self._thread.start()
        self._ready.wait(START_S)
        if self._error is not None or not self.url:
            raise ConfigError(
                f"the dashboard cannot listen on port {port}",
                why=str(self._error or "the server did not start in time"),
                fix="give another port, or 0 for a free one",
                code="CONFIG-DASHBOARD",
            ) from self._error

    def close(self) -> None:
        """Stop serving. Closing again changes nothing."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(START_S)

    def wait(self) -> None:
        """Until it is closed; Ctrl-C gets through."""
        while self._thread.is_alive():
            self._thread.join(0.5)

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Dashboard {self.url}>" if self._thread.is_alive() else "<Dashboard closed>"

    def _repr_html_(self) -> str:
        return f'<a href="{escape(self.url)}" target="_blank" rel="noreferrer">{escape(self.url)}</a>'

    def _serve(self, port: int) -> None:
        try:
            asyncio.run(self._work(port))
        except OSError as error:
            self._error = error
        finally:
            self._ready.set()

    async def _work(self, port: int) -> None:
        from bokeh.server.server import BaseServer
        from bokeh.server.tornado import BokehTornado
        from bokeh.server.util import bind_sockets
        from tornado.httpserver import HTTPServer
        from tornado.ioloop import IOLoop

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        sockets, bound = bind_sockets(HOST, port)
        # pages of other sites may not open our socket, whatever name they give this machine
        origins = [f"{HOST}:{bound}", f"localhost:{bound}"]
        pages = BokehTornado({"/apwa": self._fill}, extra_websocket_origins=origins, use_index=False)
        http = HTTPServer(pages)
        server = BaseServer(IOLoop.current(), pages, http)
        server.start()
        http.add_sockets(sockets)
        self.url = f"http://{HOST}:{bound}/apwa"
        self._ready.set()
        try:
            await self._stop.wait()
        finally:
            server.unlisten()
            server.stop()
            await http.close_all_connections()

    def _fill(self, doc: Document) -> None:
        from apwa_dask.observe.page import fill

        fill(doc, self._pictures, time.time)
        doc.template = _template()


def dashboard_of(run: KeptRun, *, port: int = 0, show: bool = False) -> Dashboard:
    """Serve the page of a run; see `Run.dashboard`."""
    if find_spec("bokeh") is None:
        raise ConfigError(
            "the dashboard needs Bokeh",
            fix="pip install 'apwa-dask[dashboard]'",
            saved="the run goes on",
            code="CONFIG-BOKEH",
        )
    dashboard = Dashboard(_pictures_of(run), port=port)
    if show:
        import webbrowser

        webbrowser.open(dashboard.url)
    return dashboard


def _pictures_of(run: KeptRun) -> Pictures:
    """What this process sees of the run; for one of another process, what its folder knows."""
    look: Callable[[], Any] = stored_picture(run)

    def pictures() -> list[Any]:
        history = run.seen
        return [look() if history is None else history.picture()]

    return pictures


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader

    return Environment(loader=PackageLoader("apwa_dask.observe"), autoescape=True).get_template(
        "dashboard.html.j2"
    )
