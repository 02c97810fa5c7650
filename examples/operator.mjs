// Operators: watches how much each layer adds to the residual stream, then steers the text by changing logits.
//
//   node examples/operator.mjs [model.gguf]

import { BitNetEngine, defaultModelPath } from "ryzanstein";

const engine = await BitNetEngine.load(process.argv[2] ?? defaultModelPath());
try {
  const options = { maxTokens: 24, temperature: 0 };
  const prompt = "Once upon a time";

  // Reads: nothing is returned, so nothing changes.
  const sizes = new Map();
  const watch = {
    forward(input, [rows], { layer }) {
      const squares = input.reduce((sum, value) => sum + value * value, 0);
      sizes.set(layer, Math.sqrt(squares / rows));
    },
  };
  engine.registerOperator("sizes", watch, { at: "layers.*.ffn.output" });
  console.log((await engine.complete(prompt, options)).text);
  for (const [layer, size] of sizes) console.log(`layer ${layer}: ${size.toFixed(2)}`);
  engine.unregisterOperator("sizes");

  // Replaces: words with an "e" in them become less likely.
  const { vocabularySize } = engine.modelInfo;
  const pieces = await engine.pieces(Array.from({ length: vocabularySize }, (_, id) => id));
  const avoid = {
    forward: (logits, [rows, columns]) => {
      for (let row = 0; row < rows; row += 1) {
        for (let id = 0; id < columns; id += 1) if (pieces[id].includes("e")) logits[row * columns + id] -= 5;
      }
      return logits;
    },
  };
  engine.registerOperator("without e", avoid, { at: "logits" });
  console.log((await engine.complete(prompt, options)).text);
} finally {
  await engine.dispose();
}
