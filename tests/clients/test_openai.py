"""PyPI's `openai` against the router: it writes "model" after "messages", sends forms, and has classes of its own for errors."""
import asyncio
import hashlib
import io
import time

import openai

from lab import Router, Upstreams, config, main, raised

ups = Upstreams()
router = Router(config(ups.urls, {"model_list": {"interval": "100ms"}}))
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]
ANSWER = "I am up1 and alice asked {}: Hello there done."


def client(to=router, **more):
    return openai.OpenAI(base_url=f"{to.url}/v1", **{"api_key": "sk-test", "max_retries": 0, **more})


api = client()


def chat(model, to=api, **more):
    return to.chat.completions.create(model=model, messages=HELLO, user="alice", **more)


def test_chat_with_the_model_behind_the_messages():
    assert chat("tiny").choices[0].message.content == ANSWER.format("tiny")
    keys = ups.last()["keys"]
    assert keys.index("messages") < keys.index("model"), keys


def test_chat_with_the_model_behind_5_MB_of_messages():
    long = [{"role": "user", "content": "x" * (5 << 20)}, *HELLO]
    assert api.chat.completions.create(model="tiny", messages=long).choices[0].message.content.endswith("Hello there done.")
    assert ups.last()["size"] > 5 << 20


def test_chat_stream_event_by_event():
    before, text = ups.count(), ""
    for chunk in chat("paced", stream=True):
        text += chunk.choices[0].delta.content or ""
        ups.step(before)  # event n+1 goes out only now
    assert text == ANSWER.format("paced")


def test_responses_whole_and_streamed():
    assert api.responses.create(model="tiny", input="Hello there", user="alice").output_text == ANSWER.format("tiny")
    before, types = ups.count(), []
    for event in api.responses.create(model="paced", input="Hello there", stream=True):
        types.append(event.type)
        ups.step(before)
    assert types[0] == "response.created" and types[-1] == "response.completed", types


def test_embeddings_moderations_images_speech():
    assert [d.embedding for d in api.embeddings.create(model="tiny", input=["four", "seven77"]).data] == [[4, 0.5, -1], [7, 0.5, -1]]
    assert api.moderations.create(model="tiny", input="x").results[0].flagged is False
    assert api.images.generate(model="tiny", prompt="x").data[0].b64_json
    assert api.audio.speech.create(model="tiny", voice="alloy", input="s").read() == b"s" * 100_000


def test_transcription_of_5_MB():
    talk = bytes(range(256)) * (5 << 12)
    heard = api.audio.transcriptions.create(model="tiny", file=("talk.wav", io.BytesIO(talk)))
    assert heard.text == f"heard {5 << 20} bytes of talk.wav"
    assert ups.last()["file"]["sha256"] == hashlib.sha256(talk).hexdigest()
    text = api.audio.translations.create(model="tiny", file=("talk.wav", talk), response_format="text")
    assert text == f"translated {5 << 20} bytes of talk.wav\n"


def test_models():
    ids = {m.id for m in api.models.list()}
    assert {"tiny", "org/model:7b"} <= ids and "*" not in ids
    assert api.models.retrieve("org/model:7b").id == "org/model:7b"
    assert raised(openai.NotFoundError, lambda: api.models.retrieve("org/other:7b")).code == "model_not_found"


def test_the_request_id_is_one_for_client_and_endpoint():
    raw = api.chat.completions.with_raw_response.create(model="tiny", messages=HELLO, extra_headers={"X-Request-Id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1" == ups.last()["headers"]["x-request-id"]


def test_100_streams_at_once_all_complete():
    async def one(to, i):
        text = ""
        async for chunk in await to.chat.completions.create(model="tiny", messages=HELLO, user=f"u{i}", stream=True):
            text += chunk.choices[0].delta.content or ""
        assert text == ANSWER.format("tiny").replace("alice", f"u{i}"), text

    async def everyone():
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="sk-test", max_retries=0) as to:
            await asyncio.gather(*(one(to, i) for i in range(100)))
    asyncio.run(everyone())


def test_leaving_closes_the_endpoint_s_connection():
    for _ in (stream := chat("endless", stream=True)):
        break
    stream.close()
    ups.last_is("left")
    before = ups.count()
    raised(openai.APITimeoutError, lambda: chat("endless", timeout=1))  # before a byte
    ups.call("wait", count=before + 1)
    ups.last_is("left")


def error(kind, do, status, code, param=None):
    e = raised(kind, do)
    assert (e.status_code, e.code, e.param) == (status, code, param), e
    assert e.type, e
    assert e.request_id, e
    return e


def test_errors_of_the_endpoint_are_passed_on():
    for status, kind in ((400, openai.BadRequestError), (401, openai.AuthenticationError), (403, openai.PermissionDeniedError), (404, openai.NotFoundError),
                         (409, openai.ConflictError), (422, openai.UnprocessableEntityError), (429, openai.RateLimitError), (500, openai.InternalServerError)):
        e = error(kind, lambda s=status: chat(f"fail-{s}"), status, f"endpoint_{status}", "messages" if status == 400 else None)
        assert f"the endpoint says {status}" in str(e)


def test_errors_of_the_router():
    strict = Router(config(ups.urls, {"models": ["tiny-model"]}, api_keys=["sk-right"], max_body="1m"))
    right = client(strict, api_key="sk-right")
    error(openai.AuthenticationError, lambda: chat("tiny-model", client(strict)), 401, "invalid_api_key")
    e = error(openai.NotFoundError, lambda: chat("tiny-modle", right), 404, "model_not_found", "model")
    assert "tiny-model" in str(e)
    error(openai.NotFoundError, right.files.list, 404, "unknown_url")
    error(openai.BadRequestError, lambda: chat("", right), 400, "invalid_model", "model")
    error(openai.APIStatusError, lambda: chat("tiny-model", right, extra_body={"x": "x" * (20 << 20)}), 413, "request_too_large")
    error(openai.APIStatusError, lambda: right.audio.transcriptions.create(model="tiny-model", file=("a.wav", b"x" * (5 << 20))), 413, "request_too_large")
    error(openai.InternalServerError, lambda: chat("reset"), 502, "upstream_error")


def test_a_stream_that_breaks_raises():
    seen = []
    e = raised(openai.APIError, lambda: seen.extend(chat("broken", stream=True)))
    assert (e.code, e.type, len(seen)) == ("upstream_error", "server_error", 2), e
    e = raised(openai.APIError, lambda: list(api.responses.create(model="broken", input="x", stream=True)))
    assert e.code == "upstream_error", e


def test_a_whole_answer_that_breaks_raises():
    raised(openai.APIConnectionError, lambda: chat("broken"))


def test_retries_obey_retry_after():
    patient = client(max_retries=2)
    for model in ("fail-429-1", "fail-503-1"):
        before, begin = ups.count(), time.monotonic()
        assert chat(model, patient).choices[0].message.content == ANSWER.format(model)
        assert ups.count() == before + 2
        assert time.monotonic() - begin >= 0.95


def test_504_is_not_retried():
    impatient = client(Router(config(ups.urls, {"first_byte_timeout": "400ms"})), max_retries=2)
    before = ups.count()
    error(openai.InternalServerError, lambda: chat("endless", impatient), 504, "upstream_timeout")
    ups.call("wait", count=before + 1)
    assert ups.count() == before + 1


if __name__ == "__main__":
    main(globals())
