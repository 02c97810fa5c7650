// Asks a chat model one question, from CommonJS.
//
//   node examples/chat.cjs model.gguf "What is the capital of France?"

const { BitNetEngine } = require("ryzanstein");

async function main() {
  const [model = "model.gguf", question = "What is the capital of France?"] = process.argv.slice(2);
  const engine = await BitNetEngine.load(model);
  try {
    const messages = [{ role: "user", content: question }];
    for await (const part of engine.chat(messages, { temperature: 0, maxTokens: 200 })) process.stdout.write(part.text);
    process.stdout.write("\n");
  } finally {
    await engine.dispose();
  }
}

main();
