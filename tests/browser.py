"""A real browser for pages that have to work in one: headless Chromium, steered over a pipe (DevTools protocol)."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE_S = 120
_CODES = {"Tab": 9, "Enter": 13, "PageUp": 33, "PageDown": 34, "ArrowLeft": 37, "ArrowRight": 39}

# What a page asks of the network is refused by its own policy; this sees whether it tried.
_RECORDER = """
window.blocked = [];
addEventListener("securitypolicyviolation", event => window.blocked.push(event.blockedURI));
"""


class Browser:
    """One Chromium with one page.

    Attributes:
        problems: Console errors and warnings, uncaught errors, and blocked fetches of the page that is open.
    """

    def __init__(self, profile: Path) -> None:
        program = next((found for name in _NAMES if (found := shutil.which(name))), None)
        if program is None:
            pytest.skip("needs Chromium (apt-get install chromium)")
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()

        def as_chromium_wants() -> None:
            kept = os.dup(theirs_in), os.dup(theirs_out)  # either may be 3 or 4 itself
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        options = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(
            [program, *options],
            preexec_fn=as_chromium_wants,  # noqa: PLW1509  # dup and dup2 are safe between fork and exec
            close_fds=False,
            **quiet,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._sent, self._rest, self._session = 0, b"", None
        self.problems: list[str] = []
        pages = [one for one in self._ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        self._session = self._ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        self._ask("Page.addScriptToEvaluateOnNewDocument", source=_RECORDER)

    def open(self, page: Path, *, width: int = 1200, height: int = 900, phone: bool = False) -> None:
        """Load a page at a size in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Page.navigate", url="about:blank")
        self.problems.clear()
        self._ask("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + _PATIENCE_S
        while self.run("return location.protocol + document.readyState") != "file:complete":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.05)

    def run(self, body: str) -> Any:
        """What the body of an async function returns in the page."""
        options = {"awaitPromise": True, "returnByValue": True}
        answer = self._ask("Runtime.evaluate", expression=f"(async () => {{ {body} }})()", **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        blocked = self._ask("Runtime.evaluate", expression="window.blocked ?? []", **options)["result"]["value"]
        self.problems += [f"blocked: {target}" for target in blocked if f"blocked: {target}" not in self.problems]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and let go of a key."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": _CODES[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **about)

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self._ask("Page.printToPDF")["data"])

    def close(self) -> None:
        """End the program."""
        self._ask("Browser.close")
        self._process.wait(_PATIENCE_S)
        os.close(self._read)
        os.close(self._write)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None and not method.startswith(("Browser.", "Target.")):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while (answer := self._next()).get("id") != self._sent:
            self._note(answer)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], _PATIENCE_S)
            assert ready, "the browser does not answer"
            read = os.read(self._read, 1 << 16)
            assert read, "the browser has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        about = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(about["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                self.problems.append(json.dumps(about["args"]))
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                self.problems.append(about["entry"]["text"])
