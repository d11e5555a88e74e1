"""The endpoint's end: a scripted LLM server.

Two ways to use it. Scripted (`manual=True`): the test accepts each connection itself and says line by line what happens:

    conn = up.accept(); req = conn.rxreq(); conn.txresp(200, body=b"{}"); conn.fin()

Served: every connection gets a thread that runs `handler(conn)`; the default one answers like a small OpenAI server.
"""
import json
import os
import re
import socket
import threading
import time

from .wire import DEADLINE, Malformed, PeerClosed, Truncated, WaitTimeout, Wire, body_length, header, headers_named, is_chunked, parse_fields

REASONS = {200: "OK", 204: "No Content", 304: "Not Modified", 400: "Bad Request", 404: "Not Found", 500: "Internal Server Error",
           503: "Service Unavailable"}


class Request:
    def __init__(self, method, target, version, headers, conn_number):
        self.method, self.target, self.version, self.headers, self.conn = method, target, version, headers, conn_number
        self.body = b""
        self.raw = b""
        self.head_raw = b""
        self.framing = "none"

    def __getitem__(self, name):
        return header(self.headers, name)

    def all(self, name):
        return headers_named(self.headers, name)

    @property
    def names(self):
        return {k.lower() for k, _ in self.headers}

    @property
    def path(self):
        return self.target.split("?")[0]

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<Request {self.method} {self.target} {self.headers} {self.body[:200]!r}>"


class Conn(Wire):
    """One accepted connection. `number` counts from 1 within its upstream."""

    def __init__(self, sock, upstream, number):
        super().__init__(sock, upstream.timeout)
        self.upstream, self.number = upstream, number
        self.requests = []

    def rxhead(self):
        """A request's head; its body stays unread."""
        self.mark()
        lines = self.read_head_lines()
        match = re.fullmatch(rb"([A-Z]+) ([\x21-\x7e\x80-\xff]+) HTTP/(1\.[01])", lines[0])
        if not match:
            raise Malformed(f"request line {lines[0]!r}")
        method, target, version = (part.decode("latin-1") for part in match.groups())
        req = Request(method, target, version, parse_fields(lines[1:]), self.number)
        req.head_raw = bytes(self.log)
        return req

    def rxreq(self):
        """A whole request, recorded. PeerClosed if the router closed instead."""
        req = self.rxhead()
        length = body_length(req.headers)
        if is_chunked(req.headers):
            req.framing = "chunked"
            body = bytearray()
            while (chunk := self.read_chunk(body)) is not None:
                body += chunk
            req.body = bytes(body)
        elif length is not None:
            req.framing = "length"
            req.body = self.recv_exact(length)
        req.raw = bytes(self.log)
        self.requests.append(req)
        self.upstream.record(req)
        return req

    def tx(self, data):
        """Raw bytes."""
        return self.send(data)

    def txresp(self, status=200, headers=(), body=b"", framing="length", reason=None, version="1.1"):
        """A whole response. framing: length, chunked (body may be a list of chunks), close (then FIN), none (no framing at all)."""
        if isinstance(body, (dict, list)) and framing != "chunked" or isinstance(body, dict):
            body = json.dumps(body).encode()
            headers = [("Content-Type", "application/json"), *headers]
        head = [f"HTTP/{version} {status} {REASONS.get(status, 'Status') if reason is None else reason}"]
        head += [f"{k}: {v}" for k, v in headers]
        if framing == "length":
            head.append(f"Content-Length: {len(body)}")
        elif framing == "chunked":
            head.append("Transfer-Encoding: chunked")
            body = b"".join(chunk(part) for part in ([body] if isinstance(body, bytes) else body) if part) + b"0\r\n\r\n"
        self.send("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        if framing == "close":
            self.fin()
        return self

    def sse_head(self, headers=(), framing="chunked"):
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers)
        self.sse_framing = framing
        return self.send(head + ("Transfer-Encoding: chunked\r\n\r\n" if framing == "chunked" else "\r\n"))

    def body(self, data):
        """A piece of the body of a response begun with sse_head or chunked()."""
        return self.send(chunk(data) if self.sse_framing == "chunked" else data)

    def event(self, data):
        """One SSE event."""
        if isinstance(data, (dict, list)):
            data = json.dumps(data)
        return self.body(b"data: " + (data.encode() if isinstance(data, str) else data) + b"\n\n")

    def sse_end(self):
        self.event("[DONE]")
        if self.sse_framing == "chunked":
            self.send(b"0\r\n\r\n")
        else:
            self.fin()
        return self

    def fin(self):
        """No more from us; the router's bytes are still read."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return self

    def stall(self, timeout=None):
        """Says nothing until the router closes: returns "fin" or "rst"."""
        return self.wait_close(timeout, discard=True)


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


class Upstream:
    """A listening server. url is what a configuration says."""

    def __init__(self, handler=None, name="up", host="127.0.0.1", unix=None, manual=False, models=(), timeout=DEADLINE, rcvbuf=None):
        self.name, self.models, self.timeout = name, list(models), timeout
        self.handler = handler or serve_openai
        self.requests, self.conns, self.errors = [], [], []
        self.cond = threading.Condition()
        self.threads = []
        self.closing = False
        if unix:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(os.fspath(unix))
            self.url, self.port, self.authority = f"unix:{unix}", None, None
        else:
            self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            if rcvbuf:
                self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
            self.listener.bind((host, 0))
            self.port = self.listener.getsockname()[1]
            self.authority = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
            self.url = f"http://{self.authority}"
        self.listener.listen(2048)
        self.manual = manual
        if not manual:
            self.acceptor = threading.Thread(target=self.accept_all, daemon=True)
            self.acceptor.start()

    # scripted

    def accept(self, timeout=None):
        """The router's next connection."""
        self.listener.settimeout(timeout or self.timeout)
        try:
            sock, _ = self.listener.accept()
        except (TimeoutError, socket.timeout):
            raise WaitTimeout(f"no connection to endpoint {self.name}") from None
        return self.adopt(sock)

    def no_connection(self, seconds=0.2):
        """True if no connection comes for that long. For negative checks only."""
        try:
            self.accept(seconds)
        except WaitTimeout:
            return True
        return False

    def adopt(self, sock):
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.cond:
            conn = Conn(sock, self, len(self.conns) + 1)
            self.conns.append(conn)
            self.cond.notify_all()
        return conn

    # served

    def accept_all(self):
        self.listener.settimeout(None)
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            if self.closing:
                sock.close()
                return
            thread = threading.Thread(target=self.run, args=(self.adopt(sock),), daemon=True)
            thread.start()
            self.threads.append(thread)  # close() joins what stands there

    def run(self, conn):
        try:
            self.handler(conn)
        except (PeerClosed, Truncated, ConnectionError, OSError):
            pass  # the router closed: a test that minds looks at it itself
        except WaitTimeout as late:
            if not self.closing:
                self.errors.append(late)
        except BaseException as error:  # noqa: BLE001: shown by the test's end
            self.errors.append(error)
        finally:
            conn.close()

    # what happened

    def record(self, req):
        with self.cond:
            self.requests.append(req)
            self.cond.notify_all()

    def wait_for(self, predicate, what, timeout=None):
        with self.cond:
            if not self.cond.wait_for(predicate, timeout or self.timeout):
                raise WaitTimeout(f"endpoint {self.name}: {what}; {len(self.conns)} connections, requests {self.requests}")

    def wait_requests(self, n, timeout=None):
        """The requests, once there are n of them."""
        self.wait_for(lambda: len(self.requests) >= n, f"{n} requests", timeout)
        return self.requests

    def wait_connections(self, n, timeout=None):
        self.wait_for(lambda: len(self.conns) >= n, f"{n} connections", timeout)
        return self.conns

    @property
    def last(self):
        return self.requests[-1]

    def routed(self):
        """Requests that were no probes."""
        return [r for r in self.requests if r.method == "POST"]

    def stop_listening(self):
        """Connections are refused from now on; those that stand go on."""
        self.closing = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()

    def close(self):
        self.stop_listening()
        for conn in self.conns:
            try:
                conn.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            if self.manual:
                conn.close()
        for thread in self.threads:
            thread.join(DEADLINE)

    def check(self):
        """Raises the first error of a handler thread."""
        if self.errors:
            raise self.errors[0]


def serve_openai(conn):
    """A small OpenAI server: /health, /v1/models, chat (stream and not) with its name and the request's id in the answer."""
    while True:
        respond_openai(conn, conn.rxreq())


def respond_openai(conn, req, events=3):
    up = conn.upstream
    if req.method == "HEAD":
        conn.tx("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n")
    elif req.path.endswith("/health"):
        conn.txresp(200, [("Content-Type", "text/plain")], b"ok")
    elif req.path.endswith("/models"):
        data = [{"id": name, "object": "model", "owned_by": up.name} for name in up.models]
        conn.txresp(200, body={"object": "list", "data": data})
    elif req.method != "POST":
        conn.txresp(404, body={"error": {"message": "no such path here", "type": "not_found", "param": None, "code": 404}})
    else:
        try:
            body = json.loads(req.body)
        except ValueError:
            body = {}
        body = body if isinstance(body, dict) else {}
        answer = {"id": "chatcmpl-1", "model": body.get("model"), "endpoint": up.name, "target": req.target,
                  "request_id": req["X-Request-Id"]}
        if body.get("stream") is True:
            conn.sse_head()
            for i in range(events):
                conn.event({**answer, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": f"{up.name} {i}"}}]})
            conn.sse_end()
        else:
            message = {"role": "assistant", "content": f"I am {up.name}"}
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            conn.txresp(200, body={**answer, "object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                                   "usage": usage})


class DeadEndpoint:
    """A port that refuses connections, held so that nobody else gets it. live() turns it into a served Upstream's port."""

    def __init__(self, host="127.0.0.1"):
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.sock.bind((host, 0))
        self.port = self.sock.getsockname()[1]
        self.authority = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        self.url = f"http://{self.authority}"

    def live(self, **how):
        """Somebody listens there from now on."""
        up = Upstream.__new__(Upstream)
        up.name, up.models, up.timeout = how.get("name", "revived"), list(how.get("models", ())), DEADLINE
        up.handler = how.get("handler") or serve_openai
        up.requests, up.conns, up.errors, up.threads = [], [], [], []
        up.cond = threading.Condition()
        up.closing, up.manual = False, False
        up.listener, up.port, up.url, up.authority = self.sock, self.port, self.url, self.authority
        up.listener.listen(2048)
        up.acceptor = threading.Thread(target=up.accept_all, daemon=True)
        up.acceptor.start()
        return up

    def close(self):
        self.sock.close()


class BlackHole:
    """A port where connects hang: the backlog of one is full and nobody accepts."""

    def __init__(self):
        self.sock = socket.socket()
        self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(0)
        self.port = self.sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.fillers = []
        while True:  # until a connect hangs
            filler = socket.socket()
            filler.settimeout(0.15)
            self.fillers.append(filler)
            try:
                filler.connect(("127.0.0.1", self.port))
            except (TimeoutError, socket.timeout):
                break
            assert len(self.fillers) < 50, "the backlog has no end"

    def close(self):
        for filler in self.fillers:
            filler.close()
        self.sock.close()


def wait_until(predicate, what, timeout=DEADLINE, step=0.02):
    """Polls what has no event of its own (a /proc figure). Raises WaitTimeout."""
    until = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > until:
            raise WaitTimeout(what)
        time.sleep(step)
