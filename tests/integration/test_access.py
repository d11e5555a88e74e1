"""Contract 8: the access line: every field by known traffic, in its order, whatever the end; its formats and files; the operator's lines."""
import fcntl
import json
import os
import re
import signal
import time

import pytest

from harness import RawClient, Router, ROUTER_BIN, Truncated, chat_body
from harness.mortal import user_at
from harness.prom import scrape
from harness.reloads import reload
from harness.upstream import chunk, wait_until

CHAT = "/v1/chat/completions"
KEYS = """time request_id client method path model pool endpoint affinity tries status received_bytes sent_bytes queue_ms first_byte_ms first_token_ms
duration_ms prompt_tokens cached_tokens completion_tokens end""".split()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def begun(lab, chat=None, **how):
    """(endpoint, router, client, connection at the endpoint) of a chat that is being worked on."""
    up, router, client = lab.scripted_pair(**how)
    client.chat(**(chat or {}))
    conn = up.accept()
    conn.rxreq()
    return up, router, client, conn


def line_of(router, **wanted):
    """The one access line with those values; its keys stand in the promised order, each of the promised type."""
    found = router.access_lines(1, **wanted)
    assert len(found) == 1, found
    line = found[0]
    assert list(line) == KEYS
    assert TIME.fullmatch(line["time"])
    for key in KEYS:
        number = key == "tries" or key == "status" or key.endswith(("_bytes", "_ms", "_tokens"))
        assert line[key] is None or isinstance(line[key], int if number else str), (key, line)
    return line


def test_a_line_of_a_chat_that_is_done(lab):
    up = lab.upstream()
    router = lab.router(up, models=["m"], pool={"aliases": {"nick": "m"}})
    client = lab.client(router)
    body = chat_body("nick", user="ann")
    client.request("POST", f"{CHAT}?secret=1", body, [("X-Request-Id", "my-id")])
    response = client.read_response()
    line = line_of(router, request_id="my-id")
    times = {key: line.pop(key) for key in ("time", "first_byte_ms", "duration_ms")}
    assert 0 <= times["first_byte_ms"] <= times["duration_ms"] < 10_000
    assert line == {"request_id": "my-id", "client": "127.0.0.1", "method": "POST", "path": CHAT, "model": "nick", "pool": "p", "endpoint": up.url, "affinity": "hit",
                    "tries": 1, "status": 200, "received_bytes": len(body), "sent_bytes": len(response.body), "queue_ms": 0, "first_token_ms": None,
                    "prompt_tokens": 7, "cached_tokens": None, "completion_tokens": 3, "end": "done"}


def test_a_line_of_a_stream(lab):
    up, router, client, conn = begun(lab, chat={"stream": True})
    conn.sse_head()
    events = client.sse(client.read_head())
    sent = 0
    for event in ({"choices": [{"delta": {"role": "assistant"}}]}, {"choices": [{"delta": {"content": "Hi"}}]},
                  {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}}):
        began = time.monotonic()
        while time.monotonic() - began < 0.05:
            router.get("/health")
        conn.event(event)
        sent += len(next(events)) + 2
    conn.sse_end()
    list(events)
    line = line_of(router, path=CHAT)
    assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (9, 5, 4)
    assert line["first_byte_ms"] + 90 <= line["first_token_ms"] <= line["duration_ms"] - 40
    assert (line["end"], line["sent_bytes"]) == ("done", sent + len(b"data: [DONE]\n\n"))


def test_a_line_of_our_own_page(lab):
    router = lab.router(lab.upstream())
    response = router.get("/v1/models?x=y")
    line = line_of(router, path="/v1/models")
    nothing = ("model", "pool", "endpoint", "affinity", "queue_ms", "first_byte_ms", "first_token_ms", "prompt_tokens", "cached_tokens", "completion_tokens")
    assert {line[key] for key in nothing} == {None}
    assert (line["method"], line["status"], line["tries"], line["sent_bytes"], line["end"]) == ("GET", 200, 0, len(response.body), "done")


def test_a_line_of_a_refusal(lab):
    router = lab.router(lab.upstream())
    response = router.chat("unknown")
    line = line_of(router, path=CHAT)
    assert (line["status"], line["model"], line["pool"], line["tries"], line["end"]) == (404, "unknown", None, 0, "refused")
    assert (line["received_bytes"], line["sent_bytes"]) == (len(chat_body("unknown")), len(response.body))


def test_a_line_of_what_is_no_request(lab):
    router = lab.router(lab.upstream())
    client = lab.client(router)
    client.send(b"nonsense\r\n\r\n")
    response = client.read_response()
    line = line_of(router)
    assert (line["status"], line["end"], line["method"], line["path"]) == (400, "refused", None, None)
    assert response["X-Request-Id"] in (line["request_id"], None) and line["sent_bytes"] == len(response.body)


def test_a_line_of_a_full_queue(lab):
    up, router, client, conn = begun(lab, pool={"max_inflight": 1, "queue": {"size": 1, "timeout": "100ms"}})
    assert router.chat(headers=[("X-Request-Id", "waited")]).status == 429
    line = line_of(router, request_id="waited")
    assert (line["status"], line["end"], line["pool"], line["endpoint"], line["tries"], line["affinity"]) == (429, "refused", "p", None, 0, None)
    assert 80 <= line["queue_ms"] <= line["duration_ms"]
    conn.txresp(200, body=b"x")


def test_lines_of_clients_that_leave(lab):
    up, router, client, conn = begun(lab)
    client.close()
    conn.wait_close()
    line = line_of(router, path=CHAT)
    assert (line["end"], line["status"], line["sent_bytes"], line["endpoint"], line["first_byte_ms"]) == ("client_gone", None, 0, up.url, None)
    client = lab.client(router)
    client.chat(stream=True, headers=[("X-Request-Id", "midway")])
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    conn.event("1")
    next(events)
    client.close()
    conn.wait_close()
    line = line_of(router, request_id="midway")
    assert (line["end"], line["status"], line["sent_bytes"]) == ("client_gone", 200, len(b"data: 1\n\n"))


def test_lines_of_endpoints_that_fail(lab):
    up, router, client, conn = begun(lab, pool={"first_byte_timeout": "150ms", "stream_idle_timeout": "150ms"})
    conn.close()
    response = client.read_response()
    line = line_of(router)
    assert (line["end"], line["status"], line["tries"], line["endpoint"]) == ("upstream_error", 502, 1, up.url)
    assert (line["first_byte_ms"], line["sent_bytes"]) == (None, len(response.body))

    def next_chat(name, stream=True):
        client = lab.client(router)
        client.chat(stream=stream, headers=[("X-Request-Id", name)])
        conn = up.accept()
        conn.rxreq()
        return client, conn
    client, conn = next_chat("cut")
    conn.sse_head()
    conn.event("1")
    conn.fin()
    cut = client.read_cut()
    line = line_of(router, request_id="cut")
    assert (line["end"], line["status"], line["sent_bytes"]) == ("upstream_error", 200, len(cut.body))
    client, conn = next_chat("slow")
    assert client.read_response().status == 504
    line = line_of(router, request_id="slow")
    assert (line["end"], line["status"], line["first_byte_ms"]) == ("upstream_timeout", 504, None) and line["duration_ms"] >= 140
    client, conn = next_chat("stalled")
    conn.sse_head()
    client.read_cut()
    line = line_of(router, request_id="stalled")
    assert (line["end"], line["status"]) == ("upstream_timeout", 200)


def test_a_line_of_a_failover(lab):
    a, b = lab.dead(), lab.upstream()
    router = lab.router([a, b], pool={"health": {"interval": 0, "fall": 9}})
    user = user_at(router, a, b)
    assert router.chat(user=user).status == 200
    line = line_of(router)
    assert (line["endpoint"], line["affinity"], line["tries"], line["end"]) == (b.url, "failover", 2, "done")


def test_a_line_of_what_a_shutdown_cuts(lab):
    up, router, client, conn = begun(lab, drain_timeout="100ms", chat={"stream": True})
    conn.tx(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"data: 1\n\n"))
    parts = client.body_parts(client.read_head())
    next(parts)
    router.signal(signal.SIGTERM)
    with pytest.raises(Truncated):
        list(parts)
    line = line_of(router, path=CHAT)
    assert (line["end"], line["status"], line["endpoint"]) == ("shutdown", 200, up.url)


def test_no_request_can_forge_a_line(lab):
    router = lab.router(lab.upstream(), models=["*"])
    forged = '","end":"done"}\n{"time":"x","request_id":"forged"'
    client = lab.client(router)
    client.chat(forged, user=forged, headers=[("User-Agent", "x\tforged")])
    client.read_response()
    client.request("GET", "/%0a%22'forged'")
    client.read_response()
    client.request("GET", "/x", headers=[("X-Request-Id", 'x"},{"request_id":"forged')])
    client.read_response()
    lines = router.access_lines(3)
    assert len(router.out) == 3
    assert lines[0]["model"] == forged and lines[1]["path"] == "/%0a%22'forged'"
    assert re.fullmatch(r"[0-9a-f-]{36}", lines[2]["request_id"])


def test_the_client_is_who_connected_not_what_a_header_says(lab):
    router = lab.router(lab.upstream())
    router.chat(headers=[("X-Forwarded-For", "9.9.9.9")])
    assert line_of(router)["client"] == "127.0.0.1"


# formats and files


def texts(router, n):
    router.wait_for(lambda: len(router.out) >= n, f"fewer than {n} lines")
    return list(router.out)


def test_text_lines(lab):
    """The same fields by the same names in the same order, for people and grep."""
    up = lab.upstream()
    router = lab.router(up, models=["*"], log={"access": "text"})
    client = lab.client(router)
    model = 'a b"c\\\nend=forged'
    client.chat(model, headers=[("X-Request-Id", "id-1")])
    client.read_response()
    client.request("GET", "/v1/models").read_response()
    client.request("GET", "/nowhere").read_response()
    lines = texts(router, 3)
    assert len(lines) == 3
    pattern = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)')
    for line in lines:
        assert [m.group(1) for m in pattern.finditer(line)] == KEYS, line
        assert "".join(m.group(0) for m in pattern.finditer(line)) == line
    first = dict(m.groups() for m in pattern.finditer(lines[0]))
    assert TIME.fullmatch(first["time"])
    assert (first["request_id"], first["method"], first["path"], first["pool"], first["endpoint"]) == ("id-1", "POST", CHAT, "p", up.url)
    assert (first["status"], first["tries"], first["prompt_tokens"], first["cached_tokens"], first["end"]) == ("200", "1", "7", "-", "done")
    assert json.loads(first["model"]) == model
    third = dict(m.groups() for m in pattern.finditer(lines[2]))
    assert (third["model"], third["pool"], third["first_byte_ms"], third["end"]) == ("-", "-", "-", "refused")


def test_access_off_writes_nothing(lab):
    router = lab.router(lab.upstream(), log={"access": "off"})
    for _ in range(3):
        assert router.chat().status == 200
    router.stop()
    assert router.out == []


def test_log_file_and_its_rotation(lab):
    log = lab.directory / "access.log"
    router = lab.router(lab.upstream(), log={"file": str(log)})

    def chat(name):
        assert router.chat(headers=[("X-Request-Id", name)]).status == 200

    def names(path):
        return [json.loads(line)["request_id"] for line in path.read_text().splitlines()]
    chat("one")
    wait_until(lambda: names(log) == ["one"], "no line")
    old = log.rename(lab.directory / "access.log.1")
    chat("two")  # still into the old file
    wait_until(lambda: names(old) == ["one", "two"], "no line")
    router.signal(signal.SIGUSR1)
    wait_until(log.exists, "the file is not opened again")
    chat("three")
    wait_until(lambda: names(log) == ["three"], "no line")
    assert names(old) == ["one", "two"] and router.out == []
    assert log.stat().st_mode & 0o137 == 0  # for its owner and group


def test_a_log_that_cannot_be_reopened_goes_on_in_the_old_file(lab):
    place = lab.directory / "logs"
    place.mkdir()
    log = place / "access.log"
    router = lab.router(lab.upstream(), log={"file": str(log)})
    router.get("/health")
    moved = place.rename(lab.directory / "moved")
    router.signal(signal.SIGUSR1)
    router.log_contains(rf"^error .*{re.escape(str(log))}")
    assert router.chat().status == 200
    wait_until(lambda: CHAT in (moved / "access.log").read_text(), "no line")


def test_usr1_without_a_file_is_harmless(lab):
    router = lab.router(lab.upstream())
    for _ in range(3):
        router.signal(signal.SIGUSR1)
        assert router.chat().status == 200
    assert len(router.access_lines(3)) == 3


class Stalled:
    """A router whose stdout is a pipe of 4 KB that nobody reads until read() is called."""

    def __init__(self, lab, **how):
        fifo, wrapper = lab.directory / "stdout", lab.directory / "stalled.sh"
        os.mkfifo(fifo)
        self.fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(self.fd, 1031, 4096)  # F_SETPIPE_SZ
        lab.keep(self)
        wrapper.write_text(f"#!/bin/sh\nexec {ROUTER_BIN} \"$@\" > {fifo}\n")
        wrapper.chmod(0o755)
        self.router = lab.router(lab.upstream(), binary=str(wrapper), **how)
        self.client, self.text = lab.client(self.router), b""

    def chats(self, *names):
        for name in names:
            self.client.chat(headers=[("X-Request-Id", name)])
            assert self.client.read_response().status == 200

    def read(self):
        """The whole lines that came so far."""
        try:
            while data := os.read(self.fd, 1 << 16):
                self.text += data
        except BlockingIOError:
            pass
        return self.text.decode().splitlines()[:None if self.text.endswith(b"\n") else -1]

    def wait_lines(self, n):
        return wait_until(lambda: len(lines := self.read()) >= n and lines, f"{n} lines do not come")

    def close(self):
        os.close(self.fd)


@pytest.mark.parametrize("what", ["SIGHUP", "SIGUSR1"])
def test_lines_that_stdout_has_not_taken_yet_outlive_a_signal(lab, what):
    place = Stalled(lab)
    before, after = [f"before-{i}" for i in range(60)], [f"after-{i}" for i in range(3)]
    place.chats(*before)  # five times what the pipe takes
    if what == "SIGHUP":
        reload(place.router)
    else:
        place.router.signal(signal.SIGUSR1)
    place.chats(*after)
    assert [json.loads(line)["request_id"] for line in place.wait_lines(63)] == before + after
    assert scrape(place.router)["router_log_lines_dropped_total"] == 0


def test_another_format_from_a_reload_on_cuts_no_line(lab):
    place = Stalled(lab)
    place.chats(*["json"] * 40)
    reload(place.router, place.router.config_path.read_text() + "log: {access: text}\n")
    place.chats(*["text"] * 3)
    lines = place.wait_lines(43)
    assert {json.loads(line)["request_id"] for line in lines[:40]} == {"json"}
    assert all(re.match(r"time=\S+ request_id=text client=", line) for line in lines[40:])


def test_lines_that_stdout_never_took_are_counted_when_the_log_goes_elsewhere(lab):
    place = Stalled(lab)
    place.chats(*(f"before-{i}" for i in range(60)))
    reload(place.router, place.router.config_path.read_text() + f"log: {{file: {lab.directory}/elsewhere}}\n")
    place.chats("after")
    taken, dropped = len(place.read()), scrape(place.router)["router_log_lines_dropped_total"]
    assert 0 < taken and dropped == 60 - taken
    elsewhere = (lab.directory / "elsewhere").read_text().splitlines()
    assert [json.loads(line)["request_id"] for line in elsewhere[:1]] == ["after"]


def test_lines_that_stdout_never_took_are_told_of_at_the_end(lab):
    place = Stalled(lab)
    place.chats(*(f"before-{i}" for i in range(60)))
    place.router.stop()
    assert re.search(rf"^warn access: {60 - len(place.read())} lines ", "\n".join(place.router.log), re.M)


def test_an_existing_log_is_added_to(lab):
    log = lab.directory / "access.log"
    log.write_text("before\n")
    router = lab.router(lab.upstream(), log={"file": str(log)})
    router.chat()
    wait_until(lambda: log.read_text().count("\n") == 2, "no line")
    assert log.read_text().startswith("before\n{")


# the operator's lines


def test_lines_begin_with_level_and_owner(lab):
    """The journal's prefix: test_see.py."""
    plain = lab.router(lab.upstream())
    plain.stop()
    assert plain.log and all(re.match(r"(error|warn|info) +\w+: ", line) for line in plain.log)


def connected(path):
    try:
        return RawClient(path)
    except OSError:  # no such file yet, or bound and not listening
        return None


@pytest.mark.parametrize("level, shown", [("error", set()), ("warn", {"warn"}), ("info", {"warn", "info"}), ("debug", {"warn", "info", "debug"})])
def test_a_level_hides_what_is_below_it(lab, level, shown):
    sock = lab.directory / "r.sock"
    router = Router(lab.directory / "r", lab.config(lab.dead(), log={"level": level}, defaults={"health": {"fall": 1}}), listen=(f"unix:{sock}",), wait=False)
    lab.routers.append(router)
    client = lab.keep(wait_until(lambda: connected(sock), "it does not listen"))
    assert client.chat().read_response().status == 502
    router.stop()
    assert {line.split()[0] for line in router.log} == shown
