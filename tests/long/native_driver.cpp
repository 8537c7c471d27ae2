// Drives an engine the way applications do, for builds with sanitizers: native_driver WEIGHTS SEED.
//
// Rows join, are fed in pieces, are copied and filled, in several threads on one engine. Whatever a
// row was fed, its logits must be, bit for bit, those of the same text fed alone and at once.
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "edgegpt.h"

// The engine's pages come from the heap here, whose ends an address sanitizer watches
// (linked with --wrap=mmap,--wrap=munmap).
extern "C" void *__wrap_mmap(void *, size_t bytes, int, int flags, int file, off_t) {
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, bytes) != 0) return MAP_FAILED;
    if (flags & MAP_ANONYMOUS) return std::memset(memory, 0, bytes);
    if (pread(file, memory, bytes, 0) == static_cast<ssize_t>(bytes)) return memory;
    std::free(memory);
    return MAP_FAILED;
}
extern "C" int __wrap_munmap(void *memory, size_t) {
    std::free(memory);
    return 0;
}

namespace {

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                                \
        }                                                                                \
    } while (false)

constexpr int rows = 4, rounds = 40;
const edgegpt_facts &facts = *edgegpt_about();
const int context = std::min(facts.block_size, 150);

using Ids = std::vector<int64_t>;
using Logits = std::vector<float>;

// A state. Where there is an encoder, all rows read one text, which was encoded beside a longer
// one.
class State {
public:
    State(edgegpt_engine *engine, int count, int cache) {
        char message[EDGEGPT_MESSAGE] = "";
        if (facts.source_block_size > 0) {
            const int32_t length[] = {facts.source_block_size,
                                      std::min(facts.source_block_size, 19)};
            Ids ids(static_cast<size_t>(length[0] + length[1]));
            for (size_t i = 0; i < ids.size(); ++i)
                ids[i] = static_cast<int64_t>(i) * 7 % facts.source_vocab;
            const int first = count % 2;  // a single row reads the second alone
            CHECK(edgegpt_encode(engine, 2 - first, length + first, ids.data() + first * length[0],
                                 cache, &sources_, message) == EDGEGPT_OK);
        }
        CHECK(edgegpt_new_state(engine, sources_, count, context, cache, &state_, message) ==
              EDGEGPT_OK);
        const int32_t second[] = {1, 1};
        if (sources_ != nullptr && count % 2 == 0)
            CHECK(edgegpt_move_sources(state_, 2, second, message) == EDGEGPT_OK);
    }
    ~State() {
        edgegpt_free_state(state_);
        edgegpt_free_sources(sources_);
    }
    State(const State &) = delete;
    State &operator=(const State &) = delete;
    operator edgegpt_state *() const { return state_; }
    const edgegpt_sources *sources() const { return sources_; }

private:
    edgegpt_sources *sources_ = nullptr;
    edgegpt_state *state_ = nullptr;
};

// The logits after a text, which is fed alone and at once.
Logits alone(edgegpt_engine *engine, const Ids &text, int cache = EDGEGPT_CACHE_FLOAT32) {
    const State state(engine, 1, cache);
    Logits logits(static_cast<size_t>(facts.vocab));
    const int32_t row = 0, count = static_cast<int32_t>(text.size()), last = count - 1;
    const int64_t past = 0;
    CHECK(edgegpt_step(state, 1, &row, &count, &past, text.data(), 1, &last, logits.data(),
                       nullptr) == EDGEGPT_OK);
    return logits;
}

// One application: a state, and what was fed to each of its rows.
class Application {
public:
    Application(edgegpt_engine *engine, unsigned seed)
        : engine_(engine),
          cache_(seed % 2 ? EDGEGPT_CACHE_FLOAT16 : EDGEGPT_CACHE_FLOAT32),
          state_(engine, rows, cache_),
          random_(seed),
          texts_(rows) {}
    Application(const Application &) = delete;
    Application &operator=(const Application &) = delete;

    void run() {
        for (int round = 0; round < rounds; ++round) {
            const int what = below(8);
            if (what == 0)
                copy();
            else if (what == 1)
                fill();
            else if (what == 2)
                move();
            else
                step();
        }
    }

private:
    int below(int end) { return std::uniform_int_distribution<int>(0, end - 1)(random_); }

    std::vector<int32_t> some_rows() {
        std::vector<int32_t> order(rows);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random_);
        order.resize(static_cast<size_t>(1 + below(rows)));
        return order;
    }

    // Short and long pieces for some rows; a row that is full begins again.
    void step() {
        const std::vector<int32_t> row = some_rows();
        std::vector<int32_t> count, position;
        std::vector<int64_t> past, ids;
        for (const int32_t each : row) {
            Ids &text = texts_[static_cast<size_t>(each)];
            if (text.size() == static_cast<size_t>(context) || below(10) == 0) text.clear();
            const int left = context - static_cast<int>(text.size());
            count.push_back(1 + below(below(3) == 0 ? left : std::min(left, 3)));
            past.push_back(static_cast<int64_t>(text.size()));
            for (int k = 0; k < count.back(); ++k) {
                text.push_back(below(facts.vocab));
                ids.push_back(text.back());
            }
            position.push_back(static_cast<int32_t>(ids.size()) - 1);
            if (below(4) == 0) position.push_back(below(static_cast<int>(ids.size())));
        }
        Logits logits(position.size() * static_cast<size_t>(facts.vocab));
        CHECK(edgegpt_step(state_, static_cast<int>(row.size()), row.data(), count.data(),
                           past.data(), ids.data(), static_cast<int>(position.size()),
                           position.data(), logits.data(), nullptr) == EDGEGPT_OK);
        const size_t asked = static_cast<size_t>(below(static_cast<int>(row.size())));
        const int32_t last = std::accumulate(count.begin(), count.begin() + asked + 1, 0) - 1;
        const Ids &text = texts_[static_cast<size_t>(row[asked])];
        if (below(3) != 0 || std::count(text.begin(), text.end(), filled)) return;
        const auto place = std::find(position.begin(), position.end(), last) - position.begin();
        const Logits wanted = alone(engine_, text, cache_);
        CHECK(std::memcmp(wanted.data(), logits.data() + place * facts.vocab,
                          wanted.size() * sizeof(float)) == 0);
    }

    // Rows may be source and target at once.
    void copy() {
        const std::vector<int32_t> target = some_rows();
        std::vector<int32_t> source;
        const std::vector<Ids> before = texts_;
        int longest = 0;
        for (const int32_t each : target) {
            source.push_back(below(rows));
            const Ids &text = before[static_cast<size_t>(source.back())];
            texts_[static_cast<size_t>(each)] = text;
            longest = std::max(longest, static_cast<int>(text.size()));
        }
        CHECK(edgegpt_copy_rows(state_, static_cast<int>(target.size()), source.data(),
                                target.data(), 0, longest, nullptr) == EDGEGPT_OK);
    }

    // Between two that are one.
    void move() {
        const int32_t parent[] = {below(2), below(2)};
        const int code = edgegpt_move_sources(state_, 2, parent, nullptr);
        CHECK(code == (state_.sources() == nullptr ? EDGEGPT_BAD_ARGUMENT : EDGEGPT_OK));
    }

    void fill() {
        const int row = below(rows), slots = below(context + 1);
        const auto count = static_cast<size_t>(facts.kv_heads * slots * facts.head_dim);
        const Logits values(count, 0.5f);
        for (int cache = 0; cache < 2 * facts.layers; ++cache)
            CHECK(edgegpt_fill(state_, cache, row, slots, count ? values.data() : &unused,
                               nullptr) == EDGEGPT_OK);
        texts_[static_cast<size_t>(row)].assign(static_cast<size_t>(slots), filled);
    }

    static constexpr int64_t filled = -1;
    const float unused = 0.0f;
    edgegpt_engine *engine_;
    int cache_;
    State state_;
    std::mt19937 random_;
    std::vector<Ids> texts_;
};

edgegpt_engine *open_engine(const char *weights, int threads) {
    edgegpt_engine *engine = nullptr;
    char message[EDGEGPT_MESSAGE] = "";
    if (edgegpt_open(weights, threads, &engine, message) != EDGEGPT_OK) {
        std::fprintf(stderr, "%s\n", message);
        std::exit(1);
    }
    return engine;
}

// Those of an engine without an encoder are all wrong.
void refuse_sources(edgegpt_engine *engine, edgegpt_state *state) {
    edgegpt_sources *none = nullptr;
    const int32_t one[] = {1}, zero[] = {0}, long_one[] = {facts.source_block_size + 1},
                  far[] = {2};
    const int64_t ids[] = {0}, bad[] = {facts.source_vocab};
    const auto refused = [&](edgegpt_engine *by, int n, const int32_t *length, const int64_t *id,
                             int cache) {
        char message[EDGEGPT_MESSAGE] = "";
        CHECK(edgegpt_encode(by, n, length, id, cache, &none, message) == EDGEGPT_BAD_ARGUMENT);
        CHECK(std::strlen(message) > 10 && none == nullptr);
    };
    refused(nullptr, 1, one, ids, 0);
    refused(engine, 0, one, ids, 0);
    refused(engine, 1, nullptr, ids, 0);
    refused(engine, 1, one, nullptr, 0);
    refused(engine, 1, zero, ids, 0);
    refused(engine, 1, long_one, ids, 0);
    refused(engine, 1, one, bad, 0);
    refused(engine, 1, one, ids, 9);
    CHECK(edgegpt_encode(engine, 1, one, ids, 0, nullptr, nullptr) == EDGEGPT_BAD_ARGUMENT);
    CHECK(edgegpt_move_sources(nullptr, 1, zero, nullptr) == EDGEGPT_BAD_ARGUMENT);
    CHECK(edgegpt_move_sources(state, 1, far, nullptr) == EDGEGPT_BAD_ARGUMENT);
    CHECK(edgegpt_move_sources(state, 3, zero, nullptr) == EDGEGPT_BAD_ARGUMENT);
    CHECK(edgegpt_move_sources(state, 1, nullptr, nullptr) == EDGEGPT_BAD_ARGUMENT);
}

// Wrong arguments are answered by a code and one sentence.
void refuse(edgegpt_engine *engine, const char *weights) {
    char message[EDGEGPT_MESSAGE];
    edgegpt_engine *none = nullptr;
    const State state(engine, rows, EDGEGPT_CACHE_FLOAT32);
    const edgegpt_sources *read = state.sources();
    edgegpt_state *no_state = nullptr;
    const int32_t two[] = {0, 0}, far[] = {rows}, one[] = {0}, negative[] = {-1},
                  many[] = {context + 1};
    const int64_t past[] = {0, 0}, ids[] = {0, 0}, late[] = {int64_t{1} << 40},
                  bad[] = {facts.vocab};
    const float value = 0.0f;
    Logits logits(2 * static_cast<size_t>(facts.vocab));
    const auto refused = [&](int code, int wanted = EDGEGPT_BAD_ARGUMENT) {
        CHECK(code == wanted && std::strlen(message) > 10);
        std::memset(message, 0, sizeof message);
    };
    const auto step = [&](int n, const int32_t *row, const int32_t *count, const int64_t *before,
                          const int64_t *id, int wanted, const int32_t *position, float *out) {
        refused(edgegpt_step(state, n, row, count, before, id, wanted, position, out, message));
    };
    std::memset(message, 0, sizeof message);
    refused(edgegpt_open("/nowhere/at/all", 1, &none, message), EDGEGPT_BAD_FILE);
    refused(edgegpt_open("/", 1, &none, message), EDGEGPT_BAD_FILE);
    refused(edgegpt_open(nullptr, 1, &none, message));
    refused(edgegpt_open(weights, 0, &none, message));
    refused(edgegpt_open(weights, 1 << 30, &none, message));
    refused(edgegpt_open(weights, 1, nullptr, message));
    CHECK(none == nullptr);
    refused(edgegpt_new_state(nullptr, read, 1, 1, 0, &no_state, message));
    refused(edgegpt_new_state(engine, read, 0, 1, 0, &no_state, message));
    refused(edgegpt_new_state(engine, read, 2, facts.block_size + 1, 0, &no_state, message));
    refused(edgegpt_new_state(engine, read, 2, 1, 7, &no_state, message));
    refused(edgegpt_new_state(engine, read, 1, 1, 0, nullptr, message));
    if (read != nullptr) refused(edgegpt_new_state(engine, nullptr, 2, 1, 0, &no_state, message));
    if (read != nullptr) refused(edgegpt_new_state(engine, read, 3, 1, 0, &no_state, message));
    CHECK(no_state == nullptr);
    refuse_sources(engine, state);
    refused(edgegpt_step(nullptr, 1, one, one, past, ids, 0, nullptr, nullptr, message));
    const int32_t ones[] = {1, 1};
    step(0, one, ones, past, ids, 0, nullptr, nullptr);
    step(rows + 1, one, ones, past, ids, 0, nullptr, nullptr);
    step(2, two, ones, past, ids, 0, nullptr, nullptr);
    step(1, far, ones, past, ids, 0, nullptr, nullptr);
    step(1, negative, ones, past, ids, 0, nullptr, nullptr);
    step(1, one, one, past, ids, 0, nullptr, nullptr);
    step(1, one, many, past, ids, 0, nullptr, nullptr);
    step(1, one, ones, late, ids, 0, nullptr, nullptr);
    step(1, one, ones, past, bad, 0, nullptr, nullptr);
    step(1, one, ones, past, ids, -1, nullptr, nullptr);
    step(1, one, ones, past, ids, 1, nullptr, logits.data());
    step(1, one, ones, past, ids, 1, one, nullptr);
    step(1, one, ones, past, ids, 1, ones, logits.data());
    step(1, one, nullptr, past, ids, 0, nullptr, nullptr);
    refused(edgegpt_copy_rows(nullptr, 1, one, one, 0, 1, message));
    refused(edgegpt_copy_rows(state, 2, two, two, 0, 1, message));
    refused(edgegpt_copy_rows(state, 1, far, one, 0, 1, message));
    refused(edgegpt_copy_rows(state, 1, one, far, 0, 1, message));
    refused(edgegpt_copy_rows(state, 1, one, one, 0, context + 1, message));
    refused(edgegpt_copy_rows(state, 1, one, one, 2, 1, message));
    refused(edgegpt_fill(state, 2 * facts.layers, 0, 1, &value, message));
    refused(edgegpt_fill(state, 0, rows, 1, &value, message));
    refused(edgegpt_fill(state, 0, 0, context + 1, &value, message));
    refused(edgegpt_fill(state, 0, 0, 1, nullptr, message));
    edgegpt_free_state(nullptr);
    edgegpt_free_sources(nullptr);
    edgegpt_close(nullptr);
}

void agree(edgegpt_engine *engine, edgegpt_engine *other) {
    CHECK(alone(engine, {0}) == alone(other, {0}));
}

// A process that forks goes on with threads of its own. No thread may start meanwhile: it may hold
// a lock of the address sanitizer's allocator, which would stay locked in the child (GCC 12).
void use_in_a_child(edgegpt_engine *engine) {
    const Ids text = {0, facts.vocab - 1, 0};
    const Logits wanted = alone(engine, text);
    const pid_t child = fork();
    if (child == 0) {
        alarm(300);  // seconds, so that a hang is an end, too
        _exit(alone(engine, text) == wanted ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

}  // namespace

int main(int count, char **arguments) {
    CHECK(count == 4);
    const char *weights = arguments[1];
    const auto seed = static_cast<unsigned>(std::atoi(arguments[2]));
    const bool forks = std::atoi(arguments[3]) != 0;
    edgegpt_engine *engine = open_engine(weights, 2), *other = open_engine(weights, 3);
    refuse(engine, weights);
    agree(engine, other);  // after a step all threads of both have started
    if (forks) use_in_a_child(engine);
    std::vector<std::thread> applications;
    for (unsigned i = 0; i < 3; ++i)
        applications.emplace_back([=] { Application(i < 2 ? engine : other, seed + i).run(); });
    for (std::thread &each : applications) each.join();
    agree(engine, other);
    edgegpt_close(engine);
    edgegpt_close(other);
    std::puts("all is well");
    return 0;
}
