# SPDX-License-Identifier: MIT
"""A headless Chromium driven over the DevTools protocol by a pair of pipes: standard library only.

Owns the browser process and what it said: console messages, exceptions, addresses asked for. Knows nothing of the
page that is tested."""
import base64
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time

KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, ""), " ": (32, " ")}


class Timeout(Exception):
    pass


class Browser:
    """One tab. Coordinates are CSS pixels."""

    def __init__(self, program="chromium"):
        self.profile = tempfile.mkdtemp(prefix="ballast-page-")
        commands, our_commands = os.pipe()
        our_answers, answers = os.pipe()

        def in_child():  # Chromium reads commands from 3 and writes to 4
            a, b = os.dup(commands), os.dup(answers)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-extensions",
             "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=in_child, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.to, self.source = our_commands, our_answers
        self.answers = {}
        self.arrived = threading.Condition()
        self.number = 0
        self.session = None
        self.said, self.asked_for = [], []
        threading.Thread(target=self._listen, daemon=True).start()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.send(domain + ".enable")

    # ---- The protocol --------------------------------------------------------------------------

    def _listen(self):
        rest = b""
        while True:
            more = os.read(self.source, 1 << 16)
            if not more:
                return
            *messages, rest = (rest + more).split(b"\0")
            for m in messages:
                self._take(json.loads(m))

    def _take(self, m):
        if "id" in m:
            with self.arrived:
                self.answers[m["id"]] = m
                self.arrived.notify_all()
            return
        method, p = m.get("method"), m.get("params", {})
        if method == "Runtime.exceptionThrown":
            d = p["exceptionDetails"]
            self.said.append("exception: " + d.get("exception", {}).get("description", d["text"]))
        elif method == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning", "assert"):
            self.said.append(p["type"] + ": " + " ".join(str(a.get("value", "")) for a in p["args"]))
        elif method == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"):
            self.said.append("log: " + p["entry"]["text"] + " " + p["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            self.asked_for.append(p["request"]["url"])

    def send(self, method, timeout=60, **params):
        with self.arrived:
            self.number += 1
            n = self.number
        message = {"id": n, "method": method, "params": params}
        if self.session and not method.startswith("Target."):
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.to, data):]
        with self.arrived:
            if not self.arrived.wait_for(lambda: n in self.answers, timeout):
                raise Timeout(method)
            answer = self.answers.pop(n)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def close(self):
        try:
            self.send("Browser.close", timeout=10)
            self.process.wait(10)
        except Exception:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    # ---- Looking -------------------------------------------------------------------------------

    def js(self, expression):
        r = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in r:
            raise RuntimeError(expression + ": " + json.dumps(r["exceptionDetails"])[:400])
        return r["result"].get("value")

    def wait(self, expression, timeout=60):
        """Until the expression is true; its value."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            value = self.js(expression)
            if value:
                return value
            time.sleep(0.02)
        raise Timeout(expression)

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def screen(self, width, height, dark, mobile=False, scale=1):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile)
        self.send("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def shoot(self, path):
        data = self.send("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))

    # ---- Hands ---------------------------------------------------------------------------------

    def key(self, name, shift=False):
        code, text = KEYS[name]
        p = dict(key=name, code=name if name != " " else "Space", windowsVirtualKeyCode=code, modifiers=8 if shift else 0)
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **p)
        self.send("Input.dispatchKeyEvent", type="keyUp", **p)

    def write(self, text):
        self.send("Input.insertText", text=text)

    def click(self, selector):
        x, y = self.js(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'nearest'}});"
                       "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drop(self, paths, x=300, y=300):
        data = {"items": [], "files": paths, "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, selector, paths):
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=paths)
