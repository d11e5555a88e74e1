"""Contract 8: every metric by known traffic, with exactly that count; the text format; labels from the configuration alone."""
import re
import resource
import time

import pytest

from harness import chat_body, request_bytes, run_router
from harness.mortal import FAST, mortal, user_at, wait_state
from harness.prom import Page, promtool, scrape
from harness.reloads import refused, reload
from harness.router import ROOT
from harness.upstream import chunk, respond_openai, wait_until

README = (ROOT / "README.md").read_text()
NAMES = """router_build_info{version} router_requests_total{pool,endpoint,code} router_refused_total{reason} router_requests_in_flight{pool,endpoint}
router_requests_queued{pool} router_queue_wait_seconds{pool} router_first_byte_seconds{pool} router_first_token_seconds{pool,model}
router_time_per_output_token_seconds{pool,model}
router_request_duration_seconds{pool} router_tokens_total{pool,model,type} router_endpoint_up{pool,endpoint} router_endpoint_state{pool,endpoint,state}
router_affinity_total{pool,result} router_retries_total{pool,endpoint} router_client_gone_total{pool} router_received_bytes_total{side}
router_sent_bytes_total{side} router_connections{side,state} router_body_memory_bytes router_loop_busy_seconds router_log_lines_dropped_total
router_reloads_total{result} router_config_loaded_timestamp_seconds process_cpu_seconds_total process_resident_memory_bytes
process_virtual_memory_bytes process_open_fds process_max_fds process_start_time_seconds""".split()
HISTOGRAMS = ("queue_wait", "first_byte", "first_token", "time_per_output_token", "request_duration")


def by_status(conn):
    """Answers with the status that the chat's content asks for."""
    while True:
        req = conn.rxreq()
        status = req.json().get("want") if req.method == "POST" else None
        if status:
            conn.txresp(status, body=b"{}")
        else:
            respond_openai(conn, req)


def begun(lab, **how):
    """A scripted endpoint, its router, a client whose chat is at the endpoint: (up, router, client, conn)."""
    chat = how.pop("chat", {})
    up, router, client = lab.scripted_pair(**how)
    client.chat(**chat)
    conn = up.accept()
    conn.rxreq()
    return up, router, client, conn


def settled(router, n):
    """The metrics once n requests have ended."""
    router.access_lines(n, path="/v1/chat/completions")
    return scrape(router)


@pytest.fixture(scope="module")
def busy(shared):
    """A router after traffic of every kind there is without waiting; (router, endpoint)."""
    up = shared.upstream(by_status)
    router = shared.router(up, models=["m", "g-*"], pool={"aliases": {"nick": "m"}}, max_body="2k")
    for status in [200] * 3 + [404] * 2 + [500, 302]:
        assert router.chat(want=status).status == status
    for model in ("m", "m", "nick", "g-1", "g-2"):
        assert router.chat(model).status == 200
    assert router.chat(stream=True).status == 200
    router.chat("unknown")
    router.get("/nowhere")
    return router, up


# the format


def test_promtool_is_content(busy):
    text = busy[0].get("/metrics").body.decode()
    Page(text)  # our own strict reader too
    assert promtool(text) in ("", None)


def test_an_idle_router_has_all_of_it_too(lab):
    router = lab.router(lab.upstream())
    text = router.get("/metrics").body.decode()
    assert promtool(text) in ("", None)
    found = Page(text)
    assert set(found.families) == {re.sub(r"\{.*", "", name) for name in NAMES}
    assert found.sum("router_requests_total") == found.sum("router_refused_total") == 0


@pytest.mark.parametrize("spec", NAMES)
def test_names_and_labels(busy, spec):
    name, _, labels = spec.rstrip("}").partition("{")
    family = scrape(busy[0]).families[name]
    assert family.samples and family.help.endswith(".")
    wanted = set(labels.split(",")) - {""}
    assert {frozenset(set(have) - ({"le"} if family.kind == "histogram" else set())) for _, have, _ in family.samples} == {frozenset(wanted)}
    unit = name.split("_")[-2 if name.endswith("_total") else -1]
    assert family.kind != "histogram" or unit == "seconds"


@pytest.mark.parametrize("spec", NAMES)
def test_the_readme_has_each_with_its_type(busy, spec):
    family = scrape(busy[0]).families[re.sub(r"\{.*", "", spec)]
    row = next((line for line in README.splitlines() if line.startswith("|") and f"`{spec}`" in line), None)
    assert row, f"{spec} is not in the README"
    assert spec.startswith("process_") or row.rstrip(" |").endswith(f"| {family.kind}"), row


def keys_of_full_yaml():
    """Those that have a value or a list: queue.size, pools.name, endpoints.url."""
    found, above = ["pools", "defaults"], []
    for line in (ROOT / "examples" / "full.yaml").read_text().splitlines():
        match = re.match(r"( *)((?:- )?)([a-z_]+):(?: |$)", line)
        if not match:
            continue
        depth = len(match.group(1)) + len(match.group(2))
        above = [(d, k) for d, k in above if d < depth]
        parents = [k for _, k in above if k not in ("defaults", "pools")]
        above.append((depth, match.group(3)))
        if line.split("#")[0].rstrip()[-1] != ":":
            found.append(".".join(parents + [match.group(3)]))
    return sorted(set(found))


@pytest.mark.parametrize("key", keys_of_full_yaml())
def test_the_readme_has_each_key_of_full_yaml(key):
    reference = README[README.index("## Configuration reference"):]
    leaf = key.split(".")[-1]
    assert f"`{key}`" in reference or f"`.{leaf}`" in reference or f"`{leaf}`" in reference or f"`pools[].{leaf}`" in reference, key


# requests


def test_requests_total_by_code(busy):
    router, up = busy
    found = scrape(router)
    assert found.each("router_requests_total", "code", pool="p", endpoint=up.url) == {"2xx": 9, "3xx": 1, "4xx": 2, "5xx": 1}


def test_first_byte_duration_and_affinity_count_them_all(busy):
    found = scrape(busy[0])
    assert found["router_first_byte_seconds_count", {"pool": "p"}] == found["router_request_duration_seconds_count", {"pool": "p"}] == 13
    assert found.each("router_affinity_total", "result", pool="p") == {"hit": 13}


def test_tokens_by_the_entry_that_matched(busy):
    """Seven prompt tokens and three of completion in each answer that is no stream."""
    found = scrape(busy[0])
    assert found.each("router_tokens_total", "model", type="prompt") == {"m": 14, "nick": 7, "g-*": 14}
    assert found.each("router_tokens_total", "model", type="completion") == {"m": 6, "nick": 3, "g-*": 6}
    assert found.sum("router_tokens_total", type="cached") == 0
    assert found["router_first_token_seconds_count", {"pool": "p", "model": "m"}] == 1  # of the stream


LIMITED = {"max_body": "2k", "max_header": "1k", "header_timeout": "200ms", "body_timeout": "200ms", "api_keys": ["k"], "body_memory": "1k"}
REFUSALS = {  # reason: [(bytes, status)]
    "unknown_url": [(request_bytes("GET", "/nowhere"), 404), (request_bytes("POST", "/v1/load_lora_adapter", b"{}"), 404)],
    "method_not_allowed": [(request_bytes("GET", "/v1/chat/completions"), 405), (request_bytes("DELETE", "/v1/models"), 405)],
    "invalid_json": [(request_bytes(body=b"{"), 400), (request_bytes(body=b"[]"), 400)],
    "invalid_model": [(request_bytes(body=b'{"model":1}'), 400), (request_bytes(body=b'{}'), 400)],
    "invalid_form": [(request_bytes("POST", "/v1/audio/transcriptions", b"--b\r\n", [("Content-Type", "multipart/form-data; boundary=b")]), 400),
                     (request_bytes("POST", "/v1/audio/transcriptions", b"x", [("Content-Type", "multipart/form-data")]), 400)],
    "model_not_found": [(request_bytes(body=chat_body("none")), 404)],
    "request_too_large": [(request_bytes(body=b"x" * 3000), 413)],
    "unsupported_encoding": [(request_bytes(body=b"x", headers=[("Content-Encoding", "gzip")]), 415)],
    "headers_too_large": [(request_bytes("GET", "/health", headers=[("X", "x" * 2000)]), 431)],
    "request_timeout": [(b"GET /health HTTP/1.1\r\n", 408), (request_bytes(headers=[("Content-Length", "9")]), 408)],
    "overloaded": [(request_bytes(body=chat_body(content="x" * 1500)), 503)],
    "upstream_unavailable": [(request_bytes(body=chat_body("off")), 503)],
    "bad_http": [(b"nonsense\r\n\r\n", 400)],
    "expectation_failed": [(request_bytes(body=b"{}", headers=[("Expect", "x")]), 417)],
}


@pytest.fixture(scope="module")
def limited(shared):
    dead = mortal(shared, alive=False)
    pools = [{"name": "p", "models": ["m"], "endpoints": [shared.upstream()]},
             {"name": "off", "models": ["off"], "endpoints": [dead], "health": FAST}]
    router = shared.router(config=shared.config(pools=pools, **LIMITED))
    wait_state(router, dead, "down")
    return router


@pytest.mark.parametrize("reason", REFUSALS)
def test_refused_by_reason(limited, reason):
    def refusals():
        return scrape(limited, headers=[("x-api-key", "k")]).each("router_refused_total", "reason")
    before = refusals()
    for data, status in REFUSALS[reason]:
        client = limited.connect()
        client.send(data.replace(b"Host: router.test\r\n", b"Host: router.test\r\nx-api-key: k\r\n"))
        assert client.read_response().status == status
        client.close()
    after = refusals()
    assert after.pop(reason) == before.pop(reason, 0) + len(REFUSALS[reason])
    assert after == before


def test_refused_for_want_of_a_key(limited):
    before = scrape(limited, headers=[("x-api-key", "k")]).get("router_refused_total", reason="invalid_api_key")
    for headers in ([], [("x-api-key", "wrong")]):
        assert limited.get("/v1/models", headers).status == 401
    assert scrape(limited, headers=[("x-api-key", "k")])["router_refused_total", {"reason": "invalid_api_key"}] == before + 2


def test_refused_because_all_is_full(lab):
    up, router, client, conn = begun(lab, pool={"max_inflight": 1})
    assert router.chat().status == router.chat().status == 429
    assert scrape(router)["router_refused_total", {"reason": "overloaded"}] == 2
    conn.txresp(200, body=b"x")


def test_errors_of_endpoints_are_no_refusals(lab):
    up, router, client, conn = begun(lab, pool={"first_byte_timeout": "100ms"})
    conn.stall()
    assert client.read_response().status == 504
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.close()
    assert client.read_response().status == 502
    found = settled(router, 2)
    assert found.each("router_requests_total", "code") == {"5xx": 2} and not found.each("router_refused_total", "reason")


# now


def test_in_flight_during_a_stream(lab):
    up, router, client, conn = begun(lab, chat={"stream": True})
    key = "router_requests_in_flight", {"pool": "p", "endpoint": up.url}
    assert scrape(router)[key] == 1
    conn.sse_head()
    events = client.sse(client.read_head())
    conn.event("1")
    next(events)
    found = scrape(router)
    assert found[key] == 1 and found.sum("router_requests_total") == found.sum("router_request_duration_seconds_count") == 0
    assert found["router_connections", {"side": "endpoint", "state": "active"}] == 1
    conn.sse_end()
    list(events)
    found = settled(router, 1)
    assert found[key] == 0 and found["router_requests_total", {"pool": "p", "endpoint": up.url, "code": "2xx"}] == 1
    assert found["router_connections", {"side": "endpoint", "state": "idle"}] == 1
    assert found["router_connections", {"side": "endpoint", "state": "active"}] == 0


def test_queued_and_its_wait(lab):
    up, router, client, conn = begun(lab, pool={"max_inflight": 1, "queue": {"size": 2, "timeout": "60s"}})
    second = lab.client(router)
    second.chat()
    wait_until(lambda: scrape(router)["router_requests_queued", {"pool": "p"}] == 1, "it does not wait")
    began = time.monotonic()
    while time.monotonic() - began < 0.06:
        assert scrape(router)["router_queue_wait_seconds_count", {"pool": "p"}] == 0
    conn.txresp(200, body=b"1")
    client.read_response()
    conn.rxreq()
    conn.txresp(200, body=b"2")
    assert second.read_response().body == b"2"
    found = settled(router, 2)
    assert found["router_requests_queued", {"pool": "p"}] == 0
    assert found["router_queue_wait_seconds_count", {"pool": "p"}] == 1  # who did not wait is not in it
    assert found["router_queue_wait_seconds_bucket", {"pool": "p", "le": "0.05"}] == 0
    assert 0.06 <= found["router_queue_wait_seconds_sum", {"pool": "p"}] < 10


def test_times_of_a_stream_lie_in_their_order(lab):
    up, router, client, conn = begun(lab, chat={"stream": True})
    parts = []
    for n, event in enumerate((None, {"choices": [{"delta": {"role": "assistant", "content": ""}}]}, {"choices": [{"delta": {"content": "Hi"}}]}, None)):
        began = time.monotonic()
        while time.monotonic() - began < 0.06:
            assert scrape(router).sum("router_first_token_seconds_count") == 0
        if n == 0:
            conn.sse_head()
            parts = client.sse(client.read_head())
        elif event:
            conn.event(event)
            next(parts)
    conn.sse_end()
    list(parts)
    found = settled(router, 1)
    sums = [found[f"router_{name}_seconds_sum", labels] for name, labels in
            (("first_byte", {"pool": "p"}), ("first_token", {"pool": "p", "model": "m"}), ("request_duration", {"pool": "p"}))]
    assert 0.06 <= sums[0] and sums[0] + 0.1 < sums[1] and sums[1] + 0.05 < sums[2] < 10, sums
    assert found["router_first_byte_seconds_bucket", {"pool": "p", "le": "0.05"}] == 0
    assert found["router_first_token_seconds_bucket", {"pool": "p", "model": "m", "le": "0.1"}] == 0
    assert found["router_first_token_seconds_count", {"pool": "p", "model": "m"}] == 1


def test_time_per_output_token_is_what_lies_between_them(lab):
    up, router, client, conn = begun(lab, chat={"stream": True})
    conn.sse_head()
    parts = client.sse(client.read_head())
    for n in range(5):
        conn.event({"choices": [{"delta": {"content": "x"}}]})
        next(parts)
        time.sleep(0.1)  # at least; what a slower machine adds the duration tells
    conn.event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})
    conn.sse_end()
    list(parts)
    line = router.access_lines(1)[0]
    sample = settled(router, 1)["router_time_per_output_token_seconds_sum", {"pool": "p", "model": "m"}]
    assert 0.1 <= (line["duration_ms"] - line["first_token_ms"]) / 4000 == pytest.approx(sample, abs=0.002)


def test_buckets_fit_llm_times(busy):
    found = scrape(busy[0])
    for name in HISTOGRAMS:
        bounds = sorted({float(have["le"].replace("+Inf", "inf")) for n, have, _ in found.families[f"router_{name}_seconds"].samples if n.endswith("_bucket")})
        assert (bounds[0], bounds[-2]) == (0.005, 600.0) and len(bounds) >= 10


# tokens


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 64}}
TIMINGS = {"prompt_n": 36, "cache_n": 64, "predicted_n": 20}
TOLD = {
    "SSE, usage at the end": ("sse", [{"choices": [{"delta": {"content": "x"}}]}, {"choices": [], "usage": USAGE}]),
    "SSE, llama.cpp's timings": ("sse", [{"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}], "timings": TIMINGS}]),
    "SSE, Anthropic": ("sse", [{"type": "message_start", "message": {"usage": {"input_tokens": 36, "cache_read_input_tokens": 64, "output_tokens": 1}}},
                               {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}}, {"type": "message_delta", "usage": {"output_tokens": 20}}]),
    "JSON": ("json", {"choices": [{"message": {"content": "x" * 20_000}}], "usage": USAGE}),
    "JSON, llama.cpp's timings": ("json", {"content": "x", "timings": TIMINGS}),
}


@pytest.mark.parametrize("case", TOLD)
def test_tokens_total(lab, case):
    kind, said = TOLD[case]
    up, router, client, conn = begun(lab, chat={"stream": kind == "sse"})
    if kind == "sse":
        conn.sse_head()
        for event in said:
            conn.event(event)
        conn.sse_end()
    else:
        conn.txresp(200, body=said)
    assert client.read_response().status == 200
    found = settled(router, 1)
    assert found.each("router_tokens_total", "type", pool="p", model="m") == {"prompt": 100, "cached": 64, "completion": 20}
    assert found.sum("router_first_token_seconds_count") == found.sum("router_time_per_output_token_seconds_count") == (kind == "sse")


def test_read_usage_false_reads_none(lab):
    router = lab.router(lab.upstream(), read_usage=False)
    assert router.chat().status == router.chat(stream=True).status == 200
    found = settled(router, 2)
    assert found.sum("router_tokens_total") == found.sum("router_first_token_seconds_count") == 0
    assert found.sum("router_requests_total") == 2


# endpoints


def test_up_and_state(lab):
    up, loading, dead = mortal(lab), mortal(lab, health=503), mortal(lab, alive=False)
    router = lab.router([up, loading, dead], probes=True, defaults={"health": FAST})
    wait_state(router, loading, "loading")
    wait_state(router, dead, "down")

    def states(found):
        return {e.url: found.each("router_endpoint_state", "state", pool="p", endpoint=e.url) for e in (up, loading, dead)}
    found = scrape(router)
    assert states(found) == {up.url: {"up": 1}, loading.url: {"loading": 1}, dead.url: {"down": 1}}
    assert found.each("router_endpoint_up", "endpoint") == {up.url: 1}
    assert len([key for key in found.series if key[0] == "router_endpoint_state"]) == 3 * 4  # each state of each, as 0 or 1
    loading.health = 200
    wait_state(router, loading, "up")
    assert scrape(router).each("router_endpoint_up", "endpoint") == {up.url: 1, loading.url: 1}


def test_affinity_hit_spill_failover_none(lab):
    a, b, c = lab.scripted(), lab.scripted(), lab.upstream()
    pools = [{"name": "p", "models": ["m"], "endpoints": [a, b], "max_inflight": 1, "health": {"interval": 0, "fall": 100}},
             {"name": "q", "models": ["any"], "endpoints": [c], "affinity": "none"}]
    router = lab.router(config=lab.config(pools=pools))
    user = user_at(router, a, b)
    hit, spill = lab.client(router), lab.client(router)
    hit.chat(user=user)
    first = a.accept()
    first.rxreq()
    spill.chat(user=user)  # a is full
    second = b.accept()
    second.rxreq()
    for client, conn in ((hit, first), (spill, second)):
        conn.txresp(200, [("Connection", "close")], b"x")
        assert client.read_response().status == 200
    a.stop_listening()
    hit.chat(user=user)  # a refuses: the try fails
    conn = b.accept()
    conn.rxreq()
    conn.txresp(200, body=b"x")
    assert hit.read_response().status == 200
    assert router.chat("any").status == 200
    found = settled(router, 4)
    assert found.each("router_affinity_total", "result", pool="p") == {"hit": 1, "spill": 1, "failover": 1}
    assert found.each("router_affinity_total", "result", pool="q") == {"none": 1}
    assert found.each("router_retries_total", "endpoint", pool="p") == {b.url: 1}
    assert found.sum("router_requests_total", pool="p", endpoint=b.url) == 2


def test_client_gone(lab):
    up, router, client, conn = begun(lab, chat={"stream": True})
    client.close()
    conn.wait_close()
    conn = lab.client(router)
    conn.chat()
    answered = up.accept()
    answered.rxreq()
    answered.txresp(200, body=b"x")
    conn.read_response()
    found = settled(router, 2)
    assert found["router_client_gone_total", {"pool": "p"}] == 1
    assert found.sum("router_requests_total", code="2xx") == 1 and found.sum("router_requests_total", code="4xx") == 0


# bytes and connections


def test_bytes_by_side(lab):
    """On one connection each byte is known: what we send and read, and what the endpoint got and sent."""
    up = lab.scripted()
    router = lab.router(up)
    client, ask = lab.client(router), request_bytes("GET", "/metrics")

    def figures():
        client.mark()
        client.send(ask)
        found = Page(client.read_response().body.decode())
        return {(way, side): found[f"router_{way}_bytes_total", {"side": side}] for way in ("received", "sent") for side in ("client", "endpoint")}, len(client.log)
    before, scraped = figures()
    data = request_bytes(body=chat_body(content="x" * 100_000))
    client.mark()
    client.send(data)
    conn = up.accept()
    got = conn.rxreq()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"y" * 50_000) + b"0\r\n\r\n"
    conn.tx(answer)
    client.read_response()
    relayed = len(client.log)
    after, _ = figures()
    assert {key: after[key] - before[key] for key in after} == {
        ("received", "client"): len(data) + len(ask), ("sent", "client"): scraped + relayed,
        ("received", "endpoint"): len(answer), ("sent", "endpoint"): len(got.raw)}


def test_connections_by_side_and_state(lab):
    up = lab.scripted()
    router = lab.router(up, admin_listen="127.0.0.1:0")
    router.wait_listening(2)

    def figures():
        found = scrape(router, 1)
        return {(side, state): found["router_connections", {"side": side, "state": state}] for side in ("client", "endpoint") for state in ("active", "idle")}
    assert set(figures().values()) == {0}  # those of admin_listen are not counted
    idle = [lab.client(router) for _ in range(3)]
    for client in idle:
        client.request("GET", "/health").read_response()
    busy = lab.client(router)
    busy.chat()
    conn = up.accept()
    conn.rxreq()
    assert figures() == {("client", "active"): 1, ("client", "idle"): 3, ("endpoint", "active"): 1, ("endpoint", "idle"): 0}
    conn.txresp(200, body=b"x")
    busy.read_response()
    assert figures() == {("client", "active"): 0, ("client", "idle"): 4, ("endpoint", "active"): 0, ("endpoint", "idle"): 1}
    for client in [*idle, busy]:
        client.close()
    wait_until(lambda: figures()["client", "idle"] == 0, "closed connections are still counted")


def test_body_memory(lab):
    up, router, client = lab.scripted_pair()
    body = chat_body(content="x" * 200_000)
    assert scrape(router)["router_body_memory_bytes"] == 0
    client.request(body=body[:100_000], headers=[("Content-Length", str(len(body)))], length=False)
    wait_until(lambda: scrape(router)["router_body_memory_bytes"] == 100_000, "what has arrived is not counted")
    client.send(body[100_000:])
    conn = up.accept()
    conn.rxreq()
    assert scrape(router)["router_body_memory_bytes"] == len(body)
    conn.sse_head()
    client.read_head()
    wait_until(lambda: scrape(router)["router_body_memory_bytes"] == 0, "after the first byte of the answer it is not given back")
    conn.sse_end()


# the process


def test_loop_busy(lab):
    router = lab.router(lab.upstream())
    before = scrape(router)["router_loop_busy_seconds_count"]
    for _ in range(20):
        router.get("/health")
    after = scrape(router)
    assert after["router_loop_busy_seconds_count"] >= before + 20
    assert 0 < after["router_loop_busy_seconds_sum"] < 60


def test_lines_dropped(lab):
    router = lab.router(lab.upstream(), log={"file": "/dev/full"})
    for _ in range(7):
        router.get("/health")
    assert scrape(router)["router_log_lines_dropped_total"] == 7


def test_reloads_and_the_time_of_the_configuration(lab):
    up = lab.upstream()
    began = time.time()
    router = lab.router(up)
    first = scrape(router)
    assert began - 1 <= first["process_start_time_seconds"] <= first["router_config_loaded_timestamp_seconds"] <= time.time() + 1
    assert not first.each("router_reloads_total", "result") and first.get("router_reloads_total", None, result="failed") == 0
    reload(router)
    refused(router, "nonsense: 1\n")
    refused(router)
    found = scrape(router)
    assert found.each("router_reloads_total", "result") == {"ok": 1, "failed": 2}
    assert first["router_config_loaded_timestamp_seconds"] < found["router_config_loaded_timestamp_seconds"] <= time.time() + 1
    assert found["process_start_time_seconds"] == first["process_start_time_seconds"]


def test_the_process(busy):
    router, _ = busy
    found = scrape(router)
    assert 0 < found["process_cpu_seconds_total"] <= router.cpu() + 0.1
    assert abs(found["process_resident_memory_bytes"] - router.rss()) < 32 << 20
    assert found["process_virtual_memory_bytes"] >= found["process_resident_memory_bytes"] > 1 << 20
    assert abs(found["process_open_fds"] - router.fds()) <= 2  # the scrape's own connection, and what it reads
    assert found["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def test_build_info(busy):
    version = re.match(r"router (\S+)", run_router("-version").stdout).group(1)
    assert scrape(busy[0]).each("router_build_info", "version") == {version: 1}


# labels


def test_label_values_are_escaped(lab):
    alias, glob = 'nick"name\\', 'g"\\{x="y"},*'
    router = lab.router(config=lab.config(pools=[{"name": "p", "models": ["m", glob, "ünï"], "aliases": {alias: "m"}, "endpoints": [lab.upstream()]}]))
    for model in (alias, glob.replace("*", "1"), "ünï"):
        assert router.chat(model).status == 200
    text = router.get("/metrics").body.decode()
    found = Page(text)
    assert found.each("router_tokens_total", "model", pool="p", type="prompt") == {alias: 7, glob: 7, "ünï": 7}
    assert promtool(text) in ("", None)


def test_labels_never_come_from_clients(lab):
    """300 models, users, chats, paths, ids and hosts nobody ever heard of leave the number of series as it was."""
    router = lab.router(pools=[{"name": "p", "models": ["m"], "endpoints": [lab.upstream()]}, {"name": "rest", "models": ["*"], "endpoints": [lab.upstream()]},
                               {"name": "g", "models": ["g-*"], "endpoints": [lab.upstream()], "affinity": "conversation"}])
    client = lab.client(router)

    def strange(i):
        for model in (f"model-{i}", f"g-{i}"):
            client.request("POST", f"/v1/chat/completions?q={i}", chat_body(model, user=f"user-{i}"), [("X-Request-Id", f"id-{i}"), ("X-Session-Id", f"c-{i}")], host=f"h{i}")
            assert client.read_response().status == 200
        client.request("GET", f"/p/{i}")
        assert client.read_response().status == 404
    strange(0)
    before = scrape(router).series
    for i in range(1, 301):
        strange(i)
    found = scrape(router)
    assert found.series == before
    assert found["router_tokens_total", {"pool": "rest", "model": "*", "type": "prompt"}] == 7 * 301
    assert found["router_tokens_total", {"pool": "g", "model": "g-*", "type": "prompt"}] == 7 * 301
    assert found["router_refused_total", {"reason": "unknown_url"}] == 301


def test_unknown_models_make_no_series(lab):
    router = lab.router(lab.upstream())
    client = lab.client(router)
    client.chat("none")
    client.read_response()
    before = scrape(router).series
    for i in range(300):
        client.chat(f"none-{i}")
        assert client.read_response().status == 404
    found = scrape(router)
    assert found.series == before and found["router_refused_total", {"reason": "model_not_found"}] == 301


def test_what_a_reload_removes_is_gone_and_what_it_adds_is_there(lab):
    a, b = lab.upstream(), lab.upstream()
    router = lab.router(a, models=["old"])
    router.chat("old")
    settled(router, 1)
    reload(router, lab.config(pools=[{"name": "new", "models": ["m"], "endpoints": [b]}]))
    text = router.get("/metrics").body.decode()
    assert a.url not in text and '"old"' not in text and '"p"' not in text
    assert Page(text)["router_endpoint_up", {"pool": "new", "endpoint": b.url}] == 1
