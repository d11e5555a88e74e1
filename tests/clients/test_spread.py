"""1,000 users over four endpoints: fair, and always at home: after a restart, and in a second router with the same file."""
import collections
import http.client
import json
import random

from lab import Router, Upstreams, config, main

USERS = 1000
ups = Upstreams(4)


def homes(router, order):
    """user -> the name of the endpoint that answered, over one connection. Asked in another order each time, or mere turns would do."""
    connection = http.client.HTTPConnection(router.listen, timeout=10)
    found = {}
    for i in random.Random(order).sample(range(USERS), USERS):
        body = json.dumps({"model": "tiny", "user": f"user-{i}", "messages": [{"role": "user", "content": "Hi"}]})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        value = json.load(answer)
        assert answer.status == 200, value
        found[f"user-{i}"] = value["choices"][0]["message"]["content"].split()[2]
    connection.close()
    return found


def test_1000_users():
    first = Router(config(ups.urls))
    at_first = homes(first, 1)
    shares = collections.Counter(at_first.values())
    fair = USERS / 4
    print(f"  {dict(sorted(shares.items()))} of {USERS} users")
    assert len(shares) == 4 and all(abs(n - fair) <= fair / 4 for n in shares.values()), shares
    second = Router(first.path)
    assert homes(second, 2) == at_first, "a second router with the same file sends users elsewhere"
    first.stop()
    assert homes(Router(first.path), 3) == at_first, "after a restart users are sent elsewhere"


if __name__ == "__main__":
    main(globals())
