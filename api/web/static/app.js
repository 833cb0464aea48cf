// Shows what streaming is for: the same answer streamed and not streamed, side by side; and a chat.

import { Failure, events, send } from "./client.js";

const find = (selector, inside = document) => inside.querySelector(selector);
const settings = find("#settings").elements;
let running = null; // AbortController of what runs now

// ---- what the requests say -------------------------------------------------------------------------------------

const number = (name) => (settings[name].value === "" ? undefined : Number(settings[name].value));

/** Sampling parameters, those that are off left out. `seed` is fixed, so that both panes draw the same. */
function sampling(seed) {
  const chosen = { repetition_penalty: number("repetition_penalty"), stop: settings.stop.value ? [settings.stop.value] : undefined };
  if (settings.sample.checked) {
    Object.assign(chosen, { temperature: number("temperature"), top_p: number("top_p"), top_k: number("top_k"), seed });
  }
  return chosen;
}

const drawSeed = () => number("seed") ?? Math.floor(Math.random() * 2 ** 32);

function generateBody(seed) {
  const parameters = {
    ...sampling(seed), do_sample: settings.sample.checked, details: true, max_new_tokens: number("max_tokens"),
  };
  return { inputs: find("#prompt").value, parameters };
}

function chatBody(messages) {
  const system = settings.system.value;
  return {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    stream: true, logprobs: true, max_tokens: number("max_tokens"), temperature: 0, ...sampling(drawSeed()),
  };
}

// ---- what is shown ---------------------------------------------------------------------------------------------

/** A token's text, with how likely it was. */
function token(text, logprob) {
  const span = document.createElement("span");
  span.className = "token";
  span.textContent = text;
  if (logprob !== null && logprob !== undefined) {
    const probability = Math.exp(logprob);
    span.style.setProperty("--p", probability.toFixed(4));
    span.title = `${(probability * 100).toFixed(1)} %`;
  }
  return span;
}

/** Adds to an element that scrolls, and stays at its end if that was in view. */
function append(element, ...children) {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  element.append(...children);
  if (atEnd) element.scrollTop = element.scrollHeight;
}

/** One half of the comparison. */
class Pane {
  constructor(id) {
    this.output = find(`#${id} .output`);
    this.numbers = find(`#${id} .numbers`);
    this.show();
  }

  start() {
    this.output.replaceChildren();
    this.output.classList.add("busy", "waiting");
    this.began = performance.now();
    this.first = this.end = undefined;
    this.count = 0;
    this.show();
  }

  /** Tokens came: `{text, logprob, special}`. */
  add(tokens) {
    this.first ??= performance.now();
    this.count += tokens.length;
    this.output.classList.remove("waiting");
    for (const one of tokens) {
      // Empty lines in front only push the text out of sight.
      const text = this.output.hasChildNodes() ? one.text : one.text.trimStart();
      if (text && !one.special) append(this.output, token(text, one.logprob));
    }
    this.show();
  }

  finish() {
    this.end = performance.now();
    this.output.classList.remove("busy", "waiting");
    this.show();
  }

  show() {
    const milliseconds = (moment) => (moment === undefined ? "–" : `${Math.round(moment - this.began)} ms`);
    const now = this.end ?? performance.now();
    const rate = this.first === undefined ? "–" : `${((this.count / (now - this.began)) * 1000).toFixed(1)}`;
    const shown = { "First token": milliseconds(this.first), "Tokens per second": rate, Total: milliseconds(this.end) };
    this.numbers.replaceChildren(...Object.entries(shown).map(([name, value]) => {
      const pair = document.createElement("div");
      const [term, description] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      description.textContent = value;
      pair.append(term, description);
      return pair;
    }));
  }
}

/** Runs what can be stopped, and shows what goes wrong. */
async function run(work) {
  running?.abort();
  const controller = running = new AbortController();
  const stops = document.querySelectorAll(".stop");
  find("#error").textContent = "";
  stops.forEach((button) => (button.disabled = false));
  try {
    await work(controller.signal);
  } catch (error) {
    if (error.name !== "AbortError") {
      controller.abort();
      find("#error").textContent = error instanceof Failure ? error.message : `The server does not answer: ${error.message}`;
    }
  } finally {
    if (running === controller) {
      running = null;
      stops.forEach((button) => (button.disabled = true));
    }
  }
}

const key = () => settings.key.value;

// ---- the comparison --------------------------------------------------------------------------------------------

const streamed = new Pane("streamed");
const whole = new Pane("whole");

async function fillStreamed(body, signal) {
  streamed.start();
  try {
    const response = await send("generate_stream", { body, key: key(), signal });
    for await (const event of events(response)) streamed.add([event.token]);
  } finally {
    streamed.finish();
  }
}

async function fillWhole(body, signal) {
  whole.start();
  try {
    const response = await send("generate", { body, key: key(), signal });
    whole.add((await response.json()).details.tokens);
  } finally {
    whole.finish();
  }
}

async function compare() {
  const body = generateBody(drawSeed());
  await run((signal) => Promise.all([fillStreamed(body, signal), fillWhole(body, signal)]));
}

// ---- the chat --------------------------------------------------------------------------------------------------

let conversation = [];

function bubble(role) {
  const element = document.createElement("div");
  element.className = `message ${role}`;
  append(find("#messages"), element);
  return element;
}

async function chat() {
  const message = find("#message");
  const content = message.value.trim();
  if (!content) return;
  message.value = "";
  const talk = conversation;
  bubble("user").textContent = content;
  talk.push({ role: "user", content });
  await run(async (signal) => {
    const element = bubble("assistant");
    const began = performance.now();
    let text = "", count = 0, first;
    element.classList.add("busy");
    try {
      const response = await send("v1/chat/completions", { body: chatBody(talk), key: key(), signal });
      for await (const event of events(response)) {
        const choice = event.choices[0];
        if (!choice?.delta.content) continue;
        first ??= performance.now();
        count += choice.logprobs?.content.length ?? 1;
        text += choice.delta.content;
        element.append(token(choice.delta.content, choice.logprobs?.content[0]?.logprob));
        append(find("#messages"));
      }
    } finally {
      element.classList.remove("busy");
      if (text) {
        const note = document.createElement("small");
        const rate = (count / (performance.now() - began)) * 1000;
        note.textContent = `first token after ${Math.round(first - began)} ms, ${rate.toFixed(1)} tokens per second`;
        element.append(note);
        append(find("#messages"));
        talk.push({ role: "assistant", content: text });
      } else {
        element.remove();
      }
    }
  });
}

function clearChat() {
  running?.abort();
  conversation = [];
  find("#messages").replaceChildren();
  find("#message").focus();
}

// ---- the page --------------------------------------------------------------------------------------------------

function choose(tab) {
  for (const other of document.querySelectorAll("[role=tab]")) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    find(`#${other.getAttribute("aria-controls")}`).hidden = !chosen;
  }
}

async function introduce() {
  try {
    const info = await (await send("info", { key: key() })).json();
    find("#about").textContent = `${info.model_id}, up to ${info.max_total_tokens} tokens`;
    find("#error").textContent = "";
  } catch (error) {
    find("#about").textContent = error instanceof Failure && error.status === 401 ? "This server wants an API key." : "";
  }
}

const on = (selector, type, handler) => find(selector).addEventListener(type, handler);
const submitted = (work) => (event) => { event.preventDefault(); work(); };

on("#compare-form", "submit", submitted(compare));
on("#chat-form", "submit", submitted(chat));
on("#settings", "submit", submitted(() => {}));
on("#clear", "click", clearChat);
document.querySelectorAll(".stop").forEach((button) => button.addEventListener("click", () => running?.abort()));
on("#prompt", "keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("#compare-form").requestSubmit();
});
on("#message", "keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("#chat-form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") running?.abort(); });

const tabs = [...document.querySelectorAll("[role=tab]")];
tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = tabs[(index + 1) % tabs.length];
    choose(next);
    next.focus();
  });
});

settings.key.addEventListener("change", introduce);
settings.sample.addEventListener("change", () => { find("fieldset").disabled = !settings.sample.checked; });
settings.colours.addEventListener("change", () => document.body.classList.toggle("colours", settings.colours.checked));
find("fieldset").disabled = !settings.sample.checked; // a reload keeps what was chosen
document.body.classList.toggle("colours", settings.colours.checked);
introduce();
