/** Ryzanstein: ternary-weight language models on CPUs, streamed into TypeScript. This is the whole public surface. */

import "./src/node-version.js";

export { type CalibrateOptions, type Calibration, calibrate, type RankCost } from "./src/calibrate.js";
export type { ApplyChatTemplateOptions, ChatMessage, ChatRole, ChatTemplateOptions, TextPart } from "./src/chat.js";
export type { ToolChoice, TurnOptions } from "./src/chat-loop.js";
export { ChatSession, type ChatSessionOptions } from "./src/chat-session.js";
export {
  type ChatFinish,
  type ChatFinishReason,
  type ChatPart,
  type ChatReply,
  type ChatStep,
  ChatTurn,
  type ReasoningDelta,
  type ToolCallPart,
  type ToolResultPart,
} from "./src/chat-turn.js";
export { type CompleteObjectOptions, ObjectCutError, ObjectInvalidError } from "./src/complete-object.js";
export type {
  Activations,
  BatchLayout,
  EngineConfig,
  HeadScreening,
  HeadType,
  KvType,
  Level,
  LoadProgress,
  Numa,
  Packing,
  ThreadPinning,
} from "./src/config.js";
export {
  type Conversion,
  type ConvertedTensor,
  type ConvertOptions,
  type ConvertProgress,
  convert,
  type EmbeddingType,
  type FloatWeights,
  type QuantizationError,
  type TernaryType,
} from "./src/convert.js";
export { defaultModelPath } from "./src/default-model.js";
export { BitNetEngine, type ChatOptions, type Prompt } from "./src/engine.js";
export {
  type ErrorCode,
  InvalidArgumentError,
  ModelFileError,
  PlatformError,
  QueueFullError,
  RyzansteinError,
} from "./src/errors.js";
export type { AttentionSinks, Eviction, HeavyHitters, Ranked, SlidingWindow } from "./src/eviction.js";
export type {
  Operator,
  OperatorCall,
  OperatorOptions,
  OperatorPlace,
  OperatorResult,
  Profiler,
  ProfilerOperation,
  ProfilerOptions,
} from "./src/extensions.js";
export type { JsonWhitespace, OutputFormat } from "./src/format.js";
export type {
  Completion,
  Finish,
  FinishReason,
  GenerateOptions,
  StreamPart,
  TextDelta,
  Timings,
  TokenLogprob,
  TokenLogprobs,
  Usage,
} from "./src/generate-options.js";
export type { LogFields, Logger, LogLevel } from "./src/logger.js";
export {
  type BandwidthOptions,
  type CpuInfo,
  cpuInfo,
  estimateMemory,
  inspectModel,
  type MemoryEstimate,
  type ModelInspection,
  type ModelTensor,
  measureReadBandwidth,
} from "./src/machine.js";
export {
  type BuiltInMemoryPolicy,
  type Compaction,
  type HugePages,
  type MemoryBlock,
  type MemoryDenial,
  type MemoryHole,
  type MemoryKind,
  type MemoryLayout,
  type MemoryPlacement,
  type MemoryPolicy,
  type MemoryRegion,
  type MemoryStats,
  setMemoryPolicy,
} from "./src/memory.js";
export type { DraftModel, ModelInfo, QuantizationLoss, ScreenedHead, TunedMatrix, Tuning } from "./src/model-info.js";
export { executeOnNode } from "./src/node-scope.js";
export type { ModelOverrides, OverrideValue } from "./src/overrides.js";
export type {
  LatencySummary,
  LayerProfile,
  PhaseTime,
  Profile,
  ProfilePhase,
  ProfilingOptions,
} from "./src/profile.js";
export { type BuiltInQuantizer, type QuantizedTensor, type Quantizer, setQuantizer } from "./src/quantizer.js";
export type { BlockRanker, BlockRankerOptions, RankedBlock } from "./src/ranker.js";
export type {
  DetokenizeOptions,
  EmbedOptions,
  Logits,
  LogitsOptions,
  Perplexity,
  PerplexityOptions,
  TokenizeOptions,
} from "./src/readings.js";
export type {
  Dry,
  DynamicTemperature,
  Mirostat,
  SamplerName,
  SamplingOptions,
  Xtc,
} from "./src/sampling.js";
export type {
  RestoreChatSessionOptions,
  RestoredPrefix,
  SavedPrefix,
  SavedPrefixOptions,
} from "./src/saved.js";
export type {
  InferInput,
  InferOutput,
  Schema,
  StandardConverter,
  StandardConverterOptions,
  StandardIssue,
  StandardJsonSchema,
  StandardResult,
  StandardSchema,
} from "./src/standard-schema.js";
export type { EngineStats } from "./src/stats.js";
export { TextStream } from "./src/stream.js";
export { type EncodedText, type SpecialTokens, Tokenizer } from "./src/tokenizer.js";
export {
  type AnyTool,
  type FromJsonSchema,
  type Tool,
  type ToolArguments,
  type ToolContext,
  type ToolOptions,
  tool,
} from "./src/tool.js";
export type { ToolCall, ToolDefinition } from "./src/tool-calls.js";
export type { ToolResult } from "./src/tool-set.js";
export {
  type FinetuneOptions,
  finetune,
  type TrainConfig,
  type TrainEvent,
  TrainingRun,
  type TrainModelConfig,
  type TrainOptions,
  type TrainReport,
  train,
} from "./src/train.js";
