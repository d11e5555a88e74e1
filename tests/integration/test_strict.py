"""Contract 6, strict: what two parsers might read differently gets a 400 and a close, and nothing of it reaches an endpoint."""
import itertools

import pytest

from harness import PeerClosed, Truncated, chat_body, request_bytes
from harness.upstream import chunk

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: router.test\r\n"
BODY = b'{"model":"m"}'
LENGTH = b"Content-Length: 13\r\n"
SMUGGLED = request_bytes(body=chat_body("m", "smuggled"))
numbers = itertools.count()


@pytest.fixture(scope="module")
def place(shared):
    up = shared.upstream()
    return up, shared.router(up)


def nothing_arrived(place, seen):
    """A good request comes next at the endpoint, on whatever connection: so nothing came before it."""
    up, router = place
    marker = f"after-{next(numbers)}"
    assert router.chat(user=marker).status == 200
    users = [r.json().get("user") for r in up.requests[seen:]]
    assert users == [marker]


def refused(place, raw, status=400):
    """Sends it with a whole request behind it, in one piece. Returns the error's message."""
    up, router = place
    seen = len(up.requests)
    client = router.connect()
    client.send(raw + SMUGGLED)
    response = client.read_response()
    assert response.status == status, response
    error = response.error
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", None, None)
    assert response["Connection"].lower() == "close"
    assert client.wait_close() == "fin"  # and no second answer
    client.close()
    nothing_arrived(place, seen)
    return error["message"]


def fields(*lines):
    """A chat with those field lines as they stand, CRLF included."""
    return CHAT + HOST + b"".join(lines) + LENGTH + b"\r\n" + BODY


def framed(*lines, body=BODY):
    """The same without a Content-Length of its own."""
    return CHAT + HOST + b"".join(lines) + b"\r\n" + body


def chunked(body):
    return framed(b"Transfer-Encoding: chunked\r\n", body=body)


REFUSED = {
    # framing
    "two Content-Length": framed(LENGTH, b"Content-Length: 14\r\n"),
    "two equal Content-Length": framed(LENGTH, LENGTH),
    "two in one Content-Length": framed(b"Content-Length: 13, 13\r\n"),
    "Content-Length in other case": framed(LENGTH, b"content-length: 13\r\n"),
    "Content-Length +13": framed(b"Content-Length: +13\r\n"),
    "Content-Length -1": framed(b"Content-Length: -1\r\n"),
    "Content-Length 0x0d": framed(b"Content-Length: 0x0d\r\n"),
    "Content-Length 1 3": framed(b"Content-Length: 1 3\r\n"),
    "Content-Length 13.0": framed(b"Content-Length: 13.0\r\n"),
    "Content-Length 13;": framed(b"Content-Length: 13;\r\n"),
    "Content-Length empty": framed(b"Content-Length:\r\n"),
    "Content-Length 2^63": framed(b"Content-Length: 9223372036854775808\r\n"),
    "Content-Length 2^64 + 13": framed(b"Content-Length: 18446744073709551629\r\n"),
    "Content-Length of 40 digits": framed(b"Content-Length: " + b"9" * 40 + b"\r\n"),
    "Content-Length and Transfer-Encoding": framed(LENGTH, b"Transfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"),
    "Transfer-Encoding and Content-Length": framed(b"Transfer-Encoding: chunked\r\n", LENGTH, body=b"0\r\n\r\n"),
    "Transfer-Encoding empty and Content-Length": framed(b"Transfer-Encoding:\r\n", LENGTH),
    "Transfer-Encoding twice": framed(b"Transfer-Encoding: chunked\r\n" * 2, body=b"0\r\n\r\n"),
    "TE gzip, chunked": framed(b"Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"),
    "TE chunked, identity": framed(b"Transfer-Encoding: chunked, identity\r\n", body=b"0\r\n\r\n"),
    "TE chunked, chunked": framed(b"Transfer-Encoding: chunked, chunked\r\n", body=b"0\r\n\r\n"),
    "TE identity": framed(b"Transfer-Encoding: identity\r\n"),
    "TE identity with Content-Length": framed(b"Transfer-Encoding: identity\r\n", LENGTH),
    "TE gzip": framed(b"Transfer-Encoding: gzip\r\n"),
    "TE xchunked": framed(b"Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n"),
    "TE chunkedx": framed(b"Transfer-Encoding: chunkedx\r\n", body=b"0\r\n\r\n"),
    "TE quoted": framed(b'Transfer-Encoding: "chunked"\r\n', body=b"0\r\n\r\n"),
    "TE with a parameter": framed(b"Transfer-Encoding: chunked;q=1\r\n", body=b"0\r\n\r\n"),
    "TE with a vertical tab": framed(b"Transfer-Encoding: \x0bchunked\r\n", body=b"0\r\n\r\n"),
    "TE with a comma": framed(b"Transfer-Encoding: ,chunked\r\n", body=b"0\r\n\r\n"),
    "TE in HTTP/1.0": b"POST /v1/chat/completions HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # lines
    "bare LF after the request line": b"POST /v1/chat/completions HTTP/1.1\n" + HOST + LENGTH + b"\r\n" + BODY,
    "bare LF after a field": CHAT + b"Host: router.test\n" + LENGTH + b"\r\n" + BODY,
    "bare LF as the blank line": CHAT + HOST + LENGTH + b"\n" + BODY,
    "bare LF everywhere": fields().replace(b"\r\n", b"\n"),
    "bare CR in a value": fields(b"X: a\rb\r\n"),
    "bare CR and a field": fields(b"X: a\rContent-Length: 5\r\n"),
    "CR CR LF": fields(b"X: a\r\r\n"),
    "bare CR in the request line": b"POST /v1/chat/completions\rHTTP/1.1\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "obs-fold": fields(b"X: a\r\n b\r\n"),
    "obs-fold by a tab": fields(b"X: a\r\n\tb\r\n"),
    "obs-fold in Content-Length": framed(b"Content-Length:\r\n 13\r\n"),
    "obs-fold in Transfer-Encoding": framed(b"Transfer-Encoding:\r\n chunked\r\n", body=b"0\r\n\r\n"),
    "blank before the first field": CHAT + b" X: a\r\n" + HOST + LENGTH + b"\r\n" + BODY,
    "a line of blanks": fields(b"  \r\n"),
    "space before the colon": fields(b"X : a\r\n"),
    "tab before the colon": fields(b"X\t: a\r\n"),
    "space before the colon of Content-Length": framed(b"Content-Length : 13\r\n"),
    "space before the colon of Transfer-Encoding": framed(b"Transfer-Encoding : chunked\r\n", LENGTH),
    "no colon": fields(b"X-Nothing\r\n"),
    "empty name": fields(b": a\r\n"),
    "odd name": fields(b"X(Y): a\r\n"),
    "name with a blank": fields(b"X Y: a\r\n"),
    "name that is not ASCII": fields(b"X\xe9: a\r\n"),
    "NUL in a name": fields(b"X\0Y: a\r\n"),
    "NUL in a value": fields(b"X: a\0b\r\n"),
    "control byte in a value": fields(b"X: a\x01b\r\n"),
    "escape in a value": fields(b"X: \x1b[31m\r\n"),
    "DEL in a value": fields(b"X: a\x7f\r\n"),
    "two empty lines before": b"\r\n\r\n" + fields(),
    # request line
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/1.2": b"GET /health HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.0": b"GET /health HTTP/3.0\r\n" + HOST + b"\r\n",
    "HTTP/01.1": b"GET /health HTTP/01.1\r\n" + HOST + b"\r\n",
    "HTTP/1.1 with more": b"GET /health HTTP/1.1x\r\n" + HOST + b"\r\n",
    "http/1.1": b"GET /health http/1.1\r\n" + HOST + b"\r\n",
    "RTSP/1.0": b"GET /health RTSP/1.0\r\n" + HOST + b"\r\n",
    "two spaces": b"GET  /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "two spaces before the version": b"GET /health  HTTP/1.1\r\n" + HOST + b"\r\n",
    "space after the version": b"GET /health HTTP/1.1 \r\n" + HOST + b"\r\n",
    "space before the method": b" GET /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "tab for a space": b"GET\t/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "no target": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "no slash": b"GET health HTTP/1.1\r\n" + HOST + b"\r\n",
    "star with GET": b"GET * HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": b"GET /health#x HTTP/1.1\r\n" + HOST + b"\r\n",
    "space in the target": b"GET /hea lth HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the target": b"GET /health?\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "control byte in the target": b"GET /health?\x02 HTTP/1.1\r\n" + HOST + b"\r\n",
    "DEL in the target": b"GET /health?\x7f HTTP/1.1\r\n" + HOST + b"\r\n",
    "quote in the target": b'GET /health?" HTTP/1.1\r\n' + HOST + b"\r\n",
    "angle in the target": b"GET /health?<x> HTTP/1.1\r\n" + HOST + b"\r\n",
    "braces in the target": b"GET /health?{x} HTTP/1.1\r\n" + HOST + b"\r\n",
    "user in an absolute target": b"GET http://user@h/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "other scheme": b"GET ftp://h/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "lower case method": b"get /health HTTP/1.1\r\n" + HOST + b"\r\n",
    "TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
    # Host
    "no Host": CHAT + LENGTH + b"\r\n" + BODY,
    "two Hosts": fields(b"Host: other.test\r\n"),
    "two equal Hosts": fields(HOST),
    "Host with a path": CHAT + b"Host: a/b\r\n" + LENGTH + b"\r\n" + BODY,
    "Host with a user": CHAT + b"Host: u@a\r\n" + LENGTH + b"\r\n" + BODY,
    "Host with a blank": CHAT + b"Host: a b\r\n" + LENGTH + b"\r\n" + BODY,
    "Host with a comma": CHAT + b"Host: a,b\r\n" + LENGTH + b"\r\n" + BODY,
    "Host with a bad port": CHAT + b"Host: a:x\r\n" + LENGTH + b"\r\n" + BODY,
    "Host with a large port": CHAT + b"Host: a:99999\r\n" + LENGTH + b"\r\n" + BODY,
    "Host with half a bracket": CHAT + b"Host: [::1\r\n" + LENGTH + b"\r\n" + BODY,
    # Connection names what it must not
    "Connection: content-length": fields(b"Connection: Content-Length\r\n"),
    "Connection: host": fields(b"Connection: close, Host\r\n"),
    "Connection: authorization": fields(b"Connection: Authorization\r\n", b"Authorization: Bearer x\r\n"),
    "Connection: x-api-key": fields(b"Connection: X-Api-Key\r\n", b"X-Api-Key: x\r\n"),
    "Connection: content-type": fields(b"Connection: Content-Type\r\n"),
    "Connection: transfer-encoding": framed(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"),
    "Connection: x-forwarded-for": fields(b"Connection: X-Forwarded-For\r\n"),
    "Connection: x-request-id": fields(b"Connection: X-Request-Id\r\n"),
    "Connection that is no list": fields(b"Connection: a b\r\n"),
    # chunks
    "chunk size zz": chunked(b"zz\r\n"),
    "chunk size -1": chunked(b"-1\r\n"),
    "chunk size 0x5": chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size empty": chunked(b"\r\nhello\r\n0\r\n\r\n"),
    "chunk size with a blank before": chunked(b" d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size of 2^64": chunked(b"10000000000000000\r\n"),
    "chunk size of 2^68 + 13": chunked(b"10000000000000000d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk longer than told": chunked(b"c\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size line ends in LF": chunked(b"d\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk ends in LF": chunked(b"d\r\n" + BODY + b"\n0\r\n\r\n"),
    "chunk size line ends in CR": chunked(b"d\r" + BODY + b"\r\n0\r\n\r\n"),
    "two valued chunk extensions": chunked(b"d;a=1;b=2\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "control byte in a chunk extension": chunked(b"d;a=\x01\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "LF in a chunk extension": chunked(b"d;a=\n5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk extension without end": chunked(b"d;" + b"a" * 20_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "extensions on every chunk without end": chunked(b"1;aaaaaaaaaaaaaaaaaaaaaaaa\r\n \r\n" * 2000),
    "trailers without end": chunked(chunk(BODY) + b"0\r\n" + b"X-Trailer: and more\r\n" * 1000),
    "Content-Length in a trailer": chunked(chunk(BODY) + b"0\r\nContent-Length: 5\r\n\r\n"),
    "Transfer-Encoding in a trailer": chunked(chunk(BODY) + b"0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "Host in a trailer": chunked(chunk(BODY) + b"0\r\nHost: other\r\n\r\n"),
    "obs-fold in a trailer": chunked(chunk(BODY) + b"0\r\nX: a\r\n b\r\n\r\n"),
    "NUL in a trailer": chunked(chunk(BODY) + b"0\r\nX: a\0\r\n\r\n"),
    "bare LF in a trailer": chunked(chunk(BODY) + b"0\r\nX: a\n\r\n"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(place, case):
    assert refused(place, REFUSED[case])


@pytest.mark.parametrize("case, says", [
    ("two Content-Length", "Content-Length"), ("TE gzip", "Transfer-Encoding"), ("no Host", "Host"), ("HTTP/2.0", "HTTP/1.1"),
    ("obs-fold", "fold"), ("bare LF after a field", "LF"), ("space before the colon", "colon"), ("TLS handshake", "TLS"), ("chunk size zz", "chunk"),
])
def test_the_message_says_what_was_wrong(place, case, says):
    assert says in refused(place, REFUSED[case])


def test_the_message_is_a_sentence(place):
    for case in ("NUL in a value", "no Host", "bare CR in a value", "chunk size zz", "Content-Length -1"):
        message = refused(place, REFUSED[case])
        assert "HTTP" in message and message[0].isupper() and message.endswith("."), message


@pytest.mark.parametrize("case", ["two Content-Length", "obs-fold", "bare LF as the blank line", "chunk longer than told", "NUL in a value",
                                  "Content-Length and Transfer-Encoding", "two valued chunk extensions", "Content-Length in a trailer"])
def test_refused_byte_by_byte_too(place, case):
    """The same verdict, however the bytes come."""
    up, router = place
    seen = len(up.requests)
    client = router.connect()
    for byte in REFUSED[case]:
        try:
            client.send(bytes([byte]))
        except (ConnectionError, OSError):
            break
    response = client.read_response()
    assert response.status == 400 and response.error["code"] is None
    client.close()
    nothing_arrived(place, seen)


@pytest.mark.parametrize("case", ["two Content-Length", "no Host", "HTTP/2.0", "chunk size zz"])
def test_a_good_request_before_a_bad_one_is_answered(place, case):
    up, router = place
    client = router.connect()
    client.send(request_bytes(body=chat_body(user="good")) + REFUSED[case])
    assert client.read_response().status == 200 and up.last.json()["user"] == "good"
    assert client.read_response().status == 400
    assert client.wait_close() == "fin"
    client.close()


@pytest.mark.parametrize("start", [b"\x00\x01\x02\x03", b"\xff" * 100, b"GET", b"\r", b"HELO there\r\n", b"{\"model\":\"m\"}\r\n\r\n"])
def test_no_http_at_all(place, start):
    up, router = place
    client = router.connect()
    client.send(start).half_close()
    try:
        assert client.read_response().status == 400
    except (PeerClosed, Truncated):
        pass  # what is no request yet, and never will be, is owed no answer
    client.close()
    assert router.get("/health").status == 200


# what is sound


SOUND = {
    "empty value": fields(b"X:\r\n"),
    "blanks around a value": fields(b"X: \t a \t \r\n"),
    "no blank after the colon": fields(b"X:a\r\n"),
    "Latin-1 in a value": fields(b"X: \xe9\xff\r\n"),
    "one empty line before": b"\r\n" + fields(),
    "Content-Length with zeros before": framed(b"Content-Length: 0013\r\n"),
    "chunk size in capitals with zeros": chunked(b"000D\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "several zeros at the end": chunked(chunk(BODY) + b"000\r\n\r\n"),
    "one valued extension": chunked(b"d;a=1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "trailers": chunked(chunk(BODY) + b"0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"),
    "Host with a port": CHAT + b"Host: router.test:8080\r\n" + LENGTH + b"\r\n" + BODY,
    "Host with an address": CHAT + b"Host: [::1]:8080\r\n" + LENGTH + b"\r\n" + BODY,
    "Connection with its own words": fields(b"Connection: keep-alive, X-Hop\r\n", b"X-Hop: 1\r\n"),
    "lower case names": (CHAT + HOST + LENGTH + b"\r\n").lower().replace(b"post", b"POST").replace(b"http/", b"HTTP/") + BODY,
}


@pytest.mark.parametrize("case", SOUND)
def test_sound(place, case):
    up, router = place
    client = router.connect()
    client.send(SOUND[case])
    assert client.read_response().status == 200
    req = up.last
    assert req.body == BODY and req["Content-Length"] == "13" and not req.all("Transfer-Encoding")
    assert b"\r\n " not in req.head_raw and not req.names & {"x-sum", "x-more", "x-hop", "trailer"}
    client.close()


# methods


@pytest.mark.parametrize("method, target", [("CONNECT", "other.test:443"), ("CONNECT", "127.0.0.1:22"), ("TRACE", "/v1/chat/completions"), ("TRACE", "/health")])
def test_connect_and_trace_are_405(place, method, target):
    up, router = place
    seen = len(up.requests)
    client = router.connect()
    response = client.request(method, target, headers=[("Max-Forwards", "1"), ("X-Secret", "echo-me")]).read_response()
    assert response.status == 405 and response.error["code"] == "method_not_allowed" and response["Allow"]
    assert b"echo-me" not in response.body
    assert client.request("GET", "/health").read_response().status == 200  # no tunnel: the next request is one
    client.close()
    nothing_arrived(place, seen)


# targets


@pytest.mark.parametrize("authority", ["http://router.test", "http://elsewhere.test:81", "HTTP://10.0.0.1", "http://[::1]:9"])
def test_of_an_absolute_target_the_path_counts(place, authority):
    up, router = place
    assert router.get(authority + "/health").body.strip() == b"ok"
    assert router.chat(target=authority + "/v1/chat/completions?a=b").status == 200
    assert up.last.target == "/v1/chat/completions?a=b" and up.last["Host"] == up.authority
    assert router.get(authority).status == 404
    assert router.get(authority + "/v1/models/").error["code"] == "unknown_url"


def test_options_star_is_no_crash(place):
    response = place[1].request("OPTIONS", "*")
    assert 200 <= response.status < 500


UPGRADES = {
    "websocket": [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")],
    "h2c": [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")],
    "TLS": [("Connection", "Upgrade"), ("Upgrade", "TLS/1.2, HTTP/1.1")],
    "unannounced": [("Upgrade", "h2c")],
}


@pytest.mark.parametrize("offer", UPGRADES)
def test_an_upgrade_is_ignored_and_never_forwarded(place, offer):
    up, router = place
    client = router.connect()
    client.request(body=chat_body(), headers=UPGRADES[offer])
    assert client.read_response().status == 200
    assert not up.last.names & {"upgrade", "http2-settings", "connection"}
    assert client.request("GET", "/health", headers=UPGRADES[offer]).read_response().status == 200
    assert client.request("GET", "/health").read_response().status == 200
    client.close()


# paths


@pytest.mark.parametrize("path", [
    "/", "/v1", "/v1/", "//v1/models", "/v1//models", "/v1/./models", "/v1/../v1/models", "/v1/models/", "/v1%2fmodels", "/v1%2Fmodels", "/%761/models",
    "/V1/models", "/v1/Models", "/v1/models%20", "/v1/models;x", "/v1/models%00", "/v1/modelsx", "/health/", "/./health", "/%68ealth",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/metrics/", "/slots", "/props", "/api/pull", "/api/delete", "/server/shutdown", "/admin/drain",
])
def test_paths_are_compared_byte_for_byte(place, path):
    up, router = place
    seen = len(up.requests)
    for response in (router.get(path), router.chat(target=path), router.chat(target=path + "?/v1/chat/completions")):
        document = response.json()
        assert response.status == 404
        assert path.startswith("/api/") or document["error"]["code"] == "unknown_url"
    nothing_arrived(place, seen)


@pytest.mark.parametrize("path", [
    "//v1/chat/completions", "/v1//chat/completions", "/v1/./chat/completions", "/v1/x/../chat/completions", "/v1/chat/completions/",
    "/v1/chat%2fcompletions", "/v1/chat/completions%3f", "/v1/chat/completions;a=b", "/V1/chat/completions", "/v1/chat/completions.",
])
def test_no_path_is_tidied_into_a_routed_one(place, path):
    up, router = place
    seen = len(up.requests)
    assert router.chat(target=path).error["code"] == "unknown_url"
    nothing_arrived(place, seen)


# the endpoint is no more trusted than the client


BAD_ANSWERS = {
    "Content-Length and Transfer-Encoding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two equal Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "Content-Length that overflows": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nok",
    "Transfer-Encoding twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "status 099": b"HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
    "status 600": b"HTTP/1.1 600 High\r\nContent-Length: 0\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
    "LF in a header": b"HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "empty line before": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a million headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_a_doubtful_answer_is_502_and_its_connection_never_used_again(lab, case):
    up, router, client = lab.scripted_pair()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    try:
        conn.tx(BAD_ANSWERS[case])
    except (ConnectionError, OSError):
        pass  # refused before its end
    response = client.read_response()
    assert response.status == 502 and response.error["code"] == "upstream_error"
    conn.wait_close()
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"clean")
    assert client.read_response().body == b"clean"


def test_an_answer_before_any_request_is_nobodys(lab):
    """Bytes that wait on a new connection belong to no request."""
    up, router, client = lab.scripted_pair()
    client.chat(user="one")
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, body=b"one")
    assert client.read_response().body == b"one"
    conn.tx("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
    conn.wait_close()
    client.chat(user="two")
    conn = up.accept()
    assert conn.rxreq().json()["user"] == "two"
    conn.txresp(200, body=b"two")
    assert client.read_response().body == b"two"
