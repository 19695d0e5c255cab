// Labels records by meaning, from a few examples of each label.
//
// The same workload as `guests/batch-classifier` in skep's repository, which says more about the
// mathematics: the same operators in the same order on the same device, and so the same labels.
//
// JavaScript does not say when an object is no longer needed, so every tensor made here belongs to
// a scope, and goes with it.

import { Encoder } from "skep:model/encoders@0.1.0";
import { Tensor } from "skep:tensor/tensors@0.1.0";

const BATCH = 256; // the most texts that are embedded in one call while fitting
const STEPS = 100; // of gradient descent
const MOMENTUM = 0.9;
const SHARPNESS = 10;

/** What the node calls. */
export const classifier = { fit, classify };

let encoder = null;
let head = null;

function fit(labels) {
  release(encoder, head?.weights, head?.offset);
  encoder = head = null;
  const lesson = lessonFrom(labels);
  encoder = Encoder.open("default");
  head = scope((keep) => {
    const parts = [];
    for (let start = 0; start < lesson.texts.length; start += BATCH) {
      parts.push(keep(encoder.embed(lesson.texts.slice(start, start + BATCH))));
    }
    return headFrom(keep(Tensor.concat(parts, 0)), lesson);
  });
}

function classify(documents) {
  if (head === null) throw invalid("classify was called before fit had succeeded");
  const texts = documents.map((document) => document.text.trim());
  const filled = texts.filter((text) => text !== "");
  const predictions = filled.length === 0 ? [] : predict(filled);
  let next = 0;
  return texts.map((text) =>
    text === ""
      ? { tag: "err", val: "the text is empty" }
      : { tag: "ok", val: predictions[next++] },
  );
}

/** The texts of all labels, checked, one row each, and whose they are. */
function lessonFrom(labels) {
  if (labels.length < 2) {
    throw invalid(`a classifier needs at least two labels, and was given ${labels.length}`);
  }
  const lesson = { texts: [], owners: [], counts: [] };
  const names = new Set();
  labels.forEach((label, owner) => {
    if (label.name.trim() === "") throw invalid(`label ${owner + 1} has no name`);
    if (names.has(label.name)) throw invalid(`two labels are named '${label.name}'`);
    names.add(label.name);
    const texts = [...label.examples, label.description ?? ""]
      .map((text) => text.trim())
      .filter((text) => text !== "");
    if (texts.length === 0) {
      throw invalid(`label '${label.name}' has neither a description nor an example`);
    }
    lesson.texts.push(...texts);
    lesson.owners.push(...texts.map(() => owner));
    lesson.counts.push(texts.length);
  });
  return lesson;
}

/** Softmax regression, by gradient descent with Nesterov's momentum. */
function headFrom(points, { texts, owners, counts }) {
  return scope((keep) => {
    const [n, c] = [texts.length, counts.length];
    const width = points.shape()[1];

    // Every label counts the same, and all texts sum to 1.
    const weightOf = (owner) => 1 / (c * counts[owner]);
    const importance = keep(Tensor.fromF32(Float32Array.from(owners, weightOf), [n, 1]));
    // A row for each text: 1 in the column of its label and 0 elsewhere.
    const wanted = new Float32Array(n * c);
    owners.forEach((owner, row) => (wanted[row * c + owner] = 1));
    const targets = keep(Tensor.fromF32(wanted, [n, c]));
    const ones = keep(Tensor.full([n, 1], 1, "f32"));

    const mean = keep(keep(points.mul(importance)).sum(0, true));
    const x = keep(Tensor.concat([keep(points.sub(mean)), ones], 1));
    const xWeighted = keep(keep(x.mul(importance)).transpose(0, 1));
    const decay = 1 / n;
    const rate = 1 / (0.5 + decay);

    let weights = Tensor.zeros([width + 1, c], "f32");
    let step = Tensor.zeros([width + 1, c], "f32");
    for (let i = 0; i < STEPS; i++) {
      [step, weights] = scope((keep) => {
        keep(step), keep(weights);
        const coast = keep(step.mulScalar(MOMENTUM));
        const ahead = keep(weights.add(coast));
        const error = keep(keep(keep(x.matmul(ahead)).softmax(-1)).sub(targets));
        const gradient = keep(keep(xWeighted.matmul(error)).add(keep(ahead.mulScalar(decay))));
        const next = coast.sub(keep(gradient.mulScalar(rate)));
        return [next, weights.add(next)];
      });
    }
    keep(step), keep(weights);

    // Unfold the intercept and the centring, so that `classify` needs neither.
    const sharp = keep(weights.mulScalar(1 + SHARPNESS / Math.sqrt(n / c)));
    const columns = { start: 0, end: c };
    const intercept = keep(sharp.slice([{ start: width, end: width + 1 }, columns]));
    const slopes = sharp.slice([{ start: 0, end: width }, columns]);
    return { weights: slopes, offset: intercept.sub(keep(mean.matmul(slopes))) };
  });
}

/** The label and the score of each text. */
function predict(texts) {
  return scope((keep) => {
    const points = keep(encoder.embed(texts));
    const logits = keep(keep(points.matmul(head.weights)).add(head.offset));
    const probabilities = keep(logits.softmax(-1));
    const labels = keep(probabilities.argmax(-1, false)).toI32();
    const scores = keep(probabilities.max(-1, false)).toF32();
    return Array.from(labels, (label, row) => ({ label, score: scores[row] }));
  });
}

/** Runs `body`, then gives back every handle that it handed to `keep`. */
function scope(body) {
  const kept = [];
  try {
    return body((handle) => {
      kept.push(handle);
      return handle;
    });
  } finally {
    release(...kept);
  }
}

/** Gives handles back to the node. */
function release(...handles) {
  for (const handle of handles) handle?.[Symbol.dispose ?? Symbol.for("dispose")]();
}

/** An error of the contract, to be thrown. */
function invalid(reason) {
  return Object.assign(new Error(reason), { payload: { tag: "invalid", val: reason } });
}
