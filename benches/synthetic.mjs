// Synthetic models for benches: weights that mean nothing, in the shape of a real model.

import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Makes one at `path`, with the generator's options, and gives the path. */
export function syntheticModel(path, ...options) {
  const example = ["run", "--release", "--quiet", "-p", "ryz-format", "--example", "synthetic", "--"];
  const { status, stderr } = spawnSync("cargo", [...example, path, ...options], { cwd: root, encoding: "utf8" });
  if (status !== 0) throw new Error(`cannot make the synthetic model: ${stderr}`);
  return path;
}
