/* Greedy decoding with an engine that `edgegpt build BUNDLE --backend native --out FOLDER` wrote:
 *
 *     native WEIGHTS COUNT ID...
 *
 * continues the token ids by COUNT new ones and prints these. It is linked with the libedgegpt.so of
 * that folder, where edgegpt.h describes the functions, and needs neither Python nor ONNX Runtime.
 * The exit code is 1 if something is refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "edgegpt.h"

enum { THREADS = 1 };

static void fail(const char *what) {
    fprintf(stderr, "native: %s\n", what);
    exit(1);
}

static void check(int code, const char *message) {
    if (code != EDGEGPT_OK) fail(message);
}

static int64_t number(const char *text) {
    char *end;
    errno = 0;
    const int64_t value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0') fail("COUNT and IDs are whole numbers");
    return value;
}

static int64_t likeliest(const float *logits, int32_t vocab) {
    int64_t best = 0;
    for (int32_t id = 1; id < vocab; ++id)
        if (logits[id] > logits[best]) best = id;
    return best;
}

int main(int argc, char **argv) {
    char message[EDGEGPT_MESSAGE];
    if (argc < 4) fail("usage: native WEIGHTS COUNT ID...");
    const int32_t given = argc - 3;
    const int64_t wanted = number(argv[2]);
    const edgegpt_facts *facts = edgegpt_about();
    if (facts->abi != EDGEGPT_ABI) fail("the engine has another interface");
    if (wanted < 1 || wanted > facts->block_size - given)
        fail("the text is empty or too long for the model");

    edgegpt_engine *engine;
    edgegpt_state *state;
    check(edgegpt_open(argv[1], THREADS, &engine, message), message);
    const int slots = given + (int)wanted;
    check(edgegpt_new_state(engine, NULL, 1, slots, EDGEGPT_CACHE_FLOAT32, &state, message), message);

    int64_t *ids = malloc((size_t)slots * sizeof *ids);
    float *logits = malloc((size_t)facts->vocab * sizeof *logits);
    if (ids == NULL || logits == NULL) fail("no memory");
    for (int32_t i = 0; i < given; ++i) ids[i] = number(argv[3 + i]);

    const int32_t row = 0;
    int32_t count = given; /* the prompt at once, then a token a step */
    int64_t past = 0;
    for (int64_t made = 0; made < wanted; ++made) {
        const int32_t last = count - 1;
        check(edgegpt_step(state, 1, &row, &count, &past, ids + past, 1, &last, logits, message),
              message);
        past += count;
        count = 1;
        ids[past] = likeliest(logits, facts->vocab);
        printf("%" PRId64 "%c", ids[past], made + 1 < wanted ? ' ' : '\n');
    }
    edgegpt_free_state(state);
    edgegpt_close(engine);
    free(ids);
    free(logits);
    return 0;
}
