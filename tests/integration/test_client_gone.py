"""A client that leaves frees its endpoint at once, in whatever phase, however it leaves."""
import socket
import time

import pytest

from harness import WaitTimeout, chat_body
from harness.reloads import streaming

LEAVES = {
    "close": lambda client: client.close(),
    "rst": lambda client: client.rst(),
    "half-close": lambda client: client.half_close(),
}
leaving = pytest.mark.parametrize("leave", LEAVES.values(), ids=LEAVES)


def gone(router, **wanted):
    return router.access_lines(1, end="client_gone", **wanted)[0]


@leaving
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_while_waiting_for_the_answer(lab, leave, stream):
    up, router, client = lab.scripted_pair()
    client.chat(stream=stream)
    conn = up.accept()
    conn.rxreq()
    leave(client)
    conn.wait_close()
    line = gone(router)
    assert (line["endpoint"], line["sent_bytes"]) == (up.url, 0)


@leaving
def test_while_streaming(lab, leave):
    up, router, client = lab.scripted_pair()
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    conn.event("one")
    next(events)
    leave(client)
    conn.wait_close()
    assert gone(router)["status"] == 200


@leaving
def test_while_a_body_with_length_comes(lab, leave):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.tx("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    client.recv_until(b"half")
    leave(client)
    conn.wait_close()
    gone(router)


@leaving
def test_while_connecting(lab, leave):
    hole = lab.blackhole()
    # no probe of its own may come and go while descriptors are counted
    router = lab.router(hole, pool={"connect_timeout": "60s", "health": {"interval": 0}, "model_list": {"interval": 0}})
    client = lab.client(router)
    router.get("/health")  # it has opened all it opens at the start
    before = router.fds()
    client.chat()
    router.get("/health")  # an event later than the chat: it is under way
    leave(client)
    gone(router)
    router.wait_fds(before)


@leaving
def test_while_a_full_unix_socket_is_tried_again(lab, leave):
    up = lab.scripted(unix=lab.directory / "full.sock")
    up.listener.listen(0)
    filler = lab.keep(socket.socket(socket.AF_UNIX))
    filler.connect(str(lab.directory / "full.sock"))
    router = lab.router(up, pool={"connect_timeout": "60s"})
    client = lab.client(router)
    router.get("/health")
    before = router.fds()
    client.chat()
    router.get("/health")  # an event later than the chat: it is under way
    leave(client)
    gone(router)
    router.wait_fds(before)
    up.accept()
    assert up.no_connection(0.1)


@leaving
def test_while_sending_the_body_on(lab, leave):
    up = lab.scripted(rcvbuf=4096)
    router = lab.router(up)
    client = lab.client(router)
    client.request(body=chat_body(content="x" * 30_000_000))
    conn = up.accept()
    conn.rxhead()  # the router cannot have sent 30 MB into 4 KB
    leave(client)
    conn.wait_close(discard=True)
    gone(router)


@leaving
def test_while_uploading(lab, leave):
    up, router, client = lab.scripted_pair()
    client.send(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{\"model\":\"m\",")
    router.get("/health")
    leave(client)
    gone(router)
    assert up.no_connection(0.1)


@leaving
def test_while_queued(lab, leave):
    up = lab.scripted()
    router = lab.router(up, pool={"max_inflight": 1, "queue": {"size": 5, "timeout": "60s"}})
    first, queued, third = lab.client(router), lab.client(router), lab.client(router)
    first.chat()
    conn = up.accept()
    conn.rxreq()
    queued.chat(user="leaves")
    router.get("/health")
    leave(queued)
    assert gone(router)["tries"] == 0
    third.chat(user="stays")
    conn.txresp(200, body=b"1")
    assert first.read_response().body == b"1"
    req = conn.rxreq()  # the slot goes to the one who stayed, and the one who left leaves no trace
    assert req.json()["user"] == "stays"
    conn.txresp(200, body=b"3")
    assert third.read_response().body == b"3"


def test_the_endpoint_is_closed_before_a_later_request_is_answered(lab):
    up, router, client = lab.scripted_pair()
    other = lab.client(router)
    for _ in range(10):
        client.chat(stream=True)
        conn = up.accept()
        conn.rxreq()
        client.close()
        assert other.request("GET", "/health").read_response().body == b"ok"
        assert conn.wait_close(0.001)  # it is there: nothing is waited for
        client = lab.client(router)


@leaving
def test_the_slot_is_free_again(lab, leave):
    up = lab.scripted()
    router = lab.router(up, pool={"max_inflight": 1})
    client = lab.client(router)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    leave(client)
    conn.wait_close()
    gone(router)
    client = lab.client(router)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"x")
    assert client.read_response().status == 200


def test_pipelined_requests_of_a_client_that_left_are_not_started(lab):
    up, router, client = lab.scripted_pair()
    client.chat(user="one")
    client.chat(user="two")
    conn = up.accept()
    assert conn.rxreq().json()["user"] == "one"
    client.rst()
    conn.wait_close()
    gone(router)
    with pytest.raises(WaitTimeout):
        up.accept(0.3)


def test_finish_counts_the_tokens_that_nobody_read(lab):
    up = lab.scripted()
    router = lab.router(up, pool={"on_disconnect": "finish"})
    conn, _, client = streaming(lab, router, up)
    client.close()
    router.get("/health")
    conn.event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}})
    conn.sse_end()
    line = gone(router)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (9, 5)


def test_on_disconnect_finish_lets_it_run_out(lab):
    up, router, client = lab.scripted_pair(pool={"on_disconnect": "finish"})
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    conn.event("one")
    client.read_head()
    client.close()
    router.get("/health")
    assert conn.is_silent(0.2)
    for n in range(200):
        conn.event("x" * 10_000)
    conn.sse_end()
    assert gone(router)["endpoint"] == up.url
    client = lab.client(router)
    client.chat()
    assert conn.rxreq()  # it ended well, so it is used again
    conn.txresp(200, body=b"x")
    assert client.read_response().body == b"x"


@pytest.mark.parametrize("leave", [LEAVES["close"], LEAVES["half-close"]], ids=["close", "half-close"])
def test_finish_does_not_spin(lab, leave):
    up, router, client = lab.scripted_pair(pool={"on_disconnect": "finish"})
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    leave(client)
    router.get("/health")
    before = router.cpu()
    time.sleep(1)  # the second measured
    assert router.cpu() - before < 0.3
    conn.txresp(200, body=b"{}")
    gone(router)


def test_a_client_that_connects_and_leaves_is_no_event(lab):
    router = lab.router(lab.upstream())
    for leave in LEAVES.values():
        for _ in range(5):
            leave(lab.client(router))
    assert router.chat().status == 200
    router.access_lines(1)
    assert len(router.out) == 1
