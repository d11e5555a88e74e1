"""The README's promises that can be read off it: its commands, its configuration, its links."""
import os
import re
import shlex
import subprocess

import pytest

from harness import run_router
from harness.router import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
COMMANDS = [line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines() if line.strip()]
# What another suite runs, and where; the rest is run here.
ELSEWHERE = {
    "make run": "the CI script runs `ROUTER_ONCE=1 make run`",
    "make test": "this is it",
    "docker build -t router .": "tests/image",
    "docker run": "tests/image",
    "sudo make install": "test_install.py",
    "sudo systemctl": "tests/deb, in a booted root where the machine has one",
    "kubectl apply": "tests/kubernetes.sh checks the manifests by their schemas",
}


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
    unknown = [c for c in COMMANDS if not elsewhere(c) and not c.startswith("./router ")]
    assert unknown == []
    assert [start for start in ELSEWHERE if not any(c.startswith(start) for c in COMMANDS)] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("./router ") and "-listen" not in c])
def test_router_commands(command):
    done = run_router(*shlex.split(command)[1:], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    if "-explain" in command:  # the shipped pools.yaml has no alias, but a "*" pool
        assert "pool:     rest" in done.stdout


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


def test_every_flag_of_the_usage_text_is_named():
    usage = run_router("-help").stdout
    for flag in set(re.findall(r"(?<![\w-])-([a-z]+)\b", usage)):
        assert f"`-{flag}" in README, flag


def test_every_make_target_named_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^|sudo )make ([a-z-]+)", README, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_make_without_a_build_says_what_it_does():
    done = subprocess.run(["make", "-n", "--no-print-directory", "run"], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "MAKEFLAGS": ""})
    assert "examples/run.sh" in done.stdout
