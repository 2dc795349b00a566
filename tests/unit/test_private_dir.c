/* Private folders: who may enter, where they are, and that nothing is left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "private_dir.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(PRIVATE_PATH_SIZE <= sizeof(((struct sockaddr_un *)0)->sun_path), "every path fits an address");

static void touch(const char *path) {
  int fd = open(path, O_CREAT | O_WRONLY, 0600);
  assert_true(fd >= 0);
  close(fd);
}

static void test_only_the_owner_may_enter(void **state) {
  (void)state;
  private_dir first, second;
  struct stat about;
  mode_t before = umask(0);
  assert_int_equal(private_dir_open(&first, NULL), PYPROC_OK);
  umask(before);
  assert_int_equal(private_dir_open(&second, NULL), PYPROC_OK);
  assert_string_not_equal(first.path, second.path);
  assert_int_equal(stat(first.path, &about), 0);
  assert_true(S_ISDIR(about.st_mode));
  assert_int_equal(about.st_mode & 07777, 0700);
  assert_int_equal(about.st_uid, geteuid());
  private_dir_remove(&first);
  private_dir_remove(&second);
}

static void test_everything_in_it_is_removed(void **state) {
  (void)state;
  private_dir folder;
  char path[PRIVATE_PATH_SIZE], kept[PRIVATE_DIR_SIZE], other[] = "/tmp/kept-XXXXXX";
  int fd = mkstemp(other);
  assert_true(fd >= 0);
  close(fd);
  assert_int_equal(private_dir_open(&folder, NULL), PYPROC_OK);
  memcpy(kept, folder.path, sizeof kept);
  private_dir_name(&folder, "one", path);
  touch(path);
  private_dir_name(&folder, ".hidden", path);
  touch(path);
  private_dir_name(&folder, "link", path);
  assert_int_equal(symlink(other, path), 0);
  private_dir_remove(&folder);
  assert_string_equal(folder.path, "");
  assert_int_equal(access(kept, F_OK), -1);
  assert_int_equal(unlink(other), 0); /* what the link led to is still there */
  private_dir_remove(&folder);
}

static void test_names_that_are_too_long_are_cut(void **state) {
  (void)state;
  private_dir folder;
  char path[PRIVATE_PATH_SIZE], expected[PRIVATE_PATH_SIZE];
  memset(folder.path, 'f', sizeof folder.path - 1);
  folder.path[sizeof folder.path - 1] = '\0';
  private_dir_name(&folder, "0123456789012345678901234567890123456789", path);
  snprintf(expected, sizeof expected, "%s/0123456789012345678901", folder.path);
  assert_string_equal(path, expected);
}

/* Sets TMPDIR, and returns whether the folder that is made lies in `place`. */
static int lies_in(const char *chosen, const char *place) {
  private_dir folder;
  assert_int_equal(setenv("TMPDIR", chosen, 1), 0);
  assert_int_equal(private_dir_open(&folder, NULL), PYPROC_OK);
  int result = strncmp(folder.path, place, strlen(place)) == 0 && folder.path[strlen(place)] == '/';
  private_dir_remove(&folder);
  return result;
}

static void test_a_place_that_cannot_be_used_is_passed_over(void **state) {
  (void)state;
  char place[] = "/tmp/place-XXXXXX", deep[200];
  char *before = getenv("TMPDIR") != NULL ? strdup(getenv("TMPDIR")) : NULL;
  assert_non_null(mkdtemp(place));
  assert_true(lies_in(place, place));
  assert_int_equal(rmdir(place), 0);
  assert_true(lies_in(place, "/tmp"));
  assert_true(lies_in("", "/tmp"));
  assert_true(lies_in("relative", "/tmp"));
  memset(deep, 'd', sizeof deep - 1);
  deep[0] = '/';
  deep[sizeof deep - 1] = '\0';
  assert_true(lies_in(deep, "/tmp"));
  if (before != NULL)
    setenv("TMPDIR", before, 1);
  else
    unsetenv("TMPDIR");
  free(before);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_only_the_owner_may_enter),
      cmocka_unit_test(test_everything_in_it_is_removed),
      cmocka_unit_test(test_names_that_are_too_long_are_cut),
      cmocka_unit_test(test_a_place_that_cannot_be_used_is_passed_over),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
