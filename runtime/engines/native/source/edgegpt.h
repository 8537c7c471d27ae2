/* An engine that is compiled for one model and one kind of processor.
 *
 * Every function checks its arguments, and returns one of the codes below; those that take a
 * `message` write one sentence there if the code is not EDGEGPT_OK.
 *
 * An engine may be used from several threads: one computes, the others wait. A state is used by
 * one thread at a time.
 */
#ifndef EDGEGPT_H
#define EDGEGPT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEGPT_ABI 2
#define EDGEGPT_MESSAGE 256 /* bytes of a message, its end included */

#if defined(_WIN32)
#define EDGEGPT_API __declspec(dllexport)
#else
#define EDGEGPT_API __attribute__((visibility("default")))
#endif

typedef struct edgegpt_engine edgegpt_engine;
typedef struct edgegpt_sources edgegpt_sources;
typedef struct edgegpt_state edgegpt_state;

enum {
    EDGEGPT_OK = 0,
    EDGEGPT_BAD_ARGUMENT = 1,
    EDGEGPT_BAD_FILE = 2, /* the weights are not those that the engine was built for */
    EDGEGPT_NO_MEMORY = 3,
    EDGEGPT_NO_FEATURE = 4, /* the processor lacks what the engine was built for */
    EDGEGPT_SYSTEM = 5      /* the operating system refused something else */
};

enum { EDGEGPT_CACHE_FLOAT32 = 0, EDGEGPT_CACHE_FLOAT16 = 1 };

typedef struct {
    int32_t abi, vocab, block_size, layers, kv_heads, head_dim;
    int32_t source_vocab, source_block_size; /* of the encoder; 0 if the model has none */
    const char *target;   /* which kernels these are: "plain", "avx2", "avx512", "neon" */
    const char *features; /* what the processor has to have, with spaces between */
} edgegpt_facts;

/* What the engine was built for; it may be asked on any processor. */
EDGEGPT_API const edgegpt_facts *edgegpt_about(void);

/* Map the weights into memory and start the threads, of which the caller's is one. */
EDGEGPT_API int edgegpt_open(const char *weights_path, int threads, edgegpt_engine **out,
                             char *message);

/* Give back everything. The engine's states and sources must have been freed. */
EDGEGPT_API void edgegpt_close(edgegpt_engine *engine);

/* Encode n sources, for any number of states: source i has length[i] tokens, and `ids` has those of
 * all, one source after the other. Their keys and values are kept in the type `cache`. */
EDGEGPT_API int edgegpt_encode(edgegpt_engine *engine, int n, const int32_t *length,
                               const int64_t *ids, int cache, edgegpt_sources **out, char *message);
/* The states that read them must have been freed. */
EDGEGPT_API void edgegpt_free_sources(edgegpt_sources *sources);

/* A cache of `context` slots for each of `rows` texts.
 *
 * `sources` are those that a model with an encoder reads, null for other models. As many
 * neighbouring rows read the first source as any other. */
EDGEGPT_API int edgegpt_new_state(edgegpt_engine *engine, const edgegpt_sources *sources, int rows,
                                  int context, int cache, edgegpt_state **out, char *message);
EDGEGPT_API void edgegpt_free_state(edgegpt_state *state);

/* Feed new tokens of n different rows.
 *
 * row[i] gets count[i] tokens, for the slots from past[i] on, which must be filled up to there.
 * `ids` has the tokens of all rows, one row after the other. `position` has `wanted` indices into
 * `ids`: of these tokens the logits [wanted, vocab] are computed.
 */
EDGEGPT_API int edgegpt_step(edgegpt_state *state, int n, const int32_t *row, const int32_t *count,
                             const int64_t *past, const int64_t *ids, int wanted,
                             const int32_t *position, float *logits, char *message);

/* Copy the slots since .. slots - 1 of each source row to its target row, all at once: a row that
 * is both is copied before it is overwritten. No target occurs twice. Slots before `since` are
 * equal already. */
EDGEGPT_API int edgegpt_copy_rows(edgegpt_state *state, int n, const int32_t *source,
                                  const int32_t *target, int since, int slots, char *message);

/* Let the rows that read source i of the state read what was its source parent[i], for i below n,
 * all at once. The sources themselves stay as they are. */
EDGEGPT_API int edgegpt_move_sources(edgegpt_state *state, int n, const int32_t *parent,
                                     char *message);

/* Write `values` [kv_heads, slots, head_dim] into the first slots of a row. `cache` is 2 * layer
 * for the keys of a layer, and 2 * layer + 1 for its values. */
EDGEGPT_API int edgegpt_fill(edgegpt_state *state, int cache, int row, int slots,
                             const float *values, char *message);

/* Read what edgegpt_fill writes, or what steps have computed. */
EDGEGPT_API int edgegpt_read(edgegpt_state *state, int cache, int row, int slots, float *values,
                             char *message);

#ifdef EDGEGPT_STREAMS
/* In a debug build alone, which one thread uses: the residual stream of the tokens at the slots
 * first .. first + slots - 1, of whatever row, goes to kept [layers + 1, slots, width] from now on:
 * before the first layer, and after each one. Null ends it. */
EDGEGPT_API void edgegpt_keep_streams(float *kept, int first, int slots);

/* The same of the encoder, for sources that are encoded one at a time. If it has a norm after its
 * last layer, kept is [layers + 2, slots, width], and what that norm gives comes last. */
EDGEGPT_API void edgegpt_keep_source_streams(float *kept, int first, int slots);
#endif

#ifdef __cplusplus
}
#endif

#endif
