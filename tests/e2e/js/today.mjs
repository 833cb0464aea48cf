// The default constructors of openai, @ai-sdk/openai and @anthropic-ai/sdk, which take their address from the environment.
// Arguments: address. Writes what they got, as JSON.

const [url] = process.argv.slice(2);
Object.assign(process.env, {
  OPENAI_BASE_URL: `${url}/v1`, OPENAI_API_KEY: "-", ANTHROPIC_BASE_URL: url, ANTHROPIC_API_KEY: "-",
});
const { default: OpenAI } = await import("openai");
const { default: Anthropic } = await import("@anthropic-ai/sdk");
const { openai } = await import("@ai-sdk/openai");
const { formBesideTools } = await import("./form_beside_tools.mjs");

const input = "What is the capital of France? Answer in one sentence.";

async function withOpenAI() {
  const client = new OpenAI();
  const how = { model: "default", input, temperature: 0, max_output_tokens: 24 };
  const whole = await client.responses.create(how);
  let text = "";
  const stream = client.responses.stream(how);
  stream.on("response.output_text.delta", (event) => { text += event.delta; });
  const last = await stream.finalResponse();
  const next = await client.responses.create({ ...how, input: "Why?", previous_response_id: whole.id });
  const queued = await client.responses.create({ ...how, background: true });
  let cursor;
  for await (const event of await client.responses.retrieve(queued.id, { stream: true })) {
    cursor = event.sequence_number;
    if (event.type === "response.output_text.delta") break;
  }
  const rest = [];
  for await (const event of await client.responses.retrieve(queued.id, { stream: true, starting_after: cursor })) rest.push(event);
  return {
    whole: whole.output_text, streamed: text, last: last.output_text, previous: next.previous_response_id === whole.id,
    next: next.usage.input_tokens > whole.usage.input_tokens, background: rest.at(-1).response.output[0].content[0].text,
    resumed: rest[0].sequence_number === cursor + 1,
  };
}

async function withAnthropic() {
  const client = new Anthropic();
  const how = { model: "default", messages: [{ role: "user", content: input }], temperature: 0, max_tokens: 24 };
  const whole = await client.messages.create(how);
  const stream = client.messages.stream(how);
  let text = "";
  stream.on("text", (piece) => { text += piece; });
  const last = await stream.finalMessage();
  const { max_tokens: _, temperature: __, ...counted } = how;
  return {
    whole: whole.content[0].text, streamed: text, last: last.content[0].text, stop: last.stop_reason,
    counted: (await client.messages.countTokens(counted)).input_tokens,
    used: whole.usage.input_tokens + whole.usage.cache_read_input_tokens,
    refused: await client.messages.create({ ...how, max_tokens: 0 }).catch((error) => ({ status: error.status, type: error.error.error.type })),
  };
}

console.log(JSON.stringify({ openai: await withOpenAI(), ai: await formBesideTools(openai("default")), anthropic: await withAnthropic() }));
