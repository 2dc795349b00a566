/*
 * pyproc-bench - how fast a call into Python is, beside its limits and beside others, in one run.
 *
 * The cases take turns, several rounds each, so that a change of the machine's speed meets all of them; what is compared
 * runs one after the other.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cpus.h"
#include "peers.h"
#include "report.h"

enum { ROUNDS = 5, AWAKE = 5 /* cases' time, before each round */ };

static const double default_seconds = 0.1, full_seconds = 1;

typedef struct arguments {
  selection selection;
  double seconds;
  int rounds;
  bool list;
  const char *output;
} arguments;

static const char usage[] =
    "usage: pyproc-bench [options] [seconds for each case and round; twice that where calls queue in others' servers]\n"
    "  --only 'TEXT|=NAME|…'  cases whose name contains a text, or is a name; with what they are compared with\n"
    "  --no-peers             without programs of others\n"
    "  --rounds N             5 by default; what no goal needs has three fifths of them, but in a full run\n"
    "  --full                 all cases, rounds of a second\n"
    "  --output FILE          where the results go instead of build/bench/results.json\n"
    "  --list                 the names of the cases\n";

static bool parse(int argc, char **argv, arguments *to) {
  static const struct option options[] = {
      {"only", required_argument, NULL, 'o'},   {"no-peers", no_argument, NULL, 'p'},
      {"rounds", required_argument, NULL, 'r'}, {"full", no_argument, NULL, 'f'},
      {"list", no_argument, NULL, 'l'},         {"output", required_argument, NULL, 'w'},
      {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;) switch (option) {
    case 'o':
      to->selection.only = optarg;
      break;
    case 'p':
      to->selection.no_peers = true;
      break;
    case 'r':
      to->rounds = atoi(optarg);
      break;
    case 'f':
      to->selection.full = true;
      break;
    case 'l':
      to->list = true;
      break;
    case 'w':
      to->output = optarg;
      break;
    default:
      return false;
    }
  if (optind < argc) to->seconds = atof(argv[optind++]);
  if (to->seconds <= 0) to->seconds = to->selection.full ? full_seconds : default_seconds;
  if (to->rounds <= 0) to->rounds = ROUNDS;
  if (to->rounds > ROUNDS_MAX) to->rounds = ROUNDS_MAX;
  return optind == argc;
}

/* Ctrl-C ends the run with what has been found so far; a second time it ends the program. */
static volatile sig_atomic_t stopped;

static void on_signal(int signal) {
  (void)signal;
  stopped = 1;
}

static void end_early_by(int signal) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART | (int)SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, NULL);
}

static void run(result *one, double seconds) {
  if (one->skipped != NULL || stopped) return;
  figures *to = &one->round[one->rounds];
  figures_clear(to);
  bench_running(one->of->name);
  one->skipped = one->of->run(one->of, seconds * (one->of->long_by > 0 ? one->of->long_by : 1), to);
  if (one->skipped == NULL) one->rounds++;
}

/* On a terminal, in place. */
static void show_progress(const char *step, const char *name) {
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K%s %s", step, name);
}

static int rounds_of(const result *one, const arguments *with) {
  return one->in_goal || with->selection.full ? with->rounds : (with->rounds * 3 + 4) / 5;
}

static void run_all(results *all, const arguments *with) {
  for (int round = 0; round < with->rounds; round++) {
    cpus_work(with->seconds * AWAKE);
    for (int i = 0; i < all->count; i++) {
      result *one = all->order[i];
      if (!one->wanted || one->of->once || round >= rounds_of(one, with)) continue;
      char step[32];
      snprintf(step, sizeof step, "[%d/%d]", round + 1, with->rounds);
      show_progress(step, one->of->name);
      run(one, with->seconds);
    }
  }
  pools_close();
  peers_stop();
  for (int i = 0; i < all->count; i++) {
    result *one = &all->all[i];
    if (!one->wanted || !one->of->once) continue;
    show_progress("[last]", one->of->name);
    run(one, with->seconds);
  }
  show_progress("", "");
  for (int i = 0; i < all->count; i++)
    if (all->all[i].rounds > 0) all->all[i].median = figures_median(all->all[i].round, all->all[i].rounds);
}

int main(int argc, char **argv) {
  static results all;
  arguments with = {.output = BENCH_RESULTS};
  setenv("BENCH_GEN", BENCH_GEN ":" BENCH_PEERS_GEN, 1); /* where the servers of others find the messages */
  unsetenv("PYTHONDONTWRITEBYTECODE");                   /* workers start as they do in production */
  setenv("PYPROC_PYTHON", BENCH_PYTHON, 0);              /* the one that this was built for */
  if (!parse(argc, argv, &with)) {
    fputs(usage, stderr);
    return 2;
  }
  results_init(&all, &with.selection);
  if (with.list) {
    for (int i = 0; i < all.count; i++)
      if (all.all[i].wanted) puts(all.all[i].of->name);
    return 0;
  }
  report_machine();
  atexit(peers_stop); /* also where a case ends the program */
  end_early_by(SIGINT);
  end_early_by(SIGTERM);
  run_all(&all, &with);
  report_print(&all);
  return report_write(&all, with.output) == 0 ? 0 : 1;
}
