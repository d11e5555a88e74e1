"""Contract 5: every row of the table, in the shape of each dialect, with its headers and its connection's fate."""
import json
import re
import typing

import pytest

from harness import Truncated, chat_body, request_bytes
from harness.upstream import chunk, wait_until

REQ, RATE, SRV = "invalid_request_error", "rate_limit_error", "server_error"
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "ollama": "/api/chat"}
UNKNOWN = {"openai": "/v1/nowhere", "anthropic": "/v1/messages/nowhere", "ollama": "/api/nowhere"}
ANTHROPIC = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
             503: "overloaded_error", 504: "timeout_error"}
INTERNAL = re.compile(r"WHY_|HPE_|llhttp|cJSON|txn|errno|\.c:\d|0x[0-9a-f]{4}|\(null\)|127\.0\.0\.1|backstage")
KEY = "sk-the-right-one"

every_shape = pytest.mark.parametrize("shape", PATHS)


def leave(conn):
    conn.rxreq()
    conn.close()


def stall(conn):
    conn.rxreq()
    conn.stall()


@pytest.fixture(scope="module")
def routers(shared):
    """place: every kind of trouble by the model's name. keyed, hasty, full: what needs settings of its own."""
    up, busy = shared.upstream(), shared.scripted(name="busy")
    slow, leaver, dead = shared.upstream(stall), shared.upstream(leave), shared.dead()
    names = ["m", "llama3-8b-instruct", "org/model:7b"]
    place = shared.router(pools=[
        {"name": "backstage", "models": names, "aliases": {"gpt-4o-mini": "m"}, "endpoints": [up]},
        {"name": "backstage-busy", "models": ["busy"], "endpoints": [busy], "max_inflight": 1},
        {"name": "backstage-slow", "models": ["slow"], "endpoints": [slow], "first_byte_timeout": "200ms"},
        {"name": "backstage-leaver", "models": ["leaver"], "endpoints": [leaver]},
        {"name": "backstage-dead", "models": ["dead"], "endpoints": [dead], "health": {"interval": "100ms", "fall": 1}},
    ], max_header="4k", max_body="64k")
    holder = shared.client(place)
    holder.chat("busy")
    busy.accept().rxreq()
    wait_until(lambda: place.chat("dead").status == 503, "the dead endpoint is not seen to be down")
    full = shared.router(up, body_memory="2m", body_timeout=0)
    uploader = shared.client(full)
    uploader.send(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1900000\r\n\r\n" + b'{"prompt":"' + b"x" * 1_800_000)
    wait_until(lambda: re.search(rb"router_body_memory_bytes 1[0-9]{6}\n", full.get("/metrics").body), "the body is not read")
    return {
        "place": place, "full": full, "keyed": shared.router(up, api_keys=[KEY]), "up": up, "leaver": leaver,
        "hasty": shared.router(up, header_timeout="300ms", body_timeout="300ms"),
    }


class Row(typing.NamedTuple):
    status: int
    type: str
    code: typing.Optional[str]
    send: typing.Callable  # (client, path)
    param: typing.Optional[str] = None
    closes: bool = False
    says: str = ""  # what the message must speak of (a pattern)
    at: str = "place"
    paths: dict = PATHS
    retry_after: bool = False


def body(data, headers=()):
    return lambda client, path: client.request("POST", path, data, [("Content-Type", "application/json"), *headers])


def raw(text):
    """% is the path."""
    return lambda client, path: client.send(text.replace("%", path).encode("latin-1"))


def model(name):
    return body({"model": name})


HOST = "Host: h\r\n"
ROWS = {
    "malformed chunks": Row(400, REQ, None, raw(f"POST % HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\nzz\r\n"), closes=True, says="chunk"),
    "body is no JSON": Row(400, REQ, "invalid_json", body(b"{'model':1}"), says="JSON"),
    "body is a JSON array": Row(400, REQ, "invalid_json", body(b"[1]"), says="JSON object"),
    "no body": Row(400, REQ, "invalid_json", raw(f"POST % HTTP/1.1\r\n{HOST}\r\n"), says="JSON object"),
    "no model": Row(400, REQ, "invalid_model", body({"messages": []}), "model", says="model"),
    "model is a number": Row(400, REQ, "invalid_model", body({"model": 5}), "model", says="model.*string|string.*model"),
    "model is null": Row(400, REQ, "invalid_model", body({"model": None}), "model", says="model"),
    "model is empty": Row(400, REQ, "invalid_model", body({"model": ""}), "model", says="model"),
    "NUL in the model": Row(400, REQ, "invalid_model", body(b'{"model":"m\\u0000"}'), "model", says="model"),
    "model given twice": Row(400, REQ, "invalid_model", body(b'{"model":"m","model":"m"}'), "model", says="model"),
    "model given twice in other case": Row(400, REQ, "invalid_model", body(b'{"model":"m","MODEL":"x"}'), "model", says="model"),
    "unknown model": Row(404, REQ, "model_not_found", model("llama3-8b-instuct"), "model", says="llama3-8b-instruct.*/v1/models"),
    "unknown path": Row(404, REQ, "unknown_url", body({"model": "m"}), paths=UNKNOWN, says="/v1"),
    "wrong method": Row(405, REQ, "method_not_allowed", raw(f"GET % HTTP/1.1\r\n{HOST}\r\n"), says="POST"),
    "another wrong method": Row(405, REQ, "method_not_allowed", raw(f"DELETE % HTTP/1.1\r\n{HOST}\r\n"), says="POST"),
    "no key": Row(401, REQ, "invalid_api_key", model("m"), at="keyed", says="(?i)no .*key.*bearer.*x-api-key"),
    "wrong key": Row(401, REQ, "invalid_api_key", body({"model": "m"}, [("Authorization", "Bearer sk-wrong")]), at="keyed", says="(?i)key"),
    "slow body": Row(408, REQ, "request_timeout", raw(f"POST % HTTP/1.1\r\n{HOST}Content-Length: 9\r\n\r\n{{"), closes=True, at="hasty",
                     says="body.*time"),
    "large body by its length": Row(413, REQ, "request_too_large", raw(f"POST % HTTP/1.1\r\n{HOST}Content-Length: 65537\r\n\r\n"), closes=True,
                                    says="large"),
    "large body in chunks": Row(413, REQ, "request_too_large",
                                raw(f"POST % HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n10001\r\n{{\"x\":\"" + "x" * 65_531), closes=True, says="large"),
    "gzip": Row(415, REQ, "unsupported_encoding", body(b"\x1f\x8b", [("Content-Encoding", "gzip")]), says="Content-Encoding"),
    "gzip behind identity": Row(415, REQ, "unsupported_encoding", body(b"\x1f\x8b", [("Content-Encoding", "identity"), ("Content-Encoding", "gzip")]),
                                says="Content-Encoding"),
    "zstd": Row(415, REQ, "unsupported_encoding", body(b"\x28\xb5", [("Content-Encoding", "zstd")]), says="Content-Encoding"),
    "odd Expect": Row(417, REQ, None, body({"model": "m"}, [("Expect", "the-unexpected")]), says="100-continue"),
    "full": Row(429, RATE, "overloaded", model("busy"), retry_after=True, says="(?i)busy|full"),
    "no body memory": Row(503, SRV, "overloaded", body(b'{"model":"m","x":"' + b"x" * 900_000 + b'"}'), at="full", retry_after=True, says="again"),
    "no usable endpoint": Row(503, SRV, "upstream_unavailable", model("dead"), retry_after=True, says="(?i)no endpoint"),
    "endpoint broke off": Row(502, SRV, "upstream_error", model("leaver"), says="endpoint"),
    "first_byte_timeout": Row(504, SRV, "upstream_timeout", model("slow"), says="endpoint.*time"),
}


def error_message(response, shape, row):
    """The message, after its shape was checked to the letter."""
    assert response.status == row.status, response
    assert response["Content-Type"] == "application/json"
    document = response.json()
    if shape == "ollama":
        assert set(document) == {"error"}
        return document["error"]
    if shape == "anthropic":
        kind = ANTHROPIC.get(row.status, REQ if row.status < 500 else "api_error")
        assert set(document) == {"type", "error"} and document["type"] == "error"
        assert set(document["error"]) == {"type", "message"} and document["error"]["type"] == kind, document
        return document["error"]["message"]
    error = response.error
    assert (error["type"], error["code"], error["param"]) == (row.type, row.code, row.param)
    return error["message"]


def check_headers(response, row):
    """What belongs to the row stands there, and nothing that belongs to another."""
    assert bool(response["Retry-After"]) is row.retry_after
    assert not row.retry_after or 1 <= int(response["Retry-After"]) <= 60
    assert response["x-should-retry"] == ("false" if row.status == 504 else None)
    assert response["Allow"] == ("POST" if row.status == 405 else None)
    assert (response["WWW-Authenticate"] or "").startswith("Bearer") is (row.status == 401)
    assert response["X-Request-Id"]


def check_fate(client, response, closes):
    if closes:
        assert response["Connection"].lower() == "close"
        assert client.wait_close() == "fin"
    else:
        assert (response["Connection"] or "keep-alive").lower() == "keep-alive"
        assert client.request("GET", "/health").read_response().status == 200


@every_shape
@pytest.mark.parametrize("case", ROWS)
def test_row(routers, shape, case):
    row = ROWS[case]
    client = routers[row.at].connect()
    row.send(client, row.paths[shape])
    response = client.read_response()
    message = error_message(response, shape, row)
    assert re.search(row.says, message, re.S), message
    assert len(message) > 15 and not INTERNAL.search(message), message
    check_headers(response, row)
    check_fate(client, response, row.closes)
    client.close()


HEADS = {  # the path is not known, or not trusted: the shape is OpenAI's
    "malformed head": Row(400, REQ, None, raw("POST % HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), closes=True,
                          says="Content-Length"),
    "no Host": Row(400, REQ, None, raw("POST % HTTP/1.1\r\n\r\n"), closes=True, says="Host"),
    "no HTTP": Row(400, REQ, None, raw("hello?\r\n\r\n"), closes=True, says="HTTP"),
    "large head": Row(431, REQ, "headers_too_large", raw("POST % HTTP/1.1\r\nX: " + "x" * 5000), closes=True, says="(?i)header.*large"),
    "slow head": Row(408, REQ, "request_timeout", raw("POST % HT"), closes=True, at="hasty", says="header.*time"),
}


@pytest.mark.parametrize("case", HEADS)
def test_row_of_a_head(routers, case):
    row = HEADS[case]
    client = routers[row.at].connect()
    row.send(client, PATHS["openai"])
    response = client.read_response()
    message = error_message(response, "openai", row)
    assert re.search(row.says, message, re.S) and not INTERNAL.search(message), message
    check_headers(response, row)
    check_fate(client, response, True)
    client.close()


def test_too_many_connections(lab):
    up = lab.scripted()
    router = lab.router(up, max_connections=1)
    holder, refused = lab.client(router), None
    holder.chat()
    up.accept().rxreq()
    refused = lab.client(router)  # it need not even ask
    response = refused.read_response()
    row = Row(503, SRV, "overloaded", None, closes=True, retry_after=True)
    assert "connections" in error_message(response, "openai", row)
    check_headers(response, row)
    check_fate(refused, response, True)


def test_full_queue_and_queue_timeout(lab):
    up = lab.scripted()
    router = lab.router(up, pool={"max_inflight": 1, "queue": {"size": 1, "timeout": "300ms"}})
    first, queued, refused = (lab.client(router) for _ in range(3))
    first.chat(user="first")
    conn = up.accept()
    conn.rxreq()
    queued.chat(user="queued")
    router.get("/health")  # the queue holds it by now
    refused.chat(user="refused")
    row = Row(429, RATE, "overloaded", None, retry_after=True)
    for client in (refused, queued):  # at once, and when its time is over
        response = client.read_response()
        error_message(response, "openai", row)
        check_headers(response, row)
        check_fate(client, response, False)
    conn.txresp(200, body=b"{}")
    assert first.read_response().status == 200


def test_connect_refused_everywhere(lab):
    router = lab.router([lab.dead(), lab.dead()])
    row = Row(502, SRV, "upstream_error", None)
    response = router.chat()
    assert "endpoint" in error_message(response, "openai", row)
    check_headers(response, row)


def test_connect_timeout(lab):
    router = lab.router(lab.blackhole(), pool={"connect_timeout": "200ms"})
    response = router.chat()
    error_message(response, "openai", Row(502, SRV, "upstream_error", None))
    assert response["x-should-retry"] is None  # nothing was begun: a retry may help


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_every_messages_path_has_the_anthropic_shape(routers, path):
    response = routers["place"].chat("unknown", target=path)
    assert response.json()["type"] == "error" and response.json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", ["/api/generate", "/api/embed", "/api/show", "/api/tags"])
def test_every_api_path_has_the_ollama_shape(routers, path):
    response = routers["place"].chat("unknown", target=path)
    assert response.status == (405 if path == "/api/tags" else 404)
    assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize("path", ["/v1/message", "/apis/chat", "/api", "/xapi/chat", "/V1/messages"])
def test_like_paths_have_the_openai_shape(routers, path):
    assert routers["place"].chat(target=path).error["code"] == "unknown_url"


# HEAD


@pytest.mark.parametrize("target, status", [("/nowhere", 404), ("/v1/chat/completions", 405), ("/v1/models/none", 404), ("/api/nowhere", 404)])
def test_an_error_to_head_has_no_body(routers, target, status):
    client = routers["place"].connect()
    response = client.request("HEAD", target).read_response(head=True)
    assert (response.status, response["Content-Type"]) == (status, "application/json")
    if status == 404:
        assert int(response["Content-Length"]) == len(client.request("GET", target).read_response().body)
    assert client.request("GET", "/health").read_response().status == 200
    client.close()


def test_a_401_to_head_has_no_body(routers):
    client = routers["keyed"].connect()
    response = client.request("HEAD", "/v1/models").read_response(head=True)
    assert response.status == 401 and response["WWW-Authenticate"].startswith("Bearer")
    assert client.request("GET", "/health").read_response().status == 200
    client.close()


# messages


@pytest.mark.parametrize("wrong, right", [("llama3-8b-instuct", "llama3-8b-instruct"), ("Llama3-8B-Instruct", "llama3-8b-instruct"),
                                          ("gpt-4o-mimi", "gpt-4o-mini"), ("org/model", "org/model:7b")])
def test_an_unknown_model_is_told_the_nearest(routers, wrong, right):
    message = routers["place"].chat(wrong).error["message"]
    assert f"'{wrong}'" in message and f"'{right}'" in message


def test_a_name_like_none_is_told_no_nearest(routers):
    message = routers["place"].chat("zzzzzzzzzzzzzzzzzzzzzzz").error["message"]
    assert not any(name in message for name in ("llama3", "gpt-4o", "org/"))


def test_a_message_holds_client_text_as_text(routers):
    """What the client wrote cannot break out of the JSON, nor fill the log."""
    evil = 'x","code":"mine\\\n\t\u2028\x7f<script>' + "y" * 200
    response = routers["place"].chat(evil)
    assert response.status == 404 and response.error["code"] == "model_not_found"
    assert len(response.error["message"]) < 500
    response = routers["place"].request("POST", "/v1/chat/completions", b'{"model":"\xff\xfe"}')
    assert response.status == 404 and response.body.decode("utf-8")  # still UTF-8


def test_missing_and_wrong_key_are_told_apart(routers):
    keyed = routers["keyed"]
    missing = keyed.get("/v1/models").error["message"]
    wrong = keyed.get("/v1/models", [("Authorization", "Bearer sk-wrong-one")]).error["message"]
    assert missing != wrong and "sk-" not in missing + wrong


def test_allow_names_what_is_allowed(routers):
    place = routers["place"]
    assert place.request("DELETE", "/v1/models")["Allow"] == "GET, HEAD"
    assert place.request("PUT", "/v1/embeddings")["Allow"] == "POST"


def test_an_error_of_an_endpoint_is_passed_on_as_it_is(routers, lab):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(500, [("Content-Type", "text/html"), ("X-Own", "1")], b"<h1>oops</h1>")
    response = client.read_response()
    assert (response.status, response["Content-Type"], response["X-Own"], response.body) == (500, "text/html", "1", b"<h1>oops</h1>")
    assert response["Retry-After"] is None


def test_a_form_errs_in_the_same_shape(routers):
    part = b'--B\r\nContent-Disposition: form-data; name="model"; filename="a"\r\n\r\nm\r\n--B--\r\n'
    response = routers["place"].request("POST", "/v1/audio/transcriptions", part, [("Content-Type", "multipart/form-data; boundary=B")])
    error_message(response, "openai", Row(400, REQ, "invalid_model", None, "model"))


def test_a_refusal_stands_in_the_access_line(routers):
    place = routers["place"]
    place.post("/v1/completions", b"{", [("X-Request-Id", "a-refusal")])
    line = place.access_lines(1, request_id="a-refusal")[0]
    assert (line["status"], line["end"], line["path"]) == (400, "refused", "/v1/completions")


def test_a_502_and_a_504_stand_in_the_access_line(routers):
    place = routers["place"]
    for name, status, end in (("leaver", 502, "upstream_error"), ("slow", 504, "upstream_timeout")):
        place.chat(name, headers=[("X-Request-Id", f"line-{name}")])
        line = place.access_lines(1, request_id=f"line-{name}")[0]
        assert (line["status"], line["end"], line["model"]) == (status, end, name)


def test_a_malformed_request_has_an_access_line_too(routers):
    place = routers["place"]
    client = place.connect()
    client.send("nonsense\r\n\r\n")
    wanted = client.read_response()["X-Request-Id"]
    assert place.access_lines(1, request_id=wanted)[0]["status"] == 400
    client.close()


# the middle of a stream


def broken_stream(lab, path, content_type, sent, stall=False):
    """What comes after `sent`, when the endpoint dies or stalls there."""
    pool = {"stream_idle_timeout": "300ms"} if stall else {}
    up, router, client = lab.scripted_pair(pool=pool)
    client.chat(stream=True, target=path)
    conn = up.accept()
    conn.rxreq()
    conn.tx(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunk(sent))
    parts = client.body_parts(client.read_head())
    got = b""
    while len(got) < len(sent):
        got += next(parts)
    if not stall:
        conn.fin()
    with pytest.raises(Truncated):  # never a clean end
        while True:
            got += next(parts)
    assert got.startswith(sent)
    return got[len(sent):]


@pytest.mark.parametrize("stall, code", [(False, "upstream_error"), (True, "upstream_timeout")])
@pytest.mark.parametrize("sent, before", [(b"data: 1\n\n", b""), (b"data: 1\r\n\r\n", b""), (b"data: 1\n", b"\n"), (b"data: {", b"\n\n"), (b"", b"")])
def test_sse_error_in_band(lab, stall, code, sent, before):
    rest = broken_stream(lab, "/v1/chat/completions", "text/event-stream", sent or b": ping\n\n", stall)
    assert rest.lstrip(b"\n").startswith(b"data: {") and rest.endswith(b"\n\n")
    assert len(rest) - len(rest.lstrip(b"\n")) >= len(before)
    error = json.loads(rest.lstrip(b"\n")[6:])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (SRV, code, None)


@pytest.mark.parametrize("stall, kind", [(False, "api_error"), (True, "timeout_error")])
def test_anthropic_error_in_band(lab, stall, kind):
    rest = broken_stream(lab, "/v1/messages", "text/event-stream", b"event: ping\ndata: {", stall)
    event, data = rest.strip(b"\n").split(b"\n")
    assert event == b"event: error" and data.startswith(b"data: ") and rest.endswith(b"\n\n")
    document = json.loads(data[6:])
    assert document["type"] == "error" and set(document["error"]) == {"type", "message"} and document["error"]["type"] == kind


@pytest.mark.parametrize("stall", [False, True])
@pytest.mark.parametrize("sent", [b'{"a":1}\n', b'{"a":'])
def test_ndjson_error_in_band(lab, stall, sent):
    rest = broken_stream(lab, "/api/chat", "application/x-ndjson", sent, stall)
    assert rest.startswith(b"\n") is not sent.endswith(b"\n") and rest.endswith(b"\n")
    document = json.loads(rest)
    assert set(document) == {"error"} and isinstance(document["error"], str)


@pytest.mark.parametrize("stall", [False, True])
def test_a_body_that_is_no_stream_is_just_cut(lab, stall):
    assert broken_stream(lab, "/v1/chat/completions", "application/json", b'{"half":', stall) == b""


def test_an_http_10_client_is_reset_rather_than_lied_to(lab):
    """Without chunks only the kind of close tells a cut from an end."""
    up, router, client = lab.scripted_pair()
    client.request(body=chat_body(), version="1.0")
    conn = up.accept()
    conn.rxreq()
    conn.tx(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"half"))
    client.read_head()
    client.recv_until(b"half")
    conn.fin()
    assert client.wait_close() == "rst"


def test_pipelined_errors_come_in_order(routers):
    client = routers["place"].connect()
    batch = [("POST", "/v1/completions", b"{", 400), ("GET", "/nowhere", None, 404), ("GET", "/v1/completions", None, 405),
             ("POST", "/v1/completions", b'{"model":"busy"}', 429), ("GET", "/health", None, 200)]
    client.send(b"".join(request_bytes(method, target, data) for method, target, data, _ in batch))
    assert [client.read_response().status for _ in batch] == [status for *_, status in batch]
    client.close()


def test_nothing_refused_reached_an_endpoint(routers):
    """What came to the served endpoint of this file was sound: the rows above were refused before it."""
    up = routers["up"]
    assert routers["place"].chat(user="last").status == 200
    assert all(r.method == "POST" and json.loads(r.body)["model"] == "m" for r in up.requests)
