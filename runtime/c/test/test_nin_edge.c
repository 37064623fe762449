/* Tests of nin_edge.c, whose source is included, so that its inner functions can be called.
 *
 *     test_nin_edge DATA MUTATIONS
 *
 * DATA is the folder tests/data of the repository. MUTATIONS is the number of damaged models; 20
 * times as many values of JSON are damaged. */
#include <locale.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Allocations of nin_edge.c are counted, and one of them can be made to fail. */
static int allocations, failing = -1;

static bool next_allocation_fails(void) {
    return allocations++ == failing;
}

static void *counted_malloc(size_t size) {
    return next_allocation_fails() ? NULL : malloc(size);
}

static void *counted_calloc(size_t count, size_t size) {
    return next_allocation_fails() ? NULL : calloc(count, size);
}

static void *counted_realloc(void *memory, size_t size) {
    return next_allocation_fails() ? NULL : realloc(memory, size);
}

#define malloc counted_malloc
#define calloc counted_calloc
#define realloc counted_realloc
#include "../nin_edge.c"
#undef malloc
#undef calloc
#undef realloc

static int failures;

#define CHECK(condition)                                                                   \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                \
            failures++;                                                                    \
        }                                                                                  \
    } while (0)

static const char *data_folder;

static const char *path_of(const char *name) {
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", data_folder, name);
    return path;
}

static nin_edge_model *opened(const char *name) {
    nin_edge_error error = {""};
    nin_edge_model *model = nin_edge_open(path_of(name), 1, &error);
    if (!model) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    return model;
}

static uint32_t random_state = 1;

static uint32_t random_below(uint32_t below) { /* Marsaglia's xorshift */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % below;
}

static const char *hashed(const void *bytes, size_t count, size_t part) {
    static char digits[DIGITS + 1];
    sha256 hash = {.length = 0};
    memcpy(hash.state, SHA256_START, sizeof hash.state);
    for (size_t at = 0; at < count; at += part)
        sha256_add(&hash, (const uint8_t *)bytes + at, count - at < part ? count - at : part);
    sha256_end(&hash, digits);
    return digits;
}

static void test_sha256_has_the_standards_vectors(void) {
    static const char two[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    static char many[1000000];
    memset(many, 'a', sizeof many);
    CHECK(!strcmp(hashed("", 0, 1),
                  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    CHECK(!strcmp(hashed("abc", 3, 3),
                  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
    for (size_t part = 1; part < 64; part += 7)
        CHECK(!strcmp(hashed(two, strlen(two), part),
                      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"));
    CHECK(!strcmp(hashed(many, sizeof many, 1000),
                  "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"));
}

/* The vectors of docs/artifact.md. */
static void test_golden_images_have_the_contracts_bytes(void) {
    static const struct {
        sample golden;
        const char *digits;
    } vectors[] = {
        {{0, 16, 16}, "5595e1ed119e0b35e901572b0b000566130e3011ccbdc08dd84bf75964832fb6"},
        {{7, 1, 1}, "cf3d3bdf889d70c67c34ad02f9062ae82d6bf6dd3345fe6c5349e4c232cfdf6a"},
        {{12345, 48, 80}, "a2066b3285b9322109fc31d0b9621448a8e4a212a44ba9de4bb64c01e233f731"},
        {{2147483647, 33, 20}, "e0ff950dac87c6ab06a50963f280bfd701c302a332960a2cd1e9cf52e834000d"},
        {{5, 480, 640}, "6cc2f4163a943b9c8e6fdeb0a320efdd6d486de1d377d4c7327951d8175536cf"},
        {{99, 2560, 3}, "3329cfa2614dd3b944657549a798316ea5d8025f00fcdd88b432d341c0829ea1"},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        size_t count = 3 * (size_t)vectors[i].golden.height * (size_t)vectors[i].golden.width;
        uint8_t *rgb = malloc(count);
        draw_golden(vectors[i].golden, rgb);
        CHECK(!strcmp(hashed(rgb, count, count), vectors[i].digits));
        free(rgb);
    }
}

static void test_resized_images_have_the_contracts_bytes(void) {
    static const struct {
        sample golden;
        int size, channels;
        const char *digits;
    } vectors[] = {
        {{1, 16, 16}, 16, 3, "d29e9e47f6fec72d15896599a25ce9c82f514758e4c7ebda3f4b295e085931bb"},
        {{2, 31, 20}, 16, 3, "cb3461c43be9f41b78c4579d15c890c71ab409a960f8f25f7d6bdba3fac5046b"},
        {{3, 20, 33}, 48, 3, "e1d19626eb61b622c22020bb200360e3809d0b6b7e0f15f003b0c43515a48a23"},
        {{4, 1, 1}, 16, 3, "9095195b61b71084fe62125efe612f337f214fb994dd3fc5c897b7dd74dd99c0"},
        {{5, 480, 640}, 224, 3, "15e07f72141a2724a1e4e40c13f84e4076213df5231c02354c51d2f23a89213c"},
        {{6, 600, 401}, 32, 1, "9cfab2ae7a82eabc04a4a7940f9c0faaec1293562c18dbecc0d41b143aad8adf"},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        int height = vectors[i].golden.height, width = vectors[i].golden.width;
        size_t stride = 3 * (size_t)width, area = (size_t)vectors[i].size * (size_t)vectors[i].size;
        uint8_t *rgb = malloc((size_t)height * stride);
        nin_edge_model model = {.info = {.size = vectors[i].size, .channels = vectors[i].channels}};
        nin_edge_prediction crop;
        model.square = malloc(3 * area);
        model.pixels = model.square;
        model.filter.first = malloc((size_t)vectors[i].size * sizeof(int));
        model.filter.count = malloc((size_t)vectors[i].size * sizeof(int));
        draw_golden(vectors[i].golden, rgb);
        CHECK(feed(&model, rgb, width, height, stride, &crop, NULL));
        area *= (size_t)vectors[i].channels;
        CHECK(!strcmp(hashed(model.square, area, area), vectors[i].digits));
        free(rgb);
        free(model.pixels);
        free(model.filter.first);
        free(model.filter.count);
        free(model.filter.weights);
        free(model.narrow);
        free(model.luma);
    }
}

static json parser(const char *text, nin_edge_error *error) {
    return (json){text, text + strlen(text), "model", "value", error, 0, false};
}

static void test_strings_are_decoded(void) {
    static const struct {
        const char *text, *decoded; /* NULL where it is refused */
    } cases[] = {
        {"\"\"", ""},
        {" \"a\\u00e9\\n\\/\"", "a\xc3\xa9\n/"},
        {"\"\\ud83d\\ude00\xf0\x9f\x98\x80\"", "\xf0\x9f\x98\x80\xf0\x9f\x98\x80"},
        {"\"\\uFFFF\\u0800\"", "\xef\xbf\xbf\xe0\xa0\x80"},
        {"\"\\u0000\"", NULL},
        {"\"\\ud800\"", NULL},
        {"\"\\ud800\\ud800\"", NULL},
        {"\"\\udc00\"", NULL},
        {"\"\\ud83d\\n\"", NULL},
        {"\"\\u12", NULL},
        {"\"\\u12g4\"", NULL},
        {"\"\\x\"", NULL},
        {"\"\\", NULL},
        {"\"a\nb\"", NULL},
        {"\"a", NULL},
        {"\"\xff\"", NULL},
        {"\"\xc0\x80\"", NULL},
        {"\"\xe0\x80\x80\"", NULL},
        {"\"\xed\xa0\x80\"", NULL},
        {"\"\xf4\x90\x80\x80\"", NULL},
        {"\"\xc3", NULL},
        {"a", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nin_edge_error error = {""};
        char buffer[32] = "";
        json text = parser(cases[i].text, &error);
        take_string(&text, buffer, sizeof buffer);
        CHECK(text.failed == !cases[i].decoded && !text.failed == !*error.message);
        if (cases[i].decoded) CHECK(!strcmp(buffer, cases[i].decoded));
    }
}

static void test_numbers_are_read_in_every_locale(void) {
    static const struct {
        const char *text;
        double value; /* NaN where it is refused */
    } cases[] = {
        {"0", 0},       {"-0.5", -0.5},  {"1e3", 1000},   {"12.5E-1", 1.25}, {"0.1", 0.1},
        {"01", NAN},    {"1.", NAN},     {".5", NAN},     {"+1", NAN},       {"1e", NAN},
        {"-", NAN},     {"1e999", NAN},  {"NaN", NAN},    {"--1", NAN},
        {"1e+-1", NAN}, {"1.5.5", NAN}, {"", NAN}, {"Infinity", NAN},
        {"100000000000000000000000", NAN},
    };
    static const char *const locales[] = {"C", "de_DE.UTF-8"};
    for (int at = 0; at < 2; at++) {
        if (!setlocale(LC_NUMERIC, locales[at])) continue; /* not installed */
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            json text = parser(cases[i].text, NULL);
            bool whole;
            double value = take_number(&text, &whole);
            CHECK(text.failed == (isnan(cases[i].value) != 0));
            if (!text.failed) CHECK(value == cases[i].value);
        }
    }
    setlocale(LC_NUMERIC, "C");
}

static void test_deep_json_ends_with_an_error(void) {
    char text[MAX_DEPTH + 8] = "";
    nin_edge_error error = {""};
    memset(text, '[', MAX_DEPTH + 1);
    json deep = parser(text, &error);
    skip(&deep);
    CHECK(deep.failed && strstr(error.message, "nested"));
}

static void test_broken_json_is_read_without_a_crash(int rounds) {
    static const char *const texts[] = {
        "[\"a\", \"\\u00e9\\ud83d\\ude00\", \"b\\n\"]",
        "{\"size\": 16, \"channels\": 3, \"mean\": [0.5, 0.5, 0.5], \"std\": [0.25, 0.25, 0.25], "
        "\"embedded\": \"full\", \"later\": [{}, [true, null, false]]}",
        "\"fp16\"",
        "1.5",
        "{\"formula\": 1, \"images\": [[0, 16, 16], [1, 80, 8]], \"pytorch\": [[0.5, 0.25, 0.25], "
        "[1, 0, 0]], \"file\": [[0.5, 0.25, 0.25], [1, 0, 0]]}",
    };
    static const int keys[] = {LABELS, PREPROCESSING, PRECISION, TEMPERATURE, GOLDEN};
    static const char bytes[] = "[]{}\",:\\u0d8e19.-+ \t\xc3\xf0";
    for (int round = 0; round < rounds; round++) {
        char broken[512];
        size_t which = random_below(5), length = strlen(texts[which]);
        nin_edge_error error;
        nin_edge_model *model = calloc(1, sizeof *model);
        memcpy(broken, texts[which], length + 1);
        for (uint32_t changes = random_below(4); changes; changes--)
            broken[random_below((uint32_t)length)] = bytes[random_below(sizeof bytes - 1)];
        if (!random_below(4)) length = random_below((uint32_t)length);
        json text = {broken, broken + length, "model", "value", &error, 0, false};
        model->name = calloc(1, 1);
        model->info.classes = 3;
        model->info.size = 16;
        read_value(model, keys[which], &text);
        nin_edge_close(model);
    }
}

static void test_every_kind_of_model_passes_its_golden_samples(void) {
    static const char *const names[] = {"format-1.fp32.onnx", "normalize.fp32.onnx",
                                        "none.fp32.onnx", "grey.fp32.onnx", "grey-none.fp32.onnx"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        nin_edge_model *model = opened(names[i]);
        const nin_edge_info *info = nin_edge_get_info(model);
        nin_edge_replay replay;
        nin_edge_error error = {""};
        CHECK(info->classes == 3 && info->size == 16 && info->format_version == 1);
        CHECK(!strcmp(info->labels[2], "\xc3\xa9toile") && !strcmp(info->precision, "fp32"));
        CHECK(info->channels == (strstr(names[i], "grey") ? 1 : 3) && info->temperature == 1.5);
        CHECK(nin_edge_verify(model, &replay, &error));
        CHECK(replay.samples == 8 && replay.difference <= 1e-6 && replay.tolerance == 1e-4);
        model->golden_rows[4] += 0.01;
        CHECK(!nin_edge_verify(model, NULL, &error) && strstr(error.message, "differ by 0.01"));
        nin_edge_close(model);
    }
}

static void test_a_prediction_is_the_networks(void) {
    nin_edge_model *model = opened("format-1.fp32.onnx");
    nin_edge_error error = {""};
    nin_edge_prediction found;
    uint8_t rgb[40 * 100] = {0}; /* 33 x 40 pixels, a byte after each row */
    for (size_t i = 0; i < sizeof rgb; i++) rgb[i] = (uint8_t)(i * 7);
    CHECK(nin_edge_classify(model, rgb, 33, 40, 100, &found, &error));
    CHECK(found.left == 0 && found.top == 3 && found.side == 33);
    float sum = 0, mean = 0;
    for (int i = 0; i < 3; i++) {
        sum += found.probabilities[i];
        CHECK(found.probabilities[i] <= found.score);
    }
    CHECK(fabsf(sum - 1) < 1e-5f && found.score == found.probabilities[found.index]);
    CHECK(found.label == nin_edge_get_info(model)->labels[found.index]);
    int pixels = found.map_width * found.map_height;
    float logits[3] = {0}; /* docs/artifact.md: probabilities = softmax(mean of each map / T) */
    for (int i = 0; i < 3 * pixels; i++) logits[i / pixels] += found.class_maps[i] / (float)pixels;
    for (int i = 0; i < 3; i++) mean += expf((logits[i] - logits[found.index]) / 1.5f);
    CHECK(fabsf(1 / mean - found.score) < 1e-5f);
    CHECK(found.class_map == found.class_maps + found.index * pixels);
    nin_edge_close(model);
}

static void test_bad_images_have_an_error(void) {
    static const struct {
        int width, height;
        size_t stride;
        const char *expected;
    } cases[] = {
        {0, 5, 0, "0 x 5 pixels, expected at least one"},
        {5, -1, 15, "5 x -1 pixels, expected at least one"},
        {5, 5, 14, "rows 14 bytes apart, expected at least 15"},
        {5, 5, SIZE_MAX, "rows"},
        {20000, 20000, 60000, "more than the 100000000 allowed"},
    };
    nin_edge_model *model = opened("format-1.fp32.onnx");
    nin_edge_prediction found;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nin_edge_error error = {""};
        CHECK(!nin_edge_classify(model, (const uint8_t *)"", cases[i].width, cases[i].height,
                                 cases[i].stride, &found, &error));
        CHECK(strstr(error.message, cases[i].expected));
    }
    CHECK(!nin_edge_classify(model, NULL, 1, 1, 3, &found, NULL));
    nin_edge_close(model);
}

static void test_bad_files_have_an_error(void) {
    nin_edge_error error = {""};
    static const char checkpoint[16] = {4, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    CHECK(!nin_edge_open(path_of("no-such.onnx"), 1, &error));
    CHECK(strstr(error.message, "no-such.onnx: cannot be read (No such file"));
    CHECK(!nin_edge_open(data_folder, 1, &error));
    CHECK(strstr(error.message, "expected an .onnx model"));
    CHECK(!nin_edge_open(path_of("metadata_cases.json"), 1, &error));
    CHECK(strstr(error.message, "not an ONNX model"));
    CHECK(!nin_edge_open_bytes("", 0, "nothing", 1, &error));
    CHECK(strstr(error.message, "nothing: an empty file, expected an .onnx model"));
    CHECK(!nin_edge_open_bytes("\x3a\x00", 2, "bare", 1, &error));
    CHECK(strstr(error.message, "without nin-edge's metadata"));
    CHECK(!nin_edge_open_bytes(checkpoint, sizeof checkpoint, "weights", 1, &error));
    CHECK(strstr(error.message, "a checkpoint (safetensors)"));
    CHECK(!nin_edge_open(path_of("format-1.fp32.onnx"), 0, &error));
    CHECK(strstr(error.message, "threads: 0, expected 1 to 1024"));
}

/* Change a copy of a file: bits, bytes, or its length. */
static size_t damage(uint8_t *bytes, size_t count) {
    uint32_t size = (uint32_t)count, at = random_below(size), length = 1 + random_below(64);
    if (length > size - at) length = size - at;
    switch (random_below(8)) {
    case 0: return at; /* cut off */
    case 1: /* some bytes are missing */
        memmove(bytes + at, bytes + at + length, count - at - length);
        return count - length;
    case 2: /* some bytes are there twice; there is room for 64 */
        memmove(bytes + at + length, bytes + at, count - at);
        return count + length;
    case 3: /* other bytes */
        for (uint32_t i = 0; i < length; i++) bytes[at + i] = (uint8_t)random_below(256);
        return count;
    default: bytes[at] ^= (uint8_t)(1 << random_below(8)); return count;
    }
}

static void test_damaged_models_are_refused(int mutations) {
    nin_edge_error error = {""};
    size_t count = 0;
    uint8_t *bytes = read_file(path_of("format-1.fp32.onnx"), &count, &error);
    uint8_t *copy = malloc(count + 64);
    int by_hash = 0;
    for (int round = 0; round < mutations; round++) {
        memcpy(copy, bytes, count);
        size_t size = damage(copy, count);
        if (size == count && !memcmp(copy, bytes, count)) continue;
        *error.message = 0;
        nin_edge_model *model = nin_edge_open_bytes(copy, size, "damaged", 1, &error);
        CHECK(!model && *error.message && !strstr(error.message, "ONNX Runtime"));
        by_hash += strstr(error.message, "SHA-256") != NULL;
        nin_edge_close(model);
    }
    CHECK(by_hash > mutations / 2);
    free(bytes);
    free(copy);
}

static void test_sizes_seen_before_allocate_nothing(void) {
    static const int sizes[][2] = {{640, 480}, {16, 16}, {31, 20}, {480, 700}, {100, 100}};
    static const char *const names[] = {"format-1.fp32.onnx", "grey-none.fp32.onnx"};
    uint8_t *rgb = calloc(700 * 700, 3);
    for (int i = 0; i < 2; i++) {
        nin_edge_model *model = opened(names[i]);
        nin_edge_prediction found;
        for (int round = 0; round < 4; round++) {
            allocations = 0;
            for (int at = 0; at < 5; at++)
                CHECK(nin_edge_classify(model, rgb, sizes[at][0], sizes[at][1],
                                        3 * (size_t)sizes[at][0], &found, NULL));
            CHECK(round ? allocations == 0 : allocations > 0);
        }
        nin_edge_close(model);
    }
    free(rgb);
}

static void test_every_failed_allocation_has_an_error(void) {
    uint8_t rgb[3 * 20 * 20] = {0};
    for (bool good = false; !good;) {
        nin_edge_error error = {""};
        nin_edge_prediction found;
        failing++;
        allocations = 0;
        nin_edge_model *model = nin_edge_open(path_of("grey-none.fp32.onnx"), 1, &error);
        good = model && nin_edge_classify(model, rgb, 20, 20, 60, &found, &error) &&
               nin_edge_verify(model, NULL, &error);
        CHECK(good == !strstr(error.message, "not enough memory"));
        nin_edge_close(model);
    }
    CHECK(failing > 10);
    failing = -1;
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: test_nin_edge DATA MUTATIONS\n");
        return 2;
    }
    data_folder = arguments[1];
    test_sha256_has_the_standards_vectors();
    test_golden_images_have_the_contracts_bytes();
    test_resized_images_have_the_contracts_bytes();
    test_strings_are_decoded();
    test_numbers_are_read_in_every_locale();
    test_deep_json_ends_with_an_error();
    test_broken_json_is_read_without_a_crash(20 * atoi(arguments[2]));
    test_every_kind_of_model_passes_its_golden_samples();
    test_a_prediction_is_the_networks();
    test_bad_images_have_an_error();
    test_bad_files_have_an_error();
    test_damaged_models_are_refused(atoi(arguments[2]));
    test_sizes_seen_before_allocate_nothing();
    test_every_failed_allocation_has_an_error();
    printf("%d failures\n", failures);
    return failures != 0;
}
