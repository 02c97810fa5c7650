/** The benches are run by hand: what they build must at least be there. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { root } from "./support.js";

const benches = join(root, "benches");
const files = readdirSync(benches, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".mjs"));

/** Crate and name of the Rust examples that a script builds or runs. */
function built(script: string): [string, string][] {
  const asArguments = /"-p",\s*"([\w-]+)",\s*"--example",\s*"([\w-]+)"/g;
  const byName = /\brustExample\("([\w-]+)",\s*"([\w-]+)"\)/g;
  return [...script.matchAll(asArguments), ...script.matchAll(byName)].map(([, crate = "", name = ""]) => [
    crate,
    name,
  ]);
}

test("every example that a bench builds is there", () => {
  const examples = files.flatMap((file) => built(readFileSync(join(benches, file), "utf8")));
  const names = examples.map(([, name]) => name);
  expect(names).toEqual(expect.arrayContaining(["tmac", "synthetic", "generate"]));
  for (const [crate, name] of examples) {
    const folder = join(root, "crates", crate, "examples");
    const there = existsSync(join(folder, `${name}.rs`)) || existsSync(join(folder, name, "main.rs"));
    expect(there, `${crate}: ${name}`).toBe(true);
  }
});

test("every bench of the package's scripts is there", () => {
  const { scripts } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    scripts: Record<string, string>;
  };
  const named = Object.values(scripts).flatMap((script) => script.match(/benches\/[\w/-]+\.mjs/g) ?? []);
  expect(named.length).toBeGreaterThan(5);
  for (const path of named) expect(existsSync(join(root, path)), path).toBe(true);
});
