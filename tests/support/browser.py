"""A headless Chromium, driven by its own protocol: enough to open a page as a person who is logged in, and to look at it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from tests.support import waiting

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_LOOK_S = 0.25


def look(
    url: str, *, cookies: Mapping[str, str], js: str, until: str, screenshot: Path, timeout_s: float = 60.0
) -> str:
    """Open a page, and read something off it.

    :param js: an expression; its value is returned as text once ``until`` is in it
    :param screenshot: PNG of what was there in the end, also if it is not what was waited for
    """
    assert CHROMIUM, "there is no Chromium"
    profile = Path(tempfile.mkdtemp(prefix="chromium-"))
    options = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1000"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    browser = subprocess.Popen(
        [CHROMIUM, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = _port(profile / "DevToolsActivePort")
        return asyncio.run(_look(port, url, cookies, js, until, screenshot, timeout_s))
    finally:
        browser.terminate()
        browser.wait(timeout=15)
        shutil.rmtree(profile, ignore_errors=True)


def _port(path: Path) -> int:
    waiting.until(lambda: path.exists() and path.read_text().strip(), "Chromium starts")
    return int(path.read_text().split()[0])


async def _look(
    port: int, url: str, cookies: Mapping[str, str], js: str, until: str, screenshot: Path, timeout_s: float
) -> str:
    ids = itertools.count(1)
    async with aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{port}/json") as answered:
            pages = [target for target in await answered.json() if target["type"] == "page"]
        async with http.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:

            async def call(method: str, **params: Any) -> dict[str, Any]:
                mine = next(ids)
                await socket.send_json({"id": mine, "method": method, "params": params})
                while (said := await socket.receive_json(timeout=30)).get("id") != mine:
                    pass
                assert "error" not in said, said
                return dict(said["result"])

            for name, value in cookies.items():
                await call("Network.setCookie", name=name, value=value, url=url)
            await call("Page.navigate", url=url)
            end, text = time.monotonic() + timeout_s, ""
            while until not in text and time.monotonic() < end:
                await asyncio.sleep(_LOOK_S)
                found = await call("Runtime.evaluate", expression=f"String({js})", returnByValue=True)
                text = str(found["result"].get("value", ""))
            await asyncio.sleep(2 * _LOOK_S)
            shot = await call("Page.captureScreenshot", format="png")
            screenshot.write_bytes(base64.b64decode(shot["data"]))
    return text
