/** What the tests share: fixtures, goldens, and the command line as a program. */

import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { BitNetEngine, type EngineConfig } from "ryzanstein";

/** The repository's root folder. */
export const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** The path of a reference model. */
export function fixture(name: string): string {
  return join(root, "__test__", "fixtures", "reference", name);
}

/** Loads an engine for some work, and disposes of it. */
export async function withEngine<T>(
  path: string,
  config: EngineConfig,
  work: (engine: BitNetEngine) => Promise<T>,
): Promise<T> {
  const engine = await BitNetEngine.load(path, config);
  try {
    return await work(engine);
  } finally {
    await engine.dispose();
  }
}

/** What the tests need of a golden file. */
export interface Golden {
  readonly prompts: readonly {
    readonly text: string | null;
    readonly ids: number[];
    readonly float: { readonly last_logits: number[] };
  }[];
  readonly nll: { readonly ids: number[]; readonly float: number };
  readonly greedy: {
    readonly prompt_ids: number[];
    readonly float: { readonly ids: number[]; readonly margins: number[] };
    readonly a8: { readonly ids: number[]; readonly margins: number[] };
    readonly a8_reproducible: boolean;
  };
}

/** The independently computed results of a reference model. */
export function golden(name: string): Golden {
  return JSON.parse(readFileSync(fixture(join("golden", `${name}.json`)), "utf8")) as Golden;
}

/** Greedy ids up to the first step that is too close to call. */
export function decided(ids: readonly number[], margins: readonly number[], margin: number): number[] {
  const doubtful = margins.findIndex((value) => value < margin);
  return ids.slice(0, doubtful < 0 ? ids.length : doubtful);
}

/** How a program ended, and what it said. */
export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; `meanwhile` may talk to it. */
export function runProgram(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv; input?: string; meanwhile?: (child: ChildProcess) => void } = {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, NO_COLOR: "1", ...options.env };
    const child = spawn(command, args, { cwd: options.cwd ?? root, env });
    const out = { stdout: "", stderr: "" };
    child.stdout.setEncoding("utf8").on("data", (text: string) => (out.stdout += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => (out.stderr += text));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, ...out }));
    if (options.meanwhile) options.meanwhile(child);
    else {
      // A program that ends before it has read is no failure of ours.
      child.stdin.on("error", () => {});
      child.stdin.end(options.input ?? "");
    }
  });
}

/** Runs the command line. */
export function cli(args: readonly string[], options: Parameters<typeof runProgram>[2] = {}): Promise<Ended> {
  return runProgram(process.execPath, [join(root, "bin", "ryzanstein.js"), ...args], options);
}

/** Runs the command line with `--json` and returns the one object it must print. */
export async function cliJson(
  args: readonly string[],
): Promise<{ code: number | null; value: Record<string, unknown> }> {
  const { code, stdout } = await cli([...args, "--json"]);
  if (!stdout.endsWith("\n") || stdout.trimEnd().includes("\n")) throw new Error(`not one line of JSON: ${stdout}`);
  return { code, value: JSON.parse(stdout) as Record<string, unknown> };
}
