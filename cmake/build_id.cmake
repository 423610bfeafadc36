# cmake -DOUT=FILE -DDIR=src -P build_id.cmake: writes the hash of all sources as a C string. Paths are
# relative and sorted, so every checkout of the same sources has the same one.
file(GLOB_RECURSE files RELATIVE ${DIR} ${DIR}/*.c ${DIR}/*.h ${DIR}/*.def)
list(SORT files)
set(all "")
foreach(file IN LISTS files)
  file(SHA256 ${DIR}/${file} hash)
  string(APPEND all "${hash} ${file}\n")
endforeach()
string(SHA256 id "${all}")
file(WRITE ${OUT} "/* generated from src/ */\n#include \"base/build_id.h\"\n\n"
  "const char bal_build_id[] = \"${id}\";\n")
