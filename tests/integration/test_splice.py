"""Long answers of known length go from socket to socket inside the kernel: to the byte, however either side behaves."""
import collections
import hashlib
import json
import os
import random
import resource
import stat
import threading

import pytest

from harness import DEADLINE, Truncated

MB = 1 << 20
LONG = 50 * MB
BODY = random.Random(7).randbytes(MB) * 50
HASH = hashlib.sha256(BODY).hexdigest()
OCTETS = [("Content-Type", "application/octet-stream")]


def has_spliced(router):
    """It makes its one pipe the first time it splices: both ends of it are its own, which is so of no pipe it was given."""
    ends = collections.defaultdict(set)
    for fd in os.listdir(f"/proc/{router.pid}/fd"):
        path = f"/proc/{router.pid}/fd/{fd}"
        try:
            ends[os.readlink(path)].add(os.lstat(path).st_mode & (stat.S_IRUSR | stat.S_IWUSR))
        except FileNotFoundError:
            pass
    return any(modes == {stat.S_IRUSR, stat.S_IWUSR} for name, modes in ends.items() if name.startswith("pipe:"))


class Sender(threading.Thread):
    """Sends in the background; `failed` says how it ended before all was sent."""

    def __init__(self, conn, data, then=None):
        super().__init__(daemon=True)
        self.conn, self.data, self.then, self.failed = conn, data, then, None
        self.start()

    def run(self):
        try:
            self.conn.sock.settimeout(DEADLINE)
            self.conn.sock.sendall(self.data)
            if self.then:
                self.then()
        except OSError as e:
            self.failed = e

    def done(self):
        self.join(DEADLINE)
        assert not self.is_alive()
        return self.failed


def head_of(length, status=200, fields=OCTETS):
    lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in fields), f"Content-Length: {length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def begin(lab, data, then=None, client=None, **how):
    """A request whose answer is `data`, which is on its way. (router, client, the endpoint's connection, sender)"""
    up = lab.scripted()
    router = lab.router(up, **how)
    client = client(router) if client else lab.client(router)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    return router, client, conn, Sender(conn, data, then and then(conn))


def hash_of_body(client, length, piece=1 << 18, slow_bytes=0):
    """Reads a body: the first slow_bytes of it in small pieces, so that the router waits for the client again and again."""
    sha, left = hashlib.sha256(bytes(client.buf[:length])), length - min(len(client.buf), length)
    del client.buf[:length]
    while left:
        small = length - left < slow_bytes
        data = client.sock.recv(min(left, 1500 if small else piece))
        assert data, f"it ended {left} bytes early"
        sha.update(data)
        left -= len(data)
    return sha.hexdigest()


def test_fast_client(lab):
    router, client, _, sender = begin(lab, head_of(LONG) + BODY)
    assert not has_spliced(router) or sender.is_alive()
    assert client.read_head()["Content-Length"] == str(LONG)
    assert hash_of_body(client, LONG) == HASH
    assert sender.done() is None
    assert has_spliced(router)
    assert router.access_lines(1)[0]["sent_bytes"] == LONG
    client.request("GET", "/health")
    assert client.read_response().body == b"ok"


def test_a_shortage_of_descriptors_does_not_end_it_for_good(lab):
    """There is no room for the pipe while the first answer comes; then there is."""
    router, client, conn, sender = begin(lab, head_of(LONG))
    assert client.read_head()["Content-Length"] == str(LONG)
    soft, hard = resource.prlimit(router.pid, resource.RLIMIT_NOFILE)
    used = {int(fd) for fd in os.listdir(f"/proc/{router.pid}/fd")}
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), hard))
    sender = Sender(conn, BODY)
    assert hash_of_body(client, LONG) == HASH
    assert sender.done() is None and not has_spliced(router)
    resource.prlimit(router.pid, resource.RLIMIT_NOFILE, (soft, hard))
    client.chat()
    conn.rxreq()
    sender = Sender(conn, head_of(LONG) + BODY)
    client.read_head()
    assert hash_of_body(client, LONG) == HASH
    assert sender.done() is None and has_spliced(router)


def test_short_answers_are_not_spliced(lab):
    up, router, client = lab.scripted_pair()
    conn = None
    for _ in range(20):
        client.chat()
        conn = conn or up.accept()
        conn.rxreq()
        conn.txresp(200, OCTETS, b"x" * 20000)
        assert len(client.read_response().body) == 20000
    assert not has_spliced(router)


@pytest.mark.parametrize("rcvbuf, slow", [(4096, 300_000), (65536, 2_000_000), (None, 3_000_000)])
def test_slow_client(lab, rcvbuf, slow):
    """Slow at first, which leaves bytes owed at every point where they can be; then fast, so that splicing sets in again."""
    router, client, _, sender = begin(lab, head_of(LONG) + BODY, client=lambda r: lab.client(r, rcvbuf=rcvbuf))
    client.read_head()
    assert hash_of_body(client, LONG, slow_bytes=slow) == HASH
    assert sender.done() is None
    client.request("GET", "/health")
    assert client.read_response().body == b"ok"
    assert router.rss() < 400 * MB if "asan" in os.environ.get("ROUTER_BIN", "asan") else router.rss() < 40 * MB


def test_many_at_once(lab):
    """One pipe serves all: nobody's bytes may end up with another."""
    bodies = [bytes([n]) * 7 + BODY[n * 1000:][:8 * MB - 7] for n in range(8)]
    up = lab.scripted()
    router = lab.router(up)
    clients, senders = [lab.client(router, rcvbuf=16384 if n % 2 else None) for n in range(8)], []
    for client, body in zip(clients, bodies):
        client.chat()
        conn = up.accept()
        conn.rxreq()
        senders.append(Sender(conn, head_of(len(body)) + body))
    found = [None] * len(clients)

    def read(n):
        clients[n].read_head()
        found[n] = hash_of_body(clients[n], len(bodies[n]), slow_bytes=100_000 * (n % 3))
    readers = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(len(clients))]
    for r in readers:
        r.start()
    for r in readers:
        r.join(DEADLINE)
    assert found == [hashlib.sha256(b).hexdigest() for b in bodies]
    assert [s.done() for s in senders] == [None] * len(senders)
    assert has_spliced(router)


@pytest.mark.parametrize("how", ["close", "rst"])
def test_client_gone_in_the_middle(lab, how):
    router, client, conn, sender = begin(lab, head_of(LONG) + BODY)
    client.read_head()
    client.recv_exact(5 * MB)
    getattr(client, how)()
    assert isinstance(sender.done(), OSError)  # the endpoint's connection was closed at once
    line = router.access_lines(1)[0]
    assert line["end"] == "client_gone"
    assert line["sent_bytes"] < LONG
    assert router.get("/health").body == b"ok"


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_endpoint_dies_in_the_middle(lab, how):
    """A cut, never a clean end; of a clean close every byte before it arrives."""
    part = 20 * MB + 12345

    def then(conn):
        return conn.close if how == "fin" else conn.rst
    router, client, _, sender = begin(lab, head_of(LONG) + BODY[:part], then)
    client.read_head()
    with pytest.raises(Truncated) as cut:
        client.recv_exact(LONG)
    got = bytes(cut.value.partial)
    assert BODY.startswith(got)
    assert len(got) == part if how == "fin" else len(got) <= part
    sender.done()
    assert router.access_lines(1)[0]["end"] == "upstream_error"
    assert router.get("/health").body == b"ok"


def test_next_answer_right_behind(lab):
    """Two requests in one go: the second answer follows the first on the same connections, byte for byte."""
    up, router, client = lab.scripted_pair()
    client.chat(user="one")
    client.chat(user="two")
    conn = up.accept()
    conn.rxreq()
    sender = Sender(conn, head_of(LONG) + BODY)
    client.read_head()
    assert hash_of_body(client, LONG) == HASH
    assert sender.done() is None
    assert conn.rxreq().json()["user"] == "two"
    conn.txresp(200, OCTETS, b"second")
    assert client.read_response().body == b"second"
    assert has_spliced(router)


def test_bytes_behind_the_body_go_to_nobody(lab):
    """What an endpoint says beyond its length is never passed on, and its connection is not used again."""
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    sender = Sender(conn, head_of(LONG) + BODY + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    client.read_head()
    assert hash_of_body(client, LONG) == HASH
    sender.done()
    client.chat(user="next")
    fresh = up.accept()
    assert fresh.rxreq().json()["user"] == "next"
    fresh.txresp(200, OCTETS, b"clean")
    assert client.read_response().body == b"clean"


@pytest.mark.parametrize("status", [204, 304])
def test_length_without_a_body(lab, status):
    """As in an answer to HEAD the length is of a body that does not come: nothing waits for it."""
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.send(head_of(LONG, status))
    assert client.read_response().status == status
    client.chat()
    conn.rxreq()
    conn.txresp(200, OCTETS, b"after it")
    assert client.read_response().body == b"after it"
    assert not has_spliced(router)


def test_tokens_at_the_end_of_a_long_json_answer(lab):
    """The end of a JSON body is read, though all before it was not."""
    usage = {"prompt_tokens": 12, "completion_tokens": 34}
    text = json.dumps({"data": "x" * (20 * MB), "usage": usage}).encode()
    router, client, _, sender = begin(lab, head_of(len(text), fields=[("Content-Type", "application/json")]) + text)
    assert client.read_response().body == text
    assert sender.done() is None
    assert has_spliced(router)
    line = router.access_lines(1)[0]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (12, 34)


def test_http_10_client(lab):
    up, router, client = lab.scripted_pair()
    client.request("POST", "/v1/chat/completions", {"model": "m"}, version="1.0")
    conn = up.accept()
    conn.rxreq()
    sender = Sender(conn, head_of(LONG) + BODY)
    client.read_head()
    assert hash_of_body(client, LONG) == HASH
    assert client.recv_rest() == b""
    assert sender.done() is None
    assert has_spliced(router)
