"""Contract 3 and 2: who is up, who is loading, who is down, and how the router comes to think so."""
import queue
import signal
import threading
import time

import pytest

from harness.mortal import is_ready, mortal, state_lines, wait_ready, wait_state
from harness.upstream import wait_until

LOCKED = {"interval": "50ms", "timeout": "8s"}  # the test answers each probe itself: none may be late on a busy machine


def patient(lab, health=None, pool=None, word="asked", **how):
    """An endpoint whose /health the test holds in its hand, and the router that asks it."""
    up = mortal(lab, health=word)
    pool = {"health": {**LOCKED, **(health or {})}, "model_list": {"interval": 0}, **(pool or {})}
    return up, lab.router(up, probes=True, pool=pool, **how)


def busy(lab, health, streams=1, **how):
    """A scripted endpoint that runs streams and whose accept queue takes probes, as llama.cpp with no thread left."""
    up = lab.scripted()
    router = lab.router(up, probes=True, pool={"health": health, "model_list": {"interval": 0}, **how})
    running = []
    for i in range(streams):
        client = lab.client(router)
        client.chat(stream=True)
        conn = accept_chat(up)
        conn.sse_head()
        events = client.sse(client.read_head())
        running.append((conn, events))
    return up, router, running


def accept_chat(up):
    """The next connection that brings a chat. Those of probes are left unanswered."""
    while True:
        conn = up.accept()
        if conn.rxreq().method == "POST":
            return conn


# the probe itself


def test_a_probe_is_a_plain_get_of_health(lab):
    up, router = patient(lab, word=200)
    up.wait_probes(2)
    req = up.requests[0]
    assert (req.method, req.target, req.body, req["Host"]) == ("GET", "/health", b"", up.authority)


@pytest.mark.parametrize("base, path, target", [
    ("/llama", "/health", "/llama/health"), ("/v1", "/health", "/health"), ("/a/v1", "/v1/models", "/a/v1/models"), ("", "/healthz?deep=1", "/healthz?deep=1"),
])
def test_probe_path(lab, base, path, target):
    up = lab.upstream()
    lab.router(up.url + base, probes=True, pool={"health": {"path": path, "interval": "1s"}, "model_list": {"interval": 0}})
    assert up.wait_requests(1)[0].target == target


def test_the_interval_is_kept(lab):
    up, router = patient(lab, {"interval": "200ms"}, word=200)
    times = up.wait_probes(11)
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert min(gaps) > 0.1 and 0.15 < sum(gaps) / len(gaps) < 0.4, gaps
    assert len({round(gap, 3) for gap in gaps}) > 1, gaps  # not all of a fleet at the same moment


def test_probes_go_over_an_idle_connection(lab):
    up, router = patient(lab, word=200)
    up.wait_probes(5)
    assert router.chat().status == 200
    up.wait_probes(10)
    assert len(up.conns) <= 2  # the chat may have met a probe on its way


def test_interval_0_means_no_probes(lab):
    up = lab.scripted()
    router = lab.router(up)
    assert is_ready(router) and up.no_connection(0.3)


def test_a_probe_takes_no_slot_and_no_access_line(lab):
    up, router = patient(lab, {"interval": "50ms"}, {"max_inflight": 1}, word="stall")
    up.wait_probes(1)  # it waits for its answer
    assert router.chat().status == 200
    assert [line["path"] for line in router.access_lines(1)] == ["/v1/chat/completions"] and len(router.out) == 1


# what its answer means


@pytest.mark.parametrize("status", [200, 204, 302, 304, 400, 401, 403, 404, 405, 429, 499])
def test_any_whole_answer_below_500_is_alive(lab, status):
    up, router = patient(lab, {"fall": 1})
    up.say(status, status)
    assert is_ready(router) and not state_lines(router, up)
    assert router.endpoint_of() == up.name


@pytest.mark.parametrize("word", [500, 501, 502, 504, 599, "close", "half", "junk"])
def test_anything_else_is_a_failure(lab, word):
    up, router = patient(lab, {"fall": 2}, {"keepalive": {"timeout": 0}})
    up.say(200, word)
    assert is_ready(router)
    up.say(word)
    assert not is_ready(router)
    wait_state(router, up, "down")
    assert len(state_lines(router, up)) == 1
    response = router.chat()
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable")


def test_fall_counts_failures_in_a_row(lab):
    up, router = patient(lab, {"fall": 3})
    up.say(200, 500, 500, 200, 500, 500)
    assert is_ready(router) and not state_lines(router, up)
    up.say(500)
    assert not is_ready(router)


def test_rise_counts_successes_in_a_row(lab):
    up, router = patient(lab, {"fall": 1, "rise": 3})
    up.say(500)
    assert not is_ready(router)
    up.say(200, 200, 500, 200, 200)
    assert not is_ready(router)
    up.say(200)
    assert is_ready(router)


def test_503_is_loading_at_once(lab):
    up, router = patient(lab, {"fall": 3})
    up.say(200, 503)
    assert not is_ready(router)
    (line,) = state_lines(router, up)
    assert "loading" in line and "503" in line
    response = router.chat()
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable") and int(response["Retry-After"]) > 0
    up.say(503, 503, 503, 503, 200)  # however long it loads it is not down
    assert is_ready(router) and not state_lines(router, up, "down")


def test_a_loading_endpoint_that_dies_is_down(lab):
    up, router = patient(lab, {"fall": 2})
    up.say(503, 500)
    assert not state_lines(router, up, "down")
    up.say(500)
    wait_state(router, up, "down")


def test_timeout_with_nothing_in_flight_is_a_failure(lab):
    began = time.monotonic()
    up, router = patient(lab, {"timeout": "200ms", "fall": 2}, word="stall")
    wait_state(router, up, "down")
    assert time.monotonic() - began >= 0.4
    assert not is_ready(router)
    up.health = 200
    wait_ready(router)


def test_a_connect_that_hangs_is_a_failure(lab):
    hole = lab.blackhole()
    router = lab.router(hole, probes=True, pool={"health": {"interval": "50ms", "timeout": "200ms", "fall": 2}, "model_list": {"interval": 0}})
    wait_state(router, hole, "down")
    began = time.monotonic()
    assert router.chat().status == 503
    assert time.monotonic() - began < 1.5  # at once: nobody waits for it


def test_an_answer_that_came_in_time_counts_though_it_is_read_late(lab):
    """The router stands still, as on a machine that is out of breath; the endpoint does not."""
    up, router = patient(lab, {"timeout": "3s", "fall": 1})
    up.wait_probes(1)
    time.sleep(0.1)  # it waits for the answer, and does nothing else
    router.signal(signal.SIGSTOP)
    up.words.put(200)
    time.sleep(4)  # beyond the probe's time
    router.signal(signal.SIGCONT)
    up.wait_probes(2)
    assert is_ready(router) and not state_lines(router, up)
    up.health = 200
    up.words.put(200)


def test_a_change_is_logged_once_with_its_reason(lab):
    up, router = patient(lab, {"interval": "30ms", "fall": 2}, word=200)
    up.wait_probes(3)
    for n in (1, 2):
        up.die()
        wait_state(router, up, "down", n)
        time.sleep(0.3)  # many more failures, and no line
        up.revive()
        wait_state(router, up, "up", n)
    lines = state_lines(router, up)
    assert [line.split(" is ")[1].split()[0] for line in lines] == ["down", "up", "down", "up"]
    assert all("refused" in line.lower() for line in lines[::2])


# busy is not dead


def test_a_busy_endpoint_that_answers_no_probe_is_not_dead(lab):
    up, router, running = busy(lab, {"interval": "200ms", "timeout": "100ms", "fall": 2}, streams=2)
    for n in range(50):  # more than 20 intervals
        for conn, events in running:
            conn.event(f"token {n}")
            next(events)
        time.sleep(0.09)  # tokens come at their own pace
    assert is_ready(router) and not state_lines(router, up)
    client = lab.client(router)
    client.chat()
    accept_chat(up).txresp(200, body=b"x")
    assert client.read_response().status == 200


def test_a_busy_endpoint_is_not_dead_for_a_minute(lab):
    """The same at the pace of the world: 60 probes of which none is answered, then one more request."""
    up, router, running = busy(lab, {"interval": "1s", "timeout": "500ms", "fall": 3}, streams=2)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for conn, events in running:
            conn.event("token")
            next(events)
        time.sleep(0.3)
    assert is_ready(router) and not state_lines(router, up)
    client = lab.client(router)
    client.chat()
    accept_chat(up).txresp(200, body=b"x")
    assert client.read_response().status == 200


def test_unanswered_probes_do_not_count_while_a_request_thinks(lab):
    up, router, running = busy(lab, {"interval": "100ms", "timeout": "100ms", "fall": 3})
    for _ in range(12):  # prompt evaluation sends no byte, so probes go, and time out
        assert up.accept().rxreq().method == "GET"
    assert is_ready(router) and not state_lines(router, up)
    conn, events = running[0]
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]
    wait_state(router, up, "down")  # nothing runs there any more, and still no answer


def test_refused_probes_count_though_a_request_runs(lab):
    finish = threading.Event()

    def answer(conn, req):
        conn.sse_head()
        conn.event("first")
        finish.wait(20)
        conn.sse_end()
    up = mortal(lab, answer=answer)
    router = lab.router(up, probes=True, pool={"health": {"interval": "100ms", "fall": 2}, "model_list": {"interval": 0}, "keepalive": {"timeout": 0}})
    client = lab.client(router)
    client.chat(stream=True)
    events = client.sse(client.read_head())
    next(events)
    up.refuse()
    wait_state(router, up, "down")
    finish.set()  # what runs there runs on
    assert list(events) == [b"data: [DONE]"]


def test_bytes_of_a_response_count_as_a_probe(lab):
    def answer(conn, req):
        conn.sse_head()
        while (word := tokens.get(timeout=20)) is not None:
            conn.event(word)
        conn.sse_end()
    tokens = queue.Queue()
    up = mortal(lab, answer=answer)
    router = lab.router(up, probes=True, pool={"health": {"interval": "300ms"}, "model_list": {"interval": 0}})
    up.wait_probes(2)
    client = lab.client(router)
    client.chat(stream=True)
    events = client.sse(client.read_head())
    asked = len(up.probes)
    for n in range(30):
        tokens.put(str(n))
        next(events)
        time.sleep(0.05)  # five intervals in all
    assert len(up.probes) - asked <= 1  # no need to ask
    up.wait_probes(len(up.probes) + 2)  # now there is
    tokens.put(None)
    assert list(events) == [b"data: [DONE]"]


# what requests tell


def test_connects_that_fail_mark_it_down(lab):
    dead = lab.dead()
    router = lab.router(dead, pool={"health": {"interval": 0, "fall": 3}})
    assert [router.chat().status for _ in range(3)] == [502, 502, 502]
    wait_state(router, dead, "down")
    response = router.chat()
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable")
    assert [line["tries"] for line in router.access_lines(4)] == [1, 1, 1, 0]
    assert not is_ready(router)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503, 504])
def test_answers_never_mark_it_down(lab, status):
    def answer(conn, req):
        conn.txresp(status, body=b"no")
    up = mortal(lab, answer=answer)
    router = lab.router(up, pool={"health": {"interval": 0, "fall": 1}})
    assert [router.chat().status for _ in range(6)] == [status] * 6
    assert not state_lines(router, up)


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_death_after_the_request_never_marks_it_down(lab, reset):
    def answer(conn, req):
        up.cut(reset)
        raise ConnectionError
    up = mortal(lab, answer=answer)
    router = lab.router(up, pool={"health": {"interval": 0, "fall": 1}})
    assert [router.chat().status for _ in range(3)] == [502] * 3
    assert not state_lines(router, up)


# without probes


def offers(router, seconds):
    """When, from now on, a request was really tried at the dead endpoint: 502, not 503."""
    began, found = time.monotonic(), []
    client = router.connect()
    while time.monotonic() - began < seconds:
        client.chat()
        status = client.read_response().status
        assert status in (502, 503), status
        if status == 502:
            found.append(time.monotonic() - began)
        time.sleep(0.02)
    client.close()
    return found


def test_interval_0_offers_a_request_after_1_then_2_seconds(lab):
    dead = lab.dead()
    router = lab.router(dead, pool={"health": {"interval": 0, "fall": 1}})
    assert router.chat().status == 502
    assert offers(router, 4.5) == [pytest.approx(1, abs=0.5), pytest.approx(3, abs=0.8)]
    assert len(state_lines(router, dead)) == 1


def test_interval_0_up_again_when_an_offer_succeeds(lab):
    up = mortal(lab, alive=False)
    router = lab.router(up, pool={"health": {"interval": 0, "fall": 1}})
    assert router.chat().status == 502
    assert router.chat().status == 503
    up.revive()
    wait_until(lambda: router.chat().status == 200, "it is never offered a request", 4)
    wait_state(router, up, "up")
    assert [router.chat().status for _ in range(3)] == [200] * 3


def test_interval_0_offers_one_request_at_a_time(lab):
    hole = lab.blackhole()
    router = lab.router(hole, pool={"health": {"interval": 0, "fall": 1}, "connect_timeout": "500ms"})
    assert router.chat().status == 502
    clients = [lab.client(router) for _ in range(5)]
    wait_until(lambda: is_ready(router), "its time does not come", 4)
    for client in clients:
        client.chat()
    assert sorted(client.read_response().status for client in clients) == [502, 503, 503, 503, 503]


def test_interval_0_a_burst_of_failures_is_one_failure(lab):
    hole = lab.blackhole()
    router = lab.router(hole, pool={"health": {"interval": 0, "fall": 3}, "connect_timeout": "400ms"})
    clients = [lab.client(router) for _ in range(12)]
    for client in clients:
        client.chat()
    assert {client.read_response().status for client in clients} == {502}
    found = offers(router, 3.5)
    assert found and found[0] < 3, found  # twelve that failed at one moment do not make it twelve times worse


# its way back


def test_slow_start_brings_its_keys_home_bit_by_bit(lab):
    users = [f"user-{i}" for i in range(120)]
    a, b = mortal(lab), mortal(lab)
    router = lab.router([a, b], probes=True,
                        pool={"health": {"interval": "50ms", "fall": 1}, "model_list": {"interval": 0}, "slow_start": "4s"})
    wait_ready(router)

    def homes():
        client = router.connect()
        found = set()
        for user in users:
            client.chat(user=user)
            if client.read_response().json()["endpoint"] == a.name:
                found.add(user)
        client.close()
        return found
    before = homes()
    assert 30 < len(before) < 90
    a.die()
    wait_state(router, a, "down")
    assert homes() == set()
    a.revive()
    wait_state(router, a, "up")
    began = time.monotonic()
    early = homes()
    assert len(early) < 0.6 * len(before), f"{len(early)} of {len(before)} after {time.monotonic() - began:.1f} s"
    until = began + 2
    time.sleep(max(0, until - time.monotonic()))  # the time over which it grows is the point
    middle = homes()
    wait_until(lambda: homes() == before, "its share does not grow to the full", 8)
    assert early <= middle <= before and len(early) < len(middle) < len(before)


def test_a_router_that_starts_gives_full_weight_at_once(lab):
    ups = [lab.upstream(), lab.upstream()]
    router, plain = lab.router(ups, pool={"slow_start": "1h"}), lab.router(ups)
    for i in range(20):
        assert router.endpoint_of(user=f"u{i}") == plain.endpoint_of(user=f"u{i}")


# /ready


def test_ready_waits_for_the_first_probe_of_every_endpoint(lab):
    first, second = mortal(lab, health="asked"), mortal(lab, health="asked")
    router = lab.router([first, second], probes=True, pool={"health": LOCKED, "model_list": {"interval": 0}})
    second.wait_probes(1)
    response = router.get("/ready")
    assert (response.status, response.json()) == (503, {"ready": False, "pools": {"p": False}})
    assert router.chat().status == 200  # before its first probe an endpoint is up
    first.say(200)
    assert not is_ready(router)
    second.say(500)  # a failure is an end too
    response = router.get("/ready")
    assert (response.status, response.json()) == (200, {"ready": True, "pools": {"p": True}})


def test_ready_tells_of_every_pool(lab):
    alive, dead = mortal(lab), mortal(lab, alive=False)
    router = lab.router(pools=[{"name": "a", "models": ["x"], "endpoints": [alive]}, {"name": "b", "models": ["y"], "endpoints": [dead]}],
                        defaults={"health": {"interval": "50ms", "fall": 1}, "model_list": {"interval": 0}}, probes=True)
    wait_state(router, dead, "down")
    wait_ready(router)
    assert router.get("/ready").json() == {"ready": True, "pools": {"a": True, "b": False}}
    assert [router.get(f"/ready?pool={name}").status for name in "ab"] == [200, 503]
    alive.die()
    wait_ready(router, False)
    assert router.get("/health").status == 200  # the process lives
    dead.revive()
    wait_ready(router)
