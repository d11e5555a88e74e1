"""slowhttptest against the router: what slow headers, bodies and reads cost, and whether anybody else notices.

Each attack has its own router and demo backend on free ports of 127.0.0.1. Meanwhile a good client chats, by new connections and by
one that it keeps, and a stream that began before the attack runs on. Prints the figures, then what was checked. Standard library only.
"""
import contextlib
import csv
import datetime
import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from harness import RawClient, Router  # noqa: E402
from harness.upstream import wait_until  # noqa: E402

LIMIT = 10  # seconds: header_timeout, body_timeout and send_timeout
GRACE = 1.5  # how much later than its limit a slow client may go: the tick of the attacker, and a busy machine
LINGER = 2  # seconds for which a connection lingers after an error, so that the error is read
PATIENCE = 2  # seconds in which a good client must have its answer
STRUCTS = 8 << 10  # bytes that a slow client may cost: its structs, half a head as read, a share of what grows once
FORM_FIELD = 16 << 10  # the same where it is a body, which is kept
MADE = 400  # slow clients
STREAM_DELAY = 0.8  # seconds between two words of the demo backend's thirty-odd

# ---- what runs ----


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Backend:
    """The demo backend of examples, answering once this returns."""

    def __init__(self, name, delay):
        for _ in range(5):  # somebody may take the free port before it does
            self.port = free_port()
            self.process = subprocess.Popen([sys.executable, str(ROOT / "examples" / "backend"), "--port", str(self.port), "--name", name,
                                             "--delay", str(delay)], stderr=subprocess.DEVNULL)
            if self.answers():
                return
        raise AssertionError("the demo backend does not start")

    def answers(self):
        def tried():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return self.process.poll() is None
            return self.process.poll() is not None
        wait_until(tried, "the demo backend neither answers nor ends")
        return self.process.poll() is None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def close(self):
        self.process.terminate()
        self.process.wait(10)


class Good:
    """A client with manners, every 50 ms until it is stopped: `answers` are (seconds, status, error code)."""

    def __init__(self, address, keeps):
        self.address, self.keeps = address, keeps
        self.answers, self.wrong = [], []
        self.kept = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def ask(self, client, *more):
        client.chat("quick", user="good", headers=more)
        response = client.read_response()
        return response.status, response.json()["error"]["code"] if response.status != 200 else None, response["Retry-After"]

    def run(self):
        turn = 0
        while not self.ended.wait(0.05):
            turn += 1
            began = time.monotonic()
            try:
                if self.keeps and turn % 2:
                    self.kept = self.kept or RawClient(self.address, PATIENCE)
                    said = self.ask(self.kept)
                else:
                    with contextlib.closing(RawClient(self.address, PATIENCE)) as client:
                        said = self.ask(client, ("Connection", "close"))
                self.answers.append((began, time.monotonic() - began, *said))
            except Exception as error:  # noqa: BLE001: whatever it was, a good client was let down
                self.wrong.append(f"{type(error).__name__}: {error}")

    def stop(self):
        self.ended.set()
        self.thread.join(2 * PATIENCE)
        if self.kept:
            self.kept.close()


class Stream:
    """A chat that the demo backend answers a word at a time."""

    def __init__(self, address):
        self.client = RawClient(address, 30)
        self.client.chat("slow", user="stream", stream=True)
        self.head = self.client.read_head()
        self.events = []
        self.wrong = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            self.events.extend(self.client.sse(self.head))
        except Exception as error:  # noqa: BLE001: shown
            self.wrong = f"{type(error).__name__}: {error}"

    def wait(self):
        self.thread.join(60)
        self.client.close()

    @property
    def whole(self):
        return self.events[-1:] == [b"data: [DONE]"]


class Watch:
    """Looks at the router every 50 ms: descriptors, memory, bytes in the kernel for its clients."""

    def __init__(self, router):
        self.router = router
        self.seen = []  # (when, descriptors, resident bytes, bytes unsent in the kernel)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.ended.wait(0.05):
            self.seen.append((time.time(), self.router.fds(), self.router.rss(), unsent(self.router.port)))

    def stop(self):
        self.ended.set()
        self.thread.join(10)


def unsent(port):
    """Bytes that the kernel holds for the peers of that port, whoever owns the sockets."""
    total = 0
    with open("/proc/net/tcp", encoding="ascii") as table:
        for line in list(table)[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] != "0A":  # not the listening one
                total += int(fields[4].partition(":")[0], 16)
    return total


def came(line):
    """When the request of an access line began."""
    return datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()


# ---- an attack ----


class Attack:
    def __init__(self, name, mode, target, cost=STRUCTS, made=MADE, rate=80, names=(), limits=None, keeps=True, long=40):
        self.name, self.mode, self.target, self.cost, self.made, self.rate, self.long = name, mode, target, cost, made, rate, long
        self.names, self.limits, self.keeps = list(names), limits or {}, keeps
        self.checks = []

    def check(self, what, true, shown=""):
        self.checks.append(bool(true))
        print(f"{'ok' if true else 'not ok'} - {self.name}: {what}{'' if true else f': {shown}'}", flush=True)

    def config(self, quick, slow):
        quiet = {"health": {"interval": 0}, "model_list": {"interval": 0}, "keepalive": {"timeout": "1s"}}
        return {"header_timeout": f"{LIMIT}s", "body_timeout": f"{LIMIT}s", "send_timeout": f"{LIMIT}s", "max_connections": 1000,
                "admin_listen": "127.0.0.1:0", **self.limits, "defaults": quiet,
                "pools": [{"name": "quick", "models": ["quick", *self.names], "endpoints": [quick.url]},
                          {"name": "slow", "models": ["slow"], "endpoints": [slow.url]}]}

    def slowhttptest(self, directory, port):
        """Runs it to its end; what it printed last, and its table: seconds, closed, pending, connected, available."""
        command = ["slowhttptest", *self.mode, "-c", str(self.made), "-r", str(self.rate), "-l", str(self.long), "-p", str(PATIENCE), "-g", "-o",
                   f"{directory}/figures", "-u", f"http://127.0.0.1:{port}{self.target}"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=self.long + 60)
        self.text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", done.stdout)
        found = re.search(r"Exit status:\s*(.*)", self.text)
        with open(f"{directory}/figures.csv", encoding="ascii") as table:
            self.table = [[int(v) for v in row] for row in list(csv.reader(table))[1:]]
        return found.group(1).strip() if found else f"no exit status:\n{self.text}\n{done.stderr}"

    def run(self):
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="router-slow-"))
            quick, slow = Backend("quick", 0), Backend("slow", STREAM_DELAY)
            stack.callback(quick.close)
            stack.callback(slow.close)
            router = Router(directory, self.config(quick, slow))
            stack.callback(router.kill)
            router.wait_listening(2)
            self.before_attack(router)
            self.under_attack(router, directory)
            self.after_attack(router)
            self.verdict(router)

    def before_attack(self, router):
        self.fds = router.fds()
        assert router.chat("quick").status == 200
        router.wait_fds(self.fds)  # the endpoint's connection is kept for a second
        self.stream = Stream(router.address)
        self.good = Good(router.address, self.keeps)
        wait_until(lambda: len(self.good.answers) >= 10, f"no service before the attack: {self.good.wrong}")
        self.good_before = len(self.good.answers)
        self.rss = router.rss()
        self.watch = Watch(router)

    def under_attack(self, router, directory):
        self.began = time.time()
        self.admin = []
        asks = threading.Event()

        def admin():
            while not asks.wait(0.5):
                try:
                    with contextlib.closing(RawClient(router.addresses[1], PATIENCE)) as client:
                        self.admin.append(client.request("GET", "/health", host="localhost").read_response().status)
                except Exception as error:  # noqa: BLE001: shown
                    self.admin.append(f"{type(error).__name__}: {error}")
        asker = threading.Thread(target=admin, daemon=True)
        asker.start()
        try:
            self.said = self.slowhttptest(directory, router.port)
        finally:
            self.took = time.time() - self.began
            asks.set()
            asker.join(10)

    def after_attack(self, router):
        self.good_during = len(self.good.answers)
        wait_until(lambda: len(self.good.answers) >= self.good_during + 10, f"no service after the attack: {self.good.wrong}")
        self.good.stop()
        self.stream.wait()
        self.watch.stop()
        with contextlib.suppress(AssertionError):
            router.wait_fds(self.fds, 8)
        self.fds_after, self.unsent_after = router.fds(), unsent(router.port)
        router.stop()

    # what became of the slow clients: each has an access line

    def is_slow(self, line):
        raise NotImplementedError

    def verdict(self, router):
        lines = [json.loads(line) for line in router.out]
        slow = [line for line in lines if self.is_slow(line)]
        peak = max(self.watch.seen, key=lambda seen: seen[1])
        at_once = peak[1] - self.fds
        crowded = [seen[0] for seen in self.watch.seen if seen[1] > self.fds + 10]  # ten: the good clients' and their endpoints'
        gone = crowded[-1] if crowded else self.began
        last = max((came(line) for line in slow), default=self.began)
        rss = max(seen[2] for seen in self.watch.seen)
        each = (rss - self.rss) / max(at_once, 1)
        closed, pending, connected = self.table[-1][1:4]
        during = self.good.answers[self.good_before:self.good_during]
        waits = sorted(1000 * answer[1] for answer in during)
        served = sum(answer[2] == 200 for answer in during)
        print(f"== {self.name}: slowhttptest {' '.join(self.shown())}")
        print(f"   slowhttptest ({self.took:.0f} s, ended with '{self.said}'): {closed} closed, {pending} pending, {connected} connected at its "
              f"last look; service available: {'yes' if all(row[4] for row in self.table) else 'NO'}")
        print(f"   router: {len(slow)} slow clients ended by it, {at_once} descriptors at once, {each:.0f} bytes of memory each "
              f"({self.rss >> 10} KB before, {rss >> 10} KB at most); at most {max(seen[3] for seen in self.watch.seen) >> 10} KB unsent in the kernel")
        if slow:
            ages = [line["duration_ms"] for line in slow]
            print(f"   a slow client lived {min(ages)} to {max(ages)} ms; all were gone {gone - self.began:.1f} s after the attack's begin, "
                  f"{max(0, gone - last):.1f} s after the last of them had come")
        print(f"   a good client meanwhile: {served} of {len(during)} requests served, median {waits[len(waits) // 2]:.1f} ms, "
              f"p99 {waits[len(waits) * 99 // 100]:.1f} ms, longest {waits[-1]:.1f} ms")
        self.common(gone - last, each)
        self.judge(slow, during)

    def shown(self):
        return [json.dumps(word) if re.search(r"\s", word) else word for word in [*self.mode, "-c", str(self.made), "-r", str(self.rate)]]

    def common(self, gone, each):
        self.check("the good client was never let down, and never waited long", not self.good.wrong and
                   all(answer[1] < PATIENCE for answer in self.good.answers), self.good.wrong[:3])
        self.check("a stream that ran all the while came whole", self.stream.whole and not self.stream.wrong,
                   f"{self.stream.wrong}, {len(self.stream.events)} events")
        self.check("the admin address answered all the while", self.admin and set(self.admin) == {200}, self.admin)
        self.memory(each)
        self.check(f"all were gone {LIMIT} s after the last one had come, and the {LINGER} s of a lingering close", gone < LIMIT + LINGER + GRACE, gone)
        self.check("descriptors are back where they began", self.fds_after == self.fds, f"{self.fds} before, {self.fds_after} after")
        self.check("the kernel holds nothing more for them", self.unsent_after == 0, self.unsent_after)

    def memory(self, each):
        self.check(f"a slow client cost at most {self.cost} bytes", each <= self.cost, each)

    def judge(self, slow, during):
        """What holds where max_connections is above the number of slow clients."""
        self.check("service was available all the time, says slowhttptest", all(row[4] for row in self.table), self.table)
        self.check("every good request was served", all(answer[2] == 200 for answer in self.good.answers),
                   [answer for answer in self.good.answers if answer[2] != 200][:3])
        self.check(f"all {self.made} slow clients were ended by the router", len(slow) == self.made, len(slow))
        ages = [line["duration_ms"] for line in slow]
        self.check("each within its limit, none before it", ages and self.least() <= min(ages) and max(ages) <= 1000 * (LIMIT + GRACE),
                   f"{min(ages, default=None)} to {max(ages, default=None)} ms")

    def least(self):
        return 1000 * LIMIT - 50


class SlowHeaders(Attack):
    def is_slow(self, line):
        return line["status"] == 408 and line["method"] is None


class TooManySlowHeaders(SlowHeaders):
    """More of them than max_connections: a newcomer may be turned away, but with a reason, and not for longer than header_timeout."""

    def judge(self, slow, during):
        refused = [answer for answer in self.good.answers if answer[2] != 200]
        self.check("a good client that was turned away was told so: 503, overloaded, Retry-After",
                   refused and all(answer[2:4] == (503, "overloaded") and int(answer[4]) >= 1 for answer in refused), refused[:3])
        again = next((answer[0] for answer in self.good.answers if refused and answer[0] > refused[0][0] and answer[2] == 200), None)
        self.check("and was served again as soon as header_timeout had passed", again and again - refused[0][0] < LIMIT + GRACE,
                   again and again - refused[0][0])
        at_once = max(seen[1] for seen in self.watch.seen) - self.fds
        most = self.limits["max_connections"]
        self.check("never more connections than max_connections, those being refused, and an endpoint's or two", at_once <= most + 100 + 10, at_once)
        ages = [line["duration_ms"] for line in slow]
        self.check(f"at least {most - 10} slow clients got in and were ended in time", len(slow) >= most - 10 and
                   max(ages) <= 1000 * (LIMIT + GRACE), len(slow))
        print(f"   good requests refused with 503: {len(refused)}; slow clients that got in: {len(slow)}")


class SlowBody(Attack):
    def is_slow(self, line):
        return line["path"] == self.target and line["status"] == 408


class WrongBody(Attack):
    """A body that is no JSON is refused at its first byte, so its sender has no time to be slow."""

    def is_slow(self, line):
        return line["path"] == self.target and line["status"] == 400

    def memory(self, each):
        grown = max(seen[2] for seen in self.watch.seen) - self.rss
        self.check("memory did not grow by a megabyte for all of them", grown < 1 << 20, grown)

    def judge(self, slow, during):
        self.check("service was available all the time, says slowhttptest", all(row[4] for row in self.table), self.table)
        self.check("every good request was served", all(answer[2] == 200 for answer in self.good.answers),
                   [answer for answer in self.good.answers if answer[2] != 200][:3])
        self.check(f"all {self.made} were answered at once", len(slow) == self.made and max(line["duration_ms"] for line in slow) < 1000, len(slow))


class SlowRead(Attack):
    """Many answers asked for in one write, none of them taken: what the kernel does not take is owed."""

    def is_slow(self, line):
        return line["path"] == self.target and line["end"] == "client_gone"


# The body's beginning rides in the value of Accept, which slowhttptest writes as it stands: so what it drips is the text of a form's field.
FORM = '*/*\r\nConnection: close\r\n\r\n--XX\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'
FORM_MODE = ("-B", "-s", "65536", "-x", "24", "-f", "multipart/form-data; boundary=XX", "-m", FORM)
NAMES = [f"some-organisation/model-number-{i:04d}-instruct-of-a-long-name-so-that-the-list-is-long" for i in range(1700)]
LIST = 300 << 10  # bytes of that list, at most: what a client that reads nothing is owed

ATTACKS = [
    SlowHeaders("slow headers", ("-H", "-i", "1", "-x", "24", "-t", "GET"), "/v1/models"),
    TooManySlowHeaders("slow headers above max_connections", ("-H", "-i", "1", "-x", "24", "-t", "GET"), "/v1/models", rate=40, keeps=False,
                       limits={"max_connections": 80}),
    SlowBody("slow body, a drip", (*FORM_MODE, "-i", "1"), "/v1/audio/transcriptions", cost=FORM_FIELD),
    SlowBody("slow body, silence", (*FORM_MODE, "-i", "60"), "/v1/audio/transcriptions", cost=FORM_FIELD),
    WrongBody("slow body that is no JSON", ("-B", "-s", "8192", "-i", "1", "-f", "application/json"), "/v1/chat/completions"),
    SlowRead("slow read", ("-X", "-k", "10", "-n", "5", "-z", "1", "-w", "512", "-y", "1024", "-t", "GET"), "/v1/models", cost=LIST, made=100,
             rate=50, names=NAMES, long=25),
]


def main(only):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    passed = failed = 0
    for attack in ATTACKS:
        if only and not any(word in attack.name for word in only):
            continue
        try:
            attack.run()
        except Exception as error:  # noqa: BLE001: shown
            attack.check("ran to its end", False, f"{type(error).__name__}: {error}")
        passed += sum(attack.checks)
        failed += len(attack.checks) - sum(attack.checks)
    print(f"{passed} passed, {failed} failed")
    sys.exit(0 if passed and not failed else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
