// npm start: streams a story, and says what to try next.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fail, say } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";

const PROMPT = "Once upon a time";
const REFERENCE = "__test__/fixtures/reference/b158-v1-tq2_0.gguf";

/** The trained model that comes with the package, once there is one. */
function defaultModel() {
  const folder = join(root, "models");
  if (!existsSync(folder)) return undefined;
  const name = readdirSync(folder, { recursive: true, encoding: "utf8" }).find((file) => file.endsWith(".gguf"));
  return name === undefined ? undefined : join("models", name);
}

const trained = defaultModel();
const model = trained ?? REFERENCE;
if (!existsSync(join(root, model))) fail(`${model} is missing: is this a whole clone?`);
if (trained === undefined) {
  say(`There is no trained model yet: this is ${REFERENCE}, a reference model for tests.`);
  say("Its weights are random, so the words below mean nothing; the engine that streams them is the real one.\n");
}

const args = ["bin/ryzanstein.js", "generate", "-m", model, "-p", PROMPT, "-n", "128", "--seed", "1"];
process.stdout.write(PROMPT);
const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
if (status === 0) {
  say("\nNow try a model of your own:");
  say('  node bin/ryzanstein.js generate -m model.gguf -p "Once upon a time"');
  say("  node bin/ryzanstein.js chat -m model.gguf");
}
process.exitCode = status ?? 1;
