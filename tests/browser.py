"""A headless Chromium, spoken to over its debugging pipe: pages are opened, clicked and looked at as people do it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")


class Tab:
    """One page. Messages are JSON, each followed by a zero byte."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing, self.number, self.rest, self.session = reading, writing, 0, b"", None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **options: Any) -> dict[str, Any]:
        """Send a command and return its result; what happens meanwhile is kept in ``events``."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": options}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            piece = os.read(self.reading, 1 << 20)
            assert piece, "the browser has ended"
            self.rest += piece
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def open(self, address: str, width: int = 1280, height: int = 900) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Page.navigate", url=address)

    def run(self, code: str) -> Any:
        """The value of a JavaScript expression, of a promise what it gives."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, code: str, seconds: float = 120) -> Any:
        """The expression's value as soon as it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(code):
                return found
            time.sleep(0.2)
        raise AssertionError(f"never true: {code}\n{self.run('document.body.innerText')[:3000]}")

    def press(self, label: str) -> None:
        """Click the first button in sight whose words a regular expression finds, as soon as it is there."""
        seen = "b.offsetParent && !b.closest('[aria-hidden=true], .visually-hidden')"  # tabs are there twice, to be measured
        named = f"new RegExp({json.dumps(label)}).test(b.innerText.trim() || b.ariaLabel)"
        find = f"[...document.querySelectorAll('button')].find(b => {seen} && {named})"
        code = f"const one = {find}; one?.click(); return !!one"
        self.wait(f"(() => {{ {code} }})()")

    def upload(self, selector: str, *paths: Path) -> None:
        """Choose files in the input that a CSS selector finds."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"there is no {selector}"
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], nodeId=node)

    def picture(self, path: Path, whole: bool = True) -> Path:
        """A screenshot, of the page below the fold, too."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def asked(self) -> list[str]:
        """Addresses that the page has asked for."""
        sent = [each for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A tab of a browser of its own."""
    (to_read, from_browser), (from_us, to_write) = os.pipe(), os.pipe()
    words = [str(PROGRAM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    words += ["--autoplay-policy=no-user-gesture-required", "--no-first-run"]
    shell = f'exec 3<&{from_us} 4>&{from_browser}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *words],
        pass_fds=(from_us, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(from_us)
    os.close(from_browser)
    try:
        yield Tab(to_read, to_write)
    finally:
        process.terminate()
        process.wait(20)
        os.close(to_read)
        os.close(to_write)
