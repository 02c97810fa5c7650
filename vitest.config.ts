import { tmpdir } from "node:os";
import { join } from "node:path";
import { defineConfig } from "vitest/config";

// The tests load the built package by its name, as users do; nothing of it passes through vite.
export default defineConfig({
  test: {
    include: ["__test__/**/*.test.ts"],
    pool: "forks",
    testTimeout: 60_000,
    // Not the folder of whoever runs the tests.
    env: { RYZANSTEIN_CACHE: join(tmpdir(), "ryzanstein-tests") },
    server: { deps: { external: [/\/dist\//] } },
    hookTimeout: 60_000,
  },
});
