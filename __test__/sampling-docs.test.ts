import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { NUMERIC_OPTIONS } from "../dist/cjs/src/sampling.js";
import { root } from "./support.js";

/** The table of docs/sampling.md, from the list that checks and flags come from too. */
function table(): string[] {
  const rows = NUMERIC_OPTIONS.map((option) => {
    const kind = option.whole ? "whole number" : "number";
    const value = option.default === undefined ? "none" : String(option.default);
    return `| \`${option.name}\` | ${kind} from ${option.min} to ${option.max} | ${value} | ${option.help} |`;
  });
  return ["| option | value | default | effect |", "|---|---|---|---|", ...rows];
}

it("docs/sampling.md lists every numeric option as it is checked", () => {
  const lines = readFileSync(join(root, "docs", "sampling.md"), "utf8").split("\n");
  const start = lines.indexOf("| option | value | default | effect |");
  expect(lines.slice(start, lines.indexOf("", start))).toEqual(table());
});
