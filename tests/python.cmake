# pytest: an entry for each test_*.py, so that they run side by side.
file(GLOB_RECURSE test_files CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/codegen/tests/test_*.py ${PROJECT_SOURCE_DIR}/worker/tests/test_*.py
  ${CMAKE_CURRENT_SOURCE_DIR}/*/test_*.py)
foreach(file IN LISTS test_files)
  cmake_path(GET file PARENT_PATH folder)
  cmake_path(RELATIVE_PATH file BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE name)
  string(REGEX REPLACE "/tests/|/(test_)?" "." name ${name})
  string(REGEX REPLACE "\\.py$" "" name ${name})
  pyproc_add_test(python.${name} python TIMEOUT 600 DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}
    COMMAND ${PYPROC_TEST_PYTHON} -m pytest -q -p no:cacheprovider -p leave_nothing --rootdir ${folder} ${file}
    ENVIRONMENT PYTHONPATH=${PYPROC_WORKER_BUILD_DIR}:${PROJECT_SOURCE_DIR}/codegen:${CMAKE_CURRENT_SOURCE_DIR} PYPROC_GEN=${PYPROC_GENERATOR}
      PYPROC_TEST_WORKER_DIR=${PYPROC_WORKER_BUILD_DIR})
endforeach()
