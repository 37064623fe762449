/* Label frames from standard input, each width * height * 3 bytes of RGB: a camera loop.
 *
 *     ffmpeg -f v4l2 -video_size 640x480 -i /dev/video0 -f rawvideo -pix_fmt rgb24 - |
 *         raw_frames model.onnx 640 480
 *
 * A line for each frame. First it replays the golden samples: a board that computes something else
 * than the exporting machine is named before it labels anything.
 */
#include <stdio.h>
#include <stdlib.h>

#include "nin_edge.h"

static int side(const char *text) {
    char *end;
    long value = strtol(text, &end, 10);
    return *end || value < 1 || value > NIN_EDGE_MAX_PIXELS ? 0 : (int)value;
}

/* Label frames until the input ends. */
static bool label_frames(nin_edge_model *model, int width, int height, nin_edge_error *error) {
    nin_edge_prediction found;
    size_t bytes = 3 * (size_t)width * (size_t)height, got;
    uint8_t *rgb = malloc(bytes);
    bool good = rgb != NULL;
    if (!good) snprintf(error->message, sizeof error->message, "not enough memory for a frame");
    while (good && (got = fread(rgb, 1, bytes, stdin)) == bytes) {
        good = nin_edge_classify(model, rgb, width, height, 3 * (size_t)width, &found, error);
        if (good) printf("%s %.1f%%\n", found.label, 100 * (double)found.score);
        fflush(stdout);
    }
    if (good && got) {
        snprintf(error->message, sizeof error->message,
                 "the input ends inside a frame: %zu bytes, expected %zu", got, bytes);
        good = false;
    }
    free(rgb);
    return good;
}

int main(int count, char **arguments) {
    nin_edge_error error;
    int width = count == 4 ? side(arguments[2]) : 0, height = count == 4 ? side(arguments[3]) : 0;
    if (!width || !height) {
        fputs("usage: raw_frames MODEL WIDTH HEIGHT < FRAMES\n", stderr);
        return 2;
    }
    nin_edge_model *model = nin_edge_open(arguments[1], 1, &error);
    bool good = model && nin_edge_verify(model, NULL, &error) &&
                label_frames(model, width, height, &error);
    if (!good) fprintf(stderr, "raw_frames: %s\n", error.message);
    nin_edge_close(model);
    return !good;
}
