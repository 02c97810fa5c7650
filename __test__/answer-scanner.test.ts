/** Answers taken apart while they stream in: thoughts, text and calls, in the forms of many families. */

import { createRequire } from "node:module";
import type { ToolDefinition } from "ryzanstein";
import { describe, expect, test } from "vitest";
import { BARE_CALLS } from "./played-chat.js";

const require = createRequire(import.meta.url);
const { AnswerScanner } =
  require("../dist/cjs/src/answer-scanner.js") as typeof import("../dist/cjs/src/answer-scanner.js");

type Form = ConstructorParameters<typeof AnswerScanner>[0];
type Calls = NonNullable<Form["calls"]>;

const tool = (name: string, properties: object): ToolDefinition => ({
  type: "function",
  function: { name, parameters: { type: "object", properties, required: Object.keys(properties) } },
});
const TOOLS = [
  tool("book", { city: { type: "string" } }),
  tool("ns.do:it", {
    days: { type: "integer" },
    note: { type: "string" },
    more: { type: "object" },
    sure: { type: "boolean" },
    limit: { anyOf: [{ type: "number" }, { type: "null" }] },
  }),
  tool("now", {}),
];

const JSON_CALLS: Calls = {
  ...BARE_CALLS,
  open: "<tool_call>",
  close: "</tool_call>",
  namePath: ["name"],
  keys: ["name", "arguments"],
  argumentsPath: ["arguments"],
};
const QWEN: Form = { reasoning: { open: "<think>", close: "</think>" }, calls: JSON_CALLS, tokens: [] };
const named = (open: string, close: string, rest: Partial<Calls>): Form => ({
  calls: { ...BARE_CALLS, open, close, afterName: ">", ...rest },
  tokens: [],
});
const json = (open: string, close: string, rest: Partial<Calls> = {}): Form => ({
  calls: { ...JSON_CALLS, open, close, ...rest },
  tokens: [],
});
const LLAMA = json("", "", { argumentsPath: ["parameters"], keys: ["name", "parameters"], leads: ["<|python_tag|>"] });
const XML = named("<tool_call>\n<function=", "</function>\n</tool_call>", {
  parameter: { open: "<parameter=", afterKey: ">\n", afterKeyOther: ">\n", close: "\n</parameter>", separator: "" },
});
const GLM = named("<tool_call>", "</tool_call>", {
  afterName: "",
  parameter: {
    open: "<arg_key>",
    afterKey: "</arg_key><arg_value>",
    afterKeyOther: "</arg_key><arg_value>",
    close: "</arg_value>",
    separator: "",
  },
});
const python = (begin: string, end: string): Form =>
  named("", "", {
    begin,
    end,
    separator: ",",
    afterName: "",
    literal: { open: "(", assign: "=", close: ")", quote: '"' },
  });
const LFM = python("<|tool_call_start|>[", "]<|tool_call_end|>");
const GEMMA = named("<|tool_call>call:", "<tool_call|>", {
  afterName: "",
  end: "<|tool_response>",
  literal: { open: "{", assign: ":", close: "}", quote: '<|"|>' },
});
const KIMI = named("<|call_begin|>functions.", "<|call_end|>", {
  begin: "<|section_begin|>",
  end: "<|section_end|>",
  afterName: "<|argument_begin|>",
  index: ":",
});
const HARMONY: Form = {
  ...named("to=functions.", "", { afterName: "<|channel|>commentary json<|message|>" }),
  reasoning: { open: "<|channel|>analysis<|message|>", close: "<|end|><|start|>assistant" },
  text: { open: "<|channel|>final<|message|>", close: "" },
};

/** Parts that are joined: `~` before thoughts, text as it is, calls as objects. */
function scan(form: Form, text: string, inThought: boolean, size: number): unknown[] {
  const scanner = new AnswerScanner(form, TOOLS, inThought);
  const parts: { type: string; text: string; call?: unknown }[] = [];
  const take = (found: ReturnType<typeof scanner.push>): void => {
    for (const part of found) {
      const last = parts.at(-1);
      if (part.type === "call") parts.push({ type: "call", text: "", call: part.call });
      else if (last?.type === part.type) last.text += part.text;
      else parts.push({ ...part });
    }
  };
  for (let at = 0; at < text.length; at += size) take(scanner.push(text.slice(at, at + size)));
  take(scanner.finish());
  return parts.map((part) => part.call ?? (part.type === "reasoning" ? `~${part.text}` : part.text));
}

function check(form: Form, text: string, expected: unknown[], inThought = false): void {
  for (const size of [1, 2, 3, 7, text.length]) expect(scan(form, text, inThought, size)).toEqual(expected);
}

const call = (name: string, args: unknown, key = "arguments"): string => JSON.stringify({ name, [key]: args });
const marked = (text: string): string => `<tool_call>\n${text}\n</tool_call>`;
const book = (city: string) => ({ name: "book", arguments: { city } });
const invalid = (name: string, error: unknown) => ({ name, arguments: {}, invalid: true, error });
const ROME = call("book", { city: "Rome" });
const OSLO = call("book", { city: "Oslo" });

describe("thoughts", () => {
  test("calls in a thought are a part of it", () => {
    const draft = `Maybe ${marked(ROME)}? No.`;
    check(QWEN, `<think>\n${draft}\n</think>\n\n${marked(OSLO)}`, [`~${draft}`, book("Oslo")]);
    check(QWEN, `<think>\n${draft}\n</think>\n\nNo table.`, [`~${draft}`, "No table."]);
    const mention = "A <tool_call> is due.";
    check(QWEN, `<think>\n${mention}\n</think>\n\n${marked(ROME)}`, [`~${mention}`, book("Rome")]);
  });

  test("a prompt that has opened the thought counts, and a model may open it anew", () => {
    check(QWEN, `${marked(ROME)}\n</think>\n\n${marked(OSLO)}`, [`~${marked(ROME)}`, book("Oslo")], true);
    check(QWEN, "<think>\nHm\n</think>\nYes", ["~Hm", "Yes"], true);
    check(QWEN, `${marked(ROME)} never ends`, [`~${marked(ROME)} never ends`], true);
  });

  test("an empty thought is none, and one in the midst of a line is a mention", () => {
    check(QWEN, "<think>\n\n</think>\n\nYes", ["Yes"]);
    check(QWEN, `The <think> mark. ${marked(ROME)}`, ["The <think> mark. ", book("Rome")]);
    check(QWEN, "First.\n<think>\nthen\n</think>\nSecond.", ["First.\n", "~then", "Second."]);
  });

  test("channels are thoughts and text", () => {
    const thought = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant";
    check(HARMONY, `${thought}<|channel|>final<|message|>Yes`, ["~Hm", "Yes"]);
    const made = ` to=functions.book<|channel|>commentary json<|message|>{"city": "Rome"}`;
    check(HARMONY, thought + made, ["~Hm", book("Rome")]);
  });
});

describe("calls", () => {
  test("a mention of the mark hides no call behind it", () => {
    check(QWEN, `The <tool_call> tag: ${marked(ROME)}`, ["The <tool_call> tag: ", book("Rome")]);
    check(QWEN, `So <tool_call>{"… begins it. ${marked(ROME)}`, ['So <tool_call>{"… begins it. ', book("Rome")]);
  });

  test("text goes on as soon as it cannot be a call", () => {
    const scanner = new AnswerScanner(QWEN, TOOLS, false);
    const text = (delta: string): string =>
      scanner
        .push(delta)
        .map((part) => ("text" in part ? part.text : ""))
        .join("");
    const deltas = ["Write <tool", "_call", "> first", ". <tool_call>", "{", '"a"', ": b", " word"];
    const shown = ["Write ", "", "<tool_call> first", ". ", "", "", '<tool_call>{"a": b', " word"];
    expect(deltas.map(text)).toEqual(shown);
    const bare = new AnswerScanner(LLAMA, TOOLS, false);
    expect(bare.push('{"answer": 4').map((part) => ("text" in part ? part.text : part))).toEqual(['{"answer": 4']);
  });

  test("bare JSON is a call if it names a tool", () => {
    check(LLAMA, call("book", { city: "Rome" }, "parameters"), [book("Rome")]);
    check(LLAMA, ROME, [book("Rome")]);
    check(LLAMA, `${ROME}; ${OSLO}`, [book("Rome"), book("Oslo")]);
    check(LLAMA, `${ROME}\n${OSLO}`, [book("Rome"), book("Oslo")]);
    check(LLAMA, `[${ROME}, ${OSLO}]`, [book("Rome"), book("Oslo")]);
    check(LLAMA, `${ROME} Done.`, [book("Rome"), "Done."]);
    check(LLAMA, `<|python_tag|>${ROME};${OSLO}`, [book("Rome"), book("Oslo")]);
    check(LLAMA, `I look. <|python_tag|>${ROME}`, ["I look. ", book("Rome")]);
    for (const text of ['{"name": "Anna", "parameters": {}}', '{"answer": [1, 2]}', "[1, 2]", "[[{", "It rains."]) {
      check(LLAMA, text, [text]);
    }
  });

  test("lists, one after the other, and with their ids", () => {
    check(json("[TOOL_CALLS]", ""), `Sure. [TOOL_CALLS] [${ROME}, ${OSLO}]`, ["Sure. ", book("Rome"), book("Oslo")]);
    const second = named("[TOOL_CALLS]", "", { afterName: "[ARGS]" });
    check(second, `[TOOL_CALLS]book[ARGS]{"city": "Rome"}[TOOL_CALLS]now[ARGS]{}`, [
      book("Rome"),
      { name: "now", arguments: {} },
    ]);
    const third = named("[TOOL_CALLS]", "", { afterName: "[CALL_ID]", afterId: "[ARGS]" });
    check(third, `[TOOL_CALLS]book[CALL_ID]abc123DEF[ARGS]{"city": "Rome"} Done.`, [book("Rome"), "Done."]);
    const kimi = `<|section_begin|><|call_begin|>functions.book:0<|argument_begin|>{"city": "Rome"}<|call_end|><|call_begin|>functions.ns.do:it:1<|argument_begin|>{}<|call_end|><|section_end|>`;
    check(KIMI, kimi, [book("Rome"), { name: "ns.do:it", arguments: {} }]);
    const keyed = json("<|tools|>", "<|end|>", { namePath: undefined, nameIsKey: true, argumentsPath: [] } as never);
    check(keyed, '<|tools|>[{"book": {"city": "Rome"}}]<|end|>', [book("Rome")]);
  });

  test("arguments between marks have the types of the tool's parameters", () => {
    const one = (key: string, value: string): string => `<parameter=${key}>\n${value}\n</parameter>\n`;
    const text = `<tool_call>\n<function=ns.do:it>\n${one("days", "3")}${one("note", "line </parameter> 1\n2")}${one("more", "{'a': None}")}${one("sure", "True")}${one("limit", "null")}</function>\n</tool_call>`;
    const args = { days: 3, note: "line </parameter> 1\n2", more: { a: null }, sure: true, limit: null };
    check(XML, `Well.\n${text} Done.`, ["Well.\n", { name: "ns.do:it", arguments: args }, "Done."]);
    check(XML, `<tool_call>\n<function=book>\n${one("city", "123")}</function>\n</tool_call>`, [book("123")]);
    const glm = `<tool_call>book\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call><tool_call>now</tool_call>`;
    check(GLM, glm, [book("Rome"), { name: "now", arguments: {} }]);
    check(XML, "Use <tool_call> and <function=f> here", ["Use <tool_call> and <function=f> here"]);
  });

  test("calls of a programming language", () => {
    const text = `[book(city="Ro\\"me"), ns.do:it(days=3, sure=True, more={"a": [1, None]})]`;
    const more = { days: 3, sure: true, more: { a: [1, null] } };
    check(python("[", "]"), text, [book('Ro"me'), { name: "ns.do:it", arguments: more }]);
    const marks = `<|tool_call_start|>${text}<|tool_call_end|>`;
    check(LFM, `${marks}I look.`, [book('Ro"me'), { name: "ns.do:it", arguments: more }, "I look."]);
    check(python("[", "]"), "[1] and [book(city='x')]", ["[1] and [book(city='x')]"]);
    const gemma = `<|tool_call>call:book{city:<|"|>Ro}me<|"|>}<tool_call|><|tool_call>call:ns.do:it{more:{a:null,b:[<|"|>x<|"|>]},days:3}<tool_call|>`;
    check(GEMMA, gemma, [book("Ro}me"), { name: "ns.do:it", arguments: { more: { a: null, b: ["x"] }, days: 3 } }]);
  });

  test("a call that cannot be made stays text and says why", () => {
    const wrongKeys = marked('{"name": "book", "args": {"city": "Rome"}}');
    check(QWEN, wrongKeys, [wrongKeys, invalid("book", "the arguments are missing")]);
    const noObject = marked('{"name": "book", "arguments": "Rome"}');
    check(QWEN, noObject, [noObject, invalid("book", expect.stringContaining("no JSON"))]);
    const noArguments = marked('{"name": "book", "arguments": ""}');
    check(QWEN, noArguments, [noArguments, invalid("book", "the arguments are missing")]);
    const noName = marked('{"city": "Rome"}');
    check(
      QWEN,
      noName,
      [noName, invalid("", expect.stringContaining('a name at "name"'))].map((part, at) =>
        at === 1 ? { ...(part as object), unknown: true } : part,
      ),
    );
    const broken = '<tool_call>\n{"name": "book", "arguments": {"city": "Rome"}\n';
    check(QWEN, `${broken}</tool_call>`, [
      broken,
      invalid("book", expect.stringContaining("expected JSON")),
      "</tool_call>",
    ]);
    for (const keys of ["{'name': 'book', 'arguments': {}}", '{"nom": book}', '[{"nom": book}]']) {
      const parts = scan(QWEN, marked(keys), false, 1);
      expect(parts.filter((part) => typeof part === "string").join("")).toBe(marked(keys));
      const unnamed = { ...invalid("", expect.stringContaining("expected JSON")), unknown: true };
      expect(parts.filter((part) => typeof part === "object")).toEqual([unnamed]);
    }
    const cut = '<tool_call>{"name": "book", "arguments": {"ci';
    check(QWEN, cut, [cut, invalid("book", expect.stringContaining("ends within"))]);
    const soon = "<tool_call>\n<function=ns.do:it>\n<parameter=days>\nsoon\n</parameter>\n</function>\n</tool_call>";
    check(XML, soon, [soon, invalid("ns.do:it", expect.stringMatching(/^days: /))]);
    const placed = '[book("Rome")';
    check(python("[", "]"), placed, [placed, invalid("book", expect.stringContaining("expected ="))]);
  });

  test("an unknown tool is marked, and what belongs to objects is data", () => {
    check(QWEN, marked(call("nope", { a: 1 })), [{ name: "nope", arguments: { a: 1 }, unknown: true }]);
    const proto = '{"name": "__proto__", "arguments": {"__proto__": {"polluted": 1}, "constructor": {}}}';
    const [found] = scan(QWEN, marked(proto), false, 5) as [{ arguments: object; unknown: boolean }];
    expect(found.unknown).toBe(true);
    expect(Object.keys(found.arguments)).toEqual(["__proto__", "constructor"]);
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
    const [xml] = scan(
      XML,
      "<tool_call>\n<function=book>\n<parameter=__proto__>\nx\n</parameter>\n</function>\n</tool_call>",
      false,
      5,
    ) as [{ arguments: object }];
    expect(Object.keys(xml.arguments)).toEqual(["__proto__"]);
  });
});

test("work grows with the text only, whatever a model writes", () => {
  const bodies: [string, Form, string, string][] = [
    ["closing marks in a string", QWEN, '<tool_call>{"name":"book","arguments":{"x":"', "</tool_call>"],
    ["opening marks", QWEN, "", '<tool_call>{"a":["'],
    ["calls that break off", QWEN, "", '<tool_call>{"name": "book" '],
    ["deep brackets", LLAMA, "", "[[[["],
    ["deep brackets in a call", QWEN, '<tool_call>{"name":"book","arguments":{"a":', "[[[["],
    ["beginnings of marks", QWEN, "", "<<<<"],
    ["values that go on", XML, "<tool_call>\n<function=book>\n<parameter=city>\n", "\n</parameter> \n"],
    ["literals", LFM, "<|tool_call_start|>[", 'book(city="'],
    ["keys", LLAMA, '{"name":"book"', ',"parameters":1'],
    ["thoughts", QWEN, "<think>", "</thin "],
  ];
  const cost = (form: Form, head: string, unit: string, count: number): number => {
    const scanner = new AnswerScanner(form, TOOLS, false);
    const before = process.cpuUsage();
    scanner.push(head);
    for (let at = 0; at < count; at += 1) scanner.push(unit);
    scanner.finish();
    const { user, system } = process.cpuUsage(before);
    return (user + system) / 1000;
  };
  for (const [name, form, head, unit] of bodies) {
    cost(form, head, unit, 500);
    // 32,000 deltas: what grew with the square would take minutes.
    expect(cost(form, head, unit, 32_000), name).toBeLessThan(5000);
  }
}, 120_000);
