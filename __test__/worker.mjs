// A worker thread that loads a model and streams from it; what it does next is in workerData.

import { parentPort, workerData } from "node:worker_threads";
import { BitNetEngine } from "ryzanstein";

const engine = await BitNetEngine.load(workerData.model, { threads: 1 });
const options = { temperature: 0, maxTokens: workerData.maxTokens, ignoreEos: true };
let text = "";
for await (const part of engine.generate("The fox", options)) {
  text += part.text;
  parentPort.postMessage({ type: "part" });
}
parentPort.postMessage({ type: "text", text });
if (workerData.dispose) await engine.dispose();
