"""A DNS server, scripted name by name: UDP on a free port of 127.0.0.1. A name it was not told of does not exist (NXDOMAIN).

    dns = lab.keep(Dns()); dns.set("gpu.test", "127.0.0.2", ttl=5); lab.router("http://gpu.test:8080", env=dns.env)
"""
import ipaddress
import socket
import struct
import threading

from .wire import DEADLINE, WaitTimeout

A, AAAA = 1, 28
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5


class Dns:
    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.env = {"ROUTER_DNS": f"127.0.0.1:{self.port}"}
        self.names = {}
        self.queries = []  # (name, type) in the order they came
        self.timers = []
        self.cond = threading.Condition()
        self.closing = False
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    # what it says

    def set(self, name, *addresses, ttl=60, rcode=NOERROR, delay=0, rotate=False, silent=False):
        """From now on. rotate: each answer begins with another address. delay: seconds before an answer. silent: none at all."""
        with self.cond:
            self.names[name] = {"addresses": [ipaddress.ip_address(a) for a in addresses], "ttl": ttl, "rcode": rcode, "delay": delay,
                                "rotate": rotate, "silent": silent, "turn": 0}

    def nxdomain(self, name):
        with self.cond:
            self.names.pop(name, None)

    def servfail(self, name):
        self.set(name, rcode=SERVFAIL)

    def drop(self, name):
        self.set(name, silent=True)

    # what it was asked

    def count(self, name, kind=A):
        with self.cond:
            return self.queries.count((name, kind))

    def wait_queries(self, name, n, kind=A, timeout=DEADLINE):
        """Until it was asked n times for that name; returns how often it was."""
        with self.cond:
            if not self.cond.wait_for(lambda: self.queries.count((name, kind)) >= n, timeout):
                raise WaitTimeout(f"DNS was asked for {name} less than {n} times: {self.queries}")
            return self.queries.count((name, kind))

    # how

    def serve(self):
        while True:
            try:
                query, peer = self.sock.recvfrom(4096)
            except OSError:
                return
            if self.closing:
                return
            if len(query) < 17:
                continue
            name, kind, question = read_question(query)
            with self.cond:
                self.queries.append((name, kind))
                entry = self.names.get(name)
                answer = None if entry and entry["silent"] else build(query[:2], question, kind, entry)
                self.cond.notify_all()
            if answer and entry and entry["delay"]:
                timer = threading.Timer(entry["delay"], self.send, (answer, peer))
                timer.daemon = True
                self.timers.append(timer)
                timer.start()
            elif answer:
                self.send(answer, peer)

    def send(self, answer, peer):
        try:
            self.sock.sendto(answer, peer)
        except OSError:
            pass  # we are closing, or the router's socket is gone

    def close(self):
        self.closing = True
        for timer in self.timers:
            timer.cancel()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self.thread.join(DEADLINE)
        self.sock.close()


def read_question(query):
    """The first question: name in lower case, type, its bytes."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode("ascii").lower())
        at += 1 + query[at]
    kind, = struct.unpack_from("!H", query, at + 1)
    return ".".join(labels), kind, query[12:at + 5]


def build(ident, question, kind, entry):
    rcode = NXDOMAIN if entry is None else entry["rcode"]
    records = []
    if rcode == NOERROR:
        version = {A: 4, AAAA: 6}.get(kind)
        addresses = [a for a in entry["addresses"] if a.version == version]
        if entry["rotate"] and addresses:
            entry["turn"] += kind == A
            first = entry["turn"] % len(addresses)
            addresses = addresses[first:] + addresses[:first]
        records = [struct.pack("!HHHIH", 0xc00c, kind, 1, entry["ttl"], len(a.packed)) + a.packed for a in addresses]
    return ident + struct.pack("!HHHHH", 0x8180 | rcode, 1, len(records), 0, 0) + question + b"".join(records)
