"""curl against the router: Expect: 100-continue, refusals before the body, streams as they come, odd but lawful ways to ask."""
import hashlib
import json
import pathlib
import subprocess

from lab import Router, Upstreams, config, directory, main

ups = Upstreams()
files = directory()
router = Router(config(ups.urls, max_body="4m"))
CHAT = f"{router.url}/v1/chat/completions"
HELLO = json.dumps({"model": "tiny", "user": "alice", "messages": [{"role": "user", "content": "Hello there"}]})
ANSWER = "I am up1 and alice asked tiny: Hello there done."


def curl(*args, stdin=None, status=0):
    """Its stdout and stderr (with -v: the heads), once it ended with that exit status."""
    done = subprocess.run(["curl", "-sS", "-v", "--max-time", "20", *args], input=stdin, capture_output=True, text=True)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stderr}\n{done.stdout[:2000]}"
    return done.stdout, done.stderr


def body_of(size, model="tiny"):
    """A file with a chat of that many bytes, the model last, and its sha256."""
    text = json.dumps({"messages": [{"role": "user", "content": "@"}], "n": 0.5, "model": model}, separators=(",", ":"))
    data = text.replace("@", "x" * (size - len(text) + 1)).encode()
    path = pathlib.Path(files / f"body{size}.json")
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def content(out):
    return json.loads(out)["choices"][0]["message"]["content"]


def stream_of(model):
    return json.dumps({**json.loads(HELLO), "model": model, "stream": True})


def test_chat():
    out, log = curl(CHAT, "-d", HELLO)  # curl says it is a form's; the router looks at the bytes
    assert content(out) == ANSWER
    assert "< X-Request-Id: " in log


def test_the_body_reaches_the_endpoint_byte_for_byte():
    odd = '{ "a" : 9007199254740993,"b":1e400 , "c":"\\u00e9\\/","c":"twice",\t"model":"tiny"  }\n'
    curl(CHAT, "--data-binary", odd)
    assert ups.last()["sha256"] == hashlib.sha256(odd.encode()).hexdigest()


def test_expect_100_continue_is_answered_at_once():
    path, sha256 = body_of(3 << 20)
    out, log = curl(CHAT, "--data-binary", f"@{path}", "--expect100-timeout", "15")
    assert "> Expect: 100-continue" in log
    assert log.index("< HTTP/1.1 100 Continue") < log.index("< HTTP/1.1 200 OK")
    assert content(out).startswith("I am up1")
    seen = ups.last()
    assert (seen["size"], seen["sha256"]) == (3 << 20, sha256)
    assert "expect" not in seen["headers"]


def test_expect_413_before_the_body():
    path, _ = body_of(8 << 20)
    before = ups.count()
    out, log = curl(CHAT, "--data-binary", f"@{path}", "--expect100-timeout", "15", "-w", "\n%{http_code} %{size_upload}")
    body, figures = out.rsplit("\n", 1)
    assert figures == "413 0", figures
    assert "100 Continue" not in log
    assert json.loads(body)["error"]["code"] == "request_too_large"
    assert ups.count() == before


def test_expect_other_refusals_before_the_body():
    path, _ = body_of(3 << 20)
    guarded = Router(config(ups.urls, api_keys=["sk-right"]))
    for url, code in ((f"{guarded.url}/v1/chat/completions", "401 0"), (f"{router.url}/v1/files", "404 0"), (f"{router.url}/v1/models", "405 0")):
        out, log = curl(url, "--data-binary", f"@{path}", "--expect100-timeout", "15", "-w", "\n%{http_code} %{size_upload}")
        assert out.rsplit("\n", 1)[1] == code, out
        assert "100 Continue" not in log
    _, log = curl(CHAT, "-H", "Expect: 200-ok", "-d", HELLO)
    assert "< HTTP/1.1 417 " in log


def test_413_is_read_without_expect_too():
    path, _ = body_of(8 << 20)
    for more in ((), ("-H", "Transfer-Encoding: chunked")):
        out, _ = curl(CHAT, "-H", "Expect:", *more, "--data-binary", f"@{path}", "-w", "\n%{http_code}")
        body, code = out.rsplit("\n", 1)
        assert code == "413" and json.loads(body)["error"]["code"] == "request_too_large", out


def test_chunked_upload():
    path, sha256 = body_of(2 << 20)
    out, _ = curl(CHAT, "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{path}")
    assert content(out).startswith("I am up1")
    assert ups.last()["sha256"] == sha256


def test_a_stream_event_by_event():
    before, events = ups.count(), []
    with subprocess.Popen(["curl", "-sS", "-N", "--max-time", "20", CHAT, "-d", stream_of("paced")], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("data: "):
                events.append(line[6:].strip())
                ups.step(before)  # event n+1 goes out only when curl has printed event n
    assert process.returncode == 0
    assert events.pop() == "[DONE]"
    assert "".join(json.loads(e)["choices"][0]["delta"].get("content") or "" for e in events) == ANSWER.replace("tiny", "paced")


def test_ctrl_c_closes_the_endpoint_s_connection():
    with subprocess.Popen(["curl", "-sS", "-N", "--max-time", "20", CHAT, "-d", stream_of("endless")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("data: ")
        process.terminate()
    ups.last_is("left")


def test_a_stream_that_breaks_ends_with_an_error_event_and_exit_status_18():
    out, log = curl("-N", CHAT, "-d", stream_of("broken"), status=18)
    assert "X-Accel-Buffering: no" in log
    assert json.loads(out.strip().split("data: ")[-1])["error"]["code"] == "upstream_error"
    out, _ = curl(CHAT, "-d", HELLO.replace("tiny", "broken"), status=18)
    assert out == '{"id":"half'


def test_http_1_0():
    out, log = curl("--http1.0", CHAT, "-d", HELLO)
    assert content(out) == ANSWER
    out, log = curl("--http1.0", "-N", "--raw", CHAT, "-d", stream_of("tiny"))
    assert "chunked" not in log.lower().split("\n< ", 1)[1]
    assert out.startswith("data: ") and out.endswith("data: [DONE]\n\n")


def test_http_2_is_declined_without_fuss():
    out, log = curl("--http2", CHAT, "-d", HELLO)
    assert "> Upgrade: h2c" in log and "< HTTP/1.1 200 OK" in log
    assert content(out) == ANSWER
    assert not {"upgrade", "http2-settings"} & set(ups.last()["headers"])


def test_a_connection_is_used_again():
    out, _ = curl("-w", "%{num_connects}\n", "-o", "/dev/null", "-d", HELLO, CHAT, "--next", "-sS", "-w", "%{num_connects}\n", "-o", "/dev/null", "-d", HELLO, CHAT,
                  "--next", "-sS", "-w", "%{num_connects}\n", "-o", "/dev/null", f"{router.url}/v1/models")
    assert out.split() == ["1", "0", "0"]


def test_a_form_with_the_file_before_the_model():
    talk = files / "talk.wav"
    talk.write_bytes(bytes(range(256)) * (3 << 12))
    out, _ = curl(f"{router.url}/v1/audio/transcriptions", "-F", f"file=@{talk}", "-F", "model=tiny")
    assert json.loads(out)["text"] == f"heard {3 << 20} bytes of talk.wav"
    assert ups.last()["file"]["sha256"] == hashlib.sha256(talk.read_bytes()).hexdigest()


def test_a_unix_socket():
    path = files / "router.sock"
    local = Router(config(ups.urls), listen=f"unix:{path}")
    assert local.listen == f"unix:{path}"
    out, _ = curl("--unix-socket", str(path), "http://router/v1/chat/completions", "-d", HELLO)
    assert content(out) == ANSWER


def test_head_and_a_compressed_body():
    out, log = curl("-I", f"{router.url}/v1/models")
    assert "< HTTP/1.1 200 OK" in log
    out, log = curl(CHAT, "-H", "Content-Encoding: gzip", "-d", HELLO)
    assert "< HTTP/1.1 415 " in log and json.loads(out)["error"]["code"] == "unsupported_encoding"


if __name__ == "__main__":
    main(globals())
