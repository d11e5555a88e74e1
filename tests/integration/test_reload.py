"""Contract 7: SIGHUP. The new configuration is built whole and swapped, or refused with the reason; nothing that lives is lost."""
import contextlib
import os
import re
import signal
import socket
import stat
import threading

import pytest

from harness import RawClient, chat_body, run_router
from harness.mortal import FAST, mortal, wait_state
from harness.prom import scrape
from harness.reloads import endpoint_row, ends, goes_on, hup, page, refused, reload, status, streaming, verdicts
from harness.upstream import wait_until
from harness.wire import PeerClosed, Truncated

BROKEN = "pools:\n  - name: p\n    models: [m]\n    endpoints: []\n    modles: [x]\nmax_body: lots\n"


def where(router, n=40, model="m"):
    """{user: endpoint's name} of n users, asked on one connection."""
    client = router.connect()
    found = {}
    for i in range(n):
        client.chat(model, user=f"user-{i}")
        found[i] = client.read_response().json()["endpoint"]
    client.close()
    return found


def connects(address):
    try:
        RawClient(address, timeout=5).close()
    except (ConnectionError, FileNotFoundError):
        return False
    return True


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# what takes effect


def test_reloads_leave_no_large_hole_in_memory(lab):
    router = lab.router(lab.upstream())
    reload(router)
    before = router.rss()
    for _ in range(60):
        reload(router)
    # a sanitizer keeps what was freed, up to 256 MB of it: what 60 small files need is far below, a buffer of 16 MB each above
    assert router.rss() - before < 160 << 20


def test_models_pools_and_endpoints(lab):
    a, b, c = lab.upstream(), lab.upstream(), lab.upstream()
    router = lab.router(a, models=["m", "old"])
    assert (router.endpoint_of("m"), router.endpoint_of("old"), router.chat("q-1").status) == ("up1", "up1", 404)
    reload(router, lab.config(pools=[{"name": "p", "models": ["m", "new"], "endpoints": [b]}, {"name": "q", "models": ["q-*"], "endpoints": [c]}]))
    assert (router.endpoint_of("m"), router.endpoint_of("new"), router.endpoint_of("q-1")) == ("up2", "up2", "up3")
    response = router.chat("old")
    assert (response.status, response.error["code"]) == (404, "model_not_found")
    assert [m["id"] for m in router.get("/v1/models").json()["data"]] == ["m", "new"]
    assert [p["name"] for p in status(router)["pools"]] == ["p", "q"]


def test_weights(lab):
    a, b = lab.upstream(), lab.upstream()
    router = lab.router([a, b])
    assert 2 <= list(where(router).values()).count("up1") <= 38
    reload(router, lab.config([{"url": a, "weight": 1}, {"url": b, "weight": 1000}]))
    assert list(where(router).values()).count("up1") <= 2


def big(router):
    return router.chat(content="x" * 5000).status


CHANGES = {  # what a request says before and after
    "max_body": ({"max_body": "1k"}, {"max_body": "1m"}, big, 413, 200),
    "body_memory": ({"body_memory": "1k"}, {"body_memory": "1m"}, big, 503, 200),
    "max_header": ({"max_header": "1k"}, {"max_header": "8k"}, lambda r: r.get("/health", [("X", "x" * 2000)]).status, 431, 200),
    "paths": ({}, {"paths": ["/v1/custom"]}, lambda r: r.post("/v1/custom", chat_body()).status, 404, 200),
    "api_keys": ({}, {"api_keys": ["k"]}, lambda r: r.chat().status, 200, 401),
    "cors_origins": ({}, {"cors_origins": ["http://o"]}, lambda r: r.chat(headers=[("Origin", "http://o")])["Access-Control-Allow-Origin"], None, "http://o"),
    "route_headers": ({}, {"route_headers": True}, lambda r: r.chat()["X-Router-Pool"], None, "p"),
    "affinity": ({"route_headers": True}, {"route_headers": True, "pool": {"affinity": "none"}}, lambda r: r.chat()["X-Router-Affinity"], "hit", "none"),
    "aliases": ({}, {"pool": {"aliases": {"n": "m"}}}, lambda r: r.chat("n").status, 404, 200),
    "trusted_proxies": ({}, {"trusted_proxies": ["127.0.0.1"]}, lambda r: r.chat(headers=[("X-Forwarded-For", "9.9.9.9")]).status
                        and r.access_lines(1)[-1]["status"] and r.seen.last["X-Forwarded-For"], "127.0.0.1", "9.9.9.9, 127.0.0.1"),
}


@pytest.mark.parametrize("key", CHANGES)
def test_settings(lab, key):
    before, after, ask, was, then = CHANGES[key]
    up = lab.upstream()
    router = lab.router(up, **before)
    router.seen = up
    assert ask(router) == was
    reload(router, lab.config(up, **after))
    assert ask(router) == then


def test_a_lower_max_connections(lab):
    up = lab.upstream()
    router = lab.router(up, max_connections=5)
    held = [lab.client(router).send(b"GET /health HTTP/1.1\r\nHost: x\r\n") for _ in range(3)]
    router.get("/health")
    reload(router, lab.config(up, max_connections=3))
    response = lab.client(router).read_response()
    assert (response.status, response.error["code"]) == (503, "overloaded")
    for client in held:  # nobody is thrown out
        assert client.send(b"\r\n").read_response().status == 200


def test_log_file_and_format(lab):
    up = lab.upstream()
    first, second = lab.directory / "first.log", lab.directory / "second.log"
    router = lab.router(up, log={"file": str(first)})
    router.chat(headers=[("X-Request-Id", "one")])
    reload(router, lab.config(up, log={"file": str(second), "access": "text"}))
    router.chat(headers=[("X-Request-Id", "two")])
    wait_until(lambda: second.exists() and second.read_text().endswith("\n"), "no line")
    assert '"one"' in first.read_text() and "two" not in first.read_text()
    assert "two" in second.read_text() and not second.read_text().startswith("{")
    reload(router, lab.config(up, log={"access": "off"}))
    router.chat(headers=[("X-Request-Id", "three")])
    reload(router, lab.config(up))
    router.chat(headers=[("X-Request-Id", "four")])
    assert [line["request_id"] for line in router.access_lines(1)] == ["four"]
    assert "three" not in first.read_text() + second.read_text()


def test_log_level(lab):
    up = lab.upstream()
    router = lab.router(up)
    router.chat(headers=[("X-Request-Id", "quiet")])
    reload(router, lab.config(up, log={"level": "debug"}))
    router.chat(headers=[("X-Request-Id", "loud")])
    router.log_contains(r"^debug .*\bloud\b")
    assert not [line for line in router.log if "quiet" in line]


def test_keys_of_a_file_are_read_again(lab):
    up, path = lab.upstream(), lab.directory / "keys"
    path.write_text("old\n")
    router = lab.router(up, api_keys_file=str(path))

    def allowed(key):
        return router.chat(headers=[("Authorization", f"Bearer {key}")]).status
    assert (allowed("old"), allowed("new")) == (200, 401)
    path.write_text("new\n")
    assert (allowed("old"), allowed("new")) == (200, 401)  # not before it is asked to
    reload(router)
    assert (allowed("old"), allowed("new")) == (401, 200)
    path.unlink()
    assert "api_keys_file" in refused(router)
    assert (allowed("old"), allowed("new")) == (401, 200)


# listen addresses


def test_listen_addresses_come_and_go(lab):
    up = lab.upstream()
    stays, goes, comes = (f"127.0.0.1:{free_port()}" for _ in range(3))
    router = lab.router(up, listen=(), config={"listen": [stays, goes], **lab.config(up)})
    router.wait_listening(2)
    idle = [lab.client(router, 0), lab.client(router, 1)]
    for client in idle:
        client.chat()
        assert client.read_response().status == 200
    reload(router, {"listen": [comes, stays], **lab.config(up)})
    assert router.listening() == [stays, goes, comes]  # what stays was not opened again
    assert [connects(a) for a in router.addresses] == [True, False, True]
    assert RawClient(router.addresses[2]).request("GET", "/health").read_response().body == b"ok"
    for client in idle:  # a connection outlives the address it came by
        client.chat()
        assert client.read_response().status == 200


def test_what_waits_in_the_backlog_of_an_address_that_closes_is_served(lab):
    up = lab.upstream()
    router = lab.router(up, listen=(), config={"listen": [f"127.0.0.1:{free_port()}"], **lab.config(up)})
    old = router.address
    router.signal(signal.SIGSTOP)
    waiting = [RawClient(old) for _ in range(100)]  # more than one batch
    for client in waiting:
        client.chat()
    router.write_config({"listen": [f"127.0.0.1:{free_port()}"], **lab.config(up)})
    router.signal(signal.SIGHUP)
    router.signal(signal.SIGCONT)
    for client in waiting:
        assert client.read_response().status == 200
        client.close()
    wait_until(lambda: not connects(old), "the old address stays open")


def test_unix_sockets_come_and_go(lab):
    up, old, new = lab.upstream(), lab.directory / "old.sock", lab.directory / "new.sock"
    router = lab.router(up, listen=(), config={"listen": [f"unix:{old}"], **lab.config(up)})
    assert router.chat().status == 200
    reload(router, {"listen": [f"unix:{new}"], **lab.config(up)})
    assert not old.exists() and stat.S_IMODE(new.stat().st_mode) == 0o660
    assert RawClient(new).request("GET", "/health").read_response().status == 200


def test_admin_listen_comes_and_goes(lab):
    up = lab.upstream()
    router = lab.router(up)
    assert router.get("/metrics").status == 200
    reload(router, lab.config(up, admin_listen="127.0.0.1:0"))
    assert page(router, "GET", "/metrics", index=1).status == 200
    assert router.get("/metrics").status == 404
    reload(router, lab.config(up))
    assert router.get("/metrics").status == 200 and not connects(router.addresses[1])


def test_listen_of_the_command_line_stays_in_force(lab):
    up = lab.upstream()
    router = lab.router(up)
    other = free_port()
    reload(router, lab.config(up, listen=f"127.0.0.1:{other}"))
    assert router.chat().status == 200
    assert len(router.listening()) == 1 and not connects(("127.0.0.1", other))


def changes_nothing(lab, router, up, config, reason):
    """That file is refused for that reason, and all goes on as before."""
    before = status(router)["config"]
    ports = sorted(listeners(router))
    assert re.search(reason, refused(router, config))
    after = status(router)["config"]
    assert re.search(reason, after.pop("reload_error")) and before.pop("reload_error") is None
    assert after == before
    assert sorted(listeners(router)) == ports
    assert router.endpoint_of("m") == up.name and router.chat("other").status == 404
    assert scrape(router)["router_reloads_total", {"result": "failed"}] == 1


def listeners(router):
    """Ports on which that process listens."""
    inodes = set()
    for fd in os.listdir(f"/proc/{router.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # a connection that ends just now
            inodes.add(os.readlink(f"/proc/{router.pid}/fd/{fd}"))
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            yield int(fields[1].split(":")[1], 16)


def test_a_listen_address_that_is_taken_changes_nothing(lab):
    up, another = lab.upstream(), lab.upstream()
    stays, free = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    router = lab.router(up, listen=(), config={"listen": [stays], **lab.config(up)})
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = f"127.0.0.1:{holder.getsockname()[1]}"
        changes_nothing(lab, router, up, {"listen": [free, taken], **lab.config(another, models=["m", "other"])},
                        rf"cannot listen on {taken}.*[Aa]ddress already in use")
    reload(router)  # now it is free
    assert router.listening()[-1] == taken and not connects(router.addresses[0])


def test_a_log_file_that_cannot_be_opened_changes_nothing(lab):
    up, another = lab.upstream(), lab.upstream()
    router = lab.router(up)
    config = lab.config(another, models=["m", "other"], admin_listen=f"127.0.0.1:{free_port()}", log={"file": "/nowhere/at/all.log"})
    changes_nothing(lab, router, up, config, r"log\.file: .*/nowhere/at/all\.log")
    assert router.access_lines(1, path="/v1/chat/completions")  # the old log goes on


# refused


def test_a_wrong_file_is_refused_with_every_reason(lab):
    """The same text as -t, in the log; the first reason in /status; counted; and the old one goes on."""
    up = lab.upstream()
    router = lab.router(up)
    changes_nothing(lab, router, up, BROKEN, r"pools\.yaml:\d+:\d+: ")
    checked = run_router("-config", router.config_path, "-t")
    findings = checked.stderr.splitlines()
    assert len(findings) == 3 and checked.returncode == 1
    for finding in findings:
        assert [line for line in router.log if finding in line and line.startswith("error ")], (finding, router.log)
    shown = status(router)["config"]["reload_error"]
    assert findings[0].replace(": error: ", ": ").split("pools.yaml:")[1] in shown.replace(": error: ", ": "), (findings[0], shown)
    reload(router, lab.config(up))
    assert status(router)["config"]["reload_error"] is None
    assert scrape(router).each("router_reloads_total", "result") == {"ok": 1, "failed": 1}


def test_a_file_that_is_gone_is_refused(lab):
    up = lab.upstream()
    router = lab.router(up)
    router.config_path.unlink()
    assert "No such file" in refused(router)
    assert router.chat().status == 200


def test_a_warning_refuses_nothing(lab):
    up = lab.upstream()
    router = lab.router(up)
    reload(router, lab.config([up.url, up.url]))
    router.log_contains(r"^warn reload: .*pools\.yaml:\d+:\d+: warning: ")


def test_the_environment_is_expanded_again_and_an_unset_name_refuses(lab):
    up = lab.upstream()
    router = lab.router(up, env={"KEY_OF_TODAY": "k"})
    reload(router, lab.config(up, api_keys=["${KEY_OF_TODAY}"]))
    assert router.chat(headers=[("x-api-key", "k")]).status == 200
    assert "KEY_OF_TOMORROW" in refused(router, lab.config(up, api_keys=["${KEY_OF_TOMORROW}"]))
    assert (router.chat().status, router.chat(headers=[("x-api-key", "k")]).status) == (401, 200)


# what lives on


def test_a_running_stream_its_slot_and_its_idle_neighbours_stay(lab):
    up = lab.scripted()
    router = lab.router(up)
    first = lab.client(router)
    first.chat()
    idle = up.accept()
    idle.rxreq()
    idle.txresp(200, body=b"1")
    first.read_response()
    client = lab.client(router)
    client.chat(stream=True)
    idle.rxreq()
    idle.sse_head()
    events = client.sse(client.read_head())
    first.chat()
    second = up.accept()
    second.rxreq()
    second.txresp(200, body=b"2")
    first.read_response()
    for n in range(3):
        goes_on(idle, events, n)
        reload(router, lab.config(up, pool={"max_inflight": 10 + n}))
        row = endpoint_row(router, up)
        assert (row["in_flight"], row["requests"], row["max_inflight"]) == (1, 3, 10 + n)
        assert scrape(router)["router_connections", {"side": "endpoint", "state": "idle"}] == 1
    first.chat()
    second.rxreq()  # over the idle connection of before
    second.txresp(200, body=b"3")
    assert first.read_response().body == b"3"
    ends(idle, events)
    wait_until(lambda: endpoint_row(router, up)["in_flight"] == 0, "the slot does not come back")


def test_counters_stay(lab):
    up = lab.upstream()
    router = lab.router(up)
    where(router, 7)
    router.get("/nowhere")
    router.access_lines(8)
    before = scrape(router)
    reload(router, lab.config(up, models=["m", "n"]))
    after = scrape(router)
    for name, wanted in (("router_requests_total", 7), ("router_refused_total", 1), ("router_affinity_total", 7), ("router_tokens_total", 70),
                         ("router_request_duration_seconds_count", 7), ("router_first_byte_seconds_count", 7)):
        assert before.sum(name) == after.sum(name) == wanted, name
    assert after["router_received_bytes_total", {"side": "client"}] > before["router_received_bytes_total", {"side": "client"}]
    assert len(status(router)["recent"]) == 8


def test_health_states_and_drain_marks_stay(lab):
    alive, dead = mortal(lab, name="alive"), mortal(lab, alive=False, name="dead")
    config = lab.config([alive, dead], probes=True, defaults={"health": FAST}, admin_listen="127.0.0.1:0")
    router = lab.router(config=config)
    router.wait_listening(2)
    wait_state(router, dead, "down")
    json = [("Content-Type", "application/json")]
    assert page(router, "POST", f"/admin/drain?endpoint={alive.url}", json, index=1).status == 200
    before = [endpoint_row(router, up, index=1) for up in (alive, dead)]
    assert [row["state"] for row in before] == ["draining", "down"]
    for pool in ({"retries": 1}, {"retries": 0}):
        reload(router, lab.config([alive, dead], probes=True, defaults={"health": FAST}, admin_listen="127.0.0.1:0", pool=pool))
        for up, was in zip((alive, dead), before):
            row = endpoint_row(router, up, index=1)
            assert {k: row[k] for k in ("state", "reason", "since")} == {k: was[k] for k in ("state", "reason", "since")}
    assert router.chat().status == 503
    assert page(router, "POST", f"/admin/undrain?endpoint={alive.url}", json, index=1).status == 200
    assert router.chat().status == 200
    dead.revive()
    wait_state(router, dead, "up")


def test_a_removed_endpoint_finishes_its_stream_and_gets_no_more(lab):
    leaving, staying = lab.scripted(), lab.upstream()
    router = lab.router(leaving)
    conn, events, client = streaming(lab, router, leaving)
    reload(router, lab.config(staying))
    assert {router.endpoint_of("m", f"u{i}") for i in range(10)} == {staying.name}
    assert endpoint_row(router, leaving) is None
    goes_on(conn, events, 1)
    ends(conn, events)
    assert conn.wait_close() == "fin"  # nobody keeps an idle connection to it
    line = router.access_lines(1, endpoint=leaving.url)[0]
    assert (line["end"], line["pool"]) == ("done", "p")
    assert not [key for key in scrape(router).series if leaving.url in str(key)]


def test_a_removed_endpoint_is_asked_no_more(lab):
    leaving, staying = mortal(lab), mortal(lab)
    config = {"probes": True, "defaults": {"health": FAST, "model_list": {"interval": "100ms"}}}
    router = lab.router([leaving, staying], **config)
    for round in range(3):
        asked = len(leaving.probes)
        leaving.wait_probes(asked + 2)
        reload(router, lab.config(staying, **config))
        asked = len(leaving.probes)  # one more may be under way
        staying.wait_probes(len(staying.probes) + 5)
        assert len(leaving.probes) <= asked + 1
        reload(router, lab.config([leaving, staying], **config))


def test_an_endpoint_that_comes_back_while_its_stream_runs_is_the_same(lab):
    up, other = lab.scripted(), lab.upstream()
    router = lab.router(up)
    conn, events, client = streaming(lab, router, up)
    reload(router, lab.config(other))
    reload(router, lab.config(up, pool={"max_inflight": 1}))
    assert endpoint_row(router, up)["in_flight"] == 1
    response = router.chat()
    assert (response.status, response.error["code"]) == (429, "overloaded")
    ends(conn, events)
    wait_until(lambda: endpoint_row(router, up)["in_flight"] == 0, "the slot does not come back")


def test_the_same_users_stay_where_they_were(lab):
    a, b, c = lab.upstream(), lab.upstream(), lab.upstream()
    router = lab.router([a, b, c])
    before = where(router)
    reload(router, lab.config([c, a, b], models=["new", "m"]))
    assert where(router) == before
    reload(router, lab.config([a, b]))
    assert all(was == now for was, now in zip(before.values(), where(router).values()) if was != "up3")
    reload(router, lab.config([b, c, a]))
    assert where(router) == before


def test_a_request_that_is_arriving_goes_on_where_it_began(lab):
    up, other = lab.upstream(), lab.upstream()
    router = lab.router(up)
    client, body = lab.client(router), chat_body(content="x" * 5000)
    client.request(body=body[:1000], headers=[("Content-Length", str(len(body)))], length=False)
    router.get("/health")
    reload(router, lab.config(other, models=["another"], max_body="1k"))
    response = client.send(body[1000:]).read_response()
    assert (response.status, response.json()["endpoint"]) == (200, up.name)
    assert client.request(body=body).read_response().status == 413


# under load


class Load:
    """Threads that ask without pause until they are told to stop; what went wrong is in `wrong`."""

    def __init__(self, router, chats=3, streams=3):
        self.router, self.stopped, self.wrong, self.chats, self.streams = router, threading.Event(), [], 0, 0
        self.threads = [threading.Thread(target=self.run, args=(ask,), daemon=True) for ask in [self.chat] * chats + [self.stream] * streams]
        for thread in self.threads:
            thread.start()

    def run(self, ask):
        client = RawClient(self.router.address)
        try:
            while not self.stopped.is_set():
                ask(client)
        except (AssertionError, PeerClosed, Truncated, ConnectionError, ValueError) as error:
            self.wrong.append(repr(error))
        finally:
            client.close()

    def chat(self, client):
        client.chat(user=str(self.chats % 10))
        response = client.read_response()
        assert response.status == 200, response
        self.chats += 1

    def stream(self, client):
        client.chat(user=str(self.streams % 10), stream=True)
        events = list(client.sse(client.read_head()))
        assert len(events) == 4 and events[-1] == b"data: [DONE]", events
        self.streams += 1

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(20)
        assert not self.wrong, self.wrong


def test_200_reloads_under_load_half_of_them_broken_lose_nothing(lab):
    a, b, c = lab.upstream(), lab.upstream(), lab.upstream()
    slow = lab.scripted()
    files = [lab.config(pools=[{"name": "p", "models": ["m"], "endpoints": ups}, {"name": "slow", "models": ["slow"], "endpoints": [slow]}],
                        **({"admin_listen": "127.0.0.1:0"} if n % 2 else {}), probes=n == 2)
             for n, ups in enumerate(([a, b], [b], [b, c], [a, b, c]))]
    router = lab.router(config=files[0])
    conn, events, _ = streaming(lab, router, slow, model="slow")
    fds = router.fds()
    load = Load(router)
    for n in range(200):
        if n % 2:
            refused(router, BROKEN)
        else:
            reload(router, files[n // 2 % 4])
        if n % 20 == 0:
            goes_on(conn, events, n)
    wait_until(lambda: load.wrong or load.chats > 50 and load.streams > 50, "the load stands still", 20)
    load.stop()
    ends(conn, events)
    reload(router, files[0])
    assert status(router)["config"]["generation"] == 102
    assert scrape(router).each("router_reloads_total", "result") == {"ok": 101, "failed": 100}
    assert len(verdicts(router)) == 201
    router.wait_fds(fds + 8)  # connections kept to endpoints
    lines = router.access_lines(load.chats + load.streams, path="/v1/chat/completions")
    assert {line["end"] for line in lines} == {"done"}


def test_signals_that_come_too_fast_are_one(lab):
    up = lab.upstream()
    router = lab.router(up)
    router.signal(signal.SIGSTOP)
    for _ in range(5):
        router.signal(signal.SIGHUP)
    router.signal(signal.SIGCONT)
    wait_until(lambda: verdicts(router), "no reload")
    assert router.chat().status == 200 and hup(router).endswith("1 pools")
    assert len(verdicts(router)) == 2
