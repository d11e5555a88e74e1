"""Contract 6: what of a head goes through, what is dropped, what is set; and X-Request-Id."""
import re

import pytest

from harness import chat_body, request_bytes

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
KEY, ENDPOINT_KEY = "sk-client-right", "sk-endpoint-own"
HOP = [("Connection", "keep-alive, X-Hop, x-other-hop"), ("X-Hop", "1"), ("X-Other-Hop", "2"), ("Keep-Alive", "timeout=5"),
       ("Proxy-Connection", "keep-alive"), ("TE", "trailers"), ("Trailer", "X-Sum"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQ")]
HOP_NAMES = {name.lower() for name, _ in HOP} | {"proxy-authorization", "proxy-authenticate", "transfer-encoding", "expect"}


@pytest.fixture(scope="module")
def place(shared):
    up = shared.upstream()
    return up, shared.router(up)


@pytest.fixture(scope="module")
def trusting(shared):
    """The tests' own address is a proxy to be trusted, and so is 10.0.0.0/8."""
    up = shared.upstream()
    return up, shared.router(up, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"])


def received(place, headers=(), **how):
    """The request as the endpoint got it."""
    up, router = place
    response = router.post("/v1/chat/completions", chat_body(), headers, **how)
    assert response.status == 200, response
    return up.last


def answered(lab, headers, status=200, **config):
    """The response as the client got it."""
    up, router, client = lab.scripted_pair(**config)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(status, headers, b"{}")
    return client.read_response(), client, router


# to the endpoint


def test_hop_by_hop_headers_go_no_further(place):
    client = place[1].connect()  # without the harness's own Connection: close
    client.request(body=chat_body(), headers=[*HOP, ("Proxy-Authorization", "Basic eDp5")])
    assert client.read_response().status == 200
    assert not place[0].last.names & HOP_NAMES
    client.close()


def test_end_to_end_headers_pass_in_order_as_they_stood(place):
    sent = [("User-Agent", "OpenAI/Python 1.2"), ("ACCEPT", "*/*"), ("x-lower", "1"), ("X-Odd!#$%&'*+.^_`|~", "v"), ("X-Stainless-Lang", "python"),
            ("X-Twice", "a"), ("OpenAI-Beta", "x=1, y=2"), ("X-Twice", "b"), ("X-Empty", ""), ("X-Latin", "caf\xe9 \xff"), ("anthropic-version", "2023-06-01")]
    got = received(place, sent)
    names = {name for name, _ in sent}
    assert [pair for pair in got.headers if pair[0] in names] == sent


def test_the_value_is_trimmed_and_nothing_else(place):
    client = place[1].connect()
    body = chat_body()
    client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-A: \t a  b\t c \t\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert client.read_response().status == 200
    assert place[0].last["X-A"] == "a  b\t c"
    client.close()


def test_host_is_the_endpoints(place):
    got = received(place, host="router.example:9090")
    assert got["Host"] == place[0].authority and got["X-Forwarded-Host"] == "router.example:9090"


def test_host_of_a_named_endpoint_and_of_a_socket(lab):
    up, local = lab.upstream(), lab.upstream(unix=lab.directory / "e.sock")
    router = lab.router(pools=[{"name": "a", "models": ["a"], "endpoints": [f"http://localhost:{up.port}/base"]},
                               {"name": "b", "models": ["b"], "endpoints": [local]}])
    assert router.chat("a").status == 200 and up.last["Host"] == f"localhost:{up.port}"
    assert router.chat("b").status == 200 and local.last["Host"]


def test_the_body_keeps_its_type_and_gets_our_framing(place):
    got = received(place)  # with the harness's own Content-Type
    assert got["Content-Type"] == "application/json" and got["Content-Length"] == str(len(got.body))
    assert got.version == "1.1" and not got.all("Transfer-Encoding")


def test_an_http_10_client_is_no_http_10_to_the_endpoint(place):
    got = received(place, version="1.0")
    assert got.version == "1.1"


# forwarded


def test_an_untrusted_peers_forwarded_headers_are_replaced(place):
    got = received(place, [("X-Forwarded-For", "1.2.3.4"), ("x-forwarded-for", "5.6.7.8"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "evil.test"),
                           ("Forwarded", "for=1.2.3.4")], host="router.test")
    assert got["X-Forwarded-For"] == "127.0.0.1"
    assert got["X-Forwarded-Proto"] == "http"
    assert got["X-Forwarded-Host"] == "router.test"
    assert not got.all("Forwarded")


def test_a_trusted_peers_forwarded_headers_are_kept_and_added_to(trusting):
    got = received(trusting, [("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "chat.example")])
    assert ", ".join(got.all("X-Forwarded-For")) == "1.2.3.4, 127.0.0.1"
    assert got["X-Forwarded-Proto"] == "https"
    assert got["X-Forwarded-Host"] == "chat.example"


def test_a_trusted_peers_list_is_kept_in_order(trusting):
    got = received(trusting, [("X-Forwarded-For", "1.1.1.1, 2.2.2.2"), ("X-Forwarded-For", "10.0.0.3")])
    assert re.split(r", *", ", ".join(got.all("X-Forwarded-For"))) == ["1.1.1.1", "2.2.2.2", "10.0.0.3", "127.0.0.1"]


def test_a_trusted_peer_that_says_nothing(trusting):
    got = received(trusting, host="router.test")
    assert (got["X-Forwarded-For"], got["X-Forwarded-Proto"], got["X-Forwarded-Host"]) == ("127.0.0.1", "http", "router.test")


@pytest.mark.parametrize("told, believed", [
    ([], "127.0.0.1"), (["1.2.3.4"], "1.2.3.4"), (["9.9.9.9, 1.2.3.4, 10.0.0.7"], "1.2.3.4"), (["9.9.9.9", "1.2.3.4"], "1.2.3.4"),
    (["2001:db8::1"], "2001:db8::1"), (["nonsense"], "127.0.0.1"), (['"}\\'], "127.0.0.1"),
])
def test_a_trusted_proxys_x_forwarded_for_is_believed(trusting, told, believed):
    """The nearest address that is no trusted proxy is the client of the access line."""
    up, router = trusting
    wanted = f"believe-{abs(hash(tuple(told)))}"
    assert router.chat(headers=[("X-Request-Id", wanted), *(("X-Forwarded-For", value) for value in told)]).status == 200
    assert router.access_lines(1, request_id=wanted)[0]["client"] == believed


def test_an_untrusted_peers_x_forwarded_for_is_not_believed(place):
    assert place[1].chat(headers=[("X-Request-Id", "liar"), ("X-Forwarded-For", "1.2.3.4")]).status == 200
    assert place[1].access_lines(1, request_id="liar")[0]["client"] == "127.0.0.1"


def test_a_client_of_a_unix_socket_has_no_address(lab):
    up = lab.upstream()
    router = lab.router(up, listen=(f"unix:{lab.directory}/r.sock",))
    client = lab.client(router)
    client.chat(headers=[("X-Forwarded-For", "1.2.3.4")])
    assert client.read_response().status == 200
    assert up.last["X-Forwarded-Proto"] == "http" and "1.2.3.4" not in str(up.last.headers)


# X-Request-Id


@pytest.mark.parametrize("wanted", ["a", "A-z.09_~:/+=@-", "x" * 128, "550e8400-e29b-41d4-a716-446655440000"])
def test_a_good_request_id_is_kept(place, wanted):
    up, router = place
    response = router.chat(headers=[("x-request-id", wanted)])
    assert response["X-Request-Id"] == wanted == up.last["X-Request-Id"]
    assert router.access_lines(1, request_id=wanted)


@pytest.mark.parametrize("bad", ["", "x" * 129, "a b", "a,b", 'a"b', "a\\b", "{a}", "a;b", "caf\xe9", "<a>", "a%20b", "a#b"])
def test_an_odd_request_id_is_replaced(place, bad):
    up, router = place
    response = router.chat(headers=[("X-Request-Id", bad)])
    assert response.status == 200 and UUID.fullmatch(response["X-Request-Id"])
    assert up.last["X-Request-Id"] == response["X-Request-Id"]


def test_two_request_ids_are_one(place):
    up, router = place
    response = router.chat(headers=[("X-Request-Id", "one"), ("X-Request-Id", "two")])
    assert up.last["X-Request-Id"] == response["X-Request-Id"]  # each read as the only one


def test_every_request_gets_an_id_of_its_own(place):
    client = place[1].connect()
    ids = set()
    for _ in range(100):
        ids.add(client.request("GET", "/health").read_response()["X-Request-Id"])
    assert len(ids) == 100 and all(UUID.fullmatch(i) for i in ids)
    client.close()


def test_the_endpoints_own_id_is_replaced(lab):
    response, _, _ = answered(lab, [("X-Request-Id", "mine"), ("x-request-id", "and mine")])
    assert UUID.fullmatch(response["X-Request-Id"])


OWN = [("GET", "/health"), ("GET", "/ready"), ("GET", "/v1/models"), ("GET", "/models"), ("GET", "/v1/models/m"), ("GET", "/api/tags"), ("GET", "/api/version"),
       ("HEAD", "/health"), ("HEAD", "/v1/models"), ("GET", "/nowhere"), ("DELETE", "/v1/models"), ("TRACE", "/health"), ("GET", "/v1/models/none")]


@pytest.mark.parametrize("method, target", OWN)
def test_it_comes_back_on_our_own_answers(place, method, target):
    assert place[1].request(method, target, headers=[("X-Request-Id", "own-1")])["X-Request-Id"] == "own-1"
    assert UUID.fullmatch(place[1].request(method, target)["X-Request-Id"])


@pytest.mark.parametrize("raw, status", [
    (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Request-Id: e\r\nContent-Length: 1\r\n\r\n{", 400),
    (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Request-Id: e\r\nContent-Length: 1000000000\r\n\r\n", 413),
    (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Request-Id: e\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\n{", 415),
    (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Request-Id: e\r\nExpect: x\r\nContent-Length: 1\r\n\r\n{", 417),
    (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nX-Request-Id: e\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
])
def test_it_comes_back_on_errors(place, raw, status):
    client = place[1].connect()
    client.send(raw)
    response = client.read_response()
    assert (response.status, response["X-Request-Id"]) == (status, "e")
    client.close()


@pytest.mark.parametrize("raw, status", [(b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000, 431)])
def test_an_error_of_the_head_has_an_id_made_here(place, raw, status):
    client = place[1].connect()
    client.send(raw)
    response = client.read_response()
    assert response.status == status and UUID.fullmatch(response["X-Request-Id"])
    client.close()


# from the endpoint


def test_hop_by_hop_headers_of_an_answer_go_no_further(lab):
    hop = [(name, value) for name, value in HOP if name != "TE"] + [("Proxy-Authenticate", "Basic")]
    response, client, _ = answered(lab, hop)
    assert not response.names & (HOP_NAMES - {"connection", "keep-alive"})
    assert "hop" not in (response["Connection"] or "").lower()
    assert "timeout=5" not in str(response.headers)
    assert client.request("GET", "/health").read_response().status == 200


def test_an_endpoint_that_closes_does_not_close_the_client(lab):
    response, client, _ = answered(lab, [("Connection", "close")])
    assert (response["Connection"] or "keep-alive").lower() == "keep-alive"
    assert client.request("GET", "/health").read_response().status == 200


def test_end_to_end_headers_of_an_answer_pass_in_order(lab):
    sent = [("Content-Type", "application/json"), ("Set-Cookie", "a=1"), ("openai-processing-ms", "12"), ("Set-Cookie", "b=2; Path=/"), ("Server", "llama.cpp"),
            ("X-Empty", ""), ("x-ratelimit-remaining", "9"), ("ETag", '"x"'), ("X-Latin", "caf\xe9"), ("Date", "Thu, 01 Jan 1970 00:00:00 GMT")]
    response, _, _ = answered(lab, sent)
    names = {name for name, _ in sent}
    assert [pair for pair in response.headers if pair[0] in names] == sent


def test_our_own_answers_have_a_date_and_a_type(place):
    for target, kind in (("/health", "text/plain"), ("/v1/models", "application/json"), ("/nowhere", "application/json")):
        response = place[1].get(target)
        assert response["Content-Type"].startswith(kind) and response["Date"].endswith(" GMT")
        assert response.framing == "length"


def test_x_accel_buffering_on_event_streams_only(lab):
    up, router, client = lab.scripted_pair()
    for kind, wanted in (("text/event-stream", "no"), ("text/event-stream; charset=utf-8", "no"), ("application/json", None)):
        client.chat()
        conn = up.conns[0] if up.conns else up.accept()
        conn.rxreq()
        conn.txresp(200, [("Content-Type", kind)], b"x")
        assert client.read_response()["X-Accel-Buffering"] == wanted


# credentials on their way


CREDENTIALS = [("Authorization", "Bearer sk-someone"), ("x-api-key", "sk-someone"), ("Cookie", "session=1")]


def test_without_keys_credentials_pass(place):
    got = received(place, CREDENTIALS)
    assert (got["Authorization"], got["x-api-key"], got["Cookie"]) == ("Bearer sk-someone", "sk-someone", "session=1")


@pytest.mark.parametrize("given", [[("Authorization", f"Bearer {KEY}"), ("Cookie", "session=1")], [("X-API-KEY", KEY), ("Cookie", "session=1")],
                                   [("Authorization", f"Bearer {KEY}"), ("x-api-key", KEY)]])
def test_with_api_keys_no_credential_reaches_an_endpoint(lab, given):
    up = lab.upstream()
    assert lab.router(up, api_keys=[KEY]).chat(headers=given).status == 200
    assert not up.last.names & {"authorization", "x-api-key", "cookie"} and KEY not in str(up.last.headers)


def test_an_endpoints_key_is_its_only_credential(lab):
    up = lab.upstream()
    router = lab.router({"url": up, "api_key": ENDPOINT_KEY})
    assert router.chat(headers=CREDENTIALS).status == 200
    assert up.last["Authorization"] == f"Bearer {ENDPOINT_KEY}"
    assert not up.last.names & {"x-api-key", "cookie"}


def test_each_endpoint_gets_its_own_key(lab):
    a, b = lab.upstream(), lab.upstream()
    router = lab.router(pools=[{"name": "a", "models": ["a"], "endpoints": [{"url": a, "api_key": "key-a"}]},
                               {"name": "b", "models": ["b"], "endpoints": [{"url": b, "api_key": "key-b"}]}])
    for model, up in (("a", a), ("b", b)):
        assert router.chat(model).status == 200
        assert up.last["Authorization"] == f"Bearer key-{model}"


def test_probes_and_model_lists_carry_the_endpoints_key(lab):
    up = lab.upstream(models=["m"])
    lab.router({"url": up, "api_key": ENDPOINT_KEY}, probes=True)
    up.wait_for(lambda: {"/health", "/v1/models"} <= {r.path for r in up.requests}, "a probe and a model list")
    assert all(r["Authorization"] == f"Bearer {ENDPOINT_KEY}" and r["Host"] == up.authority for r in up.requests)


def test_probes_carry_no_key_where_there_is_none(lab):
    up = lab.upstream(models=["m"])
    lab.router(up, probes=True, api_keys=[KEY])
    up.wait_for(lambda: {"/health", "/v1/models"} <= {r.path for r in up.requests}, "a probe and a model list")
    assert not any(r.all("Authorization") for r in up.requests)


def test_a_redirect_or_401_of_an_endpoint_is_passed_on(lab):
    response, _, _ = answered(lab, [("WWW-Authenticate", "Bearer"), ("Location", "http://inside/")], 401)
    assert response.status == 401 and response["WWW-Authenticate"] == "Bearer" and response["Location"] == "http://inside/"


def test_pipelined_requests_keep_their_headers_apart(place):
    up, router = place
    client = router.connect()
    seen = len(up.requests)
    client.send(b"".join(request_bytes(body=chat_body(user=f"u{i}"), headers=[("X-Mine", f"v{i}"), ("X-Request-Id", f"pipe-{i}")]) for i in range(20)))
    assert [client.read_response()["X-Request-Id"] for _ in range(20)] == [f"pipe-{i}" for i in range(20)]
    assert [(r["X-Mine"], r.json()["user"]) for r in up.requests[seen:]] == [(f"v{i}", f"u{i}") for i in range(20)]
    client.close()
