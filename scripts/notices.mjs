// Writes THIRD-PARTY-LICENSES.txt: the licences of everything that is linked into the addon, from the crates' own files.
//
//   node scripts/notices.mjs           writes it
//   node scripts/notices.mjs --check   fails when it is not what would be written (npm run lint)

import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { childEnv, fail, say } from "./lib/run.mjs";
import { root } from "./lib/stamp.mjs";

const NOTICES = join(root, "THIRD-PARTY-LICENSES.txt");
const RULE = "=".repeat(80);

/** Licences that a crate may be had under, the shortest first, and how the name of its file shows it. */
const FILES = [
  ["MIT", /mit/i],
  ["ISC", /isc/i],
  ["Zlib", /zlib/i],
  ["BSL-1.0", /boost|bsl/i],
  ["BSD-2-Clause", /bsd/i],
  ["BSD-3-Clause", /bsd/i],
  ["Unicode-3.0", /unicode/i],
  ["Apache-2.0", /apache/i],
  ["Unlicense", /unlicense/i],
];

const MIT = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`;

function metadata() {
  const args = ["metadata", "--format-version", "1", "--locked"];
  const { status, stdout, stderr } = spawnSync("cargo", args, {
    cwd: root,
    env: childEnv(),
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  if (status !== 0) fail(`cargo metadata failed: ${stderr}`);
  return JSON.parse(stdout);
}

/** The crates of others that end up in the addon, on any platform: not those that only run while it is built. */
function linked({ packages, resolve }) {
  const byId = new Map(packages.map((item) => [item.id, item]));
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
  const found = new Map();
  const visit = (id) => {
    const item = byId.get(id);
    if (found.has(id) || item.targets.some(({ kind }) => kind.includes("proc-macro"))) return;
    found.set(id, item);
    for (const { pkg, dep_kinds } of nodes.get(id).deps) if (dep_kinds.some(({ kind }) => kind === null)) visit(pkg);
  };
  visit(packages.find(({ name }) => name === "ryz-node").id);
  return [...found.values()].filter(({ source }) => source !== null);
}

function licenceFiles(item) {
  const folder = dirname(item.manifest_path);
  const names = readdirSync(folder).filter((name) => /^(licen[cs]e|copying|copyright|notice|unlicense)/i.test(name));
  return names.sort().map((name) => ({ name, path: join(folder, name) }));
}

/** Of each licence that holds, in the crate's own expression, one that may be chosen. */
function texts(item) {
  const files = licenceFiles(item);
  const expression = (item.license ?? "").replaceAll("/", " OR ").replaceAll(/[()]/g, "");
  const chosen = expression.split(/ AND /).map((part) => {
    const choices = part.split(/ OR /).map((name) => name.trim().replace(/ WITH .*/, ""));
    const known = FILES.filter(([name]) => choices.includes(name));
    const general = files.find(({ name }) => /^(licen[cs]e|copying)(\.(md|txt))?$/i.test(name));
    for (const [, pattern] of known) {
      const file = files.find(({ name }) => pattern.test(name));
      if (file !== undefined) return readFileSync(file.path, "utf8");
    }
    if (general !== undefined) return readFileSync(general.path, "utf8");
    if (choices.includes("MIT")) return `Copyright (c) ${holders(item)}\n\n${MIT}`;
    return fail(`${item.name} ${item.version}: no file with its licence (${item.license})`);
  });
  const notices = files.filter(({ name }) => /^notice/i.test(name)).map(({ path }) => readFileSync(path, "utf8"));
  return [...chosen, ...notices].map(tidy);
}

function holders({ name, authors }) {
  return authors.length > 0
    ? authors.map((author) => author.replace(/ *<.*>/, "")).join(", ")
    : `the ${name} developers`;
}

/** A text without what differs for no reason: line ends, trailing white space, indentation of the whole. */
function tidy(text) {
  const lines = text.replaceAll("\r\n", "\n").replaceAll("\f", "").split("\n");
  return lines
    .map((line) => line.trimEnd())
    .join("\n")
    .replaceAll(/\n{3,}/g, "\n\n")
    .replace(/^\n+|\n+$/g, "");
}

function write() {
  const crates = linked(metadata()).sort((a, b) => (`${a.name} ${a.version}` < `${b.name} ${b.version}` ? -1 : 1));
  const groups = new Map();
  for (const item of crates) {
    for (const text of texts(item)) {
      const same = text.replaceAll(/\s+/g, " ");
      const group = groups.get(same) ?? { text, users: [] };
      group.users.push(`${item.name} ${item.version}`);
      groups.set(same, group);
    }
  }
  const hwloc = { text: tidy(readFileSync(join(root, "LICENSE-hwloc"), "utf8")), users: ["hwloc"] };
  const standard = {
    text: `Copyright (c) The Rust Project Contributors\n\n${MIT}`,
    users: ["the Rust standard library"],
  };
  const sections = [standard, hwloc, ...groups.values()].map(({ text, users }) =>
    [RULE, ...wrapped(users), RULE, "", text, ""].join("\n"),
  );
  const intro = [
    "The native addon of Ryzanstein contains the libraries below, each under the licence that follows its name.",
    "Made by scripts/notices.mjs from the libraries' own files; not to be edited.",
  ];
  return `${intro.join("\n")}\n\n${sections.join("\n")}`;
}

/** Names with commas between them, in lines of at most 80 columns. */
function wrapped(names) {
  const lines = [];
  for (const [at, name] of names.entries()) {
    const item = at + 1 < names.length ? `${name},` : name;
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + item.length > 80) lines.push(item);
    else lines[lines.length - 1] = `${last} ${item}`;
  }
  return lines;
}

const wanted = write();
if (process.argv.includes("--check")) {
  let there = "";
  try {
    there = readFileSync(NOTICES, "utf8");
  } catch {
    // It is missing, which is as stale as can be.
  }
  if (there !== wanted) fail("THIRD-PARTY-LICENSES.txt is out of date: node scripts/notices.mjs");
} else {
  writeFileSync(NOTICES, wanted);
  say(`wrote ${NOTICES}`);
}
