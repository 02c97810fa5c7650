/** Quantisers: the program's own way from float weights to −1, 0 and +1. */

import { InvalidArgumentError, saidBy } from "./errors.js";
import { type Native, type NativeQuantizer, native } from "./native.js";

/** The quantisers that come with the engine. */
export type BuiltInQuantizer =
  /** BitNet b1.58's rule, one scale a tensor. */
  | "absmean"
  /** The same, one scale a row. */
  | "absmean-channel"
  /** The same, one scale for each 64 columns. */
  | "absmean-group-64"
  /** The same, one scale for each 128 columns. */
  | "absmean-group-128"
  /** Signs, and the largest magnitude of the tensor as scale. */
  | "sign-absmax";

/** @internal */
export const BUILT_IN_QUANTIZERS: readonly BuiltInQuantizer[] = [
  "absmean",
  "absmean-channel",
  "absmean-group-64",
  "absmean-group-128",
  "sign-absmax",
];

/** What a quantiser gives for a tensor. */
export interface QuantizedTensor {
  /** −1, 0 or +1 for each weight, row after row. */
  readonly q: Int8Array;
  /** One scale for the tensor, one a row, or one for each 64, 128 or 256 columns of each row; finite. */
  readonly scales: Float32Array;
}

/** A quantiser of the program. */
export interface Quantizer {
  readonly name: string;
  /** Makes a tensor ternary. Called with whole tensors, one at a time. */
  quantize(
    weights: Float32Array,
    shape: readonly [rows: number, columns: number],
    tensor: string,
  ): QuantizedTensor | Promise<QuantizedTensor>;
  /**
   * The weights that codes and scales stand for. The engine computes `q · scale`; where this is given, it is held against
   * that, and a quantiser that means something else is refused.
   */
  dequantize?(
    q: Int8Array,
    scales: Float32Array,
    shape: readonly [rows: number, columns: number],
  ): Float32Array | Promise<Float32Array>;
}

let current: Quantizer | BuiltInQuantizer | undefined;

/**
 * Sets what `convert` makes float weights ternary with, where its options do not say; `null` goes back to its own rule
 * (`floatWeights`). It holds for this thread's copy of the package.
 *
 * The result is checked (codes −1, 0 and +1 only; finite scales of a number that fits), and the error of each tensor is in the
 * report. A quantiser that throws or gives something else fails the conversion with `QUANTIZER_FAILED`.
 *
 * @example
 * setQuantizer({
 *   name: "sign",
 *   quantize: (weights) => ({
 *     q: Int8Array.from(weights, Math.sign),
 *     scales: Float32Array.of(weights.reduce((sum, w) => sum + Math.abs(w), 0) / weights.length),
 *   }),
 * });
 */
export function setQuantizer(quantizer: Quantizer | BuiltInQuantizer | null): void {
  current = quantizer === null ? undefined : checkQuantizer("quantizer", quantizer);
}

/** The quantiser that is set. @internal */
export function currentQuantizer(): Quantizer | BuiltInQuantizer | undefined {
  return current;
}

/** Checks a quantiser. @internal */
export function checkQuantizer(option: string, quantizer: unknown): Quantizer | BuiltInQuantizer {
  if (BUILT_IN_QUANTIZERS.includes(quantizer as BuiltInQuantizer)) return quantizer as BuiltInQuantizer;
  const { name, quantize }: Partial<Quantizer> = typeof quantizer === "object" && quantizer !== null ? quantizer : {};
  if (typeof name === "string" && name !== "" && typeof quantize === "function") return quantizer as Quantizer;
  const expected = `an object with a name and a method quantize, or one of ${BUILT_IN_QUANTIZERS.join(", ")}`;
  throw new InvalidArgumentError(option, expected, quantizer);
}

/** Relative difference that a `dequantize` of its own may have from `q · scale`: rounding. */
const TOLERANCE = 1e-5;

/** The native face of a quantiser; to be closed when the work is over. @internal */
export function nativeQuantizer(quantizer: Quantizer): NativeQuantizer {
  const { NativeQuantizer } = native();
  const made = new NativeQuantizer(quantizer.name, (call) => {
    answer(quantizer, call)
      .then(({ q, scales }) => made.answer(call.id, q, scales))
      .catch((error: unknown) => made.answer(call.id, null, null, saidBy(error)));
  });
  return made;
}

async function answer(quantizer: Quantizer, call: Native.QuantizeCall): Promise<QuantizedTensor> {
  const shape = [call.rows, call.columns] as const;
  const quantized = await quantizer.quantize(call.weights, shape, call.tensor);
  const { q, scales } = (quantized ?? {}) as Partial<QuantizedTensor>;
  if (!(q instanceof Int8Array) || !(scales instanceof Float32Array)) {
    throw new TypeError("expected { q: Int8Array, scales: Float32Array }");
  }
  if (quantizer.dequantize !== undefined) await checkDequantize(quantizer, q, scales, shape);
  return { q, scales };
}

async function checkDequantize(
  quantizer: Quantizer,
  q: Int8Array,
  scales: Float32Array,
  shape: readonly [number, number],
): Promise<void> {
  const weights = await quantizer.dequantize?.(q, scales, shape);
  if (!(weights instanceof Float32Array) || weights.length !== q.length) {
    throw new TypeError(`dequantize: expected ${q.length} weights`);
  }
  const covered = q.length / scales.length;
  for (const [at, weight] of weights.entries()) {
    const computed = (q[at] ?? 0) * (scales[Math.floor(at / covered)] ?? 0);
    if (Math.abs(weight - computed) > TOLERANCE * Math.abs(computed)) {
      throw new TypeError(
        `dequantize: expected ${computed} at ${at}, which is what the engine computes, got ${weight}`,
      );
    }
  }
}
