/** An engine's memory: what lies where, and policies that decide about it. */

import { InvalidArgumentError, saidBy } from "./errors.js";
import { type Native, type NativeMemoryPolicy, native } from "./native.js";
import { OptionReader, whole } from "./validate.js";

/** What memory is for. */
export type MemoryKind = "weights" | "kv-cache" | "scratch" | "staging";

/** Pages of large buffers. */
export type HugePages = "transparent" | "explicit" | "off";
/** @internal */
export const HUGE_PAGES: readonly HugePages[] = ["transparent", "explicit", "off"];

/** Bytes of memory in use by an engine. */
export interface MemoryStats {
  readonly weights: number;
  readonly kvCache: number;
  readonly scratch: number;
  /** Buffers through which files are read. */
  readonly staging: number;
  readonly inUse: number;
  /** Held ready by pools. */
  readonly pooled: number;
  /** Mapped from the system: what is in use or pooled, padding, and free blocks. */
  readonly mapped: number;
  /** The most that was ever in use at once. */
  readonly highWater: number;
  /** Live buffers. */
  readonly buffers: number;
  /** Buffers ever taken. */
  readonly allocations: number;
  /** The `memoryLimit` the engine was loaded with. */
  readonly limit?: number;
}

/** A stretch of memory. */
export interface MemoryHole {
  readonly address: number;
  readonly bytes: number;
}

/** A block in use. */
export interface MemoryBlock extends MemoryHole {
  /** The tensor or buffer it is, by name. */
  readonly owner: string;
}

/** One mapping of the system's memory. */
export interface MemoryRegion {
  readonly address: number;
  readonly bytes: number;
  readonly kind: MemoryKind;
  /** `buffer`: one large buffer; `chunk`: blocks of a size class; `pool`: blocks held ready; `closed-pool`: what is left of one. */
  readonly usedAs: "buffer" | "chunk" | "pool" | "closed-pool";
  /** Bytes of each block, padding included. */
  readonly blockBytes: number;
  /** Blocks there is room for. */
  readonly capacity: number;
  /** Bytes of its pages; of transparent huge pages, the smallest. */
  readonly pageBytes: number;
  readonly hugePages: HugePages;
  /** `first-touch`, `bind:0`, `interleave:0,1`. */
  readonly placement: string;
  /** Memory nodes that pages of it lie on; none where no page was touched, or the system does not say. */
  readonly nodes: readonly number[];
  /** What was asked for and could not be had. */
  readonly fallbacks: readonly { readonly wanted: string; readonly got: string; readonly reason: string }[];
  readonly blocks: readonly MemoryBlock[];
  readonly holes: readonly MemoryHole[];
}

/** What lies where in an engine's memory. */
export interface MemoryLayout {
  /** Bytes of the system's pages. */
  readonly pageSize: number;
  /** By address. */
  readonly regions: readonly MemoryRegion[];
  /** Files that are read in place (`mapWeights`). */
  readonly files: readonly { readonly path: string; readonly address: number; readonly bytes: number }[];
  /** The key-value cache, whose blocks move when it is compacted. */
  readonly paged: readonly {
    readonly owner: string;
    readonly address: number;
    readonly pageBytes: number;
    readonly capacity: number;
    readonly live: number;
    /** Which part of the blocks up to the last one in use is free: 0 to 1. */
    readonly fragmentation: number;
    /** Blocks moved so far. */
    readonly moved: number;
    readonly holes: readonly MemoryHole[];
  }[];
}

/** What `compactMemory` did. */
export interface Compaction {
  /** The addresses at which each block that moved was, and is. */
  readonly moves: readonly { readonly from: number; readonly to: number }[];
  /** Bytes that went back to the system. */
  readonly releasedBytes: number;
  /** Which part of the cache's blocks up to the last one in use was free before: 0 to 1. */
  readonly fragmentation: number;
}

/** Where memory is to lie; what is left out is left to the engine. */
export interface MemoryPlacement {
  readonly hugePages?: HugePages | undefined;
  /** Memory nodes, of `cpuInfo().nodes`. */
  readonly nodes?: readonly number[] | undefined;
  /**
   * Whether pages lie on the nodes by turns.
   * @defaultValue `false`: on any of them
   */
  readonly interleave?: boolean | undefined;
}

/** A policy's no. */
export interface MemoryDenial {
  /** Why. */
  readonly deny: string;
}

/**
 * Decides about memory before an engine maps it from the system: for large buffers, for pools, and for the regions that small
 * buffers share. That happens while a model loads, never inside a step.
 */
export interface MemoryPolicy {
  /**
   * Where `size` bytes are to lie, or why they are not to be had: then the load fails with `MEMORY_LIMIT`. Must answer at once:
   * the load waits for it.
   *
   * @param owner the tensor or buffer, by name; empty for regions that several share
   */
  // biome-ignore lint/suspicious/noConfusingVoidType: a method without a return is a policy that only listens
  onAllocate?(size: number, kind: MemoryKind, owner: string): MemoryPlacement | MemoryDenial | undefined | void;
  /** Memory has gone back to the system. */
  onFree?(size: number, kind: MemoryKind, owner: string): void;
}

/**
 * The policies that come with the engine: `default` leaves everything to the options; `hugepages` takes explicit huge pages,
 * transparent ones where the system has none set apart; `interleave` lays pages on all memory nodes by turns; `{ limit }`
 * denies what would pass so many mapped bytes.
 */
export type BuiltInMemoryPolicy = "default" | "hugepages" | "interleave" | { readonly limit: number };

const NAMED = ["default", "hugepages", "interleave"] as const;

let current: MemoryPolicy | BuiltInMemoryPolicy | undefined;

/**
 * Sets the policy of engines that are loaded from now on, where their options do not say; `null` goes back to none. It holds
 * for this thread's copy of the package.
 *
 * @example
 * setMemoryPolicy({
 *   onAllocate: (size, kind) => (kind === "kv-cache" && size > 1e9 ? { deny: "a gigabyte is enough" } : undefined),
 * });
 */
export function setMemoryPolicy(policy: MemoryPolicy | BuiltInMemoryPolicy | null): void {
  current = policy === null ? undefined : checkMemoryPolicy("policy", policy);
}

/** The policy that is set. @internal */
export function currentMemoryPolicy(): MemoryPolicy | BuiltInMemoryPolicy | undefined {
  return current;
}

/** Checks a policy. @internal */
export function checkMemoryPolicy(option: string, policy: unknown): MemoryPolicy | BuiltInMemoryPolicy {
  if (NAMED.includes(policy as (typeof NAMED)[number])) return policy as BuiltInMemoryPolicy;
  const { limit, onAllocate, onFree } = (
    typeof policy === "object" && policy !== null ? policy : {}
  ) as MemoryPolicy & {
    limit?: unknown;
  };
  if (onAllocate === undefined && onFree === undefined && limit !== undefined) {
    new OptionReader(policy, option, `${option}.`).integer("limit", { min: 1, max: Number.MAX_SAFE_INTEGER });
    return policy as BuiltInMemoryPolicy;
  }
  const methods = [onAllocate, onFree].filter((method) => method !== undefined);
  if (methods.length > 0 && methods.every((method) => typeof method === "function")) return policy as MemoryPolicy;
  const expected = `an object with onAllocate or onFree, { limit }, or one of ${NAMED.join(", ")}`;
  throw new InvalidArgumentError(option, expected, policy);
}

/** Whether a policy is the program's own. @internal */
export function isOwnPolicy(policy: MemoryPolicy | BuiltInMemoryPolicy | undefined): policy is MemoryPolicy {
  return typeof policy === "object" && !("limit" in policy);
}

/** What a policy that comes with the engine is on the native side. @internal */
export function memoryPolicySettings(
  policy: MemoryPolicy | BuiltInMemoryPolicy | undefined,
): Pick<Native.Config, "memoryPolicy" | "memoryPolicyLimit"> {
  if (policy === undefined || isOwnPolicy(policy)) return {};
  if (typeof policy === "string") return { memoryPolicy: policy };
  return { memoryPolicy: "limit", memoryPolicyLimit: policy.limit };
}

/** The native face of a policy of the program. @internal */
export function nativeMemoryPolicy(policy: MemoryPolicy): NativeMemoryPolicy {
  const { NativeMemoryPolicy } = native();
  const made = new NativeMemoryPolicy((call) => {
    if (call.id === undefined) hearOfFree(policy, call);
    else made.answer(call.id, answer(policy, call));
  });
  return made;
}

function hearOfFree(policy: MemoryPolicy, { bytes, kind, owner }: Native.MemoryCall): void {
  try {
    policy.onFree?.(bytes, kind as MemoryKind, owner);
  } catch {
    // News only: nobody waits for an answer, and there is nothing left to fail.
  }
}

function answer(policy: MemoryPolicy, { bytes, kind, owner }: Native.MemoryCall): Native.MemoryAnswer {
  try {
    return checkAnswer(policy.onAllocate?.(bytes, kind as MemoryKind, owner));
  } catch (error) {
    return { denied: saidBy(error) };
  }
}

/** What a policy said, checked: a wrong answer is a denial that says why. */
function checkAnswer(said: unknown): Native.MemoryAnswer {
  if (said === undefined) return {};
  if (typeof (said as Promise<unknown> | null)?.then === "function") {
    throw new InvalidArgumentError("onAllocate", "an answer at once, not a promise", said);
  }
  if (typeof said === "object" && said !== null && "deny" in said) return { denied: String(said.deny) };
  const read = new OptionReader(said, "onAllocate", "onAllocate: ");
  const hugePages = read.choice("hugePages", HUGE_PAGES);
  const interleave = read.boolean("interleave");
  const nodes = read.any("nodes");
  read.done();
  const known = native().cpuInfo().nodes;
  if (
    nodes !== undefined &&
    !(Array.isArray(nodes) && nodes.length > 0 && whole(nodes).every((node) => known.includes(node)))
  ) {
    throw new InvalidArgumentError("onAllocate: nodes", `some of the nodes ${known.join(", ")}`, nodes);
  }
  return {
    ...(hugePages !== undefined && { hugePages }),
    ...(interleave !== undefined && { interleave }),
    ...(nodes !== undefined && { nodes: whole(nodes as number[]) }),
  };
}
