"""Contract 2: an endpoint whose host vanished is noticed within a minute; one that lives and only takes no bytes is never taken for it.

A minute is long, so the router runs in a hurry: a preloaded library makes its clock go HURRY times as fast, and cuts by as much what it
agrees with the kernel in time. LONG_TESTS=1 runs the same at the pace of the world.
"""
import os
import subprocess
import threading
import time

import pytest

from harness import ROUTER_BIN, Truncated, chat_body
from harness.netns import ALLOWED, Namespace
from harness.router import environment
from harness.upstream import wait_until

HURRY = 1 if os.environ.get("LONG_TESTS") else 20
PATIENCE = 30 + 120 / HURRY  # seconds of ours
LIBRARY = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *t) {
    int r = (int)syscall(SYS_clock_gettime, id, t);
    if (r == 0 && id == CLOCK_MONOTONIC) {
        long long ns = (t->tv_sec * 1000000000LL + t->tv_nsec) * HURRY;
        t->tv_sec = ns / 1000000000;
        t->tv_nsec = ns % 1000000000;
    }
    return r;
}

int epoll_wait(int fd, struct epoll_event *events, int n, int ms) {
    return (int)syscall(SYS_epoll_pwait, fd, events, n, ms > 0 ? (ms + HURRY - 1) / HURRY : ms, NULL, 8);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len) {
    int less = len >= sizeof(int) ? *(const int *)value / HURRY : 0;
    if (less < 1) less = 1;
    if (level == IPPROTO_TCP && (name == TCP_KEEPIDLE || name == TCP_KEEPINTVL || name == TCP_USER_TIMEOUT)) value = &less;
    return (int)syscall(SYS_setsockopt, fd, level, name, value, len);
}

/* Each look at TCP_INFO leaves a byte in the file LOOKS. The file TOLD, if it is there, has what is said then: how often something was
 * sent again, how often a full window was probed, and the ms since the last acknowledgement. */
int getsockopt(int fd, int level, int name, void *value, socklen_t *len) {
    int r = (int)syscall(SYS_getsockopt, fd, level, name, value, len);
    char text[100] = "";
    unsigned retransmits, probes, silent;
    if (r != 0 || level != IPPROTO_TCP || name != TCP_INFO) return r;
    struct tcp_info *info = value;
    info->tcpi_last_ack_recv *= HURRY;
    int looks = open(getenv("LOOKS"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600), told = open(getenv("TOLD"), O_RDONLY | O_CLOEXEC);
    if (told >= 0 && read(told, text, sizeof text - 1) > 0 && sscanf(text, "%u %u %u", &retransmits, &probes, &silent) == 3) {
        info->tcpi_retransmits = (unsigned char)retransmits;
        info->tcpi_probes = (unsigned char)probes;
        info->tcpi_last_ack_recv = silent;
    }
    if (looks < 0 || write(looks, "", 1) != 1) abort();
    close(looks);
    if (told >= 0) close(told);
    return r;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    where = tmp_path_factory.mktemp("hurry")
    (where / "hurry.c").write_text(LIBRARY)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", f"-DHURRY={HURRY}", "-o", where / "hurry.so", where / "hurry.c"], check=True)
    return where / "hurry.so"


class Hurried:
    """A scripted endpoint that takes few bytes unread, and a router before it whose minutes are short."""

    def __init__(self, lab, library, enter=(), make=lambda make: make(), **how):
        self.lab, self.told, self.seen = lab, lab.directory / "told", lab.directory / "looks"
        self.up = make(lambda: lab.scripted(rcvbuf=4096))
        asan = environment()["ASAN_OPTIONS"] + ":verify_asan_link_order=0"
        wrapper = lab.directory / "hurried.sh"
        wrapper.write_text(f"#!/bin/sh\nexec {' '.join(enter)} env LD_PRELOAD={library} TOLD={self.told} LOOKS={self.seen} ASAN_OPTIONS={asan} "
                           f"{os.path.abspath(ROUTER_BIN)} \"$@\"\n")
        wrapper.chmod(0o755)
        self.router = lab.router(self.up, listen=(f"unix:{lab.directory}/r.sock",), binary=str(wrapper), **how)

    def client(self):
        return self.lab.client(self.router, timeout=PATIENCE)

    def waiting(self):
        client = self.client()
        client.chat()
        conn = self.up.accept()
        conn.rxreq()
        return client, conn

    def streaming(self):
        client = self.client()
        client.chat(stream=True)
        conn = self.up.accept()
        conn.rxreq()
        conn.sse_head()
        conn.event("one")
        parts = client.body_parts(client.read_head())
        assert next(parts) == b"data: one\n\n"
        return client, conn, parts

    def sending(self):
        """A megabyte that the endpoint does not read."""
        client = self.client()
        client.request(body=chat_body(content="x" * 1_000_000))
        conn = self.up.accept()
        conn.rxhead()
        return client, conn

    def tell(self, retransmits, probes, silent_ms):
        new = self.told.with_name("told.new")
        new.write_text(f"{retransmits} {probes} {silent_ms}")
        new.rename(self.told)

    def looks(self):
        return self.seen.stat().st_size if self.seen.exists() else 0

    def wait_looks(self, n):
        wait_until(lambda: self.looks() >= n, f"the router looked {self.looks()} times, not {n}", PATIENCE)


def cut(parts):
    with pytest.raises(Truncated):
        list(parts)


def test_an_endpoint_that_takes_no_byte_for_a_minute_is_served_its_request(lab, library):
    """Its host confirms that the window is full: it is busy, not gone."""
    place = Hurried(lab, library)
    client, conn = place.sending()
    time.sleep(75 / HURRY)  # the time measured
    conn.recv_exact(1_000_000)
    conn.txresp(200, body=b"read it all")
    assert client.read_response().body == b"read it all"


@pytest.mark.parametrize("lost", [(3, 0, 50_001), (0, 3, 50_001)], ids=["sent again", "probed"])
def test_what_nobody_acknowledges_for_50_seconds_is_lost(lab, library, lost):
    place = Hurried(lab, library)
    client, conn = place.waiting()
    _, _, parts = place.streaming()
    for alive in ((3, 0, 100), (0, 3, 50_000), (2, 2, 90_000), (0, 0, 90_000)):
        place.tell(*alive)
        place.wait_looks(place.looks() + 4)  # at either connection
    place.tell(*lost)
    response = client.read_response()
    assert (response.status, response.error["code"]) == (502, "upstream_error")
    cut(parts)
    conn.wait_close()
    assert {line["status"] for line in place.router.access_lines(2, end="upstream_error")} == {502, 200}


def test_a_timeout_stands_though_the_router_looks_at_the_kernel_meanwhile(lab, library):
    place = Hurried(lab, library, pool={"first_byte_timeout": "25s"})
    client, _ = place.waiting()
    assert client.read_response().status == 504
    assert 25_000 <= place.router.access_lines(1)[0]["duration_ms"]
    assert 1 <= place.looks() <= 2


if ALLOWED:  # for root

    def test_a_vanished_host_is_noticed_whatever_was_under_way(lab, library):
        """The network goes dark: no FIN, no RST, nothing."""
        net = lab.keep(Namespace())
        place = Hurried(lab, library, net.prefix, net.enter, pool={"keepalive": {"timeout": "10m"}})
        sender, _ = place.sending()
        waiter, _ = place.waiting()
        again, conn = place.waiting()
        _, _, parts = place.streaming()
        conn.txresp(200, body=b"x")
        assert again.read_response().status == 200
        began = time.monotonic()
        net.run("ip", "link", "set", "lo", "down")
        again.chat()  # over the connection that is idle now
        cutter = threading.Thread(target=cut, args=(parts,), daemon=True)
        cutter.start()
        for client in (sender, waiter, again):
            assert client.read_response().status == 502
        cutter.join(PATIENCE)
        assert not cutter.is_alive()
        assert HURRY > 1 or time.monotonic() - began < 65
        assert len(place.router.access_lines(4, end="upstream_error")) == 4
