// llama.cpp, built for this machine from the Python package that carries its source: its `llama-bench` and `llama-batched-bench`; and
// those of its forks.

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { promisify } from "node:util";
import { fail, run, say, works } from "../../scripts/lib/run.mjs";
import { cache, remade } from "./cache.mjs";

/** The release of llama-cpp-python whose llama.cpp is measured. */
export const RELEASE = "0.3.36";
const TIMEOUT_MS = 30 * 60_000;

const exe = process.platform === "win32" ? ".exe" : "";

const PROGRAMS = ["llama-bench", "llama-batched-bench"];
const pathOf = (name) => join(cache, `${name}-${RELEASE}${exe}`);

/** The path of a llama-bench, built once. */
export const buildLlamaBench = () => buildLlama("llama-bench");

/** The path of a llama-batched-bench, built once. */
export const buildLlamaBatchedBench = () => buildLlama("llama-batched-bench");

function buildLlama(wanted) {
  if (PROGRAMS.every((name) => existsSync(pathOf(name)))) return pathOf(wanted);
  const python = ["python3", "python"].find((name) => works(name, ["-m", "pip", "--version"]));
  if (python === undefined) fail("llama.cpp is fetched by pip: python3 with pip is needed");
  say(`building llama.cpp of llama-cpp-python ${RELEASE} (some minutes, once)`);
  const work = join(cache, "llama.cpp");
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const pip = (...args) => run(python, ["-m", "pip", ...args], { quiet: true });
  const sdist = ["--no-deps", "--no-binary", "llama-cpp-python", `llama-cpp-python==${RELEASE}`];
  pip("download", "-d", work, ...sdist);
  const archive = readdirSync(work).find((name) => name.endsWith(".tar.gz"));
  run("tar", ["xzf", archive], { cwd: work });
  const source = join(work, archive.replace(/\.tar\.gz$/, ""), "vendor", "llama.cpp");
  const env = {};
  if (!works("cmake", ["--version"])) {
    const tools = join(work, "tools");
    pip("install", "--target", tools, "cmake", "ninja");
    Object.assign(env, {
      PYTHONPATH: tools,
      PATH: `${join(tools, "bin")}${delimiter}${process.env.PATH}`,
      CMAKE_GENERATOR: "Ninja",
    });
  }
  const build = join(work, "build");
  const off = ["BUILD_SHARED_LIBS", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER", "LLAMA_OPENSSL"];
  const options = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", ...off.map((name) => `-D${name}=OFF`)];
  run("cmake", ["-S", source, "-B", build, ...options], { env, quiet: true });
  const jobs = String(availableParallelism());
  const targets = PROGRAMS.flatMap((name) => ["--target", name]);
  run("cmake", ["--build", build, "--config", "Release", ...targets, "-j", jobs], { env, quiet: true });
  for (const name of PROGRAMS) renameSync(join(build, "bin", name + exe), pathOf(name));
  rmSync(work, { recursive: true, force: true });
  return pathOf(wanted);
}

const execute = promisify(execFile);

/**
 * One run of a llama-bench: tokens a second of reading `prompt` tokens, or of generating `tokens` after `depth` others.
 *
 * @param {string} program
 * @param {{ model: string, threads: number, prompt?: number, tokens?: number, depth?: number, kv?: string, warmUp?: boolean }} test
 */
export async function llamaBench(program, test) {
  const { model, threads, prompt = 0, tokens = 0, depth = 0, kv, warmUp = true } = test;
  const args = [
    "-m",
    model,
    "-t",
    String(threads),
    "-p",
    String(prompt),
    "-n",
    String(tokens),
    "-r",
    "1",
    "-o",
    "json",
  ];
  if (depth > 0) args.push("-d", String(depth));
  if (kv !== undefined) args.push("-ctk", kv, "-ctv", kv, "-fa", "1");
  if (!warmUp) args.push("--no-warmup");
  const { stdout } = await execute(program, args, { timeout: TIMEOUT_MS, maxBuffer: 1 << 24 });
  const found = JSON.parse(stdout);
  const [{ n_prompt, n_gen, n_threads, n_depth = 0, avg_ts, build_commit }] = found;
  const asked = [1, prompt, tokens, threads, depth];
  const done = [found.length, n_prompt, n_gen, n_threads, n_depth];
  if (String(done) !== String(asked) || !(avg_ts > 0))
    throw new Error(`${program} did ${done}, not ${asked}, at ${avg_ts}`);
  return { tokensPerSecond: avg_ts, commit: build_commit };
}

/**
 * One run of a llama-batched-bench: tokens a second that so many streams generate together, after `prompt` tokens each.
 *
 * @param {string} program
 * @param {{ model: string, threads: number, streams: number, prompt: number, tokens: number }} test
 */
export async function llamaBatchedBench(program, { model, threads, streams, prompt, tokens }) {
  const room = streams * (prompt + tokens);
  const sizes = { "-npp": prompt, "-ntg": tokens, "-npl": streams, "-c": room, "-t": threads, "-tb": threads };
  const args = ["-m", model, "--output-format", "jsonl", ...Object.entries(sizes).flat().map(String)];
  const { stdout } = await execute(program, args, { timeout: TIMEOUT_MS, maxBuffer: 1 << 24 });
  const line = stdout.split("\n").find((text) => text.startsWith("{"));
  const { pp, tg, pl, speed_tg } = JSON.parse(line ?? "{}");
  if (String([pp, tg, pl]) !== String([prompt, tokens, streams]) || !(speed_tg > 0))
    throw new Error(`${program} said ${line}`);
  return speed_tg;
}

/** A model in a type of ik_llama.cpp's, made by the `llama-quantize` beside its llama-bench. */
export function ikModel(program, path, type) {
  return remade(path, type, (part) => {
    const quantize = join(dirname(program), `llama-quantize${exe}`);
    const keep = ["--allow-requantize", "--token-embedding-type", /Q4_K/.test(path) ? "q4_K" : "q6_K"];
    run(quantize, [...keep, path, part, type], { quiet: true });
  });
}
