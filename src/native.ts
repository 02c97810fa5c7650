/**
 * The native addon as TypeScript sees it, and how it is found.
 *
 * The generated `native.d.cts` is checked against these types (`__test__/native.test-d.ts`), so neither can drift.
 */

import { PlatformError } from "./errors.js";
import { platformMessage } from "./platform.js";

/** A failure as the native side reports it. */
export interface NativeFailure {
  readonly code: string;
  readonly message: string;
  /** Of an option or argument that was refused: its name, what it may be and what it was. */
  readonly option?: string;
  readonly expected?: string;
  readonly got?: string;
}

/** How the native side delivers a result: exactly one call. */
export type NativeCallback<T> = (failure: NativeFailure | null, value: T | null) => void;

export interface NativeEngineConfig {
  overrides?: string;
  chatTemplate?: string;
  chatTemplateFile?: string;
  threads?: number;
  level?: string;
  batchLayout?: string;
  packing?: string;
  prefetch?: number;
  autoTune?: boolean;
  keepTuning?: boolean;
  activations?: string;
  kv?: string;
  valueRank?: number;
  calibration?: string;
  draftModel?: string;
  contextLength?: number;
  prefillChunk?: number;
  maxSequences?: number;
  maxQueue?: number;
  memoryLimit?: number;
  hugePages?: string;
  memoryPolicy?: string;
  memoryPolicyLimit?: number;
  mapWeights?: boolean;
  sparsity?: boolean;
  head?: string;
  headScreening?: string;
  compactAbove?: number;
  prefixCache?: boolean;
  eviction?: NativeEviction;
  quantizer?: string;
  pinning?: string;
  numa?: string;
  node?: number;
  warmUp?: boolean;
}

export interface NativeSampling {
  temperature: number;
  dynamicTemperatureRange: number;
  dynamicTemperatureExponent: number;
  topK: number;
  topP: number;
  minP: number;
  topNSigma: number;
  typicalP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  penaltyWindow: number;
  dry?: { multiplier: number; base: number; allowedLength: number; window?: number; sequenceBreakers?: string[] };
  xtcProbability: number;
  xtcThreshold: number;
  mirostat?: { version: number; tau: number; eta: number };
  logitBias?: { tokenIds: Uint32Array; biases: Float32Array };
  samplerOrder?: string[];
  seed?: number;
  minTokens: number;
  ignoreEos: boolean;
  logprobs?: number;
}

export interface NativeEviction {
  policy: string;
  sinks: number;
  window: number;
  tokens: number;
}

export interface NativeFormat {
  kind: "json" | "json_schema" | "regex" | "grammar" | "tools";
  text: string;
  choice?: "auto" | "required" | "none" | "named";
  name?: string;
  /** Of tools: whether the prompt ends within a thought that the template has opened. */
  inThought?: boolean;
  flexible?: boolean;
  strict?: boolean;
}

export interface NativeGenerateRequest {
  text?: string;
  tokens?: Uint32Array;
  parseSpecial: boolean;
  maxTokens?: number;
  sampling: NativeSampling;
  stop: string[];
  stopTokens: Uint32Array;
  format?: NativeFormat;
  shownTokens?: number[];
  promptLookup: number;
  draft?: number;
  priority: number;
  eviction?: NativeEviction;
  credits: number;
}

export interface NativeTokenLogprob {
  tokenId: number;
  logprob: number;
}

export interface NativeTokenLogprobs extends NativeTokenLogprob {
  top: NativeTokenLogprob[];
}

export interface NativeDelta {
  text: string;
  tokenIds: number[];
  logprobs?: NativeTokenLogprobs[];
}

export interface NativeFinish {
  finishReason: string;
  promptTokens: number;
  completionTokens: number;
  unknownCharacters: number;
  queueMs: number;
  prefillMs: number;
  timeToFirstTokenMs: number;
  decodeMs: number;
  tokensPerSecond: number;
}

/** What a stream hands over in one call, where it is not one token's text: the deltas since the last one, and how it ended, if it did. */
export interface NativeBatch {
  deltas: NativeDelta[];
  finish?: NativeFinish;
  failure?: NativeFailure;
}

/** A string is the text of the one token `tokenId`; most calls bring that. */
export type NativeDelivery = (delivered: NativeBatch | string, tokenId: number | null) => void;

/** A running generation. It does not keep the process alive. */
export interface NativeRequest {
  cancel(): void;
  grant(credits: number): void;
}

export interface NativeCancel {
  cancel(): void;
}

export interface NativeProgress {
  loadedBytes: number;
  totalBytes: number;
}

export interface NativeModelInfo {
  path: string;
  architecture: string;
  name?: string;
  parameters: number;
  layers: number;
  hiddenSize: number;
  intermediateSize: number;
  attentionHeads: number;
  keyValueHeads: number;
  vocabularySize: number;
  trainedContextLength: number;
  contextLength: number;
  kvTokens: number;
  maxSequences: number;
  activations: string;
  kv: string;
  valueRank: number;
  head: string;
  headScreening?: NativeScreenedHead;
  level: string;
  threads: number;
  nodes: number[];
  weightPlacement: string;
  kernels: string[];
  packings: string[];
  packedBytes: number;
  weightBytesPerToken: number;
  quantized: NativeQuantizedTensor[];
  warnings: string[];
  tuning: NativeTuning;
  draft?: NativeDraftModel;
  hasChatTemplate: boolean;
  bosToken?: number;
  eosToken?: number;
}

export interface NativeScreenedHead {
  imageBytes: number;
  survivors?: number;
}

export interface NativeDraftModel {
  path: string;
  packedBytes: number;
  weightBytesPerToken: number;
  kvBytes: number;
}

export interface NativeTuning {
  source: string;
  ms: number;
  matrices: {
    kernel: string;
    rows: number;
    cols: number;
    packing: string;
    prefetch: number;
    listedShare?: number;
    orderShare?: number;
  }[];
}

export interface NativeQuantizedTensor {
  name: string;
  mse: number;
  cosine: number;
  maxAbs: number;
  zeroFraction: number;
}

export interface NativeMemoryStats {
  weights: number;
  kvCache: number;
  scratch: number;
  staging: number;
  inUse: number;
  pooled: number;
  mapped: number;
  highWater: number;
  buffers: number;
  allocations: number;
  limit?: number;
}

export interface NativeEngineStats {
  running: number;
  waiting: number;
  kvBlocks: number;
  kvBlocksFree: number;
  kvBlocksKept: number;
  steps: number;
  promptTokens: number;
  generatedTokens: number;
  proposedTokens: number;
  acceptedTokens: number;
  preemptions: number;
  evictedBlocks: number;
  compactions: number;
  kvBlocksMoved: number;
  prefixTokens: number;
  prefixTokensReused: number;
}

export interface NativeSavedPrefix {
  tokens: number;
  bytes: number;
}

export interface NativeRestoredPrefix {
  tokens: Uint32Array;
  restored: number;
  note: string;
}

export interface NativeEstimate {
  weights: number;
  kvCache: number;
  scratch: number;
  draft: number;
  staging: number;
  total: number;
  peak: number;
  kvTokens: number;
  contextLength: number;
}

export interface NativeMarks {
  open: string;
  close: string;
}

/** How calls are written: `begin (open call close) separator (open call close) … end`. */
export interface NativeCallForm {
  begin?: string;
  end?: string;
  separator?: string;
  open: string;
  close: string;
  /** Other marks that may stand before the first call. */
  leads?: string[];
  /** Of calls that are JSON: the keys that lead to the name, or */
  namePath?: string[];
  /** that the name is the only key; */
  nameIsKey?: boolean;
  /** all keys that the template writes. */
  keys?: string[];
  /** The keys that lead to the arguments. */
  argumentsPath: string[];
  /** Of other calls: the text behind the name; */
  afterName?: string;
  /** the text behind the id that follows it; */
  afterId?: string;
  /** the text between the name and the call's number. */
  index?: string;
  /** The marks around each argument. */
  parameter?: { open: string; afterKey: string; afterKeyOther: string; close: string; separator: string };
  /** The signs of arguments as a programming language writes them. */
  literal?: { open: string; assign: string; close: string; quote: string };
  /** Whether the template takes arguments as text. */
  argumentsAsText: boolean;
  /** Whether a message holds one call at most. */
  single?: boolean;
  /** Whether the template writes the calls of earlier turns. */
  written?: boolean;
}

/** How a model answers. */
export interface NativeAnswerForm {
  /** The marks around thoughts. */
  reasoning?: NativeMarks;
  /** The marks around text. */
  text?: NativeMarks;
  calls?: NativeCallForm;
  /** Special tokens that are part of the form: to be shown. */
  tokens: number[];
}

/** A conversation's tokens. */
export interface NativeChatPrompt {
  tokens: Uint32Array;
  /** Whether they end within a thought that the template has opened. */
  inThought: boolean;
}

export interface NativeOperatorCall {
  id: number;
  at: string;
  layer?: number;
  position: number;
  rows: number;
  columns: number;
  input: Float32Array;
}

export interface NativeOperator {
  answer(id: number, output?: Float32Array, error?: string): void;
}

export interface NativeRankingCall {
  id: number;
  positions: Float64Array;
  attention: Float64Array;
}

export interface NativeRanker {
  answer(id: number, scores?: Float64Array, error?: string): void;
}

export interface NativeOperations {
  /** Four numbers an operation: a phase's index, layer or -1, start, duration. */
  values: Float64Array;
  dropped: number;
}

export interface NativeLogits {
  rows: number;
  columns: number;
  data: Float32Array;
}

export interface NativeScore {
  tokens: number;
  sumNll: number;
}

export interface NativeTensor {
  name: string;
  type: string;
  shape: number[];
  bytes: number;
}

export interface NativeInspection {
  format: string;
  architecture?: string;
  runs: boolean;
  reason?: string;
  warnings: string[];
  parameters: number;
  fileBytes: number;
  metadata: string;
  tensors: NativeTensor[];
  fp32: number;
  fp16: number;
  int8: number;
  packed: number;
  kvBytesPerToken?: number;
  contextLength?: number;
}

export interface NativeCalibrateSettings {
  output?: string;
  window?: number;
  ranks: number[];
}

export interface NativeCalibration {
  path: string;
  tokens: number;
  heldOutTokens: number;
  channels: number;
  meanNll: number;
  ranks: { rank: number; kept: number; meanNll: number }[];
}

export interface NativeConvertSettings {
  form: string;
  embeddings: string;
  floatWeights: string;
  inexactScales: string;
  prepack: boolean;
  overwrite: boolean;
  tokenizer: boolean;
  name?: string;
  quantizer?: string;
}

export interface NativeConvertStep {
  phase: string;
  doneBytes: number;
  totalBytes: number;
}

export interface NativeConvertedTensor {
  name: string;
  sourceType?: string;
  type: string;
  rows: number;
  columns: number;
  method: string;
  lossless: boolean;
  zeroFraction?: number;
  mse?: number;
  cosine?: number;
  maxAbs?: number;
}

export interface NativeConversion {
  target: string;
  bytes: number;
  sourceBytes: number;
  lossless: boolean;
  tensors: NativeConvertedTensor[];
  dropped: string[];
  tokenizerNotes: string[];
}

export interface NativeQuantizeCall {
  id: number;
  tensor: string;
  rows: number;
  columns: number;
  weights: Float32Array;
}

export interface NativeCompaction {
  moves: number[];
  releasedBytes: number;
  fragmentation: number;
}

export interface NativeMemoryCall {
  /** None when memory has gone. */
  id?: number;
  bytes: number;
  kind: string;
  owner: string;
}

export interface NativeMemoryAnswer {
  denied?: string;
  hugePages?: string;
  nodes?: number[];
  interleave?: boolean;
}

export interface NativeMemoryPolicy {
  answer(id: number, answer: NativeMemoryAnswer): void;
}

export interface NativeQuantizer {
  answer(id: number, codes: Int8Array | null, scales: Float32Array | null, error?: string): void;
  close(): void;
}

export interface NativeTrainSettings {
  corpus: string[];
  valid: string[];
  output: string;
  /** JSON. */
  config: string;
  model?: string;
  teacher?: string;
  resume: boolean;
  overwrite: boolean;
  threads?: number;
}

export interface NativeTokenizerInfo {
  vocabularySize: number;
  bosToken?: number;
  eosToken?: number;
  eotToken?: number;
  unknownToken?: number;
  paddingToken?: number;
  endTokens: number[];
  chatTemplate?: string;
  warnings: string[];
}

export interface NativeEncodedText {
  tokenIds: Uint32Array;
  unknownCharacters: number;
}

export interface NativeTokenizer {
  info(): NativeTokenizerInfo;
  tokenId(text: string): number | null;
  encode(
    text: string,
    addSpecial: boolean,
    parseSpecial: boolean,
    done: NativeCallback<NativeEncodedText>,
  ): NativeCancel;
  decode(tokens: Uint32Array, skipSpecial: boolean, done: NativeCallback<string>): void;
  pieces(tokens: Uint32Array, done: NativeCallback<string[]>): void;
  applyChatTemplate(input: string | Uint8Array, done: NativeCallback<string>): NativeCancel;
}

export interface NativeEngine {
  modelInfo(): NativeModelInfo;
  memoryStats(): NativeMemoryStats;
  stats(): NativeEngineStats;
  clearPrefixCache(): void;
  savePrefix(tokens: Uint32Array, note: string, path: string, done: NativeCallback<NativeSavedPrefix>): NativeCancel;
  restorePrefix(path: string, done: NativeCallback<NativeRestoredPrefix>): NativeCancel;
  memoryLayout(): string;
  memoryReport(): string;
  compactMemory(done: NativeCallback<NativeCompaction>): void;
  generate(request: NativeGenerateRequest, onDelivery: NativeDelivery): NativeRequest;
  tokenize(
    text: string,
    addSpecial: boolean,
    parseSpecial: boolean,
    whole: boolean,
    fits: boolean,
    done: NativeCallback<Uint32Array>,
  ): NativeCancel;
  detokenize(tokens: Uint32Array, skipSpecial: boolean, done: NativeCallback<string>): void;
  pieces(tokens: Uint32Array, done: NativeCallback<string[]>): void;
  applyChatTemplate(input: string | Uint8Array, done: NativeCallback<string>): NativeCancel;
  /** At most `most` tokens: a longer prompt is refused with `CONTEXT_OVERFLOW`. */
  chatTokens(input: string | Uint8Array, most: number, done: NativeCallback<NativeChatPrompt>): NativeCancel;
  answerForm(tools: boolean, done: NativeCallback<NativeAnswerForm>): NativeCancel;
  registerOperator(
    name: string,
    places: string[],
    timeoutMs: number,
    onCall: (call: NativeOperatorCall) => void,
  ): NativeOperator | NativeFailure;
  unregisterOperator(name: string): boolean;
  setBlockRanker(timeoutMs: number, onCall: (call: NativeRankingCall) => void): NativeRanker;
  clearBlockRanker(): void;
  setProfiler(every: number, onOperations: (operations: NativeOperations) => void): void;
  clearProfiler(): void;
  startProfiling(operations: number): void;
  stopProfiling(): void;
  profile(): string;
  profileReport(): string;
  profileChart(): string;
  profileTrace(done: NativeCallback<string>): void;
  startTimer(name: string): number | null;
  endTimer(id: number): number | null;
  logits(tokens: Uint32Array, all: boolean, priority: number, done: NativeCallback<NativeLogits>): NativeCancel;
  embed(tokens: Uint32Array, normalize: boolean, priority: number, done: NativeCallback<Float32Array>): NativeCancel;
  score(tokens: Uint32Array, window: number, priority: number, done: NativeCallback<NativeScore>): NativeCancel;
  dispose(done: NativeCallback<boolean>): void;
}

export interface NativeCpuInfo {
  physicalCores: number;
  nodes: number[];
  defaultThreads: number;
  level: string;
  levels: string[];
}

export interface NativeBinding {
  version(): string;
  NativeMemoryPolicy: new (onCall: (call: NativeMemoryCall) => void) => NativeMemoryPolicy;
  NativeQuantizer: new (name: string, onCall: (call: NativeQuantizeCall) => void) => NativeQuantizer;
  cpuInfo(): NativeCpuInfo;
  profilePhases(): string[];
  /** Calls back with progress any number of times, if asked to, and then once with a failure or an engine. */
  loadEngine(
    path: string,
    config: NativeEngineConfig,
    withProgress: boolean,
    quantizer: NativeQuantizer | undefined,
    memoryPolicy: NativeMemoryPolicy | undefined,
    onMessage: (failure: NativeFailure | null, engine: NativeEngine | null, progress: NativeProgress | null) => void,
  ): NativeCancel;
  /** Calls back with progress any number of times, if asked to, and then once with a failure or the report. */
  convertModel(
    source: string,
    target: string,
    settings: NativeConvertSettings,
    withProgress: boolean,
    quantizer: NativeQuantizer | undefined,
    onMessage: (
      failure: NativeFailure | null,
      conversion: NativeConversion | null,
      step: NativeConvertStep | null,
    ) => void,
  ): NativeCancel;
  /** Calls back with the part that is done any number of times, if asked to, and then once with a failure or the report. */
  calibrateModel(
    path: string,
    text: string,
    settings: NativeCalibrateSettings,
    config: NativeEngineConfig,
    withProgress: boolean,
    onMessage: (failure: NativeFailure | null, result: NativeCalibration | null, fraction: number | null) => void,
  ): NativeCancel;
  /** Calls back with events any number of times, and then once with a failure or the report; both are JSON. */
  trainModel(
    settings: NativeTrainSettings,
    onMessage: (failure: NativeFailure | null, report: string | null, event: string | null) => void,
  ): NativeCancel;
  loadTokenizer(path: string, config: NativeEngineConfig, done: NativeCallback<NativeTokenizer>): void;
  estimateMemory(path: string, config: NativeEngineConfig, done: NativeCallback<NativeEstimate>): void;
  inspectModel(path: string, config: NativeEngineConfig, done: NativeCallback<NativeInspection>): void;
  readBandwidth(
    bytes: number,
    threads: number | undefined,
    node: number | undefined,
    done: NativeCallback<number>,
  ): void;
}

let binding: NativeBinding | undefined;

/** The addon, loaded at first use; throws a {@link PlatformError} where there is none. */
export function native(): NativeBinding {
  binding ??= load();
  return binding;
}

function load(): NativeBinding {
  try {
    return require("../../../native.cjs") as NativeBinding;
  } catch (cause) {
    throw new PlatformError("PLATFORM_UNSUPPORTED", platformMessage(cause), { cause });
  }
}
