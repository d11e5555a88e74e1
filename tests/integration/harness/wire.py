"""One end of a connection: a socket, a buffer, a deadline, and HTTP read strictly.

The parser here is the tests' own and forgives nothing: a router that sends a bare LF, a folded header, two Content-Length
fields or a badly framed chunk fails the test that read it.
"""
import os
import re
import socket
import struct
import time

DEADLINE = float(os.environ.get("HARNESS_DEADLINE", "10"))
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class WaitTimeout(AssertionError):
    """What a test waited for did not happen in time."""


class Malformed(AssertionError):
    """The peer's bytes are not strict HTTP/1.x."""


class PeerClosed(Exception):
    """The peer closed before a message began (`kind` is "fin" or "rst")."""

    def __init__(self, kind):
        super().__init__(f"peer closed ({kind})")
        self.kind = kind


class Truncated(Exception):
    """The peer closed inside a message; `partial` is what came of its body, decoded."""

    def __init__(self, kind, partial=b""):
        super().__init__(f"cut by {kind} after {len(partial)} body bytes: {bytes(partial[-200:])!r}")
        self.kind = kind
        self.partial = bytes(partial)


def headers_named(headers, name):
    return [v for k, v in headers if k.lower() == name.lower()]


def header(headers, name, default=None):
    """The one value of a header; two of them are an error."""
    values = headers_named(headers, name)
    assert len(values) <= 1, f"{name} stands {len(values)} times: {values}"
    return values[0] if values else default


def parse_fields(lines):
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name):
            raise Malformed(f"not a header field: {line!r}")
        if b"\r" in value or b"\n" in value or b"\0" in value:
            raise Malformed(f"control bytes in a header field: {line!r}")
        fields.append((name.decode("ascii"), value.strip(b" \t").decode("latin-1")))
    return fields


def body_length(headers):
    lengths = headers_named(headers, "content-length")
    if not lengths:
        return None
    if len(lengths) > 1 or not re.fullmatch(r"[0-9]{1,18}", lengths[0]):
        raise Malformed(f"Content-Length: {lengths}")
    return int(lengths[0])


def is_chunked(headers):
    codings = headers_named(headers, "transfer-encoding")
    if not codings:
        return False
    if codings != ["chunked"]:
        raise Malformed(f"Transfer-Encoding: {codings}")
    if headers_named(headers, "content-length"):
        raise Malformed("Transfer-Encoding and Content-Length")
    return True


class Wire:
    """A connected socket. Reads wait at most `timeout` seconds each."""

    def __init__(self, sock, timeout=DEADLINE):
        self.sock = sock
        self.timeout = timeout
        self.buf = bytearray()
        self.end = None  # "fin" or "rst" once the peer has closed
        self.log = bytearray()  # every byte taken out of the buffer since mark()

    # bytes

    def fill(self, timeout=None):
        """One recv into the buffer. False once the peer has closed."""
        if self.end:
            return False
        self.sock.settimeout(self.timeout if timeout is None else max(timeout, 0.0001))
        try:
            data = self.sock.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            self.end = "rst"
            return False
        except (TimeoutError, socket.timeout, BlockingIOError):
            raise WaitTimeout(f"nothing came in {timeout or self.timeout} s; so far {bytes(self.buf[:300])!r}") from None
        if not data:
            self.end = "fin"
            return False
        self.buf += data
        return True

    def take(self, n):
        data = bytes(self.buf[:n])
        del self.buf[:n]
        self.log += data
        return data

    def mark(self):
        self.log = bytearray()

    def recv_until(self, marker, limit=1 << 20):
        """Up to and with the marker."""
        start = 0
        while True:
            at = self.buf.find(marker, start)
            if at >= 0:
                return self.take(at + len(marker))
            if len(self.buf) > limit:
                raise Malformed(f"no {marker!r} in {limit} bytes")
            start = max(0, len(self.buf) - len(marker) + 1)
            if not self.fill():
                raise Truncated(self.end, self.buf)

    def recv_exact(self, n):
        while len(self.buf) < n:
            if not self.fill():
                raise Truncated(self.end, self.buf)
        return self.take(n)

    def recv_rest(self):
        """Everything up to the peer's close, which must be a FIN."""
        while self.fill():
            pass
        if self.end != "fin":
            raise Truncated(self.end, self.buf)
        return self.take(len(self.buf))

    def wait_close(self, timeout=None, discard=False):
        """Waits for the peer's close: "fin" or "rst". Bytes before it are an error unless discarded."""
        until = time.monotonic() + (timeout or self.timeout)
        while True:
            if self.buf:
                if not discard:
                    raise Malformed(f"bytes where a close was due: {bytes(self.buf[:300])!r}")
                self.take(len(self.buf))
            left = until - time.monotonic()
            if left <= 0 and not self.end:
                raise WaitTimeout("the peer did not close")
            if not self.fill(left):
                return self.end

    def is_silent(self, seconds=0.2):
        """True if nothing comes, not even a close, for that long. For negative checks only."""
        if self.buf or self.end:
            return False
        try:
            self.fill(seconds)
        except WaitTimeout:
            return True
        return False

    def send(self, data):
        self.sock.settimeout(self.timeout)
        if isinstance(data, str):
            data = data.encode("latin-1")
        try:
            self.sock.sendall(data)
        except (TimeoutError, socket.timeout):
            raise WaitTimeout("the peer takes no more bytes") from None
        return self

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self

    def close(self):
        self.sock.close()

    def rst(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # HTTP

    def read_head_lines(self):
        """Start line and fields of one head, without line ends."""
        try:
            head = self.recv_until(b"\r\n\r\n")
        except Truncated as cut:
            if not cut.partial:
                raise PeerClosed(cut.kind) from None
            raise
        lines = head[:-4].split(b"\r\n")
        for line in lines:
            if b"\n" in line or b"\r" in line:
                raise Malformed(f"bare CR or LF in a head: {line!r}")
            if line[:1] in (b" ", b"\t"):
                raise Malformed(f"folded or empty line in a head: {line!r}")
        return lines

    def read_chunk(self, got=b""):
        """The next chunk's bytes; None for the last chunk, whose trailer section must be empty."""
        try:
            line = self.recv_until(b"\r\n")
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}\r\n", line):
                raise Malformed(f"chunk size line {line!r}")
            size = int(line, 16)
            if size == 0:
                if self.recv_exact(2) != b"\r\n":
                    raise Malformed("trailers, or no blank line after the last chunk")
                return None
            data = self.recv_exact(size)
            if self.recv_exact(2) != b"\r\n":
                raise Malformed("no CRLF after a chunk")
            return data
        except Truncated as cut:
            # what came of a chunk that was cut counts as body, its framing does not
            raise Truncated(cut.kind, bytes(got) + (b"" if b"\r\n" in cut.partial[:18] else cut.partial)) from None
