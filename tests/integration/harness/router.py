"""The router as a process: its configuration, its logs, its end.

ROUTER_BIN names the program (default build/asan/router). A sanitizer's report on stderr, or an exit status other than 0,
fails the test that started it.
"""
import json
import os
import pathlib
import re
import signal as signals
import subprocess
import threading

from . import yamlout
from .client import RawClient, chat_body
from .upstream import wait_until
from .wire import DEADLINE, WaitTimeout

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROUTER_BIN = os.environ.get("ROUTER_BIN") or str(ROOT / "build" / "asan" / "router")
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|UndefinedBehaviorSanitizer|runtime error:|Assertion .* failed|SUMMARY: .*Sanitizer"
                       r"|^==[0-9]+== (?!Warning)\S", re.M)  # the last is valgrind's: ROUTER_BIN may be a script that runs the router under it
PATIENCE = 6 if os.environ.get("VALGRIND") else 1
START = max(DEADLINE, 10) * PATIENCE


def environment(extra=None):
    env = {k: v for k, v in os.environ.items() if k not in ("LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "JOURNAL_STREAM")}
    env["ASAN_OPTIONS"] = env.get("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99")
    env["UBSAN_OPTIONS"] = env.get("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1:exitcode=99")
    env.update(extra or {})
    return env


def run_router(*args, cwd=None, env=None, binary=None, timeout=20):
    """Runs the program to its end: CompletedProcess with text output. A sanitizer's report fails."""
    done = subprocess.run([binary or ROUTER_BIN, *map(str, args)], cwd=cwd, env=environment(env), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout * PATIENCE)
    assert not SANITIZER.search(done.stderr), done.stderr
    assert done.returncode >= 0, f"ended by signal {-done.returncode}: {done.stderr}"
    return done


class Router:
    """config: a dict, or YAML text. Without an explicit `listen` argument it listens on 127.0.0.1:0."""

    def __init__(self, directory, config, listen=("127.0.0.1:0",), args=(), env=None, cwd=None, binary=None, wait=True):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config_path = self.directory / "pools.yaml"
        self.write_config(config)
        command = [binary or ROUTER_BIN, "-config", str(self.config_path)]
        for address in listen:
            command += ["-listen", str(address)]
        self.command = command + [str(a) for a in args]
        self.cond = threading.Condition()
        self.log, self.out = [], []
        self.stopped = False
        self.process = subprocess.Popen(self.command, cwd=cwd or self.directory, env=environment(env), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.pid = self.process.pid
        self.readers = [threading.Thread(target=self.collect, args=pair, daemon=True)
                        for pair in ((self.process.stderr, self.log), (self.process.stdout, self.out))]
        for reader in self.readers:
            reader.start()
        if wait:
            self.wait_listening(max(1, len(listen)))

    def write_config(self, config):
        self.config_path.write_text(config if isinstance(config, str) else yamlout.text(config))

    def collect(self, pipe, lines):
        for line in iter(pipe.readline, b""):
            with self.cond:
                lines.append(line.decode("utf-8", "backslashreplace").rstrip("\n"))
                self.cond.notify_all()
        with self.cond:
            self.cond.notify_all()

    # where

    def listening(self):
        return [m.group(1) for line in list(self.log) if (m := re.search(r"\blistening on (\S+)", line))]

    def wait_listening(self, n=1):
        def settled():
            return len(self.listening()) >= n or self.process.poll() is not None
        with self.cond:
            self.cond.wait_for(settled, START)
        if len(self.listening()) < n:
            self.kill()
            raise AssertionError(f"the router did not listen on {n} addresses:\n" + "\n".join(self.log))
        return self.listening()

    @property
    def addresses(self):
        """What RawClient takes, one a listening socket."""
        found = []
        for text in self.listening():
            if text.startswith("unix:"):
                found.append(text[5:])
            else:
                host, _, port = text.rpartition(":")
                host = host.strip("[]")
                found.append(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)))
        return found

    @property
    def address(self):
        return self.addresses[0]

    @property
    def port(self):
        return self.address[1]

    @property
    def authority(self):
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # logs

    def wait_for(self, predicate, what, timeout=DEADLINE):
        with self.cond:
            if not self.cond.wait_for(lambda: predicate(), timeout):
                raise WaitTimeout(f"{what}\nstderr:\n" + "\n".join(self.log[-40:]) + "\nstdout:\n" + "\n".join(self.out[-20:]))

    def log_contains(self, pattern, timeout=DEADLINE):
        """Waits for a stderr line that matches; returns it."""
        found = []

        def look():
            found[:] = [line for line in self.log if re.search(pattern, line)]
            return found
        self.wait_for(look, f"no log line matches {pattern!r}", timeout)
        return found[0]

    def access_lines(self, n=1, path=None, timeout=DEADLINE, **wanted):
        """The access lines, once there are n of them (of that path, with those values)."""
        found, seen = [], 0

        def look():
            nonlocal seen  # each line is read once: thousands of them would else keep the thread that collects them waiting
            new, seen = self.out[seen:], len(self.out)
            for line in new:
                entry = json.loads(line)
                if (path is None or entry["path"] == path) and all(entry[k] == v for k, v in wanted.items()):
                    found.append(entry)
            return len(found) >= n
        self.wait_for(look, f"fewer than {n} access lines of path {path} with {wanted}", timeout)
        return found

    # figures

    def rss(self):
        """Resident bytes."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def cpu(self):
        """Seconds of CPU used so far."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_fds(self, at_most, timeout=DEADLINE):
        wait_until(lambda: self.fds() <= at_most, f"more than {at_most} descriptors stay open", timeout)

    # life

    def signal(self, number):
        self.process.send_signal(number)

    def wait_exit(self, timeout=DEADLINE):
        """The exit status; everything it wrote has been read."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise WaitTimeout("the router did not exit\n" + "\n".join(self.log[-40:])) from None
        for reader in self.readers:
            reader.join(DEADLINE)
        self.stopped = True
        return status

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.wait_exit()

    def stop(self, timeout=35):
        """SIGTERM, and all must be well: status 0, no sanitizer report, every access line whole."""
        if not self.stopped:
            if self.process.poll() is None:
                self.signal(signals.SIGTERM)
            try:
                self.wait_exit(timeout)
            except WaitTimeout:
                self.process.kill()
                self.wait_exit()
                raise
        self.check()

    def check(self, status=0):
        text = "\n".join(self.log)
        assert not SANITIZER.search(text), text
        assert self.process.returncode == status, f"exit status {self.process.returncode}\n{text}"

    # requests, each on a connection of its own

    def connect(self, **how):
        return RawClient(self.address, **how)

    def request(self, method, target, body=None, headers=(), **more):
        client = self.connect()
        try:
            client.request(method, target, body, [("Connection", "close"), *headers], **more)
            return client.read_response(head=method == "HEAD")
        finally:
            client.close()

    def get(self, target, headers=(), **more):
        return self.request("GET", target, None, headers, **more)

    def post(self, target, body=b"", headers=(), **more):
        return self.request("POST", target, body, [("Content-Type", "application/json"), *headers], **more)

    def chat(self, model="m", user=None, target="/v1/chat/completions", headers=(), **more):
        return self.post(target, chat_body(model, user, **more), headers)

    def endpoint_of(self, model="m", user=None, **how):
        """The name of the served endpoint that answers a chat."""
        response = self.chat(model, user, **how)
        assert response.status == 200, response
        return response.json()["endpoint"]

    def wait_ready(self, target="/ready"):
        wait_until(lambda: self.get(target).status == 200, f"{target} does not say 200")


__all__ = ["Router", "run_router"]
