"""Who may ask: api_keys, admin_keys, Basic, the Host rule of admin_listen, CORS; and that no key ever shows."""
import base64

import pytest

from harness import RawClient, chat_body, run_router
from harness.upstream import respond_openai

KEY, SECOND, ADMIN_KEY = "sk-client-right", "sk-client-second", "sk-admin-right"
APP, OTHER = "https://app.example", "https://evil.example"
LOCKED = ("/ui", "/status", "/metrics")  # what a browser opens
PREFLIGHT = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os")]


def bearer(key):
    return [("Authorization", f"Bearer {key}")]


def basic(key, user="any"):
    return [("Authorization", "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode())]


@pytest.fixture(scope="module")
def keyed(shared):
    """Client keys on one address, admin keys on the other."""
    router = shared.router(shared.upstream(), api_keys=[KEY, SECOND], admin_listen="127.0.0.1:0", admin_keys=[ADMIN_KEY])
    router.wait_listening(2)
    return router


def on_admin(router, method, target, headers=(), **how):
    client = RawClient(router.addresses[1])
    try:
        client.request(method, target, None, [("Connection", "close"), *headers], **how)
        return client.read_response(head=method == "HEAD")
    finally:
        client.close()


# api_keys


@pytest.mark.parametrize("headers", [
    bearer(KEY), bearer(SECOND), [("authorization", f"bearer {KEY}")], [("Authorization", f"BEARER   {KEY}")], [("x-api-key", KEY)], [("X-Api-Key", SECOND)],
], ids=str)
def test_a_right_key_opens(keyed, headers):
    assert keyed.chat(headers=headers).status == 200
    assert keyed.get("/v1/models", headers).status == 200


@pytest.mark.parametrize("headers", [
    [], bearer("sk-wrong"), bearer(KEY[:-1]), bearer(KEY + "x"), bearer(KEY.upper()), bearer(""), bearer(f"{KEY} {SECOND}"), bearer(f"{KEY},{SECOND}"),
    [("Authorization", KEY)], [("Authorization", f"Token {KEY}")], [("Authorization", f"Bearer{KEY}")], [("x-api-key", "")], [("x-api-key", "wrong")],
    [("x-api-key", f"Bearer {KEY}")], [("Cookie", f"key={KEY}")], [("api-key", KEY)], basic(KEY), bearer(ADMIN_KEY),
], ids=str)
def test_anything_else_does_not(keyed, headers):
    for response in (keyed.chat(headers=headers), keyed.get("/v1/models", headers)):
        assert response.status == 401
        assert response.error["code"] == "invalid_api_key" and response["WWW-Authenticate"].startswith("Bearer")
        assert KEY not in response.error["message"] and "wrong" not in response.error["message"]


@pytest.mark.parametrize("method, target", [("GET", "/nowhere"), ("GET", "/"), ("POST", "/v1/load_lora_adapter"), ("DELETE", "/v1/models"), ("GET", "/models"),
                                            ("GET", "/v1/models/m"), ("GET", "/api/version"), ("GET", "/v1/chat/completions"), ("HEAD", "/v1/models"),
                                            ("TRACE", "/v1/models"), ("OPTIONS", "/v1/models"), ("POST", "/health/"), ("GET", "/readyz")])
def test_every_request_needs_a_key(keyed, method, target):
    assert keyed.request(method, target).status == 401
    assert keyed.request(method, target, headers=bearer(KEY)).status != 401


def test_ollama_paths_need_a_key_and_say_so_in_their_shape(keyed):
    for response in (keyed.get("/api/tags"), keyed.post("/api/chat", {"model": "m"})):
        assert response.status == 401 and isinstance(response.json()["error"], str)


@pytest.mark.parametrize("headers", [[], bearer("wrong")])
def test_health_and_ready_need_none(keyed, headers):
    assert keyed.get("/health", headers).status == keyed.get("/ready", headers).status == keyed.request("HEAD", "/health", headers=headers).status == 200


def test_keys_of_a_file(lab):
    path = lab.directory / "keys"
    path.write_text(f"{KEY}\n\n{SECOND}\n")
    router = lab.router(lab.upstream(), api_keys_file=str(path))
    for key in (KEY, SECOND):
        assert router.chat(headers=bearer(key)).status == 200
    for headers in ([], bearer("wrong"), [("x-api-key", "")], bearer(""), bearer(f"{KEY}\\n")):
        assert router.chat(headers=headers).status == 401


def test_a_key_file_that_is_not_there_starts_no_open_router(lab):
    (lab.directory / "pools.yaml").write_text("api_keys_file: nowhere\npools:\n  - {name: p, models: [m], endpoints: [\"http://127.0.0.1:1\"]}\n")
    done = run_router("-t", cwd=lab.directory)
    assert done.returncode == 1 and "api_keys_file" in done.stderr


def test_a_401_leaves_the_connection_usable(keyed):
    client = keyed.connect()
    client.request(body=chat_body())
    assert client.read_response().status == 401
    client.request(body=chat_body(), headers=bearer(KEY))
    assert client.read_response().status == 200
    client.close()


# Basic, for browsers


@pytest.mark.parametrize("target", LOCKED)
def test_pages_for_browsers_have_a_basic_challenge(lab, target):
    router = lab.router(lab.upstream(), api_keys=[KEY])
    for headers in ([], basic("wrong"), bearer("wrong")):
        response = router.get(target, headers)
        assert response.status == 401 and response["WWW-Authenticate"].startswith("Basic realm=")
    for headers in (basic(KEY), basic(KEY, ""), basic(KEY, "me"), bearer(KEY), [("x-api-key", KEY)]):
        assert router.get(target, headers).status != 401


@pytest.mark.parametrize("text", ["", "!!!!", "QQ", base64.b64encode(KEY.encode()).decode(), base64.b64encode(f"{KEY}:".encode()).decode(), "QQ==" * 1000])
def test_odd_basic_credentials(lab, text):
    router = lab.router(lab.upstream(), api_keys=[KEY])
    assert router.get("/metrics", [("Authorization", f"Basic {text}")]).status == 401


# admin_listen


def test_admin_keys_count_on_admin_listen(keyed):
    for target in ("/nowhere", "/v1/models", *LOCKED):
        for headers in ([], bearer(KEY), bearer("wrong")):
            assert on_admin(keyed, "GET", target, headers).status == 401
        for headers in (bearer(ADMIN_KEY), [("x-api-key", ADMIN_KEY)]):
            assert on_admin(keyed, "GET", target, headers).status != 401
    assert on_admin(keyed, "GET", "/metrics")["WWW-Authenticate"].startswith("Basic realm=")
    assert on_admin(keyed, "GET", "/status", basic(ADMIN_KEY)).status != 401


def test_admin_listen_has_health_and_ready_and_no_routed_path(keyed):
    assert on_admin(keyed, "GET", "/health").body.strip() == b"ok"
    assert on_admin(keyed, "GET", "/ready").status == 200
    for method, target in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/api/tags"), ("POST", "/api/chat")):
        assert on_admin(keyed, method, target, bearer(ADMIN_KEY)).status == 404


def test_with_admin_listen_its_pages_live_only_there(keyed):
    for target in (*LOCKED, "/admin/drain"):
        assert keyed.get(target, bearer(KEY)).status == 404


def test_with_admin_keys_any_host_will_do(keyed):
    assert on_admin(keyed, "GET", "/health", host="admin.example").status == 200


@pytest.fixture(scope="module")
def open_admin(shared):
    """admin_listen without keys."""
    router = shared.router(shared.upstream(), admin_listen="127.0.0.1:0", api_keys=[KEY])
    router.wait_listening(2)
    return router


@pytest.mark.parametrize("host", ["localhost", "localhost:9091", "LOCALHOST", "127.0.0.1", "127.0.0.1:9091", "10.1.2.3", "[::1]", "[::1]:9091"])
def test_without_admin_keys_an_address_or_localhost_as_host(open_admin, host):
    assert on_admin(open_admin, "GET", "/health", host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost", "127.0.0.1x", "1.2.3", "router.test:9091"])
@pytest.mark.parametrize("target", ["/health", "/metrics", "/nowhere"])
def test_without_admin_keys_any_other_host_is_421(open_admin, host, target):
    response = on_admin(open_admin, "GET", target, host=host)
    assert response.status == 421
    assert response.error["type"] == "invalid_request_error" and "localhost" in response.error["message"]


def test_client_addresses_have_no_host_rule(open_admin):
    assert open_admin.get("/health", host="anything.example").status == 200


# CORS


@pytest.fixture(scope="module")
def cors(shared):
    """An endpoint with CORS of its own, which must not show beside ours."""
    def handler(conn):
        while True:
            req = conn.rxreq()
            if b'"own cors"' in req.body:
                conn.txresp(200, [("Access-Control-Allow-Origin", "*"), ("access-control-allow-origin", "null"), ("Access-Control-Allow-Credentials", "true"),
                                  ("Access-Control-Expose-Headers", "X-Theirs"), ("Vary", "Accept")], b"{}")
            else:
                respond_openai(conn, req)
    return shared.router(shared.upstream(handler), api_keys=[KEY], cors_origins=[APP, "http://localhost:3000"])


@pytest.fixture(scope="module")
def cors_any(shared):
    return shared.router(shared.upstream(), cors_origins=["*"])


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/models", "/api/chat", "/v1/models/x/y", "/health", "/nowhere"])
@pytest.mark.parametrize("origin", [APP, "http://localhost:3000"])
def test_preflight(cors, target, origin):
    response = cors.request("OPTIONS", target, headers=[("Origin", origin), *PREFLIGHT])
    assert response.status == 204 and response.body == b""  # and no key was asked for
    assert response["Access-Control-Allow-Origin"] == origin
    assert "POST" in response["Access-Control-Allow-Methods"] and "GET" in response["Access-Control-Allow-Methods"]
    assert response["Access-Control-Allow-Headers"] == PREFLIGHT[1][1]
    assert "origin" in response["Vary"].lower() and response["X-Request-Id"]


def test_preflight_without_headers_to_ask_for(cors):
    assert cors.request("OPTIONS", "/v1/models", headers=[("Origin", APP), ("Access-Control-Request-Method", "GET")]).status == 204


def test_preflight_leaves_the_connection_usable(cors):
    client = cors.connect()
    for _ in range(2):
        client.request("OPTIONS", "/v1/chat/completions", headers=[("Origin", APP), *PREFLIGHT])
        assert client.read_response().status == 204
        client.request(body=chat_body(), headers=[("Origin", APP), *bearer(KEY)])
        assert client.read_response().status == 200
    client.close()


@pytest.mark.parametrize("origin", [OTHER, "https://app.example.evil.example", "http://app.example", "https://app.example:8443", "null", "https://APP.example"])
def test_another_origin_is_told_nothing(cors, origin):
    response = cors.request("OPTIONS", "/v1/chat/completions", headers=[("Origin", origin), *PREFLIGHT])
    assert not response.all("Access-Control-Allow-Origin") and response.status != 500
    response = cors.chat(headers=[("Origin", origin), *bearer(KEY)])
    assert response.status == 200 and not response.all("Access-Control-Allow-Origin")


@pytest.mark.parametrize("headers", [[("Origin", APP)], [("Access-Control-Request-Method", "POST")], []])
def test_an_options_that_is_no_preflight_needs_a_key(cors, headers):
    assert cors.request("OPTIONS", "/v1/chat/completions", headers=headers).status == 401
    assert cors.request("OPTIONS", "/v1/chat/completions", headers=[*headers, *bearer(KEY)]).status in (204, 405)


ACTUAL = {
    "own": ("GET", "/v1/models", None, bearer(KEY), 200), "health": ("GET", "/health", None, [], 200), "relayed": ("POST", "/v1/chat/completions", chat_body(), bearer(KEY), 200),
    "stream": ("POST", "/v1/chat/completions", chat_body(stream=True), bearer(KEY), 200),
    "relayed with its own": ("POST", "/v1/chat/completions", chat_body(content="own cors"), bearer(KEY), 200),
    "401": ("POST", "/v1/chat/completions", chat_body(), [], 401), "404": ("GET", "/nowhere", None, bearer(KEY), 404),
    "404 of a model": ("POST", "/v1/chat/completions", chat_body("none"), bearer(KEY), 404), "400": ("POST", "/v1/chat/completions", b"{", bearer(KEY), 400),
    "405": ("DELETE", "/v1/models", None, bearer(KEY), 405), "415": ("POST", "/v1/completions", b"x", [*bearer(KEY), ("Content-Encoding", "gzip")], 415),
}


@pytest.mark.parametrize("case", ACTUAL)
def test_every_answer_to_an_allowed_origin_says_so_once(cors, case):
    method, target, body, headers, status = ACTUAL[case]
    response = cors.request(method, target, body, [("Origin", APP), *headers])
    assert response.status == status
    assert response.all("Access-Control-Allow-Origin") == [APP]
    assert "origin" in ", ".join(response.all("Vary")).lower()
    assert not response.all("Access-Control-Allow-Credentials")
    if case == "relayed with its own":
        assert "accept" in ", ".join(response.all("Vary")).lower()


def test_without_an_origin_there_is_no_cors(cors):
    for response in (cors.get("/health"), cors.chat(headers=bearer(KEY))):
        assert not response.all("Access-Control-Allow-Origin")


@pytest.mark.parametrize("origin", [APP, OTHER, "null"])
def test_a_star_allows_all(cors_any, origin):
    response = cors_any.request("OPTIONS", "/v1/chat/completions", headers=[("Origin", origin), *PREFLIGHT])
    assert response.status == 204 and response["Access-Control-Allow-Origin"] in ("*", origin)
    response = cors_any.chat(headers=[("Origin", origin)])
    assert response["Access-Control-Allow-Origin"] in ("*", origin) and not response.all("Access-Control-Allow-Credentials")


def test_no_cors_by_default(keyed):
    response = keyed.request("OPTIONS", "/v1/models", headers=[("Origin", APP), *PREFLIGHT])
    assert response.status == 401 and not response.all("Access-Control-Allow-Origin")
    assert not keyed.get("/health", [("Origin", APP)]).all("Access-Control-Allow-Origin")


def test_a_502_says_so_too(lab):
    router = lab.router(lab.dead(), cors_origins=[APP])
    response = router.chat(headers=[("Origin", APP)])
    assert response.status == 502 and response.all("Access-Control-Allow-Origin") == [APP]


# no key in any output


SECRETS = ("sk-secret-of-a-client", "sk-secret-of-an-admin", "sk-secret-of-an-endpoint", "sk-secret-that-is-wrong")


def test_no_key_in_any_output(lab):
    client_key, admin_key, endpoint_key, wrong = SECRETS
    up, dead = lab.upstream(), lab.dead()
    pools = [{"name": "a", "models": ["m"], "endpoints": [{"url": up, "api_key": endpoint_key}]},
             {"name": "b", "models": ["gone"], "endpoints": [{"url": dead, "api_key": endpoint_key + "-2"}]}]
    config = lab.config(pools=pools, probes=True, api_keys=[client_key], admin_listen="127.0.0.1:0", admin_keys=[admin_key],
                        log={"level": "debug"}, route_headers=True, paths=["/v1/custom"])
    router = lab.router(config=config)
    router.wait_listening(2)
    said = []
    for key in (client_key, wrong):
        for target in ("/v1/chat/completions", "/v1/custom", f"/nowhere?api_key={key}", f"/v1/models?key={key}"):
            for headers in (bearer(key), [("x-api-key", key)], basic(key), [("Authorization", key)], [("Authorization", f"Bearer {key}"), ("Host", key)]):
                for body in (chat_body(), chat_body("gone"), b"{"):
                    said.append(router.post(target, body, headers))
        said.append(router.get("/v1/models", bearer(key)))
    for target in ("/metrics", "/status", "/ui", "/ready"):
        said.append(on_admin(router, "GET", target, bearer(admin_key)))
        said.append(on_admin(router, "GET", target, bearer(wrong)))
    explained = run_router("-config", router.config_path, "-explain", "m", "ann")
    checked = run_router("-config", router.config_path, "-t")
    assert checked.returncode == explained.returncode == 0
    router.stop()
    shown = "\n".join([*router.log, *router.out, explained.stdout, explained.stderr, checked.stdout, checked.stderr,
                       *(str(r.headers) + r.body.decode("utf-8", "replace") for r in said)])
    assert len(router.out) > 50
    for secret in SECRETS:
        assert secret not in shown, next(line for line in shown.splitlines() if secret in line)


def test_a_finding_of_the_configuration_shows_no_key(tmp_path):
    secret = SECRETS[2]
    (tmp_path / "pools.yaml").write_text(f"""api_keys: "{SECRETS[0]}"
admin_keys: {{x: "{SECRETS[1]}"}}
pools:
  - name: a
    models: [m]
    endpoints: [{{url: "http://h:1", api_key: "{secret}"}}]
  - name: b
    models: [n]
    endpoints: [{{url: "http://h:1", api_key: "{secret}-other"}}, {{url: "http://h:2", api_key: ["{secret}"]}}, {{url: "http://h:3", api_kee: "{secret}"}}]
""")
    done = run_router("-t", cwd=tmp_path)
    assert done.returncode == 1
    for text in SECRETS:
        assert text not in done.stderr + done.stdout
