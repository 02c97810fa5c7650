// Speed ratios as horizontal bars: benches/peers.svg.

const WIDTH = 760;
const LEFT = 300;
const RIGHT = 90;
const ROW = 30;
const TOP = 46;

const xml = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

/** Steps of the axis: 1, or more where that would be many. */
const stepFor = (most) => (most <= 8 ? 1 : Math.ceil(most / 8));

/** @param {{ rows: object[], machine: object }} results */
export function plot({ rows, machine }) {
  const bars = rows.flatMap(({ cases }) => cases.filter(({ plot }) => plot !== undefined));
  const most = Math.ceil(Math.max(2, ...bars.flatMap(({ value, atLeast }) => [value.max, atLeast])));
  const x = (ratio) => LEFT + (ratio / most) * (WIDTH - LEFT - RIGHT);
  const height = TOP + bars.length * ROW + 34;
  const bottom = TOP + bars.length * ROW;
  const out = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="13">`,
    `<rect width="${WIDTH}" height="${height}" rx="6" fill="#ffffff"/>`,
    `<text x="14" y="24" font-size="15" font-weight="600" fill="#1f2328">Speed over llama.cpp (1 = as fast), ${xml(machine.cpu)}</text>`,
  ];
  for (let tick = 0; tick <= most; tick += stepFor(most)) {
    out.push(
      `<line x1="${x(tick)}" x2="${x(tick)}" y1="${TOP}" y2="${bottom}" stroke="${tick === 1 ? "#57606a" : "#d8dee4"}"/>`,
      `<text x="${x(tick)}" y="${bottom + 17}" text-anchor="middle" fill="#57606a">${tick} ×</text>`,
    );
  }
  bars.forEach(({ plot: label, value, atLeast }, index) => {
    const middle = TOP + index * ROW + ROW / 2;
    const [left, low, high] = [x(0), x(value.min), x(value.max)];
    out.push(
      `<text x="${LEFT - 8}" y="${middle + 4}" text-anchor="end" fill="#1f2328">${xml(label)}</text>`,
      `<rect x="${left}" y="${middle - 9}" width="${(x(value.median) - left).toFixed(1)}" height="18" fill="#2f81f7"/>`,
      `<line x1="${low.toFixed(1)}" x2="${high.toFixed(1)}" y1="${middle}" y2="${middle}" stroke="#0a3069" stroke-width="2"/>`,
      `<line x1="${x(atLeast)}" x2="${x(atLeast)}" y1="${middle - 11}" y2="${middle + 11}" stroke="#cf222e" stroke-width="2" stroke-dasharray="3 2"/>`,
      `<text x="${(Math.max(high, x(value.median)) + 8).toFixed(1)}" y="${middle + 4}" fill="#1f2328" paint-order="stroke" stroke="#ffffff" stroke-width="4">${value.median.toFixed(2)} ×</text>`,
    );
  });
  out.push(
    `<text x="${WIDTH - 14}" y="24" text-anchor="end" fill="#57606a" font-size="11">bar: median · line: range · dashes: target</text>`,
    "</svg>",
    "",
  );
  return out.join("\n");
}
