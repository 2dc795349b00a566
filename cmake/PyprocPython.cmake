# The Python that runs the generator, builds the extension and runs the tests. Not simply the first on PATH: that is often a
# virtual environment's, without the modules that are needed here.

function(pyproc_try_python python result)
  execute_process(
    COMMAND ${python} -c "import sys, os, sysconfig, google.protobuf, jinja2
assert sys.version_info >= (3, 9) and os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h'))"
    RESULT_VARIABLE status OUTPUT_QUIET ERROR_QUIET)
  if(status EQUAL 0)
    set(${result} ON PARENT_SCOPE)
  else()
    set(${result} OFF PARENT_SCOPE)
  endif()
endfunction()

if(NOT PYPROC_PYTHON)
  find_program(pyproc_path_python python3 NO_CACHE)
  foreach(candidate /usr/bin/python3 ${pyproc_path_python})
    pyproc_try_python(${candidate} fits)
    if(fits)
      set(PYPROC_PYTHON ${candidate} CACHE FILEPATH "Python that runs the generator and builds the extension")
      break()
    endif()
  endforeach()
endif()
if(NOT PYPROC_PYTHON)
  message(FATAL_ERROR "no Python with its headers and the modules google.protobuf and jinja2 was found; run `make deps`, "
                      "or name one with -DPYPROC_PYTHON=/path/to/python3")
endif()
pyproc_try_python(${PYPROC_PYTHON} fits)
if(NOT fits)
  message(FATAL_ERROR "${PYPROC_PYTHON} (PYPROC_PYTHON) is no Python 3.9 or later with Python.h, google.protobuf and jinja2; "
                      "install python3-dev, python3-protobuf and python3-jinja2 for it, or name another")
endif()

execute_process(
  COMMAND ${PYPROC_PYTHON} -c "import sysconfig, sys
print(sysconfig.get_path('include'), sysconfig.get_path('platinclude'), sysconfig.get_config_var('EXT_SUFFIX'), '%d.%d' % sys.version_info[:2], sep=';')"
  OUTPUT_VARIABLE pyproc_python_facts OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
list(GET pyproc_python_facts 0 PYPROC_PYTHON_INCLUDE)
list(GET pyproc_python_facts 1 PYPROC_PYTHON_PLATINCLUDE)
list(GET pyproc_python_facts 2 PYPROC_PYTHON_SUFFIX)
list(GET pyproc_python_facts 3 PYPROC_PYTHON_VERSION)
message(STATUS "Python ${PYPROC_PYTHON_VERSION}: ${PYPROC_PYTHON}")
