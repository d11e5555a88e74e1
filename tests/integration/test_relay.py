"""The response's way back: as it arrives, in framing of our own, and never a clean lie."""
import gzip
import json
import os
import time

import pytest

from harness import Truncated
from harness.swarm import Swarm
from harness.upstream import chunk, wait_until

BIG = bytes(range(256)) * 4096  # 1 MB


def answered(lab, respond, head=False, **request):
    """One request through the router; respond(conn) answers it. (response, client)"""
    up, router, client = lab.scripted_pair()
    if request:
        client.request(**request)
    else:
        client.chat()
    conn = up.accept()
    conn.rxreq()
    respond(conn)
    return client.read_response(head=head), client


def test_content_length(lab):
    response, _ = answered(lab, lambda c: c.txresp(200, [("X-Own", "1")], BIG))
    assert (response.framing, response.body, response["X-Own"]) == ("length", BIG, "1")


def test_empty_body(lab):
    response, _ = answered(lab, lambda c: c.txresp(200, [], b""))
    assert (response.framing, response["Content-Length"]) == ("length", "0")


def test_chunked(lab):
    response, _ = answered(lab, lambda c: c.txresp(200, [], [b"one", b"two" * 9999, b"3"], "chunked"))
    assert (response.framing, response.body) == ("chunked", b"one" + b"two" * 9999 + b"3")


def test_until_close_becomes_chunked(lab):
    response, client = answered(lab, lambda c: c.txresp(200, [], BIG, "close"))
    assert (response.framing, response.body) == ("chunked", BIG)
    assert client.request("GET", "/health").read_response().body == b"ok"


def test_http_10_answer(lab):
    response, _ = answered(lab, lambda c: c.txresp(200, [], b"old", "close", version="1.0"))
    assert (response.version, response.body) == ("1.1", b"old")


@pytest.mark.parametrize("status", [200, 201, 202, 206, 301, 400, 401, 403, 404, 409, 418, 422, 429, 500, 501, 502, 504, 529, 599])
def test_status_and_body_pass_as_they_are(lab, status):
    body = b'{"error":{"message":"mine","code":%d}}' % status
    response, _ = answered(lab, lambda c: c.txresp(status, [("Content-Type", "application/json"), ("Retry-After", "7")], body, reason="My Own"))
    assert (response.status, response.body, response["Retry-After"]) == (status, body, "7")


def test_204_and_304_have_no_body(lab):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    for status in (204, 304):
        conn.rxreq()
        conn.txresp(status, [("ETag", '"x"')], framing="none")
        response = client.read_response()
        assert (response.status, response.body, response["ETag"]) == (status, b"", '"x"')
        assert not response.all("Transfer-Encoding")
        client.chat()
    conn.rxreq()  # the connection was good for another one
    conn.txresp(200, body=b"x")
    assert client.read_response().body == b"x"


def test_1xx_are_dropped(lab):
    def respond(conn):
        conn.tx("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        conn.txresp(200, body=b"final")
    response, _ = answered(lab, respond)
    assert (response.status, response.body) == (200, b"final") and not response.all("Link")


def test_trailers_and_chunk_extensions_are_dropped(lab):
    def respond(conn):
        conn.tx("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
    response, client = answered(lab, respond)
    assert response.body == b"abc" and not response.names & {"trailer", "x-sum"}
    assert client.request("GET", "/health").read_response().body == b"ok"


def test_a_response_byte_by_byte(lab):
    def respond(conn):
        for byte in b"HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n2\r\n!!\r\n0\r\n\r\n":
            conn.tx(bytes([byte]))
    response, _ = answered(lab, respond)
    assert (response.body, response["X-A"]) == (b"hello!!", "b")


# streams


def test_200_events_in_lock_step(lab):
    up, router, client = lab.scripted_pair()
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    head = client.read_head()
    assert head["Content-Type"] == "text/event-stream" and head["X-Accel-Buffering"] == "no"
    events = client.sse(head)
    for n in range(200):
        conn.event({"n": n})
        assert next(events) == b'data: {"n": %d}' % n  # only then the next one is sent
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]


def test_the_head_of_a_stream_does_not_wait_for_its_body(lab):
    up, router, client = lab.scripted_pair()
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    assert client.read_head().status == 200
    assert client.is_silent(0.05)
    conn.sse_end()


@pytest.mark.parametrize("framing", ["close", "length"])
def test_lock_step_in_other_framings(lab, framing):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + ("Content-Length: 250\r\n\r\n" if framing == "length" else "\r\n"))
    parts = client.body_parts(client.read_head())
    for n in range(50):
        conn.tx(b"%05d" % n)
        got = next(parts)
        while len(got) < 5:
            got += next(parts)
        assert got == b"%05d" % n
    conn.fin()
    assert list(parts) == []


def test_half_an_event_is_passed_on_at_once(lab):
    up, router, client = lab.scripted_pair()
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    parts = client.body_parts(client.read_head())
    conn.body(b"da")
    assert next(parts) == b"da"
    conn.tx("5\r\nta: h")  # a chunk that is not whole yet
    got = next(parts)
    while len(got) < 5:
        got += next(parts)
    assert got == b"ta: h"
    conn.tx("\r\n0\r\n\r\n")
    assert list(parts) == []


def test_one_byte_at_a_time_both_ways(lab):
    up, router, client = lab.scripted_pair()
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    parts = client.body_parts(client.read_head())
    for byte in b"data: x\n\n":
        conn.body(bytes([byte]))
        assert next(parts) == bytes([byte])
    conn.tx("0\r\n\r\n")
    assert list(parts) == []


def test_1000_streams_at_once(lab):
    swarm = lab.keep(Swarm(1000, 5))
    router = lab.router(swarm.url)
    assert swarm.run(router.address) == set(range(1000))
    assert swarm.peak == 1000
    assert len(router.access_lines(1000, end="done")) == 1000


def test_a_stream_is_not_delayed_by_a_big_upload(lab):
    up, router, client = lab.scripted_pair()
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    uploader = lab.client(router)
    uploader.send(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 60000000\r\n\r\n{\"prompt\":\"")
    for n in range(20):
        uploader.send(b"x" * 1_000_000)
        conn.event(str(n))
        began = time.monotonic()
        next(events)
        assert time.monotonic() - began < 2  # generous: it shows an order of magnitude
    conn.sse_end()
    list(events)


# old clients


def test_http_10_client_gets_no_chunks(lab):
    response, client = answered(lab, lambda c: c.txresp(200, [], [b"a", b"b"], "chunked"), method="POST", body={"model": "m"}, version="1.0")
    assert (response.framing, response.body) == ("close", b"ab")


def test_http_10_client_gets_content_length(lab):
    response, client = answered(lab, lambda c: c.txresp(200, [], b"ab"), method="POST", body={"model": "m"}, version="1.0")
    assert (response.framing, response.body) == ("length", b"ab")
    assert client.wait_close() == "fin"


def test_http_10_client_without_host(lab):
    response, _ = answered(lab, lambda c: c.txresp(200, [], b"ab"), method="POST", body={"model": "m"}, version="1.0", host=None)
    assert response.status == 200


def test_http_10_keep_alive(lab):
    up, router, client = lab.scripted_pair()
    for _ in range(2):
        client.request(body={"model": "m"}, version="1.0", headers=[("Connection", "keep-alive")])
        conn = up.conns[0] if up.conns else up.accept()
        conn.rxreq()
        conn.txresp(200, body=b"ab")
        response = client.read_response()
        assert response.body == b"ab" and response["Connection"].lower() == "keep-alive"


# cuts


@pytest.mark.parametrize("kind", ["fin", "rst"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_an_endpoint_that_dies_in_mid_body_is_a_cut(lab, kind, framing):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    if framing == "length":
        conn.tx("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"half\":")
    else:
        conn.tx(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b'{"half":'))
    head = client.read_head()
    parts = client.body_parts(head)
    got = next(parts)
    conn.fin() if kind == "fin" else conn.rst()
    with pytest.raises(Truncated):
        while True:
            got += next(parts)
    assert got == b'{"half":'
    assert router.access_lines(1)[0]["end"] == "upstream_error"


def stream_cut(lab, path, content_type, sent, **config):
    """A stream that breaks off after `sent`; what the client got beyond that."""
    up, router, client = lab.scripted_pair(**config)
    client.chat(stream=True, target=path)
    conn = up.accept()
    conn.rxreq()
    conn.tx(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk(sent))
    head = client.read_head()
    parts = client.body_parts(head)
    got = b""
    while len(got) < len(sent):
        got += next(parts)
    if not config:
        conn.fin()
    with pytest.raises(Truncated):
        while True:
            got += next(parts)
    assert got[:len(sent)] == sent
    return got[len(sent):], router


def test_a_broken_sse_stream_says_so_in_band(lab):
    rest, router = stream_cut(lab, "/v1/chat/completions", "text/event-stream", b"data: {}\n\n")
    assert rest.startswith(b"data: ") and rest.endswith(b"\n\n")
    error = json.loads(rest[6:])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == ("server_error", "upstream_error", None)
    assert router.access_lines(1)[0]["end"] == "upstream_error"


def test_an_open_event_is_closed_before_the_error(lab):
    rest, _ = stream_cut(lab, "/v1/chat/completions", "text/event-stream; charset=utf-8", b'data: {"half')
    assert rest.startswith(b"\n\ndata: {\"error\"")


def test_a_broken_anthropic_stream(lab):
    rest, _ = stream_cut(lab, "/v1/messages", "text/event-stream", b"event: ping\ndata: {}\n\n")
    assert rest.startswith(b"event: error\ndata: ") and rest.endswith(b"\n\n")
    document = json.loads(rest[len(b"event: error\ndata: "):])
    assert document["type"] == "error" and document["error"]["type"] == "api_error" and document["error"]["message"]


def test_a_broken_ndjson_stream(lab):
    rest, _ = stream_cut(lab, "/api/chat", "application/x-ndjson", b'{"a":1}\n')
    assert rest.endswith(b"\n") and set(json.loads(rest)) == {"error"} and isinstance(json.loads(rest)["error"], str)


def test_an_open_ndjson_line_is_closed_before_the_error(lab):
    rest, _ = stream_cut(lab, "/api/chat", "application/x-ndjson", b'{"a":')
    assert rest.startswith(b"\n") and set(json.loads(rest)) == {"error"}


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson"])
def test_a_broken_encoded_stream_is_cut_and_nothing_else(lab, kind):
    """Text of ours in the middle of gzip would be read by nobody, and spoil what was there."""
    rest, router = stream_cut(lab, "/v1/chat/completions", f"{kind}\r\nContent-Encoding: gzip", gzip.compress(b"data: {}\n\n")[:20])
    assert rest == b"" and router.access_lines(1)[0]["end"] == "upstream_error"


def test_a_stalled_stream_is_a_timeout_in_band(lab):
    rest, router = stream_cut(lab, "/v1/chat/completions", "text/event-stream", b"data: {}\n\n", pool={"stream_idle_timeout": "300ms"})
    assert json.loads(rest[6:])["error"]["code"] == "upstream_timeout"
    assert router.access_lines(1)[0]["end"] == "upstream_timeout"


@pytest.mark.parametrize("bad", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3x\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 99 Odd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 2000 Odd\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nBad Name: a\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    b"not HTTP at all\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
], ids=lambda b: repr(b[:60]))
def test_an_answer_that_is_no_strict_http_is_502(lab, bad):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    try:
        conn.tx(bad)
    except (ConnectionError, OSError):
        pass
    response = client.read_response()
    assert response.status == 502 and response.error["code"] == "upstream_error"
    conn.wait_close()


@pytest.mark.parametrize("bad", [b"zz\r\n", b"-3\r\nabc\r\n", b"3\nabc\r\n0\r\n\r\n", b"3\r\nabcX\r\n", b"ffffffffffffffffff\r\n"], ids=repr)
def test_a_bad_chunk_is_a_cut(lab, bad):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"good"))
    head = client.read_head()
    parts = client.body_parts(head)
    got = next(parts)
    conn.tx(bad)
    with pytest.raises(Truncated):
        while True:
            got += next(parts)
    assert got in (b"good", b"goodabc")
    conn.wait_close()


def test_a_flood_of_1xx_is_no_answer(lab):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    with pytest.raises((ConnectionError, OSError)):
        for _ in range(20_000):
            conn.tx(b"HTTP/1.1 102 Processing\r\n\r\n" * 50)
    assert client.read_response().status == 502


def test_bytes_after_a_response_never_reach_anybody(lab):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    assert client.read_response().body == b"ok"
    conn.wait_close()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"clean")
    assert client.read_response().body == b"clean"


@pytest.mark.parametrize("status", [204, 304])
def test_a_body_where_none_may_be_never_reaches_anybody(lab, status):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx(f"HTTP/1.1 {status} X\r\n\r\npoison")
    assert client.read_response().status == status
    conn.wait_close()
    assert client.request("GET", "/health").read_response().body == b"ok"


# slow takers


def flood(total):
    """A handler that answers with `total` bytes of chunked body."""
    def handler(conn):
        conn.rxreq()
        conn.tx("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = chunk(b"x" * 65_536)
        for _ in range(total // 65_536):
            conn.tx(piece)
        conn.tx("0\r\n\r\n")
    return handler


def test_a_slow_client_costs_kilobytes(lab):
    up = lab.upstream(flood(100 << 20), timeout=60)
    binary = os.environ.get("ROUTER_RELEASE_BIN")
    router = lab.router(up, binary=binary)
    client = lab.client(router, rcvbuf=65_536)
    router.get("/health")
    before = router.rss()
    client.chat()
    head = client.read_head()
    parts, taken, worst = client.body_parts(head), 0, 0
    began = time.monotonic()
    while time.monotonic() - began < 3:  # about 1 MB a second
        taken += len(next(parts))
        worst = max(worst, router.rss())
        ahead = taken / (1 << 20) - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(min(ahead, 0.1))
    assert worst - before < 8 << 20, f"{before} -> {worst}"
    if binary:
        assert worst < 30 << 20, worst
    for part in parts:  # and it comes whole in the end
        taken += len(part)
    assert taken == 100 << 20


def test_a_client_that_takes_nothing_stops_the_endpoint(lab):
    sent = [0]

    def handler(conn):
        conn.rxreq()
        conn.tx("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        conn.sock.settimeout(1.0)
        try:
            while sent[0] < 200 << 20:
                sent[0] += conn.sock.send(b"x" * 65_536)
        except TimeoutError:
            stopped.append(True)
            conn.stall(30)
    stopped = []
    up = lab.upstream(handler)
    router = lab.router(up)
    client = lab.client(router, rcvbuf=65_536)
    client.chat()
    wait_until(lambda: stopped, "the endpoint was never stopped", 20)
    assert sent[0] < 40 << 20  # kernel buffers of two connections, and a little
    client.close()


def test_a_client_that_takes_nothing_is_dropped_after_send_timeout(lab):
    up = lab.upstream(flood(100 << 20), timeout=60)
    router = lab.router(up, send_timeout="1s")
    client = lab.client(router, rcvbuf=65_536)
    client.chat()
    client.read_head()
    line = router.access_lines(1)[0]
    assert line["end"] == "client_gone"
    with pytest.raises(Truncated):
        while client.read_chunk() is not None:
            pass


def test_stream_idle_timeout_does_not_run_while_the_client_takes_nothing(lab):
    up = lab.upstream(flood(30 << 20), timeout=60)
    router = lab.router(up, pool={"stream_idle_timeout": "500ms"})
    client = lab.client(router, rcvbuf=65_536)
    client.chat()
    head = client.read_head()
    parts = client.body_parts(head)
    taken = len(next(parts))
    time.sleep(1.5)  # the client's pause is the point
    taken += sum(len(p) for p in parts)
    assert taken == 30 << 20


def test_idle_connections_hold_no_memory(lab):
    up = lab.upstream()
    router = lab.router(up)
    clients = [lab.client(router) for _ in range(300)]
    for client in clients:
        client.chat()
        client.read_response()
    before = router.rss()
    for client in clients:
        client.chat(content="x" * 100_000)
        client.read_response()
    assert router.rss() - before < 24 << 20


def test_no_descriptor_is_left_behind(lab):
    up = lab.upstream()
    router = lab.router(up, pool={"keepalive": {"timeout": 0}})
    router.chat()
    before = router.fds()
    for _ in range(50):
        router.chat(stream=True)
        router.get("/nowhere")
    router.wait_fds(before)

