"""Contract 7: SIGHUP while requests wait: they go on in the new configuration, with its room, endpoints, pools and aliases."""
import pytest

from harness import chat_body, request_bytes
from harness.mortal import user_at, wait_state
from harness.prom import scrape
from harness.reloads import endpoint_row, ends, reload, status, streaming
from harness.upstream import wait_until

LONG = {"size": 5, "timeout": "60s"}


def waiting(lab, pool=None, ups=1, **more):
    """A pool full with one stream at its first endpoint, and a second request that waits: (router, [up], (conn, events), waiting client)."""
    scripted = [lab.scripted() for _ in range(ups)]
    pool = {"max_inflight": 1, "queue": LONG, **(pool or {})}
    router = lab.router(scripted[0], pool=pool)
    conn, events, _ = streaming(lab, router, scripted[0])
    client = lab.client(router)
    client.chat(user="waits", **more)
    wait_until(lambda: status(router)["pools"][0]["queued"] == 1, "it does not wait")
    return router, scripted, (conn, events), client


def served(up, client, model="m"):
    conn = up.accept()
    assert conn.rxreq().json()["model"] == model
    conn.txresp(200, body=b"served")
    assert client.read_response().body == b"served"


def test_a_waiting_request_is_served_as_soon_as_there_is_more_room(lab):
    router, (up,), stream, client = waiting(lab)
    reload(router, lab.config(up, pool={"max_inflight": 2, "queue": LONG}))
    served(up, client)
    ends(*stream)


def test_a_waiting_request_goes_to_a_new_endpoint(lab):
    router, (up, new), stream, client = waiting(lab, ups=2)
    reload(router, lab.config(new, pool={"max_inflight": 1, "queue": LONG}))
    served(new, client)
    ends(*stream)


@pytest.mark.parametrize("room", [1, 2], ids=["after the stream", "at once"])
def test_a_waiting_request_moves_into_another_pool(lab, room):
    router, (up,), stream, client = waiting(lab)
    reload(router, lab.config(pools=[{"name": "renamed", "models": ["*"], "endpoints": [up], "max_inflight": room, "queue": LONG}]))
    if room == 2:
        served(up, client)
        ends(*stream)
        return
    assert status(router)["pools"][0]["queued"] == 1
    ends(*stream)
    conn = stream[0]
    conn.rxreq()  # the connection of the stream is idle now
    conn.txresp(200, body=b"served")
    assert client.read_response().body == b"served"
    assert router.access_lines(1, pool="renamed")


def test_a_waiting_request_moves_into_a_pool_that_has_room_and_no_queue(lab):
    router, (up,), stream, client = waiting(lab)
    reload(router, lab.config(pools=[{"name": "renamed", "models": ["*"], "endpoints": [up]}]))
    served(up, client)
    ends(*stream)


def test_a_waiting_request_of_another_list_of_identities(lab):
    """What it was looked through for is not what the new configuration looks for; nor what other requests before it left behind."""
    up = lab.scripted()
    many = [f"body.b{i}" for i in range(8)]
    room = {"max_inflight": 1, "queue": LONG}
    router = lab.router(up, pool={**room, "identity": many})
    for _ in range(4):  # values far behind the end of a small body
        client = lab.client(router)
        client.chat(content="x" * 300_000, **{f"b{i}": "y" * 3000 for i in range(8)})
        conn = up.conns[0] if up.conns else up.accept()
        conn.rxreq()
        conn.txresp(200, body=b"x")
        assert client.read_response().status == 200
    reload(router, lab.config(up, pool={**room, "identity": ["body.user"]}))
    stream, first = lab.client(router), lab.client(router)
    stream.chat(stream=True)
    conn.rxreq()
    conn.sse_head()
    events = stream.sse(stream.read_head())
    first.chat(user="waits")
    wait_until(lambda: status(router)["pools"][0]["queued"] == 1, "it does not wait")
    reload(router, lab.config(up, pool={**room, "identity": many}))
    ends(conn, events)
    conn.rxreq()
    conn.txresp(200, body=b"x")
    assert first.read_response().status == 200


def test_a_waiting_request_keeps_its_alias(lab):
    router, (up,), stream, client = waiting(lab, pool={"aliases": {"nick": "m"}}, model="nick")
    reload(router, lab.config(up, pool={"max_inflight": 2, "queue": LONG, "aliases": {"nick": "m"}}))
    served(up, client, "m")
    ends(*stream)


def test_a_waiting_request_takes_the_new_alias(lab):
    router, (up,), stream, client = waiting(lab, pool={"aliases": {"nick": "m"}}, model="nick")
    reload(router, lab.config(up, models=["m", "other"], pool={"max_inflight": 2, "queue": LONG, "aliases": {"nick": "other"}}))
    served(up, client, "other")
    ends(*stream)


def test_a_waiting_request_whose_model_is_gone_is_told_so_at_once(lab):
    router, (up,), stream, client = waiting(lab)
    reload(router, lab.config(up, models=["another"], pool={"max_inflight": 1, "queue": LONG}))
    response = client.read_response()
    assert response.status in (404, 503) and response.error["message"]
    ends(*stream)


def test_a_waiting_request_whose_endpoints_are_gone_goes_to_the_fallback(lab):
    """Into a configuration that looks for identities in places the old one did not."""
    router, (up, dead, rest), stream, client = waiting(lab, ups=3)
    dead.stop_listening()
    identity = [f"body.b{i}" for i in range(6)] + [f"header.h{i}" for i in range(6)] + ["body.user"]
    pools = [{"name": "p", "models": ["m"], "endpoints": [dead], "fallback": "rest", "max_inflight": 1, "queue": LONG, "identity": identity,
              "health": {"interval": 0, "fall": 1}},
             {"name": "rest", "models": ["*"], "endpoints": [rest], "identity": list(reversed(identity)), "aliases": {"x": "y"}}]
    reload(router, lab.config(pools=pools))
    served(rest, client)
    ends(*stream)


def test_a_waiting_request_stays_in_the_fallback_it_waits_in(lab):
    """Its own pool, where it could not wait, is down as before."""
    dead, up = lab.dead(), lab.scripted()
    config = {"pools": [{"name": "p", "models": ["m"], "endpoints": [dead], "fallback": "rest", "health": {"interval": "60s", "fall": 1}},
                        {"name": "rest", "models": ["x"], "endpoints": [up], "max_inflight": 1, "queue": LONG}]}
    router = lab.router(**config)
    wait_state(router, dead, "down")
    conn, events, _ = streaming(lab, router, up, model="x")
    client = lab.client(router)
    client.chat("m")
    wait_until(lambda: status(router)["pools"][1]["queued"] == 1, "it does not wait")
    reload(router)
    assert status(router)["pools"][1]["queued"] == 1
    ends(conn, events)
    assert conn.rxreq().json()["model"] == "m"
    conn.txresp(200, body=b"x")
    assert client.read_response().status == 200


def test_a_request_that_has_to_wait_only_after_the_reload(lab):
    """Its try fails when its pool is no more: it waits with those of the new one."""
    hole, up = lab.blackhole(), lab.scripted()
    config = {"max_inflight": 1, "queue": LONG, "connect_timeout": "3s"}
    router = lab.router([hole.url, up], pool=config)
    user = user_at(router, hole.url, up)
    client = lab.client(router)
    client.chat(user=user)  # hangs in its connect
    wait_until(lambda: endpoint_row(router, hole.url)["in_flight"] == 1, "it does not connect")
    conn, events, _ = streaming(lab, router, up, user=user_at(router, up))
    reload(router, lab.config(pools=[{"name": "renamed", "models": ["*"], "endpoints": [up], **config}]))
    wait_until(lambda: status(router)["pools"][0]["queued"] == 1, "it does not wait")
    ends(conn, events)
    conn.rxreq()
    conn.txresp(200, body=b"x")
    assert client.read_response().status == 200
    assert router.access_lines(1, pool="renamed")[0]["tries"] == 2


def test_a_request_that_has_to_wait_only_after_the_reload_finds_room_there(lab):
    """Its try fails when its pool is no more. In the pool it waited in nobody has room; in the new one somebody has, and nothing else happens."""
    hole, up, fresh = lab.blackhole(), lab.scripted(), lab.scripted()
    config = {"max_inflight": 1, "queue": LONG, "connect_timeout": "60s"}
    router = lab.router([hole.url, up], pool=config)
    user = user_at(router, hole.url, up)
    client = lab.client(router)
    client.chat(user=user)  # hangs in its connect
    wait_until(lambda: endpoint_row(router, hole.url)["in_flight"] == 1, "it does not connect")
    stream = streaming(lab, router, up, user=user_at(router, up))
    reload(router, lab.config(pools=[{"name": "renamed", "models": ["*"], "endpoints": [up, fresh], **config}]))
    hole.close()  # refused from now on
    conn = fresh.accept()
    assert conn.rxreq().json()["user"] == user
    conn.txresp(200, body=b"served")
    assert client.read_response().body == b"served"
    ends(*stream[:2])


# keys that come while a request waits

SECRETS = [("Authorization", "Bearer sk-client"), ("x-api-key", "sk-client"), ("Cookie", "session=sk-client"), ("X-Kept", "yes")]


def test_an_upload_that_finds_all_full_after_the_reload_is_refused_at_once_where_nobody_may_wait(lab):
    up = lab.scripted()
    config = lab.config(up, pool={"max_inflight": 1, "queue": {"size": 0, "timeout": "60s"}})
    router = lab.router(config=config)
    stream = streaming(lab, router, up)[:2]
    sending = []
    for n in range(3):
        client, body = lab.client(router), chat_body(user=f"u{n}")
        client.send(request_bytes(body=body)[:-3])
        sending.append((client, body))
    router.get("/health")  # read later than they are
    reload(router, config)
    for client, body in sending:
        client.send(body[-3:])
        assert client.read_response().status == 429
    assert all(line["queue_ms"] < 10_000 for line in router.access_lines(3, status=429))
    ends(*stream)


def shows_no_secret(req):
    assert req.all("authorization") == ["Bearer sk-endpoint"]
    assert not req.all("x-api-key") and not req.all("cookie") and b"sk-client" not in req.head_raw
    assert req["X-Kept"] == "yes" and req["X-Request-Id"] and req.json()["model"] == "m"


@pytest.mark.parametrize("now", ["the same endpoint", "another endpoint", "another pool"])
def test_a_waiting_request_takes_no_credentials_to_an_endpoint_that_got_a_key(lab, now):
    router, (up, new), stream, client = waiting(lab, ups=2, headers=SECRETS)
    place = {"url": up if now == "the same endpoint" else new, "api_key": "sk-endpoint"}
    room = {"max_inflight": 2, "queue": LONG}
    if now == "another pool":
        reload(router, lab.config(pools=[{"name": "renamed", "models": ["*"], "endpoints": [place], **room}]))
    else:
        reload(router, lab.config(place, pool=room))
    conn = (up if now == "the same endpoint" else new).accept()
    shows_no_secret(conn.rxreq())
    conn.txresp(200, body=b"served")
    assert client.read_response().body == b"served"
    ends(*stream)


def test_a_waiting_request_takes_no_key_of_the_router_on(lab):
    """Where it was anybody's business until now, Authorization was the endpoint's; now it is the router's."""
    router, (up,), stream, client = waiting(lab, headers=SECRETS)
    reload(router, lab.config(up, pool={"max_inflight": 2, "queue": LONG}, api_keys=["sk-client"]))
    conn = up.accept()
    req = conn.rxreq()
    assert b"sk-client" not in req.head_raw and req["X-Kept"] == "yes"
    conn.txresp(200, body=b"served")
    assert client.read_response().body == b"served"
    conn, events = stream
    ends(conn, events)


def uploading(lab, router, headers=(), **chat):
    """A client that has sent its request up to the last bytes, and those."""
    client = lab.client(router)
    whole = request_bytes(body=chat_body(**chat), headers=headers)
    client.send(whole[:-10])
    wait_until(lambda: scrape(router)["router_body_memory_bytes"] > 0, "it does not read the body")
    return client, whole[-10:]


def test_an_upload_takes_no_credentials_to_an_endpoint_that_got_a_key(lab):
    up = lab.scripted()
    router = lab.router(up)
    client, rest = uploading(lab, router, SECRETS)
    reload(router, lab.config({"url": up, "api_key": "sk-endpoint"}))
    client.send(rest)
    conn = up.accept()
    shows_no_secret(conn.rxreq())
    conn.txresp(200, body=b"served")
    assert client.read_response().body == b"served"


def test_a_queue_keeps_its_order_and_its_clock(lab):
    router, (up,), stream, first = waiting(lab)
    second = lab.client(router)
    second.chat(user="second")
    wait_until(lambda: status(router)["pools"][0]["queued"] == 2, "it does not wait")
    reload(router, lab.config(up, pool={"max_inflight": 1, "queue": LONG}))
    assert status(router)["pools"][0]["queued"] == 2
    ends(*stream)
    conn = stream[0]
    for client, user in ((first, "waits"), (second, "second")):
        assert conn.rxreq().json()["user"] == user
        conn.txresp(200, body=b"x")
        assert client.read_response().body == b"x"
    assert [line["queue_ms"] > 0 for line in router.access_lines(3, pool="p")] == [False, True, True]
