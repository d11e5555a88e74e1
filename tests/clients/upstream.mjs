/* upstream: a scripted LLM server. It speaks the shapes of shapes.mjs and tells which requests it saw and when their client left.
 * What it does with a request is said by the model's name, so that every client can ask for it:
 *   paced       event n+1 only after step() was called          endless     one event (or none, if not a stream), then silence
 *   broken      half an answer, then the connection dies        reset       the connection dies before a byte
 *   fail-S      error of status S                               fail-S-N    the same N times, then answers (counted by model and path)
 *   quiet-429   that, without Retry-After                       anything    an answer
 * In a Node test: Upstream.start(). As a process: `node upstream.mjs N` starts N of them, prints {"control":URL,"urls":[...]} and ends
 * with its stdin; each POST of {"verb","endpoint",...} to the control URL is one of the verbs at the end of this file.
 */
import { createHash } from "node:crypto";
import { once, EventEmitter } from "node:events";
import http from "node:http";
import { pathToFileURL } from "node:url";
import { error, makers } from "./shapes.mjs";

const DEADLINE = 10_000;
export const MODELS = ["tiny", "org/model:7b"];

/** One request as it came, and how it ended: state is reading, answering, done, left (by its client) or broken (by us). */
class Seen {
  constructor(number, req) {
    Object.assign(this, { number, method: req.method, path: req.url.split("?")[0], target: req.url, headers: req.headers, state: "reading" });
    this.body = Buffer.alloc(0);
    this.pending = []; // events of a paced stream that wait for step()
  }

  async parse() {
    const type = this.headers["content-type"] ?? "";
    if (type.startsWith("multipart/form-data")) {
      this.form = await new Response(this.body, { headers: { "content-type": type } }).formData();
      this.model = this.form.get("model");
    } else {
      this.json = JSON.parse(this.body.toString());
      this.model = this.json.model;
    }
  }

  /** What another process may know of it. */
  async summary() {
    const { number, method, path, target, headers, state, model, json } = this;
    const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
    const file = this.form?.get("file");
    return {
      number, method, path, target, headers, state, model, keys: json && Object.keys(json), size: this.body.length, sha256: sha256(this.body),
      file: file && { name: file.name, size: file.size, sha256: sha256(Buffer.from(await file.arrayBuffer())) },
    };
  }
}

export class Upstream {
  static async start(name = "up", port = 0) {
    const up = new Upstream();
    up.name = name;
    up.requests = []; // POSTs only; what the router asks by itself is no client's request
    up.failures = new Map();
    up.changed = new EventEmitter().setMaxListeners(0);
    up.server = http.createServer((req, res) => up.serve(req, res));
    up.server.listen(port, "127.0.0.1", 1024);
    await once(up.server, "listening");
    up.port = up.server.address().port;
    up.url = `http://127.0.0.1:${up.port}`;
    return up;
  }

  async stop() {
    const closed = once(this.server, "close");
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }

  get last() {
    return this.requests.at(-1);
  }

  /** Waits until predicate() is true of what was seen. */
  async wait(predicate, what) {
    const late = AbortSignal.timeout(DEADLINE);
    while (!predicate())
      await once(this.changed, "change", { signal: late }).catch(() => {
        throw new Error(`endpoint ${this.name}: ${what}; seen: ${this.requests.map((r) => `${r.number} ${r.path} ${r.model} ${r.state}`).join(", ") || "nothing"}`);
      });
  }

  waitRequests(n) {
    return this.wait(() => this.requests.length >= n, `fewer than ${n} requests`);
  }

  /** Until that request has ended as `state` says. */
  waitState(seen, state) {
    return this.wait(() => seen.state === state, `request ${seen.number} is not "${state}"`);
  }

  /** The next event of a paced stream; nothing after its last. */
  step(seen) {
    if (!seen.pending.length) return;
    seen.res.write(seen.pending.shift());
    if (!seen.pending.length) seen.res.end();
  }

  set(seen, state) {
    seen.state = state;
    this.changed.emit("change");
  }

  async serve(req, res) {
    if (req.method === "GET" || req.method === "HEAD") return this.tell(req, res);
    const seen = new Seen(this.requests.length, req);
    seen.res = res;
    this.requests.push(seen);
    res.on("close", () => {
      if (!["done", "broken"].includes(seen.state)) this.set(seen, res.writableFinished ? "done" : "left");
    });
    const parts = [];
    try {
      for await (const part of req) parts.push(part);
    } catch {
      return; // the client left in the middle of its body: "close" notes it
    }
    seen.body = Buffer.concat(parts);
    try {
      await seen.parse();
    } catch (e) {
      return this.send(res, 400, error(seen.path, 400, `endpoint: ${e.message}`));
    }
    this.set(seen, "answering");
    this.answer(seen, res);
  }

  tell(req, res) {
    if (req.url === "/v1/models") {
      const data = MODELS.map((id) => ({ id, object: "model", created: 1700000000, owned_by: this.name, type: "model", display_name: id, created_at: "2023-11-14T22:13:20Z" }));
      return this.send(res, 200, { object: "list", data });
    }
    return this.send(res, req.url === "/health" ? 200 : 404, { status: "ok" });
  }

  send(res, status, json, headers = {}) {
    const body = JSON.stringify(json);
    res.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body), "X-Endpoint": this.name, ...headers }).end(body);
  }

  /** The status with which to refuse, or 0. */
  failure(seen) {
    const [, quiet, status, times] = /^(fail|quiet)-(\d{3})(?:-(\d+))?$/.exec(seen.model) ?? [];
    if (!status) return 0;
    const id = `${seen.path} ${seen.model}`;
    const before = this.failures.get(id) ?? 0;
    this.failures.set(id, before + 1);
    seen.retryAfter = quiet === "fail" && ["429", "503"].includes(status);
    return times && before >= Number(times) ? 0 : Number(status);
  }

  answer(seen, res) {
    const status = this.failure(seen);
    if (status) return this.send(res, status, error(seen.path, status), seen.retryAfter ? { "Retry-After": "1" } : {});
    if (seen.model === "reset") return this.die(seen, res);
    const maker = makers[seen.path];
    if (!maker) return this.send(res, 404, error(seen.path, 404, "no such path"));
    const made = maker({ name: this.name, path: seen.path, number: seen.number, body: seen.json ?? {}, form: seen.form });
    return made.stream ? this.stream(seen, res, made) : this.whole(seen, res, made);
  }

  whole(seen, res, made) {
    if (seen.model === "endless") return; // never a byte
    if (seen.model === "broken") {
      res.writeHead(200, { "Content-Type": "application/json", "Content-Length": 1000 });
      return res.write('{"id":"half', () => this.die(seen, res));
    }
    if (made.json) return this.send(res, 200, made.json);
    res.writeHead(200, { "Content-Type": made.type, "Content-Length": made.bytes.length, "X-Endpoint": this.name }).end(made.bytes);
  }

  stream(seen, res, { stream, type }) {
    res.writeHead(200, { "Content-Type": type, "Cache-Control": "no-cache", "X-Endpoint": this.name });
    if (seen.model === "broken") {
      res.write(stream[0]);
      return res.write(stream[1], () => this.die(seen, res));
    }
    if (seen.model === "endless") return res.write(stream[0]);
    if (seen.model === "paced") {
      seen.pending = [...stream];
      return this.step(seen);
    }
    for (const part of stream) res.write(part);
    res.end();
  }

  die(seen, res) {
    this.set(seen, "broken");
    res.destroy();
  }
}

/* ---- as a process ---- */

const verbs = {
  /** How many requests there were, and those from `since` on. */
  requests: async (up, { since = 0 }) => ({ count: up.requests.length, requests: await Promise.all(up.requests.slice(since).map((r) => r.summary())) }),
  /** Answers once there are `count` requests. */
  wait: async (up, { count }) => (await up.waitRequests(count), {}),
  /** Answers once request `number` has ended as `state` says. */
  state: async (up, { number, state }) => (await up.waitState(up.requests[number], state), {}),
  /** Sends the next event of paced request `number`. */
  step: async (up, { number }) => (up.step(up.requests[number]), { left: up.requests[number].pending.length }),
};

async function main() {
  const ups = [];
  for (let i = 0; i < Number(process.argv[2] ?? 1); i++) ups.push(await Upstream.start(`up${i + 1}`));
  const control = http.createServer(async (req, res) => {
    const parts = [];
    for await (const part of req) parts.push(part);
    let [status, value] = [200, null];
    try {
      const { verb, endpoint = 0, ...args } = JSON.parse(Buffer.concat(parts));
      value = await verbs[verb](ups[endpoint], args);
    } catch (e) {
      [status, value] = [500, { error: e.message }];
    }
    const body = JSON.stringify(value);
    res.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) }).end(body);
  });
  control.listen(0, "127.0.0.1");
  await once(control, "listening");
  console.log(JSON.stringify({ control: `http://127.0.0.1:${control.address().port}`, urls: ups.map((u) => u.url) }));
  process.stdin.on("end", () => process.exit(0)).resume();
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
