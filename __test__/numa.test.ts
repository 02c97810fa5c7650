import { BitNetEngine, cpuInfo, executeOnNode, InvalidArgumentError, measureReadBandwidth } from "ryzanstein";
import { expect, test } from "vitest";
import { cli, fixture } from "./support.js";

const model = fixture("b158-v1-tq2_0.gguf");
const { nodes, defaultThreads, physicalCores, logicalCores } = cpuInfo();
const first = nodes[0] ?? 0;
const none = Math.max(...nodes) + 1;

async function infoOf(config: Parameters<typeof BitNetEngine.load>[1]): Promise<BitNetEngine["modelInfo"]> {
  const engine = await BitNetEngine.load(model, config);
  const { modelInfo } = engine;
  await engine.dispose();
  return modelInfo;
}

test("the machine has nodes, and cores on them", () => {
  expect(nodes.length).toBeGreaterThan(0);
  expect(nodes.every(Number.isInteger)).toBe(true);
  expect(physicalCores).toBeGreaterThanOrEqual(defaultThreads);
  expect(logicalCores).toBeGreaterThanOrEqual(defaultThreads);
});

test("threads are as many as were asked for, auto being the default", async () => {
  expect((await infoOf({ threads: "auto" })).threads).toBe(defaultThreads);
  expect((await infoOf({ threads: 3 })).threads).toBe(3);
});

test("every pinning and every placement gives the same logits", async () => {
  const expected = await logits({});
  for (const pinning of ["cores", "nodes", "off"] as const) expect(await logits({ pinning })).toEqual(expected);
  for (const numa of ["auto", "interleave", "off"] as const) expect(await logits({ numa })).toEqual(expected);
  expect(await logits({ node: first, threads: 1 })).toEqual(expected);

  async function logits(config: Parameters<typeof BitNetEngine.load>[1]): Promise<Float32Array> {
    const engine = await BitNetEngine.load(model, config);
    try {
      return (await engine.logits([1, 2, 3])).data;
    } finally {
      await engine.dispose();
    }
  }
});

test("where weights lie is told", async () => {
  expect((await infoOf({ numa: "off" })).weightPlacement).toBe("any");
  const { weightPlacement, nodes: used } = await infoOf({ node: first });
  expect(weightPlacement).toBe("any");
  expect(used).toEqual([first]);
  if (nodes.length === 1) expect((await infoOf({})).weightPlacement).toBe("any");
});

test("a node that there is not is refused by name", async () => {
  const refused = await BitNetEngine.load(model, { node: none }).catch((error: unknown) => error);
  expect(refused).toMatchObject({
    code: "INVALID_ARGUMENT",
    message: expect.stringContaining("node: expected one of"),
  });
  const scoped = await executeOnNode(none, () => 1).catch((error: unknown) => error);
  expect(InvalidArgumentError.isInstance(scoped) && scoped.option).toBe("node");
  const task = await executeOnNode(first, 5 as never).catch((error: unknown) => error);
  expect(InvalidArgumentError.isInstance(task) && task.option).toBe("task");
});

test("what a task loads runs on its node, also after an await", async () => {
  const { threads, nodes: used } = await executeOnNode(first, async () => {
    await new Promise((resolve) => setTimeout(resolve, 1));
    return infoOf({});
  });
  expect(used).toEqual([first]);
  expect(threads).toBeGreaterThan(0);
  expect(await executeOnNode(first, () => measureReadBandwidth({ bytes: 1 << 20 }))).toBeGreaterThan(0);
  await expect(executeOnNode(first, () => Promise.reject(new Error("its own")))).rejects.toThrow("its own");
});

test("the command line takes the same options", async () => {
  const flags = ["--pinning", "nodes", "--numa", "interleave", "--node", String(first), "-t", "auto"];
  const ended = await cli(["logits", "-m", model, "--tokens", "1,2,3", "--json", ...flags]);
  expect(ended.code, ended.stderr).toBe(0);
  expect((await cli(["logits", "-m", model, "--tokens", "1", "--numa", "on"])).code).toBe(2);
  expect((await cli(["logits", "-m", model, "--tokens", "1", "-t", "all"])).code).toBe(2);
  const unknown = await cli(["logits", "-m", model, "--tokens", "1", "--node", String(none)]);
  expect(unknown.code).toBe(2);
  expect(unknown.stderr).toContain("node: expected one of");
});
