#!/usr/bin/python3
"""`make bench`: router beside the floor, nginx and HAProxy, one table out.

In: ROWS=small,sse (a part), QUICK=1 (under two minutes, rougher), ROUNDS, SECONDS, ROUTER_BIN. Out: a table on stdout and, of a full
run, tests/bench/RESULTS.md (of a part, build/bench/RESULTS.md).
SPIN=1 is for study: see spin().
Every row runs its contestants in turn, A-B-C-A-B-C, several rounds; the proxy alone on one core, load and backend on the other. What
counts is CPU time of the proxy's processes per request, as the scheduler counts it in ns; a ratio is the median of the rounds'
ratios, so that a machine that changes its mind between rounds changes both sides. All of it runs in a network namespace of its own,
with Reno: where the host paces loopback (BBR), big bodies would measure the pacing.
"""
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import peers
from peers import BUILD, ROOT, Peer, is_there

QUICK = os.environ.get("QUICK", "") not in ("", "0")
HERE = pathlib.Path(__file__).resolve().parent
PEERS = ["router", "nginx", "haproxy"]
BIG = ["floor", "floor-hold", *PEERS, "haproxy-splice"]


class Row:
    def __init__(self, name, title, load, who, floor="floor", goal=None, unit="request", **options):
        self.name, self.title, self.load, self.who, self.floor, self.goal, self.unit = name, title, load.split(), who, floor, goal, unit
        self.options = options


ROWS = [
    Row("small", "500 B request, 1 KB answer", "-conns 64 -users 1000 -body 500 -answer 1024", ["floor", *PEERS, "haproxy-json", "router-log"], goal=1.2),
    Row("typical", "8 KB chat, 4 KB answer", "-conns 64 -users 1000 -body 8192 -answer 4096",
        ["floor", *PEERS, "haproxy-json", "router-no-tokens"], goal=1.25),
    Row("connect", "new connection each, 500 B and 1 KB", "-conns 64 -new -users 1000 -body 500 -answer 1024", ["floor", *PEERS, "haproxy-json"], goal=1.05),
    Row("prompt256k", "256 KB prompt", "-conns 16 -body 262144 -answer 1024", BIG, "floor-hold", 1.35, big=True),
    Row("image8m", "8 MB image request", "-conns 4 -image -body 8388608 -answer 1024", BIG, "floor-hold", 1.25, big=True),
    Row("answer1m", "1 MB answer", "-conns 16 -body 500 -answer 1048576", ["floor", "floor-splice", *PEERS, "haproxy-splice"], "floor-splice", 1.1, big=True),
    Row("sse", "1,000 SSE streams of 50 events/s", "-streams 1000 -rate 50", ["direct", "floor", *PEERS, "haproxy-json", "router-no-tokens"], goal=1.1, unit="event", events=True),
    Row("memory", "idle streams", "-hold -streams", ["floor", *PEERS], unit="stream"),
    Row("mixed", "eight 8 MB uploads in a loop beside 500 SSE streams of 50 events/s", "-streams 500 -rate 50 -conns 8 -image -body 8388608",
        ["floor-hold", *PEERS], "floor-hold", unit="upload", events=True),
    *[Row(f"growth-conns-{n}", f"small, {n} client connections", f"-conns {n} -users 1000", ["floor", "router"])
      for n in ((10, 1000) if QUICK else (10, 100, 1000, 5000))],
    *[Row(f"growth-models-{n}", f"small, {n} models", f"-conns 64 -users 1000 -models {n}", ["floor", "router"], models=n) for n in (1, 1000)],
    *[Row(f"growth-endpoints-{n}", f"small, {n} endpoints", "-conns 64 -users 10000", ["floor", "router"], endpoints=n) for n in (1, 200)],
]


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---- where it runs ----

def enter_namespace():
    """Runs this program again in a network namespace of its own, where that is allowed; says what was done."""
    if os.environ.get("BENCH_NETNS") is None:
        for flags in (["-n"], ["-rn"]):
            if subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode == 0:
                os.environ["BENCH_NETNS"] = "1"
                os.execvp("unshare", ["unshare", *flags, sys.executable, *sys.argv])
        os.environ["BENCH_NETNS"] = "0"
    mine = os.environ["BENCH_NETNS"] == "1"
    if mine:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for name, value in (("tcp_congestion_control", "reno"), ("ip_local_port_range", "1024 65000")):
            try:
                pathlib.Path(f"/proc/sys/net/ipv4/{name}").write_text(value)
            except OSError as e:
                say(f"bench: net.ipv4.{name}: {e}")
    control = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return f"{'a network namespace of its own' if mine else 'the network namespace of the host (no other was allowed)'}, {control}"


def build():
    BUILD.mkdir(parents=True, exist_ok=True)
    for program, parts in (("backend", ["net"]), ("floor", ["net"]), ("load", ["tally", "net"])):
        sources = [str(HERE / f"{p}.c") for p in (program, *parts)]
        subprocess.run(["gcc", "-O2", "-std=c11", "-D_GNU_SOURCE", *sources, "-o", str(BUILD / program)], check=True)


def cores():
    """(of load and backend, of the proxy)"""
    there = sorted(os.sched_getaffinity(0))
    if len(there) < 2:
        say("bench: one core only: the proxy shares it with load and backend, and delays mean little")
    return there[0], there[1 % len(there)]


def spin():
    """SPIN=1: load and backend never sleep, so that no proxy pays for waking them; but then they take big bodies in small pieces."""
    return ["-spin"] if os.environ.get("SPIN", "") not in ("", "0") else []


# ---- one run ----

class Lab:
    def __init__(self, directory):
        self.directory = directory
        self.load_core, self.proxy_core = cores()
        self.rounds = int(os.environ.get("ROUNDS", 2 if QUICK else 5))
        self.seconds = float(os.environ.get("SECONDS", 0.5 if QUICK else 2))
        self.backend_port = peers.free_port()
        log = pathlib.Path(directory) / "backend.log"
        self.backend = peers.start([BUILD / "backend", "-listen", f"0.0.0.0:{self.backend_port}", *spin()], self.load_core, open(log, "w"))
        peers.wait_port(self.backend, self.backend_port, log)

    def start(self, name, row):
        return None if name == "direct" else Peer(name, f"{self.directory}/{row.name}", self.backend_port, self.proxy_core, row.options)

    def load(self, peer, args):
        port = peer.port if peer else self.backend_port
        args = [BUILD / "load", "-to", f"127.0.0.1:{port}", *args, "-warm", 200 if QUICK else 400, "-time", int(self.seconds * 1000), *spin()]
        args += ["-watch", peer.watch()] if peer else []
        process = peers.start(args, self.load_core, subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        if process.returncode:
            return {"failed": err.decode().strip()[-300:]}
        result = json.loads(out)
        if result["errors"]:
            say(f"bench: {peer.name if peer else 'direct'}: {result['errors']} errors: {err.decode().strip()[:300]}")
        return result

    def memory(self, name, row):
        """Resident KB before and with idle streams, one contestant alone."""
        count = min(2000 if QUICK else 9000, (peers.limit_of_files() - 200) // 2 - 200)
        peer = self.start(name, row)
        base = peer.rss()
        args = [BUILD / "load", "-to", f"127.0.0.1:{peer.port}", *row.load, count]
        process = peers.start(args, self.load_core, subprocess.PIPE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            ready = process.stdout.readline()
            held = peer.rss()
            _, err = process.communicate()
        finally:
            process.kill()
            peer.stop()
        if ready != b"ready\n":
            return {"failed": err.decode().strip()[-300:]}
        return {"streams": count, "base": base, "value": (held - base) / count, "errors": 0}


def turns_of(peer):
    """Of a running router: the loop's turns by their length, as {upper bound in s: how many were no longer}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{peer.port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {float(b): int(float(n)) for b, n in re.findall(r'^router_loop_busy_seconds_bucket{le="([^"]+)"} (\S+)', text, re.M)}


def long_turns(before, after):
    """In words: how long the turns of a run were."""
    counts = {b: n - before.get(b, 0) for b, n in sorted(after.items())}
    total = max(counts.values(), default=0)
    if not total:
        return ""
    within = {q: next(b for b, n in counts.items() if n >= total * q) for q in (0.999, 1)}
    longer = total - next((n for b, n in reversed(counts.items()) if b <= 0.0021), 0)
    return (f"loop turns: 99.9 % within {within[0.999] * 1e3:.2f} ms, all within {within[1] * 1e3:.1f} ms, "
            f"{longer} of {total:,} above 2 ms")


def value_of(row, result):
    """us of CPU a request or event (of an upload, ms of all that ran beside it); None where there is none."""
    if "value" in result or "failed" in result:
        return result.get("value")
    count = result["events"] if row.unit == "event" else result["requests"]
    if not count or not result["cpu"]:
        return None
    return result["cpu"] / count * (1e3 if row.unit == "upload" else 1e6)


def run_row(lab, row):
    """{contestant: [result of each round]}"""
    who = [w for w in row.who if w == "direct" or is_there(w)]
    if QUICK:
        who = [w for w in who if w not in ("haproxy-json", "haproxy-splice", "router-log", "router-no-tokens", "direct") and (w != "floor" or row.floor == "floor")]
    found = {w: [] for w in who}
    rounds = 1 if row.unit == "stream" and QUICK else min(lab.rounds, 3) if row.unit == "stream" else lab.rounds
    running = {}
    try:
        for w in who if row.unit != "stream" else ():
            running[w] = lab.start(w, row)
        for n in range(rounds):
            say(f"bench: {row.name}: round {n + 1} of {rounds}")
            for w in who:
                watched = row.unit == "upload" and w == "router"
                before = turns_of(running[w]) if watched else {}
                result = lab.load(running[w], row.load) if running else lab.memory(w, row)
                if watched:
                    result["turns"] = long_turns(before, turns_of(running[w]))
                if "failed" in result:
                    say(f"bench: {row.name}: {w}: {result['failed']}")
                found[w].append(result)
    finally:
        for peer in running.values():
            if peer:
                peer.stop()
    return found


# ---- the table ----

def ratio(row, found, one, other):
    """The median of the rounds' ratios, or None."""
    pairs = [(value_of(row, a), value_of(row, b)) for a, b in zip(found.get(one, []), found.get(other, []))]
    ratios = [a / b for a, b in pairs if a and b]
    return statistics.median(ratios) if ratios else None


def number(x, digits=None):
    if x is None:
        return ""
    if digits is None:
        digits = 0 if x >= 1000 else 1 if x >= 100 else 2
    return f"{x:,.{digits}f}"


def times_of(row, results):
    """p50, p90, p99, max: of streams the best round (the least of each), else the median round; in us."""
    key = "delay" if row.unit in ("event", "upload") else "latency"
    there = [r[key] for r in results if key in r]
    pick = min if key == "delay" else statistics.median
    return [number(pick(t[p] for t in there), 0) if there else "" for p in ("p50", "p90", "p99", "max")]


def lines_of(row, found):
    """The table's lines of one row."""
    unit = {"request": "us/request", "event": "us/event", "stream": "KB/stream", "upload": "ms/upload"}[row.unit]
    out = []
    for w, results in found.items():
        values = [v for v in (value_of(row, r) for r in results) if v is not None]
        middle = statistics.median(values) if values else None
        noise = f"{number(min(values))} .. {number(max(values))}" if values else ""
        to_floor = ratio(row, found, w, row.floor)
        to_this = ratio(row, found, "router", w) if w != "router" else None
        goal = ""
        if w == "router" and row.goal and to_floor:
            goal = f"<= {row.goal}: {'met' if to_floor <= row.goal else 'MISSED'}"
        if row.unit == "stream" and results and "base" in results[0]:
            goal = f"base {results[0]['base'] / 1024:.1f} MB" + (f"; <= 1 KB: {'met' if middle <= 1 else 'MISSED'}" if w == "router" else "")
        waited = [r["waited"] / r["seconds"] for r in results if "waited" in r and r["cpu"]]
        if waited and statistics.median(waited) > 0.1:
            goal += f" disturbed: its core was taken {statistics.median(waited) * 100:.0f} % of the time"
        goal += "".join(r["turns"] for r in results[-1:] if "turns" in r)
        bad = sum(r.get("errors", 0) for r in results) + sum("failed" in r for r in results)
        goal += f" {bad} errors" if bad else ""
        out.append([w, f"{number(middle)} {unit}" if values else "", noise, number(to_floor, 2), number(to_this, 2), *times_of(row, results), goal.strip()])
    return out


HEAD = ["who", "CPU (or memory)", "min .. max", "x floor", "router / this", "p50 us", "p90 us", "p99 us", "max us", "goal, notes"]


def plain(row, lines):
    widths = [max(len(line[i]) for line in [HEAD, *lines]) for i in range(len(HEAD))]
    text = [f"\n{row.name}: {row.title} (floor: {row.floor})"]
    for line in [HEAD, *lines]:
        text.append("  " + "  ".join(cell.ljust(w) if i in (0, 9) else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip())
    return "\n".join(text)


def growth(all_found):
    """How the ratio to the floor moves from the first size to the others."""
    text = []
    for kind in ("conns", "models", "endpoints"):
        sizes = [(row.name.rpartition("-")[2], ratio(row, found, "router", "floor")) for row, found in all_found if row.name.startswith(f"growth-{kind}-")]
        sizes = [(n, r) for n, r in sizes if r]
        if len(sizes) > 1:
            spread = max(r for _, r in sizes) / min(r for _, r in sizes) - 1
            text.append(f"{kind}: the ratio to the floor is " + ", ".join(f"{r:.2f} at {n}" for n, r in sizes) +
                        f": it moves by {spread * 100:.0f} % (goal: 10 %: {'met' if spread <= 0.1 else 'MISSED'})")
    return text


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")] or [platform.machine()]
    return f"{names[0]}, {os.cpu_count()} cores, Linux {platform.release()}"


def markdown(all_found, conditions):
    text = ["# What `make bench` measured", "", *[f"- {c}" for c in conditions], "",
            "CPU is the proxy's alone. `x floor` and `router / this` are medians of the rounds' ratios. Times are of whole requests (the median round);",
            "in `sse` and `mixed` they are delays of events, from the backend's stamp to the client (the best round). `mixed` counts all CPU per upload.", "",
            "| work | " + " | ".join(HEAD) + " |", "|" + "---|" * (len(HEAD) + 1)]
    for row, found in all_found:
        for i, line in enumerate(lines_of(row, found)):
            text.append(f"| {row.title if i == 0 else ''} | " + " | ".join(cell.replace("<=", "≤") for cell in line) + " |")
    notes = growth(all_found)
    return "\n".join(text + ([""] + [f"- {n}" for n in notes] if notes else [])) + "\n"


def main():
    missing = [t for t in ("nginx", "haproxy", "ip") if not peers.tool(t)]
    if missing and os.environ.get("BENCH_NETNS") is None:
        subprocess.run(["sh", "tests/deps.sh"], cwd=ROOT, env={**os.environ, "BENCH": "1"}, check=False)
    network = enter_namespace()
    wanted = [r for r in os.environ.get("ROWS", "").replace(" ", ",").split(",") if r]
    rows = [row for row in ROWS if not wanted or any(row.name == w or row.name.startswith(w + "-") for w in wanted)]
    if not rows:
        sys.exit("bench: ROWS: " + ",".join(dict.fromkeys(row.name.split("-")[0] for row in ROWS)))
    build()
    priority = subprocess.run([sys.executable, "-c", "import peers; print(peers.go_first())"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    began, all_found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        lab = Lab(directory)
        conditions = [machine(), "; ".join(peers.versions()),
                      f"{network}; {priority}; the proxy on core {lab.proxy_core}, load and backend on core {lab.load_core}; "
                      f"{lab.rounds} rounds of {lab.seconds:g} s, in turn"]
        try:
            for row in rows:
                all_found.append((row, run_row(lab, row)))
                print(plain(row, lines_of(*all_found[-1])), flush=True)
        finally:
            lab.backend.terminate()
            lab.backend.wait()
    for line in ["", *growth(all_found), *conditions, f"{time.monotonic() - began:.0f} s"]:
        print(line)
    path = (HERE if not wanted and not QUICK else BUILD) / "RESULTS.md"
    path.write_text(markdown(all_found, conditions))
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
