// The one set-up: brings a fresh clone to the point where everything runs, and does nothing when it already is.
//
//   node scripts/setup.mjs        npm start and npm test call it for you
//
// RYZANSTEIN_NO_INSTALL=1 forbids it to install system packages or Rust: it then only says what is missing.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { checkNativeTypes, GENERATED, updateNativeTypes } from "./lib/native-types.mjs";
import { attempt, fail, run, say } from "./lib/run.mjs";
import { isFresh, markFresh, root, stampOf } from "./lib/stamp.mjs";
import { ensureRust, ensureSystemHwloc, ensureSystemPackages } from "./lib/system.mjs";

function step(name, stamp, outputs, work) {
  if (isFresh(name, stamp, outputs)) return;
  work();
  markFresh(name, stamp);
}

function ensureNode() {
  const major = Number.parseInt(process.versions.node, 10);
  if (major < 20) fail(`Node.js 20 or newer is needed; this is ${process.versions.node} (https://nodejs.org)`);
}

function ensureDependencies() {
  step("npm", stampOf(["package-lock.json"]), ["node_modules/.package-lock.json"], () => {
    say("installing npm packages (npm ci)");
    run("npm", ["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
  });
}

/** The file names of the built addons in the root folder. */
export function addons() {
  return readdirSync(root).filter((name) => /^ryzanstein\..*\.node$/.test(name));
}

/** hwloc as a static library, or the system's. */
function ensureHwloc() {
  if (attempt(process.execPath, ["scripts/build-hwloc.mjs"])) return;
  const line = "=".repeat(78);
  say(line);
  say("WARNING: hwloc could not be built as a static library, for the reason above. The addon will link the");
  say("system's hwloc: it runs on this machine, and elsewhere only where libhwloc.so.15 is installed too.");
  say(line);
  ensureSystemHwloc();
}

/** What the addon is built from: an edit of a test, a bench, an example or a README builds nothing. */
export function addonSources() {
  const crates = readdirSync(join(root, "crates")).sort();
  return [
    ...["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo/config.toml"],
    ...["scripts/build-native.mjs", "scripts/build-hwloc.mjs"],
    ...crates.flatMap((crate) => ["Cargo.toml", "build.rs", "src"].map((part) => join("crates", crate, part))),
  ];
}

function ensureNative() {
  const stamp = stampOf(addonSources(), [process.platform, process.arch]);
  const outputs = ["native.cjs", GENERATED, addons()[0] ?? "ryzanstein.<host>.node"];
  step("native", stamp, outputs, () => {
    ensureSystemPackages();
    ensureHwloc();
    ensureRust();
    say("building the native addon (release; the first time takes some minutes)");
    run(process.execPath, ["scripts/build-native.mjs"]);
  });
}

function ensureTypeScript() {
  const sources = ["index.ts", "src", "native.d.cts", "tsconfig.json", "package.json", "scripts/build-ts.mjs"];
  const stamp = stampOf(sources);
  step("typescript", stamp, ["dist/index.js", "dist/cjs/index.js", "dist/cjs/native.d.cts"], () => {
    say("compiling TypeScript");
    run(process.execPath, ["scripts/build-ts.mjs"]);
  });
}

function ensurePackages() {
  ensureNode();
  if (!existsSync(join(root, "package-lock.json"))) fail("package-lock.json is missing: is this a whole clone?");
  ensureDependencies();
}

/** Brings all but the addon up to date. */
export function setupTypeScript() {
  ensurePackages();
  ensureTypeScript();
}

/** Brings everything up to date. With `checkTypes`, fails where native.d.cts would have to change. */
export function setup({ checkTypes = false } = {}) {
  ensurePackages();
  ensureNative();
  if (checkTypes) checkNativeTypes();
  else updateNativeTypes();
  ensureTypeScript();
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) setup();
