"""A real browser for what people look at: Chromium without a window, steered over its own debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
START_S, ANSWER_S = 60.0, 60.0


class Page:
    """One tab."""

    def __init__(self, browser: Browser, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._browser, self._socket, self._number = browser, socket, 0

    def value(self, script: str) -> Any:
        """What an expression comes to in the page; a promise is waited for."""
        answer = self._browser.run(
            self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, timeout_s: float = 60.0) -> Any:
        """The expression's value, once it is true."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            value = self.value(script)
            if value:
                return value
            time.sleep(0.1)
        raise AssertionError(f"not within {timeout_s:.0f} s: {script}")

    def shot(self, path: Path, *, dark: bool) -> None:
        """A picture of the whole page, as someone with this colour scheme sees it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._browser.run(self._ask("Emulation.setEmulatedMedia", features=[scheme]))
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        size = self._browser.run(self._ask("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000), "scale": 1}
        answer = self._browser.run(
            self._ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def go(self, url: str) -> None:
        self._browser.run(self._ask("Page.enable"))
        answer = self._browser.run(self._ask("Page.navigate", url=url))
        assert not answer.get("errorText"), answer

    async def _ask(self, method: str, **params: Any) -> Any:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_S):
            while True:
                message = json.loads(await self._socket.receive_str())
                if message.get("id") == self._number:
                    assert "error" not in message, message["error"]
                    return message["result"]


class Browser:
    """Chromium with a profile of its own; tabs are opened one after the other."""

    def __init__(self, profile: Path) -> None:
        self._runner = asyncio.Runner()
        self.run = self._runner.run
        self._process = subprocess.Popen(
            [
                str(CHROMIUM),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--window-size=1360,1000",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        told = profile / "DevToolsActivePort"
        end = time.monotonic() + START_S
        while not told.exists() or "\n" not in told.read_text():
            assert self._process.poll() is None, "Chromium ended"
            assert time.monotonic() < end, "Chromium did not start in time"
            time.sleep(0.05)
        self._at = f"http://127.0.0.1:{told.read_text().splitlines()[0]}"
        self._session = self.run(self._new_session())

    def open(self, url: str) -> Page:
        """A new tab at an address."""
        socket = self.run(self._new_tab())
        page = Page(self, socket)
        page.go(url)
        return page

    def close(self) -> None:
        self.run(self._session.close())
        self._runner.close()
        self._process.terminate()
        self._process.wait(60)

    async def _new_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def _new_tab(self) -> aiohttp.ClientWebSocketResponse:
        async with self._session.put(f"{self._at}/json/new?about:blank") as answer:
            target = await answer.json()
        return await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt install chromium)")
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pictures go, for people to look at: the folder APWA_SCREENSHOTS names, or a temporary one."""
    named = os.environ.get("APWA_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
