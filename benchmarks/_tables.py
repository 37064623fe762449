"""How each table of the docs is made from the JSON file of its benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks._lines import by_core, by_engine, by_number_of_cores, by_weights, of_first_weights
from benchmarks._machine_tables import MACHINES
from benchmarks._table import Table

_NETWORKS: Final = (
    "Test error on {test_images:,} images of {data}, measured with the files. Latency of one image "
    "on one thread."
)

_PHOTOS: Final = (
    ("photos of", "{data}"),
    ("a class", "{photos_a_class}"),
    ("starts from", "{network}"),
    ("test top-1", "{top1:.1%} ({top1_low:.1%} to {top1_high:.1%})"),
    ("an image", "{latency_ms:.2f} ms"),
    ("file", "{bytes_k:,.0f} kB"),
    ("training", "{train_seconds:,.0f} s"),
)
_SEEDS: Final = (
    "Mean accuracy of the seeds on {test_images:,} test images, with the 95% interval of one "
    "seed's. Latency of the file that was scored, int8 (EfficientNet-Lite0: fp32, without "
    "resizing), one thread."
)

_SHAPES: Final = (
    ("network", "{network}"),
    ("parameters", "{parameters:,}"),
    ("multiply-adds", "{multiply_adds_m:.1f} million"),
    ("int8", "{int8_ms:.2f} ms"),
    ("ratio", "{int8_ratio:.2f}"),
    ("fp32", "{fp32_ms:.2f} ms"),
    ("top-1", "{top1:.1%}"),
)

TABLES: Final[Mapping[str, Table]] = {
    "readme-networks": Table(
        "pareto DATA",
        (
            ("weights", "`{weights}`"),
            ("parameters", "{parameters:,}"),
            ("file, int8", "{int8_bytes_k:,.0f} kB"),
            ("test error, fp32 / int8", "{fp32_test_error:.2%} / {int8_test_error:.2%}"),
            ("latency, fp32 / int8", "{fp32_latency_ms:.2f} / {int8_latency_ms:.2f} ms"),
        ),
        by_weights,
        _NETWORKS,
    ),
    "networks": Table(
        "pareto DATA",
        (
            ("weights", "`{weights}`"),
            ("parameters", "{parameters:,}"),
            ("multiply-adds", "{multiply_adds_m:.1f} million"),
            ("file, fp32", "{fp32_bytes_k:,.0f} kB"),
            ("int8", "{int8_bytes_k:,.0f} kB"),
            ("test error, fp32", "{fp32_test_error:.2%}"),
            ("int8", "{int8_test_error:.2%}"),
            ("latency, fp32", "{fp32_latency_ms:.2f} ms"),
            ("int8", "{int8_latency_ms:.2f} ms"),
            ("ratio", "{int8_latency_ratio:.2f}"),
        ),
        by_weights,
        _NETWORKS + " Ratio: latency of int8 over fp32.",
    ),
    "precisions": Table(
        "pareto DATA",
        (
            ("precision", "{precision}"),
            ("bytes", "{bytes:,} ({size_ratio:.2f})"),
            ("test error", "{test_error:.2%}"),
            ("top-1 agreement with PyTorch", "{top1_agreement:.2%}"),
            ("latency", "{latency_ms:.2f} ms"),
            ("ratio", "{latency_ratio:.2f}"),
        ),
        of_first_weights,
        "`{weights}`. " + _NETWORKS,
    ),
    "javascript": Table(
        "javascript DATA",
        (
            ("precision", "{precision}"),
            ("images", "{images}"),
            ("engine", "{engine}"),
            ("equal labels", "{equal_labels} of {count}"),
            ("largest difference of a probability", "{max_difference:.1g}"),
            ("of a class map", "{max_map_difference:.1g}"),
        ),
        explained="Differences from the Python runtime, which crops and resizes with Pillow; all "
        "engines get the same pixels.",
    ),
    **{
        name: Table("photos DATA...", _PHOTOS, explained=_SEEDS, results=name)
        for name in ("photos_clothing", "photos_sign-digits", "photos_clothing_taught")
    },
    "shapes": Table(
        "shapes photos DATA",
        _SHAPES,
        explained="Latency of one image on one thread; the ratio is that of int8 to the first row. "
        "Top-1 on 10,000 training images that are held out, after equal training on the others.",
    ),
    "shapes_cifar": Table(
        "shapes cifar DATA",
        _SHAPES,
        explained="Latency of one image on one thread; the ratio is that of int8 to `nin-bn` of "
        "the same width. Mean top-1 of the seeds, on 10,000 training images that are held out.",
        results="shapes_cifar",
    ),
    "unseen": Table(
        "unseen DATA",
        (
            ("photos a class", "{photos_a_class}"),
            ("recipe", "{recipe}"),
            ("top-1", "{top1:.1%} ({top1_low:.1%} to {top1_high:.1%})"),
            ("training", "{train_seconds:,.0f} s"),
        ),
        explained="Top-1 on 1,000 unseen images of the ten classes, with its 95% interval.",
    ),
    "default_model": Table(
        "default_model FOLDER",
        (
            ("photo", "{photo}"),
            ("shows", "{shows}"),
            ("from, licence", "{source}"),
            ("`nin-cifar10`", "{nin-cifar10}"),
            ("", "{nin-cifar10 is}"),
            ("`nin-photo`", "{nin-photo}"),
            ("", "{nin-photo is}"),
        ),
        explained="Each int8 file's first label with its probability.",
    ),
    "rounding": Table(
        "rounding DATA WEIGHTS...",
        (
            ("weights", "`{weights}`"),
            ("rounding", "{rounding}"),
            ("top-1, fp32", "{fp32_top1:.1%}"),
            ("int8", "{int8_top1:.1%}"),
            ("agreement of int8 with fp32", "{int8_agreement:.1%}"),
            ("with the trained network", "{agreement:.1%}"),
            ("divergence", "{divergence_mnat:.2f}"),
            ("time", "{seconds:,.0f} s"),
        ),
        explained="fp32 and int8 are files of the rounded weights. Divergence: mean "
        "Kullback-Leibler divergence of int8's probabilities from the trained network's, in "
        "thousandths of a nat.",
    ),
    "c_library": Table(
        "c_library DATA",
        (
            ("precision", "{precision}"),
            ("images", "{images}"),
            ("equal labels", "{equal_labels} of {count}"),
            ("largest difference of a probability", "{max_difference:.1g}"),
            ("of a class map", "{max_map_difference:.1g}"),
            ("of a golden sample, from the file", "{max_golden_difference:.1g}"),
        ),
        explained="Differences of the C library from the Python runtime on the same machine; both "
        "get the same pixels. Golden samples are compared with the file's own probabilities.",
    ),
    "arm_images": Table(
        "arm_images DATA",
        (
            ("precision", "{precision}"),
            ("library", "{library}"),
            ("processor", "{processor}"),
            ("equal labels", "{equal_labels} of {count}"),
            ("largest difference of a probability", "{max_difference:.1g}"),
            ("of a class map", "{max_map_difference:.1g}"),
        ),
        explained="Test images. Differences from Python on x86-64; all get the same pixels. The "
        "Cortex-A72 (Raspberry Pi 4) is emulated.",
    ),
    "arm": Table(
        "arm",
        (
            ("core", "{core}, {architecture}"),
            ("ONNX Runtime", "{onnxruntime}"),
            ("fp32", "{fp32_difference:.1g}"),
            ("fp16", "{fp16_difference:.1g}"),
            ("int8", "{int8_difference:.1g}"),
            ("`nin-edge run`", "{run}"),
        ),
        by_core,
        "Largest difference of a golden sample's probability from the file's own, by `nin-edge "
        "verify`. `nin-edge run` labels `examples/cat.jpg` with the bundled int8 model.",
    ),
    "c_speed": Table(
        "c_speed",
        (
            ("measured", "{measure}"),
            ("C", "{c:,.1f} {unit}"),
            ("Python", "{python:,.1f} {unit}"),
            ("ratio", "{ratio:.3f}"),
        ),
        explained="The bundled int8 model on one thread. Ratios are to Python.",
    ),
    "engines": Table(
        "engines",
        (
            ("engine", "{engine}"),
            ("`embedded`", "`{embedded}`"),
            ("fp32", "{fp32}"),
            ("fp16", "{fp16}"),
            ("int8", "{int8}"),
        ),
        by_engine,
        "Largest difference of a golden sample's probability from PyTorch in fp32, over opsets 13 "
        "and 18 (`full`: 18), with a free batch and a batch of one; int8's is mostly its rounding. "
        "Wrong: further from the file's own probabilities than `nin-edge verify` allows, and no "
        "error. Fails: an error, or the engine's process ends.",
    ),
    "web": Table(
        "web",
        (
            ("precision", "{precision}"),
            ("page and JavaScript", "{page_bytes_k:.0f} kB"),
            ("ONNX Runtime Web", "{onnxruntime_bytes_m:.1f} MB"),
            ("model", "{model_bytes_k:,.0f} kB"),
            ("all with brotli", "{brotli_bytes_m:.1f} MB"),
            ("first answer", "{first_answer_ms:.0f} ms"),
            ("further answers", "{latency_ms:.0f} ms"),
        ),
        explained="Headless Chromium on the machine that serves the page; the first answer starts "
        "with nothing cached. Further answers are without decoding, on one thread.",
    ),
    "export": Table(
        "export",
        (
            ("weights", "`{weights}`"),
            ("time", "{seconds:.1f} s"),
            ("peak memory", "{peak_mb:,.0f} MB"),
        ),
        explained="The whole process, all three precisions, without data.",
    ),
    "ranges": Table(
        "calibration DATA",
        (
            ("activation ranges", "{ranges}"),
            ("top-1", "{top1:.2%}"),
            ("top-1 agreement with fp32", "{agreement:.2%}"),
            ("divergence", "{divergence_mnat:.3f}"),
            ("last convolution in float", "{divergence_last_float_mnat:.3f}"),
        ),
        explained="Divergence: mean Kullback-Leibler divergence from fp32's probabilities, in "
        "thousandths of a nat; the last column is that with the last convolution in float.",
    ),
    "overhead": Table(
        "overhead",
        (
            ("model", "`{model}`"),
            ("input", "{input}"),
            ("call", "{call}"),
            ("median", "{milliseconds:,.3f} ms"),
            ("ratio", "{ratio:.3f}"),
            ("rounds x calls", "{rounds}"),
        ),
        explained="One thread if the row names no other; ratios are to the first call on the same "
        "input.",
    ),
    "peers": Table(
        "peers DATA",
        (
            ("weights", "`{weights}`"),
            ("engine", "{engine}"),
            ("precision", "{precision}"),
            ("test error", "{test_error:.2%}"),
            ("agreement", "{top1_agreement:.2%}"),
            ("1 thread, batch 1", "{one_1_ms:.3f} ms ({one_1_ratio:.2f})"),
            ("batch 32", "{one_32_ms:.3f} ms ({one_32_ratio:.2f})"),
            ("all threads, batch 1", "{all_1_ms:.3f} ms ({all_1_ratio:.2f})"),
            ("batch 32", "{all_32_ms:.3f} ms ({all_32_ratio:.2f})"),
        ),
        explained="Time of an image, and in brackets its ratio to ours of the same precision (bf16 "
        "to fp32). The input is normalised already. Agreement: top-1 agreement with PyTorch in "
        "fp32, as the test error on {test_images:,} test images.",
    ),
    "cold_start": Table(
        "cold_start",
        (
            ("process", "{process}"),
            ("time", "{milliseconds:.1f} ms"),
            ("ratio", "{time_ratio:.3f}"),
            ("peak memory", "{peak_mb:.1f} MB"),
            ("ratio", "{memory_ratio:.3f}"),
        ),
        explained="Whole processes that label one photo.",
    ),
    "sessions": Table(
        "sessions",
        (
            ("measured", "{measure}"),
            ("default: `spin=False, arena=True`", "{default:.3g} {unit}"),
            ("`arena=False`, ratio", "{no_arena:.3g}"),
            ("`spin=True`, ratio", "{spin:.3g}"),
        ),
        explained="One image a call. Ratios are to the default.",
    ),
    "swap": Table(
        "swap",
        (
            ("load", "{phase}"),
            ("answers", "{answers:,}"),
            ("wrong", "{wrong}"),
            ("lost", "{errors}"),
            ("median", "{p50_ms:.2f} ms"),
            ("p99", "{p99_ms:.1f} ms"),
            ("one swap", "{swap_ms:.0f} ms"),
        ),
        explained="Eight threads classify without pauses, by a classifier of one thread.",
    ),
    "score": Table(
        "score IMAGES",
        (
            ("engine", "`{engine}`"),
            ("input", "{input}"),
            ("images/s", "{images_per_second:,.0f}"),
            ("beside `stream`", "{ratio:.2f}"),
            ("CPU time of an image", "{cpu_ms:.2f} ms"),
            ("start", "{start_s:.1f} s"),
        ),
        explained="Steady rates, after each worker has written a file; the start is what the run "
        "took beside that. CPU time is that of all processes. Images have {image_bytes:,.0f} bytes "
        "on average. All runs gave the same labels.",
    ),
    "score-plan": Table(
        "score IMAGES",
        (
            ("input", "{input}"),
            ("cores", "{cores}"),
            ("10^8 images", "{hours:.1f} h"),
            ("reads", "{megabytes_per_second:,.0f} MB/s"),
        ),
        by_number_of_cores,
        "10^8 images, divided by the steady rate of one of Ray's workers times the cores.",
    ),
    **MACHINES,
    "draft": Table(
        "draft PHOTOS",
        (
            ("shorter side after decoding", "at least {scale} S"),
            ("reduced", "{reduced:,}"),
            ("time", "{milliseconds:.2f} ms"),
            ("in full", "{full_milliseconds:.2f} ms"),
            ("median difference", "{median_difference:.4f}"),
            ("99%", "{p99_difference:.4f}"),
            ("largest", "{largest_difference:.4f}"),
            ("top-1 agreement", "{top1_agreement:.2%}"),
        ),
        explained="S is the network's side; the runtime takes 8 S. Differences of probabilities "
        "from those of the full decode, over the JPEGs that are reduced.",
    ),
    "throughput": Table(
        "throughput DATA",
        (
            ("loop", "{loop}"),
            ("images/s", "{images_per_second:,.0f}"),
            ("ratio", "{ratio:.3f}"),
        ),
        explained="Batches of 250 images of 32 x 32.",
    ),
    "damage": Table(
        "damage",
        (
            ("input", "{input}"),
            ("number", "{count:,}"),
            ("predictions", "{predictions:,}"),
            ("errors of ours", "{errors:,}"),
            ("unexpected", "{unexpected:,}"),
            ("slowest", "{slowest_seconds:.2f} s"),
        ),
        explained="Unexpected: a crash, a hang, another error, or a damaged model that loads.",
    ),
    "ablation": Table(
        "ablation DATA",
        (
            ("network", "{network}"),
            ("parameters", "{parameters:,}"),
            ("multiply-adds", "{multiply_adds_m:.1f} million"),
            ("test error", "{test_error:.2%}"),
        ),
    ),
    "larger_than_memory": Table(
        "larger_than_memory",
        (
            ("photos", "{photos:,}"),
            ("their cache", "{cache_mib:,.0f} MiB"),
            ("memory the process may allocate", "{headroom_mib:,} MiB"),
            ("opened in", "{open_seconds:.1f} s"),
            ("one epoch", "{epoch_seconds:.1f} s"),
        ),
    ),
}
"""Tables by the name of the block that shows them."""
