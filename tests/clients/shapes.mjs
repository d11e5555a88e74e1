/* shapes: what an LLM server answers, one maker a path. Pure: a request and a server's name in, texts out.
 * An answer is {json}, {bytes, type} or, where the request asks for a stream, {stream: [event, …], type}. The text of every answer
 * is made of the server's name, the user and what was asked, so that a test sees from it that both ways were whole.
 */

const CREATED = 1700000000;

const joined = (content) =>
  Array.isArray(content) ? content.map((part) => part.text ?? `[${part.type}]`).join("") : String(content ?? "");

/** The last thing that a user said, in whichever shape. */
export function asked(body) {
  const said = body.messages ?? body.input ?? body.prompt ?? "";
  if (!Array.isArray(said)) return String(said);
  const last = [...said].reverse().find((m) => m.role === "user") ?? said.at(-1);
  return joined(last?.content ?? last);
}

/** The answer's text; 8 words and those that were asked. A test that compares it says so by this function too. */
export const text = (name, body) =>
  `I am ${name} and ${body.user ?? "somebody"} asked ${body.model}: ${asked(body).slice(0, 200)} done.`;

/** An error as servers of that path write it. */
export function error(path, status, message = `the endpoint says ${status}`) {
  const types = { 400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error" };
  if (path.startsWith("/v1/messages")) return { type: "error", error: { type: types[status] ?? "api_error", message } };
  if (path.startsWith("/api/")) return { error: message };
  const type = status === 429 ? "rate_limit_error" : status < 500 ? "invalid_request_error" : "server_error";
  return { error: { message, type, param: status === 400 ? "messages" : null, code: `endpoint_${status}` } };
}

const words = (whole) => whole.split(/(?<= )/);
const event = (value) => `data: ${JSON.stringify(value)}\n\n`;
const named = (value) => `event: ${value.type}\n${event(value)}`;
const line = (value) => JSON.stringify(value) + "\n";
const sse = (stream) => ({ stream, type: "text/event-stream" });

function count(body) {
  const [prompt, completion] = [asked(body).split(" ").length, 9];
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion };
}

function chat({ name, body, number }) {
  const base = { id: `chatcmpl-${name}-${number}`, created: CREATED, model: body.model, system_fingerprint: name };
  const whole = text(name, body);
  if (!body.stream) {
    const choice = { index: 0, message: { role: "assistant", content: whole, refusal: null }, logprobs: null, finish_reason: "stop" };
    if (body.tools) {
      choice.message.content = null;
      choice.message.tool_calls = [{ id: "call_1", type: "function", function: { name: body.tools[0].function.name, arguments: '{"city":"Ulm"}' } }];
      choice.finish_reason = "tool_calls";
    }
    return { json: { ...base, object: "chat.completion", choices: [choice], usage: count(body) } };
  }
  const chunk = (delta, finish_reason = null) => ({ ...base, object: "chat.completion.chunk", choices: [{ index: 0, delta, logprobs: null, finish_reason }] });
  const events = [chunk({ role: "assistant", content: "" }), ...words(whole).map((content) => chunk({ content })), chunk({}, "stop")];
  if (body.stream_options?.include_usage) events.push({ ...base, object: "chat.completion.chunk", choices: [], usage: count(body) });
  return sse([...events.map(event), "data: [DONE]\n\n"]);
}

function completion({ name, body, number }) {
  const base = { id: `cmpl-${name}-${number}`, object: "text_completion", created: CREATED, model: body.model };
  const whole = text(name, body);
  if (!body.stream) return { json: { ...base, choices: [{ index: 0, text: whole, logprobs: null, finish_reason: "stop" }], usage: count(body) } };
  const events = words(whole).map((part) => ({ ...base, choices: [{ index: 0, text: part, logprobs: null, finish_reason: null }] }));
  return sse([...events.map(event), "data: [DONE]\n\n"]);
}

function responses({ name, body, number }) {
  const id = `resp_${number}`;
  const item = (status, content) => ({ id: `msg_${number}`, type: "message", role: "assistant", status, content });
  const part = (t) => ({ type: "output_text", text: t, annotations: [], logprobs: [] });
  const whole = text(name, body);
  const response = (status, output) => ({
    id, object: "response", created_at: CREATED, status, model: body.model, output, error: null, incomplete_details: null,
    instructions: body.instructions ?? null, metadata: {}, parallel_tool_calls: true, temperature: 1, tool_choice: "auto", tools: [], top_p: 1,
    usage: { input_tokens: 5, input_tokens_details: { cached_tokens: 0 }, output_tokens: 9, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 14 },
  });
  const done = response("completed", [item("completed", [part(whole)])]);
  if (!body.stream) return { json: done };
  const at = { item_id: `msg_${number}`, output_index: 0, content_index: 0 };
  const events = [
    { type: "response.created", response: response("in_progress", []) },
    { type: "response.output_item.added", output_index: 0, item: item("in_progress", []) },
    { type: "response.content_part.added", ...at, part: part("") },
    ...words(whole).map((delta) => ({ type: "response.output_text.delta", ...at, delta, logprobs: [] })),
    { type: "response.output_text.done", ...at, text: whole, logprobs: [] },
    { type: "response.content_part.done", ...at, part: part(whole) },
    { type: "response.output_item.done", output_index: 0, item: item("completed", [part(whole)]) },
    { type: "response.completed", response: done },
  ];
  return sse(events.map((e, i) => named({ ...e, sequence_number: i })));
}

function messages({ name, body, number }) {
  const whole = text(name, { ...body, user: body.metadata?.user_id });
  const message = { id: `msg_${number}`, type: "message", role: "assistant", model: body.model, content: [], stop_reason: null, stop_sequence: null, usage: { input_tokens: 5, output_tokens: 1 } };
  if (!body.stream)
    return { json: { ...message, content: [{ type: "text", text: whole }], stop_reason: "end_turn", usage: { input_tokens: 5, output_tokens: 9 } } };
  const events = [
    { type: "message_start", message },
    { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } },
    ...words(whole).map((t) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text: t } })),
    { type: "content_block_stop", index: 0 },
    { type: "message_delta", delta: { stop_reason: "end_turn", stop_sequence: null }, usage: { output_tokens: 9 } },
    { type: "message_stop" },
  ];
  const [first, ...others] = events.map(named);
  return sse([named({ type: "ping" }) + first, ...others]); // a ping is nothing that a client reports
}

/** One vector a text: its length and two numbers that every float holds exactly. */
const vector = (t) => [String(t).length, 0.5, -1];

function embeddings({ body }) {
  const inputs = Array.isArray(body.input) ? body.input : [body.input];
  const data = inputs.map((t, index) => {
    const numbers = vector(t);
    const embedding = body.encoding_format === "base64" ? Buffer.from(new Float32Array(numbers).buffer).toString("base64") : numbers;
    return { object: "embedding", index, embedding };
  });
  return { json: { object: "list", model: body.model, data, usage: { prompt_tokens: inputs.length, total_tokens: inputs.length } } };
}

/** Ollama streams unless it is told not to. */
function ollama(whole, piece) {
  return ({ name, body }) => {
    const base = { model: body.model, created_at: "2023-11-14T22:13:20Z" };
    const end = { done: true, done_reason: "stop", total_duration: 5, load_duration: 1, prompt_eval_count: 5, prompt_eval_duration: 1, eval_count: 9, eval_duration: 1 };
    const all = text(name, body);
    if (body.stream === false) return { json: { ...base, ...whole(all), ...end } };
    const parts = words(all).map((t) => ({ ...base, ...piece(t), done: false }));
    return { stream: [...parts, { ...base, ...piece(""), ...end }].map(line), type: "application/x-ndjson" };
  };
}
const ollamaChat = (content) => ({ message: { role: "assistant", content } });
const ollamaText = (response) => ({ response });

function transcription({ form, path }) {
  const file = form.get("file");
  const words = `${path.endsWith("translations") ? "translated" : "heard"} ${file.size} bytes of ${file.name}`;
  if (form.get("response_format") === "text") return { bytes: Buffer.from(words + "\n"), type: "text/plain; charset=utf-8" };
  return { json: { text: words } };
}

const moderation = { flagged: false, categories: {}, category_scores: {}, category_applied_input_types: {} };

/** path -> maker; each takes {name, path, number, body, form}. */
export const makers = {
  "/v1/chat/completions": chat,
  "/v1/completions": completion,
  "/v1/responses": responses,
  "/v1/messages": messages,
  "/v1/messages/count_tokens": ({ body }) => ({ json: { input_tokens: asked(body).split(" ").length } }),
  "/v1/embeddings": embeddings,
  "/v1/moderations": ({ body }) => ({ json: { id: "modr-1", model: body.model, results: [moderation] } }),
  "/v1/images/generations": () => ({ json: { created: CREATED, data: [{ b64_json: Buffer.from("an image").toString("base64") }] } }),
  "/v1/audio/speech": ({ body }) => ({ bytes: Buffer.alloc(100_000, body.input), type: "audio/mpeg" }),
  "/v1/audio/transcriptions": transcription,
  "/v1/audio/translations": transcription,
  "/api/chat": ollama(ollamaChat, ollamaChat),
  "/api/generate": ollama(ollamaText, ollamaText),
  "/api/embed": ({ body }) => ({ json: { model: body.model, embeddings: [body.input].flat().map(vector), total_duration: 1, load_duration: 1, prompt_eval_count: 1 } }),
  "/api/embeddings": ({ body }) => ({ json: { embedding: vector(body.prompt) } }),
  "/api/show": ({ body, name }) => ({ json: { modelfile: `# ${name}`, template: "{{ .Prompt }}", details: { family: body.model, format: "gguf" }, model_info: {} } }),
};
