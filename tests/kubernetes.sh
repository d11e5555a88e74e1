#!/bin/sh
# `make kubernetes`: the manifests of examples/kubernetes against the published schemas of Kubernetes, which the PyPI package
# kubernetes-validate brings along. ServiceMonitor is Prometheus Operator's own kind: tests/integration/test_examples.py reads it.
set -u
cd "$(dirname "$0")/.." || exit 1
venv=build/kubernetes/venv
if [ ! -x $venv/bin/kubernetes-validate ]; then
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
    if ! /usr/bin/python3 -m venv $venv || ! $venv/bin/pip install -q --disable-pip-version-check 'kubernetes-validate==1.37.0'; then
        echo "0 passed, 1 failed"
        exit 1
    fi
fi
$venv/bin/python - examples/kubernetes/*.yaml <<'EOT'
import sys

import kubernetes_validate
import yaml

versions = {"oldest": "1.25", "newest": kubernetes_validate.latest_version()}
passed = failed = 0
for path in sys.argv[1:]:
    for d in yaml.safe_load_all(open(path)):
        if "coreos.com" in d["apiVersion"]:
            continue
        for which, version in versions.items():
            try:
                kubernetes_validate.validate(d, version, strict=True)
                passed += 1
                print(f"ok      {path}: {d['kind']} by Kubernetes {version}")
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as e:
                failed += 1
                print(f"FAILED  {path}: {d['kind']} by Kubernetes {version}: {str(e).splitlines()[0]}")
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
EOT
