"""Contract 2 and 3: max_inflight, the queue before it, max_imbalance, and what the access line says of them."""
import errno
import time

import pytest

from harness.mortal import is_ready, mortal, order_of, user_at, wait_state
from harness.upstream import wait_until
from test_shortage import Kernel

CHAT = "/v1/chat/completions"
LONG = {"size": 20, "timeout": "60s"}


def full(lab, n=1, queue=LONG, pool=None, **how):
    """A scripted endpoint with room for n, all taken; (up, router, [conn], [client])."""
    up = lab.scripted()
    router = lab.router(up, pool={"max_inflight": n, "queue": queue, **(pool or {})}, **how)
    taken = [start(lab, router, up) for _ in range(n)]
    return up, router, [conn for conn, _ in taken], [client for _, client in taken]


def start(lab, router, up, **how):
    """A chat that is being worked on at that endpoint: (its connection there, its client)."""
    client = lab.client(router)
    client.chat(**how)
    conn = up.accept()
    conn.rxreq()
    return conn, client


def waiting(lab, router, user, **how):
    """A client whose chat waits in the queue: it is there before this returns."""
    client = lab.client(router)
    client.chat(user=user, **how)
    router.get("/health")  # read later than the chat
    return client


def finish(conn, client, body=b"x"):
    conn.txresp(200, body=body)
    response = client.read_response()
    assert (response.status, response.body) == (200, body)


def refused_as_full(client):
    response = client.read_response()
    assert response.status == 429 and int(response["Retry-After"]) > 0
    assert (response.error["type"], response.error["code"], response.error["param"]) == ("rate_limit_error", "overloaded", None)
    return response


# max_inflight


def test_max_inflight_is_per_endpoint(lab):
    a, b = lab.scripted(), lab.scripted()
    router = lab.router([a, b], pool={"max_inflight": 2})
    taken = []
    for n in range(4):
        client = lab.client(router)
        client.chat(user="ann")
        taken.append(client)
    for up in (a, b):
        for _ in range(2):
            up.accept().rxreq()
    extra = lab.client(router)
    extra.chat(user="ann")
    refused_as_full(extra)
    assert a.no_connection(0.1) and b.no_connection(0.1)


def test_an_endpoints_own_max_inflight(lab):
    a, b = lab.scripted(), lab.scripted()
    router = lab.router([{"url": a, "max_inflight": 1}, {"url": b, "max_inflight": 3}])
    for _ in range(4):
        lab.client(router).chat(user="ann")
    a.accept().rxreq()
    for _ in range(3):
        b.accept().rxreq()
    extra = lab.client(router)
    extra.chat(user="ann")
    refused_as_full(extra)


def test_0_is_unlimited(lab):
    up = lab.scripted()
    router = lab.router(up, pool={"max_inflight": 0})
    for _ in range(40):
        lab.client(router).chat()
    for _ in range(40):
        up.accept().rxreq()


def test_two_pools_share_an_endpoints_slots_and_the_lowest_limit(lab):
    up = lab.scripted()
    router = lab.router(pools=[{"name": "a", "models": ["x"], "endpoints": [up], "max_inflight": 3},
                               {"name": "b", "models": ["y"], "endpoints": [{"url": up, "max_inflight": 2}]}])
    start(lab, router, up, model="x")
    start(lab, router, up, model="y")
    for model in "xy":
        extra = lab.client(router)
        extra.chat(model)
        refused_as_full(extra)


@pytest.mark.parametrize("first, second", ["xy", "yx"])
def test_a_freed_slot_serves_the_queue_of_another_pool(lab, first, second):
    up = lab.scripted()
    router = lab.router(pools=[{"name": "a", "models": ["x"], "endpoints": [up]}, {"name": "b", "models": ["y"], "endpoints": [up]}],
                        defaults={"max_inflight": 1, "queue": LONG})
    conn, client = start(lab, router, up, model=first)
    queued = waiting(lab, router, "u", model=second)
    finish(conn, client)
    assert conn.rxreq().json()["model"] == second
    finish(conn, queued)


def test_every_pool_of_an_endpoint_gets_its_turn(lab):
    """Three waiters in two pools before one slot: whoever waited longest."""
    up = lab.scripted()
    router = lab.router(pools=[{"name": "a", "models": ["x"], "endpoints": [up]}, {"name": "b", "models": ["y"], "endpoints": [up]}],
                        defaults={"max_inflight": 1, "queue": LONG})
    conn, client = start(lab, router, up, model="x")
    queue = [(model, waiting(lab, router, "u", model=model)) for model in ("y", "x", "y")]
    finish(conn, client)
    served = []
    for _ in queue:
        model = conn.rxreq().json()["model"]
        served.append(model)
        conn.txresp(200, body=model.encode())
    assert sorted(served) == ["x", "y", "y"]
    for model, waiter in queue:
        assert waiter.read_response().body == model.encode()


# the queue


def test_first_in_first_out(lab):
    up, router, (conn,), (client,) = full(lab)
    queue = [waiting(lab, router, f"u{i}") for i in range(8)]
    finish(conn, client)
    for i, waiter in enumerate(queue):
        assert conn.rxreq().json()["user"] == f"u{i}"
        finish(conn, waiter, b"%d" % i)
    assert len(up.conns) == 1


def test_queue_size_is_the_bound(lab):
    up, router, (conn,), (client,) = full(lab, queue={"size": 2, "timeout": "60s"})
    queue = [waiting(lab, router, f"u{i}") for i in range(2)]
    for _ in range(2):
        refused_as_full(waiting(lab, router, "late"))
    finish(conn, client)
    assert conn.rxreq().json()["user"] == "u0"
    late = waiting(lab, router, "late")  # there is a place again
    finish(conn, queue[0])
    for user, waiter in (("u1", queue[1]), ("late", late)):
        assert conn.rxreq().json()["user"] == user
        finish(conn, waiter)


def test_size_0_means_no_waiting(lab):
    up, router, _, _ = full(lab, queue={"size": 0})
    refused_as_full(waiting(lab, router, "late"))
    line = router.access_lines(1, CHAT)[0]
    assert (line["status"], line["end"], line["tries"], line["endpoint"], line["pool"]) == (429, "refused", 0, None, "p")


@pytest.mark.parametrize("target, shape", [("/v1/messages", "anthropic"), ("/api/chat", "ollama")])
def test_429_in_other_dialects(lab, target, shape):
    up, router, _, _ = full(lab, queue={"size": 0})
    response = waiting(lab, router, "late", target=target).read_response()
    assert response.status == 429 and int(response["Retry-After"]) > 0
    error = response.json()["error"]
    assert error["type"] == "rate_limit_error" if shape == "anthropic" else isinstance(error, str)


def test_queue_timeout(lab):
    up, router, (conn,), (client,) = full(lab, queue={"size": 5, "timeout": "400ms"})
    began = time.monotonic()
    refused_as_full(waiting(lab, router, "late"))
    waited = time.monotonic() - began
    assert 0.38 <= waited < 4
    line = router.access_lines(1, CHAT)[0]
    assert (line["status"], line["end"], line["tries"]) == (429, "refused", 0)
    assert 380 <= line["queue_ms"] <= line["duration_ms"] <= waited * 1000 + 1
    finish(conn, client)
    assert up.no_connection(0.1) and conn.is_silent(0.1)  # it left no trace


def test_each_waiter_has_its_own_timeout(lab):
    up, router, (conn,), (client,) = full(lab, queue={"size": 5, "timeout": "1s"})
    early = waiting(lab, router, "early")
    time.sleep(0.6)  # so that the second one's time ends later
    later = waiting(lab, router, "later")
    refused_as_full(early)
    finish(conn, client)
    assert conn.rxreq().json()["user"] == "later"
    finish(conn, later)


def test_queue_ms_of_one_who_waited_and_of_one_who_did_not(lab):
    up, router, (conn,), (client,) = full(lab)
    queued = waiting(lab, router, "u")
    time.sleep(0.3)  # the time measured
    finish(conn, client)
    conn.rxreq()
    finish(conn, queued)
    first, second = router.access_lines(2, CHAT)
    assert first["queue_ms"] == 0
    assert 280 <= second["queue_ms"] <= second["first_byte_ms"] <= second["duration_ms"]
    assert second["tries"] == 1 and second["affinity"] == "hit"


WAYS_TO_END = {
    "whole answer": lambda conn, client: finish(conn, client),
    "error answer": lambda conn, client: conn.txresp(500, body=b"no"),
    "death": lambda conn, client: conn.rst(),
    "client close": lambda conn, client: client.close(),
    "client rst": lambda conn, client: client.rst(),
    "first_byte_timeout": lambda conn, client: client.read_response(),
    "bad answer": lambda conn, client: conn.tx("no HTTP\r\n\r\n"),
}


@pytest.mark.parametrize("end", WAYS_TO_END.values(), ids=WAYS_TO_END)
def test_a_freed_slot_is_given_out_at_once(lab, end):
    limit = {"first_byte_timeout": "700ms"} if end is WAYS_TO_END["first_byte_timeout"] else {}
    up, router, (conn,), (client,) = full(lab, pool=limit)
    queued = waiting(lab, router, "next")
    end(conn, client)
    began = time.monotonic()
    again = conn if end is WAYS_TO_END["whole answer"] else up.accept()
    assert again.rxreq().json()["user"] == "next"
    assert time.monotonic() - began < 2
    finish(again, queued)


@pytest.mark.parametrize("end", WAYS_TO_END.values(), ids=WAYS_TO_END)
def test_slots_come_back_however_it_ends(lab, end):
    limit = {"first_byte_timeout": "500ms"} if end is WAYS_TO_END["first_byte_timeout"] else {}
    up = lab.scripted()
    router = lab.router(up, pool={"max_inflight": 2, "keepalive": {"timeout": 0}, **limit})
    for _ in range(3):
        conn, client = start(lab, router, up)
        end(conn, client)
        router.get("/health")
    pairs = [start(lab, router, up) for _ in range(2)]  # its full width
    extra = lab.client(router)
    extra.chat()
    refused_as_full(extra)
    if not limit:
        for conn, client in pairs:
            finish(conn, client)


@pytest.mark.parametrize("leave", ["close", "rst", "half_close"])
def test_who_leaves_the_queue_leaves_no_trace(lab, leave):
    up, router, (conn,), (client,) = full(lab, queue={"size": 3, "timeout": "60s"})
    queue = [waiting(lab, router, f"u{i}") for i in range(3)]
    getattr(queue[1], leave)()
    line = router.access_lines(1, end="client_gone")[0]
    assert (line["tries"], line["endpoint"], line["status"]) == (0, None, None)
    late = waiting(lab, router, "late")  # the place is free
    finish(conn, client)
    for user, waiter in (("u0", queue[0]), ("u2", queue[2]), ("late", late)):
        assert conn.rxreq().json()["user"] == user
        finish(conn, waiter)
    assert up.no_connection(0.05)


def test_a_burst_that_leaves_costs_the_endpoint_nothing(lab):
    up, router, (conn,), (client,) = full(lab, queue={"size": 50, "timeout": "60s"})
    queue = [waiting(lab, router, f"u{i}") for i in range(30)]
    for waiter in queue:
        waiter.rst()
    router.access_lines(30, end="client_gone")
    finish(conn, client)
    assert conn.is_silent(0.2) and up.no_connection(0.05)


def test_own_urls_are_never_queued(lab):
    up, router, _, _ = full(lab, queue={"size": 2, "timeout": "60s"})
    for _ in range(2):
        waiting(lab, router, "u")
    for target in ("/health", "/ready", "/v1/models", "/models", "/api/tags", "/api/version", "/v1/models/m"):
        began = time.monotonic()
        assert router.get(target).status == 200, target
        assert time.monotonic() - began < 1
    assert router.post("/v1/chat/completions", {"model": "unknown"}).status == 404


def test_another_pool_does_not_wait(lab):
    busy, idle = lab.scripted(), mortal(lab)
    router = lab.router(pools=[{"name": "a", "models": ["x"], "endpoints": [busy]}, {"name": "b", "models": ["y"], "endpoints": [idle]}],
                        defaults={"max_inflight": 1, "queue": LONG})
    start(lab, router, busy, model="x")
    waiting(lab, router, "u", model="x")
    assert router.endpoint_of("y") == idle.name


# the queue and endpoints that come and go


def test_an_endpoint_that_comes_up_serves_the_queue(lab):
    busy, other = lab.scripted(), mortal(lab, alive=False)
    router = lab.router([busy, other], probes=True,
                        pool={"max_inflight": 1, "queue": LONG, "health": {"interval": "100ms", "timeout": "5s", "fall": 1}, "model_list": {"interval": 0}})
    wait_state(router, other, "down")
    client = lab.client(router)
    client.chat(user="first")
    while busy.accept().rxreq().method != "POST":  # a probe: left waiting for its answer
        pass
    queued = waiting(lab, router, "second")
    assert queued.is_silent(0.1)
    other.revive()
    assert queued.read_response().json()["endpoint"] == other.name


def test_who_waits_is_offered_a_down_endpoint_without_probes_when_its_time_comes(lab):
    """One endpoint is busy, the other was down and is back: nothing happens that could tell, and nobody else asks."""
    busy, other = lab.scripted(), mortal(lab, alive=False)
    router = lab.router([busy, other], pool={"max_inflight": 1, "queue": LONG, "health": {"interval": 0, "fall": 1}})
    user = user_at(router, other, busy)
    conn, client = start(lab, router, busy, user=user)  # found the other down
    queued = waiting(lab, router, user)
    other.revive()
    assert queued.read_response().json()["endpoint"] == other.name
    finish(conn, client)


def test_who_waits_goes_to_the_fallback_when_the_endpoint_dies(lab):
    busy, spare = mortal(lab, health="asked", answer=lambda conn, req: conn.stall()), mortal(lab)
    pools = [{"name": "a", "models": ["m"], "endpoints": [busy], "fallback": "b"}, {"name": "b", "models": ["x"], "endpoints": [spare]}]
    router = lab.router(pools=pools, probes=True, defaults={"max_inflight": 1, "queue": LONG, "model_list": {"interval": 0},
                                                            "health": {"interval": "50ms", "timeout": "8s", "fall": 1}})
    busy.say(200)
    first = lab.client(router)
    first.chat()
    busy.wait_for(lambda: busy.routed(), "the first chat")
    queued = waiting(lab, router, "second")
    busy.say(500)
    assert queued.read_response().json()["endpoint"] == spare.name
    assert router.access_lines(1, CHAT)[0]["pool"] == "b"


def test_who_waits_is_told_at_once_when_nobody_is_left(lab):
    busy = mortal(lab, health="asked", answer=lambda conn, req: conn.stall())
    router = lab.router(busy, probes=True, pool={"max_inflight": 1, "queue": LONG, "model_list": {"interval": 0},
                                                 "health": {"interval": "50ms", "timeout": "8s", "fall": 1}})
    busy.say(200)
    first = lab.client(router)
    first.chat()
    busy.wait_for(lambda: busy.routed(), "the first chat")
    queued = [waiting(lab, router, f"u{i}") for i in range(3)]
    busy.say(500)
    for waiter in queued:
        response = waiter.read_response()
        assert (response.status, response.error["code"]) == (503, "upstream_unavailable")


def test_failing_over_to_a_full_endpoint_waits(lab):
    first, second = mortal(lab), lab.scripted()
    router = lab.router([first, second], pool={"max_inflight": 1, "queue": LONG, "health": {"interval": 0, "fall": 100}})
    user = next(f"u{i}" for i in range(99) if order_of(router, f"u{i}")[0] == first.url)
    other = next(f"u{i}" for i in range(99) if order_of(router, f"u{i}")[0] == second.url)
    first.die()
    conn, client = start(lab, router, second, user=other)
    queued = waiting(lab, router, user)
    assert queued.is_silent(0.1)
    finish(conn, client)
    assert conn.rxreq().json()["user"] == user
    finish(conn, queued)
    line = router.access_lines(2, CHAT)[1]
    assert (line["tries"], line["affinity"], line["endpoint"]) == (2, "failover", second.url) and line["queue_ms"] >= 90


def test_who_waits_for_another_endpoint_holds_nobody_up(lab):
    """One that failed here waits for there. It must not keep from here those who come after it."""
    here, there = mortal(lab, alive=False), lab.scripted()
    router = lab.router([here, there], pool={"max_inflight": 1, "queue": LONG, "health": {"interval": 0, "fall": 100}})
    at_here = next(f"u{i}" for i in range(99) if order_of(router, f"u{i}")[0] == here.url)
    at_there = next(f"u{i}" for i in range(99) if order_of(router, f"u{i}")[0] == there.url)
    conn, client = start(lab, router, there, user=at_there)
    first = waiting(lab, router, at_here)  # refused here, full there
    here.revive()
    second = lab.client(router)
    second.chat(user=at_here)
    assert second.read_response().json()["endpoint"] == here.name
    finish(conn, client)
    conn.rxreq()
    finish(conn, first)


# spilling over


def test_a_slow_client_holds_no_slot_when_the_endpoint_has_done(lab):
    """Its answer lies whole in the router, for the client's kernel takes nothing."""
    up = lab.scripted()
    kernel = Kernel(lab, up, pool={"max_inflight": 1, "queue": {"size": 0}})
    slow, other = lab.client(kernel.router), lab.client(kernel.router)
    slow.chat()
    conn = up.accept()
    conn.rxreq()
    kernel.fails("sendmsg", errno.EAGAIN)
    conn.txresp(200, body=b"slowly")
    wait_until(lambda: kernel.times() >= 1, "it did not write")
    kernel.well()
    other.chat()
    conn.rxreq()
    row = kernel.router.get("/status").json()["pools"][0]["endpoints"][0]
    assert (row["in_flight"], row["requests"]) == (1, 2)
    finish(conn, other)
    slow.request("GET", "/health")  # the kernel tells anew that it is writable
    assert slow.read_response().body == b"slowly" and slow.read_response().body == b"ok"


def test_who_is_offered_what_no_waiter_can_take_does_not_wait(lab):
    """One waits for B, for A failed it; then A is back, and a newcomer goes there although the queue is full."""
    a, b = mortal(lab, alive=False), lab.scripted()
    router = lab.router([a, {"url": b, "max_inflight": 1}], pool={"queue": {"size": 1, "timeout": "60s"}, "health": {"interval": 0, "fall": 9}})
    at_a, at_b = user_at(router, a), user_at(router, b)
    conn, first = start(lab, router, b, user=at_b)
    waits = waiting(lab, router, at_a)
    a.revive()
    assert router.endpoint_of(user=at_a) == a.name
    finish(conn, first)
    conn.rxreq()
    finish(conn, waits)


def two(lab, **pool):
    """A user's home and the other endpoint, both scripted, and the router."""
    ups = [lab.scripted(), lab.scripted()]
    router = lab.router(ups, pool=pool)
    home, other = (next(u for u in ups if u.url == url) for url in order_of(router, "ann"))
    return router, home, other


def test_full_spills_to_the_next(lab):
    router, home, other = two(lab, max_inflight=1)
    pairs = [start(lab, router, up, user="ann") for up in (home, other)]
    for conn, client in pairs:
        finish(conn, client)
    assert [(line["affinity"], line["endpoint"]) for line in router.access_lines(2, CHAT)] == [("hit", home.url), ("spill", other.url)]
    assert is_ready(router)


def test_max_imbalance_spills(lab):
    router, home, other = two(lab, max_imbalance=1)
    pairs = [start(lab, router, up, user="ann") for up in (home, home, other, home, other)]
    # in flight before each: 0:0, 1:0, 2:0 over, 2:1, 3:1 over
    for conn, client in pairs:
        finish(conn, client)
    assert [line["affinity"] for line in router.access_lines(5, CHAT)] == ["hit", "hit", "spill", "hit", "spill"]


def test_max_imbalance_0_keeps_the_pin(lab):
    router, home, other = two(lab)
    for _ in range(12):
        start(lab, router, home, user="ann")
    assert other.no_connection(0.05)


def test_max_imbalance_ignores_who_is_down(lab):
    ups = [lab.scripted(), mortal(lab, alive=False)]
    router = lab.router(ups, pool={"max_imbalance": 1, "health": {"interval": 0, "fall": 1}})
    for i in range(99):
        if order_of(router, f"u{i}")[0] == ups[1].url:
            start(lab, router, ups[0], user=f"u{i}")  # finds out that the other is down
            break
    wait_state(router, ups[1], "down")
    for _ in range(5):
        start(lab, router, ups[0], user="ann")


def test_affinity_none_in_the_access_line(lab):
    router = lab.router([mortal(lab), mortal(lab)], pool={"affinity": "none"})
    for _ in range(3):
        router.endpoint_of(user="ann")
    assert [line["affinity"] for line in router.access_lines(3, CHAT)] == ["none"] * 3
