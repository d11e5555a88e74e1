/* `@langchain/openai` from npm against the router: chat, streams, batches, embeddings, leaving, errors. */
import assert from "node:assert/strict";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { pace, raised, startRouter, startUpstream, test } from "./lab.mjs";
import { text } from "./shapes.mjs";

const up = await startUpstream();
const router = await startRouter([up]);
const chat = (model, more = {}, to = router) => new ChatOpenAI({ model, apiKey: "sk-test", maxRetries: 0, user: "alice", configuration: { baseURL: `${to.url}/v1` }, ...more });
const answer = (model, prompt = "Hello there") => text("up1", { model, user: "alice", prompt });

test("invoke", async () => {
  const message = await chat("tiny").invoke("Hello there");
  assert.equal(message.content, answer("tiny"));
  assert.equal(message.usage_metadata.total_tokens, 11);
});

test("stream: each event reaches the client before the next is sent", async () => { // (but usage, which it keeps to itself until the end)
  let whole = "";
  await pace(up, () => chat("paced", { streamUsage: false }).stream("Hello there"), (chunk) => (whole += chunk.content));
  assert.equal(whole, answer("paced"));
});

test("batch, and the responses API", async () => {
  const messages = await chat("tiny").batch(["one", "two", "three"]);
  assert.deepEqual(messages.map((m) => m.content), ["one", "two", "three"].map((p) => answer("tiny", p)));
  const message = await chat("tiny", { useResponsesApi: true }).invoke("Hello there");
  assert.equal(up.last.path, "/v1/responses");
  assert.equal(message.text, answer("tiny"));
});

test("embeddings", async () => {
  const embeddings = new OpenAIEmbeddings({ model: "tiny", apiKey: "sk-test", configuration: { baseURL: `${router.url}/v1` } });
  assert.deepEqual(await embeddings.embedDocuments(["four", "seven77"]), [[4, 0.5, -1], [7, 0.5, -1]]);
});

test("leaving a stream closes the endpoint's connection", async () => {
  const leaving = new AbortController(); // not break: on node 18 that waits for the next event, whoever is asked
  await raised((async () => {
    for await (const _ of await chat("endless").stream("x", { signal: leaving.signal })) leaving.abort();
  })());
  await up.waitState(up.last, "left");
  const controller = new AbortController();
  const n = up.requests.length;
  const promise = raised(chat("endless").invoke("x", { signal: controller.signal }));
  await up.waitRequests(n + 1);
  controller.abort();
  await promise;
  await up.waitState(up.last, "left");
});

test("errors keep their status and code", async () => {
  const strict = await startRouter([up], { pool: { models: ["tiny"] }, api_keys: ["sk-right"] });
  const missing = await raised(chat("other", { apiKey: "sk-right" }, strict).invoke("x"));
  assert.deepEqual([missing.status, missing.code], [404, "model_not_found"]);
  const stranger = await raised(chat("tiny", {}, strict).invoke("x"));
  assert.deepEqual([stranger.status, stranger.code], [401, "invalid_api_key"]);
  const broken = await raised((async () => {
    for await (const _ of await chat("broken").stream("x"));
  })());
  assert.equal(broken.code, "upstream_error");
});

test("a 429 is asked again", async () => {
  const message = await chat("fail-429-1", { maxRetries: 2 }).invoke("Hello there");
  assert.equal(message.content, answer("fail-429-1"));
});
