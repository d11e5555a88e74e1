#!/usr/bin/python3
"""Random faults under load, repeatable by their seed.

    tests/soak/soak.py [--seconds N] [--seed S] [--clients N] [--asan-ok] [--router PATH]

Clients send chats, streams, uploads and leave in the middle, while endpoints are killed, restarted, stalled, reset and drained,
and the router is reloaded, with wrong files too, and runs short of descriptors. What must hold: every request ends in its own whole answer, in a correct error, or in a visible cut; none is worked on at two endpoints;
each has its one access line; and at the end descriptors, slots and memory are back where they began. Exit 0 if it held.

To add a fault, add a row to EVENTS; to add a kind of request, a row to REQUESTS.
"""
import argparse
import collections
import hashlib
import json
import pathlib
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

from harness import Malformed, PeerClosed, RawClient, Router, ROUTER_BIN, Truncated, WaitTimeout  # noqa: E402
from harness.client import request_bytes  # noqa: E402
from harness.mortal import Mortal, is_ready  # noqa: E402
from harness.upstream import wait_until  # noqa: E402

PATIENCE = 30  # s for any answer: every limit of the configuration is far below
SLOTS = 4      # max_inflight of every endpoint
CODES = {429: {"overloaded"}, 502: {"upstream_error"}, 503: {"upstream_unavailable", "overloaded"}, 504: {"upstream_timeout"}}


# ---- what is known of every request


class Ledger:
    """Who was asked what, who worked on it, how it ended. Entries go once everything about them is known."""

    def __init__(self):
        self.lock = threading.Lock()
        self.outcomes, self.faults, self.ends = collections.Counter(), collections.Counter(), collections.Counter()
        self.wrong = []
        self.requests = 0
        self.worked = {}  # id -> names of endpoints that had the whole request
        self.waiting = {}  # id -> status seen by its client; its access line is still to come
        self.early = {}  # id -> access line that came before the client was done

    def complain(self, text):
        with self.lock:
            self.wrong.append(text)

    def work(self, name, endpoint):
        with self.lock:
            places = self.worked.setdefault(name, [])
            places.append(endpoint)
            if len(set(places)) > 1 or len(places) > 2:
                self.wrong.append(f"{name} was worked on at {places}")

    def done(self, name, outcome, status):
        """The client is done with it; status None: it left, and need not have been heard of."""
        with self.lock:
            self.requests += 1
            self.outcomes[outcome] += 1
            line = self.early.pop(name, None)
            if line is None:
                self.waiting[name] = status
            else:
                self.compare(name, status, line)
            self.worked.pop(name, None)

    def line(self, line):
        name = line["request_id"]
        with self.lock:
            self.ends[line["end"]] += 1
            if name in self.early:
                self.wrong.append(f"{name} has two access lines")
            elif name in self.waiting:
                self.compare(name, self.waiting.pop(name), line)
            else:
                self.early[name] = line

    def compare(self, name, status, line):
        if status is not None and line["status"] != status:
            self.wrong.append(f"{name}: the client saw {status}, the access line says {line['status']}")

    def unlogged(self):
        with self.lock:
            return [name for name, status in self.waiting.items() if status is not None]


# ---- endpoints


class Endpoint(Mortal):
    """Works on requests as their body asks; each answer carries the request's id and a digest of its body."""

    def __init__(self, run, name):
        self.run_, self.fault = run, None
        self.open = threading.Event()  # cleared: it stalls
        self.open.set()
        self.loading = self.hasty = False
        super().__init__(answer=self.work, name=name, models=["m"], timeout=PATIENCE)

    def record(self, req):
        pass

    def adopt(self, sock):
        with self.cond:
            self.conns = [c for c in self.conns if c.sock.fileno() >= 0]
            self.threads = [t for t in self.threads if t.is_alive()]
        return super().adopt(sock)

    def tell_health(self, conn):
        self.open.wait(PATIENCE)
        if self.loading:
            conn.txresp(503, body=b"loading")
            raise ConnectionError
        conn.txresp(self.health, body=b"ok")

    def work(self, conn, req):
        self.open.wait(PATIENCE)
        if req.method == "GET":
            conn.txresp(200, body={"object": "list", "data": [{"id": "m", "object": "model"}]})
            return
        name, job = req["X-Request-Id"], req.json()
        if self.loading:
            conn.txresp(503, body={"error": {"message": "Loading model", "type": "unavailable_error", "code": 503, "request_id": name}})
            raise ConnectionError
        self.run_.ledger.work(name, self.name)
        if job.get("meet"):
            self.run_.meet(job["meet"])
        if job.get("stream"):
            self.stream(conn, name, job["events"])
        else:
            time.sleep(job.get("think", 0))
            self.open.wait(PATIENCE)
            answer = {"id": name, "endpoint": self.name, "digest": hashlib.md5(req.body).hexdigest(), "pad": "x" * job.get("pad", 0)}
            conn.txresp(200, [("Content-Type", "application/json")], json.dumps(answer).encode(), job.get("framing", "length"))
        if self.hasty:
            raise ConnectionError  # closes without having said so

    def stream(self, conn, name, events):
        conn.sse_head()
        for n in range(events):
            self.open.wait(PATIENCE)
            conn.event({"id": name, "n": n})
            time.sleep(0.005)
        conn.sse_end()

    def stall(self):
        self.open.clear()

    def go_on(self):
        self.open.set()

    def mend(self):
        self.health, self.loading, self.hasty = 200, False, False


# ---- faults: weight, name, what it befalls ("endpoint", one that is well; or "run": all of it), do, undo (None: it is a moment)

Event = collections.namedtuple("Event", "weight name target do undo")
EVENTS = [
    Event(3, "killed, connections closed", "endpoint", lambda e: e.die(), lambda e: e.revive()),
    Event(3, "killed, connections reset", "endpoint", lambda e: e.die(reset=True), lambda e: e.revive()),
    Event(2, "refuses new connections", "endpoint", lambda e: e.refuse(), lambda e: e.revive()),
    Event(3, "stalls", "endpoint", lambda e: e.stall(), lambda e: e.go_on()),
    Event(4, "connections closed", "endpoint", lambda e: e.cut(), None),
    Event(4, "connections reset", "endpoint", lambda e: e.cut(reset=True), None),
    Event(2, "loads its model", "endpoint", lambda e: setattr(e, "loading", True), lambda e: e.mend()),
    Event(1, "health says 500", "endpoint", lambda e: setattr(e, "health", 500), lambda e: e.mend()),
    Event(2, "closes after each answer", "endpoint", lambda e: setattr(e, "hasty", True), lambda e: e.mend()),
    Event(2, "drained by an operator", "endpoint", lambda e: e.run_.verb("drain", e), lambda e: e.run_.verb("undrain", e)),
    Event(1, "SIGUSR1", "run", lambda r: r.router.signal(signal.SIGUSR1), None),
    Event(2, "reloaded", "run", lambda r: r.reload(r.config()), None),
    Event(2, "reloaded with other pools", "run", lambda r: r.reload(r.other_config()), lambda r: r.reload(r.config())),
    Event(2, "reload refused", "run", lambda r: r.reload("pools: [{name: p, modles: [m]}]\n"), lambda r: r.reload(r.config())),
    Event(1, "descriptors are short", "run", lambda r: r.limit_files(r.router.fds() + 4), lambda r: r.limit_files(None)),
]


class Director(threading.Thread):
    """Lets things happen, one every now and then, and undoes each after a while."""

    def __init__(self, run, seed):
        super().__init__(daemon=True)
        self.run_, self.random, self.over, self.undo = run, random.Random(f"{seed} director"), threading.Event(), []

    def run(self):
        try:
            while not self.over.wait(self.random.uniform(0.02, 0.25)):
                self.undo_due(time.monotonic())
                self.one()
        except BaseException as error:  # noqa: BLE001: told by the run
            self.run_.ledger.complain(f"the director failed: {error!r}")
        self.undo_due(float("inf"))

    def undo_due(self, now):
        for entry in [entry for entry in self.undo if entry[0] <= now]:
            self.undo.remove(entry)
            entry[1].undo(entry[2])
            entry[2].fault = None

    def one(self):
        event = self.random.choices(EVENTS, [e.weight for e in EVENTS])[0]
        well = [e for e in self.run_.endpoints if e.fault is None]
        lasts = self.random.choice([0.1, 0.4, 1, 2.5, 4])
        target = self.run_ if event.target == "run" else self.random.choice(well) if well else None
        if target is None:
            return
        event.do(target)
        self.run_.ledger.faults[event.name] += 1
        if event.undo:
            target.fault = event.name
            self.undo.append((time.monotonic() + lasts, event, target))


# ---- requests


class Caller(threading.Thread):
    """One client after the other on one thread; each sends some requests, kept alive, or leaves in the middle of one."""

    def __init__(self, run, number, seed):
        super().__init__(daemon=True)
        self.run_, self.number, self.random = run, number, random.Random(f"{seed} caller {number}")
        self.client, self.count = None, 0

    def run(self):
        while not self.run_.over.is_set():
            row = self.random.choices(REQUESTS, [weight for weight, _, _ in REQUESTS])[0]
            self.count += 1
            name = f"c{self.number}-{self.count}"
            try:
                self.one(row, name)
            except BaseException as error:  # noqa: BLE001: told by the run
                self.run_.ledger.done(name, "LOST", None)
                self.run_.ledger.complain(f"{name} ({row[1]}): {error!r}")
                self.drop()
        self.drop()

    def one(self, row, name):
        kept = self.client is not None and self.random.random() >= 0.1
        if not kept:
            self.drop()
            self.client = RawClient(self.run_.router.address, timeout=PATIENCE)
        try:
            outcome, status = row[2](self, name)
        except (PeerClosed, BrokenPipeError, ConnectionResetError):  # idle clients make room; SDKs then send again
            if not kept or not self.run_.is_short():
                raise
            outcome, status = self.leave(name)[0] + ", closed to make room", None
        self.run_.ledger.done(name, f"{row[1]}: {outcome}", status)

    def drop(self, reset=False):
        if self.client:
            self.client.rst() if reset else self.client.close()
        self.client = None

    def request(self, name, **job):
        body = json.dumps({"model": self.random.choice(["m", "m", "m", "other", "q"]), "user": f"u{self.random.randrange(200)}", **job}).encode()
        return request_bytes(body=body, headers=[("X-Request-Id", name), ("Content-Type", "application/json")]), hashlib.md5(body).hexdigest()

    def leave(self, name):
        self.drop(reset=self.random.random() < 0.5)
        return "left", None

    # how answers are judged

    def judge_error(self, name, response):
        assert response["X-Request-Id"] == name, response
        error = response.json()["error"]
        if error.get("message") == "Loading model":  # an endpoint's own
            assert response.status == 503 and error["request_id"] == name and response["Retry-After"] == "5", response
            return "still loading", 503
        assert error["code"] in CODES[response.status] and set(error) == {"message", "type", "param", "code"}, response
        if response.status in (429, 503):
            assert int(response["Retry-After"]) > 0, response
        return str(response.status), response.status

    def whole(self, name, digest):
        """Reads the answer to something that is no stream."""
        try:
            response = self.client.read_response()
        except Truncated as cut:
            assert name.encode() in self.client.log or not cut.partial, "a cut answer to somebody else"
            self.drop()
            return "cut", 200
        if response["Connection"] and response["Connection"].lower() == "close":
            self.drop()
        if response.status != 200:
            return self.judge_error(name, response)
        answer = response.json()
        assert answer["id"] == response["X-Request-Id"] == name and answer["digest"] == digest, response
        return "whole", 200

    def events(self, name, events, most=None):
        """Reads a stream, up to `most` events: its outcome, or None if there is more."""
        response = self.client.read_head()
        assert response["X-Request-Id"] == name, response
        if response.status != 200:
            response.body = b"".join(self.client.body_parts(response))
            return self.judge_error(name, response)
        seen, told = 0, None
        try:
            for event in self.client.sse(response):
                if event == b"data: [DONE]":
                    assert seen == events, f"a clean end after {seen} of {events} events"
                    continue
                data = json.loads(event[len(b"data: "):])
                if "error" in data:
                    told = data["error"]["code"]
                    assert told in ("upstream_error", "upstream_timeout"), data
                    continue
                assert data == {"id": name, "n": seen}, f"{data} where event {seen} was due"
                seen += 1
                if seen == most:
                    return None, 200
        except Truncated:
            assert told, "a stream was cut without its error event"
            self.drop()
            return f"cut, {told}", 200
        assert event == b"data: [DONE]", f"a clean end without its last event: {event}"
        return "whole", 200


def chat(caller, name):
    data, digest = caller.request(name, think=caller.random.choice([0, 0, 0.002, 0.02]), framing=caller.random.choice(["length", "chunked"]),
                                  pad=caller.random.choice([0, 0, 100, 100_000]))
    caller.client.send(data)
    return caller.whole(name, digest)


def upload(caller, name):
    data, digest = caller.request(name, content="x" * caller.random.choice([70_000, 400_000, 1_500_000]))
    caller.client.send(data)
    return caller.whole(name, digest)


def stream(caller, name):
    events = caller.random.choice([1, 5, 40])
    caller.client.send(caller.request(name, stream=True, events=events)[0])
    return caller.events(name, events)


def leave_while_sending(caller, name):
    data, _ = caller.request(name, content="x" * caller.random.choice([10, 300_000]))
    caller.client.send(data[:caller.random.randrange(1, len(data))])
    return caller.leave(name)


def leave_while_waiting(caller, name):
    caller.client.send(caller.request(name, think=0.05)[0])
    time.sleep(caller.random.uniform(0, 0.04))
    return caller.leave(name)


def leave_while_streaming(caller, name):
    caller.client.send(caller.request(name, stream=True, events=60)[0])
    outcome, status = caller.events(name, 60, most=caller.random.randrange(1, 20))
    return (outcome, status) if outcome else caller.leave(name)


def own_page(caller, name):
    caller.client.send(request_bytes("GET", "/health", headers=[("X-Request-Id", name)]))
    response = caller.client.read_response()
    assert (response.status, response.body.strip(), response["X-Request-Id"]) == (200, b"ok", name), response
    return "whole", 200


REQUESTS = [
    (40, "chat", chat), (15, "stream", stream), (6, "upload", upload), (4, "own page", own_page),
    (4, "left while sending", leave_while_sending), (6, "left while waiting", leave_while_waiting), (6, "left while streaming", leave_while_streaming),
]


# ---- the run


class Run:
    def __init__(self, options):
        self.options, self.ledger, self.over = options, Ledger(), threading.Event()
        self.short_until = 0
        self.met, self.meeting = collections.Counter(), threading.Condition()
        self.endpoints = [Endpoint(self, f"e{i}") for i in range(7)]
        self.directory = tempfile.TemporaryDirectory(prefix="soak-")
        env = {"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:exitcode=99:quarantine_size_mb=8:malloc_context_size=8"} if options.asan_ok else {}
        self.router = Router(self.directory.name, self.config(), env=env, binary=options.router)
        self.logged = threading.Thread(target=self.read_lines, daemon=True)
        self.logged.start()

    def config(self):
        urls = [e.url for e in self.endpoints]
        probed = {"health": {"interval": "200ms", "timeout": "1s", "fall": 2}, "slow_start": "500ms"}
        return {
            "read_usage": False, "admin_listen": f"unix:{self.directory.name}/admin.sock",
            "defaults": {
                "max_inflight": SLOTS, "queue": {"size": 8, "timeout": "1s"}, "connect_timeout": "500ms", "first_byte_timeout": "3s",
                "stream_idle_timeout": "2s", "keepalive": {"timeout": "1s"}, "model_list": {"interval": "1s"},
            },
            "pools": [
                {"name": "main", "models": ["m"], "endpoints": urls[:4], "fallback": "rest", "max_imbalance": 2, **probed},
                {"name": "rest", "models": ["*"], "endpoints": urls[3:5], **probed},
                {"name": "quiet", "models": ["q"], "endpoints": urls[5:], "on_disconnect": "finish", "health": {"interval": 0, "fall": 2}},
            ],
        }

    def read_lines(self):
        """Access lines are taken away as they come, or a long run would drown in them."""
        while True:
            with self.router.cond:
                lines, self.router.out[:] = list(self.router.out), []
            for line in lines:
                self.ledger.line(json.loads(line))
            if not lines:
                time.sleep(0.1)

    # what befalls all of it

    def reload(self, config):
        self.router.write_config(config)
        self.router.signal(signal.SIGHUP)

    def other_config(self):
        """The same endpoints and limits; a weight, a name, a timeout, the order and one more pool are other ones."""
        config = self.config()
        config["idle_timeout"] = "60s"
        config["pools"][0]["models"] = ["m", "m-again"]
        config["pools"][0]["endpoints"] = [{"url": self.endpoints[0].url, "weight": 3}, *(e.url for e in self.endpoints[1:4])]
        config["pools"].insert(1, {"name": "more", "models": ["more"], "endpoints": [self.endpoints[6].url], "health": {"interval": 0, "fall": 2}})
        return config

    def verb(self, verb, endpoint):
        with socket.socket(socket.AF_UNIX) as operator:
            operator.settimeout(PATIENCE)
            operator.connect(f"{self.directory.name}/admin.sock")
            operator.sendall(f"POST /admin/{verb}?endpoint={endpoint.url} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                             "Content-Length: 2\r\nConnection: close\r\n\r\n{}".encode())
            answer = operator.recv(100)
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.ledger.complain(f"{verb} {endpoint.url}: {answer!r}")

    def is_short(self):
        return time.monotonic() < self.short_until

    def limit_files(self, soft):
        self.short_until = float("inf") if soft else time.monotonic() + 1
        hard = resource.prlimit(self.router.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.router.pid, resource.RLIMIT_NOFILE, (hard if soft is None else min(soft, hard), hard))

    # requests that meet: so many that every slot is taken at one time

    def meet(self, how_many):
        with self.meeting:
            self.met[how_many] += 1
            self.meeting.notify_all()
            self.meeting.wait_for(lambda: self.met[how_many] >= how_many, 20)

    def full_width(self, model, endpoints):
        n = SLOTS * endpoints
        self.met.clear()
        clients = [RawClient(self.router.address, timeout=PATIENCE) for _ in range(n)]
        for i, client in enumerate(clients):
            body = {"model": model, "user": f"w{i}", "meet": n}
            client.send(request_bytes(body=body, headers=[("X-Request-Id", f"width-{model}-{time.monotonic()}-{i}")]))
        statuses = [client.read_response().status for client in clients]
        for client in clients:
            client.close()
        if statuses != [200] * n or self.met[n] != n:
            self.ledger.complain(f"pool of {model}: {self.met[n]} of {n} slots are usable, statuses {collections.Counter(statuses)}")

    def all_widths(self):
        wait_until(lambda: is_ready(self.router), "no pool is ready", PATIENCE)
        for pool in ("main", "rest", "quiet"):
            wait_until(lambda: is_ready(self.router, pool), f"pool {pool} is not ready", PATIENCE)
        for model, endpoints in (("m", 4), ("other", 2), ("q", 2)):
            self.settle(model, endpoints)
            self.full_width(model, endpoints)

    def settle(self, model, endpoints):
        """Every endpoint of the pool is up again, as far as requests can tell: each one answers."""
        seen, client = set(), RawClient(self.router.address, timeout=PATIENCE)
        until = time.monotonic() + PATIENCE
        for i in range(100_000):
            client.send(request_bytes(body={"model": model, "user": f"s{i}"}, headers=[("X-Request-Id", f"settle-{model}-{time.monotonic()}-{i}")]))
            response = client.read_response()
            if response.status == 200:
                seen.add(response.json()["endpoint"])
            if len(seen) == endpoints or time.monotonic() > until:
                break
        client.close()
        if len(seen) < endpoints:
            self.ledger.complain(f"pool of {model}: only {seen} came back")

    def quiet(self):
        """(descriptors, resident bytes) once nothing goes on but probes and model lists, whose connections come and go."""
        time.sleep(2.5)  # idle connections live for one
        fds = []
        for _ in range(40):
            fds.append(self.router.fds())
            time.sleep(0.05)
        return min(fds), self.router.rss()

    def load(self, seconds, director):
        self.over.clear()
        callers = [Caller(self, f"{seconds}-{n}", self.options.seed) for n in range(self.options.clients)]
        for thread in [*callers, *([director] if director else [])]:
            thread.start()
        time.sleep(seconds)
        self.over.set()
        for caller in callers:
            caller.join(PATIENCE + 5)
            if caller.is_alive():
                self.ledger.complain(f"caller {caller.number} is stuck")
        if director:
            director.over.set()
            director.join(PATIENCE)

    def play(self):
        warm = min(self.options.seconds / 5, 20)
        self.all_widths()
        self.load(warm, None)
        self.all_widths()
        calm = {o for o in self.ledger.outcomes if not o.endswith((": whole", ": left")) and ": 429" not in o}
        if calm:
            self.ledger.complain(f"without any fault: {calm}")
        before = self.quiet()
        self.load(self.options.seconds - warm, Director(self, self.options.seed))
        self.all_widths()
        after = self.quiet()
        slack = (64 if self.options.asan_ok else 8) << 20
        if after[0] > before[0] + 2:  # those that are asked for their list only have a connection half of the time
            self.ledger.complain(f"{after[0]} descriptors are open where {before[0]} were")
        if after[1] > before[1] + slack:
            self.ledger.complain(f"{after[1] >> 20} MB are resident where {before[1] >> 20} were")
        missing = self.ledger.unlogged()
        if missing:
            self.ledger.complain(f"{len(missing)} requests have no access line: {missing[:5]}")
        self.report(before, after)

    def report(self, before, after):
        ledger = self.ledger
        print(f"seed {self.options.seed}, {self.options.seconds:g} s, {self.options.clients} clients, {len(self.endpoints)} endpoints")
        print(f"requests    {ledger.requests}")
        for name, n in sorted(ledger.outcomes.items()):
            print(f"  {n:8d}  {name}")
        print(f"faults      {sum(ledger.faults.values())}")
        for name, n in sorted(ledger.faults.items()):
            print(f"  {n:8d}  {name}")
        print("access      " + ", ".join(f"{end} {n}" for end, n in sorted(ledger.ends.items())))
        print(f"lost        {ledger.outcomes['LOST']}")
        print(f"descriptors {before[0]} before, {after[0]} after")
        print(f"resident    {before[1] >> 10} KB before, {after[1] >> 10} KB after")

    def close(self):
        self.over.set()
        try:
            self.router.stop()
        finally:
            for endpoint in self.endpoints:
                endpoint.go_on()
                endpoint.close()
            self.directory.cleanup()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--asan-ok", action="store_true", help="the router is a sanitizer build: its memory may grow more")
    parser.add_argument("--router", default=ROUTER_BIN, type=lambda path: str(pathlib.Path(path).resolve()))  # it runs elsewhere
    options = parser.parse_args(arguments)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    run = Run(options)
    try:
        run.play()
    except (AssertionError, WaitTimeout, Malformed, PeerClosed, OSError) as error:
        run.ledger.complain(f"the run itself: {error!r}")
    try:
        run.close()
    except AssertionError as error:
        run.ledger.complain(str(error))
    for text in run.ledger.wrong[:20]:
        print(f"WRONG: {text}")
    if run.ledger.wrong:
        print("\n".join(run.router.log[-40:]), file=sys.stderr)
    print("failed" if run.ledger.wrong else "all well")
    return 1 if run.ledger.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
