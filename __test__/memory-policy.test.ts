/** What lies where in an engine's memory, its compaction, policies about it, and weights that are read in place. */

import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BitNetEngine,
  convert,
  type EngineConfig,
  type MemoryKind,
  type MemoryPolicy,
  setMemoryPolicy,
  setQuantizer,
} from "ryzanstein";
import { afterEach, describe, expect, test, vi } from "vitest";
import { cli, fixture, withEngine } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const GREEDY = { maxTokens: 24, temperature: 0, ignoreEos: true };

function withModel<T>(config: EngineConfig, work: (engine: BitNetEngine) => Promise<T>, path = MODEL): Promise<T> {
  return withEngine(path, { threads: 2, ...config }, work);
}

afterEach(() => {
  setMemoryPolicy(null);
  setQuantizer(null);
});

describe("the layout", () => {
  test("lists every buffer by name, and its sums are the books'", () =>
    withModel({}, async (engine) => {
      const { regions, paged } = engine.memoryLayout();
      const stats = engine.memoryStats();
      const blocks = regions.flatMap((region) => region.blocks);
      expect(blocks.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(stats.inUse);
      expect(blocks).toHaveLength(stats.buffers);
      expect(regions.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(stats.mapped);
      const owners = new Set(blocks.map(({ owner }) => owner));
      for (const owner of ["blk.0.ffn_up.weight", "keys and values", "logits", "output_norm.weight"]) {
        expect(owners).toContain(owner);
      }
      for (const { address, bytes, blocks, holes } of regions) {
        for (const inside of [...blocks, ...holes]) {
          expect(inside.address).toBeGreaterThanOrEqual(address);
          expect(inside.address + inside.bytes).toBeLessThanOrEqual(address + bytes);
          expect(inside.address % 64).toBe(0);
        }
      }
      expect(paged[0]).toMatchObject({ owner: "keys and values", live: 0, fragmentation: 0, moved: 0 });
      expect(engine.memoryReport()).toContain("blk.0.ffn_up.weight");
    }));

  test("is shown by the command line", async () => {
    const text = await cli(["inspect", "--memory", "-m", MODEL]);
    expect(text.stdout).toMatch(/^[\d.]+ MiB in use by \d+ buffers, .*\n {2}weights +[\d.]+ /);
    const json = JSON.parse((await cli(["inspect", "--memory", "--json", "-m", MODEL])).stdout);
    expect(json.layout.regions.length).toBeGreaterThan(2);
    expect(json.stats.inUse).toBeGreaterThan(0);
  });

  test("a compaction in the middle of a generation changes no token", () =>
    withModel({ prefixCache: false, compactAbove: 1, maxSequences: 4 }, async (engine) => {
      const prompt = "Once upon a time there was a fox";
      const alone = await engine.complete(prompt, GREEDY);
      // Neither goes on before it is read: the first one's blocks are free when it ends, before those of the second.
      const held = { ...GREEDY, bufferedTokens: 1 };
      const first = engine.generate("The first one is in front of it, and soon goes away again.", held);
      await first.next();
      const second = engine.generate(prompt, held);
      await second.next();
      await first.return();
      while (engine.stats().running > 1) await new Promise((resolve) => setTimeout(resolve, 1));
      const { moves, fragmentation } = await engine.compactMemory();
      const rest = await second.completion();
      expect(fragmentation).toBeGreaterThan(0);
      expect(moves.length).toBeGreaterThan(0);
      for (const { from, to } of moves) expect(to).toBeLessThan(from);
      expect(engine.memoryLayout().paged[0]?.moved).toBe(moves.length);
      expect(alone.tokenIds.slice(-rest.tokenIds.length)).toEqual(rest.tokenIds);
    }));
});

describe("a policy", () => {
  test("is asked for all that is mapped, says where it lies, and hears of its end", async () => {
    const balance = new Map<MemoryKind, number>();
    const owners = new Set<string>();
    const add = (size: number, kind: MemoryKind): void => void balance.set(kind, (balance.get(kind) ?? 0) + size);
    const memoryPolicy: MemoryPolicy = {
      onAllocate(size, kind, owner) {
        add(size, kind);
        owners.add(owner);
        return { hugePages: "off", nodes: [0] };
      },
      onFree: (size, kind) => add(-size, kind),
    };
    const mapped = await withModel({ memoryPolicy }, async (engine) => {
      await engine.complete("The fox", GREEDY);
      const { regions } = engine.memoryLayout();
      for (const { hugePages, placement, fallbacks } of regions) {
        expect(hugePages).toBe("off");
        // A container may forbid it: then that is said.
        if (fallbacks.length === 0) expect(placement).toBe("bind:0");
        else expect(fallbacks[0]?.wanted).toBe("bind:0");
      }
      return engine.memoryStats().mapped;
    });
    expect(owners).toContain("keys and values");
    expect(mapped).toBeGreaterThan(0);
    await vi.waitFor(() => expect([...balance.values()].every((size) => size === 0)).toBe(true));
    expect(balance.get("weights")).toBe(0);
  });

  test("that denies, throws or answers wrongly fails the load and says why", async () => {
    const cases: [NonNullable<MemoryPolicy["onAllocate"]>, RegExp][] = [
      [
        (_, kind) => (kind === "kv-cache" ? { deny: "no caches today" } : undefined),
        /kv-cache denied: no caches today/,
      ],
      [
        () => {
          throw new Error("out of order");
        },
        /denied: out of order/,
      ],
      [() => ({ nodes: [99] }), /nodes must be some of the nodes 0, got an array of 1/],
      [() => ({ hugePages: "giant" }) as never, /hugePages must be one of transparent/],
      [(() => Promise.resolve()) as never, /not a promise/],
    ];
    for (const [onAllocate, message] of cases) {
      const loading = withModel({ memoryPolicy: { onAllocate } }, async () => {});
      await expect(loading).rejects.toThrow(message);
      await expect(loading).rejects.toMatchObject({ code: "MEMORY_LIMIT" });
    }
    const wrong = BitNetEngine.load(MODEL, { memoryPolicy: "mine" as never });
    await expect(wrong).rejects.toThrow(/memoryPolicy must be an object with onAllocate or onFree/);
  });

  test("of the engine's own can be named, and set for all that follow", async () => {
    await expect(withModel({ memoryPolicy: { limit: 100_000 } }, async () => {})).rejects.toMatchObject({
      code: "MEMORY_LIMIT",
    });
    setMemoryPolicy("hugepages");
    await withModel({}, async (engine) => {
      const large = engine.memoryLayout().regions.filter(({ bytes }) => bytes >= 2 ** 21);
      for (const { hugePages, fallbacks } of large) {
        if (hugePages !== "explicit") expect(fallbacks[0]?.wanted).toBe("explicit huge pages");
      }
    });
    setMemoryPolicy({ onAllocate: () => ({ deny: "not now" }) });
    await expect(withModel({}, async () => {})).rejects.toThrow("not now");
    await withModel({ memoryPolicy: "default" }, async (engine) => {
      expect(engine.memoryStats().inUse).toBeGreaterThan(0);
    });
  });
});

describe("weights that are read in place", () => {
  test("give the same tokens from a prepacked file, and take no memory of their own", async () => {
    const packed = join(mkdtempSync(join(tmpdir(), "ryz-")), "packed.gguf");
    for (const [source, type] of [
      ["b158-v1-tq2_0.gguf", "TQ2_0"],
      ["bonsai-v-q2_0-g128.gguf", "Q2_0_G128"],
    ] as const) {
      await convert(fixture(source), packed, { type, prepack: true, overwrite: true });
      const [plain, copied] = await withModel(
        {},
        async (engine) => [await engine.complete("The fox", GREEDY), engine.memoryStats()],
        fixture(source),
      );
      await withModel(
        { mapWeights: true },
        async (engine) => {
          expect((await engine.complete("The fox", GREEDY)).tokenIds).toEqual(plain.tokenIds);
          expect(engine.memoryLayout().files).toMatchObject([{ path: packed, bytes: readFileSync(packed).length }]);
          expect(engine.memoryStats().weights).toBeLessThan(copied.weights / 4);
        },
        packed,
      );
    }
  });
});

describe("a quantiser at load time", () => {
  const DENSE = fixture("llamadense-v-q4_0.gguf");

  test("makes float weights ternary, and what that cost is said", async () => {
    const target = join(mkdtempSync(join(tmpdir(), "ryz-")), "ternary.gguf");
    for (const quantizer of ["absmean", "absmean-channel", "absmean-group-64"] as const) {
      const { tensors } = await convert(DENSE, target, { type: "Q2_0_G64", quantizer, overwrite: true });
      const converted = await withModel({}, (engine) => engine.complete("The fox", GREEDY), target);
      await withModel(
        { quantizer },
        async (engine) => {
          const { quantized, layers } = engine.modelInfo;
          expect(quantized).toHaveLength(7 * layers);
          for (const { name, cosine, mse, zeroFraction } of quantized) {
            const other = tensors.find((tensor) => tensor.name === name);
            expect(cosine).toBeCloseTo(other?.error?.cosine ?? Number.NaN, 3);
            expect(mse).toBeGreaterThan(0);
            expect(zeroFraction).toBeCloseTo(other?.zeroFraction ?? Number.NaN, 6);
          }
          // A scale a tensor is fp32 here and fp16 in the file: another model by a hair.
          const loaded = await engine.complete("The fox", GREEDY);
          if (quantizer !== "absmean") expect(loaded.tokenIds).toEqual(converted.tokenIds);
        },
        DENSE,
      );
    }
    await withModel({}, async (engine) => expect(engine.modelInfo.quantized).toEqual([]), DENSE);
  });

  test("of the program is called for one tensor at a time, and its faults fail the load", async () => {
    let running = 0;
    const seen: string[] = [];
    setQuantizer({
      name: "mine",
      async quantize(weights, [rows, columns], tensor) {
        running += 1;
        expect(running).toBe(1);
        expect(weights).toHaveLength(rows * columns);
        seen.push(tensor);
        await new Promise((resolve) => setTimeout(resolve, 1));
        running -= 1;
        return { q: Int8Array.from(weights, Math.sign), scales: Float32Array.of(0.02) };
      },
    });
    await withModel(
      {},
      async (engine) => {
        expect(seen).toHaveLength(7 * engine.modelInfo.layers);
        expect(await engine.complete("The fox", GREEDY)).toMatchObject({ finishReason: "length" });
      },
      DENSE,
    );
    const faulty = {
      name: "faulty",
      quantize: () => ({ q: Int8Array.of(2), scales: Float32Array.of(1) }),
    };
    const failing = withModel({ quantizer: faulty }, async () => {}, DENSE);
    await expect(failing).rejects.toMatchObject({ code: "QUANTIZER_FAILED" });
    await expect(failing).rejects.toThrow(
      /quantizer faulty, tensor blk\.0\.attn_\w\.weight: expected \d+ codes, got 1/,
    );
  });
});
