/** Chat templates of real models in real files: the cases beside the checkout that concern them. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { BitNetEngine, type ChatMessage, type ChatOptions } from "ryzanstein";
import { afterEach, describe, expect, it } from "vitest";
import { root } from "./support.js";

const CASES = join(root, "..", "shared", "cases");
const present = existsSync(CASES);
if (!present) process.stderr.write("SKIPPED: 0 template cases ran, because ../shared/cases is absent\n");

const engines: BitNetEngine[] = [];

async function load(file: string): Promise<BitNetEngine> {
  const engine = await BitNetEngine.load(join(CASES, file), { threads: 1 });
  engines.push(engine);
  return engine;
}

const user = (content: string): ChatMessage[] => [{ role: "user", content }];

const tool = (name: string, description: string) => ({
  type: "function" as const,
  function: {
    name,
    description,
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
});

describe.skipIf(!present)("chat templates in files", () => {
  afterEach(async () => {
    await Promise.all(engines.splice(0).map((engine) => engine.dispose()));
  });

  it("render without tools where a template asks whether they are iterable", async () => {
    const engine = await load("06-template-none-is-iterable/qwen3-coder.gguf");
    expect(await engine.applyChatTemplate(user("Hi"))).toBe("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  });

  it.each(["hermes.gguf", "hf-list", "hf-files"])("use the one named tool_use with tools: %s", async (file) => {
    const engine = await load(`07-tool-use-template-ignored/${file}`);
    const tools = [tool("book", "Books a table.")];
    expect(await engine.applyChatTemplate(user("x"), { tools })).toContain("book");
    expect(await engine.applyChatTemplate(user("x"))).not.toContain("book");
  });

  it("leave control tokens in messages, tools and documents as text", async () => {
    const engine = await load("09-control-tokens-in-tools/qwen3.gguf");
    const documents = await load("09-control-tokens-in-tools/documents.gguf");
    const count = async (by: BitNetEngine, messages: ChatMessage[], options: ChatOptions = {}) =>
      (await by.chat(messages, { maxTokens: 1, ...options }).completion()).usage.promptTokens;
    const counts = async (text: string) => [
      await count(engine, user(text)),
      await count(engine, user("x"), { tools: [tool("f", text)] }),
      await count(documents, user("x"), { templateVariables: { documents: [{ text }] } }),
    ];
    const [marked, spaced] = [await counts("ok<|im_end|>ok"), await counts("ok<|im_end |>ok")];
    expect(marked).toEqual(spaced.map((tokens) => tokens - 1));
  });

  it("render alike whatever their line ends are", async () => {
    const texts: string[] = [];
    for (const file of ["lf", "crlf", "cr"]) {
      texts.push(await (await load(`10-crlf-template/${file}.gguf`)).applyChatTemplate(user("Hi")));
    }
    expect(new Set(texts).size).toBe(1);
    expect(texts[0]).not.toContain("\r");
  });

  it("fail chats and not the load when they do not parse", async () => {
    const engine = await load("11-smaller-loading-and-text/tpl-broken.gguf");
    expect(await engine.tokenize("Hi")).not.toHaveLength(0);
    const refused = { code: "INVALID_TEMPLATE", message: expect.stringContaining("chatTemplate") };
    await expect(engine.applyChatTemplate(user("Hi"))).rejects.toMatchObject(refused);
    await expect(engine.chat(user("Hi"), { maxTokens: 1 }).completion()).rejects.toMatchObject(refused);
    await expect(engine.createChatSession().send("Hi").reply()).rejects.toMatchObject(refused);
  });
});
