// Goes on with each line of its input, or answers it where the model can hold a conversation.
//
// The same workload as `sdk/rust/examples/generate.rs` in skep's repository, with the same
// arguments, and so the same texts.

import { read, write } from "skep:workload/io@0.1.0";
import { LanguageModel } from "skep:model/text@0.1.0";

const PIECE = 65536; // bytes that are read in one call

/** What the node calls. */
export function run(args) {
  const { template, adapters, stream } = options(args);
  const model = LanguageModel.open("default");
  const converses = model.info().hasChatTemplate;

  // All lines in one call, so that they go through the model together.
  const requests = readLines().map((line, number) => ({
    ...template,
    adapter: adapters[number % adapters.length],
    prompt: converses
      ? { tag: "chat", val: [{ role: "user", content: line }] }
      : { tag: "text", val: line },
  }));
  if (stream) {
    printInOrder(model.start(requests), requests.length);
    return;
  }
  for (const answer of model.generate(requests)) {
    if (answer.tag === "err") throw Object.assign(new Error("not written"), { payload: answer.val });
    for (const { text } of answer.val) print(`${text}\n`);
  }
}

/**
 * A request without its prompt and its adapter, the adapters that lines have in turn, and whether
 * to write pieces as they come.
 */
function options(args) {
  const template = { maxTokens: 64, stop: ["\n"], samples: 1 };
  let adapters = [undefined];
  let stream = false;
  for (const arg of args) {
    const [name, value] = [arg.split("=", 1)[0], arg.slice(arg.indexOf("=") + 1)];
    switch (name) {
      case "max-tokens":
        template.maxTokens = number(value);
        break;
      case "temperature":
        template.sampling ??= plainSampling();
        template.sampling.temperature = number(value);
        break;
      case "seed":
        template.sampling ??= plainSampling();
        if (!/^\d+$/.test(value)) throw invalid(`${value} is no seed`);
        template.sampling.seed = BigInt(value);
        break;
      case "json-schema":
        template.constraint = { tag: "json-schema", val: value };
        template.stop = []; // One line to a line, but JSON may have several.
        break;
      case "adapter":
        adapters = value.split(",").map((name) => name || undefined);
        break;
      case "stream":
        stream = true;
        break;
      default:
        throw invalid(
          `${name} is no argument; there are max-tokens, temperature, seed, json-schema, adapter and stream`,
        );
    }
  }
  return { template, adapters, stream };
}

/** Draws by the model's own probabilities. */
function plainSampling() {
  return {
    temperature: 1,
    topK: 0,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    presencePenalty: 0,
    frequencyPenalty: 0,
    logitBias: [],
  };
}

/** Prints answers that are being written at the same time, one after the other. */
function printInOrder(generation, answers) {
  const waiting = Array.from({ length: answers }, () => ({ text: "", open: true }));
  let current = 0;
  for (let chunks; (chunks = generation.next()).length > 0; ) {
    for (const { request, text, finish } of chunks) {
      waiting[request].text += text;
      waiting[request].open = finish === undefined;
    }
    for (; current < answers; current++) {
      const answer = waiting[current];
      print(answer.open ? answer.text : `${answer.text}\n`);
      answer.text = "";
      if (answer.open) break;
    }
  }
}

function print(text) {
  write(new TextEncoder().encode(text));
}

/** The lines of the whole input. */
function readLines() {
  const decoder = new TextDecoder();
  let text = "";
  for (let piece; (piece = read(PIECE)).length > 0; ) text += decoder.decode(piece, { stream: true });
  text += decoder.decode();
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

function number(text) {
  if (text === "" || Number.isNaN(Number(text))) throw invalid(`${text} is no number`);
  return Number(text);
}

/** An error of the contract, to be thrown. */
function invalid(reason) {
  return Object.assign(new Error(reason), { payload: { tag: "invalid", val: reason } });
}
