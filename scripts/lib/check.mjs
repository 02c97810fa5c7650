// What can be checked without a build of Rust.

import { run } from "./run.mjs";

const HINT = "npm run format mends what can be mended by itself";

/** Formats, licences, lints of TypeScript and its types; ends this process at the first that fails. */
export function check() {
  run("cargo", ["fmt", "--all", "--check"], { hint: HINT });
  run(process.execPath, ["scripts/notices.mjs", "--check"]);
  run(process.execPath, ["node_modules/@biomejs/biome/bin/biome", "check", "--error-on-warnings", "."], { hint: HINT });
  run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "__test__/tsconfig.json"]);
}
