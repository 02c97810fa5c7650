/** Questions that need no loaded model: what a file holds, and what this machine can do. */

import { cpus } from "node:os";
import { checkConfig, type EngineConfig } from "./config.js";
import { type Native, native } from "./native.js";
import { currentNode } from "./node-scope.js";
import { type ModelOverrides, readOverrides } from "./overrides.js";
import { permittedModel } from "./permission.js";
import { promised } from "./promised.js";
import { OptionReader, pathOf } from "./validate.js";

/** A tensor of a model file. */
export interface ModelTensor {
  readonly name: string;
  /** The type in the file, for example `TQ2_0`. */
  readonly type: string;
  /** Rows × columns; the file's own order is the reverse. */
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** What a model file holds, read from its header alone. */
export interface ModelInspection {
  /** `gguf`, `folder` (a Hugging Face folder) or `safetensors` (a file of tensors that nothing describes). */
  readonly format: "gguf" | "folder" | "safetensors";
  /** The architecture's name in the file; `"unknown"` where it has none. */
  readonly architecture: string;
  /** Whether this engine can run it. */
  readonly runs: boolean;
  /** Why it cannot. */
  readonly reason?: string;
  /** What is probably wrong with it although it runs. */
  readonly warnings: readonly string[];
  readonly parameters: number;
  readonly fileBytes: number;
  /** Key and value of everything the header says; long arrays are shortened. */
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly tensors: readonly ModelTensor[];
  /** Bytes that all parameters would take in each form; `packed` is what this engine keeps in memory. */
  readonly sizes: { readonly fp32: number; readonly fp16: number; readonly int8: number; readonly packed: number };
  /** Bits in the file per parameter. */
  readonly bitsPerWeight: number;
  /** Bytes of key-value cache per token of context (f16); of a model that runs. */
  readonly kvBytesPerToken?: number;
  /** The longest context the model was made for; of a model that runs. */
  readonly trainedContextLength?: number;
}

/**
 * Describes a GGUF file, a safetensors file or a Hugging Face folder of any architecture by its header, without its weights, and
 * says whether it can be run.
 */
export async function inspectModel(path: string | URL, options?: ModelOverrides): Promise<ModelInspection> {
  const file = permittedModel(pathOf("path", path));
  const read = new OptionReader(options, "options");
  const config = readOverrides(read);
  read.done();
  const found = await promised<Native.Inspection>((done) => native().inspectModel(file, config, done));
  const { parameters, fileBytes, tensors, fp32, fp16, int8, packed, kvBytesPerToken, contextLength } = found;
  const tensorBytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  return {
    format: found.format as ModelInspection["format"],
    architecture: found.architecture ?? "unknown",
    runs: found.runs,
    ...(found.reason !== undefined && { reason: found.reason }),
    warnings: found.warnings,
    parameters,
    fileBytes,
    metadata: JSON.parse(found.metadata) as Record<string, unknown>,
    tensors,
    sizes: { fp32, fp16, int8, packed },
    bitsPerWeight: parameters > 0 ? (tensorBytes * 8) / parameters : 0,
    ...(kvBytesPerToken !== undefined && { kvBytesPerToken }),
    ...(contextLength !== undefined && { trainedContextLength: contextLength }),
  };
}

/** Bytes that an engine will take, and for how long a context. The process itself takes some tens of megabytes more. */
export interface MemoryEstimate {
  /** The packed weights: exact, or a little more than it will be where the scales of groups turn out to be equal. */
  readonly weights: number;
  readonly kvCache: number;
  readonly scratch: number;
  /** Weights, cache and scratch of the draft model; 0 without one. */
  readonly draft: number;
  /** Buffers through which the file is read, given back when the weights are there. */
  readonly staging: number;
  /** What a loaded engine holds: weights, cache and scratch, and the draft model. */
  readonly total: number;
  /** The most it ever holds. With a `memoryLimit` below it the load may fail. */
  readonly peak: number;
  /** Tokens that the cache holds for all requests together. */
  readonly kvTokens: number;
  readonly contextLength: number;
}

/**
 * What `BitNetEngine.load(path, config)` would take of memory, from the file's header alone.
 *
 * @example
 * const { peak } = await estimateMemory("model.gguf", { contextLength: 2048 });
 * if (peak > freemem()) throw new Error("this model does not fit");
 *
 * @throws {@link ModelFileError} as `load` does, for what the header shows.
 */
export async function estimateMemory(path: string | URL, config?: EngineConfig): Promise<MemoryEstimate> {
  const file = permittedModel(pathOf("path", path));
  const { native: settings } = checkConfig(config);
  return promised<Native.Estimate>((done) => native().estimateMemory(file, settings, done));
}

/** The processor as the engine sees it. */
export interface CpuInfo {
  /** The processor's name, as the system gives it. */
  readonly model: string;
  readonly logicalCores: number;
  /** The cores that this process may use, whatever threads they run at a time. */
  readonly physicalCores: number;
  /** The memory nodes near those cores, by the system's numbers; most machines have one. */
  readonly nodes: readonly number[];
  /** The threads that an engine uses by default. */
  readonly defaultThreads: number;
  /** The best instruction set, which an engine uses by default. */
  readonly level: string;
  /** Every instruction set that works here. */
  readonly levels: readonly string[];
}

/** What the processor is and can do. */
export function cpuInfo(): CpuInfo {
  const cores = cpus();
  return { model: cores[0]?.model.trim() ?? "unknown", logicalCores: cores.length, ...native().cpuInfo() };
}

/** Options of `measureReadBandwidth`. */
export interface BandwidthOptions {
  /**
   * Threads that read.
   * @defaultValue `cpuInfo().defaultThreads`; with a node, that node's
   */
  readonly threads?: number | undefined;
  /**
   * Bytes that are read, by all threads together.
   * @defaultValue 1 GiB
   */
  readonly bytes?: number | undefined;
  /**
   * The only memory node whose cores read, from its own memory.
   * @defaultValue the node of the surrounding `executeOnNode`, else all nodes
   */
  readonly node?: number | undefined;
}

/** How fast memory can be read, in bytes a second: the limit of every decode. */
export async function measureReadBandwidth(options?: BandwidthOptions): Promise<number> {
  const read = new OptionReader(options, "options");
  const threads = read.integer("threads", { min: 1, max: 1024 });
  const bytes = read.integer("bytes", { min: 1 << 20, max: 2 ** 40 }) ?? 2 ** 30;
  const node = read.integer("node", { min: 0, max: 65_535 }) ?? currentNode();
  read.done();
  return promised((done) => native().readBandwidth(bytes, threads, node, done));
}
