/** Where an engine's time went. */

/** Options of `startProfiling`. */
export interface ProfilingOptions {
  /**
   * How many single operations are kept for `profileTrace`. At most 1,048,576: some 150 MB of JSON.
   * @defaultValue 0
   */
  readonly operations?: number | undefined;
}

/** A part of the work on a token, in the order in which it happens; `unattributed` is what none of them owns up to. */
export type ProfilePhase =
  | "tokenize"
  | "schedule"
  | "draft"
  | "dispatch"
  | "embed"
  | "norm"
  | "quantize"
  | "qkv"
  | "rope"
  | "attention"
  | "output"
  | "gate-up"
  | "down"
  | "head"
  | "operator"
  | "barrier"
  | "sample"
  | "detokenize"
  | "deliver"
  | "unattributed";

/** The time of one phase. */
export interface PhaseTime {
  readonly phase: ProfilePhase;
  readonly totalMs: number;
  /** `totalMs` over all tokens computed, in microseconds. */
  readonly perTokenUs: number;
  /** Of all recorded time, from 0 to 1. */
  readonly share: number;
}

/** One layer of the model. */
export interface LayerProfile {
  readonly layer: number;
  readonly phases: readonly PhaseTime[];
  /** The fraction of the values between gate·up and down that are 0; `null` before any was seen. */
  readonly zeroFraction: number | null;
  /** The same after they were quantised to int8. */
  readonly quantizedZeroFraction: number | null;
}

/** How long steps took. */
export interface LatencySummary {
  readonly steps: number;
  readonly meanMs: number;
  readonly p50Ms: number;
  readonly p95Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** What a profile holds at one moment. */
export interface Profile {
  /** Time by phase, `unattributed` last. Shares sum to 1. */
  readonly phases: readonly PhaseTime[];
  readonly layers: readonly LayerProfile[];
  /** Steps that gave each sequence one token; `null` before the first. */
  readonly decode: LatencySummary | null;
  /** Steps with prompt tokens; `null` before the first. */
  readonly prefill: LatencySummary | null;
  readonly tokens: { readonly prompt: number; readonly decoded: number };
  /** Bytes read, counted: every weight of a step once, and the cache up to each position. */
  readonly bandwidth: {
    readonly weightBytesPerToken: number;
    readonly kvBytesPerToken: number;
    /** What sparsity saved. */
    readonly skippedBytesPerToken: number;
    /** 10⁹ bytes a second; `measureReadBandwidth` measures what the machine could. */
    readonly decodeGbPerSecond: number;
  };
  /** Accesses of the last-level cache by the engine's threads, as the processor counts them. */
  readonly cache: {
    /** Those that came as far; `null` where they are not counted. */
    readonly referencesPerToken: number | null;
    /** Those of them that went on to memory. */
    readonly missesPerToken: number | null;
    /** Why they are not counted: few virtual machines offer counters, and some systems forbid them. */
    readonly refused: string | null;
  };
  /** The program's own timers, by the names from the outermost to their own. */
  readonly timers: readonly { readonly path: string; readonly count: number; readonly totalMs: number }[];
  readonly memoryHighWaterBytes: number;
}
