# cmake -DOUT=FILE -DPAGE=page.html -P embed_page.cmake: writes the page as a C array, so that the server
# works without the source tree.
file(READ ${PAGE} hex HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "((0x..,){16})" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "/* generated from src/serve/page.html */\n#include \"serve/page.h\"\n\n"
  "const unsigned char bal_page_html[] = {\n${bytes}};\n"
  "const size_t bal_page_html_bytes = sizeof bal_page_html;\n")
