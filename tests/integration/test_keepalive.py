"""Connections that are used again, on both sides, and those that must not be."""
import time

import pytest

from harness import chat_body, request_bytes
from harness.upstream import respond_openai


def exchange(up, client, conn=None, body=b"x", **how):
    """One chat through a scripted endpoint; on `conn`, or on the router's next connection. Returns the connection."""
    client.chat()
    if conn is None:
        conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=body, **how)
    assert client.read_response().body == body
    return conn


# clients


def test_a_client_connection_is_kept(lab):
    router = lab.router(lab.upstream())
    client = lab.client(router)
    for _ in range(20):
        client.chat()
        response = client.read_response()
        assert response.status == 200 and (response["Connection"] or "keep-alive").lower() == "keep-alive"


def test_connection_close_is_obeyed(lab):
    router = lab.router(lab.upstream())
    client = lab.client(router)
    client.chat(headers=[("Connection", "close")])
    assert client.read_response()["Connection"].lower() == "close"
    assert client.wait_close() == "fin"


def test_pipelined_requests_are_answered_in_order(lab):
    router = lab.router(lab.upstream())
    client = lab.client(router)
    wanted = []
    batch = b""
    for i in range(30):
        if i % 3 == 0:
            batch += request_bytes("GET", "/health", headers=[("X-Request-Id", f"q{i}")])
        elif i % 3 == 1:
            batch += request_bytes(body=chat_body("m", stream=True), headers=[("X-Request-Id", f"q{i}")])
        else:
            batch += request_bytes(body=b"{broken", headers=[("X-Request-Id", f"q{i}")])
        wanted.append((f"q{i}", 200 if i % 3 < 2 else 400))
    client.send(batch)
    assert [((r := client.read_response())["X-Request-Id"], r.status) for _ in range(30)] == wanted


def test_a_pipelined_request_waits_for_the_answer_before_it(lab):
    up, router, client = lab.scripted_pair()
    client.chat(user="one")
    client.request("GET", "/health")
    conn = up.accept()
    conn.rxreq()
    assert client.is_silent(0.1)
    conn.txresp(200, body=b"first")
    assert client.read_response().body == b"first"
    assert client.read_response().body == b"ok"


def test_empty_lines_between_requests(lab):
    router = lab.router(lab.upstream())
    client = lab.client(router)
    client.send(b"\r\n" + request_bytes("GET", "/health") + b"\r\n" + request_bytes("GET", "/health"))
    assert [client.read_response().status for _ in range(2)] == [200, 200]


# endpoints


def test_an_endpoint_connection_is_used_again(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client)
    for _ in range(5):
        exchange(up, client, conn)
    other = lab.client(router)
    exchange(up, other, conn)
    assert len(up.conns) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_used_again_after(lab, framing):
    up, router, client = lab.scripted_pair()
    exchange(up, client, exchange(up, client, framing=framing))


def test_the_last_one_used_is_used_first(lab):
    up, router, first = lab.scripted_pair()
    second = lab.client(router)
    first.chat()
    a = up.accept()
    a.rxreq()
    second.chat()
    b = up.accept()
    b.rxreq()
    for client, conn in ((first, a), (second, b)):
        conn.txresp(200, body=b"x")
        client.read_response()
    exchange(up, first, b)
    exchange(up, first, b)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_not_used_again_after_an_error(lab, status):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(status, body=b"x")
    assert client.read_response().status == status
    conn.wait_close()
    exchange(up, client)


def test_not_used_again_after_connection_close(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client, headers=[("Connection", "close")])
    conn.wait_close()
    exchange(up, client)


def test_not_used_again_after_an_http_10_answer(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client, version="1.0")
    conn.wait_close()
    exchange(up, client)


def test_not_used_again_with_unread_bytes(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client)
    conn.tx("stray")
    conn.wait_close()
    exchange(up, client)


def test_an_idle_connection_the_endpoint_closes_is_dropped(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client)
    before = router.fds()
    conn.fin()
    conn.wait_close()
    router.wait_fds(before - 1)
    exchange(up, client)


def test_an_early_answer_is_relayed_and_the_connection_dropped(lab):
    up = lab.scripted(rcvbuf=4096)
    router = lab.router(up)
    client = lab.client(router)
    client.request(body=chat_body(content="x" * 20_000_000))
    conn = up.accept()
    conn.rxhead()
    conn.txresp(200, body=b"early")
    assert client.read_response().body == b"early"
    conn.wait_close(discard=True)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"next")
    assert client.read_response().body == b"next"


def test_an_early_413_is_relayed_though_our_send_fails(lab):
    up = lab.scripted(rcvbuf=4096)
    router = lab.router(up)
    client = lab.client(router)
    client.request(body=chat_body(content="x" * 20_000_000))
    conn = up.accept()
    conn.rxhead()
    conn.txresp(413, body=b"too much for me")
    conn.close()  # with unread bytes: our send meets a reset
    response = client.read_response()
    assert (response.status, response.body) in [(413, b"too much for me"), (502, response.body)]
    assert response.status == 413


def test_keepalive_timeout_closes_idle_connections(lab):
    up, router, client = lab.scripted_pair(pool={"keepalive": {"timeout": "500ms"}})
    conn = exchange(up, client)
    conn.wait_close()
    exchange(up, client)


def test_keepalive_timeout_0_means_no_reuse(lab):
    up, router, client = lab.scripted_pair(pool={"keepalive": {"timeout": 0}})
    for _ in range(3):
        exchange(up, client).wait_close()


def test_max_idle_is_the_bound(lab):
    up, router, first = lab.scripted_pair(pool={"keepalive": {"max_idle": 1}})
    second = lab.client(router)
    first.chat()
    a = up.accept()
    a.rxreq()
    second.chat()
    b = up.accept()
    b.rxreq()
    a.txresp(200, body=b"x")
    first.read_response()
    b.txresp(200, body=b"x")
    second.read_response()
    before = len(up.conns)
    client = lab.client(router)
    client.chat()
    survivor = None
    for conn in (a, b):
        conn.timeout = 0.3
        try:
            conn.rxreq()
            survivor = conn
        except Exception:  # closed, or silent
            pass
    assert survivor is not None and len(up.conns) == before
    survivor.txresp(200, body=b"y")
    assert client.read_response().body == b"y"
    assert (b if survivor is a else a).wait_close(5)


def test_the_endpoints_keep_alive_timeout_is_obeyed_a_second_earlier(lab):
    up, router, client = lab.scripted_pair(pool={"keepalive": {"timeout": "60s"}})
    conn = exchange(up, client, headers=[("Keep-Alive", "timeout=2")])
    began = time.monotonic()
    conn.wait_close()
    assert time.monotonic() - began < 2


def test_a_keep_alive_of_one_second_means_no_reuse(lab):
    up, router, client = lab.scripted_pair()
    exchange(up, client, headers=[("Keep-Alive", "timeout=1")]).wait_close()
    exchange(up, client)


def test_the_endpoints_keep_alive_max_is_obeyed(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client, headers=[("Keep-Alive", "timeout=60, max=0")])
    conn.wait_close()
    exchange(up, client)


# the race with an endpoint that closes


@pytest.mark.parametrize("how", ["fin", "rst", "before"])
def test_a_stale_connection_is_replaced_without_an_error(lab, how):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client)
    if how == "before":
        conn.fin()  # maybe unnoticed when the request comes
        client.chat()
    else:
        client.chat()
        conn.rxreq()
        conn.fin() if how == "fin" else conn.rst()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"again")
    assert client.read_response().body == b"again"


def test_the_replacement_goes_to_the_same_endpoint_and_is_the_only_one(lab):
    a, b = lab.scripted(name="a"), lab.scripted(name="b")
    router = lab.router([a, b])
    client = lab.client(router)
    client.chat(user="u")
    try:
        conn, home, other = a.accept(1), a, b
    except AssertionError:
        conn, home, other = b.accept(), b, a
    conn.rxreq()
    conn.txresp(200, body=b"x")
    client.read_response()
    client.chat(user="u")
    conn.rxreq()
    conn.fin()
    conn = home.accept()
    conn.rxreq()
    conn.fin()
    response = client.read_response()
    assert response.status == 502 and response.error["code"] == "upstream_error"
    assert home.no_connection(0.1) and other.no_connection(0.1)


def test_a_reused_connection_that_dies_after_a_second_is_502(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client)
    client.chat()
    conn.rxreq()
    time.sleep(1.3)  # the promise is about this second
    conn.fin()
    assert client.read_response().status == 502
    assert up.no_connection(0.1)


def test_a_reused_connection_that_dies_after_a_byte_is_not_retried(lab):
    up, router, client = lab.scripted_pair()
    conn = exchange(up, client)
    client.chat()
    conn.rxreq()
    conn.tx("HTTP/1.1 2").fin()
    assert client.read_response().status == 502
    assert up.no_connection(0.1)


@pytest.mark.parametrize("kind", ["fin", "rst"])
def test_a_new_connection_that_dies_after_the_request_is_502(lab, kind):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.fin() if kind == "fin" else conn.rst()
    response = client.read_response()
    assert response.status == 502 and response.error["code"] == "upstream_error"
    assert up.no_connection(0.1)


def test_an_endpoint_that_closes_after_every_few_requests_costs_no_client_an_error(lab):
    def handler(conn):
        for _ in range(4):
            respond_openai(conn, conn.rxreq())
    up = lab.upstream(handler)
    router = lab.router(up)
    client = lab.client(router)
    for _ in range(400):
        client.chat()
        assert client.read_response().status == 200
    assert len(up.conns) == 100
