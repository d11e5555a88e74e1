"""Contract 6: the race with an endpoint that closes connections while requests are on their way to it, won every time."""
import collections
import os
import random
import socket
import threading
import time

import pytest

from harness import WaitTimeout, chat_body, request_bytes
from harness.mortal import Mortal

REQUESTS = int(os.environ.get("RACE_REQUESTS", "10000"))
CLIENTS = 8


class Closing(Mortal):
    """Closes a connection after `most` requests, or when it was idle for a random while; says nothing of it in its answers."""

    def __init__(self, seed, most=None, idle=None, **how):
        self.random, self.most, self.idle = random.Random(seed), most, idle
        self.count, self.closed = collections.Counter(), 0
        super().__init__(**how)

    def record(self, req):
        self.count[req["X-Request-Id"]] += 1

    def serve(self, conn):
        served = 0
        while self.most is None or served < self.most:
            if served and self.idle:
                try:
                    if not conn.buf:
                        conn.fill(self.random.uniform(*self.idle))
                except WaitTimeout:
                    break  # whatever arrives from now on is answered with a reset
            req = conn.rxreq()
            served += 1
            body = b"answer to %s" % req["X-Request-Id"].encode()
            conn.tx(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        self.closed += 1
        conn.close()


def run_clients(router, pause, total):
    """What went wrong, of `total` requests over CLIENTS kept-alive connections with random pauses between."""
    failures = []

    def run(number):
        rng = random.Random(number)
        client = router.connect()
        for n in range(total // CLIENTS):
            name = f"c{number}-{n}"
            client.send(request_bytes(body=chat_body(user=f"u{number}"), headers=[("X-Request-Id", name)]))
            response = client.read_response()
            if response.status != 200 or response.body != b"answer to " + name.encode():
                failures.append(response)
            if pause:
                time.sleep(rng.uniform(*pause))  # the race's own clock
        client.close()
    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a client is stuck"
    return failures


def race(lab, up, pause, total):
    """Every one of `total` requests is answered, whatever `up` does between them."""
    lab.upstreams.append(up)
    router = lab.router(up, pool={"keepalive": {"timeout": "60s"}}, log={"access": "off"})
    failures = run_clients(router, pause, total)
    assert not failures, f"{len(failures)} of {total} failed, first: {failures[0]}"
    assert len(up.count) == total // CLIENTS * CLIENTS
    return router


def test_a_backend_that_closes_after_100_requests(lab):
    up = Closing(1, most=100)
    race(lab, up, None, REQUESTS)
    assert up.closed >= REQUESTS // 100 - CLIENTS
    assert set(up.count.values()) == {1}  # and none was asked for twice: it closed before it read them


def test_a_backend_that_closes_idle_connections_at_random(lab):
    up = Closing(2, idle=(0.005, 0.05))
    race(lab, up, (0.0, 0.06), REQUESTS // 12)
    assert up.closed > 10  # how often depends on the machine


@pytest.mark.parametrize("most", [1, 2])
def test_a_backend_that_closes_without_saying_so(lab, most):
    up = Closing(3, most=most)
    race(lab, up, None, REQUESTS // 24)
    assert up.closed >= REQUESTS // 24 // most - CLIENTS


def test_a_backend_that_resets_idle_connections(lab):
    class Resetting(Closing):
        def run(self, conn):
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # its close is a reset
            super().run(conn)
    up = Resetting(4, idle=(0.001, 0.02))
    race(lab, up, (0.0, 0.022), REQUESTS // 12)
    assert up.closed > 10  # how often depends on the machine
