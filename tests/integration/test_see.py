"""Contract 8, what no other file shows: that log and metrics tell the same story, that the README's list is theirs, that what goes past
unread is counted all the same, and that the snippets people copy do their work."""
import collections
import gzip
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import threading

import pytest
import yaml

from harness import request_bytes
from harness.client import chat_body
from harness.mortal import mortal
from harness.prom import scrape
from harness.reloads import refused, status
from harness.router import ROOT
from harness.upstream import respond_openai, wait_until
from test_access import KEYS
from test_idle import Strace
from test_shortage import fifo, wrapped

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "examples"
CHAT = "/v1/chat/completions"
MB = 1 << 20


def tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


# the operator's lines under systemd


JOURNAL = "export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)"  # as systemd sets it: the device and inode of stderr


def told(lab, before=""):
    """Lines of every level, by their owner: {owner: what stands before it}."""
    dead = lab.dead()
    router = lab.router(dead, log={"level": "debug"}, defaults={"health": {"fall": 1}}, binary=wrapped(lab, before))
    assert router.chat().status == 502
    refused(router, "nonsense: 1\n")
    router.stop()
    found = collections.defaultdict(set)
    for line in router.log:
        mark, owner = re.match(r"(<\d>|\w+ +)(\w+): ", line).groups()
        if owner != "loop":  # which speaks of slow turns, where the machine is slow
            found[owner].add(mark.strip())
    return found, [json.loads(line) for line in router.out]


def test_each_level_has_its_priority(lab):
    """As syslog(3) numbers them: error 3, warn 4, info 6, debug 7."""
    plain, _ = told(lab)
    journal, lines = told(lab, JOURNAL)
    number = {"error": "<3>", "warn": "<4>", "info": "<6>", "debug": "<7>"}
    assert {level for levels in plain.values() for level in levels} == set(number)
    assert journal == {owner: {number[level] for level in levels} for owner, levels in plain.items()}
    assert [line["status"] for line in lines] == [502]  # access lines are no messages: they stay JSON


def test_no_priority_where_stderr_is_not_the_journals(lab):
    """A shell that systemd started hands JOURNAL_STREAM down; what stands on a terminal or in a file is for people."""
    found, _ = told(lab, "export JOURNAL_STREAM=8:1")
    assert {level for levels in found.values() for level in levels} == {"error", "warn", "info", "debug"}


# lines and their number


def test_lines_are_written_once_a_turn(lab):
    log = lab.directory / "access.log"
    router = lab.router(lab.upstream(), log={"file": str(log)})
    client = lab.client(router)
    client.request("GET", "/health").read_response()
    trace = Strace(lab, router)
    client.send(b"".join(request_bytes("GET", "/health") for _ in range(64)))
    for _ in range(64):
        client.read_response()
    wait_until(lambda: log.read_text().count("\n") == 65, "not all lines")
    calls = trace.stop()
    turns = " ".join(calls).split("epoll_wait")
    assert max(turn.split().count("write") for turn in turns) == 1, calls
    assert calls.count("write") < calls.count("sendmsg") == 64, calls  # several answers in a turn, one write for them all


def test_written_and_dropped_are_all_there_were(lab):
    path, reader = fifo(lab)
    router = lab.router(lab.upstream(), log={"file": str(path)})
    client, asked = lab.client(router), 0

    def ask(n, name="some"):
        client.send(b"".join(request_bytes("GET", "/health", headers=[("X-Request-Id", name)]) for _ in range(n)))
        for _ in range(n):
            assert client.read_response().status == 200
        return n
    for _ in range(60):  # 1.2 MB of lines; the pipe takes 4 KB and the router holds 1 MB
        asked += ask(64)
    while not any(b'"last"' in line for line in reader.drain()):
        asked += ask(1, "last")
    dropped = scrape(router)["router_log_lines_dropped_total"]
    reader.wait_lines(lambda lines: len(lines) > asked - dropped, "some lines were neither written nor counted")  # and the scrape's
    lines = [json.loads(line) for line in reader.drain()]
    assert dropped > 0 and len([line for line in lines if line["path"] == "/health"]) + dropped == asked
    assert all(list(line) == KEYS for line in lines)
    assert len([line for line in router.log if "lines are dropped" in line]) == 1


# the README's lists


def listed():
    """{name: labels} of the README's table of metrics, in order."""
    table = README[README.index("| metric | type |"):README.index("Labels come from the configuration")]
    specs = re.findall(r"`((?:router|process)_\w+)(?:\{([\w,]+)\})?`", table)
    assert len(specs) == len(dict(specs)), "one stands twice"
    return {name: set(labels.split(",")) - {""} for name, labels in specs}


def test_the_readmes_metrics_are_those_there_are(lab):
    """Neither more nor less, in the same order, with the same labels."""
    router = lab.router(lab.upstream(), pool={"queue": {"size": 1}})
    assert router.chat().status == router.chat(stream=True).status == 200
    router.get("/nowhere")
    found = scrape(router)
    assert list(listed()) == list(found.families)
    for name, labels in listed().items():
        family = found.families[name]
        assert {frozenset(set(have) - {"le"}) for _, have, _ in family.samples} == {frozenset(labels)}, name


def test_the_readmes_keys_of_an_access_line(lab):
    text = README[README.index("its keys always in this order"):README.index("`affinity` is `hit`")]
    assert re.findall(r"`(\w+)`", text) == ["null", *KEYS] or re.findall(r"`(\w+)`", text) == KEYS


# one story


class Story:
    """Traffic of every kind, in an order that the seed gives; then what the access lines say of it, in the metrics' words."""

    def __init__(self, lab, seed):
        self.random = random.Random(seed)
        self.alive, self.other, self.dead = mortal(lab, answer=self.answer), mortal(lab, answer=self.answer), lab.dead()
        health = {"health": {"interval": 0, "fall": 100}}
        pools = [{"name": "p", "models": ["m", "g-*"], "aliases": {"nick": "m"}, "endpoints": [self.alive, self.dead], **health},
                 {"name": "q", "models": ["any"], "endpoints": [self.other, self.alive], "affinity": "none", **health},
                 {"name": "off", "models": ["off"], "endpoints": [self.dead], **health}]
        self.router = lab.router(pools=pools, max_body="8k")
        self.lab, self.asked = lab, 0

    @staticmethod
    def answer(conn, req):
        want = req.json().get("want")
        if want == "cut":
            conn.sse_head()
            conn.event({"choices": [{"delta": {"content": "x"}}]})
            raise ConnectionError
        if want == "die":
            raise ConnectionError
        if want == "hang":
            conn.sse_head()
            conn.event("1")
            conn.stall()
            raise ConnectionError
        if want:
            conn.txresp(want, body=b"{}")
        else:
            respond_openai(conn, req)

    def ask(self):
        pick = self.random.choice
        model = pick(["m", "m", "nick", "g-1", "g-2", "any", "any", "off", "unknown"])
        user = f"user-{self.random.randrange(8)}"
        kind = pick(["plain", "plain", "stream", "stream", 404, 500, 302, "cut", "die", "hang", "page", "bad", "big"])
        self.asked += 1
        if kind == "page":
            self.router.get(pick(["/health", "/v1/models", "/nowhere"]))
        elif kind == "bad":
            self.router.post(CHAT, b"{")
        elif kind == "big":
            self.router.post(CHAT, chat_body(model, content="x" * 9000))
        elif kind == "hang":
            client = self.lab.client(self.router)
            client.chat(model, user, stream=True, want="hang")
            while client.fill() and b"data: 1" not in client.buf and not self.whole(client):
                pass
            client.close()
            self.settle()  # the slot is free before the next one asks
        else:
            more = {} if kind in ("plain", "stream") else {"want": kind}
            client = self.lab.client(self.router)
            client.chat(model, user, stream=kind in ("stream", "cut"), **more)
            while client.fill() and not self.whole(client):
                pass
            client.close()
            self.settle()

    @staticmethod
    def whole(client):
        text = bytes(client.buf)
        head, _, body = text.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        return bool(_) and (len(body) >= int(length.group(1)) if length else body.endswith(b"0\r\n\r\n"))

    def settle(self):
        self.router.access_lines(self.asked)


def entry(model):
    return "g-*" if model.startswith("g-") else model


def sum_by(lines, key, value=lambda line: 1):
    """{key: sum}, without zeros."""
    found = collections.Counter()
    for line in lines:
        if key(line) is not None:
            found[key(line)] += value(line) or 0
    return {k: v for k, v in found.items() if v}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_log_and_metrics_tell_the_same(lab, seed):
    story = Story(lab, seed)
    for _ in range(150):
        story.ask()
    story.settle()
    shown = status(story.router)
    lines, page = list(map(json.loads, story.router.out))[:story.asked], scrape(story.router)
    pooled = [line for line in lines if line["pool"]]
    tried = [line for line in pooled if line["tries"]]

    def series(name, *labels, **wanted):
        found = {}
        for (series_name, have), value in page.values.items():
            have = dict(have)
            if series_name == name and value and all(have[k] == v for k, v in wanted.items()):
                found[tuple(have[k] for k in labels)] = value
        return found
    code = {None: "none", **{n: f"{n}xx" for n in range(1, 6)}}
    assert series("router_requests_total", "pool", "endpoint", "code") == sum_by(
        tried, lambda line: (line["pool"], line["endpoint"], code[line["status"] and line["status"] // 100]))
    assert series("router_affinity_total", "pool", "result") == sum_by(tried, lambda line: (line["pool"], line["affinity"]))
    retries = collections.Counter()
    for (pool, _), n in series("router_retries_total", "pool", "endpoint").items():
        retries[(pool,)] += n
    assert dict(retries) == sum_by(tried, lambda line: (line["pool"],), lambda line: line["tries"] - 1)
    assert series("router_client_gone_total", "pool") == sum_by(pooled, lambda line: (line["pool"],) if line["end"] == "client_gone" else None)
    assert sum(series("router_refused_total", "reason").values()) == len([line for line in lines if line["end"] == "refused"])
    for name, field, among in (("request_duration", "duration_ms", pooled), ("first_byte", "first_byte_ms", tried)):
        timed = [line for line in among if line[field] is not None]
        assert series(f"router_{name}_seconds_count", "pool") == sum_by(timed, lambda line: (line["pool"],))
        sums = series(f"router_{name}_seconds_sum", "pool")
        assert {k: round(v * 1000) for k, v in sums.items()} == sum_by(timed, lambda line: (line["pool"],), lambda line, f=field: line[f])
    assert series("router_first_token_seconds_count", "pool", "model") == sum_by(
        tried, lambda line: (line["pool"], entry(line["model"])) if line["first_token_ms"] is not None else None)
    for kind in ("prompt", "cached", "completion"):
        assert series("router_tokens_total", "pool", "model", type=kind) == sum_by(
            tried, lambda line: (line["pool"], entry(line["model"])), lambda line, k=kind: line[f"{k}_tokens"])
    assert page.sum("router_requests_in_flight") == page.sum("router_requests_queued") == page["router_body_memory_bytes"] == 0
    # and /status: every try is a request at its endpoint
    rows = {row["url"]: row for pool in shown["pools"] for row in pool["endpoints"]}
    assert sum(row["requests"] for row in rows.values()) == sum(line["tries"] for line in lines)
    assert {line["end"] for line in lines} >= {"done", "refused", "client_gone", "upstream_error"}


# tokens that pass


def chat_of(lab, answer, **how):
    """The access line of a chat answered with those bytes."""
    up, router, client = lab.scripted_pair(**how)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    conn.txresp(200, [("Content-Type", "application/json")], answer)
    assert client.read_response().body == answer
    return router, router.access_lines(1)[0]


USAGE = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}


@pytest.mark.parametrize("size, known", [(100, True), (8000, True), (9000, False), (2 * MB, False)])
def test_usage_told_first_is_known_if_the_body_is_short(lab, size, known):
    """As the README says: of a body longer than 8 KB the end is read."""
    answer = json.dumps({"usage": USAGE, "text": ""}).encode()
    answer = json.dumps({"usage": USAGE, "text": "x" * (size - len(answer))}).encode()
    assert len(answer) == size
    router, line = chat_of(lab, answer)
    assert (line["prompt_tokens"], line["completion_tokens"]) == ((12, 34) if known else (None, None))
    assert scrape(router).sum("router_tokens_total") == (46 if known else 0)


def test_usage_told_last_is_known_however_long(lab):
    _, line = chat_of(lab, json.dumps({"text": "x" * (3 * MB), "usage": USAGE}).encode())
    assert (line["prompt_tokens"], line["completion_tokens"]) == (12, 34)


def test_no_byte_of_a_stream_waits_to_be_understood(lab):
    """Byte by byte: each is at the client before the next is sent; and the tokens are counted all the same."""
    up, router, client = lab.scripted_pair()
    client.chat(stream=True)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    text = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in (
        {"choices": [{"delta": {"content": "Hi"}}]}, {"choices": [], "usage": {**USAGE, "prompt_tokens_details": {"cached_tokens": 5}}}))
    parts = None
    for at in range(len(text)):
        conn.body(text[at:at + 1])
        parts = parts or client.body_parts(client.read_head())
        assert next(parts) == text[at:at + 1]
    conn.sse_end()
    assert b"".join(parts) == b"data: [DONE]\n\n"
    line = router.access_lines(1)[0]
    assert (line["prompt_tokens"], line["cached_tokens"], line["completion_tokens"]) == (12, 5, 34)
    assert line["first_byte_ms"] <= line["first_token_ms"] <= line["duration_ms"]


@pytest.mark.parametrize("reads", [True, False])
def test_a_long_json_answer_is_spliced_but_for_its_end(lab, reads):
    """Of 40 MB the router itself sees the beginning, while it learns whether the client keeps up, and the last 8 KB for the tokens."""
    answer = json.dumps({"text": "x" * (40 * MB), "usage": USAGE}).encode()
    up, router, client = lab.scripted_pair(read_usage=reads)
    client.chat()
    conn = up.accept()
    conn.rxreq()
    trace = Strace(lab, router)
    conn.sock.settimeout(30)
    sender = lab.keep(Sending(conn, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer)))
    assert client.read_response().body == answer
    sender.close()
    line = router.access_lines(1)[0]
    trace.stop()
    text = trace.path.read_text()
    read = sum(int(n) for n in re.findall(r"^\d+ +recvfrom\(.* = (\d+)$", text, re.M))
    spliced = sum(int(n) for n in re.findall(r"^\d+ +splice\(.* = (\d+)$", text, re.M)) / 2  # in and out
    assert spliced > 0.9 * len(answer) and read < 0.1 * len(answer), (spliced, read)
    assert line["prompt_tokens"] == (12 if reads else None)


class Sending:
    """Sends while the test reads."""

    def __init__(self, conn, data):
        self.thread = threading.Thread(target=conn.sock.sendall, args=(data,), daemon=True)
        self.thread.start()

    def close(self):
        self.thread.join(30)


# what people copy


def test_logrotate_for_real(lab):
    """The snippet, with this test's file and a systemctl that knows this test's router: no line is lost, none stands twice."""
    place = lab.directory / "log"
    place.mkdir(mode=0o755)
    log = place / "access.log"
    router = lab.router(lab.upstream(), log={"file": str(log)})
    names = itertools.count()

    def ask(n):
        for _ in range(n):
            assert router.chat(headers=[("X-Request-Id", f"r{next(names)}")]).status == 200

    def lines(path):
        return path.read_text().count("\n") if path.exists() else 0
    bin_ = lab.directory / "bin"
    bin_.mkdir()
    (bin_ / "systemctl").write_text(f'#!/bin/sh\n[ "$*" = "kill --signal=SIGUSR1 --kill-whom=main router.service" ] && kill -USR1 {router.pid}\n')
    (bin_ / "systemctl").chmod(0o755)
    text = (EXAMPLES / "logrotate").read_text().replace("/var/log/router/access.log", str(log))
    snippet = lab.directory / "logrotate.conf"
    snippet.write_text(text)
    snippet.chmod(0o644)
    env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}

    def rotate():
        if tool("logrotate"):
            done = subprocess.run([tool("logrotate"), "-f", "-s", str(lab.directory / "state"), str(snippet)], env=env, capture_output=True, text=True, timeout=60)
            assert (done.returncode, done.stdout + done.stderr) == (0, ""), done
        else:  # what it does, by hand
            if (place / "access.log.1").exists():
                (place / "access.log.2.gz").write_bytes(gzip.compress((place / "access.log.1").read_bytes()))
            log.rename(place / "access.log.1")
            subprocess.run(["sh", "-c", re.search(r"postrotate\n(.*?)endscript", text, re.S).group(1)], env=env, check=True, timeout=60)
        wait_until(log.exists, "the file is not opened again")
    ask(5)
    wait_until(lambda: lines(log) == 5, "not all lines")
    rotate()
    assert lines(place / "access.log.1") == 5
    ask(3)
    wait_until(lambda: lines(log) == 3, "not all lines")
    rotate()
    ask(2)
    wait_until(lambda: lines(log) == 2, "not all lines")
    assert sorted(p.name for p in place.iterdir()) == ["access.log", "access.log.1", "access.log.2.gz"]
    texts = [gzip.decompress((place / "access.log.2.gz").read_bytes()).decode(), (place / "access.log.1").read_text(), log.read_text()]
    assert [json.loads(line)["request_id"] for text in texts for line in text.splitlines()] == [f"r{i}" for i in range(10)]
    router.stop()
    assert router.log and not [line for line in router.log if line.startswith("error")]


def test_the_dashboards_queries_are_promql(lab):
    """promtool reads rules, not dashboards: so each query as a rule. Where there is no promtool, at least the brackets agree."""
    panels = json.loads((EXAMPLES / "prometheus" / "grafana.json").read_text())["panels"]
    queries = [t["expr"].replace("$__rate_interval", "5m") for p in panels for t in p.get("targets", [])]
    assert len(queries) > 8 and all(q.count(a) == q.count(b) for q in queries for a, b in ("()", "{}", "[]"))
    rules = lab.directory / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": f"q{i}", "expr": q} for i, q in enumerate(queries)]}]}))
    if tool("promtool"):
        done = subprocess.run([tool("promtool"), "check", "rules", str(rules)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and f"{len(queries)} rules found" in done.stdout, done.stdout + done.stderr
