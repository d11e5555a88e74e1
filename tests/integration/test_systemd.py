"""Contract 7: the service manager's protocols (sd_notify, socket activation), two processes at one address, and the unit files."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import DEADLINE, RawClient, Router, ROUTER_BIN, run_router
from harness.reloads import page, refused, reload
from harness.router import ROOT
from harness.supervisor import Notify, Supervisor
from harness.upstream import wait_until

UNITS = ROOT / "examples" / "systemd"


@pytest.fixture
def notify(lab):
    return lab.keep(Notify(lab.directory / "notify.sock"))


@pytest.fixture
def parent(lab):
    return lab.keep(Supervisor(lab.directory))


def fails(lab, config, *args, env=None, binary=None):
    """The router's exit status and stderr where it must not start."""
    path = lab.directory / "pools.yaml"
    path.write_text(config)
    done = run_router("-config", path, *args, env=env, binary=binary, cwd=lab.directory)
    assert done.returncode == 1, done
    return done.stderr


PLAIN = "pools:\n  - {name: p, models: [m], endpoints: [\"http://127.0.0.1:1\"]}\n"


# notifications


def test_ready_is_told_once_it_listens(lab, notify):
    sock = lab.directory / "r.sock"
    router = Router(lab.directory / "r", lab.config(lab.upstream()), listen=(f"unix:{sock}",), env=notify.env, wait=False)
    lab.routers.append(router)
    _, message = notify.wait("READY=1")
    assert RawClient(sock).request("GET", "/health").read_response().body == b"ok"  # at that very moment
    assert re.search(r"\b1 pools?\b.*\b1 endpoints?\b", message["STATUS"])
    assert all(re.fullmatch(rb"([A-Z_]+=[^\n]*\n?)+", raw) for raw in notify.raw)


def test_an_abstract_socket(lab):
    notify = lab.keep(Notify(abstract=f"router-test-{os.getpid()}"))
    lab.router(lab.upstream(), env=notify.env)
    notify.wait("READY=1")


def test_a_router_that_cannot_start_is_never_ready(lab, notify):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        fails(lab, PLAIN, "-listen", f"127.0.0.1:{holder.getsockname()[1]}", env=notify.env)
    fails(lab, "nonsense: 1\n" + PLAIN, env=notify.env)
    assert not notify.told("READY")


def test_a_reload_is_reloading_with_its_time_and_then_ready(lab, notify):
    up = lab.upstream()
    router = lab.router(up, env=notify.env)
    notify.wait("READY=1")
    for n, change in enumerate((reload, refused, reload)):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        change(router, lab.config(up) if change is reload else "nonsense: 1\n")
        _, told = notify.wait("RELOADING=1", n + 1)
        assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        _, ready = notify.wait("READY=1", n + 2)
        assert ready["STATUS"]
    kinds = [kind for _, m in notify.messages for kind in ("READY", "RELOADING") if kind in m]
    assert kinds == ["READY"] + ["RELOADING", "READY"] * 3  # a refused one too, or the manager would wait for ever


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_stopping_is_told_before_the_drain(lab, notify, sign):
    up = lab.scripted()
    router = lab.router(up, env=notify.env)
    client = lab.client(router)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    router.signal(sign)
    notify.wait("STOPPING=1")
    wait_until(lambda: "1 requests" in notify.told("STATUS")[-1], "the drain is not told")
    assert client.is_silent(0.1)
    conn.txresp(200, body=b"x")
    assert client.read_response().body == b"x"
    client.close()
    assert router.wait_exit() == 0
    assert len(notify.told("STOPPING")) == 1


def test_the_watchdog_is_fed_at_half_its_time(lab, notify):
    lab.router(lab.upstream(), env={**notify.env, "WATCHDOG_USEC": "500000"})
    first, _ = notify.wait("WATCHDOG=1")
    last, _ = notify.wait("WATCHDOG=1", 6)
    assert 0.2 < (last - first) / 5 < 0.45


@pytest.mark.parametrize("env", [{}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "nonsense"}, {"WATCHDOG_USEC": "0"}], ids=str)
def test_a_watchdog_that_is_not_ours_is_not_fed(lab, notify, env):
    router = lab.router(lab.upstream(), env={**notify.env, **env})
    notify.wait("READY=1")
    began = time.monotonic()
    while time.monotonic() - began < 0.4:  # twice its time
        router.get("/health")
    assert not notify.told("WATCHDOG")


@pytest.mark.parametrize("where", ["/nowhere/notify", "@nobody-listens", "relative", "", "/" + "x" * 200])
def test_nobody_who_listens_is_no_trouble(lab, where):
    router = lab.router(lab.upstream(), env={"NOTIFY_SOCKET": where, "WATCHDOG_USEC": "100000"})
    assert router.chat().status == 200
    reload(router)


def test_a_manager_that_does_not_read_stops_nobody(lab):
    """Its queue fills up: what it does not take is lost."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(lab.directory / "deaf"))
        router = lab.router(lab.upstream(), env={"NOTIFY_SOCKET": str(lab.directory / "deaf"), "WATCHDOG_USEC": "2000"})
        for _ in range(20):
            reload(router)
        assert router.chat().status == 200


# socket activation


def test_a_socket_handed_over_takes_the_place_of_listen(lab, parent):
    sock = parent.listen()
    router = parent.start(lab, config={"listen": "127.0.0.1:0", **lab.config(lab.upstream())})
    assert router.address == sock.getsockname() and len(router.listening()) == 1
    assert router.chat().status == 200


def test_connections_of_a_socket_handed_over_send_at_once(lab, parent):
    """Its maker did not say TCP_NODELAY: without it a token waits for the acknowledgement of the one before."""
    sock = parent.listen()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    router = parent.start(lab, lab.upstream())
    router.stop()
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    with socket.create_connection(sock.getsockname()):  # what is accepted inherits it
        sock.settimeout(DEADLINE)
        with sock.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_unix_and_several(lab, parent):
    path = lab.directory / "handed.sock"
    parent.listen()
    parent.listen(unix=path)
    router = parent.start(lab, lab.upstream())
    for address in (parent.sockets[0].getsockname(), path):
        assert RawClient(address).request("GET", "/health").read_response().body == b"ok"
    router.stop()
    assert path.exists()  # its owner's


@pytest.mark.parametrize("configured", [True, False], ids=["configured", "not configured"])
def test_a_socket_named_admin_is_admin_listen(lab, parent, configured):
    parent.listen("router")
    parent.listen("admin")
    router = parent.start(lab, lab.upstream(), **({"admin_listen": "127.0.0.1:0"} if configured else {}))
    assert len(router.listening()) == 2
    admin = [i for i, line in enumerate(l for l in router.log if "listening on" in l) if "admin" in line]
    assert admin == [1]
    assert page(router, "GET", "/metrics", index=1).status == 200
    assert page(router, "GET", "/v1/models", index=1).status == 404
    assert page(router, "GET", "/v1/models", index=0).status == 200
    assert page(router, "GET", "/metrics", index=0).status == 404  # they live only there when it is set


def test_admin_listen_of_the_file_beside_a_socket_handed_over(lab, parent):
    parent.listen()
    router = parent.start(lab, lab.upstream(), admin_listen="127.0.0.1:0")
    router.wait_listening(2)
    assert page(router, "GET", "/status", index=1).status == 200


def test_handed_over_sockets_stay_over_reloads(lab, parent):
    parent.listen()
    up = lab.upstream()
    router = parent.start(lab, up)
    reload(router, lab.config(up, listen="127.0.0.1:0", models=["m", "n"]))
    assert router.chat("n").status == 200 and len(router.listening()) == 1


@pytest.mark.parametrize("changes", [{"LISTEN_PID": "1"}, {"LISTEN_PID": None}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": None}], ids=str)
def test_variables_for_somebody_else_are_not_ours(lab, parent, changes):
    sock = parent.listen()
    router = parent.start(lab, lab.upstream(), listen=("127.0.0.1:0",), variables=changes)
    assert router.address != sock.getsockname()
    assert router.chat().status == 200


def a_file(lab):
    return (lab.directory / "file").open("w+")


def not_listening(lab):
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def a_connection(lab):
    with socket.create_server(("127.0.0.1", 0)) as server:
        return socket.create_connection(server.getsockname())


def a_datagram_socket(lab):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize("kind", [a_file, not_listening, a_connection, a_datagram_socket])
def test_a_wrong_descriptor_is_a_clear_error(lab, parent, notify, kind):
    parent.listen()
    parent.hold(lab.keep(kind(lab)))
    thread = parent.give_later()
    said = fails(lab, PLAIN, env=notify.env, binary=str(parent.launcher))
    thread.join()
    assert re.search(r"^error .*\bdescriptor 4\b", said, re.M), said
    assert not notify.told("READY")


def test_more_descriptors_said_than_given(lab, parent):
    parent.listen()
    thread = parent.give_later(LISTEN_FDS="3")
    assert re.search(r"^error .*\bdescriptor [45]\b", fails(lab, PLAIN, binary=str(parent.launcher)), re.M)
    thread.join()


def test_descriptors_handed_over_go_no_further(lab, parent):
    parent.listen()
    parent.listen("admin")
    router = parent.start(lab, lab.upstream())
    for fd in os.listdir(f"/proc/{router.pid}/fd"):
        flags = int(re.search(r"flags:\s*(\d+)", pathlib.Path(f"/proc/{router.pid}/fdinfo/{fd}").read_text()).group(1), 8)
        assert int(fd) < 3 or flags & os.O_CLOEXEC, f"descriptor {fd} would be inherited"


class Callers:
    """Threads that each ask on a new connection, again and again; what was refused, reset or wrong is in `wrong`."""

    def __init__(self, address, n=4):
        self.address, self.stopped, self.wrong, self.answers = address, threading.Event(), [], 0
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(n)]
        for thread in self.threads:
            thread.start()

    def run(self):
        while not self.stopped.is_set():
            try:
                client = RawClient(self.address, timeout=20)
                client.chat(headers=[("Connection", "close")])
                response = client.read_response()
                client.close()
                assert response.status == 200, response
                self.answers += 1
            except Exception as error:  # noqa: BLE001: all of them are shown
                self.wrong.append(repr(error))
                return

    def some_more(self, n=20):
        wanted = self.answers + n
        wait_until(lambda: self.answers >= wanted or self.wrong, "no answers", 20)
        assert not self.wrong, self.wrong

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)
        assert not self.wrong, self.wrong


def test_a_restart_under_load_refuses_no_connection(lab, parent):
    address = parent.listen().getsockname()
    up = lab.upstream()
    router = parent.start(lab, up)
    callers = Callers(address)
    for _ in range(4):
        callers.some_more()
        router.stop()  # nobody listens now but the supervisor: connections wait in its backlog
        router = parent.start(lab, up)
    callers.some_more()
    callers.stop()


def test_an_upgrade_before_the_old_one_ends(lab, parent):
    address = parent.listen().getsockname()
    up = lab.upstream()
    old = parent.start(lab, up)
    callers = Callers(address)
    callers.some_more()
    parent.start(lab, up)
    old.stop()
    callers.some_more()
    callers.stop()


def test_systemd_socket_activate(lab):
    """The tool of that name where it is installed; else the same by hand, which the tests above do: it listens, waits for the first
    connection, and becomes the program."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    tool = shutil.which("systemd-socket-activate") or shutil.which("systemd-socket-activate", path="/usr/lib/systemd:/lib/systemd")
    text = (UNITS / "router.socket").read_text()
    assert "ListenStream=" in text and "Accept=" not in text
    if not tool:
        return
    wrapper = lab.directory / "activate.sh"
    wrapper.write_text(f"#!/bin/sh\nexec {tool} -l 127.0.0.1:{port} -E ASAN_OPTIONS -E UBSAN_OPTIONS --fdname=router {os.path.abspath(ROUTER_BIN)} \"$@\"\n")
    wrapper.chmod(0o755)
    router = Router(lab.directory / "activated", lab.config(lab.upstream()), listen=(), binary=str(wrapper), wait=False)
    lab.routers.append(router)
    router.log_contains(rf"(?i)listening on 127.0.0.1:{port}")  # the tool says so
    client = RawClient(("127.0.0.1", port))
    client.chat()
    assert client.read_response().status == 200
    router.log_contains(r"info listener: listening on")


# two at one address


def test_reuse_port_lets_two_overlap(lab):
    up = lab.upstream()
    first = lab.router(up, reuse_port=True)
    address = f"127.0.0.1:{first.port}"
    callers = Callers(first.address)
    callers.some_more()
    second = lab.router(up, listen=(address,), reuse_port=True)
    callers.some_more()
    callers.stop()
    first.stop()
    assert second.chat().status == 200


def test_without_it_the_second_says_address_in_use(lab):
    first = lab.router(lab.upstream())
    said = fails(lab, PLAIN, "-listen", f"127.0.0.1:{first.port}")
    assert re.search(rf"^error .*127\.0\.0\.1:{first.port}.*[Aa]ddress already in use", said, re.M), said
    assert first.chat().status == 200


def test_it_takes_two_to_share(lab):
    first = lab.router(lab.upstream())
    assert "ddress already in use" in fails(lab, "reuse_port: true\n" + PLAIN, "-listen", f"127.0.0.1:{first.port}")


# unit files


def unit_copies(directory):
    """The unit files with the program at a path that is there."""
    for unit in sorted(UNITS.iterdir()):
        text = unit.read_text().replace("/usr/local/bin/router", os.path.abspath(ROUTER_BIN))
        (directory / unit.name).write_text(text)
    return sorted(str(p) for p in directory.iterdir())


def test_the_units_verify_without_a_word(tmp_path):
    service, sock = (UNITS / "router.service").read_text(), (UNITS / "router.socket").read_text()
    for line in ("Type=notify", "ExecStart=/usr/local/bin/router ", "WatchdogSec=", "NoNewPrivileges=yes", "CapabilityBoundingSet=\n"):
        assert line in service
    assert "/bin/kill" not in re.sub(r"^#.*", "", service, flags=re.M) and "FileDescriptorName=router" in sock
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *unit_copies(tmp_path)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


HARDENING = ["DynamicUser=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateDevices=yes", "PrivateUsers=yes", "PrivateTmp=yes", "MemoryDenyWriteExecute=yes",
             "RestrictNamespaces=yes", "LockPersonality=yes", "SystemCallFilter=@system-service", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"]


def test_the_services_exposure_is_below_2(tmp_path):
    lines = (UNITS / "router.service").read_text().splitlines()
    assert not [wanted for wanted in HARDENING if wanted not in lines]
    if shutil.which("systemd-analyze"):
        service = [p for p in unit_copies(tmp_path) if p.endswith(".service")]
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", *service], capture_output=True, text=True, timeout=60)
        level = re.search(r"Overall exposure level for router\.service: ([0-9.]+)", done.stdout)
        assert done.returncode == 0 and level, done
        assert float(level.group(1)) < 2.0, done.stdout
