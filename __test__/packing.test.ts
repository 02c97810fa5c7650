/** How densely ternary weights are packed: an option that changes what is read, and no logit. */

import { BitNetEngine, type EngineConfig, estimateMemory } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { cli, cliJson, fixture } from "./support.js";

/** 512 columns in `ffn_down`, 256 elsewhere, which is too narrow for 1.6 bits. */
const MODEL = fixture("bonsai-v-q2_0-g128.gguf");

async function load(config: EngineConfig) {
  const engine = await BitNetEngine.load(MODEL, { threads: 2, ...config });
  const { data } = await engine.logits([1, 2, 3, 5, 8]);
  const { modelInfo } = engine;
  const { weights, scratch } = engine.memoryStats();
  await engine.dispose();
  return { logits: [...data], modelInfo, weights, scratch };
}

describe("packing", () => {
  test("reads less in 1.6 bits, and gives the same logits", async () => {
    const two = await load({ packing: "2-bit" });
    const packed = await load({ packing: "1.6-bit" });
    expect(packed.logits).toEqual(two.logits);
    expect(two.modelInfo.packings).toEqual(["2-bit"]);
    expect([...packed.modelInfo.packings].sort()).toEqual(["1.6-bit", "2-bit"]);
    expect(packed.modelInfo.packedBytes).toBeLessThan(two.modelInfo.packedBytes);
    expect(packed.modelInfo.weightBytesPerToken).toBeLessThan(two.modelInfo.weightBytesPerToken);
    expect(packed.modelInfo.kernels.some((kernel) => kernel.startsWith("i8_b3_"))).toBe(true);
  });

  test("is 2 bits by itself where nothing is large enough to be measured", async () => {
    for (const config of [{}, { packing: "auto" }, { packing: "auto", autoTune: false }] as EngineConfig[]) {
      expect((await load(config)).modelInfo.packings).toEqual(["2-bit"]);
    }
  });

  test("takes the memory that is planned for 2 bits", async () => {
    const two = await load({ packing: "2-bit" });
    const packed = await load({ packing: "1.6-bit" });
    expect([packed.weights, packed.scratch]).toEqual([two.weights, two.scratch]);
    const estimates = ["auto", "2-bit", "1.6-bit"].map((packing) =>
      estimateMemory(MODEL, { packing: packing as "auto" | "2-bit" | "1.6-bit" }),
    );
    const [auto, ...others] = await Promise.all(estimates);
    expect(others).toEqual([auto, auto]);
  });

  test("is an option of the command line", async () => {
    const args = ["generate", "-m", MODEL, "-p", "The fox", "-n", "6", "--temperature", "0"];
    const texts = ["2-bit", "1.6-bit", "auto"].map(async (packing) => {
      const { code, value } = await cliJson([...args, "--packing", packing]);
      expect(code).toBe(0);
      return value["text"];
    });
    const [first, ...others] = await Promise.all(texts);
    expect(others).toEqual([first, first]);
    const refused = await cli([...args, "--packing", "1.58-bit"]);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toContain("1.6-bit");
  });
});
