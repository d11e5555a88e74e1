import os
import pathlib
import resource
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from harness import Lab, ROUTER_BIN  # noqa: E402


def pytest_configure(config):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    config.option.tbstyle = config.option.tbstyle if config.option.tbstyle != "auto" else "short"


def pytest_report_header(config):
    return f"router under test: {os.path.relpath(ROUTER_BIN)}"


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, f"report_{call.when}", outcome.get_result())


@pytest.fixture
def lab(tmp_path, request):
    lab = Lab(tmp_path)
    yield lab
    report = getattr(request.node, "report_call", None)
    if report is not None and report.failed:
        for router in lab.routers:  # what the operator would have seen
            print(f"--- stderr of router {router.pid}")
            print("\n".join(router.log[-60:]))
            print("--- its access lines")
            print("\n".join(router.out[-20:]))
        lab.abandon()
    else:
        lab.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory, request):
    """One lab for a module's quiet tests, so that a hundred parametrised refusals need one router."""
    lab = Lab(tmp_path_factory.mktemp("shared"))
    yield lab
    lab.close()


