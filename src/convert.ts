/** Models converted to ternary GGUF files. */

import { RyzansteinError } from "./errors.js";
import type { ModelTensor } from "./machine.js";
import { type Native, type NativeCancel, native } from "./native.js";
import { permittedModel, permittedWrite } from "./permission.js";
import { promised } from "./promised.js";
import {
  type BuiltInQuantizer,
  checkQuantizer,
  currentQuantizer,
  nativeQuantizer,
  type Quantizer,
} from "./quantizer.js";
import { defined, OptionReader, pathOf } from "./validate.js";

/** The forms of ternary weights in GGUF, by the names that `inspectModel` has for them. */
export type TernaryType = "TQ1_0" | "TQ2_0" | "I2_S" | "Q2_0_G64" | "Q2_0_G128";
/** @internal */
export const TERNARY_TYPES: readonly TernaryType[] = ["TQ1_0", "TQ2_0", "I2_S", "Q2_0_G64", "Q2_0_G128"];

/** What becomes of the embedding and of a head of its own. */
export type EmbeddingType = "keep" | "f32" | "f16" | "bf16" | "q8_0" | "ternary";
/** @internal */
export const EMBEDDING_TYPES: readonly EmbeddingType[] = ["keep", "f32", "f16", "bf16", "q8_0", "ternary"];

/** What becomes of linear layers that are not ternary. */
export type FloatWeights = "absmean" | "absmean-block" | "keep" | "refuse";
/** @internal */
export const FLOAT_WEIGHTS: readonly FloatWeights[] = ["absmean", "absmean-block", "keep", "refuse"];

/** How far a conversion has come. */
export interface ConvertProgress {
  /** `scan` reads all weights once to find scales and faults, before `write` makes the file. */
  readonly phase: "scan" | "write";
  /** Bytes of the source's tensors that are done in this phase. */
  readonly doneBytes: number;
  /** Bytes of the source's tensors. */
  readonly totalBytes: number;
  /** Both phases together, from 0 to 1. */
  readonly fraction: number;
}

/** Options of `convert`. Every one may be left out. */
export interface ConvertOptions {
  /**
   * The form of linear layers: `TQ1_0` (1.69 bits a weight), `TQ2_0` (2.06), `I2_S` (2, one scale a tensor; Microsoft's
   * BitNet files), `Q2_0_G64` (2.25, llama.cpp's), `Q2_0_G128` (2.13, Prism ML's).
   * @defaultValue `TQ2_0`
   */
  readonly type?: TernaryType | undefined;
  /**
   * The form of embedding and head; one that is ternary in the source gets that of the linear layers, whatever is said.
   * @defaultValue `keep`: the type that it has
   */
  readonly embeddings?: EmbeddingType | undefined;
  /**
   * Linear layers that are not ternary: `absmean` quantises them by BitNet's rule with one scale a tensor,
   * `absmean-block` with one for each block of the form (not for `I2_S`), `keep` leaves them, `refuse` is an error.
   * Weights that are exactly ternary in a float type are recognised and lose nothing.
   * @defaultValue `absmean`
   */
  readonly floatWeights?: FloatWeights | undefined;
  /**
   * Makes linear layers that are not ternary ternary, in place of `floatWeights`. It sees whole tensors; a form that cannot hold
   * its scales is an error (`I2_S` holds one a tensor, blocks of 256 one each).
   * @defaultValue what `setQuantizer` set, if anything
   */
  readonly quantizer?: Quantizer | BuiltInQuantizer | undefined;
  /**
   * Scales that the fp16 in a block cannot hold: `separate` puts them in fp32 into a tensor beside the weights, as
   * llama.cpp's files of BitNet models have it; `round` rounds them.
   * @defaultValue `separate`
   */
  readonly inexactScales?: "separate" | "round" | undefined;
  /**
   * Whether the weights are laid out as the kernels read them, with the scales of `type`: loading is then reading. No
   * other program reads such a file, and it cannot be converted again (`docs/prepacked.md`).
   * @defaultValue `false`
   */
  readonly prepack?: boolean | undefined;
  /**
   * Whether an existing target is replaced. One of the source's own files never is.
   * @defaultValue `false`
   */
  readonly overwrite?: boolean | undefined;
  /**
   * Whether a Hugging Face folder's tokenizer is taken over, and must be there.
   * @defaultValue `true`
   */
  readonly tokenizer?: boolean | undefined;
  /**
   * The model's name in the file.
   * @defaultValue that of the source, or the folder's name
   */
  readonly name?: string | undefined;
  /**
   * Called while it runs, at most some two hundred times.
   * @defaultValue none
   */
  readonly onProgress?: ((progress: ConvertProgress) => void) | undefined;
  /**
   * Stops the conversion, which then leaves nothing behind; the promise rejects with `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** The distance between a tensor of the source, w, and what was written for it, ŵ. */
export interface QuantizationError {
  /** mean((w − ŵ)²) */
  readonly mse: number;
  /** Σ w·ŵ / √(Σ w² · Σ ŵ²) */
  readonly cosine: number;
  /** max |w − ŵ| */
  readonly maxAbs: number;
}

/** What became of one tensor. */
export interface ConvertedTensor extends Pick<ModelTensor, "name" | "type" | "shape"> {
  /** The type in the source; absent for a tensor that the source says in another way. */
  readonly sourceType?: string;
  /**
   * `copied`: the source's bytes; `repacked`: ternary in another form; `recognized`: exactly ternary in a float type;
   * `quantized`: made ternary; `converted`: floats in another type; `derived`: no tensor of the source.
   */
  readonly method: "copied" | "repacked" | "recognized" | "quantized" | "converted" | "derived";
  /** Whether it has exactly the source's values (of a BitNet checkpoint's masters: those that its rule makes of them). */
  readonly lossless: boolean;
  /** Share of weights that are 0, of ternary tensors. */
  readonly zeroFraction?: number;
  /** How far it is from the source, where values were rounded. */
  readonly error?: QuantizationError;
}

/** A finished conversion. */
export interface Conversion {
  /** The file written. */
  readonly target: string;
  /** Its length. */
  readonly bytes: number;
  /** Bytes of the source's tensors. */
  readonly sourceBytes: number;
  /** Whether every tensor is lossless. */
  readonly lossless: boolean;
  /** In the file's order. */
  readonly tensors: readonly ConvertedTensor[];
  /** Tensors of the source that nothing reads and that were left out. */
  readonly dropped: readonly string[];
  /** What the file cannot say about the tokenizer, one sentence each. */
  readonly tokenizerNotes: readonly string[];
}

/** Checks every option. */
function checkOptions(options: unknown) {
  const read = new OptionReader(options, "options");
  const name = read.any("name");
  const settings = defined<Native.ConvertSettings>({
    form: read.choice("type", TERNARY_TYPES) ?? "TQ2_0",
    embeddings: read.choice("embeddings", EMBEDDING_TYPES) ?? "keep",
    floatWeights: read.choice("floatWeights", FLOAT_WEIGHTS) ?? "absmean",
    inexactScales: read.choice("inexactScales", ["separate", "round"]) ?? "separate",
    prepack: read.boolean("prepack") ?? false,
    overwrite: read.boolean("overwrite") ?? false,
    tokenizer: read.boolean("tokenizer") ?? true,
    name: name === undefined ? undefined : read.strings("name", 1)?.[0],
  } as Native.ConvertSettings);
  const given = read.any("quantizer");
  const quantizer = given === undefined ? currentQuantizer() : checkQuantizer("quantizer", given);
  if (typeof quantizer === "string") settings.quantizer = quantizer;
  const onProgress = read.callback("onProgress") as ConvertOptions["onProgress"];
  const signal = read.signal();
  read.done();
  return { settings, onProgress, signal, quantizer: typeof quantizer === "object" ? quantizer : undefined };
}

/**
 * Converts a model, a GGUF file or a Hugging Face folder, to a ternary GGUF file.
 *
 * Nothing is lost from ternary weights, whatever form they have; float weights go through BitNet's absmean rule, and the
 * report says how far each tensor is from them. The target appears under its name when it is complete and on the disk,
 * and not at all after an error or an abort.
 *
 * @example
 * const { lossless, bytes } = await convert("bitnet-2b", "bitnet-2b-tq1_0.gguf", { type: "TQ1_0" });
 */
export async function convert(
  source: string | URL,
  target: string | URL,
  options?: ConvertOptions,
): Promise<Conversion> {
  const [from, to] = [permittedModel(pathOf("source", source)), permittedWrite(pathOf("target", target))];
  const { settings, onProgress, signal, quantizer } = checkOptions(options);
  signal?.throwIfAborted();
  const own = quantizer && nativeQuantizer(quantizer);
  let handle: NativeCancel | undefined;
  let thrown: { readonly error: unknown } | undefined;
  const cancel = (): void => {
    handle?.cancel();
    own?.close();
  };
  const report = (step: Native.ConvertStep): void => {
    if (onProgress === undefined || thrown !== undefined || signal?.aborted) return;
    try {
      onProgress(progressOf(step));
    } catch (error) {
      thrown = { error };
      cancel();
    }
  };
  signal?.addEventListener("abort", cancel);
  try {
    const conversion = await promised<Native.Conversion>((done) => {
      handle = native().convertModel(from, to, settings, onProgress !== undefined, own, (failure, finished, step) => {
        if (step === null) done(failure, finished);
        else report(step);
      });
    });
    // An abort that came too late changes nothing: the target is complete.
    if (thrown !== undefined) throw thrown.error;
    return conversionOf(conversion);
  } catch (error) {
    if (thrown !== undefined) throw thrown.error;
    // A quantiser that was given up because of the abort is no failure of its own.
    const code = RyzansteinError.isInstance(error) ? error.code : undefined;
    if (code === "ABORTED" || code === "QUANTIZER_FAILED") signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener("abort", cancel);
    own?.close();
  }
}

function progressOf({ phase, doneBytes, totalBytes }: Native.ConvertStep): ConvertProgress {
  const done = totalBytes > 0 ? doneBytes / totalBytes : 1;
  const isScan = phase === "scan";
  return { phase: isScan ? "scan" : "write", doneBytes, totalBytes, fraction: isScan ? done / 2 : (1 + done) / 2 };
}

function conversionOf({ tensors, ...rest }: Native.Conversion): Conversion {
  return { ...rest, tensors: tensors.map(tensorOf) };
}

function tensorOf(tensor: Native.ConvertedTensor): ConvertedTensor {
  const { name, sourceType, type, rows, columns, method, lossless, zeroFraction, mse, cosine, maxAbs } = tensor;
  const error = mse === undefined || cosine === undefined || maxAbs === undefined ? undefined : { mse, cosine, maxAbs };
  return defined<ConvertedTensor>({
    name,
    sourceType,
    type,
    shape: rows === 1 ? [columns] : [rows, columns],
    method: method as ConvertedTensor["method"],
    lossless,
    zeroFraction,
    error,
  } as ConvertedTensor);
}
