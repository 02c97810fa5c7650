// Builds the Rust addon in release mode: ryzanstein.<platform>.node, its loader native.cjs and its types (in .cache).

import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { GENERATED } from "./lib/native-types.mjs";
import { run } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";

// Where the shell has a PKG_CONFIG_PATH of its own, cargo's configuration does not speak: ours comes first all the same.
const hwloc = join(root, ".cache", "hwloc", "lib", "pkgconfig");
const theirs = process.env.PKG_CONFIG_PATH;
const env = theirs && existsSync(hwloc) ? { PKG_CONFIG_PATH: `${hwloc}${delimiter}${theirs}` } : {};

const args = [
  "node_modules/@napi-rs/cli/dist/cli.js",
  "build",
  "--platform",
  "--release",
  "--manifest-path",
  "crates/ryz-node/Cargo.toml",
  "--output-dir",
  ".",
  "--js",
  "native.cjs",
  "--dts",
  GENERATED,
  "--no-const-enum",
  ...process.argv.slice(2),
];
run(process.execPath, args, { env });
