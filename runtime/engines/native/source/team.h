// The threads that share a step: they meet at barriers, spin for a short time, and then sleep.
//
// A thread for which the system has no processor keeps the others waiting at each barrier. So where
// waiting takes most of the time, fewer threads take part, until it is time to try again. The bits
// of a result do not depend on how many there are.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <time.h>
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

inline std::int64_t nanoseconds() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// A part of the team's work: which thread this is, of how many.
struct Worker {
    int index, threads;
};

// How many threads take part in the next job.
class Attendance {
public:
    explicit Attendance(int threads) : threads_(threads), active_(threads) {}

    int active() const { return active_; }

    // Note that a job is done, and whether the caller mostly waited for others.
    void note(bool waited) {
        if (jobs_ < last_trial) ++jobs_;
        strikes_ = waited ? strikes_ + 1 : 0;
        if (strikes_ == most_strikes && active_ > 1) {
            const bool too_early = jobs_ < until_trial_;
            until_trial_ = too_early ? 2 * until_trial_ : first_trial;
            if (until_trial_ > last_trial) until_trial_ = last_trial;
            active_ = active_ / 2, strikes_ = 0, jobs_ = 0;
        } else if (active_ < threads_ && jobs_ == until_trial_) {
            active_ = 2 * active_ < threads_ ? 2 * active_ : threads_;
            strikes_ = most_strikes - 1, jobs_ = 0;  // one job shows it
        }
    }

private:
    // So many jobs in a row that mostly wait are no accident. It is worth a try soon, for the cause
    // may have been short, and less and less often while that fails.
    static constexpr int most_strikes = 2, first_trial = 4, last_trial = 256;

    const int threads_;
    int active_, strikes_ = 0;
    int jobs_ = 0, until_trial_ = 0;  // since the number changed, and from there to a trial
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
        announce({nullptr, nullptr, threads_});
        for (int i = 1; i < hired_; ++i) pthread_join(members_[i].thread, nullptr);
        delete[] members_;
        pthread_cond_destroy(&woken_);
        pthread_mutex_destroy(&mutex_);
    }
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    // Let the threads do the work; the caller is the first of them.
    void run(Work work, void *job) {
        const int active = attendance_.active();
        if (active == 1) {
            work(job, {0, 1});
            return attendance_.note(false);
        }
        const std::int64_t begin = nanoseconds();
        waited_ = 0;
        announce({work, job, active});
        work(job, {0, active});
        meet({0, active});
        attendance_.note(2 * waited_ > nanoseconds() - begin);
    }

    // Wait until all threads of the job are here.
    void meet(Worker worker) {
        if (worker.threads == 1) return;
        const std::uint32_t round = rounds_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == worker.threads - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            rounds_.store(round + 1, std::memory_order_release);
            return;
        }
        for (int turn = 0; turn < spins; ++turn, rest_a_little())
            if (rounds_.load(std::memory_order_acquire) != round) return;
        const std::int64_t begin = worker.index == 0 ? nanoseconds() : 0;
        while (rounds_.load(std::memory_order_acquire) == round) sched_yield();
        if (worker.index == 0) waited_ += nanoseconds() - begin;
    }

private:
    // About 30 us: longer than the pauses within a step. More threads than processors must yield.
    static constexpr int spins = 2000;
    // About 300 us: longer than what a caller does between two steps.
    static constexpr int spins_between_jobs = 20000;

    struct Job {
        Work work;
        void *job;
        int threads;
    };

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

    void announce(Job job) {
        pthread_mutex_lock(&mutex_);
        job_ = job;
        jobs_.fetch_add(1, std::memory_order_release);
        pthread_cond_broadcast(&woken_);
        pthread_mutex_unlock(&mutex_);
    }

    // Wait for a job after number `seen`, and return it with its number.
    Job await(std::uint32_t &seen) {
        for (int turn = 0; turn < spins_between_jobs; ++turn, rest_a_little())
            if (jobs_.load(std::memory_order_acquire) != seen) break;
        pthread_mutex_lock(&mutex_);
        while (jobs_.load(std::memory_order_relaxed) == seen) pthread_cond_wait(&woken_, &mutex_);
        seen = jobs_.load(std::memory_order_relaxed);
        const Job job = job_;
        pthread_mutex_unlock(&mutex_);
        return job;
    }

    static void *serve(void *argument) {
        const Member *member = static_cast<Member *>(argument);
        Team *team = member->team;
        for (std::uint32_t seen = 0;;) {
            const Job job = team->await(seen);
            if (job.work == nullptr) return nullptr;
            const Worker worker = {member->index, job.threads};
            if (worker.index >= worker.threads) continue;  // it takes no part
            job.work(job.job, worker);
            team->meet(worker);
        }
    }

    const int threads_;
    int hired_ = 1;
    Member *members_ = nullptr;
    Job job_ = {nullptr, nullptr, 1};
    Attendance attendance_{threads_};
    std::int64_t waited_ = 0;  // nanoseconds of the caller beyond its spins
    pthread_mutex_t mutex_ = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t woken_ = PTHREAD_COND_INITIALIZER;
    alignas(64) std::atomic<std::uint32_t> jobs_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<std::uint32_t> rounds_{0};
};

}  // namespace edgegpt
