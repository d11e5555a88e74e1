"""Contract 4: the router's own URLs, answered from memory whatever the endpoints do."""
import json
import re
import time
import urllib.parse

import pytest

from harness import chat_body, request_bytes, run_router
from harness.upstream import respond_openai, wait_until

FAST = {"health": {"interval": "100ms", "timeout": "1s", "fall": 1}, "model_list": {"interval": "100ms"}}
LIST = {"health": {"interval": 0}, "model_list": {"interval": "100ms"}}


def serving(document, health=200):
    """A handler whose model list is `document` (a dict, bytes, or a function that gives either), whose health is `health` likewise."""
    def handler(conn):
        while True:
            req = conn.rxreq()
            told = document() if callable(document) else document
            status = health() if callable(health) else health
            if req.path.endswith("/health"):
                conn.txresp(status, body=b"{}")
            elif req.method == "GET" and req.path.endswith(("/models", "/tags")):
                conn.txresp(200, [] if isinstance(told, dict) else [("Content-Type", "application/json")], told)
            else:
                respond_openai(conn, req)
    return handler


def openai(*ids, **more):
    return {"object": "list", "data": [{"id": i, "object": "model", **more} for i in ids]}


def ids(router, target="/v1/models"):
    document = router.get(target).json()
    return [entry["id"] for entry in document["data"]]


def wait_ids(router, wanted):
    try:
        wait_until(lambda: set(ids(router)) == set(wanted), "")
    except AssertionError:
        raise AssertionError(f"listed are {ids(router)}, wanted {wanted}") from None
    assert len(ids(router)) == len(wanted)


@pytest.fixture(scope="module")
def place(shared):
    """Names of the file alone."""
    pools = [{"name": "chat", "models": ["llama", "qwen-*", "org/model:7b"], "aliases": {"gpt": "llama", "caf\u00e9 m": "llama"}, "endpoints": [shared.upstream()]},
             {"name": "rest", "models": ["*", "100%-pure"], "endpoints": [shared.upstream()]}]
    return shared.router(pools=pools)


NAMES = ["llama", "org/model:7b", "gpt", "caf\u00e9 m", "100%-pure"]


# /health


def test_health(place):
    response = place.get("/health")
    assert (response.status, response.body.strip()) == (200, b"ok")
    assert place.get("/health?x=/../").status == 200


def test_health_depends_on_no_endpoint(lab):
    dead, hole = lab.dead(), lab.blackhole()
    router = lab.router([dead, hole], defaults=FAST, probes=True)
    wait_until(lambda: router.get("/ready").status == 503, "")
    assert router.get("/health").status == 200


def test_health_of_an_http_10_client(place):
    assert place.get("/health", version="1.0", host=None).body.strip() == b"ok"


def test_health_for_a_client_that_half_closes(place):
    """printf 'GET /health …' | nc"""
    client = place.connect()
    client.request("GET", "/health").half_close()
    assert client.read_response().body.strip() == b"ok"
    client.close()


# /ready


def test_ready_is_503_until_the_first_probes_have_ended(lab):
    a, b = lab.scripted(), lab.scripted()
    router = lab.router([a, b], defaults={"health": {"interval": "10s"}, "model_list": {"interval": 0}}, probes=True)
    for up in (a, b):
        response = router.get("/ready")
        assert (response.status, response.json()) == (503, {"ready": False, "pools": {"p": False}})
        conn = up.accept()
        assert conn.rxreq().path == "/health"
        conn.txresp(200, body=b"ok")
    router.wait_ready()
    assert router.get("/ready").json() == {"ready": True, "pools": {"p": True}}


def test_ready_without_probes(place):
    assert place.get("/ready").json() == {"ready": True, "pools": {"chat": True, "rest": True}}


def test_ready_says_which_pools_are(lab):
    up, dead = lab.upstream(), lab.dead()
    router = lab.router(pools=[{"name": "good", "models": ["g"], "endpoints": [up, dead]}, {"name": "bad", "models": ["b"], "endpoints": [dead]}],
                        defaults=FAST, probes=True)
    router.wait_ready()
    wait_until(lambda: router.get("/ready").json()["pools"] == {"good": True, "bad": False}, "")
    response = router.get("/ready")
    assert (response.status, response.json()["ready"], response["Content-Type"]) == (200, True, "application/json")
    assert router.get("/ready?pool=good").status == router.get("/ready?x=y&pool=good").status == 200
    assert router.get("/ready?pool=bad").status == 503 and router.get("/ready?pool=bad").json()["pools"] == {"bad": False}
    assert router.get("/ready?pool=none").status in (404, 503)


@pytest.mark.parametrize("written", ["a/b+c@d", "a%2Fb%2Bc%40d", "%61%2fb+c@%64"])
def test_ready_of_a_pool_whose_name_is_percent_encoded(lab, written):
    router = lab.router(pools=[{"name": "a/b+c@d", "models": ["m"], "endpoints": [lab.upstream()]}, {"name": "bad", "models": ["b"], "endpoints": [lab.dead()]}])
    response = router.get(f"/ready?pool={written}")
    assert (response.status, response.json()["pools"]) == (200, {"a/b+c@d": True})
    assert router.get("/ready?pool=a%252Fb%2Bc%40d").status in (404, 503)  # decoded once


def test_not_ready_when_all_are_down(lab):
    dead = lab.dead()
    router = lab.router(dead, defaults=FAST, probes=True)
    wait_until(lambda: router.chat().status == 503, "")
    assert router.get("/ready").json() == {"ready": False, "pools": {"p": False}}
    lab.revive(dead)
    router.wait_ready()


def test_a_full_endpoint_is_ready(lab):
    up, router, client = lab.scripted_pair(pool={"max_inflight": 1})
    client.chat()
    up.accept().rxreq()
    assert router.chat().status == 429 and router.get("/ready").status == 200


def test_a_loading_endpoint_is_not_ready(lab):
    health = [503]
    router = lab.router(lab.upstream(serving(openai(), lambda: health[0])), defaults=FAST, probes=True)
    router.log_contains("is loading")
    assert router.get("/ready").status == 503 and router.chat().status == 503
    health[0] = 200
    router.wait_ready()


# /v1/models


def test_names_and_aliases_of_the_file_are_listed_and_globs_are_not(place):
    document = place.get("/v1/models").json()
    assert set(document) == {"object", "data"} and document["object"] == "list"
    assert sorted(entry["id"] for entry in document["data"]) == sorted(NAMES)
    assert all(entry["object"] == "model" and isinstance(entry["created"], int) and entry["owned_by"] for entry in document["data"])


def test_models_is_v1_models_and_always_the_same(place):
    assert len({place.get(target).body for target in ["/v1/models", "/models", "/v1/models?limit=5", "/v1/models"]}) == 1


def test_names_of_the_file_are_listed_though_their_endpoint_is_down(lab):
    router = lab.router(lab.dead(), models=["m", "n*"], defaults=FAST, probes=True)
    wait_until(lambda: router.chat().status == 503, "")
    assert ids(router) == ["m"]


def test_the_list_is_the_union_with_one_entry_an_id(lab):
    a, b = lab.upstream(serving(openai("m", "one", "both"))), lab.upstream(serving(openai("both", "two")))
    router = lab.router([a, b], models=["m", "*"], defaults=LIST)
    wait_ids(router, ["m", "one", "both", "two"])
    assert ids(router)[0] == "m"
    assert len({router.get("/v1/models").body for _ in range(5)}) == 1


def test_unknown_fields_are_kept(lab):
    entry = b'{"id":"m","object":"model","created":1722222222,"owned_by":"vllm","max_model_len":32768,"big":9007199254740993,"root":null,' \
            b'"permission":[{"id":"p","deep":{"a":[1,2.5e1,"\\u00e9"]}}],"meta":{"n_params":8030261312}}'
    up = lab.upstream(serving(b'{"object":"list","data":[' + entry + b',{"id":"bare"}],"first":"x"}'))
    router = lab.router(up, models=["*"], defaults=LIST)
    wait_ids(router, ["m", "bare"])
    listed = {e["id"]: e for e in router.get("/v1/models").json()["data"]}
    assert listed["m"] == json.loads(entry) and b"9007199254740993" in router.get("/v1/models").body
    assert listed["bare"]["object"] == "model"
    assert router.get("/v1/models/m").json() == json.loads(entry)


def test_a_listed_name_of_the_file_has_the_endpoints_fields(lab):
    router = lab.router(lab.upstream(serving(openai("m", max_model_len=5))), models=["m"], defaults=LIST)
    wait_until(lambda: router.get("/v1/models/m").json().get("max_model_len") == 5, "the entry told is not used")


def test_only_what_routing_would_send_there_is_listed(lab):
    a, b = lab.upstream(serving(openai("a-1", "b-1", "x-1", "named"))), lab.upstream(serving(openai("b-2", "a-2")))
    router = lab.router(pools=[{"name": "a", "models": ["a-*"], "endpoints": [a]}, {"name": "b", "models": ["b-*", "named"], "endpoints": [b]}], defaults=LIST)
    wait_ids(router, ["a-1", "b-2", "named"])


def test_a_model_named_like_a_glob_is_not_listed(lab):
    router = lab.router(lab.upstream(serving(openai("*", "fine"))), models=["*"], defaults=LIST)
    wait_until(lambda: "fine" in ids(router), "")
    assert "*" not in [e["id"] for e in router.get("/v1/models").json()["data"]]


def test_entries_stay_while_up_or_loading_and_go_when_down(lab):
    health = [200]
    up = lab.upstream(serving(openai("told"), lambda: health[0]))
    router = lab.router(up, models=["m", "*"], defaults=FAST, probes=True)
    wait_ids(router, ["m", "told"])
    health[0] = 503
    wait_until(lambda: router.get("/ready").status == 503, "")
    assert ids(router) == ["m", "told"]  # loading
    up.stop_listening()
    health[0] = 500
    wait_ids(router, ["m"])  # down


def test_the_list_is_asked_for_whenever_an_endpoint_comes_up(lab):
    dead = lab.dead()
    router = lab.router(dead, models=["m", "*"], defaults={**FAST, "model_list": {"interval": "1h"}}, probes=True)
    wait_until(lambda: router.chat().status == 503, "")
    lab.revive(dead, models=["late"])
    wait_ids(router, ["m", "late"])


def test_a_list_that_changes_is_seen(lab):
    told = [openai("old")]
    router = lab.router(lab.upstream(serving(lambda: told[0])), models=["*"], defaults=LIST)
    wait_ids(router, ["old"])
    told[0] = openai("new", "newer")
    wait_ids(router, ["new", "newer"])


def test_the_list_is_answered_while_an_endpoint_hangs(lab):
    """Neither one that takes no connection nor one that says nothing delays it."""
    silent = lab.upstream(lambda conn: conn.stall(), timeout=60)
    router = lab.router([lab.blackhole(), silent, lab.upstream(serving(openai("told")))], models=["m", "*"],
                        defaults={"health": {"interval": "100ms", "timeout": "5s"}, "model_list": {"interval": "100ms"}}, probes=True)
    wait_ids(router, ["m", "told"])
    client = router.connect()
    began = time.monotonic()
    for _ in range(300):
        client.request("GET", "/v1/models")
        assert client.read_response().status == 200
    assert time.monotonic() - began < 3  # generous: a wait would be seconds each
    client.close()


SHAPES = {
    "OpenAI": openai("x", "y"),
    "Ollama": {"models": [{"name": "x", "model": "x", "size": 1, "details": {"family": "llama"}}, {"name": "y"}]},
    "llama.cpp": {"models": [{"name": "ignored", "model": "ignored"}], "object": "list", "data": [{"id": "x", "meta": {"n_ctx": 1}}, {"id": "y"}]},
    "llama-swap": {"data": [{"id": "x", "object": "model", "name": "X", "description": "d"}, {"id": "y", "object": "model"}], "object": "list"},
    "pretty": json.dumps(openai("x", "y"), indent=3).encode(),
    "odd entries beside": {"data": [5, None, {}, {"id": ""}, {"id": 5}, {"id": ["x"]}, {"id": "x"}, "y", {"id": "x", "again": 1}, {"id": "y"}]},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_list_shapes(lab, shape):
    router = lab.router(lab.upstream(serving(SHAPES[shape])), models=["m", "*"], defaults=LIST)
    wait_ids(router, ["m", "x", "y"])
    for name in ("x", "y"):
        assert router.get(f"/v1/models/{name}").json()["object"] == "model"


def test_own_path_of_the_list(lab):
    up = lab.upstream(serving({"models": [{"name": "x"}]}))
    router = lab.router(up.url + "/base/v1", models=["*"], defaults={"health": {"interval": 0}, "model_list": {"path": "/api/tags", "interval": "100ms"}})
    wait_ids(router, ["x"])
    assert {r.target for r in up.requests if r.method == "GET"} == {"/base/api/tags"}


BAD_LISTS = {"no JSON": b"<html>", "empty": b"", "an array": b"[1]", "no list in it": b"{}", "data is no list": b'{"data":5}', "cut": b'{"data":[{"id":"x"}', "deep": b"[" * 5000,
             "huge": b'{"data":[{"id":"' + b"x" * 6_000_000 + b'"}]}'}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_bad_list_is_no_health_failure(lab, case):
    up = lab.upstream(serving(BAD_LISTS[case]))
    router = lab.router(up, models=["m", "*"], defaults=FAST, probes=True)
    up.wait_for(lambda: len([r for r in up.requests if r.path == "/v1/models"]) >= 2, "two questions")
    router.wait_ready()
    assert ids(router) == ["m"] and router.chat().status == 200


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_a_refused_list_is_no_health_failure(lab, status):
    def handler(conn):
        while True:
            req = conn.rxreq()
            if req.path == "/v1/models":
                conn.txresp(status, body=openai("no"))
            else:
                respond_openai(conn, req)
    up = lab.upstream(handler)
    router = lab.router(up, models=["m", "*"], defaults=FAST, probes=True)
    up.wait_for(lambda: len([r for r in up.requests if r.path == "/v1/models"]) >= 2, "two questions")
    router.wait_ready()
    assert ids(router) == ["m"] and router.chat().status == 200


def test_interval_0_asks_for_no_list(lab):
    up = lab.upstream(models=["told"])
    router = lab.router(up, defaults={"health": {"interval": "100ms"}, "model_list": {"interval": 0}}, probes=True)
    up.wait_for(lambda: len(up.requests) >= 3, "three probes")
    assert {r.path for r in up.requests} == {"/health"} and ids(router) == ["m"]


def test_odd_ids_are_escaped(lab):
    odd = ['q"uote', "back\\slash", "new\nline", "\u2028", "\U0001f600", "</script>", "tab\t"]
    router = lab.router(lab.upstream(serving(openai(*odd))), models=["*"], defaults=LIST)
    wait_ids(router, odd)
    assert {e["name"] for e in router.get("/api/tags").json()["models"]} == set(odd)


# /v1/models/{id}


@pytest.mark.parametrize("name", NAMES)
def test_one_model_percent_encoded_or_not(place, name):
    listed = {entry["id"]: entry for entry in place.get("/v1/models").json()["data"]}
    every = "".join(f"%{byte:02x}" for byte in name.encode())
    for written in {urllib.parse.quote(name, safe=""), urllib.parse.quote(name, safe="/:"), every, every.upper()}:
        response = place.get(f"/v1/models/{written}")
        assert response.status == 200 and response.json() == listed[name]
        assert place.get(f"/v1/models/{written}?x=1").status == 200


def test_an_id_stands_raw_too(place):
    assert place.get("/v1/models/org/model:7b").json()["id"] == "org/model:7b"
    assert place.get("/v1/models/100%-pure").json()["id"] == "100%-pure"  # what is no encoding stays as it is


@pytest.mark.parametrize("written", ["none", "llam", "llamaa", "LLAMA", "llama/", "qwen-*", "qwen-7b", "*", "%2A", "llama%00", "org%252Fmodel:7b", "%", "%zz", "..", "x" * 3000])
def test_any_other_model_is_404(place, written):
    response = place.get(f"/v1/models/{written}")
    assert response.status == 404
    assert (response.error["type"], response.error["code"], response.error["param"]) == ("invalid_request_error", "model_not_found", "model")


# Ollama's


def test_tags_are_the_same_list(place):
    response = place.get("/api/tags")
    document = response.json()
    assert response["Content-Type"] == "application/json" and set(document) == {"models"}
    assert [entry["name"] for entry in document["models"]] == [entry["model"] for entry in document["models"]] == ids(place)
    for entry in document["models"]:  # what Ollama's own clients parse
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", entry["modified_at"])
        assert isinstance(entry["size"], int) and isinstance(entry["digest"], str) and isinstance(entry["details"], dict)


def test_version(place, tmp_path):
    document = place.get("/api/version").json()
    assert set(document) == {"version"} and document["version"] in run_router("-version", cwd=tmp_path).stdout


# methods, bodies


OWN = ["/health", "/ready", "/v1/models", "/models", "/v1/models/llama", "/api/tags", "/api/version"]


@pytest.mark.parametrize("target", OWN)
def test_head_is_get_without_the_body(place, target):
    client = place.connect()
    got = client.request("GET", target).read_response()
    head = client.request("HEAD", target).read_response(head=True)
    assert (head.status, head["Content-Length"], head["Content-Type"]) == (got.status, str(len(got.body)), got["Content-Type"])
    assert client.request("GET", "/health").read_response().status == 200
    client.close()


@pytest.mark.parametrize("target", OWN)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_wrong_methods(place, target, method):
    response = place.request(method, target)
    assert (response.status, response["Allow"]) == (405, "GET, HEAD")
    message = response.json()["error"] if target.startswith("/api/") else response.error["message"]
    assert "GET" in message


def test_a_get_with_a_body(place):
    client = place.connect()
    client.send(request_bytes("GET", "/health", b"x" * 100) + request_bytes("GET", "/v1/models", chat_body("none")))
    assert [client.read_response().status for _ in range(2)] == [200, 200]
    assert client.request("GET", "/health").read_response().status == 200
    client.close()


def test_the_list_of_many_models(lab):
    many = [f"org/model-{i}" for i in range(2000)]
    router = lab.router(lab.upstream(serving(openai(*many))), models=["*"], defaults=LIST)
    wait_ids(router, many)
    assert ids(router) == many
    assert router.get("/v1/models/org%2Fmodel-1999").status == 200
