// How long vocabularies take to load, and how fast they cut text.
//
//   node benches/tokenizer.mjs [FILE.gguf | FILE.gguf.xz | tokenizer.json]…
//
// Without files: the real vocabularies of ../shared/vocab. Files packed by xz are unpacked by the program xz.

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { Tokenizer } from "ryzanstein";

const ROUNDS = 7;
const shared = new URL("../../shared/vocab/", import.meta.url).pathname;
const given = process.argv.slice(2);
const files = given.length > 0 || !existsSync(shared) ? given : packed(shared);
if (files.length === 0) throw new Error(`no files given, and none at ${shared}`);

const text = readFileSync(new URL("../README.md", import.meta.url), "utf8").repeat(20);
const folder = mkdtempSync(join(tmpdir(), "ryz-bench-"));
process.stdout.write("| vocabulary | tokens | load, median of 7 | one word of 1 MB | prose |\n|---|---|---|---|---|\n");
for (const file of files) {
  const path = file.endsWith(".xz") ? unpacked(file) : file;
  const tokenizer = await Tokenizer.load(path);
  const load = await median(() => Tokenizer.load(path));
  const word = await median(() => tokenizer.encode("ab".repeat(1 << 19)));
  const prose = await median(() => tokenizer.encode(text));
  const rate = (bytes, ms) => `${(bytes / 1e3 / ms).toFixed(1)} MB/s`;
  const cells = [basename(file), tokenizer.vocabularySize, `${load.toFixed(0)} ms`, rate(1 << 20, word)];
  process.stdout.write(`| ${[...cells, rate(Buffer.byteLength(text), prose)].join(" | ")} |\n`);
}
rmSync(folder, { recursive: true });

function packed(from) {
  const names = readdirSync(from).filter((name) => name.endsWith(".gguf.xz"));
  return names.map((name) => join(from, name));
}

function unpacked(file) {
  const path = join(folder, basename(file, ".xz"));
  writeFileSync(path, execFileSync("xz", ["-dc", file], { maxBuffer: 1 << 28 }));
  return path;
}

async function median(work) {
  const times = [];
  for (let round = 0; round < ROUNDS; round++) {
    const start = performance.now();
    await work();
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[ROUNDS >> 1];
}
