import { createRequire } from "node:module";
import { InvalidArgumentError, ModelFileError, QueueFullError, RyzansteinError } from "ryzanstein";
import { describe, expect, test } from "vitest";

const required = createRequire(import.meta.url)("ryzanstein") as typeof import("ryzanstein");

describe("errors", () => {
  test("carry a stable code, their class's name and a cause", () => {
    const cause = new Error("below");
    const error = new RyzansteinError("INTERNAL", "a fault", { cause });
    expect(error).toMatchObject({ code: "INTERNAL", message: "a fault", name: "RyzansteinError", cause });
    expect(error).toBeInstanceOf(Error);
  });

  test("name the option, what was expected and what was given", () => {
    const error = new InvalidArgumentError("maxTokens", "a whole number from 1", -1);
    expect(error).toMatchObject({
      code: "INVALID_ARGUMENT",
      option: "maxTokens",
      got: -1,
      name: "InvalidArgumentError",
    });
    expect(error.message).toBe("maxTokens must be a whole number from 1, got -1");
  });

  test("isInstance tells the classes apart", () => {
    const argument = new InvalidArgumentError("topK", "a number", Number.NaN);
    const file = new ModelFileError("INVALID_FILE", "malformed");
    expect(RyzansteinError.isInstance(argument)).toBe(true);
    expect(InvalidArgumentError.isInstance(argument)).toBe(true);
    expect(ModelFileError.isInstance(argument)).toBe(false);
    expect(ModelFileError.isInstance(file)).toBe(true);
    expect(QueueFullError.isInstance(new required.QueueFullError("full"))).toBe(true);
    expect(QueueFullError.isInstance(new RyzansteinError("QUEUE_FULL", "full"))).toBe(false);
    for (const other of [new Error("x"), null, undefined, "INTERNAL", { code: "INTERNAL" }]) {
      expect(RyzansteinError.isInstance(other)).toBe(false);
    }
  });

  test("are the same classes by import and by require", () => {
    expect(required.RyzansteinError).toBe(RyzansteinError);
    expect(required.BitNetEngine.name).toBe("BitNetEngine");
    expect(RyzansteinError.isInstance(new required.ModelFileError("IO", "x"))).toBe(true);
  });
});
