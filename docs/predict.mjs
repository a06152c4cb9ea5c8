// Answers texts by an exported model: node predict.mjs reviews.onnx vocabulary.json "a wonderful film" ...
// `npm install onnxruntime-node`; vocabulary.json is the one in the run folder. For --tokenizer keras, punctuation and characters.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const MARK = /[!"#$%&()*+,\-./:;<=>?@[\\\]^_`{|}~]/g;
const SPACES = /[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/; // as Python has them

function wordsOf(text, tokenizer) {
  const lower = text.toLowerCase();
  if (tokenizer === "characters") {
    const words = lower.split(SPACES).filter((word) => word !== "");
    return words.length ? [...`▁${words.join("▁")}▁`] : [];
  }
  const spaced = lower.replace(MARK, tokenizer === "keras" ? " " : " $& ");
  return spaced.split(/[\t\n\r ]+/).filter((word) => word !== "");
}

/** The ids of a text and their weights: counts, by tf-idf or 1, of length 1 if the model wants that. */
export function encode(text, vocabulary) {
  const { ids, tokenizer, ngrams, start_id, unknown_id, weighting, normalize, idf } = vocabulary;
  const words = wordsOf(text, tokenizer);
  const found = new Map(start_id === null ? [] : [[start_id, 1]]);
  for (let length = 1; length <= ngrams; length++) {
    for (let start = 0; start + length <= words.length; start++) {
      const token = words.slice(start, start + length).join(tokenizer === "characters" ? "" : " ");
      const id = Object.hasOwn(ids, token) ? ids[token] : unknown_id;
      if (id !== null) found.set(id, (found.get(id) ?? 0) + 1);
    }
  }
  const weight = ([id, count]) => (weighting === "binary" ? 1 : count) * (weighting === "tf_idf" ? idf[id] : 1);
  const weights = [...found].map(weight);
  const length = normalize === "l2" ? Math.hypot(...weights) || 1 : 1;
  return { ids: [...found.keys()], weights: weights.map((one) => one / length) };
}

async function main(model, vocabularyFile, texts) {
  const { InferenceSession, Tensor } = (await import("onnxruntime-node")).default;
  const vocabulary = JSON.parse(readFileSync(vocabularyFile, "utf8"));
  const rows = texts.map((text) => encode(text, vocabulary));
  const values = rows.flatMap((row) => row.ids);
  const splits = [0];
  for (const row of rows) splits.push(splits.at(-1) + row.ids.length);
  const inputs = {
    values: new Tensor("int32", Int32Array.from(values), [values.length]),
    row_splits: new Tensor("int32", Int32Array.from(splits), [splits.length]),
  };
  if (vocabulary.weighting !== "binary" || vocabulary.normalize !== "none") {
    const weights = Float32Array.from(rows.flatMap((row) => row.weights));
    inputs.weights = new Tensor("float32", weights, [weights.length]);
  }
  const { outputs } = await (await InferenceSession.create(model)).run(inputs);
  const [numRows, width] = outputs.dims;
  for (let row = 0; row < numRows; row++) {
    let probabilities = [...outputs.data.slice(row * width, (row + 1) * width)];
    if (width === 1) probabilities = [1 - probabilities[0], probabilities[0]]; // of two classes
    const best = probabilities.indexOf(Math.max(...probabilities));
    const given = vocabulary.thresholds // a text may have several classes, or none
      ? [...probabilities.keys()].filter((k) => probabilities[k] > vocabulary.thresholds[k])
      : [best];
    const named = given.map((k) => `${vocabulary.class_names[k] ?? k} ${probabilities[k].toFixed(3)}`);
    console.log(`${texts[row]}\t${named.join(", ") || "(none)"}`);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [, , model, vocabularyFile, ...texts] = process.argv;
  await main(model, vocabularyFile, texts);
}
