"""The caller's end: raw bytes out, responses read strictly."""
import json
import os
import re
import socket

from .wire import DEADLINE, Malformed, PeerClosed, Truncated, Wire, body_length, header, headers_named, is_chunked, parse_fields


class Response:
    def __init__(self, version, status, reason, headers):
        self.version, self.status, self.reason, self.headers = version, status, reason, headers
        self.body = b""
        self.framing = None  # "none", "length", "chunked", "close"
        self.chunks = []  # as they were framed

    def __getitem__(self, name):
        return header(self.headers, name)

    def all(self, name):
        return headers_named(self.headers, name)

    @property
    def names(self):
        return {k.lower() for k, _ in self.headers}

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error object of an OpenAI-shaped error: exactly four keys, or the test fails."""
        document = self.json()
        assert set(document) == {"error"}, document
        assert set(document["error"]) == {"message", "type", "param", "code"}, document
        assert isinstance(document["error"]["message"], str) and document["error"]["message"]
        return document["error"]

    def __repr__(self):
        return f"<Response {self.status} {self.headers} {self.body[:300]!r}>"


def chat_body(model="m", user=None, stream=False, content="Hi", **more):
    """A chat request's body as bytes."""
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    if user is not None:
        body["user"] = user
    if stream:
        body["stream"] = True
    body.update(more)
    return json.dumps(body).encode()


def request_bytes(method="POST", target="/v1/chat/completions", body=None, headers=(), version="1.1", host="router.test", length=True):
    """A request as bytes. A dict body becomes JSON. Content-Length is set unless length is False."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{k}: {v}" for k, v in headers]
    if body is not None and length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


class RawClient(Wire):
    """A connection to `address`: (host, port) or a unix socket's path."""

    def __init__(self, address, timeout=DEADLINE, rcvbuf=None, source=None):
        if isinstance(address, (str, os.PathLike)):
            sock = socket.socket(socket.AF_UNIX)
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            sock.bind((source, 0))
        sock.settimeout(timeout)
        try:
            sock.connect(os.fspath(address) if isinstance(address, os.PathLike) else address)
        except BaseException:
            sock.close()
            raise
        super().__init__(sock, timeout)

    def request(self, method="POST", target="/v1/chat/completions", body=None, headers=(), **more):
        return self.send(request_bytes(method, target, body, headers, **more))

    def chat(self, model="m", user=None, stream=False, headers=(), target="/v1/chat/completions", **more):
        """Sends a chat request and does not wait."""
        fields = [("Content-Type", "application/json"), *headers]
        return self.request("POST", target, chat_body(model, user, stream, **more), fields)

    def read_head(self):
        """The next response's head, whatever its status."""
        lines = self.read_head_lines()
        match = re.fullmatch(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)", lines[0])
        if not match:
            raise Malformed(f"status line {lines[0]!r}")
        minor, status, reason = match.groups()
        response = Response(f"1.{minor.decode()}", int(status), reason.decode("latin-1"), parse_fields(lines[1:]))
        return response

    def framing(self, response, head=False):
        headers = response.headers
        length, chunked = body_length(headers), is_chunked(headers)
        if head or response.status < 200 or response.status in (204, 304):
            return "none", 0
        if chunked:
            return "chunked", None
        if length is not None:
            return "length", length
        return "close", None

    def read_response(self, head=False, interim=False):
        """One whole response; `head`: it answers a HEAD. 1xx are an error unless interim says skip them."""
        response = self.read_head()
        while response.status < 200:
            if not interim:
                raise Malformed(f"an unexpected {response.status}")
            response = self.read_head()
        response.framing, length = self.framing(response, head)
        if response.framing == "length":
            try:
                response.body = self.recv_exact(length)
            except Truncated as cut:
                raise Truncated(cut.kind, cut.partial) from None
        elif response.framing == "chunked":
            response.body = b"".join(self.body_parts(response))
        elif response.framing == "close":
            response.body = self.recv_rest()
        return response

    def body_parts(self, response):
        """The body of a head already read, piece by piece as it comes."""
        if response.framing is None:
            response.framing, response.left = self.framing(response)
        got = bytearray()
        if response.framing == "chunked":
            while True:
                chunk = self.read_chunk(got)
                if chunk is None:
                    return
                response.chunks.append(chunk)
                got += chunk
                yield chunk
        elif response.framing == "length":
            left = response.left if hasattr(response, "left") else body_length(response.headers)
            while left:
                if not self.buf and not self.fill():
                    raise Truncated(self.end, got)
                data = self.take(min(left, len(self.buf)))
                left -= len(data)
                got += data
                yield data
        elif response.framing == "close":
            while self.buf or self.fill():
                data = self.take(len(self.buf))
                got += data
                yield data
            if self.end != "fin":
                raise Truncated(self.end, got)

    def sse(self, response):
        """Events of a stream whose head was read: each one's text between blank lines, as soon as it is whole."""
        pending = b""
        for part in self.body_parts(response):
            pending += part
            while b"\n\n" in pending:
                event, pending = pending.split(b"\n\n", 1)
                yield event
        assert not pending, f"an unfinished event: {pending!r}"

    def read_cut(self):
        """A response that must be cut: head and what came of the body. A clean end fails."""
        response = self.read_head()
        try:
            for _ in self.body_parts(response):
                pass
        except Truncated as cut:
            response.body = cut.partial
            return response
        raise AssertionError(f"a clean end of a body that should be cut: {response}")


__all__ = ["RawClient", "Response", "chat_body", "request_bytes", "PeerClosed"]
