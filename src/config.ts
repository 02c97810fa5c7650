/** What a model is loaded with. */

import { checkEviction, type Eviction } from "./eviction.js";
import { checkLogger, type Log, type Logger } from "./logger.js";
import {
  type BuiltInMemoryPolicy,
  checkMemoryPolicy,
  currentMemoryPolicy,
  HUGE_PAGES,
  type HugePages,
  isOwnPolicy,
  type MemoryPolicy,
  memoryPolicySettings,
} from "./memory.js";
import type { Native } from "./native.js";
import { currentNode } from "./node-scope.js";
import { type ModelOverrides, readOverrides } from "./overrides.js";
import { mayUseCache, permittedModel, permittedRead } from "./permission.js";
import { type BuiltInQuantizer, checkQuantizer, currentQuantizer, type Quantizer } from "./quantizer.js";
import { defined, OptionReader, pathOf } from "./validate.js";

/** Instruction sets that kernels exist for. */
export type Level = "scalar" | "avx2" | "avxvnni" | "avx512" | "avx512vnni";
export const LEVELS: readonly Level[] = ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni"];

/** How the inputs of ternary layers are quantised. */
export type Activations = "int8" | "int8-group" | "f32";
export const ACTIVATIONS: readonly Activations[] = ["int8", "int8-group", "f32"];

/** What the output matrix is multiplied as. */
export type HeadType = "file" | "q8" | "q4";
export const HEAD_TYPES: readonly HeadType[] = ["file", "q8", "q4"];

export type HeadScreening = "auto" | "off";
export const HEAD_SCREENING: readonly HeadScreening[] = ["auto", "off"];

/** How int8 activations of many tokens lie. */
export type BatchLayout = "rows" | "tiles";
export const BATCH_LAYOUTS: readonly BatchLayout[] = ["rows", "tiles"];

/** How densely ternary weights are packed in memory: four or five of them a byte. */
export type Packing = "2-bit" | "1.6-bit";
export const PACKINGS: readonly (Packing | "auto")[] = ["auto", "2-bit", "1.6-bit"];

/** The number type of cached keys and values. */
export type KvType = "f32" | "f16" | "int8" | "int4";
export const KV_TYPES: readonly KvType[] = ["f32", "f16", "int8", "int4"];

/** What computing threads are bound to. */
export type ThreadPinning = "cores" | "nodes" | "off";
export const PINNING: readonly ThreadPinning[] = ["cores", "nodes", "off"];

/** What is done about memory that is nearer to some processors than to others. */
export type Numa = "auto" | "interleave" | "off";
export const NUMA: readonly Numa[] = ["auto", "interleave", "off"];

/** How far a load has come. */
export interface LoadProgress {
  /** Bytes of weights read and packed so far. */
  readonly loadedBytes: number;
  /** Bytes of weights in all. */
  readonly totalBytes: number;
  /** `loadedBytes / totalBytes`, from 0 to 1. */
  readonly fraction: number;
}

/** Options of `BitNetEngine.load`. Every one may be left out. */
export interface EngineConfig extends ModelOverrides {
  /**
   * Threads that compute; `"auto"` is the default.
   * @defaultValue the physical cores this process may use (its CPU affinity and cgroup quota count), without the slow ones of
   * a processor that has fast and slow cores
   */
  readonly threads?: number | "auto" | undefined;
  /**
   * The instruction set to use. Every level gives the same logits, bit for bit.
   * @defaultValue the best this processor has
   */
  readonly level?: Level | undefined;
  /**
   * How int8 activations of many tokens lie while ternary weights multiply them: `rows`, token by token, or `tiles`, 32 tokens
   * interleaved in cache lines. Both give the same logits, bit for bit (docs/tmac.md).
   * @defaultValue what was measured to be faster for the level
   */
  readonly batchLayout?: BatchLayout | undefined;
  /**
   * How densely ternary weights are packed in memory: `1.6-bit` reads a fifth less of it and computes more. `auto` takes what
   * `autoTune` finds to be faster for each shape of matrix, 2 bits where nothing is measured. Matrices that hold +2, are read in
   * place, have fewer than 320 or more than 32,768 columns, or leave zeroes out (`sparsity`) stay in 2 bits. Both give the same
   * logits, bit for bit (docs/tuning.md).
   * @defaultValue `auto`
   */
  readonly packing?: Packing | "auto" | undefined;
  /**
   * How many cache lines of 64 bytes ahead streams of weights are asked for, up to 16,384; 0 for not at all. It changes speed only.
   * @defaultValue what `autoTune` finds for each shape of matrix, else 64
   */
  readonly prefetch?: number | undefined;
  /**
   * Whether it is measured how the weights of large matrices are best packed, and how far ahead they are best asked for. Where a model meets a machine for the
   * first time this takes up to a quarter of a second of loading; then it is remembered in the user's cache folder, or in
   * `RYZANSTEIN_CACHE` where that environment variable is set. It changes speed only (docs/tuning.md).
   * @defaultValue `true`
   */
  readonly autoTune?: boolean | undefined;
  /**
   * How the inputs of ternary layers are quantised: `int8` per token over the whole row (BitNet's own definition),
   * `int8-group` per token and group of weights that share a scale, `f32` not at all (exact, slower).
   * @defaultValue `int8` for BitNet architectures, `int8-group` for models whose activations were float in training
   */
  readonly activations?: Activations | undefined;
  /**
   * The number type of the key-value cache: `f32` is exact, `f16` and `int8` take a half and a quarter of its bytes, `int4`
   * less than a fifth. What each costs in quality is in `docs/kv-cache.md`.
   * @defaultValue `int8`
   */
  readonly kv?: KvType | undefined;
  /**
   * Dimensions that the cache keeps of each value of a head, by the projection of a calibration (`calibrate`): half of them
   * take half the bytes. What each number costs is in the calibration's report.
   * @defaultValue all channels, without a calibration
   */
  readonly valueRank?: number | undefined;
  /**
   * The calibration for `valueRank`. One of another model is refused.
   * @defaultValue beside the model: `model.gguf.calibration.safetensors`, or `calibration.safetensors` in a folder
   */
  readonly calibration?: string | URL | undefined;
  /**
   * A smaller model with the same tokens, which proposes what may come next; the engine's own verifies several proposed tokens
   * in one step. Answers are the same with and without it; `draft` of a request says how far ahead it proposes
   * (docs/speculation.md).
   * @defaultValue none
   */
  readonly draftModel?: string | URL | undefined;
  /**
   * The longest context in tokens, prompt and answer together. The cache is sized by it.
   * @defaultValue the model's own, at most 4096
   */
  readonly contextLength?: number | undefined;
  /**
   * The most prompt tokens that one step computes. Smaller steps cancel sooner; the logits do not depend on it.
   * @defaultValue 512
   */
  readonly prefillChunk?: number | undefined;
  /**
   * How many requests are computed together; more wait their turn.
   * @defaultValue 8
   */
  readonly maxSequences?: number | undefined;
  /**
   * How many requests may wait for their turn; one more fails with a `QueueFullError`.
   * @defaultValue 128
   */
  readonly maxQueue?: number | undefined;
  /**
   * The most bytes that weights, cache and scratch memory may take. A load or request over it fails with `MEMORY_LIMIT`.
   * @defaultValue no limit
   */
  readonly memoryLimit?: number | undefined;
  /**
   * Pages of large buffers: `transparent` huge ones where the system has them, `explicit` ones from those that the system's
   * owner set apart (transparent ones where they are too few), `off`: plain ones.
   * @defaultValue `transparent`
   */
  readonly hugePages?: HugePages | undefined;
  /**
   * Decides about memory before it is mapped.
   * @defaultValue what `setMemoryPolicy` set, if anything
   */
  readonly memoryPolicy?: MemoryPolicy | BuiltInMemoryPolicy | undefined;
  /**
   * Whether prepacked and dense weights are read in place in the mapped file instead of being copied: a load takes next to no
   * time, and processes share the memory. A file that is cut short while the engine is there kills the process.
   * @defaultValue `false`
   */
  readonly mapWeights?: boolean | undefined;
  /**
   * Whether products leave out what is multiplied with 0, in models whose feed-forward networks have a squared ReLU (BitNet):
   * rows of `up` whose gate is not positive, and columns of `down` whose activation is 0, are then not read. The tokens are the
   * same, bit for bit (docs/sparsity.md).
   * @defaultValue `true`
   */
  readonly sparsity?: boolean | undefined;
  /**
   * What the output matrix (the head) is multiplied as: `file` as the file has it, `q8` and `q4` with its weights rounded to 8 and
   * 4 bits while the model loads, where that is fewer than the file has. A token reads less then, and its logits are not quite the
   * file's: `ryzanstein perplexity --head q4` prints what that costs (docs/head.md).
   * @defaultValue `file`
   */
  readonly head?: HeadType | undefined;
  /**
   * Whether rows of the head are left out that cannot matter to the sampler. The tokens are the same, bit for bit. `auto` does so where
   * the head has 8 MiB or more and is not mapped: in F16, BF16 or F32 by a copy in 8.5 bits a weight (in `estimateMemory`), where
   * `memoryLimit` leaves room for it and fewer than 2 % of the rows survive among a few tokens that are tried while it loads; in Q6_K or
   * Q4_K by products with activations of one byte, as long as fewer than 2 % survive in the engine's own steps (docs/head.md).
   * @defaultValue `auto`
   */
  readonly headScreening?: HeadScreening | undefined;
  /**
   * Fragmentation of the key-value cache (which part of its blocks up to the last one in use is free, 0 to 1) above which its
   * blocks are moved together when a request ends; 1 is never.
   * @defaultValue 0.5
   */
  readonly compactAbove?: number | undefined;
  /**
   * Whether the cache keeps what it has computed of a prompt, so that a later request that begins with the same tokens need not
   * compute them again. No answer depends on it (docs/kv-cache.md).
   * @defaultValue `true`
   */
  readonly prefixCache?: boolean | undefined;
  /**
   * What requests forget when they grow long, where they do not say; it also holds for `logits`, `embed` and `perplexity`
   * (docs/eviction.md).
   * @defaultValue `"none"`: a request ends where the context does
   */
  readonly eviction?: Eviction | undefined;
  /**
   * What makes float weights ternary while they are loaded; `modelInfo.quantized` says what that cost.
   * @defaultValue what `setQuantizer` set, if anything; without one floats stay what they are, but for BitNet's master weights
   */
  readonly quantizer?: Quantizer | BuiltInQuantizer | undefined;
  /**
   * What computing threads are bound to: `cores` each to a core of its own, `nodes` each to all cores of its memory node
   * (for machines that other programs use too), `off` to nothing. Where the system does not let threads be bound, they float.
   * @defaultValue `cores`
   */
  readonly pinning?: ThreadPinning | undefined;
  /**
   * Where weights lie on a machine with several memory nodes: `auto` each row on the node whose threads read it,
   * `interleave` pages on all nodes by turns, `off` wherever the system puts them. With one node each is the same.
   * @defaultValue `auto`
   */
  readonly numa?: Numa | undefined;
  /**
   * The only memory node whose cores and memory the engine uses, one of `cpuInfo().nodes`: for one engine a node.
   * @defaultValue the node of the surrounding {@link executeOnNode}, else all nodes
   */
  readonly node?: number | undefined;
  /**
   * Whether the load ends only after a short prompt and a token have been computed, so that the first request finds
   * memory mapped and caches warm.
   * @defaultValue `false`
   */
  readonly warmUp?: boolean | undefined;
  /**
   * What the engine logs to, for example `console`.
   * @defaultValue none
   */
  readonly logger?: Logger | undefined;
  /**
   * Called while the weights load, at most some dozen times.
   * @defaultValue none
   */
  readonly onProgress?: ((progress: LoadProgress) => void) | undefined;
  /**
   * Stops the load; the promise rejects with `signal.reason`.
   * @defaultValue none
   */
  readonly signal?: AbortSignal | undefined;
}

/** A checked {@link EngineConfig}. @internal */
export interface CheckedConfig {
  readonly native: Native.Config;
  readonly quantizer: Quantizer | undefined;
  readonly memoryPolicy: MemoryPolicy | undefined;
  readonly onProgress: ((progress: LoadProgress) => void) | undefined;
  readonly signal: AbortSignal | undefined;
  readonly log: Log;
}

/** Checks every option. @internal */
export function checkConfig(config: unknown): CheckedConfig {
  const read = new OptionReader(config, "config");
  const givenQuantizer = read.any("quantizer");
  const quantizer = givenQuantizer === undefined ? currentQuantizer() : checkQuantizer("quantizer", givenQuantizer);
  const givenPolicy = read.any("memoryPolicy");
  const policy = givenPolicy === undefined ? currentMemoryPolicy() : checkMemoryPolicy("memoryPolicy", givenPolicy);
  const calibration = read.any("calibration");
  const packing = read.choice("packing", PACKINGS);
  const draftModel = read.any("draftModel");
  const native = defined<Native.Config>({
    ...readOverrides(read),
    ...memoryPolicySettings(policy),
    quantizer: typeof quantizer === "string" ? quantizer : undefined,
    hugePages: read.choice("hugePages", HUGE_PAGES),
    mapWeights: read.boolean("mapWeights"),
    sparsity: read.boolean("sparsity"),
    head: read.choice("head", HEAD_TYPES),
    headScreening: read.choice("headScreening", HEAD_SCREENING),
    compactAbove: read.number("compactAbove", { min: 0, max: 1 }),
    prefixCache: read.boolean("prefixCache"),
    eviction: checkEviction(read.any("eviction")),
    threads: read.integerOr("threads", "auto", { min: 1, max: 1024 }),
    level: read.choice("level", LEVELS),
    batchLayout: read.choice("batchLayout", BATCH_LAYOUTS),
    packing: packing === "auto" ? undefined : packing,
    prefetch: read.integer("prefetch", { min: 0, max: 16_384 }),
    autoTune: read.boolean("autoTune"),
    keepTuning: mayUseCache() ? undefined : false,
    activations: read.choice("activations", ACTIVATIONS),
    kv: read.choice("kv", KV_TYPES),
    valueRank: read.integer("valueRank", { min: 1, max: 65_536 }),
    calibration: calibration === undefined ? undefined : permittedRead(pathOf("calibration", calibration)),
    draftModel: draftModel === undefined ? undefined : permittedModel(pathOf("draftModel", draftModel)),
    contextLength: read.integer("contextLength", { min: 16, max: 1 << 24 }),
    prefillChunk: read.integer("prefillChunk", { min: 1, max: 65_536 }),
    maxSequences: read.integer("maxSequences", { min: 1, max: 4096 }),
    maxQueue: read.integer("maxQueue", { min: 1, max: 1 << 20 }),
    memoryLimit: read.integer("memoryLimit", { min: 1, max: Number.MAX_SAFE_INTEGER }),
    pinning: read.choice("pinning", PINNING),
    numa: read.choice("numa", NUMA),
    node: read.integer("node", { min: 0, max: 65_535 }) ?? currentNode(),
    warmUp: read.boolean("warmUp"),
  } as Native.Config);
  const onProgress = read.callback("onProgress") as CheckedConfig["onProgress"];
  const log = checkLogger("logger", read.any("logger"));
  const signal = read.signal();
  read.done();
  return {
    native,
    quantizer: typeof quantizer === "object" ? quantizer : undefined,
    memoryPolicy: isOwnPolicy(policy) ? policy : undefined,
    onProgress,
    signal,
    log,
  };
}
