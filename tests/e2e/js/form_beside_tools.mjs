// What users of the AI SDK write: an answer of a given form, beside tools. Whole, then streamed.

import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

export async function formBesideTools(model) {
  const called = [];
  const weather = tool({
    description: "The weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => { called.push(city); return "sunny, 21 degrees"; },
  });
  const request = {
    model,
    prompt: "What is the weather in Paris?",
    temperature: 0,
    maxOutputTokens: 200,
    output: Output.object({ schema: z.object({ city: z.string(), degrees: z.int() }) }),
    tools: { weather },
    stopWhen: stepCountIs(2),
    // The second step must not call again: a small model would go on for ever.
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  };
  const whole = await generateText(request);
  const calledWhole = called.splice(0);
  const stream = streamText(request);
  const partial = [];
  for await (const object of stream.partialOutputStream) partial.push(object);
  return {
    whole: { object: whole.output, called: calledWhole, usage: whole.usage.outputTokens },
    streamed: { object: await stream.output, called, partial, finish: await stream.finishReason },
  };
}
