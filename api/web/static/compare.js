// The same answer streamed and not streamed, side by side.

import { events, send } from "./client.js";
import { drawSeed, generateBody, key } from "./settings.js";
import { append, copyButton, explainEnd, find, run, token } from "./view.js";

/** One half of the comparison. */
class Pane {
  constructor(id) {
    this.output = find(`#${id} .output`);
    this.numbers = find(`#${id} .numbers`);
    this.note = find(`#${id} .note`);
    this.copy = copyButton(find(`#${id} .copy`), () => this.output.textContent);
    this.show();
  }

  start() {
    this.output.replaceChildren();
    this.output.classList.add("busy", "waiting");
    this.output.ariaBusy = "true"; // a live region: it is read when it is complete
    this.note.textContent = "";
    this.began = performance.now();
    this.first = this.end = this.reason = undefined;
    this.count = 0;
    this.show();
  }

  /** Tokens came: `{text, logprob, special}`; `details` come with the last. */
  add(tokens, details) {
    this.first ??= performance.now();
    this.count += tokens.length;
    this.reason = details?.finish_reason;
    this.output.classList.remove("waiting");
    for (const one of tokens) {
      // Empty lines in front only push the text out of sight.
      const text = this.output.hasChildNodes() ? one.text : one.text.trimStart();
      if (text && !one.special) append(this.output, token(text, one.logprob));
    }
    this.show();
  }

  finish(signal) {
    this.end = performance.now();
    this.output.classList.remove("busy", "waiting");
    this.output.ariaBusy = "false";
    this.note.textContent = explainEnd(this.reason ?? (signal.aborted && "aborted"), this.count);
    this.show();
  }

  show() {
    const milliseconds = (moment) => (moment === undefined ? "–" : `${Math.round(moment - this.began)} ms`);
    const now = this.end ?? performance.now();
    const rate = this.first === undefined ? "–" : `${((this.count / (now - this.began)) * 1000).toFixed(1)}`;
    const shown = { "First token": milliseconds(this.first), "Tokens per second": rate, Total: milliseconds(this.end) };
    this.copy.disabled = !this.output.hasChildNodes();
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

const streamed = new Pane("streamed");
const whole = new Pane("whole");

async function fillStreamed(body, signal) {
  streamed.start();
  try {
    const response = await send("generate_stream", { body, key: key(), signal });
    for await (const event of events(response)) streamed.add([event.token], event.details);
  } finally {
    streamed.finish(signal);
  }
}

async function fillWhole(body, signal) {
  whole.start();
  try {
    const { details } = await (await send("generate", { body, key: key(), signal })).json();
    whole.add(details.tokens, details);
  } finally {
    whole.finish(signal);
  }
}

export async function compare() {
  const body = generateBody(find("#prompt").value, drawSeed());
  const both = run((signal) => Promise.all([fillStreamed(body, signal), fillWhole(body, signal)]));
  find(".panes").scrollIntoView({ block: "nearest" });
  await both;
}
