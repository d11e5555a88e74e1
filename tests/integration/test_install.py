"""`make install` and `make uninstall` into a directory of the test's own, with the program under test."""
import os
import re
import stat
import subprocess

import pytest

from harness import ROUTER_BIN, run_router
from harness.router import ROOT

CONF = "etc/router/pools.yaml"
PLAIN = {"bin/router", CONF, "share/man/man8/router.8", "share/man/man5/pools.yaml.5"}


def make(target, destdir, **variables):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k not in ("DESTDIR", "PREFIX", "UNITS")}
    variables = {"BIN": os.path.abspath(ROUTER_BIN), "DESTDIR": str(destdir), **variables}
    done = subprocess.run(["make", "--no-print-directory", target, *(f"{k}={v}" for k, v in variables.items())], cwd=ROOT, env=env,
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(top):
    return {str(p.relative_to(top)) for p in top.rglob("*") if not p.is_dir()}


def at(destdir, prefix="/usr/local"):
    return destdir / prefix.strip("/")


def test_what_is_installed(tmp_path):
    make("install", tmp_path)
    assert files(tmp_path) == {f"usr/local/{name}" for name in PLAIN}
    for name in PLAIN:
        assert stat.S_IMODE((at(tmp_path) / name).stat().st_mode) == (0o755 if name == "bin/router" else 0o644), name
    assert run_router("-version", binary=str(at(tmp_path) / "bin/router")).stdout.startswith("router ")
    assert (at(tmp_path) / CONF).read_text() == (ROOT / "pools.yaml").read_text()


def test_prefix_and_a_blank_in_destdir(tmp_path):
    make("install", tmp_path / "a b", PREFIX="/opt/router")
    assert files(at(tmp_path / "a b", "/opt/router")) == PLAIN


def test_prefix_usr_has_its_configuration_in_etc(tmp_path):
    make("install", tmp_path, PREFIX="/usr")
    assert files(tmp_path) == {CONF} | {f"usr/{name}" for name in PLAIN - {CONF}}


def test_an_edited_pools_yaml_is_never_overwritten(tmp_path):
    make("install", tmp_path)
    conf = at(tmp_path) / CONF
    conf.write_text("mine\n")
    conf.chmod(0o600)
    assert "stays" in make("install", tmp_path)
    assert conf.read_text() == "mine\n" and stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert (conf.parent / "pools.yaml.new").read_text() == (ROOT / "pools.yaml").read_text()
    assert {p.name for p in conf.parent.iterdir()} == {"pools.yaml", "pools.yaml.new"}


def test_a_second_install_changes_nothing(tmp_path):
    make("install", tmp_path)
    make("install", tmp_path)
    assert files(at(tmp_path)) == PLAIN


@pytest.mark.parametrize("prefix, etc", [("/usr/local", "/usr/local/etc"), ("/usr", "/etc"), ("/opt/r", "/opt/r/etc")])
def test_units_name_what_was_installed(tmp_path, prefix, etc):
    make("install", tmp_path, PREFIX=prefix, UNITS="1")
    units = at(tmp_path, prefix) / "lib/systemd/system"
    assert files(units) == {"router.service", "router.socket"}
    program, flag, conf = re.search(r"(?m)^ExecStart=(\S+) (\S+) (\S+)$", (units / "router.service").read_text()).groups()
    assert (program, flag, conf) == (f"{prefix}/bin/router", "-config", f"{etc}/router/pools.yaml")
    assert os.access(f"{tmp_path}{program}", os.X_OK) and os.path.isfile(f"{tmp_path}{conf}")
    assert (units / "router.socket").read_text() == (ROOT / "examples/systemd/router.socket").read_text()


def test_uninstall_leaves_nothing(tmp_path):
    make("install", tmp_path, UNITS="1")
    make("uninstall", tmp_path)
    assert files(tmp_path) == set() and not (at(tmp_path) / CONF).parent.exists()


def test_uninstall_leaves_what_was_edited(tmp_path):
    make("install", tmp_path)
    conf = at(tmp_path) / CONF
    conf.write_text("mine\n")
    make("install", tmp_path)
    assert "stays" in make("uninstall", tmp_path)
    assert files(tmp_path) == {f"usr/local/{CONF}"}


def test_uninstall_of_nothing(tmp_path):
    make("uninstall", tmp_path)
