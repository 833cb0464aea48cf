// Shows what streaming is for: the same answer streamed and not streamed, side by side; and a chat.

import { chat, clearChat } from "./chat.js";
import { Failure, send } from "./client.js";
import { compare } from "./compare.js";
import { key, settings } from "./settings.js";
import { find, stop } from "./view.js";

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
document.querySelectorAll(".stop").forEach((button) => button.addEventListener("click", stop));
on("#prompt", "keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("#compare-form").requestSubmit();
});
on("#message", "keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("#chat-form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });

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
