/** The scripts that build: what they notice, and what they leave alone. */

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
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
