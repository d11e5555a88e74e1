"""Endpoints that fail on demand: they die and come back at the same address, and their /health says what the test wants.

    up = mortal(lab); router = lab.router(up); up.die(); ...; up.revive()
"""
import queue
import re
import socket
import struct
import threading
import time

from .router import run_router
from .upstream import Upstream, respond_openai, wait_until
from .wire import DEADLINE

FAST = {"interval": "100ms", "timeout": "5s", "fall": 1}  # probes that find out soon, and never by a busy machine


class Mortal(Upstream):
    """A served endpoint. Dead, its port refuses connections and stays its own."""

    def __init__(self, handler=None, alive=True, answer=None, health=200, **how):
        super().__init__(handler or self.serve, manual=True, **how)
        self.own_port()
        self.answer = answer or respond_openai
        self.health = health  # what /health says: a status; "stall", "close" (no answer), "half", "junk"; "asked": what say() says
        self.words, self.said = queue.Queue(), 0
        self.probes = []  # when they came
        self.acceptor = None
        if alive:
            self.start()
        else:
            self.listener.shutdown(socket.SHUT_RDWR)

    def own_port(self):
        """Bound by number, a socket keeps its port when it stops listening; bound to port 0, it does not."""
        host = self.listener.getsockname()[0]
        self.listener.close()
        self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((host, self.port))
        self.listener.listen(2048)

    def start(self):
        self.closing = False
        self.acceptor = threading.Thread(target=self.accept_all, daemon=True)
        self.acceptor.start()

    def serve(self, conn):
        while True:
            req = conn.rxreq()
            if req.method == "GET" and not req.path.endswith("/models"):
                self.tell_health(conn)
            else:
                self.answer(conn, req)

    def tell_health(self, conn):
        with self.cond:
            self.probes.append(time.monotonic())
            self.cond.notify_all()
        word = self.health
        if word == "asked":
            word = self.words.get(timeout=DEADLINE)
        if word == "stall":
            conn.stall()
            raise ConnectionError
        if word == "half":
            conn.tx("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        if word == "junk":
            conn.tx("SSH-2.0-OpenSSH\r\n\r\n")
        if not isinstance(word, int):
            raise ConnectionError
        conn.txresp(word, body=b"" if word in (204, 304) else b"health", framing="none" if word in (204, 304) else "length")

    def say(self, *words):
        """Each word is the answer to one probe, in turn. Returns when the router has taken them all: it asks again."""
        for word in words:
            self.wait_probes(self.said + 1)
            self.words.put(word)
            self.said += 1
            self.wait_probes(self.said + 1)

    def wait_probes(self, n, timeout=None):
        self.wait_for(lambda: len(self.probes) >= n, f"{n} probes, not {len(self.probes)}", timeout)
        return self.probes

    def cut(self, reset=False):
        """Every connection that stands is closed, or reset."""
        with self.cond:
            conns, self.conns = self.conns, []
        for conn in conns:
            try:
                if reset:
                    conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    conn.sock.shutdown(socket.SHUT_RD)  # wakes its thread, whose close sends the RST
                else:
                    conn.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def refuse(self):
        """Connections are refused from now on; those that stand go on. The address stays ours."""
        self.closing = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if self.acceptor:
            self.acceptor.join(DEADLINE)

    def die(self, reset=False):
        self.refuse()
        self.cut(reset)

    def revive(self):
        self.listener.listen(2048)
        self.start()

    def close(self):
        self.closing = True
        for _ in range(len(self.threads) + 1):
            self.words.put("close")
        super().close()


def mortal(lab, handler=None, **how):
    how.setdefault("name", f"up{len(lab.upstreams) + 1}")
    up = Mortal(handler, **how)
    lab.upstreams.append(up)
    return up


def order_of(router, user, model="m"):
    """The endpoints' URLs in rendezvous order, as the program explains it from its configuration."""
    done = run_router("-config", router.config_path, "-explain", model, user)
    assert done.returncode == 0, done
    return re.findall(r"^\s+\d+\. (\S+)", done.stdout, re.M)


def user_at(router, *urls, model="m"):
    """A user whose rendezvous order begins with those endpoints (or URLs)."""
    urls = [getattr(u, "url", u) for u in urls]
    for i in range(200):
        if order_of(router, f"user-{i}", model)[:len(urls)] == urls:
            return f"user-{i}"
    raise AssertionError(f"no user of 200 has his home at {urls}")


def is_ready(router, pool=None):
    return router.get("/ready" + (f"?pool={pool}" if pool else "")).status == 200


def wait_ready(router, ready=True, pool=None, timeout=DEADLINE):
    wait_until(lambda: is_ready(router, pool) == ready, f"/ready does not become {ready}", timeout)


def state_lines(router, up, state="up|down|loading"):
    """The log's lines that tell of that endpoint's changes."""
    url = re.escape(getattr(up, "url", up))
    return [line for line in list(router.log) if re.search(rf"{url} is ({state})\b", line)]


def wait_state(router, up, state, n=1, timeout=DEADLINE):
    wait_until(lambda: len(state_lines(router, up, state)) >= n, f"{up} was not called {state} {n} times", timeout)
