// A person at the page, in headless Chromium. Arguments: Chromium, address, API key. Writes what was seen, as JSON.

import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";

const [executablePath, url, key] = process.argv.slice(2);
const ELSEWHERE = "headwater.test";
const args = ["--no-sandbox", `--host-resolver-rules=MAP ${ELSEWHERE} 127.0.0.1`];
const browser = await chromium.launch({ executablePath, args });
const seen = { complaints: [], requests: [] };
const axe = await readFile("node_modules/axe-core/axe.min.js", "utf8");

async function open(options, path = "") {
  const page = await browser.newPage(options);
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => { if (message.type() === "error") seen.complaints.push(message.text()); });
  page.on("pageerror", (error) => seen.complaints.push(error.message));
  page.on("request", (request) => seen.requests.push(request.url()));
  await page.goto(`${url}/${path}`);
  return page;
}

/** What axe-core finds wrong: rule, and where. */
async function faults(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  return violations.map((one) => [one.id, one.impact, ...one.nodes.map((node) => node.html)]);
}

const field = (page, name) => page.locator(`#settings [name=${name}]`);
const numbers = (page, id) => page.locator(`#${id} dd`).allTextContents();
const idle = (page) => page.waitForFunction(() => document.querySelectorAll(".output.busy").length === 0);
const backgrounds = (page) =>
  page.$$eval("#streamed .token", (tokens) => [...new Set(tokens.map((one) => getComputedStyle(one).backgroundColor))]);

// ---- the comparison, with the keyboard -------------------------------------------------------------------------

const page = await open({ viewport: { width: 1280, height: 900 }, permissions: ["clipboard-read", "clipboard-write"] });
await page.waitForFunction(() => document.querySelector("#about").textContent);
seen.withoutKey = await page.textContent("#about");
await field(page, "key").fill(key);
await page.keyboard.press("Tab"); // the field has changed when it is left
await page.waitForFunction(() => document.querySelector("#about").textContent.includes("up to"));
seen.about = await page.textContent("#about");
seen.complaints = []; // that there was no key

seen.unnamed = await page.$$eval("input, textarea, button", (all) =>
  all.filter((one) => !one.labels?.length && !one.textContent.trim()).map((one) => one.outerHTML));

await field(page, "max_tokens").fill("40");
await page.focus("#prompt");
await page.keyboard.press("Control+Enter");
await page.waitForSelector("#streamed .token");
seen.whileStreaming = await page.evaluate(() => [
  document.querySelectorAll("#whole .token").length, document.querySelector(".stop").disabled,
]);
await idle(page);
seen.texts = [await page.textContent("#streamed .output"), await page.textContent("#whole .output")];
seen.numbers = [await numbers(page, "streamed"), await numbers(page, "whole")];
seen.notes = await page.locator("article .note").allTextContents();
seen.live = await page.$$eval("[role=log]", (all) => all.map((one) => [one.ariaLive, one.ariaBusy]));
seen.faults = await faults(page);
seen.title = await page.getAttribute("#streamed .token", "title");
seen.colours = await backgrounds(page);
await field(page, "colours").uncheck();
seen.noColours = await backgrounds(page);
await field(page, "colours").check();
const tops = async () => (await page.$$eval("article", (all) => all.map((one) => one.getBoundingClientRect().top)));
seen.wide = await tops();
await page.screenshot({ path: "wide.png", fullPage: true });

// ---- sampled: both panes draw the same; a refusal is shown; Escape stops ---------------------------------------

await page.fill("#prompt", "Once upon a time");
await field(page, "sample").check();
await page.click("#compare-form [type=submit]");
await idle(page);
seen.sampled = [await page.textContent("#streamed .output"), await page.textContent("#whole .output")];
await field(page, "temperature").fill("0");
await page.click("#compare-form [type=submit]");
await page.waitForFunction(() => document.querySelector("#error").textContent);
seen.refusal = await page.textContent("#error");
seen.complaints = []; // the 422
await field(page, "sample").uncheck();
await field(page, "max_tokens").fill("900");
await page.click("#compare-form [type=submit]");
await page.waitForSelector("#streamed .token");
await page.keyboard.press("Escape");
await idle(page);
seen.stopped = [await page.locator("#streamed .token").count(), await page.textContent("#error")];

// ---- the chat --------------------------------------------------------------------------------------------------

const sent = []; // roles of each request
page.on("request", (request) => {
  if (request.url().endsWith("/chat/completions")) sent.push(request.postDataJSON().messages.map((one) => one.role));
});
const answers = (count) =>
  page.waitForFunction((wanted) => document.querySelectorAll(".assistant small").length === wanted, count);
async function say(text) {
  await page.fill("#message", text);
  await page.focus("#message");
  await page.keyboard.press("Enter");
}

await field(page, "max_tokens").fill("12");
await page.focus("#tab-compare");
await page.keyboard.press("ArrowRight");
seen.tabs = await page.$$eval("[role=tabpanel]", (all) => all.map((one) => one.hidden));
await say("Who are you?");
await answers(1);
await say("What did I ask?");
await answers(2);
seen.chat = await page.locator(".message").allTextContents();
await page.locator(".assistant button").first().click();
seen.copied = [await page.evaluate(() => navigator.clipboard.readText()), await page.textContent(".assistant button")];
await page.screenshot({ path: "chat.png", fullPage: true });
seen.chatFaults = await faults(page);

// Sent while an answer is written: it waits for its turn.
await field(page, "max_tokens").fill("60");
await say("Tell me a story.");
await page.waitForSelector(".assistant.busy .token", { state: "attached" });
await say("Another one.");
seen.waiting = [await page.inputValue("#message"), await page.textContent("#waiting"), sent.length];
await answers(4);
seen.waitedFor = [await page.inputValue("#message"), await page.textContent("#waiting"), sent.at(-1)];

// Stopped: what was there stays.
await field(page, "max_tokens").fill("600");
await say("The longest story of all.");
await page.waitForSelector(".assistant.busy .token", { state: "attached" });
await page.keyboard.press("Escape");
await answers(5);
seen.interrupted = await page.locator(".assistant small").last().textContent();

// Refused: it is as if nothing had been said, and the text is there to be sent again.
await field(page, "max_tokens").fill("1020");
await say("Once more.");
await page.waitForFunction(() => document.querySelector("#error").textContent);
seen.refused = [await page.inputValue("#message"), await page.locator(".message").count()];
seen.complaints = seen.complaints.filter((text) => !text.includes("422"));
await field(page, "max_tokens").fill("12");
await page.focus("#message");
await page.keyboard.press("Enter");
await answers(6);
seen.afterwards = sent.at(-1);

await page.click("#clear");
seen.cleared = await page.locator(".message").count();

// ---- a telephone, at night -------------------------------------------------------------------------------------

const narrow = await open({ viewport: { width: 390, height: 664 }, colorScheme: "dark" });
await field(narrow, "key").fill(key);
await field(narrow, "max_tokens").fill("300");
await narrow.click("#compare-form [type=submit]");
await narrow.waitForFunction(() => document.querySelectorAll("#streamed .token").length > 100);
await narrow.evaluate(() => new Promise(requestAnimationFrame));
seen.narrow = await narrow.evaluate(() => ({
  overflow: document.documentElement.scrollWidth - innerWidth,
  inView: [...document.querySelectorAll("article")].map((one) => {
    const { top, bottom, left, right } = one.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight && left >= 0 && right <= innerWidth;
  }),
  back: getComputedStyle(document.body).backgroundColor,
}));
await narrow.screenshot({ path: "narrow.png" });
await narrow.keyboard.press("Escape");
await idle(narrow);
seen.narrowNotes = await narrow.locator("article .note").allTextContents();
seen.narrowFaults = await faults(narrow);
seen.complaints = [];

// ---- another machine's page over plain HTTP, to which browsers give no clipboard -------------------------------

const plain = await browser.newPage();
await plain.goto(`${url.replace("127.0.0.1", ELSEWHERE)}/`);
seen.secure = await plain.evaluate(() => isSecureContext);
await field(plain, "key").fill(key);
await field(plain, "max_tokens").fill("12");
await plain.click("#compare-form [type=submit]");
await idle(plain);
await plain.click("#whole .copy");
await plain.waitForFunction(() => document.querySelector("#whole .copy").textContent !== "Copy");
seen.plainCopy = [await plain.textContent("#whole .copy"), await plain.textContent("#said")];
await plain.fill("#prompt", "");
await plain.focus("#prompt");
await plain.keyboard.press("Control+V");
seen.pasted = [await plain.inputValue("#prompt"), await plain.textContent("#whole .output")];

// ---- the API's page --------------------------------------------------------------------------------------------

const docs = await open({ viewport: { width: 1280, height: 900 } }, "docs");
await docs.waitForFunction(() => document.querySelector("#error").textContent);
seen.complaints = []; // that there was no key
await docs.fill("#key", key);
await docs.keyboard.press("Tab");
const generate = docs.locator("#operations-Text_generation-post_generate");
await generate.locator(".opblock-summary-control").click();
await generate.locator(".opblock-section-request-body .json-schema-2020-12-property").first().waitFor();
const info = docs.locator("#operations-Server-get_info");
await info.locator(".opblock-summary-control").click();
await info.locator(".try-out__btn").click();
await info.locator(".execute").click();
const answer = info.locator(".live-responses-table .response");
await answer.waitFor();
seen.docs = {
  operations: await docs.locator(".opblock").count(),
  fields: await generate.locator(".opblock-section-request-body .json-schema-2020-12-property").evaluateAll((all) =>
    all.map((one) => one.querySelector(".json-schema-2020-12__title").textContent)),
  status: await answer.locator(".response-col_status").textContent(),
  body: await answer.locator(".highlight-code").textContent(),
};
await docs.screenshot({ path: "docs.png" });

// ---- fetch from a page of another origin -----------------------------------------------------------------------

const foreign = await browser.newPage(); // about:blank: its origin is "null"
seen.fetch = await foreign.evaluate(async ([address, secret]) => {
  const body = JSON.stringify({ inputs: "What is Deep Learning?", parameters: { max_new_tokens: 60 } });
  const authorization = `Bearer ${secret}`;
  const headers = { "content-type": "application/json", authorization, "x-stream-resumable": "1" };
  const controller = new AbortController();
  const response = await fetch(`${address}/generate_stream`, { method: "POST", headers, body, signal: controller.signal });
  const id = response.headers.get("x-stream-id");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (text.split("\n\n").length < 4) text += (await reader.read()).value;
  controller.abort(); // the connection is lost
  text = text.slice(0, text.lastIndexOf("\n\n") + 2);
  const last = text.match(/^id: (\d+)$/gm).at(-1).slice("id: ".length);
  const rest = await fetch(`${address}/streams/${id}`, { headers: { authorization, "last-event-id": last } });
  return { lost: Number(last), text: text + (await rest.text()) };
}, [url, key]);

await browser.close();
console.log(JSON.stringify(seen));
