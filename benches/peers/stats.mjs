// Numbers of several rounds.

/** The middle of some numbers, and their range. */
export function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  return { median, min: sorted[0], max: sorted.at(-1) };
}

/** The spread of `values[i] / others[i]`: both were measured in the same round. */
export const ratios = (values, others) => spread(values.map((value, round) => value / others[round]));
