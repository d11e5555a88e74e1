"""A configuration changed under a running router.

    reload(router, lab.config(up)); assert "models" in refused(router, "nonsense: 1\\n")
"""
import re
import signal

from .client import RawClient

VERDICT = re.compile(r"\breload: (.* is in force: .*|refused: .*)$")


def verdicts(router):
    return [m.group(1) for line in list(router.log) if (m := VERDICT.search(line))]


def hup(router, config=None):
    """SIGHUP, with another file first if one is given; the verdict's line. One at a time: signals of one kind merge."""
    before = len(verdicts(router))
    if config is not None:
        router.write_config(config)
    router.signal(signal.SIGHUP)
    router.wait_for(lambda: len(verdicts(router)) > before, "SIGHUP brings no verdict")
    return verdicts(router)[before]


def reload(router, config=None):
    verdict = hup(router, config)
    assert not verdict.startswith("refused"), "\n".join(router.log[-20:])
    return verdict


def refused(router, config=None):
    """The reason."""
    verdict = hup(router, config)
    assert verdict.startswith("refused: "), verdict
    return verdict[len("refused: "):]


def page(router, method, target, headers=(), index=0, host="localhost", body=None):
    """A request on a connection of its own; index 1 is admin_listen where there is one."""
    client = RawClient(router.addresses[index])
    try:
        client.request(method, target, body, [("Connection", "close"), *headers], host=host)
        return client.read_response(head=method == "HEAD")
    finally:
        client.close()


def status(router, index=0, headers=()):
    response = page(router, "GET", "/status", headers, index)
    assert response.status == 200, response
    return response.json()


def endpoint_row(router, up, pool=None, index=0):
    """Its row in /status; None if there is none."""
    url = getattr(up, "url", up)
    for p in status(router, index)["pools"]:
        for row in p["endpoints"]:
            if row["url"] == url and pool in (None, p["name"]):
                return row
    return None


# streams that run on


def streaming(lab, router, up, **how):
    """A stream with one event sent and read: (connection at the endpoint, events, client)."""
    client = lab.client(router)
    client.chat(stream=True, **how)
    conn = up.accept()
    conn.rxreq()
    conn.sse_head()
    events = client.sse(client.read_head())
    goes_on(conn, events, 0)
    return conn, events, client


def goes_on(conn, events, n):
    conn.event(str(n))
    assert next(events) == b"data: %d" % n


def ends(conn, events):
    conn.sse_end()
    assert list(events) == [b"data: [DONE]"]
