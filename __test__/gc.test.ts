import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { BitNetEngine } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { type FakeRequest, fakeStream } from "./fake-engine.js";
import { fixture } from "./support.js";

setFlagsFromString("--expose-gc");
const gc = runInNewContext("gc") as () => void;

/** Collects until the condition holds. What a WeakRef gave out lives until its task ends: so collecting has its own. */
async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; tries < 200 && !condition(); tries += 1) {
    await sleep(5);
    gc();
    await sleep(5);
  }
}

describe("garbage", () => {
  test("a stream that was dropped half-read is cancelled", async () => {
    const requests: FakeRequest[] = [];
    const running = await (async () => {
      const fake = fakeStream();
      const first = fake.stream.next();
      requests.push(...fake.requests);
      requests[0]?.token("a");
      await first;
      return fake.running;
    })();
    await until(() => requests[0]?.cancelled === true);
    expect(requests[0]?.cancelled).toBe(true);
    expect(running.size).toBe(0);
  });

  test("a stream that is waited for is not", async () => {
    const requests: FakeRequest[] = [];
    const next = (() => {
      const fake = fakeStream();
      const waiting = fake.stream.next();
      requests.push(...fake.requests);
      return waiting;
    })();
    for (let i = 0; i < 20; i += 1) {
      gc();
      await sleep(1);
    }
    requests[0]?.token("late");
    expect((await next).value?.text).toBe("late");
  });

  test("a dropped stream gives its place in a real engine back", async () => {
    const engine = await BitNetEngine.load(fixture("b158-v1-tq2_0.gguf"), { maxSequences: 1, contextLength: 256 });
    for (let i = 0; i < 5; i += 1) {
      const dropped = engine.generate("The fox", { bufferedTokens: 1, ignoreEos: true });
      await dropped.next();
    }
    const completion = engine.complete("The fox", { maxTokens: 3, ignoreEos: true });
    let done = false;
    const watched = completion.then((value) => {
      done = true;
      return value;
    });
    await until(() => done);
    expect((await watched).tokenIds).toHaveLength(3);
    await engine.dispose();
  });

  test("engines under pressure neither crash nor leak memory", async () => {
    const engine = await BitNetEngine.load(fixture("b158-v1-tq2_0.gguf"), { threads: 1 });
    const churn = async (rounds: number): Promise<number> => {
      for (let round = 0; round < rounds; round += 1) {
        for await (const _ of engine.generate("The fox", { maxTokens: 4, seed: round })) if (round % 3 === 0) break;
        await engine.tokenize("So she went to the well");
        gc();
      }
      return engine.memoryStats().inUse;
    };
    const early = await churn(10);
    expect(await churn(60)).toBe(early);
    await engine.dispose();
  });

  test("an engine that was dropped without dispose frees its memory", async () => {
    const load = async (): Promise<WeakRef<BitNetEngine>> =>
      new WeakRef(await BitNetEngine.load(fixture("b158-v1-tq2_0.gguf"), { threads: 1 }));
    const dropped = await load();
    await until(() => dropped.deref() === undefined);
    expect(dropped.deref()).toBeUndefined();
  });
});
