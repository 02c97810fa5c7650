/** Files that are written: their modes, their names on the way, links, and folders that may not be written. */

import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BitNetEngine, calibrate, convert, train } from "ryzanstein";
import { afterAll, describe, expect, test } from "vitest";
import { fixture, root, runProgram } from "./support.js";

const MODEL = fixture("b158-v1-tq2_0.gguf");
const CORPUS = join(root, "__test__", "fixtures", "corpus", "tales-excerpt.txt");
const TEXT = "the fox saw a old tree and sun ".repeat(20);
const folder = mkdtempSync(join(tmpdir(), "ryz-written-"));
afterAll(() => rmSync(folder, { recursive: true }));

const WRITERS: Record<string, (path: string) => Promise<unknown>> = {
  convert: (path) => convert(MODEL, path, { overwrite: true, type: "TQ1_0" }),
  calibrate: (path) => calibrate(MODEL, TEXT, { output: path, window: 32 }),
  savePrefix: async (path) => {
    const engine = await BitNetEngine.load(MODEL, { threads: 1 });
    await engine.savePrefix(TEXT, path);
    await engine.dispose();
  },
  train: (path) => {
    const model = { hidden_size: 64, intermediate_size: 64, num_hidden_layers: 1, vocab_size: 300 };
    const config = { steps: 1, eval_windows: 1, model: { ...model, max_position_embeddings: 32 } };
    return train({ corpus: CORPUS, output: path, overwrite: true, config }).report();
  },
};

describe.each(Object.entries(WRITERS))("%s", (name, write) => {
  const place = join(folder, name);
  mkdirSync(place);
  const path = join(place, "out");

  test("writes files with the mode that the umask leaves", { timeout: 60_000 }, async () => {
    const plain = join(folder, "plain");
    writeFileSync(plain, "by Node.js");
    await write(path);
    const names = readdirSync(place);
    expect(names).toContain("out");
    for (const file of names) expect([file, statSync(join(place, file)).mode]).toEqual([file, statSync(plain).mode]);
  });

  test("replaces a symbolic link and leaves what it led to", { timeout: 60_000 }, async () => {
    const victim = join(folder, `${name}-victim`);
    writeFileSync(victim, "mine");
    rmSync(path, { force: true });
    symlinkSync(victim, path);
    await write(path);
    expect(readFileSync(victim, "utf8")).toBe("mine");
    expect(lstatSync(path).isFile()).toBe(true);
    expect(readdirSync(place).filter((file) => file.includes(".part") || file.startsWith(".tmp"))).toEqual([]);
  });
});

test("a full disk is a typed error, and leaves nothing", async ({ skip }) => {
  const disk = join(folder, "disk");
  mkdirSync(disk);
  const mounted = await runProgram("mount", ["-t", "tmpfs", "-o", "size=16k", "tmpfs", disk]).catch(() => undefined);
  if (mounted?.code !== 0) {
    process.stderr.write("SKIPPED: a small disk could not be mounted here (that takes root)\n");
    skip("no small disk");
  }
  try {
    for (const write of [WRITERS["convert"], WRITERS["savePrefix"]]) {
      const failed = write?.(join(disk, "out"));
      await expect(failed).rejects.toMatchObject({ code: "IO", message: expect.stringMatching(/space/i) });
      expect(readdirSync(disk)).toEqual([]);
    }
  } finally {
    await runProgram("umount", [disk]);
  }
});

describe("a corpus that is no regular file", () => {
  test.runIf(process.platform !== "win32")("is refused by name, as model files are", async () => {
    const pipe = join(folder, "pipe");
    expect((await runProgram("mkfifo", [pipe])).code).toBe(0);
    for (const [corpus, what] of [
      [pipe, "a pipe"],
      ["/dev/zero", "a device"],
      [folder, "a directory"],
    ] as const) {
      const refused = train({ corpus, output: join(folder, "x.gguf") }).report();
      const message = expect.stringContaining(`${corpus}: expected a regular file, got ${what}`);
      await expect(refused).rejects.toMatchObject({ code: "IO", message });
    }
  });

  test.runIf(process.platform !== "win32")(
    "in place of a tuning file is passed over",
    { timeout: 60_000 },
    async () => {
      const cache = join(folder, "cache");
      const load = 'const { BitNetEngine, defaultModelPath } = await import("ryzanstein");';
      const program = `${load} const e = await BitNetEngine.load(defaultModelPath()); console.log(e.modelInfo.tuning.source); await e.dispose();`;
      const run = () =>
        runProgram(process.execPath, ["--input-type=module", "--eval", program], { env: { RYZANSTEIN_CACHE: cache } });
      const first = await run();
      expect(first.code, first.stderr).toBe(0);
      const tuning = join(cache, "tuning");
      if (!existsSync(tuning)) return; // Nothing to measure on this machine.
      for (const name of readdirSync(tuning)) {
        rmSync(join(tuning, name));
        expect((await runProgram("mkfifo", [join(tuning, name)])).code).toBe(0);
      }
      expect((await run()).stdout).toBe(first.stdout);
    },
  );
});

describe("under Node.js's permissions", () => {
  const node = (flags: readonly string[], program: string) =>
    runProgram(process.execPath, [...flags, "--input-type=module", "--eval", program], {});
  const model = process.allowedNodeEnvironmentFlags.has("--permission") ? "--permission" : "--experimental-permission";
  const base = [model, "--allow-addons", "--no-warnings", `--allow-fs-read=${root}/*`];
  const report = '.then(() => "done", (e) => [e.code, e.message].join(" "))';

  test("files that are not allowed are refused before the addon touches them", { timeout: 60_000 }, async () => {
    const target = join(folder, "forbidden.gguf");
    const ended = await node(
      base,
      `import { BitNetEngine, convert } from "ryzanstein";
       console.log(await convert(${JSON.stringify(MODEL)}, ${JSON.stringify(target)})${report});
       console.log(await BitNetEngine.load("/etc/hostname")${report});`,
    );
    expect(ended.code, ended.stderr).toBe(0);
    const [wrote, read] = ended.stdout.split("\n");
    expect(wrote).toMatch(/^IO .*without the permission to write it: add --allow-fs-write=/);
    expect(read).toMatch(/^IO .*without the permission to read it: add --allow-fs-read=/);
    expect(existsSync(target)).toBe(false);
  });

  test("what is allowed works", { timeout: 60_000 }, async () => {
    const target = join(folder, "allowed.gguf");
    const ended = await node(
      [...base, `--allow-fs-write=${folder}/*`],
      `import { convert } from "ryzanstein";
       console.log(await convert(${JSON.stringify(MODEL)}, ${JSON.stringify(target)})${report});`,
    );
    expect(ended.stdout, ended.stderr).toBe("done\n");
    expect(existsSync(target)).toBe(true);
  });
});
