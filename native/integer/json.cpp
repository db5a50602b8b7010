#include "json.h"

#include <algorithm>
#include <charconv>

#include "refusal.h"

namespace adderkit::json {

namespace {

constexpr int most_levels = 32;
constexpr size_t longest_number = 100;       // Python refuses more than 4,300 digits, and others take long
constexpr size_t most_values = 1000 * 1000;  // 32 MB of them; the header of a ResNet-152 has some 10,000

}  // namespace

size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  const auto follows = [&](size_t at) { return (byte(at) & 0xc0) == 0x80; };
  const unsigned first = byte(0);
  if (text.empty()) return 0;
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4 || !follows(1)) return 0;  // below 0xc2: two bytes for what takes one
  if (first < 0xe0) return 2;
  if (!follows(2)) return 0;
  if (first < 0xf0) {
    if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) >= 0xa0))
      return 0;  // 0xed: surrogates
    return 3;
  }
  if (!follows(3) || (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) >= 0x90)) return 0;
  return 4;
}

std::vector<Node> Node::elements() const {
  std::vector<Node> found;
  for (Node node = first(); node.is_before_end_of(*this); node = node.next()) found.push_back(node);
  return found;
}

class Parser {
 public:
  Parser(std::string_view source, const char* what, Document* document)
      : source_(source), what_(what), values_(document->values_), unescaped_(document->unescaped_) {}

  void document() {
    for (size_t at = 0; at < source_.size();) {
      const size_t length = utf8_length(source_.substr(at));
      if (length == 0) wrong(at, "no UTF-8");
      at += length;
    }
    value(0);
    skip_blanks();
    if (at_ != source_.size()) wrong(at_, "something after the end");
  }

 private:
  [[noreturn]] void wrong(size_t at, const char* problem) {
    refuse("%s is no JSON that is read here: byte %zu: %s", what_, at, problem);
  }

  char peek() const { return at_ < source_.size() ? source_[at_] : '\0'; }
  bool take(char wanted) {
    if (peek() != wanted || at_ >= source_.size()) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view word) {
    if (source_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void skip_blanks() {
    while (at_ < source_.size() &&
           (source_[at_] == ' ' || source_[at_] == '\n' || source_[at_] == '\r' || source_[at_] == '\t'))
      ++at_;
  }

  void value(int level) {
    if (level > most_levels) wrong(at_, "more than 32 levels");
    skip_blanks();
    const uint32_t index = add();
    const size_t begin = at_;
    const char first = peek();
    if (first == '{') {
      values_[index].kind = Kind::object;
      object(level);
    } else if (first == '[') {
      values_[index].kind = Kind::array;
      array(level);
    } else if (first == '"') {
      text(index);
      return;
    } else if (first == '-' || (first >= '0' && first <= '9')) {
      number(index);
    } else if (take("true") || take("false")) {
      values_[index].kind = Kind::boolean;
      values_[index].integer = first == 't';
    } else if (!take("null")) {
      wrong(at_, at_ < source_.size() ? "no value" : "it ends too early");
    }
    values_[index].text = source_.substr(begin, at_ - begin);
    values_[index].end = static_cast<uint32_t>(values_.size());
  }

  uint32_t add() {
    if (values_.size() >= most_values) wrong(at_, "more than 1,000,000 values");
    values_.push_back({Kind::null, 0, 0, {}});
    return static_cast<uint32_t>(values_.size() - 1);
  }

  void object(int level) {
    ++at_;
    std::vector<std::string_view> keys;
    skip_blanks();
    if (take('}')) return;
    do {
      skip_blanks();
      if (peek() != '"') wrong(at_, "no key");
      const uint32_t key = add();
      text(key);
      keys.push_back(values_[key].text);
      skip_blanks();
      if (!take(':')) wrong(at_, "no colon after a key");
      value(level + 1);
      skip_blanks();
    } while (take(','));
    if (!take('}')) wrong(at_, "neither a comma nor the end of an object");
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
      refuse("%s is no JSON that is read here: the key `%s` stands twice in one object", what_,
             shown(*twice).c_str());
  }

  void array(int level) {
    ++at_;
    skip_blanks();
    if (take(']')) return;
    do {
      value(level + 1);
      skip_blanks();
    } while (take(','));
    if (!take(']')) wrong(at_, "neither a comma nor the end of an array");
  }

  void number(uint32_t index) {
    const size_t begin = at_;
    const auto digits = [&] {
      const size_t from = at_;
      while (peek() >= '0' && peek() <= '9') ++at_;
      if (at_ == from) wrong(at_, "no digit where a number needs one");
    };
    take('-');
    if (!take('0')) digits();
    bool is_whole = true;
    if (take('.')) is_whole = false, digits();
    if (peek() == 'e' || peek() == 'E') {
      is_whole = false;
      ++at_;
      if (!take('+')) take('-');
      digits();
    }
    if (at_ - begin > longest_number) wrong(begin, "a number of more than 100 characters");
    Value& value = values_[index];
    value.kind = Kind::real;
    const char* const end = source_.data() + at_;
    if (is_whole && std::from_chars(source_.data() + begin, end, value.integer).ec == std::errc())
      value.kind = Kind::integer;
  }

  void text(uint32_t index) {
    const size_t begin = ++at_;
    while (at_ < source_.size() && source_[at_] != '"' && source_[at_] != '\\') check_plain();
    values_[index].kind = Kind::text;
    values_[index].end = index + 1;
    values_[index].text = source_.substr(begin, at_ - begin);
    if (take('"')) return;
    std::string& made = unescaped_.emplace_back(values_[index].text);
    while (!take('"')) {
      if (take('\\')) {
        escape(&made);
      } else {
        check_plain();
        made += source_[at_ - 1];
      }
    }
    values_[index].text = made;
  }

  // Steps over a byte that may stand in a text.
  void check_plain() {
    if (at_ >= source_.size()) wrong(at_, "a text without end");
    if (static_cast<unsigned char>(source_[at_]) < 0x20) wrong(at_, "a control character in a text");
    ++at_;
  }

  void escape(std::string* out) {
    constexpr std::string_view names = "\"\\/bfnrt", characters = "\"\\/\b\f\n\r\t";
    const char name = peek();
    const size_t which = name == '\0' ? std::string_view::npos : names.find(name);
    if (which != std::string_view::npos) {
      ++at_;
      *out += characters[which];
      return;
    }
    if (!take('u')) wrong(at_, "an unknown escape");
    uint32_t code = hexadecimal();
    if (code >= 0xd800 && code < 0xdc00 && take("\\u")) {
      const uint32_t low = hexadecimal();
      if (low < 0xdc00 || low > 0xdfff) wrong(at_, "half a pair of surrogates");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xd800 && code < 0xe000) {
      wrong(at_, "half a pair of surrogates");
    }
    append(out, code);
  }

  uint32_t hexadecimal() {
    uint32_t code = 0;
    for (int k = 0; k < 4; ++k, ++at_) {
      const char c = peek();
      if (c >= '0' && c <= '9')
        code = 16 * code + static_cast<uint32_t>(c - '0');
      else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
        code = 16 * code + static_cast<uint32_t>((c | 0x20) - 'a' + 10);
      else
        wrong(at_, "no four hexadecimal digits after \\u");
    }
    return code;
  }

  static void append(std::string* out, uint32_t code) {
    const auto add = [&](uint32_t byte) { *out += static_cast<char>(byte); };
    if (code < 0x80) {
      add(code);
    } else if (code < 0x800) {
      add(0xc0 | code >> 6);
      add(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      add(0xe0 | code >> 12);
      add(0x80 | (code >> 6 & 0x3f));
      add(0x80 | (code & 0x3f));
    } else {
      add(0xf0 | code >> 18);
      add(0x80 | (code >> 12 & 0x3f));
      add(0x80 | (code >> 6 & 0x3f));
      add(0x80 | (code & 0x3f));
    }
  }

  std::string_view source_;
  const char* what_;
  std::vector<Value>& values_;
  std::deque<std::string>& unescaped_;
  size_t at_ = 0;
};

Document::Document(std::string_view source, const char* what) {
  Parser(source, what, this).document();
}

}  // namespace adderkit::json
