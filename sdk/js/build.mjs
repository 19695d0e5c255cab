#!/usr/bin/env node
// Builds a JavaScript workload into a component.
//
//     node sdk/js/build.mjs PROJECT -o OUT.wasm [--world WORLD] [--wasi]
//
// PROJECT is a folder with an `app.js`, which may import what lies beside it. The world is the one
// that its `skep.toml` names, or the one given with `--world`. The contract is the folder `wit` in
// PROJECT if there is one, and that of this repository otherwise. Run `npm ci` in this folder
// first.
//
// Without `--wasi` the component imports nothing but skep: an uncaught exception is then a trap
// without a word, and timers and `console` are not to be used.

import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
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

const { component } = await componentize({
  sourcePath: join(project, "app.js"),
  witPath: existsSync(own) ? own : repository,
  worldName: values.world ?? (await worldOf(join(project, "skep.toml"))),
  disableFeatures: values.wasi
    ? ["http", "fetch-event"]
    : ["stdio", "random", "clocks", "http", "fetch-event"],
});
await mkdir(dirname(resolve(values.output)), { recursive: true });
await writeFile(values.output, component);

/** The world that a manifest names under `[component]`. */
async function worldOf(manifest) {
  const text = await readFile(manifest, "utf8");
  const section = text.split(/^\[component\]\s*$/m)[1]?.split(/^\[/m)[0] ?? "";
  const world = section.match(/^world\s*=\s*"([^"]+)"/m)?.[1];
  if (!world) throw new Error(`${manifest} names no world under [component]; give --world`);
  return world;
}
