import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Seeds are fixed, so a failure on one machine is a failure on all; see test/property.ts.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
  },
});
