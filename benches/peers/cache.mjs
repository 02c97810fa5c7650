// The cache folder, .cache/bench, and the synthetic models in it: made once, the same on every machine.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { childEnv, fail, run, say } from "../../scripts/lib/run.mjs";
import { root, stampOf } from "../../scripts/lib/stamp.mjs";

export const cache = join(root, ".cache", "bench");
export const results = join(cache, "results.json");

const example = (name) =>
  join(root, "target", "release", "examples", name + (process.platform === "win32" ? ".exe" : ""));
const built = new Set();

/** Builds an example of a crate in release mode, and gives the path of the program. */
export function rustExample(crate, name) {
  if (!built.has(name)) {
    say(`building ${name} of ${crate}`);
    run("cargo", ["build", "--release", "--quiet", "-p", crate, "--example", name]);
    built.add(name);
  }
  return example(name);
}

let folder;

/** Where the models lie that this generator makes; those of an older one are removed. */
function models() {
  if (folder === undefined) {
    const all = join(cache, "models");
    const stamp = stampOf(["crates/ryz-format/examples/synthetic"]).slice(0, 8);
    folder = join(all, stamp);
    mkdirSync(folder, { recursive: true });
    for (const name of readdirSync(all)) {
      if (name !== stamp) rmSync(join(all, name), { recursive: true, force: true });
    }
  }
  return folder;
}

/** Makes `path` by `work(part)`, which writes to `part`; unless it is there already. */
function once(path, work) {
  if (existsSync(path)) return path;
  say(`making ${path.slice(root.length + 1)}`);
  const part = `${path}.part`;
  rmSync(part, { force: true });
  work(part);
  renameSync(part, path);
  return path;
}

/** Runs a program and ends this one, with what it wrote, when it fails. */
function must(command, args) {
  const { status, stderr, error } = spawnSync(command, args, { cwd: root, env: childEnv(), encoding: "utf8" });
  if (status !== 0) fail(`${command} ${args.join(" ")} failed: ${error?.message ?? stderr}`);
}

/**
 * A synthetic model. Those that differ in `architecture` alone have the same weights: `bitnet` is what llama.cpp reads of
 * `bitnet-b1.58`.
 *
 * @param {{ shape: string, type?: string, head: string, architecture?: string, active?: number }} model
 */
export function synthetic({ shape, type = "TQ2_0", head, architecture, active }) {
  const parts = [shape, type, head, architecture, active === undefined ? undefined : `active-${active}`];
  const name = parts.filter((part) => part !== undefined).join("-");
  const options = ["--shape", shape, "--type", type, "--head", head];
  if (architecture !== undefined) options.push("--architecture", architecture);
  if (active !== undefined) options.push("--active", String(active));
  return once(join(models(), `${name}.gguf`), (part) =>
    must(rustExample("ryz-format", "synthetic"), [part, ...options]),
  );
}

/** The prepacked form of a model, made anew: it is the engine's own. */
export function prepacked(path) {
  const convert = (part) =>
    must(process.execPath, ["bin/ryzanstein.js", "convert", "-m", path, "-o", part, "--prepack", "--force"]);
  discard(path.replace(/\.gguf$/, "-prepacked.gguf"));
  return remade(path, "prepacked", convert);
}

/** Another form of a model, made by `work(part)`. */
export function remade(path, type, work) {
  return once(path.replace(/\.gguf$/, `-${type}.gguf`), work);
}

/** Removes models that are too big to keep. */
export function discard(...paths) {
  for (const path of paths) rmSync(path, { force: true });
}
