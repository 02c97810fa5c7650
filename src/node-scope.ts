/** Work on one memory node. */

import { AsyncLocalStorage } from "node:async_hooks";
import { InvalidArgumentError } from "./errors.js";
import { native } from "./native.js";

const scope = new AsyncLocalStorage<number>();

/** The node of the surrounding {@link executeOnNode}. @internal */
export function currentNode(): number | undefined {
  return scope.getStore();
}

/**
 * Runs `task` so that what it has the engine do is done on one memory node.
 *
 * JavaScript itself stays on its thread. But an engine that is loaded in the task, however deep in its calls and awaits,
 * computes on that node's cores with weights and cache in that node's memory, for all its life; and
 * `measureReadBandwidth` measures that node. An option `node` of theirs goes first. On a machine with one node, which is
 * most, it is the same as calling `task`.
 *
 * @example
 * // One engine a node, each with the whole model: requests to different engines do not share memory bandwidth.
 * const engines = await Promise.all(
 *   cpuInfo().nodes.map((node) => executeOnNode(node, () => BitNetEngine.load("model.gguf"))),
 * );
 *
 * @param node One of `cpuInfo().nodes`.
 * @returns What the task returns.
 * @throws {@link InvalidArgumentError} for a node that there is not; whatever the task throws.
 */
export async function executeOnNode<T>(node: number, task: () => T | Promise<T>): Promise<T> {
  const { nodes } = native().cpuInfo();
  if (!nodes.includes(node)) throw new InvalidArgumentError("node", `one of ${nodes.join(", ")}`, node);
  if (typeof task !== "function") throw new InvalidArgumentError("task", "a function", task);
  return scope.run(node, task);
}
