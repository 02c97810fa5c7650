// Has the model fill in a form: whatever it says, it is JSON that the schema describes.
//
//   node examples/structured.mjs model.gguf

import { BitNetEngine } from "ryzanstein";

const schema = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1, maxLength: 20 },
    age: { type: "integer", minimum: 1, maximum: 12 },
    pet: { enum: ["cat", "dog", "bird", null] },
    likes: { type: "array", items: { type: "string", pattern: "^[a-z]{3,12}$" }, minItems: 1, maxItems: 3 },
  },
  required: ["name", "age", "pet", "likes"],
  additionalProperties: false,
};

const engine = await BitNetEngine.load(process.argv[2] ?? "model.gguf");
try {
  const { text, finishReason } = await engine.complete("Once upon a time there was a child. ", {
    format: { type: "json_schema", schema },
    maxTokens: 200,
  });
  // One that `maxTokens` cut short is not whole.
  if (finishReason === "stop") console.log(JSON.parse(text));
} finally {
  await engine.dispose();
}
