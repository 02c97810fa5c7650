import { setImmediate as tick } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { type FakeRequest, fakeStream } from "./fake-engine.js";

function only(requests: FakeRequest[]): FakeRequest {
  expect(requests).toHaveLength(1);
  return requests[0] as FakeRequest;
}

/** Timers that keep the process alive. */
const timers = (): number => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;

describe("a stream", () => {
  test("computes nothing before the first part is asked for", async () => {
    const { stream, requests } = fakeStream();
    await tick();
    expect(requests).toHaveLength(0);
    void stream.next();
    expect(requests).toHaveLength(1);
    await stream.return();
  });

  test("yields parts in order and then ends, for ever", async () => {
    const { stream, requests, running } = fakeStream();
    const first = stream.next();
    const request = only(requests);
    request.token("one", 1);
    request.token("two", 2);
    request.finish();
    expect(await first).toEqual({ done: false, value: { type: "text-delta", text: "one", tokenIds: [1] } });
    expect((await stream.next()).value).toMatchObject({ text: "two" });
    const timings = { prefillMs: 1, timeToFirstTokenMs: 2, decodeMs: 3, tokensPerSecond: 1000 };
    const usage = { promptTokens: 4, completionTokens: 4 };
    expect((await stream.next()).value).toEqual({ type: "finish", text: "", finishReason: "stop", usage, timings });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect(running.size).toBe(0);
  });

  test("serves several reads at once in their order", async () => {
    const { stream, requests } = fakeStream();
    const reads = [stream.next(), stream.next(), stream.next()];
    const request = only(requests);
    request.token("a");
    request.token("b");
    request.finish();
    const parts = await Promise.all(reads);
    expect(parts.map((part) => part.value?.text)).toEqual(["a", "b", ""]);
  });

  test("gives no credit back for what was not read", async () => {
    const { stream, requests } = fakeStream({ credits: 4 });
    const first = stream.next();
    const request = only(requests);
    for (const text of ["a", "b", "c", "d"]) request.token(text);
    await first;
    expect(request.credits).toBe(0); // one read of four: not yet half
    expect(() => request.token("e")).toThrow("no credit left");
    await stream.next();
    expect(request.credits).toBe(2);
    await stream.next();
    expect(request.credits).toBe(2);
    await stream.next();
    expect(request.credits).toBe(4);
    await stream.return();
  });

  test.each([1, 2, 3, 4, 7])("a reader who waits never does so without credits: %i", async (credits) => {
    const { stream, requests } = fakeStream({ credits });
    for (let token = 0; token < 20; token += 1) {
      const waiting = stream.next();
      const request = only(requests);
      expect(request.credits).toBeGreaterThan(0);
      request.token("a");
      await waiting;
    }
    await stream.return();
  });

  test("takes several deltas in one delivery", async () => {
    const { stream, requests } = fakeStream();
    const reads = [stream.next(), stream.next(), stream.next()];
    const logprobs = [{ tokenId: 4, logprob: -1, top: [] }];
    only(requests).deliver(
      {
        deltas: [
          { text: "a", tokenIds: [1, 2] },
          { text: "b", tokenIds: [4], logprobs },
        ],
      },
      null,
    );
    only(requests).token("c", 5);
    const parts = await Promise.all(reads);
    expect(parts.map(({ value }) => value)).toEqual([
      { type: "text-delta", text: "a", tokenIds: [1, 2] },
      { type: "text-delta", text: "b", tokenIds: [4], logprobs },
      { type: "text-delta", text: "c", tokenIds: [5] },
    ]);
    await stream.return();
  });

  test("keeps the process alive only while somebody waits", async () => {
    const before = timers();
    const holding = () => timers() > before;
    const { stream, requests } = fakeStream();
    const first = stream.next();
    const request = only(requests);
    expect(holding()).toBe(true);
    request.token("a");
    await first;
    request.token("b"); // nobody waits for it
    expect(holding()).toBe(false);
    await stream.next();
    expect(holding()).toBe(false);
    const third = stream.next();
    expect(holding()).toBe(true);
    request.token("c");
    await third;
    await stream.return();
    expect(holding()).toBe(false);
  });

  test("does not keep it alive when a delivery uses all credits up and but one part is read", async () => {
    const before = timers();
    const { stream, requests } = fakeStream({ credits: 4 });
    const first = stream.next();
    only(requests).deliver({ deltas: ["a", "b", "c", "d"].map((text, id) => ({ text, tokenIds: [id] })) }, null);
    await first;
    expect(timers()).toBe(before);
    await stream.return();
  });

  test("stops at break, and drops what was not read", async () => {
    const { stream, requests, running } = fakeStream();
    setTimeout(() => {
      only(requests).token("a");
      only(requests).token("b");
    });
    for await (const part of stream) {
      expect(part.text).toBe("a");
      break;
    }
    expect(only(requests).cancelled).toBe(true);
    expect(running.size).toBe(0);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  test("return() ends a read that waits", async () => {
    const { stream, requests } = fakeStream();
    const waiting = stream.next();
    await stream.return();
    expect(await waiting).toEqual({ done: true, value: undefined });
    expect(only(requests).cancelled).toBe(true);
  });

  test("throw() cancels and rejects", async () => {
    const { stream, requests } = fakeStream();
    void stream.next();
    await expect(stream.throw(new Error("mine"))).rejects.toThrow("mine");
    expect(only(requests).cancelled).toBe(true);
  });

  test("an aborted signal starts nothing and throws its reason", async () => {
    const reason = new Error("too late");
    const { stream, requests } = fakeStream({ signal: AbortSignal.abort(reason) });
    await expect(stream.next()).rejects.toBe(reason);
    expect(requests).toHaveLength(0);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  test("an abort while waiting throws the reason at once and cancels", async () => {
    const controller = new AbortController();
    const { stream, requests, running } = fakeStream({ signal: controller.signal });
    const waiting = stream.next();
    controller.abort("why not");
    await expect(waiting).rejects.toBe("why not");
    expect(only(requests).cancelled).toBe(true);
    expect(running.size).toBe(0);
  });

  test("an abort between reads throws at the next one, before unread text", async () => {
    const controller = new AbortController();
    const { stream, requests } = fakeStream({ signal: controller.signal });
    const first = stream.next();
    only(requests).token("a");
    only(requests).token("b");
    await first;
    controller.abort("stop");
    await expect(stream.next()).rejects.toBe("stop");
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  test("an abort after the end changes nothing", async () => {
    const controller = new AbortController();
    const { stream, requests } = fakeStream({ signal: controller.signal });
    const first = stream.next();
    only(requests).finish();
    await first;
    controller.abort();
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  test("an abort while the prompt is still being made submits nothing", async () => {
    const controller = new AbortController();
    const { stream, requests } = fakeStream({ signal: controller.signal, prompt: async () => "later" });
    const waiting = stream.next();
    controller.abort("early");
    await expect(waiting).rejects.toBe("early");
    await tick();
    expect(requests).toHaveLength(0);
  });

  test("a prompt that fails fails the stream", async () => {
    const { stream } = fakeStream({ prompt: () => Promise.reject(new Error("no template")) });
    await expect(stream.next()).rejects.toThrow("no template");
  });

  test("an engine failure comes after the text before it", async () => {
    const { stream, requests } = fakeStream();
    const first = stream.next();
    only(requests).deliver(
      {
        deltas: [
          { text: "a", tokenIds: [1] },
          { text: "b", tokenIds: [2] },
        ],
        failure: { code: "MEMORY_LIMIT", message: "no room" },
      },
      null,
    );
    expect((await first).value?.text).toBe("a");
    expect((await stream.next()).value?.text).toBe("b");
    await expect(stream.next()).rejects.toMatchObject({ code: "MEMORY_LIMIT", message: "no room" });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  test("completion() gathers everything", async () => {
    const { stream, requests } = fakeStream();
    const completion = stream.completion();
    only(requests).token("Hello", 1);
    only(requests).token(" you", 2);
    only(requests).finish("length");
    expect(await completion).toMatchObject({ text: "Hello you", tokenIds: [1, 2], finishReason: "length" });
  });

  test("a web stream pulls one part at a time, and its cancel stops the generation", async () => {
    const { stream, requests } = fakeStream();
    const reader = stream.toReadableStream().getReader();
    await tick();
    expect(requests).toHaveLength(0);
    const read = reader.read();
    await tick();
    only(requests).token("a");
    expect((await read).value?.text).toBe("a");
    await reader.cancel();
    expect(only(requests).cancelled).toBe(true);
  });

  test("asyncDispose stops it", async () => {
    const { stream, requests } = fakeStream();
    void stream.next();
    await stream[Symbol.asyncDispose]();
    expect(only(requests).cancelled).toBe(true);
  });
});
