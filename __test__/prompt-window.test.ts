/** Forgetting the oldest turns: which, and with how much work. */

import { createRequire } from "node:module";
import { describe, expect, test } from "vitest";
import { playedSession } from "./played-chat.js";

const require = createRequire(import.meta.url);
const { longestPrompt } =
  require("../dist/cjs/src/prompt-window.js") as typeof import("../dist/cjs/src/prompt-window.js");

type Window = Parameters<typeof longestPrompt>[0]["last"];

/** Finds the window of turns of these lengths, and counts what it cost. */
async function search(lengths: readonly number[], room: number, charactersPerToken: number, last?: Window) {
  let tried = 0;
  let written = 0;
  const behind = [0];
  for (const length of [...lengths].reverse()) behind.push((behind[behind.length - 1] as number) + length);
  const tokens = (start: number): number => behind[lengths.length - start] as number;
  const { start } = await longestPrompt({
    starts: lengths.map((_, index) => index),
    sizes: lengths.map((_, index) => tokens(index) * charactersPerToken),
    room,
    last,
    prompt: async (from) => {
      tried += 1;
      written += tokens(from);
      return { length: tokens(from) };
    },
  });
  return { start, tried, written };
}

/** The same by trying every start. */
function slow(lengths: readonly number[], room: number): number {
  for (let start = 0; start < lengths.length; start += 1) {
    if (lengths.slice(start).reduce((sum, length) => sum + length, 0) <= room) return start;
  }
  return lengths.length - 1;
}

describe("the longest prompt that fits", () => {
  test("is the one that trying every start finds, in a logarithm of tries", async () => {
    let seed = 7;
    const random = (below: number): number => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed % below;
    };
    for (let round = 0; round < 400; round += 1) {
      const lengths = Array.from({ length: 1 + random(60) }, () => 1 + random(round % 2 ? 9 : 400));
      const room = 1 + random(900);
      const last = round % 3 === 0 ? { start: random(lengths.length), room } : undefined;
      const expected = slow(lengths, room);
      // What was left out before stays out.
      const found = await search(lengths, room, 1 + random(12), last);
      expect(found.start).toBe(last === undefined ? expected : Math.max(expected, last.start));
      expect(found.tried).toBeLessThanOrEqual(4 + 2 * Math.ceil(Math.log2(lengths.length + 1)));
    }
  });

  test("never writes much more than the context, however long the conversation is", async () => {
    const found = await search(Array(100_000).fill(20) as number[], 4000, 4);
    expect(found.start).toBe(100_000 - 200);
    expect(found.tried).toBeLessThan(12);
    expect(found.written).toBeLessThan(12 * 8 * 4000);
  });

  test("is found again with one or two tries when a turn was added", async () => {
    const lengths = Array(1000).fill(20) as number[];
    const { start } = await search(lengths, 400, 4);
    const again = await search([...lengths, 20], 400, 4, { start, room: 400 });
    expect(again).toMatchObject({ start: start + 1 });
    expect(again.tried).toBeLessThanOrEqual(3);
  });
});

describe("a session with a long history", () => {
  const history = Array.from({ length: 6400 }, (_, i) => ({
    role: i % 2 ? "assistant" : "user",
    content: `${"the cat sat on the mat and said so ".repeat(10)}${i}`,
  }));

  test("makes few prompts", async () => {
    const { session, prompts, forgotten, say } = playedSession({ history }, 5000);
    say("Yes.");
    await session.send("x").reply();
    expect(prompts.length).toBeLessThan(14);
    expect(prompts.reduce((sum, prompt) => sum + prompt.length, 0)).toBeLessThan(14 * 50_000);
    expect(forgotten).toHaveLength(1);
    const before = prompts.length;
    await session.send("y").reply();
    expect(prompts.length - before).toBeLessThanOrEqual(3);
  });

  test("makes no further prompt once it is aborted", async () => {
    const { session, prompts, host, say } = playedSession({ history }, 5000);
    say("Yes.");
    const controller = new AbortController();
    const make = host.prompt.bind(host);
    host.prompt = (...args) => {
      controller.abort(new Error("enough"));
      return make(...args);
    };
    await expect(session.send("x", { signal: controller.signal }).reply()).rejects.toThrow("enough");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(prompts).toHaveLength(1);
    expect(session.messages).toHaveLength(6400);
  });
});
