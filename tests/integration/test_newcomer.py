"""The errors of the first day, as the README's table has them: each is seen where a newcomer looks, and says what to do about it."""
import re
import socket
import ssl

import pytest

from harness import run_router
from harness.router import ROOT
from harness.upstream import wait_until

MODELS = ["llama3-8b-instruct", "qwen2.5-7b-instruct"]
KEY = "sk-of-the-team"


def started(tmp_path, text, *argv):
    """The program run to its end on that file, as somebody does who just wrote it."""
    (tmp_path / "pools.yaml").write_text(text)
    return run_router(*argv, cwd=tmp_path)


def endpoints(url):
    return f'pools:\n  - name: chat\n    models: [m]\n    endpoints: ["{url}"]\n'


# before it runs


def test_port_taken(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        done = started(tmp_path, endpoints("http://127.0.0.1:1"), "-listen", address)
    assert done.returncode == 1
    assert re.search(rf"^error .*cannot listen on {address}: Address already in use .*another program.*-listen", done.stderr, re.M), done.stderr
    assert "running" not in done.stderr


def test_no_file(tmp_path):
    done = run_router(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pools.yaml: error: ") and "No such file" in done.stderr


TABS = {
    "before a list": ("pools:\n\t- name: chat\n", 2, 1),
    "before a key": ("pools:\n  - name: chat\n    models: [m]\n\tendpoints: [\"http://h:1\"]\n", 4, 1),
    "behind blanks": ("pools:\n  - name: chat\n    models: [m]\n    endpoints:\n    \t- http://h:1\n", 5, 5),
}


@pytest.mark.parametrize("where", TABS)
@pytest.mark.parametrize("flags", [["-t"], ["-listen", "127.0.0.1:0"]], ids=["-t", "start"])
def test_yaml_tab(tmp_path, where, flags):
    text, line, column = TABS[where]
    done = started(tmp_path, text, *flags)
    assert done.returncode == 1
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"pools.yaml:{line}:{column}: error: ") and "tab" in first and "use spaces" in first, done.stderr


@pytest.mark.parametrize("url", ["https://gpu1:8443", "HTTPS://gpu1", "https://api.example.com/v1"])
def test_https_endpoint(tmp_path, url):
    done = started(tmp_path, endpoints(url), "-t")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith("pools.yaml:4:17: error: ")
    assert "https://" in line and "not there yet" in line and "use http://, or a local TLS proxy" in line


# while it runs


def test_backend_not_running(lab):
    dead = lab.dead()
    router = lab.router(dead, models=MODELS, defaults={"health": {"interval": "100ms", "fall": 2}})
    router.log_contains(rf"^warn .*{dead.url} is down \(was up\): .*refused")
    response = router.chat(MODELS[0])
    assert (response.status, response.error["code"]) == (503, "upstream_unavailable") and int(response["Retry-After"]) >= 1
    assert "No endpoint for this model" in response.error["message"]
    (pool,) = router.get("/status").json()["pools"]
    (seen,) = pool["endpoints"]
    assert (seen["url"], seen["state"]) == (dead.url, "down") and "refused" in seen["reason"]
    up = lab.revive(dead)  # and once it is started, nothing else has to be done
    router.log_contains(rf"^info .*{up.url} is up ")
    assert router.chat(MODELS[0]).status == 200


def test_backend_not_running_before_a_probe_said_so(lab):
    """With the defaults a server is down after three failures: the first requests are told what happened to them."""
    response = lab.router(lab.dead(), models=MODELS).chat(MODELS[0])
    assert (response.status, response.error["code"]) == (502, "upstream_error")
    assert "accepted the connection" in response.error["message"]


@pytest.mark.parametrize("wrong, right", [("llama3-8b-instuct", MODELS[0]), ("Llama3-8B-Instruct", MODELS[0]), ("qwen-2.5-7b-instruct", MODELS[1])])
def test_model_misspelt(lab, wrong, right):
    router = lab.router(lab.upstream(), models=MODELS)
    response = router.chat(wrong)
    assert (response.status, response.error["code"], response.error["param"]) == (404, "model_not_found", "model")
    assert f"'{wrong}'" in response.error["message"] and f"Did you mean '{right}'?" in response.error["message"]
    assert "GET /v1/models" in response.error["message"]
    assert right in [m["id"] for m in router.get("/v1/models").json()["data"]]


def test_key_missing(lab):
    router = lab.router(lab.upstream(), models=MODELS, api_keys=[KEY])
    for response in (router.get("/v1/models"), router.chat(MODELS[0])):
        assert (response.status, response.error["code"], response["WWW-Authenticate"]) == (401, "invalid_api_key", "Bearer")
        said = response.error["message"]
        assert "No API key" in said and "'Authorization: Bearer KEY'" in said and "'x-api-key: KEY'" in said
    for header in (("Authorization", f"Bearer {KEY}"), ("x-api-key", KEY)):  # what it says is true
        assert router.chat(MODELS[0], headers=[header]).status == 200


def test_key_wrong(lab):
    router = lab.router(lab.upstream(), models=MODELS, api_keys=[KEY])
    response = router.chat(MODELS[0], headers=[("Authorization", "Bearer sk-of-somebody-else")])
    assert (response.status, response.error["code"]) == (401, "invalid_api_key")
    assert "not one this router accepts" in response.error["message"] and "sk-" not in response.error["message"]


def test_https_to_the_router(lab):
    """A base URL that begins with https://: the client's TLS library complains, and the answer says why to whoever reads it."""
    router = lab.router(lab.upstream(), models=MODELS)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(router.address, 10) as plain, pytest.raises(ssl.SSLError, match="(?i)wrong.version.number"):
        trusting.wrap_socket(plain)
    greeting = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trusting.wrap_bio(ssl.MemoryBIO(), greeting).do_handshake()
    client = lab.client(router)
    client.send(greeting.read())
    response = client.read_response()
    assert response.status == 400 and "TLS handshake: plain HTTP is spoken here" in response.error["message"]
    assert {(line["status"], line["end"]) for line in router.access_lines(2)} == {(400, "refused")}


# Open WebUI asks BASE/models when a connection is saved and sends chats to BASE/chat/completions.


def asked(router, base):
    return router.get(f"{base}/models"), router.chat(MODELS[0], target=f"{base}/chat/completions")


@pytest.mark.parametrize("base", ["/v1/v1", "/openai/v1", "/v1/chat/completions", "/api", "/api/v1", "/ui"])
def test_open_webui_at_the_wrong_path(lab, base):
    router = lab.router(lab.upstream(), models=MODELS)
    for response in asked(router, base):
        assert (response.status, response["Content-Type"]) == (404, "application/json")
        error = response.json()["error"]  # a text on /api/, as Ollama's clients read it
        said = error if isinstance(error, str) else error["message"]
        assert "not served here" in said and "http://HOST:PORT/v1" in said
    for line in router.access_lines(2):  # the operator sees which path it was
        assert line["path"].startswith(base) and (line["status"], line["end"]) == (404, "refused")


def test_open_webui_without_v1(lab):
    """The list is there, so the connection seems to work; the first chat says what is missing."""
    models, chat = asked(lab.router(lab.upstream(), models=MODELS), "")
    assert [m["id"] for m in models.json()["data"]][:2] == MODELS
    assert (chat.status, chat.error["code"]) == (404, "unknown_url") and "http://HOST:PORT/v1" in chat.error["message"]


def test_open_webui_at_the_right_path(lab):
    models, chat = asked(lab.router(lab.upstream(), models=MODELS), "/v1")
    assert (models.status, chat.status) == (200, 200)


def test_the_readme_tells_of_them():
    """Its table names the test of each row."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("### First-day errors\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    named = re.findall(r"`(test_\w+)` \|$", "\n".join(rows), re.M)
    assert len(named) == len(rows) >= 7 and set(named) <= set(globals()), rows


def test_the_one_who_looks_finds_why(lab):
    """One place tells about all of it: the last requests of /status."""
    router = lab.router(lab.upstream(), models=MODELS, api_keys=[KEY])
    key = [("x-api-key", KEY)]
    router.chat(MODELS[0])
    router.chat("llama3", headers=key)
    router.get("/v1/v1/models", headers=key)
    wait_until(lambda: len(router.get("/status", headers=key).json()["recent"]) == 3, "not all three are kept")
    assert sorted(r["status"] for r in router.get("/status", headers=key).json()["recent"]) == [401, 404, 404]
