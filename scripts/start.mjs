// npm start: streams a story, and says what to try next.

import { spawnSync } from "node:child_process";
import { say } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";

const PROMPT = "Once upon a time";

const args = ["bin/ryzanstein.js", "generate", "-p", PROMPT, "-n", "200", "--temperature", "0.7", "--seed", "1"];
process.stdout.write(PROMPT);
const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] });
if (status === 0) {
  say(
    "\nThat was models/tales-6m, a model of 6 million ternary weights that comes with the package. For a bigger one,",
  );
  say("download a GGUF file of BitNet b1.58 2B4T, Ternary Bonsai, TriLM or Falcon3-1.58 and try:");
  say('  node bin/ryzanstein.js generate -m model.gguf -p "Once upon a time"');
  say("  node bin/ryzanstein.js chat -m model.gguf");
}
process.exitCode = status ?? 1;
