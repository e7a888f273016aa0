/** Svelte compiles every component in runes mode; styles go to a file, as the page's CSP forbids inline ones. */
export default { compilerOptions: { runes: true, css: "external" } };
