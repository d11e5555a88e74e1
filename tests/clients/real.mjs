/* The packages of npm before a real llama-server. In: the router's URL. Exit status 1 and the reason where one of them fails. */
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import Anthropic from "@anthropic-ai/sdk";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const url = process.argv[2];
const messages = [{ role: "user", content: "Hello there" }];

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const chat = await openai.chat.completions.create({ model: "noise", messages, max_tokens: 12 });
assert.equal(chat.choices[0].message.content.length, 12);
let streamed = "";
for await (const chunk of await openai.chat.completions.create({ model: "noise", messages, max_tokens: 12, stream: true })) streamed += chunk.choices[0]?.delta.content ?? "";
assert.equal(streamed.length, 12);
const response = await openai.responses.create({ model: "noise", input: "Hello there", max_output_tokens: 12 });
assert.equal(response.output_text.length, 12);

const anthropic = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
const message = await anthropic.messages.create({ model: "noise", messages, max_tokens: 12 });
assert.equal(message.content[0].text.length, 12);
const last = await anthropic.messages.stream({ model: "noise", messages, max_tokens: 12 }).finalMessage();
assert.equal(last.content[0].text.length, 12);
assert.ok((await anthropic.messages.countTokens({ model: "noise", messages })).input_tokens > 10);

const provider = createOpenAICompatible({ name: "router", baseURL: `${url}/v1` });
assert.equal((await generateText({ model: provider("noise"), prompt: "Hello there", maxOutputTokens: 12 })).text.length, 12);
assert.equal((await streamText({ model: provider("noise"), prompt: "Hello there", maxOutputTokens: 12 }).text).length, 12);

const langchain = new ChatOpenAI({ model: "noise", apiKey: "none", maxRetries: 0, maxTokens: 12, configuration: { baseURL: `${url}/v1` } });
assert.equal((await langchain.invoke("Hello there")).content.length, 12);
