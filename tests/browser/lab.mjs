// What the browser test stands on: scripted endpoints, the router before them, and Debian's chromium.
import { spawn } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const ROUTER = process.env.ROUTER_BIN || path.join(ROOT, "router");
export const DEADLINE = 15000;

// Waits for what has no event of its own. Fails with `what` after the deadline.
export async function until(predicate, what, timeout = DEADLINE) {
  for (const end = Date.now() + timeout; ;) {
    const value = await predicate();
    if (value) return value;
    if (Date.now() > end) throw new Error(what);
    await new Promise(done => setTimeout(done, 20));
  }
}

// An endpoint: answers probes and model lists; each chat is held until the test says what becomes of it.
export class Endpoint {
  constructor(models = ["m"]) {
    this.models = models;
    this.waiting = [];
    this.served = false; // answers at once
    this.sockets = new Set();
  }

  async start(port = 0) {
    this.server = http.createServer((req, res) => this.request(req, res));
    this.server.keepAliveTimeout = 60000;
    this.server.on("connection", socket => { this.sockets.add(socket); socket.on("close", () => this.sockets.delete(socket)); });
    await new Promise(done => this.server.listen(port, "127.0.0.1", done));
    this.port = this.server.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
    return this;
  }

  request(req, res) {
    let body = "";
    req.on("data", data => { body += data; });
    req.on("end", () => {
      if (req.url === "/health") res.end("ok");
      else if (req.method === "GET") res.setHeader("Content-Type", "application/json").end(JSON.stringify({ object: "list", data: this.models.map(id => ({ id })) }));
      else if (this.served) this.answer(res);
      else this.waiting.push(res);
    });
  }

  // One chat of a stream: head and first token.
  async begin() {
    await until(() => this.waiting.length, "no chat came");
    const res = this.waiting.shift();
    res.writeHead(200, { "Content-Type": "text/event-stream" });
    this.say(res, "Hello");
    return res;
  }

  say(res, content) {
    res.write(`data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`);
  }

  answer(res, usage = { prompt_tokens: 1200, completion_tokens: 180, prompt_tokens_details: { cached_tokens: 1024 } }) {
    if (!res.headersSent) {
      res.writeHead(200, { "Content-Type": "text/event-stream" });
      this.say(res, "Hello");
    }
    res.end(`data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`);
  }

  // Gone: the port refuses, what stood is cut.
  async die() {
    const closed = new Promise(done => this.server.close(done));
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}

// The router as a process. `config` is YAML with LISTEN-less pools; addresses are read from its log.
export class Router {
  async start(config) {
    this.directory = fs.mkdtempSync(path.join(os.tmpdir(), "router-ui-"));
    fs.writeFileSync(path.join(this.directory, "pools.yaml"), config);
    this.log = "";
    this.child = spawn(ROUTER, ["-config", "pools.yaml", "-listen", "127.0.0.1:0"], { cwd: this.directory, stdio: ["ignore", "ignore", "pipe"] });
    this.exited = new Promise(done => this.child.on("exit", (status, signal) => done(status ?? signal)));
    this.child.stderr.on("data", data => { this.log += data; });
    const wanted = config.includes("admin_listen:") ? 2 : 1;
    await until(() => (this.log.match(/listening on /g) || []).length >= wanted && this.log.includes(" is running "), "the router does not start");
    const [url, admin] = [...this.log.matchAll(/listening on (\S+)/g)].map(m => `http://${m[1]}`);
    Object.assign(this, { url, admin });
    return this;
  }

  // A chat; resolves when its answer has ended. Its id and model may be anything.
  chat(model = "m", user = "ann", headers = {}) {
    return new Promise((done, fail) => {
      const req = http.request(`${this.url}/v1/chat/completions`, { method: "POST", agent: false, headers: { "Content-Type": "application/json", ...headers } }, res => {
        let body = "";
        res.on("data", data => { body += data; });
        res.on("end", () => done({ status: res.statusCode, body }));
        res.on("error", fail);
      });
      req.on("error", fail);
      req.end(JSON.stringify({ model, user, stream: true, messages: [{ role: "user", content: "Hi" }] }));
    });
  }

  async stop() {
    this.child.kill("SIGTERM");
    const status = await this.exited;
    fs.rmSync(this.directory, { recursive: true });
    if (status !== 0 || /Sanitizer|runtime error:/.test(this.log)) throw new Error(`the router ended with ${status}:\n${this.log}`);
  }

  async reload(config) {
    fs.writeFileSync(path.join(this.directory, "pools.yaml"), config);
    const before = (this.log.match(/ reload: .*(is in force|refused)/g) || []).length;
    this.child.kill("SIGHUP");
    await until(() => (this.log.match(/ reload: .*(is in force|refused)/g) || []).length > before, "no reload");
  }
}

export function browser() {
  return chromium.launch({ executablePath: process.env.CHROMIUM || "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
}
