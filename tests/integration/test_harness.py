"""The harness against itself, without the router: what the other tests rely on."""
import json
import threading

import pytest

from harness import BlackHole, DeadEndpoint, Malformed, PeerClosed, RawClient, Truncated, Upstream, WaitTimeout, chat_body
from harness import yamlout


@pytest.fixture
def up():
    up = Upstream(name="alpha", models=["m1"])
    yield up
    up.close()
    up.check()


@pytest.fixture
def scripted():
    up = Upstream(manual=True)
    yield up
    up.close()


def dial(up):
    return RawClient(("127.0.0.1", up.port))


def test_default_server_answers_a_chat(up):
    client = dial(up)
    client.chat("m1", headers=[("X-Request-Id", "r1")])
    response = client.read_response()
    assert (response.status, response.framing) == (200, "length")
    assert response.json()["endpoint"] == "alpha"
    assert response.json()["request_id"] == "r1"
    assert up.last.json()["model"] == "m1"


def test_default_server_streams_and_keeps_the_connection(up):
    client = dial(up)
    for _ in range(2):
        client.chat("m1", stream=True)
        head = client.read_head()
        events = list(client.sse(head))
        assert len(events) == 4 and events[-1] == b"data: [DONE]"
        assert "alpha 0" in json.loads(events[0][6:])["choices"][0]["delta"]["content"]
    assert [r.conn for r in up.requests] == [1, 1]


def test_default_server_has_health_models_and_head(up):
    client = dial(up)
    assert client.request("GET", "/health").read_response().body == b"ok"
    assert client.request("GET", "/v1/models").read_response().json()["data"][0]["id"] == "m1"
    assert client.request("HEAD", "/health").read_response(head=True).body == b""


def test_scripted_connections_are_numbered(scripted):
    a, b = dial(scripted), dial(scripted)
    assert scripted.accept().number == 1
    assert scripted.accept().number == 2
    a.close()
    b.close()


def test_rxreq_keeps_the_raw_bytes(scripted):
    client = dial(scripted)
    raw = b"POST /x?y=1 HTTP/1.1\r\nHost: h\r\nX-A:  b \r\nContent-Length: 3\r\n\r\nabc"
    client.send(raw)
    req = scripted.accept().rxreq()
    assert (req.raw, req.method, req.target, req.path, req.body) == (raw, "POST", "/x?y=1", "/x", b"abc")
    assert req["x-a"] == "b" and req.head_raw + req.body == raw


def test_rxreq_reads_chunks(scripted):
    client = dial(scripted)
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    req = scripted.accept().rxreq()
    assert (req.body, req.framing) == (b"abcde", "chunked")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_txresp_framings(scripted, framing):
    client = dial(scripted).request("GET", "/")
    conn = scripted.accept()
    conn.rxreq()
    conn.txresp(200, [("X-A", "1")], b"hello", framing)
    response = client.read_response()
    assert (response.framing, response.body, response["x-a"]) == (framing, b"hello", "1")


@pytest.mark.parametrize("bad", [
    b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 99 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
])
def test_client_is_strict(scripted, bad):
    client = dial(scripted).request("GET", "/")
    conn = scripted.accept()
    conn.rxreq()
    conn.tx(bad).fin()
    with pytest.raises(Malformed):
        client.read_response()


@pytest.mark.parametrize("sent, partial", [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", b"abc"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"abc"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5\r\nde", b"abcde"),
])
def test_a_cut_is_told_from_an_end(scripted, sent, partial):
    client = dial(scripted).request("GET", "/")
    conn = scripted.accept()
    conn.rxreq()
    conn.tx(sent).fin()
    assert client.read_cut().body == partial


def test_read_cut_refuses_a_clean_end(scripted):
    client = dial(scripted).request("GET", "/")
    conn = scripted.accept()
    conn.rxreq()
    conn.txresp(200, body=b"x")
    with pytest.raises(AssertionError, match="clean end"):
        client.read_cut()


def test_events_come_as_they_are_sent(scripted):
    client = dial(scripted).request("GET", "/")
    conn = scripted.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    for i in range(20):
        conn.event(f"n{i}")
        assert next(events) == f"data: n{i}".encode()
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]


def test_closes_are_told_apart(scripted):
    client = dial(scripted)
    conn = scripted.accept()
    conn.fin()
    assert client.wait_close() == "fin"
    client = dial(scripted)
    conn = scripted.accept()
    client.rst()
    assert conn.wait_close() == "rst"
    client = dial(scripted)
    conn = scripted.accept()
    assert client.is_silent(0.05)
    client.close()
    with pytest.raises(PeerClosed):
        conn.rxreq()


def test_wait_close_minds_bytes(scripted):
    client = dial(scripted)
    conn = scripted.accept()
    conn.tx(b"x").fin()
    with pytest.raises(Malformed):
        client.wait_close()


def test_truncated_rest(scripted):
    client = dial(scripted)
    conn = scripted.accept()
    conn.tx(b"abc")
    client.recv_exact(1)
    conn.rst()
    with pytest.raises(Truncated):
        client.recv_rest()


def test_dead_endpoint_refuses_and_can_be_revived():
    dead = DeadEndpoint()
    with pytest.raises(ConnectionRefusedError):
        RawClient(("127.0.0.1", dead.port))
    up = dead.live(name="risen")
    client = RawClient(("127.0.0.1", dead.port))
    client.chat("m")
    assert client.read_response().json()["endpoint"] == "risen"
    up.close()


def test_black_hole_swallows_connects():
    hole = BlackHole()
    with pytest.raises(TimeoutError):
        RawClient(("127.0.0.1", hole.port), timeout=0.3)
    hole.close()


def test_stopped_listener_refuses(up):
    client = dial(up)
    client.chat("m")
    client.read_response()
    up.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        dial(up)
    client.chat("m")
    assert client.read_response().status == 200  # what stands goes on


def test_unix_and_v6_listeners(tmp_path):
    for up in (Upstream(unix=tmp_path / "s"), Upstream(host="::1")):
        client = RawClient(str(tmp_path / "s") if up.port is None else ("::1", up.port))
        client.chat("m")
        assert client.read_response().status == 200
        up.close()


def test_handler_errors_are_kept():
    def wrong(conn):
        conn.rxreq()
        raise AssertionError("not what I expected")
    up = Upstream(wrong)
    client = dial(up)
    client.chat("m")
    client.wait_close()
    up.close()
    with pytest.raises(AssertionError, match="not what I expected"):
        up.check()


def test_waits_have_an_end(up):
    with pytest.raises(WaitTimeout):
        up.wait_requests(1, timeout=0.05)
    with pytest.raises(WaitTimeout):
        RawClient(("127.0.0.1", up.port), timeout=0.05).recv_exact(1)


def test_wait_requests_wakes_on_the_event(up):
    client = dial(up)
    threading.Timer(0.05, lambda: client.chat("m")).start()
    assert len(up.wait_requests(1)) == 1
    client.read_response()


def test_yaml_is_written_in_blocks():
    data = {"listen": "127.0.0.1:0", "max_body": "1m", "route_headers": True, "name": "true", "n": 5, "empty": {}, "none": [],
            "pools": [{"name": "a b", "models": ["*", "qwen-7b"], "endpoints": ["http://h:1/v1", {"url": "http://x", "weight": 2}]}],
            "s": "${A:-b}", "q": 'a"b'}
    assert yamlout.text(data) == """listen: "127.0.0.1:0"
max_body: 1m
route_headers: true
name: "true"
"n": 5
empty: {}
none: []
pools:
  - name: "a b"
    models:
      - "*"
      - qwen-7b
    endpoints:
      - "http://h:1/v1"
      - url: "http://x"
        weight: 2
s: "${A:-b}"
q: "a\\"b"
"""


def test_chat_body_is_json():
    assert json.loads(chat_body("m", "u", True)) == {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "user": "u", "stream": True}
