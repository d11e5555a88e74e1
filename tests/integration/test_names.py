"""Contract 2: host names of endpoints. All of 127/8 is loopback, so one port has as many addresses as a test wants.

A name's shortest life is 5 s whatever its TTL, so the tests that wait for one to be asked again take that long.
"""
import contextlib
import os
import socket
import time

import pytest

from harness import DEADLINE, DeadEndpoint, Dns, run_router
from harness.dns import AAAA
from harness.upstream import respond_openai, wait_until

AGAIN = 5 + DEADLINE  # within this time a name of the shortest TTL is asked again


def serve(lab, host, port=0, **how):
    """A served endpoint on that address and, if given, port. Its name is the address."""
    place = DeadEndpoint.__new__(DeadEndpoint)
    place.sock = socket.socket()
    place.sock.bind((host, port))
    place.port = place.sock.getsockname()[1]
    place.authority = f"{host}:{place.port}"
    place.url = f"http://{place.authority}"
    how.setdefault("name", host)
    up = place.live(**how)
    lab.upstreams.append(up)
    return up


def serve_both(lab, first, second, **how):
    """The same port on two addresses."""
    while True:
        one = serve(lab, first, **how)
        try:
            return one, serve(lab, second, one.port, **how)
        except OSError:  # somebody has it there: another port, then
            lab.upstreams.remove(one)
            one.close()


def names(lab):
    return lab.keep(Dns())


ESTABLISHED, SYN_SENT = "01", "02"


def connections(router, port, state=ESTABLISHED, host=None):
    """Sockets of the router's in that state, to that port."""
    own = set()
    for fd in os.listdir(f"/proc/{router.pid}/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/{router.pid}/fd/{fd}"))
    with open(f"/proc/{router.pid}/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    address = "".join(f"{int(b):02X}" for b in reversed(host.split("."))) if host else ""
    return [r for r in rows if r[2].startswith(address) and r[2].endswith(f":{port:04X}") and r[3] == state and f"socket:[{r[9]}]" in own]


def timed(call):
    began = time.monotonic()
    return call(), time.monotonic() - began


# several addresses


@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1"), ("127.0.0.1", "127.0.0.3", "127.0.0.4", "127.0.0.2"),
                                       ("::1", "127.0.0.2")])
def test_all_addresses_are_tried_in_turn_which_is_one_try(lab, addresses):
    dns, up = names(lab), serve(lab, "127.0.0.2")
    dns.set("gpu.test", *addresses)
    router = lab.router(f"http://gpu.test:{up.port}", env=dns.env, pool={"retries": 0})
    assert router.endpoint_of() == "127.0.0.2"
    assert up.last["Host"] == f"gpu.test:{up.port}"
    assert router.access_lines(1)[0]["tries"] == 1


def test_the_address_that_worked_is_kept(lab):
    """No connect to a dead one before each request."""
    dns, gone = names(lab), lab.dead()
    up = serve(lab, "127.0.0.2", gone.port)
    dns.set("gpu.test", "127.0.0.1", "127.0.0.2")
    router = lab.router(f"http://gpu.test:{up.port}", env=dns.env, pool={"keepalive": {"timeout": 0}})
    assert router.endpoint_of() == "127.0.0.2"
    late = lab.revive(gone)  # the first one is back: nobody needs it
    for _ in range(5):
        assert router.endpoint_of() == "127.0.0.2"
    assert not late.conns


def test_a_black_hole_among_the_addresses_costs_its_share_of_the_time(lab):
    dns, hole = names(lab), lab.blackhole()
    up = serve(lab, "127.0.0.2", hole.port)
    dns.set("gpu.test", "127.0.0.1", "127.0.0.2")
    router = lab.router(f"http://gpu.test:{hole.port}", env=dns.env, pool={"connect_timeout": "2s", "retries": 0})
    name, seconds = timed(router.endpoint_of)
    assert name == up.name and 0.6 < seconds < 2.5


def test_many_at_once_find_the_one_that_lives(lab):
    """Each goes its own way through the addresses, whatever the others found meanwhile."""
    dns, hole = names(lab), lab.blackhole()
    up = serve(lab, "127.0.0.2", hole.port)
    dns.set("gpu.test", "127.0.0.1", "127.0.0.2")
    router = lab.router(f"http://gpu.test:{hole.port}", env=dns.env, pool={"connect_timeout": "2s", "retries": 0, "keepalive": {"timeout": 0}})
    clients = [lab.client(router) for _ in range(4)]
    for i, client in enumerate(clients):  # one after the other, so that some are in the hole still when the first is through
        client.chat()
        wait_until(lambda n=i + 1: len(connections(router, hole.port, SYN_SENT)) >= n or up.conns, "no connect", step=0.002)
    assert [c.read_response().status for c in clients] == [200] * 4  # over connections of their own, or one that was idle by then


def test_with_no_address_left_the_next_endpoint_is_tried(lab):
    dns, up, dead = names(lab), lab.upstream(), lab.dead(host="127.0.0.2")
    dns.set("dead.test", "127.0.0.2", "127.0.0.3")
    router = lab.router([f"http://dead.test:{dead.port}", up], env=dns.env, pool={"health": {"interval": 0, "fall": 100}})
    for user in "abcdefgh":
        assert router.endpoint_of(user=user) == up.name
    assert {line["tries"] for line in router.access_lines(8)} == {1, 2}


def test_both_kinds_are_asked_for_once_for_all_endpoints_of_that_name(lab):
    dns, one, two = names(lab), serve(lab, "127.0.0.2"), serve(lab, "127.0.0.2")
    dns.set("gpu.test", "127.0.0.2")
    router = lab.router([f"http://gpu.test:{one.port}", f"http://GPU.test:{two.port}"], env=dns.env, pool={"affinity": "none"})
    for _ in range(4):
        assert router.chat().status == 200
    assert one.routed() and two.routed()
    assert dns.count("gpu.test") == dns.count("gpu.test", AAAA) == 1


# changing answers


def test_a_name_that_moves_is_followed_though_the_old_address_lives(lab):
    """Also by connections that are kept busy all the time."""
    dns = names(lab)
    old, new = serve_both(lab, "127.0.0.2", "127.0.0.3")
    dns.set("gpu.test", "127.0.0.2", ttl=1)
    router = lab.router(f"http://gpu.test:{old.port}", env=dns.env, pool={"keepalive": {"timeout": "60s"}})
    client = lab.client(router)

    def chat():
        client.chat()
        return client.read_response().json()["endpoint"]
    assert chat() == "127.0.0.2"
    assert connections(router, old.port)
    dns.set("gpu.test", "127.0.0.3", ttl=60)
    wait_until(lambda: chat() == "127.0.0.3", "the old address stays in use", AGAIN)
    requests = len(old.requests)
    for _ in range(20):
        assert chat() == "127.0.0.3"
    assert len(old.requests) == requests and len(new.conns) == 1
    wait_until(lambda: not connections(router, old.port, host="127.0.0.2"), "connections to the old address stay open")
    assert dns.count("gpu.test") == 2


def test_a_stream_outlives_its_name(lab):
    """What runs is finished; while the name is gone the endpoint is down, however alive that stream is."""
    dns = names(lab)
    up = serve(lab, "127.0.0.2", handler=serve_slow_stream)
    dns.set("gpu.test", "127.0.0.2", ttl=1)
    router = lab.router(f"http://gpu.test:{up.port}", env=dns.env, probes=True,
                        pool={"health": {"interval": "100ms"}, "model_list": {"interval": 0}, "keepalive": {"timeout": "60s"}})
    router.wait_ready()
    client = lab.client(router)
    client.chat(stream=True)
    events = client.sse(client.read_head())
    assert next(events)
    dns.nxdomain("gpu.test")
    router.log_contains(r"gpu\.test:\d+ is down .*does not resolve", AGAIN)
    for _ in range(10):
        assert next(events)
        response = router.chat()
        assert response.status == 503 and response.error["code"] == "upstream_unavailable", response
    assert not [line for line in router.log if "is up (was down)" in line]
    dns.set("gpu.test", "127.0.0.2")
    router.log_contains(r"gpu\.test:\d+ is up \(was down\)", AGAIN)
    assert router.endpoint_of() == "127.0.0.2"
    assert next(events)


def serve_slow_stream(conn):
    """Streams have no end here; everything else is answered."""
    while True:
        req = conn.rxreq()
        if b'"stream":true' not in req.body.replace(b" ", b""):
            respond_openai(conn, req)
            continue
        conn.sse_head()
        for i in range(1000):
            conn.event(str(i))
            time.sleep(0.05)  # the pace of a slow model, not a wait for something


def test_answers_in_changing_order_move_nobody(lab):
    dns = names(lab)
    one, two = serve_both(lab, "127.0.0.2", "127.0.0.3")
    dns.set("gpu.test", "127.0.0.2", "127.0.0.3", ttl=1, rotate=True)
    router = lab.router(f"http://gpu.test:{one.port}", env=dns.env, pool={"keepalive": {"timeout": 0}})
    first = router.endpoint_of()
    until = time.monotonic() + 2 * AGAIN
    while dns.count("gpu.test") < 3 and time.monotonic() < until:
        assert router.endpoint_of() == first
        time.sleep(0.02)
    assert dns.count("gpu.test") == 3
    assert router.endpoint_of() == first
    assert not (two if first == one.name else one).conns
    assert not [line for line in router.log if "resolve" in line and "gpu.test" in line]


def test_a_server_in_trouble_takes_no_address_away(lab):
    dns, up = names(lab), serve(lab, "127.0.0.2")
    for name in ("failing.test", "silent.test"):
        dns.set(name, "127.0.0.2", ttl=1)
    router = lab.router(pools=[{"name": n, "models": [n], "endpoints": [f"http://{n}.test:{up.port}"]} for n in ("failing", "silent")],
                        env=dns.env, defaults={"keepalive": {"timeout": 0}})
    for model in ("failing", "silent"):
        assert router.chat(model).status == 200
    dns.servfail("failing.test")
    dns.drop("silent.test")
    for model in ("failing", "silent"):
        router.log_contains(rf"{model}\.test: .*stay in use", AGAIN)
        response, seconds = timed(lambda m=model: router.chat(m))
        assert response.status == 200 and seconds < 1.5
        dns.set(f"{model}.test", "127.0.0.2")  # it goes on asking
        router.log_contains(rf"{model}\.test: DNS answers again")


# no answer


@pytest.mark.parametrize("trouble", ["silent", "slow", "no server"])
def test_a_dead_dns_server_delays_nobody_who_needs_no_name(lab, trouble):
    dns, up = names(lab), lab.upstream()
    dns.set("far.test", "127.0.0.1", silent=trouble == "silent", delay=1)
    env = {"ROUTER_DNS": f"127.0.0.1:{lab.dead().port}"} if trouble == "no server" else dns.env
    router = lab.router(pools=[{"name": "far", "models": ["far"], "endpoints": [f"http://far.test:{up.port}"]},
                               {"name": "near", "models": ["near"], "endpoints": [up]},
                               {"name": "local", "models": ["local"], "endpoints": [f"http://localhost:{up.port}"]}], env=env)
    waiting = lab.client(router)
    waiting.chat("far")
    for model in ("near", "local", "near", "local"):
        response, seconds = timed(lambda m=model: router.chat(m))
        assert response.status == 200 and seconds < 0.9
    assert timed(lambda: router.get("/health"))[1] < 0.9
    assert waiting.read_response().status in ((200,) if trouble == "slow" else (502, 503))


def test_a_request_waits_for_the_first_answer(lab):
    dns, up = names(lab), serve(lab, "127.0.0.2")
    dns.set("gpu.test", "127.0.0.2", delay=1)
    router = lab.router(f"http://gpu.test:{up.port}", env=dns.env)
    response, seconds = timed(router.chat)
    assert response.status == 200 and 0.3 < seconds < 2.5
    assert timed(router.chat)[1] < 0.5


def test_but_only_for_connect_timeout(lab):
    dns, up = names(lab), serve(lab, "127.0.0.2")
    dns.drop("gpu.test")
    router = lab.router(f"http://gpu.test:{up.port}", env=dns.env, pool={"connect_timeout": "500ms"})
    response, seconds = timed(router.chat)
    assert response.status == 502 and response.error["code"] == "upstream_error", response
    assert 0.45 < seconds < 3
    assert not up.conns


def test_and_then_the_next_endpoint_is_tried(lab):
    dns, up = names(lab), lab.upstream()
    dns.drop("gpu.test")
    router = lab.router([f"http://gpu.test:{up.port}", up], env=dns.env, pool={"connect_timeout": "300ms"})
    for user in "abcdefgh":
        assert router.endpoint_of(user=user) == up.name


def test_a_client_that_leaves_while_its_name_is_asked(lab):
    dns, up = names(lab), serve(lab, "127.0.0.2")
    dns.set("gpu.test", "127.0.0.2", delay=1)
    router = lab.router(f"http://gpu.test:{up.port}", env=dns.env)
    client = lab.client(router)
    client.chat()
    dns.wait_queries("gpu.test", 1)
    client.close()
    assert router.access_lines(1)[0]["end"] == "client_gone"
    assert router.endpoint_of() == "127.0.0.2"


# no such name


def test_a_name_that_does_not_resolve_makes_only_its_endpoint_down(lab):
    dns, up = names(lab), lab.upstream()
    router = lab.router([f"http://gone.test:{up.port}", up], env=dns.env)
    router.log_contains(r"http://gone\.test:\d+ is down .*its name does not resolve")
    client = lab.client(router)
    for i in range(20):
        client.chat(user=f"u{i}")
        assert client.read_response().json()["endpoint"] == up.name
    lines = router.access_lines(20)
    assert {line["tries"] for line in lines} == {1}  # nobody is sent there in vain
    assert {line["affinity"] for line in lines} == {"hit", "failover"}
    assert not [line for line in router.log if "is down" in line and "gone.test" not in line]


@pytest.mark.parametrize("probes", [False, True])
def test_it_comes_up_when_the_name_appears(lab, probes):
    dns, up = names(lab), serve(lab, "127.0.0.2")
    how = {"pool": {"health": {"interval": "200ms"}, "model_list": {"interval": 0}}} if probes else {}
    router = lab.router(f"http://late.test:{up.port}", env=dns.env, probes=probes, **how)
    router.log_contains(r"late\.test:\d+ is down")
    response, seconds = timed(router.chat)
    assert response.status == 503 and response["Retry-After"] and seconds < 0.5
    assert router.get("/ready").status == 503
    dns.set("late.test", "127.0.0.2")
    wait_until(lambda: router.chat().status == 200, "it stays down", step=0.1)
    router.log_contains(r"late\.test:\d+ is up")
    router.wait_ready()


def test_it_is_asked_for_after_1_2_4_seconds(lab):
    dns = names(lab)
    lab.router("http://late.test:1", env=dns.env)
    dns.wait_queries("late.test", 1)
    times = [time.monotonic()]
    for n in (2, 3, 4):
        dns.wait_queries("late.test", n)
        times.append(time.monotonic())
    for (a, b), seconds in zip(zip(times, times[1:]), (1, 2, 4)):
        assert seconds - 0.1 < b - a < seconds + 0.8, times


def test_a_name_without_addresses_does_not_resolve(lab):
    dns = names(lab)
    dns.set("empty.test")
    router = lab.router("http://empty.test:1", env=dns.env)
    router.log_contains(r"empty\.test:1 is down .*does not resolve")
    assert router.chat().status == 503


def test_hosts_file_and_addresses_need_no_dns(lab):
    dns, up, six = names(lab), lab.upstream(), lab.upstream(host="::1")
    router = lab.router([f"http://localhost:{up.port}", f"http://127.0.0.1:{up.port}", six], env=dns.env, pool={"affinity": "none"})
    for _ in range(6):
        assert router.chat().status == 200
    assert up.routed() and six.routed()
    assert dns.queries == []


def test_router_dns_must_be_an_address(lab):
    config = lab.directory / "pools.yaml"
    config.write_text("pools:\n  - {name: p, models: [m], endpoints: ['http://gpu.test:1']}\n")
    done = run_router("-config", config, "-listen", "127.0.0.1:0", env={"ROUTER_DNS": "localhost:53"})
    assert done.returncode == 1 and "ROUTER_DNS" in done.stderr


def test_shut_down_while_names_are_asked(lab):
    dns = names(lab)
    for i in range(40):
        dns.drop(f"n{i}.test")
    router = lab.router([f"http://n{i}.test:1" for i in range(40)], env=dns.env)
    client = lab.client(router)
    client.chat()
    for i in range(40):
        dns.wait_queries(f"n{i}.test", 1)
    client.close()
    assert timed(router.stop)[1] < 3


def test_nobody_at_its_addresses_asks_again_before_the_ttl(lab):
    """Docker's DNS says a TTL of 10 minutes, and a recreated container has another address."""
    dns, up = names(lab), serve(lab, "127.0.0.2")
    dns.set("moved.test", "127.0.0.3", ttl=600)
    router = lab.router(f"http://moved.test:{up.port}", env=dns.env, pool={"health": {"interval": "500ms"}})
    router.log_contains(r"moved\.test:\d+ is down")
    dns.set("moved.test", "127.0.0.2", ttl=600)
    wait_until(lambda: router.chat().status == 200, "it was not asked again", timeout=AGAIN, step=0.2)
    assert len([q for q in dns.queries if "moved.test" in str(q)]) <= 6
