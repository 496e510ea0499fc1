# What a user of an installed Lane meets: each header compiles alone, liblane.so shows the C functions only, and the
# examples build and run through find_package(lane) and through pkg-config, from a tree that was moved after it was
# installed. Called with the -D of tests/capi/CMakeLists.txt.
set(prefix ${work}/moved)
set(ENV{OMPI_ALLOW_RUN_AS_ROOT} 1)
set(ENV{OMPI_ALLOW_RUN_AS_ROOT_CONFIRM} 1)
separate_arguments(flags UNIX_COMMAND "${flags}")
foreach(variable RANK WORLD_SIZE OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE SLURM_STEP_ID LANE_JOB)
  unset(ENV{${variable}})  # of a launcher of the test run itself
endforeach()

# run(OUTPUT command...): its standard output; fails with all that it said.
function(run output)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE errors)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nfailed with ${status}:\n${text}${errors}")
  endif()
  set(${output} "${text}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE ${work})
run(_ ${CMAKE_COMMAND} --install ${build} --prefix ${work}/first --component development --config "${config}")
file(RENAME ${work}/first ${prefix})
set(include ${prefix}/${includedir})
set(lib ${prefix}/${libdir})

# Headers: those that the two of the interface lead to, no others, and each by itself.
file(WRITE ${work}/interface.cc
  "#include <lane/comm/communicator.h>\n#include <lane/comm/launch.h>\n#include <lane.h>\n")
run(used ${cxx} ${flags} -std=c++20 -I${include} -M ${work}/interface.cc)
string(REGEX MATCHALL "${include}/[^ \\\n]+" used "${used}")
file(GLOB_RECURSE headers ${include}/*.h)
set(unused ${headers})
list(REMOVE_ITEM unused ${used})
if(NOT headers OR unused)
  message(FATAL_ERROR "installed, but not needed by the interface: ${unused}")
endif()
foreach(header IN LISTS headers)
  run(_ ${cxx} ${flags} -std=c++20 -Wall -Wextra -Werror -Wno-missing-field-initializers -fsyntax-only -I${include}
      -include ${header} -x c++ /dev/null)
endforeach()
run(_ ${cc} ${flags} -std=c99 -Wall -Wextra -Werror -pedantic -fsyntax-only -I${include} -include lane.h -x c /dev/null)

# Nothing that was installed knows where it was built.
file(GLOB package ${lib}/cmake/lane/*.cmake ${lib}/pkgconfig/*.pc)
foreach(file IN LISTS package)
  file(STRINGS ${file} lines REGEX "${source}|${build}|${work}")
  if(lines)
    message(FATAL_ERROR "${file} names a folder of the build: ${lines}")
  endif()
endforeach()

find_program(nm nm)
if(nm)
  run(symbols ${nm} -D --defined-only --format=posix ${lib}/liblane.so)
  string(REGEX REPLACE "(^|\n)lane_[a-z_]+ T [^\n]*" "" others "${symbols}")
  string(STRIP "${others}" others)
  if(NOT symbols MATCHES "lane_all_reduce T" OR others)
    message(FATAL_ERROR "liblane.so shows more than the functions of lane.h: ${others}")
  endif()
endif()

# find_package(lane)
list(JOIN flags " " flags_text)
run(_ ${CMAKE_COMMAND} -S ${source}/examples -B ${work}/examples -G ${generator} -DCMAKE_PREFIX_PATH=${prefix}
    -DCMAKE_C_COMPILER=${cc} -DCMAKE_CXX_COMPILER=${cxx} "-DCMAKE_C_FLAGS=${flags_text}"
    "-DCMAKE_CXX_FLAGS=${flags_text}" -DCMAKE_BUILD_TYPE=${config})
run(_ ${CMAKE_COMMAND} --build ${work}/examples --config "${config}")
file(WRITE ${work}/only_c/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)\nproject(only_c LANGUAGES C)\n"
  "find_package(lane 0.1 REQUIRED COMPONENTS c)\nadd_executable(only_c ${source}/examples/all_reduce.c)\n"
  "target_link_libraries(only_c PRIVATE lane::lane_c)\n")
run(_ ${CMAKE_COMMAND} -S ${work}/only_c -B ${work}/only_c -G ${generator} -DCMAKE_PREFIX_PATH=${prefix}
    -DCMAKE_C_COMPILER=${cc} "-DCMAKE_C_FLAGS=${flags_text}")
run(_ ${CMAKE_COMMAND} --build ${work}/only_c)
set(programs ${work}/examples/all_reduce ${work}/examples/all_reduce_c ${work}/only_c/only_c)

# pkg-config
find_program(pkg_config pkg-config)
if(pkg_config)
  run(found ${CMAKE_COMMAND} -E env PKG_CONFIG_PATH=${lib}/pkgconfig ${pkg_config} --cflags --libs lane)
  separate_arguments(found UNIX_COMMAND "${found}")
  run(_ ${cc} ${flags} ${source}/examples/all_reduce.c ${found} -Wl,-rpath,${lib} -o ${work}/all_reduce_pkg)
  list(APPEND programs ${work}/all_reduce_pkg)
endif()

find_program(mpirun mpirun)
foreach(program IN LISTS programs)
  run(said ${program})
  if(NOT said STREQUAL "rank 0 of 1: the sum of element 10 is 10\n")
    message(FATAL_ERROR "${program} said: ${said}")
  endif()
endforeach()
if(mpirun)
  run(said ${mpirun} --oversubscribe -n 2 ${work}/examples/all_reduce)
  if(NOT said MATCHES "rank 1 of 2: the sum of element 10 is 30")
    message(FATAL_ERROR "all_reduce among two ranks said: ${said}")
  endif()
endif()
file(REMOVE_RECURSE ${work})
