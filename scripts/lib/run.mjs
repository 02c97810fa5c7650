// Runs other programs with their output on stderr, so that stdout stays free for data.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import { root } from "./stamp.mjs";

const cargoBin = join(process.env.CARGO_HOME ?? join(homedir(), ".cargo"), "bin");

/** The environment for child processes: a Rust that rustup installed is found even in a shell that predates it. */
export function childEnv(extra = {}) {
  const env = { ...process.env, ...extra };
  if (existsSync(cargoBin)) env.PATH = `${env.PATH ?? ""}${delimiter}${cargoBin}`;
  return env;
}

/** Whether `command args…` exists and exits with 0. */
export function works(command, args) {
  return spawnSync(command, args, { stdio: "ignore", env: childEnv(), cwd: root }).status === 0;
}

/** Writes one line about what is being done. */
export function say(line) {
  process.stderr.write(`${line}\n`);
}

/** Says what went wrong and what to do, and ends the process with exit code 1. */
export function fail(...lines) {
  for (const line of lines) say(line);
  process.exit(1);
}

/** Runs a program from the repository's root and tells whether it exited with 0. */
export function attempt(command, args, { quiet = false } = {}) {
  const output = quiet ? "ignore" : 2;
  const result = spawnSync(command, args, { cwd: root, env: childEnv(), stdio: ["ignore", output, output] });
  if (result.signal === "SIGINT") process.exit(130);
  return result.status === 0;
}

/**
 * Runs a program, from the repository's root unless told otherwise; ends this process if that one fails. What a `quiet` one
 * writes is shown only then.
 */
export function run(command, args, { cwd = root, env = {}, hint, quiet = false } = {}) {
  const shell = process.platform === "win32";
  const output = quiet ? "pipe" : 2;
  // A compiler's warnings are more than the usual mebibyte.
  const options = { cwd, env: childEnv(env), stdio: ["ignore", output, output], shell, maxBuffer: 1 << 28 };
  const result = spawnSync(command, args, options);
  if (result.signal === "SIGINT") process.exit(130);
  if (result.status === 0) return;
  if (quiet) say(`${result.stdout ?? ""}${result.stderr ?? ""}`);
  const why = result.error ? result.error.message : `exit status ${result.status ?? result.signal}`;
  fail(`\n${command} ${args.join(" ")} failed: ${why}`, ...(hint ? [hint] : []));
}
