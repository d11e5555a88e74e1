"""Contract 4: the operator's verbs and their guards, what lives on admin_listen alone, and what no web page can do."""
import base64
from urllib.parse import quote

import pytest

from harness.mortal import is_ready
from harness.prom import scrape
from harness.reloads import endpoint_row, page, reload, status
from harness.upstream import wait_until

JSON = [("Content-Type", "application/json")]
KEY, CLIENT_KEY = "sk-admin", "sk-client"
PAGES = ("/metrics", "/status", "/ui")
VERBS = ("/admin/drain", "/admin/undrain")


def admin(lab, endpoints, **how):
    """A router with admin_listen as its second address."""
    router = lab.router(endpoints, **{"admin_listen": "127.0.0.1:0", **how})
    router.wait_listening(2)
    return router


def ask(router, verb, url, headers=JSON, index=1, **how):
    return page(router, "POST", f"/admin/{verb}?endpoint={quote(getattr(url, 'url', url), safe='')}", headers, index, **how)


def row(router, up):
    return endpoint_row(router, up, index=1)


@pytest.fixture(scope="module")
def guarded(shared):
    """With keys of both kinds."""
    router = shared.router(shared.upstream(), admin_listen="127.0.0.1:0", admin_keys=[KEY], api_keys=[CLIENT_KEY], cors_origins=["*"])
    router.wait_listening(2)
    return router


@pytest.fixture(scope="module")
def bare(shared):
    """Without any."""
    router = shared.router(shared.upstream(), admin_listen="127.0.0.1:0", cors_origins=["*"])
    router.wait_listening(2)
    return router


def url_of(router, index=1, headers=()):
    return status(router, index, headers)["pools"][0]["endpoints"][0]["url"]


# drain, undrain


def test_a_drained_endpoint_gets_no_request_and_finishes_its_own(lab):
    a, b = lab.scripted(), lab.upstream()
    router = admin(lab, [a, b], pool={"affinity": "none"})
    client = lab.client(router)
    client.chat(stream=True)
    conn = a.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    response = ask(router, "drain", a)
    assert response.status == 200 and response["Content-Type"] == "application/json"
    assert response.json() == {"endpoint": a.url, "state": "draining", "in_flight": 1}
    assert {router.endpoint_of("m", f"u{i}") for i in range(10)} == {b.name}
    shown = row(router, a)
    assert (shown["state"], shown["in_flight"]) == ("draining", 1) and shown["reason"]
    conn.event("1")
    assert next(events) == b"data: 1"
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]
    wait_until(lambda: row(router, a)["in_flight"] == 0, "the stream does not end")
    assert router.access_lines(1, endpoint=a.url)[0]["end"] == "done"
    assert len(b.routed()) == 10


def test_undrain_brings_it_back(lab):
    a, b = lab.upstream(), lab.upstream()
    router = admin(lab, [a, b])
    users = {u: router.endpoint_of("m", u) for u in (f"u{i}" for i in range(20))}
    assert ask(router, "drain", a).json()["state"] == "draining"
    assert {router.endpoint_of("m", u) for u in users} == {b.name}
    assert ask(router, "undrain", a).json()["state"] == "up"
    assert row(router, a)["state"] == "up"
    assert users == {u: router.endpoint_of("m", u) for u in users}  # exactly those come home


@pytest.mark.parametrize("verb, state", [("drain", "draining"), ("undrain", "up")])
def test_a_verb_said_twice_is_no_error(bare, verb, state):
    url = url_of(bare)
    for _ in range(2):
        response = ask(bare, verb, url)
        assert (response.status, response.json()["state"]) == (200, state)
    ask(bare, "undrain", url)


def test_all_drained_is_none_usable(lab):
    up = lab.upstream()
    router = admin(lab, up)
    assert is_ready(router)
    ask(router, "drain", up)
    response = router.chat()
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable") and not is_ready(router)
    ask(router, "undrain", up)
    assert router.chat().status == 200 and is_ready(router)


def test_a_drained_pool_has_its_fallback(lab):
    a, b = lab.upstream(), lab.upstream()
    router = admin(lab, None, pools=[{"name": "p", "models": ["m"], "endpoints": [a], "fallback": "q"}, {"name": "q", "models": ["x"], "endpoints": [b]}])
    ask(router, "drain", a)
    assert router.endpoint_of("m") == b.name


def test_drain_is_the_endpoints_in_every_pool(lab):
    up = lab.upstream()
    router = admin(lab, None, pools=[{"name": n, "models": [n], "endpoints": [up]} for n in ("p", "q")])
    ask(router, "drain", up)
    assert [p["endpoints"][0]["state"] for p in status(router, 1)["pools"]] == ["draining", "draining"]
    assert router.chat("p").status == router.chat("q").status == 503
    assert scrape(router, 1).each("router_endpoint_state", "state", pool="q") == {"draining": 1}


def test_a_waiting_request_does_not_go_to_a_drained_endpoint(lab):
    up = lab.scripted()
    router = admin(lab, up, pool={"max_inflight": 1, "queue": {"size": 5, "timeout": "60s"}})
    first, second = lab.client(router), lab.client(router)
    first.chat()
    conn = up.accept()
    conn.rxreq()
    second.chat()
    wait_until(lambda: status(router, 1)["pools"][0]["queued"] == 1, "it does not wait")
    ask(router, "drain", up)
    conn.txresp(200, body=b"1")
    assert first.read_response().body == b"1"
    response = second.read_response()
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable")


def test_drain_lasts_over_reloads(lab):
    a, b = lab.upstream(), lab.upstream()
    router = admin(lab, [a, b])
    ask(router, "drain", a)
    reload(router, lab.config([b, a], admin_listen="127.0.0.1:0"))
    assert row(router, a)["state"] == "draining"
    ask(router, "undrain", a)
    reload(router, lab.config([a, b], admin_listen="127.0.0.1:0"))
    assert row(router, a)["state"] == "up"


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/v1"])
def test_the_url_in_another_spelling(bare, spelling):
    url = url_of(bare)
    assert ask(bare, "undrain", spelling.format(url)).json()["endpoint"] == url


def test_the_url_undecoded_is_the_url_too(bare):
    url = url_of(bare)
    assert page(bare, "POST", f"/admin/undrain?x=1&endpoint={url}&y=2", JSON, 1).json()["endpoint"] == url


def test_a_unix_endpoint_is_named_as_status_writes_it(lab):
    up = lab.upstream(unix=lab.directory / "up.sock")
    router = admin(lab, up)
    assert ask(router, "drain", up).json() == {"endpoint": up.url, "state": "draining", "in_flight": 0}


# guards


@pytest.mark.parametrize("verb", ["drain", "undrain"])
@pytest.mark.parametrize("query", ["", "?", "?endpoint=", "?endpoint=http://127.0.0.1:1", "?endpoint=nonsense", "?url=x", "?endpoint=%00", "?endpoint=" + "x" * 5000,
                                   "?endpoint=http%3A%2F%2F127.0.0.1%"])
def test_an_unknown_endpoint_is_404(bare, verb, query):
    response = page(bare, "POST", f"/admin/{verb}{query}", JSON, 1)
    assert response.status == 404 and "endpoint" in response.error["message"]


@pytest.mark.parametrize("path", VERBS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_another_method_is_405(bare, path, method):
    response = page(bare, method, f"{path}?endpoint={quote(url_of(bare))}", JSON, 1)
    assert (response.status, response["Allow"]) == (405, "POST")
    assert url_of(bare) and status(bare, 1)["pools"][0]["endpoints"][0]["state"] == "up"


@pytest.mark.parametrize("target", PAGES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_pages_are_read_only(bare, target, method):
    response = page(bare, method, target, JSON, 1)
    assert response.status == 405 and set(response["Allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("headers", [[], [("Content-Type", "")], [("Content-Type", "text/plain")], [("Content-Type", "application/x-www-form-urlencoded")],
                                     [("Content-Type", "multipart/form-data; boundary=x")], [("Content-Type", "text/plain; application/json")],
                                     [("Content-Type", "application/jsonp")], [("Content-Type", "text/json")], [("Accept", "application/json")],
                                     [("Content-Type", "application/json, text/plain")], [("Content-Type", "text/plain, application/json")]], ids=str)
def test_only_what_no_web_page_can_forge_is_taken(bare, headers):
    """A page of another site may POST text, forms and nothing else without being asked about (Fetch standard, CORS-safelisted)."""
    url = url_of(bare)
    response = ask(bare, "drain", url, [("Origin", "http://evil.example"), *headers], body=b"{}")
    assert response.status == 403 and "application/json" in response.error["message"]
    assert row(bare, url)["state"] == "up"


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json ;x=y"])
def test_json_is_json_in_any_spelling(bare, kind):
    assert ask(bare, "undrain", url_of(bare), [("Content-Type", kind)]).status == 200


@pytest.mark.parametrize("body", [None, b"", b"{}", b"x" * 100_000])
def test_the_body_is_of_no_interest(bare, body):
    assert ask(bare, "undrain", url_of(bare), body=body).status == 200


@pytest.mark.parametrize("path", VERBS)
def test_the_public_address_has_no_verbs(lab, bare, path):
    single = lab.router(lab.upstream())
    for router in (single, bare):
        for headers in (JSON, []):
            response = page(router, "POST", f"{path}?endpoint=http://127.0.0.1:1", headers, 0)
            assert (response.status, response.error["code"]) == (404, "unknown_url")
            assert page(router, "GET", path, headers, 0).status == 404


# keys


def basic(key, user="any"):
    return [("Authorization", "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode())]


RIGHT = {"bearer": [("Authorization", f"Bearer {KEY}")], "x-api-key": [("x-api-key", KEY)], "basic": basic(KEY), "basic without a name": basic(KEY, "")}
WRONG = {"none": [], "the clients'": [("Authorization", f"Bearer {CLIENT_KEY}")], "wrong": [("x-api-key", "sk-no")], "wrong basic": basic("sk-no"), "as a name": basic("", KEY)}


@pytest.mark.parametrize("how", RIGHT)
def test_admin_keys_open_pages_and_verbs(guarded, how):
    for target in PAGES:
        assert page(guarded, "GET", target, RIGHT[how], 1).status == 200
    assert ask(guarded, "undrain", url_of(guarded, 1, RIGHT[how]), JSON + RIGHT[how]).status == 200


@pytest.mark.parametrize("how", WRONG)
def test_nothing_else_opens_them(guarded, how):
    for target in PAGES:
        response = page(guarded, "GET", target, WRONG[how], 1)
        assert (response.status, response.error["code"]) == (401, "invalid_api_key")
        assert response["WWW-Authenticate"].startswith("Basic realm=")
    url = url_of(guarded, 1, RIGHT["bearer"])
    response = ask(guarded, "drain", url, JSON + WRONG[how])
    assert response.status == 401 and response["WWW-Authenticate"]
    assert status(guarded, 1, RIGHT["bearer"])["pools"][0]["endpoints"][0]["state"] == "up"


def test_health_and_ready_need_no_key_there(guarded):
    assert page(guarded, "GET", "/health", index=1).status == page(guarded, "GET", "/ready", index=1).status == 200


# the Host rule


@pytest.mark.parametrize("host, status_", [("localhost", 200), ("127.0.0.1:9091", 200), ("[::1]", 200), ("rebound.example", 421), ("localhost.evil.example", 421)])
def test_a_rebound_host_gets_nothing(bare, host, status_):
    """A page whose name was made to point here sends its own name: 421 before anything is done."""
    for target in PAGES:
        assert page(bare, "GET", target, index=1, host=host).status == status_
    url = url_of(bare)
    assert ask(bare, "undrain", url, host=host).status == status_


def test_both_refusals_are_counted_by_their_reason(bare):
    def refusals():
        return scrape(bare, index=1).each("router_refused_total", "reason")
    before, url = refusals(), url_of(bare)
    for _ in range(2):
        assert ask(bare, "drain", url, [], body=b"{}").error["code"] == "forbidden"
    assert page(bare, "GET", "/status", index=1, host="rebound.example").error["code"] == "misdirected_request"
    after = refusals()
    assert after["forbidden"] == before.get("forbidden", 0) + 2
    assert after["misdirected_request"] == before.get("misdirected_request", 0) + 1
    assert sum(after.values()) == sum(before.values()) + 3


def test_with_keys_any_host_will_do(guarded):
    assert page(guarded, "GET", "/status", RIGHT["bearer"], 1, host="router.corp.example").status == 200


def test_a_connection_that_outlives_its_listener_gets_nothing(lab):
    up = lab.upstream()
    router = admin(lab, up, admin_keys=[KEY], api_keys=[CLIENT_KEY])
    client = lab.client(router, 1)
    url = quote(up.url, safe="")

    def asks(method, target):
        client.request(method, target, b"{}" if method == "POST" else None, JSON if method == "POST" else [], host="localhost")
        return client.read_response().status
    assert asks("POST", f"/admin/drain?endpoint={url}") == asks("GET", "/status") == 401
    reload(router, lab.config(up, api_keys=[CLIENT_KEY]))
    for target in PAGES:
        assert asks("GET", target) == 404
    for verb in VERBS:
        assert asks("POST", f"{verb}?endpoint={url}") == 404
    assert router.chat(headers=[("x-api-key", CLIENT_KEY)]).status == 200


# where pages live


def test_with_admin_listen_the_pages_live_only_there(guarded, bare):
    for router, headers in ((guarded, [("Authorization", f"Bearer {CLIENT_KEY}")]), (bare, [])):
        for target in PAGES:
            response = page(router, "GET", target, headers, 0)
            assert (response.status, response.error["code"]) == (404, "unknown_url")
    for target in PAGES:
        assert page(bare, "GET", target, index=1).status == 200


def test_without_admin_listen_the_public_address_has_them(lab):
    open_, keyed = lab.router(lab.upstream()), lab.router(lab.upstream(), api_keys=[CLIENT_KEY])
    for target in PAGES:
        assert open_.get(target).status == 200
        response = keyed.get(target)
        assert response.status == 401 and response["WWW-Authenticate"].startswith("Basic realm=")
        for headers in ([("Authorization", f"Bearer {CLIENT_KEY}")], [("x-api-key", CLIENT_KEY)], basic(CLIENT_KEY)):
            assert keyed.get(target, headers).status == 200


def test_a_page_on_the_public_address_has_no_buttons(lab, bare):
    assert b'data-verbs="no"' in lab.router(lab.upstream()).get("/ui").body
    assert b'data-verbs="yes"' in page(bare, "GET", "/ui", index=1).body


def test_admin_listen_has_health_and_no_routed_path(bare):
    assert page(bare, "GET", "/health", index=1).body == b"ok"
    for method, target in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/models"), ("GET", "/api/tags"), ("GET", "/api/version"), ("POST", "/nowhere")):
        assert page(bare, method, target, JSON, 1, body=b"{}" if method == "POST" else None).status == 404


@pytest.mark.parametrize("target", [*PAGES, *VERBS, "/health"])
def test_no_cors_there(bare, target):
    """cors_origins is for clients: even a star opens nothing here."""
    for method in ("GET", "POST", "OPTIONS"):
        headers = [("Origin", "http://evil.example"), ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "content-type"), *JSON]
        response = page(bare, method, target, headers, 1)
        assert not [name for name in response.names if name.startswith("access-control-")]
        assert method != "OPTIONS" or response.status >= 400  # so that a browser does not send what it asked about


def test_a_unix_admin_listen(lab):
    sock = lab.directory / "admin.sock"
    up = lab.upstream()
    router = admin(lab, up, admin_listen=f"unix:{sock}")
    assert page(router, "GET", "/status", index=1).status == 200
    assert ask(router, "drain", up).json()["state"] == "draining"
    assert sock.stat().st_mode & 0o777 == 0o660
