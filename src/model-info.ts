/** What a loaded model is. */

import type { Activations, HeadType, KvType, Level, Packing } from "./config.js";

/** What was loaded, and how it will run. */
export interface ModelInfo {
  readonly path: string;
  /** The architecture's name in the model file, for example `bitnet-b1.58`. */
  readonly architecture: string;
  /** The model's own name, if its file has one. */
  readonly name?: string;
  readonly parameters: number;
  readonly layers: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly attentionHeads: number;
  readonly keyValueHeads: number;
  readonly vocabularySize: number;
  /** The longest context the model was made for. */
  readonly trainedContextLength: number;
  /** The longest context it was loaded with. */
  readonly contextLength: number;
  /** Tokens that the key-value cache holds for all requests together. */
  readonly kvTokens: number;
  /** How many requests are computed together. */
  readonly maxSequences: number;
  readonly activations: Activations;
  readonly kv: KvType;
  /** Dimensions that the cache keeps of each value: all channels, unless `valueRank` says otherwise. */
  readonly valueRank: number;
  /** What the output matrix is multiplied as: `file` also where what `head` asked for is no smaller. */
  readonly head: HeadType;
  /** By what rows of the head are left out that cannot matter; absent where every token reads all of it. */
  readonly headScreening?: ScreenedHead;
  readonly level: Level;
  readonly threads: number;
  /** The memory nodes whose cores the threads are bound to; empty where the system places them. */
  readonly nodes: readonly number[];
  /**
   * Where the weights lie: `local`, each row on the node whose threads read it; `interleaved` over all nodes; `any`, where
   * that is left to the system, as on every machine with one memory node.
   */
  readonly weightPlacement: "local" | "interleaved" | "any";
  /** The kernels in use, for example `i8_t2_i32_gemm_8x128_avx2`. */
  readonly kernels: readonly string[];
  /** How densely its ternary weights are packed; both where shapes of matrices differ, none where no weights are ternary. */
  readonly packings: readonly Packing[];
  /** Bytes of weights in memory, the image of the head among them. */
  readonly packedBytes: number;
  /** Bytes of weights that one generated token reads, where nothing is left out (`sparsity`, `headScreening`). */
  readonly weightBytesPerToken: number;
  /** What float weights lost when they were made ternary on load; empty where none were. */
  readonly quantized: readonly QuantizationLoss[];
  /** What is probably wrong with the model's files although it runs, each in a sentence; the logger is warned of it. */
  readonly warnings: readonly string[];
  /** How the ways in which weights are streamed were chosen. */
  readonly tuning: Tuning;
  /** The draft model, where one was loaded beside. */
  readonly draft?: DraftModel;
  readonly hasChatTemplate: boolean;
  readonly bosToken?: number;
  readonly eosToken?: number;
}

/** A head of which rows are left out (docs/head.md). */
export interface ScreenedHead {
  /** Bytes of its image, beside the head: of bounds alone where the head is its own image (Q4_K, Q6_K). */
  readonly imageBytes: number;
  /**
   * The share of its rows that survived, in the mean of a few tokens that were tried while it was loaded. Absent where the head is its
   * own image: the engine's own steps tell then whether it pays.
   */
  readonly survivors?: number;
}

/** A draft model that was loaded beside (docs/speculation.md). */
export interface DraftModel {
  readonly path: string;
  /** Bytes of weights in memory. */
  readonly packedBytes: number;
  /** Bytes of weights that one of its tokens reads. */
  readonly weightBytesPerToken: number;
  /** Bytes of its cache. */
  readonly kvBytes: number;
}

/** How the ways in which weights are streamed were chosen (docs/tuning.md). */
export interface Tuning {
  /**
   * `measured` during this load, `remembered` from an earlier one, or `fixed`: given, or with nothing to choose, as where all
   * matrices fit caches.
   */
  readonly source: "fixed" | "measured" | "remembered";
  /** How long it took. */
  readonly ms: number;
  /** What was chosen for each kind of matrix; empty where nothing was. */
  readonly matrices: readonly TunedMatrix[];
}

/** What was chosen for the matrices of one kernel and shape. */
export interface TunedMatrix {
  /** The kernel of one token's products, one of `ModelInfo.kernels`. */
  readonly kernel: string;
  /** Outputs. */
  readonly rows: number;
  /** Inputs. */
  readonly cols: number;
  /** How densely they are packed. */
  readonly packing: Packing;
  /** How many cache lines ahead its weights are asked for. */
  readonly prefetch: number;
  /**
   * Where rows can be left out (docs/sparsity.md): the share of a thread's rows up to which those that count are listed; where more
   * count for a token in a layer, all are read.
   */
  readonly listedShare?: number;
  /**
   * Where rows or columns can be left out: the share of those that count up to which that is faster than reading all of them in tiles.
   * Layers of which more counts in the first 64 steps of one token lie in tiles from then on; the logits are the same.
   */
  readonly orderShare?: number;
}

/** What making a tensor ternary cost. */
export interface QuantizationLoss {
  readonly name: string;
  /** Mean of (weight − weight in use)². */
  readonly mse: number;
  /** Cosine of the angle between both. */
  readonly cosine: number;
  readonly maxAbs: number;
  /** Share of weights that are 0 now. */
  readonly zeroFraction: number;
}
