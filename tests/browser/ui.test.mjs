// The page of the router in Debian's chromium: what it shows, how soon, and that no text of anybody is ever markup.
// SHOTS=directory keeps three screenshots there. The last line is "N passed, M failed".
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { DEADLINE, Endpoint, Router, browser, until } from "./lab.mjs";

const MARKUP = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>&lt;b&gt;"'`;
const tests = [];
const test = (name, run) => tests.push({ name, run });
const chrome = await browser();

// One test's machinery: everything it starts ends with it.
class Lab {
  routers = [];
  endpoints = [];
  contexts = [];
  foreign = new Set(); // requests of pages to anywhere but their router, and their errors

  async endpoint(...how) {
    const e = await new Endpoint(...how).start();
    this.endpoints.push(e);
    return e;
  }

  async router(config) {
    const r = await new Router().start(config);
    this.routers.push(r);
    return r;
  }

  async page(url, options = {}) {
    const context = await chrome.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    this.contexts.push(context);
    const page = await context.newPage();
    page.setDefaultTimeout(DEADLINE);
    page.on("pageerror", error => this.foreign.add(`error: ${error.message}`));
    page.on("console", message => { if (message.type() === "error") this.foreign.add(message.text()); });
    page.on("request", request => { if (!request.url().startsWith(url) && !request.url().startsWith("data:")) this.foreign.add(request.url()); });
    if (options.visit !== false) {
      await page.goto(`${url}/ui`);
      if (options.javaScriptEnabled !== false) await page.waitForFunction(() => document.getElementById("t-flight").textContent !== "–");
    }
    return page;
  }

  async close() {
    for (const context of this.contexts) await context.close();
    for (const e of this.endpoints) if (e.server.listening) await e.die();
    for (const r of this.routers) await r.stop();
  }
}

const row = e => `#endpoints tr[data-url="${e.url}"]`;
const cell = (page, e, n) => page.locator(`${row(e)} td:nth-child(${n})`).textContent();
const state = (page, e) => cell(page, e, 3);
const shows = (page, text, selector, timeout = DEADLINE) =>
  page.waitForFunction(([t, s]) => document.querySelector(s)?.textContent.includes(t), [text, selector], { timeout, polling: 20 });
const pool = (endpoints, more = "") => `${more}\ndefaults: {health: {interval: 200ms, fall: 1}}\npools:\n  - {name: p, models: ["*"], endpoints: [${endpoints.map(e => `"${e.url}"`)}]}\n`;

// ---- what it shows ----

test("a stream that starts shows as in flight within a second, and is gone after it", async lab => {
  const e = await lab.endpoint();
  const router = await lab.router(pool([e]));
  const page = await lab.page(router.url);
  assert.equal(await cell(page, e, 4), "0");
  for (let n = 1; n <= 3; n++) {
    const chat = router.chat();
    const res = await e.begin();
    await shows(page, "1", `${row(e)} td:nth-child(4)`, 1000);
    assert.equal(await page.textContent("#t-flight"), "1");
    e.answer(res);
    await chat;
    await shows(page, "0", `${row(e)} td:nth-child(4)`, 1000);
    assert.equal(await cell(page, e, 5), String(n));
  }
});

test("an endpoint that dies is shown down with the reason, and up again when it is back", async lab => {
  const [a, b] = [await lab.endpoint(), await lab.endpoint()];
  const router = await lab.router(pool([a, b]));
  const page = await lab.page(router.url);
  await shows(page, "up", `${row(a)} td:nth-child(3)`);
  await a.die();
  await shows(page, "down", `${row(a)} td:nth-child(3)`);
  assert.match(await cell(page, a, 10), /refused/i);
  assert.equal(await state(page, b), "up");
  await shows(page, "1 of 2 endpoints down", "#alarm");
  await a.start(a.port);
  await shows(page, "up", `${row(a)} td:nth-child(3)`);
  await page.waitForFunction(() => document.getElementById("alarm").textContent === "");
});

test("the last requests show with model, place, times and tokens, newest first", async lab => {
  const e = await lab.endpoint();
  const router = await lab.router(pool([e]));
  const page = await lab.page(router.url);
  await shows(page, "none yet", "#recent tbody");
  for (const model of ["first", "second"]) {
    const chat = router.chat(model);
    e.answer(await e.begin());
    await chat;
    await shows(page, model, "#recent tbody tr:first-child");
  }
  const cells = await page.locator("#recent tbody tr:first-child td").allTextContents();
  assert.deepEqual([1, 2, 3, 4, 5, 9, 11].map(i => cells[i]), ["second", "p", e.url.slice(7), "hit", "200", "1200 → 180 (85%)", "done"]);
  assert.match(cells[0], /^\d\d:\d\d:\d\d$/);
  assert.equal(await page.locator("#recent tbody tr").count(), 2);
});

test("charts are drawn", async lab => {
  const e = await lab.endpoint();
  const page = await lab.page((await lab.router(pool([e]))).url);
  for (const name of ["rate", "flight", "queued", "first", "tokens"]) {
    await page.waitForFunction(id => /^M.*L/.test(document.getElementById(id).getAttribute("d")), `c-${name}`);
  }
});

test("a reload changes the table; one that is refused says why", async lab => {
  const [a, b] = [await lab.endpoint(), await lab.endpoint()];
  const router = await lab.router(pool([a]));
  const page = await lab.page(router.url);
  await router.reload(pool([b, a]));
  await page.waitForSelector(row(b));
  assert.equal(await page.locator("#endpoints tbody tr").count(), 2);
  await router.reload("nonsense: 1\n");
  await shows(page, "reload refused", "#alarm");
  await shows(page, "nonsense", "#alarm");
});

test("a router that is gone is said to be, and what is old is dimmed", async lab => {
  const router = await lab.router(pool([await lab.endpoint()]));
  const page = await lab.page(router.url);
  await router.stop();
  lab.routers = [];
  await shows(page, "what you see is old", "#alarm");
  assert.ok(await page.evaluate(() => document.body.classList.contains("old")));
  lab.foreign.clear(); // the browser's own word for a refused connection
});

test("without JavaScript there is the table, which renews itself", async lab => {
  const e = await lab.endpoint();
  const page = await lab.page((await lab.router(pool([e]))).url, { javaScriptEnabled: false });
  const text = await page.locator("#endpoints tbody tr").textContent();
  assert.ok(text.includes(e.url) && text.includes("up"), text);
  assert.equal(await page.locator('noscript meta[http-equiv="refresh"], meta[http-equiv="refresh"]').count(), 1);
});

// ---- nothing is markup ----

test("names, paths and ids with markup are text", async lab => {
  const e = await lab.endpoint(["m", MARKUP]);
  e.served = true;
  const router = await lab.router(pool([e]).replace('["*"]', JSON.stringify(["*", MARKUP])));
  const page = await lab.page(router.url);
  await router.chat(MARKUP, MARKUP, { "X-Request-Id": "sane" });
  await router.chat("</td></tr></table><h1>gone</h1>");
  await fetch(`${router.url}/%3Cscript%3E'"&lt;`);
  await page.waitForFunction(() => document.querySelectorAll("#recent tbody tr").length === 3);
  const models = await page.locator("#recent tbody td:nth-child(2)").allTextContents();
  assert.deepEqual(models.slice(1), ["</td></tr></table><h1>gone</h1>", MARKUP]);
  assert.match(models[0], /^\/%3Cscript%3E/);
  await page.reload(); // the first table comes from the server
  await page.waitForSelector(row(e));
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator("h1").count(), 1);
  assert.equal(await page.locator("main img, main script, main b:not([id])").count(), 0);
});

test("the policy stops foreign script, style and connections", async lab => {
  const router = await lab.router(pool([await lab.endpoint()]));
  const page = await lab.page(router.url);
  const stopped = await page.evaluate(async () => {
    const said = [];
    document.addEventListener("securitypolicyviolation", event => said.push(event.effectiveDirective));
    const script = document.createElement("script");
    script.textContent = "window.hacked = 1";
    document.body.append(script);
    document.body.insertAdjacentHTML("beforeend", "<p style='color:red' onclick='window.hacked=1'>x</p><img src='http://127.0.0.1:1/x.png'>");
    document.querySelector("p").click();
    await fetch("http://127.0.0.1:1/").catch(() => {});
    for (const end = performance.now() + 5000; new Set(said).size < 5 && performance.now() < end;) await new Promise(done => setTimeout(done, 20));
    return [...new Set(said)].sort();
  });
  assert.deepEqual(stopped, ["connect-src", "img-src", "script-src-attr", "script-src-elem", "style-src-attr"]);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  lab.foreign.clear(); // what was tried on purpose
});

test("no frame holds it", async lab => {
  const router = await lab.router(pool([await lab.endpoint()]));
  const page = await lab.page(router.url, { visit: false });
  await page.setContent(`<iframe src="${router.url}/ui"></iframe>`);
  const frame = await until(() => page.frames()[1], "no frame");
  await until(() => frame.url().startsWith("chrome-error:") || frame.url().includes("/ui"), "it does not load");
  assert.equal(await frame.locator("#endpoints").count(), 0);
  lab.foreign.clear();
});

// ---- admin_listen ----

const ADMIN = "admin_listen: 127.0.0.1:0";

test("the button drains on admin_listen, and undrains; it can be reached by keyboard", async lab => {
  const [a, b] = [await lab.endpoint(), await lab.endpoint()];
  a.served = b.served = true;
  const router = await lab.router(pool([a, b], ADMIN));
  const page = await lab.page(router.admin);
  await page.click(`${row(a)} button`);
  await shows(page, "draining", `${row(a)} td:nth-child(3)`);
  assert.equal(await page.textContent(`${row(a)} button`), "undrain");
  for (let i = 0; i < 10; i++) await router.chat("m", `u${i}`);
  await shows(page, "10", `${row(b)} td:nth-child(5)`);
  assert.equal(await cell(page, a, 5), "0");
  await page.focus(`${row(a)} button`);
  await page.waitForFunction(() => Number(document.querySelector("#c-rate").getAttribute("d").split("L").length) > 4); // some renewals later
  await page.keyboard.press("Enter"); // the focus is still there
  await shows(page, "up", `${row(a)} td:nth-child(3)`);
  assert.equal(await page.textContent(`${row(a)} button`), "drain");
});

test("on the public address there is no button, and with admin_listen no page", async lab => {
  const e = await lab.endpoint();
  const page = await lab.page((await lab.router(pool([e]))).url);
  assert.equal(await page.locator("#endpoints button").count(), 0);
  const router = await lab.router(pool([e], ADMIN));
  assert.deepEqual([(await fetch(`${router.url}/ui`)).status, (await fetch(`${router.admin}/ui`)).status], [404, 200]);
});

test("a page of another site cannot drain: not by a form, not by fetch, not by a beacon", async lab => {
  const e = await lab.endpoint();
  const router = await lab.router(pool([e], `${ADMIN}\ncors_origins: ["*"]`));
  const evil = await lab.page(e.url, { visit: false }); // its origin is the endpoint's: any other site
  await evil.goto(`${e.url}/health`);
  const target = `${router.admin}/admin/drain?endpoint=${encodeURIComponent(e.url)}`;
  const results = await evil.evaluate(async to => {
    const tried = [
      () => fetch(to, { method: "POST", mode: "no-cors", body: "{}" }),
      () => fetch(to, { method: "POST", mode: "no-cors", body: "{}", headers: { "Content-Type": "text/plain" } }),
      () => fetch(to, { method: "POST", body: "{}", headers: { "Content-Type": "application/json" } }),
      () => navigator.sendBeacon(to, new Blob(["{}"], { type: "application/json" })),
      () => navigator.sendBeacon(to, "{}"),
    ];
    const said = [];
    for (const attempt of tried) said.push(await Promise.resolve().then(attempt).then(r => r.type || r, () => "refused"));
    return said;
  }, target);
  assert.equal(results[2], "refused");
  for (const type of ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"]) {
    await evil.goto(`${e.url}/health`);
    await evil.evaluate(([to, kind]) => {
      document.body.innerHTML = `<form method="post" enctype="${kind}"><input name='{"x":"' value='"}'></form>`;
      document.forms[0].action = to;
    }, [target, type]);
    // The page that answers must be there whole, or the next visit would break into this one.
    const [answer] = await Promise.all([evil.waitForNavigation({ url: target }), evil.evaluate(() => document.forms[0].submit())]);
    assert.equal(answer.status(), 403, type);
  }
  const shown = await (await fetch(`${router.admin}/status`)).json();
  assert.equal(shown.pools[0].endpoints[0].state, "up");
  lab.foreign.clear();
});

test("a name that was made to point here gets nothing", async lab => {
  const router = await lab.router(pool([await lab.endpoint()], ADMIN));
  const port = new URL(router.admin).port;
  const rebound = await chrome.newContext();
  lab.contexts.push(rebound);
  const page = await rebound.newPage();
  await page.route("http://rebound.test/**", async route => { // what DNS rebinding does: the name's own Host at our address
    const answer = await new Promise(done => http.get({ port, host: "127.0.0.1", path: new URL(route.request().url()).pathname, headers: { Host: "rebound.test" } }, done));
    await route.fulfill({ status: answer.statusCode, body: "nothing" });
  });
  assert.equal((await page.goto("http://rebound.test/ui")).status(), 421);
});

// ---- keys ----

test("the browser's own Basic prompt lets one in, and the buttons work with it", async lab => {
  const e = await lab.endpoint();
  const router = await lab.router(pool([e], `${ADMIN}\nadmin_keys: [sk-right]`));
  for (const httpCredentials of [undefined, { username: "any", password: "sk-wrong" }]) {
    const page = await lab.page(router.admin, { visit: false, httpCredentials });
    const answer = await page.goto(`${router.admin}/ui`).catch(() => null);
    assert.ok(!answer || answer.status() === 401);
    assert.equal(await page.locator("#endpoints").count(), 0);
  }
  lab.foreign.clear();
  const page = await lab.page(router.admin, { httpCredentials: { username: "", password: "sk-right" } });
  await page.click(`${row(e)} button`);
  await shows(page, "draining", `${row(e)} td:nth-child(3)`);
  assert.ok(!(await page.content()).includes("sk-right"));
  lab.foreign.clear(); // 401 before the browser sends what it was told
});

test("with api_keys and no admin_listen the page asks too", async lab => {
  const router = await lab.router(pool([await lab.endpoint()], "api_keys: [sk-right]"));
  const answer = await fetch(`${router.url}/ui`);
  assert.equal(answer.status, 401);
  assert.match(answer.headers.get("www-authenticate"), /^Basic realm=/);
  await lab.page(router.url, { httpCredentials: { username: "me", password: "sk-right" } });
  lab.foreign.clear();
});

// ---- looks ----

const WATCH = () => {
  window.shift = 0;
  new PerformanceObserver(list => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value; }).observe({ type: "layout-shift", buffered: true });
};

async function lively(lab) {
  const [a, b, dead] = [await lab.endpoint(["llama3-8b-instruct"]), await lab.endpoint(["qwen2.5-7b"]), await lab.endpoint()];
  await dead.die();
  const router = await lab.router(`${ADMIN}
defaults: {health: {interval: 200ms, fall: 1}}
pools:
  - {name: chat, models: [llama3-8b-instruct, "qwen2.5-*"], aliases: {gpt-4o-mini: llama3-8b-instruct}, max_inflight: 4, queue: {size: 9}, endpoints: ["${a.url}", "${b.url}", "${dead.url}"]}
  - {name: rest, models: ["*"], affinity: none, endpoints: ["${b.url}/a/long/path/that/does/not/fit/anywhere/at/all"]}
`);
  return { a, b, dead, router };
}

for (const [name, options] of [["wide", {}], ["narrow", { viewport: { width: 390, height: 844 } }]]) {
  test(`nothing jumps while things happen (${name})`, async lab => {
    const { a, b, router } = await lively(lab);
    const context = await chrome.newContext({ viewport: { width: 1280, height: 900 }, ...options });
    lab.contexts.push(context);
    await context.addInitScript(WATCH);
    const page = await context.newPage();
    await page.goto(`${router.admin}/ui`);
    a.served = b.served = true;
    for (let i = 0; i < 25; i++) {
      await router.chat(["llama3-8b-instruct", "qwen2.5-7b", "a-model-with-a-very-long-name-that-no-column-has-room-for"][i % 3], `u${i}`);
      if (i === 12) await a.die();
    }
    await shows(page, "down", `${row(a)} td:nth-child(3)`);
    await page.waitForFunction(() => document.querySelectorAll("#recent tbody tr").length === 25);
    const shift = await page.evaluate(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(window.shift)))));
    assert.ok(shift < 0.05, `CLS ${shift}`);
  });
}

for (const width of [320, 390, 768, 1024]) {
  test(`no sideways scroll at ${width} pixels`, async lab => {
    const { b, router } = await lively(lab);
    b.served = true;
    await router.chat("any".repeat(40));
    const page = await lab.page(router.admin, { viewport: { width, height: 800 } });
    await page.waitForFunction(() => document.querySelector("#recent tbody tr td:nth-child(2)"));
    const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
    assert.ok(inner <= outer, `${inner} > ${outer}`);
    if (width <= 720) {
      const inside = await page.evaluate(() => [...document.querySelectorAll(".wide")].filter(w => w.scrollWidth > w.clientWidth).length);
      assert.equal(inside, 0); // on a phone the tables are cards
    }
  });
}

test("light and dark differ, and both are legible", async lab => {
  const { router } = await lively(lab);
  const seen = [];
  for (const colorScheme of ["light", "dark"]) {
    const page = await lab.page(router.admin, { colorScheme });
    seen.push(await page.evaluate(() => {
      const light = text => { // relative luminance, WCAG 2.1
        const [r, g, b] = text.match(/[\d.]+/g).map(Number).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const card = light(getComputedStyle(document.querySelector(".wide")).backgroundColor);
      const words = [...document.querySelectorAll("#endpoints td, #alarm, #about, .tile span, button, th")];
      return { ground: getComputedStyle(document.body).backgroundColor, least: Math.min(...words.map(w => ratio(light(getComputedStyle(w).color), card))) };
    }));
  }
  assert.notEqual(seen[0].ground, seen[1].ground);
  for (const { least } of seen) assert.ok(least >= 4.5, `contrast ${least}`);
});

test("screenshots", async lab => {
  const { a, b, router } = await lively(lab);
  a.served = b.served = true;
  for (let i = 0; i < 12; i++) await router.chat(["llama3-8b-instruct", "gpt-4o-mini", "qwen2.5-7b"][i % 3], `u${i}`);
  a.served = b.served = false;
  const held = ["x", "y", "z"].map(user => router.chat("qwen2.5-7b", user));
  await until(() => a.waiting.length + b.waiting.length === 3, "no chats");
  const directory = process.env.SHOTS;
  for (const [name, options] of Object.entries({ light: {}, dark: { colorScheme: "dark" }, narrow: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 } })) {
    const page = await lab.page(router.admin, options);
    await shows(page, "3", "#t-flight");
    const image = await page.screenshot();
    assert.ok(image.length > 20_000);
    if (directory) fs.writeFileSync(path.join(directory, `ui-${name}.png`), image);
  }
  for (const e of [a, b]) for (const res of e.waiting) e.answer(res);
  await Promise.all(held);
});

// ---- run ----

let passed = 0, failed = 0;
for (const { name, run } of tests.filter(t => !process.argv[2] || t.name.includes(process.argv[2]))) {
  const lab = new Lab();
  let problem = null;
  try {
    await run(lab);
    assert.deepEqual([...lab.foreign], [], "what the page must not do");
  } catch (error) {
    problem = error;
  }
  await lab.close().catch(error => { problem ??= error; });
  if (problem) console.log(`not ok - ${name}\n${String(problem.stack).replace(/^/gm, "    ")}`);
  else console.log(`ok - ${name}`);
  problem ? failed++ : passed++;
}
await chrome.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
