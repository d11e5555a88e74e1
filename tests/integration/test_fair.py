"""A router that is late or flooded: who was in time is served all the same, and everybody gets a turn."""
import contextlib
import pathlib
import re
import signal
import subprocess
import time

from harness import Router, chat_body, request_bytes
from harness.prom import scrape
from harness.reloads import reload
from harness.router import environment
from harness.upstream import wait_until

NAMES = [f"model-{i:04d}-{'x' * 50}" for i in range(300)]


@contextlib.contextmanager
def standstill(router, seconds=0):
    """The router stands still for that long, as on a machine that is out of breath. What is done meanwhile waits for it in the kernel."""
    began = time.monotonic()
    router.signal(signal.SIGSTOP)
    stat = pathlib.Path(f"/proc/{router.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it does not stand still")
    try:
        yield
        time.sleep(max(0, began + seconds - time.monotonic()))  # the time measured
    finally:
        router.signal(signal.SIGCONT)


def rests(router):
    """It does nothing for a while."""
    before = router.cpu()
    time.sleep(0.2)  # the time measured
    return router.cpu() == before


def test_what_came_in_time_is_served_however_late_the_router_is(lab):
    """Bodies, more than the kernel tells of at a time, a head, a request after a pause, an endpoint's answer: the rest of each comes while
    the router stands still, and when it goes on their time is over."""
    slow = lab.scripted()
    pools = [{"name": "p", "models": ["m"], "endpoints": [lab.upstream()]},
             {"name": "slow", "models": ["slow"], "endpoints": [slow], "first_byte_timeout": "4s"}]
    router = lab.router(pools=pools, header_timeout="4s", body_timeout="4s", idle_timeout="4s", body_min_rate=0)
    whole = request_bytes(body=chat_body())
    begun = [("pause", 0), ("head", 30)] + [("body", len(whole) - 10)] * 300
    clients = [(name, lab.client(router).send(whole[:n]), whole[n:]) for name, n in begun]
    held = 300 * (len(chat_body()) - 10)
    wait_until(lambda: scrape(router)["router_body_memory_bytes"] == held, "it does not read the bodies")
    asking = lab.client(router)
    asking.chat("slow")
    conn = slow.accept()
    conn.rxreq()
    with standstill(router, 5):
        for _, client, rest in clients:
            client.send(rest)
        conn.txresp(200, body=b"in time")
    assert {(name, client.read_response().status) for name, client, _ in clients} == {("pause", 200), ("head", 200), ("body", 200)}
    assert asking.read_response().body == b"in time"


def test_a_client_that_took_bytes_in_time_gets_the_rest_however_late_the_router_is(lab):
    data = b"x" * (30 << 20)

    def handler(conn):
        conn.rxreq()
        conn.txresp(200, body=data)
    router = lab.router(lab.upstream(handler), send_timeout="2s")
    client = lab.client(router, rcvbuf=65_536)
    client.chat()
    assert client.read_head()["Content-Length"] == str(len(data))
    wait_until(lambda: rests(router), "it does not wait for its client")
    taken = len(client.buf)
    with standstill(router, 3):
        while not client.is_silent(0.1):
            taken += len(client.buf)
            client.take(len(client.buf))
    while taken < len(data):
        assert client.buf or client.fill(), f"cut by {client.end} after {taken} bytes"
        taken += len(client.take(len(client.buf)))
    assert router.access_lines(1)[0]["end"] == "done"


def test_who_was_late_himself_is_still_refused(lab):
    router = lab.router(lab.upstream(), header_timeout="1s", body_timeout="1s", idle_timeout="1s", body_min_rate=0)
    whole = request_bytes(body=chat_body())
    clients = {n: lab.client(router).send(whole[:n]) for n in (0, 30, len(whole) - 10)}
    with standstill(router, 1.5):
        pass
    assert clients.pop(0).wait_close() == "fin"
    for client in clients.values():
        assert client.read_response().status == 408


def test_requests_in_one_go_do_not_take_the_turns_of_others(lab):
    """Each of them costs a search for the nearest of many names: one a turn is enough, while somebody else asks one by one."""
    router = lab.router(lab.upstream(), models=NAMES)
    greedy, other = lab.client(router, timeout=30), lab.client(router)
    with standstill(router):
        greedy.send(request_bytes(body=chat_body("model-zzzz-" + "y" * 50)) * 48)
    for _ in range(20):
        assert other.request("GET", "/health").read_response().body == b"ok"
    for _ in range(48):
        assert greedy.read_response().status == 404
    order = "".join("o" if line["path"] == "/health" else "g" for line in router.access_lines(68))
    runs = re.findall("(?<=o)g+(?=o)", order)
    assert min(map(len, runs)) <= 4, order  # a turn's share is 16


# a flood of connections

FLOOD = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* While the file FLOOD is there, there is always one more connection, whose other end is closed; each leaves a byte in it. */
int accept4(int listener, struct sockaddr *peer, socklen_t *len, int flags) {
    int ends[2], fd = open(getenv("FLOOD"), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) return (int)syscall(SYS_accept4, listener, peer, len, flags);
    if (socketpair(AF_UNIX, SOCK_STREAM | flags, 0, ends) != 0 || write(fd, "", 1) != 1) abort();
    close(fd);
    close(ends[1]);
    peer->sa_family = AF_UNIX;
    *len = sizeof peer->sa_family;
    return ends[0];
}
"""


def test_a_flood_of_connections_keeps_neither_others_nor_a_reload_waiting(lab):
    source, library, flood = (lab.directory / name for name in ("flood.c", "flood.so", "flood"))
    source.write_text(FLOOD)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    env = {"LD_PRELOAD": str(library), "FLOOD": str(flood), "ASAN_OPTIONS": environment()["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}
    config = lab.config(lab.upstream(), max_connections=100)
    router = Router(lab.directory / "flooded", {"listen": "127.0.0.1:0", **config}, listen=(), env=env)
    lab.routers.append(router)
    client = lab.client(router)
    client.chat()
    assert client.read_response().status == 200
    flood.touch()
    lab.client(router)  # the first drop
    wait_until(lambda: flood.stat().st_size > 1000, "there is no flood")
    client.chat()
    assert client.read_response().status == 200
    reload(router, {"listen": "127.0.0.2:0", **config})
    flood.unlink()
    router.wait_listening(2)
    late = lab.client(router, 1)
    late.chat()
    assert late.read_response().status == 200
