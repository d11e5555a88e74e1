#!/usr/bin/python3
"""`make guard`: instructions per request, counted by callgrind, beside the figures of guard.json. No machine's speed is in them.

In: ROUTER_BIN (a release build with symbols), CC (whose build it is), KEEP=DIR (callgrind's files stay there, to be read with
callgrind_annotate), UPDATE=1 (the figures found become those of guard.json). Out: a table; more than 5 % above the figure fails, as
much below asks for an UPDATE and passes. Figures are kept per major version of the compiler and major.minor of llhttp, for each has
its own; where there is none for this pair they are printed, with a note, and nothing is judged.

One router runs under callgrind; peers in this process speak with it in lockstep, one connection, one event at a time, so that how
often the loop turns hangs on nothing else. Between the scenarios stands a GET /health, at which callgrind writes down what was
counted since the last one. The router's own timers (probes) are off.
"""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FIGURES = HERE / "guard.json"
TOLERANCE = 0.05
EVENTS = 200
WORDS = ('The router reads the model of a request, picks the pool that serves it and the endpoint that this conversation already '
         'warmed.\nIt said "streams, token by token" and meant it; (see 4.2). ')
HEALTH = b"GET /health HTTP/1.1\r\nHost: router.example\r\n\r\n"


# ---- what is said ----

def chat(size, stream=False):
    """A request of about `size` bytes: one long first message, then turns of 700."""
    messages, left = [], max(size - 250, 60)
    while left > 0:
        n = min(left, 1500 if not messages else 700)
        text = (WORDS * (n // len(WORDS) + 1))[:n]
        messages.append({"role": "assistant" if len(messages) % 2 else "user", "content": text})
        left -= n + 60
    body = json.dumps({"messages": messages, "stream": stream, "model": "bench-model", "user": "user-000001"}).encode()
    head = ("POST /v1/chat/completions HTTP/1.1\r\nHost: router.example\r\nUser-Agent: OpenAI/Python 1.40.0\r\n"
            "Accept: application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-0123456789abcdef\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


def answer(size):
    usage = {"prompt_tokens": 120, "completion_tokens": 40, "total_tokens": 160}
    body = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1700000000,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}], "usage": usage}
    body["choices"][0]["message"]["content"] = (WORDS.replace('"', "'") * (size // len(WORDS) + 1))[:size - len(json.dumps(body))]
    text = json.dumps(body).encode()
    return (b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: application/json\r\n" +
            f"Content-Length: {len(text)}\r\n\r\n".encode() + text)


def event(n):
    return b"data: " + json.dumps({"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000,
                                   "choices": [{"index": 0, "delta": {"content": f" token{n % 10}"}, "finish_reason": None}]}).encode() + b"\n\n"


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


# ---- peers ----

class Wire:
    """A connection and what came of it that was not asked for yet."""

    def __init__(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(30)
        self.sock, self.data = sock, b""

    def until(self, mark):
        while mark not in self.data:
            more = self.sock.recv(1 << 16)
            if not more:
                raise RuntimeError("the connection ended")
            self.data += more
        got, _, self.data = self.data.partition(mark)
        return got + mark

    def message(self):
        """Head and body of a message of known length."""
        head = self.until(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.I)
        parts, left = [self.data], (int(length[1]) if length else 0) - len(self.data)
        while left > 0:
            parts.append(self.sock.recv(1 << 16))
            if not parts[-1]:
                raise RuntimeError("the connection ended")
            left -= len(parts[-1])
        body = b"".join(parts)
        keep = int(length[1]) if length else 0
        self.data = body[keep:]
        return head, body[:keep]


class Backend(threading.Thread):
    """Answers what each connection asks with `reply`; a stream waits at `gate` before each event."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.reply, self.gate = answer(1024), threading.Semaphore(0)

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(Wire(sock),), daemon=True).start()

    def serve(self, wire):
        try:
            while True:
                _, body = wire.message()
                if b'"stream": true' in body:
                    self.stream(wire.sock)
                else:
                    wire.sock.sendall(self.reply)
        except (RuntimeError, OSError):
            wire.sock.close()

    def stream(self, sock):
        sock.sendall(STREAM_HEAD)
        for n in range(EVENTS):
            self.gate.acquire()
            sock.sendall(chunk(event(n)))
        self.gate.acquire()
        sock.sendall(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def ask(wire, request):
    wire.sock.sendall(request)
    head, body = wire.message()
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"{head!r} {body[:300]!r}")


def ask_stream(wire, backend, request):
    wire.sock.sendall(request)
    wire.until(b"\r\n\r\n")
    for _ in range(EVENTS):
        backend.gate.release()
        wire.until(b"\n\n\r\n")
    backend.gate.release()
    wire.until(b"0\r\n\r\n")


# ---- the run ----

def start(directory, port):
    config = directory / "pools.yaml"
    config.write_text("log: {access: off, level: warn}\n"
                      "defaults: {health: {interval: 0s}, keepalive: {timeout: 600s}}\n"
                      f"pools:\n  - name: bench\n    models: [bench-model]\n    endpoints: [\"http://127.0.0.1:{port}\"]\n")
    router = pathlib.Path(os.environ.get("ROUTER_BIN") or ROOT / "router").resolve()
    if not os.environ.get("KEEP"):  # valgrind 3.19 cannot read clang's DWARF, and needs no lines here
        subprocess.run(["strip", "-g", "-o", str(directory / "router"), str(router)], check=True)
        router = directory / "router"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        listen = s.getsockname()[1]
    argv = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/out", "--dump-before=local_answer", "--combine-dumps=no",
            "--quiet", str(router), "-config", str(config), "-listen", f"127.0.0.1:{listen}"]
    log = directory / "log"
    with open(log, "w") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            return process, Wire(socket.create_connection(("127.0.0.1", listen), 30))
        except OSError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"router did not start under valgrind:\n{log.read_text()[-2000:]}")


def scenarios(wire, backend):
    """name, requests counted, what each does."""
    small, typical, prompt, stream = chat(500), chat(8192), chat(262144), chat(500, stream=True)
    small_answer, long_answer = answer(1024), answer(4096)

    def plain(request, reply):
        def once():
            backend.reply = reply
            ask(wire, request)
        return once
    return [("small", 400, plain(small, small_answer)), ("typical", 200, plain(typical, long_answer)),
            ("prompt256k", 20, plain(prompt, small_answer)), ("sse200", 5, lambda: ask_stream(wire, backend, stream))]


def dumps(directory):
    """Instructions between one marker and the next, in order."""
    found = {int(p.name.rpartition(".")[2]): p for p in directory.glob("out.*")}
    return [int(re.search(r"^(?:totals|summary): (\d+)", found[n].read_text(), re.M)[1]) for n in sorted(found)]


def measure(directory):
    backend = Backend()
    backend.start()
    process, wire = start(directory, backend.port)
    try:
        todo = scenarios(wire, backend)
        for _, _, once in todo:
            for _ in range(2):
                once()
        ask(wire, HEALTH)
        for _, count, once in todo:
            for _ in range(count):
                once()
            ask(wire, HEALTH)
    finally:
        wire.sock.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            backend.listener.close()
    counted = dumps(directory)[1:]
    return {name: round(counted[i] / count) for i, (name, count, _) in enumerate(todo)}


def built_with():
    """Which figures are meant: what compiled it, and what parses."""
    router = pathlib.Path(os.environ.get("ROUTER_BIN") or ROOT / "router").resolve()
    strings = subprocess.run(["readelf", "-p", ".comment", str(router)], capture_output=True, text=True, check=True).stdout
    compiler = re.search(r"clang version (\d+)", strings) or re.search(r"GCC: .*\) (\d+)", strings)
    name = "clang" if "clang version" in strings else "gcc"
    there = subprocess.run(["pkg-config", "--modversion", "libllhttp"], capture_output=True, text=True)
    version = there.stdout.strip() if there.returncode == 0 else ""
    if not version:
        text = pathlib.Path("/usr/share/include/llhttp/llhttp.h").read_text()
        version = ".".join(re.search(rf"LLHTTP_VERSION_{part} (\d+)", text)[1] for part in ("MAJOR", "MINOR"))
    wide = "avx2" if " avx2 " in pathlib.Path("/proc/cpuinfo").read_text() else "no avx2"
    return f"{name}-{compiler[1] if compiler else 'unknown'} llhttp-{'.'.join(version.split('.')[:2])} {wide}"


def main():
    if not shutil.which("valgrind"):
        print("guard: no valgrind here (package valgrind)\n0 passed, 1 failed")
        return 1
    keep = os.environ.get("KEEP")
    with tempfile.TemporaryDirectory(prefix="guard-") as directory:
        if keep:
            pathlib.Path(keep).mkdir(parents=True, exist_ok=True)
        found = measure(pathlib.Path(keep or directory).resolve())
    figures, which = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}, built_with()
    known, failed = figures.get(which), 0
    print(f"instructions per request, {which}" + ("" if known else ": no figures for these yet (UPDATE=1 keeps these)"))
    for name, count in found.items():
        was = (known or {}).get(name)
        off = count / was - 1 if was else 0
        failed += off > TOLERANCE
        said = "" if not was else f"{was:>12,} {off * 100:+6.1f} %" + (
            "  TOO MANY" if off > TOLERANCE else "  fewer: UPDATE=1 keeps it" if off < -TOLERANCE else "")
        print(f"  {name:12}{count:>12,}{said}")
    if os.environ.get("UPDATE"):
        figures[which] = found
        FIGURES.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    print(f"{len(found) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
