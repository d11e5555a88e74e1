"""Contract 3: which pool, which endpoint, under which name, and that it stays so."""
import collections
import json
import re

import pytest

from harness import chat_body


def three(lab, **how):
    """Three served endpoints in one pool."""
    ups = [lab.upstream() for _ in range(3)]
    return ups, lab.router(ups, **how)


def pick_all(router, users, model="m", **how):
    """user -> endpoint name, over one connection."""
    client = router.connect()
    answers = {}
    for user in users:
        client.chat(model, user, **how)
        response = client.read_response()
        assert response.status == 200, response
        answers[user] = response.json()["endpoint"]
    client.close()
    return answers


def pools_by_match(lab, *matches):
    """A pool with a served endpoint of its own for each list of models; names pool0, pool1 ..."""
    pools = []
    for i, models in enumerate(matches):
        up = lab.upstream(name=f"pool{i}")
        pools.append({"name": f"pool{i}", "models": models, "endpoints": [up]})
    return lab.router(pools=pools)


# model match


@pytest.mark.parametrize("model, pool", [
    ("llama-8b", "pool3"), ("llama-8b-x", "pool2"), ("llama-9", "pool1"), ("mistral", "pool0"), ("LLAMA-8b", "pool0"), ("llama-8b ", "pool2"),
])
def test_exact_then_longest_glob_then_star(lab, model, pool):
    router = pools_by_match(lab, ["*"], ["llama-*"], ["llama-8b*"], ["llama-8b"])
    assert router.endpoint_of(model) == pool


def test_glob_ties_go_by_file_order(lab):
    router = pools_by_match(lab, ["q-*"], ["q-?"])
    assert router.endpoint_of("q-1") == "pool0"


@pytest.mark.parametrize("model, status", [("org/m:1", 200), ("orgxm:1", 200), ("org/m", 404), ("a/b:c", 200), ("a", 404), ("ab/c", 404), ("a/:c", 200)])
def test_globs_match_slash_and_colon(lab, model, status):
    router = pools_by_match(lab, ["org?m:*", "a/*:c"])
    assert router.chat(model).status == status


def test_exact_name_wins_over_globs_of_other_pools_before_it(lab):
    router = pools_by_match(lab, ["*"], ["m*"], ["m"])
    assert router.endpoint_of("m") == "pool2"


def test_no_model_goes_to_the_star_pool(lab):
    router = pools_by_match(lab, ["x"], ["*"])
    response = router.post("/v1/chat/completions", {"messages": []})
    assert response.status == 200 and response.json()["endpoint"] == "pool1"


def test_bytes_of_a_name_are_compared_decoded(lab):
    router = pools_by_match(lab, ["mé/1"], ["*"])
    assert router.post("/v1/chat/completions", b'{"model":"m\\u00e9\\/1"}').json()["endpoint"] == "pool0"
    assert router.post("/v1/chat/completions", '{"model":"mé/1"}'.encode()).json()["endpoint"] == "pool0"


# aliases


def test_alias_sends_the_target(lab):
    up = lab.upstream()
    router = lab.router(up, models=["llama"], pool={"aliases": {"gpt-4o-mini": "llama"}})
    assert router.chat("gpt-4o-mini").status == 200
    assert up.last.json()["model"] == "llama"


def test_alias_target_need_not_be_a_listed_model(lab):
    up = lab.upstream()
    router = lab.router(up, models=["x"], pool={"aliases": {"a": "elsewhere"}})
    assert router.chat("a").status == 200 and up.last.json()["model"] == "elsewhere"


def test_alias_and_target_share_an_endpoint(lab):
    ups, router = three(lab, models=["llama"], pool={"aliases": {"nick": "llama"}})
    users = [f"u{i}" for i in range(30)]
    assert pick_all(router, users, "nick") == pick_all(router, users, "llama")


@pytest.mark.parametrize("target", ["x", "a-much-longer-name-than-the-alias-itself/with:things"])
def test_alias_rewrites_only_the_model_value(lab, target):
    up = lab.upstream()
    router = lab.router(up, models=["x"], pool={"aliases": {"nick": target}})
    before = b' {\t"a" : 9007199254740993, "b":1e400 ,"mod\\u0065l2":"nick", "model"\n:  "'
    after = b'" , "user":"\\u0041\\ud83d\\ude00", "dup":1,"dup":2, "nested":{"model":"nick"} }\r\n '
    assert router.post("/v1/chat/completions", before + b"ni\\u0063k" + after).status == 200
    assert up.last.body == before + target.encode() + after
    assert up.last["Content-Length"] == str(len(before + after) + len(target))


# stickiness


def test_one_user_always_meets_one_endpoint(lab):
    _, router = three(lab)
    for user in ("ann", "bob", "cid"):
        assert len({router.endpoint_of(user=user) for _ in range(5)}) == 1


def test_the_same_endpoint_after_a_restart_and_from_a_replica(lab):
    ups, first = three(lab)
    users = [f"user-{i}" for i in range(60)]
    before = pick_all(first, users)
    assert len(set(before.values())) == 3
    assert pick_all(lab.router(ups), users) == before
    first.stop()
    assert pick_all(lab.router(ups), users) == before


def test_the_order_of_the_file_does_not_matter(lab):
    ups, router = three(lab)
    users = [f"user-{i}" for i in range(60)]
    assert pick_all(lab.router(ups[::-1]), users) == pick_all(router, users)


def test_a_thousand_users_spread_evenly(lab):
    ups = [lab.upstream() for _ in range(4)]
    answers = pick_all(lab.router(ups), [f"user-{i}" for i in range(1000)])
    shares = collections.Counter(answers.values())
    assert len(shares) == 4 and all(188 <= n <= 312 for n in shares.values()), shares


def test_losing_an_endpoint_moves_only_its_keys(lab):
    ups, router = three(lab)
    users = [f"user-{i}" for i in range(150)]
    before = pick_all(router, users)
    after = pick_all(lab.router(ups[:2]), users)
    for user in users:
        if before[user] != "up3":
            assert after[user] == before[user]
    assert {after[u] for u in users if before[u] == "up3"} == {"up1", "up2"}


def test_an_endpoint_twice_in_a_pool_counts_once(lab):
    ups = [lab.upstream() for _ in range(2)]
    users = [f"user-{i}" for i in range(40)]
    assert pick_all(lab.router([ups[0], ups[1], ups[0]]), users) == pick_all(lab.router(ups), users)


def test_weights_hold(lab):
    ups = [lab.upstream(), lab.upstream()]
    answers = pick_all(lab.router([{"url": ups[0], "weight": 3}, ups[1]]), [f"user-{i}" for i in range(600)])
    assert 0.69 <= list(answers.values()).count("up1") / 600 <= 0.81


# affinity


def test_model_is_part_of_the_key(lab):
    _, router = three(lab, models=["*"])
    assert len({router.endpoint_of(f"model-{i}", "ann") for i in range(20)}) > 1


def test_without_identity_the_model_alone_decides(lab):
    _, router = three(lab, models=["*"])
    assert len({router.endpoint_of("m1", content=f"text {i}") for i in range(8)}) == 1


def test_affinity_model(lab):
    _, router = three(lab, models=["*"], pool={"affinity": "model"})
    assert len({router.endpoint_of("m1", f"user{i}") for i in range(10)}) == 1
    assert len({router.endpoint_of(f"m{i}", "ann") for i in range(20)}) > 1


def test_affinity_none_takes_turns(lab):
    _, router = three(lab, pool={"affinity": "none"})
    picks = collections.Counter(router.endpoint_of(user="ann") for _ in range(9))
    assert picks == {"up1": 3, "up2": 3, "up3": 3}


def test_affinity_none_prefers_the_least_in_flight(lab):
    a, b = lab.scripted(name="a"), lab.scripted(name="b")
    router = lab.router([a, b], pool={"affinity": "none"})
    first, second = lab.client(router), lab.client(router)
    first.chat()
    busy, idle = (a, b)
    try:
        conn = a.accept(1)
    except AssertionError:
        conn, busy, idle = b.accept(), b, a
    conn.rxreq()
    for _ in range(3):  # the busy one stays busy: every next one goes to the other
        second.chat()
        if not idle.conns:
            other = idle.accept()
        other.rxreq()
        other.txresp(200, body=b"{}")
        assert second.read_response().status == 200
    conn.txresp(200, body=b"{}")
    assert first.read_response().status == 200


IDENTITIES = {
    "body.user": lambda v: ({"user": v}, []),
    "body.safety_identifier": lambda v: ({"safety_identifier": v}, []),
    "header.X-OpenWebUI-User-Id": lambda v: ({}, [("x-openwebui-user-id", v)]),
    "body.metadata.user_id": lambda v: ({"metadata": {"user_id": v}}, []),
}


@pytest.mark.parametrize("source", IDENTITIES)
def test_every_default_identity_gives_the_same_endpoint(lab, source):
    _, router = three(lab)
    users = [f"user-{i}" for i in range(12)]
    expected = pick_all(router, users)
    assert len(set(expected.values())) > 1
    for user in users:
        fields, headers = IDENTITIES[source](user)
        assert router.endpoint_of(headers=headers, **fields) == expected[user]


def test_the_first_identity_present_wins(lab):
    _, router = three(lab)
    users = [f"user-{i}" for i in range(12)]
    expected = pick_all(router, users)
    for user in users:
        headers = [("X-OpenWebUI-User-Id", "somebody")]
        assert router.endpoint_of(user=user, headers=headers, metadata={"user_id": "else"}) == expected[user]


@pytest.mark.parametrize("odd", ["", 5, None, True, ["x"], {"name": "x"}, {"id": 7}])
def test_an_identity_that_is_no_string_is_passed_over(lab, odd):
    _, router = three(lab)
    for user in [f"user-{i}" for i in range(6)]:
        body = {"model": "m", "user": odd, "safety_identifier": user, "messages": []}
        response = router.post("/v1/chat/completions", body)
        assert response.status == 200
        assert response.json()["endpoint"] == router.endpoint_of(user=user)


def test_of_an_object_its_id_counts(lab):
    _, router = three(lab)
    for user in [f"user-{i}" for i in range(6)]:
        response = router.post("/v1/chat/completions", {"model": "m", "user": {"name": "x", "id": user}, "messages": []})
        assert response.json()["endpoint"] == router.endpoint_of(user=user)


def test_an_escaped_identity_is_the_same_identity(lab):
    _, router = three(lab)
    for user, escaped in [("userA", "us\\u0065rA"), ("a/b", "a\\/b"), ("é-1", "\\u00e9-1"), ("x-2", "\\u0078-2")]:
        response = router.post("/v1/chat/completions", b'{"model":"m","user":"%s"}' % escaped.encode())
        assert response.json()["endpoint"] == router.endpoint_of(user=user)


def test_own_identity_list(lab):
    _, router = three(lab, pool={"identity": ["header.X-Team", "body.extra.team"]})
    teams = [f"team-{i}" for i in range(12)]
    by_header = [router.endpoint_of(user="ann", headers=[("X-Team", t)]) for t in teams]
    assert by_header == [router.endpoint_of(user=f"{t}x", extra={"team": t}) for t in teams]
    assert len(set(by_header)) > 1


def test_identity_after_a_long_body(lab):
    _, router = three(lab)
    for user in [f"user-{i}" for i in range(6)]:
        body = b'{"model":"m","messages":[{"role":"user","content":"' + b"x" * 600_000 + b'"}],"user":"%s"}' % user.encode()
        assert router.post("/v1/chat/completions", body).json()["endpoint"] == router.endpoint_of(user=user)


# conversations


def turns(n, system="You are kind.", first="Question"):
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": first})
    for i in range(n):
        messages += [{"role": "assistant", "content": f"answer {i}"}, {"role": "user", "content": f"more {i}"}]
    return messages


def conversation(router, messages, headers=(), **more):
    response = router.post("/v1/chat/completions", {"model": "m", "messages": messages, **more}, headers)
    assert response.status == 200
    return response.json()["endpoint"]


def test_every_turn_of_a_chat_goes_to_one_endpoint(lab):
    _, router = three(lab, pool={"affinity": "conversation"})
    seen = set()
    for chat in range(12):
        places = {conversation(router, turns(n, first=f"Question {chat}")) for n in range(4)}
        assert len(places) == 1
        seen |= places
    assert len(seen) > 1


def test_the_system_text_is_part_of_a_chat(lab):
    _, router = three(lab, pool={"affinity": "conversation"})
    assert len({conversation(router, turns(0, system=f"You are {i}.")) for i in range(20)}) > 1


def test_developer_is_as_good_as_system(lab):
    _, router = three(lab, pool={"affinity": "conversation"})
    for i in range(8):
        messages = turns(1, system=f"You are {i}.")
        developer = [{**m, "role": "developer"} if m["role"] == "system" else m for m in messages]
        assert conversation(router, messages) == conversation(router, developer)


@pytest.mark.parametrize("how", ["X-OpenWebUI-Chat-Id", "X-Session-Id", "X-Claude-Code-Session-Id", "session_id", "prompt_cache_key", "conversation"])
def test_named_conversation_wins_over_its_text(lab, how):
    _, router = three(lab, pool={"affinity": "conversation"})
    seen = set()
    for chat in range(10):
        headers, more = ([], {how: f"chat-{chat}"}) if how in ("prompt_cache_key", "conversation") else ([(how, f"chat-{chat}")], {})
        places = {conversation(router, turns(n, first=f"other text {n}"), headers, **more) for n in range(3)}
        assert len(places) == 1
        seen |= places
    assert len(seen) > 1


def test_conversation_without_text_is_as_user(lab):
    ups, router = three(lab, pool={"affinity": "conversation"})
    by_user = lab.router(ups)
    users = [f"user-{i}" for i in range(10)]
    for user in users:
        assert conversation(router, [], user=user) == by_user.endpoint_of(user=user)


def test_conversation_of_messages_and_responses(lab):
    _, router = three(lab, pool={"affinity": "conversation"})

    def place(path, body):
        response = router.post(path, {"model": "m", **body})
        assert response.status == 200
        return response.json()["endpoint"]
    for path, fixed, growing in [
        ("/v1/messages", "system", "messages"),
        ("/v1/responses", "instructions", "input"),
    ]:
        seen = set()
        for chat in range(10):
            first = {"role": "user", "content": [{"type": "text", "text": f"Question {chat}"}]}
            places = {place(path, {fixed: "Be kind.", growing: [first] + [{"role": "assistant", "content": "a"}] * n}) for n in range(3)}
            assert len(places) == 1
            seen |= places
        assert len(seen) > 1


# the paths


JSON_PATHS = """/v1/chat/completions /v1/completions /v1/embeddings /v1/responses /v1/messages /v1/messages/count_tokens /v1/rerank
/v1/moderations /v1/images/generations /v1/audio/speech /completion /completions /infill /tokenize /detokenize /apply-template /embedding
/embeddings /rerank /reranking /api/chat /api/generate /api/embed /api/embeddings /api/show""".split()


def test_every_json_path_is_routed(lab):
    up = lab.upstream()
    router = lab.router(up)
    for path in JSON_PATHS:
        assert router.chat(target=path).status == 200, path
        assert up.last.target == path


def form(parts, boundary="XBOUND"):
    lines = b""
    for name, filename, data in parts:
        lines += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        lines += f'; filename="{filename}"\r\nContent-Type: audio/wav'.encode() if filename else b""
        lines += b"\r\n\r\n" + data + b"\r\n"
    return lines + f"--{boundary}--\r\n".encode(), [("Content-Type", f"multipart/form-data; boundary={boundary}")]


AUDIO = ("file", "a.wav", bytes(range(256)) * 12_000)  # 3 MB


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations"])
@pytest.mark.parametrize("order", ["model first", "model last"])
def test_form_is_routed_by_its_model_field(lab, path, order):
    up, other = lab.upstream(), lab.upstream()
    router = lab.router(pools=[{"name": "a", "models": ["whisper"], "endpoints": [up]}, {"name": "b", "models": ["*"], "endpoints": [other]}])
    model = ("model", None, b"whisper")
    body, headers = form([model, AUDIO] if order == "model first" else [AUDIO, model])
    response = router.request("POST", path, body, headers)
    assert response.status == 200 and response.json()["endpoint"] == "up1"
    assert up.last.body == body and up.last["Content-Type"] == headers[0][1]


@pytest.mark.parametrize("boundary, written", [("----WebKitFormBoundary7MA4YWxk", "----WebKitFormBoundary7MA4YWxk"), ("a b'()+_,-./:=?", "\"a b'()+_,-./:=?\""),
                                               ("x" * 70, "x" * 70)])
def test_odd_boundaries(lab, boundary, written):
    up = lab.upstream()
    router = lab.router(up, models=["whisper"])
    body, _ = form([AUDIO, ("model", None, b"whisper")], boundary)
    assert router.request("POST", "/v1/audio/transcriptions", body, [("Content-Type", f"multipart/form-data; boundary={written}")]).status == 200
    assert up.last.body == body


def test_alias_in_a_form(lab):
    up = lab.upstream()
    router = lab.router(up, models=["whisper"], pool={"aliases": {"whisper-1": "whisper"}})
    body, headers = form([AUDIO, ("model", None, b"whisper-1"), ("language", None, b"en")])
    assert router.request("POST", "/v1/audio/transcriptions", body, headers).status == 200
    assert up.last.body == body.replace(b"whisper-1", b"whisper")


def test_query_string_is_kept(lab):
    up = lab.upstream()
    router = lab.router(up)
    assert router.chat(target="/v1/chat/completions?api-version=2024&x=%2F&&y").status == 200
    assert up.last.target == "/v1/chat/completions?api-version=2024&x=%2F&&y"


def test_further_paths(lab):
    up = lab.upstream()
    router = lab.router(up, paths=["/v1/custom", "/other"])
    assert router.chat(target="/v1/custom").status == 200 and up.last.target == "/v1/custom"
    assert router.chat(target="/other?q").status == 200
    assert router.chat(target="/v1/custom2").status == 404


@pytest.mark.parametrize("base, target", [
    ("", "/v1/chat/completions"), ("/", "/v1/chat/completions"), ("/v1", "/v1/chat/completions"), ("/v1/", "/v1/chat/completions"),
    ("/llama", "/llama/v1/chat/completions"), ("/llama/", "/llama/v1/chat/completions"), ("/llama/v1", "/llama/v1/chat/completions"),
    ("/a/b/v1/", "/a/b/v1/chat/completions"), ("/v12", "/v12/v1/chat/completions"),
])
def test_base_paths(lab, base, target):
    up = lab.upstream()
    assert lab.router(up.url + base).chat().status == 200
    assert up.last.target == target


def test_base_path_v1_is_dropped_for_every_path(lab):
    up = lab.upstream()
    assert lab.router(up.url + "/llama/v1").chat(target="/completion").status == 200
    assert up.last.target == "/llama/completion"


def test_unix_endpoint(lab):
    up = lab.upstream(unix=lab.directory / "e.sock")
    router = lab.router(up)
    assert router.endpoint_of() == "up1"


def test_v6_endpoint(lab):
    up = lab.upstream(host="::1")
    assert lab.router(up).endpoint_of() == "up1"
    assert up.last["Host"] == up.authority


def test_named_endpoint(lab):
    up = lab.upstream()
    assert lab.router(f"http://localhost:{up.port}").endpoint_of() == "up1"
    assert up.last["Host"] == f"localhost:{up.port}"


def test_a_name_that_does_not_resolve_does_not_stop_the_router(lab):
    up = lab.upstream()
    router = lab.router(pools=[{"name": "a", "models": ["gone"], "endpoints": ["http://no-such-host.invalid:1"]},
                               {"name": "b", "models": ["m"], "endpoints": [up]}])
    assert router.endpoint_of() == "up1"
    response = router.chat("gone")
    assert response.status in (502, 503)


def test_two_pools_may_share_an_endpoint(lab):
    up = lab.upstream()
    router = lab.router(pools=[{"name": "a", "models": ["x"], "endpoints": [up]}, {"name": "b", "models": ["y"], "endpoints": [up]}])
    assert router.endpoint_of("x") == router.endpoint_of("y") == "up1"


# what tells where it went


def test_route_headers(lab):
    _, router = three(lab, route_headers=True)
    response = router.chat(user="ann")
    name = response.json()["endpoint"]
    assert response["X-Router-Pool"] == "p"
    assert response["X-Router-Endpoint"] == next(u.url for u in lab.upstreams if u.name == name)
    assert response["X-Router-Affinity"] == "hit"


def test_no_route_headers_by_default(lab):
    _, router = three(lab)
    assert not [n for n in router.chat().names if n.startswith("x-router")]


def test_access_line_of_a_chat(lab):
    up = lab.upstream()
    router = lab.router(up, models=["llama"], pool={"aliases": {"nick": "llama"}})
    body = chat_body("nick", "ann")
    response = router.post("/v1/chat/completions?x=1", body, [("X-Request-Id", "id-1")])
    line = router.access_lines(1)[0]
    assert list(line) == ["time", "request_id", "client", "method", "path", "model", "pool", "endpoint", "affinity", "tries", "status",
                          "received_bytes", "sent_bytes", "queue_ms", "first_byte_ms", "first_token_ms", "duration_ms", "prompt_tokens",
                          "cached_tokens", "completion_tokens", "end"]
    expected = {"request_id": "id-1", "client": "127.0.0.1", "method": "POST", "path": "/v1/chat/completions", "model": "nick", "pool": "p",
                "endpoint": up.url, "affinity": "hit", "tries": 1, "status": 200, "received_bytes": len(body),
                "sent_bytes": len(response.body), "end": "done"}
    assert {k: line[k] for k in expected} == expected
    assert line["duration_ms"] >= line["first_byte_ms"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])


def test_access_line_of_a_refusal(lab):
    router = lab.router(lab.upstream())
    router.post("/v1/chat/completions", {"model": "unknown"})
    line = router.access_lines(1)[0]
    assert (line["status"], line["end"], line["model"], line["endpoint"]) == (404, "refused", "unknown", None)


def test_no_request_forges_an_access_line(lab):
    router = lab.router(lab.upstream(), models=["*"])
    evil = 'm"}\n{"time":"forged\u2028\x7f'
    assert router.chat(evil).status == 200
    router.get("/" + 'x"}{"y')
    lines = router.access_lines(2)
    assert lines[0]["model"] == evil and len(router.out) == 2
    assert json.loads(router.out[1])["path"] == '/x"}{"y' or lines[1]["status"] == 400
