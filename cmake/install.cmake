# What `cmake --install` installs for programs that use Lane. With `--component development` it is this alone, without
# the program `lane`.
#
#   lane::comm    C++: lane/comm/communicator.h and the headers that it includes, over static libraries
#   lane::lane_c  C: lane.h over liblane.so, for CMake and, as lane.pc, for everybody else
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lane)
set(cxx_modules base device topology plan comm)
if(LANE_HAS_NVSHMEM)
  list(APPEND cxx_modules nvshmem)
endif()
set(public_headers
  base/dtype.h base/error.h base/settings.h base/thread_pool.h device/stream.h device/tensor.h plan/cost.h plan/layout.h
  plan/schedule.h comm/communicator.h comm/launch.h comm/tuning.h)

foreach(header IN LISTS public_headers)
  get_filename_component(folder lane/${header} DIRECTORY)
  install(FILES ${PROJECT_SOURCE_DIR}/lane/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder}
          COMPONENT development)
endforeach()
install(FILES ${PROJECT_SOURCE_DIR}/lane/capi/lane.h TYPE INCLUDE COMPONENT development)

# How a user's project finds again what the static libraries were linked with.
set(find_fmt::fmt "find_dependency(fmt 9)")
set(find_Threads::Threads "find_dependency(Threads)")
set(find_OpenSSL::Crypto "find_dependency(OpenSSL 3.0 COMPONENTS Crypto)")
set(find_ucx::ucp "find_dependency(ucx 1.12 CONFIG)")
set(find_ucx::ucs "find_dependency(ucx 1.12 CONFIG)")
set(find_CUDA::cudart_static "find_dependency(CUDAToolkit 12.4)")
set(LANE_FIND_DEPENDENCIES "")
foreach(module IN LISTS cxx_modules)
  install(TARGETS lane_${module} EXPORT lane_cxx COMPONENT development)
  get_target_property(libs lane_${module} LINK_LIBRARIES)
  foreach(lib IN LISTS libs)
    if(lib MATCHES "^lane::(.*)$")
      if(NOT CMAKE_MATCH_1 IN_LIST cxx_modules)
        message(FATAL_ERROR "${lib}, which lane_${module} uses, is missing in cxx_modules of cmake/install.cmake")
      endif()
    elseif(DEFINED "find_${lib}")
      list(APPEND LANE_FIND_DEPENDENCIES "  ${find_${lib}}")
    elseif(NOT lib MATCHES "^\\$<BUILD_INTERFACE:" AND NOT lib STREQUAL CMAKE_DL_LIBS AND NOT lib STREQUAL LANE_NVSHMEM_DEVICE)
      message(FATAL_ERROR "${lib}, which lane_${module} uses, needs its line in cmake/install.cmake: how is it found?")
    endif()
  endforeach()
endforeach()
list(REMOVE_DUPLICATES LANE_FIND_DEPENDENCIES)
list(JOIN LANE_FIND_DEPENDENCIES "\n" LANE_FIND_DEPENDENCIES)

install(TARGETS lane_c EXPORT lane_c COMPONENT development)
install(EXPORT lane_cxx NAMESPACE lane:: FILE laneCxxTargets.cmake DESTINATION ${package_dir} COMPONENT development)
install(EXPORT lane_c NAMESPACE lane:: FILE laneCTargets.cmake DESTINATION ${package_dir} COMPONENT development)
configure_package_config_file(cmake/laneConfig.cmake.in ${PROJECT_BINARY_DIR}/laneConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/laneConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/laneConfig.cmake ${PROJECT_BINARY_DIR}/laneConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT development)

# lane.pc tells paths from its own place, so that an installed tree can be moved.
file(RELATIVE_PATH LANE_INCLUDEDIR_FROM_PC ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_FULL_INCLUDEDIR})
configure_file(cmake/lane.pc.in ${PROJECT_BINARY_DIR}/lane.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/lane.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
