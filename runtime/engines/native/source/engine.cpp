// The C border: checks of everything that comes from outside, and the life of engines and states.
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>

#include "edgegpt.h"
#include "model.h"
#include "processor.h"
#include "step.h"

using namespace edgegpt;

namespace {

constexpr int most_threads = 1024;
constexpr std::size_t header_bytes = 64;
constexpr char magic[8] = {'E', 'D', 'G', 'E', 'G', 'P', 'T', 'W'};
constexpr std::uint32_t file_format = 1;

// Tells of a missing feature, too, so it is as careful as those functions are.
[[gnu::format(printf, 3, 4)]] EDGEGPT_BASELINE int fail(char *message, int code, const char *format,
                                                        ...) {
    if (message == nullptr) return code;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(message, EDGEGPT_MESSAGE, format, arguments);
    va_end(arguments);
    return code;
}

int no_memory(char *message, const char *what) {
    return fail(message, EDGEGPT_NO_MEMORY, "there is not enough memory for %s", what);
}

}  // namespace

struct edgegpt_engine {
    Pages file;
    Workspace space;
    int threads = 1;
    Team *team = nullptr;
    pthread_mutex_t in_use = PTHREAD_MUTEX_INITIALIZER;
    std::atomic<pid_t> process{getpid()};

    ~edgegpt_engine() {
        if (process == getpid()) delete team;
    }
    const std::uint8_t *weights() const {
        return reinterpret_cast<const std::uint8_t *>(file.begin());
    }
};

struct edgegpt_state {
    edgegpt_engine *engine;
    int rows, context;
    Pages memory;
    Cache cache;
    std::unique_ptr<bool[]> seen;  // [rows], for checks
};

namespace {

// One call at a time computes.
class Turn {
public:
    explicit Turn(edgegpt_engine &engine) : engine_(engine) {
        leave_parent_behind();
        pthread_mutex_lock(&engine.in_use);
    }
    ~Turn() { pthread_mutex_unlock(&engine_.in_use); }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

    // The threads of this process; null if the system gives none.
    Team *team() {
        if (engine_.team == nullptr) engine_.team = Team::start(engine_.threads);
        return engine_.team;
    }

private:
    // A process that forked has neither the team nor the thread whose turn it may have been.
    void leave_parent_behind() {
        const pid_t here = getpid();
        if (engine_.process.exchange(here) == here) return;
        pthread_mutex_init(&engine_.in_use, nullptr);
        engine_.team = nullptr;
    }

    edgegpt_engine &engine_;
};

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

bool is_outside(std::int64_t value, std::int64_t first, std::int64_t last) {
    return value < first || value > last;
}

struct Request {
    int n;
    const std::int32_t *row, *count;
    const std::int64_t *past, *ids;
    int wanted;
    const std::int32_t *position;
    float *logits;
};

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
        if (is_outside(request.ids[total + k], 0, model::vocab - 1))
            return fail(message, EDGEGPT_BAD_ARGUMENT, "the id %lld is none of the %d ids",
                        static_cast<long long>(request.ids[total + k]), model::vocab);
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

// Cuts the new tokens of all rows into chunks.
class Chunks {
public:
    explicit Chunks(const Request &request) : request_(request) {}

    // Fill the next chunk; return whether there was anything left.
    bool next(Chunk &chunk) {
        chunk.count = chunk.runs = chunk.wanted = 0;
        first_ += taken_, taken_ = 0;
        while (row_ < request_.n && chunk.count < edgegpt::chunk) take(chunk);
        taken_ = chunk.count;
        return chunk.count > 0;
    }

    // List wanted tokens of the chunk from number `from` on; return where to go on, or -1.
    int want(Chunk &chunk, int from) const {
        chunk.wanted = 0;
        for (int i = from; i < request_.wanted; ++i) {
            const std::int64_t place = request_.position[i] - first_;
            if (place < 0 || place >= chunk.count) continue;
            if (chunk.wanted == edgegpt::chunk) return i;
            chunk.want[chunk.wanted] = static_cast<int>(place);
            chunk.logits[chunk.wanted++] = request_.logits + as_size(i) * model::vocab;
        }
        return -1;
    }

private:
    // A run of tokens of the row whose turn it is.
    void take(Chunk &chunk) {
        const int left = request_.count[row_] - done_, room = edgegpt::chunk - chunk.count;
        int count = left < room ? left : room;
        count = count < most_queries ? count : most_queries;
        chunk.run[chunk.runs++] = {chunk.count, count};
        for (int k = 0; k < count; ++k, ++done_, ++id_)
            chunk.token[chunk.count++] = {request_.row[row_],
                                          static_cast<int>(request_.past[row_]) + done_,
                                          request_.ids[id_]};
        if (done_ == request_.count[row_]) ++row_, done_ = 0;
    }

    const Request &request_;
    int row_ = 0, done_ = 0;
    std::int64_t id_ = 0, first_ = 0;
    int taken_ = 0;
};

}  // namespace

extern "C" EDGEGPT_BASELINE const edgegpt_facts *edgegpt_about(void) {
    static char names[16 * sizeof features / sizeof features[0]];
    static const edgegpt_facts facts = {
        EDGEGPT_ABI,     model::vocab,    model::block_size, model::layers,
        model::kv_heads, model::head_dim, target_name,       names};
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

extern "C" int edgegpt_new_state(edgegpt_engine *engine, int rows, int context, int cache,
                                 edgegpt_state **out, char *message) {
    constexpr int most_rows_of_state = 1 << 16;
    if (engine == nullptr || out == nullptr || is_outside(rows, 1, most_rows_of_state) ||
        is_outside(context, 1, model::block_size) ||
        is_outside(cache, EDGEGPT_CACHE_FLOAT32, EDGEGPT_CACHE_FLOAT16))
        return fail(message, EDGEGPT_BAD_ARGUMENT,
                    "a state has 1 to %d rows of 1 to %d slots, of float32 or float16",
                    most_rows_of_state, model::block_size);
    std::unique_ptr<edgegpt_state> state(new (std::nothrow) edgegpt_state);
    if (!state) return no_memory(message, "a state");
    state->engine = engine, state->rows = rows, state->context = context;
    state->seen.reset(new (std::nothrow) bool[as_size(rows)]);
    const Kind kind = cache == EDGEGPT_CACHE_FLOAT32 ? Kind::float32 : Kind::float16;
    state->cache = Cache(kind, rows, context, model::kv_heads, model::head_dim);
    if (!state->seen || !state->memory.reserve(as_size(state->cache.bytes(model::layers))))
        return no_memory(message, "the keys and values of a state");
    state->cache.memory = reinterpret_cast<std::uint8_t *>(state->memory.begin());
    *out = state.release();
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
    Step step(state->engine->weights(), state->cache, state->engine->space, *team, chunk, last);
    for (Chunks chunks(request); chunks.next(chunk);) {
        int from = chunks.want(chunk, 0);
        const bool more = from >= 0;
        last.keep(chunk, more);
        for (step.run(); from >= 0; step.run_head()) {
            from = chunks.want(chunk, from);
            last.keep(chunk, more);
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
    if (!copy_rows(state->cache, model::layers, n, source, target, since, slots))
        return no_memory(message, "a copy of rows");
    return EDGEGPT_OK;
}

extern "C" int edgegpt_fill(edgegpt_state *state, int cache, int row, int slots,
                            const float *values, char *message) {
    if (state == nullptr || values == nullptr || is_outside(cache, 0, 2 * model::layers - 1) ||
        is_outside(row, 0, state->rows - 1) || is_outside(slots, 0, state->context))
        return fail(message, EDGEGPT_BAD_ARGUMENT, "cannot fill %d slots of row %d in cache %d",
                    slots, row, cache);
    float one[up_to(model::head_dim, lanes)] = {};
    for (int head = 0; head < model::kv_heads; ++head)
        for (int slot = 0; slot < slots; ++slot, values += model::head_dim) {
            std::memcpy(one, values, sizeof(float) * model::head_dim);
            if (cache % 2 == 0)
                state->cache.write_key(cache / 2, row, head, slot, one);
            else
                state->cache.write_value(cache / 2, row, head, slot, one);
        }
    return EDGEGPT_OK;
}

extern "C" int edgegpt_read(edgegpt_state *state, int cache, int row, int slots, float *values,
                            char *message) {
    if (state == nullptr || values == nullptr || is_outside(cache, 0, 2 * model::layers - 1) ||
        is_outside(row, 0, state->rows - 1) || is_outside(slots, 0, state->context))
        return fail(message, EDGEGPT_BAD_ARGUMENT, "cannot read %d slots of row %d in cache %d",
                    slots, row, cache);
    const Cache &all = state->cache;
    for (int head = 0; head < model::kv_heads; ++head)
        for (int slot = 0; slot < slots; ++slot)
            for (int i = 0; i < model::head_dim; ++i)
                *values++ = cache % 2 == 0 ? all.read_key(cache / 2, row, head, slot, i)
                                           : all.read_value(cache / 2, row, head, slot, i);
    return EDGEGPT_OK;
}
