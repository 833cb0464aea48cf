// What both halves of the page show, and how a request runs that can be stopped.

import { Failure } from "./client.js";

export const find = (selector, inside = document) => inside.querySelector(selector);

/** A token's text, with how likely it was. */
export function token(text, logprob) {
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
export function append(element, ...children) {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  element.append(...children);
  if (atEnd) element.scrollTop = element.scrollHeight;
}

/** Why an answer has no more text than this; empty if the model ended it. */
export function explainEnd(reason, count) {
  if (reason === "length") return `cut off after ${count} tokens, the most allowed`;
  if (reason === "aborted") return "stopped";
  return reason ? "" : "broken off";
}

/** For readers of the screen. */
export function announce(text) {
  find("#said").textContent = text;
}

/** A button that puts what `text` returns on the clipboard. */
export function copyButton(button, text) {
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text())) ? "Copied" : "Not allowed";
    announce(button.textContent);
    setTimeout(() => { button.textContent = "Copy"; announce(""); }, 2000);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have no clipboard for pages that came over plain HTTP from another machine.
    const before = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus();
    return done;
  }
}

let running = null; // AbortController of what runs now

export const stop = () => running?.abort();

/** Runs what can be stopped, and shows what goes wrong. */
export async function run(work) {
  stop();
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
