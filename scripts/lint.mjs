// npm run lint: formatters and linters of both languages; changes nothing (npm run format does).

import { run } from "./lib/run.mjs";
import { setup } from "./setup.mjs";

const HINT = "npm run format mends what can be mended by itself";

setup({ checkTypes: true });
run("cargo", ["fmt", "--all", "--check"], { hint: HINT });
run("cargo", ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
run(process.execPath, ["scripts/notices.mjs", "--check"]);
run(process.execPath, ["node_modules/@biomejs/biome/bin/biome", "check", "--error-on-warnings", "."], { hint: HINT });
run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "__test__/tsconfig.json"]);
