// A greedy conversation through llama.cpp, to compare a chat session with: prints one JSON object with every token.
//
//   mkdir peer && npm install --prefix peer node-llama-cpp@3.22.1
//   node benches/llama-cpp-chat.mjs peer model.gguf [tokens=64] > __test__/fixtures/llama-cpp-chat.json
//
// The turns are those of the test that reads it, __test__/smollm2.test.ts.

import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const SYSTEM = "You are a helpful AI assistant.";
const QUESTIONS = ["What is the capital of France?", "What is it famous for?", "Name one dish people eat there."];

const [peer, modelPath, maxTokens = "64"] = process.argv.slice(2);
const folder = join(resolve(peer), "node_modules", "node-llama-cpp");
const { getLlama, JinjaTemplateChatWrapper, LlamaChatSession } = await import(
  pathToFileURL(join(folder, "dist", "index.js")).href
);
const { default: manifest } = await import(pathToFileURL(join(folder, "package.json")).href, {
  with: { type: "json" },
});

const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize: 1024 });
const sequence = context.getSequence();
// Its own choice for this model, ChatML, would begin the text with a second <|im_start|>.
const chatWrapper = new JinjaTemplateChatWrapper({ template: model.fileInfo.metadata.tokenizer.chat_template });
const session = new LlamaChatSession({ contextSequence: sequence, systemPrompt: SYSTEM, chatWrapper });

const turns = [];
for (const question of QUESTIONS) {
  const tokenIds = [];
  let before = [];
  const text = await session.prompt(question, {
    temperature: 0,
    maxTokens: Number(maxTokens),
    trimWhitespaceSuffix: false,
    onResponseChunk: ({ tokens }) => {
      if (tokenIds.length === 0) before = [...sequence.contextTokens];
      tokenIds.push(...tokens);
    },
  });
  // What had been read when the first token came may hold that token already.
  const all = [...sequence.contextTokens];
  const start = all.findIndex((_, at) => at >= before.length - 2 && tokenIds.every((id, i) => all[at + i] === id));
  turns.push({ question, promptIds: all.slice(0, start), tokenIds, text });
}
// A second reading, all at once, for the margins: the token's logit less that of the best other one. It is below 0 where
// llama.cpp itself would choose otherwise this time: its rounding depends on the batch.
for (const turn of turns) {
  const { promptIds, tokenIds } = turn;
  await sequence.clearHistory();
  const items = [...promptIds, ...tokenIds].map((token, at) => {
    const chosen = tokenIds[at + 1 - promptIds.length];
    if (at + 1 < promptIds.length || chosen === undefined) return token;
    const logits = { filter: { includeTop: 2, tokens: [chosen] } };
    return [token, { generateNext: { logits, options: { temperature: 0 } } }];
  });
  const read = await sequence.controlledEvaluate(items);
  turn.margins = tokenIds.map((chosen, at) => {
    const { logits } = read[promptIds.length - 1 + at].next;
    const others = [...logits].filter(([token]) => token !== chosen).map(([, logit]) => logit);
    return Number((logits.get(chosen) - Math.max(...others)).toFixed(3));
  });
}
const engine = `node-llama-cpp ${manifest.version}`;
process.stdout.write(`${JSON.stringify({ engine, model: basename(modelPath), system: SYSTEM, turns }, null, 1)}\n`);
process.exit(0);
