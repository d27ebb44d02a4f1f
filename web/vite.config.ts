import { defineConfig } from "vite";

// The page at /demo/. What is built is committed and embedded in the program.
export default defineConfig({
  root: "demo",
  base: "/demo/",
  publicDir: false,
  build: {
    outDir: process.env["DEMO_OUT"] ?? "../../sidecar/demo/dist",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // data: URLs are not in the page's policy
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
});
