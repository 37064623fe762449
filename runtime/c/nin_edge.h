/* nin-edge in C: labels images with the model files of `nin-edge export`.
 *
 *     nin_edge_error error;
 *     nin_edge_model *model = nin_edge_open("model.onnx", 1, &error);
 *     nin_edge_prediction found;
 *     if (model && nin_edge_classify(model, rgb, width, height, 3 * (size_t)width, &found, &error))
 *         printf("%s %.3f\n", found.label, (double)found.score);
 *     else
 *         fprintf(stderr, "%s\n", error.message);
 *     nin_edge_close(model);
 *
 * The code is nin_edge.c. It needs C11, the C library and ONNX Runtime 1.15 or newer.
 *
 * Models must be trusted. The SHA-256 in the file finds damage, not forgery, and it is checked
 * before ONNX Runtime sees the file. The Python runtime also refuses graphs that export does not
 * write; this library does not: open files from your own export, or check them once with
 * `nin-edge info`.
 */
#ifndef NIN_EDGE_H
#define NIN_EDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NIN_EDGE_VERSION "0.1.0"
/* Newest format of the metadata that this release reads; it reads all older ones too. */
#define NIN_EDGE_FORMAT_VERSION 1
/* Largest image that is taken, in pixels. */
#define NIN_EDGE_MAX_PIXELS 100000000

/* Why a call failed: one line that names the thing and what was expected. */
typedef struct {
    char message[1024];
} nin_edge_error;

/* A model that runs. One thread at a time may use it; several threads open it several times. */
typedef struct nin_edge_model nin_edge_model;

/* A model's metadata. */
typedef struct {
    const char *const *labels; /* name of each class in UTF-8, in the order of the outputs; control
                                  characters are possible */
    int classes;               /* number of classes K, 2 to 65,536 */
    int format_version;        /* version of the metadata's format */
    int size;                  /* side S of the network's input in pixels, 16 to 512 */
    int channels;              /* of the network's input: 3, or 1 for luma */
    double mean[3];            /* mean of each channel, 0 to 1 */
    double std[3];             /* standard deviation of each channel, above 0, at most 1 */
    const char *embedded;      /* preprocessing in the graph: "full", "normalize" or "none" */
    const char *precision;     /* "fp32", "fp16" or "int8" */
    double temperature;        /* divisor of the logits in the graph; 1 if it was not fitted */
    int golden_samples;        /* number of golden samples, 1 to 16 */
    char sha256[65];           /* SHA-256 of the file, with these 64 digits as zeros */
} nin_edge_info;

/* The network's prediction for one image. Its pointers are valid until the next call with the
 * model. */
typedef struct {
    const char *label;          /* the most probable class */
    int index;                  /* its place in `labels` */
    float score;                /* its probability, 0 to 1 */
    const float *probabilities; /* K, summing to 1 */
    const float *class_map;     /* the class activation map of the label, map_height rows of
                                   map_width; unscaled, its mean is the label's logit */
    const float *class_maps;    /* the maps of all K classes, one after the other */
    int map_width, map_height;
    int left, top, side; /* the square that the network saw, in pixels of the image */
} nin_edge_prediction;

/* The golden samples of a model on this machine. */
typedef struct {
    int samples;       /* number of samples */
    double difference; /* largest difference of a probability from the file's own, 0 to 1 */
    double tolerance;  /* largest difference that passes */
} nin_edge_replay;

/* Open a model file, check it, start its session, and run it once, so that no call pays for the
 * first. `threads`: of one inference, 1 to 1024. NULL, with `error` filled, where it fails: a
 * missing, foreign, damaged or newer file. */
nin_edge_model *nin_edge_open(const char *path, int threads, nin_edge_error *error);

/* The same for a file's bytes, which may be freed afterwards. `name` is what messages call it. */
nin_edge_model *nin_edge_open_bytes(const void *bytes, size_t count, const char *name, int threads,
                                    nin_edge_error *error);

/* Free a model and all that it gave; NULL is allowed. */
void nin_edge_close(nin_edge_model *model);

/* The metadata, valid until the model is closed. */
const nin_edge_info *nin_edge_get_info(const nin_edge_model *model);

/* Classify an upright image of any size. It is cropped and resized with the bytes that the Python
 * runtime gets, whichever steps the graph has. Buffers of this library grow with the shorter side;
 * an image whose shorter side is not the largest yet allocates none.
 *
 * `rgb`: 8 bits a channel, red first. `stride`: bytes from one row to the next, 3 * width if
 * packed. False, with `error` filled, where it fails. */
bool nin_edge_classify(nin_edge_model *model, const uint8_t *rgb, int width, int height,
                       size_t stride, nin_edge_prediction *prediction, nin_edge_error *error);

/* Replay the golden samples: does this machine compute what the exporting machine did? They go
 * through the graph's own steps, too. True if all pass; `replay` may be NULL, and is filled
 * whenever the graph ran. */
bool nin_edge_verify(nin_edge_model *model, nin_edge_replay *replay, nin_edge_error *error);

#ifdef __cplusplus
}
#endif

#endif
