// Requests to this server: JSON out, JSON or server-sent events back.

/** The server refused, or failed; the message is its own. */
export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Sends a request. Throws Failure, or what fetch throws. */
export async function send(path, { body, key, signal }) {
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (!response.ok) throw new Failure(response.status, explain(response, await response.text()));
  return response;
}

function explain(response, text) {
  if (response.status === 401) return "The server wants an API key (in the settings).";
  return (parse(text) ?? text) || `${response.status} ${response.statusText}`;
}

/** The message of an error in TGI's form or OpenAI's. */
function parse(text) {
  try {
    const { error } = JSON.parse(text);
    return error?.message ?? error;
  } catch {
    return undefined;
  }
}

/** What each event of a stream holds. Throws Failure if one is an error. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (let part; !(part = await reader.read()).done; ) {
      const lines = (pending + part.value).split("\n");
      pending = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const text = line.slice("data: ".length);
        const event = JSON.parse(text);
        if (event.error) throw new Failure(response.status, parse(text));
        yield event;
      }
    }
  } finally {
    await reader.cancel(); // frees the sequence if the loop was left early
  }
}
