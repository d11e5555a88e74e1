"""Who is measured: each contestant writes its configuration, starts pinned to the proxy's core and says which processes to watch.

All run with one worker, keep-alive on both sides, large idle pools and no access log. nginx and HAProxy are blind (they forward without
a look at the body) but haproxy-json, which reads `model` with json_query as far as its buffer reaches.
"""
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"
MODEL = "bench-model"


def limit_of_files():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def go_first():
    """What else runs here should wait, not the programs measured (the kernel keeps 5 % for it); says what was allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        return "real-time priority"
    except OSError:
        return "no priority over what else runs here"


def start(argv, core, log=None, **more):
    def prepare():
        os.sched_setaffinity(0, {core})
        go_first()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **more}
    return subprocess.Popen([str(a) for a in argv], preexec_fn=prepare, stderr=log or subprocess.DEVNULL, start_new_session=True, **more)


def children(pid):
    try:
        return [int(p) for p in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_port(process, port, log):
    end = time.monotonic() + 15
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    process.kill()
    raise RuntimeError(f"{process.args[0]} did not listen on port {port}:\n{pathlib.Path(log).read_text()[-2000:]}")


class Peer:
    """A running contestant. `options` is what the row asks of all of them: models, endpoints, big (bodies), events
    (HAProxy holds small pieces back for up to 200 ms unless it is told not to)."""

    def __init__(self, name, directory, backend, core, options):
        self.name, self.port, self.backend, self.options = name, free_port(), backend, options
        self.directory = pathlib.Path(directory) / name
        self.directory.mkdir(parents=True, exist_ok=True)
        kind = name.split("-")[0]
        log = self.directory / "log"
        with open(log, "w") as out:
            self.process = start(getattr(self, kind)(name.partition("-")[2]), core, out, stdout=out, cwd=self.directory)
        wait_port(self.process, self.port, log)
        self.pids = [self.process.pid, *children(self.process.pid)]

    def watch(self):
        return ",".join(map(str, self.pids))

    def rss(self):
        """Resident KB of all its processes."""
        lines = [line for p in self.pids for line in pathlib.Path(f"/proc/{p}/status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def file(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    def floor(self, variant):
        return [BUILD / "floor", "-listen", f"127.0.0.1:{self.port}", "-to", f"127.0.0.1:{self.backend}"] + ([f"-{variant}"] if variant else [])

    def router(self, variant):
        models = self.options.get("models", 1)
        names = [MODEL] if models == 1 else [f"{MODEL}-{i:06d}" for i in range(models)]
        endpoints = [f"http://127.0.0.{1 + i}:{self.backend}" for i in range(self.options.get("endpoints", 1))]
        lines = [f"log: {{access: {'json' if variant == 'log' else 'off'}, level: warn, file: /dev/null}}", f"read_usage: {'false' if variant == 'no-tokens' else 'true'}", "defaults:",
                 "  keepalive: {max_idle: 10000, timeout: 600s}", "  max_inflight: 0", "pools:", "  - name: bench", "    models:"]
        lines += [f"      - {n}" for n in names] + ["    endpoints:"] + [f"      - {e}" for e in endpoints]
        return [router_binary(), "-config", self.file("pools.yaml", "\n".join(lines) + "\n"), "-listen", f"127.0.0.1:{self.port}"]

    def nginx(self, _variant):
        big = self.options.get("big")
        buffers = "proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 256k; client_body_buffer_size 256k;" if big else ""
        temp = "".join(f"{m}_temp_path {self.directory}/{m};" for m in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text = f"""daemon off; worker_processes 1; pid {self.directory}/pid; error_log {self.directory}/error crit;
{'user root;' if os.geteuid() == 0 else ''}
worker_rlimit_nofile {limit_of_files()};
events {{ worker_connections {limit_of_files() - 100}; }}
http {{
  access_log off; {temp}
  upstream backend {{ server 127.0.0.1:{self.backend}; keepalive 8192; keepalive_requests 1000000000; keepalive_timeout 600s; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 100m;
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_request_buffering off; proxy_max_temp_file_size 0; proxy_read_timeout 600s; {buffers}
    }}
  }}
}}
"""
        return [tool("nginx"), "-p", self.directory, "-e", self.directory / "error", "-c", self.file("nginx.conf", text)]

    def haproxy(self, variant):
        read_model = """  option http-buffer-request
  http-request set-var(txn.model) req.body,json_query('$.model')
  use_backend models if { var(txn.model) -m str """ + MODEL + " }\n" if variant == "json" else ""
        splice = variant == "splice"  # its pipes are descriptors too
        connections = 2000 if splice else (limit_of_files() - 100) // 2 - 100
        server = f"server s 127.0.0.1:{self.backend} maxconn 20000 pool-max-conn -1 pool-purge-delay 600s"
        text = f"""global
  nbthread 1
  maxconn {connections}
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  {'option splice-request' if splice else ''}
  {'option splice-response' if splice else ''}
  {'option http-no-delay' if self.options.get('events') else ''}
frontend front
  bind 127.0.0.1:{self.port} backlog 4096
{read_model}  default_backend rest
backend rest
  {server}
backend models
  {server}
"""
        return [tool("haproxy"), "-db", "-f", self.file("haproxy.cfg", text)]


def tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def router_binary():
    return pathlib.Path(os.environ.get("ROUTER_BIN") or ROOT / "router").resolve()


def is_there(name):
    kind = name.split("-")[0]
    return kind == "floor" or (router_binary().exists() if kind == "router" else bool(tool(kind)))


def versions():
    def first_line(argv):
        done = subprocess.run(argv, capture_output=True, text=True)
        return (done.stdout + done.stderr).strip().splitlines()[0]
    found = [first_line([router_binary(), "-version"])] if is_there("router") else []
    found += [first_line([tool("nginx"), "-v"]).removeprefix("nginx version: ")] if tool("nginx") else []
    found += [first_line([tool("haproxy"), "-v"]).split(" 20")[0]] if tool("haproxy") else []
    return [*found, first_line(["gcc", "--version"])]
