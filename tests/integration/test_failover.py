"""Contract 3 and 6: when an endpoint fails, who gets the request instead, and when nobody may."""
import json
import time

import pytest

from harness import Truncated, chat_body
from harness.mortal import is_ready, mortal, order_of, state_lines, user_at, wait_ready, wait_state
from harness.upstream import chunk, respond_openai

LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
CHAT = "/v1/chat/completions"
NEVER = {"interval": 0, "fall": 100}  # neither probes nor failures change who is asked


def trio(lab, dead=0, pool=None, **how):
    """A router before three mortals, a user, and the three in that user's order; the first `dead` of them refuse."""
    ups = [mortal(lab) for _ in range(3)]
    router = lab.router(ups, pool={"health": NEVER, **(pool or {})}, **how)
    order = [next(u for u in ups if u.url == url) for url in order_of(router, "ann")]
    for up in order[:dead]:
        up.die()
    return router, order


def pair(lab, **how):
    """A router, a user's home and the other endpoint, both scripted."""
    ups = [lab.scripted(), lab.scripted()]
    router = lab.router(ups, pool=how.pop("pool", {}), **how)
    home, other = (next(u for u in ups if u.url == url) for url in order_of(router, "ann"))
    return router, home, other


def warm(client, up):
    """A connection to that endpoint that has served one request."""
    client.chat(user="ann")
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"warm")
    assert client.read_response().body == b"warm"
    return conn


# a connect that fails


def test_refused_goes_to_the_next_in_rendezvous_order(lab):
    router, order = trio(lab)
    for n in range(3):
        assert router.endpoint_of(user="ann") == order[n].name
        order[n].die()
    response = router.chat(user="ann")
    assert (response.status, response.error["code"]) == (502, "upstream_error")
    lines = router.access_lines(4)
    assert [(line["tries"], line["affinity"], line["status"], line["end"]) for line in lines] == [
        (1, "hit", 200, "done"), (2, "failover", 200, "done"), (3, "failover", 200, "done"), (3, "failover", 502, "upstream_error")]
    assert [line["endpoint"] for line in lines[:3]] == [up.url for up in order]


def test_a_black_hole_costs_its_connect_timeout(lab):
    hole, alive = lab.blackhole(), mortal(lab)
    router = lab.router([hole, alive], pool={"health": NEVER, "connect_timeout": "400ms"})
    user = user_at(router, hole)
    began = time.monotonic()
    assert router.endpoint_of(user=user) == alive.name
    assert 0.38 <= time.monotonic() - began < 3
    assert router.access_lines(1)[0]["tries"] == 2


def test_a_missing_unix_socket_goes_to_the_next(lab):
    alive = mortal(lab)
    gone = f"unix:{lab.directory}/gone.sock"
    router = lab.router([gone, alive], pool={"health": NEVER})
    assert router.endpoint_of(user=user_at(router, gone)) == alive.name


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_at_most_retries_further_endpoints(lab, retries):
    dead = [lab.dead() for _ in range(6)]
    router = lab.router(dead, pool={"health": NEVER, "retries": retries})
    response = router.chat()
    assert (response.status, response.error["code"], response.error["type"]) == (502, "upstream_error", "server_error")
    assert router.access_lines(1)[0]["tries"] == retries + 1


def test_retries_default_is_two(lab):
    router = lab.router([lab.dead() for _ in range(6)], pool={"health": NEVER})
    assert router.chat().status == 502
    assert router.access_lines(1)[0]["tries"] == 3


def test_no_endpoint_is_tried_twice(lab):
    router = lab.router([lab.dead(), lab.dead()], pool={"health": NEVER, "retries": 10})
    assert router.chat().status == 502
    assert router.access_lines(1)[0]["tries"] == 2


def test_every_try_sends_the_whole_request(lab):
    hole, alive = lab.blackhole(), mortal(lab)
    router = lab.router([hole, alive], pool={"health": NEVER, "connect_timeout": "300ms", "aliases": {"nick": "m"}})
    user = user_at(router, hole)
    body = chat_body("nick", user, content="x" * 3_000_000)
    response = router.post("/v1/chat/completions?q=1", body, [("X-Request-Id", "one-id")])
    assert response.status == 200
    req = alive.last
    assert req.body == body.replace(b'"nick"', b'"m"') and req.target == "/v1/chat/completions?q=1"
    assert req["X-Request-Id"] == response["X-Request-Id"] == "one-id" and req["Host"] == alive.authority


def test_affinity_none_fails_over_too(lab):
    ups = [lab.dead(), mortal(lab), lab.dead()]
    router = lab.router(ups, pool={"health": NEVER, "affinity": "none"})
    assert [router.chat().status for _ in range(6)] == [200] * 6


# a connection that dies after the request


@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_new_connection_that_dies_is_502_and_visits_nobody_else(lab, kind):
    router, home, other = pair(lab)
    client = lab.client(router)
    client.chat(user="ann")
    conn = home.accept()
    conn.rxreq()
    conn.fin() if kind == "fin" else conn.rst()
    response = client.read_response()
    assert (response.status, response.error["code"]) == (502, "upstream_error")
    assert home.no_connection(0.1) and other.no_connection(0.1)
    line = router.access_lines(1)[0]
    assert (line["tries"], line["end"], line["endpoint"]) == (1, "upstream_error", home.url)


@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_reused_connection_that_dies_is_replaced_at_the_same_endpoint(lab, kind):
    router, home, other = pair(lab)
    client = lab.client(router)
    conn = warm(client, home)
    client.chat(user="ann")
    conn.rxreq()
    conn.fin() if kind == "fin" else conn.rst()
    conn = home.accept()
    conn.rxreq()
    conn.txresp(200, body=b"second")
    assert client.read_response().body == b"second"
    assert other.no_connection(0.1)
    line = router.access_lines(2)[1]
    assert (line["tries"], line["affinity"], line["endpoint"]) == (1, "hit", home.url)


def test_the_replacement_is_not_another_idle_connection(lab):
    router, home, other = pair(lab)
    first, second = lab.client(router), lab.client(router)
    a = warm(first, home)
    first.chat(user="ann")
    a.rxreq()
    b = warm(second, home)  # while a is in use
    a.txresp(200, body=b"x")
    first.read_response()
    first.chat(user="ann")
    a.rxreq()
    a.fin()
    conn = home.accept()  # b lies idle, and may be as stale
    conn.rxreq()
    conn.txresp(200, body=b"new")
    assert first.read_response().body == b"new" and b.is_silent(0.05)


def test_a_replacement_that_is_refused_is_502(lab):
    """The prompt may have killed the endpoint: it must not visit the next."""
    def answer(conn, req):
        if b"poison" in req.body:
            conn.upstream.die(reset=True)
            raise ConnectionError
        respond_openai(conn, req)
    ups = [mortal(lab, answer=answer) for _ in range(2)]
    router = lab.router(ups, pool={"health": NEVER})
    client = lab.client(router)
    client.chat(user="ann")
    home = client.read_response().json()["endpoint"]
    other = next(up for up in ups if up.name != home)
    client.chat(user="ann", content="poison")
    response = client.read_response()
    assert (response.status, response.error["code"]) == (502, "upstream_error")
    assert not other.routed()


def test_a_replacement_that_loads_again_is_passed_on(lab):
    """It died of the prompt and was started again at once: the next endpoint must not get that prompt either."""
    def answer(conn, req):
        if b"poison" not in req.body:
            respond_openai(conn, req)
        elif len(conn.requests) > 1:
            raise ConnectionError
        else:
            conn.txresp(503, JSON, json.dumps(LOADING).encode())
    ups = [mortal(lab, answer=answer) for _ in range(2)]
    router = lab.router(ups, pool={"health": NEVER})
    client = lab.client(router)
    client.chat(user="ann")
    home = client.read_response().json()["endpoint"]
    client.chat(user="ann", content="poison")
    response = client.read_response()
    assert (response.status, response.json(), response["Retry-After"]) == (503, LOADING, "5")
    assert [len(up.routed()) for up in ups if up.name != home] == [0]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_never_after_a_byte(lab, stream):
    router, home, other = pair(lab)
    client = lab.client(router)
    conn = warm(client, home)
    client.chat(user="ann", stream=stream)
    conn.rxreq()
    if stream:
        conn.sse_head()
        conn.event("one")
    else:
        conn.tx(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"data: one\n\n"))
    parts = client.body_parts(client.read_head())
    assert next(parts) == b"data: one\n\n"
    conn.rst()
    with pytest.raises(Truncated):
        list(parts)
    assert home.no_connection(0.1) and other.no_connection(0.1)


# first_byte_timeout


def test_first_byte_timeout_is_504_and_no_retry(lab):
    router, home, other = pair(lab, pool={"first_byte_timeout": "300ms", "health": {"interval": 0, "fall": 1}})
    client = lab.client(router)
    conn = warm(client, home)  # reused or new: no difference
    for conn in (conn, None):
        began = time.monotonic()
        client.chat(user="ann")
        conn = conn or home.accept()
        conn.rxreq()
        response = client.read_response()
        assert (response.status, response["x-should-retry"]) == (504, "false")
        assert (response.error["type"], response.error["code"]) == ("server_error", "upstream_timeout")
        assert time.monotonic() - began >= 0.28
        conn.wait_close()
    assert home.no_connection(0.1) and other.no_connection(0.1)
    assert [line["end"] for line in router.access_lines(3)] == ["done", "upstream_timeout", "upstream_timeout"]
    assert not state_lines(router, home)  # slow is not down


# llama.cpp that loads


def loading_pair(lab, answers, **how):
    """Two endpoints; the user's home gives the first answer, the other the second. Each is (status, headers, body)."""
    def answer(conn, req):
        status, headers, body, framing = answers[0 if conn.upstream.url == order[0] else 1]
        conn.txresp(status, headers, body if isinstance(body, bytes) else json.dumps(body).encode(), framing)
    order = []
    ups = [mortal(lab, answer=answer) for _ in range(2)]
    router = lab.router(ups, pool={"health": NEVER}, **how)
    order += order_of(router, "ann")
    return router, [next(u for u in ups if u.url == url) for url in order]


JSON = [("Content-Type", "application/json")]
GOOD = (200, JSON, {"fine": True}, "length")


@pytest.mark.parametrize("body", [
    LOADING,
    {"error": {"message": "Loading model"}},
    {"error": {"type": "unavailable_error", "message": "later"}},
], ids=["both", "message", "type"])
def test_loading_goes_to_the_next(lab, body):
    router, (home, other) = loading_pair(lab, [(503, [("Content-Type", "application/json; charset=utf-8")], body, "length"), GOOD])
    response = router.chat(user="ann")
    assert (response.status, response.json()) == (200, {"fine": True})
    line = router.access_lines(1)[0]
    assert (line["tries"], line["affinity"], line["endpoint"], line["status"], line["end"]) == (2, "failover", other.url, 200, "done")
    wait_state(router, home, "loading")
    router.chat(user="ann")
    assert len(home.routed()) == 1 and len(other.routed()) == 2  # nobody asks it again at once


@pytest.mark.parametrize("own, told", [([], "5"), ([("Retry-After", "17")], "17")], ids=["ours", "its own"])
def test_the_last_loading_answer_is_passed_on(lab, own, told):
    first = (503, JSON, {"error": {**LOADING["error"], "n": 1}}, "length")
    last = (503, JSON + own, {"error": {**LOADING["error"], "n": 2}}, "length")
    router, ups = loading_pair(lab, [first, last])
    response = router.chat(user="ann")
    assert (response.status, response.json()["error"]["n"], response["Retry-After"]) == (503, 2, told)
    assert router.access_lines(1)[0]["tries"] == 2
    began = time.monotonic()
    response = router.chat(user="ann")  # now both are known to load
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable") and time.monotonic() - began < 2
    assert [len(up.routed()) for up in ups] == [1, 1]


def test_a_loading_answer_is_passed_on_if_the_next_refuses(lab):
    router, (home, other) = loading_pair(lab, [(503, JSON, LOADING, "length"), GOOD])
    other.die()
    response = router.chat(user="ann")
    assert (response.status, response.json(), response["Retry-After"]) == (503, LOADING, "5")


@pytest.mark.parametrize("answer", [
    (503, JSON, {"error": {"type": "overloaded_error", "message": "busy"}}, "length"),
    (503, [("Content-Type", "text/plain")], b"Loading model", "length"),
    (503, JSON, b'{"error":"Loading model"}', "length"),
    (503, JSON, {"message": "Loading model"}, "length"),
    (503, JSON, b'{"error":{"message":"Loading model"', "length"),
    (503, JSON, b"", "length"),
    (503, JSON, b"x" * 200_000, "chunked"),
    (500, JSON, LOADING, "length"),
    (429, JSON, LOADING, "length"),
], ids=["other type", "plain text", "no error object", "no error", "broken", "empty", "endless", "500", "429"])
def test_any_other_answer_is_passed_on_as_it_is(lab, answer):
    router, (home, other) = loading_pair(lab, [answer, GOOD])
    status, _, body, _ = answer
    response = router.chat(user="ann")
    assert (response.status, response.body) == (status, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert response["Retry-After"] is None and not other.routed()
    assert not state_lines(router, home)


def test_the_endpoint_stays_loading_until_its_health_says_otherwise(lab):
    def answer(conn, req):
        conn.txresp(503, JSON, json.dumps(LOADING).encode())
    up = mortal(lab, answer=answer)
    router = lab.router(up, probes=True, pool={"health": {"interval": "400ms"}, "model_list": {"interval": 0}})
    wait_ready(router)
    assert router.chat().json() == LOADING
    wait_state(router, up, "loading")
    up.health, before, so_far = 503, len(state_lines(router, up, "up")), len(up.probes)
    up.wait_probes(so_far + 3)  # the 503 itself is no sign of life in the place of a probe
    assert len(state_lines(router, up, "up")) == before and not is_ready(router)
    up.answer, up.health = respond_openai, 200
    wait_ready(router)
    assert router.chat().status == 200


# fallback pools


def chain(lab, *endpoints, **more):
    """Pools a, b, c …, each the fallback of the one before; `m` is the first one's."""
    pools = []
    for i, endpoint in enumerate(endpoints):
        name = "abcdef"[i]
        pool = {"name": name, "models": ["m"] if i == 0 else [f"only-{name}"], "endpoints": [endpoint], **more.get(name, {})}
        if i + 1 < len(endpoints):
            pool["fallback"] = "abcdef"[i + 1]
        pools.append(pool)
    return lab.router(pools=pools, defaults={"health": {"interval": 0, "fall": 1}})


def test_fallback_when_no_endpoint_is_usable(lab):
    dead, alive = mortal(lab, alive=False), mortal(lab)
    router = chain(lab, dead, alive)
    for tries in (2, 1):  # found out by a try, then known
        assert router.endpoint_of() == alive.name
        line = router.access_lines(3 - tries)[-1]
        assert (line["pool"], line["endpoint"], line["tries"], line["model"]) == ("b", alive.url, tries, "m")
    assert alive.last.json()["model"] == "m"  # the name already chosen stays


def test_a_chain_of_fallbacks(lab):
    router = chain(lab, lab.dead(), lab.dead(), alive := mortal(lab))
    assert [router.endpoint_of() for _ in range(3)] == [alive.name] * 3
    assert router.access_lines(3)[-1]["pool"] == "c"


@pytest.mark.parametrize("aliases", [{}, {"nick-target": "wrong", "m": "wrong"}], ids=["none", "for the name chosen before"])
def test_the_name_already_chosen_stays_in_a_fallback_pool(lab, aliases):
    alive = mortal(lab)
    router = chain(lab, lab.dead(), alive, a={"models": ["first"], "aliases": {"nick": "nick-target"}}, b={"aliases": aliases})
    assert router.endpoint_of("nick") == alive.name
    assert alive.last.json()["model"] == "nick-target"
    line = router.access_lines(1)[0]
    assert (line["model"], line["pool"]) == ("nick", "b")


@pytest.mark.parametrize("turned", [False, True], ids=["in file order", "the fallback first"])
def test_a_fallback_pool_has_its_own_alias_for_the_accepted_name(lab, turned):
    dead, alive = mortal(lab, alive=False), mortal(lab)
    pools = [{"name": "a", "models": ["m"], "aliases": {"nick": "m"}, "endpoints": [dead], "fallback": "b"},
             {"name": "b", "models": ["other"], "aliases": {"m": "large", "nick": "small"}, "endpoints": [alive]}]
    router = lab.router(config=lab.config(pools=pools[::-1] if turned else pools))
    for accepted, sent in (("m", "large"), ("nick", "small"), ("other", "other")):
        assert router.chat(accepted).status == 200
        assert alive.last.json()["model"] == sent
    lines = router.access_lines(3)
    assert [(x["model"], x["pool"]) for x in lines if x["model"]] == [("m", "b"), ("nick", "b"), ("other", "b")]


def test_all_pools_down_is_503_at_once(lab):
    router = chain(lab, lab.dead(), lab.dead(), lab.dead())
    assert router.chat().status == 502  # three tries, all failed
    response = router.chat()
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable") and int(response["Retry-After"]) > 0
    assert router.access_lines(2)[-1]["tries"] == 0


def test_a_full_pool_does_not_fall_back(lab):
    busy, idle = lab.scripted(), mortal(lab)
    router = chain(lab, busy, idle, a={"max_inflight": 1})
    client = lab.client(router)
    client.chat()
    conn = busy.accept()
    conn.rxreq()
    assert router.chat().status == 429 and not idle.routed()
    conn.txresp(200, body=b"x")
    client.read_response()


def test_a_fallback_pool_has_its_own_limits(lab):
    busy = lab.scripted()
    router = chain(lab, lab.dead(), busy, b={"max_inflight": 1, "queue": {"size": 1, "timeout": "60s"}})
    clients = [lab.client(router) for _ in range(3)]
    clients[0].chat()
    conn = busy.accept()
    conn.rxreq()
    clients[1].chat()  # waits in b's queue
    router.get("/health")
    clients[2].chat()
    assert clients[2].read_response().status == 429
    for client in clients[:2]:
        conn.txresp(200, body=b"x")
        assert client.read_response().body == b"x"
        if client is clients[0]:
            conn.rxreq()
    assert {line["pool"] for line in router.access_lines(3, CHAT)} == {"b"}


def test_home_again_after_a_fallback(lab):
    first, second = mortal(lab, alive=False), mortal(lab)
    pools = [{"name": "a", "models": ["m"], "endpoints": [first], "fallback": "b"}, {"name": "b", "models": ["x"], "endpoints": [second]}]
    router = lab.router(pools=pools, probes=True, defaults={"health": {"interval": "50ms", "fall": 1}, "model_list": {"interval": 0}})
    wait_state(router, first, "down")
    assert router.endpoint_of() == second.name
    first.revive()
    wait_ready(router, pool="a")
    assert router.endpoint_of() == first.name


# nobody left, and coming home


def test_all_down_is_503_at_once_with_retry_after(lab):
    holes = [lab.blackhole(), lab.blackhole()]
    router = lab.router(holes, probes=True, pool={"health": {"interval": "100ms", "timeout": "200ms", "fall": 1}, "connect_timeout": "30s"})
    for hole in holes:
        wait_state(router, hole, "down")
    began = time.monotonic()
    response = router.chat()
    assert time.monotonic() - began < 2  # not after a timeout
    assert (response.status, response.error["type"], response.error["code"]) == (503, "server_error", "upstream_unavailable")
    assert int(response["Retry-After"]) > 0
    line = router.access_lines(1)[0]
    assert (line["tries"], line["endpoint"], line["end"]) == (0, None, "refused")


def test_when_an_endpoint_returns_exactly_its_keys_come_home(lab):
    ups = [mortal(lab) for _ in range(3)]
    router = lab.router(ups, probes=True, pool={"health": {"interval": "50ms", "fall": 1}, "model_list": {"interval": 0}})
    wait_ready(router)
    users = [f"user-{i}" for i in range(120)]

    def homes():
        client = router.connect()
        found = {}
        for user in users:
            client.chat(user=user)
            found[user] = client.read_response().json()["endpoint"]
        client.close()
        return found
    before = homes()
    lost = ups[1]
    assert lost.name in before.values()
    lost.die()
    wait_state(router, lost, "down")
    during = homes()
    assert all(during[u] == before[u] for u in users if before[u] != lost.name)
    assert {during[u] for u in users if before[u] == lost.name} == {ups[0].name, ups[2].name}
    lost.revive()
    wait_state(router, lost, "up")
    assert homes() == before
    moved = [line for line in router.access_lines(360, CHAT)[120:240] if line["affinity"] == "failover"]
    assert len(moved) == sum(1 for u in users if before[u] == lost.name)
    assert is_ready(router)
