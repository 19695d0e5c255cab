// Goes on with each line of its input, or answers it where the model can hold a conversation.
//
// The same workload as `sdk/rust/examples/generate.rs` in skep's repository, and so the same texts.
// Its argument, if there is one, is the number of tokens to write at most.

import { read, write } from "skep:workload/io@0.1.0";
import { LanguageModel } from "skep:model/text@0.1.0";

const PIECE = 65536; // bytes that are read in one call

/** What the node calls. */
export function run(args) {
  const [most = "64", ...more] = args;
  if (more.length > 0 || !/^\d+$/.test(most)) {
    throw invalid("give one argument at most, a number");
  }
  const model = LanguageModel.open("default");
  const converses = model.info().hasChatTemplate;
  const requests = readLines().map((line) => ({
    prompt: converses
      ? { tag: "chat", val: [{ role: "user", content: line }] }
      : { tag: "text", val: line },
    maxTokens: Number(most),
    stop: ["\n"],
    samples: 1,
  }));

  // All lines in one call, so that they go through the model together.
  for (const answer of model.generate(requests)) {
    if (answer.tag === "err") throw Object.assign(new Error("not written"), { payload: answer.val });
    for (const { text } of answer.val) write(new TextEncoder().encode(`${text.trim()}\n`));
  }
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

/** An error of the contract, to be thrown. */
function invalid(reason) {
  return Object.assign(new Error(reason), { payload: { tag: "invalid", val: reason } });
}
