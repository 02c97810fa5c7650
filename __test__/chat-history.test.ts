/** Histories in the shape of OpenAI's API: what is taken, what is refused, and what templates get. */

import { createRequire } from "node:module";
import { BitNetEngine, type ChatMessage, InvalidArgumentError } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { playedSession } from "./played-chat.js";
import { hasShared, shared } from "./shared.js";
import { fixture } from "./support.js";

const require = createRequire(import.meta.url);
const { checkHistory } = require("../dist/cjs/src/history.js") as typeof import("../dist/cjs/src/history.js");

const USER: ChatMessage = { role: "user", content: "Book a table." };

function call(id: string, args: unknown = { city: "Rome" }) {
  return { id, type: "function", function: { name: "book", arguments: args } };
}

function calling(...calls: object[]): ChatMessage {
  return { role: "assistant", content: null, tool_calls: calls };
}

function result(id: string, content = "ok"): ChatMessage {
  return { role: "tool", tool_call_id: id, content };
}

describe("a history", () => {
  test("keeps what needs no change as it is", () => {
    const messages = [USER, { role: "assistant", content: "Where?", custom: [1] }];
    const checked = checkHistory("messages", messages).messages;
    expect(checked).toEqual(messages);
    expect(checked[1]).toBe(messages[1]);
  });

  test("has no list of calls where a message has none", () => {
    for (const none of [[], null, undefined]) {
      const { messages } = checkHistory("messages", [USER, { role: "assistant", content: "Hi", tool_calls: none }]);
      expect(messages[1]).toStrictEqual({ role: "assistant", content: "Hi" });
    }
  });

  test("may have its text in parts", () => {
    const content = [
      { type: "text", text: "one" },
      { type: "text", text: "two" },
    ];
    const of = (parts: object[]) => checkHistory("messages", [{ role: "user", content: parts }]).messages;
    expect(of(content)).toEqual([{ role: "user", content }]);
    expect(of(content.slice(1))).toEqual([{ role: "user", content: "two" }]);
    expect(of([])).toEqual([{ role: "user", content: "" }]);
  });

  test("has its results matched with their calls by id, and named after them", () => {
    const other = { id: "b", type: "function", function: { name: "cancel", arguments: "{}" } };
    const { messages, open } = checkHistory("messages", [USER, calling(call("a"), other), result("b"), result("a")]);
    expect(messages.slice(2)).toMatchObject([{ name: "cancel" }, { name: "book" }]);
    expect(open.size).toBe(0);
  });

  test("may have results without ids: they answer the calls in order", () => {
    const { messages, open } = checkHistory("messages", [
      USER,
      calling(call("a"), call("b")),
      { role: "tool", content: "1" },
      { role: "tool", content: "2" },
    ]);
    expect(messages.slice(2)).toMatchObject([{ tool_call_id: "a" }, { tool_call_id: "b" }]);
    expect(open.size).toBe(0);
  });

  test("may use an id again when its call was answered", () => {
    const turn = [calling(call("a")), result("a")];
    expect(() => checkHistory("messages", [USER, ...turn, USER, ...turn])).not.toThrow();
  });

  test("has empty arguments where a call has none", () => {
    for (const none of [undefined, null, ""]) {
      const { messages } = checkHistory("messages", [USER, calling(call("a", none === undefined ? "" : none))]);
      expect(messages[1]).toMatchObject({ tool_calls: [{ function: { arguments: {} } }] });
    }
  });

  const image = { type: "image_url", image_url: { url: "x" } };
  const text = { type: "text", text: "x" };
  test.each<[string, unknown[], string, RegExp]>([
    ["no message", [null], "messages[0]", /object/],
    ["a hole", Array(1), "messages[0]", /object/],
    ["no role", [{ content: "x" }], "messages[0].role", /string/],
    ["a number as content", [{ role: "user", content: 5 }], "messages[0].content", /string, null or an array/],
    ["a picture", [USER, { role: "user", content: [text, image] }], "messages[1].content[1].type", /image_url/],
    ["text that is none", [{ role: "user", content: [{ type: "text" }] }], "messages[0].content[0].text", /string/],
    ["calls that are no array", [{ role: "assistant", tool_calls: {} }], "messages[0].tool_calls", /array/],
    ["a call without a name", [calling({ id: "a", function: {} })], "messages[0].tool_calls[0]", /name/],
    ["broken arguments", [calling(call("a", "{city:"))], "messages[0].tool_calls[0].function.arguments", /JSON/],
    ["a list of arguments", [calling(call("a", "[1]"))], "messages[0].tool_calls[0].function.arguments", /object/],
    ["an id twice", [calling(call("a"), call("a"))], "messages[0].tool_calls[1].id", /unique/],
    ["a result nobody asked for", [USER, result("z")], "messages[1].tool_call_id", /no call is open/],
    ["a result of another call", [calling(call("a")), result("z")], "messages[1].tool_call_id", /"a".*"z"/],
    ["a second result", [calling(call("a")), result("a"), result("a")], "messages[2].tool_call_id", /already/],
    ["an open call", [calling(call("a")), USER], "messages[1]", /"a" of book/],
  ])("with %s is refused by name", (_name, messages, option, message) => {
    let error: unknown;
    try {
      checkHistory("messages", messages);
    } catch (thrown) {
      error = thrown;
    }
    expect(InvalidArgumentError.isInstance(error)).toBe(true);
    expect(error).toMatchObject({ option, message: expect.stringMatching(message) as string });
  });
});

describe("a session", () => {
  test("refuses a history with a system message where it has a systemPrompt", () => {
    const history = [{ role: "system", content: "Be brief." }, USER];
    expect(() => playedSession({ systemPrompt: "Be kind.", history })).toThrow(/history\[0\].*systemPrompt/);
    const { session } = playedSession({ history });
    expect(session.messages).toEqual(history);
  });

  test("never forgets the system message of its history", async () => {
    const turns = Array.from({ length: 20 }, (_, i) => ({ role: i % 2 ? "assistant" : "user", content: `turn ${i}` }));
    const { session, prompts, say } = playedSession({ history: [{ role: "system", content: "S" }, ...turns] }, 100);
    say("Yes.");
    await session.send("And?").reply();
    expect(prompts[prompts.length - 1]).toMatch(/^system:S\|user:turn 1\d\|.*user:And\?$/);
  });

  test.each([
    ["null", [null], "history[0]"],
    ["a result nobody asked for", [USER, result("z")], "history[1].tool_call_id"],
    ["no array", "x", "history"],
  ])("refuses a history of %s", (_name, history, option) => {
    expect(() => playedSession({ history } as never)).toThrow(expect.objectContaining({ option }) as Error);
  });

  test("goes on from a history that ends with a call", async () => {
    const { session, say, conversations } = playedSession({ history: [USER, calling(call("a"))] });
    say("Done.");
    await expect(session.send("x").reply()).rejects.toThrow(/"a" of book/);
    session.addToolResult({ id: "a" }, "ok");
    await session.continue().reply();
    expect(conversations[0]?.slice(2)).toEqual([{ role: "tool", tool_call_id: "a", name: "book", content: "ok" }]);
  });

  test("gives its calls ids that its history does not have", async () => {
    const history = [USER, calling(call("call00001")), result("call00001")];
    const tools = [{ type: "function" as const, function: { name: "book" } }];
    const { session, say } = playedSession({ history, tools });
    say('<tool_call>{"name": "book", "arguments": {}}</tool_call>');
    const { toolCalls } = await session.send("Again").reply();
    expect(toolCalls.map(({ id }) => id)).toEqual(["call00002"]);
  });

  test("refuses results that nobody asked for", () => {
    const { session } = playedSession({ history: [USER, calling(call("a"))] });
    expect(() => session.addToolResult({ id: "b" }, 1)).toThrow(/"a" of book.*"b"/);
    expect(() => session.addToolResult({ id: "a" }, 1n)).toThrow(/result/);
    session.addToolResult({ id: "a" }, 1);
    expect(() => session.addToolResult({ id: "a" }, 1)).toThrow(/there is none/);
  });
});

describe("what a template gets", () => {
  /** Templates that take arguments as an object, as text, and no null content. */
  const OBJECT =
    "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}" +
    "[{{ c.function.arguments | tojson }}]{% endfor %}{% endfor %}";
  const TEXT =
    "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{{ m.content + '' }}{% for c in m.tool_calls or [] %}" +
    "[{{ c.function.arguments + '' }}]{% endfor %}{% endfor %}";
  const ONE =
    "{{ tools | tojson }}{% for m in messages %}{% if (m.tool_calls or []) | length > 1 %}{{ raise_exception('one call only') }}" +
    "{% endif %}<{{ m.role }}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}[{{ c.id }} " +
    "{{ c.function.arguments | tojson }}]{% endfor %}{% if m.tool_call_id %}{% if m.tool_call_id | length != 9 %}" +
    "{{ raise_exception('nine letters') }}{% endif %} {{ m.tool_call_id }} {{ m.name }}{% endif %}{% endfor %}";
  const engines: BitNetEngine[] = [];
  const load = async (template: string): Promise<BitNetEngine> => {
    const engine = await BitNetEngine.load(withChatTemplate(fixture("b158-v1-tq2_0.gguf"), template), { threads: 1 });
    engines.push(engine);
    return engine;
  };
  let object: BitNetEngine;
  let text: BitNetEngine;
  let one: BitNetEngine;
  beforeAll(async () => {
    [object, text, one] = (await Promise.all([OBJECT, TEXT, ONE].map(load))) as [
      BitNetEngine,
      BitNetEngine,
      BitNetEngine,
    ];
  });
  afterAll(() => Promise.all(engines.map((engine) => engine.dispose())));

  test("are arguments in the form that it takes, whatever form they come in", async () => {
    for (const args of [{ city: "Rome" }, '{"city": "Rome"}']) {
      const messages = [USER, calling(call("a", args)), result("a")];
      expect(await object.applyChatTemplate(messages)).toContain('[{"city": "Rome"}]');
      expect(await text.applyChatTemplate(messages)).toContain('[{"city": "Rome"}]');
    }
  });

  test("is an empty text where it takes no null, and where content is missing", async () => {
    for (const content of [null, undefined, ""]) {
      const messages = [USER, { ...calling(call("a")), content }, result("a")];
      expect(await text.applyChatTemplate(messages)).toContain('<assistant>[{"city"');
    }
    expect(await text.applyChatTemplate([USER, { role: "assistant", content: null }])).toContain("<assistant>");
  });

  test("is text in parts as a list where it takes one, and one text elsewhere", async () => {
    const content = ["one ", "two"].map((text) => ({ type: "text" as const, text }));
    const messages = [{ role: "user", content }];
    const list = await load(
      "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}" +
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}",
    );
    expect(await list.applyChatTemplate(messages)).toBe("one two");
    expect(await text.applyChatTemplate(messages)).toContain("<user>one \ntwo");
  });

  test("is the role system for a developer, unless it knows developers", async () => {
    const messages = [{ role: "developer", content: "Be brief." }, USER];
    expect(await object.applyChatTemplate(messages)).toContain("<system>Be brief.");
    const knows = await load(`{# developer #}${OBJECT}`);
    expect(await knows.applyChatTemplate(messages)).toContain("<developer>Be brief.");
  });

  test("are thoughts under the name that it looks for", async () => {
    const thinking = await load("{% for m in messages %}[{{ m.reasoning_content }}]{{ m.content }}{% endfor %}");
    for (const name of ["reasoning_content", "reasoning", "thinking"]) {
      const messages = [USER, { role: "assistant", content: "Yes.", [name]: "Hm." }];
      expect(await thinking.applyChatTemplate(messages)).toContain("[Hm.]Yes.");
    }
  });

  test("are single calls with ids of nine letters in a chat, where it takes no others", async () => {
    const long = ["call_AbCdEfGhIj", "call_KlMnOpQrSt"];
    const calls = calling(call(long[0] as string), call(long[1] as string, { city: "Oslo" }));
    const messages = [USER, calls, result(long[0] as string, "r1"), result(long[1] as string, "r2")];
    // What a template refuses stays refused where it is asked for its text alone.
    await expect(one.applyChatTemplate(messages)).rejects.toThrow(/one call only/);
    const { usage } = await one.chat(messages, { maxTokens: 1 }).reply();
    const split = [
      USER,
      calling(call("zq0000000")),
      { ...result("zq0000000", "r1"), name: "book" },
      calling(call("zq0000001", { city: "Oslo" })),
      { ...result("zq0000001", "r2"), name: "book" },
    ];
    const prompt = await one.applyChatTemplate(split);
    expect(prompt).toMatch(/\[zq0000000 .*Rome.*r1 zq0000000 book.*\[zq0000001 .*Oslo.*r2 zq0000001 book/);
    const tokens = await one.tokenize(prompt, { addSpecial: false, parseSpecial: true });
    expect(usage.promptTokens).toBe(tokens.length);
  });

  test("without a chat template, a chat is refused when it is made", async () => {
    const engine = await BitNetEngine.load(fixture("b158-v1-tq2_0.gguf"), { threads: 1 });
    engines.push(engine);
    const refused = expect.objectContaining({
      code: "INVALID_TEMPLATE",
      message: expect.stringContaining("chatTemplate"),
    }) as Error;
    expect(() => engine.createChatSession()).toThrow(refused);
    await expect(engine.chat([USER]).reply()).rejects.toThrow(refused);
    await expect(engine.applyChatTemplate([USER])).rejects.toThrow(refused);
  });
});

const CASES = "cases/03-openai-history";

describe.skipIf(!hasShared(CASES, "OpenAI's histories with real templates"))("a real template", () => {
  const tools = [{ type: "function", function: { name: "book", parameters: { type: "object", properties: {} } } }];
  test.each([
    ["qwen3", '"arguments": {"city": "Rome"}'],
    ["qwen25", '"arguments": {"city": "Rome"}'],
    ["llama31", '"parameters": {"city": "Rome"}'],
    ["qwen35", "<parameter=city>\nRome\n</parameter>"],
  ])("of %s writes every shape of a call alike", async (name, expected) => {
    const engine = await BitNetEngine.load(shared(`${CASES}/${name}.gguf`), { threads: 1 });
    try {
      const plain = [USER, { role: "assistant" as const, content: "Hello." }, USER];
      const wanted = await engine.applyChatTemplate(plain);
      for (const none of [[], null]) {
        const listed = plain.map((message) => ({ ...message, tool_calls: none }));
        expect(await engine.applyChatTemplate(listed)).toBe(wanted);
      }
      for (const content of ["", null, undefined]) {
        for (const args of [{ city: "Rome" }, '{"city": "Rome"}']) {
          const messages = [USER, { ...calling(call("call00001", args)), content }, result("call00001")];
          expect(await engine.applyChatTemplate(messages, { tools })).toContain(expected);
        }
      }
    } finally {
      await engine.dispose();
    }
  });
});
