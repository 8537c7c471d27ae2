// The C border: checks of everything that comes from outside, and the life of engines and states.
#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>

#include "edgegpt.h"
#include "encoding.h"
#include "model.h"
#include "objects.h"
#include "processor.h"
#include "request.h"
#include "step.h"

using namespace edgegpt;
using model::Decoder, model::Encoder;

namespace {

constexpr int most_threads = 1024;
constexpr std::size_t header_bytes = 64;
constexpr char magic[8] = {'E', 'D', 'G', 'E', 'G', 'P', 'T', 'W'};
constexpr std::uint32_t file_format = 2;

// Tells of a missing feature, too, so it is as careful as those functions are.
[[gnu::format(printf, 3, 4)]] EDGEGPT_BASELINE int fail(char *message, int code, const char *format,
                                                        ...) {
    if (message == nullptr) return code;
    va_list arguments;
    va_start(arguments, format);
    static_cast<void>(std::vsnprintf(message, EDGEGPT_MESSAGE, format, arguments));
    va_end(arguments);
    return code;
}

int no_memory(char *message, const char *what) {
    return fail(message, EDGEGPT_NO_MEMORY, "there is not enough memory for %s", what);
}

int check_file(const edgegpt_engine &engine, char *message) {
    if (engine.file.size() != model::file_size)
        return fail(message, EDGEGPT_BAD_FILE, "the weights have %llu bytes and not %llu",
                    static_cast<unsigned long long>(engine.file.size()),
                    static_cast<unsigned long long>(model::file_size));
    char expected[header_bytes] = {};
    const std::uint32_t format = file_format;
    const std::uint64_t size = model::file_size;
    std::memcpy(expected, magic, sizeof magic);
    std::memcpy(expected + 8, &format, sizeof format);
    std::memcpy(expected + 16, &size, sizeof size);
    std::memcpy(expected + 24, model::hash, sizeof model::hash);
    if (std::memcmp(engine.file.begin(), expected, header_bytes) != 0)
        return fail(message, EDGEGPT_BAD_FILE, "the weights are not those of this engine");
    return EDGEGPT_OK;
}

constexpr int most_rows_of_state = 1 << 16;  // of a state

bool is_outside(std::int64_t value, std::int64_t first, std::int64_t last) {
    return value < first || value > last;
}

bool is_no_cache(int cache) {
    return is_outside(cache, EDGEGPT_CACHE_FLOAT32, EDGEGPT_CACHE_FLOAT16);
}
Kind kind_of(int cache) { return cache == EDGEGPT_CACHE_FLOAT32 ? Kind::float32 : Kind::float16; }

// Give a cache its memory. Returns whether there was room.
bool reserve(Cache &cache, Pages &memory) {
    if (!memory.reserve(as_size(cache.bytes(Decoder::layers)))) return false;
    cache.memory = reinterpret_cast<std::uint8_t *>(memory.begin());
    return true;
}

// Check one of the rows that a step feeds; `total` has the number of ids before it.
int check_row(const edgegpt_state &state, const Request &request, int i, std::int64_t &total,
              char *message) {
    const int row = request.row[i], count = request.count[i];
    const std::int64_t past = request.past[i];
    if (is_outside(row, 0, state.rows - 1) || state.seen[as_size(row)])
        return fail(message, EDGEGPT_BAD_ARGUMENT, "row %d is fed twice, or is none of the %d rows",
                    row, state.rows);
    state.seen[as_size(row)] = true;
    if (is_outside(count, 1, state.context) || is_outside(past, 0, state.context - count))
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "%d new tokens after %lld do not fit the %d slots of row %d", count,
                    static_cast<long long>(past), state.context, row);
    for (int k = 0; k < count; ++k)
        if (is_outside(request.ids[total + k], 0, Decoder::vocab - 1))
            return fail(message, EDGEGPT_BAD_ARGUMENT, "the id %lld is none of the %d ids",
                        static_cast<long long>(request.ids[total + k]), Decoder::vocab);
    total += count;
    return EDGEGPT_OK;
}

int check_request(const edgegpt_state &state, const Request &request, char *message) {
    if (is_outside(request.n, 1, state.rows) || request.wanted < 0)
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "a step feeds 1 to %d rows, not %d, and wants %d "
                    "logits",
                    state.rows, request.n, request.wanted);
    if (request.row == nullptr || request.count == nullptr || request.past == nullptr ||
        request.ids == nullptr ||
        (request.wanted > 0 && (request.position == nullptr || request.logits == nullptr)))
        return fail(message, EDGEGPT_BAD_ARGUMENT, "an argument of the step is a null pointer");
    std::memset(state.seen.get(), 0, as_size(state.rows) * sizeof(bool));
    std::int64_t total = 0;
    for (int i = 0; i < request.n; ++i)
        if (const int code = check_row(state, request, i, total, message)) return code;
    for (int i = 0; i < request.wanted; ++i)
        if (is_outside(request.position[i], 0, total - 1))
            return fail(message, EDGEGPT_BAD_ARGUMENT, "logits are wanted of token %d of %lld",
                        request.position[i], static_cast<long long>(total));
    return EDGEGPT_OK;
}

}  // namespace

extern "C" EDGEGPT_BASELINE const edgegpt_facts *edgegpt_about(void) {
    static char names[16 * sizeof features / sizeof features[0]];
    static const edgegpt_facts facts = {EDGEGPT_ABI,
                                        Decoder::vocab,
                                        Decoder::block_size,
                                        Decoder::layers,
                                        Decoder::kv_heads,
                                        Decoder::head_dim,
                                        model::has_encoder ? Encoder::vocab : 0,
                                        model::has_encoder ? Encoder::block_size : 0,
                                        target_name,
                                        names};
    list_features(names);
    return &facts;
}

// For processors that have everything.
[[gnu::noinline]] static int open_engine(const char *path, int threads, edgegpt_engine **out,
                                         char *message) {
    if (path == nullptr || out == nullptr || is_outside(threads, 1, most_threads))
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "an engine needs a path, 1 to %d threads, and a place for the result",
                    most_threads);
    std::unique_ptr<edgegpt_engine> engine(new (std::nothrow) edgegpt_engine);
    if (!engine || !engine->space.reserve(threads)) return no_memory(message, "an engine");
    if (!engine->file.map(path))
        return fail(message, EDGEGPT_BAD_FILE, "the weights cannot be opened: %s",
                    std::strerror(errno));
    if (const int code = check_file(*engine, message)) return code;
    engine->threads = threads;
    engine->team = Team::start(threads);
    if (engine->team == nullptr)
        return fail(message, EDGEGPT_SYSTEM, "the system does not start %d threads", threads);
    *out = engine.release();
    return EDGEGPT_OK;
}

extern "C" EDGEGPT_BASELINE int edgegpt_open(const char *path, int threads, edgegpt_engine **out,
                                             char *message) {
    if (const char *missing = missing_feature())
        return fail(message, EDGEGPT_NO_FEATURE, "the engine was built for processors with %s",
                    missing);
    return open_engine(path, threads, out, message);
}

extern "C" void edgegpt_close(edgegpt_engine *engine) { delete engine; }

static int check_sources(int n, const int32_t *length, const int64_t *ids, int cache,
                         char *message) {
    if (length == nullptr || ids == nullptr || is_outside(n, 1, most_rows_of_state) ||
        is_no_cache(cache))
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "1 to %d sources are encoded, with lengths and ids, into float32 or float16",
                    most_rows_of_state);
    for (int i = 0; i < n; ++i) {
        if (is_outside(length[i], 1, Encoder::block_size))
            return fail(message, EDGEGPT_BAD_ARGUMENT,
                        "source %d has %d tokens, and the encoder takes 1 to %d", i, length[i],
                        Encoder::block_size);
        for (int k = 0; k < length[i]; ++k, ++ids)
            if (is_outside(*ids, 0, Encoder::vocab - 1))
                return fail(message, EDGEGPT_BAD_ARGUMENT, "the id %lld is none of the %d ids",
                            static_cast<long long>(*ids), Encoder::vocab);
    }
    return EDGEGPT_OK;
}

// Room for the keys and values of sources; null if there is none.
static std::unique_ptr<edgegpt_sources> room_for(int n, const int32_t *length, int cache) {
    std::unique_ptr<edgegpt_sources> room(new (std::nothrow) edgegpt_sources);
    if (!room) return room;
    room->length.reset(new (std::nothrow) std::int32_t[as_size(n)]);
    if (!room->length) return nullptr;
    int longest = 0;
    for (int i = 0; i < n; ++i)
        room->length[as_size(i)] = length[i], longest = larger(longest, length[i]);
    room->cache = Cache(kind_of(cache), n, longest, Decoder::heads, Decoder::head_dim);
    return reserve(room->cache, room->memory) ? std::move(room) : nullptr;
}

// A template, so that models without an encoder have none.
template <class Stack>
static int encode(edgegpt_engine &engine, Texts texts, const Cache &out, char *message) {
    if constexpr (model::has_encoder) {
        Turn turn(engine);
        Team *team = turn.team();
        if (team == nullptr) return fail(message, EDGEGPT_SYSTEM, "the system starts no threads");
        for (int row = 0; texts.count > 0;) {
            Encoding<Stack> encoding(engine.weights(), engine.space, *team, out, row);
            const int together = encoding.most_together(texts);
            if (!encoding.run({together, texts.length, texts.ids}))
                return no_memory(message, "encoding sources");
            for (int i = 0; i < together; ++i) texts.ids += texts.length[i];
            texts.length += together, texts.count -= together, row += together;
        }
    }
    return EDGEGPT_OK;
}

extern "C" int edgegpt_encode(edgegpt_engine *engine, int n, const int32_t *length,
                              const int64_t *ids, int cache, edgegpt_sources **out, char *message) {
    if (engine == nullptr || out == nullptr || !model::has_encoder)
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "sources need an engine of a model with an encoder, and a place for the "
                    "result");
    if (const int code = check_sources(n, length, ids, cache, message)) return code;
    std::unique_ptr<edgegpt_sources> sources = room_for(n, length, cache);
    if (!sources) return no_memory(message, "the keys and values of sources");
    sources->engine = engine;
    const Texts texts = {n, length, ids};
    if (const int code = encode<Encoder>(*engine, texts, sources->cache, message)) return code;
    *out = sources.release();
    return EDGEGPT_OK;
}

extern "C" void edgegpt_free_sources(edgegpt_sources *sources) { delete sources; }

static int check_state(const edgegpt_engine *engine, const edgegpt_sources *sources, int rows,
                       int context, int cache, char *message) {
    if (engine == nullptr || is_outside(rows, 1, most_rows_of_state) ||
        is_outside(context, 1, Decoder::block_size) || is_no_cache(cache))
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "a state has 1 to %d rows of 1 to %d slots, of float32 or float16",
                    most_rows_of_state, Decoder::block_size);
    if ((sources != nullptr) != model::has_encoder)
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    model::has_encoder ? "the model has an encoder, so a state needs sources"
                                       : "the model has no encoder, so a state takes no sources");
    if (sources != nullptr && (sources->engine != engine || rows % sources->cache.rows != 0))
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "%d rows cannot share %d sources evenly, or another engine encoded these", rows,
                    sources->cache.rows);
    return EDGEGPT_OK;
}

// Let the rows of a state read sources in their order. Returns whether there was memory for that.
static bool read_sources(edgegpt_state &state, const edgegpt_sources &sources) {
    const int count = sources.cache.rows;
    state.source.reset(new (std::nothrow) std::int32_t[as_size(count)]);
    if (!state.source) return false;
    for (int i = 0; i < count; ++i) state.source[as_size(i)] = i;
    state.reading = {&sources.cache, sources.length.get(), state.source.get(), state.rows / count};
    return true;
}

extern "C" int edgegpt_new_state(edgegpt_engine *engine, const edgegpt_sources *sources, int rows,
                                 int context, int cache, edgegpt_state **out, char *message) {
    if (out == nullptr)
        return fail(message, EDGEGPT_BAD_ARGUMENT, "a state needs a place for the result");
    if (const int code = check_state(engine, sources, rows, context, cache, message)) return code;
    std::unique_ptr<edgegpt_state> state(new (std::nothrow) edgegpt_state);
    if (!state) return no_memory(message, "a state");
    state->engine = engine, state->rows = rows, state->context = context;
    state->seen.reset(new (std::nothrow) bool[as_size(rows)]);
    state->cache = Cache(kind_of(cache), rows, context, Decoder::kv_heads, Decoder::head_dim);
    if (!state->seen || !reserve(state->cache, state->memory) ||
        (sources != nullptr && !read_sources(*state, *sources)))
        return no_memory(message, "the keys and values of a state");
    *out = state.release();
    return EDGEGPT_OK;
}

extern "C" int edgegpt_move_sources(edgegpt_state *state, int n, const int32_t *parent,
                                    char *message) {
    const int count =
        state == nullptr || !state->source ? 0 : state->rows / state->reading.rows_each;
    if (parent == nullptr || is_outside(n, 1, count))
        return fail(message, EDGEGPT_BAD_ARGUMENT, "cannot move %d sources of %d", n, count);
    for (int i = 0; i < n; ++i)
        if (is_outside(parent[i], 0, count - 1))
            return fail(message, EDGEGPT_BAD_ARGUMENT, "there is no source %d of %d to move",
                        parent[i], count);
    std::unique_ptr<std::int32_t[]> before(new (std::nothrow) std::int32_t[as_size(count)]);
    if (!before) return no_memory(message, "moving sources");
    std::copy_n(state->source.get(), count, before.get());
    for (int i = 0; i < n; ++i) state->source[as_size(i)] = before[as_size(parent[i])];
    return EDGEGPT_OK;
}

extern "C" void edgegpt_free_state(edgegpt_state *state) { delete state; }

extern "C" int edgegpt_step(edgegpt_state *state, int n, const int32_t *row, const int32_t *count,
                            const int64_t *past, const int64_t *ids, int wanted,
                            const int32_t *position, float *logits, char *message) {
    if (state == nullptr) return fail(message, EDGEGPT_BAD_ARGUMENT, "there is no state to step");
    const Request request = {n, row, count, past, ids, wanted, position, logits};
    if (const int code = check_request(*state, request, message)) return code;
    Turn turn(*state->engine);
    Team *team = turn.team();
    if (team == nullptr) return fail(message, EDGEGPT_SYSTEM, "the system starts no threads");
    Chunk chunk;
    Rest last;
    chunk.attended = last.chunk.attended = state->engine->space.attended;
    Step step(state->engine->weights(), state->cache, state->reading, state->engine->space, *team,
              chunk, last);
    const auto keep = [&](bool all) {
        last.keep(chunk, all);
        if (model::has_encoder) last.chunk.find_readers(state->reading.rows_each);
    };
    for (Chunks chunks(request); chunks.next(chunk);) {
        if (model::has_encoder) chunk.find_readers(state->reading.rows_each);
        int from = chunks.want(chunk, 0);
        const bool more = from >= 0;
        keep(more);
        for (step.run(); from >= 0; step.run_head()) {
            from = chunks.want(chunk, from);
            keep(more);
        }
    }
    return EDGEGPT_OK;
}

extern "C" int edgegpt_copy_rows(edgegpt_state *state, int n, const int32_t *source,
                                 const int32_t *target, int since, int slots, char *message) {
    if (state == nullptr || source == nullptr || target == nullptr ||
        is_outside(n, 1, state->rows) || is_outside(slots, 0, state->context) ||
        is_outside(since, 0, slots))
        return fail(message, EDGEGPT_BAD_ARGUMENT, "cannot copy the slots %d to %d of %d rows",
                    since, slots, n);
    std::memset(state->seen.get(), 0, as_size(state->rows) * sizeof(bool));
    for (int i = 0; i < n; ++i) {
        if (is_outside(source[i], 0, state->rows - 1) ||
            is_outside(target[i], 0, state->rows - 1) || state->seen[as_size(target[i])])
            return fail(message, EDGEGPT_BAD_ARGUMENT, "cannot copy row %d to row %d of %d",
                        source[i], target[i], state->rows);
        state->seen[as_size(target[i])] = true;
    }
    if (!copy_rows(state->cache, Decoder::layers, n, source, target, since, slots))
        return no_memory(message, "a copy of rows");
    return EDGEGPT_OK;
}

extern "C" int edgegpt_fill(edgegpt_state *state, int cache, int row, int slots,
                            const float *values, char *message) {
    if (state == nullptr || values == nullptr || is_outside(cache, 0, 2 * Decoder::layers - 1) ||
        is_outside(row, 0, state->rows - 1) || is_outside(slots, 0, state->context))
        return fail(message, EDGEGPT_BAD_ARGUMENT, "cannot fill %d slots of row %d in cache %d",
                    slots, row, cache);
    // clang-tidy takes it for possible, and then for a read behind `one`.
    if (state->cache.width != Decoder::head_dim) __builtin_unreachable();
    float one[up_to(Decoder::head_dim, lanes)] = {};
    for (int head = 0; head < Decoder::kv_heads; ++head)
        for (int slot = 0; slot < slots; ++slot, values += Decoder::head_dim) {
            std::memcpy(one, values, sizeof(float) * Decoder::head_dim);
            if (cache % 2 == 0)
                state->cache.write_key(cache / 2, row, head, slot, one);
            else
                state->cache.write_value(cache / 2, row, head, slot, one);
        }
    return EDGEGPT_OK;
}

extern "C" int edgegpt_read(edgegpt_state *state, int cache, int row, int slots, float *values,
                            char *message) {
    if (state == nullptr || values == nullptr || is_outside(cache, 0, 2 * Decoder::layers - 1) ||
        is_outside(row, 0, state->rows - 1) || is_outside(slots, 0, state->context))
        return fail(message, EDGEGPT_BAD_ARGUMENT, "cannot read %d slots of row %d in cache %d",
                    slots, row, cache);
    const Cache &all = state->cache;
    for (int head = 0; head < Decoder::kv_heads; ++head)
        for (int slot = 0; slot < slots; ++slot)
            for (int i = 0; i < Decoder::head_dim; ++i)
                *values++ = cache % 2 == 0 ? all.read_key(cache / 2, row, head, slot, i)
                                           : all.read_value(cache / 2, row, head, slot, i);
    return EDGEGPT_OK;
}
