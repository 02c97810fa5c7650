/** `toolChoice` keeps calls to the form that a template writes, whatever that is, and thoughts out of them. */

import { BitNetEngine, type ToolChoice, type ToolDefinition } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { withChatTemplate } from "./gguf-template.js";
import { fixture } from "./support.js";

const TOOLS: ToolDefinition[] = [
  {
    type: "function",
    function: {
      name: "get.weather:now",
      parameters: {
        type: "object",
        properties: {
          city: { enum: ["Rome", "Bern"] },
          days: { type: "integer", minimum: 1, maximum: 9 },
          exact: { type: "boolean" },
        },
        required: ["city", "exact"],
      },
    },
  },
  { type: "function", function: { name: "clock" } },
];

/** A template that writes calls as `written` has it, and thoughts in `<think>`. */
function template(written: string, prompt = "<assistant>"): string {
  return `{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>
{%- if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n{% endif %}{{ m.content or "" }}${written}
{% endfor %}{% if add_generation_prompt %}${prompt}{% endif %}`;
}

const each = (call: string): string => `{% for c in m.tool_calls or [] %}${call}{% endfor %}`;
const NAME = "{{ c.function.name }}";
const JSON_ARGUMENTS = "{{ c.function.arguments | tojson }}";
const items = (one: string): string => `{% for k, v in c.function.arguments | items %}${one}{% endfor %}`;
const TAGGED = each(`<tool_call>{"name": "${NAME}", "arguments": ${JSON_ARGUMENTS}}</tool_call>`);

const FORMS: Record<string, string> = {
  "between marks": each(
    `\n<tool_call>\n<function=${NAME}>\n${items("<parameter={{ k }}>\n{{ v if v is string else v | tojson }}\n</parameter>\n")}</function>\n</tool_call>`,
  ),
  "keys and values between marks": each(
    `<tool_call>${NAME}${items("<arg_key>{{ k }}</arg_key><arg_value>{{ v if v is string else v | tojson }}</arg_value>")}</tool_call>`,
  ),
  "a programming language": `{% if m.tool_calls %}[{% for c in m.tool_calls %}${NAME}(${items("{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}")}){{ ', ' if not loop.last }}{% endfor %}]{% endif %}`,
  "names as keys": `{% if m.tool_calls %}<|tools|>[{% for c in m.tool_calls %}{"${NAME}": ${JSON_ARGUMENTS}}{{ ', ' if not loop.last }}{% endfor %}]<|end|>{% endif %}`,
  "ids behind names": each(`[TOOL_CALLS]${NAME}[CALL_ID]{{ c.id }}[ARGS]${JSON_ARGUMENTS}`),
  "marks around all": `{% if m.tool_calls %}<|begin|>{% for c in m.tool_calls %}<|call|>functions.${NAME}:{{ loop.index0 }}<|args|>${JSON_ARGUMENTS}<|/call|>{% endfor %}<|end|>{% endif %}`,
};

function fits(call: { name: string; arguments: Readonly<Record<string, unknown>> }): boolean {
  const { city, days, exact, ...rest } = call.arguments;
  if (Object.keys(rest).length > 0) return false;
  if (call.name === "clock") return Object.keys(call.arguments).length === 0;
  const whole = days === undefined || (Number.isInteger(days) && Number(days) >= 1 && Number(days) <= 9);
  return (city === "Rome" || city === "Bern") && typeof exact === "boolean" && whole;
}

describe.each(Object.entries(FORMS))("calls in the form: %s", (_name, written) => {
  let engine: BitNetEngine;
  beforeAll(async () => {
    engine = await BitNetEngine.load(withChatTemplate(fixture("b158-v1-tq2_0.gguf"), template(written)));
  });
  afterAll(() => engine?.dispose());

  const reply = (toolChoice: ToolChoice, seed: number) =>
    engine
      .createChatSession({ tools: TOOLS })
      .send("Weather?", { toolChoice, seed, temperature: 1.5, maxTokens: 250 })
      .reply();

  test.each<ToolChoice>(["required", { name: "get.weather:now" }, { name: "clock" }])(
    "toolChoice %j",
    async (choice) => {
      let whole = 0;
      for (let seed = 0; seed < 4; seed += 1) {
        const { toolCalls, text, finishReason } = await reply(choice, seed);
        if (finishReason === "length") continue; // more and more calls, perhaps
        whole += 1;
        expect(toolCalls.length, text).toBeGreaterThan(0);
        expect(text.trim()).toBe("");
        for (const call of toolCalls) {
          expect(fits(call), JSON.stringify(call)).toBe(true);
          if (typeof choice === "object") expect(call.name).toBe(choice.name);
        }
        if (typeof choice === "object") expect(toolCalls).toHaveLength(1);
      }
      if (typeof choice === "object") expect(whole).toBe(4);
    },
  );

  test("toolChoice none and auto", async () => {
    for (let seed = 0; seed < 3; seed += 1) {
      expect((await reply("none", seed)).toolCalls).toEqual([]);
      for (const call of (await reply("auto", seed)).toolCalls) expect(fits(call), JSON.stringify(call)).toBe(true);
    }
  });
});

test.each<[string, object]>([
  ["an empty schema", {}],
  ["a schema without a type", { properties: { city: { enum: ["Rome"] } }, required: ["city"] }],
  ["a reference", { $ref: "#/$defs/place", $defs: { place: { properties: { city: { enum: ["Rome"] } } } } }],
  ["a choice", { anyOf: [{ properties: { city: { enum: ["Rome"] } } }, { properties: { days: { enum: [1] } } }] }],
])("parameters are an object, whatever they say: %s", async (_name, parameters) => {
  const engine = await BitNetEngine.load(withChatTemplate(fixture("b158-v1-tq2_0.gguf"), template(TAGGED)));
  try {
    const tools: ToolDefinition[] = [{ type: "function", function: { name: "f", parameters } }];
    for (let seed = 0; seed < 12; seed += 1) {
      const options = { tools, toolChoice: { name: "f" }, seed, temperature: 2, maxTokens: 300 };
      const { toolCalls, finishReason } = await engine.chat([{ role: "user", content: "Call." }], options).reply();
      if (finishReason === "length") continue; // a long argument
      expect(toolCalls).toEqual([{ id: "call00001", name: "f", arguments: expect.any(Object) }]);
    }
  } finally {
    await engine.dispose();
  }
});

test("a prompt that has opened a thought is answered with the thought, whatever the choice", async () => {
  const path = withChatTemplate(fixture("b158-v1-tq2_0.gguf"), template(TAGGED, "<assistant><think>\n"));
  const engine = await BitNetEngine.load(path);
  try {
    for (const toolChoice of ["auto", "none", "required", { name: "clock" }] as ToolChoice[]) {
      const session = engine.createChatSession({ tools: TOOLS });
      const turn = session.send("Weather?", { toolChoice, seed: 1, temperature: 1.5, maxTokens: 60 });
      const { toolCalls, finishReason } = await turn.reply();
      expect(toolCalls).toEqual([]);
      expect(finishReason).toBe("length");
    }
  } finally {
    await engine.dispose();
  }
});
