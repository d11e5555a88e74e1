"""An idle router sleeps: it wakes for its probes and timers, and for nothing else. Seen by strace, and by counting what epoll_wait returns
(harness/clockwork.c)."""
import re
import subprocess
import time

import pytest

from harness.mortal import mortal
from harness.preload import Clockwork
from harness.upstream import wait_until

INTERVAL = 0.1
# What one probe costs: its timer, and the answer; over a new connection also the word that it stands. Edges may come together.
OVER_IDLE, OVER_NEW = 2, 3


def probed(lab, ups, env=None, keepalive="4s"):
    """A router that asks those endpoints for their health ten times a second, and for nothing else."""
    pool = {"health": {"interval": "100ms", "timeout": "5s"}, "model_list": {"interval": 0}, "keepalive": {"timeout": keepalive}}
    return lab.router(ups, env=env, probes=True, pool=pool)


def idle_clients(lab, router, n):
    """Each has had its answer, so that its connection stands idle."""
    for _ in range(n):
        client = lab.client(router)
        client.request("GET", "/health")
        assert client.read_response().status == 200


class Strace:
    """Every system call of the router's from here to stop()."""

    def __init__(self, lab, router):
        self.path = lab.directory / "trace"
        self.process = subprocess.Popen(["strace", "-f", "-o", str(self.path), "-p", str(router.pid)], stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        assert "attached" in line, line

    def stop(self):
        """Names of the calls that ended, in order. The one it sleeps in did not."""
        self.process.terminate()
        self.process.communicate(timeout=10)
        ended = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed>).*\) += ", re.M)
        # To be watched interrupts its sleep, after which it asks once whether anything came meanwhile.
        text = re.sub(r"\A(\d+ +epoll_wait\(.* EINTR .*\n)?\d+ +epoll_wait\(\d+, \[\], \d+, 0\) += 0\n", "", self.path.read_text())
        return [m.group(1) for m in ended.finditer(text)]


def sleeps_quietly(router):
    """It is in epoll_wait and has been for a while: what was to be done after the last request is done."""
    def switches():
        with open(f"/proc/{router.pid}/status", encoding="ascii") as status:
            return re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read(), re.M).group(1)
    seen = switches()
    time.sleep(0.3)
    return switches() == seen


@pytest.mark.parametrize("clients", [0, 200])
def test_without_probes_it_sleeps(lab, clients):
    router = lab.router([lab.upstream(), lab.upstream()])
    idle_clients(lab, router, clients)
    wait_until(lambda: sleeps_quietly(router), "it does not come to rest")
    trace, cpu = Strace(lab, router), router.cpu()
    time.sleep(3)  # the time in which nothing may happen
    assert trace.stop() == []
    assert router.cpu() == cpu
    assert router.get("/health").status == 200


@pytest.mark.parametrize("clients", [0, 200])
def test_it_wakes_for_its_probes_alone(lab, clients):
    up = mortal(lab)
    router = probed(lab, up)
    up.wait_probes(2)
    idle_clients(lab, router, clients)
    up.wait_probes(len(up.probes) + 2)
    trace = Strace(lab, router)
    before = len(up.probes)
    up.wait_probes(before + 20)
    calls = trace.stop()
    rounds = len(up.probes) - before
    assert calls.count("epoll_wait") <= OVER_IDLE * (rounds + 1), (rounds, calls)
    # a probe is one request and one answer, with nothing else on the way; the one that was cut in two by attaching may be seen in part
    assert set(calls) <= {"epoll_wait", "sendmsg", "recvfrom", "restart_syscall"}, calls
    assert abs(calls.count("sendmsg") - rounds) <= 1 and abs(calls.count("recvfrom") - rounds) <= 1, (rounds, calls)


@pytest.mark.parametrize("clients", [0, 200])
@pytest.mark.parametrize("keepalive, cost", [("4s", OVER_IDLE), (0, OVER_NEW)], ids=["idle connection", "new connection"])
def test_wakes_a_probe(lab, clients, keepalive, cost):
    clock, up = Clockwork(lab.directory), mortal(lab)
    router = probed(lab, up, clock.env, keepalive)
    up.wait_probes(2)
    idle_clients(lab, router, clients)
    up.wait_probes(len(up.probes) + 2)
    probes, wakes = len(up.probes), clock["wakes"]
    up.wait_probes(probes + 30)
    wakes, rounds = clock["wakes"] - wakes, len(up.probes) - probes
    assert rounds - 1 <= wakes <= cost * (rounds + 1), (rounds, wakes)


def test_several_endpoints_cost_their_probes_each(lab):
    clock, ups = Clockwork(lab.directory), [mortal(lab) for _ in range(5)]
    probed(lab, ups, clock.env)
    for up in ups:
        up.wait_probes(2)
    probes, wakes = sum(len(up.probes) for up in ups), clock["wakes"]
    ups[0].wait_probes(len(ups[0].probes) + 20)
    wakes, rounds = clock["wakes"] - wakes, sum(len(up.probes) for up in ups) - probes
    assert rounds > 60 and wakes <= OVER_IDLE * (rounds + 5), (rounds, wakes)


def test_a_day_without_traffic(lab):
    """No probes, no clients: no deadline is left, so it waits without one, whatever time it is."""
    clock = Clockwork(lab.directory)
    router = lab.router(lab.upstream(), env=clock.env)
    wait_until(lambda: sleeps_quietly(router), "it does not come to rest")
    wakes = clock["wakes"]
    clock.forward(86400)
    time.sleep(0.5)  # the time in which nothing may happen
    assert clock["wakes"] == wakes
    assert router.chat().status == 200


def test_what_is_left_after_requests_are_a_few_deadlines(lab):
    """200 clients that had their answer, for as long as they may stay: what a deadline that was moved leaves behind, and their end."""
    clock = Clockwork(lab.directory)
    router = lab.router(lab.upstream(), env=clock.env)
    idle_clients(lab, router, 200)
    wakes = clock["wakes"]
    for _ in range(74):
        clock.forward(1)
        time.sleep(0.02)  # it looks at the clock every 5 ms
    assert clock["wakes"] - wakes <= 200 / 10, clock["wakes"] - wakes
    clock.forward(3)
    wait_until(lambda: all(not client.fill() for client in lab.clients), "idle clients are not closed at idle_timeout")
