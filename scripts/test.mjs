// npm test: sets up, then runs every test: the Rust workspace, the TypeScript types, and the package as users see it.
//
//   npm test -- stream errors   only the tests of TypeScript in files with such a name (the arguments are vitest's)

import { run } from "./lib/run.mjs";
import { setup } from "./setup.mjs";

setup({ checkTypes: true });
const args = process.argv.slice(2);
if (args.length === 0) {
  run("cargo", ["test", "--workspace", "--quiet"]);
  run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "__test__/tsconfig.json"]);
}
run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", ...args]);
