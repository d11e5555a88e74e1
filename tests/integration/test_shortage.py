"""Contract 7: out of descriptors, out of room for logs: the router sheds load, says so, and goes on. It never spins or stops."""
import errno
import fcntl
import itertools
import json
import os
import pathlib
import re
import socket
import time

import pytest

from harness import PeerClosed, RawClient, Router, ROUTER_BIN, Truncated, chat_body, request_bytes
from harness.mortal import state_lines
from harness.preload import preloaded
from harness.upstream import wait_until

PIPE_SIZE = 1031  # F_SETPIPE_SZ
HALF_HEAD = b"GET /health HTTP/1.1\r\nHost: x\r\n"  # a client that is not idle, and costs the router one descriptor


def wrapped(lab, before="", redirect=""):
    """A program that is the router, begun in other circumstances."""
    path = lab.directory / f"wrapped{len(lab.routers)}.sh"
    path.write_text(f"#!/bin/bash\n{before}\nexec {ROUTER_BIN} \"$@\" {redirect}\n")
    path.chmod(0o755)
    return str(path)


def few_files(lab, n, soft=None):
    return wrapped(lab, f"ulimit -Sn {soft or n} && ulimit -Hn {n}")


def hold(lab, router, n):
    """n connections with half a request each."""
    held = []
    for _ in range(n):
        client = lab.client(router)
        client.send(HALF_HEAD)
        held.append(client)
    return held


def spin(router, seconds=1.0):
    """CPU seconds used in that time."""
    before = router.cpu()
    time.sleep(seconds)  # the time measured
    return router.cpu() - before


# descriptors


def test_the_soft_limit_is_raised_to_the_hard_one(lab):
    router = lab.router(lab.upstream(), binary=few_files(lab, 1000, soft=40))
    assert router.get("/health").status == 200
    limits = pathlib.Path(f"/proc/{router.pid}/limits").read_text()
    assert re.search(r"Max open files\s+1000\s+1000", limits), limits


def test_max_connections_is_lowered_where_files_are_few(lab):
    router = lab.router(lab.upstream(), binary=few_files(lab, 200), max_connections=5000)
    line = router.log_contains(r"max_connections")
    assert "warn" in line and "5000" in line and "200" in line
    most = int(re.search(r"lowered to (\d+)", line).group(1))
    assert 20 <= most <= 100  # two a stream, and some for the router itself
    held = hold(lab, router, most - 1)
    last = lab.client(router)
    assert last.request("GET", "/health").read_response().status == 200  # by now the others have been read
    last.send(HALF_HEAD)
    extra = lab.client(router)
    response = extra.read_response()
    assert (response.status, response.error["code"]) == (503, "overloaded") and int(response["Retry-After"]) > 0
    assert held[0].send(b"\r\n").read_response().status == 200


def test_no_warning_where_files_suffice(lab):
    router = lab.router(lab.upstream(), binary=few_files(lab, 2000), max_connections=500)
    assert router.get("/health").status == 200
    assert not [line for line in router.log if "max_connections" in line]


def test_out_of_descriptors_it_waits_without_spinning_and_recovers(lab):
    up = lab.scripted()
    router = lab.router(up, binary=few_files(lab, 100), header_timeout=0)
    streaming = lab.client(router)
    streaming.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = streaming.sse(streaming.read_head())
    flood = hold(lab, router, 300)
    router.log_contains(r"(?i)too many open files")
    assert spin(router) < 0.3
    conn.event("still here")  # what runs goes on
    assert next(events) == b"data: still here"
    for client in flood:
        client.close()
    wait_until(lambda: answers(router), "it does not recover")
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]
    assert len([line for line in router.log if "open files" in line.lower()]) < 40  # it says so, but does not flood the log
    router.wait_fds(20)


def answers(router):
    try:
        return router.get("/health").status == 200
    except (PeerClosed, Truncated, ConnectionError):
        return False


def test_idle_endpoint_connections_give_way(lab):
    """A fleet with more idle connections than files: no request fails for it, and no endpoint is blamed for it."""
    up = lab.upstream(host="0.0.0.0")
    urls = [f"http://127.0.0.{i}:{up.port}" for i in range(1, 121)]
    router = lab.router(urls, binary=few_files(lab, 100), pool={"affinity": "none", "keepalive": {"timeout": "8s"}, "health": {"interval": 0, "fall": 1}})
    client = lab.client(router)
    for _ in urls:
        client.chat()
        assert client.read_response().status == 200
    assert not [line for url in urls for line in state_lines(router, url)]


def test_an_endpoint_is_not_called_down_for_want_of_descriptors(lab):
    """Clients hold all there are; the endpoint is well all the while."""
    up = lab.upstream()
    router = lab.router(up, binary=few_files(lab, 100), header_timeout=0, pool={"health": {"interval": 0, "fall": 1}})
    asking = lab.client(router)
    asking.request("GET", "/health")
    assert asking.read_response().status == 200
    asking.send(HALF_HEAD)
    flood = hold(lab, router, 300)
    router.log_contains(r"(?i)too many open files")
    asking.send(b"\r\n" + request_bytes(body=chat_body()))  # at once: an idle connection gives way to a newcomer
    assert asking.read_response().status == 200
    response = asking.read_response()
    assert response.status == 200 or response.status == 503 and int(response["Retry-After"]) > 0
    for client in flood:
        client.close()
    wait_until(lambda: answers(router), "it does not recover")
    assert router.chat().status == 200
    assert not state_lines(router, up)


# logs


def fifo(lab, name="log.fifo", size=4096):
    """A small pipe whose reader the test is."""
    path = lab.directory / name
    os.mkfifo(path)
    reader = lab.keep(Pipe(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
    fcntl.fcntl(reader.fd, PIPE_SIZE, size)
    return path, reader


class Pipe:
    def __init__(self, fd):
        self.fd, self.text = fd, b""

    def drain(self):
        """Whole lines that came so far."""
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                break
            self.text += data
        return self.text.split(b"\n")[:-1]

    def wait_lines(self, predicate, what):
        return wait_until(lambda: predicate(self.drain()), what)

    def close(self):
        os.close(self.fd)


def health_batch(router, lab, n, tag):
    """n requests on one connection, pipelined; all must be answered."""
    client = lab.client(router)
    for start in range(0, n, 50):
        ids = [f"{tag}-{i}" for i in range(start, min(n, start + 50))]
        client.send(b"".join(request_bytes("GET", "/health", headers=[("X-Request-Id", name)]) for name in ids))
        for name in ids:
            assert client.read_response()["X-Request-Id"] == name


@pytest.mark.parametrize("place", ["log.file", "stdout"])
def test_a_blocked_log_pipe_stops_nobody(lab, place):
    path, reader = fifo(lab)
    if place == "stdout":
        router = lab.router(lab.upstream(), binary=wrapped(lab, redirect=f"> {path}"))
    else:
        router = lab.router(lab.upstream(), log={"file": str(path)})
    began = time.monotonic()
    health_batch(router, lab, 100, "blocked")
    assert time.monotonic() - began < 5
    assert spin(router, 0.5) < 0.2
    reader.drain()


def test_what_a_log_does_not_take_is_dropped_in_whole_lines(lab):
    path, reader = fifo(lab)
    router = lab.router(lab.upstream(), log={"file": str(path)})
    health_batch(router, lab, 2800, "blocked")  # well over 1 MB of lines, of which the pipe takes 4 KB
    router.log_contains(r"(?i)drop")
    nudges = itertools.count()
    reader.wait_lines(lambda lines: any(b'"after' in line for line in lines) or health_batch(router, lab, 1, f"after{next(nudges)}"),
                      "the log does not go on")
    names = [json.loads(line)["request_id"] for line in reader.drain()]  # each line whole
    assert names[0] == "blocked-0" and len(set(names)) == len(names) < 2800


def test_lines_wait_for_a_pipe_that_is_read_late(lab):
    path, reader = fifo(lab, size=65536)
    router = lab.router(lab.upstream(), log={"file": str(path)})
    health_batch(router, lab, 200, "early")  # more than the pipe takes, less than the router holds
    reader.wait_lines(lambda lines: len(lines) >= 200, "lines do not follow while nothing new happens")
    names = [json.loads(line)["request_id"] for line in reader.drain()]
    assert names == [f"early-{i}" for i in range(200)]


def test_a_full_disk_under_the_log(lab):
    router = lab.router(lab.upstream(), log={"file": "/dev/full"})
    for _ in range(20):
        assert router.chat().status == 200
    line = router.log_contains(r"(?i)drop")
    assert re.search(r"(?i)no space", line), line
    assert len([line for line in router.log if "drop" in line.lower()]) <= 3
    assert spin(router, 0.5) < 0.2


def test_a_reader_that_goes_away(lab):
    path, reader = fifo(lab)
    router = lab.router(lab.upstream(), log={"file": str(path)})
    assert router.chat().status == 200
    reader.wait_lines(lambda lines: len(lines) == 1, "no line")
    reader.close()
    for _ in range(5):
        assert router.chat().status == 200  # EPIPE is no end
    reader.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    reader.wait_lines(lambda lines: len(lines) > 1 or router.chat() is None, "the log does not go on")


@pytest.mark.parametrize("kind", ["pipe", "terminal", "socket", "file"])
def test_nonblock_is_never_set_on_somebody_elses_stdout(lab, kind):
    if kind == "terminal":
        master, slave = os.openpty()
        lab.keep(Pipe(master)), lab.keep(Pipe(slave))
        binary = wrapped(lab, redirect=f"> {os.ttyname(slave)}")
    elif kind == "socket":
        listener = socket.create_server(("127.0.0.1", 0))
        lab.keep(listener)
        binary = wrapped(lab, redirect=f"> /dev/tcp/127.0.0.1/{listener.getsockname()[1]}")
    else:
        binary = wrapped(lab, redirect=f"> {lab.directory}/out.txt" if kind == "file" else "")
    router = lab.router(lab.upstream(), binary=binary)
    assert router.chat(headers=[("X-Request-Id", "seen-me")]).status == 200
    if kind == "terminal":
        os.set_blocking(master, False)
        seen = lab.others[-2].wait_lines(lambda lines: lines, "no line on the terminal")[0]
    elif kind == "socket":
        log, _ = listener.accept()
        lab.keep(log)
        seen = log.makefile("rb").readline()
    elif kind == "file":
        out = lab.directory / "out.txt"
        seen = wait_until(lambda: out.read_bytes(), "no line in the file")
    else:
        seen = json.dumps(router.access_lines(1)[0]).encode()
    assert json.loads(seen)["request_id"] == "seen-me"
    for fd in (0, 1, 2):
        flags = int(re.search(r"flags:\s*(\d+)", pathlib.Path(f"/proc/{router.pid}/fdinfo/{fd}").read_text()).group(1), 8)
        assert not flags & os.O_NONBLOCK, f"descriptor {fd}: {flags:o}"


def test_a_blocked_stderr_stops_nobody(lab):
    """Whoever collects the operator's lines may stall: requests must not."""
    path, reader = fifo(lab, "err.fifo")
    sock = lab.directory / "r.sock"
    up = lab.upstream()
    router = Router(lab.directory / "blocked", lab.config(up, log={"level": "debug"}), listen=(f"unix:{sock}",), wait=False,
                    binary=wrapped(lab, redirect=f"2> {path}"))
    lab.routers.append(router)
    wait_until(sock.exists, "it does not listen")
    client = wait_until(lambda: connected(sock), "it takes no connection")
    lab.clients.append(client)
    for _ in range(60):  # some lines at debug each: far more than 4 KB
        client.chat()
        assert client.read_response().status == 200
    reader.drain()


def connected(path):
    try:
        return RawClient(path, timeout=5)
    except OSError:
        return None


# what only a preloaded library can bring about


class Kernel:
    """The router's calls of one kind fail with an errno, from fails() to well()."""

    def __init__(self, lab, *endpoints, **how):
        self.order, self.mark = lab.directory / "fails", lab.directory / "failed"
        self.router = lab.router(list(endpoints), env=preloaded("errno", FAILS=str(self.order), FAILED=str(self.mark)), **how)

    def fails(self, call, number):
        self.mark.write_bytes(b"")
        part = self.order.with_suffix(".part")
        part.write_text(f"{call} {int(number)}")
        part.rename(self.order)

    def times(self):
        return self.mark.stat().st_size

    def well(self):
        self.order.unlink()


@pytest.mark.parametrize("number", [errno.ENFILE, errno.EMFILE, errno.ENOBUFS, errno.ENOMEM], ids=lambda n: errno.errorcode[n])
def test_accepting_pauses_and_goes_on(lab, number):
    """It tries again ten times a second, not as fast as it can; who is connected is served meanwhile, and the newcomer afterwards."""
    kernel = Kernel(lab, lab.upstream())
    router = kernel.router
    known = lab.client(router)
    assert known.chat().read_response().status == 200
    kernel.fails("accept4", number)
    known.chat()
    assert known.read_response().status == 200
    began, newcomer = time.monotonic(), lab.client(router)
    newcomer.chat()
    wait_until(lambda: kernel.times() >= 3, "it does not try again")
    assert kernel.times() <= 3 + (time.monotonic() - began) * 25
    kernel.well()
    assert newcomer.read_response().status == 200
    router.log_contains(re.escape(os.strerror(number)))


@pytest.mark.parametrize("number", [errno.ENFILE, errno.ENOBUFS], ids=lambda n: errno.errorcode[n])
def test_no_socket_for_an_endpoint_is_not_its_fault(lab, number):
    up = lab.upstream()
    kernel = Kernel(lab, up)
    kernel.fails("socket", number)
    response = kernel.router.chat()
    assert (response.status, response.error["code"]) == (503, "overloaded") and int(response["Retry-After"]) > 0
    assert kernel.times() and not state_lines(kernel.router, up)
    kernel.well()
    assert kernel.router.chat().status == 200


def test_enobufs_at_a_write_is_a_wait(lab):
    """Some kernels say so instead of EAGAIN: the bytes are owed, and go when there is room."""
    up = lab.scripted()
    kernel = Kernel(lab, up, log={"level": "debug"})
    client = lab.client(kernel.router)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    kernel.fails("sendmsg", errno.ENOBUFS)
    conn.txresp(200, body=b"x" * 1000)
    wait_until(lambda: kernel.times() >= 1, "it did not write")
    kernel.well()
    client.chat()  # something happens on that connection: the kernel tells anew that it is writable
    assert client.read_response().body == b"x" * 1000
