"""A real browser for pages that have to work in one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

_RECORDER = """<script>
window.problems = [];
const note = text => window.problems.push(String(text));
addEventListener("error", event => note(event.message));
addEventListener("unhandledrejection", event => note(event.reason));
addEventListener("securitypolicyviolation", event => note("blocked: " + event.blockedURI));
for (const kind of ["error", "warn"]) console[kind] = (...words) => note(words.join(" "));
</script>"""


def in_browser(page: Path, script: str, scratch: Path, *, width: int = 1200) -> dict[str, Any]:
    """Open a page in headless Chromium, run the body of an async function in it, and return what that returns.

    `problems` in the result holds console errors and warnings, uncaught errors and blocked fetches.
    """
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    runner = f"""<script>addEventListener("load", async () => {{
        let result = {{}};
        try {{ result = await (async () => {{ {script} }})(); }} catch (error) {{ note(error.stack); }}
        const out = document.createElement("pre");
        out.id = "result";
        out.textContent = JSON.stringify({{...result, problems: window.problems}});
        document.body.append(out);
    }});</script>"""
    text = page.read_text(encoding="utf-8")
    copy = scratch / "page.html"
    copy.write_text(text.replace("<style>", _RECORDER + "<style>", 1).replace("</body>", runner + "</body>"), "utf-8")
    command = [
        program,
        "--headless=new",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--virtual-time-budget=20000",
        f"--user-data-dir={scratch / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
        copy.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-2000:]
    return json.loads(unescape(found[1]))
