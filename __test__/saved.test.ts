/** Prefixes and conversations in files. */

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { BitNetEngine, ModelFileError } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { fixture, withEngine } from "./support.js";

const require = createRequire(import.meta.url);
const { chatOf } = require("../dist/cjs/src/saved.js") as typeof import("../dist/cjs/src/saved.js");

const MODEL = fixture("b158-v1-tq2_0.gguf");
const GREEDY = { maxTokens: 12, temperature: 0, ignoreEos: true, logprobs: 2 };
const PROMPT = Array.from({ length: 200 }, (_, at) => (at * 7) % 400);
const TEMPLATE =
  "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ryz-saved-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("a prefix", () => {
  test("that was saved is not computed by another engine, which says the same", async () => {
    const path = join(folder, "prefix");
    const { tokenIds, logprobs } = await withEngine(MODEL, {}, async (engine) => {
      const saved = await engine.savePrefix(PROMPT, path);
      expect(saved).toEqual({ tokens: 192, bytes: readFileSync(path).length });
      return engine.complete(PROMPT, GREEDY);
    });
    await withEngine(MODEL, { threads: 1, prefillChunk: 13 }, async (engine) => {
      const { tokens, restored } = await engine.restorePrefix(pathToFileURL(path));
      expect([...tokens]).toEqual(PROMPT.slice(0, 192));
      expect(restored).toBe(192);
      const before = engine.stats();
      expect(before.kvBlocksKept).toBe(12);
      const answer = await engine.complete(PROMPT, GREEDY);
      expect({ tokenIds: answer.tokenIds, logprobs: answer.logprobs }).toEqual({ tokenIds, logprobs });
      expect(engine.stats().promptTokens - before.promptTokens).toBe(8);
    });
    expect(readdirSync(folder)).toEqual(["prefix"]);
  });

  test("of another engine, and what is no prefix, are refused", async () => {
    const path = join(folder, "of-int8");
    await withEngine(MODEL, {}, (engine) => engine.savePrefix(PROMPT, path));
    const cut = join(folder, "cut");
    writeFileSync(cut, readFileSync(path).subarray(0, 1000));
    await withEngine(MODEL, { kv: "f16" }, async (engine) => {
      await expect(engine.restorePrefix(path)).rejects.toThrow(/cache type: expected f16, got int8/);
      await expect(engine.restorePrefix(path)).rejects.toBeInstanceOf(ModelFileError);
    });
    await withEngine(fixture("bonsai-v-q2_0-g128.gguf"), {}, async (engine) => {
      await expect(engine.restorePrefix(path)).rejects.toThrow(/model fingerprint/);
    });
    await withEngine(MODEL, {}, async (engine) => {
      await expect(engine.restorePrefix(cut)).rejects.toMatchObject({ code: "INVALID_FILE" });
      await expect(engine.restorePrefix(MODEL)).rejects.toMatchObject({ code: "INVALID_FILE" });
      await expect(engine.restorePrefix(join(folder, "none"))).rejects.toMatchObject({ code: "FILE_NOT_FOUND" });
      await expect(engine.savePrefix([], path)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
      await expect(engine.savePrefix(PROMPT, join(folder, "none", "x"))).rejects.toMatchObject({ code: "IO" });
    });
    await withEngine(MODEL, { prefixCache: false }, async (engine) => {
      await expect(engine.savePrefix(PROMPT, path)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
      await expect(engine.restorePrefix(path)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    });
  });

  test("is saved or refused, and nothing hangs, when the engine is disposed of meanwhile", async () => {
    const engine = await BitNetEngine.load(MODEL, { prefillChunk: 1 });
    const saving = engine.savePrefix(PROMPT, join(folder, "late")).then(
      () => "saved",
      (error: { code: string }) => error.code,
    );
    await engine.dispose();
    expect(["saved", "DISPOSED"]).toContain(await saving);
    await expect(engine.restorePrefix(join(folder, "late"))).rejects.toMatchObject({ code: "DISPOSED" });
  });
});

describe("a signal", () => {
  const reason = new Error("not wanted any more");
  let own: string;
  beforeAll(() => {
    own = join(folder, "signals");
    mkdirSync(own);
  });

  test("that has been given before keeps the older file, and restores nothing", async () => {
    const path = join(own, "before");
    await withEngine(MODEL, {}, async (engine) => {
      await engine.savePrefix(PROMPT, path);
      const older = readFileSync(path);
      engine.clearPrefixCache();
      const signal = AbortSignal.abort(reason);
      await expect(engine.savePrefix(PROMPT.slice(0, 64), path, { signal })).rejects.toBe(reason);
      await expect(engine.restorePrefix(path, { signal })).rejects.toBe(reason);
      expect(engine.stats().promptTokens).toBe(192);
      expect(readFileSync(path)).toEqual(older);
      for (const wrong of [{ signal: 7 }, { signals: signal }] as object[]) {
        await expect(engine.savePrefix(PROMPT, path, wrong)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
        await expect(engine.restorePrefix(path, wrong)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
      }
    });
    expect(readdirSync(own)).toEqual(["before"]);
  });

  test("meanwhile leaves no file, and nothing running", async () => {
    const path = join(own, "before");
    // One slot, which a generation holds: whoever saves or restores waits behind it.
    await withEngine(MODEL, { maxSequences: 1 }, async (engine) => {
      const slow = engine.generate(PROMPT.slice(100), { maxTokens: 100_000, ignoreEos: true, bufferedTokens: 65_536 });
      await slow.next();
      const stop = new AbortController();
      const { signal } = stop;
      const started = [
        engine.savePrefix(PROMPT, join(own, "after"), { signal }),
        engine.restorePrefix(path, { signal }),
      ];
      stop.abort(reason); // the generation, which began before, may end at any time
      const refused = { status: "rejected", reason };
      expect(await Promise.allSettled(started)).toEqual([refused, refused]);
      await slow.return();
      await vi.waitFor(() => expect(engine.stats()).toMatchObject({ running: 0, waiting: 0 }));
      expect(engine.stats().kvBlocksFree).toBe(engine.stats().kvBlocks);
      expect(readdirSync(own)).toEqual(["before"]);
      expect((await engine.restorePrefix(path)).restored).toBe(192);
    });
  });

  test("afterwards changes nothing", async () => {
    const path = join(own, "late");
    await withEngine(MODEL, {}, async (engine) => {
      const stop = new AbortController();
      await engine.savePrefix(PROMPT, path, { signal: stop.signal });
      const { restored } = await engine.restorePrefix(path, { signal: stop.signal });
      stop.abort(reason);
      expect(restored).toBe(192);
      expect((await engine.restorePrefix(path)).restored).toBe(192);
    });
  });
});

describe("a conversation", () => {
  const TURN = { maxTokens: 10, temperature: 0, ignoreEos: true };
  const options = { systemPrompt: "You are brief, and you always tell the truth about foxes.", defaults: TURN };
  let model: string;
  beforeAll(() => {
    model = withChatTemplate(MODEL, TEMPLATE);
  });

  test("goes on in another process as it would have gone on in this one", async () => {
    const path = join(folder, "conversation");
    const { messages, next, saved } = await withEngine(model, {}, async (engine) => {
      const session = engine.createChatSession(options);
      await session.send("What is a fox?").reply();
      await session.send("And what does it eat?").reply();
      const saved = await session.save(path);
      return { saved, messages: session.messages, next: await session.send("Why?").reply() };
    });
    expect(saved.tokens).toBeGreaterThan(32);
    await withEngine(model, {}, async (engine) => {
      const session = await engine.restoreChatSession(path, { defaults: TURN });
      expect(session.messages).toEqual(messages);
      const before = engine.stats();
      const { text, tokenIds, usage } = await session.send("Why?").reply();
      expect({ text, tokenIds }).toEqual({ text: next.text, tokenIds: next.tokenIds });
      // All but its end was there.
      const computed = engine.stats().promptTokens - before.promptTokens;
      expect(computed).toBeLessThanOrEqual(usage.promptTokens - saved.tokens + 32);
      session.reset();
      expect(session.messages).toEqual(messages);
    });
  });

  test("in which nothing was said is kept too, and one that is busy is not", async () => {
    const path = join(folder, "nothing");
    await withEngine(model, {}, async (engine) => {
      expect((await engine.createChatSession().save(path)).tokens).toBe(0);
      expect((await engine.restoreChatSession(path)).messages).toEqual([]);
      const session = engine.createChatSession(options);
      const turn = session.send("What is a fox?");
      await turn.next();
      await expect(session.save(path)).rejects.toMatchObject({ code: "BUSY" });
      await turn.return();
      await session.save(path);
      expect((await engine.restoreChatSession(path)).messages).toEqual(session.messages);
    });
  });

  test("is neither kept nor restored for who has given up, and goes on", async () => {
    const path = join(folder, "given-up");
    await withEngine(model, {}, async (engine) => {
      const signal = AbortSignal.abort("enough");
      const session = engine.createChatSession(options);
      await session.send("What is a fox?").reply();
      await expect(session.save(path, { signal })).rejects.toBe("enough");
      expect(readdirSync(folder)).not.toContain("given-up");
      await session.send("Why?").reply();
      await session.save(path, { signal: new AbortController().signal });
      await expect(engine.restoreChatSession(path, { signal })).rejects.toBe("enough");
      expect((await engine.restoreChatSession(path, { defaults: TURN })).messages).toEqual(session.messages);
    });
  });

  test("is not what a plain prefix holds, nor is anything that another wrote trusted", async () => {
    const path = join(folder, "plain");
    await withEngine(model, {}, async (engine) => {
      await engine.savePrefix("What is a fox?", path);
      await expect(engine.restoreChatSession(path)).rejects.toMatchObject({ code: "INVALID_FILE" });
      const wrong = { systemPrompt: "Be long." } as object;
      await engine.createChatSession(options).save(path);
      await expect(engine.restoreChatSession(path, wrong)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    });
    const history = [{ role: "user", content: "Hello" }];
    expect(chatOf(path, JSON.stringify({ chat: { history } }))).toEqual({ history });
    const others = [
      null,
      7,
      [],
      { chat: null },
      { chat: {} },
      { chat: { history: {} } },
      { chat: { history: [null] } },
    ];
    for (const note of [...others, { chat: { history, systemPrompt: 7 } }, { chat: { history: [{ role: 7 }] } }]) {
      expect(() => chatOf(path, JSON.stringify(note))).toThrow(ModelFileError);
    }
    expect(() => chatOf(path, "{")).toThrow(ModelFileError);
  });
});
