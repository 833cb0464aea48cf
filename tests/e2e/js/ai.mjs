// The AI SDK by its provider for servers that are like OpenAI's. Arguments: address. Writes what it got, as JSON.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { formBesideTools } from "./form_beside_tools.mjs";

const [url] = process.argv.slice(2);
const provider = createOpenAICompatible({
  name: "headwater",
  baseURL: `${url}/v1`,
  supportsStructuredOutputs: true,
  includeUsage: true,
});
console.log(JSON.stringify(await formBesideTools(provider("default"))));
