"""Contract 4 and 8: /status, /ui, and the access line: every field by known traffic, in its order, and no text of a client's as markup or as a line."""
import html.parser
import json
import os
import re
import signal
import time

import pytest

from harness import RawClient, Router, Truncated, chat_body, request_bytes, run_router
from harness.mortal import FAST, mortal, user_at, wait_state
from harness.reloads import endpoint_row, page, reload, status
from harness.router import ROOT
from harness.upstream import chunk, wait_until

CHAT = "/v1/chat/completions"
KEYS = """time request_id client method path model pool endpoint affinity tries status received_bytes sent_bytes queue_ms first_byte_ms first_token_ms
duration_ms prompt_tokens cached_tokens completion_tokens end""".split()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MARKUP = '<script>alert(1)</script><img src=x onerror=alert(2)>&amp;"\'\\'


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


def kinds(value, model):
    """The same keys in the same order, values of the same types, all the way down."""
    if isinstance(model, dict):
        assert isinstance(value, dict) and [k for k in value if k in model] == list(model), (list(value), list(model))
        for key in model:
            kinds(value[key], model[key])
    elif isinstance(model, list):
        assert isinstance(value, list)
        for item in value if model else []:
            kinds(item, model[0])
    else:
        assert isinstance(value, model) and not (model is int and isinstance(value, bool)), (value, model)


# /status


ENDPOINT = {"url": str, "state": str, "reason": (str, type(None)), "since": str, "weight": int, "in_flight": int, "max_inflight": int, "requests": int, "failures": int,
            "first_byte_ms": {"p50": (int, type(None)), "p99": (int, type(None))}, "models": [str]}
STATUS = {"version": str, "uptime_seconds": int, "draining": bool, "config": {"path": str, "loaded_at": str, "generation": int},
          "connections": {"client": int, "endpoint_idle": int}, "body_memory_bytes": int,
          "pools": [{"name": str, "models": [str], "aliases": dict, "fallback": (str, type(None)), "queued": int, "endpoints": [ENDPOINT]}],
          "recent": [{key: object for key in KEYS}]}


def test_fields_and_types(lab):
    up = lab.upstream()
    pools = [{"name": "p", "models": ["m", "q-*"], "aliases": {"nick": "m"}, "fallback": "rest", "endpoints": [{"url": up, "weight": 3, "max_inflight": 4}]},
             {"name": "rest", "models": ["*"], "endpoints": [lab.dead()]}]
    router = lab.router(config=lab.config(pools=pools))
    for shown in (status(router), router.chat() and status(router)):  # before any traffic, and after
        kinds(shown, STATUS)
    assert shown["version"] == re.match(r"router (\S+)", run_router("-version").stdout).group(1)
    assert 0 <= shown["uptime_seconds"] < 60 and shown["draining"] is False
    assert shown["config"]["path"] == str(router.config_path) and TIME.fullmatch(shown["config"]["loaded_at"]) and shown["config"]["generation"] == 1
    pool, rest = shown["pools"]
    assert {k: pool[k] for k in ("name", "models", "aliases", "fallback", "queued")} == {
        "name": "p", "models": ["m", "q-*"], "aliases": {"nick": "m"}, "fallback": "rest", "queued": 0}
    assert rest["fallback"] is None and rest["aliases"] == {} and len(rest["endpoints"]) == 1
    row = pool["endpoints"][0]
    assert TIME.fullmatch(row.pop("since")) and row.pop("reason") is None
    times = row.pop("first_byte_ms")
    assert 0 <= times["p50"] <= times["p99"] < 10_000
    assert row == {"url": up.url, "state": "up", "weight": 3, "in_flight": 0, "max_inflight": 4, "requests": 1, "failures": 0, "models": []}


def test_it_is_json_that_no_cache_keeps(lab):
    router = lab.router(lab.upstream())
    for response in (router.get("/status"), router.request("HEAD", "/status")):
        assert (response.status, response["Content-Type"], response["Cache-Control"]) == (200, "application/json", "no-store")


def test_what_happens_now(lab):
    up, router, client, conn = begun(lab, pool={"max_inflight": 1, "queue": {"size": 5, "timeout": "60s"}}, chat={"stream": True})
    waiting = lab.client(router)
    waiting.chat()
    wait_until(lambda: status(router)["pools"][0]["queued"] == 1, "it does not wait")
    shown = status(router)
    row = endpoint_row(router, up)
    assert (row["in_flight"], row["requests"], row["max_inflight"]) == (1, 1, 1)
    assert shown["connections"] == {"client": 3, "endpoint_idle": 0}  # with the one that asks
    assert shown["body_memory_bytes"] == len(chat_body(stream=True)) + len(chat_body())
    assert [line for line in shown["recent"] if line["pool"]] == []
    conn.sse_head()
    conn.sse_end()
    client.read_response()
    conn.rxreq()
    conn.txresp(200, body=b"x")
    waiting.read_response()
    wait_until(lambda: status(router)["connections"]["endpoint_idle"] == 1, "no connection is kept")
    assert status(router)["body_memory_bytes"] == 0 and endpoint_row(router, up)["requests"] == 2


def test_first_byte_times(lab):
    up, router, client = lab.scripted_pair()
    row = endpoint_row(router, up)
    assert row["first_byte_ms"] == {"p50": None, "p99": None}
    conn = None
    for slow in (False,) * 9 + (True,):
        client.chat()
        conn = conn or up.accept()
        conn.rxreq()
        began = time.monotonic()
        while slow and time.monotonic() - began < 0.3:
            router.get("/health")
        conn.txresp(200, body=b"x")
        client.read_response()
    row = endpoint_row(router, up)
    assert row["first_byte_ms"]["p50"] < 300 <= row["first_byte_ms"]["p99"] * 1.2  # in buckets: the last lies between 250 and 500


def test_states_and_reasons(lab):
    dead, loading = mortal(lab, alive=False), mortal(lab, health=503)
    router = lab.router([dead, loading], probes=True, defaults={"health": FAST}, admin_listen="127.0.0.1:0")
    router.wait_listening(2)
    wait_state(router, dead, "down")
    wait_state(router, loading, "loading")
    rows = [endpoint_row(router, up, index=1) for up in (dead, loading)]
    assert [row["state"] for row in rows] == ["down", "loading"]
    assert "refused" in rows[0]["reason"].lower() and "503" in rows[1]["reason"] and rows[0]["failures"] >= 1
    page(router, "POST", f"/admin/drain?endpoint={loading.url}", [("Content-Type", "application/json")], 1)
    row = endpoint_row(router, loading, index=1)
    assert row["state"] == "draining" and "operator" in row["reason"]


def test_models_that_an_endpoint_told(lab):
    up = lab.upstream(models=["m", "other", MARKUP])
    router = lab.router(up, probes=True, models=["*"])
    wait_until(lambda: endpoint_row(router, up)["models"] == ["m", "other", MARKUP], "its list does not show")
    assert "<script" not in page(router, "GET", "/status").body.decode()


def test_draining_shows(lab):
    up, router, client, conn = begun(lab, admin_listen="127.0.0.1:0")
    router.wait_listening(2)
    assert status(router, 1)["draining"] is False
    router.signal(signal.SIGTERM)
    router.log_contains("draining")
    assert status(router, 1)["draining"] is True
    conn.txresp(200, body=b"x")
    client.read_response()


def test_generation_and_reload(lab):
    up = lab.upstream()
    router = lab.router(up)
    first = status(router)["config"]
    reload(router, lab.config(up, models=["m", "n"]))
    shown = status(router)
    assert shown["config"]["generation"] == 2 and shown["config"]["loaded_at"] >= first["loaded_at"]
    assert shown["pools"][0]["models"] == ["m", "n"]


# recent


def test_recent_is_newest_first_and_at_most_100(lab):
    router = lab.router(lab.upstream())
    client = lab.client(router)
    assert status(router)["recent"] == []
    for i in range(120):
        client.chat(headers=[("X-Request-Id", f"r{i}")])
        client.read_response()
        if i in (0, 99):
            assert [line["request_id"] for line in status(router)["recent"]] == [f"r{n}" for n in range(i, -1, -1)]
    recent = status(router)["recent"]
    assert [line["request_id"] for line in recent] == [f"r{n}" for n in range(119, 19, -1)]
    assert all(list(line) == KEYS for line in recent)


def test_recent_has_the_access_lines(lab):
    router = lab.router(lab.upstream())
    router.chat(user="ann", stream=True)
    router.chat("unknown")
    router.get("/nowhere")
    wanted = router.access_lines(3)
    assert status(router)["recent"] == wanted[::-1]


def test_recent_where_the_log_is_off(lab):
    router = lab.router(lab.upstream(), log={"access": "off"})
    router.chat(headers=[("X-Request-Id", "seen")])
    assert [line["request_id"] for line in status(router)["recent"]] == ["seen"]
    assert router.out == []


def test_text_of_clients_is_escaped_everywhere(lab):
    up = lab.upstream()
    router = lab.router(up, models=["*"])
    names = [MARKUP, "a\nb\r\n\tc\x1b[31m\x7f", "\u2028\u2029\u00e9\U0001f600", "x" * 250]
    client = lab.client(router)
    for name in names:
        client.chat(name)
        assert client.read_response().status == 200
    client.request("GET", "/&'(alert)")
    client.read_response()
    client.send(request_bytes(body=b'{"model":"\xff\xfe\\ud800"}'))  # no UTF-8, half a surrogate
    client.read_response()
    lines = router.access_lines(6)
    text = page(router, "GET", "/status").body.decode("utf-8")  # it is UTF-8, whatever clients sent
    for wrong in ("<", ">", "\u2028", "\n", "\r"):
        assert wrong not in text
    assert [line["model"] for line in json.loads(text)["recent"][::-1][:3]] == names[:3]
    assert [line["model"] for line in lines[:3]] == names[:3]
    assert len(router.access_lines(7)) == 7 and all(len(line) < 2500 for line in router.out)
    assert all("<" not in line for line in router.out)


# /ui


class Html(html.parser.HTMLParser):
    VOID = {"meta", "link", "path", "br", "img", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.open, self.inline, self.cell = [], [], [], [], None
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data


def test_the_page(lab):
    router = lab.router(lab.upstream())
    response = router.get("/ui")
    assert response.status == 200 and response["Content-Type"] == "text/html; charset=utf-8"
    assert response.body.lower().startswith(b"<!doctype html>") and len(response.body) < 40 * 1024
    assert os.path.getsize(ROOT / "src" / "ui.html") < 40 * 1024
    assert (response["X-Content-Type-Options"], response["Cache-Control"]) == ("nosniff", "no-store")
    head = router.request("HEAD", "/ui")
    assert head.status == 200 and head.body == b""


def test_its_policy_lets_in_nothing_foreign(lab):
    router = lab.router(lab.upstream())
    nonces = set()
    for _ in range(5):
        response = router.get("/ui")
        policy = dict(part.strip().partition(" ")[::2] for part in response["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
        assert policy["base-uri"] == policy["form-action"] == "'none'"
        nonce = re.fullmatch(r"'nonce-([0-9A-Za-z+/=_-]{16,})'", policy["script-src"]).group(1)
        assert policy["style-src"] == f"'nonce-{nonce}'"
        assert "unsafe" not in response["Content-Security-Policy"] and "http" not in response["Content-Security-Policy"]
        tags = Html(response.body.decode()).tags
        assert [a for t, a in tags if t in ("script", "style") and a.get("nonce") != nonce] == []
        assert [a for _, a in tags if any(k.startswith("on") or k == "style" for k in a)] == []  # the policy would stop them anyway
        nonces.add(nonce)
    assert len(nonces) == 5


def test_it_needs_no_outside_asset(lab):
    text = lab.router(lab.upstream()).get("/ui").body.decode()
    for tag, attributes in Html(text).tags:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            target = attributes.get(name) or ""
            assert not target or target.startswith(("/", "data:", "#")) and not target.startswith("//"), (tag, attributes)
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)|importScripts|//cdn", text)


def test_without_javascript_it_has_the_endpoints(lab):
    up, dead = mortal(lab), mortal(lab, alive=False)
    router = lab.router([up, dead], probes=True, pool={"health": FAST})
    wait_state(router, dead, "down")
    assert router.chat(user=user_at(router, up)).status == 200
    rows = [row for row in Html(router.get("/ui").body.decode()).rows if len(row) > 1 and row[0] == "p"]
    assert [row[1:3] for row in rows] == [[up.url, "up"], [dead.url, "down"]]
    assert rows[0][3:6] == ["0", "1", "0"] and int(rows[1][5]) >= 1
    assert "refused" in " ".join(rows[1]).lower()


def test_text_of_the_configuration_is_escaped(lab):
    """Names hold little that matters; a base path does."""
    url = lab.upstream().url + "/a&lt;b'c&amp;d"
    router = lab.router([url], models=["m", MARKUP])
    response = router.get("/ui")
    rows = [row for row in Html(response.body.decode()).rows if len(row) > 1 and row[0] == "p"]
    assert rows[0][1] == status(router)["pools"][0]["endpoints"][0]["url"]
    assert b"<script>alert" not in response.body
    assert status(router)["pools"][0]["models"] == ["m", MARKUP]


# the access line


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


def test_an_existing_log_is_added_to(lab):
    log = lab.directory / "access.log"
    log.write_text("before\n")
    router = lab.router(lab.upstream(), log={"file": str(log)})
    router.chat()
    wait_until(lambda: log.read_text().count("\n") == 2, "no line")
    assert log.read_text().startswith("before\n{")


# the operator's lines


def test_levels_and_the_journals_prefix(lab):
    up = lab.upstream()
    router = lab.router(up, env={"JOURNAL_STREAM": "8:1"})
    router.chat()
    router.stop()
    assert router.log and all(re.match(r"<[3-7]>\w+: ", line) for line in router.log)
    plain = lab.router(up)
    plain.stop()
    assert all(re.match(r"(error|warn|info) +\w+: ", line) for line in plain.log)


@pytest.mark.parametrize("level, shown", [("error", set()), ("warn", {"warn"}), ("info", {"warn", "info"}), ("debug", {"warn", "info", "debug"})])
def test_a_level_hides_what_is_below_it(lab, level, shown):
    sock = lab.directory / "r.sock"
    router = Router(lab.directory / "r", lab.config(lab.dead(), log={"level": level}, defaults={"health": {"fall": 1}}), listen=(f"unix:{sock}",), wait=False)
    lab.routers.append(router)
    wait_until(sock.exists, "it does not listen")
    assert RawClient(sock).chat().read_response().status == 502
    router.stop()
    assert {line.split()[0] for line in router.log} == shown
