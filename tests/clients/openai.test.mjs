/* The `openai` package from npm against the router: every resource that is routed, streams, leaving, errors as its classes, retries. */
import assert from "node:assert/strict";
import { File } from "node:buffer";
import OpenAI from "openai";
import { freePort, notingFetch, pace, raised, startRouter, startUpstream, test, until } from "./lab.mjs";
import { text } from "./shapes.mjs";

globalThis.File ??= File; // node 18 has it, but not under that name, and the SDK asks for it there
const up = await startUpstream();
const router = await startRouter([up], { pool: { aliases: { "gpt-4o-mini": "tiny" }, model_list: { interval: "100ms" } } });
const client = (to = router, more = {}) => new OpenAI({ baseURL: `${to.url}/v1`, apiKey: "sk-test", maxRetries: 0, ...more });
const openai = client();
const hello = [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello there" }];
const ask = (model, more = {}) => ({ model, messages: hello, user: "alice", ...more });
const answer = (model, more = {}) => text("up1", ask(model, more));

/* ---- what is routed ---- */

test("chat", async () => {
  const chat = await openai.chat.completions.create(ask("tiny"));
  assert.equal(chat.choices[0].message.content, answer("tiny"));
  assert.deepEqual(chat.usage, { prompt_tokens: 2, completion_tokens: 9, total_tokens: 11 });
  assert.match(chat._request_id, /^[0-9a-f-]{36}$/);
  assert.equal(up.last.headers["x-request-id"], chat._request_id);
  assert.equal(up.last.headers.authorization, "Bearer sk-test"); // no keys here: the client's own passes
});

test("chat by an alias: the endpoint is told its own name", async () => {
  await openai.chat.completions.create(ask("gpt-4o-mini"));
  assert.deepEqual(up.last.json, ask("tiny"));
});

test("chat with tools, and with an image of 8 MB before the model", async () => {
  const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }];
  const chat = await openai.chat.completions.create(ask("tiny", { tools }));
  assert.equal(chat.choices[0].message.tool_calls[0].function.arguments, '{"city":"Ulm"}');
  const url = `data:image/png;base64,${"iVBO".repeat(2 << 20)}`;
  const messages = [{ role: "user", content: [{ type: "text", text: "What is it? " }, { type: "image_url", image_url: { url } }] }];
  const seen = await openai.chat.completions.create({ messages, model: "tiny" });
  assert.match(seen.choices[0].message.content, /What is it\? \[image_url\]/);
  assert.equal(up.last.json.messages[0].content[1].image_url.url.length, url.length);
});

test("chat stream: each event reaches the client before the next is sent", async () => {
  let content = "";
  const count = await pace(up, () => openai.chat.completions.create(ask("paced", { stream: true, stream_options: { include_usage: true } })), (chunk) => {
    content += chunk.choices[0]?.delta.content ?? "";
    if (chunk.usage) content += `(${chunk.usage.total_tokens})`;
  });
  assert.equal(content, answer("paced") + "(11)");
  assert.ok(count > 10, `${count} events`);
});

test("200 streams at once all complete", async () => {
  const one = async (i) => {
    const stream = await openai.chat.completions.create(ask("tiny", { stream: true, user: `u${i}` }));
    let content = "";
    for await (const chunk of stream) content += chunk.choices[0].delta.content ?? "";
    assert.equal(content, answer("tiny", { user: `u${i}` }));
  };
  await Promise.all(Array.from({ length: 200 }, (_, i) => one(i)));
});

test("completions, whole and streamed", async () => {
  const whole = await openai.completions.create({ model: "tiny", prompt: "Hello" });
  assert.equal(whole.choices[0].text, text("up1", { model: "tiny", prompt: "Hello" }));
  let content = "";
  await pace(up, () => openai.completions.create({ model: "paced", prompt: "Hello", stream: true }), (c) => (content += c.choices[0].text));
  assert.equal(content, text("up1", { model: "paced", prompt: "Hello" }));
});

test("responses, whole and streamed", async () => {
  const whole = await openai.responses.create({ model: "tiny", input: "Hello", instructions: "Be brief." });
  assert.equal(whole.output_text, text("up1", { model: "tiny", input: "Hello" }));
  const types = [];
  await pace(up, () => openai.responses.create({ model: "paced", input: "Hello", stream: true }), (event) => types.push(event.type));
  assert.equal(types[0], "response.created");
  assert.equal(types.at(-1), "response.completed");
  const stream = openai.responses.stream({ model: "tiny", input: "Hello" });
  assert.equal((await stream.finalResponse()).output_text, whole.output_text);
});

test("embeddings, as base64 and as numbers", async () => {
  const packed = await openai.embeddings.create({ model: "tiny", input: ["four", "seven77"] });
  assert.deepEqual(packed.data.map((d) => d.embedding), [[4, 0.5, -1], [7, 0.5, -1]]);
  const plain = await openai.embeddings.create({ model: "tiny", input: "four", encoding_format: "float" });
  assert.deepEqual(plain.data[0].embedding, [4, 0.5, -1]);
});

test("moderations, images, speech, transcriptions", async () => {
  assert.equal((await openai.moderations.create({ model: "tiny", input: "x" })).results[0].flagged, false);
  assert.ok((await openai.images.generate({ model: "tiny", prompt: "x" })).data[0].b64_json);
  const speech = await openai.audio.speech.create({ model: "tiny", voice: "alloy", input: "s" });
  assert.deepEqual(Buffer.from(await speech.arrayBuffer()), Buffer.alloc(100_000, "s"));
  const file = new File([Buffer.alloc(3 << 20, "wave")], "talk.wav", { type: "audio/wav" });
  const heard = await openai.audio.transcriptions.create({ file, model: "tiny" });
  assert.equal(heard.text, `heard ${3 << 20} bytes of talk.wav`);
});

test("models.list and models.retrieve, with / and : in the id", async () => {
  await until(async () => (await openai.models.list()).data.find((m) => m.owned_by === "up1"), "the endpoint's list has not come");
  const ids = [];
  for await (const model of openai.models.list()) ids.push(model.id);
  assert.deepEqual(ids.sort(), ["gpt-4o-mini", "org/model:7b", "tiny"]); // no "*"
  const odd = await openai.models.retrieve("org/model:7b");
  assert.equal(odd.id, "org/model:7b");
  assert.equal(odd.owned_by, "up1");
  const error = await raised(openai.models.retrieve("org/other:7b"));
  assert.ok(error instanceof OpenAI.NotFoundError);
  assert.equal(error.code, "model_not_found");
});

test("one user's requests go to one endpoint, users spread, chats follow their cache key", async () => {
  const ups = await Promise.all([1, 2, 3, 4].map((n) => startUpstream(`many${n}`)));
  const where = async (to, request) => (await to.chat.completions.create({ model: "tiny", messages: hello, ...request })).system_fingerprint ?? "";
  const named = async (to, request) => /I am (\w+)/.exec((await to.chat.completions.create({ model: "tiny", messages: hello, ...request })).choices[0].message.content)[1];
  const byUser = client(await startRouter(ups));
  const byChat = client(await startRouter(ups, { pool: { affinity: "conversation" } }));
  for (const [to, key] of [[byUser, "user"], [byUser, "safety_identifier"], [byChat, "prompt_cache_key"]]) {
    const homes = new Set();
    for (let i = 0; i < 24; i++) {
      const [first, second] = [await named(to, { [key]: `k${i}` }), await where(to, { [key]: `k${i}` })];
      assert.equal(first, second);
      homes.add(first);
    }
    assert.ok(homes.size >= 3, `24 values of ${key} went to ${[...homes]} only`);
  }
});

/* ---- leaving ---- */

test("a client that stops reading a stream closes the endpoint's connection", async () => {
  for await (const chunk of await openai.chat.completions.create(ask("endless", { stream: true }))) {
    assert.equal(chunk.choices[0].delta.role, "assistant");
    break;
  }
  await up.waitState(up.last, "left");
});

test("so does an abort in mid-stream", async () => {
  const stream = await openai.responses.create({ model: "endless", input: "x", stream: true });
  const error = await (async () => {
    for await (const _ of stream) stream.controller.abort();
  })();
  assert.equal(error, undefined); // the SDK ends the loop without a word
  await up.waitState(up.last, "left");
});

test("so does an abort before the first byte, and a timeout of the client's own", async () => {
  const n = up.requests.length;
  const controller = new AbortController();
  const promise = raised(openai.chat.completions.create(ask("endless"), { signal: controller.signal }));
  await up.waitRequests(n + 1);
  await up.wait(() => up.last.state === "answering", "the request did not arrive whole");
  controller.abort();
  assert.ok((await promise) instanceof OpenAI.APIUserAbortError);
  await up.waitState(up.last, "left");
  const late = await raised(openai.chat.completions.create(ask("endless"), { timeout: 1000 }));
  assert.ok(late instanceof OpenAI.APIConnectionTimeoutError);
  await up.waitRequests(n + 2);
  await up.waitState(up.last, "left");
});

/* ---- errors ---- */

async function error(promise, kind, status, code, param, type = "invalid_request_error") {
  const e = await raised(promise);
  assert.ok(e instanceof kind, `${e.constructor.name}: ${e.message}`);
  assert.deepEqual([e.status, e.code, e.param, e.type], [status, code, param, type]);
  assert.deepEqual(Object.keys(e.error).sort(), ["code", "message", "param", "type"]);
  assert.match(e.requestID, /^[0-9a-f-]{36}$/);
  return e;
}

test("the endpoint's own errors are passed on as they are, each as its class", async () => {
  const classes = { 400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError", 409: "ConflictError", 422: "UnprocessableEntityError", 429: "RateLimitError", 500: "InternalServerError", 503: "InternalServerError" };
  for (const [status, name] of Object.entries(classes)) {
    const type = status === "429" ? "rate_limit_error" : status < 500 ? "invalid_request_error" : "server_error";
    const e = await error(openai.chat.completions.create(ask(`fail-${status}`)), OpenAI[name], Number(status), `endpoint_${status}`, status === "400" ? "messages" : null, type);
    assert.equal(e.error.message, `the endpoint says ${status}`);
  }
});

test("BadRequestError: no model, an empty one, a body that is no object", async () => {
  const strict = client(await startRouter([up], { pool: { models: ["tiny"] } }));
  await error(strict.chat.completions.create({ messages: hello }), OpenAI.BadRequestError, 400, "invalid_model", "model");
  await error(strict.chat.completions.create(ask("")), OpenAI.BadRequestError, 400, "invalid_model", "model");
  await error(strict.post("/chat/completions", { body: [1] }), OpenAI.BadRequestError, 400, "invalid_json", null);
});

test("NotFoundError: an unknown model, with the nearest name, and an unknown path", async () => {
  const strict = client(await startRouter([up], { pool: { models: ["tiny-model"] } }));
  const e = await error(strict.chat.completions.create(ask("tiny-modle")), OpenAI.NotFoundError, 404, "model_not_found", "model");
  assert.match(e.message, /tiny-model/);
  await error(strict.batches.list(), OpenAI.NotFoundError, 404, "unknown_url", null);
});

test("AuthenticationError: a wrong key; the right one never reaches the endpoint", async () => {
  const guarded = await startRouter([up], { api_keys: ["sk-right"] });
  await error(client(guarded).chat.completions.create(ask("tiny")), OpenAI.AuthenticationError, 401, "invalid_api_key", null);
  await error(client(guarded).models.list(), OpenAI.AuthenticationError, 401, "invalid_api_key", null);
  const n = up.requests.length;
  await client(guarded, { apiKey: "sk-right" }).chat.completions.create(ask("tiny"));
  assert.equal(up.requests.length, n + 1);
  assert.equal(up.last.headers.authorization, undefined);
});

test("413 for 20 MB where 1 MB is allowed is read as an error with its code", async () => {
  const narrow = client(await startRouter([up], { max_body: "1m" }));
  const n = up.requests.length;
  await error(narrow.chat.completions.create({ messages: [{ role: "user", content: "x".repeat(20 << 20) }], model: "tiny" }), OpenAI.APIError, 413, "request_too_large", null);
  assert.equal(up.requests.length, n);
});

test("InternalServerError: 502 where the endpoint dies before a byte; on a new connection it was asked once, on a reused one twice", async () => {
  const fresh = client(await startRouter([up], { pool: { keepalive: { timeout: 0 } } }));
  for (const [to, times] of [[fresh, 1], [openai, 2]]) {
    await to.chat.completions.create(ask("tiny")); // leaves an idle connection where they are kept
    const n = up.requests.length;
    await error(to.chat.completions.create(ask("reset")), OpenAI.InternalServerError, 502, "upstream_error", null, "server_error");
    assert.equal(up.requests.length, n + times);
  }
});

test("a stream that breaks raises, with the reason, and was not taken for whole", async () => {
  for (const open of [
    () => openai.chat.completions.create(ask("broken", { stream: true })),
    () => openai.responses.create({ model: "broken", input: "x", stream: true }),
    () => openai.completions.create({ model: "broken", prompt: "x", stream: true }),
  ]) {
    let events = 0;
    const e = await raised((async () => {
      for await (const _ of await open()) events++;
    })());
    assert.equal(events, 2);
    assert.ok(e instanceof OpenAI.APIError, `${e.constructor.name}: ${e.message}`);
    assert.equal(e.code, "upstream_error");
    assert.equal(e.type, "server_error");
  }
});

test("a stream that stalls raises upstream_timeout", async () => {
  const impatient = client(await startRouter([up], { pool: { stream_idle_timeout: "300ms" } }));
  const e = await raised((async () => {
    for await (const _ of await impatient.chat.completions.create(ask("endless", { stream: true })));
  })());
  assert.equal(e.code, "upstream_timeout");
  await up.waitState(up.last, "left");
});

test("a whole answer that breaks raises", async () => {
  const e = await raised(openai.chat.completions.create(ask("broken")));
  assert.ok(!(e instanceof assert.AssertionError), String(e));
});

/* ---- retries ---- */

test("an endpoint's 500 is asked again twice, its 429 and 503 after the Retry-After it said", async () => {
  const patient = client(router, { maxRetries: 2 });
  const n = up.requests.length;
  await error(patient.chat.completions.create(ask("fail-500")), OpenAI.InternalServerError, 500, "endpoint_500", null, "server_error");
  assert.equal(up.requests.length, n + 3);
  for (const model of ["fail-429-1", "fail-503-1"]) {
    const { noted, fetcher } = notingFetch();
    const chat = await client(router, { maxRetries: 2, fetch: fetcher }).chat.completions.create(ask(model));
    assert.equal(chat.choices[0].message.content, answer(model));
    assert.deepEqual(noted.map((r) => [r.status, r.retryAfter]), [[Number(model.slice(5, 8)), "1"], [200, null]]);
    assert.ok(noted[1].at - noted[0].at >= 950, `asked again after ${noted[1].at - noted[0].at} ms`);
  }
});

test("RateLimitError while all is full, and after Retry-After the retry gets the slot", async () => {
  const one = await startRouter([up], { pool: { max_inflight: 1 } });
  const holder = new AbortController();
  const n = up.requests.length;
  const held = raised(client(one).chat.completions.create(ask("endless"), { signal: holder.signal }));
  await up.waitRequests(n + 1);
  await error(client(one).chat.completions.create(ask("tiny")), OpenAI.RateLimitError, 429, "overloaded", null, "rate_limit_error");
  const { noted, fetcher } = notingFetch();
  const leaves = async (...args) => {
    const response = await fetcher(...args);
    holder.abort();
    return response;
  };
  const chat = await client(one, { maxRetries: 2, fetch: leaves }).chat.completions.create(ask("tiny"));
  assert.equal(chat.choices[0].message.content, answer("tiny"));
  assert.deepEqual(noted.map((r) => r.status), [429, 200]);
  assert.ok(noted[1].at - noted[0].at >= noted[0].retryAfter * 1000 - 50);
  await held;
});

test("503 while no endpoint is up, and after Retry-After the retry finds the one that came", async () => {
  const port = await freePort();
  const pool = { health: { interval: "100ms", fall: 1 } };
  const lonely = await startRouter([{ url: `http://127.0.0.1:${port}` }], { pool });
  await until(async () => (await fetch(`${lonely.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(ask("tiny")) })).status === 503, "the endpoint is not down");
  await error(client(lonely).chat.completions.create(ask("tiny")), OpenAI.InternalServerError, 503, "upstream_unavailable", null, "server_error");
  const { noted, fetcher } = notingFetch();
  const comes = async (...args) => {
    const response = await fetcher(...args);
    if (response.status === 503) await startUpstream("late", port);
    return response;
  };
  const chat = await client(lonely, { maxRetries: 2, fetch: comes }).chat.completions.create(ask("tiny"));
  assert.equal(chat.choices[0].message.content, text("late", ask("tiny")));
  assert.deepEqual(noted.map((r) => r.status), [503, 200]);
  assert.ok(noted[0].retryAfter >= 1 && noted[1].at - noted[0].at >= noted[0].retryAfter * 1000 - 50);
});

test("504 says x-should-retry: false, and the client does not retry", async () => {
  const impatient = client(await startRouter([up], { pool: { first_byte_timeout: "400ms" } }), { maxRetries: 2 });
  const n = up.requests.length;
  const e = await error(impatient.chat.completions.create(ask("endless")), OpenAI.InternalServerError, 504, "upstream_timeout", null, "server_error");
  assert.equal(e.headers.get("x-should-retry"), "false");
  await up.waitRequests(n + 1);
  assert.equal(up.requests.length, n + 1);
  await up.waitState(up.last, "left");
});
