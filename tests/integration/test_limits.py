"""Limits at their edges, slow and silent clients, Expect, and answers that are read although the client is still sending."""
import re
import threading
import time

import pytest

from harness import PeerClosed, Truncated, chat_body, request_bytes
from harness.upstream import chunk, wait_until

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FIFTY_MB = 50_000_000
KEY = "sk-limits"


def sized(length, more=b""):
    """A head that tells that length."""
    return HEAD + more + b"Content-Length: %d\r\n\r\n" % length


def body_of(length):
    """A sound chat of exactly that many bytes."""
    start, end = b'{"model":"m","x":"', b'"}'
    return start + b"x" * (length - len(start) - len(end)) + end


def refused(client, status, code, closes=True):
    response = client.read_response()
    assert (response.status, response.error["code"]) == (status, code), response
    if closes:
        assert response["Connection"].lower() == "close"
        assert client.wait_close() == "fin"
    return response


def answered(client, status=200):
    response = client.read_response()
    assert response.status == status, response
    return response


@pytest.fixture(scope="module")
def place(shared):
    """Small limits, long times."""
    up = shared.upstream()
    return up, shared.router(up, max_header="4k", max_body="64k")


@pytest.fixture(scope="module")
def hasty(shared):
    """Short times."""
    up = shared.upstream()
    return up, shared.router(up, header_timeout="400ms", body_timeout="400ms", body_min_rate="20k")


# heads


def head_of(size, more=()):
    """A GET /health of exactly that many bytes."""
    bare = request_bytes("GET", "/health", headers=[*more, ("X", "")])
    return request_bytes("GET", "/health", headers=[*more, ("X", "x" * (size - len(bare)))])


def test_max_header_is_the_bound(place):
    client = place[1].connect()
    for size in (4095, 4096):
        assert len(head_of(size)) == size
        answered(client.send(head_of(size)))
    client.send(head_of(4097))
    refused(client, 431, "headers_too_large")


def test_a_long_target_is_a_large_head(place):
    client = place[1].connect()
    client.request("GET", "/health?" + "x" * 5000)
    refused(client, 431, "headers_too_large")


def test_a_head_without_end_is_refused_at_the_bound(place):
    client = place[1].connect()
    client.send(b"GET /health HTTP/1.1\r\nHost: h\r\n" + b"X-More: and more\r\n" * 240)
    refused(client, 431, "headers_too_large")


def test_100_header_fields_and_no_more(place):
    client = place[1].connect()
    fields = [(f"X-{i}", "1") for i in range(99)]
    answered(client.request("GET", "/health", headers=fields))  # Host is one
    client.request("GET", "/health", headers=[*fields, ("X-One-More", "1")])
    message = refused(client, 431, "headers_too_large").error["message"]
    assert "100" in message and message[0].isupper() and message.endswith(".")  # not the size: their number


def test_pipelined_bytes_do_not_count_as_head(place):
    client = place[1].connect()
    client.send(head_of(4000) * 20)
    for _ in range(20):
        answered(client)


# bodies


def test_max_body_is_the_bound(place):
    up, router = place
    client = router.connect()
    client.request(body=body_of(65_536))
    answered(client)
    assert len(up.last.body) == 65_536
    client.send(sized(65_537))  # not one byte of it is needed
    refused(client, 413, "request_too_large")


def test_max_body_is_the_bound_of_chunks_too(place):
    up, router = place
    client = router.connect()
    client.send(CHUNKED + chunk(body_of(65_536)) + b"0\r\n\r\n")
    answered(client)
    client.send(CHUNKED + chunk(body_of(65_537)[:60_000]) + chunk(b"x" * 5537))
    refused(client, 413, "request_too_large")


@pytest.mark.parametrize("length", [65_537, 10**9, 2**63 - 1])
def test_413_before_the_body_is_read(place, length):
    client = place[1].connect()
    client.send(sized(length))
    refused(client, 413, "request_too_large")


def test_max_body_holds_for_forms(place):
    client = place[1].connect()
    client.send(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=B\r\n"
                b"Content-Length: 65537\r\n\r\n")
    refused(client, 413, "request_too_large")


def test_0_means_no_limit(lab):
    up = lab.upstream()
    router = lab.router(up, max_header=0, max_body=0, body_memory=0, max_connections=0, header_timeout=0, body_timeout=0, body_min_rate=0,
                        send_timeout=0, idle_timeout=0, drain_timeout=0)
    client = lab.client(router)
    client.chat(content="x" * 300_000, headers=[("X-Long", "y" * 40_000)])
    answered(client)
    client.send(CHUNKED + chunk(body_of(300_000)) + b"0\r\n\r\n")
    answered(client)


def held(router, at_least):
    """Once the router has read that much of unfinished bodies."""
    def enough():
        return int(re.search(rb"\nrouter_body_memory_bytes (\d+)", router.get("/metrics").body).group(1)) >= at_least
    wait_until(enough, "the bodies are not read")


def test_body_memory_runs_out_and_comes_back(lab):
    up = lab.upstream()
    router = lab.router(up, body_memory="2m")
    holder, client = lab.client(router), lab.client(router)
    holder.send(sized(1_900_000) + body_of(1_900_000)[:-1])
    held(router, 1_899_999)
    client.request(body=body_of(900_000))
    assert int(refused(client, 503, "overloaded", closes=False)["Retry-After"]) >= 1
    client.chat()  # a small one still fits, on the same connection
    answered(client)
    holder.send(b"}")
    answered(holder)
    client.request(body=body_of(900_000))
    answered(client)


def test_body_memory_comes_back_when_an_uploader_leaves(lab):
    router = lab.router(lab.upstream(), body_memory="2m")
    holder = lab.client(router)
    holder.send(CHUNKED + chunk(b'{"x":"' + b"x" * 1_900_000))
    held(router, 1_900_000)
    assert router.chat(content="x" * 400_000).status == 503
    holder.rst()
    wait_until(lambda: router.chat(content="x" * 400_000).status == 200, "the budget did not come back")


def test_body_memory_counts_what_has_arrived(lab):
    """A thousand announcements cost nothing."""
    router = lab.router(lab.upstream(), body_memory="2m")
    for _ in range(40):
        lab.client(router).send(sized(1_900_000) + b"{")
    held(router, 40)
    assert router.chat(content="x" * 1_500_000).status == 200


# time


def drip(client, data, step=0.1, until=None):
    """A byte every now and then, until something comes back. True if it was all sent."""
    for byte in data:
        try:
            client.send(bytes([byte]))
        except (ConnectionError, OSError):
            return False
        if not client.is_silent(step):
            return False
    return True


def test_header_timeout_is_for_the_whole_head(hasty):
    client = hasty[1].connect()
    began = time.monotonic()
    assert drip(client, b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n") is False
    refused(client, 408, "request_timeout")
    assert 0.35 < time.monotonic() - began < 3


def test_header_timeout_begins_with_the_first_byte(hasty):
    client = hasty[1].connect()
    assert client.is_silent(0.8)  # idle, not slow
    for _ in range(2):
        answered(client.request("GET", "/health"))
        assert client.is_silent(0.6)
    client.send(b"G")
    refused(client, 408, "request_timeout")


def test_body_timeout_is_between_two_reads(lab):
    router = lab.router(lab.upstream(), body_timeout="900ms", body_min_rate=0)
    body = b'{"model":"m"}'
    client = lab.client(router)
    client.send(sized(len(body)))
    assert drip(client, body[:-1])  # 1.2 s in all
    client.send(body[-1:])
    answered(client)
    client.send(sized(len(body)) + body[:5])
    began = time.monotonic()
    refused(client, 408, "request_timeout")
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_min_rate(hasty, framing):
    up, router = hasty
    seen = len(up.requests)
    client = router.connect()
    client.send((sized(100_000) if framing == "length" else CHUNKED) + (b'{"x":"' if framing == "length" else chunk(b'{"x":"')))
    for _ in range(100):  # 1 KB a tenth of a second is less than 20 KB a second
        client.send(b"x" * 1000 if framing == "length" else chunk(b"x" * 1000))
        if not client.is_silent(0.1):
            break
    refused(client, 408, "request_timeout")
    assert len(up.requests) == seen


def test_a_body_above_the_rate_may_take_longer_than_body_timeout(hasty):
    client = hasty[1].connect()
    body = body_of(100_000)
    client.send(sized(len(body)))
    for at in range(0, len(body), 10_000):
        client.send(body[at:at + 10_000])
        assert at >= 90_000 or client.is_silent(0.1)
    answered(client)


def test_idle_timeout_closes_without_a_word(lab):
    up = lab.scripted()
    router = lab.router(up, idle_timeout="300ms")
    fresh, used, busy = (lab.client(router) for _ in range(3))
    answered(used.request("GET", "/health"))
    busy.chat()
    conn = up.accept()
    conn.rxreq()
    for client in (fresh, used):
        assert client.wait_close() == "fin"  # bytes before it would be an error
    assert busy.is_silent(0.3)
    conn.txresp(200, body=b"late")
    assert answered(busy).body == b"late"
    assert busy.wait_close() == "fin"
    assert len(router.access_lines(2)) == 2


def test_send_timeout_does_not_hit_a_slow_reader(lab):
    data = b"x" * (3 << 20)

    def handler(conn):
        conn.rxreq()
        conn.txresp(200, body=data)
    router = lab.router(lab.upstream(handler, timeout=30), send_timeout="600ms")
    client = lab.client(router, rcvbuf=32_768)
    client.chat()
    taken = 0
    parts = client.body_parts(client.read_head())
    for _ in range(15):  # 1.5 s, a little at a time
        taken += len(next(parts))
        time.sleep(0.1)
    assert taken + sum(len(part) for part in parts) == len(data)


def test_slow_clients_cost_little_and_go(lab):
    router = lab.router(lab.upstream(), header_timeout="1500ms")
    router.chat()
    before, memory = router.fds(), router.rss()
    slow = [lab.client(router).send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Slow: ") for _ in range(400)]
    wait_until(lambda: router.fds() >= before + 390, "they are not all there")
    for client in slow[::4]:
        client.send(b"x")
    assert router.chat().status == 200  # nobody else minds
    assert router.rss() - memory < 16 << 20
    for client in slow:
        refused(client, 408, "request_timeout")
        client.close()
    router.wait_fds(before)
    assert router.chat().status == 200


# max_connections


def test_the_longest_idle_client_makes_room(lab):
    router = lab.router(lab.upstream(), max_connections=3)
    oldest, idle, used = (lab.client(router) for _ in range(3))
    for client in (oldest, idle, used, oldest):  # the oldest was last used last
        answered(client.request("GET", "/health"))
    fourth = lab.client(router)
    answered(fourth.request("GET", "/health"))
    assert idle.wait_close() == "fin"
    for client in (oldest, used, fourth):
        answered(client.request("GET", "/health"))


def test_idle_admin_connections_do_not_hide_an_idle_client(lab):
    """They are not counted, so closing one of them would make no room."""
    router = lab.router(lab.upstream(), max_connections=1, admin_listen="127.0.0.1:0")
    router.wait_listening(2)
    for _ in range(80):
        answered(lab.client(router, 1).request("GET", "/health", host="localhost"))
    idle = lab.client(router)
    answered(idle.request("GET", "/health"))
    answered(lab.client(router).request("GET", "/health"))
    assert idle.wait_close() == "fin"


def test_busy_clients_are_never_closed_for_room(lab):
    up = lab.scripted()
    router = lab.router(up, max_connections=2)
    busy = [lab.client(router) for _ in range(2)]
    conns = []
    for client in busy:
        client.chat()
        conns.append(up.accept())
        conns[-1].rxreq()
    late = lab.client(router)
    assert int(refused(late, 503, "overloaded")["Retry-After"]) >= 1
    late.close()
    for client, conn in zip(busy, conns):
        conn.txresp(200, body=b"x")
        answered(client)

    def has_room():
        try:
            return router.get("/health").status == 200
        except (PeerClosed, Truncated, ConnectionError):
            return False
    wait_until(has_room, "the connections that were refused still count")


def test_admin_connections_are_not_counted(lab):
    up = lab.scripted()
    router = lab.router(up, max_connections=1, admin_listen="127.0.0.1:0")
    router.wait_listening(2)
    client = lab.client(router)
    client.chat()
    up.accept().rxreq()
    for _ in range(3):
        admin = lab.client(router, 1)
        answered(admin.request("GET", "/health", host="localhost"))
    refused(lab.client(router), 503, "overloaded")


# Expect


def expecting(client, length, more=b"", path=b"/v1/chat/completions", expect=b"100-continue", version=b"1.1"):
    return client.send(b"POST %s HTTP/%s\r\nHost: h\r\nExpect: %s\r\n%sContent-Length: %d\r\n\r\n" % (path, version, expect, more, length))


def read_100(client):
    head = client.read_head()
    assert head.status == 100 and not head.headers


@pytest.mark.parametrize("expect", [b"100-continue", b"100-Continue"])
def test_expect_is_answered_at_once_and_goes_no_further(place, expect):
    up, router = place
    client = router.connect()
    body = chat_body()
    for _ in range(2):
        expecting(client, len(body), expect=expect)
        read_100(client)
        client.send(body)
        answered(client)
        assert up.last.body == body and not up.last.all("Expect")


def test_expect_with_chunks(place):
    client = place[1].connect()
    client.send(HEAD + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
    read_100(client)
    client.send(chunk(b'{"model":"m"}') + b"0\r\n\r\n")
    answered(client)


@pytest.mark.parametrize("how, status", [
    ({"length": 65_537}, 413), ({"length": 5, "path": b"/nowhere"}, 404), ({"length": 5, "more": b"Content-Encoding: gzip\r\n"}, 415),
    ({"length": 5, "path": b"/v1/models"}, 405), ({"length": 5, "expect": b"200-ok"}, 417),
])
def test_expect_is_refused_with_the_final_status_before_the_body(place, how, status):
    client = place[1].connect()
    expecting(client, **how)
    response = answered(client, status)
    # whether a body is still awaited here is told, and true (RFC 9110 10.1.1)
    if (response["Connection"] or "").lower() == "close":
        assert client.wait_close() == "fin"
    else:
        client.send(b"x" * how["length"])
        answered(client.request("GET", "/health"))


def test_expect_without_a_key(lab):
    router = lab.router(lab.upstream(), api_keys=[KEY])
    client = lab.client(router)
    expecting(client, 50)
    answered(client, 401)


def test_expect_with_the_body_right_behind(place):
    """A client that does not wait gets one final answer; a 100 before it is allowed."""
    client = place[1].connect()
    body = chat_body()
    expecting(client, len(body))
    client.send(body)
    assert client.read_response(interim=True).status == 200
    answered(client.request("GET", "/health"))


def test_expect_means_nothing_in_http_10(place):
    client = place[1].connect()
    body = chat_body()
    expecting(client, len(body), version=b"1.0")
    client.send(body)
    answered(client)


def test_expect_without_a_body(place):
    client = place[1].connect()
    answered(client.request("GET", "/health", headers=[("Expect", "100-continue")]))
    answered(client.request("GET", "/health"))


# a client that is still sending reads its answer


def flood(client, head, piece=b"x" * 100_000):
    """The head, then 50 MB, whatever comes back meanwhile."""
    client.send(head)
    for _ in range(FIFTY_MB // len(piece)):
        client.send(piece)


def both_ways(client, sender, status, code):
    """Sends in one thread and reads in this one."""
    thread = threading.Thread(target=sender)
    thread.start()
    try:
        return refused(client, status, code, closes=False)
    finally:
        thread.join(30)


@pytest.fixture(scope="module")
def small(shared):
    return shared.router(shared.upstream(), max_body="1m", api_keys=[KEY], body_timeout="300ms", body_min_rate="100k")


ALLOWED = b"x-api-key: " + KEY.encode() + b"\r\n"
FLOODS = {
    "413 by its length": (sized(FIFTY_MB, ALLOWED), b"x" * 100_000, 413, "request_too_large"),
    "413 in chunks": (HEAD + ALLOWED + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b'{"x":"'), chunk(b"x" * 100_000), 413, "request_too_large"),
    "401 by its length": (sized(FIFTY_MB), b"x" * 100_000, 401, "invalid_api_key"),
    "401 in chunks": (CHUNKED, chunk(b"x" * 100_000), 401, "invalid_api_key"),
    "400": (sized(FIFTY_MB, ALLOWED + b"Transfer-Encoding: chunked\r\n"), b"x" * 100_000, 400, None),
    "431": (HEAD, b"X-Pad: " + b"x" * 9991 + b"\r\n", 431, "headers_too_large"),
}


@pytest.mark.parametrize("case", FLOODS)
def test_an_answer_is_read_after_50_mb_were_sent(small, case):
    head, piece, status, code = FLOODS[case]
    client = small.connect(timeout=20)
    flood(client, head, piece)
    refused(client, status, code, closes=False)
    assert client.wait_close() == "fin"
    client.close()


@pytest.mark.parametrize("case", ["413 by its length", "401 in chunks"])
def test_an_answer_is_read_while_50_mb_are_sent(small, case):
    head, piece, status, code = FLOODS[case]
    client = small.connect(timeout=20)
    both_ways(client, lambda: flood(client, head, piece), status, code)
    client.close()


def test_408_is_read_after_50_mb_were_sent(small):
    client = small.connect(timeout=20)
    client.request("POST", "/v1/chat/completions", b"", [("x-api-key", KEY), ("Content-Length", "900000"), ("X-Request-Id", "slow-one")], length=False)
    client.send(b"{")
    assert small.access_lines(1, request_id="slow-one")[0]["status"] == 408
    flood(client, b"")
    refused(client, 408, "request_timeout", closes=False)
    client.close()


def test_an_answer_after_50_mb_over_a_small_window(small):
    """The client's receive buffer is tiny and its sends are large: nobody blocks anybody."""
    client = small.connect(timeout=20, rcvbuf=2048)
    flood(client, FLOODS["413 by its length"][0], b"x" * 5_000_000)
    refused(client, 413, "request_too_large", closes=False)
    client.close()


def test_lingering_ends(lab):
    """A client that keeps the connection and says nothing more is closed in about two seconds."""
    router = lab.router(lab.upstream(), max_body="1k")
    router.get("/health")
    before = router.fds()
    clients = [lab.client(router).send(sized(10_000)) for _ in range(20)]
    for client in clients:
        refused(client, 413, "request_too_large")
    assert router.chat().status == 200
    router.wait_fds(before, 8)
    client = lab.client(router).send(sized(10_000))
    refused(client, 413, "request_too_large")
    client.close()
    router.wait_fds(before, 8)


def test_a_lingering_connection_serves_nothing_more(small):
    client = small.connect()
    client.send(sized(2_000_000, ALLOWED) + request_bytes("GET", "/health"))
    refused(client, 413, "request_too_large")
    client.close()


def test_a_refused_body_is_thrown_away_and_the_connection_kept(place):
    client = place[1].connect()
    client.request("POST", "/nowhere", b"x" * 60_000)
    answered(client, 404)
    client.send(b"POST /nowhere HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"y" * 60_000) + b"0\r\n\r\n")
    answered(client, 404)
    answered(client.request("GET", "/health"))
    client.close()
