"""Contract 7, the end: SIGTERM and SIGINT finish what runs, take no more, and leave with 0; what is asked twice cuts."""
import json
import os
import signal
import time

import pytest

from harness import PeerClosed, RawClient, Truncated, chat_body, request_bytes
from harness.mortal import user_at
from harness.reloads import status
from harness.upstream import chunk, wait_until
from test_queue import start

either = pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


def running(lab, stream=False, **config):
    """A request at a scripted endpoint, unanswered."""
    up, router, client = lab.scripted_pair(**config)
    client.chat(stream=stream)
    conn = up.accept()
    conn.rxreq()
    return conn, router, client


def streaming(lab, kind="text/event-stream", **config):
    """The same with one event sent and read; the rest of the body's parts."""
    conn, router, client = running(lab, True, **config)
    conn.tx(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk(b"data: 1\n\n"))
    parts = client.body_parts(client.read_head())
    assert next(parts) == b"data: 1\n\n"
    return conn, router, client, parts


def drain(router, sign=signal.SIGTERM):
    """Asks it to end, and waits until it has begun to."""
    router.signal(sign)
    router.log_contains("draining")


def ended(router, *clients):
    """It is gone within the harness's deadline, far below the 60 s that tests set where they mean never, with 0.
    The clients go first: one that has its answer and stays is waited for, up to two seconds."""
    for client in clients:
        client.close()
    assert router.wait_exit() == 0
    router.check()


def test_an_answer_held_back_until_the_drain_says_that_the_connection_ends(lab):
    """A 503 that means "loading" waits for another endpoint; when there is none it is the answer after all."""
    a, b = lab.scripted(), lab.scripted()
    router = lab.router([a, {"url": b, "max_inflight": 1}], pool={"queue": {"size": 1, "timeout": "2s"}})
    conn, first = start(lab, router, b, user=user_at(router, b))
    client = lab.client(router)
    client.chat(user=user_at(router, a))
    home = a.accept()
    home.rxreq()
    home.txresp(503, [("Content-Type", "application/json")], json.dumps({"error": {"type": "unavailable_error", "code": 503}}).encode())
    wait_until(lambda: status(router)["pools"][0]["queued"] == 1, "it does not wait for the other")
    drain(router)
    response = client.read_response()
    assert response.status == 503 and response["Connection"] == "close" and b"unavailable_error" in response.body
    assert len(response.all("Retry-After")) == 1 and client.wait_close() == "fin"
    conn.txresp(200, body=b"x")
    assert first.read_response().body == b"x"
    ended(router, first, client)


def refuses(address):
    try:
        RawClient(address, timeout=2).close()
    except (ConnectionError, FileNotFoundError):
        return True
    return False


@either
def test_an_idle_router_ends_at_once(lab, sign):
    router = lab.router(lab.upstream())
    router.chat()  # an idle connection to the endpoint is no reason to stay
    router.signal(sign)
    ended(router)


@either
def test_idle_clients_are_closed_without_a_word(lab, sign):
    router = lab.router(lab.upstream())
    fresh, used = lab.client(router), lab.client(router)
    used.chat()
    assert used.read_response().status == 200
    router.get("/health")
    router.signal(sign)
    for client in (fresh, used):
        assert client.wait_close() == "fin"
    ended(router)


@either
def test_what_runs_is_finished_and_says_close(lab, sign):
    conn, router, client = running(lab)
    drain(router, sign)
    wait_until(lambda: refuses(router.address), "it still takes connections")
    assert client.is_silent(0.2)
    conn.txresp(200, body=b'{"whole":1}')
    response = client.read_response()
    assert (response.status, response.body, response["Connection"].lower()) == (200, b'{"whole":1}', "close")
    assert client.wait_close() == "fin"
    ended(router, client)
    assert router.access_lines(1)[0]["end"] == "done"


def test_a_stream_runs_to_its_end(lab):
    conn, router, client, parts = streaming(lab)
    drain(router)
    for n in range(50):
        conn.tx(chunk(b"data: %d\n\n" % n))
        assert next(parts) == b"data: %d\n\n" % n
    conn.tx("0\r\n\r\n")
    assert list(parts) == []
    assert client.wait_close() == "fin"
    ended(router, client)


def test_an_upload_in_progress_is_finished(lab):
    up, router, client = lab.scripted_pair()
    body = chat_body(content="x" * 200_000)
    client.request(body=body[:100_000], headers=[("Content-Length", str(len(body)))], length=False)
    router.get("/health")
    drain(router)
    client.send(body[100_000:])
    conn = up.accept()
    assert conn.rxreq().body == body
    conn.txresp(200, body=b"ok")
    response = client.read_response()
    assert (response.status, response["Connection"].lower()) == (200, "close")
    ended(router, client)


def test_what_waits_in_the_queue_is_finished(lab):
    conn, router, first = running(lab, pool={"max_inflight": 1, "queue": {"size": 5, "timeout": "20s"}})
    queued = lab.client(router)
    queued.chat(user="queued")
    router.get("/health")
    drain(router)
    conn.txresp(200, body=b"1")
    assert first.read_response().body == b"1"
    assert conn.rxreq().json()["user"] == "queued"
    conn.txresp(200, body=b"2")
    assert queued.read_response().body == b"2"
    ended(router, first, queued)


def test_an_error_while_draining_says_close_too(lab):
    conn, router, client = running(lab)
    drain(router)
    conn.close()
    response = client.read_response()
    assert (response.status, response["Connection"].lower()) == (502, "close")
    ended(router, client)


def test_admin_listen_answers_to_the_end(lab):
    conn, router, client = running(lab, admin_listen="127.0.0.1:0")
    router.wait_listening(2)
    drain(router)
    wait_until(lambda: refuses(router.addresses[0]), "it still takes clients")
    admin = lab.client(router, 1)
    for target, status in (("/ready", 503), ("/health", 200), ("/ready?pool=p", 503)):
        admin = lab.client(router, 1)
        assert admin.request("GET", target, host="localhost").read_response().status == status
    conn.txresp(200, body=b"x")
    assert client.read_response().status == 200
    ended(router, client)
    assert refuses(router.addresses[1])


# drain_delay


@either
def test_drain_delay_goes_on_accepting_while_ready_says_503(lab, sign):
    router = lab.router(lab.upstream(), drain_delay="1500ms")
    idle = lab.client(router)
    assert router.get("/ready").status == 200
    assert idle.request("GET", "/health").read_response().status == 200
    began = time.monotonic()
    router.signal(sign)
    wait_until(lambda: router.get("/ready").status == 503, "")
    assert router.get("/ready").json() == {"ready": False, "pools": {"p": False}}
    assert router.get("/health").status == router.chat().status == 200
    assert idle.request("GET", "/health").read_response().status == 200  # nobody idle is closed yet
    assert idle.wait_close() == "fin"
    ended(router)
    assert time.monotonic() - began > 1.4


def test_a_second_signal_ends_the_delay_too(lab):
    router = lab.router(lab.upstream(), drain_delay="60s")
    router.signal(signal.SIGTERM)
    wait_until(lambda: router.get("/ready").status == 503, "")
    router.signal(signal.SIGTERM)
    ended(router)


# drain_timeout


@pytest.mark.parametrize("how", ["drain_timeout", "second signal"])
def test_a_cut_stream_is_told_so_in_band(lab, how):
    conn, router, client, parts = streaming(lab, drain_timeout="300ms" if how == "drain_timeout" else "60s")
    drain(router)
    if how == "second signal":
        router.signal(signal.SIGTERM)
    rest = b""
    with pytest.raises(Truncated):
        while True:
            rest += next(parts)
    assert rest.startswith(b"data: {") and rest.endswith(b"\n\n")
    error = json.loads(rest[6:])["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "server_error"
    ended(router)
    conn.wait_close()
    assert router.access_lines(1)[0]["end"] == "shutdown"


def test_a_cut_body_is_no_clean_end(lab):
    conn, router, client = running(lab, drain_timeout="300ms")
    conn.tx(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b'{"half":'))
    parts = client.body_parts(client.read_head())
    next(parts)
    drain(router)
    with pytest.raises(Truncated) as cut:
        list(parts)
    assert b"error" not in cut.value.partial
    ended(router)


@pytest.mark.parametrize("signals", [1, 2])
def test_what_is_unanswered_when_it_is_cut_gets_no_lie(lab, signals):
    conn, router, client = running(lab, drain_timeout="300ms" if signals == 1 else "60s")
    drain(router)
    if signals == 2:
        router.signal(signal.SIGINT)
    try:
        response = client.read_response()
        assert response.status == 503
    except (PeerClosed, Truncated):
        pass
    ended(router)
    conn.wait_close()
    assert router.access_lines(1)[0]["end"] == "shutdown"


def test_drain_timeout_0_has_no_limit(lab):
    conn, router, client, parts = streaming(lab, drain_timeout=0)
    drain(router)
    conn.tx(chunk(b"data: 2\n\n"))
    assert next(parts) == b"data: 2\n\n"
    assert client.is_silent(0.7)
    conn.tx("0\r\n\r\n")
    assert list(parts) == []
    ended(router, client)


def test_drain_timeout_is_not_waited_for_when_nothing_runs(lab):
    router = lab.router(lab.upstream(), drain_timeout="60s")
    client = lab.client(router)
    client.chat()
    client.read_response()
    router.signal(signal.SIGTERM)
    ended(router, client)


def test_a_client_that_says_half_a_head_does_not_hold_it(lab):
    router = lab.router(lab.upstream(), drain_timeout="500ms", header_timeout="60s")
    client = lab.client(router)
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost")
    router.get("/health")
    router.signal(signal.SIGTERM)
    ended(router)


@pytest.mark.parametrize("rest", [b"", b"x" * 1000], ids=["silent", "goes on"])
def test_an_answered_upload_does_not_hold_it(lab, rest):
    """Its request is over; what still comes of the body is nobody's."""
    router = lab.router(lab.upstream(), drain_timeout="60s", body_timeout="60s")
    client = lab.client(router)
    client.request("POST", "/nowhere", b"", [("Content-Length", "1000")], length=False)
    assert client.read_response().status == 404
    drain(router)
    client.send(rest)
    assert client.wait_close() in ("fin", "rst")
    ended(router)


def test_a_client_that_reads_nothing_does_not_hold_it(lab):
    def handler(conn):
        conn.rxreq()
        conn.txresp(200, body=b"x" * (64 << 20))
    router = lab.router(lab.upstream(handler), drain_timeout="500ms")
    client = lab.client(router, rcvbuf=65_536)
    client.chat()
    client.read_head()
    router.signal(signal.SIGTERM)
    ended(router)
    with pytest.raises(Truncated):
        client.recv_exact(64 << 20)


# listening sockets


def test_unix_sockets_are_removed(lab):
    path, admin = lab.directory / "r.sock", lab.directory / "admin.sock"
    router = lab.router(lab.upstream(), listen=(f"unix:{path}", "127.0.0.1:0"), admin_listen=f"unix:{admin}")
    router.wait_listening(3)
    assert os.path.exists(path) and os.path.exists(admin)
    router.signal(signal.SIGTERM)
    ended(router)
    assert not os.path.exists(path) and not os.path.exists(admin)


def test_what_waits_in_the_backlog_is_served(lab):
    """Connections that were made before the signal was seen are not reset."""
    router = lab.router(lab.upstream())
    router.signal(signal.SIGSTOP)
    clients = [lab.client(router).send(request_bytes(body=chat_body(user=f"u{i}"))) for i in range(100)]
    router.signal(signal.SIGTERM)
    router.signal(signal.SIGCONT)
    for client in clients:
        response = client.read_response()
        assert (response.status, response["Connection"].lower()) == (200, "close")
    ended(router, *clients)


def test_a_request_that_was_sent_before_the_close_is_served(lab):
    """On a kept connection the last request may cross the close: if it was there before, it is answered."""
    router = lab.router(lab.upstream())
    clients = [lab.client(router) for _ in range(20)]
    for client in clients:
        client.chat()
        assert client.read_response().status == 200
    router.signal(signal.SIGSTOP)
    for client in clients:
        client.chat()
    router.signal(signal.SIGTERM)
    router.signal(signal.SIGCONT)
    for client in clients:
        assert client.read_response().status == 200
    ended(router, *clients)


def test_pipelined_requests_before_the_close_are_answered_or_not_begun(lab):
    up, router, client = lab.scripted_pair()
    client.chat(user="one")
    client.chat(user="two")
    conn = up.accept()
    conn.rxreq()
    drain(router)
    conn.txresp(200, body=b"1")
    first = client.read_response()
    assert first.body == b"1"
    if (first["Connection"] or "").lower() == "close":  # then the second was not begun
        assert client.wait_close() == "fin"
        assert up.no_connection(0.1)
    ended(router, client)


def test_the_port_is_free_again(lab):
    first = lab.router(lab.upstream())
    first.chat()
    address = f"127.0.0.1:{first.port}"
    first.signal(signal.SIGTERM)
    ended(first)
    assert lab.router(lab.upstream(), listen=(address,)).chat().status == 200
