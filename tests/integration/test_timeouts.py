"""Contract 2: how long the router waits for an endpoint, and that one which vanished without a word is noticed."""
import ctypes
import os
import re
import socket
import subprocess
import time

import pytest

from harness import Truncated
from harness.mortal import mortal, state_lines, user_at, wait_state
from harness.upstream import chunk, wait_until


def sockets_to(router, port):
    """The router's sockets that are connected to that port, as duplicates of our own."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(router.pid)
    found = []
    for name in os.listdir(f"/proc/{router.pid}/fd"):
        if not os.readlink(f"/proc/{router.pid}/fd/{name}").startswith("socket:"):
            continue
        fd = libc.syscall(438, pidfd, int(name), 0)  # pidfd_getfd(2)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        sock = socket.socket(fileno=fd)
        try:
            if sock.family == socket.AF_INET and sock.getpeername()[1] == port:
                found.append(sock)
                continue
        except OSError:
            pass
        sock.close()
    os.close(pidfd)
    return found


# connect


def test_connect_timeout(lab):
    router = lab.router(lab.blackhole(), pool={"connect_timeout": "300ms"})
    began = time.monotonic()
    response = router.chat()
    assert (response.status, response.error["code"]) == (502, "upstream_error")
    assert 0.28 <= time.monotonic() - began < 3
    line = router.access_lines(1)[0]
    assert line["end"] == "upstream_error" and line["duration_ms"] >= 300


def test_connect_timeout_is_each_endpoints(lab):
    router = lab.router([lab.blackhole() for _ in range(3)], pool={"connect_timeout": "300ms"})
    began = time.monotonic()
    assert router.chat().status == 502
    assert 0.85 <= time.monotonic() - began < 5
    assert router.access_lines(1)[0]["tries"] == 3


def test_connect_timeout_leaves_no_descriptor(lab):
    router = lab.router(lab.blackhole(), pool={"connect_timeout": "100ms", "health": {"interval": 0, "fall": 99}})
    router.chat()
    before = router.fds()
    for _ in range(5):
        router.chat()
    router.wait_fds(before)


def full_unix(lab):
    """A scripted endpoint at a unix socket whose backlog is full, and who fills it. A connect there says EAGAIN; TCP's would wait."""
    up = lab.scripted(unix=lab.directory / "full.sock")
    up.listener.listen(0)
    fillers = []
    while True:
        filler = lab.keep(socket.socket(socket.AF_UNIX))
        filler.setblocking(False)
        try:
            filler.connect(up.url.removeprefix("unix:"))
        except BlockingIOError:
            return up, fillers
        fillers.append(filler)


def test_a_unix_socket_with_a_full_backlog_is_waited_for(lab):
    up, fillers = full_unix(lab)
    router = lab.router(up, pool={"connect_timeout": "60s"})
    clients = [lab.client(router) for _ in range(3)]
    for client in clients:
        client.chat()
    assert all(client.is_silent(0.1) for client in clients)
    for _ in fillers:
        up.accept()
    for _ in clients:
        conn = up.accept()
        conn.rxreq()
        conn.txresp(200, body=b"x", headers=[("Connection", "close")])
    for client in clients:
        assert client.read_response().status == 200
    assert {line["tries"] for line in router.access_lines(3)} == {1} and not state_lines(router, up)


def test_connect_timeout_of_a_unix_socket_with_a_full_backlog(lab):
    up, _ = full_unix(lab)
    router = lab.router(up, pool={"connect_timeout": "400ms", "health": {"interval": 0, "fall": 1}})
    response = router.chat()
    assert (response.status, response.error["code"]) == (502, "upstream_error")
    line = router.access_lines(1)[0]
    assert line["end"] == "upstream_error" and line["duration_ms"] >= 380
    wait_state(router, up, "down")  # the log comes by another pipe than the access line
    assert len(state_lines(router, up, "down")) == 1


def test_after_a_full_backlog_comes_the_next_endpoint(lab):
    (up, _), alive = full_unix(lab), mortal(lab)
    router = lab.router([up, alive], pool={"connect_timeout": "400ms"})
    assert router.endpoint_of(user=user_at(router, up)) == alive.name
    line = router.access_lines(1)[0]
    assert (line["tries"], line["affinity"]) == (2, "failover") and line["first_byte_ms"] >= 380


# first byte


def test_first_byte_timeout_0_waits(lab):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    assert client.is_silent(1)  # and no other limit strikes
    conn.txresp(200, body=b"late")
    assert client.read_response().body == b"late"


def test_first_byte_timeout_ends_with_the_head(lab):
    up, router, client = lab.scripted_pair(pool={"first_byte_timeout": "1s"})
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    time.sleep(1.5)  # beyond it
    conn.event("one")
    assert next(events) == b"data: one"
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]


@pytest.mark.parametrize("sent", ["HTTP/1.1 200 OK\r\nContent-", "HTTP/1.1 102 Processing\r\n\r\n"], ids=["half a head", "1xx"])
def test_a_head_that_stalls_is_504(lab, sent):
    """Its first byte came, so the limit is the one between two bytes; to the client nothing went yet."""
    up, router, client = lab.scripted_pair(pool={"first_byte_timeout": "1s", "stream_idle_timeout": "600ms"})
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx(sent)
    response = client.read_response()
    assert (response.status, response.error["code"]) == (504, "upstream_timeout")
    conn.wait_close()


# between two bytes


def test_bytes_keep_a_stream_alive(lab):
    up, router, client = lab.scripted_pair(pool={"stream_idle_timeout": "1500ms"})
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    for n in range(12):
        time.sleep(0.2)  # longer than the timeout in all
        conn.event(str(n))
        assert next(events) == b"data: %d" % n
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_stalls_is_cut(lab, framing):
    up, router, client = lab.scripted_pair(pool={"stream_idle_timeout": "400ms"})
    client.chat()
    conn = up.accept()
    conn.rxreq()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    conn.tx(head + (b"Content-Length: 100\r\n\r\nhalf" if framing == "length" else b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"half")))
    began = time.monotonic()
    response = client.read_cut()
    assert response.body == b"half" and 0.3 <= time.monotonic() - began < 3
    conn.wait_close()
    assert router.access_lines(1)[0]["end"] == "upstream_timeout"


def test_stream_idle_timeout_0_waits(lab):
    up, router, client = lab.scripted_pair(pool={"stream_idle_timeout": 0})
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
    client.recv_until(b"half")
    assert client.is_silent(1)
    conn.tx("done")
    assert client.recv_exact(4) == b"done"


def test_stream_idle_timeout_runs_again_once_the_client_takes(lab):
    """The endpoint stalls while a slow client has bytes to take: the time counts from when they are gone."""
    up, router, client = lab.scripted_pair(pool={"stream_idle_timeout": "700ms"})
    slow = lab.client(router, rcvbuf=4096)
    slow.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    big = chunk(b"x" * 65_536)
    conn.sock.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 400 << 20:
            conn.sock.sendall(big)
            sent += 65_536
    time.sleep(1)  # the client takes nothing, for longer than the timeout
    head = slow.read_head()
    taken = 0
    with pytest.raises(Truncated):  # what lies in the buffers comes; then the stalled endpoint is given up
        for part in slow.body_parts(head):
            taken += len(part)
    assert taken > 65_536
    assert router.access_lines(1)[0]["end"] == "upstream_timeout"


# a host that vanishes


@pytest.mark.parametrize("idle", [False, True], ids=["in use", "idle"])
def test_endpoint_sockets_notice_a_vanished_host_within_a_minute(lab, idle):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    if idle:
        conn.txresp(200, body=b"x")
        client.read_response()
    (sock,) = sockets_to(router, up.port)
    try:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        get = lambda option: sock.getsockopt(socket.IPPROTO_TCP, option)  # noqa: E731
        assert get(socket.TCP_KEEPIDLE) + get(socket.TCP_KEEPINTVL) * get(socket.TCP_KEEPCNT) <= 60
        assert get(socket.TCP_USER_TIMEOUT) == 0  # it would end one that lives and takes no bytes for as long, too: see test_vanished
        assert get(socket.TCP_NODELAY) == 1
    finally:
        sock.close()


def test_the_kernel_runs_its_keepalive_timer(lab):
    up, router, client = lab.scripted_pair()
    client.chat()
    up.accept().rxreq()
    shown = subprocess.run(["ss", "-tnoH", "dst", f"127.0.0.1:{up.port}"], capture_output=True, text=True, check=True).stdout
    timer = re.search(r"timer:\(keepalive,([\d.]+)(ms|sec|min)", shown)
    assert timer and timer.group(2) != "min", shown


def test_a_probe_finds_a_host_that_takes_connections_no_more(lab):
    hole, alive = lab.blackhole(), mortal(lab)
    router = lab.router([hole, alive], probes=True, pool={"health": {"interval": "100ms", "timeout": "200ms", "fall": 2}, "connect_timeout": "200ms"})
    wait_until(lambda: any(f"{hole.url} is down" in line for line in router.log), "the probes do not find out")
    client = router.connect()
    for i in range(30):
        client.chat(user=f"u{i}")
        assert client.read_response().json()["endpoint"] == alive.name
    client.close()
    assert {line["tries"] for line in router.access_lines(30)} == {1}  # nobody waited for the dead
