// What users of @huggingface/inference write, current and 2.x. Arguments: address. Writes what they got, as JSON.

import { InferenceClient } from "@huggingface/inference";
import { HfInference, HfInferenceEndpoint } from "huggingface-inference-2";

const [url] = process.argv.slice(2);
const inputs = "What is Deep Learning?";
const messages = [{ role: "user", content: "Who are you?" }];
const collect = async (stream) => { const all = []; for await (const item of stream) all.push(item); return all; };
const failure = async (promise) => {
  try { await promise; return null; } catch (error) { return { message: error.message, status: error.httpResponse?.status }; }
};

const client = new InferenceClient(undefined, { endpointUrl: url });
const parameters = { max_new_tokens: 12, temperature: 0 };
const chat = { messages, max_tokens: 12, temperature: 0 };
const current = {
  text: (await client.textGeneration({ inputs, parameters })).generated_text,
  stream: await collect(client.textGenerationStream({ inputs, parameters })),
  chat: await client.chatCompletion(chat),
  chatStream: await collect(client.chatCompletionStream(chat)),
  refused: await failure(client.chatCompletion({ ...chat, top_p: 7 })),
  refusedStream: await failure(collect(client.chatCompletionStream({ ...chat, top_p: 7 }))),
};

// Leaving the loop closes nothing in this client; a signal does.
const controller = new AbortController();
const long = client.chatCompletionStream({ messages, max_tokens: 900, ignore_eos: true }, { signal: controller.signal });
for await (const _ of long) break;
controller.abort();

// As in the streaming guide. Without a model, 2.x asks the Hub which one to use.
const model = "tgi";
const hf = new HfInferenceEndpoint(url, "HF_TOKEN");
const genKwargs = { max_new_tokens: 12, stop_sequences: ["\nUser:", "<|endoftext|>"] };
const guide = [];
for await (const r of hf.textGenerationStream({ model, inputs, parameters: genKwargs })) {
  if (r.token.special) continue;
  if (genKwargs["stop_sequences"].includes(r.token.text)) break;
  guide.push(r.token.text);
}
const endpoint = new HfInference("HF_TOKEN").endpoint(url);
const old = {
  guide,
  text: (await hf.textGeneration({ model, inputs, parameters: genKwargs })).generated_text,
  stream: await collect(endpoint.textGenerationStream({ model, inputs, parameters: { max_new_tokens: 12, details: true } })),
  chatStream: await collect(hf.chatCompletionStream({ model, ...chat })),
  refused: await failure(hf.textGeneration({ model, inputs, parameters: { top_p: 7 } })),
};

console.log(JSON.stringify({ current, old }));
