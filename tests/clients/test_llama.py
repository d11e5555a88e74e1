"""The router before real llama-servers, asked by PyPI's `openai` and the packages of npm (real.mjs). What proves affinity is the
servers' own word: how many tokens of a prompt they had in their cache.

In: LLAMA_ROOT, the root directory in which llama-server runs; / for this machine's own. See llama.sh.
"""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import openai

from lab import HERE, STACK, Router, main, raised, until

LLAMA_ROOT = pathlib.Path(os.environ.get("LLAMA_ROOT", "/")).resolve()
# Inside that root, so that a server there sees it.
DIR = pathlib.Path(STACK.enter_context(tempfile.TemporaryDirectory(prefix="router-clients-", dir=LLAMA_ROOT / "tmp")))


def model(name, *options):
    """A model file of that name."""
    path = DIR / name
    subprocess.run([sys.executable, "-B", str(HERE / "make_gguf.py"), str(path), *options], check=True)
    return path


class Server:
    """A llama-server with two slots. Its model goes by the name `noise`."""

    def __init__(self, path, wait=True):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        inside = pathlib.Path("/") / path.relative_to(LLAMA_ROOT)
        command = ["llama-server", "-m", str(inside), "-a", "noise", "--offline", "-np", "2", "-t", "1", "--slots", "--metrics", "--host", "127.0.0.1", "--port", str(self.port)]
        if LLAMA_ROOT != pathlib.Path("/"):
            command = ["chroot", str(LLAMA_ROOT), *command]
        self.log = open(DIR / f"{self.port}.log", "w+")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        STACK.callback(self.stop)
        if wait:
            until(lambda: self.health() == 200, "llama-server did not load its model", 60)

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)

    def health(self):
        """The status of /health, or None where nobody listens yet."""
        assert self.process.poll() is None, pathlib.Path(self.log.name).read_text()
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as e:
            return e.code
        except OSError:
            return None

    def busy(self):
        """Slots at work."""
        return sum(s["is_processing"] for s in self.get("/slots"))


def config(servers, affinity, **pool):
    return json.dumps({"route_headers": True, "pools": [{
        "name": "chat", "models": ["noise"], "aliases": {"gpt-4o-mini": "noise"}, "endpoints": [s.url for s in servers], "affinity": affinity,
        "health": {"interval": "200ms", "timeout": "2s"}, "model_list": {"interval": "1s"}, **pool}]})


def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)


SERVERS = [Server(model("noise.gguf", "--context", "65536")) for _ in range(2)]
ROUTER = Router(config(SERVERS, "conversation"))
TOPICS = ["Sea", "Wood", "Iron", "Glass", "Rain", "Owls", "Tin"]  # an odd number: by turns, each would change servers every time


def post(url, path, value):
    """The JSON answer, and the endpoint as the router tells it."""
    request = urllib.request.Request(url + path, json.dumps(value).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer), answer.headers["X-Router-Endpoint"]


class Chat:
    def __init__(self, topic, to):
        self.to, self.turns = to, []  # (endpoint, usage)
        self.messages = [{"role": "user", "content": f"{topic}: say something about it, at length and with care, as you would to a child."}]

    def turn(self):
        raw = self.to.chat.completions.with_raw_response.create(model="noise", messages=self.messages, max_tokens=40)
        answer = raw.parse()
        self.turns.append((raw.headers.get("x-router-endpoint"), answer.usage))
        self.messages += [{"role": "assistant", "content": answer.choices[0].message.content}, {"role": "user", "content": f"And then? ({len(self.turns)})"}]

    @property
    def cached(self):
        return [usage.prompt_tokens_details.cached_tokens for _, usage in self.turns]

    @property
    def prompts(self):
        return [usage.prompt_tokens for _, usage in self.turns]


def several_chats(router, rounds=4, topics=TOPICS):
    """Chats that take turns, each turn with all that was said before."""
    chats = [Chat(topic, client(router.url)) for topic in topics]
    for _ in range(rounds):
        for chat in chats:
            chat.turn()
    return chats


def share(chats):
    """How much of the later prompts was cached."""
    return sum(sum(c.cached[1:]) for c in chats) / sum(sum(c.prompts[1:]) for c in chats)


def test_each_turn_of_a_chat_finds_its_prompt_cached():
    chats = several_chats(ROUTER)
    for chat in chats:
        homes = {endpoint for endpoint, _ in chat.turns}
        assert len(homes) == 1, f"a chat went to {homes}"
        print(f"  {homes.pop()}: prompt tokens {chat.prompts}, of them cached {chat.cached}")
        for (_, before), (_, now) in zip(chat.turns, chat.turns[1:]):
            # All of the turn before, question and answer, but for the last token that was made: no cache has that.
            assert now.prompt_tokens_details.cached_tokens >= before.total_tokens - 1, chat.cached
    elsewhere = next(s for s in SERVERS if s.url != chats[0].turns[0][0])
    stranger, _ = post(elsewhere.url, "/v1/chat/completions", {"messages": chats[0].messages, "max_tokens": 1})
    cached = stranger["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached < 20, f"the other server has {cached} tokens of it too: the figures prove nothing"
    everywhere = several_chats(Router(config(SERVERS, "none")), topics=[t.upper()[::-1] for t in TOPICS])  # nothing that was said before
    print(f"  cached of later prompts: {share(chats):.0%} with affinity conversation, {share(everywhere):.0%} with none; {cached} tokens at the wrong server")
    assert share(chats) > share(everywhere) + 0.1


def test_the_router_reads_the_same_figures():
    router = Router(config(SERVERS, "conversation"))
    chats = several_chats(router, 2)
    with urllib.request.urlopen(router.url + "/metrics", timeout=10) as answer:
        counted = dict(re.findall(r'^router_tokens_total\{pool="chat",model="noise",type="(\w+)"\} (\d+)$', answer.read().decode(), re.M))
    told = [u for c in chats for _, u in c.turns]
    assert counted == {"prompt": str(sum(u.prompt_tokens for u in told)), "completion": str(sum(u.completion_tokens for u in told)),
                       "cached": str(sum(u.prompt_tokens_details.cached_tokens for u in told))}, counted


def test_the_model_list_is_the_servers_own():
    until(lambda: "meta" in client(ROUTER.url).models.retrieve("noise").model_dump(), "the list has not come")
    listed = {m.id: m.model_dump() for m in client(ROUTER.url).models.list()}
    assert set(listed) == {"noise", "gpt-4o-mini"}
    assert listed["noise"]["owned_by"] == "llamacpp" and listed["noise"]["meta"]["n_ctx_train"] == 65536


def test_streams():
    text, usage = "", None
    for chunk in client(ROUTER.url).chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi"}], max_tokens=200, stream=True, stream_options={"include_usage": True}):
        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
        usage = chunk.usage or usage
    assert usage.completion_tokens == 200 == len(text)


def test_llama_cpp_s_own_paths():
    tokens, _ = post(ROUTER.url, "/tokenize", {"model": "noise", "content": "Hello"})
    assert len(tokens["tokens"]) == 5
    back, _ = post(ROUTER.url, "/detokenize", {"model": "noise", "tokens": tokens["tokens"]})
    assert back["content"] == "Hello"
    done, _ = post(ROUTER.url, "/completion", {"model": "noise", "prompt": "Hello", "n_predict": 12})
    assert done["tokens_predicted"] == 12 == len(done["content"])
    prompt, _ = post(ROUTER.url, "/apply-template", {"model": "noise", "messages": [{"role": "user", "content": "Hi"}]})
    assert prompt["prompt"] == "user: Hi\nassistant: "


def test_a_client_that_leaves_frees_the_slot():
    with contextlib.closing(client(ROUTER.url).completions.create(model="noise", prompt="x", max_tokens=25_000, stream=True)) as stream:
        for _ in stream:
            break
        assert sum(s.busy() for s in SERVERS) == 1
    until(lambda: sum(s.busy() for s in SERVERS) == 0, "the slot still works")
    metrics = [urllib.request.urlopen(s.url + "/metrics", timeout=10).read().decode() for s in SERVERS]
    made = sum(int(re.search(r"^llamacpp:tokens_predicted_total (\d+)", m, re.M).group(1)) for m in metrics)
    assert made < 20_000, f"{made} tokens were made: nobody stopped"


def test_more_requests_than_slots_wait_their_turn():
    router = Router(config(SERVERS, "none", max_inflight=2, queue={"size": 20}))
    def one(i):
        return client(router.url).completions.create(model="noise", prompt=f"{i} x", max_tokens=300).usage.completion_tokens
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, range(16))) == [300] * 16


def test_its_own_errors_are_passed_on():
    e = raised(openai.BadRequestError, lambda: client(ROUTER.url).post("/chat/completions", body={"model": "noise", "messages": "none"}, cast_to=object))
    assert e.body["code"] == 400 and e.type == "invalid_request_error", e.body  # a number, as llama.cpp says it


def test_the_packages_of_npm():
    done = subprocess.run(["node", str(HERE / "real.mjs"), ROUTER.url], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_that_loads_is_passed_over():
    path = model("slow.gguf", "--width", "32", "--filler", "400000")
    slow = Server(path, wait=False)
    pair = [SERVERS[0], slow]
    until(lambda: slow.health() is not None, "llama-server does not listen", 30)
    blind = Router(config(pair, "user", health={"interval": 0}))  # learns it from the 503 of a real request
    watching = Router(config(pair, "user"))
    users = [f"u{i}" for i in range(10)]

    def home(router, user):
        return post(router.url, "/v1/chat/completions", {"model": "noise", "user": user, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2})[1]
    during = [home(router, user) for router in (blind, watching) for user in users]
    assert slow.health() == 503, "it was loaded too fast to see anything"
    assert set(during) == {SERVERS[0].url}, during
    until(lambda: slow.health() == 200, "the slow one did not load", 60)
    until(lambda: {home(watching, user) for user in users} == {s.url for s in pair}, "nobody went home to it once it was loaded")
    path.unlink()


if __name__ == "__main__":
    main(globals())
