import { defineConfig } from "vitest/config";

// The tests load the built package by its name, as users do; nothing of it passes through vite.
export default defineConfig({
  test: {
    include: ["__test__/**/*.test.ts"],
    pool: "forks",
    testTimeout: 60_000,
    server: { deps: { external: [/\/dist\//] } },
    hookTimeout: 60_000,
  },
});
