/** Chat sessions: history, stopping, forgetting, tools. */

import { createRequire } from "node:module";
import { BitNetEngine, type ChatPart, type ChatSessionOptions, RyzansteinError, type ToolDefinition } from "ryzanstein";
import { beforeAll, describe, expect, test } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { BARE_CALLS, playedSession } from "./played-chat.js";
import { fixture } from "./support.js";

const require = createRequire(import.meta.url);
const { ToolCallScanner } = require("../dist/cjs/src/tool-calls.js") as typeof import("../dist/cjs/src/tool-calls.js");

type Format = ConstructorParameters<typeof ToolCallScanner>[0];

const PLAIN =
  "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/** The form of the Hermes and Qwen families. */
const HERMES = `{%- if tools %}{{ '<system>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ '\n' }}{% endif %}
{%- for m in messages %}{{ '<' + m.role + '>' + (m.content or '') }}
{%- for call in m.tool_calls or [] %}{{ '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}{% endfor %}
{{- '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}`;

const WEATHER: ToolDefinition = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

const TAGGED: Format = {
  ...BARE_CALLS,
  open: "<tool_call>",
  close: "</tool_call>",
  namePath: ["name"],
  argumentsPath: ["arguments"],
};

/** What a scanner makes of a text that comes in pieces of `size` characters. */
function scan(format: Format, text: string, size: number) {
  const scanner = new ToolCallScanner(format, [WEATHER]);
  const found = { text: "", calls: [] as unknown[] };
  const take = (part: { text: string; calls: unknown[] }): void => {
    found.text += part.text;
    found.calls.push(...part.calls);
  };
  for (let at = 0; at < text.length; at += size) take(scanner.push(text.slice(at, at + size)));
  take(scanner.finish());
  return found;
}

describe("tool calls in streamed text", () => {
  const rome = { name: "weather", arguments: { city: "Rome" } };
  const bern = { name: "weather", arguments: { city: "</tool_call> Bern" } };
  const inner = `{"name": "weather", "arguments": {"city": "Rome"}}`;
  const other = `{"name": "weather", "arguments": {"city": "</tool_call> Bern"}}`;
  const python = { ...TAGGED, open: "", close: "", argumentsPath: ["parameters"] };
  const tagged = { ...TAGGED, open: "<function=", close: "</function>", afterName: ">", argumentsPath: [] };
  const { namePath: _, ...functionTag } = tagged;
  const cases: [string, Format, string, string, unknown[]][] = [
    ["no call", TAGGED, "a < b, <tool_ca", "a < b, <tool_ca", []],
    ["a call", TAGGED, `Let me see. <tool_call>\n${inner}\n</tool_call>`, "Let me see. ", [rome]],
    ["two calls", TAGGED, `<tool_call>${inner}</tool_call>\n<tool_call>${other}</tool_call>`, "", [rome, bern]],
    ["a list of calls", TAGGED, `<tool_call>[${inner}, ${other}]</tool_call>`, "", [rome, bern]],
    ["a call that is not closed", TAGGED, `<tool_call>${inner}`, "", [rome]],
    ["no JSON", TAGGED, "<tool_call>{broken</tool_call> x", "<tool_call>{broken</tool_call> x", []],
    [
      "no arguments",
      TAGGED,
      `<tool_call>{"name": "now"}</tool_call>`,
      "",
      [{ name: "now", arguments: {}, unknown: true }],
    ],
    [
      "arguments as text",
      TAGGED,
      `<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>`,
      "",
      [{ name: "f", arguments: { a: 1 }, unknown: true }],
    ],
    ["bare JSON", python, `{"name": "weather", "parameters": {"city": "Rome"}}`, "", [rome]],
    [
      "bare JSON that is an answer",
      python,
      `{"name": "Anna", "parameters": {}}`,
      `{"name": "Anna", "parameters": {}}`,
      [],
    ],
    ["text of a model with bare calls", python, "It rains.", "It rains.", []],
    ["a name before the JSON", functionTag as Format, `<function=weather>{"city": "Rome"}</function>`, "", [rome]],
  ];
  test.each(cases)("%s", (_name, format, text, expectedText, expectedCalls) => {
    for (const size of [1, 2, 7, text.length]) {
      expect(scan(format, text, size)).toEqual({ text: expectedText, calls: expectedCalls });
    }
  });

  test("text before a call is not held back", () => {
    const scanner = new ToolCallScanner(TAGGED, [WEATHER]);
    expect(scanner.push("Hello <b>")).toEqual({ text: "Hello <b>", calls: [] });
    expect(scanner.push("x <tool")).toEqual({ text: "x ", calls: [] });
    expect(scanner.push("bar>")).toEqual({ text: "<toolbar>", calls: [] });
  });
});

describe("history", () => {
  test("every turn sees what was said before", async () => {
    const { session, prompts, say } = playedSession({ systemPrompt: "Be brief." });
    say("Hi.");
    expect((await session.send("Hello").reply()).text).toBe("Hi.");
    say("Well.");
    await session.send("How are you?").reply();
    expect(prompts).toEqual([
      "system:Be brief.|user:Hello",
      "system:Be brief.|user:Hello|assistant:Hi.|user:How are you?",
    ]);
    expect(session.messages.map((message) => message.role)).toEqual([
      "system",
      "user",
      "assistant",
      "user",
      "assistant",
    ]);
    session.reset();
    expect(session.messages).toEqual([{ role: "system", content: "Be brief." }]);
  });

  test("a session continues from the messages of another", async () => {
    const { session, say } = playedSession();
    say("Hi.");
    await session.send("Hello").reply();
    const copy = playedSession({ history: JSON.parse(JSON.stringify(session.messages)) });
    copy.say("Yes.");
    await copy.session.send("Still there?").reply();
    expect(copy.prompts).toEqual(["user:Hello|assistant:Hi.|user:Still there?"]);
  });

  test("a turn that is left early keeps what was said", async () => {
    const { session, say } = playedSession();
    say("one two");
    for await (const part of session.send("Count")) if (part.text === "e") break;
    expect(session.messages).toEqual([
      { role: "user", content: "Count" },
      { role: "assistant", content: "one" },
    ]);
  });

  test("an aborted turn keeps what was said, one aborted before is not in it", async () => {
    const { session, say } = playedSession();
    say("one two");
    const controller = new AbortController();
    const reason = new Error("enough");
    const aborted = session.send("x", { signal: AbortSignal.abort(reason) }).reply();
    await expect(aborted).rejects.toBe(reason);
    expect(session.messages).toEqual([]);
    controller.abort(reason);
    await expect(session.send("x", { signal: controller.signal }).reply()).rejects.toBe(reason);
  });

  test("an answer without a word is an answer", async () => {
    const { session, say } = playedSession();
    say("");
    expect((await session.send("Hello").reply()).text).toBe("");
    expect(session.messages).toEqual([
      { role: "user", content: "Hello" },
      { role: "assistant", content: "" },
    ]);
  });

  test("one turn at a time", async () => {
    const { session, say } = playedSession();
    say("Hi.");
    const first = session.send("Hello");
    await first.next();
    await expect(session.send("Again").reply()).rejects.toMatchObject({ code: "BUSY" });
    await first.return();
    await expect(session.send("Again").reply()).resolves.toMatchObject({ text: "Hi." });
  });

  test("the oldest turns are forgotten when the context is full, never the system message", async () => {
    const { session, prompts, forgotten, say } = playedSession({ systemPrompt: "S" }, 64);
    say("answer");
    for (let turn = 0; turn < 4; turn += 1) await session.send(`question ${turn}`).reply();
    expect(prompts[prompts.length - 1]).toMatch(/^system:S\|user:question [23]/);
    expect(prompts[prompts.length - 1]).toMatch(/user:question 3$/);
    expect(forgotten.length).toBeGreaterThan(0);
    expect(session.messages).toHaveLength(9);
  });
});

describe("tools", () => {
  test("calls come as parts, and their results go back", async () => {
    const { session, prompts, say } = playedSession({ tools: [WEATHER] });
    const said = 'Wait.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>';
    say(said);
    const parts: ChatPart[] = [];
    for await (const part of session.send("Weather in Rome?")) parts.push(part);
    const call = { id: "call00001", name: "weather", arguments: { city: "Rome" } };
    expect(parts.map((part) => part.text).join("")).toBe("Wait.");
    expect(parts.filter((part) => part.type === "tool-call")).toEqual([{ type: "tool-call", text: "", call }]);
    // Every token is in some part, although the call's text is in none.
    const tokens = parts.flatMap((part) => (part.type === "text-delta" ? part.tokenIds : []));
    expect(tokens).toHaveLength(said.length);
    session.addToolResult(call, { sky: "clear" });
    say("Clear.");
    expect(await session.continue().reply()).toMatchObject({ text: "Clear.", toolCalls: [] });
    expect(session.messages).toEqual([
      { role: "user", content: "Weather in Rome?" },
      {
        role: "assistant",
        content: "Wait.",
        tool_calls: [{ id: "call00001", type: "function", function: { name: "weather", arguments: { city: "Rome" } } }],
      },
      { role: "tool", tool_call_id: "call00001", name: "weather", content: '{"sky":"clear"}' },
      { role: "assistant", content: "Clear." },
    ]);
    expect(prompts[1]).toBe('user:Weather in Rome?|assistant:Wait.|tool:{"sky":"clear"}');
  });

  test.each([
    [[{ type: "function" }], "tools[0]"],
    [[WEATHER, WEATHER], "tools[1].function.name"],
    [[{ type: "function", function: { name: "no spaces" } }], "tools[0].function.name"],
    ["weather", "tools"],
  ])("%j is refused", (tools, option) => {
    expect(() => playedSession({ tools } as unknown as ChatSessionOptions)).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", option }) as Error,
    );
  });
});

describe("with a real model", () => {
  const GREEDY = { temperature: 0, maxTokens: 6 };
  let plain: BitNetEngine;
  let hermes: BitNetEngine;
  beforeAll(async () => {
    const model = fixture("b158-v1-tq2_0.gguf");
    plain = await BitNetEngine.load(withChatTemplate(model, PLAIN), { threads: 1 });
    hermes = await BitNetEngine.load(withChatTemplate(model, HERMES), { threads: 1 });
    return async () => {
      await plain.dispose();
      await hermes.dispose();
    };
  });

  test("a turn is what chat gives for the same messages", async () => {
    const session = plain.createChatSession({ systemPrompt: "S", defaults: GREEDY });
    const first = await session.send("Hello").reply();
    const second = await session.send("And?").reply();
    const { messages } = session;
    const alone = (count: number) => plain.chat(messages.slice(0, count), GREEDY).completion();
    expect(first.tokenIds).toEqual((await alone(2)).tokenIds);
    expect(second.tokenIds).toEqual((await alone(4)).tokenIds);
    expect(second.finishReason).toBe("length");
  });

  test("a long conversation goes on past the context", async () => {
    const engine = await BitNetEngine.load(plain.modelInfo.path, { threads: 1, contextLength: 64 });
    const logged: string[] = [];
    const session = engine.createChatSession({ defaults: GREEDY });
    for (let turn = 0; turn < 8; turn += 1) logged.push((await session.send("Once upon a time").reply()).finishReason);
    expect(logged).toHaveLength(8);
    const strict = engine.createChatSession({ history: session.messages, defaults: GREEDY, whenFull: "throw" });
    await expect(strict.send("Hello").reply()).rejects.toMatchObject({ code: "CONTEXT_OVERFLOW" });
    expect(strict.messages).toEqual(session.messages);
    await engine.dispose();
  });

  test("tools reach the model through its template", async () => {
    const prompt = await hermes.applyChatTemplate([{ role: "user", content: "Hi" }], { tools: [WEATHER] });
    expect(prompt).toContain('"name": "weather"');
    const session = hermes.createChatSession({ tools: [WEATHER], defaults: GREEDY });
    const { usage } = await session.send("Hi").reply();
    expect(usage.promptTokens).toBe((await hermes.tokenize(prompt, { addSpecial: false, parseSpecial: true })).length);
  });

  test("a model whose template takes no tools says so", async () => {
    const session = plain.createChatSession({ tools: [WEATHER] });
    const error: unknown = await session
      .send("Hi")
      .reply()
      .catch((reason: unknown) => reason);
    expect(RyzansteinError.isInstance(error) && error.code).toBe("INVALID_TEMPLATE");
    expect(session.messages).toEqual([]);
  });

  test("wrong options are refused before anything runs", () => {
    expect(() => plain.createChatSession({ nonsense: 1 } as ChatSessionOptions)).toThrow(/nonsense/);
    expect(() => plain.createChatSession({ defaults: { topK: -1 } })).toThrow(/topK/);
    const session = plain.createChatSession();
    expect(() => session.send("x", { temperature: -1 })).toThrow(/temperature/);
    expect(() => session.send(5 as unknown as string)).toThrow(/content/);
  });
});
