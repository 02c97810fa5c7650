import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import * as imported from "ryzanstein";
import { beforeAll, describe, expect, test } from "vitest";
import { type Ended, root, runProgram } from "./support.js";

test("import and require give the same things", () => {
  const required = createRequire(import.meta.url)("ryzanstein") as typeof imported;
  expect(Object.keys(imported).sort()).toEqual(Object.keys(required).sort());
  for (const [name, value] of Object.entries(imported)) expect(required[name as keyof typeof required]).toBe(value);
});

test("index.ts and the ES module export the same names", () => {
  const source = readFileSync(join(root, "index.ts"), "utf8");
  for (const name of Object.keys(imported)) expect(source).toContain(name);
});

/** What every Linux system with a C library has, by the name before `.so`. */
const C_LIBRARIES = /^(linux-vdso|linux-gate|ld-linux\S*|ld-musl-\S*|libc|libm|libgcc_s|libdl|libpthread|librt)(\.|$)/;

test.runIf(process.platform === "linux")("the addon links nothing but the C library's family", ({ skip }) => {
  const addon = readdirSync(root).find((name) => /^ryzanstein\..*\.node$/.test(name));
  const { status, stdout, stderr } = spawnSync("ldd", [join(root, addon ?? "no addon")], { encoding: "utf8" });
  expect(status, stderr).toBe(0);
  const linked = stdout.split("\n").flatMap((line) => line.trim().split(/\s/)[0] || []);
  const names = linked.map((path) => path.slice(path.lastIndexOf("/") + 1));
  expect(names.some((name) => name.startsWith("libc."))).toBe(true);
  const others = names.filter((name) => !C_LIBRARIES.test(name));
  // Only where hwloc could not be built from source does the addon link the system's.
  if (others.some((name) => name.startsWith("libhwloc.")) && !existsSync(join(root, ".cache/hwloc/lib/libhwloc.a"))) {
    process.stderr.write(`SKIPPED: built without a static hwloc, the addon links ${others.join(", ")}\n`);
    skip("the addon was built with the system's hwloc (see README.md)");
  }
  expect(others).toEqual([]);
});

/** The JavaScript programs in README.md. */
function readmePrograms(): string[] {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  return [...readme.matchAll(/```js\n(.*?)```/gs)].map((match) => match[1] ?? "");
}

/** The same program for CommonJS: `require`, and no top-level await. */
function asCommonJs(program: string): string {
  const body = program.replace(/^import (\{.*\}) from "ryzanstein";/m, 'const $1 = require("ryzanstein");');
  return `(async () => {\n${body}})();\n`;
}

describe("the packed tarball, installed in an empty folder without a compiler", () => {
  const folder = mkdtempSync(join(tmpdir(), "ryz-pack-"));
  const project = join(folder, "project");
  const npm = join(dirname(process.execPath), "npm");
  let files: string[];

  const node = (args: string[]): Promise<Ended> => runProgram(process.execPath, args, { cwd: project });

  beforeAll(async () => {
    const packed = await runProgram(npm, ["pack", "--json", "--ignore-scripts", "--pack-destination", folder]);
    expect(packed.code, packed.stderr).toBe(0);
    const output = JSON.parse(packed.stdout) as unknown;
    const [entry] = (Array.isArray(output) ? output : Object.values(output as object)) as {
      files: { path: string }[];
    }[];
    files = entry?.files.map(({ path }) => path) ?? [];
    const tarball = readdirSync(folder).find((name) => name.endsWith(".tgz")) ?? "";

    mkdirSync(project);
    writeFileSync(join(project, "package.json"), '{ "private": true }\n');
    // A path with node and a shell on it, and nothing that could compile.
    const bin = join(folder, "bin");
    mkdirSync(bin);
    symlinkSync(process.execPath, join(bin, "node"));
    symlinkSync("/bin/sh", join(bin, "sh"));
    const quiet = ["--no-audit", "--no-fund", "--prefer-offline"];
    const installed = await runProgram(npm, ["install", ...quiet, join(folder, tarball)], {
      cwd: project,
      env: { PATH: bin },
    });
    expect(installed.code, installed.stderr).toBe(0);
    // It says something; one of random weights ends at once now and then.
    copyFileSync(join(root, "models", "tales-6m", "model.gguf"), join(project, "model.gguf"));
  }, 120_000);

  test("holds what it needs and no sources", () => {
    const has = (pattern: RegExp): boolean => files.some((path) => pattern.test(path));
    const types = [/^dist\/index\.d\.ts$/, /^dist\/cjs\/native\.d\.cts$/];
    for (const pattern of [/\.node$/, /^native\.cjs$/, /^dist\/index\.js$/, ...types, /^LICENSE-MIT$/]) {
      expect(has(pattern), String(pattern)).toBe(true);
    }
    for (const pattern of [/^crates/, /^src/, /^__test__/, /^scripts/, /^node_modules/]) {
      expect(has(pattern), String(pattern)).toBe(false);
    }
  });

  test("has no install scripts and only the dependencies it needs", () => {
    const manifest = JSON.parse(readFileSync(join(project, "node_modules/ryzanstein/package.json"), "utf8"));
    for (const script of ["preinstall", "install", "postinstall"]) expect(manifest.scripts).not.toHaveProperty(script);
    expect(Object.keys(manifest.dependencies)).toEqual(["@cfworker/json-schema", "commander"]);
  });

  test.each(readmePrograms().map((program, i) => [i + 1, program] as const))(
    "runs README program %i as ES module and as CommonJS",
    async (i, program) => {
      writeFileSync(join(project, `readme-${i}.mjs`), program);
      writeFileSync(join(project, `readme-${i}.cjs`), asCommonJs(program));
      for (const file of [`readme-${i}.mjs`, `readme-${i}.cjs`]) {
        const ended = await node([file]);
        expect(ended.code, ended.stderr).toBe(0);
        expect(ended.stdout.length).toBeGreaterThan(0);
      }
    },
  );

  test("has a command line", async () => {
    const ended = await node([join("node_modules", ".bin", "ryzanstein"), "inspect", "-m", "model.gguf"]);
    expect(ended).toMatchObject({ code: 0, stderr: "" });
    expect(ended.stdout).toContain("bitnet-b1.58");
  });

  test("type-checks for import and for require", async () => {
    const source =
      'import { BitNetEngine, type StreamPart } from "ryzanstein";\nexport const load = BitNetEngine.load;\n';
    const use = "export type Text = StreamPart['text'];\nconst path: Parameters<typeof load>[0] = 'x';\nvoid path;\n";
    for (const file of ["esm.mts", "commonjs.cts"]) writeFileSync(join(project, file), source + use);
    const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
    const types = ["--types", "node", "--typeRoots", join(root, "node_modules", "@types")];
    const flags = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", ...types];
    const ended = await node([tsc, ...flags, "--lib", "es2023,esnext.disposable", "esm.mts", "commonjs.cts"]);
    expect(ended).toEqual({ code: 0, stdout: "", stderr: "" });
  });

  test("without its addon says which platform lacks one and what to do", async () => {
    const broken = join(folder, "broken");
    const filter = (path: string): boolean => !path.endsWith(".node");
    cpSync(join(project, "node_modules"), join(broken, "node_modules"), { recursive: true, filter });
    const program = `
      import { BitNetEngine, PlatformError } from "ryzanstein";
      const error = await BitNetEngine.load("model.gguf").catch((caught) => caught);
      console.log(PlatformError.isInstance(error), error.code, error.message);
    `;
    const args = ["--input-type=module", "--eval", program];
    const ended = await runProgram(process.execPath, args, { cwd: broken });
    expect(ended.stderr).toBe("");
    expect(ended.stdout).toMatch(
      /^true PLATFORM_UNSUPPORTED the native addon did not load on \S+ \(.*Node.js [\d.]+\): the package has no addon\. /,
    );
    expect(ended.stdout).toContain("Supported are Linux (glibc or musl), macOS and Windows, each on x64 and arm64");
    expect(ended.stdout).toContain("npm run build");
  });
});
