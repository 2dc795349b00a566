# What goes where below the prefix. Relative paths only in what we write, so that a prefix may be moved.
set(libdir ${CMAKE_INSTALL_LIBDIR})
set(config_dir ${libdir}/cmake/pyproc)
set(worker_dir ${libdir}/pyproc/worker)
set(share_dir ${CMAKE_INSTALL_DATAROOTDIR}/pyproc)

install(TARGETS pyproc EXPORT pyproc-shared LIBRARY DESTINATION ${libdir})
if(PYPROC_GRPC)
  install(TARGETS pyproc_grpc LIBRARY DESTINATION ${libdir}) # beside the library, which looks for it there
endif()
install(TARGETS pyproc_static EXPORT pyproc-static ARCHIVE DESTINATION ${libdir})
install(FILES runtime/include/pyproc.h runtime/include/pyproc_generated.h runtime/include/pyproc_protocol.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${PYPROC_WELL_KNOWN_DIR}/google DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES schema/pyproc/options.proto schema/pyproc/dynamic.proto DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/pyproc)

# The generator: the scripts know their package by a relative path.
file(RELATIVE_PATH to_share /${CMAKE_INSTALL_BINDIR} /${share_dir})
file(RELATIVE_PATH to_include /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_INCLUDEDIR})
set(PYPROC_GEN_PACKAGE_DIR ${to_share}/codegen)
set(PYPROC_GEN_SCHEMA_DIR ${to_include})
foreach(script pyproc-gen protoc-gen-pyproc)
  configure_file(cmake/${script}.in ${CMAKE_CURRENT_BINARY_DIR}/install/${script} @ONLY)
  install(PROGRAMS ${CMAKE_CURRENT_BINARY_DIR}/install/${script} DESTINATION ${CMAKE_INSTALL_BINDIR})
endforeach()
install(DIRECTORY codegen/pyproc_gen DESTINATION ${share_dir}/codegen
  PATTERN __pycache__ EXCLUDE PATTERN tests EXCLUDE)

# The worker for the interpreter that built it, and its source for all others; SOURCE is the file that tells the worker, and it
# the user, what to give to pip.
install(DIRECTORY ${PYPROC_WORKER_BUILD_DIR}/ DESTINATION ${worker_dir} PATTERN __pycache__ EXCLUDE PATTERN SOURCE EXCLUDE)
set(worker_name pyproc_worker-${PROJECT_VERSION})
install(CODE "
set(source \"${CMAKE_CURRENT_SOURCE_DIR}\")
set(stage \"${CMAKE_CURRENT_BINARY_DIR}/install\")
set(name ${worker_name})
include(\"${CMAKE_CURRENT_SOURCE_DIR}/cmake/PackWorker.cmake\")
file(WRITE \"\${stage}/SOURCE\" \"\${CMAKE_INSTALL_PREFIX}/${share_dir}/worker-src/${worker_name}.tar.gz\\n\")")
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/install/SOURCE DESTINATION ${worker_dir})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/install/${worker_name}.tar.gz DESTINATION ${share_dir}/worker-src)

# For users' builds. The static library needs more packages than the shared one and so has an export of its own.
include(CMakePackageConfigHelpers)
configure_package_config_file(cmake/pyproc-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/install/pyproc-config.cmake
  INSTALL_DESTINATION ${config_dir} PATH_VARS CMAKE_INSTALL_BINDIR NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/install/pyproc-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/install/pyproc-config.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/install/pyproc-config-version.cmake cmake/PyprocGenerate.cmake DESTINATION ${config_dir})
install(EXPORT pyproc-shared NAMESPACE pyproc:: DESTINATION ${config_dir})
install(EXPORT pyproc-static NAMESPACE pyproc:: DESTINATION ${config_dir})

file(RELATIVE_PATH PYPROC_PC_PREFIX /${libdir}/pkgconfig /)
string(REGEX REPLACE "/$" "" PYPROC_PC_PREFIX ${PYPROC_PC_PREFIX})
# Elsewhere than in /usr the dynamic linker does not look: programs remember where the library was.
set(PYPROC_PC_RPATH "-Wl,-rpath,\${libdir} ")
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(PYPROC_PC_RPATH "")
endif()
configure_file(runtime/pyproc.pc.in ${CMAKE_CURRENT_BINARY_DIR}/install/pyproc.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/install/pyproc.pc DESTINATION ${libdir}/pkgconfig)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

configure_file(cmake/uninstall.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/uninstall.cmake @ONLY)
add_custom_target(uninstall COMMAND ${CMAKE_COMMAND} -P ${CMAKE_CURRENT_BINARY_DIR}/uninstall.cmake VERBATIM)
