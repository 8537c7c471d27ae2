// The threads that share a step: they meet at barriers, spin for a short time, and then sleep.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <new>

namespace edgegpt {

inline void rest_a_little() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A part of the team's work: which thread this is, of how many.
struct Worker {
    int index, threads;
};

class Team {
public:
    using Work = void (*)(void *job, Worker worker);

    // Returns null if the system gives no more threads or memory.
    static Team *start(int threads) {
        Team *team = new (std::nothrow) Team(threads);
        if (team == nullptr || team->hire()) return team;
        delete team;
        return nullptr;
    }

    ~Team() {
        announce(nullptr, nullptr);
        for (int i = 1; i < hired_; ++i) pthread_join(members_[i].thread, nullptr);
        delete[] members_;
        pthread_cond_destroy(&woken_);
        pthread_mutex_destroy(&mutex_);
    }
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    // Let all threads do the work; the caller is the first of them.
    void run(Work work, void *job) {
        if (threads_ > 1) announce(work, job);
        work(job, {0, threads_});
        if (threads_ > 1) meet();
    }

    // Wait until all threads are here.
    void meet() {
        if (threads_ == 1) return;
        const std::uint32_t round = rounds_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            rounds_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int turn = 0; rounds_.load(std::memory_order_acquire) == round; ++turn)
            turn < spins ? rest_a_little() : static_cast<void>(sched_yield());
    }

private:
    // About 30 us: longer than the pauses within a step. More threads than processors must yield.
    static constexpr int spins = 2000;
    // About 300 us: longer than what a caller does between two steps.
    static constexpr int spins_between_jobs = 20000;

    struct Member {
        Team *team;
        int index;
        pthread_t thread;
    };

    explicit Team(int threads) : threads_(threads) {}

    bool hire() {
        members_ = new (std::nothrow) Member[static_cast<std::size_t>(threads_)];
        if (members_ == nullptr) return false;
        for (; hired_ < threads_; ++hired_) {
            Member &member = members_[hired_];
            member.team = this, member.index = hired_;
            if (pthread_create(&member.thread, nullptr, serve, &member) != 0) return false;
        }
        return true;
    }

    void announce(Work work, void *job) {
        work_ = work, job_ = job;
        pthread_mutex_lock(&mutex_);
        jobs_.fetch_add(1, std::memory_order_release);
        pthread_cond_broadcast(&woken_);
        pthread_mutex_unlock(&mutex_);
    }

    // Wait for a job after number `seen`.
    void await(std::uint32_t seen) {
        for (int turn = 0; turn < spins_between_jobs; ++turn) {
            if (jobs_.load(std::memory_order_acquire) != seen) return;
            rest_a_little();
        }
        pthread_mutex_lock(&mutex_);
        while (jobs_.load(std::memory_order_acquire) == seen) pthread_cond_wait(&woken_, &mutex_);
        pthread_mutex_unlock(&mutex_);
    }

    static void *serve(void *argument) {
        const Member *member = static_cast<Member *>(argument);
        Team *team = member->team;
        for (std::uint32_t seen = 0;; ++seen) {
            team->await(seen);
            if (team->work_ == nullptr) return nullptr;
            team->work_(team->job_, {member->index, team->threads_});
            team->meet();
        }
    }

    const int threads_;
    int hired_ = 1;
    Member *members_ = nullptr;
    Work work_ = nullptr;
    void *job_ = nullptr;
    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t woken_ = PTHREAD_COND_INITIALIZER;
    alignas(64) std::atomic<std::uint32_t> jobs_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<std::uint32_t> rounds_{0};
};

}  // namespace edgegpt
