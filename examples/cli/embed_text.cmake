# Writes OUTPUT, a C++ source that defines modelopt::cli::shipped_text() (shipped_text.h) as the text of INPUT.
file(READ "${INPUT}" text)
string(LENGTH "${text}" length)
set(pieces "")
set(piece_length 15000) # well below what every compiler takes as one literal
foreach(begin RANGE 0 ${length} ${piece_length})
  string(SUBSTRING "${text}" ${begin} ${piece_length} piece)
  string(APPEND pieces "      R\"text(${piece})text\",\n")
endforeach()
file(WRITE "${OUTPUT}" "#include \"shipped_text.h\"

std::string modelopt::cli::shipped_text() {
  static constexpr const char* kPieces[] = {
${pieces}  };
  std::string text;
  for (const char* piece : kPieces) text += piece;
  return text;
}
")
