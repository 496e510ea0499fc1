# Warnings that are off: g++ 12 warns wrongly about std::string (restrict, its bug 105651), and options are aggregates
# whose unnamed fields have their defaults (missing-field-initializers).
set(LANE_WARNINGS -Wall -Wextra -Werror -Wno-restrict -Wno-missing-field-initializers)

set(LANE_HEADER_ONLY nlohmann_json::nlohmann_json CLI11::CLI11)

# lane_module(name SOURCES ... [CUDA ...] [NO_CUDA ...] [UCX ...] [NO_UCX ...] [DEPS module ...] [LIBS target ...])
#
# One static library per folder. CUDA lists the files that need a CUDA toolkit; NO_CUDA lists what is
# linked in their place when LANE_CUDA is off; UCX and NO_UCX likewise. No source file ever asks which of the two it is.
function(lane_module name)
  cmake_parse_arguments(M "" "" "SOURCES;CUDA;NO_CUDA;UCX;NO_UCX;DEPS;LIBS" ${ARGN})
  if(LANE_HAS_CUDA)
    list(APPEND M_SOURCES ${M_CUDA})
  else()
    list(APPEND M_SOURCES ${M_NO_CUDA})
  endif()
  if(LANE_HAS_UCX)
    list(APPEND M_SOURCES ${M_UCX})
  else()
    list(APPEND M_SOURCES ${M_NO_UCX})
  endif()
  add_library(lane_${name} STATIC ${M_SOURCES})
  add_library(lane::${name} ALIAS lane_${name})
  set_target_properties(lane_${name} PROPERTIES EXPORT_NAME ${name})
  target_include_directories(lane_${name}
    PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(lane_${name} PUBLIC cxx_std_20)
  target_compile_options(lane_${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${LANE_WARNINGS}>)
  foreach(dep IN LISTS M_DEPS)
    target_link_libraries(lane_${name} PUBLIC lane::${dep})
  endforeach()
  foreach(lib IN LISTS M_LIBS)
    if(lib IN_LIST LANE_HEADER_ONLY)  # is inside already: who links an installed Lane need not find it
      set(lib $<BUILD_INTERFACE:${lib}>)
    endif()
    target_link_libraries(lane_${name} PRIVATE ${lib})
  endforeach()
  if(LANE_HAS_CUDA AND M_CUDA)
    target_link_libraries(lane_${name} PRIVATE CUDA::cudart_static)
  endif()
  if(LANE_HAS_UCX AND M_UCX)
    target_link_libraries(lane_${name} PRIVATE ucx::ucp ucx::ucs)
  endif()
endfunction()

# lane_test(name LABEL unit|ranks|gpu|net SOURCES ... [DEPS module ...] [TIMEOUT seconds])
#
# One GoogleTest binary per folder of tests/; every TEST in it is a ctest case of its own with a time limit.
function(lane_test name)
  cmake_parse_arguments(T "" "LABEL;TIMEOUT" "SOURCES;DEPS;LIBS" ${ARGN})
  if(NOT LANE_TESTS)
    return()
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 120)
  endif()
  add_executable(test_${name} ${T_SOURCES})
  target_compile_options(test_${name} PRIVATE ${LANE_WARNINGS})
  target_compile_definitions(test_${name} PRIVATE LANE_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
                                                  LANE_BINARY="$<TARGET_FILE:lane>")
  target_link_libraries(test_${name} PRIVATE GTest::gtest GTest::gtest_main ${T_LIBS})
  foreach(dep IN LISTS T_DEPS)
    target_link_libraries(test_${name} PRIVATE lane::${dep})
  endforeach()
  gtest_discover_tests(test_${name} DISCOVERY_MODE PRE_TEST
    PROPERTIES LABELS ${T_LABEL} TIMEOUT ${T_TIMEOUT} ENVIRONMENT LANE_TUNING=off SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
endfunction()
