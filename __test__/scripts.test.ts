/** The scripts that build: what they notice, and what they leave alone. */

import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, sep } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { type Ended, root, runProgram } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "ryz-scripts-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** A repository with these files and our scripts, in which a module of them can be run. */
function repository(name: string, files: Record<string, string>) {
  const place = join(folder, name);
  cpSync(join(root, "scripts"), join(place, "scripts"), { recursive: true });
  const write = (path: string, content: string): void => {
    mkdirSync(dirname(join(place, path)), { recursive: true });
    writeFileSync(join(place, path), content);
  };
  for (const [path, content] of Object.entries(files)) write(path, content);
  const evaluate = (program: string): Promise<Ended> =>
    runProgram(process.execPath, ["--input-type=module", "--eval", program], { cwd: place });
  return { write, evaluate, read: (path: string) => readFileSync(join(place, path), "utf8") };
}

describe("native.d.cts", () => {
  const check = 'import { checkNativeTypes } from "./scripts/lib/native-types.mjs"; checkNativeTypes();';
  const update = 'import { updateNativeTypes } from "./scripts/lib/native-types.mjs"; updateNativeTypes();';

  test("that differs from what the addon's build generated fails, until it is updated", async () => {
    const files = { "native.d.cts": "old\n", ".cache/native.d.cts": "new\n" };
    const { evaluate, read } = repository("types", files);
    expect(await evaluate(check)).toEqual({
      code: 1,
      stdout: "",
      stderr: "native.d.cts is stale: the addon has other types\nnpm run build updates it; commit it\n",
    });
    expect(read("native.d.cts")).toBe("old\n");
    expect((await evaluate(update)).stderr).toContain("native.d.cts changed");
    expect(read("native.d.cts")).toBe("new\n");
    expect(await evaluate(check)).toEqual({ code: 0, stdout: "", stderr: "" });
    expect(await evaluate(update)).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("may have the line ends of another system", async () => {
    const { evaluate } = repository("lines", { "native.d.cts": "a\r\nb\r\n", ".cache/native.d.cts": "a\nb\n" });
    expect(await evaluate(check)).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("declares exactly what the addon's loader exports", () => {
    const names = (path: string, pattern: RegExp): unknown[] =>
      Array.from(readFileSync(join(root, path), "utf8").matchAll(pattern), ([, name]) => name).sort();
    const exported = names("native.cjs", /^module\.exports\.(\w+) = /gm);
    expect(exported).toContain("loadEngine");
    expect(names("native.d.cts", /^export declare \w+ (\w+)/gm)).toEqual(exported);
  });
});

describe("the addon's stamp", () => {
  const files = {
    "Cargo.lock": "locked",
    "crates/a/Cargo.toml": "[package]",
    "crates/a/build.rs": "fn main() {}",
    "crates/a/src/lib.rs": "#[cfg(test)]\nmod tests;",
    "crates/a/src/self_test.rs": "fn probe() {}",
    "crates/a/src/tests.rs": "fn works() {}",
  };
  const stamp = `
    import { stampOf } from "./scripts/lib/stamp.mjs";
    import { addonSources } from "./scripts/setup.mjs";
    console.log(stampOf(addonSources()));
  `;

  /** The stamp before and after an edit of a file. */
  async function edited(name: string, path: string): Promise<[string, string]> {
    const { write, evaluate } = repository(name, files);
    const before = await evaluate(stamp);
    expect(before.stdout, before.stderr).toMatch(/^[0-9a-f]{64}\n$/);
    write(path, "edited");
    const after = await evaluate(stamp);
    expect(after.stdout, after.stderr).toMatch(/^[0-9a-f]{64}\n$/);
    return [before.stdout, after.stdout];
  }

  test.each([
    "Cargo.toml",
    "Cargo.lock",
    "crates/a/Cargo.toml",
    "crates/a/build.rs",
    "crates/a/src/lib.rs",
    "crates/a/src/self_test.rs",
    "crates/a/src/new/module.rs",
    "crates/b/src/lib.rs",
    "scripts/build-native.mjs",
  ])("changes with %s", async (path) => {
    const [before, after] = await edited(`source ${path.replaceAll("/", " ")}`, path);
    expect(after).not.toBe(before);
  });

  test.each([
    "crates/a/src/tests.rs",
    "crates/a/src/deep/tests.rs",
    "crates/a/tests/works.rs",
    "crates/a/benches/fast.rs",
    "crates/a/examples/use.rs",
    "crates/a/README.md",
    "src/engine.ts",
    "__test__/engine.test.ts",
  ])("stays with %s", async (path) => {
    const [before, after] = await edited(`other ${path.replaceAll("/", " ")}`, path);
    expect(after).toBe(before);
  });

  test("misses no module: every tests.rs is compiled for tests alone", () => {
    const paths = readdirSync(join(root, "crates"), { recursive: true, encoding: "utf8" });
    const modules = paths.filter((path) => path.split(sep)[1] === "src" && basename(path) === "tests.rs");
    expect(modules.length).toBeGreaterThan(3);
    for (const module of modules) {
      const parent = dirname(join(root, "crates", module));
      const file = [`${parent}.rs`, join(parent, "mod.rs"), join(parent, "lib.rs")].find((path) => existsSync(path));
      expect(readFileSync(file ?? module, "utf8"), module).toMatch(/#\[cfg\(test\)\]\n(#\[.*\]\n)*mod tests;/);
    }
  });
});
