// npm run badfiles -- DIR: every case of DIR/manifest.json, each in a process of its own, within the manifest's limits.
//
// A case of expected "error" must end in a typed error, one of "ok" in none, one of "any" in either; no case may crash,
// hang, or take more memory than it is allowed; and before an error none may take more than twice its file and 64 MB beyond
// what the process had. A line for each case that differs, at last `N passed, N failed`; exit 1 on
// any difference. Cases of the class `request` need the server, which is not there yet: they are listed as skipped.

import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { fail } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";

const SELF = fileURLToPath(import.meta.url);
/** Stages that go through the whole engine. */
const WHOLE = new Set(["model", "generate"]);
/** How often a process's memory is looked at, in milliseconds. */
const LOOK = 20;
/** What a file that is refused may take of memory besides twice its size. */
const SLACK_MB = 64;

const require = createRequire(import.meta.url);
let native;
let BitNetEngine;

/** Loads the package, so that what a file takes of memory can be told from what the package takes. */
function loadPackage() {
  native = require("../native.cjs");
  ({ BitNetEngine } = require("../dist/cjs/index.js"));
  native.cpuInfo();
}

/** Bytes of a file, or of all files in a folder. */
function sizeOf(path) {
  const stat = statSync(path);
  if (!stat.isDirectory()) return stat.size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}

/** What one file comes to: `{}` or `{ error: { code, message } }`. */
async function judge(stage, path, input) {
  try {
    if (WHOLE.has(stage)) await generate(path);
    else await check(path, stage, input);
    return {};
  } catch (error) {
    return { error: { code: error.code, message: error.message } };
  }
}

async function generate(path) {
  const engine = await BitNetEngine.load(path, { contextLength: 64 });
  try {
    await engine.complete("Once", { maxTokens: 4, temperature: 0 });
  } finally {
    await engine.dispose();
  }
}

function check(path, stage, input) {
  const conversation = input === "" ? undefined : readFileSync(input, "utf8");
  return new Promise((resolve, reject) => {
    // An index is judged where the folder's files are put together.
    native.checkFile(path, stage === "index" ? "config" : stage, conversation, (failure) => {
      if (failure) reject(Object.assign(new Error(failure.message), { code: failure.code }));
      else resolve();
    });
  });
}

/** Runs one case in a process of its own. */
function run(args, { max_ms: maxMs, max_rss_mb: maxMb }) {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [SELF, "--case", ...args], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    const out = { stdout: "", stderr: "" };
    child.stdout.setEncoding("utf8").on("data", (text) => (out.stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text) => (out.stderr += text));
    let verdict;
    const stop = (why) => {
      verdict ??= { broken: why };
      child.kill("SIGKILL");
    };
    const clock = setTimeout(() => stop(`took more than ${maxMs} ms`), maxMs);
    const watch = setInterval(() => {
      const peak = peakMb(child.pid);
      if (peak > maxMb) stop(`took ${peak} MB, more than ${maxMb}`);
    }, LOOK);
    child.on("close", (code, signal) => {
      clearTimeout(clock);
      clearInterval(watch);
      if (verdict === undefined) {
        try {
          verdict = JSON.parse(out.stdout);
          if (verdict.peakMb > maxMb) verdict = { broken: `took ${verdict.peakMb} MB, more than ${maxMb}` };
        } catch {
          verdict = { broken: `crashed with ${signal ?? `exit code ${code}`}: ${out.stderr.trim().slice(0, 300)}` };
        }
      }
      resolve(verdict);
    });
  });
}

/** The most memory that a process has had resident, in MB; 0 where the system does not say. */
function peakMb(pid) {
  try {
    return Math.ceil(Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1024);
  } catch {
    return 0;
  }
}

/** What differs from the expectation; `undefined` when nothing does. */
function difference({ expected }, { broken, error }) {
  if (broken !== undefined) return broken;
  if (error !== undefined && (error.code === undefined || error.code === "INTERNAL")) {
    return `an error without a proper code: ${error.code}: ${error.message}`;
  }
  if (expected === "ok" && error !== undefined) return `expected ok, got ${error.code}: ${error.message}`;
  if (expected === "error" && error === undefined) return "expected an error, got none";
  return undefined;
}

/** Puts the case where the engine would find it, and runs it. */
async function runCase(folder, item) {
  const file = join(folder, item.file);
  const input = item.stage === "template" ? join(folder, "ok", "template_input.json") : "";
  if (item.overlay) {
    const copy = mkdtempSync(join(tmpdir(), "ryz-badfiles-"));
    try {
      cpSync(join(folder, item.overlay.dir), copy, { recursive: true });
      cpSync(file, join(copy, item.overlay.as));
      return await run([item.stage, copy, input], item);
    } finally {
      rmSync(copy, { recursive: true, force: true });
    }
  }
  // A sound file of a folder is judged with its folder.
  if (file.endsWith(".json") && existsSync(join(dirname(file), "config.json"))) {
    return run([item.stage, dirname(file), input], item);
  }
  const template = join(folder, "ok", "chat.jinja");
  return run([item.stage, item.stage === "template" && file.endsWith(".json") ? template : file, input], item);
}

const print = (line) => process.stdout.write(`${line}\n`);

async function main(folder) {
  const { cases } = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"));
  const skipped = cases.filter((item) => item.class === "request");
  const left = cases.filter((item) => item.class !== "request");
  const count = { passed: 0, failed: 0 };
  const worker = async () => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) {
      const differs = difference(item, await runCase(folder, item));
      count[differs === undefined ? "passed" : "failed"] += 1;
      if (differs !== undefined) print(`${item.file} (${item.fault}): ${differs}`);
    }
  };
  await Promise.all([worker(), worker()]);
  for (const item of skipped) print(`skipped, it needs the server: ${item.file}`);
  print(`${skipped.length} skipped`);
  print(`${count.passed} passed, ${count.failed} failed`);
  process.exitCode = count.failed === 0 ? 0 : 1;
}

const [first, ...rest] = process.argv.slice(2);
if (first === "--case") {
  const [stage, path, input] = rest;
  loadPackage();
  const before = process.resourceUsage().maxRSS / 1024;
  let verdict = await judge(stage, path, input);
  const peak = Math.ceil(process.resourceUsage().maxRSS / 1024);
  const allowed = (2 * sizeOf(path)) / 2 ** 20 + SLACK_MB;
  if (verdict.error !== undefined && peak - before > allowed) {
    verdict = { broken: `took ${Math.ceil(peak - before)} MB before its error, more than ${Math.floor(allowed)}` };
  }
  process.stdout.write(JSON.stringify({ ...verdict, peakMb: peak }));
} else if (first === undefined || !existsSync(join(first, "manifest.json"))) {
  fail("usage: npm run badfiles -- DIR (a folder with a manifest.json)");
} else {
  await main(first);
}
