# Warnings, sanitizers and coverage, as interface targets that our own code links privately.

add_library(pyproc_warnings INTERFACE)
target_compile_options(pyproc_warnings INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow $<$<BOOL:${PYPROC_WERROR}>:-Werror>
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes> $<$<COMPILE_LANGUAGE:C>:-Wmissing-prototypes> -Wno-error=missing-prototypes)

# Sanitizers and coverage hold for everything that is built here, generated code included.
if(PYPROC_SANITIZE STREQUAL "address")
  set(pyproc_instrument -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
elseif(PYPROC_SANITIZE STREQUAL "thread")
  set(pyproc_instrument -fsanitize=thread -fno-omit-frame-pointer)
elseif(PYPROC_SANITIZE)
  message(FATAL_ERROR "PYPROC_SANITIZE is '${PYPROC_SANITIZE}': give address, thread or nothing")
endif()
if(PYPROC_COVERAGE)
  list(APPEND pyproc_instrument --coverage)
endif()
if(pyproc_instrument)
  add_compile_options(${pyproc_instrument})
  add_link_options(${pyproc_instrument})
endif()
