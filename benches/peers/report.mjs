// Results as Markdown: benches/RESULTS.md.

const UNITS = {
  "×": (value) => `${value.toFixed(value < 10 ? 2 : 0)} ×`,
  "%": (value) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`,
  s: (value) => `${value.toFixed(value < 1 ? 3 : 2)} s`,
  "tokens/s": (value) => value.toFixed(value < 10 ? 2 : 1),
};

const range = (unit, { median, min, max }) => `${UNITS[unit](median)} (${UNITS[unit](min)} to ${UNITS[unit](max)})`;
const target = (unit, value) => (value === undefined ? "–" : UNITS[unit](value));
const line = (cells) => `| ${cells.join(" | ")} |`;
const table = (head, body) => [line(head), line(head.map(() => "---")), ...body.map(line)].join("\n");

/** What a case reached: its aim, what it must at least, or neither. */
export function reached({ value, atLeast, aim, lower = false }) {
  const meets = (goal) => goal !== undefined && (lower ? value.median <= goal : value.median >= goal);
  if (meets(atLeast) && (aim === undefined || meets(aim))) return "aim";
  if (meets(atLeast)) return "at least";
  return "no";
}

const caseName = (row, { name }) => (row.cases.length > 1 ? `${row.what}: ${name}` : row.what);

function ratioLines(rows) {
  return rows.flatMap((row) =>
    row.cases.map((one) => [
      row.id,
      caseName(row, one),
      target(one.unit, one.atLeast),
      target(one.unit, one.aim),
      range(one.unit, one.value),
      row.quiet.spoilt ? "?" : reached(one),
    ]),
  );
}

function sideLines(rows) {
  const lines = rows.flatMap(({ id, cases }) =>
    cases.flatMap(({ name, sides }) =>
      sides.map(({ label, unit, speed, bytesPerToken, share }) => [
        id,
        name,
        label,
        unit === "s" ? range("s", speed) : range("tokens/s", speed),
        bytesPerToken === undefined ? "–" : (bytesPerToken / 1e6).toFixed(bytesPerToken < 1e8 ? 2 : 0),
        share === undefined ? "–" : range("%", share),
      ]),
    ),
  );
  return lines;
}

/** How disturbed a row's samples were. */
function quietLine({ id, quiet, when, commit, quick, priority, seconds }) {
  const spoilt = quiet.spoilt ? "**no round was quiet, so nothing follows from it**: " : "";
  const shared =
    quiet.disturbed > 0
      ? `${quiet.disturbed} of its ${quiet.samples} samples were taken while other programs used up to ${(quiet.worst * 100).toFixed(0)} % of the machine`
      : `quiet (others used at most ${(quiet.worst * 100).toFixed(1)} % of the machine in a sample)`;
  const again = quiet.repeated > 0 ? `, ${quiet.repeated} more were taken again` : "";
  return `- Row ${id}: ${when.slice(0, 16).replace("T", " ")} UTC, ${commit}${quick ? ", **quick**" : ""}${priority ? ", before other programs" : ""}, ${seconds.toFixed(0)} s; ${spoilt}${shared}${again}.`;
}

/** One row alone, as a few lines. */
export function brief(row) {
  const targets = ratioLines([row]).map((cells) => cells.slice(1).join(" | "));
  const speeds = sideLines([row]).map((cells) => `  ${cells.slice(1).join(" | ")}`);
  return [...targets, ...speeds, ...row.notes.map((note) => `  ${note}`), quietLine(row)].join("\n");
}

/** @param {{ machine: object, rows: object[] }} results the rows in their order */
export function markdown({ machine, rows, missing }) {
  const disturbed = rows.some(({ quiet }) => quiet.spoilt);
  const gone = missing.length === 0 ? [] : [`Not measured: ${missing.map((id) => `row ${id}`).join(", ")}.\n`];
  return [
    "# Ryzanstein beside its peers\n",
    "Written by `npm run bench:peers`, which makes the models, builds and installs the peers, and measures all of it; do not edit.",
    "The rows are those of the project's targets. All figures are of one machine, ratios of measurements made by turns in one run:",
    "the median, and in brackets the least and the greatest of the rounds. Models are synthetic: seeded random weights in the",
    "shape of real ones, and both engines of a comparison read the same weights with a head of the same type.\n",
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB; ${machine.system}; Node.js ${machine.node}; instruction set ${machine.level}.`,
    `Peers: llama.cpp ${machine.llamaCpp} (built with \`-march=native\`), node-llama-cpp ${machine.nodeLlamaCpp}${machine.others}.\n`,
    ...(disturbed
      ? [
          "**The machine was shared.** Rounds in which other programs used more than a few per cent of it do not count, where there were",
          "others; rows marked `?` had none. Engines that spin at barriers lose far more than the share that others take, llama.cpp most:",
          "such figures say nothing.\n",
        ]
      : []),
    ...gone,
    "## Targets\n",
    table(["row", "what", "at least", "aim", "measured", "reached"], ratioLines(rows)),
    "\n## Speeds\n",
    "MB a token: weights that one token reads, counted; for Ryzanstein less what sparsity skips. The last column is that times the",
    "speed, over the read bandwidth measured in the same round with as many threads.\n",
    table(["row", "case", "engine", "tokens/s, or seconds", "MB a token", "of the read bandwidth"], sideLines(rows)),
    "\n## Checks and profiles\n",
    ...rows.flatMap(({ id, notes }) => notes.map((note) => `- Row ${id}: ${note}`)),
    "\n## When\n",
    ...rows.map(quietLine),
    "",
  ].join("\n");
}
