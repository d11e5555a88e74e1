"""Contract 7, out of memory: a small struct that cannot be had ends the program with a message that says so; memory for payload (heads,
bodies, answers, log lines, a configuration's text) is refused, the program goes on, and nobody gets a wrong answer.

harness/scarce.c stands between the router and malloc. A walk refuses the first allocation of a request, then in a fresh process the
second, and so on until there are no more: each time the outcome is one of the three that are right.
"""
import itertools
import json
import re
import signal
import threading

import pytest

from harness import Dns, PeerClosed, Router, Truncated, chat_body, request_bytes
from harness.mortal import mortal, state_lines
from harness.preload import FOREVER, Scarce
from harness.prom import scrape
from harness.upstream import respond_openai, wait_until
from test_access import KEYS
from test_shortage import fifo, health_batch

MB = 1 << 20
PAYLOAD = (4 << 10, 16 << 10, 256 << 10)  # sizes that only payload has; small structs come in tables of 1 KB and chunks of 64 KB too
JSON = [("Content-Type", "application/json")]
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
CLOSE = [("Connection", "close")]
FORM = (b'--X\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"z" * 100000 +
        b'\r\n--X\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--X--\r\n')


class Asked:
    """What a client sees of one request: its response; or none, and how the connection ended."""

    def __init__(self, response=None, cut=None):
        self.response, self.cut = response, cut

    @property
    def refused(self):
        r = self.response
        if r is None or r.status != 503 or b"try again shortly" not in r.body:
            return False
        assert int(r["Retry-After"]) > 0 and r["Content-Type"] == "application/json"
        json.loads(r.body)
        return True

    def __repr__(self):
        return repr(self.response or self.cut)


def ask(router, method, target, body=None, headers=(), pieces=None, head=False):
    """One request on a connection of its own. `pieces`: what is sent after the head, whatever becomes of it."""
    try:
        client = router.connect()
    except ConnectionError:
        return Asked(cut="refused")
    try:
        try:
            client.send(request_bytes(method, target, body, [*CLOSE, *headers], length=pieces is None))
            for piece in pieces or ():
                client.send(piece)
        except (ConnectionError, PeerClosed):
            pass  # an answer may lie there all the same
        return Asked(client.read_response(head=head))
    except PeerClosed as end:
        return Asked(cut=end.kind)
    except ConnectionError:
        return Asked(cut="rst")
    finally:
        client.close()


def chunks(body, size=60000):
    for at in range(0, len(body), size):
        part = body[at:at + size]
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


BIG = chat_body("m", content="x" * MB)
CHAT = "/v1/chat/completions"
# name: how it is asked, and what is right
REQUESTS = {
    "chat": (lambda r: ask(r, "POST", CHAT, chat_body("m", "anna"), JSON), lambda a: a.status == 200 and a.json()["model"] == "m"),
    "alias": (lambda r: ask(r, "POST", CHAT, chat_body("nick"), JSON), lambda a: a.status == 200 and a.json()["model"] == "m"),
    "stream": (lambda r: ask(r, "POST", CHAT, chat_body("m", stream=True), JSON), lambda a: a.status == 200 and a.body.endswith(b"data: [DONE]\n\n")),
    "upload": (lambda r: ask(r, "POST", CHAT, BIG, JSON), lambda a: a.status == 200 and a.json()["model"] == "m"),
    "chunked upload": (lambda r: ask(r, "POST", CHAT, None, [*JSON, ("Transfer-Encoding", "chunked")], chunks(BIG)),
                       lambda a: a.status == 200 and a.json()["model"] == "m"),
    "form": (lambda r: ask(r, "POST", "/v1/audio/transcriptions", FORM, [("Content-Type", "multipart/form-data; boundary=X")]), lambda a: a.status == 200),
    "long head": (lambda r: ask(r, "POST", CHAT + "?" + "q" * 5000, chat_body("m"), [*JSON, ("X-Long", "y" * 9000)]), lambda a: a.status == 200),
    "long answer": (lambda r: ask(r, "POST", CHAT, chat_body("m", long=True), JSON), lambda a: a.status == 200 and a.body == b"z" * MB),
    "loading": (lambda r: ask(r, "POST", CHAT, chat_body("loading"), JSON), lambda a: a.status == 503 and a.json() == LOADING),
    "refused connect": (lambda r: ask(r, "POST", CHAT, chat_body("dead"), JSON), lambda a: a.status == 502),
    "unknown model": (lambda r: ask(r, "POST", CHAT, chat_body("who"), JSON), lambda a: a.status == 404),
    "preflight": (lambda r: ask(r, "OPTIONS", CHAT, None, [("Origin", "http://a.test"), ("Access-Control-Request-Method", "POST"),
                                                           ("Access-Control-Request-Headers", "authorization, x-a")]),
                  lambda a: a.status == 204 and a["Access-Control-Allow-Headers"] == "authorization, x-a"),
    "ready": (lambda r: ask(r, "GET", "/ready"), lambda a: a.status == 200 and a.json()["pools"]["p"] is True),
    "models": (lambda r: ask(r, "GET", "/v1/models"), lambda a: a.status == 200 and [m["id"] for m in a.json()["data"]] == ["m", "nick", "loading", "dead"]),
    "one model": (lambda r: ask(r, "GET", "/v1/models/m"), lambda a: a.status == 200 and a.json()["id"] == "m"),
    "tags": (lambda r: ask(r, "GET", "/api/tags"), lambda a: a.status == 200 and len(a.json()["models"]) == 4),
    "metrics": (lambda r: ask(r, "GET", "/metrics"), lambda a: a.status == 200 and a.body.endswith(b"\n") and b"process_start_time_seconds" in a.body),
    "status": (lambda r: ask(r, "GET", "/status"), lambda a: a.status == 200 and a.json()["pools"][0]["name"] == "p"),
    "ui": (lambda r: ask(r, "GET", "/ui"), lambda a: a.status == 200 and a.body.rstrip().endswith(b"</html>") and
           re.search(r"script-src 'nonce-[0-9a-f]+'", a["Content-Security-Policy"])),
}
# Of these the right answer is an error already, or is not there to be asked for twice: one that cannot be told is a connection cut.
ERRORS = ("loading", "refused connect", "unknown model")


def answer(conn, req):
    try:
        body = json.loads(req.body)
    except ValueError:
        body = {"model": "m"}  # a form
    if body["model"] == "loading":
        conn.txresp(503, body=LOADING)
    elif body.get("long"):
        conn.txresp(200, body=b"z" * MB)
    elif req.path != CHAT:
        conn.txresp(200, body={})
    else:
        respond_openai(conn, req)


def endpoints(lab):
    return mortal(lab, answer=answer), mortal(lab, answer=answer), lab.dead()


def begin(lab, out, ups=None):
    up, loading, dead = ups or endpoints(lab)
    pools = [{"name": "p", "models": ["m"], "aliases": {"nick": "m"}, "endpoints": [up]},
             {"name": "l", "models": ["loading"], "endpoints": [loading]}, {"name": "d", "models": ["dead"], "endpoints": [dead]}]
    router = lab.router(pools=pools, env=out.env, cors_origins=["*"], max_body="50m")
    router.log_contains("is running with")
    before = router.fds()
    router.bystander = lab.client(router)
    wait_until(lambda: router.fds() > before, "it accepts nobody")
    return router


def died_properly(router):
    """It is gone, and said why."""
    status = router.wait_exit()
    assert status == -signal.SIGABRT, f"exit status {status}: {router.log[-5:]}"
    assert "router: out of memory" in router.log, router.log[-5:]


def settled(router):
    """The turn in which the request ended is over: the connection that stood all the while is answered, or ended, or all is."""
    try:
        router.bystander.request("GET", "/health").read_response()
    except (PeerClosed, Truncated, ConnectionError):
        pass


def dying(router):
    """It cut a connection: because it aborts? Then the kernel needs a moment."""
    try:
        assert router.get("/health").status == 200
        return False
    except (PeerClosed, Truncated, ConnectionError):
        wait_until(lambda: router.process.poll() is not None, "it answers nobody, and lives")
        return True


def check_well(router, n):
    """Everything it took for that request was given back, and what it wrote is whole."""
    page = scrape(router)
    assert page.sum("router_requests_in_flight") == page.sum("router_requests_queued") == 0, n
    assert page["router_body_memory_bytes"] == 0, n
    for line in list(router.out):
        assert list(json.loads(line)) == KEYS, line


def walk(lab, name, most=1):
    """Every allocation of one request fails once, each in a process of its own; `most`: how many after it fail too.
    Returns how each of these processes fared."""
    how, right = REQUESTS[name]
    out, ups, fared = Scarce(lab.directory), endpoints(lab), []
    for n in itertools.count(1):
        router = begin(lab, out, ups)
        out.refuse(n, n + most - 1)
        got = how(router)
        settled(router)
        refused = out.relent()
        if dying(router):
            died_properly(router)
            lab.routers.remove(router)
            assert out["size"] not in PAYLOAD, f"allocation {n}: {out['size']} bytes of payload"
            fared.append("aborted")
            continue
        verdict = "right" if got.response and right(got.response) else "refused" if got.refused else "cut"
        where = f"allocation {n}, {out['size']} bytes: {got}"
        if verdict == "cut":
            assert got.response is None and (name in ERRORS or most > 1), where
        again = how(router)
        assert again.response and (right(again.response) or again.response.json()["error"]["code"] == "upstream_unavailable"), f"{where}; then {again}"
        check_well(router, n)
        router.stop()
        lab.routers.remove(router)
        for up in ups[:2]:
            up.check()
        if not refused:
            assert verdict == "right", where
            return fared
        fared.append(verdict)


@pytest.mark.parametrize("name", REQUESTS)
def test_each_allocation_of_a_request_fails_once(lab, name):
    fared = walk(lab, name)
    assert len(fared) >= 8 and "aborted" in fared and "refused" in fared, fared


@pytest.mark.parametrize("name, most", [("chat", FOREVER), ("upload", FOREVER), ("status", FOREVER), ("long head", 2)])
def test_several_allocations_in_a_row_fail(lab, name, most):
    fared = walk(lab, name, most)
    assert len(fared) >= 8 and "aborted" in fared, fared


def test_a_small_struct_that_cannot_be_had_ends_it_with_a_word(lab):
    """SIGABRT, so that a supervisor restarts it and a core tells where; the last line says why."""
    out = Scarce(lab.directory)
    router = begin(lab, out)
    out.refuse(1, FOREVER, most=1 << 10)
    assert ask(router, "POST", CHAT, chat_body("m"), JSON).cut in ("rst", "fin")
    wait_until(lambda: router.process.poll() is not None, "it lives")
    died_properly(router)
    lab.routers.remove(router)
    assert out["refused"] >= 1  # structs come in chunks where no sanitizer watches: pieces of payload may be asked for first


# no payload for a while


def warm(lab, out, **how):
    """A router whose tables are there already: what it asks for from now on in pieces of 4 KB and more is payload."""
    up = lab.upstream(lambda conn: serve(conn))
    router = lab.router(up, env=out.env, **how)
    for _ in range(3):
        assert router.chat(user="anna").status == 200
    assert router.get("/status").status == router.get("/metrics").status == 200
    return up, router


def serve(conn):
    while True:
        answer(conn, conn.rxreq())


def test_large_bodies_are_refused_and_small_ones_go_on(lab):
    out = Scarce(lab.directory)
    up, router = warm(lab, out)
    fds = router.fds()
    out.refuse(1, FOREVER, 256 << 10)
    for _ in range(10):
        got = ask(router, "POST", CHAT, BIG, JSON)
        assert got.refused, got
        assert router.chat().status == 200
    assert out.relent() >= 10
    got = ask(router, "POST", CHAT, BIG, JSON)
    assert got.response.status == 200 and len(up.last.body) == len(BIG)
    lines = router.access_lines(10, status=503)
    assert {(line["end"], line["pool"], line["tries"]) for line in lines} == {("refused", None, 0)}
    assert scrape(router)["router_refused_total", {"reason": "overloaded"}] == 10
    check_well(router, "afterwards")
    router.wait_fds(fds)


def test_many_uploads_at_once_are_refused_each(lab):
    out = Scarce(lab.directory)
    up, router = warm(lab, out)
    fds, got = router.fds(), []
    out.refuse(1, FOREVER, 256 << 10)
    threads = [threading.Thread(target=lambda: got.append(ask(router, "POST", CHAT, BIG, JSON))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 20 and all(g.refused for g in got), got
    out.relent()
    assert ask(router, "POST", CHAT, BIG, JSON).response.status == 200
    check_well(router, "afterwards")
    router.wait_fds(fds)


def test_a_running_stream_needs_no_memory_at_all(lab):
    out = Scarce(lab.directory)
    up = lab.scripted()
    router = lab.router(up, env=out.env)
    client = lab.client(router)
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    conn.event("first")
    assert next(events) == b"data: first"
    out.refuse(1, FOREVER)
    for n in range(200):
        conn.event(f"token {n}")
        assert next(events) == f"data: token {n}".encode()
    assert out["seen"] == 0
    out.relent()
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]


def test_a_client_whose_unread_bytes_find_no_room_is_cut(lab):
    """What the kernel does not take must be held; there is no memory for it, so the client sees a cut and the endpoint an end."""
    out = Scarce(lab.directory)
    up = lab.scripted()
    router = lab.router(up, env=out.env, pool={"max_inflight": 1})
    router.log_contains("is running with")
    router_fds = router.fds()
    first, data = lab.client(router), request_bytes("POST", CHAT, chat_body("m"))
    first.send(data[:20])
    assert router.get("/health").status == 200  # by now that was read; what is made when first needed is there
    first.send(data[20:])
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, [("Connection", "close")], b"first")
    assert first.read_response().body == b"first"
    first.close()
    router.wait_fds(router_fds)
    client = lab.client(router, rcvbuf=4096)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    out.refuse(1, FOREVER, 16 << 10)
    conn.tx(f"HTTP/1.1 200 OK\r\nContent-Length: {50 * MB}\r\n\r\n")
    try:
        while not out["refused"]:
            conn.tx(b"x" * (64 << 10))
    except (ConnectionError, PeerClosed):
        pass
    conn.wait_close(discard=True)
    assert out.relent()
    cut = client.read_cut()
    assert cut.status == 200 and set(cut.body) <= set(b"x")
    line = router.access_lines(2, CHAT)[-1]
    assert line["end"] == "client_gone" and line["sent_bytes"] < 50 * MB
    client.close()
    router.wait_fds(router_fds + 1)  # the pipe of splice stays
    again = lab.client(router)
    again.chat()  # the slot is free
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"well")
    assert again.read_response().body == b"well"


def starve(lab, router, out):
    """No block of 1 KB is to be had, and those kept for reuse are in use: heads that do not end take them."""
    out.refuse(1, FOREVER, 1 << 10, 1 << 10)
    for _ in range(300):
        client = lab.client(router)
        try:
            client.send(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        except (ConnectionError, PeerClosed):
            pass
        if out["refused"]:
            return
    wait_until(lambda: out["refused"], "there is memory still")


def test_half_a_head_that_finds_no_room_is_cut(lab):
    out = Scarce(lab.directory)
    up, router = warm(lab, out, header_timeout=0)
    starve(lab, router, out)
    out.relent()
    ends = []
    for client in lab.clients:
        try:
            ends.append(client.send(b"\r\n").read_response().status)
        except (ConnectionError, PeerClosed):
            ends.append("cut")
    assert 200 in ends and set(ends) <= {200, 503, "cut"} and len(set(ends)) > 1, ends
    assert router.chat().status == 200
    check_well(router, "afterwards")


def test_an_endpoint_is_not_called_down_for_want_of_memory(lab):
    """Probes that cannot be written say nothing; none is sent in half."""
    out = Scarce(lab.directory)
    up = mortal(lab)
    router = lab.router(up, env=out.env, probes=True, header_timeout=0,
                        pool={"health": {"interval": "50ms", "timeout": "5s", "fall": 1}, "model_list": {"interval": "50ms"}, "keepalive": {"timeout": 0}})
    up.wait_probes(3)
    assert router.chat().status == 200
    starve(lab, router, out)
    before = out["refused"]
    wait_until(lambda: out["refused"] > before + 10, "it does not try to probe")
    assert not state_lines(router, up)
    out.relent()
    up.wait_probes(len(up.probes) + 3)
    for client in lab.clients:
        client.close()
    assert router.chat().status == 200 and not state_lines(router, up)
    up.check()


# logs


def test_lines_that_find_no_room_are_dropped_whole(lab):
    out = Scarce(lab.directory)
    path, reader = fifo(lab)
    router = lab.router(lab.upstream(), env=out.env, log={"file": str(path)})
    health_batch(router, lab, 1, "first")
    out.refuse(1, FOREVER, 4 << 10)
    client = lab.client(router)
    for i in range(300):  # 100 KB, of which the pipe takes 4
        client.request("GET", "/health", headers=[("X-Request-Id", f"blocked-{i}")])
        assert client.read_response().status == 200
    assert out.relent()
    nudges = itertools.count()
    reader.wait_lines(lambda lines: any(b'"after' in line for line in lines) or health_batch(router, lab, 1, f"after{next(nudges)}"), "the log does not go on")
    page = scrape(router)
    health_batch(router, lab, 1, "last")
    lines = reader.wait_lines(lambda lines: lines and b'"last-0"' in lines[-1] and lines, "the last line does not come")
    entries = [json.loads(line) for line in lines]  # each line whole
    assert all(list(entry) == KEYS for entry in entries)
    names = [entry["request_id"] for entry in entries]
    assert len(set(names)) == len(names) and names[0] == "first-0"
    blocked = [int(name[8:]) for name in names if name.startswith("blocked")]
    assert 0 < len(blocked) < 300 and blocked == sorted(blocked)
    assert page["router_log_lines_dropped_total"] == 300 - len(blocked)


# configuration


def reload(router, n):
    """SIGHUP, until the router says what came of it, or is gone."""
    router.signal(signal.SIGHUP)

    def over():
        return router.process.poll() is not None or len([line for line in list(router.log) if re.search("reload: (refused|.* is in force)", line)]) >= n
    wait_until(over, "no word of the reload", step=0.002)


def test_a_large_file_that_finds_no_room_is_refused(lab):
    out = Scarce(lab.directory)
    up, router = warm(lab, out)
    small = router.config_path.read_text()
    router.write_config(small + "# " + "x" * (4 * MB) + "\n")
    out.refuse(1, FOREVER, 1 * MB)
    reload(router, 1)
    assert out.relent()
    line = router.log_contains("reload: refused")
    assert "out of memory" in line and str(router.config_path) in line
    assert router.chat().status == 200
    assert scrape(router)["router_reloads_total", {"result": "failed"}] == 1
    reload(router, 2)
    router.log_contains("is in force: generation 2")
    assert router.chat().status == 200


def outcomes(router):
    """The last word about each reload; before it each reason of a refusal has a line of its own."""
    return [line for line in list(router.log) if re.search(r"reload: (refused: |.*is in force)", line)]


def test_each_allocation_of_a_reload_fails_once(lab):
    """It is refused with a reason, or ends the program with its word for it; or memory was wanted for what can be done without."""
    out, up, fared = Scarce(lab.directory), lab.upstream(), []
    router = None
    for n in itertools.chain(range(1, 60), range(60, 5000, 23)):
        router = router or lab.router(up, env=out.env)
        reloads = len(outcomes(router))
        out.refuse(n)
        router.signal(signal.SIGHUP)
        wait_until(lambda: router.process.poll() is not None or len(outcomes(router)) > reloads, "no word", step=0.002)
        if dying(router):
            out.relent()
            died_properly(router)
            lab.routers.remove(router)
            fared.append("aborted")
            router = None
            continue
        if not out.relent():
            break
        line = outcomes(router)[-1]
        assert "is in force" in line or "refused" in line and "memory" in line, line
        assert router.chat().status == 200
        fared.append("refused" if "refused" in line else "in force")
    assert len(fared) > 60 and {"aborted", "refused"} <= set(fared), fared
    check_well(router, "afterwards")


def test_each_allocation_of_a_start_fails_once(lab):
    """With an endpoint that has a name, so that the resolver's are among them, each of its own: c-ares 1.34 loses a question or crashes
    when it is refused memory, so the program ends before."""
    dns = lab.keep(Dns())
    dns.set("gpu.test", "127.0.0.1")
    up = lab.upstream()
    out, fared = Scarce(lab.directory), []
    config = lab.config(f"http://gpu.test:{up.port}")

    def begin_with(first):
        out.refuse(first)
        router = Router(lab.directory / "start", config, env={**out.env, **dns.env}, wait=False)
        lab.routers.append(router)
        wait_until(lambda: router.process.poll() is not None or any(" is running with " in line for line in list(router.log)),
                   "it neither runs nor ends", step=0.002)
        return router
    router = begin_with(FOREVER)
    assert router.chat().status == 200
    total = out["seen"]
    router.stop()
    for n in itertools.chain(range(1, total - 240, 61), range(total - 240, total)):
        router = begin_with(n)
        out.relent()
        if router.process.poll() is None and not dying(router):
            wait_until(lambda: router.chat().status == 200, f"allocation {n}: it never serves")
            router.stop()
            lab.routers.remove(router)
            fared.append("serves")
            continue
        status = router.wait_exit()
        lab.routers.remove(router)
        assert status == 1 and "memory" in "\n".join(router.log) or status == -signal.SIGABRT and "router: out of memory" in router.log, (n, status, router.log)
        fared.append("ended")
    assert {"serves", "ended"} == set(fared), fared
