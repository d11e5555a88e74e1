/* The `ollama` package from npm against the router: chat, generate, embed, list, show, streams, leaving, errors. */
import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { pace, raised, startRouter, startUpstream, test, until } from "./lab.mjs";
import { text } from "./shapes.mjs";

const up = await startUpstream();
const router = await startRouter([up], { pool: { model_list: { interval: "100ms" } } });
const ollama = new Ollama({ host: router.url });
const messages = [{ role: "user", content: "Hello there" }];
const answer = (model) => text("up1", { model, messages });

test("chat", async () => {
  const response = await ollama.chat({ model: "tiny", messages });
  assert.equal(response.message.content, answer("tiny"));
  assert.equal(response.done, true);
});

test("chat stream: each line reaches the client before the next is sent", async () => {
  let whole = "";
  let done = 0;
  await pace(up, () => ollama.chat({ model: "paced", messages, stream: true }), (part) => {
    whole += part.message.content;
    done += part.done;
  });
  assert.equal(whole, answer("paced"));
  assert.equal(done, 1);
});

test("generate, whole and streamed", async () => {
  assert.equal((await ollama.generate({ model: "tiny", prompt: "Hello there" })).response, answer("tiny"));
  let whole = "";
  for await (const part of await ollama.generate({ model: "tiny", prompt: "Hello there", stream: true })) whole += part.response;
  assert.equal(whole, answer("tiny"));
});

test("embed, the older embeddings, show", async () => {
  assert.deepEqual((await ollama.embed({ model: "tiny", input: ["four", "seven77"] })).embeddings, [[4, 0.5, -1], [7, 0.5, -1]]);
  assert.deepEqual((await ollama.embeddings({ model: "tiny", prompt: "four" })).embedding, [4, 0.5, -1]);
  const shown = await ollama.show({ model: "org/model:7b" });
  assert.equal(shown.details.family, "org/model:7b");
  assert.equal(shown.modelfile, "# up1");
});

test("list and version are the router's", async () => {
  await until(async () => (await fetch(`${router.url}/v1/models`).then((r) => r.json())).data.some((m) => m.owned_by === "up1"), "the endpoint's list has not come");
  const { models } = await ollama.list();
  assert.deepEqual(models.map((m) => m.name).sort(), ["org/model:7b", "tiny"]);
  assert.match((await ollama.version()).version, /^\d+\.\d+/);
});

test("leaving a stream, by break or abort, closes the endpoint's connection", async () => {
  const stream = await ollama.chat({ model: "endless", messages, stream: true });
  await raised((async () => {
    for await (const _ of stream) stream.abort();
  })());
  await up.waitState(up.last, "left");
});

test("errors are told in Ollama's shape", async () => {
  const strict = await startRouter([up], { pool: { models: ["tiny-model"] }, api_keys: ["sk-right"] });
  const guest = await raised(new Ollama({ host: strict.url }).chat({ model: "tiny", messages }));
  assert.deepEqual([guest.name, guest.status_code], ["ResponseError", 401]);
  const member = new Ollama({ host: strict.url, headers: { Authorization: "Bearer sk-right" } });
  const missing = await raised(member.chat({ model: "tiny-modle", messages }));
  assert.equal(missing.status_code, 404);
  assert.match(missing.error, /tiny-model/); // a text, as Ollama's own
  const absent = await raised(member.ps());
  assert.equal(absent.status_code, 404);
  const own = await raised(ollama.chat({ model: "fail-400", messages }));
  assert.deepEqual([own.status_code, own.error], [400, "the endpoint says 400"]);
  const broken = await raised(ollama.chat({ model: "reset", messages }));
  assert.equal(broken.status_code, 502);
});

test("a stream that breaks raises", async () => {
  const parts = [];
  const e = await raised((async () => {
    for await (const part of await ollama.chat({ model: "broken", messages, stream: true })) parts.push(part);
  })());
  assert.equal(parts.length, 2);
  assert.match(e.message, /broke off/);
});
