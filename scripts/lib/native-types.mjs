// native.d.cts: the addon's types. The addon's build generates them from its Rust, in .cache; a copy is committed, so that
// TypeScript compiles without that build.

import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fail, say } from "./run.mjs";
import { root } from "./stamp.mjs";

/** Where the build writes them. */
export const GENERATED = ".cache/native.d.cts";
const COMMITTED = "native.d.cts";

function areSame() {
  // A checkout on Windows may have other line ends.
  const [generated, committed] = [GENERATED, COMMITTED].map((path) =>
    readFileSync(join(root, path), "utf8").replaceAll("\r\n", "\n"),
  );
  return generated === committed;
}

/** Brings the committed types up to date. */
export function updateNativeTypes() {
  if (areSame()) return;
  copyFileSync(join(root, GENERATED), join(root, COMMITTED));
  say(`${COMMITTED} changed with the addon: commit it too`);
}

/** Ends this process where the committed types are not those of the addon. */
export function checkNativeTypes() {
  if (!areSame()) fail(`${COMMITTED} is stale: the addon has other types`, "npm run build updates it; commit it");
}
