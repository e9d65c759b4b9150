"""A real Chromium without a display, by its DevTools protocol: open a page, press keys, read it, take its picture."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium here: apt-get install chromium"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
START_S, ANSWER_S = 60.0, 60.0


def find_chromium() -> str | None:
    """Its path."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser of its own; a context manager.

    Args:
        url: what to open.
        profile: an empty folder for it.
        size: of the window, pixels.

    Attributes:
        complaints: what the page has said in its console as an error, or thrown.
    """

    def __init__(self, url: str, profile: Path, size: tuple[int, int] = (1280, 800)) -> None:
        path = find_chromium()
        assert path is not None
        window = f"--window-size={size[0]},{size[1]}"
        command = [path, *FLAGS, window, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        try:
            self._socket = connect(self._page_address(profile), max_size=None, open_timeout=START_S)
            for domain in ("Runtime", "Log", "Page"):
                self._call(f"{domain}.enable")
            self._call("Page.navigate", url=url)
        except BaseException:
            self._process.kill()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait()

    def text(self) -> str:
        """What can be read on the page."""
        return self._call("Runtime.evaluate", expression="document.body.innerText")["result"].get("value", "")

    def press(self, key: str) -> None:
        """Press and release a letter."""
        event = {"key": key.lower(), "code": f"Key{key.upper()}", "windowsVirtualKeyCode": ord(key.upper())}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, **event)

    def picture(self) -> np.ndarray:
        """[height, width, 3] uint8 of what is to be seen."""
        content = base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def _page_address(self, profile: Path) -> str:
        """Where the page listens; the browser writes its port once it runs."""
        file, end = profile / "DevToolsActivePort", time.monotonic() + START_S
        while not (file.is_file() and file.read_text().count("\n")):
            assert time.monotonic() < end and self._process.poll() is None, "Chromium does not start"
            time.sleep(0.1)
        port = file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            return next(target for target in json.load(answer) if target["type"] == "page")["webSocketDebuggerUrl"]

    def _call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(ANSWER_S))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._listen(message.get("method"), message.get("params", {}))

    def _listen(self, event: str | None, about: Any) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.complaints.append(" ".join(str(part.get("value", part)) for part in about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
