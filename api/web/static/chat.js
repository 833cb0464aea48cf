// A conversation: turns of the user and of the assistant, one after the other, whatever becomes of a request.

import { events, send } from "./client.js";
import { chatBody, key } from "./settings.js";
import { append, copyButton, explainEnd, find, run, stop, token } from "./view.js";

const messages = find("#messages");
const message = find("#message");
let conversation = [];
let busy = false; // an answer is being written
let next = false; // what is in the box follows when it is over

function bubble(role) {
  const element = document.createElement("div");
  element.className = `message ${role}`;
  append(messages, element);
  return element;
}

/** Shows an answer as it comes. */
class Answer {
  constructor() {
    this.element = bubble("assistant");
    this.element.classList.add("busy");
    this.began = performance.now();
    this.first = this.reason = undefined;
    this.count = 0;
    this.text = "";
  }

  add(choice) {
    this.reason = choice.finish_reason ?? this.reason;
    this.count += choice.logprobs?.content.length ?? 0;
    if (!choice.delta.content) return;
    this.first ??= performance.now();
    this.text += choice.delta.content;
    this.element.append(token(choice.delta.content, choice.logprobs?.content[0]?.logprob));
    append(messages);
  }

  /** Says how it ended and how long it took. */
  finish(signal) {
    const foot = document.createElement("footer");
    const note = document.createElement("small");
    const end = explainEnd(this.reason ?? (signal.aborted && "aborted"), this.count);
    const rate = (this.count / (performance.now() - this.began)) * 1000;
    const times = this.first && `first token after ${Math.round(this.first - this.began)} ms, ${rate.toFixed(1)} tokens per second`;
    note.textContent = [end, times || "no text"].filter(Boolean).join("; ");
    foot.append(note, copyButton(document.createElement("button"), () => this.text));
    this.element.classList.remove("busy");
    this.element.append(foot);
    append(messages);
  }
}

/** What is in the box becomes the next turn, when it is the user's turn. */
export async function chat() {
  const content = message.value.trim();
  if (!content) return;
  message.focus();
  if (busy) {
    wait(true);
    return;
  }
  message.value = "";
  await exchange(content);
  const follows = next;
  wait(false);
  if (follows) await chat();
}

function wait(waiting) {
  next = waiting;
  find("#waiting").textContent = waiting ? "Sent when this answer is over; Esc stops it." : "";
}

/** One turn of the user and one of the assistant, or none of both: then the text goes back into the box. */
async function exchange(content) {
  const talk = conversation;
  const question = bubble("user");
  question.textContent = content;
  busy = true;
  messages.ariaBusy = "true"; // a live region: an answer is read when it is complete
  await run(async (signal) => {
    const answer = new Answer();
    const asked = { role: "user", content };
    try {
      const response = await send("v1/chat/completions", { body: chatBody([...talk, asked]), key: key(), signal });
      for await (const event of events(response)) {
        if (event.choices[0]) answer.add(event.choices[0]);
      }
    } catch (error) {
      next &&= error.name === "AbortError"; // after a failure, nothing is sent unasked
      throw error;
    } finally {
      if (answer.text || answer.reason) {
        answer.finish(signal);
        talk.push(asked, { role: "assistant", content: answer.text });
      } else {
        question.remove();
        answer.element.remove();
        if (talk === conversation) message.value = [content, message.value].filter(Boolean).join("\n");
      }
    }
  });
  busy = false;
  messages.ariaBusy = "false";
}

export function clearChat() {
  conversation = [];
  wait(false);
  stop();
  messages.replaceChildren();
  message.focus();
}
