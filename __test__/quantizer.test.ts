/** Quantisers of the program, used by convert. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, type Conversion, convert, type Quantizer, setQuantizer } from "ryzanstein";
import { afterEach, expect, test } from "vitest";
import { cliJson, fixture } from "./support.js";

/** A model whose layers are dense: Q4_0 blocks. */
const DENSE = fixture("llamadense-v-q4_0.gguf");
const folder = mkdtempSync(join(tmpdir(), "ryz-"));
let files = 0;
const target = (): string => {
  files += 1;
  return join(folder, `${files}.gguf`);
};
const quantized = ({ tensors }: Conversion) => tensors.filter((tensor) => tensor.method === "quantized");

afterEach(() => setQuantizer(null));

/** Signs, with the mean magnitude of each row as its scale. */
const signs: Quantizer = {
  name: "signs",
  quantize: (weights, [rows, columns]) => ({
    q: Int8Array.from(weights, Math.sign),
    scales: Float32Array.from({ length: rows }, (_, row) => {
      const values = weights.subarray(row * columns, (row + 1) * columns);
      return values.reduce((sum, weight) => sum + Math.abs(weight), 0) / columns;
    }),
  }),
  dequantize: (q, scales, [, columns]) =>
    Float32Array.from(q, (code, at) => code * (scales[Math.floor(at / columns)] ?? 0)),
};

test("a quantiser of the program makes the weights, and the report says how far they are", async () => {
  const shapes = new Map<string, readonly [number, number]>();
  const watched: Quantizer = {
    ...signs,
    quantize: async (weights, shape, tensor) => {
      expect(weights).toHaveLength(shape[0] * shape[1]);
      shapes.set(tensor, shape);
      await new Promise((resolve) => setTimeout(resolve, 1));
      return signs.quantize(weights, shape, tensor);
    },
  };
  setQuantizer(watched);
  const output = target();
  const conversion = await convert(DENSE, output, { type: "Q2_0_G64" });
  const made = quantized(conversion);
  expect(made.length).toBeGreaterThan(0);
  expect(new Set(made.map(({ name }) => name))).toEqual(new Set(shapes.keys()));
  for (const { name, shape, type, zeroFraction, error } of made) {
    expect(shape).toEqual(shapes.get(name));
    expect(type).toBe("Q2_0_G64");
    // Signs are 0 for weights that are 0 only; absmean makes a third of them 0.
    expect(zeroFraction).toBeLessThan(0.2);
    expect(error?.cosine).toBeGreaterThan(0.6);
    expect(error?.mse).toBeGreaterThan(0);
  }
  const engine = await BitNetEngine.load(output);
  expect((await engine.complete([1, 2, 3], { maxTokens: 4, temperature: 0, ignoreEos: true })).tokenIds).toHaveLength(
    4,
  );
  await engine.dispose();
});

test("without one, or with null, convert's own rule holds", async () => {
  const own = quantized(await convert(DENSE, target()));
  setQuantizer("sign-absmax");
  const set = quantized(await convert(DENSE, target()));
  expect(set[0]?.error?.mse).toBeGreaterThan((own[0]?.error?.mse ?? 0) * 2);
  // The options come before what is set.
  const given = quantized(await convert(DENSE, target(), { quantizer: "absmean" }));
  expect(given[0]?.zeroFraction).toBe(own[0]?.zeroFraction);
  setQuantizer(null);
  expect(quantized(await convert(DENSE, target()))).toEqual(own);
});

test("smaller groups are closer", async () => {
  const mse = async (quantizer: "absmean" | "absmean-channel" | "absmean-group-64") =>
    quantized(await convert(DENSE, target(), { type: "Q2_0_G64", quantizer }))[0]?.error?.mse ?? 0;
  const [tensor, channel, group] = [await mse("absmean"), await mse("absmean-channel"), await mse("absmean-group-64")];
  expect(channel).toBeLessThanOrEqual(tensor);
  expect(group).toBeLessThan(channel);
});

const q = (weights: Float32Array): Int8Array => new Int8Array(weights.length);
test.each<[string, Quantizer["quantize"], RegExp]>([
  [
    "throws",
    () => {
      throw new Error("no idea");
    },
    /quantizer bad, tensor .*: no idea/,
  ],
  [
    "gives other codes",
    (w) => ({ q: q(w).fill(2), scales: Float32Array.of(1) }),
    /expected codes -1, 0 and \+1, got 2 at row 0/,
  ],
  ["gives too few codes", () => ({ q: new Int8Array(3), scales: Float32Array.of(1) }), /expected \d+ codes, got 3/],
  ["gives infinite scales", (w) => ({ q: q(w), scales: Float32Array.of(Number.POSITIVE_INFINITY) }), /finite scales/],
  ["gives a wrong number of scales", (w) => ({ q: q(w), scales: new Float32Array(7) }), /expected 1 scale, .* got 7/],
  ["gives nothing", () => undefined as never, /expected \{ q: Int8Array, scales: Float32Array \}/],
])("one that %s fails the conversion, which leaves nothing", async (_what, quantize, message) => {
  const output = target();
  const failed = convert(DENSE, output, { quantizer: { name: "bad", quantize } });
  await expect(failed).rejects.toMatchObject({ code: "QUANTIZER_FAILED", message: expect.stringMatching(message) });
  await expect(BitNetEngine.load(output)).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
});

test("one whose dequantize means something else is refused", async () => {
  const quantizer: Quantizer = { ...signs, dequantize: (codes) => new Float32Array(codes.length).fill(3) };
  await expect(convert(DENSE, target(), { quantizer })).rejects.toMatchObject({
    code: "QUANTIZER_FAILED",
    message: expect.stringContaining("dequantize"),
  });
});

test("a form that cannot hold its scales says so", async () => {
  const failed = convert(DENSE, target(), { type: "I2_S", quantizer: "absmean-channel" });
  await expect(failed).rejects.toMatchObject({ code: "QUANTIZER_FAILED", message: expect.stringContaining("i2_s") });
});

test("an abort does not wait for one that never answers", async () => {
  const controller = new AbortController();
  const reason = new Error("enough");
  const quantizer: Quantizer = { name: "slow", quantize: () => new Promise(() => {}) };
  const aborted = convert(DENSE, target(), { quantizer, signal: controller.signal });
  setTimeout(() => controller.abort(reason), 50);
  await expect(aborted).rejects.toBe(reason);
});

test("what is no quantiser is refused", () => {
  expect(() => setQuantizer("best" as never)).toThrow(/quantizer must be/);
  expect(() => setQuantizer({ name: "x" } as never)).toThrow(/quantize/);
  expect(() => setQuantizer({ name: "", quantize: signs.quantize })).toThrow(/quantizer/);
});

test("--quantizer is the option of the command line", async () => {
  const { code, value } = await cliJson([
    "convert",
    "-m",
    DENSE,
    "-o",
    target(),
    "--type",
    "Q2_0",
    "--quantizer",
    "sign-absmax",
  ]);
  expect(code).toBe(0);
  expect(quantized(value as unknown as Conversion)[0]?.zeroFraction).toBeLessThan(0.2);
  const wrong = await cliJson(["convert", "-m", DENSE, "-o", target(), "--quantizer", "best"]);
  expect(wrong.code).toBe(2);
});
