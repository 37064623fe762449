/* Label JPEG files and folders of them: the C library with libjpeg-turbo.
 *
 *     classify_jpeg model.onnx photo.jpg folder...
 *
 * A line for each file on standard output; what cannot be read is named on standard error, and the
 * exit code is 1. It does not apply EXIF's orientation: photos must be upright.
 */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jpeglib.h>

#include "nin_edge.h"

typedef struct {
    struct jpeg_error_mgr manager; /* first: libjpeg knows this part alone */
    jmp_buf handler;
    char message[JMSG_LENGTH_MAX];
} jpeg_fault;

static void jump(j_common_ptr info) {
    jpeg_fault *fault = (jpeg_fault *)info->err;
    info->err->format_message(info, fault->message);
    longjmp(fault->handler, 1);
}

static void stay_silent(j_common_ptr info) {
    (void)info; /* a warning: the file is damaged, and decoded as far as it goes */
}

typedef struct {
    uint8_t *rgb; /* to be freed */
    int width, height;
} photo;

/* Decode a file into `decoded`; false, with a reason in `fault`, if it is no JPEG. */
static bool decode(FILE *file, photo *decoded, jpeg_fault *fault) {
    struct jpeg_decompress_struct info;
    info.err = jpeg_std_error(&fault->manager);
    fault->manager.error_exit = jump;
    fault->manager.output_message = stay_silent;
    if (setjmp(fault->handler)) {
        jpeg_destroy_decompress(&info);
        return false;
    }
    jpeg_create_decompress(&info);
    jpeg_stdio_src(&info, file);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = JCS_RGB; /* from YCbCr, RGB and grey; libjpeg refuses CMYK */
    jpeg_start_decompress(&info);
    size_t stride = 3 * (size_t)info.output_width;
    bool fits = (size_t)info.output_width * info.output_height <= NIN_EDGE_MAX_PIXELS;
    decoded->rgb = fits ? malloc(stride * info.output_height) : NULL;
    decoded->width = (int)info.output_width;
    decoded->height = (int)info.output_height;
    if (!decoded->rgb) {
        snprintf(fault->message, sizeof fault->message, "%d x %d pixels are too many",
                 decoded->width, decoded->height);
        longjmp(fault->handler, 1);
    }
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = decoded->rgb + stride * info.output_scanline;
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    return true;
}

static bool label_file(nin_edge_model *model, const char *path) {
    nin_edge_error error;
    nin_edge_prediction found;
    jpeg_fault fault;
    photo decoded = {NULL, 0, 0};
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return false;
    }
    bool good = decode(file, &decoded, &fault);
    fclose(file);
    if (!good)
        fprintf(stderr, "%s: not a JPEG that can be read (%s)\n", path, fault.message);
    else if (!(good = nin_edge_classify(model, decoded.rgb, decoded.width, decoded.height,
                                        3 * (size_t)decoded.width, &found, &error)))
        fprintf(stderr, "%s: %s\n", path, error.message);
    else
        printf("%s: %s %.1f%%\n", path, found.label, 100 * (double)found.score);
    free(decoded.rgb);
    return good;
}

static int is_jpeg(const struct dirent *entry) {
    const char *end = strrchr(entry->d_name, '.');
    return end && (!strcasecmp(end, ".jpg") || !strcasecmp(end, ".jpeg"));
}

/* Label a file, or the JPEG files of a folder in the order of their names. */
static bool label_path(nin_edge_model *model, const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, is_jpeg, alphasort);
    bool good = true;
    if (count < 0) return label_file(model, path); /* not a folder */
    for (int i = 0; i < count; i++) {
        size_t size = strlen(path) + strlen(entries[i]->d_name) + 2;
        char *inner = malloc(size);
        if (inner) {
            snprintf(inner, size, "%s/%s", path, entries[i]->d_name);
            good &= label_file(model, inner);
        }
        free(inner);
        free(entries[i]);
    }
    free(entries);
    return good;
}

int main(int count, char **arguments) {
    nin_edge_error error;
    if (count < 3) {
        fputs("usage: classify_jpeg MODEL FILE_OR_FOLDER...\n", stderr);
        return 2;
    }
    nin_edge_model *model = nin_edge_open(arguments[1], 1, &error);
    if (!model) {
        fprintf(stderr, "classify_jpeg: %s\n", error.message);
        return 1;
    }
    bool good = true;
    for (int i = 2; i < count; i++) good &= label_path(model, arguments[i]);
    nin_edge_close(model);
    return !good;
}
