// npm run lint: npm run check, and clippy, which builds the workspace; changes nothing (npm run format does).

import { check } from "./lib/check.mjs";
import { run } from "./lib/run.mjs";
import { setup } from "./setup.mjs";

setup({ checkTypes: true });
check();
run("cargo", ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
