"""What the Python tests share: scripted upstreams (upstream.mjs, as one process), the router, a runner. Standard library only.

ROUTER_BIN names the program (default ./router). All ports are free ones on loopback; all processes end with the test program.
"""
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BIN = os.path.abspath(os.environ.get("ROUTER_BIN") or ROOT / "router")
CALM = {"health": {"interval": 0}, "model_list": {"interval": 0}}
STACK = contextlib.ExitStack()  # closed by main()


def directory():
    return pathlib.Path(STACK.enter_context(tempfile.TemporaryDirectory(prefix="router-clients-")))


class Upstreams:
    """`count` scripted endpoints; see upstream.mjs for what they do and which verbs they have."""

    def __init__(self, count=1):
        self.process = subprocess.Popen(["node", str(HERE / "upstream.mjs"), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        STACK.callback(self.close)
        told = json.loads(self.process.stdout.readline())
        self.control, self.urls = told["control"], told["urls"]

    def close(self):
        self.process.stdin.close()  # it ends with its stdin
        self.process.wait(10)

    def call(self, verb, **args):
        request = urllib.request.Request(self.control, json.dumps({"verb": verb, **args}).encode(), method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            raise AssertionError(json.load(e)["error"]) from None

    def count(self, endpoint=0):
        return self.call("requests", endpoint=endpoint, since=10**9)["count"]

    def last(self, endpoint=0):
        return self.call("requests", endpoint=endpoint, since=self.count(endpoint) - 1)["requests"][0]

    def last_is(self, state, endpoint=0):
        """Waits until the last request has ended so."""
        self.call("state", endpoint=endpoint, number=self.count(endpoint) - 1, state=state)

    def step(self, number):
        """The next event of that paced request; how many are left after it."""
        return self.call("step", number=number)["left"]


def config(urls, pool=None, **top):
    """One pool for every model, without probes. JSON is YAML."""
    return json.dumps({**top, "pools": [{"name": "p", "models": ["tiny", "org/model:7b", "*"], "endpoints": urls, **CALM, **(pool or {})}]}, indent=2)


class Router:
    """`text` is the configuration, or the path of one that is there."""

    def __init__(self, text, listen="127.0.0.1:0"):
        self.path = text if isinstance(text, pathlib.Path) else directory() / "pools.yaml"
        if self.path is not text:
            self.path.write_text(text)
        self.process = subprocess.Popen([BIN, "-config", str(self.path), "-listen", listen], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        STACK.callback(self.stop)
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"listening on (\S+)", line)
            if found:
                break
        else:
            raise AssertionError("the router did not start:\n" + "".join(self.log))
        self.listen = found.group(1)
        self.url = f"http://{self.listen}"
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(35)
        assert status == 0, f"the router ended with status {status}:\n" + "".join(self.log)


def raised(kind, do):
    """The exception of that kind that do() ends with."""
    try:
        do()
    except kind as e:
        return e
    raise AssertionError(f"no {kind.__name__} was raised")


def until(predicate, what, seconds=10):
    """Waits for something that no event tells of."""
    end = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def report(name, number, do):
    """Runs one test and says how it went, as TAP."""
    try:
        do()
    except Exception:  # noqa: BLE001: shown
        print(f"not ok {number} - {name}")
        print("".join(f"  {line}\n" for line in traceback.format_exc().splitlines()), flush=True)
        return False
    print(f"ok {number} - {name}", flush=True)
    return True


def main(names):
    """Runs every test_ function of a module's globals, ends what they started; exits 1 if any of it failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    tests = [(name, value) for name, value in names.items() if name.startswith("test_") and callable(value)]
    try:
        good = [report(name.removeprefix("test_").replace("_", " "), i, do) for i, (name, do) in enumerate(tests, 1)]
    finally:
        ended = report("all that was started ends well", len(tests) + 1, STACK.close)
    sys.exit(0 if all(good) and ended else 1)
