/** One stateless call: thoughts, text and calls as parts, the same as in a session. */

import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, type ChatPart, type ChatTurn, type OutputFormat, tool } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { fixture } from "./support.js";

/** Thoughts and calls in the form of the Qwen family. */
const THINKING = `{%- if tools %}{{ '<system>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '\\n' }}{% endif %}
{%- for m in messages %}{{ '<' + m.role + '>' }}
{%- if m.reasoning_content %}{{ '<think>\\n' + m.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}{{ '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}
{{- '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% if open_thought %}{{ '<think>\\n' }}{% endif %}{% endif %}`;
const PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>";

const TOOLS = [
  {
    type: "function" as const,
    function: { name: "book", parameters: { type: "object", properties: { city: { type: "string" } } } },
  },
];
const CALL = '<tool_call>\n{"name": "book", "arguments": {"city": "Oslo"}}\n</tool_call>';
const USER = [{ role: "user", content: "Book a table." }];

/** Makes the tiny model say exactly this. */
function saying(text: string): { format: OutputFormat; temperature: number; maxTokens: number } {
  return { format: { type: "grammar", grammar: `start: ${JSON.stringify(text)}` }, temperature: 0, maxTokens: 300 };
}

async function partsOf(turn: ChatTurn): Promise<ChatPart[]> {
  const parts: ChatPart[] = [];
  for await (const part of turn) parts.push(part);
  return parts;
}

/** The text of all parts of a type. */
function textOf(parts: readonly ChatPart[], type: ChatPart["type"]): string {
  return parts
    .filter((part) => part.type === type)
    .map(({ text }) => text)
    .join("");
}

let engine: BitNetEngine;
let plain: BitNetEngine;
beforeAll(async () => {
  const model = fixture("b158-v1-tq2_0.gguf");
  engine = await BitNetEngine.load(withChatTemplate(model, THINKING), { threads: 1 });
  plain = await BitNetEngine.load(withChatTemplate(model, PLAIN), { threads: 1 });
});
afterAll(async () => {
  await engine.dispose();
  await plain.dispose();
});

describe("a chat", () => {
  const answer = `<think>\nOslo, then.\n</think>\n\nI book it.\n${CALL}`;

  test("streams thoughts, text and calls as parts, and ends with tool-calls", async () => {
    const parts = await partsOf(engine.chat(USER, { tools: TOOLS, ...saying(answer) }));
    expect(textOf(parts, "reasoning-delta").trim()).toBe("Oslo, then.");
    expect(textOf(parts, "text-delta").trim()).toBe("I book it.");
    const call = { id: "call00001", name: "book", arguments: { city: "Oslo" } };
    expect(parts.filter(({ type }) => type === "tool-call")).toEqual([{ type: "tool-call", text: "", call }]);
    const last = parts[parts.length - 1];
    expect(last).toMatchObject({ type: "finish", finishReason: "tool-calls" });
    // Every token is in some part.
    const tokens = parts.flatMap((part) => ("tokenIds" in part ? part.tokenIds : []));
    expect(tokens).toHaveLength(last?.type === "finish" ? last.usage.completionTokens : -1);
  });

  test("is gathered by reply, and by completion", async () => {
    const expected = { finishReason: "tool-calls", toolCalls: [{ name: "book" }], toolResults: [] };
    const reply = await engine.chat(USER, { tools: TOOLS, ...saying(answer) }).reply();
    expect(reply).toMatchObject(expected);
    expect([reply.reasoning.trim(), reply.text.trim()]).toEqual(["Oslo, then.", "I book it."]);
    expect(await engine.chat(USER, { tools: TOOLS, ...saying(answer) }).completion()).toMatchObject(expected);
  });

  test("gives the parts that a session gives for the same messages", async () => {
    const session = engine.createChatSession({ tools: TOOLS });
    const alone = engine.chat(USER, { tools: TOOLS, ...saying(answer) });
    const withoutTimes = (parts: ChatPart[]): unknown[] =>
      parts.map((part) => (part.type === "finish" ? { ...part, timings: {} } : part));
    const turn = session.send("Book a table.", saying(answer));
    expect(withoutTimes(await partsOf(turn))).toEqual(withoutTimes(await partsOf(alone)));
    expect(session.messages[1]).toEqual({
      role: "assistant",
      content: "I book it.",
      reasoning_content: "Oslo, then.",
      tool_calls: [{ id: "call00001", type: "function", function: { name: "book", arguments: { city: "Oslo" } } }],
    });
    session.addToolResult({ id: "call00001" }, "ok");
    expect(await engine.applyChatTemplate(session.messages, { tools: TOOLS })).toContain(
      `<assistant><think>\nOslo, then.\n</think>\n\nI book it.\n${CALL}`,
    );
  });

  test("counts calls outside of thoughts only", async () => {
    const draft = `<think>\nMaybe ${CALL.replace("Oslo", "Rome")}? No.\n</think>\n\n`;
    const called = await engine.chat(USER, { tools: TOOLS, ...saying(draft + CALL) }).reply();
    expect(called.toolCalls.map((call) => call.arguments)).toEqual([{ city: "Oslo" }]);
    const none = await engine.chat(USER, { tools: TOOLS, ...saying(`${draft}No table.`) }).reply();
    expect(none).toMatchObject({ toolCalls: [], text: "No table.", finishReason: "stop" });
  });

  test("shows thoughts without tools, too, and a thought that the prompt has opened", async () => {
    const thought = await engine.chat(USER, saying("<think>\nHm.\n</think>\n\nYes.")).reply();
    expect([thought.reasoning.trim(), thought.text.trim()]).toEqual(["Hm.", "Yes."]);
    const opened = { templateVariables: { open_thought: true } };
    const turn = engine.chat(USER, { ...opened, ...saying("Hm.\n</think>\n\nYes.") });
    const { reasoning, text } = await turn.reply();
    expect([reasoning.trim(), text.trim()]).toEqual(["Hm.", "Yes."]);
  });

  test("shows a broken call as text, and says why it is none", async () => {
    const broken = '<tool_call>\n{"name": "book", "arguments": {city}\n</tool_call>';
    const { text, toolCalls, finishReason } = await engine.chat(USER, { tools: TOOLS, ...saying(broken) }).reply();
    expect(text.trim()).toBe(broken);
    expect(toolCalls).toMatchObject([{ invalid: true, error: expect.any(String) as string }]);
    expect(finishReason).toBe("stop");
  });

  test("runs tools, and leaves the caller's messages alone", async () => {
    const cities: string[] = [];
    const book = tool({
      name: "book",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      execute: ({ city }) => void cities.push(city),
    });
    const messages = [...USER];
    const reply = await engine.chat(messages, { tools: [book], maxSteps: 2, ...saying(CALL) }).reply();
    expect(cities).toEqual(["Oslo", "Oslo"]);
    expect(reply.steps.map((step) => step.toolCalls.map(({ id }) => id))).toEqual([["call00001"], ["call00002"]]);
    expect(messages).toEqual(USER);
  });

  test("is refused with calls that nobody answered, wherever they stand", () => {
    const calling = { role: "assistant", tool_calls: [{ id: "a", function: { name: "book", arguments: {} } }] };
    expect(() => engine.chat([...USER, calling])).toThrow(/"a" of book/);
    expect(() => engine.chat([...USER, calling, ...USER])).toThrow(/messages\[2\].*"a" of book/);
    expect(() => engine.chat([...USER, { role: "tool", tool_call_id: "b", content: "" }])).toThrow(/messages\[1\]/);
  });

  test("has one reader", async () => {
    const turn = engine.chat(USER, { maxTokens: 2, temperature: 0 });
    for await (const _ of turn) break;
    expect(() => turn[Symbol.asyncIterator]()).toThrow(expect.objectContaining({ code: "ALREADY_READ" }) as Error);
    await expect(turn.reply()).rejects.toMatchObject({ code: "ALREADY_READ" });
  });

  test("is a web stream, too", async () => {
    const parts: ChatPart[] = [];
    for await (const part of engine.chat(USER, saying("Yes.")).toReadableStream()) parts.push(part);
    expect(textOf(parts, "text-delta")).toBe("Yes.");
  });

  test("that is aborted before its prompt is made ends with the signal's reason", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    const long = [{ role: "user", content: "the cat sat ".repeat(100_000) }];
    const reply = engine.chat(long, { signal: controller.signal }).reply();
    const began = performance.now();
    setTimeout(() => controller.abort(reason), 5);
    await expect(reply).rejects.toThrow();
    expect(performance.now() - began).toBeLessThan(5000);
  });

  test("of a model whose template takes no tools says which forms of calls are known", async () => {
    for (const turn of [plain.chat(USER, { tools: TOOLS }), plain.createChatSession({ tools: TOOLS }).send("x")]) {
      await expect(turn.reply()).rejects.toMatchObject({
        code: "INVALID_TEMPLATE",
        message: expect.stringMatching(/<tool_call>.*XML.*Python/) as string,
      });
    }
  });
});

describe("a saved session", () => {
  test("keeps thoughts, calls and results", async () => {
    const file = join(mkdtempSync(join(tmpdir(), "ryz-chat-")), "chat");
    const session = engine.createChatSession({ systemPrompt: "Be brief.", tools: TOOLS });
    await session.send("Book a table.", saying(`<think>\nHm.\n</think>\n\n${CALL}`)).reply();
    session.addToolResult({ id: "call00001" }, { ok: true });
    await session.save(file);
    const restored = await engine.restoreChatSession(file, { tools: TOOLS });
    expect(restored.messages).toEqual(session.messages);
    const [one, other] = [session, restored].map((each) => each.continue({ temperature: 0, maxTokens: 4 }).reply());
    expect((await one)?.tokenIds).toEqual((await other)?.tokenIds);
    const { toolCalls } = await restored.send("Again.", saying(CALL)).reply();
    expect(toolCalls.map(({ id }) => id)).toEqual(["call00002"]);
  });

  test("with calls that are open goes on where it was", async () => {
    const file = join(mkdtempSync(join(tmpdir(), "ryz-chat-")), "chat");
    const session = engine.createChatSession({ tools: TOOLS });
    await session.send("Book a table.", saying(CALL)).reply();
    await session.save(file);
    const restored = await engine.restoreChatSession(file, { tools: TOOLS });
    restored.addToolResult({ id: "call00001" }, "ok");
    expect((await restored.continue(saying("Done.")).reply()).text).toBe("Done.");
  });

  test.each([null, 5, "x"])("is not restored with %j as options", async (options) => {
    await expect(engine.restoreChatSession("/none", options as never)).rejects.toMatchObject({
      code: "INVALID_ARGUMENT",
    });
  });
});
