/* What the tests in Python and the benchmarks ask of the library:
 *
 *     probe open MODEL...             a line for each: "good", or the error
 *     probe classify MODEL < IMAGES   images are width, height (int32) and RGB; gives K, h, w
 *                                     (int32) and verify's difference (float64), then for each
 *                                     image the label's index (int32), K probabilities, and the
 *                                     label's class map
 *     probe time MODEL CALLS < IMAGES for each image the mean seconds of a call, a line each
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../nin_edge.h"

static nin_edge_error error;

static int failed(void) {
    fprintf(stderr, "probe: %s\n", error.message);
    return 1;
}

static int open_all(int count, char **paths) {
    for (int i = 0; i < count; i++) {
        nin_edge_model *model = nin_edge_open(paths[i], 1, &error);
        puts(model ? "good" : error.message);
        nin_edge_close(model);
    }
    return 0;
}

/* The next image of standard input, to be freed; NULL at the end. */
static uint8_t *next_image(int32_t sides[2]) {
    if (fread(sides, sizeof *sides, 2, stdin) != 2) return NULL;
    size_t bytes = 3 * (size_t)sides[0] * (size_t)sides[1];
    uint8_t *rgb = malloc(bytes);
    if (rgb && fread(rgb, 1, bytes, stdin) == bytes) return rgb;
    free(rgb);
    return NULL;
}

static int classify_all(nin_edge_model *model) {
    nin_edge_prediction found;
    nin_edge_replay replay;
    uint8_t *rgb, black[3] = {0};
    int32_t sides[2];
    if (!nin_edge_verify(model, &replay, &error)) return failed();
    if (!nin_edge_classify(model, black, 1, 1, 3, &found, &error)) return failed();
    int32_t shape[3] = {nin_edge_get_info(model)->classes, found.map_height, found.map_width};
    fwrite(shape, sizeof *shape, 3, stdout);
    fwrite(&replay.difference, sizeof replay.difference, 1, stdout);
    for (; (rgb = next_image(sides)); free(rgb)) {
        if (!nin_edge_classify(model, rgb, sides[0], sides[1], 3 * (size_t)sides[0], &found,
                               &error))
            return failed();
        int32_t index = found.index;
        fwrite(&index, sizeof index, 1, stdout);
        fwrite(found.probabilities, sizeof(float), (size_t)shape[0], stdout);
        fwrite(found.class_map, sizeof(float), (size_t)shape[1] * (size_t)shape[2], stdout);
    }
    return 0;
}

static int time_all(nin_edge_model *model, int calls) {
    nin_edge_prediction found;
    uint8_t *rgb;
    int32_t sides[2];
    for (; (rgb = next_image(sides)); free(rgb)) {
        struct timespec from, to;
        timespec_get(&from, TIME_UTC);
        for (int i = 0; i < calls; i++)
            if (!nin_edge_classify(model, rgb, sides[0], sides[1], 3 * (size_t)sides[0], &found,
                                   &error))
                return failed();
        timespec_get(&to, TIME_UTC);
        double seconds = difftime(to.tv_sec, from.tv_sec);
        seconds += 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
        printf("%.9f\n", seconds / calls);
        fflush(stdout);
    }
    return 0;
}

int main(int count, char **arguments) {
    if (count >= 3 && !strcmp(arguments[1], "open")) return open_all(count - 2, arguments + 2);
    if (count < 3 || count > 4) {
        fputs("usage: probe open MODEL... | classify MODEL | time MODEL CALLS\n", stderr);
        return 2;
    }
    nin_edge_model *model = nin_edge_open(arguments[2], 1, &error);
    if (!model) return failed();
    int code = count == 3 ? classify_all(model) : time_all(model, atoi(arguments[3]));
    nin_edge_close(model);
    return code;
}
