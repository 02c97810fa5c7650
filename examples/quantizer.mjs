// A quantiser of one's own: makes a float model ternary with a threshold that keeps half of the weights at 0.
//
//   node examples/quantizer.mjs model.gguf ternary.gguf

import { convert, setQuantizer } from "ryzanstein";

const [source = "model.gguf", target = "ternary.gguf"] = process.argv.slice(2);

setQuantizer({
  name: "half-zero",
  quantize(weights, [rows, columns]) {
    const q = new Int8Array(weights.length);
    const scales = new Float32Array(rows);
    for (let row = 0; row < rows; row += 1) {
      const values = weights.subarray(row * columns, (row + 1) * columns);
      const threshold = Float32Array.from(values, Math.abs).sort()[columns >> 1];
      let [sum, kept] = [0, 0];
      for (const [column, weight] of values.entries()) {
        if (Math.abs(weight) <= threshold) continue;
        q[row * columns + column] = Math.sign(weight);
        sum += Math.abs(weight);
        kept += 1;
      }
      scales[row] = kept > 0 ? sum / kept : 1;
    }
    return { q, scales };
  },
});

const { tensors } = await convert(source, target, { type: "Q2_0_G64", overwrite: true });
for (const { name, zeroFraction, error } of tensors) {
  if (error) console.log(`${name}: ${(zeroFraction * 100).toFixed(0)} % zeros, cosine ${error.cosine.toFixed(3)}`);
}
