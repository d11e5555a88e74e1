"""What starts a service: sockets it holds and hands over (LISTEN_FDS), and an ear for what the service tells (sd_notify).

    notify = lab.keep(Notify(lab.directory / "notify")); router = lab.router(up, env=notify.env); notify.wait("READY=1")
    parent = lab.keep(Supervisor(lab.directory)); parent.listen(); router = parent.start(lab, up)
"""
import os
import socket
import threading
import time

from .router import ROUTER_BIN
from .wire import DEADLINE, WaitTimeout

# The program between the supervisor and the router: takes descriptors, puts them at 3 and up, becomes the router.
LAUNCHER = """#!/usr/bin/python3
import os, socket, sys
with socket.socket(socket.AF_UNIX) as parent:
    parent.connect(%(path)r)
    data, fds, _, _ = socket.recv_fds(parent, 65536, 64)
fds = [os.dup(fd) for fd in fds] if fds and min(fds) < 3 + len(fds) else fds
high = [os.dup2(fd, 100 + i) for i, fd in enumerate(fds)]
os.closerange(3, 100)
for i, fd in enumerate(high):
    os.dup2(fd, 3 + i)
os.closerange(100, 200)
os.environ.update(line.replace("PID_OF_ROUTER", str(os.getpid())).split("=", 1) for line in data.decode().split("\\n") if line)
os.execv(%(router)r, [%(router)r, *sys.argv[1:]])
"""


class Notify:
    """A NOTIFY_SOCKET. messages: [(when, {name: value})]."""

    def __init__(self, path=None, abstract=None):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"\0{abstract}" if abstract else os.fspath(path)
        self.sock.bind(name)
        self.env = {"NOTIFY_SOCKET": name.replace("\0", "@")}
        self.cond = threading.Condition()
        self.messages, self.raw = [], []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            data = self.sock.recv(65536)
            if data == b"end":
                return
            with self.cond:
                self.raw.append(data)
                self.messages.append((time.monotonic(), dict(line.split("=", 1) for line in data.decode().split("\n") if line)))
                self.cond.notify_all()

    def told(self, name):
        """The values of that name so far, in order."""
        return [m[name] for _, m in list(self.messages) if name in m]

    def wait(self, assignment, n=1, timeout=DEADLINE):
        """The n-th message that says so."""
        name, _, value = assignment.partition("=")
        found = []

        def look():
            found[:] = [(when, m) for when, m in self.messages if m.get(name) == value]
            return len(found) >= n
        with self.cond:
            if not self.cond.wait_for(look, timeout):
                raise WaitTimeout(f"{assignment} was not told {n} times: {self.raw}")
        return found[n - 1]

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", self.sock.getsockname())
        self.thread.join(DEADLINE)
        self.sock.close()


class Supervisor:
    """Holds sockets over the lives of routers. Each start() hands all of them to a new one."""

    def __init__(self, directory):
        self.path = str(directory / "supervisor.sock")
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(self.path)
        self.door.listen(16)
        self.launcher = directory / "launcher.py"
        self.launcher.write_text(LAUNCHER % {"path": self.path, "router": os.path.abspath(ROUTER_BIN)})
        self.launcher.chmod(0o755)
        self.sockets, self.names = [], []

    def listen(self, name=None, unix=None):
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        sock.bind(os.fspath(unix) if unix else ("127.0.0.1", 0))
        sock.listen(4096)
        return self.hold(sock, name)

    def hold(self, sock, name=None):
        self.sockets.append(sock)
        self.names.append(name)
        return sock

    def variables(self, **changes):
        env = {"LISTEN_FDS": len(self.sockets), "LISTEN_PID": "PID_OF_ROUTER"}
        if any(self.names):
            env["LISTEN_FDNAMES"] = ":".join(name or "unknown" for name in self.names)
        return {**env, **changes}

    def give(self, **changes):
        """To the next one that comes."""
        text = "".join(f"{k}={v}\n" for k, v in self.variables(**changes).items() if v is not None)
        self.door.settimeout(DEADLINE)
        conn, _ = self.door.accept()
        with conn:
            socket.send_fds(conn, [text.encode() or b"\n"], [s.fileno() for s in self.sockets])

    def give_later(self, **changes):
        """The same while the caller waits for the router."""
        thread = threading.Thread(target=self.give, kwargs=changes, daemon=True)
        thread.start()
        return thread

    def start(self, lab, endpoints=None, **how):
        changes = how.pop("variables", {})
        thread = self.give_later(**changes)
        router = lab.router(endpoints, listen=how.pop("listen", ()), binary=str(self.launcher), **how)
        thread.join(DEADLINE)
        router.wait_listening(len(self.sockets))
        return router

    def close(self):
        for sock in [self.door, *self.sockets]:
            sock.close()
