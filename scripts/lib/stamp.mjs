// Content stamps: a step is redone only when the bytes it reads have changed.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root folder. */
export const root = join(dirname(fileURLToPath(import.meta.url)), "..", "..");

/** Products, and the modules of unit tests in Rust. */
const SKIPPED = new Set(["node_modules", "target", "dist", ".git", ".cache", "tests.rs"]);

function* filesUnder(path) {
  if (!existsSync(path)) return;
  if (!statSync(path).isDirectory()) {
    yield path;
    return;
  }
  for (const entry of readdirSync(path, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (SKIPPED.has(entry.name)) continue;
    if (entry.isDirectory()) yield* filesUnder(join(path, entry.name));
    else if (entry.isFile()) yield join(path, entry.name);
  }
}

/** A hash of `extra`, and of the names and contents of the files under `paths` (of sources: see {@link SKIPPED}). */
export function stampOf(paths, extra = []) {
  const hash = createHash("sha256");
  for (const item of extra) hash.update(`${item}\0`);
  for (const path of paths) {
    for (const file of filesUnder(join(root, path))) {
      hash.update(`${file.slice(root.length)}\0`);
      hash.update(readFileSync(file));
    }
  }
  return hash.digest("hex");
}

const stampFile = (step) => join(root, ".cache", "stamps", step);

/** Whether `step` was last finished with this stamp and its outputs are still there. */
export function isFresh(step, stamp, outputs = []) {
  if (!outputs.every((output) => existsSync(join(root, output)))) return false;
  try {
    return readFileSync(stampFile(step), "utf8") === stamp;
  } catch {
    return false;
  }
}

/** Records that `step` finished with this stamp. */
export function markFresh(step, stamp) {
  mkdirSync(dirname(stampFile(step)), { recursive: true });
  writeFileSync(stampFile(step), stamp);
}
