"""expand: dns: each address of a headless service is an endpoint of its own, followed as pods come and go."""
import contextlib
import os
import threading

from harness import DEADLINE, ROUTER_BIN, run_router
from harness.netns import ALLOWED, Namespace
from harness.upstream import wait_until

from test_names import AGAIN, names, serve

PODS = ["127.0.0.11", "127.0.0.12", "127.0.0.13"]


def pods(lab, *hosts):
    """Served on the same port of each address, as the pods of one service are. Named by their address."""
    while True:
        ups = [serve(lab, hosts[0])]
        with contextlib.suppress(OSError):
            for host in hosts[1:]:
                ups.append(serve(lab, host, ups[0].port))
            return ups
        for up in ups:  # somebody has the port on one of them: another one, then
            lab.upstreams.remove(up)
            up.close()


def service(port, **how):
    return {"pools": [{"name": "p", "models": ["m"], "health": {"interval": "200ms"}, **how,
                       "endpoints": [{"url": f"http://pods.test:{port}", "expand": "dns"}]}]}


def start(lab, dns, port, n, **how):
    router = lab.router(config=service(port), env=dns.env, **how)
    wait_until(lambda: len(urls(router)) == n, f"{n} endpoints", step=0.05)
    router.wait_ready()
    return router


def urls(router):
    return [e["url"] for e in router.get("/status").json()["pools"][0]["endpoints"]]


def where(router, user):
    answer = router.chat(user=user)
    assert answer.status == 200
    return answer.json()["endpoint"]


def test_each_address_is_an_endpoint(lab):
    dns, ups = names(lab), pods(lab, *PODS)
    dns.set("pods.test", *PODS)
    router = start(lab, dns, ups[0].port, 3)
    assert sorted(urls(router)) == [f"http://{host}:{ups[0].port}" for host in PODS]
    assert {where(router, f"u{i}") for i in range(40)} == set(PODS)


def test_three_routers_agree_on_every_user(lab):
    dns, ups = names(lab), pods(lab, *PODS)
    dns.set("pods.test", *PODS, rotate=True)  # each of them hears another order
    routers = [start(lab, dns, ups[0].port, 3) for _ in range(3)]
    for i in range(30):
        assert len({where(router, f"u{i}") for router in routers}) == 1


if ALLOWED:  # for root

    def test_three_routers_in_networks_of_their_own_agree_on_every_user(lab):
        """Each asks a DNS server of its own, which has another order, and finds the pods where the others find theirs."""
        routers, port = [], 0
        for turn in range(len(PODS)):
            net = lab.keep(Namespace())
            dns = net.enter(lambda: names(lab))
            for host in PODS:
                port = net.enter(lambda host=host: serve(lab, host, port)).port
            dns.set("pods.test", *PODS[turn:], *PODS[:turn])
            wrapper = lab.directory / f"router-{turn}.sh"
            wrapper.write_text(f"#!/bin/sh\nexec {' '.join(net.prefix)} {os.path.abspath(ROUTER_BIN)} \"$@\"\n")
            wrapper.chmod(0o755)
            routers.append(start(lab, dns, port, 3, listen=(f"unix:{lab.directory}/r{turn}.sock",), binary=str(wrapper)))
        found = [[where(router, f"u{i}") for i in range(200)] for router in routers]
        assert found[0] == found[1] == found[2] and set(found[0]) == set(PODS)


def test_pods_come_and_go(lab):
    dns, ups = names(lab), pods(lab, *PODS)
    dns.set("pods.test", *PODS[:2], ttl=1)
    router = start(lab, dns, ups[0].port, 2)
    users = [f"u{i}" for i in range(30)]
    before = {user: where(router, user) for user in users}
    dns.set("pods.test", *PODS, ttl=1)
    wait_until(lambda: len(urls(router)) == 3, "the third is not seen", timeout=AGAIN, step=0.1)
    wait_until(lambda: {where(router, user) for user in users} == set(PODS), "the third gets nobody", step=0.2)
    for user in users:  # only the new one's share moved
        assert where(router, user) in (before[user], PODS[2])
    dns.set("pods.test", *PODS[:2], ttl=1)
    wait_until(lambda: len(urls(router)) == 2, "the third is still there", timeout=AGAIN, step=0.1)
    assert {user: where(router, user) for user in users} == before


def test_a_stream_outlives_its_pod_in_dns(lab):
    dns = names(lab)
    begun, gate = threading.Event(), threading.Event()

    def slow(conn):
        while True:
            req = conn.rxreq()
            if req.method != "POST":
                conn.txresp(200, body={"object": "list", "data": []})
                continue
            conn.sse_head()
            conn.event({"n": 1})
            begun.set()
            gate.wait(AGAIN + DEADLINE)
            conn.event({"n": 2})
            conn.sse_end()

    up = serve(lab, PODS[0], handler=slow)
    other = serve(lab, PODS[1], up.port)
    dns.set("pods.test", PODS[0], ttl=1)
    router = start(lab, dns, up.port, 1)
    client = lab.client(router)
    client.chat(stream=True)
    assert begun.wait(DEADLINE)
    dns.set("pods.test", PODS[1], ttl=1)
    wait_until(lambda: urls(router) == [other.url], "the change is not followed", timeout=AGAIN, step=0.1)
    gate.set()
    assert b'"n": 2' in client.read_response().body


def test_no_address_is_no_endpoint(lab):
    dns, ups = names(lab), pods(lab, PODS[0])
    router = lab.router(config=service(ups[0].port), env=dns.env)
    answer = router.chat()
    assert answer.status == 503 and answer.error["code"] == "upstream_unavailable"
    assert router.get("/ready").status == 503
    dns.set("pods.test", PODS[0])
    wait_until(lambda: router.chat().status == 200, "it stays away", timeout=AGAIN, step=0.2)


def test_affinity_none_without_addresses(lab):
    dns = names(lab)
    router = lab.router(config=service(1, affinity="none"), env=dns.env)
    assert router.chat().status == 503


def test_explain_says_what_dns_decides(tmp_path):
    (tmp_path / "pools.yaml").write_text("pools:\n  - name: p\n    models: [m]\n    endpoints:\n      - {url: 'http://pods.test:8000', expand: dns}\n"
                                         "      - http://10.0.0.1:8000\n")
    done = run_router("-explain", "m", "alice", cwd=tmp_path)
    assert done.returncode == 0
    assert "10.0.0.1:8000" in done.stdout and "addresses of http://pods.test:8000" in done.stdout


def test_a_unix_socket_cannot_be_expanded(tmp_path):
    (tmp_path / "pools.yaml").write_text("pools:\n  - name: p\n    models: [m]\n    endpoints: [{url: 'unix:/x', expand: dns}]\n")
    done = run_router("-t", cwd=tmp_path)
    assert done.returncode == 1 and "expand" in done.stderr
