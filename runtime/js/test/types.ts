// Compiled by `npm run check`, never run: what a program in TypeScript sees of the package.

import * as ort from "onnxruntime-node";

import { load, ModelFileError, type Metadata, type Pixels, type Replay } from "nin-edge-js";

export async function use(bytes: Uint8Array, image: ImageData, pixels: Pixels): Promise<string> {
  const model = await load(bytes, { ort, executionProviders: ["cpu"], threads: 2, name: "x.onnx" });
  const metadata: Metadata = model.metadata;
  const precision: "fp32" | "fp16" | "int8" = metadata.precision;
  const accuracy: number | undefined = metadata.certificate.accuracy?.top1;
  const answers = metadata.certificate.thresholds?.answers ?? [];
  const coverage: number[] = answers.map((answer) => answer.coverage);
  const top1: (number | null)[] = answers.map((answer) => answer.top1);
  const replay: Replay = await model.verify();
  const prediction = await model.classify(image, { minScore: 0.5 });
  await model.classify(pixels);
  const best: { label: string; score: number }[] = prediction.top(5);
  const map: Float32Array = prediction.classMap.data;
  const error: Error = new ModelFileError("x");
  // @ts-expect-error: a label is a string
  const wrong: number = prediction.label;
  await model.release();
  return [precision, accuracy, coverage, top1, replay.passed, best, map, error, wrong].join();
}
