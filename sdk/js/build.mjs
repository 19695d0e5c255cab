#!/usr/bin/env node
// Builds a JavaScript workload into a component.
//
//     node sdk/js/build.mjs PROJECT -o OUT.wasm [--world WORLD] [--wasi]
//
// PROJECT is a folder with an `app.js`, which may import what lies beside it. The world is the one
// that its `skep.toml` names, or the one given with `--world`. The contract is the folder `wit` in
// PROJECT if there is one, and that of this repository otherwise; the component imports only what
// `skep.toml` grants it. Run `npm ci` in this folder first.
//
// Without `--wasi` the component imports nothing but skep: an uncaught exception is then a trap
// without a word, and timers and `console` are not to be used.

import { existsSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { componentize } from "@bytecodealliance/componentize-js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    output: { type: "string", short: "o" },
    world: { type: "string" },
    wasi: { type: "boolean", default: false },
  },
});
if (positionals.length !== 1 || !values.output) {
  console.error("usage: build.mjs PROJECT -o OUT.wasm [--world WORLD] [--wasi]");
  process.exit(2);
}

const project = resolve(positionals[0]);
const own = join(project, "wit");
const repository = resolve(dirname(fileURLToPath(import.meta.url)), "../../wit");

// What has to be granted, one of these, for an import of each package of the contract.
const GRANTS = {
  tensor: ["tensor"],
  model: ["models"],
  adapter: ["adapters", "models"],
  swarm: ["swarm-read", "swarm-write"],
  train: ["models"],
  jobs: ["jobs"],
};

const manifest = await readFile(join(project, "skep.toml"), "utf8");
const contract = await granted(existsSync(own) ? own : repository);
const { component } = await componentize({
  sourcePath: join(project, "app.js"),
  witPath: contract,
  worldName: values.world ?? world(),
  disableFeatures: values.wasi
    ? ["http", "fetch-event"]
    : ["stdio", "random", "clocks", "http", "fetch-event"],
});
await rm(contract, { recursive: true });
await mkdir(dirname(resolve(values.output)), { recursive: true });
await writeFile(values.output, component);

/** The lines of one table of the manifest. */
function table(name) {
  return manifest.split(new RegExp(`^\\[${name}\\]\\s*$`, "m"))[1]?.split(/^\[/m)[0] ?? "";
}

/** The world that the manifest names under `[component]`. */
function world() {
  const name = table("component").match(/^world\s*=\s*"([^"]+)"/m)?.[1];
  if (!name) throw new Error("skep.toml names no world under [component]; give --world");
  return name;
}

/**
 * Copies the contract, and leaves out of its worlds what is not granted: a component has all
 * imports of its world, and the node refuses one that has more than it is granted.
 */
async function granted(wit) {
  const folder = await mkdtemp(join(tmpdir(), "skep-wit-"));
  await cp(wit, folder, { recursive: true });
  const lines = table("grants").matchAll(/^([a-z-]+)\s*=\s*(?!false\b|\[\s*\])/gm);
  // A grant that is a table may also have a heading of its own.
  const headings = manifest.matchAll(/^\[grants\.([a-z-]+)\]\s*$/gm);
  const grants = new Set(Array.from([...lines, ...headings], ([, grant]) => grant));
  const imports = new RegExp(`^ *import skep:(${Object.keys(GRANTS).join("|")})/.*;\n`, "gm");
  for (const name of await readdir(folder)) {
    if (!name.endsWith(".wit")) continue;
    const text = await readFile(join(folder, name), "utf8");
    const kept = (line, of) => (GRANTS[of].some((grant) => grants.has(grant)) ? line : "");
    await writeFile(join(folder, name), text.replace(imports, kept));
  }
  return folder;
}
