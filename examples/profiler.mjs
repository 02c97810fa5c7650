// A profiler of one's own: sums up the engine's operations by name, sampled at every tenth step.
//
//   node examples/profiler.mjs [model.gguf]

import { BitNetEngine, defaultModelPath } from "ryzanstein";

const engine = await BitNetEngine.load(process.argv[2] ?? defaultModelPath());
try {
  const totals = new Map();
  const profiler = {
    onOperationEnd: ({ name }, ns) => totals.set(name, (totals.get(name) ?? 0) + ns),
    onDropped: (count) => console.error(`${count} operations were dropped`),
  };
  engine.setProfiler(profiler, { rate: 0.1 });
  await engine.complete("Once upon a time", { maxTokens: 100 });
  engine.setProfiler(null);
  // Operations come in batches after they happened: let the last one arrive.
  await new Promise((resolve) => setTimeout(resolve, 50));
  for (const [name, ns] of [...totals].sort((a, b) => b[1] - a[1])) console.log(`${name}: ${(ns / 1e6).toFixed(2)} ms`);
} finally {
  await engine.dispose();
}
