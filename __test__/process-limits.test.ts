/** Limits of the process: too little address space, small stacks, no more threads. */

import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { type Ended, root, runProgram } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "ryz-limits-"));
afterAll(() => rmSync(folder, { recursive: true }));

// For another user, too.
chmodSync(folder, 0o755);
const program = join(folder, "program.mjs");
writeFileSync(
  program,
  `import { createRequire } from "node:module";
   const { BitNetEngine, defaultModelPath, train } = createRequire(${JSON.stringify(join(root, "x.js"))})("ryzanstein");
   const say = (error) => console.log(error.code ?? "UNTYPED", error.message);
   if (process.argv[2] === "train") {
     const corpus = ${JSON.stringify(join(root, "__test__", "fixtures", "corpus", "tales-excerpt.txt"))};
     const model = { hidden_size: 64, intermediate_size: 64, num_hidden_layers: 1, vocab_size: 300 };
     const config = { steps: 1, eval_windows: 1, model: { ...model, max_position_embeddings: 32 } };
     const output = ${JSON.stringify(join(folder, "model.gguf"))};
     await train({ corpus, output, overwrite: true, config }).report().then(() => console.log("done"), say);
   } else {
     try {
       const engine = await BitNetEngine.load(defaultModelPath());
       await engine.complete("Once upon a time", { maxTokens: 4, format: { type: "json" } });
       await engine.dispose();
       console.log("done");
     } catch (error) {
       say(error);
     }
   }`,
);

function limited(limit: string, args: readonly string[] = [program]): Promise<Ended> {
  const command = [process.execPath, ...args].map((part) => `'${part}'`).join(" ");
  return runProgram("bash", ["-c", `${limit}; exec ${command}`]);
}

describe.runIf(process.platform === "linux")("a process", () => {
  test("with too little address space is told so, and is not aborted", { timeout: 120_000 }, async () => {
    // How much Node.js itself takes differs: from where it loads the package upwards.
    const ask = ["--eval", `require(${JSON.stringify(join(root, "dist", "cjs", "index.js"))}).cpuInfo()`];
    let said = "";
    let told = 0;
    for (let megabytes = 700; megabytes <= 4000 && said !== "done"; megabytes += 100) {
      const limit = `ulimit -c 0; ulimit -v ${megabytes * 1024}`;
      if ((await limited(limit, ask)).code !== 0) continue;
      const { code, stdout, stderr } = await limited(limit);
      // Too little for the heap of JavaScript itself is no matter of the addon's.
      if (code !== 0 && /Fatal process OOM|JavaScript heap|bad_alloc/.test(stderr)) continue;
      expect(code, `${megabytes} MB: ${stderr}`).toBe(0);
      said = stdout.trim();
      if (said === "done") break;
      expect(said).toMatch(/^OUT_OF_MEMORY /);
      told += 1;
    }
    expect(said).toBe("done");
    expect(told).toBeGreaterThan(0);
  });

  test.each(["load", "train"])("with small stacks works: %s", { timeout: 60_000 }, async (what) => {
    const { code, stdout, stderr } = await limited("export RUST_MIN_STACK=16384", [program, what]);
    expect({ code, said: stdout.trim() }, stderr).toEqual({ code: 0, said: "done" });
  });

  test("that may have no more threads is told so", { timeout: 60_000 }, async ({ skip }) => {
    const isRoot = process.getuid?.() === 0;
    if (!isRoot) {
      process.stderr.write("SKIPPED: the limit of threads counts for a user, and only root can take one of its own\n");
      skip("needs root");
    }
    // A user who runs nothing else; ten threads are what Node.js itself takes.
    const command = `ulimit -u 11; cd /; HOME=/tmp exec '${process.execPath}' '${program}'`;
    const args = ["--reuid=61234", "--regid=61234", "--clear-groups", "bash", "-c", command];
    const readable = await runProgram("setpriv", [...args.slice(0, 3), "test", "-r", join(root, "package.json")]);
    if (readable.code !== 0) {
      process.stderr.write("SKIPPED: another user cannot read this clone\n");
      skip("the clone is private");
    }
    const { code, stdout, stderr } = await runProgram("setpriv", args);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/^(OUT_OF_MEMORY|done)/);
  });
});
