// Builds the console into the Python package, with names that do not change, so that a test can compare the files.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // addresses are relative, so the service may stand under any path
  build: {
    outDir: "../service/console/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // a strict content security policy forbids data: addresses
    modulePreload: { polyfill: false },
    target: "es2022",
    rollupOptions: {
      output: { entryFileNames: "console.js", assetFileNames: "console[extname]", codeSplitting: false },
    },
  },
});
