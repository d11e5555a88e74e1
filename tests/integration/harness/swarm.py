"""Many streams at once in one thread: both ends, by selectors.

Every client sends one chat; the server answers none before all requests are there (so that all run at once), then sends every
stream its events in lock-step with its client: event n+1 only after the client has seen event n.
"""
import re
import selectors
import socket
import time

from .client import request_bytes
from .wire import WaitTimeout


class Swarm:
    """Made before the router: `url` is what its configuration needs."""

    def __init__(self, streams, events):
        self.streams, self.events = streams, events
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(4096)
        self.listener.setblocking(False)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)
        self.inputs, self.server_of, self.clients, self.seen, self.done = {}, {}, {}, {}, set()
        self.peak = 0

    def run(self, address, model="m", deadline=60):
        """Ids of the streams that came whole, each with its own events only."""
        for i in range(self.streams):
            sock = socket.create_connection(address)
            sock.sendall(request_bytes(body={"model": model, "user": f"u{i}", "stream": True}, headers=[("X-Request-Id", f"s{i}")]))
            sock.setblocking(False)
            self.clients[i], self.seen[i], self.inputs[sock] = sock, 0, b""
            self.selector.register(sock, selectors.EVENT_READ, lambda s, i=i: self.client_reads(s, i))
            self.turn(0)
        until = time.monotonic() + deadline
        while len(self.done) < self.streams:
            if time.monotonic() > until:
                raise WaitTimeout(f"{len(self.done)} of {self.streams} streams ended, {len(self.server_of)} reached the endpoint")
            self.turn(1)
        return self.done

    def turn(self, timeout):
        for key, _ in self.selector.select(timeout):
            key.data(key.fileobj)

    def accept(self, listener):
        try:
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setblocking(False)
                self.inputs[sock] = b""
                self.selector.register(sock, selectors.EVENT_READ, self.server_reads)
        except BlockingIOError:
            pass

    def server_reads(self, sock):
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            self.selector.unregister(sock)
            sock.close()
            return
        self.inputs[sock] += data
        head, blank, body = self.inputs[sock].partition(b"\r\n\r\n")
        if not blank or len(body) < int(re.search(rb"(?i)content-length: (\d+)", head).group(1)):
            return
        self.inputs[sock] = b""
        self.server_of[int(re.search(rb"(?i)x-request-id: s(\d+)", head).group(1))] = sock
        self.peak = max(self.peak, len(self.server_of))
        if len(self.server_of) == self.streams:
            for i, conn in self.server_of.items():
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                self.send_event(i, 0)

    def send_event(self, i, n):
        data = b"data: stream %d event %d\n\n" % (i, n)
        self.server_of[i].sendall(b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if n == self.events - 1 else b""))

    def client_reads(self, sock, i):
        data = sock.recv(65536)
        assert data, f"stream {i} was cut after {self.seen[i]} events"
        self.inputs[sock] += data
        while (at := self.inputs[sock].find(b"\n\n")) >= 0:
            block, self.inputs[sock] = self.inputs[sock][:at], self.inputs[sock][at + 2:]
            block = block[block.index(b"data: "):]
            assert block == b"data: stream %d event %d" % (i, self.seen[i]), block
            self.seen[i] += 1
            if self.seen[i] < self.events:
                self.send_event(i, self.seen[i])
        if self.inputs[sock].endswith(b"0\r\n\r\n") and self.seen[i] == self.events:
            self.done.add(i)
            self.selector.unregister(sock)
            sock.close()

    def close(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()
        self.listener.close()
