"""What stands in examples/ is what people copy: each file is read, checked against what it names, and by the tools it is for,
where they are installed (promtool, logrotate, mandoc). Needs python3-yaml."""
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess

import pytest
import yaml

from harness import run_router
from harness.prom import scrape
from harness.router import ROOT
from harness.upstream import wait_until

EXAMPLES = ROOT / "examples"
YAMLS = sorted(str(p.relative_to(EXAMPLES)) for pattern in ("**/*.yaml", "**/*.yml") for p in EXAMPLES.glob(pattern))
KEYS = {"ROUTER_KEY": "k", "ADMIN_KEY": "k", "VLLM_KEY": "k", "GPU2_KEY": "k", "AWAY_KEY": "k"}
README = (ROOT / "README.md").read_text()


class Strict(yaml.SafeLoader):
    """YAML in which a key stands once."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(k, deep=True) for k, _ in node.value]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key stands twice among {keys}"
        return super().construct_mapping(node, deep)


def documents(path):
    return list(yaml.load_all((EXAMPLES / path).read_text(), Strict))


def document(path):
    (only,) = documents(path)
    return only


def run(*argv, **more):
    return subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=60, **more)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def sound(path):
    done = run_router("-t", "-config", path, cwd=path.parent, env=KEYS)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: ok\n", "")


def refers(text):
    """The ${NAME} in it, without those that have a default."""
    return set(re.findall(r"(?<!\$)\$\{(\w+)\}", re.sub(r"(?m)(^|\s)#.*$", "", text)))


# all of them


@pytest.mark.parametrize("path", YAMLS)
def test_is_yaml(path):
    assert all(isinstance(d, dict) for d in documents(path))


@pytest.mark.parametrize("path", [p for p in YAMLS if "pools" in documents(p)[0]])
def test_router_finds_nothing_wrong(path):
    assert refers((EXAMPLES / path).read_text()) <= set(KEYS)
    sound(EXAMPLES / path)


def test_the_pools_yaml_of_the_root(tmp_path):
    sound(ROOT / "pools.yaml")


def test_every_file_is_looked_at():
    """A new kind of file among the examples needs a test here."""
    seen = {p for p in EXAMPLES.rglob("*") if p.is_file() and p.suffix not in (".yaml", ".yml", ".png")}
    known = {"backend", "run.sh", "show.py", "logrotate", "prometheus/grafana.json", "systemd/router.service", "systemd/router.socket",
             "man/router.8", "man/pools.yaml.5"}
    assert {str(p.relative_to(EXAMPLES)) for p in seen if "__pycache__" not in p.parts} == known


def test_the_readme_has_a_row_for_each_configuration():
    rows = set(re.findall(r"^\| `([\w-]+\.yaml)` \|", README, re.M))
    assert rows == {p.name for p in EXAMPLES.glob("*.yaml")}


def test_two_sites_stay_at_home():
    """The other site's names are home's: whatever is asked for is asked at home first."""
    home, away = document("two-sites.yaml")["pools"]
    assert home["fallback"] == away["name"]
    for name in [n.replace("*", "x") for n in home["models"] + away["models"]]:
        done = run_router("-config", EXAMPLES / "two-sites.yaml", "-explain", name)
        assert done.returncode == 0 and f"pool:     {home['name']} " in done.stdout and "fallback: away" in done.stdout, name


# compose

COMPOSE = ["compose/demo.yaml", "compose/open-webui.yaml"]
BRING = {"./llama-swap.yaml", "./models"}  # what open-webui.yaml tells its reader to put beside it


def mounts(service):
    return [tuple((v + ":rw").split(":")[:3]) for v in service.get("volumes", [])]


def pools_of(path):
    """The configuration that a compose file mounts into its router."""
    (source,) = [s for s, target, _ in mounts(document(path)["services"]["router"]) if target == "/etc/router/pools.yaml"]
    return EXAMPLES / "compose" / source


@pytest.mark.parametrize("path", COMPOSE)
def test_compose_services(path):
    top = document(path)
    assert set(top) <= {"services", "volumes"} and {"router"} < set(top["services"])
    allowed = {"image", "build", "command", "ports", "volumes", "environment", "depends_on", "read_only", "cap_drop", "security_opt",
               "stop_grace_period"}
    for name, service in top["services"].items():
        assert set(service) <= allowed, name
        assert ("image" in service) != ("build" in service), name
        assert set(service.get("depends_on", [])) <= set(top["services"]) - {name}
        if "build" in service:
            assert (EXAMPLES / "compose" / service["build"] / "Dockerfile").resolve() == ROOT / "Dockerfile"
        else:
            assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"]), "an image has a tag"
        for port in service.get("ports", []):
            assert re.fullmatch(r"\d+:\d+", port)


@pytest.mark.parametrize("path", COMPOSE)
def test_compose_files_are_there(path):
    top = document(path)
    for service in top["services"].values():
        for source, target, mode in mounts(service):
            assert target.startswith("/") and mode in ("ro", "rw")
            if source.startswith("."):
                assert mode == "ro"
                assert source in BRING or (EXAMPLES / "compose" / source).is_file(), source
            else:
                assert source in top["volumes"]


@pytest.mark.parametrize("path", COMPOSE)
def test_compose_router_meets_its_endpoints(path):
    top = document(path)
    pools = yaml.load(pools_of(path).read_text(), Strict)
    urls = [u for pool in pools["pools"] for u in pool["endpoints"]]
    found = [re.fullmatch(r"http://(\w+):8080", u).group(1) for u in urls]  # in a container localhost is the container
    assert len(found) == 2 and set(found) == set(top["services"]["router"]["depends_on"])
    assert top["services"]["router"]["read_only"] is True
    drain = sum(milliseconds(pools.get(key, preset)) for key, preset in (("drain_delay", "0s"), ("drain_timeout", "30s")))
    assert milliseconds(top["services"]["router"]["stop_grace_period"]) > drain, "it is killed before it has drained"
    given = top["services"]["router"].get("environment", {})
    assert refers(pools_of(path).read_text()) == set(given)


def test_compose_demo_serves_what_its_pool_names(lab):
    """The command of the demo backends, with this machine's python and a free port."""
    top, pools = document("compose/demo.yaml"), yaml.load(pools_of("compose/demo.yaml").read_text(), Strict)
    assert top["services"]["router"]["ports"] == ["9090:9090"]
    urls = []
    for name in ("gpu1", "gpu2"):
        service = top["services"][name]
        command = list(service["command"])
        assert service["image"].startswith("python:") and command[:2] == ["python3", "/backend"] and mounts(service)[0][1] == "/backend"
        command[:2] = ["/usr/bin/python3", str(EXAMPLES / "compose" / mounts(service)[0][0])]
        port = free_port()
        command[command.index("--host") + 1], command[command.index("--port") + 1] = "127.0.0.1", str(port)
        process = subprocess.Popen([*command, "--delay", "0"])

        class End:
            def close(self, process=process):
                process.kill()
                process.wait()
        lab.keep(End())
        wait_until(lambda port=port: listens(port), "the backend does not listen")
        urls.append(f"http://127.0.0.1:{port}")
    pools["pools"][0] |= {"endpoints": urls, "health": {"interval": "100ms"}}
    router = lab.router(config=pools)
    router.wait_ready()
    assert router.chat("llama3-8b-instruct", stream=True).body.endswith(b"data: [DONE]\n\n")


def test_compose_open_webui_speaks_to_the_router():
    top = document("compose/open-webui.yaml")["services"]
    ui = top["open-webui"]["environment"]
    assert ui["OPENAI_API_BASE_URL"] == "http://router:9090/v1" and "router" in top["open-webui"]["depends_on"]
    assert ui["OPENAI_API_KEY"] == top["router"]["environment"]["ROUTER_KEY"] == "${ROUTER_KEY:?set a key}"
    assert ui["ENABLE_FORWARD_USER_INFO_HEADERS"] == "true"
    assert "ports" not in top["router"], "only the UI is for everybody"


# Kubernetes


@pytest.fixture(scope="module")
def manifests():
    found = {}
    for d in documents("kubernetes/router.yaml"):
        assert d["kind"] not in found and re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", d["metadata"]["name"])
        found[d["kind"]] = d
    return found


@pytest.fixture(scope="module")
def pod(manifests):
    return manifests["Deployment"]["spec"]["template"]


@pytest.fixture(scope="module")
def mapped(manifests):
    return yaml.load(manifests["ConfigMap"]["data"]["pools.yaml"], Strict)


def milliseconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[unit]


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)(k|m|g|Ki|Mi|Gi)", text).groups()
    return int(number) << {"k": 10, "m": 20, "g": 30}[unit[0].lower()]


def test_kubernetes_kinds(manifests):
    versions = {"ConfigMap": "v1", "Deployment": "apps/v1", "Service": "v1", "PodDisruptionBudget": "policy/v1",
                "ServiceMonitor": "monitoring.coreos.com/v1"}
    assert {k: d["apiVersion"] for k, d in manifests.items()} == versions


def test_kubernetes_configuration_is_sound(manifests, tmp_path):
    path = tmp_path / "pools.yaml"
    path.write_text(manifests["ConfigMap"]["data"]["pools.yaml"])
    assert refers(path.read_text()) == {"ADMIN_KEY"}
    sound(path)


def test_kubernetes_labels_agree(manifests, pod):
    labels = pod["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert manifests["Service"]["spec"]["selector"].items() <= labels.items()
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert manifests["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items() <= manifests["Service"]["metadata"]["labels"].items()


def test_kubernetes_deployment(manifests, pod, mapped):
    assert manifests["Deployment"]["spec"]["replicas"] == 3
    (container,) = pod["spec"]["containers"]
    version = re.search(r'ROUTER_VERSION "(.+)"', (ROOT / "include" / "version.h").read_text()).group(1)
    assert container["image"].rpartition(":")[2] == version
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {"http": int(mapped["listen"].rpartition(":")[2]), "admin": int(mapped["admin_listen"].rpartition(":")[2])}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    (volume,), (mount,) = pod["spec"]["volumes"], container["volumeMounts"]
    assert volume["name"] == mount["name"] and volume["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
    assert container["args"] == ["-config", mount["mountPath"] + "/pools.yaml"]
    assert [e["name"] for e in container["env"]] == ["ADMIN_KEY"]
    secret = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert manifests["ServiceMonitor"]["spec"]["endpoints"][0]["authorization"]["credentials"] == secret


def test_kubernetes_rights(pod):
    (container,) = pod["spec"]["containers"]
    user = re.search(r"(?m)^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text())
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert (pod["spec"]["securityContext"]["runAsUser"], pod["spec"]["securityContext"]["runAsGroup"]) == tuple(map(int, user.groups()))
    own = container["securityContext"]
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def test_kubernetes_waits_for_the_drain(pod, mapped):
    """A pod is taken out of the service before its listener closes, and is not killed while it finishes."""
    (container,) = pod["spec"]["containers"]
    delay, timeout = milliseconds(mapped["drain_delay"]), milliseconds(mapped["drain_timeout"])
    assert delay >= 2000 * container["readinessProbe"]["periodSeconds"]
    assert pod["spec"]["terminationGracePeriodSeconds"] * 1000 > delay + timeout
    assert bytes_of(container["resources"]["limits"]["memory"]) > bytes_of(mapped.get("body_memory", "1g"))


def test_kubernetes_service_and_monitor(manifests, pod):
    (container,) = pod["spec"]["containers"]
    service = {p["name"]: p["targetPort"] for p in manifests["Service"]["spec"]["ports"]}
    assert set(service.values()) <= {p["name"] for p in container["ports"]}
    (scraped,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert scraped["port"] == "admin" and scraped["port"] in service and scraped["path"] == "/metrics"
    budget = manifests["PodDisruptionBudget"]["spec"]
    assert ("minAvailable" in budget) != ("maxUnavailable" in budget)


# Prometheus

NAME = r"(?:router|process)_[a-z0-9_]+"


def rules():
    return [r for g in document("prometheus/alerts.yml")["groups"] for r in g["rules"]]


def panels():
    return json.loads((EXAMPLES / "prometheus" / "grafana.json").read_text())["panels"]


def queries():
    return [(r["alert"], r["expr"]) for r in rules()] + [(p["title"], t["expr"]) for p in panels() for t in p.get("targets", [])]


@pytest.fixture(scope="module")
def families(shared):
    """Each series' name: its label names, and of each label the values, from a router that has worked a little."""
    router = shared.router(shared.upstream(), pool={"name": "p"})
    assert router.chat("m").status == 200
    found = {}
    for name, labels in scrape(router).series:
        of = found.setdefault(name, {})
        for key, value in labels:
            of.setdefault(key, set()).add(value)
    return found


@pytest.mark.parametrize("title, expr", queries(), ids=[f"{i}" for i in range(len(queries()))])
def test_queries_name_what_there_is(families, title, expr):
    used = re.findall(rf"({NAME})(?:\{{([^}}]*)\}})?", expr)
    assert used, expr
    for name, matchers in used:
        assert name in families, f"{title}: no metric {name}"
        for key, op, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
            if key == "job":
                continue
            assert key in families[name], f"{title}: {name} has no label {key}"
            if key in ("state", "result", "code", "type", "reason", "side"):
                assert set(value.split("|")) <= families[name][key], f"{title}: {name} has no {key} {value}"
    for grouped in re.findall(r"(?:by|on) \(([^)]*)\)", expr):
        labels = set(re.findall(r"\w+", grouped))
        assert all(labels <= set(families[name]) for name, _ in used), f"{title}: not every metric has {labels}"


@pytest.mark.parametrize("rule", rules(), ids=lambda r: r["alert"])
def test_alerts_say_what_they_know(rule):
    assert re.fullmatch(r"Router\w+", rule["alert"]) and rule["labels"]["severity"] in ("info", "warning", "critical")
    kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule["expr"]))))
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert rule["annotations"]["summary"]
    assert not kept or told <= kept, "a label the sum has dropped"


def test_the_dashboard_is_whole():
    ids = [p["id"] for p in panels()]
    assert len(ids) == len(set(ids)) > 5
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels()]
    assert len(places) == len(set(places))
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels())


def test_promtool_is_content():
    scraped = document("prometheus/scrape.yml")
    for name in scraped["rule_files"]:
        assert (EXAMPLES / "prometheus" / name).is_file()
    if not shutil.which("promtool"):
        return
    for what in (("rules", "alerts.yml"), ("config", "scrape.yml")):
        done = run("promtool", "check", *what, cwd=EXAMPLES / "prometheus")
        assert done.returncode == 0, done.stdout + done.stderr


# systemd, logrotate, man pages


def test_the_unit_waits_for_the_drain():
    unit, full = (EXAMPLES / "systemd" / "router.service").read_text(), document("full.yaml")
    assert int(re.search(r"(?m)^TimeoutStopSec=(\d+)$", unit).group(1)) * 1000 > milliseconds(full["drain_timeout"]) + full["drain_delay"]
    assert re.search(r"(?m)^EnvironmentFile=-", unit), "without one a file with ${NAME} does not start; with one that must exist no file does"


def test_logrotate(tmp_path):
    text = (EXAMPLES / "logrotate").read_text()
    unit = (EXAMPLES / "systemd" / "router.service").read_text()
    (path,) = re.findall(r"(?m)^(/\S+) \{$", text)
    assert pathlib.Path(path).parent.name == re.search(r"(?m)^LogsDirectory=(\w+)$", unit).group(1)
    assert "--signal=SIGUSR1" in text and "router.service" in text
    tool = shutil.which("logrotate", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if tool:
        copy = tmp_path / "logrotate"
        copy.write_text(text)
        copy.chmod(0o644)
        done = run(tool, "-d", "-s", tmp_path / "state", copy)
        assert done.returncode == 0 and "error" not in done.stderr, done.stderr


@pytest.mark.parametrize("page", ["router.8", "pools.yaml.5"])
def test_man_page(page):
    done = run("mandoc", "-T", "lint", "-W", "warning", EXAMPLES / "man" / page)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert (EXAMPLES / "man" / page).read_text().startswith(".Dd ")


def test_man_page_has_every_flag():
    text = (EXAMPLES / "man" / "router.8").read_text()
    help = run_router("-help")
    flags = set(re.findall(r"(?<=[ \[])-(\w+)", (help.stdout + help.stderr).partition("\n\n")[0]))
    assert flags >= {"config", "listen", "t", "explain", "healthcheck", "version", "help"}
    for flag in flags:
        assert re.search(rf"(?m)^\.It Fl (?:\w+ , Fl )?{flag}\b", text), flag


def leaves(value, before=()):
    """Each key of full.yaml, as a path; not the names and values under `aliases`."""
    for key, inner in (value or {}).items():
        yield before + (key,)
        if isinstance(inner, dict) and key != "aliases":
            yield from leaves(inner, before + (key,))
        for item in inner if isinstance(inner, list) else []:
            if isinstance(item, dict):
                yield from leaves(item, before + (key,))


def test_man_page_has_every_key():
    text = (EXAMPLES / "man" / "pools.yaml.5").read_text()
    items = " ".join(re.findall(r"(?m)^\.It Cm (.*)$", text))
    missing = {path[-1] for path in leaves(document("full.yaml"))} - set(re.findall(r"\w+", items))
    assert missing <= {"url", "weight", "api_key", "expand"}, "only an endpoint's keys may stand in running text"
    assert not [word for word in missing if not re.search(rf"\b{word}\b", text)]
