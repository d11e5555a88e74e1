/* The `ai` package with `@ai-sdk/openai-compatible` against the router: text, streams, tools, embeddings, leaving, errors. */
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateText, RetryError, streamText } from "ai";
import { pace, raised, startRouter, startUpstream, test } from "./lab.mjs";
import { text } from "./shapes.mjs";

const up = await startUpstream();
const router = await startRouter([up]);
const provider = createOpenAICompatible({ name: "router", baseURL: `${router.url}/v1`, apiKey: "sk-test", includeUsage: true });
const ask = (model, more = {}) => ({ model: provider(model), system: "Be brief.", prompt: "Hello there", maxRetries: 0, providerOptions: { router: { user: "alice" } }, ...more });
const answer = (model) => text("up1", { model, user: "alice", prompt: "Hello there" });

test("generateText", async () => {
  const result = await generateText(ask("tiny"));
  assert.equal(result.text, answer("tiny"));
  assert.equal(result.usage.totalTokens, 11);
  assert.equal(result.finishReason, "stop");
  assert.equal(up.last.json.user, "alice");
});

test("streamText: each event reaches the client before the next is sent", async () => {
  const result = streamText(ask("paced", { includeRawChunks: true }));
  let whole = "";
  await pace(up, () => result.fullStream, (part) => (whole += part.type === "text-delta" ? part.text : ""), (part) => part.type === "raw");
  assert.equal(whole, answer("paced"));
  assert.equal((await result.usage).totalTokens, 11);
});

test("embedMany", async () => {
  const { embeddings } = await embedMany({ model: provider.textEmbeddingModel("tiny"), values: ["four", "seven77"], maxRetries: 0 });
  assert.deepEqual(embeddings, [[4, 0.5, -1], [7, 0.5, -1]]);
});

test("an abort, in mid-stream or before the first byte, closes the endpoint's connection", async () => {
  const controller = new AbortController();
  const { fullStream } = streamText(ask("endless", { abortSignal: controller.signal, includeRawChunks: true }));
  for await (const part of fullStream) if (part.type === "raw") controller.abort();
  await up.waitState(up.last, "left");
  const silent = new AbortController();
  const n = up.requests.length;
  const promise = raised(generateText(ask("endless", { abortSignal: silent.signal })));
  await up.waitRequests(n + 1);
  await up.wait(() => up.last.state === "answering", "the request did not arrive whole");
  silent.abort();
  assert.equal((await promise).name, "AbortError");
  await up.waitState(up.last, "left");
});

async function error(promise, status, code, retryable) {
  const e = await raised(promise);
  assert.ok(APICallError.isInstance(e), String(e));
  assert.equal(e.statusCode, status);
  assert.equal(e.isRetryable, retryable);
  const { error: told } = JSON.parse(e.responseBody);
  assert.equal(told.code, code);
  assert.equal(e.message, told.message);
}

test("errors of the router and of the endpoint are read", async () => {
  const strict = await startRouter([up], { pool: { models: ["tiny"] }, api_keys: ["sk-right"] });
  const to = (apiKey) => createOpenAICompatible({ name: "router", baseURL: `${strict.url}/v1`, apiKey });
  await error(generateText(ask("tiny", { model: to("sk-wrong")("tiny") })), 401, "invalid_api_key", false);
  await error(generateText(ask("tiny", { model: to("sk-right")("other") })), 404, "model_not_found", false);
  await error(generateText(ask("reset")), 502, "upstream_error", true);
  await error(generateText(ask("fail-422")), 422, "endpoint_422", false);
});

test("a 429 is asked again after the Retry-After it said, and given up in the end", async () => {
  const begin = Date.now();
  const result = await generateText(ask("fail-429-1", { maxRetries: 2 }));
  assert.equal(result.text, answer("fail-429-1"));
  assert.ok(Date.now() - begin >= 950);
  const n = up.requests.length;
  const e = await raised(generateText(ask("fail-429", { maxRetries: 1 })));
  assert.ok(RetryError.isInstance(e), String(e));
  assert.equal(up.requests.length, n + 2);
});

test("a stream that breaks is an error, not an end", async () => {
  const errors = [];
  const { fullStream } = streamText(ask("broken", { onError: ({ error: e }) => errors.push(e) }));
  const types = [];
  const cut = await raised((async () => {
    for await (const part of fullStream) types.push(part.type);
  })());
  assert.ok(types.includes("error") && !types.includes("finish"), types.join());
  assert.match(JSON.stringify(errors[0].message ?? errors[0]), /broke off/); // the router's event
  assert.ok(APICallError.isInstance(cut), String(cut)); // and the missing end of the body
});
