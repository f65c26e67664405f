"""A page in a real Chromium, driven through its DevTools pipe: no driver, no package.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
# Chromium reads from file 3 and writes to file 4. (The second pipe was made later: it is not 3.)
LAUNCH = """import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""
PATIENCE = 120  # seconds for an answer: a broken page shall fail its test, and not hang
KEYS = {" ": "Space", "Enter": "Enter", "Tab": "Tab"}


class Browser:
    """A Chromium with one open page.

    Attributes:
        events: what the page has reported: (method, parameters).
    """

    def __init__(self, profile, size=(1400, 1000)):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        window = f"--window-size={size[0]},{size[1]}"
        command = [CHROMIUM, *OPTIONS, window, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(to_browser), str(from_browser), *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number = itertools.count(1)
        self._rest = b""
        self._session = None
        self.events = []
        try:
            self._attach()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def _attach(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        options = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
        self.call("Target.setAutoAttach", **options)

    def close(self):
        self._session = None
        self.call("Browser.close")
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    # --- the protocol: JSON texts, each ended by a zero byte --------------------------------------

    def call(self, method, **parameters):
        """The result of a command."""
        number = next(self._number)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write, content) :]
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _message(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def wait_for(self, method):
        """Wait until the page has reported it."""
        while not any(name == method for name, _ in self.events):
            self._message()

    # --- the page -------------------------------------------------------------------------------

    def open(self, path):
        """Load a file; `events` are then those of this page."""
        self.events = []
        self.call("Page.navigate", url=Path(path).as_uri())
        self.wait_for("Page.loadEventFired")

    def scripts(self, on):
        """Whether pages may run scripts from now on."""
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def run(self, code):
        """The value of a JavaScript expression."""
        answer = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    @contextlib.contextmanager
    def frame(self):
        """Within this block, `run` runs in the page's frame, which is a process of its own."""
        outer, attached = self._session, dict(self.events).get("Target.attachedToTarget")
        assert attached, "the page has no frame in a process of its own"
        self._session = attached["sessionId"]
        try:
            yield
        finally:
            self._session = outer

    def press(self, key):
        """Press a key and let it go, as a user does."""
        text = {" ": " ", "Enter": "\r"}.get(key)
        code = {" ": 32, "Enter": 13, "Tab": 9, "End": 35, "Home": 36, "Escape": 27}.get(key, 0)
        code = {"ArrowLeft": 37, "ArrowRight": 39}.get(key, code)
        which = {"key": key, "code": KEYS.get(key, key), "windowsVirtualKeyCode": code}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **down, **which)
        self.call("Input.dispatchKeyEvent", type="keyUp", **which)

    def click(self, selector):
        """Click on the middle of an element, scrolled into view."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', inline: 'center'});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def screenshot(self, path):
        """What is seen, as a PNG."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def complaints(self):
        """Errors and messages of the console, and violations of the page's policy."""
        self.run("0")  # what was reported before is read now
        found = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [what for name, what in self.events if name in found]

    def requests(self):
        """The addresses that the page has asked the network for."""
        self.run("0")
        sent = (what for name, what in self.events if name == "Network.requestWillBeSent")
        return [what["request"]["url"] for what in sent]
