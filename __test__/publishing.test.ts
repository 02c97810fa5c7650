/** What stands between a clone and a package that works: old versions of Node.js, broken addons, licences, packing. */

import {
  copyFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { runInNewContext } from "node:vm";
import { afterAll, describe, expect, test } from "vitest";
import { root, runProgram } from "./support.js";

const folder = mkdtempSync(join(tmpdir(), "ryz-publishing-"));
afterAll(() => rmSync(folder, { recursive: true }));
const text = (path: string): string => readFileSync(join(root, path), "utf8");
const npm = join(dirname(process.execPath), "npm");

describe("a Node.js that is too old", () => {
  /** What older parsers do not know; dynamic imports they do. */
  const NEWER = /^\s*(import|export)\s+[\w{*"]|\?\?|\?\.|\bawait\b|(^|\s)#\w|\|\|=|&&=|\bstatic\b/m;

  test.each(["14.21.3", "16.20.2", "18.20.8"])("%s is told in one line by the command", (version) => {
    const source = text("bin/ryzanstein.js").replace(/^#!.*\n/, "");
    expect(source).not.toMatch(NEWER);
    let said = "";
    const stderr = { write: (words: string) => (said += words) };
    const process: { versions: object; stderr: object; exitCode?: number } = { versions: { node: version }, stderr };
    runInNewContext(source, { process });
    expect(said).toMatch(/^.*ryzanstein needs Node.js 20 or newer.*\n$/);
    expect(said).toContain(version);
    expect(process.exitCode).toBe(1);
  });

  test("is told by the package before anything newer is loaded", () => {
    const source = text("dist/cjs/src/node-version.js");
    expect(source).not.toMatch(NEWER);
    const process = { versions: { node: "14.21.3" } };
    const message = "ryzanstein needs Node.js 20 or newer; this is Node.js 14.21.3";
    try {
      runInNewContext(source, { process, exports: {} });
      expect.unreachable();
    } catch (error) {
      // An error of the other context's own class, whose stack that context begins with a line of its own.
      const { code, message: said, stack } = error as NodeJS.ErrnoException;
      expect([code, said]).toEqual(["PLATFORM_UNSUPPORTED", message]);
      expect(stack?.split("\n").at(-1)).toBe(message);
    }
    const [first] = /require\(".*"\)/.exec(text("dist/cjs/index.js")) ?? [];
    expect(first).toBe('require("./src/node-version.js")');
    expect(JSON.parse(text("package.json")).engines.node).toBe(">=20");
  });
});

describe("an addon that does not load", () => {
  /** The package with something else for an addon. */
  function brokenPackage(name: string, addon: string): string {
    const place = join(folder, name, "node_modules", "ryzanstein");
    mkdirSync(place, { recursive: true });
    for (const file of ["package.json", "native.cjs"]) copyFileSync(join(root, file), join(place, file));
    cpSync(join(root, "dist"), join(place, "dist"), { recursive: true });
    for (const dependency of Object.keys(JSON.parse(text("package.json")).dependencies)) {
      cpSync(join(root, "node_modules", dependency), join(folder, name, "node_modules", dependency), {
        recursive: true,
      });
    }
    const file = readdirSync(root).find((entry) => /^ryzanstein\..*\.node$/.test(entry)) ?? "ryzanstein.none.node";
    writeFileSync(join(place, file), addon);
    return join(folder, name);
  }

  const program = 'require("ryzanstein").cpuInfo()';

  test("is reported with the system's first error, the machine and what is supported", async () => {
    const place = brokenPackage("broken", "not an addon");
    const args = ["--eval", `try { ${program} } catch (e) { console.log(e.code, e.message) }`];
    const { stdout } = await runProgram(process.execPath, args, { cwd: place });
    const { arch, platform } = process;
    expect(stdout).toMatch(
      new RegExp(`^PLATFORM_UNSUPPORTED the native addon did not load on ${platform}-${arch} \\(`),
    );
    if (platform === "linux") {
      expect(stdout).toMatch(/\((glibc [\d.]+|musl), Node.js /);
      expect(stdout).toMatch(/\): .*(invalid ELF header|file too short|Exec format error)/);
    }
    expect(stdout).toContain("Supported are Linux (glibc or musl), macOS and Windows, each on x64 and arm64");
    expect(stdout.trim().split("\n")).toHaveLength(1);
  });

  test("under --permission says that addons must be allowed", async () => {
    const model = process.allowedNodeEnvironmentFlags.has("--permission")
      ? "--permission"
      : "--experimental-permission";
    const code = `try { ${program} } catch (e) { console.log(e.code, e.message) }`;
    const args = [model, "--no-warnings", "--allow-fs-read=*", "--eval", code];
    const { stdout, stderr } = await runProgram(process.execPath, args, { cwd: root });
    expect(stdout, stderr).toMatch(/^PLATFORM_UNSUPPORTED .*--allow-addons/);
  });
});

describe("packing", () => {
  test("without the addon or dist fails and says how they are made", async () => {
    const clone = join(folder, "clone");
    mkdirSync(clone);
    cpSync(join(root, "scripts"), join(clone, "scripts"), { recursive: true });
    copyFileSync(join(root, "package.json"), join(clone, "package.json"));
    for (const command of ["pack", "publish"]) {
      const { code, stdout, stderr } = await runProgram(npm, [command, "--dry-run"], { cwd: clone });
      expect(code).not.toBe(0);
      const said = stdout + stderr;
      expect(said).toContain("this package cannot be packed: ryzanstein.<platform>.node, native.cjs,");
      expect(said).toContain("make them with: npm run build");
    }
  });

  test("a platform's package without its addon fails", async () => {
    const clone = join(folder, "platform");
    const place = join(clone, "npm", "linux-x64-gnu");
    cpSync(join(root, "scripts"), join(clone, "scripts"), { recursive: true });
    cpSync(join(root, "npm", "linux-x64-gnu"), place, { recursive: true });
    for (const file of ["LICENSE-hwloc", "THIRD-PARTY-LICENSES.txt"]) copyFileSync(join(root, file), join(clone, file));
    const lacking = await runProgram(npm, ["pack", "--dry-run"], { cwd: place });
    expect(lacking.code).not.toBe(0);
    expect(lacking.stdout + lacking.stderr).toContain("ryzanstein.linux-x64-gnu.node missing");
    writeFileSync(join(place, "ryzanstein.linux-x64-gnu.node"), "an addon");
    const packed = await runProgram(npm, ["pack", "--dry-run", "--json"], { cwd: place });
    expect(packed.code, packed.stderr).toBe(0);
    for (const file of ["LICENSE-hwloc", "THIRD-PARTY-LICENSES.txt"]) expect(packed.stdout).toContain(file);
  });
});

test("the licences of everything in the addon are in the package, and up to date", { timeout: 60_000 }, async () => {
  expect(JSON.parse(text("package.json")).files).toContain("THIRD-PARTY-LICENSES.txt");
  for (const platform of readdirSync(join(root, "npm"))) {
    const { files } = JSON.parse(text(join("npm", platform, "package.json"))) as { files: string[] };
    expect([platform, files.includes("THIRD-PARTY-LICENSES.txt")]).toEqual([platform, true]);
  }
  const { code, stderr } = await runProgram(process.execPath, ["scripts/notices.mjs", "--check"]);
  expect(code, stderr).toBe(0);
  const notices = text("THIRD-PARTY-LICENSES.txt");
  for (const name of ["llguidance", "minijinja", "tokenizers", "napi", "hwloc", "the Rust standard library"]) {
    expect(notices).toContain(name);
  }
});
