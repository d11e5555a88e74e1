"""Contract 3: with `health.interval: 0` only requests can tell that a dead endpoint is back. One is offered after 1 s, then after 2, 4, 8,
16, 30, 30 s, until one succeeds; then it begins anew.

The router's clock is the test's (harness/clockwork.c): it stands still and is moved, so that each offer comes at its millisecond and
five minutes take one second.
"""
import signal

import pytest

from harness.mortal import is_ready, mortal, state_lines, user_at, wait_ready, wait_state
from harness.preload import Clockwork

GAPS = [1, 2, 4, 8, 16, 30, 30, 30]  # seconds from one offer to the next
QUIET = {"health": {"interval": 0, "fall": 1}}
LOADING = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}


def stopped(lab, endpoints, **how):
    """A router whose clock stands."""
    time = Clockwork(lab.directory)
    how.setdefault("pool", QUIET)
    router = lab.router(endpoints, env=time.env, **how)
    time.stop()
    return time, router


def is_offered(router, **how):
    """Does a request now go to the endpoint? 502: it was tried there. 503: it was not."""
    status = router.chat(**how).status
    assert status in (502, 503), status
    return status == 502


def expect_offers(time, router, gaps):
    """Each one at its millisecond, and only one."""
    for gap in gaps:
        time.forward(gap - 0.001)
        assert not is_ready(router) and not is_offered(router), f"before {gap} s"
        time.forward(0.001)
        assert is_ready(router), f"after {gap} s"
        assert is_offered(router), f"after {gap} s"
        assert not is_offered(router) and not is_ready(router), f"a second one after {gap} s"


def test_the_whole_schedule(lab):
    dead = lab.dead()
    time, router = stopped(lab, dead)
    assert is_offered(router)
    expect_offers(time, router, GAPS)
    assert len(state_lines(router, dead)) == 1  # it was down all the while: one line


def test_refusals_on_the_way_cost_nothing(lab):
    """503 at once, Retry-After, no try; however many ask, the schedule does not move."""
    time, router = stopped(lab, lab.dead())
    assert is_offered(router)
    for _ in range(3):
        time.forward(0.3)
        response = router.chat()
        assert (response.status, response.error["code"]) == (503, "upstream_unavailable") and int(response["Retry-After"]) > 0
    time.forward(0.1)
    assert is_offered(router)
    assert [line["tries"] for line in router.access_lines(5)] == [1, 0, 0, 0, 1]


def test_an_offer_nobody_takes_stays(lab):
    time, router = stopped(lab, lab.dead())
    assert is_offered(router)
    time.forward(3600)
    assert is_ready(router) and is_offered(router)
    expect_offers(time, router, [2, 4])  # from the offer that was taken


@pytest.mark.parametrize("failed", [0, 1, 4, 7])
def test_a_success_ends_it_and_the_next_death_begins_anew(lab, failed):
    up = mortal(lab, alive=False)
    time, router = stopped(lab, up)
    assert is_offered(router)
    expect_offers(time, router, GAPS[:failed])
    up.revive()
    time.forward(GAPS[failed] - 0.001)
    assert router.chat().status == 503  # nobody knows yet
    time.forward(0.001)
    assert [router.chat().status for _ in range(3)] == [200] * 3
    wait_state(router, up, "up")
    up.die()
    assert is_offered(router)
    wait_state(router, up, "down", 2)
    expect_offers(time, router, GAPS[:3])


def test_fall_failures_are_needed_and_one_success(lab):
    up = mortal(lab, alive=False)
    time, router = stopped(lab, up, pool={"health": {"interval": 0, "fall": 3, "rise": 3}})
    assert [is_offered(router) for _ in range(4)] == [True, True, True, False]
    expect_offers(time, router, GAPS[:2])
    up.revive()
    time.forward(GAPS[2])
    assert [router.chat().status for _ in range(2)] == [200] * 2  # rise counts probes; there are none


def test_loading_is_asked_again_by_the_same_schedule(lab):
    states = {"loading": True}

    def answer(conn, req):
        conn.txresp(503, body=LOADING) if states["loading"] else conn.txresp(200, body=b"ready")
    up = mortal(lab, answer=answer)
    time, router = stopped(lab, up)

    def code():
        response = router.chat()
        return response.status, None if response.status == 200 else response.json()["error"]["code"]
    assert code() == (503, 503)  # its own words
    for gap in GAPS[:4]:
        time.forward(gap - 0.001)
        assert code() == (503, "upstream_unavailable")
        time.forward(0.001)
        assert code() == (503, 503)
    states["loading"] = False
    time.forward(GAPS[4] - 0.001)
    assert code() == (503, "upstream_unavailable")
    time.forward(0.001)
    assert code() == code() == (200, None)


def test_an_answer_of_500_is_no_success(lab):
    status = [500]
    up = mortal(lab, alive=False, answer=lambda conn, req: conn.txresp(status[0], body=b"so so"))
    time, router = stopped(lab, up)
    assert is_offered(router)
    up.revive()
    for gap in GAPS[:3]:
        time.forward(gap)
        assert [router.chat().status for _ in range(2)] == [500, 503]
    status[0] = 404  # it is alive, whatever it thinks of the request
    time.forward(GAPS[3])
    assert [router.chat().status for _ in range(2)] == [404, 404]


def test_with_a_second_endpoint_nobody_sees_an_error(lab):
    """The one request that is offered goes on to the next endpoint; and the first that succeeds brings its keys home."""
    home, other = mortal(lab, alive=False), mortal(lab)
    time, router = stopped(lab, [home, other])
    user = user_at(router, home)

    def ask():
        response = router.chat(user=user)
        assert response.status == 200
        return response.json()["endpoint"]
    assert ask() == ask() == other.name
    for gap in GAPS[:6]:
        time.forward(gap - 0.001)
        assert ask() == other.name
        time.forward(0.001)
        assert ask() == ask() == other.name
    tries = [line["tries"] for line in router.access_lines(20)]
    assert tries == [2, 1] + [1, 2, 1] * 6
    home.revive()
    time.forward(GAPS[6])
    assert ask() == ask() == home.name


def test_a_reload_does_not_move_it(lab):
    dead = lab.dead()
    time, router = stopped(lab, dead)
    assert is_offered(router)
    expect_offers(time, router, GAPS[:3])
    time.forward(5)
    router.signal(signal.SIGHUP)
    router.log_contains("is in force: generation 2")
    time.forward(2.999)
    assert not is_offered(router)
    time.forward(0.001)
    assert is_offered(router)
    expect_offers(time, router, GAPS[4:7])


def test_it_is_the_endpoints_own_whatever_pool_asks(lab):
    dead = lab.dead()
    time, router = stopped(lab, None, pools=[{"name": n, "models": [n], "endpoints": [dead], **QUIET} for n in ("a", "b")])
    assert is_offered(router, model="a") and not is_offered(router, model="b")
    time.forward(1)
    assert is_offered(router, model="b") and not is_offered(router, model="a")
    time.forward(1.999)
    assert not is_offered(router, model="a") and not is_offered(router, model="b")
    time.forward(0.001)
    assert is_offered(router, model="a") and not is_offered(router, model="b")


def test_the_fallback_serves_between_offers(lab):
    dead, other = lab.dead(), mortal(lab)
    time, router = stopped(lab, None, pools=[{"name": "p", "models": ["m"], "endpoints": [dead], "fallback": "rest", **QUIET},
                                             {"name": "rest", "models": ["x"], "endpoints": [other], **QUIET}])
    for gap in GAPS[:5]:
        before = router.chat()
        time.forward(gap - 0.001)
        assert router.chat().status == 200 and before.status in (200, 502)
        time.forward(0.001)
    lines = router.access_lines(10)
    assert {line["pool"] for line in lines if line["status"] == 200} == {"rest"}
    assert len([line for line in lines if line["endpoint"] == dead.url or line["tries"] > 1]) == 5


def test_where_there_are_probes_no_request_is_offered(lab):
    """The counter-test: then only a probe brings it back, however long that takes."""
    up = mortal(lab)
    time, router = stopped(lab, up, pool={"health": {"interval": "1h", "fall": 1}}, probes=True)
    wait_ready(router)
    up.die()
    assert is_offered(router)
    for seconds in (1, 2, 4, 8, 16, 30, 60):
        time.forward(seconds)
        assert not is_offered(router)
    up.revive()
    time.forward(4000)
    up.wait_probes(2)
    wait_state(router, up, "up")
    assert router.chat().status == 200
