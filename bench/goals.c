#include "goals.h"

#include <math.h>

#define UDS_1 "typed, uds, 1 thread"
#define SHM_1 "typed, shm, 1 thread"
#define UDS_16 "typed, uds, 16 threads"
#define SHM_16 "typed, shm, 16 threads"
#define OWN_P50(of) .against = {of}, .against_metric = METRIC_P50, .against_text = "its p50"
#define SPIN_OFF(of) .against = {of ", spin off"}, .against_text = "spin off"
#define SHM_LIMIT \
  .against = {"limit: shm ping-pong, spinning", "limit: handler in process"}, .against_text = "shm ping-pong + " \
                                                                                              "handler"
#define UDS_LIMIT .against = {"limit: UDS with handler, spinning"}, .against_text = "spinning UDS with handler"
#define BLOCKING_LIMIT .against = {"limit: UDS with handler, blocking"}, .against_text = "blocking UDS with handler"
#define GRPC(calls) .against = {"gRPC, " calls}, .against_text = "gRPC", .peer = true
#define ORIGINAL(calls) .against = {"original, " calls}, .against_text = "the original", .peer = true
#define RATE .metric = METRIC_RATE, .against_metric = METRIC_RATE, .at_least = true
#define LARGE(of) \
  .name = of, .factor = 1, .weight = {1, 4}, .against = {"limit: 64 MiB in process", "limit: 64 MiB memcpy"}, \
  .against_text = "in process + 4 memcpy"
#define NO_WORSE 1.02 /* what two runs of the same differ by */

const goal goals[] = {
    {"unary p50, typed, 1 caller, shm", SHM_1, .factor = 2, SHM_LIMIT},
    {"unary p50, typed, 1 caller, shm", SHM_1, .factor = 1 / 100.0, GRPC("1 thread")},
    {"unary p50, typed, 1 caller, uds", UDS_1, .factor = 1.4, UDS_LIMIT},
    {"unary p50, typed, 1 caller, uds", UDS_1, .factor = 1 / 50.0, GRPC("1 thread")},
    {"unary p99, 1 caller, shm", SHM_1, .metric = METRIC_P99, .factor = 3, OWN_P50(SHM_1)},
    {"unary p99, 1 caller, uds", UDS_1, .metric = METRIC_P99, .factor = 3, OWN_P50(UDS_1)},
    {"calls/s, 16 threads, uds", UDS_16, RATE, .factor = 45, GRPC("16 threads")},
    {"calls/s, 16 threads, uds", UDS_16, RATE, .factor = 20, ORIGINAL("16 goroutines")},
    {"slowest thread / fastest, 16 threads, uds", UDS_16, .metric = METRIC_FAIRNESS, .at_least = true, .factor = 0.7},
    {"calls/s, 16 threads, shm", SHM_16, RATE, .factor = 70, GRPC("16 threads")},
    {"slowest thread / fastest, 16 threads, shm", SHM_16, .metric = METRIC_FAIRNESS, .at_least = true, .factor = 0.5},
    {"p99, 16 threads, shm", SHM_16, .metric = METRIC_P99, .factor = 5, OWN_P50(SHM_16)},
    {"calls/s, pipelined submit, uds", "submit, uds, 64 in flight", RATE, .factor = 0.7,
     .against = {"limit: UDS with handler, 64 in flight"}, .against_text = "pipelined limit"},
    {"calls/s, pipelined submit, uds", "submit, uds, 64 in flight", RATE, .factor = 80, GRPC("64 threads")},
    {"calls/s, pipelined submit, shm", "submit, shm, 64 in flight", RATE, .factor = 0.7,
     .against = {"limit: shm with handler, 64 in flight"}, .against_text = "pipelined limit"},
    {"calls/s, pipelined submit, shm", "submit, shm, 64 in flight", RATE, .factor = 80, GRPC("64 threads")},
    {"CPU per call, 16 threads, uds", UDS_16, .metric = METRIC_CPU, .against_metric = METRIC_CPU, .factor = 0.6,
     SPIN_OFF(UDS_16)},
    {"p50, 1 caller, handler of 20 us, uds", "handler of 20 us, uds", .factor = 0.6,
     SPIN_OFF("handler of 20 us, uds, two processors")},
    {"p50, 1 caller, handler of 20 us, shm", "handler of 20 us, shm", .factor = 0.6,
     SPIN_OFF("handler of 20 us, shm, two processors")},
    {"host CPU, 1 caller, handler of 1 ms, uds", "handler of 1 ms, uds", .metric = METRIC_HOST_CPU,
     .against_metric = METRIC_HOST_CPU, .factor = 1.2, SPIN_OFF("handler of 1 ms, uds")},
    {"p50, 1 caller, handler of 1 ms, uds", "handler of 1 ms, uds", .factor = NO_WORSE,
     SPIN_OFF("handler of 1 ms, uds")},
    {"host CPU, 1 caller, handler of 1 ms, shm", "handler of 1 ms, shm", .metric = METRIC_HOST_CPU,
     .against_metric = METRIC_HOST_CPU, .factor = 1.2, SPIN_OFF("handler of 1 ms, shm")},
    {"p50, 1 caller, handler of 1 ms, shm", "handler of 1 ms, shm", .factor = NO_WORSE,
     SPIN_OFF("handler of 1 ms, shm")},
    {"p50, one processor, uds", "typed, uds, 1 thread, one processor", .factor = 1.2,
     SPIN_OFF("typed, uds, 1 thread, one processor")},
    {"p50, one processor, shm", "typed, shm, 1 thread, one processor", .factor = 1.2,
     SPIN_OFF("typed, uds, 1 thread, one processor")},
    {"p50, moved onto one processor, uds", "typed, uds, 1 thread, moved onto one processor", .factor = 1.2,
     SPIN_OFF("typed, uds, 1 thread, one processor")},
    {"p50, moved onto one processor, shm", "typed, shm, 1 thread, moved onto one processor", .factor = 1.2,
     SPIN_OFF("typed, uds, 1 thread, one processor")},
    {"p50, JSON dynamic call, uds", "@expose, uds, 1 thread", .factor = 1 / 6.0, ORIGINAL("1 goroutine")},
    {"p50, spin off, uds, two processors", UDS_1 ", two processors, spin off", .factor = 1.15, BLOCKING_LIMIT},
    {"p50, spin off, uds, one processor", UDS_1 ", moved onto one processor, spin off", .factor = 1.15,
     .against = {"limit: UDS with handler, blocking, one processor"}, .against_text = "blocking UDS with handler"},
    {"64 MiB bytes field, uds", LARGE("payload, uds, 64 MiB")},
    {"64 MiB bytes field, shm", LARGE("payload, shm, 64 MiB")},
    {"crash to next good call, zygote with numpy", "crash to next good call, zygote with numpy", .metric = METRIC_TIME,
     .factor = 20},
    {"CPU of an idle pool of 8 workers", "idle pool of 8 workers", .metric = METRIC_IDLE_CPU, .factor = 0.1},
    {"p99 past its deadline, handler sleeps", "past its deadline, handler sleeps", .metric = METRIC_P99,
     .factor = 20000},
    {"p99 past its deadline, handler loops", "past its deadline, handler loops", .metric = METRIC_P99, .factor = 20000},
    {"p50, our stub with a grpcio server", "our stub by target, 1 thread", .factor = 1.25, GRPC("1 thread")},
    {"calls/s, our stubs with a grpcio server", "our stubs by target, 64 in flight", RATE, .factor = 0.8,
     .against = {"gRPC async, 64 in flight"}, .against_text = "gRPC async", .peer = true},
};

const int goal_count = (int)(sizeof goals / sizeof *goals);

/* What the goal is compared with in one round, NAN where that was not measured. */
static double sum(const goal *self, results *in, int round) {
  double total = 0;
  for (int i = 0; i < GOAL_TERMS && self->against[i] != NULL; i++) {
    const result *other = results_find(in, self->against[i]);
    total += results_round(other, round, self->against_metric) * (self->weight[i] > 0 ? self->weight[i] : 1);
  }
  return total;
}

static double median_ratio(const goal *self, results *in, const result *own) {
  double by[ROUNDS_MAX];
  for (int i = 0; i < ROUNDS_MAX; i++) by[i] = sum(self, in, i);
  return results_divided(own, self->metric, by);
}

/* Why the case has no figures, or NULL. */
static const char *why_not(results *in, const char *name, metric which) {
  if (!isnan(results_value(in, name, which))) return NULL;
  const result *found = results_find(in, name);
  return found->skipped != NULL ? found->skipped : "not measured";
}

static bool reaches(const goal *self, double value, double threshold) {
  return self->at_least ? value >= threshold : value <= threshold;
}

goal_state goal_look(const goal *self, results *in) {
  const result *own = results_find(in, self->name);
  goal_state state = {.value = results_value(in, self->name, self->metric), .ratio = NAN};
  state.skipped = why_not(in, self->name, self->metric);
  for (int i = 0; i < GOAL_TERMS && self->against[i] != NULL && state.skipped == NULL; i++)
    state.skipped = why_not(in, self->against[i], self->against_metric);
  if (state.skipped != NULL) return state;
  if (self->against[0] != NULL) state.ratio = median_ratio(self, in, own);
  state.threshold = isnan(state.ratio) ? self->factor : self->factor * state.value / state.ratio;
  state.met = reaches(self, state.value, state.threshold);
  const double limit = self->peer && own->of->limit != NULL ? results_value(in, own->of->limit, self->metric) : NAN;
  state.limit_met = isnan(limit) || reaches(self, limit, state.threshold);
  return state;
}
