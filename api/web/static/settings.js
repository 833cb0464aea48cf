// What the settings say of requests.

export const settings = document.querySelector("#settings").elements;

const number = (name) => (settings[name].value === "" ? undefined : Number(settings[name].value));

export const key = () => settings.key.value;
export const drawSeed = () => number("seed") ?? Math.floor(Math.random() * 2 ** 32);

/** Sampling parameters, those that are off left out. `seed` is fixed, so that both panes draw the same. */
function sampling(seed) {
  const chosen = { repetition_penalty: number("repetition_penalty"), stop: settings.stop.value ? [settings.stop.value] : undefined };
  if (settings.sample.checked) {
    Object.assign(chosen, { temperature: number("temperature"), top_p: number("top_p"), top_k: number("top_k"), seed });
  }
  return chosen;
}

export function generateBody(inputs, seed) {
  const parameters = {
    ...sampling(seed), do_sample: settings.sample.checked, details: true, max_new_tokens: number("max_tokens"),
  };
  return { inputs, parameters };
}

export function chatBody(messages) {
  const system = settings.system.value;
  return {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...messages],
    stream: true, logprobs: true, max_tokens: number("max_tokens"), temperature: 0, ...sampling(drawSeed()),
  };
}
