// A person at the page, in headless Chromium. Arguments: Chromium, address, API key. Writes what was seen, as JSON.

import { chromium } from "playwright-core";

const [executablePath, url, key] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const seen = { complaints: [], origins: [] };

async function open(options, path = "") {
  const page = await browser.newPage(options);
  page.setDefaultTimeout(60_000);
  page.on("console", (message) => { if (message.type() === "error") seen.complaints.push(message.text()); });
  page.on("pageerror", (error) => seen.complaints.push(error.message));
  page.on("request", (request) => seen.origins.push(new URL(request.url()).origin));
  await page.goto(`${url}/${path}`);
  return page;
}

const field = (page, name) => page.locator(`#settings [name=${name}]`);
const numbers = (page, id) => page.locator(`#${id} dd`).allTextContents();
const idle = (page) => page.waitForFunction(() => document.querySelectorAll(".output.busy").length === 0);
const backgrounds = (page) =>
  page.$$eval("#streamed .token", (tokens) => [...new Set(tokens.map((one) => getComputedStyle(one).backgroundColor))]);

// ---- the comparison, with the keyboard -------------------------------------------------------------------------

const page = await open({ viewport: { width: 1280, height: 900 } });
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

await field(page, "max_tokens").fill("12");
await page.focus("#tab-compare");
await page.keyboard.press("ArrowRight");
seen.tabs = await page.$$eval("[role=tabpanel]", (all) => all.map((one) => one.hidden));
for (const [index, text] of ["Who are you?", "What did I ask?"].entries()) {
  await page.fill("#message", text);
  await page.focus("#message");
  await page.keyboard.press("Enter");
  await page.waitForFunction((count) => document.querySelectorAll(".assistant small").length > count, index);
}
seen.chat = await page.locator(".message").allTextContents();
await page.screenshot({ path: "chat.png", fullPage: true });
await page.click("#clear");
seen.cleared = await page.locator(".message").count();

// ---- a telephone, at night -------------------------------------------------------------------------------------

const narrow = await open({ viewport: { width: 360, height: 740 }, colorScheme: "dark" });
seen.narrow = await narrow.evaluate(() => ({
  overflow: document.documentElement.scrollWidth - innerWidth,
  tops: [...document.querySelectorAll("article")].map((one) => one.getBoundingClientRect().top),
  back: getComputedStyle(document.body).backgroundColor,
}));
await narrow.screenshot({ path: "narrow.png", fullPage: true });
seen.complaints = [];

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
