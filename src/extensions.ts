/** Extension points: the program's own code inside the engine. */

import { errorFrom, InvalidArgumentError, saidBy } from "./errors.js";
import { type Native, type NativeEngine, native } from "./native.js";
import { OptionReader, textOf } from "./validate.js";

/**
 * A place of the forward pass.
 *
 * - `embedding.output`: the embeddings, rows × hidden size
 * - `layers.N.attention.output`, `layers.N.ffn.output`: what a layer's two halves add to the residual stream, rows × hidden
 *   size; `*` for N is every layer
 * - `norm.output`: the hidden states after the final norm, for the positions whose logits are wanted
 * - `logits`: those logits, rows × vocabulary size
 */
export type OperatorPlace =
  | "embedding.output"
  | `layers.${number | "*"}.attention.output`
  | `layers.${number | "*"}.ffn.output`
  | "norm.output"
  | "logits";

/** Where an operator is being called. */
export interface OperatorCall {
  readonly at: OperatorPlace;
  /** The layer, where the place is in one. */
  readonly layer?: number;
  /** The position of the first row in its sequence. */
  readonly position: number;
}

/** What an operator gives back: nothing leaves the values as they are, an array of the same length takes their place. */
// biome-ignore lint/suspicious/noConfusingVoidType: an async function without a return gives a Promise<void>
export type OperatorResult = Float32Array | undefined | void;

/** Code that looks at values in the forward pass, or replaces them. */
export interface Operator {
  /**
   * Called for each sequence of a step by itself. `input` is a copy: to change the values, return it or another array.
   *
   * @param shape rows (tokens of the sequence) and columns
   */
  forward(
    input: Float32Array,
    shape: readonly [rows: number, columns: number],
    call: OperatorCall,
  ): OperatorResult | Promise<OperatorResult>;
}

/** Options of `registerOperator`. */
export interface OperatorOptions {
  /** One place or more. */
  readonly at: OperatorPlace | readonly OperatorPlace[];
  /**
   * How long a call may take in milliseconds; after that its request fails with `OPERATOR_FAILED`.
   * @defaultValue 10 000
   */
  readonly timeoutMs?: number | undefined;
}

/** One operation of the engine: a phase, once. */
export interface ProfilerOperation {
  /** The phase's name, as in `profile()`. */
  readonly name: string;
  /** The layer it was done for, if it was done for one. */
  readonly layer?: number;
  /** When it began, in nanoseconds since the engine was loaded. */
  readonly startNs: number;
}

/**
 * Code that hears of the engine's operations.
 *
 * They come in batches some time after they happened: no step waits for JavaScript. What it throws goes to `onError`.
 */
export interface Profiler {
  onOperationStart?(operation: ProfilerOperation): void;
  onOperationEnd?(operation: ProfilerOperation, ns: number): void;
  /** Called when JavaScript was too busy to take so many operations. */
  onDropped?(count: number): void;
  /** Called with what one of the other methods threw; without it, it is ignored. */
  onError?(error: unknown): void;
}

/** Options of `setProfiler`. */
export interface ProfilerOptions {
  /**
   * The share of the steps that are reported, from above 0 to 1: every 1/rate-th.
   * @defaultValue 1
   */
  readonly rate?: number | undefined;
}

/** Registers an operator. @internal */
export function registerOperator(engine: NativeEngine, name: string, operator: Operator, options: unknown): void {
  const read = new OptionReader(options, "options");
  const at = read.strings("at", 64) ?? read.require("at", "one place or more");
  const timeoutMs = read.integer("timeoutMs", { min: 1, max: 3_600_000 }) ?? 10_000;
  read.done();
  if (typeof (operator as Partial<Operator> | null)?.forward !== "function") {
    throw new InvalidArgumentError("operator", "an object with a method forward", operator);
  }
  const registered = engine.registerOperator(textOf("name", name), at, timeoutMs, (call) => {
    const where = { at: call.at as OperatorPlace, position: call.position };
    // In a promise, so that a throw is a rejection like any other.
    new Promise<OperatorResult>((resolve) => {
      const place = call.layer == null ? where : { ...where, layer: call.layer };
      resolve(operator.forward(call.input, [call.rows, call.columns], place));
    })
      .then((output) => {
        if (output === undefined) answer(call.id);
        else if (output instanceof Float32Array) answer(call.id, output);
        else answer(call.id, undefined, "expected a Float32Array or nothing");
      })
      .catch((error: unknown) => answer(call.id, undefined, saidBy(error)));
  });
  if ("code" in registered) throw errorFrom(registered);
  const answer = (id: number, output?: Float32Array, error?: string): void => registered.answer(id, output, error);
}

const VALUES = 4;

/** Sets or clears the profiler. @internal */
export function setProfiler(engine: NativeEngine, profiler: Profiler | null, options: unknown): void {
  const read = new OptionReader(options, "options");
  const rate = read.number("rate", { min: 1e-9, max: 1 }) ?? 1;
  read.done();
  if (profiler === null) {
    engine.clearProfiler();
    return;
  }
  if (typeof profiler !== "object") throw new InvalidArgumentError("profiler", "an object or null", profiler);
  const names = native().profilePhases();
  engine.setProfiler(Math.round(1 / rate), ({ values, dropped }: Native.Operations) => {
    try {
      if (dropped > 0) profiler.onDropped?.(dropped);
      for (let at = 0; at < values.length; at += VALUES) {
        const [phase = 0, layer = -1, startNs = 0, ns = 0] = values.subarray(at, at + VALUES);
        const operation = { name: names[phase] ?? "unknown", startNs, ...(layer >= 0 && { layer }) };
        profiler.onOperationStart?.(operation);
        profiler.onOperationEnd?.(operation, ns);
      }
    } catch (error) {
      report(profiler, error);
    }
  });
}

function report(profiler: Profiler, error: unknown): void {
  try {
    profiler.onError?.(error);
  } catch {
    // There is nobody left to tell.
  }
}
