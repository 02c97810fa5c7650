// npm run asan: the tests of the crates that hand out and share memory, under AddressSanitizer (Linux, x86-64 or aarch64).
//
// The sanitizer is a nightly option of the compiler; RUSTC_BOOTSTRAP lets the pinned stable one take it.

import { run } from "./lib/run.mjs";
import { setup } from "./setup.mjs";

const CRATES = ["ryz-tmac", "ryz-numa", "ryz-kvcache", "ryz-kernels"];
const TARGET = { x64: "x86_64-unknown-linux-gnu", arm64: "aarch64-unknown-linux-gnu" }[process.arch];

if (process.platform !== "linux" || TARGET === undefined) {
  throw new Error(`AddressSanitizer is not run on ${process.platform}, ${process.arch}`);
}
setup();
process.env.RUSTC_BOOTSTRAP = "1";
process.env.RUSTFLAGS = "-Zsanitizer=address";
const tests = ["test", "--target", TARGET, "--target-dir", "target/asan", "--lib", "--tests"];
run("cargo", [...tests, ...CRATES.flatMap((crate) => ["-p", crate])]);
