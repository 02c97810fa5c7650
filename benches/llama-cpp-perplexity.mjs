// The perplexity of a text through llama.cpp, scored exactly as `ryzanstein perplexity` does: the numbers to compare with.
//
//   mkdir peer && npm install --prefix peer node-llama-cpp@3.22.1
//   node benches/llama-cpp-perplexity.mjs peer model.gguf text.txt [tokens=4096] [ctx=512]
//
// Consecutive windows that do not overlap, each on a fresh cache; every token of a window but its first is scored.

import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [peer, modelPath, textPath, tokenCount = "4096", ctx = "512"] = process.argv.slice(2);
const entry = join(resolve(peer), "node_modules", "node-llama-cpp", "dist", "index.js");
const { getLlama } = await import(pathToFileURL(entry).href);

const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const window = Number(ctx);
const context = await model.createContext({ contextSize: window, batchSize: window });
const sequence = context.getSequence();
const bos = model.tokens.shouldPrependBosToken ? [model.tokens.bos] : [];
const tokens = [...bos, ...model.tokenize(readFileSync(textPath, "utf8"))].slice(0, Number(tokenCount));

// Its samplers would otherwise take tokens out before the logits are reported.
const UNTRUNCATED = { temperature: 0 };

let nll = 0;
let scored = 0;
for (let start = 0; start < tokens.length; start += window) {
  const part = tokens.slice(start, start + window);
  await sequence.clearHistory();
  const items = part.map((token, i) => {
    if (i + 1 === part.length) return token;
    const logits = { filter: { tokens: [part[i + 1]], includeTop: 1 } };
    return [token, { generateNext: { logits, totalLogitWeight: true, options: UNTRUNCATED } }];
  });
  const results = await sequence.controlledEvaluate(items);
  for (let i = 0; i + 1 < part.length; i += 1) {
    const { logits, totalLogitWeight } = results[i].next;
    nll -= logits.get(part[i + 1]) - Math.max(...logits.values()) - Math.log(totalLogitWeight);
    scored += 1;
  }
}
const meanNll = nll / scored;
process.stdout.write(
  `${JSON.stringify({ tokens: scored, meanNll, perplexity: Math.exp(meanNll), ids: tokens.slice(0, 8) })}\n`,
);
process.exit(0);
