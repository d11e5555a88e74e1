/* `@anthropic-ai/sdk` from npm against the router: messages, streams, leaving, errors in that API's shape and as the SDK's classes. */
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { freePort, notingFetch, pace, raised, startRouter, startUpstream, test, until } from "./lab.mjs";
import { text } from "./shapes.mjs";

const up = await startUpstream();
const router = await startRouter([up]);
const client = (to = router, more = {}) => new Anthropic({ baseURL: to.url, apiKey: "sk-ant-test", maxRetries: 0, ...more });
const anthropic = client();
const ask = (model, more = {}) => ({ model, max_tokens: 64, system: "Be brief.", messages: [{ role: "user", content: "Hello there" }], ...more });
const answer = (model, user) => text("up1", { ...ask(model), user });

test("messages", async () => {
  const message = await anthropic.messages.create(ask("tiny", { metadata: { user_id: "alice" } }));
  assert.equal(message.content[0].text, answer("tiny", "alice"));
  assert.equal(message.usage.output_tokens, 9);
  assert.equal(up.last.headers["anthropic-version"], "2023-06-01");
  assert.equal(up.last.headers["x-api-key"], "sk-ant-test");
});

test("messages of parts", async () => {
  const source = { type: "base64", media_type: "image/png", data: "iVBO".repeat(1 << 19) };
  const message = await anthropic.messages.create(ask("tiny", { messages: [{ role: "user", content: [{ type: "image", source }, { type: "text", text: " what?" }] }] }));
  assert.match(message.content[0].text, /\[image\] what\?/);
});

test("stream: each event reaches the client before the next is sent", async () => {
  const types = [];
  await pace(up, () => anthropic.messages.create(ask("paced", { stream: true })), (event) => types.push(event.type));
  assert.deepEqual(types.slice(0, 3), ["message_start", "content_block_start", "content_block_delta"]);
  assert.equal(types.at(-1), "message_stop");
});

test("the stream helper's final message", async () => {
  const heard = [];
  const stream = anthropic.messages.stream(ask("tiny")).on("text", (t) => heard.push(t));
  const message = await stream.finalMessage();
  assert.equal(message.content[0].text, answer("tiny"));
  assert.equal(heard.join(""), answer("tiny"));
  assert.equal(message.stop_reason, "end_turn");
});

test("countTokens, models", async () => {
  assert.equal((await anthropic.messages.countTokens({ model: "tiny", messages: ask("tiny").messages })).input_tokens, 2);
  const ids = [];
  for await (const model of anthropic.models.list()) ids.push(model.id);
  assert.deepEqual(ids.sort(), ["org/model:7b", "tiny"]);
  assert.equal((await anthropic.models.retrieve("org/model:7b")).id, "org/model:7b");
});

test("metadata.user_id chooses the endpoint", async () => {
  const ups = await Promise.all([1, 2, 3].map((n) => startUpstream(`many${n}`)));
  const to = client(await startRouter(ups));
  const home = async (user_id) => /I am (\w+)/.exec((await to.messages.create(ask("tiny", { metadata: { user_id } }))).content[0].text)[1];
  const homes = new Set();
  for (let i = 0; i < 20; i++) {
    const first = await home(`u${i}`);
    assert.equal(await home(`u${i}`), first);
    homes.add(first);
  }
  assert.ok(homes.size >= 2, `20 users went to ${[...homes]} only`);
});

test("leaving, between events or before the first byte, closes the endpoint's connection", async () => {
  for await (const _ of await anthropic.messages.create(ask("endless", { stream: true }))) break;
  await up.waitState(up.last, "left");
  const stream = anthropic.messages.stream(ask("endless"));
  stream.on("streamEvent", () => stream.abort());
  assert.ok((await raised(stream.done())) instanceof Anthropic.APIUserAbortError);
  await up.waitState(up.last, "left");
  const n = up.requests.length;
  const controller = new AbortController();
  const silent = raised(anthropic.messages.create(ask("endless"), { signal: controller.signal }));
  await up.waitRequests(n + 1);
  await up.wait(() => up.last.state === "answering", "the request did not arrive whole");
  controller.abort();
  await silent;
  await up.waitState(up.last, "left");
});

async function error(promise, kind, status, type) {
  const e = await raised(promise);
  assert.ok(e instanceof kind, `${e.constructor.name}: ${e.message}`);
  assert.equal(e.status, status);
  assert.equal(e.error.type, "error");
  assert.deepEqual([e.error.error.type, typeof e.error.error.message], [type, "string"]);
  return e;
}

test("errors of the router have that API's shape and the SDK's classes", async () => {
  const strict = await startRouter([up], { pool: { models: ["tiny"] }, api_keys: ["sk-right"], max_body: "1m" });
  const right = client(strict, { apiKey: "sk-right" });
  await error(client(strict).messages.create(ask("tiny")), Anthropic.AuthenticationError, 401, "authentication_error");
  await error(right.messages.create(ask("other")), Anthropic.NotFoundError, 404, "not_found_error");
  await error(right.messages.create(ask("")), Anthropic.BadRequestError, 400, "invalid_request_error");
  await error(right.messages.create(ask("tiny", { system: "x".repeat(4 << 20) })), Anthropic.APIError, 413, "request_too_large");
  for (const how of [{ apiKey: "sk-right" }, { apiKey: null, authToken: "sk-right" }]) { // x-api-key, or Bearer
    await client(strict, how).messages.create(ask("tiny"));
    assert.deepEqual([up.last.headers["x-api-key"], up.last.headers.authorization], [undefined, undefined]);
  }
});

test("RateLimitError, overloaded, timeout and 502", async () => {
  const full = await startRouter([up], { pool: { max_inflight: 1 } });
  const holder = new AbortController();
  const n = up.requests.length;
  const held = raised(client(full).messages.create(ask("endless"), { signal: holder.signal }));
  await up.waitRequests(n + 1);
  const e = await error(client(full).messages.create(ask("tiny")), Anthropic.RateLimitError, 429, "rate_limit_error");
  assert.ok(e.headers.get("retry-after") >= 1);
  holder.abort();
  await held;

  const nobody = await startRouter([{ url: `http://127.0.0.1:${await freePort()}` }], { pool: { health: { interval: "100ms", fall: 1 } } });
  await until(async () => (await fetch(`${nobody.url}/ready`)).status === 503 && /"p":false/.test(await (await fetch(`${nobody.url}/ready`)).text()), "the endpoint is not down");
  await error(client(nobody).messages.create(ask("tiny")), Anthropic.InternalServerError, 503, "overloaded_error");

  const impatient = client(await startRouter([up], { pool: { first_byte_timeout: "400ms" } }), { maxRetries: 2 });
  const before = up.requests.length;
  await error(impatient.messages.create(ask("endless")), Anthropic.InternalServerError, 504, "timeout_error");
  await up.waitRequests(before + 1);
  assert.equal(up.requests.length, before + 1); // x-should-retry: false
  await error(anthropic.messages.create(ask("reset")), Anthropic.InternalServerError, 502, "api_error");
});

test("the endpoint's own errors are passed on, and retried after the Retry-After it said", async () => {
  await error(anthropic.messages.create(ask("fail-400")), Anthropic.BadRequestError, 400, "invalid_request_error");
  await error(anthropic.messages.create(ask("fail-529")), Anthropic.InternalServerError, 529, "api_error");
  const { noted, fetcher } = notingFetch();
  const message = await client(router, { maxRetries: 2, fetch: fetcher }).messages.create(ask("fail-429-1"));
  assert.equal(message.content[0].text, answer("fail-429-1"));
  assert.deepEqual(noted.map((r) => r.status), [429, 200]);
  assert.ok(noted[1].at - noted[0].at >= 950);
});

test("a stream that breaks raises an api_error", async () => {
  const events = [];
  const e = await raised((async () => {
    for await (const event of await anthropic.messages.create(ask("broken", { stream: true }))) events.push(event.type);
  })());
  assert.deepEqual(events, ["message_start", "content_block_start"]);
  assert.ok(e instanceof Anthropic.APIError, String(e));
  assert.equal(e.error.error.type, "api_error");
  assert.ok((await raised(anthropic.messages.stream(ask("broken")).finalMessage())) instanceof Anthropic.APIError);
});
