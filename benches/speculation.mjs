// npm run bench:speculation [-- MODEL [ROUNDS=7] [MOST=8] [DRAFT]]: prompt lookup, or a draft model's proposals, against plain decoding,
// on text that repeats itself and on text that does not.
//
// Each case is decoded with and without proposals by turns, on one engine; both must give the same tokens. The ratio is of the
// tokens a second after the first, within a round. The default is the story model of the package.

import { BitNetEngine, defaultModelPath } from "ryzanstein";

const [model = defaultModelPath(), rounds = "7", most = "8", draftModel] = process.argv.slice(2);

const CODE = `function area(shape) {
  if (shape.kind === "circle") return Math.PI * shape.radius * shape.radius;
  if (shape.kind === "square") return shape.side * shape.side;
  if (shape.kind === "rectangle") return shape.width * shape.height;
  throw new Error("unknown shape: " + shape.kind);
}
`;
const STORY =
  "Once upon a time there was a little girl named Lily. She had a red ball. One day Lily went to the park with her red ball. ";

const CASES = [
  { name: "an edit of code", prompt: `${CODE}\nThe same with another name:\n\n${CODE.slice(0, 30)}`, tokens: 120 },
  { name: "a text that is quoted", prompt: STORY.repeat(4), tokens: 120 },
  { name: "a new text, drawn", prompt: "One day", tokens: 160, options: { temperature: 1, topK: 0, topP: 1, minP: 0 } },
];

function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return `${sorted[sorted.length >> 1].toFixed(2)} × (${sorted[0].toFixed(2)} – ${sorted.at(-1).toFixed(2)})`;
}

const engine = await BitNetEngine.load(model, { contextLength: 512, warmUp: true, draftModel });
const { level, threads, name } = engine.modelInfo;
process.stdout.write(`${name ?? model}, ${level}, ${threads} threads, ${rounds} rounds, ${most} tokens at most\n`);
for (const { name, prompt, tokens, options } of CASES) {
  const decode = async (ahead) => {
    const common = { maxTokens: tokens, temperature: 0, seed: 1, ignoreEos: true };
    return engine.complete(prompt, {
      ...common,
      ...options,
      ...(draftModel ? { draft: ahead } : { promptLookup: ahead }),
    });
  };
  await decode(false);
  const before = engine.stats();
  const ratios = [];
  let plainSpeed = 0;
  for (let round = 0; round < Number(rounds); round += 1) {
    const plain = await decode(false);
    const ahead = await decode(Number(most));
    if (plain.tokenIds.join() !== ahead.tokenIds.join()) throw new Error("another answer than that of plain decoding");
    ratios.push(ahead.timings.tokensPerSecond / plain.timings.tokensPerSecond);
    plainSpeed = plain.timings.tokensPerSecond;
  }
  const { proposedTokens, acceptedTokens } = engine.stats();
  const accepted = acceptedTokens - before.acceptedTokens;
  const share = `${accepted} of ${proposedTokens - before.proposedTokens} proposed tokens accepted`;
  process.stdout.write(`${name}: ${spread(ratios)} of ${plainSpeed.toFixed(0)} tokens/s; ${share}\n`);
}
await engine.dispose();
