import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** What the built page may load and do. The hub sends the same as a header; this holds where it does not. */
const POLICY = [
  "default-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

/** Put the policy into the built page only: the development server needs inline styles. */
function contentSecurityPolicy(): Plugin {
  return {
    name: "content-security-policy",
    apply: "build",
    transformIndexHtml: () => [
      {
        tag: "meta",
        attrs: { "http-equiv": "Content-Security-Policy", content: POLICY },
        injectTo: "head-prepend",
      },
    ],
  };
}

export default defineConfig({
  base: "./",
  plugins: [svelte(), contentSecurityPolicy()],
  build: {
    outDir: "../static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    // light-dark(), nesting and :has() are used as they are.
    target: ["chrome123", "firefox128", "safari17.5"],
    // The bundle holds MIT code of others: their notices travel with it.
    license: { fileName: "licenses.md" },
    reportCompressedSize: false,
  },
  server: {
    proxy: { "/v1": { target: "http://127.0.0.1:8700" } },
  },
});
