/** Turns that run tools by themselves. */

import { type ChatPart, type ChatTurn, tool } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { z } from "zod";
import { calling, playedSession } from "./played-chat.js";

const weather = tool({
  name: "weather",
  description: "The weather of a city.",
  parameters: z.object({ city: z.string(), days: z.number().int().default(1) }),
  execute: ({ city, days }) => ({ sky: `clear over ${city} for ${days}` }),
});

const add = tool({
  name: "add",
  parameters: {
    type: "object",
    properties: { a: { type: "number" }, b: { type: "number" } },
    required: ["a", "b"],
    additionalProperties: false,
  },
  execute: ({ a, b }) => a + b,
});

async function partsOf(turn: ChatTurn): Promise<ChatPart[]> {
  const parts: ChatPart[] = [];
  for await (const part of turn) parts.push(part);
  return parts;
}

/** The results that the model gets to see. */
function results(messages: readonly { role: string; content?: unknown }[]): unknown[] {
  return messages.filter(({ role }) => role === "tool").map(({ content }) => content);
}

describe("a turn with maxSteps", () => {
  test("runs the tools and goes on with their results", async () => {
    const { session, say, prompts } = playedSession({ tools: [weather, add] });
    const said = [`Wait.${calling("weather", { city: "Rome" })}`, "It is clear."];
    say(...said);
    const reply = await session.send("Rome?", { maxSteps: 4 }).reply();
    expect(reply).toMatchObject({ text: "It is clear.", toolCalls: [], finishReason: "stop" });
    expect(reply.steps).toMatchObject([
      { text: "Wait.", toolCalls: [{ id: "call00001" }], toolResults: [{ result: { sky: "clear over Rome for 1" } }] },
      { text: "It is clear.", toolCalls: [] },
    ]);
    expect(reply.usage).toEqual({ promptTokens: 8, completionTokens: said.join("").length });
    expect(prompts[1]).toBe('user:Rome?|assistant:Wait.|tool:{"sky":"clear over Rome for 1"}');
    expect(session.messages.map(({ role }) => role)).toEqual(["user", "assistant", "tool", "assistant"]);
  });

  test("counts the characters that the vocabulary cannot say", async () => {
    const { session, say, counted } = playedSession({ tools: [weather] });
    counted.unknownCharacters = 2;
    say(calling("weather", { city: "Rome" }), "Clear.");
    const { usage } = await session.send("Rome?", { maxSteps: 2 }).reply();
    expect(usage).toMatchObject({ promptTokens: 8, unknownCharacters: 4 });
  });

  test("yields results as parts, in the order of the calls, whichever is done first", async () => {
    const order: string[] = [];
    const slow = tool({
      name: "slow",
      parameters: z.object({ ms: z.number() }),
      execute: async ({ ms }) => {
        await new Promise((resolve) => setTimeout(resolve, ms));
        order.push(`${ms}`);
        return ms;
      },
    });
    const { session, say } = playedSession({ tools: [slow] });
    say(calling("slow", { ms: 60 }) + calling("slow", { ms: 1 }), "Done.");
    const parts = await partsOf(session.send("x", { maxSteps: 2 }));
    const kinds = parts.filter(({ type }) => type !== "text-delta").map(({ type }) => type);
    expect(kinds).toEqual(["tool-call", "tool-call", "tool-result", "tool-result", "finish"]);
    expect(order).toEqual(["1", "60"]);
    expect(results(session.messages)).toEqual(["60", "1"]);
  });

  test("gives errors back to the model: of the tool, of wrong arguments, of tools that do not exist", async () => {
    const fails = tool({
      name: "fails",
      execute: () => {
        throw new Error("no network");
      },
    });
    const cyclic: Record<string, unknown> = {};
    cyclic["self"] = cyclic;
    const odd = tool({ name: "odd", execute: () => cyclic });
    const { session, say } = playedSession({ tools: [weather, add, fails, odd] });
    say(
      calling("fails", {}) +
        calling("weather", { town: 5 }) +
        calling("add", { a: 1, c: 2 }) +
        calling("nothing", {}) +
        calling("odd", {}) +
        calling("add", { a: 1, b: 2 }),
      "Sorry.",
    );
    const reply = await session.send("x", { maxSteps: 3 }).reply();
    const errors = (reply.steps[0]?.toolResults ?? []).map(({ error }) => error);
    expect(errors).toEqual([
      "no network",
      expect.stringMatching(/wrong arguments: arguments\/city/) as string,
      expect.stringMatching(/wrong arguments: .*"b"/) as string,
      expect.stringMatching(/no tool nothing; the tools are weather, add/) as string,
      expect.any(String) as string,
      undefined,
    ]);
    expect(results(session.messages)[0]).toBe('{"error":"no network"}');
    expect(results(session.messages)[5]).toBe("3");
    expect(reply.text).toBe("Sorry.");
  });

  test("answers broken calls, and the model may try again", async () => {
    const { session, say } = playedSession({ tools: [add] });
    const broken = '<tool_call>{"name": "add", "arguments": {a: 1}}</tool_call>';
    say(broken + calling("add", { a: 1, b: 2 }), calling("add", { a: 2, b: 2 }), "Four.");
    const reply = await session.send("x", { maxSteps: 5 }).reply();
    expect(reply).toMatchObject({ text: "Four.", finishReason: "stop" });
    expect(reply.steps).toMatchObject([
      { toolCalls: [{ invalid: true }, {}], toolResults: [{ error: expect.any(String) as string }, { result: 3 }] },
      { toolResults: [{ result: 4 }] },
      { toolCalls: [] },
    ]);
    // The conversation is one that another session takes.
    expect(playedSession({ history: session.messages }).session.messages).toEqual(session.messages);
  });

  test("checks results", async () => {
    const checked = tool({
      name: "checked",
      result: z.object({ degrees: z.number() }),
      execute: () => ({ degrees: "warm" }) as never,
    });
    const { session, say } = playedSession({ tools: [checked] });
    say(calling("checked", {}), "Hm.");
    const { steps } = await session.send("x", { maxSteps: 2 }).reply();
    expect(steps[0]?.toolResults[0]?.error).toMatch(/wrong result: result\/degrees/);
  });

  test("ends at its last step, with the results of that step: the session goes on from there", async () => {
    const { session, say } = playedSession({ tools: [add] });
    say(calling("add", { a: 1, b: 2 }));
    const reply = await session.send("x", { maxSteps: 3 }).reply();
    expect(reply.finishReason).toBe("tool-calls");
    expect(reply.steps).toHaveLength(3);
    expect(results(session.messages)).toEqual(["3", "3", "3"]);
    say("Three.");
    expect((await session.continue().reply()).text).toBe("Three.");
  });

  test("ends with a call that has no execute, and runs the others", async () => {
    const manual = { type: "function" as const, function: { name: "manual" } };
    const { session, say } = playedSession({ tools: [add, manual] });
    say(calling("manual", {}) + calling("add", { a: 1, b: 2 }), "Done.");
    const reply = await session.send("x", { maxSteps: 5 }).reply();
    expect(reply).toMatchObject({ finishReason: "tool-calls", steps: [{}] });
    await expect(session.send("y").reply()).rejects.toThrow(/"call00001" of manual/);
    session.addToolResult({ id: "call00001" }, "by hand");
    expect((await session.continue().reply()).text).toBe("Done.");
  });

  test("forces a call in its first answer only", async () => {
    const { session, say, requests } = playedSession({ tools: [add] });
    say(calling("add", { a: 1, b: 2 }), "Three.");
    await session.send("x", { maxSteps: 3, toolChoice: "required" }).reply();
    expect(requests.map(({ format }) => format?.choice)).toEqual(["required", "auto"]);
  });

  test("that is aborted stops its tools at once, and the session goes on", async () => {
    let seen: AbortSignal | undefined;
    const hangs = tool({
      name: "hangs",
      execute: (_, { signal }) => {
        seen = signal;
        return new Promise<never>(() => {});
      },
    });
    const { session, say } = playedSession({ tools: [hangs, add] });
    const controller = new AbortController();
    const reason = new Error("enough");
    say(calling("add", { a: 1, b: 2 }) + calling("hangs", {}), "Fine.");
    const turn = session.send("x", { maxSteps: 3, signal: controller.signal });
    const read = async (): Promise<void> => {
      for await (const part of turn) if (part.type === "tool-result") controller.abort(reason);
    };
    await expect(read()).rejects.toBe(reason);
    expect(seen?.aborted).toBe(true);
    expect(results(session.messages)).toEqual(["3", expect.stringMatching(/stopped/)]);
    expect((await session.send("And now?").reply()).text).toBe("Fine.");
  });

  test("that is left stops its tools, and the session goes on", async () => {
    let seen: AbortSignal | undefined;
    const slow = tool({
      name: "slow",
      execute: async (_, { signal }) => {
        seen = signal;
        await new Promise((resolve) => setTimeout(resolve, 10_000).unref());
      },
    });
    const { session, say } = playedSession({ tools: [add, slow] });
    say(calling("add", { a: 1, b: 2 }) + calling("slow", {}), "Fine.");
    for await (const part of session.send("x", { maxSteps: 2 })) if (part.type === "tool-result") break;
    expect(seen?.aborted).toBe(true);
    expect((await session.send("And now?").reply()).text).toBe("Fine.");
  });

  test("refuses a maxSteps that makes no sense", () => {
    const { session } = playedSession({ tools: [add] });
    for (const maxSteps of [0, 1.5, "many"]) expect(() => session.send("x", { maxSteps } as never)).toThrow(/maxSteps/);
  });
});

describe("a turn without maxSteps", () => {
  test("leaves a broken call as text, until it is answered", async () => {
    const { session, say, conversations } = playedSession({ tools: [add] });
    const broken = '<tool_call>{"name": "add", "arguments": {a: 1}}</tool_call>';
    say(broken, "Sorry.");
    const { toolCalls } = await session.send("x").reply();
    expect(session.messages[1]).toEqual({ role: "assistant", content: broken });
    for (const call of toolCalls) session.addToolResult(call, call.error);
    expect((await session.continue().reply()).text).toBe("Sorry.");
    expect(conversations[1]).toMatchObject([
      { role: "user" },
      { role: "assistant", content: broken, tool_calls: [{ id: "call00001", function: { name: "add" } }] },
      { role: "tool", tool_call_id: "call00001", content: toolCalls[0]?.error },
    ]);
  });

  test("runs nothing", async () => {
    const { session, say } = playedSession({ tools: [add] });
    say(calling("add", { a: 1, b: 2 }));
    expect(await session.send("x").reply()).toMatchObject({ finishReason: "tool-calls", toolResults: [] });
  });

  test("whose loop is left at a call is answered as stopped when the next one begins", async () => {
    const { session, say } = playedSession({ tools: [add] });
    say(calling("add", { a: 1, b: 2 }), "Fine.");
    for await (const part of session.send("x")) if (part.type === "tool-call") break;
    expect((await session.send("And now?").reply()).text).toBe("Fine.");
    expect(results(session.messages)).toEqual([expect.stringMatching(/stopped/)]);
  });
});
