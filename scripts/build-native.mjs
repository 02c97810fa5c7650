// Builds the Rust addon in release mode: ryzanstein.<platform>.node, its loader native.cjs and its types native.d.cts.

import { run } from "./lib/run.mjs";

run(process.execPath, [
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
  "native.d.cts",
  "--no-const-enum",
  ...process.argv.slice(2),
]);
