// node-llama-cpp, installed into the cache folder with its CPU binaries alone.

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { run, say } from "../../scripts/lib/run.mjs";
import { cache } from "./cache.mjs";

export const RELEASE = "3.22.1";

const BINARIES = {
  "linux-x64": "linux-x64",
  "linux-arm64": "linux-arm64",
  "win32-x64": "win-x64",
  "darwin-arm64": "mac-arm64-metal",
  "darwin-x64": "mac-x64",
};

/** The path of its main module. */
export function installNodeLlamaCpp() {
  const folder = join(cache, `node-llama-cpp-${RELEASE}`);
  const entry = join(folder, "node_modules", "node-llama-cpp", "dist", "index.js");
  if (existsSync(entry)) return entry;
  say(`installing node-llama-cpp ${RELEASE}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), '{ "private": true }\n');
  const binaries = BINARIES[`${process.platform}-${process.arch}`];
  const packages = [`node-llama-cpp@${RELEASE}`];
  if (binaries !== undefined) packages.push(`@node-llama-cpp/${binaries}@${RELEASE}`);
  const quiet = ["--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  run("npm", ["install", "--prefix", folder, ...quiet, ...packages], { quiet: true });
  return entry;
}
