/* The code of nin_edge.h: SHA-256, the outer protobuf fields, JSON, metadata, golden samples,
 * Pillow's resize, and the session. docs/artifact.md is the contract that it follows. */
#include "nin_edge.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <onnxruntime_c_api.h>

#if defined(__GNUC__)
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#else
#define PRINTF_LIKE(text, first)
#endif

enum {
    ORT_OLDEST = 15,            /* version of ONNX Runtime's C API that this file uses */
    MAX_THREADS = 1024,
    MAX_METADATA = 16000000,    /* bytes: a thousand classes take 200,000 */
    MIN_SIDE = 16, MAX_SIDE = 512, /* pixels of the network's input */
    MAX_CLASSES = 65536,
    MAX_LABEL = 1000,           /* code points */
    MAX_GOLDEN = 16,
    MAX_GOLDEN_SCALE = 5,       /* side of a golden sample, as a multiple of the network's */
    MAX_BATCH = 4096,           /* images of a run, where the graph fixes their number */
    MAX_DEPTH = 32,             /* of lists and objects in JSON */
    MAX_NUMBER = 100,           /* characters of a number in JSON */
    MAX_DIGITS = 20,            /* of an integer: the most that 64 bits can hold */
    DIGITS = 64                 /* of a SHA-256 in hexadecimal */
};

/* ---- Errors ---------------------------------------------------------------------------------- */

/* Fill `error` with one line; always false, so that callers can return it. */
PRINTF_LIKE(2, 3)
static bool fail(nin_edge_error *error, const char *format, ...) {
    if (!error) return false;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    for (char *at = error->message; *at; at++)
        if ((unsigned char)*at < 0x20) *at = ' '; /* ONNX Runtime's messages have several lines */
    return false;
}

static bool no_memory(nin_edge_error *error, const char *name) {
    return fail(error, "%s: not enough memory", name);
}

/* ---- SHA-256 (FIPS 180-4) -------------------------------------------------------------------- */

typedef struct {
    uint32_t state[8];
    uint64_t length; /* bytes so far */
    uint8_t block[64];
} sha256;

static const uint32_t SHA256_START[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

static const uint32_t SHA256_ROUNDS[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotated(uint32_t value, int bits) {
    return value >> bits | value << (32 - bits);
}

static void sha256_block(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = rotated(w[i - 15], 7) ^ rotated(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t b = rotated(w[i - 2], 17) ^ rotated(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t a = rotated(s[4], 6) ^ rotated(s[4], 11) ^ rotated(s[4], 25);
        uint32_t one = s[7] + a + ((s[4] & s[5]) ^ (~s[4] & s[6])) + SHA256_ROUNDS[i] + w[i];
        uint32_t b = rotated(s[0], 2) ^ rotated(s[0], 13) ^ rotated(s[0], 22);
        uint32_t two = b + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += one;
        s[0] = one + two;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}

static void sha256_add(sha256 *hash, const uint8_t *data, size_t count) {
    size_t used = hash->length % 64;
    hash->length += count;
    for (; count && used; data++, count--) { /* fill a block that was begun */
        hash->block[used++] = *data;
        if (used == 64) {
            sha256_block(hash->state, hash->block);
            used = 0;
        }
    }
    for (; count >= 64; data += 64, count -= 64) sha256_block(hash->state, data);
    if (count) memcpy(hash->block + used, data, count);
}

static void sha256_end(sha256 *hash, char digits[DIGITS + 1]) {
    uint8_t padding[72] = {0x80};
    uint64_t bits = hash->length * 8;
    size_t zeros = 63 - (hash->length + 8) % 64; /* so that the length ends a block */
    for (int i = 0; i < 8; i++) padding[1 + zeros + (size_t)i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(hash, padding, 1 + zeros + 8);
    for (int i = 0; i < 8; i++) snprintf(digits + 8 * i, 9, "%08" PRIx32, hash->state[i]);
}

/* ---- Protobuf: the outermost fields of an ONNX model ----------------------------------------- */

typedef struct {
    const uint8_t *at, *end;
} span;

typedef struct {
    uint32_t number, wire;
    span bytes; /* of wire type 2 */
} field;

enum { WIRE_VARINT, WIRE_FIXED64, WIRE_BYTES, WIRE_FIXED32 = 5 };
enum { MODEL_GRAPH = 7, MODEL_METADATA = 14, ENTRY_KEY = 1, ENTRY_VALUE = 2 };

/* An unsigned number of at most 64 bits, in as few bytes as it needs. */
static bool varint(span *rest, uint64_t *value) {
    *value = 0;
    for (int shift = 0; rest->at < rest->end && shift < 70; shift += 7) {
        uint8_t byte = *rest->at++;
        if (shift == 63 && byte > 1) return false;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return byte || !shift;
    }
    return false;
}

/* Take the next field of a message. */
static bool next_field(span *rest, field *found) {
    uint64_t key, length = 0;
    if (!varint(rest, &key) || key < 8 || key >> 32) return false;
    found->number = (uint32_t)key >> 3;
    found->wire = key & 7;
    if (found->wire == WIRE_VARINT) {
        if (!varint(rest, &length)) return false;
        length = 0;
    } else if (found->wire == WIRE_BYTES) {
        if (!varint(rest, &length)) return false;
    } else if (found->wire == WIRE_FIXED32 || found->wire == WIRE_FIXED64)
        length = found->wire == WIRE_FIXED32 ? 4 : 8;
    else
        return false;
    if (length > (uint64_t)(rest->end - rest->at)) return false;
    found->bytes = (span){rest->at, rest->at + length};
    rest->at += length;
    return true;
}

static const char PREFIX[] = "nin_edge.";
enum {
    FORMAT_VERSION, SHA256, LABELS, PREPROCESSING, PRECISION, TEMPERATURE, GOLDEN,
    ARCHITECTURE, PARAMETERS, MULTIPLY_ADDS, DATA, VERSIONS, CERTIFICATE, KEYS
};
static const char *const KEY_NAMES[KEYS] = {
    "format_version", "sha256", "labels", "preprocessing", "precision", "temperature", "golden",
    "architecture", "parameters", "multiply_adds", "data", "versions", "certificate"};

/* Note the value of a metadata entry under its key; false if it is broken or there twice. */
static bool note_entry(span entry, span values[KEYS]) {
    span parts[2] = {{0}, {0}};
    while (entry.at < entry.end) {
        field found;
        if (!next_field(&entry, &found) || found.wire != WIRE_BYTES) return false;
        if (found.number != ENTRY_KEY && found.number != ENTRY_VALUE) return false;
        span *part = &parts[found.number - 1];
        if (part->at) return false;
        *part = found.bytes;
    }
    size_t length = (size_t)(parts[0].end - parts[0].at), prefix = sizeof PREFIX - 1;
    if (length < prefix || memcmp(parts[0].at, PREFIX, prefix) != 0) return true;
    for (int key = 0; key < KEYS; key++) {
        if (strlen(KEY_NAMES[key]) != length - prefix ||
            memcmp(parts[0].at + prefix, KEY_NAMES[key], length - prefix) != 0)
            continue;
        if (values[key].at || !parts[1].at) return false;
        values[key] = parts[1];
    }
    return true;
}

/* Find the values of this project's metadata in a file. */
static bool find_metadata(span file, span values[KEYS]) {
    bool has_graph = false;
    size_t size = 0;
    while (file.at < file.end) {
        field found;
        if (!next_field(&file, &found)) return false;
        if (found.wire != WIRE_BYTES) continue;
        has_graph |= found.number == MODEL_GRAPH;
        if (found.number != MODEL_METADATA) continue;
        size += (size_t)(found.bytes.end - found.bytes.at);
        if (size > MAX_METADATA || !note_entry(found.bytes, values)) return false;
    }
    return has_graph;
}

/* ---- JSON: values are taken one after the other; the first fault ends it --------------------- */

typedef struct {
    const char *at, *end;
    const char *model, *title; /* what messages call the model and the value */
    nin_edge_error *error;
    int depth;
    bool failed;
} json;

static bool unexpected(json *text, const char *expected) {
    if (!text->failed)
        fail(text->error, "%s: damaged metadata: %s: expected %s", text->model, text->title,
             expected);
    text->failed = true;
    return false;
}

/* The next character that is no white space; 0 at the end. */
static char peek(json *text) {
    while (text->at < text->end && strchr(" \t\r\n", *text->at) && *text->at) text->at++;
    return text->at < text->end ? *text->at : 0;
}

/* Begin a list or an object. */
static bool begin(json *text, char bracket, const char *expected) {
    if (text->failed || peek(text) != bracket) return unexpected(text, expected);
    if (++text->depth > MAX_DEPTH) return unexpected(text, "less deeply nested JSON");
    text->at++;
    return true;
}

/* Whether another item comes; `count` starts at 0, and counts them. */
static bool item(json *text, char bracket, int *count) {
    if (text->failed) return false;
    char next = peek(text);
    if (next == bracket) {
        text->at++;
        text->depth--;
        return false;
    }
    if (*count) {
        if (next != ',') return unexpected(text, "a comma between its items");
        text->at++;
    }
    ++*count;
    return true;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The four digits after \u; -1 if they are none. */
static int32_t code_unit(json *text) {
    int32_t unit = 0;
    if (text->end - text->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(*text->at++);
        if (digit < 0) return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

/* The character of an escape, after its backslash; -1 if it is none. */
static int32_t escaped(json *text) {
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    char letter = text->at < text->end ? *text->at++ : 0;
    const char *known = letter ? strchr(letters, letter) : NULL;
    if (known) return meanings[known - letters];
    if (letter != 'u') return -1;
    int32_t unit = code_unit(text);
    if (unit < 0xd800 || unit > 0xdfff) return unit;
    if (unit > 0xdbff || text->end - text->at < 6 || text->at[0] != '\\' || text->at[1] != 'u')
        return -1; /* half a pair */
    text->at += 2;
    int32_t low = code_unit(text);
    if (low < 0xdc00 || low > 0xdfff) return -1;
    return 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
}

/* One character that is not escaped, in UTF-8; -1 if it is broken. */
static int32_t unescaped(json *text) {
    static const int32_t smallest[4] = {0, 0x80, 0x800, 0x10000};
    uint8_t first = (uint8_t)*text->at++;
    if (first < 0x20) return -1; /* control characters must be escaped */
    if (first < 0x80) return first;
    int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || text->end - text->at < more) return -1;
    int32_t code = first & (0x3f >> more);
    for (int i = 0; i < more; i++) {
        uint8_t byte = (uint8_t)*text->at++;
        if ((byte & 0xc0) != 0x80) return -1;
        code = code << 6 | (byte & 0x3f);
    }
    return code < smallest[more] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) ? -1
                                                                                          : code;
}

/* Write a character in UTF-8; the number of bytes. */
static size_t utf8(int32_t code, char bytes[4]) {
    size_t count = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    static const int leading[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = count - 1; i; i--, code >>= 6) bytes[i] = (char)(0x80 | (code & 0x3f));
    bytes[0] = (char)(leading[count] | code);
    return count;
}

/* A string, decoded into `buffer` as far as it fits, with a zero at the end; the number of its
 * characters. A zero inside is refused, since C's strings end there. */
static size_t take_string(json *text, char *buffer, size_t size) {
    size_t used = 0, characters = 0;
    if (text->failed || peek(text) != '"') return (size_t)unexpected(text, "a string");
    for (text->at++; text->at < text->end && *text->at != '"'; characters++) {
        char bytes[4];
        int32_t code;
        if (*text->at == '\\') {
            text->at++;
            code = escaped(text);
        } else
            code = unescaped(text);
        if (code < 0) return (size_t)unexpected(text, "valid Unicode in its strings");
        if (code == 0) return (size_t)unexpected(text, "no character U+0000 in its strings");
        size_t count = utf8(code, bytes);
        if (used + count < size) memcpy(buffer + used, bytes, count);
        used += count;
    }
    if (text->at == text->end) return (size_t)unexpected(text, "a string that ends");
    text->at++;
    if (size) buffer[used < size ? used : 0] = 0; /* none of ours is so long: it matches nothing */
    return characters;
}

/* The key of an object's next field. */
static void take_key(json *text, char *buffer, size_t size) {
    take_string(text, buffer, size);
    if (text->failed || peek(text) != ':')
        unexpected(text, "a colon after each key");
    else
        text->at++;
}

static const char *skip_digits(const char *at) {
    while (*at >= '0' && *at <= '9') at++;
    return at;
}

/* A number; `whole` says whether it is written as an integer. */
static double take_number(json *text, bool *whole) {
    char copy[MAX_NUMBER + 16]; /* room for a longer decimal point */
    size_t length = 0;
    peek(text);
    while (text->at < text->end && length < MAX_NUMBER && *text->at &&
           strchr("+-0123456789.eE", *text->at))
        copy[length++] = *text->at++;
    copy[length] = 0;
    const char *start = copy[0] == '-' ? copy + 1 : copy, *at = skip_digits(start);
    bool valid = at > start && !(*start == '0' && at > start + 1), fits = at - start <= MAX_DIGITS;
    char *point = NULL;
    *whole = !*at;
    if (*at == '.') {
        point = copy + (at - copy);
        valid &= skip_digits(at + 1) > at + 1;
        at = skip_digits(at + 1);
    }
    if (*at == 'e' || *at == 'E') {
        at += at[1] == '+' || at[1] == '-' ? 2 : 1;
        valid &= skip_digits(at) > at;
        at = skip_digits(at);
    }
    if (text->failed || !valid || *at || length == MAX_NUMBER || (*whole && !fits))
        return unexpected(text, "a number");
    if (point) { /* strtod reads the one of the program's locale */
        const char *local = localeconv()->decimal_point;
        size_t size = strlen(local);
        if (size >= sizeof copy - MAX_NUMBER) size = 1, local = ".";
        memmove(point + size, point + 1, strlen(point));
        memcpy(point, local, size);
    }
    double value = strtod(copy, NULL);
    return isfinite(value) ? value : unexpected(text, "a number that float64 can hold");
}

static double number_between(json *text, double low, double high, const char *expected) {
    bool whole;
    double value = take_number(text, &whole);
    if (!(value >= low && value <= high)) unexpected(text, expected);
    return value;
}

static int integer_between(json *text, int low, int high, const char *expected) {
    bool whole;
    double value = take_number(text, &whole);
    if (!whole || !(value >= low && value <= high)) return unexpected(text, expected);
    return (int)value;
}

/* Pass over a value of any type. */
static void skip(json *text) {
    static const char *const words[3] = {"true", "false", "null"};
    char next = text->failed ? 0 : peek(text);
    bool whole;
    int count = 0;
    if (next == '"')
        take_string(text, NULL, 0);
    else if (next == '[') {
        begin(text, '[', "");
        while (item(text, ']', &count)) skip(text);
    } else if (next == '{') {
        begin(text, '{', "");
        while (item(text, '}', &count)) {
            take_key(text, NULL, 0);
            skip(text);
        }
    } else {
        for (int i = 0; i < 3; i++) {
            size_t length = strlen(words[i]);
            if ((size_t)(text->end - text->at) >= length && !memcmp(text->at, words[i], length)) {
                text->at += length;
                return;
            }
        }
        take_number(text, &whole);
    }
}

/* ---- Metadata -------------------------------------------------------------------------------- */

typedef struct {
    uint32_t seed;
    int height, width;
} sample;

typedef struct { /* how one side is resized */
    int from;    /* samples before; 0 for none yet */
    int width;   /* weights of an output */
    int *first, *count;
    int32_t *weights;
    size_t room; /* bytes of `weights` */
} filter;

struct nin_edge_model {
    nin_edge_info info;
    char *name;
    char *label_text;    /* where the labels lie */
    const char **labels; /* K */
    char embedded[16], precision[8];
    sample golden[MAX_GOLDEN];
    double *golden_rows; /* probabilities of the samples, K each */

    uint8_t *square;        /* pixels of the network's input, S * S * C */
    void *pixels;           /* the graph's input, `batch` images */
    float values[3][256];   /* normalised value of a byte, per channel */
    uint8_t *narrow, *luma; /* rows that were resized, and one row as luma */
    size_t narrow_room, luma_room;
    filter filter;

    const OrtApi *ort;
    OrtEnv *env;
    OrtSession *session;
    OrtMemoryInfo *memory;
    OrtValue *input, *outputs[2];
    int64_t batch; /* images of a run */
    int map_height, map_width;
};

static int by_text(const void *one, const void *other) {
    return strcmp(*(const char *const *)one, *(const char *const *)other);
}

static bool read_labels(nin_edge_model *model, json *text) {
    size_t size = (size_t)(text->end - text->at), used = 0, room = 0;
    int count = 0;
    model->label_text = malloc(size + 1);
    if (!model->label_text) return no_memory(text->error, model->name);
    begin(text, '[', "a list of strings");
    while (item(text, ']', &count)) {
        if (count > MAX_CLASSES) return unexpected(text, "2 to 65536 labels");
        if ((size_t)count > room) {
            room = room ? 2 * room : 64;
            const char **larger = realloc(model->labels, room * sizeof *larger);
            if (!larger) return no_memory(text->error, model->name);
            model->labels = larger;
        }
        char *label = model->label_text + used; /* no longer than its JSON */
        if (take_string(text, label, size + 1 - used) > MAX_LABEL)
            return unexpected(text, "at most 1000 characters in a label");
        if (text->failed) return false;
        model->labels[count - 1] = label;
        used += strlen(label) + 1;
    }
    if (text->failed) return false;
    if (count < 2) return unexpected(text, "at least two different labels");
    const char **sorted = malloc((size_t)count * sizeof *sorted);
    if (!sorted) return no_memory(text->error, model->name);
    memcpy(sorted, model->labels, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, by_text);
    bool differ = true;
    for (int i = 1; i < count; i++) differ &= strcmp(sorted[i - 1], sorted[i]) != 0;
    free(sorted);
    model->info.labels = model->labels;
    model->info.classes = count;
    return differ || unexpected(text, "at least two different labels");
}

/* Up to three numbers; how many. */
static int read_channels(json *text, double numbers[3]) {
    int count = 0;
    begin(text, '[', "a list of numbers");
    while (item(text, ']', &count)) {
        if (count > 3) return unexpected(text, "a mean and a std for each channel");
        numbers[count - 1] = number_between(text, 0, 1, "each mean and std in 0 to 1");
    }
    return count;
}

static bool read_preprocessing(nin_edge_model *model, json *text) {
    nin_edge_info *info = &model->info;
    int count = 0, means = 0, stds = 0;
    begin(text, '{', "an object");
    while (item(text, '}', &count)) {
        char key[16] = ""; /* compared even where no key is read */
        take_key(text, key, sizeof key);
        if (!strcmp(key, "size"))
            info->size = integer_between(text, MIN_SIDE, MAX_SIDE, "a size of 16 to 512 pixels");
        else if (!strcmp(key, "channels"))
            info->channels = integer_between(text, 1, 3, "1 or 3 channels");
        else if (!strcmp(key, "mean"))
            means = read_channels(text, info->mean);
        else if (!strcmp(key, "std"))
            stds = read_channels(text, info->std);
        else if (!strcmp(key, "embedded"))
            take_string(text, model->embedded, sizeof model->embedded);
        else
            skip(text);
    }
    if (text->failed) return false;
    if (!info->size) return unexpected(text, "a size of 16 to 512 pixels");
    if (info->channels != 1 && info->channels != 3) return unexpected(text, "1 or 3 channels");
    if (means != info->channels || stds != info->channels)
        return unexpected(text, "a mean and a std for each channel");
    for (int channel = 0; channel < stds; channel++)
        if (!(info->std[channel] > 0)) return unexpected(text, "each std above 0, at most 1");
    info->embedded = model->embedded;
    return !strcmp(model->embedded, "full") || !strcmp(model->embedded, "normalize") ||
           !strcmp(model->embedded, "none") ||
           unexpected(text, "embedded as \"full\", \"normalize\" or \"none\"");
}

static bool read_precision(nin_edge_model *model, json *text) {
    take_string(text, model->precision, sizeof model->precision);
    model->info.precision = model->precision;
    return !text->failed &&
           (!strcmp(model->precision, "fp32") || !strcmp(model->precision, "fp16") ||
            !strcmp(model->precision, "int8") ||
            unexpected(text, "\"fp32\", \"fp16\" or \"int8\""));
}

/* [seed, height, width] of each golden sample; how many. */
static int read_samples(nin_edge_model *model, json *text) {
    int count = 0, largest = MAX_GOLDEN_SCALE * model->info.size;
    begin(text, '[', "a list of images");
    while (item(text, ']', &count)) {
        int part = 0, values[3] = {0};
        if (count > MAX_GOLDEN) return unexpected(text, "1 to 16 images");
        begin(text, '[', "[seed, height, width] of each image");
        while (item(text, ']', &part)) {
            if (part > 3) return unexpected(text, "[seed, height, width] of each image");
            values[part - 1] = part == 1
                                   ? integer_between(text, 0, INT32_MAX, "seeds of 31 bits")
                                   : integer_between(text, 1, largest, "sides of 1 to 5 S pixels");
        }
        if (part != 3) return unexpected(text, "[seed, height, width] of each image");
        model->golden[count - 1] = (sample){(uint32_t)values[0], values[1], values[2]};
    }
    return count;
}

/* Rows of K probabilities, written to `rows` unless it is NULL; how many rows. */
static int read_rows(json *text, int classes, double *rows) {
    int count = 0;
    begin(text, '[', "a list of rows");
    while (item(text, ']', &count)) {
        int column = 0;
        if (count > MAX_GOLDEN) return unexpected(text, "a row for each image");
        begin(text, '[', "a list of K probabilities for each image");
        while (item(text, ']', &column)) {
            bool whole;
            double value = take_number(text, &whole);
            if (column > classes) break;
            if (rows) rows[(size_t)(count - 1) * (size_t)classes + (size_t)column - 1] = value;
        }
        if (column != classes) return unexpected(text, "K probabilities for each image");
    }
    return count;
}

static bool read_golden(nin_edge_model *model, json *text) {
    int count = 0, formula = 0, images = 0, pytorch = 0, file = 0, classes = model->info.classes;
    model->golden_rows = malloc(MAX_GOLDEN * (size_t)classes * sizeof(double));
    if (!model->golden_rows) return no_memory(text->error, model->name);
    begin(text, '{', "an object");
    while (item(text, '}', &count)) {
        char key[16] = ""; /* compared even where no key is read */
        take_key(text, key, sizeof key);
        if (!strcmp(key, "formula"))
            formula = integer_between(text, 1, 1, "formula 1, the one that this release knows");
        else if (!strcmp(key, "images"))
            images = read_samples(model, text);
        else if (!strcmp(key, "pytorch"))
            pytorch = read_rows(text, classes, NULL);
        else if (!strcmp(key, "file"))
            file = read_rows(text, classes, model->golden_rows);
        else
            skip(text);
    }
    if (text->failed) return false;
    if (!formula) return unexpected(text, "formula 1, the one that this release knows");
    if (!images) return unexpected(text, "1 to 16 images");
    if (pytorch != images || file != images)
        return unexpected(text, "K probabilities for each image");
    model->info.golden_samples = images;
    return true;
}

/* Read the values that this library uses; the others are only checked to be JSON. */
static bool read_value(nin_edge_model *model, int key, json *text) {
    switch (key) {
    case FORMAT_VERSION:
        model->info.format_version =
            integer_between(text, 1, INT32_MAX, "a positive integer as format version");
        break;
    case LABELS: return read_labels(model, text);
    case PREPROCESSING: return read_preprocessing(model, text);
    case PRECISION: return read_precision(model, text);
    case TEMPERATURE:
        model->info.temperature = number_between(text, 0, HUGE_VAL, "a positive number");
        if (!text->failed && model->info.temperature <= 0)
            return unexpected(text, "a positive number");
        break;
    case GOLDEN: return read_golden(model, text);
    default: skip(text);
    }
    return !text->failed;
}

static bool read_key(nin_edge_model *model, int key, span value, nin_edge_error *error) {
    json text = {(const char *)value.at, (const char *)value.end, model->name, KEY_NAMES[key],
                 error, 0, false};
    if (!value.at)
        return fail(error, "%s: damaged metadata: the key %s%s is missing", model->name, PREFIX,
                    KEY_NAMES[key]);
    if (!read_value(model, key, &text)) return false;
    return (!peek(&text) && text.at == text.end) || unexpected(&text, "one value of JSON");
}

/* Compare a file's SHA-256, with its own 64 digits as zeros, with those digits. */
static bool check_sha256(nin_edge_model *model, span file, span value) {
    static const uint8_t zeros[DIGITS + 1] =
        "0000000000000000000000000000000000000000000000000000000000000000";
    sha256 hash = {.length = 0};
    if (value.end - value.at != DIGITS + 2 || value.at[0] != '"' || value.end[-1] != '"')
        return false;
    memcpy(hash.state, SHA256_START, sizeof hash.state);
    sha256_add(&hash, file.at, (size_t)(value.at + 1 - file.at));
    sha256_add(&hash, zeros, DIGITS);
    sha256_add(&hash, value.end - 1, (size_t)(file.end - value.end + 1));
    sha256_end(&hash, model->info.sha256);
    return !memcmp(model->info.sha256, value.at + 1, DIGITS);
}

static bool is_checkpoint(span file) { /* safetensors: a length, and JSON of that length */
    uint64_t length = 0;
    if (file.end - file.at < 10 || file.at[8] != '{') return false;
    for (int i = 7; i >= 0; i--) length = length << 8 | file.at[i];
    return length < (uint64_t)(file.end - file.at);
}

/* Check a file and read its metadata. */
static bool read_metadata(nin_edge_model *model, span file, nin_edge_error *error) {
    const char *name = model->name;
    span values[KEYS] = {{0}};
    if (file.at == file.end) return fail(error, "%s: an empty file, expected an .onnx model", name);
    if (is_checkpoint(file))
        return fail(error, "%s: a checkpoint (safetensors), expected an .onnx model; `nin-edge "
                    "export` makes one of it", name);
    if (file.end - file.at > INT32_MAX || !find_metadata(file, values))
        return fail(error, "%s: not an ONNX model, or a truncated one", name);
    if (!values[FORMAT_VERSION].at)
        return fail(error, "%s: an ONNX model without nin-edge's metadata, expected one from "
                    "`nin-edge export`", name);
    if (!read_key(model, FORMAT_VERSION, values[FORMAT_VERSION], error)) return false;
    if (model->info.format_version > NIN_EDGE_FORMAT_VERSION)
        return fail(error, "%s: model format %d, nin-edge %s in C reads up to %d: update it", name,
                    model->info.format_version, NIN_EDGE_VERSION, NIN_EDGE_FORMAT_VERSION);
    if (!check_sha256(model, file, values[SHA256]))
        return fail(error, "%s: damaged or altered since its export: its SHA-256 is not the one "
                    "it carries; copy or export it again", name);
    for (int key = LABELS; key < KEYS; key++)
        if (!read_key(model, key, values[key], error)) return false;
    return true;
}

/* ---- Golden samples: docs/artifact.md, formula 1 --------------------------------------------- */

static int64_t draw(uint64_t *state, int64_t below) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)(*state >> 33) % below;
}

static int64_t floored(int64_t value, int64_t divisor) { /* towards minus infinity */
    return value / divisor - (value % divisor < 0);
}

static void draw_shape(uint64_t *state, int height, int width, uint8_t *rgb) {
    int64_t colour[3];
    for (int c = 0; c < 3; c++) colour[c] = draw(state, 256);
    int64_t cy = draw(state, height), cx = draw(state, width);
    int64_t hy = 1 + draw(state, height < 3 ? 1 : height / 3);
    int64_t hx = 1 + draw(state, width < 3 ? 1 : width / 3);
    int64_t shape = draw(state, 3);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, rgb += 3) {
            int64_t down = y - cy, right = x - cx;
            bool inside = down >= -hy && down <= hy && right >= -hx && right <= hx;
            if (shape == 1) /* an ellipse, in place of the rectangle */
                inside = down * hx * down * hx + right * hy * right * hy <= hy * hx * hy * hx;
            else if (shape == 2 && inside) /* stripes, three bands to the rectangle's height */
                inside = (down + hy) * 3 / (2 * hy + 1) != 1;
            for (int c = 0; inside && c < 3; c++) rgb[c] = (uint8_t)((rgb[c] + 3 * colour[c]) / 4);
        }
}

/* Draw the image of a seed: `rgb` takes height * width * 3 bytes. */
static void draw_golden(sample golden, uint8_t *rgb) {
    uint64_t state = golden.seed;
    int64_t sky[3], ground[3], height = golden.height, width = golden.width;
    uint8_t *at = rgb;
    for (int i = 0; i < 4; i++) draw(&state, 1); /* the first outputs of nearby seeds are alike */
    for (int c = 0; c < 3; c++) sky[c] = draw(&state, 256);
    for (int c = 0; c < 3; c++) ground[c] = draw(&state, 256);
    int64_t slope = draw(&state, width + 1);
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++, at += 3) {
            int64_t share = (y * height + x * slope) * 256 / (height * height + width * width);
            if (share > 256) share = 256;
            for (int c = 0; c < 3; c++)
                at[c] = (uint8_t)(sky[c] + floored((ground[c] - sky[c]) * share, 256));
        }
    for (int64_t shapes = 3 + draw(&state, 5); shapes; shapes--)
        draw_shape(&state, golden.height, golden.width, rgb);
}

/* ---- Preprocessing: the bytes of Pillow's crop, luma and `BILINEAR` resize ------------------- */

enum { FRACTION = 22 }; /* bits of a weight, as in Pillow's Resample.c */

/* A buffer of at least `size` bytes: this one, or a new one without its content. NULL where memory
 * is short. */
static void *grown(void *buffer, size_t *room, size_t size) {
    if (size <= *room) return buffer;
    free(buffer);
    buffer = malloc(size);
    *room = buffer ? size : 0;
    return buffer;
}

/* The weights of a resize from `from` to `to` samples: the triangle filter, as wide as the
 * reduction. */
static bool make_taps(filter *made, int from, int to) {
    double scale = (double)from / to, support = scale > 1 ? scale : 1;
    if (made->from == from) return true;
    made->from = 0; /* until it is complete */
    made->width = (int)ceil(support) * 2 + 1;
    made->weights = grown(made->weights, &made->room,
                          (size_t)to * (size_t)made->width * sizeof *made->weights);
    if (!made->weights) return false;
    for (int output = 0; output < to; output++) {
        double center = (output + 0.5) * scale, sum = 0;
        int first = (int)fmax(0, center - support + 0.5);
        int end = (int)fmin(from, center + support + 0.5);
        int32_t *weights = made->weights + (size_t)output * (size_t)made->width;
        for (int pass = 0; pass < 2; pass++) /* their sum, then each over the sum */
            for (int j = first; j < end; j++) {
                double weight = fmax(0, 1 - fabs((j - center + 0.5) * (1 / support)));
                if (pass)
                    weights[j - first] = (int32_t)(0.5 + weight / sum * (1 << FRACTION));
                else
                    sum += weight;
            }
        made->first[output] = first;
        made->count[output] = end - first;
    }
    made->from = from;
    return true;
}

/* Resize `lines` lines to `to` samples each. They lie side by side: the samples of a line are
 * `lines` bytes apart. */
static void resample(const filter *taps, const uint8_t *source, uint8_t *target, int to,
                     int lines) {
    const uint32_t half = UINT32_C(1) << (FRACTION - 1);
    for (int output = 0; output < to; output++) {
        const int32_t *weights = taps->weights + (size_t)output * (size_t)taps->width;
        const uint8_t *first = source + (size_t)taps->first[output] * (size_t)lines;
        int count = taps->count[output];
        if (lines == 3) { /* a row's channels in one pass: most of the time is spent here */
            uint32_t red = half, green = half, blue = half;
            for (int tap = 0; tap < count; tap++, first += 3) {
                uint32_t weight = (uint32_t)weights[tap];
                red += first[0] * weight;
                green += first[1] * weight;
                blue += first[2] * weight;
            }
            *target++ = (uint8_t)(red >> FRACTION);
            *target++ = (uint8_t)(green >> FRACTION);
            *target++ = (uint8_t)(blue >> FRACTION);
            continue;
        }
        for (int line = 0; line < lines; line++) {
            uint32_t sum = half;
            const uint8_t *at = first + line;
            for (int tap = 0; tap < count; tap++, at += lines) sum += *at * (uint32_t)weights[tap];
            *target++ = (uint8_t)(sum >> FRACTION);
        }
    }
}

/* Crop, reduce to luma for one-channel networks, and resize into `square`. */
static bool fill_square(nin_edge_model *model, const uint8_t *rgb, size_t stride, int left,
                        int top, int side) {
    int size = model->info.size, channels = model->info.channels;
    bool resized = side != size;
    size_t row = (size_t)size * (size_t)channels; /* bytes, after the resize */
    if (resized) {
        model->narrow = grown(model->narrow, &model->narrow_room, (size_t)side * row);
        if (!model->narrow || !make_taps(&model->filter, side, size)) return false;
    }
    if (channels == 1) {
        model->luma = grown(model->luma, &model->luma_room, (size_t)side);
        if (!model->luma) return false;
    }
    uint8_t *target = resized ? model->narrow : model->square;
    for (int y = 0; y < side; y++, target += row) {
        const uint8_t *source = rgb + (size_t)(top + y) * stride + 3 * (size_t)left;
        if (channels == 1) {
            for (int x = 0; x < side; x++)
                model->luma[x] = (uint8_t)((19595u * source[3 * x] + 38470u * source[3 * x + 1] +
                                            7471u * source[3 * x + 2] + 32768u) >> 16);
            source = model->luma;
        }
        if (resized)
            resample(&model->filter, source, target, size, channels);
        else
            memcpy(target, source, row);
    }
    if (resized) resample(&model->filter, model->narrow, model->square, size, (int)row);
    return true;
}

/* The graph's input from `square`, where they differ. */
static void fill_pixels(nin_edge_model *model) {
    size_t area = (size_t)model->info.size * (size_t)model->info.size;
    int channels = model->info.channels;
    if (model->square == model->pixels) return;
    if (!strcmp(model->embedded, "none")) {
        float *planes = model->pixels; /* (S, S, C) -> (C, S, S) */
        for (int channel = 0; channel < channels; channel++)
            for (size_t at = 0; at < area; at++)
                *planes++ =
                    model->values[channel][model->square[at * (size_t)channels + (size_t)channel]];
        return;
    }
    uint8_t *grey = model->pixels; /* three equal channels have that channel as their luma */
    for (size_t at = 0; at < area; at++, grey += 3) memset(grey, model->square[at], 3);
}

/* ---- ONNX Runtime ---------------------------------------------------------------------------- */

/* Release a status; false, with its message in `error`, if it is a failure. */
static bool done(nin_edge_model *model, OrtStatus *status, const char *what,
                 nin_edge_error *error) {
    if (!status) return true;
    fail(error, "%s: ONNX Runtime %s %s (%s)", model->name, OrtGetApiBase()->GetVersionString(),
         what, model->ort->GetErrorMessage(status));
    model->ort->ReleaseStatus(status);
    return false;
}

static const char CANNOT_LOAD[] = "cannot load it";
static const char CANNOT_RUN[] = "cannot run it";

/* The settings of the Python runtime's sessions. */
static bool set_options(nin_edge_model *model, OrtSessionOptions *options, int threads,
                        nin_edge_error *error) {
    static const char *const settings[][2] = {
        /* Since 1.23 it quantises, coarsely, the convolutions that int8 export kept in float. */
        {"optimization.disable_specified_optimizers", "WeightBiasQuantization"},
        /* Else it guesses the format by the first bytes. */
        {"session.load_model_format", "ONNX"},
        /* Waiting threads would compete with other work. */
        {"session.intra_op.allow_spinning", "0"},
        {"session.inter_op.allow_spinning", "0"},
    };
    const OrtApi *ort = model->ort;
    bool good = done(model, ort->SetIntraOpNumThreads(options, threads), CANNOT_LOAD, error) &&
                done(model, ort->SetInterOpNumThreads(options, 1), CANNOT_LOAD, error) &&
                done(model, ort->SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL),
                     CANNOT_LOAD, error);
    for (size_t i = 0; good && i < sizeof settings / sizeof *settings; i++)
        good = done(model,
                    ort->AddSessionConfigEntry(options, settings[i][0], settings[i][1]),
                    CANNOT_LOAD, error);
    return good;
}

static bool create_session(nin_edge_model *model, span file, int threads, nin_edge_error *error) {
    const OrtApiBase *base = OrtGetApiBase();
    const OrtApi *ort = model->ort = base->GetApi(ORT_OLDEST);
    OrtSessionOptions *options = NULL;
    if (!ort)
        return fail(error, "%s: ONNX Runtime %s, expected 1.%d or newer", model->name,
                    base->GetVersionString(), ORT_OLDEST);
    bool good = done(model, ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "nin-edge", &model->env),
                     CANNOT_LOAD, error) &&
                done(model, ort->CreateSessionOptions(&options), CANNOT_LOAD, error) &&
                set_options(model, options, threads, error) &&
                done(model,
                     ort->CreateSessionFromArray(model->env, file.at, (size_t)(file.end - file.at),
                                                 options, &model->session),
                     CANNOT_LOAD, error) &&
                done(model,
                     ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault,
                                              &model->memory),
                     CANNOT_LOAD, error);
    if (options) ort->ReleaseSessionOptions(options);
    return good;
}

/* Images of a run: the first dimension of the input, where the graph fixes it. */
static bool read_batch(nin_edge_model *model, nin_edge_error *error) {
    const OrtApi *ort = model->ort;
    const OrtTensorTypeAndShapeInfo *shape = NULL;
    OrtTypeInfo *type = NULL;
    int64_t dims[4] = {0};
    bool good =
        done(model, ort->SessionGetInputTypeInfo(model->session, 0, &type), CANNOT_LOAD, error) &&
        done(model, ort->CastTypeInfoToTensorInfo(type, &shape), CANNOT_LOAD, error);
    if (good && shape) good = done(model, ort->GetDimensions(shape, dims, 4), CANNOT_LOAD, error);
    if (type) ort->ReleaseTypeInfo(type);
    model->batch = dims[0] > 0 ? dims[0] : 1;
    int64_t pixels = model->info.size * model->info.size;
    if (good && (model->batch > MAX_BATCH || model->batch * pixels > NIN_EDGE_MAX_PIXELS))
        return fail(error,
                    "%s: %" PRId64 " images per run, expected at most %d, and %d pixels together",
                    model->name, model->batch, MAX_BATCH, NIN_EDGE_MAX_PIXELS);
    return good;
}

static bool create_input(nin_edge_model *model, void *pixels, size_t elements, int height,
                         int width, OrtValue **input, nin_edge_error *error) {
    bool planes = !strcmp(model->embedded, "none");
    int64_t images[4] = {model->batch, height, width, 3};
    int64_t values[4] = {model->batch, model->info.channels, height, width};
    return done(model,
                model->ort->CreateTensorWithDataAsOrtValue(
                    model->memory, pixels, elements * (planes ? sizeof(float) : 1),
                    planes ? values : images, 4,
                    planes ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
                           : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
                    input),
                CANNOT_RUN, error);
}

/* The buffers of the network's input. */
static bool create_buffers(nin_edge_model *model, nin_edge_error *error) {
    nin_edge_info *info = &model->info;
    bool planes = !strcmp(model->embedded, "none");
    size_t area = (size_t)info->size * (size_t)info->size;
    size_t elements = (size_t)model->batch * area * (planes ? (size_t)info->channels : 3);
    model->pixels = calloc(elements, planes ? sizeof(float) : 1); /* further rows stay empty */
    model->square = planes || info->channels == 1 ? malloc(area * (size_t)info->channels)
                                                  : model->pixels;
    model->filter.first = malloc((size_t)info->size * sizeof(int));
    model->filter.count = malloc((size_t)info->size * sizeof(int));
    if (!model->pixels || !model->square || !model->filter.first || !model->filter.count)
        return no_memory(error, model->name);
    for (int channel = 0; channel < info->channels; channel++) {
        float scale = (float)(1 / (255 * info->std[channel]));
        float shift = (float)(-info->mean[channel] / info->std[channel]);
        for (int byte = 0; byte < 256; byte++) {
            volatile float scaled = (float)byte * scale; /* rounded, as in NumPy */
            model->values[channel][byte] = scaled + shift;
        }
    }
    return create_input(model, model->pixels, elements, info->size, info->size, &model->input,
                        error);
}

/* Refuse outputs that are no probabilities. */
static bool check_outputs(nin_edge_model *model, const float **probabilities, const float **maps,
                          nin_edge_error *error) {
    void *data[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++)
        if (!done(model, model->ort->GetTensorMutableData(model->outputs[i], &data[i]), CANNOT_RUN,
                  error))
            return false;
    *probabilities = data[0];
    *maps = data[1];
    float smallest = 1, sum = 0;
    for (int i = 0; i < model->info.classes; i++) {
        float value = (*probabilities)[i];
        if (!(value >= smallest)) smallest = value; /* a NaN, too */
        sum += value;
    }
    return (smallest >= 0 && sum >= 0.99f && sum <= 1.01f) ||
           fail(error, "%s: outputs %g as the smallest probability and a sum of %g, expected at "
                "least 0 and a sum of 1", model->name, (double)smallest, (double)sum);
}

static bool run(nin_edge_model *model, const OrtValue *input, nin_edge_error *error) {
    static const char *const inputs[] = {"image"}, *const outputs[] = {"probabilities",
                                                                       "class_maps"};
    return done(model,
                model->ort->Run(model->session, NULL, inputs, &input, 1, outputs, 2,
                                model->outputs),
                CANNOT_RUN, error);
}

/* The shape of an output of float32; its dimensions are 0 where it has another rank or type. */
static bool output_shape(nin_edge_model *model, int output, size_t rank, int64_t dims[4],
                         nin_edge_error *error) {
    const OrtApi *ort = model->ort;
    OrtTensorTypeAndShapeInfo *shape = NULL;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t count = 0;
    bool good = done(model, ort->GetTensorTypeAndShape(model->outputs[output], &shape), CANNOT_RUN,
                     error) &&
                done(model, ort->GetTensorElementType(shape, &type), CANNOT_RUN, error) &&
                done(model, ort->GetDimensionsCount(shape, &count), CANNOT_RUN, error);
    if (good && type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT && count == rank)
        good = done(model, ort->GetDimensions(shape, dims, rank), CANNOT_RUN, error);
    if (shape) ort->ReleaseTensorTypeAndShapeInfo(shape);
    return good;
}

/* Run the graph once, so that no call pays for the first, and keep its outputs for further runs. */
static bool warm_up(nin_edge_model *model, nin_edge_error *error) {
    const float *probabilities, *maps;
    int64_t rows[4] = {0}, shape[4] = {0}, classes = model->info.classes;
    if (!run(model, model->input, error) || !output_shape(model, 0, 2, rows, error) ||
        !output_shape(model, 1, 4, shape, error))
        return false;
    if (rows[0] != model->batch || rows[1] != classes || shape[0] != model->batch ||
        shape[1] != classes || shape[2] < 1 || shape[2] > MAX_SIDE || shape[3] < 1 ||
        shape[3] > MAX_SIDE)
        return fail(error, "%s: outputs of other shapes, expected probabilities (%" PRId64
                    ", %" PRId64 ") and class maps (%" PRId64 ", %" PRId64 ", h, w) in float32",
                    model->name, model->batch, classes, model->batch, classes);
    model->map_height = (int)shape[2];
    model->map_width = (int)shape[3];
    return check_outputs(model, &probabilities, &maps, error);
}

/* ---- The functions of nin_edge.h ------------------------------------------------------------- */

static char *copied(const char *text) {
    char *copy = malloc(strlen(text) + 1);
    return copy ? strcpy(copy, text) : NULL;
}

nin_edge_model *nin_edge_open_bytes(const void *bytes, size_t count, const char *name, int threads,
                                    nin_edge_error *error) {
    span file = {bytes, (const uint8_t *)bytes + count};
    if (threads < 1 || threads > MAX_THREADS) {
        fail(error, "threads: %d, expected 1 to %d", threads, MAX_THREADS);
        return NULL;
    }
    nin_edge_model *model = calloc(1, sizeof *model);
    if (!model || !(model->name = copied(name))) {
        no_memory(error, name);
        free(model);
        return NULL;
    }
    if (read_metadata(model, file, error) && create_session(model, file, threads, error) &&
        read_batch(model, error) && create_buffers(model, error) && warm_up(model, error))
        return model;
    nin_edge_close(model);
    return NULL;
}

/* A file's bytes, to be freed; NULL, with `error` filled, if it cannot be read. */
static uint8_t *read_file(const char *path, size_t *count, nin_edge_error *error) {
    static const char expected[] = "expected an .onnx model";
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    if (!file) {
        fail(error, "%s: cannot be read (%s), %s", path, strerror(errno), expected);
        return NULL;
    }
    long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    rewind(file);
    if (size < 0 || size > INT32_MAX) /* a folder, too, has no size */
        fail(error, "%s: not a file of less than 2 GiB, %s", path, expected);
    else if (!(bytes = malloc((size_t)size + 1)))
        no_memory(error, path);
    else if ((*count = fread(bytes, 1, (size_t)size, file)) != (size_t)size) {
        fail(error, "%s: cannot be read (%s), %s", path, strerror(errno), expected);
        free(bytes);
        bytes = NULL;
    }
    fclose(file);
    return bytes;
}

nin_edge_model *nin_edge_open(const char *path, int threads, nin_edge_error *error) {
    size_t count = 0;
    uint8_t *bytes = read_file(path, &count, error);
    nin_edge_model *model = bytes ? nin_edge_open_bytes(bytes, count, path, threads, error) : NULL;
    free(bytes);
    return model;
}

void nin_edge_close(nin_edge_model *model) {
    if (!model) return;
    const OrtApi *ort = model->ort;
    if (model->input) ort->ReleaseValue(model->input);
    for (int i = 0; i < 2; i++)
        if (model->outputs[i]) ort->ReleaseValue(model->outputs[i]);
    if (model->memory) ort->ReleaseMemoryInfo(model->memory);
    if (model->session) ort->ReleaseSession(model->session);
    if (model->env) ort->ReleaseEnv(model->env);
    if (model->square != model->pixels) free(model->square);
    free(model->pixels);
    free(model->narrow);
    free(model->luma);
    free(model->filter.first);
    free(model->filter.count);
    free(model->filter.weights);
    free(model->golden_rows);
    free(model->labels);
    free(model->label_text);
    free(model->name);
    free(model);
}

const nin_edge_info *nin_edge_get_info(const nin_edge_model *model) {
    return &model->info;
}

/* Fill the graph's input from an image's centred square. */
static bool feed(nin_edge_model *model, const uint8_t *rgb, int width, int height, size_t stride,
                 nin_edge_prediction *square, nin_edge_error *error) {
    square->side = width < height ? width : height;
    square->left = (width - square->side) / 2;
    square->top = (height - square->side) / 2;
    if (!fill_square(model, rgb, stride, square->left, square->top, square->side))
        return no_memory(error, model->name);
    fill_pixels(model);
    return true;
}

bool nin_edge_classify(nin_edge_model *model, const uint8_t *rgb, int width, int height,
                       size_t stride, nin_edge_prediction *prediction, nin_edge_error *error) {
    nin_edge_prediction found = {0};
    if (!rgb || width < 1 || height < 1)
        return fail(error, "image: %d x %d pixels, expected at least one", width, height);
    if ((int64_t)width * height > NIN_EDGE_MAX_PIXELS)
        return fail(error, "image: %d x %d pixels, more than the %d allowed", width, height,
                    NIN_EDGE_MAX_PIXELS);
    if (stride < 3 * (size_t)width || stride > SIZE_MAX / (size_t)height)
        return fail(error, "image: rows %zu bytes apart, expected at least %zu, 3 for each pixel",
                    stride, 3 * (size_t)width);
    if (!feed(model, rgb, width, height, stride, &found, error) ||
        !run(model, model->input, error) ||
        !check_outputs(model, &found.probabilities, &found.class_maps, error))
        return false;
    for (int i = 1; i < model->info.classes; i++)
        if (found.probabilities[i] > found.probabilities[found.index]) found.index = i;
    found.label = model->labels[found.index];
    found.score = found.probabilities[found.index];
    found.map_width = model->map_width;
    found.map_height = model->map_height;
    found.class_map = found.class_maps + (size_t)found.index * (size_t)found.map_width *
                                             (size_t)found.map_height;
    *prediction = found;
    return true;
}

/* Run the graph on a golden sample, and give the largest difference of a probability. */
static bool replay_sample(nin_edge_model *model, int index, uint8_t *rgb, double *difference,
                          nin_edge_error *error) {
    sample golden = model->golden[index];
    size_t bytes = 3 * (size_t)golden.width * (size_t)golden.height;
    const float *probabilities = NULL, *maps = NULL;
    nin_edge_prediction square;
    OrtValue *whole = NULL;
    bool full = !strcmp(model->embedded, "full"), good;
    draw_golden(golden, rgb);
    if (full)
        good = create_input(model, rgb, (size_t)model->batch * bytes, golden.height, golden.width,
                            &whole, error);
    else
        good = feed(model, rgb, golden.width, golden.height, 3 * (size_t)golden.width, &square,
                    error);
    good = good && run(model, full ? whole : model->input, error) &&
           check_outputs(model, &probabilities, &maps, error);
    if (whole) model->ort->ReleaseValue(whole);
    int classes = model->info.classes;
    for (int i = 0; good && i < classes; i++) {
        double own = model->golden_rows[(size_t)index * (size_t)classes + (size_t)i];
        *difference = fmax(*difference, fabs(own - (double)probabilities[i]));
    }
    return good;
}

bool nin_edge_verify(nin_edge_model *model, nin_edge_replay *replay, nin_edge_error *error) {
    const char *precision = model->info.precision;
    nin_edge_replay found = {model->info.golden_samples, 0, 5e-2};
    if (!strcmp(precision, "fp32")) found.tolerance = 1e-4;
    if (!strcmp(precision, "fp16")) found.tolerance = 1e-2;
    size_t pixels = 0;
    for (int i = 0; i < found.samples; i++) {
        size_t own = (size_t)model->golden[i].width * (size_t)model->golden[i].height;
        if (own > pixels) pixels = own;
    }
    uint8_t *rgb = calloc((size_t)model->batch * pixels, 3);
    if (!rgb) return no_memory(error, model->name);
    bool good = true;
    for (int i = 0; good && i < found.samples; i++)
        good = replay_sample(model, i, rgb, &found.difference, error);
    free(rgb);
    if (!good) return false;
    if (replay) *replay = found;
    return found.difference <= found.tolerance ||
           fail(error, "%s: computes other probabilities here than where it was exported: its "
                "golden samples differ by %.2g, expected at most %g for %s", model->name,
                found.difference, found.tolerance, precision);
}
