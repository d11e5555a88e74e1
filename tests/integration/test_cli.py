"""Contract 1 and 2 from outside: flags, exit codes, `-t` and its findings, listen addresses, `-healthcheck`."""
import os
import re
import socket
import stat

import pytest

from harness import RawClient, run_router

ORIGINAL = """pools:
  - name: chat
    endpoints:
      - http://localhost:9001
      - http://localhost:9101
    models:
      - llama3-8b-instruct
      - qwen2.5-7b
  - name: rest
    endpoints: ["http://localhost:9101"]
    models: ["*"]
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def check(tmp_path, text, env=None):
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    return run_router("-config", "pools.yaml", "-t", cwd=tmp_path, env=env)


def findings(done, name="pools.yaml"):
    """(line, column, kind, key, text) of every line on stderr; each must have the promised form."""
    found = []
    for line in done.stderr.splitlines():
        match = re.fullmatch(re.escape(name) + r":(\d+):(\d+): (error|warning): ([^:]+): (.+)", line)
        assert match, f"not a finding: {line!r}"
        n, column, kind, key, text = match.groups()
        assert int(n) >= 1 and int(column) >= 1, line
        found.append((int(n), int(column), kind, key, text))
    return found


def errors(tmp_path, text, env=None):
    done = check(tmp_path, text, env)
    found = findings(done)
    assert done.returncode == 1, done
    assert "ok" not in done.stdout.split()
    assert any(f[2] == "error" for f in found), done.stderr
    return [f for f in found if f[2] == "error"]


def with_pool(top="", pool=""):
    return f"{top}pools:\n  - name: p\n    models: [m]\n    endpoints: [\"http://h:1\"]\n{pool}"


# flags


@pytest.mark.parametrize("flag", ["-version", "--version"])
def test_version_prints_and_exits_0(flag, tmp_path):
    done = run_router(flag, cwd=tmp_path)
    assert done.returncode == 0 and re.search(r"\d", done.stdout)


@pytest.mark.parametrize("flag", ["-help", "--help"])
def test_help_names_every_flag_and_exits_0(flag, tmp_path):
    done = run_router(flag, cwd=tmp_path)
    assert done.returncode == 0
    for name in ("-config", "-listen", "-t", "-explain", "-healthcheck", "-version", "-help"):
        assert name in done.stdout, done.stdout


@pytest.mark.parametrize("flag", ["-nonsense", "--nonsense", "-nonsense=1", "-configs", "-"])
def test_unknown_flag_prints_usage_and_exits_2(flag, tmp_path):
    done = run_router(flag, cwd=tmp_path)
    assert done.returncode == 2
    assert "usage" in done.stderr.lower() and not done.stdout


@pytest.mark.parametrize("flag", ["-config", "-listen"])
def test_flag_without_its_value_is_a_usage_error(flag, tmp_path):
    done = run_router(flag, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr


@pytest.mark.parametrize("flags", [["-config", "x.yaml"], ["--config", "x.yaml"], ["-config=x.yaml"], ["--config=x.yaml"]])
def test_one_or_two_dashes_and_the_equals_form(flags, tmp_path):
    (tmp_path / "x.yaml").write_text(ORIGINAL)
    done = run_router(*flags, "-t", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "x.yaml: ok\n")


def test_config_defaults_to_pools_yaml_here(tmp_path):
    (tmp_path / "pools.yaml").write_text(ORIGINAL)
    assert run_router("-t", cwd=tmp_path).stdout == "pools.yaml: ok\n"


def test_missing_config_file_is_named_and_exits_1(tmp_path):
    done = run_router("-config", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 1 and "nowhere.yaml" in done.stderr


def test_default_listen_is_9090_on_all_addresses(tmp_path):
    (tmp_path / "pools.yaml").write_text(ORIGINAL)
    with socket.socket() as holder:
        try:  # whoever holds it, we or another: the router must want it and say so
            holder.bind(("0.0.0.0", 9090))
            holder.listen()
        except OSError:
            pass
        done = run_router(cwd=tmp_path)
    assert done.returncode == 1
    assert "0.0.0.0:9090" in done.stderr


# -t


def test_t_says_ok(tmp_path):
    done = check(tmp_path, ORIGINAL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "pools.yaml: ok\n", "")


def test_t_names_the_file_as_it_was_given(tmp_path):
    (tmp_path / "c.yaml").write_text(ORIGINAL)
    assert run_router("-t", "-config", tmp_path / "c.yaml").stdout == f"{tmp_path}/c.yaml: ok\n"


def test_t_opens_no_socket(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        done = check(tmp_path, f"listen: 127.0.0.1:{holder.getsockname()[1]}\n" + ORIGINAL)
    assert done.returncode == 0, done.stderr


def test_t_places_a_finding_by_line_and_column(tmp_path):
    found = errors(tmp_path, with_pool("max_body: lots\n"))
    assert [(f[0], f[1], f[3]) for f in found] == [(1, 11, "max_body")]


def test_t_reports_every_error_in_one_run(tmp_path):
    found = errors(tmp_path, """max_body: lots
header_timeout: soon
colour: blue
pools:
  - name: a
    models: []
    endpoints: ["ftp://x:1"]
  - name: b
    models: [m]
    endpoints: []
    retries: -1
""")
    assert {f[0] for f in found} >= {1, 2, 3, 6, 7, 10, 11}


def test_t_findings_are_sorted_by_place(tmp_path):
    found = errors(tmp_path, with_pool("colour: 1\nmax_body: lots\nflavour: 2\n"))
    assert [f[:2] for f in found] == sorted(f[:2] for f in found) and len(found) == 3


@pytest.mark.parametrize("text, wrong, right", [
    (with_pool("max_bdy: 1m\n"), "max_bdy", "max_body"),
    (with_pool("defaults: {afinity: user}\n"), "afinity", "affinity"),
    (with_pool("", "    modles: [x]\n"), "modles", "models"),
    (with_pool("", "    health: {intervall: 5s}\n"), "intervall", "interval"),
    ("pools:\n  - name: p\n    models: [m]\n    endpoints: [{url: \"http://h:1\", wieght: 2}]\n", "wieght", "weight"),
])
def test_unknown_key_names_the_nearest(tmp_path, text, wrong, right):
    found = errors(tmp_path, text)
    assert len(found) == 1 and wrong in found[0][3] and right in found[0][4], found


@pytest.mark.parametrize("key", ["name", "models", "aliases", "endpoints", "fallback"])
def test_defaults_take_no_key_that_names_a_pool(tmp_path, key):
    value = {"name": "x", "models": "[x]", "aliases": "{x: m}", "endpoints": "[\"http://x:1\"]", "fallback": "p"}[key]
    assert errors(tmp_path, with_pool(f"defaults:\n  {key}: {value}\n"))[0][0] == 2


BAD = {
    "duplicate key": (with_pool("max_body: 1m\nmax_body: 2m\n"), 2),
    "duplicate key in a pool": (with_pool("", "    retries: 1\n    retries: 2\n"), 6),
    "pool without endpoints": ("pools:\n  - name: p\n    models: [m]\n", 2),
    "pool with an empty list of endpoints": ("pools:\n  - name: p\n    models: [m]\n    endpoints: []\n", 4),
    "pool without models": ("pools:\n  - name: p\n    endpoints: [\"http://h:1\"]\n", 2),
    "pool with an empty list of models": ("pools:\n  - name: p\n    models: []\n    endpoints: [\"http://h:1\"]\n", 3),
    "two pools of one name": (with_pool("", "  - name: p\n    models: [n]\n    endpoints: [\"http://h:2\"]\n"), 5),
    "one exact name in two pools": (with_pool("", "  - name: q\n    models: [m]\n    endpoints: [\"http://h:2\"]\n"), 6),
    "an alias that is another pool's model": (
        with_pool("", "  - name: q\n    models: [n]\n    aliases: {m: n}\n    endpoints: [\"http://h:2\"]\n"), 7),
    "an alias claimed twice": (
        with_pool("", "    aliases: {x: m}\n  - name: q\n    models: [n]\n    aliases: {x: n}\n    endpoints: [\"http://h:2\"]\n"), 8),
    "unknown fallback": (with_pool("", "    fallback: nowhere\n"), 5),
    "fallback to itself": (with_pool("", "    fallback: p\n"), 5),
    "fallback round in a circle": (
        with_pool("", "    fallback: q\n  - name: q\n    models: [n]\n    endpoints: [\"http://h:2\"]\n    fallback: p\n"), None),
    "bad URL scheme": ("pools:\n  - name: p\n    models: [m]\n    endpoints: [\"ftp://h:1\"]\n", 4),
    "URL without a host": ("pools:\n  - name: p\n    models: [m]\n    endpoints: [\"http://:1\"]\n", 4),
    "URL with a bad port": ("pools:\n  - name: p\n    models: [m]\n    endpoints: [\"http://h:70000\"]\n", 4),
    "URL with user and password": ("pools:\n  - name: p\n    models: [m]\n    endpoints: [\"http://u:secret@h:1\"]\n", 4),
    "YAML anchor": (with_pool("max_body: &a 1m\n"), 1),
    "YAML alias": (with_pool("max_body: &a 1m\nmax_header: *a\n"), None),
    "one endpoint with two keys": (
        "pools:\n  - name: p\n    models: [m]\n    endpoints: [{url: \"http://h:1\", api_key: a}]\n"
        "  - name: q\n    models: [n]\n    endpoints: [{url: \"http://h:1\", api_key: b}]\n", None),
    "one endpoint with two kinds of health": (
        "pools:\n  - name: p\n    models: [m]\n    endpoints: [\"http://h:1\"]\n    health: {interval: 5s}\n"
        "  - name: q\n    models: [n]\n    endpoints: [\"http://h:1\"]\n    health: {interval: 6s}\n", None),
    "bad number": (with_pool("max_connections: many\n"), 1),
    "negative number": (with_pool("", "    retries: -1\n"), 5),
    "number where a duration belongs": (with_pool("idle_timeout: 10\n"), 1),
    "bad duration": (with_pool("idle_timeout: 10 parsecs\n"), 1),
    "bad size": (with_pool("max_body: 10q\n"), 1),
    "bad enum": (with_pool("", "    affinity: sticky\n"), 5),
    "bad bool": (with_pool("route_headers: perhaps\n"), 1),
    "bad listen address": (with_pool("listen: here\n"), 1),
    "bad trusted proxy": (with_pool("trusted_proxies: [10.0.0.0/40]\n"), 1),
    "bad identity source": (with_pool("", "    identity: [cookie.user]\n"), 5),
    "connect_timeout 0": (with_pool("", "    connect_timeout: 0\n"), 5),
    "unset environment variable": (with_pool("api_keys: [\"${ROUTER_TEST_UNSET}\"]\n"), 1),
    "no pools": ("listen: 127.0.0.1:0\n", None),
    "not a mapping": ("- a\n- b\n", 1),
    "YAML syntax": ("pools: [\n", None),
    "scalar where a list belongs": ("pools:\n  - name: p\n    models: {a: b}\n    endpoints: [\"http://h:1\"]\n", 3),
}


@pytest.mark.parametrize("case", BAD)
def test_configuration_error(tmp_path, case):
    text, line = BAD[case]
    found = errors(tmp_path, text)
    if line is not None:
        assert line in [f[0] for f in found], found


def test_https_says_it_is_not_there_yet(tmp_path):
    found = errors(tmp_path, "pools:\n  - name: p\n    models: [m]\n    endpoints: [\"https://h:1\"]\n")
    assert "https" in found[0][4].lower() and "yet" in found[0][4]


def test_a_password_in_a_url_is_not_repeated(tmp_path):
    done = check(tmp_path, BAD["URL with user and password"][0])
    assert done.returncode == 1 and "secret" not in done.stderr + done.stdout


def test_unset_variable_is_named(tmp_path):
    assert "ROUTER_TEST_UNSET" in errors(tmp_path, BAD["unset environment variable"][0])[0][4]


@pytest.mark.parametrize("text", [
    with_pool("idle_timeout: 0\nheader_timeout: 250ms\nbody_timeout: 5m\nmax_body: 64k\nbody_memory: 1g\nmax_header: 100m\n"),
    with_pool("defaults:\n  keepalive: {timeout: 0}\n  health: {interval: 0}\n  queue: {size: 3, timeout: 1s}\n"),
    with_pool("listen: [\"127.0.0.1:1\", \"[::1]:2\", \":3\", \"unix:/tmp/x.sock\"]\n"),
    with_pool("# a comment\n"),
    with_pool("paths: [/v1/custom]\n", "    affinity: conversation\n    on_disconnect: finish\n    slow_start: 30s\n    max_imbalance: 2\n"),
])
def test_valid_configuration(tmp_path, text):
    done = check(tmp_path, text)
    assert (done.returncode, done.stdout) == (0, "pools.yaml: ok\n"), done.stderr
    assert all(f[2] == "warning" for f in findings(done))


def test_same_endpoint_twice_in_a_pool_is_a_warning(tmp_path):
    done = check(tmp_path, "pools:\n  - name: p\n    models: [m]\n    endpoints: [\"http://h:1\", \"http://h:1\"]\n")
    assert done.returncode == 0 and done.stdout == "pools.yaml: ok\n"
    assert [(f[0], f[2]) for f in findings(done)] == [(4, "warning")]


@pytest.mark.parametrize("value, env, ok", [
    ("${RT_NAME}", {"RT_NAME": "3"}, True),
    ("${RT_NAME}", {"RT_NAME": "x"}, False),
    ("${RT_NAME:-4}", {}, True),
    ("${RT_NAME:-x}", {"RT_NAME": "3"}, True),
    ("${RT_NAME:-x}", {}, False),
    ("$${RT_NAME}", {"RT_NAME": "3"}, False),
])
def test_environment_expands(tmp_path, value, env, ok):
    assert (check(tmp_path, with_pool("", f"    retries: \"{value}\"\n"), env).returncode == 0) is ok


# starting


def test_bad_configuration_never_listens(tmp_path):
    port = free_port()
    (tmp_path / "pools.yaml").write_text(f"listen: 127.0.0.1:{port}\nmax_body: lots\n" + ORIGINAL)
    done = run_router(cwd=tmp_path)
    assert done.returncode == 1
    assert "pools.yaml:2:11: error: max_body: " in done.stderr
    assert "listening" not in done.stderr


def test_listen_from_the_file(lab):
    up = lab.upstream()
    router = lab.router(listen=(), config=lab.config(up) | {"listen": "127.0.0.1:0"})
    assert router.endpoint_of() == "up1"


def test_listen_list_from_the_file(lab):
    up = lab.upstream()
    router = lab.router(listen=(), config=lab.config(up) | {"listen": ["127.0.0.1:0", "127.0.0.1:0"]})
    router.wait_listening(2)
    for index in (0, 1):
        assert lab.client(router, index).request("GET", "/health").read_response().status == 200


def test_listen_flag_overrides_the_file(lab):
    up = lab.upstream()
    router = lab.router(listen=("127.0.0.1:0",), config=lab.config(up) | {"listen": "unix:/nonexistent/dir/x.sock"})
    assert len(router.listening()) == 1 and router.get("/health").status == 200


def test_several_listen_flags(lab):
    up = lab.upstream()
    sock = lab.directory / "r.sock"
    router = lab.router(up, listen=("127.0.0.1:0", "[::1]:0", f"unix:{sock}", ":0"))
    assert len(router.listening()) == 4
    for index in range(4):
        client = lab.client(router, index)
        client.chat("m")
        assert client.read_response().status == 200


def test_port_0_is_logged_as_the_port_it_became(lab):
    router = lab.router(lab.upstream())
    assert router.port != 0 and router.get("/health").body == b"ok"


def test_unix_listener_has_mode_0660(lab):
    sock = lab.directory / "r.sock"
    lab.router(lab.upstream(), listen=(f"unix:{sock}",))
    assert stat.S_IMODE(os.stat(sock).st_mode) == 0o660


def test_unix_listener_replaces_a_dead_socket(lab):
    sock = lab.directory / "r.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(sock))
    router = lab.router(lab.upstream(), listen=(f"unix:{sock}",))
    assert RawClient(str(sock)).request("GET", "/health").read_response().status == 200
    assert router.listening() == [f"unix:{sock}"]


def test_unix_listener_leaves_a_live_socket_alone(lab):
    sock = lab.directory / "r.sock"
    lab.router(lab.upstream(), listen=(f"unix:{sock}",))
    (lab.directory / "pools.yaml").write_text(ORIGINAL)
    done = run_router("-listen", f"unix:{sock}", cwd=lab.directory)
    assert done.returncode == 1 and "r.sock" in done.stderr
    assert RawClient(str(sock)).request("GET", "/health").read_response().status == 200


def test_unix_listener_never_replaces_a_file(tmp_path):
    (tmp_path / "pools.yaml").write_text(ORIGINAL)
    (tmp_path / "precious").write_text("keep me")
    done = run_router("-listen", f"unix:{tmp_path}/precious", cwd=tmp_path)
    assert done.returncode == 1 and (tmp_path / "precious").read_text() == "keep me"


def test_taken_port_exits_1_and_names_it(tmp_path):
    (tmp_path / "pools.yaml").write_text(ORIGINAL)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = run_router("-listen", "127.0.0.1:0", "-listen", f"127.0.0.1:{port}", cwd=tmp_path)
    assert done.returncode == 1 and f"127.0.0.1:{port}" in done.stderr


def test_a_router_does_not_share_its_port_by_accident(lab):
    router = lab.router(lab.upstream())
    (lab.directory / "pools.yaml").write_text(ORIGINAL)
    assert run_router("-listen", f"127.0.0.1:{router.port}", cwd=lab.directory).returncode == 1


def test_stdout_carries_access_lines_only(lab):
    router = lab.router(lab.upstream())
    router.endpoint_of()
    router.access_lines(1)
    router.stop()
    assert all(line.startswith("{") for line in router.out)


# -healthcheck


def test_healthcheck_url(lab, tmp_path):
    router = lab.router(lab.upstream())
    assert run_router("-healthcheck", f"http://{router.authority}/health", cwd=tmp_path).returncode == 0
    assert run_router(f"--healthcheck=http://{router.authority}/health", cwd=tmp_path).returncode == 0
    assert run_router("-healthcheck", f"http://{router.authority}/nowhere", cwd=tmp_path).returncode == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", ""])
def test_healthcheck_takes_the_configured_address(lab, host):
    port = free_port()
    config = lab.config("http://127.0.0.1:1") | {"listen": f"{host}:{port}"}
    router = lab.router(config=config, listen=())
    assert run_router("-healthcheck", "-config", router.config_path).returncode == 0
    router.stop()
    assert run_router("-healthcheck", "-config", router.config_path).returncode == 1


def test_healthcheck_over_a_unix_listener(lab):
    config = lab.config("http://127.0.0.1:1") | {"listen": f"unix:{lab.directory}/h.sock"}
    router = lab.router(config=config, listen=())
    assert run_router("-healthcheck", "-config", router.config_path).returncode == 0


def test_healthcheck_is_1_when_nobody_answers(tmp_path):
    assert run_router("-healthcheck", f"http://127.0.0.1:{free_port()}/health", cwd=tmp_path).returncode == 1


# -explain


def explain(tmp_path, *args):
    (tmp_path / "pools.yaml").write_text("""pools:
  - name: chat
    models: [exact, "glob-*"]
    aliases: {nick: exact}
    endpoints: ["http://a:1", "http://b:2"]
""")
    return run_router("-explain", *args, cwd=tmp_path)


@pytest.mark.parametrize("model", ["exact", "glob-7", "nick"])
def test_explain_names_pool_and_endpoints(tmp_path, model):
    done = explain(tmp_path, model, "u1")
    assert done.returncode == 0
    assert "chat" in done.stdout and "http://a:1" in done.stdout and "http://b:2" in done.stdout


def test_explain_without_a_pool_exits_1(tmp_path):
    assert explain(tmp_path, "other").returncode == 1
    assert explain(tmp_path, "exact").returncode == 0
