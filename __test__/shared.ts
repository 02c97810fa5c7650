/** Test material that lies beside the repository, and is not part of it. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { root } from "./support.js";

/** The path of a file of `../shared`. */
export function shared(name: string): string {
  return join(root, "..", "shared", name);
}

/** Whether it is there; says loudly what is skipped where it is not. */
export function hasShared(name: string, what: string): boolean {
  if (existsSync(shared(name))) return true;
  process.stderr.write(`SKIPPED: ${what}: there is no ${shared(name)}\n`);
  return false;
}
