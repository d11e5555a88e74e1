/* lab: one test file's machinery. The router as a process (ROUTER_BIN, default ./router) before scripted upstreams, all on free
 * loopback ports; everything ends with the file's tests, and a router that does not end with status 0 fails them. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, test as plain } from "node:test";
import { fileURLToPath } from "node:url";
import { Upstream } from "./upstream.mjs";

const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const BIN = process.env.ROUTER_BIN ? resolve(process.env.ROUTER_BIN) : join(ROOT, "router");
const DIR = mkdtempSync(join(tmpdir(), "router-clients-"));
const started = { routers: [], ups: [] };

/** A test; it fails after 30 s, and so does one that waits for a stream which somebody holds back. */
export const test = (name, body) => plain(name, { timeout: 30_000 }, body);

after(async () => {
  for (const router of started.routers) await router.stop();
  for (const up of started.ups) await up.stop();
  rmSync(DIR, { recursive: true });
});

process.on("SIGTERM", () => {
  for (const router of started.routers) router.child.kill("SIGKILL");
  process.exit(1);
});

export async function startUpstream(name, port) {
  const up = await Upstream.start(name ?? `up${started.ups.length + 1}`, port);
  started.ups.push(up);
  return up;
}

/** A port on which nobody listens. */
export async function freePort() {
  const up = await Upstream.start();
  await up.stop();
  return up.port;
}

/** One pool of these upstreams (or URLs) for every model, without probes; `pool` and `top` are further keys. JSON is YAML. */
export async function startRouter(ups, { pool = {}, ...top } = {}) {
  const endpoints = ups.map((up) => up.url ?? up);
  const calm = { health: { interval: 0 }, model_list: { interval: 0 } };
  const config = { ...top, pools: [{ name: "p", models: ["tiny", "org/model:7b", "*"], endpoints, ...calm, ...pool }] };
  const path = join(DIR, `pools${started.routers.length + 1}.yaml`);
  writeFileSync(path, JSON.stringify(config, null, 2) + "\n");
  const child = spawn(BIN, ["-config", path, "-listen", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "pipe"] });
  const exited = once(child, "exit");
  const router = { child, path, log: "", lines: [] };
  let rest = "";
  child.stdout.on("data", (data) => {
    const parts = (rest + data).split("\n");
    rest = parts.pop();
    router.lines.push(...parts.map((l) => JSON.parse(l)));
  });
  router.stop = async () => {
    child.kill("SIGTERM");
    const [status, signal] = await exited;
    assert.deepEqual([status, signal], [0, null], `the router did not end well:\n${router.log}`);
  };
  started.routers.push(router);
  child.stderr.on("data", (data) => (router.log += data));
  while (!/listening on (\S+)/.test(router.log)) await Promise.race([once(child.stderr, "data"), exited.then(() => assert.fail(`the router did not start:\n${router.log}`))]);
  router.url = `http://${/listening on (\S+)/.exec(router.log)[1]}`;
  return router;
}

/** The error that a promise ends with. */
export async function raised(promise) {
  try {
    await promise;
  } catch (e) {
    return e;
  }
  return assert.fail("it did not raise");
}

/** Waits for something that no event tells of. */
export async function until(predicate, what) {
  const end = Date.now() + 10_000;
  while (!(await predicate())) {
    assert.ok(Date.now() < end, what);
    await new Promise((r) => setTimeout(r, 10));
  }
}

/** A fetch that notes each answer's status and when it came. */
export function notingFetch() {
  const noted = [];
  const fetcher = async (...args) => {
    const response = await fetch(...args);
    noted.push({ status: response.status, at: Date.now(), retryAfter: response.headers.get("retry-after") });
    return response;
  };
  return { noted, fetcher };
}

/** Every event but the first goes out only when the client has reported the one before: returns how many it reported.
 * counts(event): is this one that stands for an event of the wire? */
export async function pace(up, open, onEvent = () => {}, counts = () => true) {
  let count = 0;
  const before = up.requests.length;
  for await (const event of await open()) {
    onEvent(event);
    if (!counts(event)) continue;
    count++;
    up.step(up.requests[before]);
  }
  return count;
}
