/* Feed a text to an engine in C: native_program WEIGHTS IDS THREADS CACHE OUT; writes all logits.
 *
 * Two rows take the text in different pieces, mixed in the same steps, and change places on the
 * way; they must end with the same bits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgegpt.h"

static char message[EDGEGPT_MESSAGE];

static void must(int code) {
    if (code == EDGEGPT_OK) return;
    fprintf(stderr, "%d: %s\n", code, message);
    exit(code);
}

static int least(int a, int b) { return a < b ? a : b; }

int main(int count, char **words) {
    if (count != 6) return 100;
    const edgegpt_facts *facts = edgegpt_about();
    const int ids = least(atoi(words[2]), facts->block_size);
    const size_t size = (size_t)ids * (size_t)facts->vocab;
    const int most[2] = {7, 150};
    edgegpt_engine *engine;
    edgegpt_state *state;
    must(edgegpt_open(words[1], atoi(words[3]), &engine, message));
    must(edgegpt_new_state(engine, NULL, 3, ids, atoi(words[4]), &state, message));
    int64_t *text = malloc(2 * sizeof *text * (size_t)ids);
    int32_t *wanted = malloc(2 * sizeof *wanted * (size_t)ids);
    float *both[2] = {malloc(size * sizeof(float)), malloc(size * sizeof(float))};
    float *fresh = malloc(2 * size * sizeof *fresh);
    int64_t past[2] = {0, 0};
    int32_t place[2] = {0, 1};
    while (past[0] < ids || past[1] < ids) {
        int32_t rows[2], counts[2];
        int64_t begins[2];
        int n = 0, total = 0;
        for (int row = 0; row < 2; ++row) {
            const int fed = least(most[row], ids - (int)past[row]);
            if (fed == 0) continue;
            for (int k = 0; k < fed; ++k) text[total + k] = (past[row] + k) * 7 % facts->vocab;
            rows[n] = place[row], counts[n] = fed, begins[n] = past[row];
            ++n, total += fed;
        }
        for (int k = 0; k < total; ++k) wanted[k] = k;
        must(edgegpt_step(state, n, rows, counts, begins, text, total, wanted, fresh, message));
        const float *found = fresh;
        for (int row = 0; row < 2; ++row) {
            const int fed = least(most[row], ids - (int)past[row]);
            const size_t floats = (size_t)fed * (size_t)facts->vocab;
            memcpy(both[row] + past[row] * facts->vocab, found, floats * sizeof *found);
            found += floats, past[row] += fed;
        }
        const int32_t from[2] = {place[0], place[1]}, to[2] = {place[1], place[0]};
        must(edgegpt_copy_rows(state, 2, from, to, 0, ids, message));
        place[0] = to[0], place[1] = to[1];
    }
    if (memcmp(both[0], both[1], size * sizeof(float)) != 0) return 101;
    FILE *out = fopen(words[5], "wb");
    if (out == NULL || fwrite(both[0], sizeof(float), size, out) != size) return 102;
    fclose(out);
    free(text), free(wanted), free(both[0]), free(both[1]), free(fresh);
    edgegpt_free_state(state);
    edgegpt_close(engine);
    return 0;
}
