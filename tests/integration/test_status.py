"""Contract 4 and 8: /status and /ui by known traffic, and no text of anybody as markup."""
import html.parser
import json
import os
import re
import signal
import time

from harness import chat_body, request_bytes, run_router
from harness.mortal import FAST, mortal, user_at, wait_state
from harness.reloads import endpoint_row, page, reload, status
from harness.router import ROOT
from harness.upstream import wait_until

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
