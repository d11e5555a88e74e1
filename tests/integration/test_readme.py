"""The README's promises that can be read off it: its commands, its configuration, its links."""
import json
import os
import re
import shlex
import subprocess

import pytest
import yaml

from harness import run_router
from harness.prom import scrape
from harness.router import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.strip()]
# What another suite runs, and where; the rest is run here.
ELSEWHERE = {
    "sudo apt install git make": "tests/debians.sh, on fresh roots",
    "git clone URL router": "tests/debians.sh, from the clone's own repository",
    "make run": "the CI script runs `ROUTER_ONCE=1 make run`",
    "make test": "this is it",
    "docker build -t router .": "tests/image",
    "docker run": "tests/image",
    "sudo make install": "test_install.py",
    "sudo systemctl": "tests/deb, in a booted root where the machine has one",
    "docker build -t llama-model-router:": "tests/image; the name is compared with the manifest's below",
    "kubectl create secret": "compared with what the manifest asks for, below",
    "kubectl apply": "tests/kubernetes.sh checks the manifests by their schemas",
}


# A request to try, and the file it goes with: the last one named before it.
TRIES = [(re.findall(r"`examples/([\w-]+\.yaml)`", README[:m.start()])[-1], m[1]) for m in re.finditer(r"```sh\n(curl .*)\n```", README)]
SENT = {"llama3-8b-instruct": "llama3-8b-instruct", "whatever-it-knows": "whatever-it-knows", "llama3.2:3b": "llama3.2:3b",
        "llama-70b": "meta-llama/Llama-3.3-70B-Instruct", "qwen2.5-7b-instruct": "qwen2.5-7b-instruct",
        "claude-sonnet-4-5": "llama-3.3-70b-instruct", "text-embedding-3-small": "bge-m3"}


def section(title):
    return re.search(rf"^###? {re.escape(title)}\n(.*?)(?=^##|\Z)", README, re.M | re.S)[1]


def table(text, heading):
    """The rows of the table that begins with that heading, as lists of cells."""
    rows = re.search(rf"^\| {re.escape(heading)} \|.*\n\|[-|]+\|\n((?:\|.*\n?)+)", text, re.M)[1].splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def elsewhere(command):
    return next((why for start, why in ELSEWHERE.items() if command.startswith(start)), None)


def test_the_configuration_shown_is_sound(tmp_path):
    shown = [block for kind, block in BLOCKS if kind == "yaml"]
    assert shown
    for i, block in enumerate(shown):
        path = tmp_path / f"{i}.yaml"
        path.write_text(block, encoding="utf-8")
        done = run_router("-config", path, "-t")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_every_command_is_run_by_a_test():
    assert COMMANDS
    unknown = [c for c in COMMANDS if not elsewhere(c) and not c.startswith("./router ") and c not in [command for _, command in TRIES]]
    assert unknown == []
    assert [start for start in ELSEWHERE if not any(c.startswith(start) for c in COMMANDS)] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("./router ") and "-listen" not in c])
def test_router_commands(command):
    done = run_router(*shlex.split(command)[1:], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    if "-explain" in command:  # the shipped pools.yaml has no alias, but a "*" pool
        assert "pool:     rest" in done.stdout


def test_there_is_a_request_for_each_setup():
    assert len(TRIES) == 7


@pytest.mark.parametrize("name, command", TRIES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(TRIES)])
def test_requests_to_try(lab, name, command):
    """With endpoints of ours in the place of those named, and our port in the place of the default: it is sent on, and answered."""
    keys = {"ROUTER_KEY": "k", "VLLM_KEY": "v"}
    config = yaml.safe_load((ROOT / "examples" / name).read_text(encoding="utf-8"))
    ups = {}
    for pool in config["pools"]:
        for i, endpoint in enumerate(pool["endpoints"]):
            url = endpoint["url"] if isinstance(endpoint, dict) else endpoint
            up = ups.setdefault(url, lab.upstream() if url not in ups else None)
            pool["endpoints"][i] = {**endpoint, "url": up.url} if isinstance(endpoint, dict) else up.url
    router = lab.router(config={k: v for k, v in config.items() if k != "listen"}, env=keys)
    base = f"http://127.0.0.1:{router.port}"
    argv = shlex.split(re.sub(r"http://localhost:\d+", base, command).replace("$ROUTER_KEY", "k"))
    done = subprocess.run([*argv, "-w", "%{stderr}%{http_code}"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "200"), done.stdout
    (request,) = [r for up in ups.values() for r in up.routed()]
    body = json.loads(argv[argv.index("-d") + 1])
    assert request.target == argv[2].removeprefix(base)
    assert request.json() == {**body, "model": SENT[body["model"]]}
    assert "api_keys" not in config or (request["x-api-key"], request["authorization"]) in ((None, None), (None, "Bearer v"))


def test_each_setup_names_its_variables():
    """Its words before the request, with what the file it goes with takes from the environment."""
    setups = re.findall(r"^(\*\*.*?)```sh\ncurl ", README, re.M | re.S)
    assert len(setups) == len(TRIES)
    for words, (name, _) in zip(setups, TRIES):
        assert f"`examples/{name}`" in words
        taken = set(re.findall(r"\$\{(\w+)", (ROOT / "examples" / name).read_text(encoding="utf-8")))
        assert taken == set(re.findall(r"`(\w+_KEY)`", words)), name


def test_the_keys_for_llama_cpp_are_sound(tmp_path):
    words = re.search(r"two keys more in its pool: (.*?):\n", README, re.S)[1]
    config = yaml.safe_load((ROOT / "examples" / "basic.yaml").read_text(encoding="utf-8"))
    more = [yaml.safe_load(key) for key in names(words)]
    assert [list(key) for key in more] == [["max_inflight"], ["queue"]]
    for key in more:
        config["pools"][0].update(key)
    (tmp_path / "pools.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    done = run_router("-t", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_kubernetes_commands_bring_what_the_manifest_asks_for():
    (deployment,) = [d for d in yaml.safe_load_all((ROOT / "examples/kubernetes/router.yaml").read_text(encoding="utf-8")) if d["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    secret = container["env"][0]["valueFrom"]["secretKeyRef"]
    commands = section("Kubernetes")
    assert f"docker build -t {container['image']} .\n" in commands
    assert f"kubectl create secret generic {secret['name']} --from-literal={secret['key']}=KEY\n" in commands


def test_the_services_files_are_named():
    unit = (ROOT / "examples/systemd/router.service").read_text(encoding="utf-8")
    told = section("systemd")
    config, variables = re.search(r"(?m)^ExecStart=.* -config (\S+)$", unit)[1], re.search(r"(?m)^EnvironmentFile=-(\S+)$", unit)[1]
    assert f"reads `{config}`" in told and f"`{variables}` if" in " ".join(told.split())
    assert f"({re.search('(?m)^TimeoutStopSec=([0-9]+)$', unit)[1]} s)" in told
    package = (ROOT / "packaging/deb.sh").read_text(encoding="utf-8")
    name = re.search(r"(?m)^name=(\S+)$", package)[1]
    assert "-config /etc/$name/pools.yaml" in package and "EnvironmentFile=-/etc/default/$name" in package
    assert f"`/etc/{name}/pools.yaml`" in told and f"`/etc/default/{name}`" in told and f"./build/{name}_*.deb" in told


# Errors: the rows of include/why.h that a client can be told as an answer, and those that only a stream can.
WHY = re.findall(r'^    X\((WHY_\w+), +(\d+), +END_\w+, +(T_\w+|""), +"(\w*)", +"(\w*)", ([^,]+), "(.*)"\)',
                 (ROOT / "include/why.h").read_text(encoding="utf-8"), re.M)
TYPES = {"T_REQ": "invalid_request_error", "T_RATE": "rate_limit_error", "T_SRV": "server_error"}
IN_BAND = {"WHY_UPSTREAM_CUT", "WHY_UPSTREAM_STALL", "WHY_SHUTDOWN"}
BESIDES = {"WHY_CLOSE": "closes", "WHY_RETRY_AFTER": "Retry-After", "WHY_NO_RETRY": "x-should-retry: false", "WHY_PARAM_MODEL": "`param` is `model`"}


def test_every_error_is_in_the_table():
    assert len(WHY) == len(re.findall(r"^    X\(", (ROOT / "include/why.h").read_text(encoding="utf-8"), re.M)) > 25
    written = []
    for status, type_, code, when, besides in table(section("Every error"), "status"):
        assert when
        written.append((int(status), names(type_)[0], "".join(names(code)), frozenset(flag for flag, word in BESIDES.items() if word in besides)))
    told = {(int(status), TYPES[type_], code, frozenset(flags.split(" | ")) - {"0"})
            for name, status, type_, code, _, flags, text in WHY if text and name not in IN_BAND}
    assert len(written) == len(set(written)) and set(written) == told
    after = section("Every error").rpartition("|\n")[2]
    assert {code for name, _, _, code, *_ in WHY if name in IN_BAND} <= set(names(after))


def test_the_labels_values_are_those_of_the_program(lab):
    router = lab.router(lab.upstream(), models=["m"])
    assert router.chat("m").status == 200
    found = {}
    for name, labels in scrape(router).series:
        for key, value in labels:
            found.setdefault((key, None), set()).add(value)
            found.setdefault((key, name), set()).add(value)
    rows = table(section("Logs and metrics"), "label")
    assert {names(label)[0] for label, _ in rows} == {"code", "reason", "result", "side", "state", "type"}
    for label, values in rows:
        key, metric = (names(label) + [None])[:2]
        told = set(names(values))
        if key == "code":
            told.remove("none")  # is there once it happened
        assert told == found[key, metric], label
    assert found["reason", None] == {label for *_, label, _, _ in WHY if label}


def test_status_is_what_it_says(lab):
    router = lab.router(lab.upstream(), pool={"aliases": {"a": "b"}})
    router.chat()
    told = re.search(r"`/status` is one JSON object: .*?(?=\n\n)", README, re.S)[0]
    named = set(re.findall(r"`(\w+)`", told)) - {"up", "down", "loading", "router_first_byte_seconds"}  # draining is a key, too

    def keys(value, into):
        for inner in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            keys(inner, into)
        if isinstance(value, dict):
            into.update(value)
        return into
    status = router.get("/status").json()
    status.pop("recent")[0]["request_id"]
    for pool in status["pools"]:
        assert pool.pop("aliases") == {"a": "b"}  # its keys are names
    assert keys(status, set()) | {"recent", "aliases"} == named


def test_the_file_shown_explains_its_alias(tmp_path):
    first = next(block for kind, block in BLOCKS if kind == "yaml")
    (tmp_path / "pools.yaml").write_text(first, encoding="utf-8")
    done = run_router("-explain", "gpt-4o-mini", "alice", cwd=tmp_path)
    assert done.returncode == 0 and "sent as:  llama3-8b-instruct" in done.stdout


def test_every_file_named_exists():
    for name in set(re.findall(r"`((?:src|tests|examples)/[\w./-]+)`", README)):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"^\| `([\w-]+\.yaml)` \|", README, re.M):
        assert (ROOT / "examples" / name).exists(), name


def test_every_file_of_examples_is_named():
    also = {name for cell, _ in table(section("Also in `examples/`"), "file") for name in names(cell)}
    rows = set(re.findall(r"^\| `([\w-]+\.yaml)` \|", README, re.M))
    files = {str(p.relative_to(ROOT / "examples")) for p in (ROOT / "examples").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    mounted = {name for name in files if name.startswith("compose/") and name.endswith("-pools.yaml")}  # by the file beside it
    assert also <= files and also | rows | mounted | {"ui.png"} == files


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert {"SECURITY.md", "CONTRIBUTING.md"} <= set(links)
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_flag_of_the_usage_text_is_named():
    usage = run_router("-help").stdout
    for flag in set(re.findall(r"(?<![\w-])-([a-z]+)\b", usage)):
        assert f"`-{flag}" in README, flag


def test_every_make_target_named_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^|sudo )make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^(?:[\w-]+ )*{target}(?: [\w-]+)*:", makefile, re.M), target


def test_make_without_a_build_says_what_it_does():
    done = subprocess.run(["make", "-n", "--no-print-directory", "run"], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "MAKEFLAGS": ""})
    assert "examples/run.sh" in done.stdout
