// npm test: sets up, then runs every test: the Rust workspace, the TypeScript types, and the package as users see it.

import { run } from "./lib/run.mjs";
import { setup } from "./setup.mjs";

setup({ checkTypes: true });
run("cargo", ["test", "--workspace", "--quiet"]);
run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "__test__/tsconfig.json"]);
run(process.execPath, ["node_modules/vitest/vitest.mjs", "run"]);
