# pytest: one entry for each folder that has test_*.py.
file(GLOB_RECURSE test_files CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/codegen/tests/test_*.py ${PROJECT_SOURCE_DIR}/worker/tests/test_*.py
  ${CMAKE_CURRENT_SOURCE_DIR}/*/test_*.py)
set(test_folders)
foreach(file IN LISTS test_files)
  cmake_path(GET file PARENT_PATH folder)
  list(APPEND test_folders ${folder})
endforeach()
list(REMOVE_DUPLICATES test_folders)
foreach(folder IN LISTS test_folders)
  cmake_path(RELATIVE_PATH folder BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE name)
  string(REPLACE "/tests" "" name ${name})
  string(REPLACE "/" "." name ${name})
  pyproc_add_test(python.${name} python TIMEOUT 900 DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}
    COMMAND ${PYPROC_TEST_PYTHON} -m pytest -q -p no:cacheprovider --rootdir ${folder} ${folder}
    ENVIRONMENT PYTHONPATH=${PYPROC_WORKER_BUILD_DIR}:${PROJECT_SOURCE_DIR}/codegen PYPROC_GEN=${PYPROC_GENERATOR}
      PYPROC_TEST_WORKER_DIR=${PYPROC_WORKER_BUILD_DIR})
endforeach()
