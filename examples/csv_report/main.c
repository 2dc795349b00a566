/* Generates a CSV file of sales, lets pandas report on it, once by the file's path and once with the rows sent along, and
 * compares both reports with sums of its own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "csv_report.pyproc.h"

enum { ROWS = 120000, SECONDS_APART = 180, FIRST_SALE = 1704067200 /* 2024-01-01, a Monday */ };

static const char FILE_NAME[] = "sales.csv";
static const char *const CITIES[] = {"Aarhus", "Bergen", "Cork", "Dresden", "Évora"};
static const char *const ARTICLES[] = {"lamp", "chair", "desk, \"oak\"", "shelf"};

typedef struct sums {
  int64_t quantity;
  double revenue;
} sums;

static int report_error(const char *what, pyproc_error *error) {
  fprintf(stderr, "%s: %s: %s\n", what, pyproc_strerror(pyproc_error_code(error)), pyproc_error_message(error));
  const char *traceback = pyproc_error_traceback(error);
  if (traceback) fputs(traceback, stderr);
  pyproc_error_free(error);
  return -1;
}

/* A small generator of numbers, so that every run sees the same file. */
static uint32_t next_number(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 16;
}

static void fill(CsvReport__Sale *rows, sums *ret_sums) {
  uint32_t state = 7;
  *ret_sums = (sums){0};
  for (size_t i = 0; i < ROWS; i++) {
    csv_report__sale__init(&rows[i]);
    rows[i].unix_time = FIRST_SALE + (int64_t)i * SECONDS_APART;
    rows[i].city = CITIES[next_number(&state) % (sizeof CITIES / sizeof *CITIES)];
    rows[i].article = ARTICLES[next_number(&state) % (sizeof ARTICLES / sizeof *ARTICLES)];
    rows[i].quantity = 1 + (int32_t)(next_number(&state) % 9);
    rows[i].price = (double)(100 + next_number(&state) % 49900) / 100;
    ret_sums->quantity += rows[i].quantity;
    ret_sums->revenue += rows[i].quantity * rows[i].price;
  }
}

static void write_quoted(FILE *file, const char *text) {
  fputc('"', file);
  for (; *text; text++) {
    if (*text == '"') fputc('"', file);
    fputc(*text, file);
  }
  fputc('"', file);
}

static int write_csv(const CsvReport__Sale *rows) {
  FILE *file = fopen(FILE_NAME, "w");
  if (!file) {
    perror(FILE_NAME);
    return -1;
  }
  fputs("unix_time,city,article,quantity,price\n", file);
  for (size_t i = 0; i < ROWS; i++) {
    fprintf(file, "%" PRId64 ",%s,", rows[i].unix_time, rows[i].city);
    write_quoted(file, rows[i].article);
    fprintf(file, ",%" PRId32 ",%.2f\n", rows[i].quantity, rows[i].price);
  }
  int failed = ferror(file);
  if (fclose(file) || failed) {
    perror(FILE_NAME);
    return -1;
  }
  return 0;
}

static int near(double a, double b) {
  double difference = a > b ? a - b : b - a, size = b > 0 ? b : -b;
  return difference <= 1e-6 * size;
}

/* Whether a report says what we know of the rows. */
static int matches(const CsvReport__Report *report, const sums *expected) {
  int64_t sales = 0;
  double revenue = 0;
  for (size_t i = 0; i < report->n_weeks; i++) {
    sales += report->weeks[i]->sales;
    revenue += report->weeks[i]->revenue;
  }
  return report->rows == ROWS && sales == ROWS && near(revenue, expected->revenue) && report->n_columns == 2 &&
         report->columns[0]->count == ROWS && near(report->columns[0]->mean * ROWS, (double)expected->quantity);
}

static int finish(const char *how, CsvReport__Report *report, const sums *expected) {
  int fits = matches(report, expected);
  printf("by %s: %" PRId64 " rows, %zu weeks, the first (%s) with a revenue of %.2f%s\n", how, report->rows,
         report->n_weeks, report->n_weeks ? report->weeks[0]->monday : "-",
         report->n_weeks ? report->weeks[0]->revenue : 0, fits ? "" : ": WRONG");
  pyproc_reply_free(report);
  return fits ? 0 : -1;
}

static int report_by_path(pyproc_pool *pool, const sums *expected) {
  CsvReport__File request = CSV_REPORT__FILE__INIT;
  request.path = FILE_NAME;
  CsvReport__Report *report = NULL;
  pyproc_error *error = NULL;
  if (csv_report_reporter_report_file(pool, &request, &report, &error) < 0) return report_error("report_file", error);
  return finish("path", report, expected);
}

static int report_by_rows(pyproc_pool *pool, CsvReport__Sale *rows, const sums *expected) {
  CsvReport__Sale **pointers = malloc(ROWS * sizeof *pointers);
  if (!pointers) return -1;
  for (size_t i = 0; i < ROWS; i++) pointers[i] = &rows[i];
  CsvReport__Sales request = CSV_REPORT__SALES__INIT;
  request.n_rows = ROWS;
  request.rows = pointers;
  CsvReport__Report *report = NULL;
  pyproc_error *error = NULL;
  int result = csv_report_reporter_report_rows(pool, &request, &report, &error);
  free(pointers);
  if (result < 0) return report_error("report_rows", error);
  return finish("rows", report, expected);
}

int main(void) {
  CsvReport__Sale *rows = malloc(ROWS * sizeof *rows);
  if (!rows) return 1;
  sums expected;
  fill(rows, &expected);
  pyproc_pool_options options = PYPROC_POOL_OPTIONS_INIT;
  options.script = "gen/worker.py";
  options.workers = 1;
  options.start_timeout_ms = 120000; /* pandas takes seconds to import on a cold machine */
  options.log = pyproc_log_to_stderr;
  pyproc_pool *pool = NULL;
  pyproc_error *error = NULL;
  int result = write_csv(rows);
  if (result >= 0 && pyproc_pool_open(&options, &pool, &error) < 0) result = report_error("open", error);
  if (result >= 0) result = report_by_path(pool, &expected);
  if (result >= 0) result = report_by_rows(pool, rows, &expected);
  pyproc_pool_close(pool);
  free(rows);
  return result < 0;
}
