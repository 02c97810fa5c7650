/** Every code block of README.md and docs/*.md runs as printed, in a folder with the files that it names. */

import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultModelPath } from "ryzanstein";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { fixture, root, runProgram } from "./support.js";

/** Commands that are not run here, each with its reason. */
const LEFT_OUT: readonly (readonly [command: RegExp, reason: string])[] = [
  [/^npm (start|test|run build)\b/, "sets the whole project up, with a network; npm test runs this test"],
  [/^npm run (check|lint|format)\b/, "looks at the sources, or changes them; .ci/run lints"],
  [/^npm run bench:/, "measures for minutes; benches.test.ts runs every bench in little"],
  [/^fuzz\/run\.sh\b/, "fuzzes for as long as it says, and needs cargo-fuzz and a nightly compiler"],
  [/^\.ci\/run\b/, "runs this test"],
];

interface Block {
  readonly place: string;
  readonly kind: string;
  readonly text: string;
}

const PAGES = ["README.md", ...readdirSync(join(root, "docs")).map((name) => join("docs", name))];
/** Languages that run, and what only says something. */
const RUN = ["js", "ts", "sh"];
const SHOWN = ["text", "json"];

/** The fenced blocks of a page; those within a list lose its indentation. */
function blocksOf(page: string): Block[] {
  const blocks: Block[] = [];
  let open: { indent: string; kind: string; line: number; lines: string[] } | undefined;
  for (const [index, line] of readFileSync(join(root, page), "utf8").split("\n").entries()) {
    const [, indent = "", kind = ""] = /^( *)```(.*)$/.exec(line) ?? [];
    const fence = /^ *```/.test(line);
    if (open === undefined && fence) open = { indent, kind: kind.trim(), line: index + 1, lines: [] };
    else if (open !== undefined && fence) {
      blocks.push({ place: `${page}:${open.line}`, kind: open.kind, text: `${open.lines.join("\n")}\n` });
      open = undefined;
    } else open?.lines.push(line.startsWith(open.indent) ? line.slice(open.indent.length) : line);
  }
  return blocks;
}

const BLOCKS = PAGES.flatMap(blocksOf);
const kindOf = (kind: string): Block[] => BLOCKS.filter((block) => block.kind === kind);

const TINY = { hidden_size: 64, intermediate_size: 192, num_hidden_layers: 1, num_attention_heads: 2 };
const SMALL_CONFIG = {
  model: { ...TINY, num_key_value_heads: 2, max_position_embeddings: 64, vocab_size: 512 },
  steps: 20,
  eval_windows: 2,
};

/** The folder that each block gets a copy of. */
const files = mkdtempSync(join(tmpdir(), "ryz-docs-"));

beforeAll(() => {
  const text = readFileSync(join(root, "__test__", "fixtures", "corpus", "tales-excerpt.txt"), "utf8");
  for (const name of ["text.txt", "tales.txt", "letters.txt"]) writeFileSync(join(files, name), text.slice(0, 16_000));
  writeFileSync(
    join(files, "story.txt"),
    "Once upon a time there was a fox.\nHe lived in a wood, and he had no friends.\n",
  );
  for (const name of ["model", "large", "small", "base", "student", "teacher"]) {
    copyFileSync(defaultModelPath() as string, join(files, `${name}.gguf`));
  }
  cpSync(fixture("b158-v-hf-packed"), join(files, "bitnet-2b"), { recursive: true });
  copyFileSync(fixture("llamadense-v-q4_0.gguf"), join(files, "float-model"));
  const schema = { type: "object", properties: { name: { type: "string", maxLength: 20 } }, required: ["name"] };
  writeFileSync(join(files, "schema.json"), JSON.stringify(schema));
  writeFileSync(join(files, "small.json"), JSON.stringify(SMALL_CONFIG));
  writeFileSync(join(files, "package.json"), '{ "type": "module" }\n');
});

const folders = [files];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A folder for one block, with the files that it names, the package installed, and the command line on its path. */
function folderFor(block: string): { cwd: string; env: NodeJS.ProcessEnv } {
  const cwd = mkdtempSync(join(tmpdir(), "ryz-block-"));
  folders.push(cwd);
  for (const name of ["package.json", ...readdirSync(files).filter((file) => block.includes(file))]) {
    cpSync(join(files, name), join(cwd, name), { recursive: true });
  }
  const modules = join(cwd, "node_modules");
  mkdirSync(modules);
  symlinkSync(root, join(modules, "ryzanstein"));
  for (const name of ["@types", "@ark", "arktype", "valibot", "zod", "zod3"]) {
    const installed = join(root, "node_modules", name);
    if (existsSync(installed)) symlinkSync(installed, join(modules, name));
  }
  const bin = join(cwd, "bin");
  mkdirSync(bin);
  symlinkSync(join(root, "bin", "ryzanstein.js"), join(bin, "ryzanstein.js"));
  symlinkSync(join(root, "bin", "ryzanstein.js"), join(bin, "ryzanstein"));
  return { cwd, env: { PATH: `${bin}:${process.env["PATH"]}`, HOME: cwd } };
}

async function succeeds(
  command: string,
  args: readonly string[],
  where: ReturnType<typeof folderFor>,
): Promise<string> {
  const { code, stdout, stderr } = await runProgram(command, args, where);
  expect(code, `${stdout}\n${stderr}`).toBe(0);
  return stdout;
}

async function compile(text: string, where: ReturnType<typeof folderFor>): Promise<void> {
  writeFileSync(join(where.cwd, "block.mts"), text);
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  const target = ["--target", "es2022", "--lib", "es2023,esnext.disposable", "--module", "nodenext"];
  await succeeds(
    process.execPath,
    [tsc, "--strict", "--skipLibCheck", "--types", "node", ...target, "block.mts"],
    where,
  );
}

const MINUTES = 5 * 60_000;

test("every block says what it is in", () => {
  expect(BLOCKS.filter(({ kind }) => ![...RUN, ...SHOWN].includes(kind))).toEqual([]);
  expect(kindOf("js").length).toBeGreaterThan(10);
  expect(kindOf("sh").length).toBeGreaterThan(5);
});

test("no code hides in an indented block, which says nothing about its language", () => {
  for (const page of PAGES) {
    const text = readFileSync(join(root, page), "utf8").replace(/^( *)```.*?^ *```$/gms, "");
    expect(text, page).not.toMatch(/\n\n {4}\S/);
  }
});

describe("JavaScript", () => {
  test.each(kindOf("js").map(({ place, text }) => [place, text] as const))(
    "%s",
    { timeout: MINUTES },
    async (_, text) => {
      const where = folderFor(text);
      writeFileSync(join(where.cwd, "block.js"), text);
      await succeeds(process.execPath, ["block.js"], where);
    },
  );
});

describe("TypeScript", () => {
  test.each(kindOf("ts").map(({ place, text }) => [place, text] as const))(
    "%s",
    { timeout: MINUTES },
    async (_, text) => {
      const where = folderFor(text);
      await compile(text, where);
      await succeeds(process.execPath, ["block.mjs"], where);
    },
  );
});

describe("commands", () => {
  const scripts = kindOf("sh").map(({ place, text }) => {
    const commands: string[] = [];
    for (const line of text.split("\n")) {
      const [, reason] = LEFT_OUT.find(([command]) => command.test(line)) ?? [];
      if (reason === undefined) commands.push(line);
      else process.stderr.write(`LEFT OUT: ${place}: ${line.replace(/ *#.*/, "")}: ${reason}\n`);
    }
    return [place, commands.join("\n")] as const;
  });

  test.each(scripts.filter(([, script]) => script.trim() !== ""))("%s", { timeout: MINUTES }, async (_, script) => {
    await succeeds("bash", ["-euo", "pipefail", "-c", script], folderFor(script));
  });
});

test("JSON is JSON", () => {
  for (const { text } of kindOf("json")) expect(() => JSON.parse(text) as unknown).not.toThrow();
});
