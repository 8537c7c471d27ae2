// The functions of the native engine on arrays, for tests by ctypes.
#include "functions.h"
#include "team.h"

using namespace edgegpt;

namespace {

template <class Function>
void map(const float *x, float *y, int count, Function function) {
    for (int i = 0; i + lanes <= count; i += lanes) store(y + i, function(load(x + i)));
}

// A job of one meeting, to which thread 1 may come late.
struct Meeting {
    Team *team;
    bool late;
    std::int32_t threads;  // how many took part
};

void meet(void *job, Worker worker) {
    auto *meeting = static_cast<Meeting *>(job);
    if (worker.index == 0) meeting->threads = worker.threads;
    if (worker.index == 1 && meeting->late) usleep(100000);
    meeting->team->meet(worker);
}

}  // namespace

extern "C" {

// Run jobs with a team; write how many threads took part in each.
int meetings(int threads, const bool *late, std::int32_t *took_part, int count) {
    Team *team = Team::start(threads);
    if (team == nullptr) return 1;
    for (int i = 0; i < count; ++i) {
        Meeting meeting = {team, late[i], 0};
        team->run(meet, &meeting);
        took_part[i] = meeting.threads;
    }
    delete team;
    return 0;
}

// Write how many threads take part in each job, if the caller mostly waits in some of them.
void attendances(int threads, const bool *waited, std::int32_t *took_part, int count) {
    Attendance attendance(threads);
    for (int i = 0; i < count; ++i) {
        took_part[i] = attendance.active();
        attendance.note(waited[i] && took_part[i] > 1);
    }
}

void exponentials(const float *x, float *y, int count) { map(x, y, count, exponential); }
void tanhs(const float *x, float *y, int count) { map(x, y, count, hyperbolic_tangent); }
void erfs(const float *x, float *y, int count) { map(x, y, count, error_function); }
void gelus(const float *x, float *y, int count) { map(x, y, count, activated<Activation::gelu>); }
void silus(const float *x, float *y, int count) { map(x, y, count, activated<Activation::silu>); }

float sum_of(const float *x) { return sum(load(x)); }
float largest_of(const float *x) { return largest(load(x)); }
void halves(const std::uint16_t *x, float *y) { store(y, load_float16(x)); }
void between_of(const float *x, float *y, int first, int end) {
    store(y, select(between(first, end), load(x), all(0.0f)));
}
}
