"""The Prometheus text format 0.0.4, read strictly: what a scraper might forgive fails here.

    page = scrape(router); page["router_reloads_total", {"result": "ok"}]; page.sum("router_requests_total", pool="p")
"""
import math
import re
import shutil
import subprocess

from .client import RawClient

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
SAMPLE = re.compile(rf'({NAME})(?:\{{(.*)\}})? (\S+)')
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?([eE][+-]?\d+)?|Inf)|NaN")
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


class Family:
    def __init__(self, name, kind, text):
        self.name, self.kind, self.help = name, kind, text
        self.samples = []  # (name, labels, value) in order


class Page:
    def __init__(self, text):
        self.text, self.families, self.values = text, {}, {}
        assert text.endswith("\n"), "the last line has no end"
        self.read(text[:-1].split("\n"))
        for family in self.families.values():
            check_family(family)

    def read(self, lines):
        helped = family = None
        for line in lines:
            if line.startswith("# HELP "):
                helped = line[7:].split(" ", 1)
                assert len(helped) == 2 and helped[0] not in self.families and helped[1].strip(), f"twice, or no help: {line!r}"
                assert not re.search(r"\\(?![\\n])", helped[1]), line
            elif line.startswith("# TYPE "):
                name, kind = line[7:].split(" ")
                assert helped and helped[0] == name and kind in SUFFIXES, f"HELP, TYPE, samples: {line!r}"
                family = self.families[name] = Family(name, kind, helped[1])
            else:
                self.sample(family, line)

    def sample(self, family, line):
        match = SAMPLE.fullmatch(line)
        assert match, f"not a sample: {line!r}"
        name, text, value = match.groups()
        assert family and name.startswith(family.name) and name[len(family.name):] in SUFFIXES[family.kind], f"outside its family: {line!r}"
        assert NUMBER.fullmatch(value), line
        labels = {}
        at = 0
        while text and at < len(text):
            label = LABEL.match(text, at)
            assert label and label.group(1) not in labels, f"labels of {line!r}"
            labels[label.group(1)] = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m.group(1), m.group(1)), label.group(2))
            at = label.end()
            assert at == len(text) or text[at] == "," and at + 1 < len(text), line
            at += 1
        key = name, frozenset(labels.items())
        assert key not in self.values, f"twice: {line!r}"
        self.values[key] = float(value)
        family.samples.append((name, labels, float(value)))

    # figures

    def __getitem__(self, key):
        name, labels = key if isinstance(key, tuple) else (key, {})
        return self.values[name, frozenset(labels.items())]

    def get(self, name, default=0, **labels):
        """The series with exactly these labels."""
        return self.values.get((name, frozenset(labels.items())), default)

    def sum(self, name, **labels):
        """Of all series that have these labels among theirs."""
        return sum(v for (n, have), v in self.values.items() if n == name and labels.items() <= set(have))

    def each(self, name, label, **labels):
        """{value of that label: value} of the series that are not 0."""
        return {dict(have)[label]: v for (n, have), v in self.values.items() if n == name and v and labels.items() <= set(have)}

    @property
    def series(self):
        return set(self.values)


def check_family(family):
    seen = {}
    assert family.kind != "counter" or family.name.endswith("_total"), family.name
    for name, labels, value in family.samples:
        assert family.kind == "gauge" or value >= 0 and math.isfinite(value), (name, labels, value)
        if family.kind == "histogram":
            key = frozenset((k, v) for k, v in labels.items() if k != "le")
            seen.setdefault(key, {"buckets": []})
            if name.endswith("_bucket"):
                seen[key]["buckets"].append((float(labels["le"].replace("+Inf", "inf")), value))
            else:
                seen[key][name[len(family.name):]] = value
        else:
            assert "le" not in labels and "quantile" not in labels, (name, labels)
    for key, parts in seen.items():
        bounds, counts = zip(*parts["buckets"])
        assert list(bounds) == sorted(set(bounds)) and bounds[-1] == math.inf, (family.name, bounds)
        assert list(counts) == sorted(counts) and counts[-1] == parts["_count"], (family.name, key, counts)
        assert parts["_sum"] == 0 or parts["_count"], (family.name, key)


def promtool(text):
    """What `promtool check metrics` finds wrong; None where there is no promtool."""
    if not shutil.which("promtool"):
        return None
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    return (done.stdout + done.stderr).strip() or ("" if done.returncode == 0 else f"exit status {done.returncode}")


def scrape(router, index=0, headers=()):
    """One scrape, as a Page."""
    client = RawClient(router.addresses[index])
    try:
        client.request("GET", "/metrics", headers=[("Connection", "close"), *headers], host="localhost")
        response = client.read_response()
    finally:
        client.close()
    assert response.status == 200, response
    assert response["Content-Type"].replace(" ", "").lower().startswith("text/plain;version=0.0.4"), response
    return Page(response.body.decode("utf-8"))
