"""A headless Chromium for tests of pages, driven by its DevTools protocol; nothing is fetched from anywhere."""

import asyncio
import contextlib
import itertools
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",  # as root, as in containers, there is none
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
STARTS_WITHIN_S, ANSWERS_WITHIN_S = 60.0, 60.0
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt install chromium)"
)

# What is seen of a page: its pictures, and words that are too small or stand outside the window. What is in a box that
# scrolls by itself may be wider than it.
LOOK = """
(() => {
  const scrolls = (element) => {
    for (let at = element; at; at = at.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return true;
    return false;
  };
  const wide = [], small = [];
  for (const element of document.body.querySelectorAll("*")) {
    const box = element.getBoundingClientRect();
    if (box.right > innerWidth + 1 && !scrolls(element)) wide.push(element.textContent.slice(0, 60));
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (own && parseFloat(getComputedStyle(element).fontSize) < 12) small.push(element.textContent.slice(0, 60));
  }
  const images = [...document.images];
  return {
    title: document.title,
    inner_width: innerWidth,
    scroll_width: document.scrollingElement.scrollWidth,
    wide,
    small,
    images: images.map((image) => ({
      alt: image.alt, pixels: image.naturalWidth, drawn: image.getBoundingClientRect().width, loaded: image.complete,
    })),
  };
})()
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A page as it looks in a window of one width."""

    title: str
    inner_width: int
    scroll_width: int
    wide: list[str]  # elements that reach out of the window
    small: list[str]  # texts below 12 pixels
    images: list[dict[str, Any]]
    errors: list[str]  # of the console


class Browser:
    """One running Chromium. Made by `browser`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    async def look(self, page: str, width: int) -> Seen:
        """Open a page, by its address, in a window of so many pixels; say what is seen once all of it is there."""
        errors: list[str] = []
        target = (await self._ask("Target.createTarget", {"url": "about:blank"}, errors))["targetId"]
        attached = await self._ask("Target.attachToTarget", {"targetId": target, "flatten": True}, errors)
        session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self._ask(f"{domain}.enable", {}, errors, session)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        await self._ask("Emulation.setDeviceMetricsOverride", metrics, errors, session)
        await self._ask("Page.navigate", {"url": page}, errors, session, until="Page.loadEventFired")
        told = await self._ask("Runtime.evaluate", {"expression": LOOK, "returnByValue": True}, errors, session)
        await self._ask("Target.closeTarget", {"targetId": target}, errors)
        return Seen(**told["result"]["value"], errors=errors)

    async def _ask(
        self, method: str, params: dict[str, Any], errors: list[str], session: str = "", until: str = ""
    ) -> dict[str, Any]:
        """Ask, note errors that are told meanwhile, and return the answer, once the event `until` has come as well."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        await self._connection.send(json.dumps(message | ({"sessionId": session} if session else {})))
        answer: dict[str, Any] | None = None
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            while answer is None or until:
                told = json.loads(await self._connection.recv())
                if told.get("id") == number:
                    assert "error" not in told, told
                    answer = told["result"]
                elif told.get("method") == until:
                    until = ""
                else:
                    errors += _errors(told)
        return answer


def _errors(told: dict[str, Any]) -> list[str]:
    """Return what an event says that a console would show as an error, and every request for something outside."""
    params = told.get("params", {})
    match told.get("method"):
        case "Runtime.exceptionThrown":
            return [str(params["exceptionDetails"])]
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
            return [str(params["args"])]
        case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
            return [params["entry"]["text"]]
        case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("file:", "data:")):
            return [f"asked for {params['request']['url']}"]
    return []


@asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    """Run a Chromium until the block ends; `profile` is a new folder for what it keeps."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(STARTS_WITHIN_S):
            while True:
                line = (await process.stderr.readline()).decode(errors="replace")
                assert line, "chromium ended"
                if found := re.search(r"DevTools listening on (ws://\S+)", line):
                    break
        reading = asyncio.create_task(_read_on(process.stderr))
        try:
            async with connect(found[1], max_size=None) as connection:
                yield Browser(connection)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _read_on(stream: asyncio.StreamReader) -> None:
    """Keep the pipe empty, so that the browser never waits for us."""
    while await stream.read(65536):
        pass


def assert_readable(seen: Seen, pictures: int) -> None:
    """Nothing failed, all pictures are there, nothing reaches out of the window, and no word is too small to read."""
    assert not seen.errors
    assert len(seen.images) == pictures
    assert all(image["loaded"] and image["pixels"] and image["alt"] for image in seen.images)
    assert all(0 < image["drawn"] <= seen.inner_width for image in seen.images)
    assert seen.scroll_width <= seen.inner_width
    assert not seen.wide
    assert not seen.small
