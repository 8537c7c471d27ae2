// What the handles of edgegpt.h stand for, and whose turn it is to compute.
#pragma once

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <memory>

#include "edgegpt.h"
#include "step.h"

struct edgegpt_engine {
    edgegpt::Pages file;
    edgegpt::Workspace space;
    int threads = 1;
    edgegpt::Team *team = nullptr;
    pthread_mutex_t in_use = PTHREAD_MUTEX_INITIALIZER;
    std::atomic<pid_t> process{getpid()};

    ~edgegpt_engine() {
        if (process == getpid()) delete team;
    }
    const std::uint8_t *weights() const {
        return reinterpret_cast<const std::uint8_t *>(file.begin());
    }
};

struct edgegpt_sources {
    const edgegpt_engine *engine;
    edgegpt::Pages memory;
    edgegpt::Cache cache;
    std::unique_ptr<std::int32_t[]> length;  // [cache.rows]
};

struct edgegpt_state {
    edgegpt_engine *engine;
    int rows, context;
    edgegpt::Pages memory;
    edgegpt::Cache cache;
    edgegpt::Reading reading;
    std::unique_ptr<std::int32_t[]> source;  // [rows / reading.rows_each], rows of the sources
    std::unique_ptr<bool[]> seen;            // [rows], for checks
};

namespace edgegpt {

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
        pid_t seen = engine_.process.load();
        if (seen == here) return;
        // One thread of this process puts things in order; its negative number says that it does.
        if (seen != -here && engine_.process.compare_exchange_strong(seen, -here)) {
            pthread_mutex_init(&engine_.in_use, nullptr);
            engine_.team = nullptr;
            engine_.process.store(here);
        }
        while (engine_.process.load() != here) sched_yield();
    }

    edgegpt_engine &engine_;
};

}  // namespace edgegpt
