// This engine through its TypeScript API: node ryzanstein.mjs [MODEL.gguf CONFIG.json]. Without a model it measures memory alone.

import { BitNetEngine, cpuInfo, measureReadBandwidth } from "ryzanstein";
import { digest, promptTokens, serve, timeStream } from "./line.mjs";

const [path, config = "{}"] = process.argv.slice(2);
const engine =
  path === undefined ? undefined : await BitNetEngine.load(path, { prefixCache: false, ...JSON.parse(config) });

const greedy = (tokens) => ({ maxTokens: tokens, temperature: 0, ignoreEos: true });

async function* lists(stream) {
  for await (const part of stream) if (part.type === "text-delta" && part.tokenIds.length > 0) yield part.tokenIds;
}

const decode = ({ prompt, tokens }) => timeStream(lists(engine.generate(prompt, greedy(tokens))), tokens);

const functions = {
  decode,

  decodeAfter: ({ depth, tokens }) =>
    decode({ prompt: promptTokens(depth, 1, engine.modelInfo.vocabularySize), tokens }),

  /** From when the last of the streams has its first token. */
  async streams({ streams, prompt, tokens }) {
    let begun = 0;
    let since = 0;
    let counted = 0;
    const one = async (seed) => {
      const ids = [];
      for await (const list of lists(
        engine.generate(promptTokens(prompt, seed, engine.modelInfo.vocabularySize), greedy(tokens)),
      )) {
        if (begun === streams) counted += list.length;
        if (ids.length === 0) {
          begun += 1;
          if (begun === streams) since = performance.now();
        }
        ids.push(...list);
      }
      return ids;
    };
    const all = await Promise.all(Array.from({ length: streams }, (_, index) => one(index + 1)));
    const seconds = (performance.now() - since) / 1000;
    return { tokensPerSecond: counted / seconds, digest: digest(new Uint8Array(Uint32Array.from(all.flat()).buffer)) };
  },

  async prefill({ tokens, seed }) {
    const prompt = promptTokens(tokens, seed, engine.modelInfo.vocabularySize);
    const start = performance.now();
    const { data } = await engine.logits(prompt);
    const seconds = (performance.now() - start) / 1000;
    const result = digest(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    return { tokensPerSecond: tokens / seconds, digest: result, finite: data.every(Number.isFinite) };
  },

  /** How far down this engine's order of next tokens each of another engine's tokens is. */
  async ranks({ prompt, tokenIds }) {
    const { data, columns } = await engine.logits([...prompt, ...tokenIds.slice(0, -1)], { all: true });
    const ranks = tokenIds.map((token, index) => {
      const row = prompt.length - 1 + index;
      const logits = data.subarray(row * columns, (row + 1) * columns);
      return logits.reduce((above, logit) => above + (logit > logits[token] ? 1 : 0), 0);
    });
    return { ranks };
  },

  async profile({ prompt, tokens }) {
    engine.startProfiling();
    await engine.complete(prompt, greedy(tokens));
    engine.stopProfiling();
    const { phases, layers, bandwidth } = engine.profile();
    const zeros = layers.map(({ zeroFraction }) => zeroFraction).filter((fraction) => fraction !== null);
    const active = zeros.length === 0 ? null : 1 - zeros.reduce((sum, zero) => sum + zero, 0) / zeros.length;
    return { phases, active, skippedBytesPerToken: bandwidth.skippedBytesPerToken };
  },

  async bandwidth({ threads }) {
    return { bytesPerSecond: await measureReadBandwidth({ threads }) };
  },
};

await serve(functions, { cpu: cpuInfo(), loadMs: engine?.loadMs, model: engine?.modelInfo });
await engine?.dispose();
