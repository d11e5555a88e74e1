"""Garbage at both sides, seeded: the process lives, leaks no descriptor, and the next good request is answered rightly.

GARBAGE_SEED picks another run, GARBAGE_SECONDS a longer one; a failure names the seed.
"""
import contextlib
import os
import random
import re
import subprocess
import threading
import time

import pytest

from harness import Malformed, PeerClosed, Truncated, WaitTimeout, chat_body, request_bytes
from harness.upstream import chunk, wait_until

SEED = int(os.environ.get("GARBAGE_SEED", "4"))
SECONDS = float(os.environ.get("GARBAGE_SECONDS", "15"))
GONE = (PeerClosed, Truncated, ConnectionError, OSError)

FORM = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n' \
       b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nevil\r\n--B--\r\n'
REQUESTS = [
    request_bytes(body=chat_body("evil", "u", content="Hi" * 50)),
    request_bytes(body=chat_body("evil", stream=True), headers=[("Connection", "close"), ("X-Request-Id", "x"), ("Accept", "text/event-stream")]),
    request_bytes("POST", "/v1/messages", chat_body("evil", metadata={"user_id": "u"}), [("x-api-key", "k"), ("Expect", "100-continue")]),
    request_bytes("POST", "/api/chat", chat_body("evil"), version="1.0"),
    request_bytes("POST", "/v1/audio/transcriptions", FORM, [("Content-Type", "multipart/form-data; boundary=B")]),
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n" + chunk(b'{"model":"ev') + b"3;a=b\r\nil\"\r\n1\r\n}\r\n"
    b"0\r\nX-T: 1\r\n\r\n",
    request_bytes("GET", "/v1/models"), request_bytes("HEAD", "/health"), request_bytes("GET", "/v1/models/a%2Fb?x=y"), request_bytes("GET", "/ready?pool=x"),
    request_bytes("OPTIONS", "/v1/models", headers=[("Origin", "http://o"), ("Access-Control-Request-Method", "GET")]),
    request_bytes("CONNECT", "a:1"), request_bytes("GET", "http://a/health"), request_bytes(body=b'{"model":"nope"}') * 3,
    request_bytes("POST", "/v1/completions", b'{"a":' + b"[" * 600),
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b'{"x":"' + b"y" * 9000,
]
SSE = b"".join(chunk(b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % i) for i in range(5)) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"evil\":true}",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + SSE,
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b'{"done":true,"eval_count":3}\n') + b"0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil close",
    b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 67\r\n\r\n"
    b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'[:67],
    b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 4\r\n\r\noops",
    b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=2\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n{"object":"list","data":[{"id":"evil-told"},{"id":"x\\u0000y"}]}  ',
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
]
SPICE = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b";", b"0", b"-1", b"ffffffffffffffff", b"\xff", b"\x7f", b"%", b"\r\n\r\n", b"Content-Length: 5\r\n",
         b"Transfer-Encoding: chunked\r\n", b"Content-Length: 99999999999999999999\r\n", b"Host: x\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
         b'{"model":"evil"}', b'"model"', b'\\u0000', b"[[[[", b"x" * 5000, b"X: y\r\n" * 120, b"HTTP/1.1 ", b"Expect: 100-continue\r\n", b"\xf0\x9f\x98\x80"]


def mutate(rng, data):
    """Between a flipped bit and noise."""
    data = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 2:
            del data[at:at + rng.choice([1, 2, 10, 100])]
        elif kind == 3:
            data[at:at] = rng.choice(SPICE)
        elif kind == 4:
            data[at:at] = data[at:at + rng.randrange(1, 60)]
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            data = bytearray(re.sub(rb"[0-9]+", lambda m: rng.choice([m.group(), b"%d" % rng.randrange(1 << rng.randrange(1, 70))]), bytes(data)))
        else:
            lines = bytes(data).split(b"\r\n")
            rng.shuffle(lines)
            data = bytearray(b"\r\n".join(lines))
    return bytes(data)


def pieces(rng, data):
    """The data in one piece, or cut into a few."""
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 0, 1, 3, 9])))
    return [part for part in (data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)])) if part]


def evil(conn):
    """An endpoint that answers with mutations, at the wrong time, and leaves as it likes."""
    rng = random.Random(f"{SEED} endpoint {conn.number}")
    conn.timeout = 5
    if rng.random() < 0.1:
        conn.tx(mutate(rng, rng.choice(ANSWERS)))  # before it was asked
    early = False
    while not early:
        early = rng.random() < 0.1  # answers before it has read the body, and leaves
        try:
            conn.rxhead() if early else conn.rxreq()
        except Malformed as bad:  # not even a mutated request may come through malformed
            raise AssertionError(f"GARBAGE_SEED={SEED}: {bad}") from None
        except WaitTimeout:
            return  # half an answer, and nobody in a hurry
        for part in pieces(rng, mutate(rng, rng.choice(ANSWERS))):
            conn.tx(part)
        end = rng.random()
        if end < 0.2:
            conn.fin()
        elif end < 0.3:
            conn.rst()
            return
        elif end < 0.35:
            return


def throw(rng, router):
    """One client's worth of garbage."""
    client = router.connect(timeout=3)
    try:
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            data = mutate(rng, rng.choice(REQUESTS)) if rng.random() < 0.95 else rng.randbytes(rng.randrange(1, 3000))
            for part in pieces(rng, data):
                client.send(part)
        end = rng.random()
        if end < 0.5:
            client.fill(0.03)  # whatever comes; often nothing is due
        if end < 0.1:
            client.half_close()
            client.fill(0.03)
        elif end > 0.9:
            client.rst()
    except (WaitTimeout, *GONE):
        pass
    finally:
        client.close()


def good(router, kept, number):
    """A sound request among all that, over a kept connection and over a new one: answered, with its own answer."""
    for client in (kept, router.connect()):
        name = f"good-{number}"
        client.request(body=chat_body("good", name, stream=number % 2 == 1), headers=[("X-Request-Id", name)])
        response = client.read_response()
        assert (response.status, response["X-Request-Id"]) == (200, name), response
        assert b'"%s"' % name.encode() in response.body and b'"endpoint": "fine"' in response.body, response
        client.request("GET", "/v1/models")
        listed = [entry["id"] for entry in client.read_response().json()["data"]]
        assert {"evil", "good"} <= set(listed)
        if client is not kept:
            client.close()


@contextlib.contextmanager
def told(router, thrown):
    """A failure is told with what it takes to see it again."""
    try:
        yield
    except (AssertionError, *GONE) as failure:
        with contextlib.suppress(subprocess.TimeoutExpired):
            router.process.wait(1)
        raise AssertionError(f"GARBAGE_SEED={SEED}, after {len(thrown)} throws, exit status {router.process.poll()}: {failure!r}\n"
                             + "\n".join(router.log[-60:])) from failure


def all_is_well(router, bad, before):
    """Nothing is left of it: no descriptor, no harm."""
    bad.stop_listening()  # its probes would keep a descriptor busy
    for conn in bad.conns:
        conn.close()
    wait_until(lambda: router.fds() <= before, f"more than the {before} descriptors of before", 15)
    assert router.chat("good").status == 200


@pytest.fixture
def place(lab):
    fine, bad = lab.upstream(name="fine"), lab.upstream(evil)
    router = lab.router(pools=[
        {"name": "good", "models": ["good"], "endpoints": [fine]},
        {"name": "evil", "models": ["evil", "evil-*"], "aliases": {"nope": "evil"}, "endpoints": [bad], "stream_idle_timeout": "500ms", "first_byte_timeout": "300ms",
         "health": {"interval": "50ms", "timeout": "200ms", "fall": 100}, "model_list": {"interval": "50ms"}},
    ], defaults={"keepalive": {"timeout": "300ms"}}, header_timeout="500ms", body_timeout="500ms", idle_timeout="30s", send_timeout="1s",
        max_header="8k", max_body="32k", cors_origins=["*"])
    return router, fine, bad


def test_garbage(place):
    router, fine, bad = place
    rng, thrown = random.Random(f"{SEED} client"), []
    router.chat("good")
    before, until, rounds = router.fds(), time.monotonic() + SECONDS, 0
    kept = router.connect()
    with contextlib.closing(kept), told(router, thrown):
        while time.monotonic() < until:
            thrown += [throw(rng, router) for _ in range(40)]
            rounds += 1
            good(router, kept, rounds)
    assert len(thrown) >= 200 and len(bad.conns) > 20  # it was no idle show
    with told(router, thrown):
        all_is_well(router, bad, before)
    print(f"seed {SEED}: {len(thrown)} clients thrown, {len(bad.conns)} endpoint connections, {rounds} rounds of good requests")


def test_a_crowd_of_garbage_at_once(place):
    """Sixteen throwers at a time, so that requests and refusals lie side by side in one turn."""
    router, fine, bad = place
    router.chat("good")
    before, until, rounds, thrown = router.fds(), time.monotonic() + SECONDS / 6, 0, []

    def thrower(number):
        rng = random.Random(f"{SEED} crowd {number}")
        with contextlib.suppress(ConnectionError):  # of a router that died, the good requests tell
            while time.monotonic() < until:
                thrown.append(throw(rng, router))
    threads = [threading.Thread(target=thrower, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    kept = router.connect()
    with contextlib.closing(kept), told(router, thrown):
        while time.monotonic() < until:
            good(router, kept, rounds)
            rounds += 1
    for thread in threads:
        thread.join(30)
    with told(router, thrown):
        all_is_well(router, bad, before)
